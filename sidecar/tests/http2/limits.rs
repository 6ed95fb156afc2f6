//! Flow control from end to end, and limits.

use crate::rig::*;
use bytes::Bytes;
use h2::Reason;
use std::future::poll_fn;
use std::time::Duration;
use tokio::time::timeout;

/// A window as the protocol has it at the beginning.
const WINDOW_BYTES: usize = 65_535;

/// What the sidecar may hold of one direction of a stream beside the windows.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Most fields of a head.
const FIELDS_MAX: usize = 128;

/// Sends up to `total` bytes within the receiver's window, until that stays shut for a while.
async fn send(stream: &mut h2::SendStream<Bytes>, total: usize, patience: Duration) -> usize {
    let mut sent = 0;
    while sent < total {
        stream.reserve_capacity((total - sent).min(16_384));
        let capacity = match stream.capacity() {
            0 => match timeout(patience, poll_fn(|cx| stream.poll_capacity(cx))).await {
                Ok(Some(Ok(capacity))) => capacity,
                Ok(other) => panic!("{other:?}"),
                Err(_) => return sent,
            },
            capacity => capacity,
        };
        let piece = capacity.min(total - sent);
        stream.send_data(Bytes::from(vec![7; piece]), sent + piece == total).expect("data");
        sent += piece;
    }
    sent
}

#[test]
fn px_1_a_reader_that_stalls_stalls_the_writer_and_nothing_is_piled_up() {
    const TOTAL: usize = 4 * 1024 * 1024;
    play(|| async {
        let mut rig = Rig::usual().await;
        let bound = 2 * WINDOW_BYTES + SEND_BUFFER_BYTES;
        // Up: the origin reads nothing.
        let (response, mut up, (request, mut respond)) = rig.exchange(post("/", &[])).await;
        let taken = send(&mut up, TOTAL, Duration::from_secs(2)).await;
        assert!((WINDOW_BYTES..=bound).contains(&taken), "{taken} bytes were taken of the client");
        // Another stream goes on meanwhile.
        let (other, _up, (_request, mut respond_other)) = rig.ask(get("/other")).await;
        let _ = respond_other.send_response(answer(200, &[]), true).expect("head");
        within(other).await.expect("the answer");
        let mut body = request.into_body();
        let (rest, read) = tokio::join!(send(&mut up, TOTAL - taken, Duration::from_secs(20)), read(&mut body));
        assert_eq!((taken + rest, read.expect("the body").0.len()), (TOTAL, TOTAL));
        // Down: the client reads nothing.
        let mut down = respond.send_response(answer(200, &[]), false).expect("head");
        let mut body = within(response).await.expect("the answer").into_body();
        let taken = send(&mut down, TOTAL, Duration::from_secs(2)).await;
        assert!((WINDOW_BYTES..=bound).contains(&taken), "{taken} bytes were taken of the origin");
        let (rest, read) =
            tokio::join!(send(&mut down, TOTAL - taken, Duration::from_secs(20)), crate::rig::read(&mut body));
        assert_eq!((taken + rest, read.expect("the body").0.len()), (TOTAL, TOTAL));
        let record = &rig.records(2).await[0];
        let total = TOTAL.to_string();
        assert_eq!((&record["req_bytes"], &record["res_bytes"]), (&total, &total));
    });
}

#[test]
fn px_1_a_reset_does_not_wait_for_a_reader_that_stalls() {
    play(|| async {
        let mut rig = Rig::usual().await;
        let (response, _up, (_request, mut respond)) = rig.ask(get("/")).await;
        let mut down = respond.send_response(answer(200, &[]), false).expect("head");
        let mut body = within(response).await.expect("the answer").into_body();
        send(&mut down, 1024 * 1024, Duration::from_millis(300)).await;
        down.send_reset(Reason::INTERNAL_ERROR);
        assert_eq!(read(&mut body).await.expect_err("a reset").reason(), Some(Reason::INTERNAL_ERROR));
        // And the other way round: the client gives up what the origin does not read.
        let (_response, mut up, (_request, mut respond)) = rig.exchange(post("/", &[])).await;
        send(&mut up, 1024 * 1024, Duration::from_millis(300)).await;
        up.send_reset(Reason::CANCEL);
        assert_eq!(within(poll_fn(|cx| respond.poll_reset(cx))).await.expect("a reset"), Reason::CANCEL);
        rig.records(2).await;
    });
}

#[test]
fn a_client_that_resets_all_it_opens_loses_its_connection() {
    const AT_ONCE: usize = 50;
    play(|| async {
        let mut rig = Rig::usual().await;
        let mut taken = Vec::new();
        // Many at a time: what counts is how many there are within a few seconds, and the machine may be busy.
        let resets = async {
            loop {
                let mut opened = Vec::new();
                while opened.len() < AT_ONCE {
                    let mut sender = rig.sender.clone().ready().await?;
                    opened.push(sender.send_request(post("/", &[]), false)?);
                }
                // The origin has them before they are reset.
                for _ in &opened {
                    taken.push(rig.taken.recv().await);
                }
                opened.iter_mut().for_each(|(_, up)| up.send_reset(Reason::CANCEL));
            }
        };
        let ended = async {
            tokio::select! {
                ended = &mut rig.client => ended,
                Err::<(), h2::Error>(_) = resets => (&mut rig.client).await,
            }
        };
        let error = within(ended).await.expect("joined").expect_err("an error");
        // What the sidecar had not read yet may make the close a reset.
        assert!(error.is_io() || error.reason() == Some(Reason::ENHANCE_YOUR_CALM), "{error:?}");
        let records =
            rig.look(|sink| sink.wait_until("refusal", |all| all.iter().any(|r| r.contains_key("refusal")))).await;
        let refused = records.iter().find(|r| r.contains_key("refusal")).expect("a record");
        assert_eq!((refused["refusal"].as_str(), refused["cause"].as_str()), ("rapid_reset", "rejected"));
    });
}

#[test]
fn a_header_list_over_the_limit_gets_431_and_is_recorded() {
    play(|| async {
        let mut rig = Rig::usual().await;
        // The limit is known once an answer came.
        let (response, _up, (_request, mut respond)) = rig.ask(get("/")).await;
        let _ = respond.send_response(answer(200, &[]), true).expect("head");
        within(response).await.expect("the answer");
        let long = "x".repeat(70 * 1024);
        let (response, _up) = rig.send(post("/", &[("x-long", &long)]), true).await;
        match within(response).await {
            Ok(response) => assert_eq!(response.status().as_u16(), 431),
            Err(error) => panic!("{error:?}"),
        }
        let records = rig.records(2).await;
        assert_eq!((records[1]["refusal"].as_str(), records[1]["status"].as_str()), ("header_list_too_long", "431"));
    });
}

#[test]
fn a_head_with_too_many_fields_is_refused_alone_and_recorded() {
    play(|| async {
        let mut rig = Rig::usual().await;
        let many = vec![("x-many", "1"); FIELDS_MAX + 1];
        for is_end in [true, false] {
            let (response, _up) = rig.send(post("/refused", &many), is_end).await;
            assert_eq!(within(response).await.expect("an answer").status().as_u16(), 431);
        }
        // As many as may pass each way; the pieces of Cookie are one field.
        let (most, but_one) = (&many[..FIELDS_MAX], &many[..FIELDS_MAX - 1]);
        let fields = [but_one, &[("cookie", "a=1"); 50]].concat();
        let (response, _up, (request, mut respond)) = rig.ask(post("/passed", &fields)).await;
        assert_eq!(request.uri().path(), "/passed", "nothing of what was refused went on");
        assert_eq!(request.headers().get_all("x-many").iter().count(), but_one.len());
        let _ = respond.send_response(answer(200, most), true).expect("head");
        assert_eq!(within(response).await.expect("the answer").headers().len(), most.len());
        // A final head, and one before it.
        let (response, _up, (_request, mut respond)) = rig.ask(get("/final")).await;
        let _down = respond.send_response(answer(200, &many), false).expect("head");
        assert_eq!(within(response).await.expect("an answer").status().as_u16(), 502);
        let (response, _up, (_request, mut respond)) = rig.exchange(post("/interim", &[])).await;
        respond.send_informational(answer(103, &many)).expect("an interim head");
        assert_eq!(within(response).await.expect("an answer").status().as_u16(), 502);
        assert_eq!(within(poll_fn(|cx| respond.poll_reset(cx))).await.expect("a reset"), Reason::CANCEL);
        let records = rig.records(5).await;
        let told: Vec<_> = records
            .iter()
            .map(|record| ["path", "status", "refusal", "cause"].map(|key| record.get(key).map_or("", String::as_str)))
            .collect();
        let expected = [
            ["/refused", "431", "too_many_headers", "rejected"],
            ["/refused", "431", "too_many_headers", "rejected"],
            ["/passed", "200", "", ""],
            ["/final", "502", "too_many_headers", "protocol_error"],
            ["/interim", "502", "too_many_headers", "protocol_error"],
        ];
        assert_eq!(told, expected);
    });
}

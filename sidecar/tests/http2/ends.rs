//! Streams and connections that end otherwise.

use crate::rig::*;
use bytes::Bytes;
use h2::Reason;
use std::future::poll_fn;
use tokio::sync::mpsc;

#[test]
fn px_1_a_clients_reset_reaches_the_server_with_its_code() {
    play(|| async {
        let mut rig = Rig::usual().await;
        let codes = [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR, Reason::from(0x1234)];
        for code in codes {
            let (_response, mut up, (_request, mut respond)) = rig.exchange(post("/", &[])).await;
            up.send_reset(code);
            assert_eq!(within(poll_fn(|cx| respond.poll_reset(cx))).await.expect("a reset"), code);
        }
        let records = rig.records(codes.len()).await;
        let errors: Vec<&str> = records.iter().map(|record| record["h2_error"].as_str()).collect();
        assert_eq!(errors, ["cancel", "no_error", "internal_error", "unknown"]);
        assert!(records.iter().all(|r| r["cause"] == "client_gone" && r["outcome"] == "failure"));
    });
}

#[test]
fn px_1_a_servers_reset_reaches_the_client_with_its_code() {
    play(|| async {
        let mut rig = Rig::usual().await;
        let codes = [Reason::REFUSED_STREAM, Reason::INTERNAL_ERROR, Reason::ENHANCE_YOUR_CALM, Reason::CANCEL];
        for code in codes {
            // Before its head.
            let (response, _up, (_request, mut respond)) = rig.exchange(post("/", &[])).await;
            respond.send_reset(code);
            let error = within(response).await.expect_err("a reset");
            assert_eq!((error.reason(), error.is_remote()), (Some(code), true));
            // After it, and some of the body.
            let (response, _up, (_request, mut respond)) = rig.exchange(post("/", &[])).await;
            let mut down = respond.send_response(answer(200, &[]), false).expect("head");
            down.send_data(Bytes::from_static(b"some"), false).expect("data");
            let mut body = within(response).await.expect("the answer").into_body();
            assert_eq!(within(body.data()).await.expect("data").expect("data"), "some");
            down.send_reset(code);
            assert_eq!(read(&mut body).await.expect_err("a reset").reason(), Some(code));
        }
        let records = rig.records(2 * codes.len()).await;
        assert!(records.iter().all(|r| r["cause"] == "upstream_failed" && r.contains_key("h2_error")));
    });
}

#[test]
fn px_1_a_server_may_answer_and_want_no_more_of_the_request() {
    play(|| async {
        let mut rig = Rig::usual().await;
        let (response, mut up, (_request, mut respond)) = rig.exchange(post("/", &[])).await;
        let mut down = respond.send_response(answer(413, &[]), false).expect("head");
        down.send_data(Bytes::from_static(b"too much"), true).expect("data");
        let mut body = within(response).await.expect("the answer").into_body();
        assert_eq!(read(&mut body).await.expect("the body").0, b"too much");
        down.send_reset(Reason::NO_ERROR);
        assert_eq!(within(poll_fn(|cx| up.poll_reset(cx))).await.expect("a reset"), Reason::NO_ERROR);
        let record = &rig.records(1).await[0];
        assert_eq!((record["status"].as_str(), record.get("cause")), ("413", None));
    });
}

#[test]
fn px_1_a_graceful_goaway_of_the_server_lets_the_last_streams_finish() {
    play(|| async {
        let mut rig = Rig::usual().await;
        let (response, _up, (_request, mut respond)) = rig.ask(get("/last")).await;
        rig.origin.send_replace(Origin::GoAwayGracefully);
        // What the origin takes until all know of it is answered.
        let mut others = std::mem::replace(&mut rig.taken, mpsc::unbounded_channel().1);
        tokio::spawn(async move {
            while let Some((_request, mut respond)) = others.recv().await {
                let _ = respond.send_response(answer(200, &[]), true);
            }
        });
        // The client is told while its stream is open: it can't open another.
        let refused = within(async {
            loop {
                let Ok(mut sender) = rig.sender.clone().ready().await else { return };
                match sender.send_request(get("/more"), true) {
                    Err(_) => return,
                    Ok((response, _)) => {
                        if let Err(error) = response.await {
                            assert!(error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM), "{error:?}");
                        }
                    }
                }
                tokio::task::yield_now().await;
            }
        });
        refused.await;
        let mut down = respond.send_response(answer(200, &[]), false).expect("head");
        down.send_data(Bytes::from_static(b"bye"), true).expect("data");
        let mut body = within(response).await.expect("the answer").into_body();
        assert_eq!(read(&mut body).await.expect("the body").0, b"bye");
        within(&mut rig.client).await.expect("joined").expect("the client's connection ends in order");
        within(&mut rig.served).await.expect("joined").expect("the origin's connection ends in order");
    });
}

#[test]
fn px_1_a_goaway_with_an_error_reaches_the_client_with_its_code() {
    play(|| async {
        let mut rig = Rig::usual().await;
        let (response, _up, _taken) = rig.ask(get("/")).await;
        rig.origin.send_replace(Origin::GoAway(Reason::ENHANCE_YOUR_CALM));
        within(response).await.expect_err("no answer");
        let error = within(&mut rig.client).await.expect("joined").expect_err("an error");
        assert_eq!((error.reason(), error.is_go_away()), (Some(Reason::ENHANCE_YOUR_CALM), true));
        let record = rig.records_of_end().await;
        assert_eq!((record["cause"].as_str(), record["h2_error"].as_str()), ("upstream_failed", "enhance_your_calm"));
    });
}

#[test]
fn a_server_that_breaks_off_ends_the_clients_connection_too() {
    play(|| async {
        let mut rig = Rig::usual().await;
        let (response, _up, taken) = rig.ask(get("/")).await;
        rig.origin.send_replace(Origin::Break);
        let error = within(response).await.expect_err("no answer");
        drop(taken);
        assert!(!error.is_reset(), "{error:?}: a reset would say that the connection goes on");
        let _ = within(&mut rig.client).await.expect("joined");
        let record = &rig.records_of_end().await;
        assert_eq!(record["cause"], "upstream_failed");
    });
}

#[test]
fn a_client_that_goes_takes_its_streams_with_it() {
    play(|| async {
        let mut rig = Rig::usual().await;
        let (_response, _up, (_request, mut respond)) = rig.ask(get("/")).await;
        rig.client.abort();
        assert_eq!(within(poll_fn(|cx| respond.poll_reset(cx))).await.expect("a reset"), Reason::CANCEL);
        within(&mut rig.served).await.expect("joined").expect("the origin's connection ends in order");
        assert_eq!(rig.records_of_end().await["cause"], "client_gone");
    });
}

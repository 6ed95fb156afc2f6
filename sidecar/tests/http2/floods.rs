//! Peers that try to have the sidecar do or hold more than its share: each meets a limit, and it is told.

use crate::peer::*;
use crate::rig::{play, within};
use crate::support::{Record, Sidecar, Sink};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Most streams that a client may have open.
const STREAMS_MAX: u32 = 1024;

/// What the sockets on the way may hold of a flood that nobody reads, in bytes; more would stand in the sidecar.
const SOCKETS_BYTES_MAX: usize = 24 * 1024 * 1024;

/// A flood is written in pieces of so many frames.
const PIECE_FRAMES: usize = 4096;

/// As long as a peer takes nothing, nothing is taken of it.
const STALLED: Duration = Duration::from_secs(2);

struct Scene {
    sink: Arc<Sink>,
    sidecar: Sidecar,
    listener: TcpListener,
}

impl Scene {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let sink = Arc::new(Sink::start());
        let sidecar = Sidecar::start(listener.local_addr().expect("address"), &sink, "");
        Self { sink, sidecar, listener }
    }

    /// A client that has said its SETTINGS, and the origin's end.
    async fn connect(&self) -> (Peer, Peer) {
        let client = TcpStream::connect(self.sidecar.inbound).await.expect("connect");
        within(Peer::client(client, &self.listener)).await
    }

    /// Everything that was recorded, once `wanted` holds.
    async fn records(&self, wanted: fn(&[Record]) -> bool) -> Vec<Record> {
        let sink = self.sink.clone();
        let look = move || sink.wait_until("record", wanted);
        tokio::task::spawn_blocking(look).await.expect("joined")
    }

    /// The record of what was refused.
    async fn refusal(&self) -> Record {
        let all = self.records(|all| all.iter().any(|record| record.contains_key("refusal"))).await;
        all.into_iter().find(|record| record.contains_key("refusal")).expect("it was there")
    }
}

fn told(record: &Record) -> [&str; 3] {
    ["refusal", "cause", "proto"].map(|key| record.get(key).map_or("", String::as_str))
}

/// Another client is served meanwhile.
async fn serves_another(scene: &Scene) {
    let (mut client, mut origin) = scene.connect().await;
    client.send(&framed(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await;
    within(origin.until(|frame| frame.kind == HEADERS)).await;
    origin.send(&framed(HEADERS, END_STREAM | END_HEADERS, 1, &[0x88])).await;
    let answer = within(client.until(|frame| frame.kind == HEADERS)).await;
    assert_eq!((answer.stream, answer.payload.first()), (1, Some(&0x88)));
}

/// Writes the same piece again and again, until nothing is taken any more. How many bytes went.
async fn flood(peer: &mut Peer, piece: &[u8]) -> usize {
    let mut sent = 0;
    loop {
        let at = sent % piece.len();
        match timeout(STALLED, peer.stream.write(&piece[at..])).await {
            Err(_) => return sent,
            Ok(written) => sent += written.expect("the connection goes on"),
        }
        assert!(sent <= SOCKETS_BYTES_MAX, "{sent} bytes were taken of a peer that reads nothing");
    }
}

#[test]
fn ev_1_a_stream_beyond_the_limit_is_refused_alone_and_recorded() {
    play(|| async {
        let scene = Scene::new().await;
        let client = TcpStream::connect(scene.sidecar.inbound).await.expect("connect");
        let mut client = Peer::new(client);
        client.send(&[crate::raw::PREFACE, crate::raw::SETTINGS].concat()).await;
        let mut origin = Peer::origin(&scene.listener).await;
        origin.send(&[crate::raw::SETTINGS, crate::raw::SETTINGS_ACK].concat()).await;
        let settings = within(client.until(|frame| frame.kind == SETTINGS_KIND && frame.flags == 0)).await;
        let said = settings.payload.chunks(6).find(|setting| setting[..2] == [0, 3]).expect("a limit is said");
        assert_eq!(said[2..], STREAMS_MAX.to_be_bytes());
        // The origin reads them all and answers none.
        let reading = tokio::spawn(async move {
            let (frames, _) = origin.rest().await;
            frames.iter().filter(|frame| frame.kind == HEADERS).count()
        });
        let over = 2 * STREAMS_MAX + 1;
        for stream in (1..=over).step_by(2) {
            client.send(&framed(HEADERS, END_STREAM | END_HEADERS, stream, GET)).await;
        }
        let refused = within(client.until(|frame| frame.kind == RST_STREAM)).await;
        assert_eq!((refused.stream, refused.payload), (over, vec![0, 0, 0, 7]), "REFUSED_STREAM");
        // The connection goes on: what is open still ends in order.
        client.send(&framed(PING, 0, 0, &[1; 8])).await;
        within(client.until(|frame| frame.kind == PING && frame.flags == ACK)).await;
        assert_eq!(told(&scene.refusal().await), ["refused_stream", "rejected", "http/2"]);
        drop(client);
        assert_eq!(within(reading).await.expect("joined"), STREAMS_MAX as usize, "no more went on");
        let over = |record: &&Record| record["typ"] == "exchange";
        let all =
            scene.records(|all| all.iter().filter(|r| r["typ"] == "exchange").count() > STREAMS_MAX as usize).await;
        assert_eq!(all.iter().filter(over).count(), STREAMS_MAX as usize + 1);
    });
}

#[test]
fn ev_1_a_client_at_the_limit_of_streams_may_give_up_old_ones_and_open_new_ones_at_once() {
    const LIMIT: u8 = 4;
    play(|| async {
        let scene = Scene::new().await;
        let client = TcpStream::connect(scene.sidecar.inbound).await.expect("connect");
        let mut client = Peer::new(client);
        client.send(&[crate::raw::PREFACE, crate::raw::SETTINGS].concat()).await;
        let mut origin = Peer::origin(&scene.listener).await;
        origin.send(&framed(SETTINGS_KIND, 0, 0, &[0, 3, 0, 0, 0, LIMIT])).await;
        client.until(|frame| frame.kind == SETTINGS_KIND && frame.flags == 0).await;
        client.send(crate::raw::SETTINGS_ACK).await;
        let (old, new): (Vec<u32>, Vec<u32>) = (1..16).step_by(2).partition(|stream| *stream < 2 * u32::from(LIMIT));
        for stream in &old {
            client.send(&framed(HEADERS, END_STREAM | END_HEADERS, *stream, GET)).await;
            within(origin.until(|frame| (frame.kind, frame.stream) == (HEADERS, *stream))).await;
        }
        let turns: Vec<u8> = old.iter().zip(&new).fold(Vec::new(), |mut bytes, (old, new)| {
            bytes.extend(framed(RST_STREAM, 0, *old, &[0, 0, 0, 8]));
            bytes.extend(framed(HEADERS, END_STREAM | END_HEADERS, *new, GET));
            bytes
        });
        client.send(&turns).await;
        for stream in &new {
            within(origin.until(|frame| (frame.kind, frame.stream) == (HEADERS, *stream))).await;
            origin.send(&framed(HEADERS, END_STREAM | END_HEADERS, *stream, &[0x88])).await;
            let answer = within(client.until(|frame| matches!(frame.kind, HEADERS | RST_STREAM))).await;
            assert_eq!((answer.kind, answer.stream), (HEADERS, *stream), "{:?}", answer.payload);
        }
        let over = |record: &Record| record["typ"] == "exchange";
        let all = scene.records(|all| all.iter().filter(|record| record["typ"] == "exchange").count() >= 8).await;
        let causes: Vec<_> =
            all.iter().filter(|one| over(one)).map(|one| one.get("cause").map(String::as_str)).collect();
        let count = |cause| causes.iter().filter(|is| **is == cause).count();
        assert_eq!((count(Some("client_gone")), count(None)), (4, 4), "{causes:?}");
    });
}

/// Most DATA frames without content that do not end their stream, in the life of a connection: the library's own limit.
const EMPTY_MAX: usize = 100;

#[test]
fn a_client_that_sends_more_empty_frames_than_may_be_loses_its_connection_and_is_recorded() {
    play(|| async {
        let empty = framed(DATA, 0, 1, &[]);
        let scene = Scene::new().await;
        let (mut client, mut origin) = scene.connect().await;
        client.send(&framed(HEADERS, END_HEADERS, 1, GET)).await;
        within(origin.until(|frame| frame.kind == HEADERS)).await;
        client.send(&[empty.repeat(EMPTY_MAX), framed(PING, 0, 0, &[1; 8])].concat()).await;
        within(client.until(|frame| frame.kind == PING && frame.flags == ACK)).await;
        // What has content does not make up for them.
        client.send(&[framed(DATA, 0, 1, &[7; 1000]), empty].concat()).await;
        let (frames, _) = within(client.rest()).await;
        assert_eq!(goaway(&frames), Some(11), "ENHANCE_YOUR_CALM: {frames:?}");
        assert_eq!(told(&scene.refusal().await), ["enhance_your_calm", "rejected", "http/2"]);
    });
}

#[test]
fn a_server_that_sends_more_empty_frames_than_may_be_loses_its_connection_and_is_recorded() {
    play(|| async {
        let scene = Scene::new().await;
        let (mut client, mut origin) = scene.connect().await;
        client.send(&framed(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await;
        within(origin.until(|frame| frame.kind == HEADERS)).await;
        origin.send(&framed(HEADERS, END_HEADERS, 1, &[0x88])).await;
        within(client.until(|frame| frame.kind == HEADERS)).await;
        origin.send(&framed(DATA, 0, 1, &[]).repeat(EMPTY_MAX + 1)).await;
        let (frames, _) = within(origin.rest()).await;
        assert_eq!(goaway(&frames), Some(11), "ENHANCE_YOUR_CALM: {frames:?}");
        let (frames, _) = within(client.rest()).await;
        assert_eq!(goaway(&frames), Some(11), "ENHANCE_YOUR_CALM: {frames:?}");
        assert_eq!(told(&scene.refusal().await), ["enhance_your_calm", "protocol_error", "http/2"]);
    });
}

#[test]
fn a_header_block_of_endless_continuations_loses_the_connection() {
    play(|| async {
        // Empty ones, which no limit of bytes ever meets, and full ones: `x: y`, again and again.
        for piece in [vec![], [0, 1, b'x', 1, b'y'].repeat(3000)] {
            let scene = Scene::new().await;
            let (mut client, mut origin) = scene.connect().await;
            client.send(&framed(HEADERS, END_STREAM, 1, GET)).await;
            let frame = framed(CONTINUATION, 0, 1, &piece);
            let mut sent = 0;
            loop {
                match timeout(STALLED, client.stream.write_all(&frame)).await {
                    Ok(Ok(())) if sent < 10_000 => sent += 1,
                    Ok(Err(error)) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                        break;
                    }
                    other => panic!("after {sent} frames of {} bytes: {other:?}", piece.len()),
                }
            }
            let (frames, is_reset) = within(client.rest()).await;
            // What the sidecar had not read yet may make the close a reset that overtakes its last word.
            assert!(goaway(&frames) == Some(11) || is_reset && goaway(&frames).is_none(), "{frames:?}");
            assert_eq!(told(&scene.refusal().await), ["enhance_your_calm", "rejected", "http/2"]);
            let (seen, _) = within(origin.rest()).await;
            assert!(seen.iter().all(|frame| frame.kind != HEADERS), "a request went upstream: {seen:?}");
        }
    });
}

#[test]
fn streams_that_are_reset_as_soon_as_they_are_opened_lose_the_connection() {
    play(|| async {
        let scene = Scene::new().await;
        let (mut client, mut origin) = scene.connect().await;
        let reading = tokio::spawn(async move { origin.rest().await });
        let mut flood = Vec::new();
        for stream in (1..20_000).step_by(2) {
            flood.extend(framed(HEADERS, END_STREAM | END_HEADERS, stream, GET));
            flood.extend(framed(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        }
        let (mut reader, mut writer) = client.stream.split();
        let mut seen = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut seen);
        let (written, read) = within(async { tokio::join!(writer.write_all(&flood), read) }).await;
        let has_goaway = seen.windows(9 + 8).any(|w| w[..4] == [0, 0, seen_length(w), GOAWAY] && w[16] == 11);
        assert!(has_goaway || read.is_err() || written.is_err(), "{written:?} {read:?}");
        let [refusal, cause, proto] = told(&scene.refusal().await).map(str::to_owned);
        // The library's limit is met first, or ours.
        assert!(["enhance_your_calm", "rapid_reset"].contains(&&*refusal), "{refusal}");
        assert_eq!([&*cause, &*proto], ["rejected", "http/2"]);
        within(reading).await.expect("the origin's connection ends too");
        serves_another(&scene).await;
    });
}

/// The last byte of a frame's length.
fn seen_length(frame: &[u8]) -> u8 {
    frame[2]
}

#[test]
fn whoever_asks_for_answers_and_takes_none_is_not_read_and_others_are_served() {
    play(|| async {
        let ping = framed(PING, 0, 0, &[5; 8]);
        // A limit of concurrent streams: each has to be acknowledged.
        let settings = framed(SETTINGS_KIND, 0, 0, &[0, 3, 0, 0, 0, 100]);
        for one in [ping, settings] {
            let scene = Scene::new().await;
            let (mut client, mut origin) = scene.connect().await;
            let sent = flood(&mut client, &one.repeat(PIECE_FRAMES)).await;
            serves_another(&scene).await;
            // Once it reads, each has its answer, and the connection serves it.
            let cut = sent % one.len();
            let rest = if cut == 0 { &[][..] } else { &one[cut..] };
            let asked = sent.div_ceil(one.len());
            let (mut reader, mut writer) = client.stream.into_split();
            let reading = tokio::spawn(async move {
                let mut answers = 0;
                let mut head = [0; 9];
                while answers < asked {
                    tokio::io::AsyncReadExt::read_exact(&mut reader, &mut head).await.expect("a frame");
                    let mut payload = vec![0; usize::from(head[2]) + usize::from(head[1]) * 256];
                    tokio::io::AsyncReadExt::read_exact(&mut reader, &mut payload).await.expect("a payload");
                    answers += usize::from(matches!(head[3], PING | SETTINGS_KIND) && head[4] == ACK);
                }
                reader
            });
            writer.write_all(rest).await.expect("written");
            writer.write_all(&framed(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await.expect("written");
            let reader = timeout(Duration::from_secs(120), reading).await.expect("every answer").expect("joined");
            within(origin.until(|frame| frame.kind == HEADERS)).await;
            origin.send(&framed(HEADERS, END_STREAM | END_HEADERS, 1, &[0x88])).await;
            let mut client = Peer::new(reader.reunite(writer).expect("of one socket"));
            within(client.until(|frame| frame.kind == HEADERS)).await;
        }
    });
}

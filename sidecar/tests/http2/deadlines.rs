//! Deadlines of HTTP/2, and when a connection is looked at again, on a clock that the test moves.

use crate::peer::{CONTINUATION, END_HEADERS, END_STREAM, Frame, GET, HEADERS, PING, Peer, framed, goaway};
use crate::raw::{PREFACE, SETTINGS};
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use testimony_core::capture::CONNECTION_OPENED_AFTER_MS;
use testimony_core::evidence::seal::Origin;
use testimony_core::policy::{Compiled, Direction};
use testimony_sidecar::config::{HostPort, ProcessVars, Target, from_yaml};
use testimony_sidecar::data::{Recorder, Shared};
use testimony_sidecar::export::{self, SinkFolders};
use testimony_sidecar::metrics::Metrics;
use testimony_sidecar::poll;
use testimony_sidecar::proxy::{Drain, Listening, Pod, serve};
use testimony_sidecar::tail::{Lines, Tail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::{advance, pause};

/// A head must be whole after this time,
const HEAD: Duration = Duration::from_secs(60);
/// nothing moves for so long at most,
const IDLE: Duration = Duration::from_secs(4 * 3600);
/// and a client that was told to go stays no longer than this.
const LINGER: Duration = Duration::from_secs(20);

/// A deadline is looked at so often: while one is near, and else.
const HURRIED_CHECK: Duration = Duration::from_secs(10);
const IDLE_CHECK: Duration = Duration::from_secs(300);

/// The clock goes on in steps that are such a part of the deadline that is waited for.
const STEPS: u32 = 60;

/// Most steps until a socket's end is seen that the sidecar has closed.
const CLOSE_STEPS_MAX: usize = 10_000;

type Record = BTreeMap<String, String>;

/// The data path of one data thread, whose clock the test holds.
struct Scene {
    listener: TcpListener,
    client: Option<TcpStream>,
    lines: Lines,
    policy: Arc<ArcSwap<Compiled>>,
    drain: watch::Sender<Drain>,
    /// Both ends of a connection of the test's own.
    echo: (TcpStream, TcpStream),
    /// While this is there, the clock goes on only when the test says so.
    _held: std::sync::mpsc::Sender<()>,
}

/// A recorder whose policy leaves nothing out.
fn recorder(tail: Tail) -> Recorder {
    let yaml = "service: {name: test}\nlisten: {inbound: '127.0.0.1:1', admin: '127.0.0.1:2'}\nforward: '127.0.0.1:3'\n\
                policy: {rules: []}\nsinks: [{name: default, endpoint: 'http://127.0.0.1:9'}]\n";
    let config = from_yaml(yaml, &ProcessVars).expect("valid");
    let document = poll::start(&config, None).document;
    let metrics = Arc::new(Metrics::default());
    let settings = export::Settings {
        resource: Bytes::new(),
        folders: SinkFolders::default(),
        namespace: None,
        sink_headers: BTreeMap::new(),
        metrics: metrics.clone(),
        spool: None,
    };
    let (queue, _exporter) = export::new(settings, watch::channel(document.sinks.clone().into()).1);
    let shared = Shared {
        policy: Arc::new(ArcSwap::from_pointee(Compiled::new(document).expect("valid"))),
        in_flight: Arc::default(),
        names: None,
        queue,
        spool: None,
        metrics,
        tail,
    };
    let part = |text: &str| text.to_owned();
    let (cluster_uid, namespace, pod_uid) = (part("c"), part("n"), part("p"));
    Recorder::new(shared, Origin { cluster_uid, namespace, pod_uid, boot: 5, ..Origin::default() }).expect("a stream")
}

impl Scene {
    async fn new(is_suspended: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let at = listener.local_addr().expect("address");
        let target = Arc::new(Target::Fixed(HostPort { host: at.ip().to_string(), port: at.port() }));
        let inbound = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let client = TcpStream::connect(inbound.local_addr().expect("address")).await.expect("connect");
        let tail = Tail::default();
        let lines = tail.subscribe().expect("a place");
        let (drain, draining) = watch::channel(Drain::No);
        let echoing = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let echo = TcpStream::connect(echoing.local_addr().expect("address")).await.expect("connect");
        let echo = (echo, echoing.accept().await.expect("accept").0);
        let (held, waits) = std::sync::mpsc::channel();
        // A clock that is paused goes on by itself when all wait, but not while a thread is busy for the runtime.
        tokio::task::spawn_blocking(move || waits.recv());
        pause();
        let listening = Listening { listener: inbound, direction: Direction::Inbound, target };
        let recorder = recorder(tail);
        let policy = recorder.shared().policy.clone();
        if is_suspended {
            let mut document = policy.load().document().clone();
            document.policies.clear();
            policy.store(Arc::new(Compiled::new(document).expect("valid")));
        }
        let late = recorder.clone();
        tokio::task::spawn_local(async move { late.catch_up().await });
        tokio::task::spawn_local(serve(listening, Arc::new(Pod::default()), recorder, draining));
        Self { listener, client: Some(client), lines, policy, drain, echo, _held: held }
    }

    /// A policy that leaves nothing out comes into force.
    fn resume(&self) {
        let whole = recorder(Tail::default()).shared().policy.load_full();
        self.policy.store(whole);
    }

    /// Whatever is open is so for long enough to be shown, on the system's clock.
    fn grow_old(&self) {
        std::thread::sleep(Duration::from_millis(2 * CONNECTION_OPENED_AFTER_MS));
    }

    /// Both sides of a connection that was let pass close it in order.
    async fn end(&mut self, mut client: Peer, mut origin: Peer) {
        client.stream.shutdown().await.expect("FIN");
        origin.rest().await;
        origin.stream.shutdown().await.expect("FIN");
        client.rest().await;
        self.forward(Duration::from_secs(1)).await;
    }

    /// A stream with its answer.
    async fn exchange(client: &mut Peer, origin: &mut Peer, stream: u32) {
        client.send(&framed(HEADERS, END_STREAM | END_HEADERS, stream, GET)).await;
        origin.until(|frame| (frame.kind, frame.stream) == (HEADERS, stream)).await;
        origin.send(&framed(HEADERS, END_STREAM | END_HEADERS, stream, &[0x88])).await;
        client.until(|frame| (frame.kind, frame.stream) == (HEADERS, stream)).await;
    }

    /// Both ends of a connection that has begun.
    async fn begun(&mut self) -> (Peer, Peer) {
        Peer::client(self.client.take().expect("once"), &self.listener).await
    }

    /// A client that has said nothing yet.
    fn silent(&mut self) -> Peer {
        Peer::new(self.client.take().expect("once"))
    }

    /// Time goes on. What sockets have to say is heard before and after.
    async fn forward(&mut self, by: Duration) {
        for by in [Duration::ZERO, by] {
            advance(by).await;
            for _ in 0..3 {
                self.echo.0.write_all(&[1]).await.expect("written");
                self.echo.1.read_exact(&mut [0]).await.expect("read");
            }
        }
    }

    /// The next record, if there is one already.
    fn record(&mut self) -> Option<Record> {
        #[derive(serde::Deserialize)]
        struct Line {
            record: Record,
        }
        let line = match self.lines.poll_line(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(line) => line.expect("the tail goes on"),
            Poll::Pending => return None,
        };
        Some(serde_json::from_slice::<Line>(&line).expect("JSON").record)
    }

    /// The record of the connection or of its exchange, which must be made with this deadline and not before.
    async fn ends_after(&mut self, deadline: Duration, check: Duration) -> Record {
        let step = deadline / STEPS;
        let mut took = Duration::ZERO;
        // Each look may be late by one step.
        while took <= deadline + check + deadline / 4 {
            self.forward(step).await;
            took += step;
            if let Some(record) = self.record().filter(|record| record["typ"] != "stage") {
                assert!(took >= deadline, "after {took:?}: {record:?}");
                return record;
            }
        }
        panic!("nothing ends within {took:?}");
    }

    /// The next record, which comes within this time.
    async fn shown_within(&mut self, time: Duration) -> Record {
        // Each look may be late by one step.
        for _ in 0..STEPS + 3 {
            self.forward(time / STEPS).await;
            if let Some(record) = self.record() {
                return record;
            }
        }
        panic!("nothing is shown within {time:?}");
    }

    /// What a peer still gets, to the end of its connection, which the sidecar has closed; and whether that is a reset.
    async fn rest(&mut self, mut peer: Peer) -> (Vec<Frame>, bool) {
        let rest = tokio::task::spawn_local(async move { peer.rest().await });
        for _ in 0..CLOSE_STEPS_MAX {
            if rest.is_finished() {
                return rest.await.expect("joined");
            }
            self.forward(Duration::ZERO).await;
        }
        panic!("the connection goes on");
    }

    async fn is_reset(&mut self, client: Peer) {
        let (frames, is_reset) = self.rest(client).await;
        assert!(is_reset && goaway(&frames).is_none(), "{frames:?}");
    }
}

/// Runs one test.
fn play<F: Future<Output = ()>>(test: impl FnOnce(Scene) -> F) {
    play_in(Scene::new(false), test);
}

/// Runs one test that begins while no policy looks at anything.
fn play_suspended<F: Future<Output = ()>>(test: impl FnOnce(Scene) -> F) {
    play_in(Scene::new(true), test);
}

fn play_in<F: Future<Output = ()>>(scene: impl Future<Output = Scene>, test: impl FnOnce(Scene) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async { test(scene.await).await });
}

fn told(record: &Record) -> [&str; 4] {
    ["typ", "proto", "outcome", "cause"].map(|key| record.get(key).map_or("", String::as_str))
}

const TIMED_OUT: [&str; 4] = ["exchange", "http/2", "failure", "timeout"];

#[test]
fn a_preface_that_is_never_whole_ends_with_the_deadline_of_a_head() {
    play(|mut scene| async move {
        let mut client = scene.silent();
        client.send(&PREFACE[..PREFACE.len() - 8]).await;
        let record = scene.ends_after(HEAD, 2 * HURRIED_CHECK).await;
        assert_eq!(told(&record), ["exchange", "tcp", "failure", "timeout"]);
        scene.is_reset(client).await;
    });
}

#[test]
fn a_client_that_never_says_its_settings_ends_with_the_deadline_of_a_head() {
    play(|mut scene| async move {
        let mut client = scene.silent();
        // And the first half of a frame's header.
        client.send(&[PREFACE, &[0, 0, 0, 4]].concat()).await;
        assert_eq!(told(&scene.ends_after(HEAD, HURRIED_CHECK).await), TIMED_OUT);
        scene.is_reset(client).await;
    });
}

#[test]
fn a_header_block_that_never_ends_is_cut_at_the_deadline_however_it_is_fed() {
    play(|mut scene| async move {
        let (mut client, _origin) = scene.begun().await;
        // What comes with the PING is read with it.
        client.send(&[framed(PING, 0, 0, &[7; 8]), framed(HEADERS, END_STREAM, 1, GET)].concat()).await;
        client.until(|frame| frame.kind == PING).await;
        for _ in 0..3 {
            scene.forward(HEAD / 6).await;
            client.send(&framed(CONTINUATION, 0, 1, &[])).await;
        }
        // It runs from the first look at the head.
        assert_eq!(told(&scene.ends_after(HEAD / 2, 2 * HURRIED_CHECK).await), TIMED_OUT);
        scene.is_reset(client).await;
    });
}

#[test]
fn a_connection_on_which_nothing_moves_is_closed_and_a_ping_is_a_move() {
    play(|mut scene| async move {
        let (mut client, origin) = scene.begun().await;
        for _ in 0..STEPS / 2 {
            scene.forward(IDLE / STEPS).await;
        }
        client.send(&framed(PING, 0, 0, &[7; 8])).await;
        assert_eq!(client.until(|frame| frame.kind == PING).await.payload, [7; 8]);
        // That it moved is noticed at the next look.
        assert_eq!(told(&scene.ends_after(IDLE, 2 * IDLE_CHECK).await), TIMED_OUT);
        scene.is_reset(client).await;
        scene.rest(origin).await;
    });
}

#[test]
fn ev_1_an_exchange_on_which_nothing_moves_is_recorded_when_its_connection_is_closed() {
    play(|mut scene| async move {
        let (mut client, mut origin) = scene.begun().await;
        client.send(&framed(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await;
        origin.until(|frame| frame.kind == HEADERS).await;
        let record = scene.ends_after(IDLE, 2 * IDLE_CHECK).await;
        assert_eq!((told(&record), record["method"].as_str()), (TIMED_OUT, "GET"));
        scene.is_reset(client).await;
        assert_eq!(scene.record(), None, "EV-1");
    });
}

#[test]
fn a_client_that_was_told_to_go_and_stays_is_closed() {
    play(|mut scene| async move {
        let (client, origin) = scene.begun().await;
        scene.drain.send_replace(Drain::Finish);
        let record = scene.ends_after(LINGER, IDLE_CHECK).await;
        assert_eq!(told(&record), ["exchange", "http/2", "success", ""]);
        let (frames, _) = scene.rest(client).await;
        assert_eq!(goaway(&frames), Some(0), "NO_ERROR: {frames:?}");
        drop(origin);
    });
}

/// What a connection shows that was there before its policy.
const SHOWN: [&str; 4] = ["stage", "tcp", "unknown", ""];

#[test]
fn ev_1_a_connection_that_was_there_before_its_policy_is_opaque_from_its_next_bytes_on() {
    play_suspended(|mut scene| async move {
        let (mut client, mut origin) = scene.begun().await;
        Scene::exchange(&mut client, &mut origin, 1).await;
        scene.grow_old();
        assert_eq!(scene.record(), None, "no policy looks at it");
        scene.resume();
        Scene::exchange(&mut client, &mut origin, 3).await;
        let stage = scene.shown_within(Duration::from_secs(1)).await;
        assert_eq!((told(&stage), stage["stage"].as_str()), (SHOWN, "opened"));
        scene.end(client, origin).await;
        let end = scene.record().expect("a record of its own");
        assert_eq!(told(&end), ["exchange", "tcp", "success", ""]);
        assert_eq!(end["xid"], stage["xid"]);
        let bytes = PREFACE.len() + 2 * SETTINGS.len() + 2 * (9 + GET.len());
        assert_eq!(end["req_bytes"], bytes.to_string(), "from its beginning");
        assert_eq!(scene.record(), None, "one record");
    });
}

#[test]
fn a_silent_connection_that_was_there_before_its_policy_shows_at_the_next_look() {
    play_suspended(|mut scene| async move {
        let (client, _origin) = scene.begun().await;
        scene.grow_old();
        scene.resume();
        assert_eq!(told(&scene.shown_within(IDLE_CHECK).await), SHOWN);
        drop(client);
    });
}

#[test]
fn ev_1_a_connection_that_was_there_before_its_policy_and_ends_unseen_has_a_record() {
    play_suspended(|mut scene| async move {
        let (client, origin) = scene.begun().await;
        scene.grow_old();
        scene.resume();
        scene.end(client, origin).await;
        assert_eq!(told(&scene.record().expect("a record")), ["exchange", "tcp", "success", ""]);
        assert_eq!(scene.record(), None, "one record");
    });
}

#[test]
fn a_connection_that_no_policy_ever_looks_at_has_no_record() {
    play_suspended(|mut scene| async move {
        let (mut client, mut origin) = scene.begun().await;
        scene.forward(IDLE_CHECK * 2).await;
        Scene::exchange(&mut client, &mut origin, 1).await;
        scene.end(client, origin).await;
        assert_eq!(scene.record(), None);
    });
}

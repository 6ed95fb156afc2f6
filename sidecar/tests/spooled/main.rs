//! A data thread's recorder over the spool: what a process sealed durably reaches the sink, whoever delivers it, and what it
//! lost stands in a gap.

use arc_swap::ArcSwap;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use testimony_core::capture::{Outcome, Shell as _};
use testimony_core::evidence::seal::Origin;
use testimony_core::policy::{Compiled, Direction, DocumentSink};
use testimony_core::record::{EventName, Field, Record, Redacted};
use testimony_core::redact::{Redactor, redact};
use testimony_sidecar::data::{Recorder, Shared, recover};
use testimony_sidecar::export::rules;
use testimony_sidecar::spool::left::{self, Left};
use testimony_sidecar::spool::recover::{OpenBegin, Report};
use testimony_sidecar::spool::{
    Boot, Class, Event, Found, LIMIT_BYTES_MIN, Limits, Place, Settings, Spool, SpoolHandle,
};
use testimony_sidecar::tail::Tail;
use tokio::sync::mpsc;

#[path = "../control_support/mod.rs"]
mod control_support;
mod ended;
mod refused;
mod replaced;
use control_support::leaves::{arrived, leaves, number, of, text};
use control_support::rig::{Options, Rig};
use control_support::{DEADLINE, Received, Reply, Server, document, eventually, folder, sink};

/// One process: its spool, its recorder and its exporter.
struct Process {
    spool: Spool,
    events: mpsc::Receiver<Event>,
    recorder: Recorder,
    rig: Rig,
}

impl Process {
    fn start(root: &Path, boot: u128, sinks: Vec<DocumentSink>) -> Self {
        Self::limited(root, boot, sinks, LIMIT_BYTES_MIN * 4)
    }

    fn limited(root: &Path, boot: u128, sinks: Vec<DocumentSink>, limit_bytes: u64) -> Self {
        let key_folder = root.join("key");
        std::fs::create_dir_all(&key_folder).expect("a folder");
        let settings = Settings {
            folder: root.join("spool"),
            key_folder,
            limit_bytes,
            limits: Limits::default(),
            boot: Boot(boot.to_be_bytes()),
            recovery: None,
            now_unix_nanos: || 1_700_000_000_000_000_000,
        };
        let (spool, events) = Spool::start(settings, &rules(&sinks)).expect("a spool");
        let handle = spool.handle().clone();
        let rig = Rig::with(Options { spool: Some(handle.clone()), ..Options::new(sinks) }, &[]);
        let shared = Shared {
            policy: Arc::new(ArcSwap::from_pointee(Compiled::new(document("00aa")).expect("valid"))),
            in_flight: Arc::default(),
            names: None,
            queue: rig.queue.clone(),
            spool: Some(handle),
            metrics: rig.metrics.clone(),
            tail: Tail::default(),
        };
        let (cluster_uid, namespace, pod_uid) = ("c-1".to_owned(), "shop".to_owned(), "u-1".to_owned());
        let origin = Origin { cluster_uid, namespace, pod_uid, boot, ..Origin::default() };
        let recorder = Recorder::new(shared, origin).expect("a stream");
        Self { spool, events, recorder, rig }
    }

    fn record(&self, path: &str) {
        let mut recorder = self.recorder.clone();
        recorder.begin();
        recorder.count(Direction::Inbound, Outcome::Success, None);
        recorder.emit(exchange(path));
    }

    /// Ends in order, as the worker does.
    async fn end(self) {
        self.recorder.close();
        tokio::time::timeout(DEADLINE, self.recorder.settled()).await.expect("durable");
    }
}

fn exchange(path: &str) -> Redacted<Record> {
    let mut record = Record::new(EventName::HttpRequest);
    for (field, value) in [(Field::V, "1"), (Field::Typ, "exchange"), (Field::T0, "1"), (Field::Path, path)] {
        record.set(field, value.as_bytes());
    }
    redact(record, &Redactor::default())
}

/// What these sinks lack of all that is durable.
fn left(spool: &SpoolHandle, sinks: &[&str]) -> Vec<Left> {
    let sinks: Vec<String> = sinks.iter().map(|sink| (*sink).to_owned()).collect();
    left::of(spool, &sinks, left::Budget { bytes: usize::MAX, until: in_a_minute() })
}

fn in_a_minute() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn root() -> PathBuf {
    folder()
}

#[tokio::test]
async fn d1_what_is_durable_is_delivered_and_acknowledged() {
    let server = Server::start(None, |_, _| Reply::status(200)).await;
    let process = Process::start(&root(), 1, vec![sink(&server.url("http"))]);
    for at in 0..300 {
        process.record(&format!("/{at}"));
    }
    let received = server.until(arrived("exchange", 300)).await;
    let all = leaves(&received);
    assert_eq!(all.keys().map(|(_, seq)| *seq).collect::<Vec<_>>(), (0..=300).collect::<Vec<_>>());
    process.recorder.close();
    tokio::time::timeout(DEADLINE, process.recorder.settled()).await.expect("durable");
    server.until(arrived("close", 1)).await;
    let heads = |all: &[Received]| all.iter().flat_map(Received::records).any(|body| body.contains(r#""typ":"head""#));
    server.until(heads).await;
}

#[tokio::test]
async fn a_record_waits_since_it_was_sealed_however_long_its_exchange_took() {
    let is_exchange = |received: &Received| received.records().iter().any(|body| body.contains(r#""typ":"exchange""#));
    let hanging = move |_, received: &Received| if is_exchange(received) { Reply::Hang } else { Reply::status(200) };
    let server = Server::start(None, hanging).await;
    let process = Process::start(&root(), 1, vec![sink(&server.url("http"))]);
    process.record("/of-1970");
    server.until(arrived("exchange", 1)).await;
    let age = process.rig.state().oldest_undelivered_seconds;
    assert!(age < DEADLINE.as_secs(), "{age}");
}

#[tokio::test]
async fn d3_a_successor_delivers_what_was_durable_and_declares_what_was_not() {
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let server =
        Server::start(None, move |_, _| Reply::status(if gate.load(Ordering::SeqCst) { 200 } else { 503 })).await;
    let (root, sinks) = (root(), vec![sink(&server.url("http"))]);
    let first = Process::start(&root, 1, sinks.clone());
    for at in 0..50 {
        first.record(&format!("/{at}"));
    }
    first.recorder.all_durable().await;
    // Two are in flight when it dies; nothing is closed.
    first.recorder.clone().begin();
    first.recorder.clone().begin();
    drop(first);

    open.store(true, Ordering::SeqCst);
    let Process { spool, mut events, recorder, rig } = Process::start(&root, 2, sinks.clone());
    // It tells of the first process and of nothing after it: its end shows that all is told.
    let (only, first_found) = mpsc::channel(1);
    only.send(events.recv().await.expect("a spool of before")).await.expect("room");
    drop(only);
    tokio::select! {
        () = recover(recorder.clone(), first_found, spool.handle().clone()) => {}
        () = recorder.keep() => panic!("it never ends"),
    };
    server.until(arrived("exchange", 50)).await;
    let received = server.until(arrived("gap", 1)).await;
    let all = leaves(&received);
    assert_eq!(of(&all, "exchange").len(), 50);
    let recovered = of(&all, "recovered");
    assert_eq!(recovered.len(), 1);
    assert_eq!(text(recovered[0], Field::RecSid), format!("c-1/shop/u-1/{:032x}-0-0", 1));
    assert_eq!((number(recovered[0], Field::Size), text(recovered[0], Field::State)), (51, "lost"));
    let gap = of(&all, "gap")[0];
    assert_eq!((number(gap, Field::Count), text(gap, Field::Exact)), (2, "1"));
    assert_eq!(text(gap, Field::LostSid), text(recovered[0], Field::RecSid));
    assert!(rig.metrics.text().contains("testimony_gap_exchanges_total{reason=\"worker_died\"} 2\n"));
    let old = spool.handle().boots().len();
    assert!(old >= 1);
    eventually("acknowledged", || rig.queue.sink_states()[0].delivered >= 53).await;
    drop((recorder, rig));
    spool.stop();

    // A third one tells nothing again of the first; it may deliver again, in the same places.
    let Process { spool, events, recorder, rig } = Process::start(&root, 3, sinks);
    let told = |received: &[Received]| {
        of(&leaves(received), "recovered").iter().any(|one| text(one, Field::RecSid).contains("2-0-0"))
    };
    let recovered = recover(recorder.clone(), events, spool.handle().clone());
    let received = tokio::select! {
        () = recovered => panic!("it goes on as long as the spool does"),
        () = recorder.keep() => panic!("it never ends"),
        received = server.until(told) => received,
    };
    let all = leaves(&received);
    let first = of(&all, "recovered").into_iter().filter(|one| text(one, Field::RecSid).contains("1-0-0")).count();
    assert_eq!(first, 1, "told once");
    drop(rig);
}

#[tokio::test]
async fn d3_what_closed_in_order_leaves_no_gap() {
    let server = Server::start(None, |_, _| Reply::status(503)).await;
    let (root, sinks) = (root(), vec![sink(&server.url("http"))]);
    let first = Process::start(&root, 1, sinks);
    first.record("/a");
    first.end().await;
    let backend = Server::start(None, |_, _| Reply::status(200)).await;
    let Process { spool, events, recorder, rig } = Process::start(&root, 2, vec![sink(&backend.url("http"))]);
    let recovered = recover(recorder.clone(), events, spool.handle().clone());
    let received = tokio::select! {
        () = recovered => panic!("it goes on as long as the spool does"),
        () = recorder.keep() => panic!("it never ends"),
        received = backend.until(arrived("recovered", 1)) => received,
    };
    let all = leaves(&received);
    assert_eq!((of(&all, "gap").len(), text(of(&all, "recovered")[0], Field::State)), (0, "closed"));
    backend.until(arrived("close", 1)).await;
    drop(rig);
}

#[tokio::test]
async fn s3_a_full_spool_is_a_gap_with_its_reason_and_an_outage_before_that_is_none() {
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let server =
        Server::start(None, move |_, _| Reply::status(if gate.load(Ordering::SeqCst) { 200 } else { 503 })).await;
    let process = Process::limited(&root(), 1, vec![sink(&server.url("http"))], LIMIT_BYTES_MIN);
    let unsealed = || rig_lost(&process.rig);
    let mut sent = 0;
    while unsealed() == 0 {
        assert!(sent < 100_000, "16 MiB are never full");
        for _ in 0..50 {
            process.record(&format!("/{}", noise(sent)));
            sent += 1;
        }
        process.recorder.all_durable().await;
    }
    open.store(true, Ordering::SeqCst);
    tokio::select! {
        () = process.recorder.keep() => panic!("it never ends"),
        () = async {
            // On a slow disk there may have been room before, and more than one gap.
            eventually("there is room again", || !process.rig.metrics.text().contains("{type=\"gap\"} 0\n")).await;
            eventually("the stream is closed", || process.recorder.close()).await;
            process.recorder.settled().await;
        } => {}
    }
    // Looks at the newest requests only: there are megabytes before them.
    let closed = |all: &[Received]| {
        all.iter().rev().take(2).flat_map(Received::records).any(|body| body.contains(r#""typ":"close""#))
    };
    let all = leaves(&server.until(closed).await);
    let (gaps, close) = (of(&all, "gap"), of(&all, "close")[0]);
    assert!(gaps.iter().all(|gap| text(gap, Field::Exact) == "1" && text(gap, Field::GapReason) == "spool_full"));
    let lost: u64 = gaps.iter().map(|gap| number(gap, Field::Count)).sum();
    assert_eq!((of(&all, "exchange").len() as u64 + lost, number(close, Field::Begun)), (sent, sent));
    assert!(lost > 0 && number(close, Field::OpenCount) == 0);
    let metrics = process.rig.metrics.text();
    for counted in [
        format!("testimony_gap_exchanges_total{{reason=\"spool_full\"}} {lost}\n"),
        format!("testimony_export_lost_records_total{{sink=\"main\",reason=\"spool_full\"}} {lost}\n"),
    ] {
        assert!(metrics.contains(&counted), "{counted} is not in {metrics}");
    }
}

#[tokio::test]
async fn w3_what_stays_undelivered_is_known_by_stream_and_place() {
    let open = Arc::new(AtomicBool::new(true));
    let gate = open.clone();
    let server =
        Server::start(None, move |_, _| Reply::status(if gate.load(Ordering::SeqCst) { 200 } else { 503 })).await;
    let process = Process::start(&root(), 1, vec![sink(&server.url("http"))]);
    process.record("/delivered");
    server.until(arrived("exchange", 1)).await;
    let sinks = ["main"];
    let handle = process.spool.handle().clone();
    eventually("acknowledged", || left(&handle, &sinks).is_empty()).await;
    open.store(false, Ordering::SeqCst);
    for at in 0..3 {
        process.record(&format!("/{at}"));
    }
    process.recorder.all_durable().await;
    process.recorder.close();
    tokio::time::timeout(DEADLINE, process.recorder.settled()).await.expect("durable");
    let left = left(&handle, &sinks);
    let stream = format!("c-1/shop/u-1/{:032x}-0-0", 1).parse().expect("a name");
    assert_eq!(left, [Left { stream, records: 2..6, sink: None }], "three exchanges and close");
}

/// Text that nothing makes much shorter: 4 KB.
fn noise(at: u64) -> String {
    let mut state = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let digits = (0..500).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        format!("{:08x}", state >> 32)
    });
    digits.collect()
}

/// What a sink without `required` loses while it is away is told, though the process dies before it tells.
#[tokio::test]
async fn t5_g2_what_was_shed_before_a_process_died_is_a_hole_of_the_next_one() {
    let main = Server::start(None, |_, _| Reply::status(200)).await;
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let side =
        Server::start(None, move |_, _| Reply::status(if gate.load(Ordering::SeqCst) { 200 } else { 503 })).await;
    let not_required = DocumentSink { name: "side".to_owned(), required: false, ..sink(&side.url("http")) };
    let (root, sinks) = (root(), vec![sink(&main.url("http")), not_required]);
    let first = Process::limited(&root, 1, sinks.clone(), LIMIT_BYTES_MIN);
    let handle = first.spool.handle().clone();
    let mut sent = 0;
    while handle.stats().skipped_untold == 0 {
        assert!(sent < 100_000, "16 MiB are never full");
        for _ in 0..50 {
            first.record(&format!("/{}", noise(sent)));
            sent += 1;
        }
        first.recorder.all_durable().await;
        let delivered = || first.rig.queue.sink_states()[0].delivered;
        eventually("the required one has it", || delivered() >= sent || handle.stats().skipped_untold > 0).await;
    }
    assert_eq!(rig_lost(&first.rig), 0, "nobody is stopped");
    let stream = format!("c-1/shop/u-1/{:032x}-0-0", 1);
    // With the pod all of it would go, what was shed like what is still there; of the other sink it says nothing.
    let goes_with_the_pod = |handle: &SpoolHandle| {
        let left = left(handle, &["main", "side"]).into_iter().filter(|left| left.stream.as_str() == stream);
        let (mut side, main): (Vec<_>, Vec<_>) = left.partition(|left| left.sink.is_some());
        assert!(main.iter().all(|left| left.records.start > 0), "{main:?}");
        assert_eq!(side.len(), 1, "{side:?}");
        let Left { records, sink, .. } = side.remove(0);
        let end = main.iter().map(|left| left.records.end).fold(records.end, u64::max);
        assert_eq!((sink.as_deref(), records.start, end > sent), (Some("side"), 0, true), "{records:?}");
    };
    goes_with_the_pod(&handle);
    drop((first, handle));

    let Process { spool, events, recorder, rig } = Process::limited(&root, 2, sinks, LIMIT_BYTES_MIN);
    let all_told = |all: &[Received]| {
        let leaves = leaves(all);
        let mut there: BTreeSet<u64> = leaves.keys().filter(|(sid, _)| *sid == stream).map(|(_, seq)| *seq).collect();
        for hole in of(&leaves, "hole").iter().filter(|hole| text(hole, Field::HoleSid) == stream) {
            assert_eq!((text(hole, Field::Scope), text(hole, Field::HoleReason)), ("sink=side", "spool_full"));
            there.extend(number(hole, Field::HoleFrom)..number(hole, Field::HoleTo));
        }
        // With `open`, and a checkpoint or two.
        let count = there.len() as u64;
        count > sent && there.into_iter().eq(0..count)
    };
    tokio::select! {
        () = recover(recorder.clone(), events, spool.handle().clone()) => panic!("it goes on as long as the spool does"),
        () = recorder.keep() => panic!("it never ends"),
        () = async {
            let handle = spool.handle();
            let is_told = || handle.boots().len() > 1 && handle.stats().skipped_untold == 0;
            eventually("it is told", is_told).await;
            goes_with_the_pod(handle);
            open.store(true, Ordering::SeqCst);
            // To look reads all that is left, and this thread can send nothing meanwhile.
            let delivered = async {
                while !left(handle, &["side"]).is_empty() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            tokio::time::timeout(DEADLINE, delivered).await.expect("it is delivered");
        } => {}
    }
    side.until(all_told).await;
    drop(rig);
}

fn rig_lost(rig: &Rig) -> u64 {
    rig.state().lost
}

/// What began in an earlier process and cannot be read is a gap, and before that is sealed nothing says that all was told.
#[tokio::test]
async fn d3_t2_an_earlier_process_is_told_when_its_gaps_are() {
    let server = Server::start(None, |_, _| Reply::status(200)).await;
    let process = Process::start(&root(), 1, vec![sink(&server.url("http"))]);
    let Process { recorder, spool, .. } = &process;
    recorder.all_durable().await;
    let found = || {
        let boot = Boot([9; 16]);
        let sid = format!("c-1/shop/u-1/{boot}-0-0").parse().expect("a name");
        let open_begins = vec![OpenBegin { sid, number: 0, place: Place::default() }];
        let report = Report { open_begins, headless_segments: 0, ..Report::unread(boot) };
        let (events, receiver) = mpsc::channel(1);
        let found = Found { report, counters: Vec::new(), counters_exact: true };
        events.try_send(Event::Found(Box::new(found))).expect("room");
        receiver
    };
    let inbox = spool.handle().inbox();
    let classes = [Class::Ordinary, Class::Evidence];
    let all = || classes.iter().flat_map(|class| std::iter::from_fn(|| inbox.reserve(*class, 4096).ok()));
    let places: Vec<_> = all().collect();
    tokio::time::pause();
    let hour = Duration::from_secs(3600);
    let told = tokio::time::timeout(hour, recover(recorder.clone(), found(), spool.handle().clone())).await;
    assert!(told.is_err(), "there is no place for a gap");
    tokio::time::resume();
    drop(places);
    tokio::time::timeout(DEADLINE, recover(recorder.clone(), found(), spool.handle().clone())).await.expect("told");
    assert!(process.rig.metrics.text().contains("{type=\"gap\"}"));
}

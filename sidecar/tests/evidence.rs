//! A data thread's recorder against a sink: what arrives is a stream that proves itself.

use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use testimony_core::canon::parse_body;
use testimony_core::capture::{Outcome, Shell, Unrecorded};
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::{leaf, root_of};
use testimony_core::evidence::note::{PublicKey, SignedNote};
use testimony_core::evidence::seal::{Class, Origin};
use testimony_core::policy::{Compiled, Direction};
use testimony_core::record::{EventName, Field, Gap, GapReason, Record, Redacted};
use testimony_core::redact::{Redactor, redact};
use testimony_sidecar::data::{LATE_RECORDS_MAX, Recorder, Shared};
use testimony_sidecar::drain::close;
use testimony_sidecar::proxy::Drain;
use testimony_sidecar::tail::Tail;

mod control_support;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use control_support::rig::{Options, Rig};
use control_support::{DEADLINE, Received, Reply, Server, document, eventually, sink};

fn shared(rig: &Rig) -> Shared {
    Shared {
        policy: Arc::new(ArcSwap::from_pointee(Compiled::new(document("00aa")).expect("valid"))),
        in_flight: Arc::default(),
        names: None,
        queue: rig.queue.clone(),
        spool: None,
        metrics: rig.metrics.clone(),
        tail: Tail::default(),
    }
}

fn recorder(shared: Shared) -> Recorder {
    let part = |text: &str| text.to_owned();
    let (cluster_uid, namespace, pod_uid) = (part("c-1"), part("shop"), part("u-1"));
    Recorder::new(shared, Origin { cluster_uid, namespace, pod_uid, boot: 5, ..Origin::default() }).expect("a stream")
}

fn unredacted(path: &str) -> Record {
    let mut record = Record::new(EventName::HttpRequest);
    for (field, value) in [(Field::V, "1"), (Field::Typ, "exchange"), (Field::T0, "1"), (Field::Path, path)] {
        record.set(field, value.as_bytes());
    }
    record
}

fn exchange(path: &str) -> Redacted<Record> {
    redact(unredacted(path), &Redactor::default())
}

type Body = BTreeMap<String, Vec<u8>>;

fn text(body: &Body, field: Field) -> &str {
    body.get(field.key()).map_or("", |value| std::str::from_utf8(value).expect("text"))
}

fn number(body: &Body, field: Field) -> u64 {
    text(body, field).parse().unwrap_or(0)
}

/// Checks the chain, the tree and every head of one stream; returns its records in order, without the heads.
fn proven(received: &[Received]) -> Vec<Body> {
    let texts: Vec<String> = received.iter().flat_map(Received::records).collect();
    let mut leaves: BTreeMap<u64, (Hash, Body)> = BTreeMap::new();
    let mut heads = Vec::new();
    for raw in &texts {
        let body = parse_body(raw.as_bytes()).expect("canonical");
        if text(&body, Field::Typ) == "head" {
            heads.push(body);
        } else {
            let again = leaves.insert(number(&body, Field::Seq), (leaf(raw.as_bytes()), body));
            assert!(again.is_none(), "one body for a place");
        }
    }
    let hashes: Vec<Hash> = leaves.values().map(|(hash, _)| *hash).collect();
    assert_eq!(leaves.keys().copied().collect::<Vec<_>>(), (0..hashes.len() as u64).collect::<Vec<_>>(), "CH-1");
    for (seq, (_, body)) in &leaves {
        let before = seq.checked_sub(1).map_or_else(String::new, |before| leaves[&before].0.to_hex());
        assert_eq!(text(body, Field::Prev), before);
    }
    let key: PublicKey = text(&leaves[&0].1, Field::Key).parse().expect("a key");
    assert!(!heads.is_empty());
    for head in heads {
        let note = String::from_utf8(STANDARD.decode(text(&head, Field::Note)).expect("base64")).expect("text");
        let note = SignedNote::parse(&note).expect("a note");
        let checkpoint = &note.checkpoint;
        assert_eq!(checkpoint.root, root_of(&hashes[..checkpoint.size as usize]));
        assert!(note.is_signed_by(&checkpoint.origin, &key));
    }
    leaves.into_values().map(|(_, body)| body).collect()
}

fn closed(all: &[Received]) -> bool {
    all.iter().flat_map(Received::records).any(|body| body.contains(r#""typ":"head""#))
}

#[tokio::test]
async fn ch_1_h1_a_stream_arrives_from_open_to_close_with_a_signed_head() {
    let server = Server::start(None, |_, _| Reply::status(200)).await;
    let rig = Rig::start(vec![sink(&server.url("http"))]);
    let shared = shared(&rig);
    let policy = shared.policy.clone();
    let mut recorder = recorder(shared);
    for at in 0..150 {
        recorder.begin();
        recorder.count(Direction::Inbound, Outcome::Success, None);
        recorder.emit(exchange(&format!("/{at}")));
    }
    recorder.begin();
    let none = Unrecorded { revision: "00aa", rule: "probes" };
    recorder.count(Direction::Inbound, Outcome::Success, Some(none));
    recorder.begin();
    policy.store(Arc::new(Compiled::new(document("00bb")).expect("valid")));
    recorder.tick();
    recorder.close();
    let bodies = proven(&server.until(closed).await);
    let typs: Vec<&str> = bodies.iter().map(|body| text(body, Field::Typ)).collect();
    assert_eq!((typs[0], &typs[typs.len() - 2..]), ("open", &["policy", "close"][..]));
    let (open, close) = (&bodies[0], &bodies[bodies.len() - 1]);
    assert_eq!(text(open, Field::Sid), format!("c-1/shop/u-1/{:032x}-0-0", 5));
    assert_eq!(text(&bodies[bodies.len() - 2], Field::PolicyRevision), "00bb");
    let totals = [Field::Begun, Field::Exchanges, Field::NoneCount, Field::OpenCount].map(|field| number(close, field));
    assert_eq!((totals, text(close, Field::NoneBy)), ([152, 150, 1, 1], "00aa/probes=1"));
    let metrics = rig.metrics.text();
    for line in [
        "testimony_records_total 150\n",
        "testimony_sealed_records_total{type=\"exchange\"} 150\n",
        "testimony_sealed_records_total{type=\"close\"} 1\n",
        "testimony_heads_total 1\n",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn ev_1_s3_exchanges_without_a_place_are_counted_in_sealed_gaps() {
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let reply = move |_: usize, _: &Received| Reply::status(if gate.load(Ordering::SeqCst) { 200 } else { 503 });
    let server = Server::start(None, reply).await;
    let mut small = sink(&server.url("http"));
    small.queue_bytes_max = 20_000;
    let rig = Rig::start(vec![small]);
    let mut recorder = recorder(shared(&rig));
    for at in 0..100 {
        recorder.begin();
        recorder.emit(exchange(&format!("/{at}/{}", "x".repeat(400))));
    }
    recorder.flush();
    let lost = rig.state().lost;
    assert!(lost > 50, "{lost}");
    open.store(true, Ordering::SeqCst);
    eventually("there is room", || rig.queue.ticket(15_000, Class::Traffic).is_some()).await;
    recorder.close();
    let bodies = proven(&server.until(closed).await);
    let of = |typ: &str| bodies.iter().filter(|body| text(body, Field::Typ) == typ).collect::<Vec<_>>();
    let told: u64 = of("gap").iter().map(|gap| number(gap, Field::Count)).sum();
    assert_eq!((told, of("exchange").len() as u64), (lost, 100 - lost));
    let close = of("close")[0];
    assert_eq!((number(close, Field::Begun), number(close, Field::Gaps)), (100, lost));
    let (metrics, counted) =
        (rig.metrics.text(), format!("testimony_gap_exchanges_total{{reason=\"queue_full\"}} {lost}\n"));
    assert!(metrics.contains(&counted), "{counted} is not in {metrics}");
}

#[tokio::test]
async fn ev_1_a_gap_is_counted_where_there_is_no_sink_and_where_an_earlier_process_lost_what_it_tells() {
    let rig = Rig::start(Vec::new());
    let mut recorder = recorder(shared(&rig));
    let gap = |count| Gap { count, exact: count > 0, from_ns: 1, to_ns: 2, reason: GapReason::WorkerDied };
    recorder.lose(gap(3), None);
    // Without a spool nobody knows how many.
    recorder.lose(gap(0), None);
    recorder.close();
    recorder.begin();
    recorder.emit(exchange("/late"));
    let metrics = rig.metrics.text();
    for (reason, count) in [("worker_died", 3), ("closed", 1), ("queue_full", 0)] {
        let counted = format!("testimony_gap_exchanges_total{{reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&counted), "{counted} is not in {metrics}");
    }
}

#[tokio::test]
async fn g2_what_one_sink_never_gets_is_a_hole_in_the_stream_of_all() {
    let strict = Server::start(None, |_, one| {
        Reply::status(if one.records().iter().any(|body| body.contains("\"/refused\"")) { 400 } else { 200 })
    })
    .await;
    let mild = Server::start(None, |_, _| Reply::status(200)).await;
    let mut sinks = vec![sink(&strict.url("http")), sink(&mild.url("http"))];
    sinks[1].name = "mild".to_owned();
    let rig = Rig::with(Options::new(sinks), &[]);
    let mut recorder = recorder(shared(&rig));
    for path in ["/a", "/refused", "/refused", "/b"] {
        recorder.begin();
        recorder.emit(exchange(path));
    }
    recorder.flush();
    eventually("refused", || rig.queue.sink_states().iter().any(|state| state.lost == 2)).await;
    // What the data thread does when it is notified.
    let kept = tokio::time::timeout(Duration::from_millis(300), recorder.keep()).await;
    assert!(kept.is_err(), "it never ends");
    recorder.close();
    let bodies = proven(&mild.until(closed).await);
    let hole = bodies.iter().find(|body| text(body, Field::Typ) == "hole").expect("a hole");
    let range = (number(hole, Field::HoleFrom), number(hole, Field::HoleTo));
    assert_eq!((range, text(hole, Field::Scope), text(hole, Field::HoleReason)), ((2, 4), "sink=main", "rejected"));
    let refused = |at: usize| text(&bodies[at], Field::Path) == "/refused";
    assert!(refused(2) && refused(3));
    assert_eq!(text(&bodies[4], Field::Prev).len(), 64);
}

#[tokio::test]
async fn s4_a_stream_for_whose_end_there_is_no_room_closes_when_there_is() {
    let server = Server::start(None, |_, _| Reply::status(200)).await;
    let rig = Rig::start(vec![sink(&server.url("http"))]);
    let mut recorder = recorder(shared(&rig));
    recorder.begin();
    recorder.emit(exchange("/a"));
    recorder.flush();
    let held: Vec<_> = std::iter::from_fn(|| rig.queue.ticket(100, Class::Release)).collect();
    let (drain, finishing) = tokio::sync::watch::channel(Drain::Finish);
    let closing = close(&recorder, finishing);
    tokio::pin!(closing);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut closing).await;
    assert!(early.is_err() && !recorder.is_closed(), "there is no room");
    drop(held);
    tokio::time::timeout(DEADLINE, closing).await.expect("in time");
    assert!(recorder.is_closed());
    proven(&server.until(closed).await);
    drop(drain);
}

/// A finished exchange for which nothing waits.
fn late(recorder: &mut Recorder, path: &str) {
    recorder.begin();
    recorder.count(Direction::Inbound, Outcome::Success, None);
    let policy = recorder.policy();
    let mut record = unredacted(path);
    record.set(Field::Query, b"token=hidden");
    recorder.emit_late(record, policy);
}

#[tokio::test]
async fn ch_1_what_is_sealed_later_keeps_its_order_and_is_bounded() {
    let server = Server::start(None, |_, _| Reply::status(200)).await;
    let rig = Rig::start(vec![sink(&server.url("http"))]);
    let mut recorder = recorder(shared(&rig));
    let sealed = || rig.metrics.records.get();
    (0..LATE_RECORDS_MAX + 2).for_each(|at| late(&mut recorder, &format!("/{at}")));
    assert_eq!(sealed(), 2, "before one more waits, the oldest is sealed");
    recorder.emit(exchange("/at-once"));
    assert_eq!(sealed(), LATE_RECORDS_MAX as u64 + 3, "what is sealed at once comes behind");
    late(&mut recorder, "/after");
    tokio::select! {
        () = recorder.catch_up() => {}
        () = eventually("it is sealed without a reason of its own", || sealed() == LATE_RECORDS_MAX as u64 + 4) => {}
    }
    late(&mut recorder, "/last");
    recorder.close();
    recorder.begin();
    late(&mut recorder, "/too-late");
    assert!(rig.metrics.text().contains("testimony_gap_exchanges_total{reason=\"closed\"} 1\n"));
    let bodies = proven(&server.until(closed).await);
    let paths: Vec<&str> = bodies.iter().map(|body| text(body, Field::Path)).filter(|path| !path.is_empty()).collect();
    let numbered = (0..LATE_RECORDS_MAX + 2).map(|at| format!("/{at}"));
    let expected: Vec<String> = numbered.chain(["/at-once", "/after", "/last"].map(str::to_owned)).collect();
    assert_eq!(paths, expected);
    let queries = bodies.iter().map(|body| text(body, Field::Query)).filter(|query| !query.is_empty());
    assert!(queries.clone().all(|query| query.starts_with("token=") && !query.contains("hidden")), "EV-2");
    assert_eq!(queries.count(), LATE_RECORDS_MAX + 4);
}

//! What a sink refuses is told by holes.

use super::control_support::leaves::{leaves_of, number, of, text};
use super::control_support::{DEADLINE, Reply, Server, eventually, sink};
use super::{Process, left, root};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use prost::Message;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use testimony_core::policy::{DocumentSink, SinkCondition, SinkProtocol};
use testimony_core::record::Field;

/// A sink over gRPC that keeps what it says it keeps. It has an answer of its own in turns, and else never takes `/refused`,
/// and `/partly` among others only.
fn fickle(number: usize, records: &[String], kept: &Mutex<Vec<String>>) -> Reply {
    let has = |path: &str| records.iter().any(|body| body.contains(path));
    // Status{details: [Any{RetryInfo{}}]}: at once.
    let at_once = "GioKKHR5cGUuZ29vZ2xlYXBpcy5jb20vZ29vZ2xlLnJwYy5SZXRyeUluZm8=".to_owned();
    match number % 16 {
        0 => return Reply::grpc(14),
        3 => {
            let trailers = vec![("grpc-status-details-bin", at_once)];
            return Reply::Grpc { code: 8, trailers, message: Vec::new() };
        }
        6 => return Reply::grpc(8),
        _ if number == 9 => return Reply::grpc(16),
        _ if has("/refused") => return Reply::grpc(3),
        _ => {}
    }
    let (taken, rejected): (Vec<String>, Vec<String>) =
        records.iter().cloned().partition(|body| !body.contains("/partly"));
    kept.lock().expect("no panic").extend(taken);
    let rejected_log_records = i64::try_from(rejected.len()).expect("few");
    let partial = ExportLogsPartialSuccess { rejected_log_records, error_message: "no".to_owned() };
    let partial_success = (!rejected.is_empty()).then_some(partial);
    let message = ExportLogsServiceResponse { partial_success }.encode_to_vec();
    Reply::Grpc { code: 0, trailers: Vec::new(), message }
}

#[tokio::test]
async fn ex_1_g2_what_a_grpc_sink_kept_and_what_holes_tell_is_all_that_was_sealed() {
    let kept: Arc<Mutex<Vec<String>>> = Arc::default();
    let there = kept.clone();
    let server = Server::start(None, move |number, one| fickle(number, &one.records(), &there)).await;
    let mut grpc = DocumentSink { protocol: SinkProtocol::Grpc, ..sink(&server.url("http")) };
    let process = Process::start(&root(), 1, vec![grpc.clone()]);
    for at in 0..100 {
        let kind = match at % 25 {
            7 => "refused",
            13 => "partly",
            _ => "taken",
        };
        process.record(&format!("/{kind}/{at}"));
    }
    let kept = || leaves_of(kept.lock().expect("no panic").clone().into_iter());
    let told =
        || of(&kept(), "hole").iter().map(|hole| number(hole, Field::HoleTo) - number(hole, Field::HoleFrom)).sum();
    let state = || process.rig.state();
    tokio::select! {
        () = process.recorder.keep() => panic!("it never ends"),
        () = async {
            eventually("parked", || state().state == SinkCondition::Parked).await;
            assert!(state().error.is_some_and(|error| error.contains("UNAUTHENTICATED")));
            // An edit ends the wait.
            grpc.timeout_ms += 1;
            process.rig.policy.send_replace(vec![grpc.clone()].into());
            eventually("told", || (of(&kept(), "exchange").len(), told()) == (92, 8_u64)).await;
        } => {}
    }
    process.recorder.close();
    tokio::time::timeout(DEADLINE, process.recorder.settled()).await.expect("durable");
    let handle = process.spool.handle();
    eventually("all of it is acknowledged", || left(handle, &["main"]).is_empty()).await;
    let all = kept();
    let mut places: BTreeSet<u64> = all.keys().map(|(_, seq)| *seq).collect();
    for hole in of(&all, "hole") {
        assert_eq!((text(hole, Field::Scope), text(hole, Field::HoleReason)), ("sink=main", "rejected"));
        let range = number(hole, Field::HoleFrom)..number(hole, Field::HoleTo);
        assert!(range.clone().all(|seq| places.insert(seq)), "{range:?} is there");
    }
    assert!(places.iter().copied().eq(0..places.len() as u64), "{places:?}");
    assert_eq!((state().lost, of(&all, "close").len()), (8, 1));
}

/// Holes are refused, too, and so nothing is told for a while; what cannot be told yet is not read yet.
#[tokio::test]
async fn g2_a_sink_that_refused_more_than_can_wait_to_be_told_goes_on_when_it_is_mended() {
    const RECORDS: u64 = 5_000;
    let (broken, hole_refused) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let kept: Arc<Mutex<Vec<String>>> = Arc::default();
    let (refuses, seen, there) = (broken.clone(), hole_refused.clone(), kept.clone());
    let server = Server::start(None, move |_, one| {
        let records = one.records();
        let has = |text: &str| records.iter().any(|body| body.contains(text));
        if refuses.load(Ordering::SeqCst) && (has("/refused") || has(r#""typ":"hole""#)) {
            seen.fetch_or(has(r#""typ":"hole""#), Ordering::SeqCst);
            return Reply::status(400);
        }
        there.lock().expect("no panic").extend(records);
        Reply::status(200)
    })
    .await;
    let process = Process::start(&root(), 1, vec![sink(&server.url("http"))]);
    let lost = || process.rig.state().lost;
    let changed = Cell::new((0, Instant::now()));
    tokio::select! {
        () = process.recorder.keep() => panic!("it never ends"),
        () = async {
            process.record("/refused");
            process.record("/taken");
            eventually("a hole is refused", || hole_refused.load(Ordering::SeqCst)).await;
            (2..RECORDS).for_each(|at| process.record(if at % 2 == 0 { "/refused" } else { "/taken" }));
            at_length("nothing more is refused", || {
                if changed.get().0 != lost() {
                    changed.set((lost(), Instant::now()));
                }
                lost() >= 1_024 && changed.get().1.elapsed() > Duration::from_secs(2)
            })
            .await;
            let oldest = process.rig.state().oldest_undelivered_seconds;
            assert!((1..DEADLINE.as_secs()).contains(&oldest), "what is not read waits: {oldest}");
            broken.store(false, Ordering::SeqCst);
            at_length("all of it is acknowledged", || left(process.spool.handle(), &["main"]).is_empty()).await;
        } => {}
    }
    let all = leaves_of(kept.lock().expect("no panic").clone().into_iter());
    let told = of(&all, "hole").into_iter().flat_map(|hole| number(hole, Field::HoleFrom)..number(hole, Field::HoleTo));
    let places: BTreeSet<u64> = told.chain(all.keys().map(|(_, seq)| *seq)).collect();
    assert!(places.iter().copied().eq(0..places.len() as u64), "{places:?}");
    assert!(places.len() as u64 > RECORDS);
}

/// What is lost is held for half a minute.
async fn at_length(what: &str, holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(4 * DEADLINE, waits).await.is_ok(), "never: {what}");
}

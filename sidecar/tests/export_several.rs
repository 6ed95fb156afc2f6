//! Several sinks at once: each has its own queue, position and state, and none waits for another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use testimony_core::policy::{Compression, DocumentSink, SinkCondition, SinkProtocol, SinkState};
use testimony_sidecar::export::Undelivered;

mod control_support;
use control_support::rig::{Options, Rig, taken};
use control_support::{Received, Reply, Server, batch, eventually, names, sink};

fn named(name: &str, server: &Server) -> DocumentSink {
    DocumentSink { name: name.to_owned(), ..sink(&server.url("http")) }
}

fn state(rig: &Rig, name: &str) -> SinkState {
    rig.queue.sink_states().into_iter().find(|state| state.name == name).expect("a sink")
}

#[tokio::test]
async fn a_sink_that_hangs_holds_no_other_back_and_has_its_own_hole() {
    let free = Arc::new(AtomicBool::new(false));
    let gate = free.clone();
    let well = Server::start(None, |_, _| Reply::grpc(0)).await;
    let slow =
        Server::start(None, move |_, _| if gate.load(Ordering::SeqCst) { Reply::status(200) } else { Reply::Hang })
            .await;
    let over_grpc =
        DocumentSink { protocol: SinkProtocol::Grpc, compression: Compression::Zstd, ..named("well", &well) };
    let size = batch(10, 10).log_records.len();
    let hanging = DocumentSink {
        // Long enough that this request still hangs when the other sink has everything.
        timeout_ms: 1_000,
        queue_bytes_max: u32::try_from(size * 3).expect("small"),
        ..named("slow", &slow)
    };
    let rig = Rig::start(vec![over_grpc, hanging]);
    for number in 1..=9 {
        rig.push(batch(number * 10, 10));
    }
    eventually("the other sink has everything", || state(&rig, "well").delivered == 90).await;
    slow.until(|all| !all.is_empty()).await;
    let (one, other) = (state(&rig, "well"), state(&rig, "slow"));
    assert_eq!((one.state, one.lost, one.delivered), (SinkCondition::Delivering, 0, 90));
    assert_eq!((other.lost, other.delivered), (60, 0));
    eventually("the hanging one is told", || state(&rig, "slow").state == SinkCondition::Failing).await;
    assert!(state(&rig, "slow").error.expect("an error").contains("within 1000 ms"));
    assert_eq!(state(&rig, "well").error, None);

    free.store(true, Ordering::SeqCst);
    eventually("what waited is delivered", || state(&rig, "slow").delivered == 30).await;
    rig.push(batch(100, 1));
    slow.until(|all| all.iter().flat_map(Received::records).any(|text| text == "r100")).await;
    well.until(|all| all.iter().flat_map(Received::records).any(|text| text == "r100")).await;
    assert_eq!(rig.losses(), [("slow".to_owned(), 40, 100, "queue_full")]);
    let mut all = names(10..100);
    all.push("r100".to_owned());
    assert_eq!(taken(&well.received(), |_| true), all, "each once, in order");
    assert_eq!(rig.stop(Duration::from_secs(5)).await, Undelivered::default());
}

#[tokio::test]
async fn ev_1_what_one_sink_refuses_is_a_hole_of_that_sink_only() {
    let strict =
        Server::start(None, |_, one| Reply::status(if one.records().contains(&"r2".to_owned()) { 400 } else { 200 }))
            .await;
    let mild = Server::start(None, |_, _| Reply::status(200)).await;
    let sinks = vec![named("mild", &mild), named("strict", &strict)];
    let rig = Rig::with(Options::new(sinks), &[batch(0, 4)]);
    eventually("both are done", || state(&rig, "mild").delivered == 4 && state(&rig, "strict").delivered == 3).await;
    assert_eq!((state(&rig, "mild").lost, state(&rig, "strict").lost), (0, 1));
    assert_eq!(rig.losses(), [("strict".to_owned(), 2, 3, "rejected")]);
    assert_eq!(taken(&mild.received(), |_| true), names(0..4));
}

#[tokio::test]
async fn a_parked_and_a_failing_sink_have_each_its_own_state_and_metrics() {
    let locked = Server::start(None, |_, _| Reply::status(401)).await;
    let down = Server::start(None, |_, _| Reply::status(503)).await;
    let well = Server::start(None, |_, _| Reply::status(200)).await;
    let rig = Rig::start(vec![named("down", &down), named("locked", &locked), named("well", &well)]);
    rig.push(batch(0, 2));
    eventually("delivered", || state(&rig, "well").delivered == 2).await;
    eventually("parked", || state(&rig, "locked").state == SinkCondition::Parked).await;
    eventually("failing", || state(&rig, "down").state == SinkCondition::Failing).await;
    assert_eq!(state(&rig, "well").state, SinkCondition::Delivering);
    let text = rig.metrics.text();
    for line in [
        "testimony_export_records_total{sink=\"well\"} 2\n",
        "testimony_export_requests_total{sink=\"locked\",result=\"parked\"} 1\n",
        "testimony_export_queue_bytes{sink=\"well\"} 0\n",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    // The drain ends the parked one at once and gives the failing one its time; the one that is done has nothing left.
    let left = rig.stop(Duration::from_millis(300)).await;
    assert_eq!(left, Undelivered { records: 4, undeclared: 0 });
}

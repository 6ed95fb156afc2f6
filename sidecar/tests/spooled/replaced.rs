//! A policy that names other sinks while records wait.

use super::control_support::leaves::leaves;
use super::control_support::{Received, Reply, Server, eventually, sink};
use super::{Process, left, root};
use std::collections::BTreeSet;
use testimony_core::policy::DocumentSink;

/// What a sink that goes has not taken, the one that comes gets: else nobody would, and nothing would tell it.
#[tokio::test]
async fn g2_a_sink_that_replaces_one_that_is_away_gets_what_that_one_lacks() {
    const RECORDS: u64 = 20;
    // At once, and in two steps: both for a while.
    for both_first in [false, true] {
        let away = Server::start(None, |_, _| Reply::status(503)).await;
        let there = Server::start(None, |_, _| Reply::status(200)).await;
        let main = sink(&away.url("http"));
        let side = DocumentSink { name: "side".to_owned(), ..sink(&there.url("http")) };
        let process = Process::start(&root(), 1, vec![main.clone()]);
        (0..RECORDS).for_each(|at| process.record(&format!("/{at}")));
        process.recorder.all_durable().await;
        if both_first {
            process.rig.policy.send_replace(vec![main, side.clone()].into());
            eventually("both are sent to", || process.rig.queue.sink_states().len() == 2).await;
            process.record("/for-both");
            there.until(|all| !all.is_empty()).await;
        }
        process.rig.policy.send_replace(vec![side].into());
        let handle = process.spool.handle();
        eventually("it is acknowledged", || left(handle, &["side"]).is_empty()).await;
        let has_all = |all: &[Received]| {
            let places: BTreeSet<u64> = leaves(all).keys().map(|(_, seq)| *seq).collect();
            places.len() as u64 > RECORDS && places.iter().copied().eq(0..places.len() as u64)
        };
        let received = there.received();
        assert!(has_all(&received), "{both_first}: {:?}", leaves(&received).keys());
    }
}

//! A process that ends while it still reads what earlier ones left.

use super::control_support::leaves::{leaves, of};
use super::control_support::{DEADLINE, Reply, Server, sink};
use super::{Process, left, root};
use testimony_sidecar::drain::{all_adopted, spool_drained};
use testimony_sidecar::spool::Boot;

/// The container restarted, and the pod is evicted at once: the sink, which is there, gets all of it, and nothing is told as
/// left that it has.
#[tokio::test]
async fn w3_what_earlier_processes_left_is_sent_or_told_also_by_one_that_ends_at_once() {
    const FOLDERS: u128 = 4;
    const RECORDS: usize = 25;
    let away = Server::start(None, |_, _| Reply::status(503)).await;
    let there = Server::start(None, |_, _| Reply::status(200)).await;
    let root = root();
    for boot in 1..=FOLDERS {
        let before = Process::start(&root, boot, vec![sink(&away.url("http"))]);
        (0..RECORDS).for_each(|at| before.record(&format!("/{at}")));
        before.recorder.all_durable().await;
    }
    // What cannot be read is tried for two seconds: the first folder takes as long.
    let page = root.join(format!("spool/{}/counters", Boot(1_u128.to_be_bytes())));
    std::fs::remove_file(&page).and_then(|()| std::fs::create_dir(&page)).expect("made");
    let Process { spool, events, recorder, rig } = Process::start(&root, 99, vec![sink(&there.url("http"))]);
    // As the worker ends.
    drop(events);
    recorder.close();
    tokio::time::timeout(DEADLINE, recorder.settled()).await.expect("durable");
    let handle = spool.handle().clone();
    spool_drained(&handle).await;
    all_adopted(Some(&handle)).await;
    let undelivered = rig.stop(DEADLINE).await;
    spool.stop();
    assert_eq!((undelivered.records, left(&handle, &["main"])), (0, Vec::new()));
    let found = of(&leaves(&there.received()), "exchange").len();
    assert_eq!(found, RECORDS * usize::try_from(FOLDERS).expect("few"));
}

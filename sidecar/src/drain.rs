//! The end of the worker: in which order what waits is finished, closed, sent and told, and how long each step may take. Their
//! sum is below what the supervisor waits.

use crate::data::Recorder;
use crate::poll::Caller;
use crate::proxy::Drain;
use crate::spool::{SpoolHandle, left};
use crate::witness::abandon;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Pause between two looks at what others have to do first.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long it may take to tell what sinks never get: to seal the holes, and to make them durable.
const SKIPPED_DRAIN: Duration = Duration::from_secs(1);

/// How long records may still be sent after the last connection has ended.
pub const EXPORT_DRAIN: Duration = Duration::from_secs(5);

/// How much of that may pass until all that earlier processes left can be read: a sink that finds nothing more has ended.
const ADOPTION_DRAIN: Duration = Duration::from_secs(4);

/// How much of the spool is read, at the end, to tell what stays in it.
const UNDELIVERED_BYTES_MAX: usize = 512 * 1024 * 1024;

/// How long that may take: what is not read then is not told.
const UNDELIVERED_PATIENCE: Duration = Duration::from_secs(2);

/// How long the operator may take to write down what stays: a block, and an answer.
const ABANDON_PATIENCE: Duration = Duration::from_secs(3);

/// How long the spool may take to make the last records durable.
const SPOOL_DRAIN: Duration = Duration::from_secs(2);

/// How long a data thread that has ended may take to show its stream's end to the witness: a block, and an answer.
pub const WITNESS_DRAIN: Duration = Duration::from_secs(3);

/// How long data threads may take to record what was cut off.
const ABORT_GRACE: Duration = Duration::from_secs(2 + WITNESS_DRAIN.as_secs());

/// Waits until holes tell of what sinks never get: who waits for that is gone with the pod.
pub async fn skipped_told(spool: Option<&SpoolHandle>) {
    let Some(spool) = spool else { return };
    let told = async {
        while spool.stats().skipped_untold > 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    if timeout(SKIPPED_DRAIN, told).await.is_err() {
        tracing::warn!("the next process tells what sinks never get");
    }
}

/// Closes the stream: a disk that stalls or a sink that is away may be back, and make room, while there is time. Then its
/// last head is signed, when `close` is durable (H1).
pub async fn close(recorder: &Recorder, drain: watch::Receiver<Drain>) {
    let closed = async {
        while !recorder.close() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        recorder.settled().await;
    };
    tokio::select! {
        () = closed => {}
        () = until_cut_off(drain) => {
            let stream = recorder.stream_id();
            tracing::error!(%stream, closed = recorder.is_closed(), "the stream's last head is not durable in time");
        }
    }
}

/// Waits until all that was recorded is durable.
pub async fn spool_drained(spool: &SpoolHandle) {
    if !spool.inbox().wait_all_durable(SPOOL_DRAIN).await {
        tracing::error!("the spool's disk did not take the last records in time");
    }
}

/// Waits until sinks can read all that earlier processes left. Meanwhile they send what there is.
pub async fn all_adopted(spool: Option<&SpoolHandle>) {
    let Some(spool) = spool else { return };
    if !spool.wait_all_adopted(ADOPTION_DRAIN).await {
        tracing::error!("what earlier processes left in the spool could not be read in time");
    }
}

/// Tells the operator which records stay in the spool: they go with the pod, unless its container starts again.
pub async fn tell_undelivered(spool: SpoolHandle, sinks: Vec<String>, caller: &Caller) {
    let until = std::time::Instant::now() + UNDELIVERED_PATIENCE;
    let read = move || left::of(&spool, &sinks, left::Budget { bytes: UNDELIVERED_BYTES_MAX, until });
    let Ok(left) = tokio::task::spawn_blocking(read).await else { return };
    if left.is_empty() {
        return;
    }
    let parts = left.len();
    let untold = abandon(caller, left, ABANDON_PATIENCE).await;
    tracing::warn!(parts, untold, "records stay in the spool undelivered");
}

/// Lets the data threads finish what is under way, then cuts it off.
pub async fn finish_threads(threads: &mut JoinSet<()>, drain: &watch::Sender<Drain>, patience: Duration) {
    drain.send_replace(Drain::Finish);
    let all = async |threads: &mut JoinSet<()>| while threads.join_next().await.is_some() {};
    if timeout(patience, all(threads)).await.is_err() {
        drain.send_replace(Drain::Abort);
        if timeout(ABORT_GRACE, all(threads)).await.is_err() {
            tracing::error!("a data thread did not end in time");
        }
    }
}

/// Time that connections did not need to end is the disk's.
async fn until_cut_off(mut drain: watch::Receiver<Drain>) {
    // A dropped sender means the same.
    let _ = drain.wait_for(|state| *state == Drain::Abort).await;
    tokio::time::sleep(SPOOL_DRAIN).await;
}

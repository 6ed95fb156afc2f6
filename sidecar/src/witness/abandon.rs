//! What a pod takes along undelivered is told to the operator's ledger: a verification then knows why it is not there.

use crate::poll::{CallError, Caller};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use testimony_core::contract::ABANDONED_PATH;
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::witness::csr::Abandoned;
use tokio::time::{Instant, timeout_at};

/// Why it is not delivered, as the ledger has it.
const REASON: &str = "undelivered when the pod ended";

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4096;

/// Tells what is left of each stream, until `patience` is over. Returns how many streams the ledger does not know it of.
pub async fn abandon(caller: &mut Caller, left: &BTreeMap<StreamId, Range<u64>>, patience: Duration) -> usize {
    let end = Instant::now() + patience;
    let mut untold = left.len();
    for (stream, range) in left {
        let told = timeout_at(end, tell(caller, stream, range, patience)).await;
        match told {
            Ok(Ok(())) => untold = untold.saturating_sub(1),
            Ok(Err(error)) => tracing::warn!(%stream, %error, "the operator does not hear what stays undelivered"),
            Err(_) => break,
        }
    }
    untold
}

async fn tell(caller: &mut Caller, sid: &StreamId, range: &Range<u64>, deadline: Duration) -> Result<(), CallError> {
    let (stream, reason) = (sid.to_string(), REASON.to_owned());
    let told = Abandoned { stream, from: range.start, to: range.end, reason };
    caller.call(ABANDONED_PATH, &told, deadline, ANSWER_BYTES_MAX).await.map(|_| ())
}

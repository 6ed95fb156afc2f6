//! What a pod takes along undelivered is told to the operator's ledger: a verification then knows why it is not there.

use crate::poll::{CallError, Caller};
use crate::spool::left::Left;
use std::time::Duration;
use testimony_core::contract::ABANDONED_PATH;
use testimony_core::evidence::witness::csr::Abandoned;
use tokio::time::{Instant, timeout_at};

/// Why it is not delivered, as the ledger has it.
const REASON: &str = "undelivered when the pod ended";

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4096;

/// Tells what is left, until `patience` is over. Returns how many parts the ledger does not know.
pub async fn abandon(caller: &mut Caller, left: &[Left], patience: Duration) -> usize {
    let end = Instant::now() + patience;
    let mut untold = left.len();
    for part in left {
        let told = timeout_at(end, tell(caller, part, patience)).await;
        match told {
            Ok(Ok(())) => untold = untold.saturating_sub(1),
            Ok(Err(error)) => tracing::warn!(?part, %error, "the operator does not hear what stays undelivered"),
            Err(_) => break,
        }
    }
    untold
}

async fn tell(caller: &mut Caller, left: &Left, deadline: Duration) -> Result<(), CallError> {
    let (stream, reason, sink) = (left.stream.to_string(), REASON.to_owned(), left.sink.clone());
    let told = Abandoned { stream, from: left.records.start, to: left.records.end, reason, sink };
    caller.call(ABANDONED_PATH, &told, deadline, ANSWER_BYTES_MAX).await.map(|_| ())
}

//! What a pod takes along undelivered is told to the operator's ledger: a verification then knows why it is not there.
//!
//! The operator answers once a block is committed, and there is time for two or three blocks, or for none in a large cluster.
//! So the parts are told side by side, and where there are more than that, an answer is waited for no longer than a block takes
//! mostly: who asks again is answered at once, or waits for the same block.

use crate::client::{Backoff, Jitter};
use crate::poll::{CallError, Caller};
use crate::spool::left::Left;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use testimony_core::contract::ABANDONED_PATH;
use testimony_core::evidence::witness::csr::Abandoned;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// Why it is not delivered, as the ledger has it.
const REASON: &str = "undelivered when the pod ended";

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4096;

/// Most parts that are told at a time, each over a connection of its own: all pods of a node may end at once.
const CALLS_MAX: usize = 16;

/// How long an answer is waited for while other parts wait.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// First and longest wait before another try.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What is to be told, in order, and how much of it the ledger knows.
struct Parts {
    waiting: VecDeque<Left>,
    told: usize,
}

/// Shared by those who tell.
#[derive(Clone)]
struct Shared(Arc<Mutex<Parts>>);

/// Tells what is left, until `patience` is over. What cannot be told now is told again. Returns how many parts the ledger is
/// not known to have.
pub async fn abandon(caller: &Caller, left: Vec<Left>, patience: Duration) -> usize {
    let (end, count) = (Instant::now() + patience, left.len());
    let parts = Shared(Arc::new(Mutex::new(Parts { waiting: left.into(), told: 0 })));
    let mut calls = JoinSet::new();
    for _ in 0..count.min(CALLS_MAX) {
        calls.spawn(tell_each(caller.another(), parts.clone(), end));
    }
    // What is still under way then is broken off; the operator may have heard it.
    let _ = timeout_at(end, async { while calls.join_next().await.is_some() {} }).await;
    let told = parts.lock().told;
    count.saturating_sub(told)
}

/// Tells one part after the other, as long as any waits.
async fn tell_each(mut caller: Caller, parts: Shared, end: Instant) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, Jitter::seeded());
    while let Some((part, others_wait)) = parts.next() {
        let rest = end.saturating_duration_since(Instant::now());
        let wait = if others_wait { rest.min(ANSWER_WAIT) } else { rest };
        match tell(&mut caller, &part, wait).await {
            Ok(()) => {
                backoff.reset();
                parts.told();
            }
            Err(error) if may_be_heard(&error) => {
                tracing::debug!(?part, %error, "the operator is told again what stays undelivered");
                parts.put_back(part);
                tokio::time::sleep(backoff.wait()).await;
            }
            Err(error) => tracing::warn!(?part, %error, "the operator does not hear what stays undelivered"),
        }
    }
}

/// Another try may be answered otherwise: nobody is there, or who is there cannot write now.
fn may_be_heard(error: &CallError) -> bool {
    match error {
        CallError::Status(status) => status.is_server_error(),
        CallError::Absent(_) | CallError::Client(_) => true,
        CallError::Token { .. } | CallError::Unauthorized(_) | CallError::Body(_) => false,
    }
}

async fn tell(caller: &mut Caller, left: &Left, deadline: Duration) -> Result<(), CallError> {
    let (stream, reason, sink) = (left.stream.to_string(), REASON.to_owned(), left.sink.clone());
    let told = Abandoned { stream, from: left.records.start, to: left.records.end, reason, sink };
    caller.call(ABANDONED_PATH, &told, deadline, ANSWER_BYTES_MAX).await.map(|_| ())
}

// === impl Shared ===

impl Shared {
    /// A panic elsewhere cannot leave the parts half-changed.
    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next part, and whether others wait.
    fn next(&self) -> Option<(Left, bool)> {
        let mut parts = self.lock();
        let part = parts.waiting.pop_front()?;
        Some((part, !parts.waiting.is_empty()))
    }

    fn put_back(&self, part: Left) {
        self.lock().waiting.push_back(part);
    }

    fn told(&self) {
        let mut parts = self.lock();
        parts.told = parts.told.saturating_add(1);
    }
}

//! The recorder of one data thread: takes redacted records, encodes them into a batch, hands whole batches over.

use super::{Random, now};
use crate::export::{Batch, GapReason, Queue};
use crate::metrics::{self, Metrics};
use crate::names::Names;
use crate::tail::Tail;
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use testimony_core::capture::{InFlight, Outcome, Shell};
use testimony_core::policy::{Compiled, Direction};
use testimony_core::record::{Encoded, Encoder, Field, Record, Redacted, Stamp};
use tokio::sync::Notify;

/// A batch leaves the data thread with this many records,
const BATCH_RECORDS_MAX: u32 = 64;
/// or this many bytes,
const BATCH_BYTES_MAX: usize = 128 * 1024;
/// or when its first record is this old.
pub const FLUSH_AFTER: Duration = Duration::from_millis(100);

/// What all data threads of a worker share.
#[derive(Clone)]
pub struct Shared {
    /// The policy in force.
    pub policy: Arc<ArcSwap<Compiled>>,
    /// Inbound exchanges in flight.
    pub in_flight: Arc<Mutex<InFlight>>,
    /// Names of addresses; `None` where nobody tells them.
    pub names: Option<Names>,
    /// Where batches go.
    pub queue: Queue,
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// People who look at records as they are made.
    pub tail: Tail,
}

/// Handle of one data thread's recorder; clones share it.
#[derive(Clone)]
pub struct Recorder {
    shared: Shared,
    inner: Rc<RefCell<Inner>>,
    filled: Rc<Notify>,
}

#[derive(Default)]
struct Inner {
    random: Random,
    encoder: Encoder,
    batch: Vec<u8>,
    records: u32,
    first_ns: u64,
    last_ns: u64,
}

impl Recorder {
    /// A recorder with an empty batch.
    pub fn new(shared: Shared) -> Self {
        Self { shared, inner: Rc::default(), filled: Rc::default() }
    }

    /// What all data threads share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Waits until the batch has its first record.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Hands the batch over, if it holds anything.
    pub fn flush(&self) {
        let mut inner = self.inner.borrow_mut();
        if inner.records == 0 {
            return;
        }
        let batch = Batch {
            log_records: Bytes::copy_from_slice(&inner.batch),
            records: inner.records,
            first_unix_nanos: inner.first_ns,
            last_unix_nanos: inner.last_ns,
        };
        inner.batch.clear();
        inner.records = 0;
        drop(inner);
        self.shared.queue.push(batch);
    }
}

impl Shell for Recorder {
    fn now(&self) -> Stamp {
        now()
    }

    fn random(&mut self) -> u128 {
        self.inner.borrow_mut().random.next_u128()
    }

    fn policy(&self) -> Arc<Compiled> {
        self.shared.policy.load_full()
    }

    fn in_flight<R>(&mut self, f: impl FnOnce(&mut InFlight) -> R) -> R {
        f(&mut self.shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn emit(&mut self, record: Redacted<Record>) {
        let start = record.get().get(Field::T0).and_then(|t| std::str::from_utf8(t).ok()?.parse().ok()).unwrap_or(0);
        let observed = now().wall_ns;
        let mut guard = self.inner.borrow_mut();
        let inner = &mut *guard;
        if inner.encoder.append(&record, observed, &mut inner.batch) == Encoded::TooLong {
            self.shared.queue.declare_loss(GapReason::RecordTooLong, 1, true, start, observed);
            return;
        }
        self.shared.metrics.records.inc();
        self.shared.tail.publish(record.get().event().as_str(), inner.encoder.body());
        if record.get().event().is_stage() {
            self.shared.metrics.stages.inc();
        }
        if inner.records == 0 {
            inner.first_ns = start;
            inner.last_ns = start;
            self.filled.notify_one();
        }
        inner.first_ns = inner.first_ns.min(start);
        inner.last_ns = inner.last_ns.max(start);
        inner.records += 1;
        let full = inner.records >= BATCH_RECORDS_MAX || inner.batch.len() >= BATCH_BYTES_MAX;
        drop(guard);
        if full {
            self.flush();
        }
    }

    fn count(&mut self, direction: Direction, outcome: Outcome, recorded: bool) {
        let outcome = match outcome {
            Outcome::Success => metrics::Outcome::Success,
            Outcome::Failure => metrics::Outcome::Failure,
            Outcome::Unknown => metrics::Outcome::Unknown,
        };
        self.shared.metrics.exchange(direction, outcome);
        if !recorded {
            self.shared.metrics.not_recorded();
        }
    }

    fn count_refused(&mut self, reason: &'static str) {
        self.shared.metrics.refused(reason);
    }

    fn count_undecided(&mut self, reason: &'static str) {
        self.shared.metrics.undecided(reason);
    }
}

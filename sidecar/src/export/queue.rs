//! What waits for each sink, and what each sink lost.

use super::{Batch, Gap, GapReason, REQUEST_BYTES_MAX, Undelivered};
use crate::data::now;
use crate::metrics::{Metrics, SinkMetrics};
use arc_swap::ArcSwap;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use testimony_core::policy::{SinkCondition, SinkState};
use tokio::sync::{Notify, watch};

/// The way into export. Clones share the same queues.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

/// What the queue and the exporter share.
pub(super) struct Shared {
    /// The sinks of the policy in force; replaced as a whole.
    sinks: ArcSwap<Vec<Arc<SinkQueue>>>,
    /// Counts changes of any sink's condition.
    changes: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

/// One sink's queue. Locked for a few instructions at a time, never across an await.
pub(super) struct SinkQueue {
    pub(super) name: Arc<str>,
    state: Mutex<State>,
    pub(super) wake: Notify,
    pub(super) metrics: SinkMetrics,
    changes: watch::Sender<u64>,
}

struct State {
    bytes_max: usize,
    /// Encoded bytes that wait or are being sent.
    bytes: usize,
    batches: VecDeque<Batch>,
    sending: Sending,
    /// At most one for each reason.
    gaps: Vec<Gap>,
    /// The sink refused a gap record: gaps wait until it took something else.
    gaps_held: bool,
    condition: SinkCondition,
    error: Option<String>,
    delivered: u64,
    lost: u64,
}

/// What was taken and not yet released.
#[derive(Clone, Copy, Debug, Default)]
struct Sending {
    records: u64,
    bytes: usize,
    first_unix_nanos: u64,
    last_unix_nanos: u64,
}

/// What a sink task sends next.
pub(super) struct Taken {
    pub(super) gaps: Vec<Gap>,
    pub(super) batches: Vec<Batch>,
}

// === impl Queue ===

impl Queue {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let (changes, _) = watch::channel(0);
        Self { shared: Arc::new(Shared { sinks: ArcSwap::default(), changes, metrics }) }
    }

    /// Hands a batch to every sink of the policy in force. Never blocks and never fails: where it would exceed a sink's
    /// `queue_bytes_max`, the whole batch is counted into that sink's next gap.
    pub fn push(&self, batch: Batch) {
        if batch.records == 0 {
            return;
        }
        for sink in self.shared.sinks.load().iter() {
            sink.push(batch.clone());
        }
    }

    /// Declares exchanges whose records never came to be, to every sink.
    pub fn declare_loss(&self, reason: GapReason, count: u64, exact: bool, from_unix_nanos: u64, to_unix_nanos: u64) {
        for sink in self.shared.sinks.load().iter() {
            let gap = Gap { count, exact, from_ns: from_unix_nanos, to_ns: to_unix_nanos, reason };
            sink.lose(gap);
        }
    }

    /// Every sink's state: for the operator's poll and `/config`.
    pub fn sink_states(&self) -> Vec<SinkState> {
        self.shared.sinks.load().iter().map(|sink| sink.snapshot()).collect()
    }

    /// Changes whenever a sink's condition does.
    pub fn state_changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Brings the gauges up to date: before each scrape.
    pub fn refresh_metrics(&self) {
        for sink in self.shared.sinks.load().iter() {
            let state = sink.snapshot();
            sink.metrics.oldest_seconds.set(i64::try_from(state.oldest_undelivered_seconds).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn add_sink(&self, name: &str, bytes_max: usize) -> Arc<SinkQueue> {
        Arc::new(SinkQueue {
            name: name.into(),
            state: Mutex::new(State::new(bytes_max)),
            wake: Notify::new(),
            metrics: self.shared.metrics.sink(name),
            changes: self.shared.changes.clone(),
        })
    }

    pub(super) fn replace_sinks(&self, sinks: Vec<Arc<SinkQueue>>) {
        self.shared.sinks.store(Arc::new(sinks));
        self.shared.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }
}

// === impl SinkQueue ===

impl SinkQueue {
    /// A panic elsewhere cannot leave the counts half-changed, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, batch: Batch) {
        let bytes = batch.log_records.len();
        let mut state = self.lock();
        if state.bytes.saturating_add(bytes) > state.bytes_max {
            let gap = Gap {
                count: u64::from(batch.records),
                exact: true,
                from_ns: batch.first_unix_nanos,
                to_ns: batch.last_unix_nanos,
                reason: GapReason::QueueFull,
            };
            self.count_lost(&mut state, gap);
        } else {
            state.bytes += bytes;
            state.batches.push_back(batch);
            self.metrics.queue_bytes.set(i64::try_from(state.bytes).unwrap_or(i64::MAX));
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Counts records as lost; the next export declares them.
    pub(super) fn lose(&self, gap: Gap) {
        self.count_lost(&mut self.lock(), gap);
        self.wake.notify_one();
    }

    fn count_lost(&self, state: &mut State, gap: Gap) {
        self.metrics.lost(gap.reason, gap.count);
        state.lost = state.lost.saturating_add(gap.count);
        state.add_gap(gap);
    }

    /// Gives back gaps whose records the sink refused; they wait until it took something else.
    pub(super) fn hold_gaps(&self, gaps: Vec<Gap>) {
        let mut state = self.lock();
        state.gaps_held = true;
        for gap in gaps {
            state.add_gap(gap);
        }
    }

    /// The next gaps and batches, at most [`REQUEST_BYTES_MAX`] together unless one batch is larger.
    pub(super) fn take(&self) -> Option<Taken> {
        let mut state = self.lock();
        let gaps = if state.gaps_held { Vec::new() } else { std::mem::take(&mut state.gaps) };
        let mut batches = Vec::new();
        let mut bytes = 0_usize;
        while let Some(next) = state.batches.front() {
            bytes = bytes.saturating_add(next.log_records.len());
            if bytes > REQUEST_BYTES_MAX && !batches.is_empty() {
                break;
            }
            batches.extend(state.batches.pop_front());
        }
        state.sending = Sending {
            records: batches.iter().map(|batch| u64::from(batch.records)).sum(),
            bytes: batches.iter().map(|batch| batch.log_records.len()).sum(),
            first_unix_nanos: batches.iter().map(|batch| batch.first_unix_nanos).min().unwrap_or(0),
            last_unix_nanos: batches.iter().map(|batch| batch.last_unix_nanos).max().unwrap_or(0),
        };
        (!gaps.is_empty() || !batches.is_empty()).then_some(Taken { gaps, batches })
    }

    /// Of what was taken, `records` records are done with: the sink has `delivered` of them, and never gets the others.
    pub(super) fn release(&self, bytes: usize, records: u64, delivered: u64) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        state.sending.bytes = state.sending.bytes.saturating_sub(bytes);
        state.sending.records = state.sending.records.saturating_sub(records);
        state.delivered = state.delivered.saturating_add(delivered);
        if delivered > 0 && state.gaps_held {
            state.gaps_held = false;
            self.wake.notify_one();
        }
        self.metrics.queue_bytes.set(i64::try_from(state.bytes).unwrap_or(i64::MAX));
        self.metrics.records.inc_by(delivered);
    }

    /// All that was taken is done with.
    pub(super) fn taken_is_done(&self) {
        self.lock().sending = Sending::default();
    }

    /// Whoever sent is gone, and nobody knows what became of it.
    pub(super) fn abandon_sending(&self, reason: GapReason) {
        let mut state = self.lock();
        let sending = std::mem::take(&mut state.sending);
        state.bytes = state.bytes.saturating_sub(sending.bytes);
        if sending.records > 0 {
            let gap = Gap {
                count: sending.records,
                // The sink may have some of them.
                exact: false,
                from_ns: sending.first_unix_nanos,
                to_ns: sending.last_unix_nanos,
                reason,
            };
            self.count_lost(&mut state, gap);
        }
    }

    /// What still waits; what is being sent is not among it.
    pub(super) fn left(&self) -> Undelivered {
        let state = self.lock();
        Undelivered {
            records: state.batches.iter().map(|batch| u64::from(batch.records)).sum(),
            undeclared: state.gaps.iter().map(|gap| gap.count).sum(),
        }
    }

    pub(super) fn set_bytes_max(&self, bytes_max: usize) {
        self.lock().bytes_max = bytes_max;
    }

    /// Tells a sink's condition; wakes who watches only if it changed.
    pub(super) fn set_condition(&self, condition: SinkCondition, error: Option<String>) -> bool {
        let mut state = self.lock();
        let changed = state.condition != condition;
        state.condition = condition;
        state.error = error;
        drop(state);
        if changed {
            self.changes.send_modify(|count| *count = count.wrapping_add(1));
        }
        changed
    }

    pub(super) fn snapshot(&self) -> SinkState {
        let state = self.lock();
        let queued = state.batches.front().map(|batch| batch.first_unix_nanos);
        let sending = (state.sending.records > 0).then_some(state.sending.first_unix_nanos);
        let oldest = sending.or(queued);
        let age = oldest.map_or(0, |oldest| now().wall_ns.saturating_sub(oldest) / 1_000_000_000);
        SinkState {
            name: self.name.to_string(),
            state: state.condition,
            error: state.error.clone(),
            oldest_undelivered_seconds: age,
            delivered: state.delivered,
            lost: state.lost,
        }
    }
}

// === impl State ===

impl State {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            batches: VecDeque::new(),
            sending: Sending::default(),
            gaps: Vec::new(),
            gaps_held: false,
            condition: SinkCondition::Unknown,
            error: None,
            delivered: 0,
            lost: 0,
        }
    }

    fn add_gap(&mut self, gap: Gap) {
        match self.gaps.iter_mut().find(|known| known.reason == gap.reason) {
            Some(known) => {
                known.count = known.count.saturating_add(gap.count);
                known.exact &= gap.exact;
                known.from_ns = known.from_ns.min(gap.from_ns);
                known.to_ns = known.to_ns.max(gap.to_ns);
            }
            None => self.gaps.push(gap),
        }
    }
}

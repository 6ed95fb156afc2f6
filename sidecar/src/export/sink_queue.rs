//! One sink's queue: what waits for it, what is being sent, what it never gets.

use super::seals::{Loss, LossReason, Losses, Seals};
use super::standing::{Ends, Standing};
use super::{Batch, REQUEST_BYTES_MAX, Undelivered};
use crate::data::now;
use crate::metrics::SinkMetrics;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::seal::{Class, SinkHole};
use testimony_core::evidence::stream::StreamId;
use testimony_core::policy::{SinkCondition, SinkState};
use tokio::sync::{Notify, watch};

/// Records about a stream itself may go over a queue's limit by one part in so many.
const EVIDENCE_RESERVE_PART: usize = 10;

/// A sink that refuses everything is told of so often.
const LOSSES_HELD_MAX: Duration = Duration::from_secs(30);

/// Longest error that a sink's state tells, in bytes. A policy names few sinks, and a poll has 64 KiB.
const ERROR_BYTES_MAX: usize = 1024;

/// One sink's queue. Locked for a few instructions at a time, never across an await.
pub(super) struct SinkQueue {
    pub(super) name: Arc<str>,
    state: Mutex<State>,
    pub(super) wake: Notify,
    pub(super) metrics: SinkMetrics,
    changes: watch::Sender<u64>,
    losses_told: Arc<Notify>,
}

struct State {
    bytes_max: usize,
    /// Encoded bytes that wait or are being sent.
    bytes: usize,
    /// Bytes of batches that are being filled.
    reserved: usize,
    batches: VecDeque<Batch>,
    sending: Sending,
    /// When the last record was sealed that was read.
    last_unix_nanos: Option<u64>,
    /// More waits in the spool, and is not read: so much is to be told first.
    held_back: bool,
    losses: Losses,
    /// When losses were told, or a record was refused, if nothing was taken since.
    losses_held: Option<Instant>,
    /// A hole was refused: that others are taken says nothing of holes.
    holes_refused: bool,
    /// How far it is in the spool, and what is told of that.
    standing: Standing,
    condition: SinkCondition,
    error: Option<String>,
    delivered: u64,
    lost: u64,
}

/// What was taken and not yet released.
#[derive(Clone, Debug, Default)]
struct Sending {
    records: u64,
    bytes: usize,
    first_unix_nanos: u64,
    seals: Vec<Seals>,
}

impl Sending {
    fn add(&mut self, batch: &Batch) {
        let first_unix_nanos = batch.first_unix_nanos;
        self.first_unix_nanos =
            if self.records == 0 { first_unix_nanos } else { self.first_unix_nanos.min(first_unix_nanos) };
        self.records = self.records.saturating_add(u64::from(batch.records));
        self.bytes = self.bytes.saturating_add(batch.log_records.len());
        self.seals.extend(batch.seals.clone());
    }
}

/// What a sink task sends next.
pub(super) struct Taken {
    pub(super) batches: Vec<Batch>,
}

impl State {
    /// Losses wait until the sink takes something: a record that tells one could be refused, too. Not for ever, because the
    /// spool keeps what is not told.
    fn holds_losses(&self) -> bool {
        self.losses_held.is_some_and(|since| since.elapsed() < LOSSES_HELD_MAX)
    }

    /// Some of what it never gets was not taken to be told, or never will be.
    fn has_waiting(&self) -> bool {
        !self.losses.is_empty() || self.losses.has_overflowed()
    }
}

impl SinkQueue {
    pub(super) fn new(
        name: &str,
        bytes_max: usize,
        metrics: SinkMetrics,
        changes: watch::Sender<u64>,
        losses_told: Arc<Notify>,
    ) -> Self {
        let state = State {
            bytes_max,
            bytes: 0,
            reserved: 0,
            batches: VecDeque::new(),
            sending: Sending::default(),
            last_unix_nanos: None,
            held_back: false,
            losses: Losses::default(),
            losses_held: None,
            holes_refused: false,
            standing: Standing::default(),
            condition: SinkCondition::Unknown,
            error: None,
            delivered: 0,
            lost: 0,
        };
        Self { name: name.into(), state: Mutex::new(state), wake: Notify::new(), metrics, changes, losses_told }
    }

    /// A panic elsewhere cannot leave the counts half-changed, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves so many bytes. False: there is no room.
    pub(super) fn reserve(&self, bytes: usize, class: Class) -> bool {
        let mut state = self.lock();
        let more = if class != Class::Traffic { state.bytes_max / EVIDENCE_RESERVE_PART } else { 0 };
        let wanted = state.bytes.saturating_add(state.reserved).saturating_add(bytes);
        let room = wanted <= state.bytes_max.saturating_add(more);
        if room {
            state.reserved = state.reserved.saturating_add(bytes);
        }
        room
    }

    /// Gives a reservation back.
    pub(super) fn free(&self, bytes: usize) {
        let mut state = self.lock();
        state.reserved = state.reserved.saturating_sub(bytes);
    }

    /// Takes a batch into the place that was reserved for it.
    pub(super) fn push(&self, batch: Batch, reserved: usize) {
        let mut state = self.lock();
        state.reserved = state.reserved.saturating_sub(reserved);
        state.bytes = state.bytes.saturating_add(batch.log_records.len());
        state.last_unix_nanos = state.last_unix_nanos.max(Some(batch.last_unix_nanos));
        state.batches.push_back(batch);
        self.metrics.queue_bytes.set(i64::try_from(state.bytes).unwrap_or(i64::MAX));
        drop(state);
        self.wake.notify_one();
    }

    /// This sink never gets these records: a hole tells it.
    pub(super) fn lose(&self, records: u64, seals: Option<&Seals>, reason: LossReason) {
        let mut state = self.lock();
        self.add_loss(&mut state, records, seals, reason);
        let told = !state.losses.is_empty() && !state.holds_losses();
        drop(state);
        if told {
            self.losses_told.notify_one();
        }
    }

    /// The sink refused a record for good. Where it is a hole, what it told is to be told by another one: nobody reads this one.
    pub(super) fn refuse(&self, records: u64, seals: Option<&Seals>, hole: Option<SinkHole>) {
        let mut state = self.lock();
        state.losses_held.get_or_insert_with(Instant::now);
        self.add_loss(&mut state, records, seals, LossReason::Rejected);
        if let Some(hole) = hole.filter(|hole| *hole.sink == *self.name) {
            state.holes_refused = true;
            if !state.losses.add_range(Arc::new(hole.stream), hole.range, LossReason::Rejected) {
                tracing::error!(sink = %self.name, "what a refused hole told cannot be told by another one");
            }
        }
        let told = !state.holds_losses();
        drop(state);
        if told {
            self.losses_told.notify_one();
        }
    }

    /// Losses wait for nothing any more: the process ends.
    pub(super) fn end_holding(&self) {
        let mut state = self.lock();
        state.losses_held = None;
        state.holes_refused = false;
    }

    /// The spool cannot give this sink a range of records.
    pub(super) fn lose_range(&self, stream: Arc<StreamId>, range: Range) {
        let records = range.end().saturating_sub(range.begin());
        let mut state = self.lock();
        self.metrics.lost(LossReason::SpoolDamaged, records);
        state.lost = state.lost.saturating_add(records);
        if !state.losses.add_range(stream, range, LossReason::SpoolDamaged) {
            tracing::error!(sink = %self.name, records, "lost records cannot be told as a hole");
        }
        let told = !state.holds_losses();
        drop(state);
        if told {
            self.losses_told.notify_one();
        }
    }

    fn add_loss(&self, state: &mut State, records: u64, seals: Option<&Seals>, reason: LossReason) {
        self.metrics.lost(reason, records);
        state.lost = state.lost.saturating_add(records);
        let untold = seals.map_or(records, |seals| state.losses.add(seals, reason));
        if untold > 0 {
            tracing::error!(sink = %self.name, records = untold, "lost records cannot be told as a hole");
        }
    }

    /// Counts what no hole tells of: exchanges that were never sealed, and what the spool has lost with its hashes.
    pub(super) fn count_lost(&self, records: u64, reason: LossReason) {
        self.metrics.lost(reason, records);
        let mut state = self.lock();
        state.lost = state.lost.saturating_add(records);
    }

    /// What is to be told now.
    pub(super) fn take_losses(&self) -> Vec<Loss> {
        let mut state = self.lock();
        if state.holds_losses() || state.losses.is_empty() {
            return Vec::new();
        }
        state.losses_held = Some(Instant::now());
        state.holes_refused = false;
        let losses = state.losses.take();
        let waits = state.has_waiting();
        state.standing.taken(losses.len(), waits);
        drop(state);
        self.wake.notify_one();
        losses
    }

    /// So much waits to be told that the losses of another request might find no room; `any`: something does. Asks for it to be
    /// told, once it may be.
    pub(super) fn is_full_of_losses(&self, any: bool) -> bool {
        let state = self.lock();
        let is_full = state.losses.is_full() || any && !state.losses.is_empty();
        let told = !state.holds_losses();
        drop(state);
        if is_full && told {
            self.losses_told.notify_one();
        }
        is_full
    }

    /// Whether more waits in the spool than is read, because losses are to be told first.
    pub(super) fn hold_back(&self, held_back: bool) {
        self.lock().held_back = held_back;
    }

    /// What was lost found no room, and all else of that is told: it has to be read again, or nobody ever tells it.
    pub(super) fn is_to_be_read_again(&self) -> bool {
        let state = self.lock();
        state.losses.has_overflowed() && state.losses.is_empty() && state.batches.is_empty()
    }

    /// A hole tells durably of the next loss that was taken.
    pub(super) fn loss_is_durable(&self) {
        if self.lock().standing.durable() {
            self.wake.notify_one();
        }
    }

    /// The sink has, or never gets, all that stands before these places of the spool. All losses of it were told before.
    pub(super) fn done(&self, ends: Ends) {
        let mut state = self.lock();
        let waits = state.has_waiting();
        state.standing.done(ends, waits);
    }

    /// What is to be acknowledged to the spool: of all that the sink never gets before these places, holes tell durably.
    pub(super) fn take_ready(&self) -> Ends {
        self.lock().standing.take_ready()
    }

    /// Whether nothing waits but what is being sent.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().batches.is_empty()
    }

    /// One of those that were taken last could not be told.
    pub(super) fn return_loss(&self, loss: Loss) {
        let mut state = self.lock();
        state.standing.returned();
        if !state.losses.give_back(loss) {
            tracing::error!(sink = %self.name, "what could not be told for lack of room cannot be kept");
        }
    }

    /// The next batches, at most [`REQUEST_BYTES_MAX`] together unless one batch is larger. They are sent with what was taken and
    /// is not done with.
    pub(super) fn take(&self) -> Option<Taken> {
        let mut state = self.lock();
        let mut batches = Vec::new();
        let mut bytes = 0_usize;
        while let Some(next) = state.batches.front() {
            bytes = bytes.saturating_add(next.log_records.len());
            if bytes > REQUEST_BYTES_MAX && !batches.is_empty() {
                break;
            }
            batches.extend(state.batches.pop_front());
        }
        for batch in &batches {
            state.sending.add(batch);
        }
        (!batches.is_empty()).then_some(Taken { batches })
    }

    /// Of what was taken, `records` records are done with: the sink has `delivered` of them, and never gets the others.
    pub(super) fn release(&self, bytes: usize, records: u64, delivered: u64) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        state.sending.bytes = state.sending.bytes.saturating_sub(bytes);
        state.sending.records = state.sending.records.saturating_sub(records);
        state.delivered = state.delivered.saturating_add(delivered);
        if delivered > 0 {
            self.end_hold(&mut state);
        }
        self.metrics.queue_bytes.set(i64::try_from(state.bytes).unwrap_or(i64::MAX));
        self.metrics.records.inc_by(delivered);
    }

    /// The sink took something a moment ago: what it refused can be told.
    pub(super) fn takes_others(&self) {
        self.end_hold(&mut self.lock());
    }

    fn end_hold(&self, state: &mut State) {
        let ends = !(state.holes_refused && state.holds_losses());
        if ends && state.losses_held.take().is_some() && !state.losses.is_empty() {
            self.losses_told.notify_one();
        }
    }

    /// All that was taken is done with.
    pub(super) fn taken_is_done(&self) {
        self.lock().sending = Sending::default();
    }

    /// Whoever sent is gone; all of it is read again.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        state.batches.clear();
        state.sending = Sending::default();
        state.bytes = 0;
        state.last_unix_nanos = None;
        state.held_back = false;
        state.losses.forget_overflow();
        state.standing.read_again();
    }

    /// Whoever sent is gone, and nobody knows what became of it.
    pub(super) fn abandon_sending(&self) {
        let mut state = self.lock();
        let sending = std::mem::take(&mut state.sending);
        state.bytes = state.bytes.saturating_sub(sending.bytes);
        if sending.records > 0 {
            self.metrics.lost(LossReason::ExportFailed, sending.records);
            state.lost = state.lost.saturating_add(sending.records);
            let untold: u64 = sending.seals.iter().map(|seals| state.losses.add(seals, LossReason::ExportFailed)).sum();
            if untold > 0 {
                tracing::error!(sink = %self.name, records = untold, "lost records cannot be told as a hole");
            }
            self.losses_told.notify_one();
        }
    }

    /// What still waits; what is being sent is not among it.
    pub(super) fn left(&self) -> Undelivered {
        let state = self.lock();
        Undelivered {
            records: state.batches.iter().map(|batch| u64::from(batch.records)).sum(),
            undeclared: state.losses.records(),
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
        // The operator takes no more than so much of a poll, and each poll tells it.
        state.error = error.map(|mut error| {
            error.truncate(error.floor_char_boundary(ERROR_BYTES_MAX));
            error
        });
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
        // What is held back was sealed after what was read.
        let held_back = state.last_unix_nanos.filter(|_| state.held_back);
        let oldest = sending.or(queued).or(held_back);
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

#[cfg(test)]
mod tests;

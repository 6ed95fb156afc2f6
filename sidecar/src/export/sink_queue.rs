//! One sink's queue: what waits for it, what is being sent, what it never gets.

use super::seals::{Loss, LossReason, Losses, Seals};
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
    losses: Losses,
    /// When losses were told, or a record was refused, if nothing was taken since.
    losses_held: Option<Instant>,
    /// A hole was refused: that others are taken says nothing of holes.
    holes_refused: bool,
    /// Losses that were taken to be told, and whose holes are not durable.
    telling: usize,
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
            losses: Losses::default(),
            losses_held: None,
            holes_refused: false,
            telling: 0,
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
        state.telling = state.telling.saturating_add(losses.len());
        losses
    }

    /// A hole tells durably of one loss that was taken.
    pub(super) fn loss_is_durable(&self) {
        let mut state = self.lock();
        state.telling = state.telling.saturating_sub(1);
        let all = state.telling == 0 && state.losses.is_empty();
        drop(state);
        if all {
            self.wake.notify_one();
        }
    }

    /// Whether nothing waits but what is being sent.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().batches.is_empty()
    }

    /// Whether it never gets some records of which no hole tells durably: what stands before is not to be acknowledged to
    /// the spool.
    pub(super) fn has_untold(&self) -> bool {
        let state = self.lock();
        state.telling > 0 || !state.losses.is_empty() || state.losses.has_overflowed()
    }

    /// It could not be told.
    pub(super) fn return_loss(&self, loss: Loss) {
        let mut state = self.lock();
        state.telling = state.telling.saturating_sub(1);
        if !state.losses.give_back(loss) {
            tracing::error!(sink = %self.name, "what could not be told for lack of room cannot be kept");
        }
    }

    /// The next batches, at most [`REQUEST_BYTES_MAX`] together unless one batch is larger.
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
        state.sending = Sending {
            records: batches.iter().map(|batch| u64::from(batch.records)).sum(),
            bytes: batches.iter().map(|batch| batch.log_records.len()).sum(),
            first_unix_nanos: batches.iter().map(|batch| batch.first_unix_nanos).min().unwrap_or(0),
            seals: batches.iter().filter_map(|batch| batch.seals.clone()).collect(),
        };
        (!batches.is_empty()).then_some(Taken { batches })
    }

    /// Of what was taken, `records` records are done with: the sink has `delivered` of them, and never gets the others.
    pub(super) fn release(&self, bytes: usize, records: u64, delivered: u64) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        state.sending.bytes = state.sending.bytes.saturating_sub(bytes);
        state.sending.records = state.sending.records.saturating_sub(records);
        state.delivered = state.delivered.saturating_add(delivered);
        let releases = delivered > 0 && !(state.holes_refused && state.holds_losses());
        if releases && state.losses_held.take().is_some() && !state.losses.is_empty() {
            self.losses_told.notify_one();
        }
        self.metrics.queue_bytes.set(i64::try_from(state.bytes).unwrap_or(i64::MAX));
        self.metrics.records.inc_by(delivered);
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
        state.losses.forget_overflow();
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

#[cfg(test)]
mod tests {
    use super::super::seals::LOSSES_MAX;
    use super::*;
    use crate::metrics::Metrics;
    use bytes::Bytes;
    use testimony_core::evidence::merkle::leaf;

    fn queue() -> SinkQueue {
        let (changes, _) = watch::channel(0);
        SinkQueue::new("main", 100, Metrics::default().sink("main"), changes, Arc::default())
    }

    fn stream() -> StreamId {
        format!("c/n/p/{:032x}-0-0", 1).parse().expect("a name")
    }

    /// Of one record; each time with a handle of its own.
    fn seals(seq: u64) -> Seals {
        Seals::new(Arc::new(stream()), vec![Some((seq, leaf(b"x")))].into())
    }

    #[test]
    fn g2_what_a_broken_export_task_held_is_told_as_a_hole() {
        let (queue, stream) = (queue(), Arc::new(stream()));
        let batch = |seq: u64| Batch {
            log_records: Bytes::from_static(&[0; 40]),
            records: 1,
            first_unix_nanos: 0,
            last_unix_nanos: 0,
            seals: Some(Seals::new(Arc::clone(&stream), vec![Some((seq, leaf(b"x")))].into())),
        };
        assert!(queue.reserve(80, Class::Traffic));
        queue.push(batch(4), 40);
        queue.push(batch(5), 40);
        assert!(!queue.reserve(30, Class::Traffic) && queue.reserve(30, Class::Evidence));
        queue.free(30);
        assert_eq!(queue.take().map(|taken| taken.batches.len()), Some(2));
        queue.abandon_sending();
        let losses = queue.take_losses();
        assert_eq!((losses.len(), losses[0].range.begin(), losses[0].range.end()), (1, 4, 6));
        assert_eq!((queue.snapshot().lost, queue.left()), (2, Undelivered::default()));
        assert!(queue.reserve(100, Class::Traffic), "the bytes are free again");
        queue.return_loss(losses[0].clone());
        assert_eq!(queue.take_losses(), [], "held until something was taken");
        queue.release(0, 0, 1);
        assert_eq!(queue.take_losses().len(), 1);
    }

    #[test]
    fn g2_what_a_refused_hole_told_is_told_again_and_not_before_the_sink_takes_something() {
        let queue = queue();
        let hole = |sink: &str| {
            Some(SinkHole { stream: stream(), range: Range::of_leaf(4, leaf(b"y")), sink: sink.to_owned() })
        };
        let told = |queue: &SinkQueue| -> Vec<(u64, u64)> {
            queue.take_losses().iter().map(|loss| (loss.range.begin(), loss.range.end())).collect()
        };
        queue.refuse(1, Some(&seals(4)), None);
        assert_eq!(told(&queue), [], "a hole could be refused, too");
        queue.release(0, 0, 1);
        assert_eq!(told(&queue), [(4, 5)]);
        // It is refused nevertheless; and one of another sink, which says nothing of this one.
        queue.refuse(1, Some(&seals(8)), hole("main"));
        queue.refuse(1, Some(&seals(9)), hole("other"));
        queue.release(0, 0, 1);
        assert_eq!(told(&queue), [], "a sink that refuses holes would get one after each record");
        queue.end_holding();
        assert_eq!(told(&queue), [(8, 10), (4, 5)]);
    }

    #[test]
    fn g2_a_sink_that_refuses_its_holes_too_has_one_hole_to_be_told_of_however_long() {
        let queue = queue();
        queue.refuse(1, Some(&seals(0)), None);
        for seq in 1..=5 {
            queue.end_holding();
            let losses = queue.take_losses();
            assert_eq!(losses.len(), 1, "{seq}");
            for Loss { stream, range, .. } in losses {
                assert_eq!((range.begin(), range.end()), (0, seq));
                let hole = SinkHole { stream: (*stream).clone(), range, sink: "main".to_owned() };
                queue.refuse(1, Some(&seals(seq)), Some(hole));
                queue.loss_is_durable();
            }
        }
    }

    #[test]
    fn g2_what_is_told_by_nobody_for_lack_of_room_stays_untold() {
        let refused = |count: usize| {
            let queue = queue();
            (0..count).for_each(|at| queue.refuse(1, Some(&seals(2 * at as u64)), None));
            queue.end_holding();
            queue
        };
        let tell = |queue: &SinkQueue| queue.take_losses().iter().for_each(|_| queue.loss_is_durable());
        let full = refused(LOSSES_MAX);
        tell(&full);
        assert!(!full.has_untold());
        let over = refused(LOSSES_MAX + 1);
        tell(&over);
        assert!(over.has_untold());
        // One that was taken comes back, and its place is taken.
        let returned = refused(1);
        let losses = returned.take_losses();
        (1..=LOSSES_MAX).for_each(|at| returned.refuse(1, Some(&seals(2 * at as u64)), None));
        losses.into_iter().for_each(|loss| returned.return_loss(loss));
        returned.end_holding();
        tell(&returned);
        assert!(returned.has_untold());
        // What is read again is refused again.
        returned.clear();
        assert!(!returned.has_untold());
    }
}

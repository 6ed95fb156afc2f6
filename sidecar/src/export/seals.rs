//! Which sealed records a batch holds, and which of them a sink never gets (G2).

use std::sync::Arc;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::stream::StreamId;
use testimony_core::record::GapReason;

/// Most separate ranges of lost records that wait to be told for one sink; more cannot be told.
pub const LOSSES_MAX: usize = 3072;

/// Where so many wait, what is read for a sink might find no room: of a request, which has some 2,100 of the shortest records,
/// each second one may be lost.
const LOSSES_FULL: usize = LOSSES_MAX / 3;

/// Place and leaf hash of a record; `None` for a head, which has neither.
pub type Mark = Option<(u64, Hash)>;

/// The marks of a batch's records, in order. All are of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seals {
    stream: Arc<StreamId>,
    marks: Arc<[Mark]>,
    from: usize,
    to: usize,
}

/// Why a sink never gets records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossReason {
    /// Its queue was full; of what was never sealed: every queue, or what waits for the spool's disk.
    QueueFull,
    /// It refused them for good.
    Rejected,
    /// The export task broke off with them.
    ExportFailed,
    /// The spool cannot give them any more.
    SpoolDamaged,
    /// A record over the limit of its body even after cutting: never sealed.
    RecordTooLong,
    /// The spool was full: never sealed.
    SpoolFull,
    /// The spool's disk failed: never sealed.
    DiskFailed,
    /// The stream or the spool had ended: never sealed.
    Closed,
}

/// Records that one sink never gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Their stream.
    pub stream: Arc<StreamId>,
    /// Their places, in compact form.
    pub range: Range,
    /// Why.
    pub reason: LossReason,
}

/// What is to be told of one sink.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// No two of them could be one.
    waiting: Vec<Loss>,
    /// Some could not be kept: nobody will tell them.
    overflowed: bool,
}

// === impl LossReason ===

impl LossReason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::QueueFull,
        Self::Rejected,
        Self::ExportFailed,
        Self::SpoolDamaged,
        Self::RecordTooLong,
        Self::SpoolFull,
        Self::DiskFailed,
        Self::Closed,
    ];

    /// Why an exchange has no record that a sink could get. `None`: another process lost it, of whose sinks nobody knows.
    pub const fn of_gap(reason: GapReason) -> Option<Self> {
        match reason {
            GapReason::QueueFull => Some(Self::QueueFull),
            GapReason::RecordTooLong => Some(Self::RecordTooLong),
            GapReason::SpoolFull => Some(Self::SpoolFull),
            GapReason::DiskFailed => Some(Self::DiskFailed),
            GapReason::Closed => Some(Self::Closed),
            GapReason::Defect => Some(Self::ExportFailed),
            GapReason::WorkerDied => None,
        }
    }

    /// As it stands in records and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Rejected => "rejected",
            Self::ExportFailed => "export_failed",
            Self::SpoolDamaged => "spool_damaged",
            Self::RecordTooLong => "record_too_long",
            Self::SpoolFull => "spool_full",
            Self::DiskFailed => "disk_failed",
            Self::Closed => "closed",
        }
    }
}

// === impl Seals ===

impl Seals {
    /// One mark for each record of the batch.
    pub fn new(stream: Arc<StreamId>, marks: Arc<[Mark]>) -> Self {
        let to = marks.len();
        Self { stream, marks, from: 0, to }
    }

    /// The first `count` marks, and the others.
    pub(super) fn split(&self, count: usize) -> (Self, Self) {
        let at = self.from.saturating_add(count).min(self.to);
        (Self { to: at, ..self.clone() }, Self { from: at, ..self.clone() })
    }

    fn marks(&self) -> &[Mark] {
        self.marks.get(self.from..self.to).unwrap_or_default()
    }
}

// === impl Losses ===

impl Losses {
    /// Returns how many places could not be kept.
    pub fn add(&mut self, seals: &Seals, reason: LossReason) -> u64 {
        let (mut untold, mut run) = (0, None);
        for (seq, leaf) in seals.marks().iter().flatten() {
            match &mut run {
                Some(range) if Range::end(range) == *seq => range.push(*leaf),
                _ => {
                    let before = run.replace(Range::of_leaf(*seq, *leaf));
                    untold += before.map_or(0, |range| self.add_run(seals, range, reason));
                }
            }
        }
        untold + run.map_or(0, |range| self.add_run(seals, range, reason))
    }

    fn add_run(&mut self, seals: &Seals, range: Range, reason: LossReason) -> u64 {
        let records = range.end().saturating_sub(range.begin());
        if self.add_range(seals.stream.clone(), range, reason) { 0 } else { records }
    }

    /// The same, of a range of which only the compact form is known. False: there is no room.
    ///
    /// It becomes one with its neighbours, on whichever side and in whatever order they come: a sink that refuses the holes,
    /// too, would else have one hole more to be told of each time.
    pub fn add_range(&mut self, stream: Arc<StreamId>, mut range: Range, reason: LossReason) -> bool {
        let of_these =
            |loss: &Loss| loss.reason == reason && (Arc::ptr_eq(&loss.stream, &stream) || *loss.stream == *stream);
        // Its end first: that is quicker than the name.
        let right = self.waiting.iter().position(|loss| loss.range.begin() == range.end() && of_these(loss));
        if let Some(right) = right {
            let right = self.waiting.remove(right);
            range.append(&right.range);
        }
        let left = self.waiting.iter_mut().rev().find(|loss| loss.range.end() == range.begin() && of_these(loss));
        if let Some(left) = left {
            left.range.append(&range);
            return true;
        }
        let room = self.waiting.len() < LOSSES_MAX;
        if room {
            self.waiting.push(Loss { stream, range, reason });
        }
        self.overflowed |= !room;
        room
    }

    /// It was taken and could not be told. False: there is no room for it any more.
    pub fn give_back(&mut self, loss: Loss) -> bool {
        self.add_range(loss.stream, loss.range, loss.reason)
    }

    /// Whoever lost them reads them again: what could not be kept comes once more.
    pub fn forget_overflow(&mut self) {
        self.overflowed = false;
    }

    /// Some could not be kept, and are told by nobody.
    pub fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    /// Another request's losses might find no room.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= LOSSES_FULL
    }

    pub fn take(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.waiting)
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Records that are not told yet.
    pub fn records(&self) -> u64 {
        self.waiting.iter().map(|loss| loss.range.end().saturating_sub(loss.range.begin())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use testimony_core::evidence::merkle::leaf;

    fn name(boot: u8) -> StreamId {
        format!("c/n/p/{boot:032x}-0-0").parse().expect("a name")
    }

    #[test]
    fn g2_neighbours_make_one_hole_and_heads_make_none() {
        let stream = Arc::new(name(1));
        let hash = |seq: u64| leaf(&seq.to_be_bytes());
        let mark = |seq| Some((seq, hash(seq)));
        let seals = Seals::new(stream.clone(), vec![mark(3), mark(4), None, mark(5), mark(6)].into());
        let (first, rest) = seals.split(3);
        let (_, last) = rest.split(1);
        let mut losses = Losses::default();
        assert_eq!(losses.add(&first, LossReason::Rejected), 0);
        losses.add(&last, LossReason::Rejected);
        losses.add(&Seals::new(stream, vec![mark(7)].into()), LossReason::QueueFull);
        assert_eq!(losses.records(), 4);
        let told: Vec<(u64, u64)> = losses.take().iter().map(|loss| (loss.range.begin(), loss.range.end())).collect();
        assert_eq!(told, [(3, 5), (6, 7), (7, 8)]);
        let mut losses = Losses::default();
        assert_eq!(losses.add(&seals, LossReason::Rejected), 0);
        let mut whole = Range::empty(3);
        (3..7).for_each(|seq| whole.push(hash(seq)));
        assert_eq!(losses.take()[0].range, whole);
    }

    proptest! {
        /// In whatever order and in whatever pieces they come, under however many handles of the stream's name.
        #[test]
        fn g2_what_touches_is_one_hole_in_whatever_order_it_comes(
            begin in 0..40_u64, sizes in prop::collection::vec((0..9_u64, any::<bool>()), 1..12), seed in any::<u64>(),
        ) {
            let hash = |seq: u64| leaf(&seq.to_be_bytes());
            let range_of = |from: u64, to: u64| {
                let mut range = Range::empty(from);
                (from..to).for_each(|seq| range.push(hash(seq)));
                range
            };
            let mut pieces = Vec::new();
            let mut at = begin;
            for (size, whole) in sizes {
                pieces.push((at, at + size + 1, whole));
                at += size + 1;
            }
            pieces.sort_by_key(|(from, ..)| leaf(&(from ^ seed).to_be_bytes()).0);
            let mut losses = Losses::default();
            for (from, to, whole) in pieces {
                let handle = Arc::new(name(1));
                if whole {
                    prop_assert!(losses.add_range(handle, range_of(from, to), LossReason::Rejected));
                } else {
                    let marks: Vec<Mark> = (from..to).map(|seq| Some((seq, hash(seq)))).collect();
                    prop_assert_eq!(losses.add(&Seals::new(handle, marks.into()), LossReason::Rejected), 0);
                }
                losses.add_range(Arc::new(name(2)), range_of(from, to), LossReason::Rejected);
                losses.add_range(Arc::new(name(1)), range_of(from, to), LossReason::QueueFull);
            }
            let told = losses.take();
            prop_assert_eq!(told.len(), 3);
            prop_assert!(told.iter().all(|loss| loss.range == range_of(begin, at)));
        }
    }
}

//! Which sealed records a batch holds, and which of them a sink never gets (G2).

use std::sync::Arc;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::stream::StreamId;
use testimony_core::record::GapReason;

/// Most separate ranges of lost records that wait to be told for one sink; more cannot be told.
pub const LOSSES_MAX: usize = 1024;

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
    waiting: Vec<Loss>,
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
        let mut untold = 0;
        for (seq, leaf) in seals.marks().iter().flatten() {
            let room = self.waiting.len() < LOSSES_MAX;
            let grown = self.waiting.iter_mut().rev().find(|loss| {
                loss.reason == reason && loss.range.end() == *seq && Arc::ptr_eq(&loss.stream, &seals.stream)
            });
            match grown {
                Some(loss) => loss.range.push(*leaf),
                None if room => {
                    let range = Range::of_leaf(*seq, *leaf);
                    self.waiting.push(Loss { stream: seals.stream.clone(), range, reason });
                }
                None => untold += 1,
            }
        }
        untold
    }

    /// The same, of a range of which only the compact form is known. False: there is no room.
    pub fn add_range(&mut self, stream: Arc<StreamId>, range: Range, reason: LossReason) -> bool {
        let room = self.waiting.len() < LOSSES_MAX;
        if room {
            self.waiting.push(Loss { stream, range, reason });
        }
        room
    }

    pub fn give_back(&mut self, loss: Loss) {
        if self.waiting.len() < LOSSES_MAX {
            self.waiting.push(loss);
        }
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
    use testimony_core::evidence::merkle::leaf;

    #[test]
    fn g2_neighbours_make_one_hole_and_heads_make_none() {
        let stream: StreamId = format!("c/n/p/{:032x}-0-0", 1).parse().expect("a name");
        let stream = Arc::new(stream);
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
}

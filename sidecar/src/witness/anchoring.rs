//! How far the witness is with the streams of all data threads: what the operator is told by the poll.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A data thread whose last cosigned head is older than this has no anchored stream: the bound of the alert
/// `TestimonyStreamsNotAnchored`. A stream without news is cosigned about every half minute.
const ANCHORED_MAX: Duration = Duration::from_secs(600);

/// The data threads by number. Each writes its own; the poll reads them.
#[derive(Debug, Default)]
pub struct Anchoring {
    threads: Mutex<BTreeMap<u32, Thread>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Thread {
    /// Streams that are not shown to their end.
    streams: u32,
    /// Of these, without any cosigned head.
    never: u32,
    /// When a head was cosigned last.
    cosigned: Option<Instant>,
}

impl Anchoring {
    /// What this data thread has to show: streams that are not shown to their end, and of these, without a cosigned head.
    pub fn shown(&self, thread: u32, streams: usize, never: usize) {
        let mut threads = self.lock();
        let known = threads.entry(thread).or_default();
        known.streams = u32::try_from(streams).unwrap_or(u32::MAX);
        known.never = u32::try_from(never).unwrap_or(u32::MAX);
    }

    /// The witness cosigned a head of this data thread.
    pub fn cosigned(&self, thread: u32, now: Instant) {
        self.lock().entry(thread).or_default().cosigned = Some(now);
    }

    /// Streams of all data threads, and how many of them are not anchored.
    pub fn streams(&self, now: Instant) -> (u32, u32) {
        let sum = |(all, unanchored): (u32, u32), thread: &Thread| {
            (all.saturating_add(thread.streams), unanchored.saturating_add(thread.unanchored(now)))
        };
        self.lock().values().fold((0, 0), sum)
    }

    /// Each number is written whole, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Thread>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Thread {
    fn unanchored(&self, now: Instant) -> u32 {
        let behind = self.cosigned.is_some_and(|at| now.saturating_duration_since(at) > ANCHORED_MAX);
        // The oldest is shown first: while it is behind, all are.
        if behind { self.streams } else { self.never }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_anchored_from_its_first_cosigned_head_until_the_witness_is_behind() {
        let anchoring = Anchoring::default();
        let start = Instant::now();
        assert_eq!(anchoring.streams(start), (0, 0), "nothing is shown yet");
        anchoring.shown(0, 1, 1);
        anchoring.shown(1, 2, 1);
        assert_eq!(anchoring.streams(start), (3, 2));
        anchoring.cosigned(0, start);
        anchoring.shown(0, 1, 0);
        assert_eq!(anchoring.streams(start + ANCHORED_MAX), (3, 1));
        let late = start + ANCHORED_MAX + Duration::from_secs(1);
        assert_eq!(anchoring.streams(late), (3, 2), "thread 0 was not cosigned for too long");
        anchoring.cosigned(0, late);
        assert_eq!(anchoring.streams(late), (3, 1));
    }
}

//! What readers see of a shelf.

use super::Segment;
use crate::spool::entry::{Block, Entry};
use crate::spool::format::header::Header;
use crate::spool::position::Place;
use crate::spool::{Boot, LockedSegment, RECENT_BYTES_MAX};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The readable segments of a shelf; written by its one owner, read by readers of any thread.
#[derive(Default)]
pub struct Shared {
    view: Mutex<View>,
    sinks: Mutex<Sinks>,
    /// What the logs of an earlier process's folder say of its sinks, from when it was read on.
    found: OnceLock<BTreeMap<String, Place>>,
}

#[derive(Default)]
struct Sinks {
    /// Where each goes on.
    places: BTreeMap<String, Place>,
    /// Nobody reads again what is before.
    taken: Place,
}

#[derive(Default)]
struct View {
    segments: BTreeMap<u64, Segment>,
    durable: Place,
    /// In order, the last up to `durable`.
    recent: VecDeque<Placed>,
    /// What they take.
    recent_bytes: usize,
}

/// A durable block, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::spool) struct Placed {
    /// Place of its first entry.
    pub(in crate::spool) first: Place,
    /// Of its segment.
    pub(in crate::spool) header: Arc<Header>,
    pub(in crate::spool) block: Arc<Block<u16>>,
}

impl Placed {
    /// The place after its last entry.
    pub(in crate::spool) fn end(&self) -> Place {
        Place(self.first.0.saturating_add(self.block.len() as u64))
    }

    /// What it takes in memory.
    fn bytes(&self) -> usize {
        self.block.payload.len().saturating_add(self.block.len().saturating_mul(size_of::<Entry<u16>>()))
    }
}

impl View {
    fn segment_of(&self, place: Place) -> Option<&Segment> {
        self.segments.values().find(|segment| segment.first() <= place && place < segment.end())
    }

    fn forget_first(&mut self) -> Option<Arc<Block<u16>>> {
        let first = self.recent.pop_front()?;
        self.recent_bytes = self.recent_bytes.saturating_sub(first.bytes());
        Some(first.block)
    }
}

/// Where to read.
pub(in crate::spool) enum Spot {
    /// In this segment.
    In(Segment),
    /// Nowhere: what stood here is gone up to this place.
    Gone(Place),
    /// Nothing is there yet.
    End,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn publish<'a>(&self, segments: impl Iterator<Item = &'a Segment>, durable: Place) {
        let segments = segments.map(|segment| (segment.number(), segment.clone())).collect();
        let mut view = self.lock();
        view.segments = segments;
        view.durable = durable;
    }

    fn sinks(&self) -> MutexGuard<'_, Sinks> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn publish_sinks(&self, places: BTreeMap<String, Place>, taken: Place) {
        *self.sinks() = Sinks { places, taken };
    }

    /// Where a sink goes on; `None` while the spool does not know it.
    pub fn sink_position(&self, sink: &str) -> Option<Place> {
        self.sinks().places.get(sink).copied()
    }

    /// The sinks that policy named last.
    pub(in crate::spool) fn sink_names(&self) -> Vec<String> {
        self.sinks().places.keys().cloned().collect()
    }

    /// The sinks that the logs of an earlier process's folder name, those too that were gone before.
    pub(in crate::spool) fn found_names(&self) -> Vec<String> {
        self.found.get().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn publish_found(&self, sinks: BTreeMap<String, Place>) {
        // A folder is read once.
        let _ = self.found.set(sinks);
    }

    /// The same, and where a sink is to go on that the spool does not know. In an earlier process's folder the logs say it, and
    /// one that they do not name has nothing; in its own a sink begins with what those of before do not have.
    pub(in crate::spool) fn sink_stands(&self, sink: &str) -> Place {
        if let Some(place) = self.sink_position(sink) {
            return place;
        }
        match self.found.get() {
            Some(found) => found.get(sink).copied().unwrap_or_default(),
            None => self.sinks().taken,
        }
    }

    /// One segment has more: these blocks. Returns blocks for which there is no memory any more.
    pub(in crate::spool) fn grow(&self, segment: &Segment, durable: Place, more: Vec<Placed>) -> Vec<Arc<Block<u16>>> {
        let mut view = self.lock();
        view.segments.insert(segment.number(), segment.clone());
        view.durable = durable;
        view.recent_bytes = more.iter().fold(view.recent_bytes, |sum, one| sum.saturating_add(one.bytes()));
        view.recent.extend(more);
        let mut forgotten = Vec::new();
        while view.recent_bytes > RECENT_BYTES_MAX {
            forgotten.extend(view.forget_first());
        }
        forgotten
    }

    /// What stands before this place need not stay in memory. Returns it.
    pub(in crate::spool) fn forget(&self, end: Place) -> Vec<Arc<Block<u16>>> {
        let mut view = self.lock();
        let mut forgotten = Vec::new();
        while view.recent.front().is_some_and(|one| one.end() <= end) {
            forgotten.extend(view.forget_first());
        }
        forgotten
    }

    /// The block with the entry at this place, if it is in memory and its segment is still there.
    pub(in crate::spool) fn recent(&self, place: Place) -> Option<Placed> {
        let view = self.lock();
        let found = view.recent.iter().rev().find(|one| one.first <= place)?;
        (place < found.end() && view.segment_of(place).is_some()).then(|| found.clone())
    }

    /// Whether nothing is there yet.
    pub(in crate::spool) fn is_end(&self, place: Place) -> bool {
        place >= self.lock().durable
    }

    /// Segments whose keys only the operator can unwrap.
    pub(in crate::spool) fn locked(&self, boot: Boot) -> Vec<LockedSegment> {
        let view = self.lock();
        let locked = view.segments.values().filter(|segment| segment.key.is_none());
        let told = |segment: &Segment| LockedSegment {
            boot,
            number: segment.number(),
            wrapped: segment.recovery_key().to_vec(),
            streams: segment.header.streams.iter().map(|stream| stream.sid.clone()).collect(),
        };
        locked.map(told).collect()
    }

    /// Where this place is to be read.
    pub(in crate::spool) fn find(&self, place: Place) -> Spot {
        let view = self.lock();
        if place >= view.durable {
            return Spot::End;
        }
        if let Some(segment) = view.segment_of(place) {
            return Spot::In(segment.clone());
        }
        let mut after = None;
        for segment in view.segments.values() {
            if segment.first() > place && segment.first() < segment.end() {
                let first = segment.first();
                after = Some(after.map_or(first, |known: Place| known.min(first)));
            }
        }
        Spot::Gone(after.unwrap_or(view.durable))
    }
}

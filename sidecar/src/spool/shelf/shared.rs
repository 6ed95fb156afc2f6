//! What readers see of a shelf.

use super::Segment;
use crate::spool::position::Place;
use crate::spool::{Boot, LockedSegment};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The readable segments of a shelf; written by its one owner, read by readers of any thread.
#[derive(Default)]
pub struct Shared {
    view: Mutex<View>,
    /// Where each sink goes on.
    sinks: Mutex<BTreeMap<String, Place>>,
}

#[derive(Default)]
struct View {
    segments: BTreeMap<u64, Segment>,
    durable: Place,
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
        *self.lock() = View { segments, durable };
    }

    pub(super) fn publish_sinks(&self, sinks: BTreeMap<String, Place>) {
        *self.sinks.lock().unwrap_or_else(PoisonError::into_inner) = sinks;
    }

    /// Where a sink goes on; `None` while the spool does not know it.
    pub fn sink_position(&self, sink: &str) -> Option<Place> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner).get(sink).copied()
    }

    /// One segment has more.
    pub(in crate::spool) fn grow(&self, segment: &Segment, durable: Place) {
        let mut view = self.lock();
        view.segments.insert(segment.number(), segment.clone());
        view.durable = durable;
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
        let mut after = None;
        for segment in view.segments.values() {
            if segment.first() <= place && place < segment.end() {
                return Spot::In(segment.clone());
            }
            if segment.first() > place && segment.first() < segment.end() {
                let first = segment.first();
                after = Some(after.map_or(first, |known: Place| known.min(first)));
            }
        }
        Spot::Gone(after.unwrap_or(view.durable))
    }
}

//! What a sink that is not required never gets, because nobody else waits for it and its space was needed (T5).

use super::Shelf;
use crate::spool::disk::Disk;
use crate::spool::entry::Entry;
use crate::spool::position::Place;
use crate::spool::recover::walk;
use std::collections::BTreeMap;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::stream::StreamId;

/// What a sink never gets: what a `hole` of its scope says (G2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Which sink.
    pub sink: String,
    /// From this place on.
    pub from: Place,
    /// Up to this one.
    pub to: Place,
    /// By stream, the leaves that are gone, in compact form.
    pub leaves: Vec<(StreamId, Range)>,
}

impl<D: Disk> Shelf<D> {
    /// Moves sinks that still wait for the segment behind it, and tells so.
    pub(super) fn shed_before_removal(&mut self, number: u64) {
        let Some(segment) = self.segments.get(&number).cloned() else { return };
        let end = segment.end();
        let behind: Vec<(String, Place)> = self
            .sinks
            .iter()
            .filter(|(_, sink)| !sink.required && sink.told < end)
            .map(|(name, sink)| (name.clone(), sink.told.max(segment.first())))
            .collect();
        if behind.is_empty() {
            return;
        }
        // What cannot be read any more is told without its leaves.
        let entries = walk::entries(&self.disk, &segment).unwrap_or_default();
        for (sink, from) in behind {
            let gone = entries.iter().filter(|(place, _)| *place >= from).map(|(_, entry)| entry);
            let leaves = leaves_of(gone, |stream| {
                segment.header().streams.get(usize::from(stream)).map(|start| start.sid.clone())
            });
            self.skipped.push(Skipped { sink: sink.clone(), from, to: end, leaves });
            if let Some(sink) = self.sinks.get_mut(&sink) {
                sink.told = sink.told.max(end);
                sink.durable = sink.durable.max(end);
            }
        }
    }
}

/// The leaves among entries, by stream, in compact form.
pub(in crate::spool) fn leaves_of<'a>(
    entries: impl Iterator<Item = &'a Entry<u16>>,
    sid: impl Fn(u16) -> Option<StreamId>,
) -> Vec<(StreamId, Range)> {
    let mut ranges: BTreeMap<u16, Range> = BTreeMap::new();
    for entry in entries.filter(|entry| entry.kind.is_leaf()) {
        let (seq, leaf): (u64, Hash) = (entry.seq, entry.leaf);
        ranges.entry(entry.stream).or_insert_with(|| Range::empty(seq)).push(leaf);
    }
    ranges.into_iter().filter_map(|(stream, range)| Some((sid(stream)?, range))).collect()
}

//! What a sink that is not required never gets, because nobody else waits for it and its space was needed (T5).

use super::{Segment, Shelf};
use crate::spool::disk::{Disk, Files, Listed};
use crate::spool::entry::Entry;
use crate::spool::format::shed::{self, SHED_BYTES_MAX, Shed};
use crate::spool::position::Place;
use crate::spool::recover::walk;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::stream::StreamId;

/// Beginning of a file's name.
const PREFIX: &str = "shed-";

/// So many may wait to be told; until some are, no more is shed.
const UNTOLD_MAX: usize = 1024;

/// What a sink never gets: what a `hole` of its scope says (G2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The file that says it, until it is told durably.
    pub file: String,
    /// What.
    pub shed: Shed,
}

/// What was shed, and of what no hole tells durably.
#[derive(Default)]
pub(super) struct Sheds {
    /// Nobody was told of these yet.
    fresh: Vec<Skipped>,
    /// The files that are there.
    files: BTreeSet<String>,
    /// Number of the next file.
    next: u64,
}

/// What the files of a folder say.
pub(in crate::spool) fn read_all<F: Files>(files: &F, listed: &[Listed]) -> Vec<Skipped> {
    let read = |name: &str| {
        let bytes = files.read_at(name, 0, SHED_BYTES_MAX).ok()?;
        // One that is cut was made for what is still there.
        Some(Skipped { shed: shed::read(&bytes).ok()?, file: name.to_owned() })
    };
    listed.iter().filter(|file| file.name.starts_with(PREFIX)).filter_map(|file| read(&file.name)).collect()
}

impl<D: Disk> Shelf<D> {
    /// What sinks never get, as an earlier process wrote it down. Where it died before the segment went, and the sink is not
    /// past it, nothing of that came to be.
    pub(in crate::spool) fn restore_skipped(&mut self, mut skipped: Vec<Skipped>) {
        // What comes after another part moves the sink past that one, too.
        skipped.sort_by_key(|one| std::cmp::Reverse(one.shed.to));
        for one in skipped {
            if self.is_there(&one.shed) {
                self.discard(one.file, 0);
                continue;
            }
            let known = self.known.entry(one.shed.sink.clone()).or_default();
            *known = one.shed.to.max(*known);
            self.sheds.files.insert(one.file.clone());
            self.sheds.fresh.push(one);
        }
    }

    fn is_there(&self, shed: &Shed) -> bool {
        let is_past = self.known.get(&shed.sink).is_some_and(|known| *known >= shed.to);
        !is_past && self.segments.values().any(|segment| segment.first() <= shed.from && segment.end() >= shed.to)
    }

    /// What sinks that are not required will never get, since the last call.
    pub fn take_skipped(&mut self) -> Vec<Skipped> {
        std::mem::take(&mut self.sheds.fresh)
    }

    /// A hole tells of it, durably.
    pub fn set_skipped_told(&mut self, file: &str) {
        if self.sheds.files.remove(file) {
            self.discard(file.to_owned(), 0);
        }
    }

    /// How much was shed of which no hole tells durably.
    pub fn skipped_untold(&self) -> usize {
        self.sheds.files.len()
    }

    pub(super) fn may_shed_more(&self) -> bool {
        self.sheds.files.len() < UNTOLD_MAX
    }

    /// Moves sinks that still wait for the segment behind it, and writes down what they never get: after a crash the next
    /// process tells it. `false`: that cannot be written, so the segment stays.
    pub(super) fn shed_before_removal(&mut self, number: u64) -> bool {
        let Some(segment) = self.segments.get(&number).cloned() else { return true };
        let end = segment.end();
        let behind: Vec<(String, Place)> = self
            .sinks
            .iter()
            .filter(|(_, sink)| !sink.required && sink.told < end)
            .map(|(name, sink)| (name.clone(), sink.told.max(segment.first())))
            .collect();
        if behind.is_empty() {
            return true;
        }
        // What cannot be read any more is told without its leaves.
        let entries = walk::entries(&self.disk, &segment).unwrap_or_default();
        for (sink, from) in behind {
            let leaves = gone(&segment, &entries, from);
            let shed = Shed { sink, from, to: end, leaves };
            let file = match self.write_down(&shed) {
                Ok(file) => file,
                Err(error) => {
                    tracing::warn!(sink = shed.sink, %error, "what a sink is not to get cannot be written down: it is kept");
                    return false;
                }
            };
            if let Some(sink) = self.sinks.get_mut(&shed.sink) {
                sink.told = sink.told.max(end);
                sink.durable = sink.durable.max(end);
            }
            self.sheds.files.insert(file.clone());
            self.sheds.fresh.push(Skipped { file, shed });
        }
        true
    }

    /// Returns the name of the file, which is durable.
    fn write_down(&mut self, shed: &Shed) -> io::Result<String> {
        let bytes = shed::write(shed).map_err(io::Error::other)?;
        let name = format!("{PREFIX}{}-{:010}", self.reader, self.sheds.next);
        self.sheds.next = self.sheds.next.saturating_add(1);
        self.write_file(&name, &bytes)?;
        Ok(name)
    }
}

/// The leaves of a segment from a place on.
fn gone(segment: &Segment, entries: &[(Place, Entry<u16>)], from: Place) -> Vec<(StreamId, Range)> {
    let gone = entries.iter().filter(|(place, _)| *place >= from).map(|(_, entry)| entry);
    leaves_of(gone, |stream| segment.header().streams.get(usize::from(stream)).map(|start| start.sid.clone()))
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

//! What a sink that is not required never gets, because nobody else waits for it and its space was needed (T5).

use super::Shelf;
use crate::spool::disk::{Disk, Files, Listed};
use crate::spool::entry::Entry;
use crate::spool::format::FormatError;
use crate::spool::format::shed::{self, SHED_BYTES_MAX, Shed};
use crate::spool::gone::{self, Gone};
use crate::spool::position::Place;
use crate::spool::recover::Unreadable;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::stream::StreamId;

/// Beginning of a file's name.
const PREFIX: &str = "shed-";

/// So many may wait to be told; until some are, no more is shed.
const UNTOLD_MAX: usize = 1024;

/// So often a segment stays because the disk does not give what it holds; after that, what it does not give is told by nobody.
const READS_MAX: u32 = 50;

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
    /// A segment that the disk does not give, and how often it was tried.
    unread: (u64, u32),
}

/// What the files of a folder say.
///
/// # Errors
/// Under [`Unreadable::Retry`]: the disk does not give one.
pub(in crate::spool) fn read_all<F: Files>(
    files: &F,
    listed: &[Listed],
    unreadable: Unreadable,
) -> io::Result<Vec<Skipped>> {
    let mut all = Vec::new();
    for Listed { name, .. } in listed.iter().filter(|file| file.name.starts_with(PREFIX)) {
        let read = match files.read_at(name, 0, SHED_BYTES_MAX) {
            Ok(bytes) => shed::read(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if unreadable == Unreadable::Retry => return Err(error),
            Err(error) => {
                tracing::error!(name, %error, "the disk does not give what a sink was not to get: no hole tells it");
                continue;
            }
        };
        match read {
            Ok(shed) => all.push(Skipped { shed, file: name.clone() }),
            // One that is cut was made for what is still there.
            Err(FormatError::Short) => {}
            Err(problem) => tracing::error!(name, %problem, "what a sink was not to get is damaged: no hole tells it"),
        }
    }
    Ok(all)
}

impl<D: Disk> Shelf<D> {
    /// What sinks never get, as an earlier process wrote it down. Where it died before the segment went, and the sink is not
    /// past it, nothing of that came to be. Then it is known where sinks stand, before any are set.
    pub(in crate::spool) fn restore_skipped(&mut self, mut skipped: Vec<Skipped>) {
        // What comes after another part moves the sink past that one, too.
        skipped.sort_by_key(|one| std::cmp::Reverse(one.shed.to));
        for one in skipped {
            if self.is_there(&one.shed) {
                self.discard(one.file, 0);
                continue;
            }
            // Where the newest segment went, too, the part ends beyond all that there is.
            let past = one.shed.to.min(self.durable);
            let known = self.known.entry(one.shed.sink.clone()).or_default();
            *known = past.max(*known);
            self.sheds.files.insert(one.file.clone());
            self.sheds.fresh.push(one);
        }
        self.shared.publish_found(self.known.clone());
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
        let next = self.segments.values().find(|next| next.first() == segment.end() && next.number() > number);
        let next = next.map(|next| next.header.clone());
        let gone = |from| (gone::rest(&self.disk, &segment, from, next.as_deref()), from);
        let behind: Vec<_> = behind.into_iter().map(|(sink, from)| (sink, gone(from))).collect();
        if behind.iter().any(|(_, (gone, _))| gone.unreadable) && self.sheds.may_be_read_later(number) {
            tracing::warn!(number, "the disk does not give a segment that a sink is not to get: it is tried again");
            return false;
        }
        for (sink, (Gone { leaves, untold, .. }, from)) in behind {
            for (stream, records) in &untold.leaves {
                tracing::error!(sink, %stream, ?records, "records are gone with their hashes: no hole can stand for them");
            }
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

impl Sheds {
    /// Whether this segment, which the disk does not give, stays for another try.
    fn may_be_read_later(&mut self, number: u64) -> bool {
        if self.unread.0 != number {
            self.unread = (number, 0);
        }
        self.unread.1 = self.unread.1.saturating_add(1);
        self.unread.1 < READS_MAX
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

//! All that is said of one place in a stream.

use super::fact::{Ended, Excuse, Head, Hole, Leaf, Source};
use super::read::RESOURCE_MIXED;
use super::trust::Ledger;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;
use crate::evidence::note::SignedNote;

/// Most records that may claim one place: which of them was sealed the record after it tells, or a head. Of more only hashes are kept,
/// of so many; whether one of these was sealed is not known, and none is called altered.
pub(super) const CLAIMS_MAX: usize = 1024;
const DROPPED_MAX: usize = 65_536;

/// Most hashes with which a place is read, and at which all are taken as they come.
const OPTIONS_MAX: usize = 16;

/// Most heads of one size, and most different frontiers and cosigned notes that copies of one may give; more are counted.
const HEADS_MAX: usize = 1024;
const COPIES_MAX: usize = 1024;

/// Most different holes that may begin at one place, and most records that may declare the same one; more are counted. The
/// ledger's always have room.
const HOLES_MAX: usize = 64;
const DECLARED_MAX: usize = 256;

/// Most statements that the stream ended here; more are counted. The ledger's always have room.
const ENDS_MAX: usize = 1024;

/// Who declares a hole.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Says {
    pub(super) source: Source,
    /// Why, and its scope.
    pub(super) reason: String,
    /// What it amounts to in the export.
    pub(super) excuse: Excuse,
}

impl Says {
    /// The ledger first, then those that excuse most. Not by the number of a stream: that is a hash of a name that anyone may choose.
    fn order(&self) -> (u64, Excuse, u64, Hash) {
        let Source { seq, leaf, .. } = self.source;
        (if self.is_ledger() { seq } else { u64::MAX }, self.excuse, seq, leaf)
    }

    /// Whether it is the ledger, by order.
    pub(super) fn is_ledger(&self) -> bool {
        [Ledger::SOURCE, Ledger::ERASER].contains(&self.source)
    }
}

/// A hole that begins here, each once.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    /// What is not there.
    pub(super) range: Range,
    /// Who says so, in order.
    pub(super) said: Vec<Says>,
}

/// All that is said of one place.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// The place.
    pub(super) seq: u64,
    /// Records that claim it, each body once, in order of their hashes.
    pub(super) leaves: Vec<Leaf>,
    /// Hashes of further ones, in order, and whether there are more.
    dropped: Vec<Hash>,
    has_more: bool,
    /// Heads of which it is the last leaf.
    pub(super) heads: Vec<Head>,
    /// What others say of the stream up to here.
    pub(super) ends: Vec<Ended>,
    /// Holes that begin here, in order of their end and hashes.
    pub(super) holes: Vec<Declared>,
    /// Records, heads and statements beyond the limits.
    pub(super) more: u64,
    /// Copies of the same record.
    pub(super) copies: u64,
}

impl Group {
    pub(super) fn new(seq: u64) -> Self {
        Self { seq, ..Self::default() }
    }

    pub(super) fn leaf(&mut self, leaf: Leaf) {
        // They come in order of their hashes, so that the same comes after itself.
        if let Some(known) = self.leaves.last_mut().filter(|known| known.leaf == leaf.leaf) {
            self.copies += 1;
            if known.resource != 0 && leaf.resource != 0 && known.resource != leaf.resource {
                // One of the two differs from what the stream says, whatever that is.
                (known.resource, known.place) = (RESOURCE_MIXED, leaf.place);
            }
        } else if self.leaves.len() < CLAIMS_MAX {
            self.leaves.push(leaf);
        } else if self.dropped.last() == Some(&leaf.leaf) {
            self.copies += 1;
        } else {
            self.more += 1;
            self.has_more |= self.dropped.len() >= DROPPED_MAX;
            if !self.has_more {
                self.dropped.push(leaf.leaf);
            }
        }
    }

    /// Whether a record with this hash claims the place for which there was no room, or may do so.
    pub(super) fn is_dropped(&self, hash: Hash) -> bool {
        self.has_more || self.dropped.binary_search(&hash).is_ok()
    }

    pub(super) fn head(&mut self, head: Head) {
        // They come in order of their notes, so that the same comes after itself.
        if let Some(known) = self.heads.last_mut().filter(|known| known.note == head.note) {
            let more = [add(&mut known.frontiers, head.frontiers), add(&mut known.cosigned, head.cosigned)];
            self.more += u64::from(more.contains(&true));
        } else if self.heads.len() < HEADS_MAX {
            self.heads.push(head);
        } else {
            self.more += 1;
        }
    }

    /// Takes what others say of the end; they come in order, so that the same comes after itself.
    pub(super) fn end(&mut self, ended: Ended) {
        if self.ends.last() == Some(&ended) {
        } else if self.ends.len() < ENDS_MAX || ended.source == Ledger::SOURCE {
            self.ends.push(ended);
        } else {
            self.more += 1;
        }
    }

    /// Takes a hole, and what it amounts to. Which ones are kept does not depend on the order in which they come.
    pub(super) fn hole(&mut self, hole: Hole, excuse: Excuse) {
        let Hole { range, source, reason, .. } = hole;
        let says = Says { source, reason, excuse };
        let order =
            |known: &Declared| known.range.end().cmp(&range.end()).then_with(|| known.range.nodes().cmp(range.nodes()));
        match self.holes.binary_search_by(order) {
            Ok(at) => {
                let Some(Declared { said, .. }) = self.holes.get_mut(at) else { return };
                let Err(at) = said.binary_search_by_key(&says.order(), Says::order) else { return };
                said.insert(at, says);
                if said.len() > DECLARED_MAX && said.last().is_some_and(|last| !last.is_ledger()) {
                    said.pop();
                    self.more += 1;
                }
            }
            Err(at) => {
                self.holes.insert(at, Declared { range, said: vec![says] });
                let is_ledger = |hole: &Declared| hole.said.iter().any(Says::is_ledger);
                if self.holes.len() > HOLES_MAX
                    && let Some(last) = self.holes.iter().rposition(|hole| !is_ledger(hole))
                {
                    let removed = self.holes.remove(last);
                    self.more += removed.said.len() as u64;
                }
            }
        }
    }

    /// Whether nothing but holes begins here.
    pub(super) fn is_hole(&self) -> bool {
        self.leaves.is_empty() && self.heads.is_empty() && self.ends.is_empty()
    }

    /// Each hash that may be the leaf of this place: those of the records that claim it, and what the records after it say.
    /// What both say comes first. Of many only those that most speaks for: what a head of this place proves, by these leaves ahead
    /// of it, comes before all.
    pub(super) fn options<'a>(&self, next: Option<&Self>, ahead: impl Iterator<Item = &'a Range>) -> Vec<Hash> {
        let after = next.filter(|next| self.seq.checked_add(1) == Some(next.seq));
        let said = || after.iter().flat_map(|next| &next.leaves).filter_map(|leaf| leaf.prev);
        let here = || self.leaves.iter().map(|leaf| leaf.leaf);
        let is_here = |hash: &Hash| {
            self.leaves.binary_search_by_key(hash, |leaf| leaf.leaf).is_ok() || self.dropped.binary_search(hash).is_ok()
        };
        let proved = if self.leaves.len() > OPTIONS_MAX { self.proved(ahead) } else { Vec::new() };
        let mut options: Vec<Hash> = Vec::with_capacity(2);
        for hash in proved.into_iter().chain(said().filter(is_here)).chain(said()).chain(here()) {
            if options.len() < OPTIONS_MAX && !options.contains(&hash) {
                options.push(hash);
            }
        }
        options
    }

    /// Of the records that claim this place those that give the root of a head here, or the ledger's, with these leaves ahead.
    fn proved<'a>(&self, ahead: impl Iterator<Item = &'a Range>) -> Vec<Hash> {
        let roots = self.heads.iter().filter_map(|head| SignedNote::parse(&head.note).ok());
        let said = self.ends.iter().filter(|ended| ended.source == Ledger::SOURCE).map(|ended| ended.root);
        let roots: Vec<Hash> = roots.map(|note| note.checkpoint.root).chain(said).collect();
        if roots.is_empty() {
            return Vec::new();
        }
        let gives = |ahead: &Range, leaf: Hash| {
            let mut range = ahead.clone();
            range.push(leaf);
            range.root().is_some_and(|root| roots.contains(&root))
        };
        let each = ahead.flat_map(|ahead| self.leaves.iter().map(|leaf| leaf.leaf).filter(|leaf| gives(ahead, *leaf)));
        each.collect()
    }
}

/// Adds what a copy gives, if it is not there. Whether there was no room for it.
fn add<T: PartialEq>(known: &mut Vec<T>, more: Vec<T>) -> bool {
    let before = known.len();
    let new: Vec<T> = more.into_iter().filter(|one| !known.contains(one)).collect();
    let all = before.saturating_add(new.len());
    known.extend(new);
    known.truncate(COPIES_MAX);
    known.len() < all
}

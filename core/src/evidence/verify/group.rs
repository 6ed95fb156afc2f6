//! All that is said of one place in a stream.

use super::fact::{Ended, Head, Leaf};
use super::read::RESOURCE_MIXED;
use crate::evidence::hash::Hash;

/// Most records that may claim one place; more are counted.
const CLAIMS_MAX: usize = 8;

/// Most heads of one size; more are counted.
const HEADS_MAX: usize = 8;

/// All that is said of one place.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// The place.
    pub(super) seq: u64,
    /// Records that claim it, each body once.
    pub(super) leaves: Vec<Leaf>,
    /// Heads of which it is the last leaf.
    pub(super) heads: Vec<Head>,
    /// What others say of the stream up to here.
    pub(super) ends: Vec<Ended>,
    /// Records and heads beyond the limits.
    pub(super) more: u64,
    /// Copies of the same record.
    pub(super) copies: u64,
}

impl Group {
    pub(super) fn new(seq: u64) -> Self {
        Self { seq, ..Self::default() }
    }

    pub(super) fn leaf(&mut self, leaf: Leaf) {
        if let Some(known) = self.leaves.iter_mut().find(|known| known.leaf == leaf.leaf) {
            self.copies += 1;
            if known.resource != 0 && leaf.resource != 0 && known.resource != leaf.resource {
                // One of the two differs from what the stream says, whatever that is.
                (known.resource, known.place) = (RESOURCE_MIXED, leaf.place);
            }
        } else if self.leaves.len() < CLAIMS_MAX {
            self.leaves.push(leaf);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn head(&mut self, head: Head) {
        if let Some(known) = self.heads.iter_mut().find(|known| known.note == head.note) {
            known.frontier = known.frontier.take().or(head.frontier);
            known.cosigned = known.cosigned.take().or(head.cosigned);
        } else if self.heads.len() < HEADS_MAX {
            self.heads.push(head);
        } else {
            self.more += 1;
        }
    }

    /// Each hash that may be the leaf of this place: those of the records that claim it, and what the records after it say.
    /// What both say comes first.
    pub(super) fn options(&self, next: Option<&Self>) -> Vec<Hash> {
        let after = next.filter(|next| self.seq.checked_add(1) == Some(next.seq));
        let said = || after.iter().flat_map(|next| &next.leaves).filter_map(|leaf| leaf.prev);
        let here = || self.leaves.iter().map(|leaf| leaf.leaf);
        let both = said().filter(|hash| here().any(|leaf| leaf == *hash));
        let mut options: Vec<Hash> = Vec::with_capacity(2);
        for hash in both.chain(said()).chain(here()) {
            if !options.contains(&hash) {
                options.push(hash);
            }
        }
        options
    }
}

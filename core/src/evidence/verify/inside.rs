//! Records that lie in a hole which a way to read the stream passes over (G2, V4).
//!
//! They need not be there; those that are there must be what was sealed. A chain of records, each named by the next one, is that
//! where it fills one of the subtrees of which the hole gives the hash, or leads to the record behind the hole. Anyone may push
//! others.

use super::branch::Effect;
use super::group::Group;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Records one after the other, each named by the next one, up to the place that was looked at last.
#[derive(Clone, Debug)]
struct Run {
    /// From here on nothing proves them yet.
    from: u64,
    last: Hash,
    /// Their leaves since the begin of the subtree in which the last one lies, if they are all there.
    part: Option<Range>,
}

/// A hole, and what was found in it.
#[derive(Clone, Debug)]
pub(super) struct Inside {
    /// The subtrees: first leaf, the leaf after the last one, hash.
    spans: Arc<[(u64, u64, Hash)]>,
    end: u64,
    /// What is in it was removed by order: that is no failure, so that nothing else would tell what was put there. Where a sidecar
    /// declares it, records may have come after all.
    by_order: bool,
    /// At most as many as there are records at one place.
    runs: Vec<Run>,
}

impl Inside {
    /// A hole, perhaps right behind another one.
    pub(super) fn new(hole: &Range, by_order: bool, before: Option<Self>) -> Self {
        let before = before.filter(|before| before.end == hole.begin() && !before.runs.is_empty());
        let by_order = by_order || before.as_ref().is_some_and(|before| before.by_order);
        let runs = before.map(|before| before.runs).unwrap_or_default();
        Self { spans: hole.spans().collect(), end: hole.end(), by_order, runs }
    }

    /// Takes the records of a place; `named` are those that the records at the next place name. Gives what speaks against them.
    pub(super) fn take(&mut self, held: &Group, named: &[Hash]) -> Vec<Effect> {
        let (seq, after) = (held.seq, held.seq.saturating_add(1));
        if seq >= self.end {
            return Vec::new();
        }
        let at = self.spans.partition_point(|(begin, ..)| *begin <= seq).checked_sub(1);
        let span = at.and_then(|at| self.spans.get(at)).copied();
        let mut against = Vec::new();
        let mut runs = Vec::new();
        // There may be many of each.
        let (known, named) = (self.by_last(), named.iter().collect::<BTreeSet<&Hash>>());
        for leaf in &held.leaves {
            let before = leaf.prev.and_then(|prev| known.get(&prev));
            let (from, part) = before.map_or((seq, None), |run| (run.from, run.part.clone()));
            let mut run = Run { from, last: leaf.leaf, part };
            match (run.fits(seq, span), named.contains(&leaf.leaf)) {
                (Some(false), true) => against.push(Effect::Within(run.from, after)),
                (_, true) => runs.push(run),
                (Some(true), false) => {}
                (_, false) if !named.is_empty() => {
                    against.extend((self.by_order && run.from < seq).then_some(Effect::Within(run.from, seq)));
                    against.push(Effect::Extra(seq, leaf.place));
                }
                (fits, false) if self.by_order || fits.is_some() => against.push(Effect::Within(run.from, after)),
                (_, false) => {}
            }
        }
        self.runs = runs;
        against
    }

    fn by_last(&self) -> BTreeMap<Hash, &Run> {
        // Of those that end alike the first one counts.
        self.runs.iter().rev().map(|run| (run.last, run)).collect()
    }

    /// Whether records up to this place, and beyond it, were removed by order.
    pub(super) fn is_by_order(&self, size: u64) -> bool {
        self.by_order && size < self.end
    }

    /// A head of this size was proved, within the hole, by a reading whose last record is this one.
    pub(super) fn proved(&mut self, size: u64, last: Option<Hash>) {
        self.runs.retain(|run| Some(run.last) == last);
        self.runs.iter_mut().for_each(|run| run.from = size);
    }

    /// The record behind the hole names this one; `None`: that record is not there.
    pub(super) fn ends(self, named: Option<Hash>) -> impl Iterator<Item = Effect> {
        let (end, tell) = (self.end, named.is_some() || self.by_order);
        let against = self.runs.into_iter().filter(move |run| tell && run.from < end && Some(run.last) != named);
        against.map(move |run| Effect::Within(run.from, end))
    }
}

impl Run {
    /// Whether the records of the subtree that ends with this place give its hash; `None`: it does not end here, or they are not
    /// all there.
    fn fits(&mut self, seq: u64, span: Option<(u64, u64, Hash)>) -> Option<bool> {
        let (begin, end, hash) = span?;
        if seq == begin {
            self.part = Some(Range::empty(begin));
        }
        let part = self.part.as_mut()?;
        part.push(self.last);
        if part.end() != end {
            return None;
        }
        let fits = part.nodes().eq([hash]);
        self.part = None;
        if fits {
            // With it all that its records lead back to.
            self.from = end;
        }
        Some(fits)
    }
}

//! What follows from one way to read a stream, in a list that many ways share.
//!
//! A way is copied wherever a place can be read in two ways, and anyone can push what makes it so. So a copy costs nothing: what
//! two ways have in common is kept once.

use super::branch::Effect;
use std::sync::Arc;

/// Most effects that one way keeps between two heads: of those that speak against it, with the holes, and of the others. More
/// are counted. What speaks against it has a room of its own, so that nothing harmless can push it out.
pub(super) const EFFECTS_MAX: usize = 32_768;

/// Effects in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Effects {
    last: Option<Arc<Node>>,
    /// Those that speak against it, and holes; the others.
    grave: usize,
    mild: usize,
    /// Those that are no holes.
    no_holes: usize,
    weight: usize,
}

#[derive(Debug)]
struct Node {
    effect: Effect,
    before: Option<Arc<Node>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        // One after the other: a long list must not need a deep stack.
        let mut next = self.before.take();
        while let Some(mut node) = next.and_then(Arc::into_inner) {
            next = node.before.take();
        }
    }
}

impl Effects {
    /// Adds one; `false`: there is no room.
    pub(super) fn add(&mut self, effect: Effect) -> bool {
        if let Effect::Absent(from, to) = effect
            && let Some(last) = &self.last
            && let Effect::Absent(begin, end) = last.effect
            && end == from
        {
            self.last = Some(Arc::new(Node { effect: Effect::Absent(begin, to), before: last.before.clone() }));
            return true;
        }
        let weight = effect.weight();
        let is_hole = matches!(effect, Effect::Hole(..));
        let room = if weight > 0 || is_hole { &mut self.grave } else { &mut self.mild };
        if *room >= EFFECTS_MAX {
            return false;
        }
        *room += 1;
        self.weight += weight;
        self.no_holes += usize::from(!is_hole);
        self.last = Some(Arc::new(Node { effect, before: self.last.take() }));
        true
    }

    /// How much speaks against it.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn last(&self) -> Option<&Effect> {
        self.last.as_deref().map(|node| &node.effect)
    }

    pub(super) fn len(&self) -> usize {
        self.grave + self.mild
    }

    pub(super) fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// The first one first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Effect> {
        let nodes = std::iter::successors(self.last.as_deref(), |node| node.before.as_deref());
        let mut effects: Vec<&Effect> = nodes.map(|node| &node.effect).collect();
        effects.reverse();
        effects.into_iter()
    }

    /// Keeps the holes alone.
    pub(super) fn only_holes(&mut self) {
        if self.no_holes > 0 {
            self.retain(|effect| matches!(effect, Effect::Hole(..)));
        }
    }

    /// Keeps those of which this holds.
    pub(super) fn retain(&mut self, keep: impl Fn(&Effect) -> bool) {
        let mut kept = Self::default();
        for effect in self.iter().filter(|effect| keep(effect)) {
            kept.add(effect.clone());
        }
        *self = kept;
    }
}

//! The heads of a stream: which way to read it they prove (H1, H4, K2).

use super::chain::Chain;
use super::fact::{Head, Kind};
use super::group::Group;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;
use crate::evidence::note::{Checkpoint, PublicKey, SignedNote};

/// Most heads that wait to be told by whose key they should be signed; more cannot be checked.
const WAITING_MAX: usize = 1024;

impl Chain {
    /// Looks at a head of the held place.
    pub(super) fn head(&mut self, head: &Head, held: &Group, options: &[Hash]) {
        let Ok(note) = SignedNote::parse(&head.note) else {
            self.found.unsigned.push((head.size, head.place));
            return;
        };
        let root = note.checkpoint.root;
        if self.is_skipped(held) || self.branches.iter().all(|branch| branch.next != head.size) {
            return self.within_a_hole(head, held, &note);
        }
        let (mut read, mut signed, mut sure, mut winner) = (false, false, false, None);
        let mut denied = Vec::new();
        let later = self.later_keys.range(..head.size).next_back().map(|(_, key)| *key);
        let later = later.filter(|key| note.is_signed_by(self.name.as_str(), key));
        for (at, branch) in self.branches.iter_mut().enumerate().filter(|(_, branch)| branch.next == head.size) {
            read = true;
            if let Some(key) = later.filter(|_| branch.epoch.unsure) {
                // The record that names it is not there; the ledger vouches for it.
                branch.epoch.adopt(head.size, key);
            }
            let Some(key) = branch.epoch.key_for(head.size) else { continue };
            if !note.is_signed_by(self.name.as_str(), &key) {
                sure |= !branch.epoch.unsure;
                continue;
            }
            signed = true;
            if branch.range.as_ref().and_then(Range::root) == Some(root) {
                winner = winner.or(Some(at));
            } else if !branch.rival {
                denied.push(at);
            }
        }
        if winner.is_none() && self.branches.iter().any(|branch| branch.passes_over(head.size)) {
            // Some of what was removed is there: what leads up to this head is not, and need not be.
            return self.within_a_hole(head, held, &note);
        }
        if winner.is_none() {
            // First those that do not claim to know what is lost.
            denied.sort_by_key(|at| self.branches.get(*at).is_some_and(|branch| branch.range.is_some()));
            winner = denied.into_iter().find(|at| self.restart(*at, head, root));
        }
        if signed || (read && !sure) {
            self.found.claimed = self.found.claimed.max(head.size);
        }
        match winner {
            Some(at) => self.proved(at, &note.checkpoint, head),
            None if read && !signed => self.unproved(head, held, options, root, sure),
            None => {}
        }
        self.twins(held, head, &note.checkpoint);
    }

    /// A signed head that a branch does not give: whether its frontier leads on (H4).
    fn restart(&mut self, at: usize, head: &Head, root: Hash) -> bool {
        let size = self.found.size;
        let Some(branch) = self.branches.get_mut(at) else { return false };
        let Some(range) = tree(head, root, branch.last) else {
            if branch.range.is_some() {
                branch.refute(head.size);
            }
            return false;
        };
        if branch.range.is_some() && branch.linked_from <= size && size > 0 {
            // Each record vouches for the one before, back into what was proved; the two heads cannot both be true.
            self.found.forks.push((size, head.size));
            return false;
        }
        branch.strand(size);
        branch.range = Some(range);
        true
    }

    /// A head that no known key signed.
    fn unproved(&mut self, head: &Head, held: &Group, options: &[Hash], root: Hash, sure: bool) {
        // Without its key a rollover's head can begin a reading: the next epoch's heads will prove it, or not.
        let rolls = held.leaves.iter().find(|leaf| matches!(leaf.kind, Kind::Checkpoint(_, Some(_))));
        if let Some(leaf) = rolls
            && self.branches.iter().all(|branch| branch.range.is_none() && branch.epoch.key.is_none())
            && options.contains(&leaf.leaf)
            && let Some(range) = tree(head, root, Some(leaf.leaf))
        {
            for branch in self.branches.iter_mut().filter(|branch| branch.last == Some(leaf.leaf)) {
                branch.strand(self.found.size);
                branch.range = Some(range.clone());
            }
            self.found.restarted = self.found.restarted.or(Some(head.size.saturating_sub(1)));
        } else if sure {
            self.found.unsigned.push((head.size, head.place));
        } else {
            let read = self.branches.iter().find(|branch| branch.next == head.size);
            let key = read.and_then(|branch| branch.epoch.key_for(head.size));
            self.wait_for_key(head, key);
        }
    }

    /// A head whose size lies within a hole: its root cannot be told, but its signature can.
    fn within_a_hole(&mut self, head: &Head, held: &Group, note: &SignedNote) {
        let name = self.name.as_str();
        let later = self.later_keys.range(..head.size).next_back().map(|(_, key)| *key);
        let mut keys: Vec<_> = self.branches.iter().filter_map(|branch| branch.epoch.key_for(head.size)).collect();
        keys.extend(later);
        let Some(key) = keys.iter().find(|key| note.is_signed_by(name, key)) else {
            return self.wait_for_key(head, keys.first().copied());
        };
        let key = *key;
        let contradicts = |other: &SignedNote| {
            other.checkpoint.root != note.checkpoint.root && other.is_signed_by(self.name.as_str(), &key)
        };
        let mut before = held.heads.iter().take_while(|other| other.note != head.note);
        if before.any(|other| SignedNote::parse(&other.note).is_ok_and(|other| contradicts(&other))) {
            self.found.forks.push((head.size, head.size));
        }
    }

    /// This key did not sign it; whether another one was in force there is told by the next head that is proved.
    fn wait_for_key(&mut self, head: &Head, key: Option<PublicKey>) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push((head.size, head.place, key));
        } else {
            self.found.unchecked.push(head.size);
        }
    }

    /// A head was proved by this key. No key signs twice: where it was in force before, it was all the time.
    fn tell_waiting(&mut self, proved_by: Option<PublicKey>) {
        for (size, place, key) in std::mem::take(&mut self.waiting) {
            if key.is_some() && key == proved_by {
                self.found.unsigned.push((size, place));
            } else {
                self.found.unchecked.push(size);
            }
        }
    }

    /// Two heads of one size, both signed: FORK (V4).
    fn twins(&mut self, held: &Group, head: &Head, checkpoint: &Checkpoint) {
        let Some(key) = self.branches.iter().find_map(|branch| {
            // The branch's key may have moved on with the head that was just proved, if that ended an epoch.
            branch.epoch.key_for(head.size).filter(|_| branch.next == head.size)
        }) else {
            return;
        };
        // Of many that claim to be a head, few are signed.
        if !SignedNote::parse(&head.note).is_ok_and(|note| note.is_signed_by(self.name.as_str(), &key)) {
            return;
        }
        let other = held.heads.iter().take_while(|other| other.note != head.note).any(|other| {
            SignedNote::parse(&other.note).is_ok_and(|note| {
                note.checkpoint.root != checkpoint.root && note.is_signed_by(self.name.as_str(), &key)
            })
        });
        if other {
            self.found.forks.push((head.size, head.size));
        }
    }

    /// Whose key signed the head of this size that the branch at `at` gives: the first one, or one that the ledger names.
    fn vouched(&mut self, at: usize, size: u64) {
        let Some(epoch) = self.branches.get(at).filter(|branch| !branch.rival).map(|branch| &branch.epoch) else {
            return;
        };
        let Some(key) = epoch.key_for(size) else { return };
        if self.later_keys.range(..size).next_back().is_some_and(|(_, named)| *named == key) {
            self.found.named_key = true;
        } else if epoch.first == Some(key) {
            self.found.first_key = self.found.first_key.or(Some(key));
        } else if self.known_to.is_some_and(|known| size <= known) {
            self.found.strange_key = true;
        }
    }

    /// The branch at `at` gives the signed root.
    fn proved(&mut self, at: usize, checkpoint: &Checkpoint, head: &Head) {
        let size = checkpoint.size;
        self.vouched(at, size);
        let Some(branch) = self.branches.get_mut(at) else { return };
        if branch.rival {
            // What it contradicts was proved before.
            self.found.forks.push((self.found.size, size));
            self.branches.remove(at);
            return;
        }
        let key = branch.epoch.key_for(size);
        let fork = branch.refuted.map(|(first, _)| first);
        self.found.forks.extend(fork.map(|refuted| (refuted, size)));
        self.found.proved += branch.present;
        self.found.more_effects += std::mem::take(&mut branch.more_effects);
        let effects = branch.prove(size);
        self.found.effects.extend(effects.iter().cloned());
        self.found.size = self.found.size.max(size);
        self.attested.clear();
        self.tell_waiting(key);
        let Some(branch) = self.branches.get_mut(at) else { return };
        if !head.cosigned.is_empty() {
            self.cosigned.push((size, head.cosigned.clone(), std::mem::take(&mut branch.oldest_ns)));
        }
        let winner = branch.clone();
        // A branch that waits behind a hole goes on; of the others, those that know other leaves contradict.
        self.branches.retain(|branch| branch.range.is_some() && (branch.next > size || branch.range != winner.range));
        for branch in &mut self.branches {
            if branch.next > size {
                branch.wait(&winner, size);
            } else {
                branch.rival = true;
            }
        }
        self.branches.insert(0, winner);
    }
}

/// The tree of a head from a frontier of its and the last leaf, if they give its root (H4). A frontier that does not says nothing:
/// anyone can give one to a copy.
fn tree(head: &Head, root: Hash, last: Option<Hash>) -> Option<Range> {
    let (before, last) = (head.size.checked_sub(1)?, last?);
    head.frontiers.iter().find_map(|frontier| {
        let mut range = Range::from_nodes(0, before, frontier).ok()?;
        range.push(last);
        (range.root() == Some(root)).then_some(range)
    })
}

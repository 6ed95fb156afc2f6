//! One stream, in order of its places: which records stand there, and up to where signed heads prove them.

use super::branch::Branch;
use super::fact::{Ended, Fact, Kind, Leaf};
use super::found::{Attested, Found};
use super::group::{Group, Says};
use super::trust::{Ledger, LedgerStream};
use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;
use crate::evidence::note::PublicKey;
use crate::evidence::stream::StreamId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most ways to read a stream that are followed at once.
const BRANCHES_MAX: usize = 16;

/// Most records that are kept as those that name a stream.
const NAMED_MAX: usize = 1024;

/// Most ends that others may claim since the last head, and most that may claim the same one; more are counted.
const ATTESTED_MAX: usize = 16;
const SAYING_MAX: usize = 256;

/// Most statements of others that the stream contradicts, that it is too short for, and that contradict themselves; more are
/// counted. The ledger's always have room.
const DENIED_MAX: usize = 256;
const SHORT_MAX: usize = 64;
const BEYOND_MAX: usize = 256;

/// Most parts of which such a statement tells apart that they are absent; the last stands for those behind it.
const PARTS_MAX: usize = 256;

/// One stream.
pub(super) struct Chain {
    pub(super) name: StreamId,
    pub(super) branches: Vec<Branch>,
    pub(super) held: Option<Group>,
    incoming: Option<Group>,
    /// As it was read before holes behind which nothing came yet.
    before_holes: Option<Vec<Branch>>,
    pub(super) found: Found,
    /// What others say of its end, since the last proved head: the largest last.
    pub(super) attested: Vec<Attested>,
    /// Heads that were proved and carry cosignatures: size, notes, and the earliest time in a record since the one before.
    pub(super) cosigned: Vec<(u64, Vec<String>, u64)>,
    /// Heads that the key which was known there did not sign: size, place, and that key.
    pub(super) waiting: Vec<(u64, u64, Option<PublicKey>)>,
    /// Keys of later epochs, as the ledger tells them: each signs heads larger than this size.
    pub(super) later_keys: BTreeMap<u64, PublicKey>,
    /// Size of the last head that the ledger knows; `None`: it does not know the stream, or none was given.
    pub(super) known_to: Option<u64>,
    window: Range64,
    /// The sink whose export this is, where it is known.
    export_of: Option<String>,
}

/// A span of time, in nanoseconds since the epoch.
type Range64 = std::ops::RangeInclusive<u64>;

impl Chain {
    /// A stream; what the ledger knows of it; the time that matters; the sink whose export this is.
    pub(super) fn new(
        name: StreamId,
        known: Option<&LedgerStream>,
        window: Range64,
        export_of: Option<String>,
    ) -> Self {
        let mut first = Branch::new();
        first.epoch.key = known.and_then(|known| known.key);
        first.epoch.first = first.epoch.key;
        let later_keys = known.map(|known| known.later_keys.clone()).unwrap_or_default();
        Self {
            name,
            branches: vec![first],
            held: None,
            incoming: None,
            before_holes: None,
            found: Found::default(),
            attested: Vec::new(),
            cosigned: Vec::new(),
            waiting: Vec::new(),
            later_keys,
            known_to: known.map(|known| known.size),
            window,
            export_of,
        }
    }

    /// Takes the next fact; they come in order of position and rank.
    pub(super) fn feed(&mut self, fact: Fact) {
        match fact {
            // It is known.
            Fact::Name(_) => {}
            Fact::Found(verdict) => self.found.read = self.found.read.max(Some(verdict)),
            Fact::Named(source) => {
                if self.found.named.len() < NAMED_MAX {
                    self.found.named.push(source);
                } else {
                    self.found.named_more += 1;
                }
            }
            Fact::Hole(hole) => {
                let excuse = hole.excuse(self.export_of.as_deref());
                self.group(hole.range.begin()).hole(hole, excuse);
            }
            Fact::Leaf(leaf) => {
                self.look(&leaf);
                self.group(leaf.seq).leaf(leaf);
            }
            Fact::Head(head) => self.group(head.size.saturating_sub(1)).head(head),
            Fact::Ended(ended) => self.told(ended),
        }
    }

    /// Takes what others say of its end.
    fn told(&mut self, ended: Ended) {
        if ended.head_size > ended.size {
            if self.found.beyond.len() < BEYOND_MAX {
                self.found.beyond.push(ended.clone());
            } else {
                self.found.ignored += 1;
            }
        }
        if ended.size == 0 {
            if ended.head_size == 0 && self.found.nothing.len() < NAMED_MAX {
                self.found.nothing.push(ended.source);
            }
            return;
        }
        if ended.source == Ledger::SOURCE {
            self.found.life = Some(ended.life);
        }
        self.group(ended.size.saturating_sub(1)).end(ended);
    }

    fn look(&mut self, leaf: &Leaf) {
        self.found.records += 1;
        if leaf.time_ns > 0 {
            let (first, last) = self.found.times;
            self.found.times =
                (if first == 0 { leaf.time_ns } else { first.min(leaf.time_ns) }, last.max(leaf.time_ns));
        }
        if matches!(leaf.kind, Kind::Checkpoint(..) | Kind::Close(_)) && self.window.contains(&leaf.time_ns) {
            if self.found.window.is_none() {
                self.found.window_ns = leaf.time_ns;
            }
            let first = self.found.window.map_or(leaf.seq, |(first, _)| first);
            self.found.window = Some((first, leaf.seq));
            if self.known_to.is_some_and(|size| leaf.seq >= size) {
                let (first, last) = self.found.beyond_ledger.unwrap_or((leaf.time_ns, leaf.time_ns));
                self.found.beyond_ledger = Some((first.min(leaf.time_ns), last.max(leaf.time_ns)));
            }
        }
    }

    /// The first checkpoint of the time that is looked at; none is there: behind all.
    pub(super) fn window_begins(&self) -> u64 {
        self.found.window.map_or(u64::MAX, |(first, _)| first)
    }

    fn group(&mut self, seq: u64) -> &mut Group {
        if self.incoming.as_ref().is_some_and(|incoming| incoming.seq != seq) {
            let next = self.incoming.take();
            self.advance(next);
        }
        self.incoming.get_or_insert_with(|| Group::new(seq))
    }

    /// No more facts come.
    pub(super) fn end(&mut self) {
        let next = self.incoming.take();
        self.advance(next);
        self.advance(None);
        self.found.unchecked.extend(self.waiting.drain(..).map(|(size, ..)| size));
        // Holes behind all that is there say nothing of it.
        if let Some(branches) = self.before_holes.take() {
            self.branches = branches;
        }
    }

    /// Decides the group that was held back, now that the next one is whole.
    fn advance(&mut self, next: Option<Group>) {
        if let Some(held) = self.held.take() {
            self.found.copies += held.copies;
            self.found.ignored += held.more;
            self.resolve(&held, next.as_ref());
        }
        if let Some(next) = &next {
            if !next.is_hole() {
                self.before_holes = None;
            } else if self.before_holes.is_none() {
                self.before_holes = Some(self.branches.clone());
            }
            self.fill(next);
        }
        self.held = next;
    }

    fn resolve(&mut self, held: &Group, next: Option<&Group>) {
        self.take_holes(held);
        let ahead = self.branches.iter().filter(|branch| branch.next == held.seq);
        let options = held.options(next, ahead.filter_map(|branch| branch.range.as_ref()));
        if let ([branch], [only]) = (&mut self.branches[..], &options[..])
            && branch.next == held.seq
            && branch.accept(*only, held)
        {
            // As it is in an honest stream.
        } else {
            self.fork(held, &options);
        }
        self.within_holes(held, next);
        for head in &held.heads {
            self.head(head, held, &options);
        }
        self.ended(held);
    }

    /// Reads the held place in each way that is possible.
    fn fork(&mut self, held: &Group, options: &[Hash]) {
        let mut branches = Vec::new();
        for branch in &self.branches {
            if branch.next != held.seq {
                branches.push(branch.clone());
                continue;
            }
            for option in options {
                let mut read = branch.clone();
                if read.accept(*option, held) {
                    branches.push(read);
                }
            }
            if options.is_empty() {
                let mut read = branch.clone();
                read.lose(held.seq.saturating_add(1));
                branches.push(read);
            }
        }
        if branches.iter().all(|branch| branch.rival) {
            // Every way is denied by a record that claims to be genuine: go on behind it.
            for branch in self.branches.iter().filter(|branch| !branch.rival) {
                let mut read = branch.clone();
                read.extra(held.seq, held.leaves.iter());
                read.lose(held.seq.saturating_add(1));
                branches.push(read);
            }
        }
        self.keep(branches);
    }

    /// Keeps the ways that need least explanation, each once.
    fn keep(&mut self, mut branches: Vec<Branch>) {
        branches.sort_by_key(|branch| (branch.rival, branch.weight()));
        let mut kept: Vec<Branch> = Vec::new();
        for branch in branches {
            // Of two that know the same leaves the one that knows more of them is enough.
            let same = |other: &Branch| {
                let leaves = other.next == branch.next && other.range == branch.range;
                let last = other.last == branch.last || branch.last.is_none();
                leaves && last && (branch.range.is_some() || other.epoch == branch.epoch)
            };
            if kept.len() < BRANCHES_MAX && !kept.iter().any(same) {
                kept.push(branch);
            }
        }
        self.branches = kept;
    }

    /// Goes over places of which nothing is there, up to the next group. No hole begins in between: that is a group.
    fn fill(&mut self, next: &Group) {
        if self.branches.iter().all(|branch| branch.next >= next.seq) {
            return;
        }
        let mut before: Vec<Hash> = next.leaves.iter().filter_map(|leaf| leaf.prev).collect();
        before.sort_unstable();
        before.dedup();
        let upto = if before.is_empty() { next.seq } else { next.seq.saturating_sub(1) };
        let mut branches = Vec::new();
        for mut branch in std::mem::take(&mut self.branches) {
            if branch.next < upto {
                branch.lose(upto);
            }
            if branch.next >= next.seq {
                branches.push(branch);
                continue;
            }
            branches.extend(before.iter().map(|hash| {
                let mut read = branch.clone();
                read.accept_absent(*hash);
                read
            }));
        }
        self.keep(branches);
    }

    /// At the start of a hole there is one more way to read the stream: without the records in it.
    fn take_holes(&mut self, held: &Group) {
        if held.holes.is_empty() {
            return;
        }
        let mut branches = self.branches.clone();
        for hole in &held.holes {
            let said: Arc<[Says]> = hole.said.clone().into();
            for branch in self.branches.iter().filter(|branch| branch.next == held.seq) {
                let mut without = branch.clone();
                without.skip(&hole.range, &said);
                branches.push(without);
            }
        }
        self.keep(branches);
    }

    /// Whether a hole may stand for the end of this group, at which there is no record.
    pub(super) fn is_skipped(&self, held: &Group) -> bool {
        held.leaves.is_empty() && self.branches.iter().any(|b| !b.rival && b.next > held.seq.saturating_add(1))
    }

    /// What lies in a hole need not be there, but what is there must be what was sealed.
    fn within_holes(&mut self, held: &Group, next: Option<&Group>) {
        if !held.leaves.is_empty() {
            let after = next.filter(|next| held.seq.checked_add(1) == Some(next.seq));
            let named = after.into_iter().flat_map(|next| &next.leaves).filter_map(|leaf| leaf.prev);
            let named: Vec<Hash> = named.collect();
            self.branches.iter_mut().for_each(|branch| branch.within(held, &named));
        }
    }

    /// What others say of the stream up to here.
    fn ended(&mut self, held: &Group) {
        if held.ends.is_empty() || self.is_skipped(held) {
            return;
        }
        let size = held.seq.saturating_add(1);
        let readers = self.branches.iter().enumerate().filter(|(_, branch)| branch.next == size && !branch.rival);
        let readers: Vec<(usize, bool, Option<Hash>)> = readers
            .map(|(at, branch)| (at, branch.range.is_some(), branch.range.as_ref().and_then(Range::root)))
            .collect();
        let mut absent: Option<Arc<[std::ops::Range<u64>]>> = None;
        for ended in &held.ends {
            let is_ledger = ended.source == Ledger::SOURCE;
            let fits = readers.iter().find(|(.., root)| *root == Some(ended.root));
            if let Some(branch) = fits.and_then(|(at, ..)| self.branches.get(*at)) {
                let (effects, present) = (branch.effects.clone(), branch.present);
                self.found.ledger_root |= is_ledger;
                self.attest(Attested { ended: ended.clone(), also: Vec::new(), effects, present });
            } else if readers.iter().any(|(_, is_known, _)| *is_known) {
                if is_ledger || self.found.denied.len() < DENIED_MAX {
                    self.found.denied.push(ended.clone());
                } else {
                    self.found.ignored += 1;
                }
            } else if !readers.is_empty() {
                if is_ledger || self.found.short.len() < SHORT_MAX {
                    let branches = || readers.iter().filter_map(|(at, ..)| self.branches.get(*at));
                    let absent = absent.get_or_insert_with(|| parts(branches().flat_map(Branch::absent)));
                    self.found.short.push((ended.clone(), absent.clone()));
                } else {
                    self.found.ignored += 1;
                }
            }
        }
    }

    /// Takes what others say of the end and fits.
    fn attest(&mut self, attested: Attested) {
        let ended = &attested.ended;
        let same = |known: &&mut Attested| {
            (known.ended.size, known.ended.root, known.ended.life) == (ended.size, ended.root, ended.life)
                // What the ledger says is proved, and differs in what follows.
                && Ledger::SOURCE != ended.source
                && Ledger::SOURCE != known.ended.source
        };
        let room = self.attested.len() < ATTESTED_MAX || ended.source == Ledger::SOURCE;
        match self.attested.iter_mut().find(same) {
            Some(known) if known.also.len() < SAYING_MAX => known.also.push(ended.source),
            None if room => self.attested.push(attested),
            _ => self.found.ignored += 1,
        }
    }
}

/// These parts, each once; of many the last stands for all behind it.
fn parts(absent: impl Iterator<Item = std::ops::Range<u64>>) -> Arc<[std::ops::Range<u64>]> {
    let mut parts: Vec<std::ops::Range<u64>> = absent.collect();
    parts.sort_unstable_by_key(|part| (part.start, part.end));
    parts.dedup();
    let end = parts.iter().map(|part| part.end).max();
    if parts.len() > PARTS_MAX {
        parts.truncate(PARTS_MAX);
        if let (Some(last), Some(end)) = (parts.last_mut(), end) {
            last.end = end;
        }
    }
    parts.into()
}

//! One stream, in order of its places: which records stand there, and up to where signed heads prove them.

use super::branch::{Branch, Effect};
use super::fact::{Ended, Fact, Hole, Kind, Leaf};
use super::found::{Attested, Found};
use super::group::Group;
use super::trust::{Ledger, LedgerStream};
use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;
use crate::evidence::note::PublicKey;
use crate::evidence::stream::StreamId;
use std::collections::BTreeMap;

/// Most ways to read a stream that are followed at once.
const BRANCHES_MAX: usize = 16;

/// Most records that are kept as those that name a stream.
const NAMED_MAX: usize = 16;

/// Most ends that others may claim since the last head, and most that may claim the same one.
const ATTESTED_MAX: usize = 16;
const SAYING_MAX: usize = 256;

/// Most holes that wait for their place.
const HOLES_MAX: usize = 256;

/// One stream.
pub(super) struct Chain {
    pub(super) name: StreamId,
    pub(super) branches: Vec<Branch>,
    pub(super) held: Option<Group>,
    incoming: Option<Group>,
    holes: Vec<Hole>,
    pub(super) found: Found,
    /// What others say of its end, since the last proved head: the largest last.
    pub(super) attested: Vec<Attested>,
    /// Heads that were proved and carry cosignatures: size, note, and the earliest time in a record since the one before.
    pub(super) cosigned: Vec<(u64, String, u64)>,
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
            holes: Vec::new(),
            found: Found::default(),
            attested: Vec::new(),
            cosigned: Vec::new(),
            later_keys,
            known_to: known.map(|known| known.size),
            window,
            export_of,
        }
    }

    /// Takes the next fact; they come in order of position and rank.
    pub(super) fn feed(&mut self, fact: Fact) {
        match fact {
            Fact::Named(source) => {
                if self.found.named.len() < NAMED_MAX {
                    self.found.named.push(source);
                }
            }
            Fact::Hole(hole) if self.holes.len() < HOLES_MAX => self.holes.push(hole),
            Fact::Hole(_) => self.found.ignored += 1,
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
        if ended.head_size > ended.size && self.found.beyond.len() < NAMED_MAX {
            self.found.beyond.push(ended.clone());
        }
        if ended.size == 0 {
            self.found.nothing |= ended.head_size == 0;
            return;
        }
        if ended.source == Ledger::SOURCE {
            self.found.life = Some(ended.life);
        }
        let group = self.group(ended.size.saturating_sub(1));
        if !group.ends.contains(&ended) {
            group.ends.push(ended);
        }
    }

    fn look(&mut self, leaf: &Leaf) {
        self.found.records += 1;
        if leaf.time_ns > 0 {
            let (first, last) = self.found.times;
            self.found.times =
                (if first == 0 { leaf.time_ns } else { first.min(leaf.time_ns) }, last.max(leaf.time_ns));
        }
        if matches!(leaf.kind, Kind::Checkpoint(..) | Kind::Close(_)) && self.window.contains(&leaf.time_ns) {
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
    }

    /// Decides the group that was held back, now that the next one is whole.
    fn advance(&mut self, next: Option<Group>) {
        if let Some(held) = self.held.take() {
            self.found.copies += held.copies;
            self.found.ignored += held.more;
            self.resolve(&held, next.as_ref());
        }
        if let Some(next) = &next {
            self.fill(next);
        }
        self.held = next;
    }

    fn resolve(&mut self, held: &Group, next: Option<&Group>) {
        self.take_holes(held.seq);
        let options = held.options(next);
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
        for ended in &held.ends {
            self.ended(ended);
        }
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
                for leaf in &held.leaves {
                    read.add(Effect::Extra(held.seq, leaf.place));
                }
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

    /// Goes over places of which nothing is there, up to the next group.
    fn fill(&mut self, next: &Group) {
        let mut before: Vec<Hash> = next.leaves.iter().filter_map(|leaf| leaf.prev).collect();
        before.sort_unstable();
        before.dedup();
        if self.branches.iter().all(|branch| branch.next >= next.seq) {
            return;
        }
        let mut branches = Vec::new();
        let mut ways = std::mem::take(&mut self.branches);
        ways.reverse();
        while let Some(mut branch) = ways.pop() {
            while branch.next < next.seq {
                let mut holes = self.holes.iter().filter(|hole| hole.range.begin() == branch.next);
                if let Some(hole) = holes.next() {
                    for other in holes.take(BRANCHES_MAX.saturating_sub(ways.len())) {
                        let mut read = branch.clone();
                        read.skip(other, self.export_of.as_deref());
                        ways.push(read);
                    }
                    // Its hashes may be wrong, or what it stands for be there in part.
                    if hole.range.end() <= next.seq || !next.leaves.is_empty() {
                        let mut without = branch.clone();
                        without.lose(next.seq);
                        branches.push(without);
                    }
                    branch.skip(hole, self.export_of.as_deref());
                    continue;
                }
                let from = branch.next;
                let hole = self.holes.iter().map(|hole| hole.range.begin()).find(|begin| *begin > from);
                let known_at = next.seq.saturating_sub(1);
                if branch.next == known_at && !before.is_empty() {
                    break;
                }
                branch.lose(hole.unwrap_or(u64::MAX).min(if before.is_empty() { next.seq } else { known_at }));
            }
            if branch.next < next.seq {
                branches.extend(before.iter().map(|hash| {
                    let mut read = branch.clone();
                    read.accept_absent(*hash);
                    read
                }));
            } else {
                branches.push(branch);
            }
        }
        self.keep(branches);
    }

    /// At the start of a hole there is one more way to read the stream: without the records in it.
    fn take_holes(&mut self, seq: u64) {
        if self.holes.is_empty() {
            return;
        }
        self.holes.retain(|hole| hole.range.end() > seq);
        if self.holes.iter().any(|hole| hole.range.begin() == seq) {
            let mut branches = self.branches.clone();
            for hole in self.holes.iter().filter(|hole| hole.range.begin() == seq) {
                for branch in self.branches.iter().filter(|branch| branch.next == seq) {
                    let mut without = branch.clone();
                    without.skip(hole, self.export_of.as_deref());
                    branches.push(without);
                }
            }
            self.keep(branches);
        }
    }

    /// What lies in a hole need not be there, but what is there must be what the record after it names.
    fn within_holes(&mut self, held: &Group, next: Option<&Group>) {
        if self.holes.is_empty() {
            return;
        }
        let after = next.filter(|next| held.seq.checked_add(1) == Some(next.seq));
        let said: Vec<Hash> = after.into_iter().flat_map(|next| &next.leaves).filter_map(|leaf| leaf.prev).collect();
        if said.is_empty() {
            return;
        }
        for leaf in held.leaves.iter().filter(|leaf| !said.contains(&leaf.leaf)) {
            let after = held.seq.saturating_add(1);
            let skipped = |branch: &&mut Branch| branch.next > after || branch.ends_in_hole(after);
            self.branches.iter_mut().filter(skipped).for_each(|b| b.add(Effect::Extra(held.seq, leaf.place)));
        }
    }

    fn ended(&mut self, ended: &Ended) {
        let readers = || self.branches.iter().filter(|branch| branch.next == ended.size && !branch.rival);
        let fits = |branch: &&Branch| branch.range.as_ref().and_then(Range::root) == Some(ended.root);
        if let Some(branch) = readers().find(fits) {
            self.found.ledger_root |= ended.source == Ledger::SOURCE;
            let same = |known: &&mut Attested| {
                (known.ended.size, known.ended.root, known.ended.life) == (ended.size, ended.root, ended.life)
                    // What the ledger says is proved, and differs in what follows.
                    && Ledger::SOURCE != ended.source
                    && Ledger::SOURCE != known.ended.source
            };
            let room = self.attested.len() < ATTESTED_MAX || ended.source == Ledger::SOURCE;
            match self.attested.iter_mut().find(same) {
                Some(known) if known.also.len() < SAYING_MAX => known.also.push(ended.source),
                None if room => {
                    let (effects, present) = (branch.effects.clone(), branch.present);
                    self.attested.push(Attested { ended: ended.clone(), also: Vec::new(), effects, present });
                }
                _ => self.found.ignored += 1,
            }
        } else if readers().any(|branch| branch.range.is_some()) {
            self.found.denied.push(ended.clone());
        } else if readers().next().is_some() {
            let absent = readers().flat_map(Branch::absent).collect();
            self.found.short.push((ended.clone(), absent));
        }
    }
}

//! One stream, in order of its places: which records stand there, and up to where signed heads prove them.

use super::branch::{Branch, Effect};
use super::fact::{Ended, Fact, Head, Hole, Kind, Leaf, Source};
use super::group::Group;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;
use crate::evidence::note::{Checkpoint, PublicKey, SignedNote};
use crate::evidence::stream::StreamId;

/// Most ways to read a stream that are followed at once.
const BRANCHES_MAX: usize = 16;

/// Most records that are kept as those that name a stream.
const NAMED_MAX: usize = 16;

/// Most holes that wait for their place.
const HOLES_MAX: usize = 65_536;

/// What is certain of a stream, or becomes so when another record is proved.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What the records show, in order.
    pub(super) effects: Vec<Effect>,
    /// Effects that were only counted.
    pub(super) more_effects: u64,
    /// Heads that contradict each other: their sizes.
    pub(super) forks: Vec<(u64, u64)>,
    /// Heads that the stream's key did not sign: size and place.
    pub(super) unsigned: Vec<(u64, u64)>,
    /// Heads whose key is not known, because the record that names it is not there: size.
    pub(super) unchecked: Vec<u64>,
    /// Statements of others that the records contradict.
    pub(super) denied: Vec<Ended>,
    /// Genuine records under a head.
    pub(super) proved: u64,
    /// Size of the largest head that was proved.
    pub(super) size: u64,
    /// Size of the largest head that is there, whether or not its signature could be checked; forged ones do not count.
    pub(super) claimed: u64,
    /// The first key, if a head was proved under it.
    pub(super) first_key: Option<PublicKey>,
    /// From where the stream was read, where that is not its start.
    pub(super) restarted: Option<u64>,
    /// Copies of records.
    pub(super) copies: u64,
    /// Records and heads beyond what is looked at.
    pub(super) ignored: u64,
    /// Records, in all.
    pub(super) records: u64,
    /// Earliest and latest time in them; 0: none.
    pub(super) times: (u64, u64),
    /// Whether others say that nothing of it was ever kept.
    pub(super) nothing: bool,
    /// Who names it.
    pub(super) named: Vec<Source>,
    /// Places of checkpoints within the window of the verification: the first and the last.
    pub(super) window: Option<(u64, u64)>,
}

/// The end of what others say of a stream.
#[derive(Debug)]
pub(super) struct Attested {
    pub(super) ended: Ended,
    /// Effects up to there, since the last head.
    pub(super) effects: Vec<Effect>,
    /// Genuine records up to there, since the last head.
    pub(super) present: u64,
}

/// One stream.
pub(super) struct Chain {
    pub(super) name: StreamId,
    pub(super) branches: Vec<Branch>,
    pub(super) held: Option<Group>,
    incoming: Option<Group>,
    holes: Vec<Hole>,
    pub(super) found: Found,
    pub(super) attested: Option<Attested>,
    /// Heads that were proved and carry cosignatures: size, note, and the earliest time in a record since the one before.
    pub(super) cosigned: Vec<(u64, String, u64)>,
    key: Option<PublicKey>,
    window: Range64,
}

/// A span of time, in nanoseconds since the epoch.
type Range64 = std::ops::RangeInclusive<u64>;

impl Chain {
    /// A stream; its first key, where the ledger tells it; the time that matters.
    pub(super) fn new(name: StreamId, key: Option<PublicKey>, window: Range64) -> Self {
        let mut first = Branch::new();
        first.epoch.key = key;
        Self {
            name,
            branches: vec![first],
            held: None,
            incoming: None,
            holes: Vec::new(),
            found: Found::default(),
            attested: None,
            cosigned: Vec::new(),
            key: None,
            window,
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
            Fact::Ended(ended) if ended.size == 0 => self.found.nothing = true,
            Fact::Ended(ended) => {
                let group = self.group(ended.size.saturating_sub(1));
                if !group.ends.contains(&ended) {
                    group.ends.push(ended);
                }
            }
        }
    }

    fn look(&mut self, leaf: &Leaf) {
        self.found.records += 1;
        if leaf.time_ns > 0 {
            let (first, last) = self.found.times;
            self.found.times = (if first == 0 { leaf.time_ns } else { first.min(leaf.time_ns) }, last.max(leaf.time_ns));
        }
        if matches!(leaf.kind, Kind::Checkpoint(..) | Kind::Close(_)) && self.window.contains(&leaf.time_ns) {
            let first = self.found.window.map_or(leaf.seq, |(first, _)| first);
            self.found.window = Some((first, leaf.seq));
        }
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
        for mut branch in std::mem::take(&mut self.branches) {
            while branch.next < next.seq {
                let hole = self.holes.iter().find(|hole| hole.range.begin() == branch.next);
                if let Some(hole) = hole {
                    if hole.range.end() > next.seq && !next.leaves.is_empty() {
                        let mut without = branch.clone();
                        without.lose(next.seq);
                        branches.push(without);
                    }
                    branch.skip(hole);
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
                    without.skip(hole);
                    branches.push(without);
                }
            }
            self.keep(branches);
        }
    }

    fn ended(&mut self, ended: &Ended) {
        let readers = || self.branches.iter().filter(|branch| branch.next == ended.size && !branch.rival);
        let fits = |branch: &&Branch| branch.range.as_ref().and_then(Range::root) == Some(ended.root);
        if let Some(branch) = readers().find(fits) {
            let (effects, present) = (branch.effects.clone(), branch.present);
            self.attested = Some(Attested { ended: ended.clone(), effects, present });
        } else if readers().any(|branch| branch.range.is_some()) {
            self.found.denied.push(ended.clone());
        }
    }

    fn head(&mut self, head: &Head, held: &Group, options: &[Hash]) {
        let Ok(note) = SignedNote::parse(&head.note) else {
            self.found.unsigned.push((head.size, head.place));
            return;
        };
        let root = note.checkpoint.root;
        let (mut read, mut signed, mut sure, mut winner) = (false, false, false, None);
        let mut denied = Vec::new();
        for (at, branch) in self.branches.iter().enumerate().filter(|(_, branch)| branch.next == head.size) {
            read = true;
            let Some(key) = branch.epoch.key_for(head.size) else { continue };
            if !note.is_signed_by(self.name.as_str(), &key) {
                sure |= !branch.epoch.unsure;
                continue;
            }
            signed = true;
            self.key.get_or_insert(key);
            if branch.range.as_ref().and_then(Range::root) == Some(root) {
                winner = winner.or(Some(at));
            } else if !branch.rival {
                denied.push(at);
            }
        }
        if winner.is_none() {
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
                branch.refuted.push(head.size);
            }
            return false;
        };
        if branch.range.is_some() && branch.linked_from <= size && size > 0 {
            // Each record vouches for the one before, back into what was proved; the two heads cannot both be true.
            self.found.forks.push((size, head.size));
            return false;
        }
        strand(branch, size);
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
                branch.range = Some(range.clone());
            }
            self.found.restarted = self.found.restarted.or(Some(head.size.saturating_sub(1)));
        } else if sure {
            self.found.unsigned.push((head.size, head.place));
        } else {
            self.found.unchecked.push(head.size);
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
        let other = held.heads.iter().take_while(|other| other.note != head.note).any(|other| {
            SignedNote::parse(&other.note).is_ok_and(|note| {
                note.checkpoint.root != checkpoint.root && note.is_signed_by(self.name.as_str(), &key)
            })
        });
        let this = SignedNote::parse(&head.note).is_ok_and(|note| note.is_signed_by(self.name.as_str(), &key));
        if other && this {
            self.found.forks.push((head.size, head.size));
        }
    }

    /// The branch at `at` gives the signed root.
    fn proved(&mut self, at: usize, checkpoint: &Checkpoint, head: &Head) {
        let Some(branch) = self.branches.get_mut(at) else { return };
        let size = checkpoint.size;
        if branch.rival {
            // What it contradicts was proved before.
            self.found.forks.push((self.found.size, size));
            self.branches.remove(at);
            return;
        }
        let fork = branch.refuted.first().copied();
        self.found.forks.extend(fork.map(|refuted| (refuted, size)));
        self.found.proved += branch.present;
        self.found.more_effects += std::mem::take(&mut branch.more_effects);
        self.found.first_key = self.found.first_key.or(self.key);
        let effects = branch.prove(size);
        self.found.effects.extend(effects);
        self.found.size = self.found.size.max(size);
        self.attested = None;
        if let Some(note) = &head.cosigned {
            self.cosigned.push((size, note.clone(), std::mem::take(&mut branch.oldest_ns)));
        }
        let winner = branch.clone();
        // A branch that waits behind a hole goes on; of the others, those that know other leaves contradict.
        self.branches.retain(|branch| branch.range.is_some() && (branch.next > size || branch.range != winner.range));
        for branch in &mut self.branches {
            if branch.next > size {
                branch.wait(&winner.epoch);
            } else {
                branch.rival = true;
            }
        }
        self.branches.insert(0, winner);
    }
}

/// The tree of a head from its frontier and last leaf, if they give its root (H4).
fn tree(head: &Head, root: Hash, last: Option<Hash>) -> Option<Range> {
    let mut range = Range::from_nodes(0, head.size.checked_sub(1)?, head.frontier.as_ref()?).ok()?;
    range.push(last?);
    (range.root() == Some(root)).then_some(range)
}

/// The tree goes on behind what is lost; what is there in between was neither proved by a head nor vouched for.
fn strand(branch: &mut Branch, proved: u64) {
    let wrong = branch.range.is_some();
    if branch.present > branch.present_linked || wrong {
        let absent = branch.effects.iter().filter_map(|effect| match effect {
            Effect::Absent(from, to) => Some((*from, *to)),
            _ => None,
        });
        let ends = [(branch.linked_from, branch.linked_from)];
        let mut from = proved;
        let mut stranded = Vec::new();
        for (begin, end) in absent.chain(ends) {
            if from < begin {
                stranded.push(Effect::Stranded(from, begin, wrong));
            }
            from = from.max(end);
        }
        stranded.into_iter().for_each(|effect| branch.add(effect));
    }
    branch.present = branch.present_linked;
    branch.refuted.clear();
}

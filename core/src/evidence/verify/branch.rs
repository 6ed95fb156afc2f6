//! One way to read a stream: which record stands at each place.
//!
//! Where a stream is as it was sealed there is one way. Where a record was changed or removed, the record after it still says by
//! `prev` what stood there; each possibility becomes a branch, and the next signed head tells which one is true.

use super::effects::Effects;
use super::epoch::Epoch;
use super::fact::{Excuse, Gap, Kind, Leaf, Place, Totals};
use super::group::{CLAIMS_MAX, Group, Says};
use super::inside::Inside;
use super::verdict::Verdict;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;
use std::cmp::Ordering;
use std::sync::Arc;

/// Most records beside the one of a place that are told one by one.
const EXTRAS_MAX: usize = 8;

/// What follows if a branch is the true one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Effect {
    /// The record at this place is not what was sealed.
    Altered(u64, Place),
    /// The records `[from, to)` are not there.
    Absent(u64, u64),
    /// One more record claims this place.
    Extra(u64, Place),
    /// Records `[from, to)`, which a hole stands for, are there; they are not what was sealed, or nothing proves that they are.
    Within(u64, u64),
    /// So many more do, the first of which stands there.
    Extras(u64, Place, u64),
    /// What is there of the records `[from, to)` is not proved: with what lies between them and the next head they do not
    /// give its root (`true`), or that is not there (`false`).
    Stranded(u64, u64, bool),
    /// What is there of the records `[from, to)` does not give the root of the next head with the hashes that it names of what is
    /// not there. A record that somebody put into such a place is enough for that.
    Unfit(u64, u64),
    /// Exchanges that were not recorded.
    Gap(u64, Gap),
    /// Records `[from, to)` are declared as not there, by each of these.
    Hole(u64, u64, Arc<[Says]>),
    /// A record that says something of another stream.
    Source(u64, Hash),
    /// A certificate.
    Certified(u64, Vec<u8>),
    /// The Resource differs from what the stream's first record says.
    Resource(u64, Place),
    /// Signed totals that do not hold.
    Totals(u64, Verdict, String),
    /// A genuine record that is not understood.
    Unknown(u64, Place, String),
    /// The note that ends an epoch at this size is not there.
    NoLastNote(u64),
    /// A record after the end, which stood at this place.
    AfterClose(u64, u64),
    /// The latest of the records that are not proved, and its time.
    Stray(Late),
}

/// A record, and the latest time in it, in nanoseconds since the epoch. The later one is the larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Late {
    pub(super) time_ns: u64,
    pub(super) seq: u64,
    pub(super) place: Place,
}

impl Effect {
    /// Whether it speaks against the branch: an honest and whole export has none of these.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Hole(.., said) => usize::from(said.iter().all(|says| says.excuse == Excuse::None)),
            Self::Altered(..)
            | Self::Extra(..)
            | Self::Extras(..)
            | Self::Within(..)
            | Self::AfterClose(..)
            | Self::Stray(_) => 1,
            Self::Absent(..) | Self::Stranded(..) | Self::Unfit(..) => 2,
            _ => 0,
        }
    }
}

/// One way to read a stream.
#[derive(Clone, Debug)]
pub(super) struct Branch {
    /// The leaves up to `next`; `None`: some are not known.
    pub(super) range: Option<Range>,
    /// The next place to decide.
    pub(super) next: u64,
    /// Hash of the leaf before it, where it is known.
    pub(super) last: Option<Hash>,
    /// The keys.
    pub(super) epoch: Epoch,
    /// What follows, since the last proved head.
    pub(super) effects: Effects,
    /// Effects for which there was no room.
    pub(super) more_effects: u64,
    /// Sizes of signed heads that this branch contradicts, since the last proved one: the first and the largest.
    pub(super) refuted: Option<(u64, u64)>,
    /// First place from which each record vouches for the one before it, up to `next`.
    pub(super) linked_from: u64,
    /// Genuine records since the last proved head; of them since `linked_from`.
    pub(super) present: u64,
    pub(super) present_linked: u64,
    /// Latest time in what a head proved; 0: none.
    pub(super) proved_ns: u64,
    /// The latest of the records that are counted, since `linked_from`, and before.
    latest_linked: Option<Late>,
    latest_before: Option<Late>,
    /// The hole that it passed over last, as long as `next` is where that ends.
    inside: Option<Inside>,
    /// Where it was closed.
    pub(super) closed: Option<u64>,
    /// What the Resource must say.
    resource: u64,
    /// Totals of the last checkpoint, and what was counted since; `None`: something is not known.
    totals: Option<(Totals, Totals)>,
    /// Earliest time in a genuine record since the last head that was cosigned; 0: none.
    pub(super) oldest_ns: u64,
    /// It contradicts a proved head.
    pub(super) rival: bool,
}

impl Branch {
    pub(super) fn new() -> Self {
        Self {
            range: Some(Range::empty(0)),
            next: 0,
            last: None,
            epoch: Epoch::default(),
            effects: Effects::default(),
            more_effects: 0,
            refuted: None,
            linked_from: 0,
            present: 0,
            present_linked: 0,
            proved_ns: 0,
            latest_linked: None,
            latest_before: None,
            inside: None,
            closed: None,
            resource: 0,
            totals: Some(Default::default()),
            oldest_ns: 0,
            rival: false,
        }
    }

    pub(super) fn weight(&self) -> usize {
        self.effects.weight() + usize::from(self.rival)
    }

    /// What is not there since the last proved head.
    pub(super) fn absent(&self) -> impl Iterator<Item = std::ops::Range<u64>> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Absent(from, to) => Some(*from..*to),
            _ => None,
        })
    }

    /// Where what is there ends.
    pub(super) fn end(&self) -> u64 {
        match self.effects.last() {
            Some(Effect::Absent(from, to)) if *to == self.next => *from,
            _ => self.next,
        }
    }

    pub(super) fn add(&mut self, effect: Effect) {
        if !self.effects.add(effect) {
            self.more_effects += 1;
        }
    }

    /// It contradicts a signed head of this size.
    pub(super) fn refute(&mut self, size: u64) {
        self.refuted = Some(self.refuted.map_or((size, size), |(first, largest)| (first, largest.max(size))));
    }

    /// Takes `hash` as the leaf of the group's place. `false`: then a genuine record would deny the one before it.
    pub(super) fn accept(&mut self, hash: Hash, group: &Group) -> bool {
        let genuine = group.leaves.iter().find(|leaf| leaf.leaf == hash);
        if let Some(leaf) = genuine
            && self.last.is_some()
            && leaf.prev != self.last
        {
            return false;
        }
        if let Some(inside) = self.inside.take() {
            inside.ends(genuine.and_then(|leaf| leaf.prev)).for_each(|effect| self.add(effect));
        }
        self.push(hash);
        let mut others = group.leaves.iter().filter(|leaf| leaf.leaf != hash);
        match genuine {
            Some(leaf) => self.count(leaf),
            None => {
                if group.is_dropped(hash) {
                    let place = group.leaves.first().map_or(0, |leaf| leaf.place);
                    let problem = format!("over {CLAIMS_MAX} records claim its place, and it was not read");
                    self.add(Effect::Unknown(group.seq, place, problem));
                } else if let Some(altered) = others.next() {
                    self.altered(altered);
                } else {
                    self.add(Effect::Absent(group.seq, group.seq.saturating_add(1)));
                }
                self.break_link(group.seq);
            }
        }
        self.extra(group.seq, others);
        true
    }

    /// A record that is not what was sealed. It may still tell a key truly, which the next note shows; but one that the ledger named,
    /// or a record, stays.
    fn altered(&mut self, leaf: &Leaf) {
        self.add(Effect::Altered(leaf.seq, leaf.place));
        match &leaf.kind {
            Kind::Open(key, _) if self.epoch.key.is_none() => {
                (self.epoch.key, self.epoch.first) = (Some(*key), Some(*key));
            }
            Kind::Checkpoint(_, Some(next)) => self.epoch.roll(leaf.seq, *next),
            _ => {}
        }
    }

    /// Others that claim the place of a record: of many the rest is one effect, so that they leave room for what else there is.
    pub(super) fn extra<'a>(&mut self, seq: u64, mut others: impl Iterator<Item = &'a Leaf>) {
        for other in others.by_ref().take(EXTRAS_MAX) {
            self.add(Effect::Extra(seq, other.place));
        }
        if let Some(first) = others.next() {
            let count = u64::try_from(others.count()).unwrap_or(u64::MAX).saturating_add(1);
            self.add(Effect::Extras(seq, first.place, count));
        }
    }

    /// The leaf before the next record, of which only the hash is known.
    pub(super) fn accept_absent(&mut self, hash: Hash) {
        let seq = self.next;
        self.inside = None;
        self.push(hash);
        self.add(Effect::Absent(seq, seq.saturating_add(1)));
        self.break_link(seq);
    }

    /// Passes over records of which nothing is known.
    pub(super) fn lose(&mut self, to: u64) {
        self.add(Effect::Absent(self.next, to));
        self.inside = None;
        self.range = None;
        self.last = None;
        self.next = to;
        self.break_link(to);
    }

    /// Passes over records that a hole stands for, as these say.
    pub(super) fn skip(&mut self, hole: &Range, said: &Arc<[Says]>) {
        let grown = self.range.as_mut().is_some_and(|range| range.append(hole));
        if !grown {
            self.range = None;
        }
        let (from, to) = (self.next, hole.end());
        self.add(Effect::Hole(from, to, said.clone()));
        self.inside = Some(Inside::new(hole, said.iter().any(Says::is_ledger), self.inside.take()));
        self.last = None;
        self.next = to;
        self.break_link(to);
    }

    /// Takes records of a place that lies in the hole it passed over; `named` are those that the records behind them name.
    pub(super) fn within(&mut self, held: &Group, named: &[Hash]) {
        let against = self.inside.as_mut().map(|inside| inside.take(held, named));
        against.into_iter().flatten().for_each(|effect| self.add(effect));
    }

    /// Whether it passes over records that were removed by order, before and behind a head of this size, and knows the tree.
    pub(super) fn passes_over(&self, size: u64) -> bool {
        !self.rival && self.range.is_some() && self.inside.as_ref().is_some_and(|inside| inside.is_by_order(size))
    }

    fn push(&mut self, hash: Hash) {
        if let Some(range) = &mut self.range {
            range.push(hash);
        }
        self.last = Some(hash);
        self.next = self.next.saturating_add(1);
    }

    /// What is not there vouches for nothing, counts nothing and names no key.
    fn break_link(&mut self, seq: u64) {
        self.linked_from = seq;
        self.present_linked = 0;
        self.latest_before = self.latest_before.max(self.latest_linked.take());
        self.totals = None;
        self.epoch.unsure = true;
    }

    fn count(&mut self, leaf: &Leaf) {
        self.present += 1;
        self.present_linked += 1;
        let late = Late { time_ns: leaf.time_ns, seq: leaf.seq, place: leaf.place };
        self.latest_linked = self.latest_linked.max(Some(late));
        if leaf.time_ns > 0 && (self.oldest_ns == 0 || leaf.time_ns < self.oldest_ns) {
            self.oldest_ns = leaf.time_ns;
        }
        if let Some(end) = self.closed {
            self.add(Effect::AfterClose(leaf.seq, end));
        }
        if let Kind::Open(_, resource) = leaf.kind {
            self.resource = resource;
        }
        if leaf.resource != 0 && self.resource != 0 && leaf.resource != self.resource {
            self.add(Effect::Resource(leaf.seq, leaf.place));
        }
        match &leaf.kind {
            Kind::Open(key, _) => {
                self.epoch = Epoch::beginning(*key);
                self.add(Effect::Source(leaf.seq, leaf.leaf));
            }
            Kind::Exchange => self.tally(|counted| &mut counted.exchanges, 1),
            Kind::Burst(count) => self.tally(|counted| &mut counted.bursts, *count),
            Kind::Note => {}
            Kind::Statement => self.add(Effect::Source(leaf.seq, leaf.leaf)),
            Kind::Certified(der) => self.add(Effect::Certified(leaf.seq, der.clone())),
            Kind::Gap(gap) => {
                self.tally(|counted| &mut counted.gaps, gap.count);
                self.add(Effect::Gap(leaf.seq, gap.clone()));
            }
            Kind::Checkpoint(totals, next) => {
                self.check_totals(leaf.seq, totals);
                if let Some(next) = next {
                    self.epoch.roll(leaf.seq, *next);
                }
            }
            Kind::Close(totals) => {
                self.check_totals(leaf.seq, totals);
                self.closed = Some(leaf.seq);
            }
            Kind::Unknown(problem) => {
                self.totals = None;
                self.add(Effect::Unknown(leaf.seq, leaf.place, problem.clone()));
            }
        }
    }

    fn tally(&mut self, field: impl Fn(&mut Totals) -> &mut u64, count: u64) {
        if let Some((_, counted)) = &mut self.totals {
            let slot = field(counted);
            *slot = slot.saturating_add(count);
        }
    }

    /// G3: what is signed must add up, and agree with what is there.
    fn check_totals(&mut self, seq: u64, totals: &Totals) {
        if !totals.add_up() {
            let accounted = [totals.exchanges, totals.bursts, totals.gaps, totals.none, totals.open];
            let accounted = accounted.iter().fold(0_u64, |sum, part| sum.saturating_add(*part));
            let (verdict, what) = if totals.begun > accounted {
                (Verdict::Missing, "exchanges are in no record, burst, gap or count")
            } else {
                (Verdict::Tampered, "more exchanges are accounted for than were begun")
            };
            let message =
                format!("the signed totals do not add up: {} begun, {accounted} accounted: {what}", totals.begun);
            self.add(Effect::Totals(seq, verdict, message));
        } else if let Some((base, counted)) = self.totals {
            let pairs = [
                ("exchanges", base.exchanges, counted.exchanges, totals.exchanges),
                ("exchanges in bursts", base.bursts, counted.bursts, totals.bursts),
                ("exchanges in gaps", base.gaps, counted.gaps, totals.gaps),
            ];
            for (what, before, since, signed) in pairs {
                let found = before.saturating_add(since);
                if found != signed {
                    let message = format!("{found} {what} are there, the signed totals say {signed}");
                    self.add(Effect::Totals(seq, Verdict::Tampered, message));
                }
            }
        }
        self.check_none(seq, totals);
        self.totals = Some((*totals, Totals::default()));
    }

    /// G3: what policy leaves out stands under the revision and the rule that leave it out.
    fn check_none(&mut self, seq: u64, totals: &Totals) {
        let (verdict, what) = match totals.none_named.cmp(&totals.none) {
            Ordering::Equal => return,
            Ordering::Less => (Verdict::Missing, "no policy revision and rule stands for the others"),
            Ordering::Greater => (Verdict::Tampered, "more are under policy revisions and rules"),
        };
        let message = format!(
            "the signed totals do not add up: {} exchanges of which policy wants no record, {} by policy revision and rule: {what}",
            totals.none, totals.none_named
        );
        self.add(Effect::Totals(seq, verdict, message));
    }

    /// It waits behind a hole while another branch proves a head of this size before the hole's end.
    pub(super) fn wait(&mut self, proved: &Self, size: u64) {
        self.effects.only_holes();
        self.epoch = proved.epoch.clone();
        self.epoch.unsure = true;
        if let Some(inside) = &mut self.inside {
            inside.proved(size, proved.last);
        }
        self.begin_anew();
    }

    /// The tree goes on behind what is lost. What is there before `linked_from` was neither proved by a head nor vouched for: so
    /// it says nothing, neither of this stream nor of others.
    pub(super) fn strand(&mut self, proved: u64) {
        let (wrong, from) = (self.range.is_some(), self.linked_from);
        let unfit = wrong && self.absent().next().is_some();
        self.effects.retain(|effect| match effect {
            Effect::Gap(seq, _)
            | Effect::Source(seq, _)
            | Effect::Certified(seq, _)
            | Effect::Totals(seq, ..)
            | Effect::Unknown(seq, ..) => *seq >= from,
            Effect::AfterClose(_, end) => *end >= from,
            _ => true,
        });
        self.closed = self.closed.filter(|seq| *seq >= from);
        if self.present > self.present_linked || wrong {
            let absent = self.absent().map(|range| (range.start, range.end));
            let mut at = proved;
            let mut stranded = Vec::new();
            for (begin, end) in absent.chain([(from, from)]) {
                if at < begin {
                    stranded.push(if unfit { Effect::Unfit(at, begin) } else { Effect::Stranded(at, begin, wrong) });
                }
                at = at.max(end);
            }
            stranded.extend(self.latest_before.filter(|_| !wrong).map(Effect::Stray));
            stranded.into_iter().for_each(|effect| self.add(effect));
        }
        self.present = self.present_linked;
        self.latest_before = None;
        self.refuted = None;
    }

    /// What came so far is told.
    fn begin_anew(&mut self) {
        self.refuted = None;
        (self.present, self.present_linked) = (0, 0);
        (self.latest_linked, self.latest_before) = (None, None);
    }

    /// A head of this size was proved: gives what follows from it, and begins anew.
    pub(super) fn prove(&mut self, size: u64) -> Effects {
        if let Some(last) = self.epoch.proved(size) {
            self.add(Effect::NoLastNote(last));
        }
        self.proved_ns = self.proved_ns.max(self.latest_linked.map_or(0, |late| late.time_ns));
        self.begin_anew();
        std::mem::take(&mut self.effects)
    }
}

//! What is kept of streams that nobody vouches for, of which anyone can make up more than fit into memory.
//!
//! A stream that the ledger knows, or a certificate names, is kept as a whole whatever else there is. Of the others a bounded number
//! is; of the rest the verdicts count, and how many there are.

use super::condition::Condition;
use super::fact::{Source, StreamNo};
use super::report::StreamReport;
use super::settle::Proved;
use super::verdict::Verdict;
use crate::evidence::stream::StreamId;
use std::collections::{BTreeMap, HashSet};

/// Most streams that nobody vouches for and that a report lists, some 0.5 KiB each.
const STRANGERS_MAX: usize = 1 << 16;

/// Most conditions about such streams that wait for records to be proved, each with what it proves: some 1 KiB each.
const WAITING_MAX: usize = 1 << 16;

/// Most proved records of such streams that may say something of others, some 0.1 KiB each.
const SOURCES_MAX: usize = 1 << 19;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) strangers: usize,
    pub(super) waiting: usize,
    pub(super) sources: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { strangers: STRANGERS_MAX, waiting: WAITING_MAX, sources: SOURCES_MAX }
    }
}

/// Streams of a report.
#[derive(Default)]
pub(super) struct Listed {
    pub(super) streams: BTreeMap<StreamId, StreamReport>,
    strangers: usize,
    /// How many more there are, their records, and those of them that are proved.
    pub(super) more: u64,
    pub(super) records: u64,
    pub(super) proved: u64,
}

impl Listed {
    /// Takes a stream, and whether somebody vouches for it.
    pub(super) fn add(&mut self, report: StreamReport, is_vouched: bool, room: Room) {
        if is_vouched || self.strangers < room.strangers {
            self.strangers += usize::from(!is_vouched);
            self.streams.insert(report.sid.clone(), report);
        } else {
            self.more += 1;
            self.records = self.records.saturating_add(report.records);
            self.proved = self.proved.saturating_add(report.proved);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.more == 0
    }
}

/// The stream that conditions are about.
#[derive(Clone, Copy, Debug)]
pub(super) struct About {
    pub(super) number: StreamNo,
    /// It is looked at.
    pub(super) wanted: bool,
    pub(super) is_vouched: bool,
}

/// Conditions that wait for records to be proved. Streams are concluded in order of their numbers, so that of many conditions it is
/// known at once whether they hold.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) conditions: Vec<(bool, Condition)>,
    /// Records that are proved.
    pub(super) proved: Proved,
    /// Records that are, if one of the conditions holds.
    perhaps: HashSet<Source>,
    waiting: usize,
    strange_sources: usize,
    /// There was no room for a record that is proved, or may be: no condition is known not to hold.
    is_short: bool,
    /// The worst that conditions may mean for which there was no room.
    beyond: BTreeMap<Verdict, u64>,
}

impl Pending {
    /// Whether anything is given that can vouch for streams.
    pub(super) fn new(is_trust_given: bool) -> Self {
        Self { proved: Proved::new(is_trust_given), ..Self::default() }
    }

    /// Takes a stream that the ledger could not know; it counts only if one of its records does.
    pub(super) fn unkept(&mut self, number: StreamNo, room: Room) {
        if self.strange_sources < room.sources {
            self.proved.unkept(number);
        }
    }

    /// Takes records of a stream that are proved.
    pub(super) fn proved(
        &mut self,
        number: StreamNo,
        sources: impl IntoIterator<Item = Source>,
        is_vouched: bool,
        room: Room,
    ) {
        if is_vouched {
            self.proved.anchor(number);
        }
        for source in sources {
            if is_vouched || self.strange_sources < room.sources {
                self.strange_sources += usize::from(!is_vouched);
                self.proved.insert(source);
            } else {
                self.is_short = true;
            }
        }
    }

    /// Takes the conditions of a stream; gives those that are decided, and whether they hold.
    pub(super) fn take(&mut self, about: About, all: Vec<Condition>, room: Room) -> Vec<(Condition, bool)> {
        let mut decided = Vec::new();
        let own: HashSet<Source> = all.iter().flat_map(proves).collect();
        let mut rest = all;
        rest.reverse();
        while let Some(mut condition) = rest.pop() {
            let proves = proves(&condition);
            if condition.is_proved(&self.proved) {
                let is_anchored = about.is_vouched || self.proved.anchors(&condition);
                self.proved(about.number, std::mem::take(&mut condition.sources), is_anchored, room);
                rest.extend(std::mem::take(&mut condition.then));
                decided.push((condition, true));
            } else if !self.is_short && !self.may_hold(about.number, &condition, &own) {
                // What is decided instead proves nothing.
                let otherwise = std::mem::take(&mut condition.otherwise).into_iter();
                rest.extend(otherwise.map(|other| Condition { sources: Vec::new(), then: Vec::new(), ..other }));
                decided.push((condition, false));
            } else if about.is_vouched || self.waiting.saturating_add(proves.len()) < room.waiting {
                self.waiting += if about.is_vouched { 0 } else { proves.len().saturating_add(1) };
                self.perhaps.extend(proves);
                self.conditions.push((about.wanted, condition));
            } else {
                self.is_short |= !proves.is_empty();
                self.beyond(about.wanted, &condition);
            }
        }
        decided
    }

    /// Whether one of those who say it may still be proved.
    fn may_hold(&self, number: StreamNo, condition: &Condition, own: &HashSet<Source>) -> bool {
        let may = |source: &Source| source.stream > number || self.perhaps.contains(source) || own.contains(source);
        // Who vouches for its stream may come yet.
        let other = |source: &Source| self.proved.contains(source) || may(source);
        let first = |source: &Source| if condition.excuses { other(source) } else { may(source) };
        condition.said_by().any(first) || condition.others.iter().flat_map(Condition::said_by).any(other)
    }

    /// Of a condition that is not known to hold, nor not to, the worst counts.
    fn beyond(&mut self, wanted: bool, condition: &Condition) {
        let worst = worst(condition);
        if wanted && worst > Verdict::Ok {
            let count = self.beyond.entry(worst).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// All are settled but these, which do not hold as far as is known. Gives the verdicts of those of which that is not known.
    pub(super) fn unknown(mut self, rest: &[(bool, Condition)]) -> BTreeMap<Verdict, u64> {
        if self.is_short {
            rest.iter().for_each(|(wanted, condition)| self.beyond(*wanted, condition));
        }
        self.beyond
    }
}

/// What may be proved with it.
fn proves(condition: &Condition) -> Vec<Source> {
    let mut all = condition.sources.clone();
    all.extend(condition.then.iter().chain(&condition.others).flat_map(proves));
    all
}

/// The worst that it may mean.
fn worst(condition: &Condition) -> Verdict {
    let findings = condition.yes.iter().chain(&condition.no).map(|finding| finding.verdict);
    let inner = condition.then.iter().chain(&condition.otherwise).chain(&condition.others).map(worst);
    findings.chain(inner).max().unwrap_or(Verdict::Ok)
}

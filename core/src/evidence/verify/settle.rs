//! Conditions that wait for records to be proved, each of which may prove more.
//!
//! Each record is looked up when it is proved, so that a long row of streams that vouch for each other costs no more than as many
//! that do not.

use super::condition::Condition;
use super::fact::{Source, StreamNo};
use super::trust::Ledger;
use super::verdict::{Finding, Verdict};
use crate::evidence::hash::Hash;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

/// Records that are proved, and whose word excuses anything. Whoever may push OTLP can sign a stream of any pod with a key of their own:
/// where something is given that vouches for streams, what is absent of one is excused by those alone that it vouches for (V2).
#[derive(Default)]
pub(super) struct Proved {
    sources: HashSet<Source>,
    /// Streams that the ledger or a certificate names, or of which such a one says what was found of them.
    anchored: HashSet<StreamNo>,
    /// Streams that the ledger could not know, as nobody kept it.
    unkept: HashSet<StreamNo>,
    is_trust_given: bool,
    /// All that is anchored has been heard: the rest counts for what it is.
    is_last_word: bool,
}

impl Proved {
    pub(super) fn new(is_trust_given: bool) -> Self {
        let sources = HashSet::from([Ledger::SOURCE, Ledger::ERASER]);
        Self { sources, anchored: HashSet::from([Ledger::SOURCE.stream]), is_trust_given, ..Self::default() }
    }

    pub(super) fn contains(&self, source: &Source) -> bool {
        self.sources.contains(source)
    }

    pub(super) fn insert(&mut self, source: Source) -> bool {
        self.sources.insert(source)
    }

    pub(super) fn anchor(&mut self, stream: StreamNo) -> bool {
        self.anchored.insert(stream)
    }

    pub(super) fn unkept(&mut self, stream: StreamNo) {
        self.unkept.insert(stream);
    }

    pub(super) fn is_last_word(&self) -> bool {
        self.is_last_word || !self.is_trust_given
    }

    /// Whether this record bears the condition out.
    pub(super) fn counts(&self, condition: &Condition, source: &Source) -> bool {
        let at_last = || self.is_last_word && (condition.stranger.is_some() || self.unkept.contains(&source.stream));
        let is_heard =
            || !self.is_trust_given || !condition.excuses || self.anchored.contains(&source.stream) || at_last();
        self.sources.contains(source) && is_heard()
    }

    /// Whether one that is anchored says what was found of the whole stream: that is what an anchor is for.
    pub(super) fn anchors(&self, condition: &Condition) -> bool {
        condition.whole.is_some() && self.is_anchored(condition)
    }

    /// Whether one that is anchored vouches for its stream after all, or at least names it.
    fn knows(&self, condition: &Condition) -> bool {
        let names = |other: &Condition| !other.excuses && self.is_anchored(other);
        condition.stranger.is_some_and(|stream| self.anchored.contains(&stream)) || condition.others.iter().any(names)
    }

    fn is_anchored(&self, condition: &Condition) -> bool {
        let is_anchored = |source: &Source| self.sources.contains(source) && self.anchored.contains(&source.stream);
        condition.said_by().any(is_anchored)
    }

    /// Says of what is excused by nobody better that it is.
    fn tell(&self, condition: &mut Condition) {
        if self.is_trust_given && condition.excuses && condition.stranger.is_none() && !self.is_anchored(condition) {
            let message = "excused only by a stream of its pod that neither the ledger nor a certificate names, of a time in which \
                           nobody kept the ledger that was given: anyone who may send records can make up such a one";
            let records = condition.yes.first().and_then(|finding| finding.records.clone());
            let whole = Finding::whole(Verdict::Unanchored, &condition.about, message);
            condition.yes.push(Finding { records, ..whole });
        }
    }
}

/// Conditions, and whether their stream is looked at.
pub(super) struct Waiting {
    conditions: Vec<Option<(bool, Condition)>>,
    /// Which of them wait for a record, and which could do with it instead.
    by_source: BTreeMap<Source, Vec<usize>>,
    by_other: BTreeMap<Source, Vec<usize>>,
}

impl Waiting {
    pub(super) fn new(conditions: Vec<(bool, Condition)>) -> Self {
        let (by_source, by_other) = Default::default();
        let mut this = Self { conditions: Vec::with_capacity(conditions.len()), by_source, by_other };
        conditions.into_iter().for_each(|(wanted, condition)| {
            this.add(wanted, condition);
        });
        this
    }

    fn add(&mut self, wanted: bool, condition: Condition) -> usize {
        let at = self.conditions.len();
        for source in condition.said_by() {
            self.by_source.entry(*source).or_default().push(at);
        }
        for source in condition.others.iter().flat_map(Condition::said_by) {
            self.by_other.entry(*source).or_default().push(at);
        }
        self.conditions.push(Some((wanted, condition)));
        at
    }

    /// Gives each condition of which a record is proved; what that proves is added. Gives the rest back.
    pub(super) fn settle(
        mut self,
        proved: &mut Proved,
        mut holds: impl FnMut(bool, &mut Condition),
    ) -> Vec<(bool, Condition)> {
        let at_first = |by: &BTreeMap<Source, Vec<usize>>, proved: &Proved| -> BTreeSet<usize> {
            by.iter().filter(|(source, _)| proved.contains(source)).flat_map(|(_, at)| at.iter().copied()).collect()
        };
        let mut instead = at_first(&self.by_other, proved);
        let mut ready: VecDeque<usize> = at_first(&self.by_source, proved).into_iter().collect();
        loop {
            while let Some(at) = ready.pop_front() {
                let Some(waiting) = self.conditions.get_mut(at) else { continue };
                let Some((wanted, mut condition)) = waiting.take_if(|(_, condition)| condition.is_proved(proved))
                else {
                    continue;
                };
                proved.tell(&mut condition);
                holds(wanted, &mut condition);
                let anchored = condition.whole.filter(|_| proved.anchors(&condition));
                for source in std::mem::take(&mut condition.sources) {
                    if proved.insert(source) {
                        ready.extend(self.by_source.get(&source).into_iter().flatten());
                        instead.extend(self.by_other.get(&source).into_iter().flatten());
                    }
                }
                if let Some(stream) = anchored
                    && proved.anchor(stream)
                {
                    let from = Source { stream, seq: 0, leaf: Hash([0; 32]) };
                    let of = |source: &Source| source.stream == stream;
                    ready.extend(self.by_source.range(from..).take_while(|(s, _)| of(s)).flat_map(|(_, at)| at));
                    instead.extend(self.by_other.range(from..).take_while(|(s, _)| of(s)).flat_map(|(_, at)| at));
                }
                for then in condition.then {
                    let is_proved = then.is_proved(proved);
                    let at = self.add(wanted, then);
                    if is_proved {
                        ready.push_back(at);
                    } else {
                        instead.insert(at);
                    }
                }
            }
            // Only now: a condition's own record may have been proved last.
            for at in std::mem::take(&mut instead) {
                if let Some(Some((_, condition))) = self.conditions.get_mut(at)
                    && condition.becomes(proved)
                {
                    ready.push_back(at);
                }
            }
            if !ready.is_empty() {
                continue;
            }
            if proved.is_last_word() {
                return Self::rest(self.conditions.into_iter().flatten(), proved, holds);
            }
            proved.is_last_word = true;
            let known = self.conditions.iter_mut().flatten().filter(|(_, condition)| proved.knows(condition));
            known.for_each(|(_, condition)| condition.of_a_stranger(None));
            instead = at_first(&self.by_other, proved);
            ready = at_first(&self.by_source, proved).into_iter().collect();
        }
    }

    /// What does not hold, and what is decided because of that.
    fn rest(
        conditions: impl Iterator<Item = (bool, Condition)>,
        proved: &Proved,
        mut holds: impl FnMut(bool, &mut Condition),
    ) -> Vec<(bool, Condition)> {
        let mut rest = Vec::new();
        for (wanted, mut condition) in conditions {
            for mut other in std::mem::take(&mut condition.otherwise) {
                if other.is_proved(proved) || other.becomes(proved) {
                    proved.tell(&mut other);
                    holds(wanted, &mut other);
                } else {
                    rest.push((wanted, other));
                }
            }
            rest.push((wanted, condition));
        }
        rest
    }
}

//! Conditions that wait for records to be proved, each of which may prove more.
//!
//! Each record is looked up when it is proved, so that a long row of streams that vouch for each other costs no more than as many
//! that do not.

use super::conclude::Condition;
use super::fact::Source;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

/// Conditions, and whether their stream is looked at.
pub(super) struct Waiting {
    conditions: Vec<Option<(bool, Condition)>>,
    /// Which of them wait for a record, and which could do with it instead.
    by_source: HashMap<Source, Vec<usize>>,
    by_other: HashMap<Source, Vec<usize>>,
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
        sources: &mut HashSet<Source>,
        mut holds: impl FnMut(bool, &mut Condition),
    ) -> Vec<(bool, Condition)> {
        let at_first = |by: &HashMap<Source, Vec<usize>>| -> BTreeSet<usize> {
            by.iter().filter(|(source, _)| sources.contains(source)).flat_map(|(_, at)| at.iter().copied()).collect()
        };
        let mut instead = at_first(&self.by_other);
        let mut ready: VecDeque<usize> = at_first(&self.by_source).into_iter().collect();
        loop {
            while let Some(at) = ready.pop_front() {
                let Some((wanted, mut condition)) = self.conditions.get_mut(at).and_then(Option::take) else {
                    continue;
                };
                holds(wanted, &mut condition);
                for source in std::mem::take(&mut condition.sources) {
                    if sources.insert(source) {
                        ready.extend(self.by_source.get(&source).into_iter().flatten());
                        instead.extend(self.by_other.get(&source).into_iter().flatten());
                    }
                }
                for then in condition.then {
                    let is_proved = then.is_proved(sources);
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
                    && condition.becomes(sources)
                {
                    ready.push_back(at);
                }
            }
            if ready.is_empty() {
                return Self::rest(self.conditions.into_iter().flatten(), sources, holds);
            }
        }
    }

    /// What does not hold, and what is decided because of that.
    fn rest(
        conditions: impl Iterator<Item = (bool, Condition)>,
        sources: &HashSet<Source>,
        mut holds: impl FnMut(bool, &mut Condition),
    ) -> Vec<(bool, Condition)> {
        let mut rest = Vec::new();
        for (wanted, mut condition) in conditions {
            for mut other in std::mem::take(&mut condition.otherwise) {
                if other.is_proved(sources) || other.becomes(sources) {
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

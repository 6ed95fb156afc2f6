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
        let (mut by_source, mut by_other): (HashMap<Source, Vec<usize>>, HashMap<Source, Vec<usize>>) =
            Default::default();
        for (at, (_, condition)) in conditions.iter().enumerate() {
            by_source.entry(condition.source).or_default().push(at);
            for other in &condition.others {
                by_other.entry(other.source).or_default().push(at);
            }
        }
        Self { conditions: conditions.into_iter().map(Some).collect(), by_source, by_other }
    }

    /// Gives each condition whose record is proved; what that proves is added. Gives the rest back.
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
                return self.conditions.into_iter().flatten().collect();
            }
        }
    }
}

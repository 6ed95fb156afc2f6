//! Findings, of which a report lists the worst and counts the others.
//!
//! Anyone can make as many findings as there are records to push. What is not listed still counts, by its verdict.

use super::verdict::{Finding, Verdict};
use std::collections::BTreeMap;

/// Most findings that a report lists; more are counted. The mildest make room for worse ones.
pub const FINDINGS_MAX: usize = 10_000;

/// How many findings back the same is not said again.
const REPEATS: usize = 8;

/// How many findings of each verdict.
pub(super) type Counts = BTreeMap<Verdict, u64>;

/// The worst findings, and how many more there were.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Those of each verdict in the order in which they came.
    listed: BTreeMap<Verdict, Vec<Finding>>,
    count: usize,
    unlisted: Counts,
}

impl Findings {
    /// Takes one; `false`: it was just said.
    pub(super) fn add(&mut self, finding: Finding) -> bool {
        let same = self.listed.entry(finding.verdict).or_default();
        if same.iter().rev().take(REPEATS).any(|known| *known == finding) {
            return false;
        }
        if self.count < FINDINGS_MAX {
            same.push(finding);
            self.count += 1;
            return true;
        }
        let milder = self.listed.range_mut(..finding.verdict).find_map(|(_, listed)| listed.pop());
        let unlisted = match milder {
            Some(milder) => {
                self.listed.entry(finding.verdict).or_default().push(finding);
                milder
            }
            None => finding,
        };
        self.count_more(unlisted.verdict, 1);
        true
    }

    /// Counts some that are not listed.
    pub(super) fn count_more(&mut self, verdict: Verdict, count: u64) {
        let known = self.unlisted.entry(verdict).or_default();
        *known = known.saturating_add(count);
    }

    /// Those that are listed, and how many more there are.
    pub(super) fn into_parts(self) -> (impl Iterator<Item = Finding>, Counts) {
        (self.listed.into_values().flatten(), self.unlisted)
    }
}

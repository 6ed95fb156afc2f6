//! What it means that records are not there.

use super::conclude::Concluding;
use super::verdict::Verdict;
use std::ops::Range;

impl Concluding<'_> {
    /// What the absence of `[from, to)` amounts to, part by part; of what was abandoned also why.
    pub(super) fn absence(&self, from: u64, to: u64) -> Vec<(Verdict, Range<u64>, Option<&str>)> {
        let ledger = self.trust.ledger.as_ref();
        let abandoned = ledger.map(|ledger| ledger.abandoned(&self.chain.name, from, to)).unwrap_or_default();
        let mut parts = Vec::new();
        let mut at = from;
        for (records, reason) in abandoned {
            parts.extend(self.unexplained(at, records.start).map(|(verdict, records)| (verdict, records, None)));
            at = records.end;
            parts.push((Verdict::Gap, records, Some(reason)));
        }
        parts.extend(self.unexplained(at, to).map(|(verdict, records)| (verdict, records, None)));
        parts.retain(|(_, records, _)| !records.is_empty());
        parts
    }

    /// Where absence proves nothing: of `[from, to)`, the parts before, within and after what must be there.
    fn unexplained(&self, from: u64, to: u64) -> [(Verdict, Range<u64>); 3] {
        let to = to.max(from);
        let windowed = self.settings.scope.from_ns.is_some() || self.settings.scope.to_ns.is_some();
        let (first, last) = match (self.settings.partial, windowed, self.chain.found.window) {
            (true, ..) | (_, true, None) => (u64::MAX, u64::MAX),
            (_, true, Some((first, last))) => (first, last),
            (_, false, _) => (0, u64::MAX),
        };
        let (a, b) = (first.clamp(from, to), last.clamp(from, to));
        [(Verdict::Partial, from..a), (Verdict::Missing, a..b), (Verdict::Partial, b..to)]
    }

    pub(super) fn missing(&mut self, from: u64, to: u64) {
        self.lacking(from, to, "signed, but not in the export");
    }

    /// Says that `[from, to)` are not there; where nothing excuses that, with these words.
    pub(super) fn lacking(&mut self, from: u64, to: u64, words: &str) {
        let parts = self.absence(from, to).into_iter().map(|(verdict, records, reason)| {
            let message = match (reason, verdict) {
                (Some(reason), _) => abandoned(reason),
                (_, Verdict::Missing) => words.to_owned(),
                _ => "not in the export, which is not whole".to_owned(),
            };
            (verdict, records, message)
        });
        let parts: Vec<_> = parts.collect();
        parts.into_iter().for_each(|(verdict, records, message)| self.say(verdict, records, message));
    }

    /// Whether the ledger says that all of `[from, to)` was abandoned.
    pub(super) fn is_abandoned(&self, from: u64, to: u64) -> bool {
        let parts = self.absence(from, to);
        !parts.is_empty() && parts.iter().all(|(.., reason)| reason.is_some())
    }
}

/// Records that never reached a sink.
pub(super) fn abandoned(reason: &str) -> String {
    format!("abandoned: sealed, and gone with its pod before a sink had them, as the ledger says ({reason})")
}

//! What it means that records are not there.

use super::conclude::Concluding;
use super::trust::Abandoned;
use super::verdict::Verdict;
use std::ops::Range;

impl Concluding<'_> {
    /// What the absence of `[from, to)` amounts to, part by part; of what was abandoned also what the ledger says.
    pub(super) fn absence(&self, from: u64, to: u64) -> Vec<(Verdict, Range<u64>, Option<&Abandoned>)> {
        self.absent_before(from, to, u64::MAX)
    }

    /// The same of records that only the ledger says were sealed: what it had of late may be on its way to the backend.
    pub(super) fn absent_by_ledger(&self, from: u64, to: u64) -> Vec<(Verdict, Range<u64>, Option<&Abandoned>)> {
        let due = self
            .trust
            .ledger
            .as_ref()
            .map_or(u64::MAX, |ledger| ledger.had_by(&self.chain.name, self.settings.due_ns(ledger.last_ns)));
        self.absent_before(from, to, due.max(self.chain.found.size).max(self.chain.found.claimed))
    }

    fn absent_before(&self, from: u64, to: u64, due: u64) -> Vec<(Verdict, Range<u64>, Option<&Abandoned>)> {
        let (ledger, export_of) = (self.trust.ledger.as_ref(), self.settings.sink.as_deref());
        let abandoned =
            ledger.map(|ledger| ledger.abandoned(&self.chain.name, [from, to], export_of)).unwrap_or_default();
        let mut parts = Vec::new();
        let mut at = from;
        for (records, abandoned) in abandoned {
            parts.extend(self.unexplained(at, records.start, due).map(|(verdict, records)| (verdict, records, None)));
            at = records.end;
            parts.push((Verdict::Gap, records, Some(abandoned)));
        }
        parts.extend(self.unexplained(at, to, due).map(|(verdict, records)| (verdict, records, None)));
        parts.retain(|(_, records, _)| !records.is_empty());
        parts
    }

    /// Where absence proves nothing: of `[from, to)`, the parts before, within and after what must be there. A time without an
    /// end, and no time at all, is that of streams that go on: there nothing but what is not due yet may be absent from their ends.
    pub(super) fn unexplained(&self, from: u64, to: u64, due: u64) -> [(Verdict, Range<u64>); 3] {
        let to = to.max(from);
        let scope = &self.settings.scope;
        let first = self.window_from();
        let (first, last, rest) = match (self.settings.partial, scope.from_ns, scope.to_ns) {
            (true, ..) => (u64::MAX, u64::MAX, Verdict::Partial),
            (_, None, None) => (0, due, Verdict::Pending),
            (_, _, None) => (first, due, Verdict::Pending),
            (_, _, Some(_)) => (first, self.window_to(), Verdict::Partial),
        };
        let a = first.clamp(from, to);
        let b = last.clamp(a, to);
        [(Verdict::Partial, from..a), (Verdict::Missing, a..b), (rest, b..to)]
    }

    /// The first record that must be there: the first checkpoint of the time that is looked at, or the one under the first head
    /// that the ledger clearly has from that time.
    fn window_from(&self) -> u64 {
        let there = self.chain.window_begins();
        let ledger = self.trust.ledger.as_ref().filter(|_| self.settings.scope.from_ns.is_some());
        let shown = ledger.and_then(|ledger| ledger.shown.get(&self.chain.name)?.since());
        shown.map_or(there, |size| there.min(size.saturating_sub(1)))
    }

    /// The record up to which all must be there, of a time with an end: the last checkpoint of it, or what the ledger clearly had
    /// before its end.
    fn window_to(&self) -> u64 {
        let there = self.chain.found.window.map_or(0, |(_, last)| last);
        let ledger = self.trust.ledger.as_ref();
        let known = ledger.and_then(|ledger| self.settings.known_within(ledger, &self.chain.name));
        known.map_or(there, |size| there.max(size))
    }

    pub(super) fn missing(&mut self, from: u64, to: u64) {
        self.lacking(from, to, "signed, but not in the export");
    }

    /// Says that `[from, to)` are not there; where nothing excuses that, with these words.
    pub(super) fn lacking(&mut self, from: u64, to: u64, words: &str) {
        let parts = self.absence(from, to).into_iter().map(|(verdict, records, abandoned)| {
            let message = match (abandoned, verdict) {
                (Some(abandoned), _) => said(abandoned),
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
        !parts.is_empty() && parts.iter().all(|(.., abandoned)| abandoned.is_some())
    }
}

/// What is said of records that never reached a sink.
pub(super) fn said(Abandoned { reason, sink, .. }: &Abandoned) -> String {
    let sink = sink.as_ref().map_or_else(|| "a sink".to_owned(), |sink| format!("sink {sink}"));
    format!("abandoned: sealed, and gone with its pod before {sink} had them, as the ledger says ({reason})")
}

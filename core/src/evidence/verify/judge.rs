//! All streams of an export, one after the other.

use super::absence;
use super::behind::{begins_late, behind, ends_early};
use super::chain::Chain;
use super::conclude::{Conclusion, IDLE_NS, conclude};
use super::condition::Condition;
use super::crowd::{About, Listed, Pending, Room};
use super::fact::{Fact, Life, StreamNo};
use super::findings::Findings;
use super::intake::{Intake, LEDGER_BYTES_MAX};
use super::report::{Exposure, External, Report, StreamReport, WINDOWS_MAX, limits};
use super::settle::Waiting;
use super::time::utc;
use super::trust::{Basis, Ledger, LedgerStream, MissingEntries, Trust, Uncovered};
use super::verdict::{Finding, Verdict};
use crate::evidence::ledger::shown::Times;
use crate::evidence::stream::StreamId;
use std::collections::{BTreeMap, HashSet};

/// A pod may need so long until its first record is in a backend.
const POD_START_NS: u64 = 300_000_000_000;

/// What is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Streams of this namespace only.
    pub namespace: Option<String>,
    /// Streams whose name begins so.
    pub stream: Option<String>,
    /// From this time on, in nanoseconds since the epoch.
    pub from_ns: Option<u64>,
    /// Up to this time.
    pub to_ns: Option<u64>,
}

impl Scope {
    /// Whether what lasted from one time to another, or still lasts, falls into the time that is looked at.
    fn meets(&self, from_ns: u64, to_ns: Option<u64>) -> bool {
        from_ns <= self.to_ns.unwrap_or(u64::MAX) && to_ns.unwrap_or(u64::MAX) >= self.from_ns.unwrap_or(0)
    }

    /// The end of the time that is looked at, but not after this.
    pub(super) fn until_ns(&self, latest_ns: u64) -> u64 {
        self.to_ns.unwrap_or(u64::MAX).min(latest_ns)
    }

    /// Whether a stream is looked at.
    pub fn contains(&self, stream: &StreamId) -> bool {
        let namespace = || stream.parts().map(|parts| parts.namespace.to_owned());
        self.namespace.as_ref().is_none_or(|wanted| namespace().as_deref() == Some(wanted.as_str()))
            && self.stream.as_ref().is_none_or(|prefix| stream.as_str().starts_with(prefix.as_str()))
    }

    /// Whether it is about what is looked at.
    pub(super) fn holds(&self, finding: &Finding) -> bool {
        finding.stream.as_ref().is_none_or(|stream| self.contains(stream))
    }
}

/// How to look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What to look at.
    pub scope: Scope,
    /// The scope in words.
    pub scope_text: String,
    /// The sink whose export this is: holes of other sinks excuse nothing. `None`: it is not known, and those of each sink do.
    pub sink: Option<String>,
    /// The export is filtered: absence proves nothing (V3).
    pub partial: bool,
    /// The present, in nanoseconds since the epoch.
    pub now_ns: u64,
    /// How long a record may be without a head, in nanoseconds.
    pub max_lag_ns: u64,
}

impl Settings {
    /// What a ledger knew before this time must be in the export; `last_ns` is when the ledger ends.
    pub(super) fn due_ns(&self, last_ns: u64) -> u64 {
        last_ns.min(self.now_ns).saturating_sub(self.max_lag_ns)
    }

    /// From when until when what the ledger knows is clearly of the time that is looked at: how far streams had come then must
    /// be known exactly (`Asked::times`).
    pub fn times(&self) -> Times {
        let margin_ns = IDLE_NS.saturating_add(self.max_lag_ns);
        Times {
            since_ns: self.scope.from_ns.map(|from_ns| from_ns.saturating_add(margin_ns)),
            until_ns: self.scope.to_ns.map(|to_ns| to_ns.saturating_sub(margin_ns)),
        }
    }

    /// The only cluster whose streams are looked at.
    pub fn cluster(&self) -> Option<&str> {
        self.scope.stream.as_deref()?.split_once('/').map(|(cluster, _)| cluster)
    }

    /// Size of the last head of a stream that the ledger clearly had before the end of the time that is looked at; `None`: it
    /// has none that is clearly of that time, or the time has no end.
    pub(super) fn known_within(&self, ledger: &Ledger, stream: &StreamId) -> Option<u64> {
        let shown = ledger.shown.get(stream)?;
        let last = shown.until()?;
        let first = if self.scope.from_ns.is_some() { shown.since()? } else { 1 };
        (first <= last).then_some(last)
    }

    /// Whether this stream may be on its way to the backend: nothing ends the time that is looked at, and it was taken up by the
    /// ledger, which ends at this time, so late that nothing of it need be there.
    fn is_on_its_way(&self, stream: &LedgerStream, last_ns: u64) -> bool {
        self.scope.to_ns.is_none()
            && stream.certified_ns.is_some_and(|certified_ns| certified_ns > self.due_ns(last_ns))
    }
}

/// Judges rows that come sorted.
pub struct Verification {
    intake: Intake,
    settings: Settings,
    trust: Trust,
    current: Option<(StreamNo, Chain)>,
    listed: Listed,
    findings: Findings,
    worst: Verdict,
    /// A finding is one that nobody may be content with.
    broken: bool,
    /// The worst of streams that are listed, or expected.
    worst_of: BTreeMap<StreamId, Verdict>,
    pending: Pending,
    pub(super) room: Room,
    /// Pods that the ledger expects; and whether streams of theirs are there.
    pods: BTreeMap<String, bool>,
    exposure: Exposure,
    copies: u64,
    /// A hole of one sink was accepted, though it is not known whose export this is.
    of_some_sink: bool,
    /// When the ledger's own witness cosigned last, as the export shows, and a head of which stream.
    cosigned: Option<(u64, StreamId)>,
}

impl Verification {
    /// Begins to judge what the intake has read, with the scope for which that was made.
    pub fn new(mut intake: Intake, settings: Settings, trust: Trust) -> Self {
        let pending = Pending::new(trust.is_given());
        let pods = trust.ledger.iter().flat_map(|ledger| &ledger.pods).map(|pod| (pod.uid.clone(), false)).collect();
        let mut this = Self {
            settings,
            trust,
            current: None,
            listed: Listed::default(),
            findings: Findings::default(),
            worst: Verdict::Ok,
            broken: false,
            worst_of: BTreeMap::new(),
            pending,
            room: Room::default(),
            pods,
            exposure: Exposure::default(),
            copies: 0,
            of_some_sink: false,
            cosigned: None,
            intake: Intake::default(),
        };
        let (listed, unlisted) = std::mem::take(&mut intake.findings).into_parts();
        for finding in listed.filter(|finding| this.settings.scope.holds(finding)).collect::<Vec<_>>() {
            // Their streams come later.
            if let Some(stream) = &finding.stream {
                this.worst_of.entry(stream.clone()).or_insert(Verdict::Ok);
            }
            this.find(finding);
        }
        for (verdict, count) in unlisted {
            this.weigh(None, verdict);
            this.findings.count_more(verdict, count);
        }
        this.intake = intake;
        this
    }

    /// Takes the next row; rows come in order of their bytes. `false`: it is no row.
    pub fn feed(&mut self, row: &[u8]) -> bool {
        let Some((number, fact)) = Fact::read(row) else { return false };
        self.fact(number, fact)
    }

    fn fact(&mut self, number: StreamNo, fact: Fact) -> bool {
        if self.current.as_ref().is_some_and(|(current, _)| *current != number) {
            self.stream_ends();
        }
        if self.current.is_none() {
            let Fact::Name(name) = fact else { return false };
            let known = self.trust.ledger.as_ref().and_then(|ledger| ledger.streams.get(&name));
            let scope = &self.settings.scope;
            let window = scope.from_ns.unwrap_or(0)..=scope.to_ns.unwrap_or(u64::MAX);
            self.current = Some((number, Chain::new(name, known, window, self.settings.sink.clone())));
        } else if let Some((_, chain)) = &mut self.current {
            chain.feed(fact);
        }
        true
    }

    fn stream_ends(&mut self) {
        let Some((number, mut chain)) = self.current.take() else { return };
        chain.end();
        let Conclusion { mut report, findings, mut conditions, sources, exposure, cosigned_ns } =
            conclude(&chain, number, &self.settings, &self.trust);
        let known = self.trust.ledger.as_ref().is_some_and(|ledger| ledger.streams.contains_key(&chain.name));
        let is_vouched = report.certified || known;
        if let Some(ledger) = self.trust.ledger.as_ref().filter(|_| !is_vouched) {
            if !sources.is_empty() && ledger.was_unkept(chain.found.times, &self.settings) {
                self.pending.unkept(number, self.room);
            }
            conditions.iter_mut().for_each(|condition| condition.of_a_stranger(Some(number)));
        }
        self.pending.proved(number, sources, is_vouched, self.room);
        // Those of other namespaces too: the ledger is that of all.
        self.cosigned = self.cosigned.take().max(cosigned_ns.map(|at| (at, chain.name.clone())));
        let wanted = self.settings.scope.contains(&chain.name);
        let decided = self.pending.take(About { number, wanted, is_vouched }, conditions, self.room);
        if !wanted {
            return;
        }
        self.copies += chain.found.copies;
        self.exposure.longest_ns = self.exposure.longest_ns.max(exposure.longest_ns);
        self.exposure.uncovered += exposure.uncovered;
        let room = WINDOWS_MAX.saturating_sub(self.exposure.windows.len());
        self.exposure.windows.extend(exposure.windows.into_iter().take(room));
        report.verdict = chain.found.read.unwrap_or(Verdict::Ok);
        // One that is only spoken of is no stream of the export.
        if chain.found.records > 0 || chain.found.claimed > 0 {
            let pod = chain.name.parts().and_then(|parts| self.pods.get_mut(parts.pod_uid));
            pod.into_iter().for_each(|is_there| *is_there = true);
            self.listed.add(report, is_vouched, self.room);
        }
        findings.into_iter().for_each(|finding| self.find(finding));
        decided.into_iter().for_each(|(condition, holds)| self.decided(condition, holds));
    }

    /// Says what follows from a condition about a stream that is looked at.
    fn decided(&mut self, condition: Condition, holds: bool) {
        if holds {
            self.of_some_sink |= condition.of_some_sink;
            match self.listed.streams.get_mut(&condition.about) {
                Some(report) => {
                    report.proved += condition.proved;
                    report.closed |= condition.closed;
                }
                None => self.listed.proved = self.listed.proved.saturating_add(condition.proved),
            }
        }
        let findings = if holds { condition.yes } else { condition.no };
        findings.into_iter().for_each(|finding| self.find(finding));
    }

    fn find(&mut self, finding: Finding) {
        if self.settings.scope.holds(&finding) {
            self.weigh(finding.stream.as_ref(), finding.verdict);
            self.findings.add(finding);
        }
    }

    /// Every finding counts, whether or not it is listed.
    fn weigh(&mut self, stream: Option<&StreamId>, verdict: Verdict) {
        self.worst = self.worst.max(verdict);
        self.broken |= verdict.exit_code() == 1;
        let Some(stream) = stream else { return };
        let expected = || self.trust.ledger.as_ref().is_some_and(|ledger| ledger.streams.contains_key(stream));
        if let Some(worst) = self.worst_of.get_mut(stream) {
            *worst = (*worst).max(verdict);
        } else if self.listed.streams.contains_key(stream) || expected() {
            self.worst_of.insert(stream.clone(), verdict);
        }
    }

    /// Says what waited for other records to be proved.
    fn settle(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        let waiting = Waiting::new(std::mem::take(&mut pending.conditions));
        let mut proved = std::mem::take(&mut pending.proved);
        let rest = waiting.settle(&mut proved, |wanted, condition| {
            if wanted {
                self.decided(condition.told(), true);
            }
        });
        for (verdict, count) in pending.unknown(&rest) {
            let message = format!(
                "statements of streams that neither the ledger nor a certificate names were too many to be looked at: the worst that \
                 {count} of them may mean counts"
            );
            self.find(Finding::export(verdict, message));
        }
        for (_, condition) in rest.into_iter().filter(|(wanted, _)| *wanted) {
            self.decided(condition, false);
        }
    }

    fn expected(&mut self) {
        let Some(ledger) = &self.trust.ledger else {
            if self.intake.ledger_is_over {
                let message = format!(
                    "the input holds over {LEDGER_BYTES_MAX} bytes of ledger entries among the records, more than are kept, so none \
                     was used: give the ledger in a file of its own (--ledger FILE, from `testimony ledger export`)"
                );
                self.find(Finding::export(Verdict::Unanchored, message));
            }
            let message = match self.intake.ledger_given {
                true => "no ledger was used: whether streams are missing as a whole cannot be told",
                false => "no ledger was given: whether streams are missing as a whole cannot be told",
            };
            return self.find(Finding::export(Verdict::Unanchored, message));
        };
        let (behind, last_ns) = (behind(ledger, &self.settings, self.cosigned.as_ref()), ledger.last_ns);
        let begins_late = begins_late(ledger, &self.settings);
        let ends_early = ends_early(ledger, &self.settings);
        // What was not looked at says nothing of it.
        let told = |name: &StreamId| self.worst_of.get(name).is_some_and(|worst| *worst != Verdict::Unknown);
        let known = |name: &StreamId| self.listed.streams.contains_key(name) || told(name);
        // What ended before the time that is looked at need not be there.
        let from_ns = self.settings.scope.from_ns.unwrap_or(0);
        let due = ledger.streams.iter().filter(|(_, stream)| stream.to_ns >= from_ns);
        let must_be_there =
            |name| self.settings.scope.to_ns.is_none() || self.settings.known_within(ledger, name).is_some();
        let absent = due.filter(|(name, _)| !known(name));
        let absent: Vec<_> = absent.map(|(name, stream)| (name.clone(), stream.clone(), must_be_there(name))).collect();
        ends_early.or(behind).into_iter().chain(begins_late).for_each(|finding| self.find(finding));
        if !self.settings.partial {
            let message = "the ledger expects this stream; nothing of it is in the export";
            for (name, stream, must_be_there) in &absent {
                // Nor need be, perhaps, what began after it.
                let absence = if *must_be_there { Verdict::Missing } else { Verdict::Partial };
                let verdict = if self.settings.is_on_its_way(stream, last_ns) { Verdict::Pending } else { absence };
                let abandoned = self.abandoned(name);
                let all = abandoned
                    .iter()
                    .filter_map(|finding| finding.records.clone())
                    .try_fold(0, |at, records| (records.start <= at).then_some(records.end));
                let excused = !abandoned.is_empty() && all.is_some_and(|end| end >= stream.size);
                abandoned.into_iter().for_each(|finding| self.find(finding));
                if stream.size == 0 && stream.life == Life::Lost {
                    let message = "its key was certified; it never showed a head, and its pod is gone";
                    self.find(Finding::whole(Verdict::Unclosed, name, message));
                } else if !excused {
                    self.find(Finding::whole(verdict, name, message));
                }
            }
        }
        self.pods();
    }

    /// What of a stream the ledger says was abandoned.
    fn abandoned(&self, name: &StreamId) -> Vec<Finding> {
        let export_of = self.settings.sink.as_deref();
        let parts = self.trust.ledger.as_ref().map(|ledger| ledger.abandoned(name, [0, u64::MAX], export_of));
        let parts = parts.unwrap_or_default().into_iter();
        parts.map(|(records, part)| Finding::of(Verdict::Gap, name, records, absence::said(part))).collect()
    }

    /// W4: pods that must have a stream, and those that were not covered.
    fn pods(&mut self) {
        let Some(ledger) = &self.trust.ledger else { return };
        let scope = &self.settings.scope;
        let wanted = |namespace: &str| scope.namespace.as_ref().is_none_or(|name| name == namespace);
        let mut findings = Vec::new();
        // A scope of streams holds pods without one only where it holds all streams of their namespace.
        let of_streams = |namespace: &str| {
            let names = format!("{}/{namespace}/", ledger.cluster_uid);
            scope.stream.as_ref().is_none_or(|prefix| names.starts_with(prefix.as_str()))
        };
        let bare = ledger.uncovered.iter().filter(|bare| wanted(&bare.namespace) && of_streams(&bare.namespace));
        for Uncovered { namespace, what, .. } in bare.filter(|bare| scope.meets(bare.from_ns, bare.to_ns)) {
            findings.push(Finding::export(Verdict::Gap, format!("not recorded: {namespace}/{what}")));
        }
        for MissingEntries { sid, entries, between_ns: (before_ns, behind_ns) } in &ledger.missing {
            if scope.meets(*before_ns, Some(*behind_ns)) {
                let (from, to) = (entries.start, entries.end.saturating_sub(1));
                let message = format!(
                    "entries {from} to {to} of ledger {sid} ({} to {}) were signed, and are not in the input: what was known is restated \
                     behind them, but not what had ended by then, nor forks",
                    utc(*before_ns),
                    utc(*behind_ns)
                );
                findings.push(Finding::export(Verdict::Missing, message));
            }
        }
        // A stream that the ledger knows is judged by itself.
        let known = ledger.streams.keys().filter_map(|name| name.parts()).map(|parts| parts.pod_uid);
        let there = self.pods.iter().filter(|(_, is_there)| **is_there).map(|(uid, _)| uid.as_str());
        let seen: HashSet<&str> = known.chain(there).collect();
        // One that began just before the ledger's end had no time to be in an export of then, whenever that is looked at.
        let settled = self.settings.now_ns.saturating_sub(POD_START_NS);
        let due = self.settings.now_ns.min(ledger.last_ns).saturating_sub(POD_START_NS);
        let all = !self.settings.partial && scope.stream.is_none();
        for pod in ledger.pods.iter().filter(|pod| all && wanted(&pod.namespace)) {
            if scope.meets(pod.from_ns, pod.to_ns) && pod.from_ns < settled && !seen.contains(pod.uid.as_str()) {
                let (verdict, since) = match pod.from_ns < due {
                    true => (Verdict::Missing, ""),
                    false => (Verdict::Pending, " since shortly before its own end"),
                };
                let message = format!(
                    "the ledger expects streams of pod {}/{} ({}){since}; none is in the export",
                    pod.namespace, pod.name, pod.uid
                );
                findings.push(Finding::export(verdict, message));
            }
        }
        findings.into_iter().for_each(|finding| self.find(finding));
    }

    /// All rows were given.
    pub fn finish(mut self) -> Report {
        self.stream_ends();
        self.settle();
        self.expected();
        if self.trust.roots.is_none() {
            self.find(Finding::export(
                Verdict::Unanchored,
                "no trust roots were given: the streams vouch for themselves alone",
            ));
        }
        if self.settings.partial {
            self.find(Finding::export(Verdict::Partial, "a filtered export: what is absent from it proves nothing"));
        }
        if self.listed.is_empty() {
            self.find(Finding::export(Verdict::Unknown, "there is no record of what is looked at in the input"));
        }
        let external = self.trust.ledger.as_ref().and_then(|ledger| ledger.external(&self.trust.witnesses));
        let external = external.map(|(until_ns, by)| External { until_ns, by: by.to_owned() });
        let trust = match (&external, &self.trust.roots) {
            (Some(_), Some(_)) => Basis::External,
            (_, Some(_)) => Basis::Operator,
            _ => Basis::None,
        };
        let verdict = self.worst;
        for (name, worst) in &self.worst_of {
            if let Some(report) = self.listed.streams.get_mut(name) {
                report.verdict = report.verdict.max(*worst);
            }
        }
        let (listed, more_by_verdict) = self.findings.into_parts();
        let mut findings: Vec<Finding> = listed.collect();
        findings.sort_by(|a, b| {
            let key =
                |f: &Finding| (std::cmp::Reverse(f.verdict), f.stream.clone(), f.records.as_ref().map(|r| r.start));
            key(a).cmp(&key(b))
        });
        let told = self.trust.ledger.iter().flat_map(|ledger| &ledger.told);
        let told = told.filter(|(name, _)| self.settings.scope.contains(name));
        let told = told.map(|(name, what)| format!("{name}: {what}")).collect();
        let mut lacks = self.trust.ledger.iter().flat_map(|ledger| &ledger.abandoned);
        let of_one =
            lacks.any(|(name, parts)| self.settings.scope.contains(name) && parts.iter().any(|p| p.sink.is_some()));
        let of_some_sink = self.of_some_sink || of_one && self.settings.sink.is_none();
        let mut not_concluded = limits(trust, self.trust.ledger.is_some(), of_some_sink);
        not_concluded.extend(self.trust.ledger.iter().flat_map(Ledger::not_concluded));
        let Listed { streams, more, records, proved, .. } = self.listed;
        let streams: Vec<StreamReport> = streams.into_values().collect();
        Report {
            verdict,
            exit_code: if self.broken { 1 } else { verdict.exit_code() },
            trust,
            external,
            scope: self.settings.scope_text,
            records: streams.iter().fold(records, |sum, stream| sum.saturating_add(stream.records)),
            proved: streams.iter().fold(proved, |sum, stream| sum.saturating_add(stream.proved)),
            copies: self.copies,
            others: self.intake.others,
            streams,
            more_streams: more,
            findings,
            more_findings: more_by_verdict.values().fold(0, |sum, count| sum.saturating_add(*count)),
            more_by_verdict,
            hints: Vec::new(),
            exposure: self.exposure,
            ledger: told,
            not_concluded,
        }
    }
}

//! From what the records of one stream show to what is said of it.

use super::absence;
use super::behind::last_cosigned;
use super::branch::{Effect, Late};
use super::chain::Chain;
use super::condition::Condition;
use super::fact::{Excuse, Source, StreamNo};
use super::found::Attested;
use super::group::Says;
use super::judge::Settings;
use super::report::{Exposure, StreamReport, WINDOWS_MAX};
use super::time::utc;
use super::trust::{Ledger, Trust};
use super::verdict::{Finding, Verdict};
use crate::evidence::note::SignedNote;
use crate::evidence::seal::COSIGNED_SECONDS;
use std::ops::Range;

/// Nanoseconds between two heads of an idle stream (H2).
pub(super) const IDLE_NS: u64 = 300_000_000_000;

/// How many findings back the same is not said again.
const REPEATS: usize = 8;

/// What is said of one stream.
pub(super) struct Conclusion {
    pub(super) report: StreamReport,
    pub(super) findings: Vec<Finding>,
    pub(super) conditions: Vec<Condition>,
    pub(super) sources: Vec<Source>,
    pub(super) exposure: Exposure,
    /// When one of its heads was cosigned by the ledger's own witness, in nanoseconds since the epoch: the last time.
    pub(super) cosigned_ns: Option<u64>,
}

/// A stream that is being judged.
pub(super) struct Concluding<'a> {
    pub(super) chain: &'a Chain,
    pub(super) number: StreamNo,
    pub(super) settings: &'a Settings,
    pub(super) trust: &'a Trust,
    pub(super) out: Conclusion,
}

/// Says what there is to say of a stream whose facts have all been read.
pub(super) fn conclude(chain: &Chain, number: StreamNo, settings: &Settings, trust: &Trust) -> Conclusion {
    let found = &chain.found;
    let report = StreamReport {
        sid: chain.name.clone(),
        verdict: Verdict::Ok,
        records: found.records.saturating_sub(found.copies),
        proved: found.proved,
        size: found.size,
        first_ns: found.times.0,
        last_ns: found.times.1,
        closed: false,
        certified: false,
    };
    let out = Conclusion {
        report,
        findings: Vec::new(),
        conditions: Vec::new(),
        sources: Vec::new(),
        exposure: Exposure::default(),
        cosigned_ns: trust.ledger.as_ref().and_then(|ledger| last_cosigned(chain, ledger)),
    };
    let mut this = Concluding { chain, number, settings, trust, out };
    this.beyond();
    if found.records == 0 && found.claimed == 0 {
        this.absent();
        this.ignored(found.ignored);
        return this.out;
    }
    found.effects.iter().for_each(|effect| this.proved(effect));
    this.heads();
    if let Some(tail) = chain.branches.iter().find(|branch| !branch.rival) {
        this.tail(tail);
    }
    this.anchor();
    this.behind();
    this.expose();
    this.ignored(found.more_effects.saturating_add(found.ignored));
    this.out
}

impl Concluding<'_> {
    pub(super) fn say(&mut self, verdict: Verdict, records: Range<u64>, message: impl Into<String>) {
        let known = |finding: &&Finding| finding.verdict == verdict && finding.records.as_ref() == Some(&records);
        if !self.out.findings.iter().rev().take(REPEATS).any(|finding| known(&finding)) {
            self.out.findings.push(Finding::of(verdict, &self.chain.name, records, message));
        }
    }

    pub(super) fn whole(&mut self, verdict: Verdict, message: impl Into<String>) {
        self.out.findings.push(Finding::whole(verdict, &self.chain.name, message));
    }

    /// What was only counted.
    fn ignored(&mut self, more: u64) {
        if more > 0 {
            self.whole(Verdict::Unknown, format!("{more} more findings or claims of this stream were not looked at"));
        }
    }

    /// Nothing of the stream is there.
    fn absent(&mut self) {
        // Removed as a whole, by order.
        for effect in self.chain.attested.last().iter().flat_map(|attested| attested.effects.iter()) {
            if let Effect::Hole(from, to, said) = effect {
                self.hole(*from, *to, said);
            }
        }
        // Where holes account for all that was found of it, they say what that is worth.
        let is_hole = |effect: &Effect| matches!(effect, Effect::Hole(..));
        let declared = |end: &Attested| !end.effects.is_empty() && end.effects.iter().all(is_hole);
        if self.chain.attested.iter().any(declared) {
            return;
        }
        let scope = &self.settings.scope;
        let is_whole = !self.settings.partial && scope.from_ns.is_none() && scope.to_ns.is_none();
        // It may have ended before the window.
        let verdict = if is_whole { Verdict::Missing } else { Verdict::Partial };
        let finding = |message: String| vec![Finding::whole(verdict, &self.chain.name, message)];
        // Of streams that the ledger expects, the verification says it in the end, as of those that nobody else names.
        let expected = self.trust.ledger.as_ref().is_some_and(|ledger| ledger.streams.contains_key(&self.chain.name));
        if !expected {
            let named = |source: &Source| {
                let yes = finding("another stream of its pod names this one; nothing of it is in the export".into());
                Condition::that(&self.chain.name, *source, yes)
            };
            // Nothing is absent of what was never kept, if who says so is proved.
            let nothing = |source: &Source| {
                let that = Condition::that(&self.chain.name, *source, Vec::new());
                Condition { excuses: true, ..that }
            };
            let nothing = self.chain.found.nothing.iter().map(nothing);
            let told: Vec<_> = nothing.chain(self.chain.found.named.iter().map(named)).collect();
            self.out.conditions.extend(Condition::first_of(told));
            self.ignored(self.chain.found.named_more);
        }
    }

    /// An effect under a proved head.
    pub(super) fn proved(&mut self, effect: &Effect) {
        match effect {
            Effect::Altered(seq, place) => self.altered(*seq, *place),
            Effect::Absent(from, to) => self.missing(*from, *to),
            Effect::Extra(seq, place) => self.extra(*seq, *place),
            Effect::Extras(seq, place, count) => {
                let message = format!("{count} more records claim this place, and nothing signed proves them");
                self.out.findings.push(Finding::of(Verdict::Foreign, &self.chain.name, one(*seq), message).at(*place));
            }
            Effect::Stranded(from, to, wrong) => self.stranded(*from, *to, *wrong),
            Effect::Gap(seq, gap) => {
                let least = if gap.exact { "" } else { "at least " };
                let message = format!("{least}{} exchanges were not recorded: {}", gap.count, gap.reason);
                self.say(Verdict::Gap, one(*seq), message);
            }
            Effect::Hole(from, to, said) => self.hole(*from, *to, said),
            Effect::Source(seq, leaf) => {
                self.out.sources.push(Source { stream: self.number, seq: *seq, leaf: *leaf });
            }
            Effect::Certified(seq, der) => self.certified(*seq, der),
            Effect::Resource(seq, place) => {
                let message = "its Resource names another pod or node than the first record of the stream";
                self.out
                    .findings
                    .push(Finding::of(Verdict::Projection, &self.chain.name, one(*seq), message).at(*place));
            }
            Effect::Totals(seq, verdict, message) => self.say(*verdict, one(*seq), message.clone()),
            Effect::Unknown(seq, place, problem) => {
                let message = format!("genuine, but not understood: {problem}");
                self.out.findings.push(Finding::of(Verdict::Unknown, &self.chain.name, one(*seq), message).at(*place));
            }
            Effect::NoLastNote(size) => {
                let message = "the head that ends the epoch of the old key is not there: up to here nothing ties the new key to it";
                self.say(Verdict::Missing, one(size.saturating_sub(1)), message);
            }
            Effect::AfterClose(seq, _) => {
                self.say(Verdict::Tampered, one(*seq), "it was sealed after the end of the stream");
            }
            Effect::Stray(late) => self.stray(late),
            Effect::Within(from, to) => {
                let message = "declared as not there; what is there of them was left over or put there, and nothing signed proves it";
                self.say(Verdict::Foreign, *from..*to, message);
            }
            Effect::Unfit(from, to) => self.unfit(*from, *to),
        }
    }

    fn altered(&mut self, seq: u64, place: u64) {
        let message = "it is not the record that was sealed";
        self.out.findings.push(Finding::of(Verdict::Tampered, &self.chain.name, one(seq), message).at(place));
    }

    fn extra(&mut self, seq: u64, place: u64) {
        let message = "one more record claims this place, and nothing signed proves it";
        self.out.findings.push(Finding::of(Verdict::Foreign, &self.chain.name, one(seq), message).at(place));
    }

    pub(super) fn stranded(&mut self, from: u64, to: u64, wrong: bool) {
        if wrong {
            let message = "they do not give the signed root: at least one was changed, and it cannot be told which";
            self.say(Verdict::Tampered, from..to, message);
        } else {
            // At the ends of an export over a time too: it holds what began then, and what is sealed between may have begun
            // before.
            let message = "what is there of them cannot be proved, because of what is missing next to them";
            let parts = self.unexplained(from, to, u64::MAX).into_iter().filter(|(_, records)| !records.is_empty());
            parts.for_each(|(verdict, records)| self.say(verdict, records, message));
        }
    }

    /// Records that do not give a signed root, of which some are not there: what is there was changed, or nobody sealed it.
    pub(super) fn unfit(&mut self, from: u64, to: u64) {
        let message = "with what is missing next to them they do not give the signed root: at least one was changed or put there, \
                       and nothing signed proves them";
        self.say(Verdict::Foreign, from..to, message);
    }

    /// A record that is not proved. It may be of the time before the one that is looked at, as what stands there is cut off
    /// somewhere; if it is later than what was sealed behind it, it is not.
    fn stray(&mut self, late: &Late) {
        let looked_at = !self.settings.partial && self.settings.scope.from_ns.is_some();
        let begin_ns = self.chain.found.window_ns.saturating_add(self.settings.max_lag_ns);
        if looked_at && late.seq < self.chain.window_begins() && late.time_ns > begin_ns {
            let message = "later than records that claim to be sealed behind it, and nothing signed proves it";
            let finding = Finding::of(Verdict::Foreign, &self.chain.name, one(late.seq), message);
            self.out.findings.push(finding.at(late.place));
        }
    }

    /// A hole is worth what the first says who declares it and is proved.
    fn hole(&mut self, from: u64, to: u64, said: &[Says]) {
        let reason = said.first().map(|says| says.reason.as_str()).unwrap_or_default();
        let finding = |verdict, message: String| vec![Finding::of(verdict, &self.chain.name, from..to, message)];
        let condition = |says: &Says| {
            let Says { source, reason, excuse } = says;
            let yes = if *source == Ledger::SOURCE {
                finding(Verdict::Pruned, format!("removed by order: {reason}"))
            } else if *source == Ledger::ERASER {
                finding(Verdict::Erased, format!("erased: {reason}"))
            } else {
                finding(Verdict::Gap, format!("lost after sealing, as declared: {reason}"))
            };
            let of_some_sink = *excuse == Excuse::OfSomeSink;
            let excuses = source.stream != self.number;
            Condition { of_some_sink, excuses, ..Condition::that(&self.chain.name, *source, yes) }
        };
        let excused = said.iter().filter(|says| says.excuse != Excuse::None);
        if let Some(first) = Condition::first_of(excused.map(condition)) {
            let strange = match self.trust.is_given() {
                true => ", or stands in a stream that neither the ledger nor a certificate names",
                false => "",
            };
            let no = format!("not in the export; the record that says why ({reason}) is not proved{strange}");
            let no = finding(Verdict::Missing, no);
            self.out.conditions.push(Condition { no, ..first });
        } else {
            let what =
                format!("sealed, and not all in the export; the hole declared there is another sink's: {reason}");
            self.lacking(from, to, &what);
        }
    }

    fn certified(&mut self, seq: u64, der: &[u8]) {
        let (Some(roots), Some(key)) = (&self.trust.roots, &self.chain.found.first_key) else { return };
        let certified = roots.certify(&self.chain.name, key, der).and_then(|()| self.valid(roots.validity(der)));
        match certified {
            Ok(()) => self.out.report.certified = true,
            Err(problem) => self.say(Verdict::Unanchored, one(seq), format!("its certificate is not good: {problem}")),
        }
    }

    /// K1: a certificate must have been valid when the witness took it up, which the ledger's entry tells; not today.
    fn valid(&self, validity: Option<(i64, i64)>) -> Result<(), String> {
        let ledger = self.trust.ledger.as_ref().and_then(|ledger| ledger.streams.get(&self.chain.name));
        let at_ns = ledger.and_then(|known| known.certified_ns);
        let (Some((from, to)), Some(at_ns)) = (validity, at_ns) else { return Ok(()) };
        // A nanosecond of the last second is within it.
        let at = i64::try_from(at_ns / 1_000_000_000).unwrap_or(i64::MAX);
        if (from..=to).contains(&at) {
            return Ok(());
        }
        let when = if at < from { "not yet" } else { "no longer" };
        Err(format!("it was {when} valid at {}, when the ledger took it up", utc(at_ns)))
    }

    fn heads(&mut self) {
        let found = &self.chain.found;
        for (one, other) in &found.forks {
            let sizes = if one == other { format!("of size {one}") } else { format!("of sizes {one} and {other}") };
            let message = format!("two heads {sizes} are signed by the stream's key and contradict each other");
            self.whole(Verdict::Fork, message);
        }
        for (size, place) in &found.unsigned {
            let message = format!("a head of size {size} is not signed by the key that is in force there");
            self.out.findings.push(Finding::whole(Verdict::Foreign, &self.chain.name, message).at(*place));
        }
        // Up to where the ledger's statements were told already.
        let mut told = 0;
        for (ended, absent) in &found.short {
            let from_ledger = ended.source == Ledger::SOURCE;
            let least = found.size.max(if from_ledger { told } else { 0 });
            let message =
                format!("{} says that these were sealed; not all of them are in the export", said_by(ended.source));
            let absent = absent.iter().map(|absent| (absent.start.max(least), absent.end.min(ended.size)));
            let absence =
                |(from, to)| if from_ledger { self.absent_by_ledger(from, to) } else { self.absence(from, to) };
            let parts = absent.filter(|(from, to)| from < to).flat_map(absence);
            let yes = parts.map(|(verdict, records, abandoned)| {
                let message = abandoned.map_or_else(|| message.clone(), absence::said);
                Finding::of(verdict, &self.chain.name, records, message)
            });
            let yes = yes.collect();
            told = if from_ledger { ended.size } else { told };
            self.out.conditions.push(Condition::that(&self.chain.name, ended.source, yes));
        }
        for ended in &found.denied {
            let message = format!("{} says another root for the first {} records", said_by(ended.source), ended.size);
            let yes = if ended.size <= found.size {
                vec![Finding::whole(Verdict::Fork, &self.chain.name, message)]
            } else {
                vec![Finding::of(Verdict::Tampered, &self.chain.name, found.size..ended.size, message)]
            };
            self.out.conditions.push(Condition::that(&self.chain.name, ended.source, yes));
        }
        // Before the time that is looked at nothing need be there, and so no record that names a key.
        let looked_at = |size: &&u64| self.settings.scope.from_ns.is_none() || **size > self.chain.window_begins();
        let (within, before): (Vec<&u64>, Vec<&u64>) = found.unchecked.iter().partition(looked_at);
        for (verdict, sizes) in [(Verdict::Unanchored, within), (Verdict::Partial, before)] {
            if let (Some(first), Some(last)) = (sizes.iter().min(), sizes.iter().max()) {
                let message = format!(
                    "{} heads of sizes {first} to {last} cannot be checked: the record that names their key is not there",
                    sizes.len()
                );
                self.whole(verdict, message);
            }
        }
        if let Some(from) = found.restarted {
            let message =
                "read from here on: what came before is not there, and with it the key that vouched for the next one";
            self.say(Verdict::Partial, one(from), message);
        }
    }

    /// D3: a head is signed over what is durable, so recovery finds at least that; else the disk was altered.
    fn beyond(&mut self) {
        for ended in &self.chain.found.beyond {
            let message = format!(
                "{} found {} records on its disk, but a head over {} had been signed: what was durable there is gone",
                said_by(ended.source),
                ended.size,
                ended.head_size
            );
            let yes = vec![Finding::of(Verdict::Tampered, &self.chain.name, ended.size..ended.head_size, message)];
            self.out.conditions.push(Condition::that(&self.chain.name, ended.source, yes));
        }
    }

    /// Whether anybody vouches for its first key.
    fn anchor(&mut self) {
        let ledger = self.trust.ledger.as_ref();
        let found = &self.chain.found;
        match (ledger.and_then(|ledger| ledger.key(&self.chain.name)), found.first_key) {
            (Some(known), Some(first)) if known != first => {
                self.whole(Verdict::Tampered, "its first key is not the one that the operator certified");
            }
            (Some(_), Some(_)) => self.out.report.certified = true,
            // A head that the ledger has, or a key that it names for one, vouches for all under it, wherever reading began.
            _ if found.named_key || found.ledger_root => self.out.report.certified = true,
            (Some(_), None)
                if found.strange_key && ledger.is_some_and(|ledger| ledger.names_all_keys(&self.chain.name)) =>
            {
                self.whole(Verdict::Tampered, "its heads are signed by keys that the operator's ledger does not know");
            }
            _ => {}
        }
        if !self.out.report.certified && (self.trust.roots.is_some() || ledger.is_some()) {
            self.whole(
                Verdict::Unanchored,
                "neither the ledger nor a certificate under the given roots names its first key",
            );
        }
        if let Some(ledger) = ledger
            && !ledger.streams.contains_key(&self.chain.name)
            && !ledger.excuses(&self.chain.name, self.chain.found.times.0)
        {
            self.whole(Verdict::Foreign, "the ledger knows neither this stream nor its pod");
        }
    }

    fn expose(&mut self) {
        let witnesses = &self.trust.witnesses;
        let mut covered = 0;
        for (size, notes, oldest) in &self.chain.cosigned {
            let notes = notes.iter().filter_map(|note| SignedNote::parse(note).ok());
            let times = notes.filter(|note| note.checkpoint.size == *size).filter_map(|note| {
                witnesses.iter().filter_map(|witness| note.cosigned_at(&witness.name, &witness.key)).min()
            });
            let Some(time) = times.min() else { continue };
            covered = *size;
            let (from, to) = (*oldest, time.saturating_mul(1_000_000_000));
            let length = if from == 0 { 0 } else { to.saturating_sub(from) };
            let exposure = &mut self.out.exposure;
            exposure.longest_ns = exposure.longest_ns.max(Some(length));
            let certain_ns = self.settings.max_lag_ns.saturating_add(COSIGNED_SECONDS.saturating_mul(1_000_000_000));
            if length > certain_ns && exposure.windows.len() < WINDOWS_MAX {
                exposure.windows.push((self.chain.name.clone(), from, to));
            }
        }
        // The head that the ledger has of the stream was cosigned, whether or not the export says so.
        let ledger = self.trust.ledger.as_ref().and_then(|ledger| ledger.streams.get(&self.chain.name));
        covered = covered.max(ledger.map_or(0, |last| last.size));
        self.out.exposure.uncovered = self.chain.found.size.saturating_sub(covered);
    }
}

fn said_by(source: Source) -> &'static str {
    if source == Ledger::SOURCE { "the ledger" } else { "a later start of the sidecar" }
}

pub(super) fn one(seq: u64) -> Range<u64> {
    seq..seq.saturating_add(1)
}

//! What no head covers: the end of a stream, and what others say of it.

use super::behind::tolerated_ns;
use super::branch::{Branch, Effect};
use super::conclude::{Concluding, IDLE_NS, one};
use super::condition::Condition;
use super::fact::Life;
use super::found::Attested;
use super::trust::{Ledger, LedgerStream};
use super::verdict::Verdict;

/// What is said of records at the end of the time that is looked at.
const BEHIND_THE_END: &str = "no head covers them within the time that is looked at";

impl Concluding<'_> {
    /// What no head covers.
    pub(super) fn tail(&mut self, tail: &Branch) {
        let found = &self.chain.found;
        if let Some((_, refuted)) = tail.refuted
            && tail.absent().any(|absent| absent.start < refuted)
        {
            self.unfit(found.size, refuted);
        } else if let Some((_, refuted)) = tail.refuted {
            let message = "they do not give the signed root: at least one was changed, and it cannot be told which";
            self.say(Verdict::Tampered, found.size..refuted, message);
        }
        if tail.range.is_none() {
            self.unjoined(tail);
        }
        let unexplained = tail.weight() > 0
            && self.chain.attested.is_empty()
            && !self.is_abandoned(tail.end(), tail.next)
            && !self.awaits_more(tail);
        let is_headless = found.size == 0 && found.claimed == 0;
        // Without its first record not even a key is there that could sign for it: what others say of it is all there is.
        let is_nameless = is_headless && tail.epoch.key.is_none();
        if is_headless && unexplained && !self.goes_on(tail) || is_nameless && self.chain.attested.is_empty() {
            self.headless();
            return;
        }
        self.out.report.closed = tail.closed.is_some_and(|seq| found.size > seq);
        let covered = found.size.max(found.claimed);
        // What others say of the end counts if they are proved themselves; the largest first.
        let said: Vec<&Attested> = self.chain.attested.iter().rev().collect();
        let said: Vec<Condition> = said.into_iter().map(|attested| self.attested(tail, attested, covered)).collect();
        let before = std::mem::take(&mut self.out.findings);
        let conditions = self.out.conditions.len();
        if is_nameless {
            self.headless();
        } else {
            tail.effects.iter().for_each(|effect| self.uncovered(effect));
            self.open_end(tail, covered);
        }
        match Condition::first_of(said) {
            Some(condition) => {
                let no = std::mem::replace(&mut self.out.findings, before);
                let otherwise = self.out.conditions.split_off(conditions);
                self.out.conditions.push(Condition { no, otherwise, ..condition });
            }
            None => self.out.findings.splice(0..0, before).for_each(drop),
        }
    }

    fn headless(&mut self) {
        self.whole(Verdict::Foreign, "nothing signed proves these records: no head of their stream is there");
    }

    /// Whether nothing speaks against what is there but that more is sealed behind it, which may be on its way to the backend: a
    /// stream that has just begun, of which the ledger has a head and the export none yet.
    fn awaits_more(&self, tail: &Branch) -> bool {
        let weights = tail.absent().map(|absent| Effect::Absent(absent.start, absent.end).weight());
        let only_absent = tail.weight() == weights.sum::<usize>();
        let on_its_way = |absent: std::ops::Range<u64>| {
            let parts = self.absent_by_ledger(absent.start, absent.end);
            absent.start >= tail.end() && parts.iter().all(|(verdict, ..)| *verdict == Verdict::Pending)
        };
        self.chain.found.life == Some(Life::Open) && only_absent && tail.absent().all(on_its_way)
    }

    /// Records under a signed head, behind some that are missing: no head says what the tree is up to there, so nothing proves
    /// them (V2). Those in front of what is missing are as good as that is.
    fn unjoined(&mut self, tail: &Branch) {
        let end = self.chain.found.claimed.min(tail.next);
        let mut at = end;
        for absent in tail.absent().chain(std::iter::once(end..end)) {
            let to = absent.start.min(end);
            if at < to {
                self.stranded(at, to, false);
            }
            at = absent.end;
        }
    }

    /// What holds if this is what became of the stream, as some say.
    fn attested(&mut self, tail: &Branch, attested: &Attested, covered: u64) -> Condition {
        let closed = self.out.report.closed;
        let before = std::mem::take(&mut self.out.findings);
        let (sources, conditions) = (self.out.sources.len(), self.out.conditions.len());
        attested.effects.iter().for_each(|effect| self.proved(effect));
        let size = attested.ended.size;
        let cut = attested.ended.life == Life::Lost && attested.ended.source == Ledger::SOURCE;
        let behind = || tail.effects.iter().skip(attested.effects.len());
        match attested.ended.life {
            Life::Open => {
                behind().for_each(|effect| self.uncovered(effect));
                self.open_end(tail, covered.max(size));
            }
            Life::Closed => self.out.report.closed = true,
            Life::Lost if cut => {
                self.whole(Verdict::Unclosed, "its pod is gone, and it did not end in order");
                behind().for_each(|effect| self.uncovered(effect));
                let covered = covered.max(size);
                if tail.end() > covered {
                    let message = "newer than the last head that its sidecar showed: nothing signed proves them";
                    self.say(Verdict::Unclosed, covered..tail.end(), message);
                }
            }
            Life::Lost => {}
        }
        // What is only claimed to be there is no record.
        if tail.end() > size && attested.ended.life != Life::Open && !cut {
            self.say(
                Verdict::Foreign,
                size..tail.end(),
                "beyond the end of the stream, and nothing signed proves them",
            );
        }
        let yes = std::mem::replace(&mut self.out.findings, before);
        let closed = std::mem::replace(&mut self.out.report.closed, closed);
        // Holes up to there are worth something only if this holds: another reading may have none.
        let (sources, then) = (self.out.sources.split_off(sources), self.out.conditions.split_off(conditions));
        let (also, proved) = (attested.also.clone(), attested.present);
        let that = Condition::that(&self.chain.name, attested.ended.source, yes);
        let whole = Some(self.number);
        Condition { also, then, sources, proved, closed, excuses: true, whole, ..that }
    }

    /// An effect that no head covers.
    fn uncovered(&mut self, effect: &Effect) {
        let claimed = self.chain.found.claimed;
        match effect {
            Effect::Absent(from, to) if *from < claimed => self.missing(*from, (*to).min(claimed)),
            Effect::Absent(_, to) => {
                let read = self.chain.branches.iter().find(|branch| !branch.rival);
                let tail = read.map_or(*to, |branch| branch.next);
                let (verdict, message) = if self.settings.partial {
                    (Verdict::Partial, "no head in the export covers them")
                } else if read.is_some_and(|tail| self.recent(tail)) {
                    (Verdict::Pending, "what comes before them is not there yet")
                } else if read.is_some_and(|tail| self.goes_on(tail)) {
                    (Verdict::Partial, BEHIND_THE_END)
                } else {
                    (Verdict::Foreign, "neither a head nor what comes before them is there to prove them")
                };
                if *to < tail {
                    self.say(verdict, *to..tail, message);
                }
            }
            Effect::AfterClose(seq, _) => {
                self.say(Verdict::Foreign, one(*seq), "after the end of the stream, and nothing signed proves it");
            }
            // They are not proved, so they prove nothing.
            Effect::Source(..) | Effect::Certified(..) | Effect::Totals(..) | Effect::NoLastNote(_) => {}
            _ => self.proved(effect),
        }
    }

    /// Whether the stream ended in order, or is alive.
    fn open_end(&mut self, tail: &Branch, covered: u64) {
        let (life, end) = (self.chain.found.life, tail.end());
        let rest = end > covered;
        if self.out.report.closed || (life == Some(Life::Open) && !rest) {
            return;
        }
        if self.settings.partial {
            if rest {
                self.say(Verdict::Partial, covered..end, "no head in the export covers them");
            }
        } else if life == Some(Life::Closed) && self.is_abandoned(end, tail.next) {
            // How it ended is known, though the end itself went with the pod.
            self.out.report.closed = true;
            if rest {
                let message = "no head covers them: what would prove them went with the pod";
                self.say(Verdict::Unclosed, covered..end, message);
            }
        } else if self.recent(tail) && life != Some(Life::Lost) {
            if rest {
                self.say(Verdict::Pending, covered..end, "newer than the last head");
            }
        } else if self.goes_on(tail) {
            if rest {
                self.say(Verdict::Partial, covered..end, BEHIND_THE_END);
            }
        } else if tail.closed.is_some() {
            self.whole(Verdict::Unclosed, "the head that covers its last record is not there");
        } else {
            let rest = if rest { format!("; no head covers records {covered} to {}", end - 1) } else { String::new() };
            self.whole(Verdict::Unclosed, format!("it neither ended in order nor is alive{rest}"));
        }
    }

    /// What the ledger knows of it.
    fn known(&self) -> Option<&LedgerStream> {
        self.trust.ledger.as_ref().and_then(|ledger| ledger.streams.get(&self.chain.name))
    }

    /// Whether a stream of which something is there from this time lived until then.
    fn lasts_until(&self, last_ns: u64, end_ns: u64) -> bool {
        end_ns.saturating_sub(last_ns) <= IDLE_NS.saturating_add(self.settings.max_lag_ns)
    }

    /// The last time at which it surely lived: that of a proved record; where none is there, as of one that had just begun, of
    /// the first one. Anyone can push records behind these.
    fn lived_ns(&self, tail: &Branch) -> u64 {
        if tail.proved_ns > 0 { tail.proved_ns } else { self.chain.found.times.0 }
    }

    /// Whether it is alive, as far as can be told: now, or when the ledger ended that knows it as alive, for an export that is
    /// looked at later. Who cuts that ledger back gains nothing: he could as well leave out what no head covers; and streams that
    /// are there from clearly after the cut tell it.
    fn recent(&self, tail: &Branch) -> bool {
        let (last, now_ns) = (self.chain.found.times.1, self.settings.now_ns);
        let of_ledger = |ledger: &Ledger| {
            self.chain.found.life == Some(Life::Open)
                && self.lasts_until(self.lived_ns(tail), ledger.last_ns)
                && last.saturating_sub(ledger.last_ns) <= tolerated_ns(self.settings)
        };
        // A time that is yet to come is nobody's sign of life.
        last <= now_ns.saturating_add(self.settings.max_lag_ns)
            && (self.lasts_until(last, now_ns) || self.trust.ledger.as_ref().is_some_and(of_ledger))
    }

    /// Whether it lived until the end of the time that is looked at, and did not end before it: then its end lies outside.
    fn goes_on(&self, tail: &Branch) -> bool {
        let Some(to_ns) = self.settings.scope.to_ns else { return false };
        let ended_later = |known: &LedgerStream| {
            known.life == Life::Open
                || (known.to_ns.saturating_add(self.settings.max_lag_ns) > to_ns && known.size > tail.end())
        };
        self.lasts_until(self.lived_ns(tail), to_ns) && self.known().is_none_or(ended_later)
    }
}

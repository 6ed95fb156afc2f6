//! A ledger that does not hold the time that is looked at: cut off, put back to an older one, or not the whole of it (V2, W1).
//!
//! A shorter ledger is a good ledger: each of its heads is signed. But it never is silent for long, and a head is cosigned only
//! after its block is committed. So what the export holds from later on tells that more of it was written. What only the rest
//! names, such as a whole pod, would not be missed.
//!
//! Where a time is asked for, the ledger must reach its end as well: a backend that gives an old answer again would be as good as one
//! that has everything.
//!
//! In front it may begin wherever it restates what is known. What a backend has lost of the time before that looks like what lies
//! before the time that is looked at, so that must not be later.

use super::chain::Chain;
use super::conclude::Concluding;
use super::judge::Settings;
use super::time::utc;
use super::trust::{Begin, Ledger};
use super::verdict::{Finding, Verdict};
use crate::evidence::ledger::{HEARTBEAT_SECONDS, STATE_EVERY_SECONDS, STREAMS_MAX, interval_ms};
use crate::evidence::note::SignedNote;
use crate::evidence::stream::StreamId;

/// More time that is given, in nanoseconds: a commit that was tried again, and an export that takes the ledger before the records.
const MARGIN_NS: u64 = 300_000_000_000;

/// So many hours of a ledger hold a place where reading can begin, however little happens.
const ASK_HOURS: u64 = STATE_EVERY_SECONDS.div_ceil(3_600) + 1;

/// Longest time that the end of an honest ledger can be behind what the export shows, in nanoseconds. A head that is known is
/// cosigned again without an entry, until the next sign of life; that waits for the interval between two blocks.
pub(super) fn tolerated_ns(settings: &Settings) -> u64 {
    let silent_ns = HEARTBEAT_SECONDS.saturating_mul(1_000_000_000);
    let interval_ns = interval_ms(STREAMS_MAX).saturating_mul(1_000_000);
    [silent_ns, interval_ns, settings.max_lag_ns, MARGIN_NS].into_iter().fold(0, u64::saturating_add)
}

/// When the ledger's own witness cosigned a proved head of the stream the last time, in nanoseconds since the epoch.
pub(super) fn last_cosigned(chain: &Chain, ledger: &Ledger) -> Option<u64> {
    let at = |note: &SignedNote| {
        let times = ledger.own_witnesses.iter().filter_map(|own| note.cosigned_at(&own.name, &own.key));
        times.max()
    };
    let parsed = |notes: &[String]| notes.iter().filter_map(|note| at(&SignedNote::parse(note).ok()?)).max();
    let last = chain.cosigned.iter().rev().find_map(|(_, notes, _)| parsed(notes));
    last.map(|seconds| seconds.saturating_mul(1_000_000_000))
}

/// Whether the ledger ends clearly before its own witness last cosigned, of the time that is looked at.
pub(super) fn behind(ledger: &Ledger, settings: &Settings, cosigned: Option<&(u64, StreamId)>) -> Option<Finding> {
    let (at, stream) = cosigned?;
    if !ledger.ends_before(settings.scope.until_ns(*at), settings) {
        return None;
    }
    let end = utc(ledger.last_ns);
    let message = format!(
        "the ledger that was given ends at {end}, but its witness cosigned a head of {stream} at {}: it is not the whole ledger, \
         and what only its rest names cannot be missed; give all of it (`testimony ledger export`), or look at the time before \
         its end (--scope to={end})",
        utc(*at)
    );
    Some(Finding::export(Verdict::Unanchored, message))
}

/// Whether the ledger ends clearly before the time that is looked at does: of what came then nothing tells. Without a time it is
/// judged as on the day of its end: an export that was kept stays good.
pub(super) fn ends_early(ledger: &Ledger, settings: &Settings) -> Option<Finding> {
    let scope = &settings.scope;
    scope.from_ns.or(scope.to_ns).filter(|_| !settings.partial)?;
    let until = scope.until_ns(settings.now_ns);
    if !ledger.ends_before(until, settings) {
        return None;
    }
    let end = utc(ledger.last_ns);
    let message = format!(
        "the ledger that was given ends at {end}, before the time that is looked at does ({}): what came since cannot be missed; \
         give all of it (`testimony ledger export`), or look at the time before its end (--scope to={end})",
        utc(until)
    );
    Some(Finding::export(Verdict::Unanchored, message))
}

/// Ledgers that begin within the time that is looked at: how far streams had come before, and which had ended, nothing tells.
pub(super) fn begins_late(ledger: &Ledger, settings: &Settings) -> Vec<Finding> {
    let from_ns = settings.scope.from_ns.filter(|_| !settings.partial);
    let late = ledger.begins.iter().filter(|begin| from_ns.is_some_and(|from_ns| begin.at_ns > from_ns));
    let told = late.map(|Begin { sid, at_ns, .. }| {
        let message = format!(
            "ledger {sid}, as it was given, begins at {}, after the time that is looked at begins ({}): what is absent before \
             proves nothing; ask a backend for more of it, such as {ASK_HOURS} hours more than is looked at: the cluster keeps \
             the newest blocks alone",
            utc(*at_ns),
            utc(from_ns.unwrap_or_default())
        );
        Finding::export(Verdict::Unanchored, message)
    });
    told.collect()
}

impl Concluding<'_> {
    /// The same without cosignatures, which anyone can take out of an export: records of more time than a stream that is
    /// watched can be without a head in the ledger. Both times are those of the stream's own clock.
    pub(super) fn behind(&mut self) {
        let Some(ledger) = &self.trust.ledger else { return };
        let found = &self.chain.found;
        let (Some(known), Some((first, last))) = (ledger.streams.get(&self.chain.name), found.beyond_ledger) else {
            return;
        };
        // A later stream of the pod, which the ledger may know, tells how it ended.
        let told = self.chain.attested.iter().any(|end| end.ended.source != Ledger::SOURCE);
        let span_ns = last.saturating_sub(first);
        if told || found.size <= known.size || span_ns <= tolerated_ns(self.settings) {
            return;
        }
        let message = format!(
            "{} s of records come after the last head that the ledger has of it: give all of the ledger, which ends at {}; if \
             that is all, its sidecar did not reach the operator meanwhile",
            span_ns / 1_000_000_000,
            utc(ledger.last_ns)
        );
        let records = known.size..found.size;
        self.say(Verdict::Unanchored, records, message);
    }
}

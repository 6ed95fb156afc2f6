//! The life of a stream: what it tells of itself, and when.

use super::Stream;
use super::facts::{CloseReason, HoleFacts, RecoveredFacts, describe_hole, describe_origin, describe_recovered, fact};
use super::host::{HeadUse, Host, Signer};
use super::schedule::{Schedule, Task};
use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;
use crate::evidence::stream::StreamId;
use crate::record::{Field, Record, Redacted, Stamp, Typ};
use std::sync::Arc;

/// A step of the wall clock from here on is told, in nanoseconds (R5).
pub const CLOCK_STEP_NS: u64 = 1_000_000_000;

/// Gaps are declared no oftener, in nanoseconds: where places come one by one, records go before gaps.
pub const GAP_EVERY_NS: u64 = 1_000_000_000;

impl<K: Signer> Stream<K> {
    /// Does what is due: a checkpoint, a rollover, a rotation, a head; gaps and bursts that are to be told.
    pub fn tick<H: Host<Key = K>>(&mut self, now: Stamp, host: &mut H) {
        if self.is_closed() {
            return;
        }
        self.look_at_clocks(now, host);
        if now.mono_ns >= self.gap_after_ns {
            self.declare_gaps(now, host);
        }
        self.tell_bursts(now, host, false);
        let done = match self.schedule.due(now.mono_ns, self.size) {
            None => return,
            Some(Task::Rotate) => self.rotate(now, host),
            Some(Task::Rollover) => match host.key() {
                Some(next) => self.checkpoint(Some(next), now, host),
                None => false,
            },
            Some(Task::Checkpoint) => self.checkpoint(None, now, host),
            Some(Task::Witness) => {
                self.push_head(HeadUse::Witness, Vec::new(), None, None);
                self.schedule.headed(now.mono_ns, self.size);
                true
            }
        };
        if !done {
            self.schedule.hold(now.mono_ns);
        }
    }

    /// When [`Stream::tick`] is to be called at the latest, on the monotonic clock.
    pub fn due_ns(&self) -> u64 {
        if self.is_closed() {
            return u64::MAX;
        }
        let gap = if self.gaps.is_empty() { u64::MAX } else { self.gap_after_ns };
        let burst = self.bursts.due_ns().unwrap_or(u64::MAX);
        self.schedule.due_ns(self.size).min(gap).min(burst)
    }

    /// Another policy is in force. False: no place; call again.
    pub fn policy<H: Host<Key = K>>(&mut self, revision: &str, now: Stamp, host: &mut H) -> bool {
        if *self.revision == *revision || self.is_closed() {
            return true;
        }
        let before = std::mem::replace(&mut self.revision, revision.into());
        let told = self.tell(Typ::Policy, now, host, 0, |_| {});
        if !told {
            self.revision = before;
        }
        told
    }

    /// The first key has a certificate (K1): DER in base64. False: no place.
    pub fn certified<H: Host<Key = K>>(&mut self, certificate: &str, now: Stamp, host: &mut H) -> bool {
        self.tell(Typ::Certified, now, host, 0, |record| record.set(Field::Cert, certificate.as_bytes()))
    }

    /// An earlier stream was found (D3). False: no place.
    pub fn recovered<H: Host<Key = K>>(&mut self, facts: &RecoveredFacts<'_>, now: Stamp, host: &mut H) -> bool {
        self.tell(Typ::Recovered, now, host, 0, |record| describe_recovered(record, facts))
    }

    /// Sealed records are not there (G2). False: no place.
    pub fn hole<H: Host<Key = K>>(&mut self, hole: &HoleFacts<'_>, now: Stamp, host: &mut H) -> bool {
        self.tell(Typ::Hole, now, host, 0, |record| describe_hole(record, hole))
    }

    /// The process ends: what is undeclared is told, then the stream closes (S4). False: no place for it.
    pub fn close<H: Host<Key = K>>(&mut self, now: Stamp, host: &mut H) -> bool {
        self.is_closed() || self.end(CloseReason::Terminated, now, host)
    }

    /// Ends the stream before its day is over, and goes on under the next name: its witness takes no more of it. False: no
    /// place for it, or it has ended for good.
    pub fn renew<H: Host<Key = K>>(&mut self, now: Stamp, host: &mut H) -> bool {
        !self.is_closed() && self.rotate(now, host)
    }

    /// Seals `open`.
    pub(super) fn seal_open<H: Host<Key = K>>(&mut self, after: Option<Arc<StreamId>>, now: Stamp, host: &mut H) {
        let Some(key) = &self.key else { return };
        host.opens(&self.stream, key);
        let key = key.public();
        let mut record = fact(Typ::Open, &self.revision, now, host.random());
        describe_origin(&mut record, &self.origin, key, after.as_deref());
        // Place 0 needs no reservation, and the record is far below the limit.
        let _ = self.put(&Redacted::new(record), 0, now, host);
        self.schedule.sealed();
    }

    /// Seals a record about the stream.
    fn tell<H: Host<Key = K>>(
        &mut self,
        typ: Typ,
        now: Stamp,
        host: &mut H,
        exchanges: u64,
        describe: impl FnOnce(&mut Record),
    ) -> bool {
        if self.is_closed() {
            return false;
        }
        let mut record = fact(typ, &self.revision, now, host.random());
        describe(&mut record);
        let told = self.put(&Redacted::new(record), exchanges, now, host).is_ok();
        if told {
            self.schedule.sealed();
        }
        told
    }

    /// Tells a step of the wall clock. A slow drift is none.
    pub(super) fn look_at_clocks<H: Host<Key = K>>(&mut self, now: Stamp, host: &mut H) {
        let passed = now.mono_ns.saturating_sub(self.clocks.mono_ns);
        let expected = self.clocks.wall_ns.saturating_add(passed);
        let step_ns = now.wall_ns.abs_diff(expected);
        let told = step_ns < CLOCK_STEP_NS
            || self.tell(Typ::Clock, now, host, 0, |record| {
                record.set_int(Field::StepNs, step_ns);
                record.set(Field::StepDir, if now.wall_ns < expected { b"back" } else { b"forward" });
            });
        if told {
            self.clocks = now;
        }
    }

    /// Declares at once what was lost, as far as there is room. Whether all is declared.
    pub fn declare<H: Host<Key = K>>(&mut self, now: Stamp, host: &mut H) -> bool {
        if !self.is_closed() {
            self.declare_gaps(now, host);
        }
        self.gaps.is_empty()
    }

    /// Declares what was lost, as far as there is room. What is not declared counts as open.
    pub(super) fn declare_gaps<H: Host<Key = K>>(&mut self, now: Stamp, host: &mut H) {
        while let Some(lost) = self.gaps.first() {
            let (count, foreign) = (lost.gap.count, lost.foreign);
            let mut record = fact(Typ::Gap, &self.revision, now, host.random());
            lost.describe(&mut record);
            self.gap_after_ns = now.mono_ns.saturating_add(GAP_EVERY_NS);
            let own = count.saturating_sub(foreign);
            if self.put(&Redacted::new(record), own, now, host).is_err() {
                return;
            }
            self.schedule.sealed();
            self.tally.gap(count, foreign);
            self.gaps.declared();
        }
    }

    fn tell_bursts<H: Host<Key = K>>(&mut self, now: Stamp, host: &mut H, all: bool) {
        while let Some((key, burst)) = self.bursts.first(now.mono_ns, all) {
            if !self.tell(Typ::Burst, now, host, burst.count, |record| burst.describe(record)) {
                return;
            }
            self.tally.burst(burst.count);
            self.bursts.told(&key);
        }
    }

    /// Seals totals, and makes a head over them. With a next key the present one signs that head and nothing after it.
    fn checkpoint<H: Host<Key = K>>(&mut self, next: Option<K>, now: Stamp, host: &mut H) -> bool {
        if !self.takes_heads() {
            return false;
        }
        self.declare_gaps(now, host);
        self.tell_bursts(now, host, true);
        let next_key = next.as_ref().map(Signer::public);
        let frontier: Vec<Hash> = self.range.nodes().collect();
        let mut record = fact(Typ::Checkpoint, &self.revision, now, host.random());
        record.set_int(Field::Size, self.size);
        self.tally.describe(&mut record);
        if let Some(next) = next_key {
            record.set(Field::NextKey, next.to_string().as_bytes());
        }
        if self.put(&Redacted::new(record), 0, now, host).is_err() {
            return false;
        }
        let last_use = next.and_then(|next| self.key.replace(next));
        self.push_head(HeadUse::Export, frontier, last_use, next_key);
        self.schedule.checkpointed(now.mono_ns, next_key.is_some());
        self.schedule.headed(now.mono_ns, self.size);
        true
    }

    /// Seals `close` with its head; the key goes with it.
    fn end<H: Host<Key = K>>(&mut self, reason: CloseReason, now: Stamp, host: &mut H) -> bool {
        self.declare_gaps(now, host);
        self.tell_bursts(now, host, true);
        let frontier: Vec<Hash> = self.range.nodes().collect();
        let mut record = fact(Typ::Close, &self.revision, now, host.random());
        record.set_int(Field::Size, self.size);
        record.set(Field::CloseReason, reason.as_str().as_bytes());
        self.tally.describe(&mut record);
        if self.put(&Redacted::new(record), 0, now, host).is_err() {
            return false;
        }
        let key = self.key.take();
        self.push_head(HeadUse::Export, frontier, key, None);
        true
    }

    /// Ends the stream, and goes on under the next name (S4).
    fn rotate<H: Host<Key = K>>(&mut self, now: Stamp, host: &mut H) -> bool {
        let rotation = self.rotation.saturating_add(1);
        let Ok(name) = self.origin.stream(rotation) else { return false };
        if !self.takes_heads() {
            return false;
        }
        let Some(key) = host.key() else { return false };
        if !self.end(CloseReason::Rotated, now, host) {
            return false;
        }
        let after = std::mem::replace(&mut self.stream, Arc::new(name));
        (self.rotation, self.size, self.prev) = (rotation, 0, None);
        self.range = Range::empty(0);
        self.key = Some(key);
        self.tally = self.tally.rotated();
        self.schedule = Schedule::new(now.mono_ns, self.origin.witness);
        self.seal_open(Some(after), now, host);
        true
    }
}

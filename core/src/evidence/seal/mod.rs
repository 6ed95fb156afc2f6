//! From redacted records to a stream: places, the tree, totals, heads (rules L, S, G, H, K).
//!
//! [`Stream`] is a pure machine: time comes as a [`Stamp`], and a [`Host`] gives places, randomness and keys. A record is
//! sealed in one step: its bytes are made for its place, the host has room for them (S3), the leaf goes into the tree, and
//! the host gets a [`Sealed`]. Nothing else has bytes to write or to send.
//!
//! Call [`Stream::tick`] at [`Stream::due_ns`], and [`Stream::durable`] whenever more has become durable: heads are signed
//! only then (H1).

mod bursts;
mod facts;
mod gaps;
mod head;
mod host;
mod life;
mod list;
mod schedule;
mod tally;
#[cfg(test)]
mod tests;

pub use bursts::REFUSED_PER_SECOND_MAX;
pub use facts::{CloseReason, HoleFacts, RecoveredFacts, SinkHole};
pub use host::{Class, Fate, Head, HeadUse, Host, Position, Sealed, Signer, Wanted};
pub use schedule::{
    CHECKPOINT_IDLE_SECONDS, CHECKPOINT_RECORDS, CHECKPOINT_SECONDS, COSIGNED_SECONDS, EPOCH_SECONDS, STREAM_RECORDS,
    STREAM_SECONDS, WITNESS_IDLE_SECONDS, WITNESS_SECONDS,
};
pub use tally::Tally;

use super::hash::HASH_BYTES;
use super::merkle::Range;
use super::stream::{NotAStream, StreamId, StreamParts};
use crate::record::{Encoder, Gap, GapReason, Kept, Place, Record, Redacted, Stamp, Typ};
use bursts::Bursts;
use gaps::Gaps;
use head::Pending;
use schedule::Schedule;
use std::collections::VecDeque;
use std::sync::Arc;

/// Whose records a stream holds (S1, S2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Uid of the namespace `kube-system`.
    pub cluster_uid: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Uid of the pod.
    pub pod_uid: String,
    /// Random for each start of the process.
    pub boot: u128,
    /// Number of the data thread.
    pub thread: u32,
    /// Name of the pod.
    pub pod: String,
    /// Name of the node; empty: not known.
    pub node: String,
    /// Image of the sidecar; empty: not known.
    pub image: String,
    /// The pod's ServiceAccount; empty: not known.
    pub service_account: String,
    /// Streams of earlier processes that the spool holds.
    pub found: Vec<StreamId>,
    /// There is a witness: it gets heads between checkpoints, too.
    pub witness: bool,
}

impl Origin {
    /// Name of the stream after so many rotations (S1).
    ///
    /// # Errors
    /// A part of it cannot stand in a name.
    pub fn stream(&self, rotation: u64) -> Result<StreamId, NotAStream> {
        StreamId::new(&StreamParts {
            cluster_uid: &self.cluster_uid,
            namespace: &self.namespace,
            pod_uid: &self.pod_uid,
            boot: &format!("{:032x}", self.boot),
            thread: self.thread,
            rotation,
        })
    }
}

/// The stream of one data thread, over all its rotations.
pub struct Stream<K> {
    origin: Origin,
    stream: Arc<StreamId>,
    rotation: u64,
    size: u64,
    /// The hash of the last record, in hex.
    prev: Option<[u8; 2 * HASH_BYTES]>,
    range: Range,
    revision: Box<str>,
    /// Of the epoch; `None` when the stream is closed.
    key: Option<K>,
    pending: VecDeque<Pending<K>>,
    schedule: Schedule,
    tally: Tally,
    gaps: Gaps,
    /// When the next gap may be declared, on the monotonic clock.
    gap_after_ns: u64,
    bursts: Bursts,
    /// The last look at both clocks.
    clocks: Stamp,
    encoder: Encoder,
}

impl<K: Signer> Stream<K> {
    /// Opens a stream: its first record is sealed at once (S2).
    ///
    /// # Errors
    /// A part of the origin cannot stand in a stream's name.
    pub fn open<H: Host<Key = K>>(
        origin: Origin,
        key: K,
        revision: &str,
        now: Stamp,
        host: &mut H,
    ) -> Result<Self, NotAStream> {
        let mut stream = Self {
            stream: Arc::new(origin.stream(0)?),
            rotation: 0,
            size: 0,
            prev: None,
            range: Range::empty(0),
            revision: revision.into(),
            key: Some(key),
            pending: VecDeque::new(),
            schedule: Schedule::new(now.mono_ns, origin.witness),
            tally: Tally::default(),
            gaps: Gaps::default(),
            gap_after_ns: 0,
            bursts: Bursts::default(),
            clocks: now,
            encoder: Encoder::default(),
            origin,
        };
        stream.seal_open(None, now, host);
        Ok(stream)
    }

    /// Its name now.
    pub fn id(&self) -> &Arc<StreamId> {
        &self.stream
    }

    /// How far it went.
    pub fn position(&self) -> Position {
        Position { rotation: self.rotation, size: self.size }
    }

    /// Its totals so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether it has ended for good.
    pub fn is_closed(&self) -> bool {
        self.key.is_none()
    }

    /// An exchange began that policy looks at.
    pub fn begin(&mut self) {
        self.tally.begin();
    }

    /// It ended, and this rule of this policy revision wants no record.
    pub fn none(&mut self, revision: &str, rule: &str) {
        self.tally.none(revision, rule);
    }

    /// Exchanges that another process or stream saw have no record; the next gap tells.
    pub fn lose(&mut self, gap: Gap, lost: Option<StreamId>) {
        self.gaps.lose_foreign(gap, lost);
    }

    /// Exchanges that began here have no record, and there is nothing to say of them but when; the next gap tells.
    pub fn lose_own(&mut self, gap: Gap) {
        self.gaps.lose_unknown(gap);
    }

    /// Seals an exchange or a stage of one. What cannot be sealed is counted.
    pub fn seal<H: Host<Key = K>>(&mut self, record: &Redacted<Record>, now: Stamp, host: &mut H) -> Fate {
        let raw = record.get();
        let start_ns = raw.start_ns();
        let typ = raw.typ().unwrap_or(Typ::Exchange);
        let exchange = typ == Typ::Exchange;
        if self.is_closed() {
            return Fate::Lost(GapReason::Closed);
        }
        self.look_at_clocks(now, host);
        if exchange && self.bursts.folds(raw, start_ns, now.wall_ns, now.mono_ns) {
            return Fate::Folded;
        }
        if !self.gaps.is_empty() && now.mono_ns >= self.gap_after_ns {
            self.declare_gaps(now, host);
        }
        if let Err(reason) = self.put(record, u64::from(exchange), now, host) {
            if exchange {
                self.gaps.lose(raw, reason, start_ns, now.wall_ns);
            }
            return Fate::Lost(reason);
        }
        if exchange {
            self.tally.exchange();
        }
        self.schedule.sealed();
        if self.schedule.due_ns(self.size) == 0 {
            self.tick(now, host);
        }
        Fate::Sealed
    }

    /// The one way into the tree. `exchanges`: of how many of this thread it tells.
    fn put<H: Host<Key = K>>(
        &mut self,
        record: &Redacted<Record>,
        exchanges: u64,
        now: Stamp,
        host: &mut H,
    ) -> Result<(), GapReason> {
        let mut place = Place::new(self.stream.as_str(), self.size, self.prev.as_ref().map(|hex| &hex[..]));
        if !self.encoder.encode(record, Some(&mut place)) {
            return Err(GapReason::RecordTooLong);
        }
        let raw = record.get();
        let typ = raw.typ().unwrap_or(Typ::Exchange);
        let kept = Kept::new(now.wall_ns, raw.event(), self.encoder.body());
        if self.size > 0 {
            host.reserve(Wanted { class: Class::of(typ), kept_bytes: kept.bytes_len() })?;
        }
        let leaf = self.encoder.leaf();
        self.range.push(leaf);
        self.prev = Some(leaf.hex());
        let seq = self.size;
        self.size += 1;
        host.write(Sealed {
            stream: &self.stream,
            rotation: self.rotation,
            seq,
            typ,
            leaf,
            kept,
            start_ns: raw.start_ns(),
            exchanges,
        });
        Ok(())
    }
}

//! What a stream asks of its data thread, and what it gives to it.

use crate::evidence::hash::Hash;
use crate::evidence::note::{PublicKey, SIGNATURE_BYTES, SignedNote};
use crate::evidence::stream::StreamId;
use crate::record::{EventName, GapReason, Kept, Typ};
use std::sync::Arc;

/// An Ed25519 key of one epoch (K2). Whoever makes it erases the secret when it is dropped.
pub trait Signer {
    /// The public key.
    fn public(&self) -> PublicKey;
    /// Signs a message.
    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES];
}

/// For what a place is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// An exchange or a stage of one.
    Traffic,
    /// A record about the stream itself: places are kept for them (T5).
    Evidence,
    /// A record that others wait for before they let go what takes the room: `hole`, `recovered`, `close`. The last places
    /// are kept for them, or what is full would stay full.
    Release,
}

impl Class {
    /// Of a record of this type.
    pub const fn of(typ: Typ) -> Self {
        match typ {
            Typ::Exchange | Typ::Stage => Self::Traffic,
            Typ::Hole | Typ::Recovered | Typ::Close => Self::Release,
            _ => Self::Evidence,
        }
    }
}

/// A place that is wanted in the writer's queue (S3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// For what.
    pub class: Class,
    /// Bytes of what is kept of it.
    pub kept_bytes: usize,
}

/// What a stream needs from its data thread: places, randomness, keys, and where to leave what it made.
pub trait Host {
    /// Its keys.
    type Key: Signer;
    /// 128 random bits.
    fn random(&mut self) -> u128;
    /// A new key; `None` when none could be made: the rollover is tried again later.
    fn key(&mut self) -> Option<Self::Key>;
    /// A stream is about to begin, and this is its first key: what its certificate is asked for (K1).
    fn opens(&mut self, _stream: &Arc<StreamId>, _key: &Self::Key) {}
    /// Reserves a place.
    ///
    /// # Errors
    /// There is none, and why: the record is not sealed (S3).
    fn reserve(&mut self, wanted: Wanted) -> Result<(), GapReason>;
    /// Takes what was sealed into the place that was reserved last. The first record of a stream comes without a
    /// reservation: there is always room for that one.
    fn write(&mut self, sealed: Sealed<'_>);
    /// Takes a signed head. Heads come without a reservation: there are few, and a key may sign only once more (K2).
    fn head(&mut self, head: Head<'_>);
}

/// How far the streams of one thread went: all before is older. Ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Number of the stream: counts rotations (S1).
    pub rotation: u64,
    /// Size of that stream.
    pub size: u64,
}

/// A record that is in the tree for ever: the only thing that has bytes to write and to send.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    pub(super) stream: &'a Arc<StreamId>,
    pub(super) rotation: u64,
    pub(super) seq: u64,
    pub(super) typ: Typ,
    pub(super) leaf: Hash,
    pub(super) kept: Kept<'a>,
    pub(super) start_ns: u64,
    pub(super) exchanges: u64,
}

impl<'a> Sealed<'a> {
    /// Its stream.
    pub fn stream(&self) -> &'a Arc<StreamId> {
        self.stream
    }

    /// Its place in the stream.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The position that includes it.
    pub fn position(&self) -> Position {
        Position { rotation: self.rotation, size: self.seq.saturating_add(1) }
    }

    /// Its kind.
    pub fn typ(&self) -> Typ {
        self.typ
    }

    /// Its kind, in OTLP.
    pub fn event(&self) -> EventName {
        self.kept.event()
    }

    /// Its leaf hash (L1).
    pub fn leaf(&self) -> Hash {
        self.leaf
    }

    /// Its canonical body.
    pub fn body(&self) -> &'a [u8] {
        self.kept.body()
    }

    /// Exchanges of its own thread that it tells of: 1 of an exchange, the count of a burst or of a gap.
    pub fn exchanges(&self) -> u64 {
        self.exchanges
    }

    /// What is kept of it until it leaves.
    pub fn kept(&self) -> Kept<'a> {
        self.kept
    }

    /// Its `t0`, in nanoseconds since the epoch.
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }
}

/// Where a head goes (H2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadUse {
    /// To the witness alone.
    Witness,
    /// To the witness, and out with the records.
    Export,
    /// Out with the records once more: it carries the witness's cosignature.
    Cosigned,
}

/// A signed head (H1, H3).
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub(super) stream: &'a Arc<StreamId>,
    pub(super) position: Position,
    pub(super) purpose: HeadUse,
    pub(super) note: &'a SignedNote,
    pub(super) next_key: Option<PublicKey>,
    pub(super) kept: Kept<'a>,
}

impl<'a> Head<'a> {
    /// Its stream.
    pub fn stream(&self) -> &'a Arc<StreamId> {
        self.stream
    }

    /// What it covers.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Where it goes.
    pub fn purpose(&self) -> HeadUse {
        self.purpose
    }

    /// The note.
    pub fn note(&self) -> &'a SignedNote {
        self.note
    }

    /// The key of the next epoch, when this is the last head under the old one.
    pub fn next_key(&self) -> Option<PublicKey> {
        self.next_key
    }

    /// Its canonical body.
    pub fn body(&self) -> &'a [u8] {
        self.kept.body()
    }

    /// What is kept of it until it leaves, from when it was signed: its `t0`.
    pub fn kept(&self) -> Kept<'a> {
        self.kept
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is sealed.
    Sealed,
    /// It is one of many of its like, and counted in a burst.
    Folded,
    /// It is counted in the next gap, if it is an exchange; a lost stage is followed by its exchange.
    Lost(GapReason),
}

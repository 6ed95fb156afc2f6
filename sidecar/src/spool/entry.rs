//! What the spool keeps: entries in blocks. What an entry's payload says is not the spool's business.

use super::{BLOCK_ENTRIES_MAX, BLOCK_PAYLOAD_BYTES_MAX};
use testimony_core::evidence::hash::Hash;
use testimony_core::record::Typ;

/// What an entry is. Codes stand in files: none may change its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The first record of a stream.
    Open = 1,
    /// The certificate of a stream's key.
    Certified = 2,
    /// What an earlier process left.
    Recovered = 3,
    /// Another policy is in force.
    Policy = 4,
    /// The wall clock stepped.
    Clock = 5,
    /// A stage of a long exchange.
    Stage = 6,
    /// An exchange.
    Exchange = 7,
    /// Refused exchanges of one peer, folded.
    Burst = 8,
    /// Exchanges that were not recorded.
    Gap = 9,
    /// Sealed records whose content is gone.
    Hole = 10,
    /// Totals, and a key for the next epoch.
    Checkpoint = 11,
    /// The last record of a stream.
    Close = 12,
    /// A signed note (H3): no leaf; its `seq` is the size it signs.
    Head = 32,
    /// An exchange begins (T2): no leaf; its `seq` is a number of its own.
    Begin = 33,
    /// The exchange of a `Begin` with the same `seq` has its record. Without payload.
    End = 34,
    /// A signed note for the witness alone: as [`Kind::Head`], but no sink gets it.
    WitnessHead = 35,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Open,
        Self::Certified,
        Self::Recovered,
        Self::Policy,
        Self::Clock,
        Self::Stage,
        Self::Exchange,
        Self::Burst,
        Self::Gap,
        Self::Hole,
        Self::Checkpoint,
        Self::Close,
        Self::Head,
        Self::Begin,
        Self::End,
        Self::WitnessHead,
    ];

    /// From its code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Its code.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Whether entries of this kind are leaves of their stream's tree.
    pub fn is_leaf(self) -> bool {
        self.code() < Self::Head.code()
    }

    /// Whether entries of this kind go to sinks.
    pub fn is_exported(self) -> bool {
        self.is_leaf() || self == Self::Head
    }
}

impl From<Typ> for Kind {
    fn from(typ: Typ) -> Self {
        match typ {
            Typ::Open => Self::Open,
            Typ::Certified => Self::Certified,
            Typ::Recovered => Self::Recovered,
            Typ::Policy => Self::Policy,
            Typ::Clock => Self::Clock,
            Typ::Stage => Self::Stage,
            Typ::Exchange => Self::Exchange,
            Typ::Burst => Self::Burst,
            Typ::Gap => Self::Gap,
            Typ::Hole => Self::Hole,
            Typ::Checkpoint => Self::Checkpoint,
            Typ::Close => Self::Close,
            Typ::Head => Self::Head,
        }
    }
}

/// One stream of the own process, by the number that [`super::Inbox::add_stream`] gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamNumber(pub(super) u32);

/// One entry without its payload: what stands in a frame in clear (D4). `S` names the stream: by number in memory, by its
/// place in the segment's header in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<S> {
    /// Which stream.
    pub stream: S,
    /// What it is.
    pub kind: Kind,
    /// Number in the stream, or what [`Kind`] says.
    pub seq: u64,
    /// Hash of the leaf; zeros where it is none.
    pub leaf: Hash,
    /// Exchanges of its own data thread that it tells of: 1 of an exchange, the count of a burst or a gap. So recovery can
    /// say how many nobody tells of (D3).
    pub exchanges: u32,
    /// Bytes of its payload.
    pub payload_bytes: u32,
}

impl Entry<StreamNumber> {
    /// An entry that is to be put; its payload comes with it.
    pub fn new(stream: StreamNumber, kind: Kind, seq: u64, leaf: Hash, exchanges: u64) -> Self {
        let exchanges = u32::try_from(exchanges).unwrap_or(u32::MAX);
        Self { stream, kind, seq, leaf, exchanges, payload_bytes: 0 }
    }
}

/// Entries with their payloads, one after the other: what becomes one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block<S> {
    pub(super) entries: Vec<Entry<S>>,
    pub(super) payload: Vec<u8>,
}

impl<S> Default for Block<S> {
    fn default() -> Self {
        Self { entries: Vec::new(), payload: Vec::new() }
    }
}

impl<S: Copy> Block<S> {
    /// Whether another payload of this length still fits.
    pub(super) fn has_room(&self, payload_bytes: usize) -> bool {
        self.entries.len() < BLOCK_ENTRIES_MAX
            && self.payload.len().saturating_add(payload_bytes) <= BLOCK_PAYLOAD_BYTES_MAX
    }

    /// Adds an entry; its `payload_bytes` are those of the payload.
    pub(super) fn push(&mut self, entry: Entry<S>, payload: &[u8]) {
        let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.entries.push(Entry { payload_bytes, ..entry });
        self.payload.extend_from_slice(payload);
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of all payloads.
    pub fn payload_bytes(&self) -> u64 {
        self.payload.len() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entries with their payloads.
    pub fn iter(&self) -> impl Iterator<Item = (&Entry<S>, &[u8])> {
        let mut rest = self.payload.as_slice();
        self.entries.iter().map(move |entry| {
            let at = usize::try_from(entry.payload_bytes).unwrap_or(usize::MAX);
            let (payload, after) = rest.split_at_checked(at).unwrap_or((rest, &[]));
            rest = after;
            (entry, payload)
        })
    }
}

//! What a verification keeps of each record, small enough to be sorted by the million.
//!
//! A [`Row`] is bytes that sort by stream, position and rank, so that a shell may sort them outside memory with a plain
//! comparison of bytes.

use super::verdict::Verdict;
use crate::evidence::hash::{HASH_BYTES, Hash};
use crate::evidence::merkle::Range;
use crate::evidence::note::PublicKey;
use crate::evidence::stream::StreamId;

/// Number of a stream in a verification: a digest of its name.
pub type StreamNo = u128;

/// Where a record stands in the input: the shell's business.
pub type Place = u64;

/// Bytes of a row that decide its order: stream, position, rank.
pub const ROW_KEY_BYTES: usize = 25;

/// A record that says something of another stream; it counts once it is proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// Its stream.
    pub stream: StreamNo,
    /// Its place in it.
    pub seq: u64,
    /// Its hash.
    pub leaf: Hash,
}

/// One thing said of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// What it is called: this comes first.
    Name(StreamId),
    /// What was found of one of its records as it was read.
    Found(Verdict),
    /// Another stream names this one, so it must be there.
    Named(Source),
    /// Records of it are not there (G2).
    Hole(Hole),
    /// One of its records.
    Leaf(Leaf),
    /// One of its heads (H3).
    Head(Head),
    /// What recovery found of it (D3), or what the ledger says.
    Ended(Ended),
}

/// Sealed records that are not there (G2).
#[derive(Clone, Debug, PartialEq)]
pub struct Hole {
    /// The compact form of what is not there.
    pub range: Range,
    /// Who says so.
    pub source: Source,
    /// Why, and its scope.
    pub reason: String,
    /// The only sink that never gets them; `None`: nobody does.
    pub sink: Option<String>,
}

/// What a hole amounts to in an export; what excuses most comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Excuse {
    /// Its records need not be there.
    Good,
    /// They need not be there if this is the export of the sink that it names; which one this is was not said.
    OfSomeSink,
    /// It is of another sink than the export: its records must be there.
    None,
}

impl Hole {
    /// What it amounts to in the export of a sink; `None`: it is not known of which.
    pub fn excuse(&self, export_of: Option<&str>) -> Excuse {
        match (&self.sink, export_of) {
            (None, _) => Excuse::Good,
            (Some(_), None) => Excuse::OfSomeSink,
            (Some(sink), Some(export)) if sink == export => Excuse::Good,
            (Some(_), Some(_)) => Excuse::None,
        }
    }
}

/// A record of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// Its place in the stream.
    pub seq: u64,
    /// Its hash.
    pub leaf: Hash,
    /// The hash of the record before it; absent at 0.
    pub prev: Option<Hash>,
    /// Latest time in it, in nanoseconds since the epoch; 0: none.
    pub time_ns: u64,
    /// Digest of what the Resource says of pod and node; 0: not told.
    pub resource: u64,
    /// What it says of the stream.
    pub kind: Kind,
    /// Where it stands in the input.
    pub place: Place,
}

/// What a record says of its stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// The stream begins, with its first key, and the digest of what the Resource must say.
    Open(PublicKey, u64),
    /// An exchange.
    Exchange,
    /// A stage of a long exchange, a change of policy or clock: it counts nothing.
    Note,
    /// It says something of another stream, which waits for this record to be proved.
    Statement,
    /// The certificate of the stream's first key, in DER.
    Certified(Vec<u8>),
    /// Refused exchanges that were folded into one record.
    Burst(u64),
    /// Exchanges that were not recorded.
    Gap(Gap),
    /// Totals, and at the end of an epoch the next key.
    Checkpoint(Totals, Option<PublicKey>),
    /// The stream ends in order.
    Close(Totals),
    /// It cannot be understood; it is in the tree all the same.
    Unknown(String),
}

/// Exchanges that were not recorded (G1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How many.
    pub count: u64,
    /// Whether that is all, or a lower bound.
    pub exact: bool,
    /// Why.
    pub reason: String,
}

/// Where all exchanges of a stream have gone (G3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Exchanges begun.
    pub begun: u64,
    /// Exchanges with a record.
    pub exchanges: u64,
    /// Exchanges folded into bursts.
    pub bursts: u64,
    /// Exchanges counted in gaps.
    pub gaps: u64,
    /// Exchanges of which policy wants no record.
    pub none: u64,
    /// Of them, those for which a policy revision and rule are named, or which are too many to be told apart.
    pub none_named: u64,
    /// Exchanges not yet ended.
    pub open: u64,
}

impl Totals {
    /// Whether every exchange is accounted for.
    pub fn add_up(&self) -> bool {
        let parts = [self.exchanges, self.bursts, self.gaps, self.none, self.open];
        parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(*part)) == Some(self.begun)
    }
}

/// A head as it is exported (H3).
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Number of leaves.
    pub size: u64,
    /// The note's text.
    pub note: String,
    /// Compact form of `[0, size - 1)` (H4), each one that a copy of it gives: nobody signs that.
    pub frontiers: Vec<Vec<Hash>>,
    /// The cosigned note, each one that a copy gives.
    pub cosigned: Vec<String>,
    /// Where it stands in the input.
    pub place: Place,
}

/// Whether a stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It does.
    Open,
    /// It ended in order.
    Closed,
    /// It ended otherwise.
    Lost,
}

/// Size and root of a stream at its end, or of what was found of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Number of leaves; 0: nothing of it was ever kept.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
    /// Size of its last signed head, as recovery found it; 0: none, or not told.
    pub head_size: u64,
    /// Whether it goes on.
    pub life: Life,
    /// Who says so.
    pub source: Source,
}

impl Fact {
    /// Position in the stream, and rank among facts of one position.
    fn key(&self) -> (u64, u8) {
        match self {
            Self::Name(_) => (0, 0),
            Self::Found(_) => (0, 1),
            Self::Named(_) => (0, 2),
            Self::Hole(hole) => (hole.range.begin(), 3),
            Self::Leaf(leaf) => (leaf.seq, 4),
            Self::Head(head) => (head.size.saturating_sub(1), 5),
            Self::Ended(ended) => (ended.size.saturating_sub(1), 6),
        }
    }

    /// Writes the row of this fact.
    pub fn write(&self, stream: StreamNo, out: &mut Vec<u8>) {
        let (position, rank) = self.key();
        out.extend_from_slice(&stream.to_be_bytes());
        out.extend_from_slice(&position.to_be_bytes());
        out.push(rank);
        match self {
            Self::Name(name) => put_bytes(out, name.as_str().as_bytes()),
            Self::Found(verdict) => put_bytes(out, verdict.as_str().as_bytes()),
            Self::Named(source) => put_source(out, source),
            Self::Hole(hole) => {
                put_source(out, &hole.source);
                put_u64(out, hole.range.end());
                put_hashes(out, &hole.range.nodes().collect::<Vec<_>>());
                put_bytes(out, hole.reason.as_bytes());
                put_bytes(out, hole.sink.as_deref().unwrap_or_default().as_bytes());
            }
            Self::Leaf(leaf) => put_leaf(out, leaf),
            Self::Head(head) => {
                put_bytes(out, head.note.as_bytes());
                put_u64(out, head.frontiers.len() as u64);
                head.frontiers.iter().for_each(|frontier| put_hashes(out, frontier));
                put_u64(out, head.cosigned.len() as u64);
                head.cosigned.iter().for_each(|note| put_bytes(out, note.as_bytes()));
                put_u64(out, head.place);
            }
            Self::Ended(ended) => {
                put_source(out, &ended.source);
                out.extend_from_slice(&ended.root.0);
                for number in [ended.life as u64, ended.size, ended.head_size] {
                    put_u64(out, number);
                }
            }
        }
    }

    /// Reads a row back.
    pub fn read(row: &[u8]) -> Option<(StreamNo, Self)> {
        let (stream, rest) = row.split_first_chunk::<16>()?;
        let mut input = Input(rest);
        let (position, rank) = (input.u64()?, input.byte()?);
        let fact = match rank {
            0 => Self::Name(input.text()?.parse().ok()?),
            1 => Self::Found(Verdict::named(&input.text()?)?),
            2 => Self::Named(input.source()?),
            3 => {
                let source = input.source()?;
                let end = input.u64()?;
                let range = Range::from_nodes(position, end, &input.hashes()?).ok()?;
                let reason = input.text()?;
                let sink = Some(input.text()?).filter(|sink| !sink.is_empty());
                Self::Hole(Hole { range, source, reason, sink })
            }
            4 => Self::Leaf(input.leaf(position)?),
            5 => {
                let note = input.text()?;
                let frontiers = (0..input.u64()?).map(|_| input.hashes()).collect::<Option<_>>()?;
                let cosigned = (0..input.u64()?).map(|_| input.text()).collect::<Option<_>>()?;
                Self::Head(Head { size: position.checked_add(1)?, note, frontiers, cosigned, place: input.u64()? })
            }
            _ => {
                let source = input.source()?;
                let root = input.hash()?;
                let life = match input.u64()? {
                    0 => Life::Open,
                    1 => Life::Closed,
                    _ => Life::Lost,
                };
                Self::Ended(Ended { size: input.u64()?, root, head_size: input.u64()?, life, source })
            }
        };
        Some((StreamNo::from_be_bytes(*stream), fact))
    }
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_hashes(out: &mut Vec<u8>, hashes: &[Hash]) {
    put_u64(out, hashes.len() as u64);
    hashes.iter().for_each(|hash| out.extend_from_slice(&hash.0));
}

fn put_source(out: &mut Vec<u8>, source: &Source) {
    out.extend_from_slice(&source.stream.to_be_bytes());
    put_u64(out, source.seq);
    out.extend_from_slice(&source.leaf.0);
}

fn put_totals(out: &mut Vec<u8>, totals: &Totals) {
    for count in
        [totals.begun, totals.exchanges, totals.bursts, totals.gaps, totals.none, totals.none_named, totals.open]
    {
        put_u64(out, count);
    }
}

fn put_leaf(out: &mut Vec<u8>, leaf: &Leaf) {
    out.extend_from_slice(&leaf.leaf.0);
    out.push(u8::from(leaf.prev.is_some()));
    out.extend_from_slice(&leaf.prev.unwrap_or(leaf.leaf).0);
    for number in [leaf.time_ns, leaf.resource, leaf.place] {
        put_u64(out, number);
    }
    match &leaf.kind {
        Kind::Exchange => out.push(0),
        Kind::Note => out.push(1),
        Kind::Open(key, resource) => {
            out.push(2);
            out.extend_from_slice(&key.0);
            put_u64(out, *resource);
        }
        Kind::Statement => out.push(3),
        Kind::Certified(der) => {
            out.push(4);
            put_bytes(out, der);
        }
        Kind::Burst(count) => {
            out.push(5);
            put_u64(out, *count);
        }
        Kind::Gap(gap) => {
            out.push(6);
            put_u64(out, gap.count);
            out.push(u8::from(gap.exact));
            put_bytes(out, gap.reason.as_bytes());
        }
        Kind::Checkpoint(totals, next) => {
            out.push(7);
            put_totals(out, totals);
            out.push(u8::from(next.is_some()));
            out.extend(next.iter().flat_map(|key| key.0));
        }
        Kind::Close(totals) => {
            out.push(8);
            put_totals(out, totals);
        }
        Kind::Unknown(problem) => {
            out.push(9);
            put_bytes(out, problem.as_bytes());
        }
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    fn hash(&mut self) -> Option<Hash> {
        self.take(HASH_BYTES).and_then(Hash::from_slice)
    }

    fn key(&mut self) -> Option<PublicKey> {
        self.take(32)?.try_into().ok().map(PublicKey)
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.u64()?).ok().filter(|length| *length <= self.0.len())
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        self.take(length)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn hashes(&mut self) -> Option<Vec<Hash>> {
        let count = self.length()?;
        (0..count).map(|_| self.hash()).collect()
    }

    fn source(&mut self) -> Option<Source> {
        let stream = self.take(16)?.try_into().ok().map(StreamNo::from_be_bytes)?;
        Some(Source { stream, seq: self.u64()?, leaf: self.hash()? })
    }

    fn totals(&mut self) -> Option<Totals> {
        let [begun, exchanges, bursts] = [self.u64()?, self.u64()?, self.u64()?];
        let [gaps, none, none_named, open] = [self.u64()?, self.u64()?, self.u64()?, self.u64()?];
        Some(Totals { begun, exchanges, bursts, gaps, none, none_named, open })
    }

    fn leaf(&mut self, seq: u64) -> Option<Leaf> {
        let leaf = self.hash()?;
        let given = self.byte()? == 1;
        let prev = Some(self.hash()?).filter(|_| given);
        let (time_ns, resource, place) = (self.u64()?, self.u64()?, self.u64()?);
        let kind = match self.byte()? {
            0 => Kind::Exchange,
            1 => Kind::Note,
            2 => Kind::Open(self.key()?, self.u64()?),
            3 => Kind::Statement,
            4 => Kind::Certified(self.bytes()?.to_vec()),
            5 => Kind::Burst(self.u64()?),
            6 => {
                let (count, flags) = (self.u64()?, self.byte()?);
                Kind::Gap(Gap { count, exact: flags == 1, reason: self.text()? })
            }
            7 => {
                let totals = self.totals()?;
                Kind::Checkpoint(totals, if self.byte()? == 1 { Some(self.key()?) } else { None })
            }
            8 => Kind::Close(self.totals()?),
            _ => Kind::Unknown(self.text()?),
        };
        Some(Leaf { seq, leaf, prev, time_ns, resource, kind, place })
    }
}

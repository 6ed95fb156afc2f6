//! Reading bodies: what a verification needs of each.

use crate::canon::{BodyError, parse_body};
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{Range, leaf};
use crate::evidence::note::{PublicKey, SignedNote};
use crate::evidence::stream::StreamId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::str::FromStr;

/// A body that is not what the format says.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not canonical (R3).
    #[error(transparent)]
    Body(#[from] BodyError),
    /// A format version that this verifier does not know.
    #[error("version {0:?} of the format is not known")]
    Version(String),
    /// A field is absent or of another form.
    #[error("field {field}: {problem}")]
    Field {
        /// Its key.
        field: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
}

/// A body, as far as verification is concerned.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A leaf of a stream.
    Leaf(Box<Leaf>),
    /// A signed head (H3).
    Head(Box<Head>),
    /// A record without a place in a stream: nothing can prove it.
    Unsealed,
}

/// One record of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// Its stream.
    pub stream: StreamId,
    /// Its place.
    pub seq: u64,
    /// Its hash.
    pub leaf: Hash,
    /// The hash of the record before it; absent at 0.
    pub prev: Option<Hash>,
    /// What it says of the stream.
    pub kind: Kind,
}

/// What a record says of its stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// The stream begins, with its first key.
    Open(PublicKey),
    /// An exchange.
    Exchange,
    /// A stage of a long exchange, a change of policy or clock, a certificate, a recovery: they count nothing.
    Note,
    /// Refused exchanges that were folded into one record.
    Burst(u64),
    /// Exchanges that were not recorded.
    Gap(Gap),
    /// Sealed records that are not there.
    Hole(Box<Hole>),
    /// Totals, and at the end of an epoch the next key.
    Checkpoint(Box<Checkpoint>),
    /// The stream ends in order.
    Close(Totals),
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

/// Sealed records that are not there (G2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Of which stream.
    pub stream: StreamId,
    /// The compact form of what is not there.
    pub range: Range,
    /// `all`, or `sink=<name>`.
    pub scope: String,
    /// Why.
    pub reason: String,
}

/// A checkpoint record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Totals up to here.
    pub totals: Totals,
    /// The key of the next epoch, at a rollover.
    pub next_key: Option<PublicKey>,
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
    /// The note; its origin is the stream.
    pub note: SignedNote,
    /// The stream.
    pub stream: StreamId,
    /// Compact form of `[0, size - 1)` (H4), where it is given.
    pub frontier: Option<Range>,
}

/// The fields of a body.
struct Fields(BTreeMap<String, Vec<u8>>);

impl Fields {
    fn text(&self, field: &'static str) -> Result<&str, ReadError> {
        self.optional(field)?.ok_or(ReadError::Field { field, problem: "is absent" })
    }

    fn optional(&self, field: &'static str) -> Result<Option<&str>, ReadError> {
        let Some(value) = self.0.get(field) else { return Ok(None) };
        std::str::from_utf8(value).map(Some).map_err(|_| ReadError::Field { field, problem: "is not UTF-8" })
    }

    fn parsed<T: FromStr>(&self, field: &'static str, problem: &'static str) -> Result<T, ReadError> {
        self.text(field)?.parse().map_err(|_| ReadError::Field { field, problem })
    }

    /// R2: decimal, no sign, no leading zero.
    fn number(&self, field: &'static str) -> Result<u64, ReadError> {
        let text = self.text(field)?;
        let number: Option<u64> = text.parse().ok();
        number
            .filter(|number| number.to_string() == text)
            .ok_or(ReadError::Field { field, problem: "is not a decimal number" })
    }

    /// Numbers that older or smaller records leave out are 0.
    fn number_or_zero(&self, field: &'static str) -> Result<u64, ReadError> {
        if self.0.contains_key(field) { self.number(field) } else { Ok(0) }
    }

    fn hashes(&self, field: &'static str) -> Result<Vec<Hash>, ReadError> {
        let text = self.text(field)?;
        let hashes: Result<Vec<Hash>, _> = text.split(',').filter(|hash| !hash.is_empty()).map(str::parse).collect();
        hashes.map_err(|_| ReadError::Field { field, problem: "is not a list of hashes" })
    }
}

/// Reads a body.
///
/// # Errors
/// It is not canonical, of an unknown version, or lacks what its kind needs.
pub fn read(body: &[u8]) -> Result<Item, ReadError> {
    let fields = Fields(parse_body(body)?);
    let version = fields.text("v")?;
    if version != crate::record::RECORD_VERSION {
        return Err(ReadError::Version(version.chars().take(16).collect()));
    }
    let typ = fields.text("typ")?;
    if typ == "head" {
        return Ok(Item::Head(Box::new(head(&fields)?)));
    }
    if !fields.0.contains_key("sid") {
        return Ok(Item::Unsealed);
    }
    let seq = fields.number("seq")?;
    let prev = match fields.optional("prev")? {
        Some(_) if seq == 0 => return Err(ReadError::Field { field: "prev", problem: "stands in the first record" }),
        None if seq > 0 => return Err(ReadError::Field { field: "prev", problem: "is absent" }),
        Some(_) => Some(fields.parsed("prev", "is not a hash")?),
        None => None,
    };
    let kind = kind(&fields, typ)?;
    if matches!(kind, Kind::Open(_)) != (seq == 0) {
        return Err(ReadError::Field { field: "typ", problem: "open stands at seq 0, and only there" });
    }
    let stream = fields.parsed("sid", "names no stream")?;
    Ok(Item::Leaf(Box::new(Leaf { stream, seq, leaf: leaf(body), prev, kind })))
}

fn kind(fields: &Fields, typ: &str) -> Result<Kind, ReadError> {
    Ok(match typ {
        "open" => Kind::Open(fields.parsed("key", "is not an Ed25519 key")?),
        "exchange" => Kind::Exchange,
        "stage" | "certified" | "recovered" | "policy" | "clock" => Kind::Note,
        "burst" => Kind::Burst(fields.number("count")?),
        "gap" => Kind::Gap(Gap {
            count: fields.number("count")?,
            exact: fields.text("exact")? == "1",
            reason: fields.text("gap_reason")?.to_owned(),
        }),
        "hole" => Kind::Hole(Box::new(hole(fields)?)),
        "checkpoint" => Kind::Checkpoint(Box::new(Checkpoint {
            totals: totals(fields)?,
            next_key: match fields.optional("next_key")? {
                Some(_) => Some(fields.parsed("next_key", "is not an Ed25519 key")?),
                None => None,
            },
        })),
        "close" => Kind::Close(totals(fields)?),
        _ => return Err(ReadError::Field { field: "typ", problem: "is not known" }),
    })
}

fn totals(fields: &Fields) -> Result<Totals, ReadError> {
    Ok(Totals {
        begun: fields.number("begun")?,
        exchanges: fields.number_or_zero("exchanges")?,
        bursts: fields.number_or_zero("bursts")?,
        gaps: fields.number_or_zero("gaps")?,
        none: fields.number_or_zero("none")?,
        open: fields.number_or_zero("open")?,
    })
}

fn hole(fields: &Fields) -> Result<Hole, ReadError> {
    let (from, to) = (fields.number("hole_from")?, fields.number("hole_to")?);
    let range = Range::from_nodes(from, to, &fields.hashes("nodes")?)
        .map_err(|_| ReadError::Field { field: "nodes", problem: "are not the compact form of the hole" })?;
    Ok(Hole {
        stream: fields.parsed("hole_sid", "names no stream")?,
        range,
        scope: fields.text("scope")?.to_owned(),
        reason: fields.text("hole_reason")?.to_owned(),
    })
}

fn head(fields: &Fields) -> Result<Head, ReadError> {
    let bad = |problem| ReadError::Field { field: "note", problem };
    let note = STANDARD.decode(fields.text("note")?).map_err(|_| bad("is not base64"))?;
    let note = String::from_utf8(note).map_err(|_| bad("is not UTF-8"))?;
    let note = SignedNote::parse(&note).map_err(|_| bad("is not a signed note of a checkpoint"))?;
    let stream = note.checkpoint.origin.parse().map_err(|_| bad("is of no stream"))?;
    let frontier = match (note.checkpoint.size.checked_sub(1), fields.optional("frontier")?) {
        (Some(before), Some(_)) => {
            let range = Range::from_nodes(0, before, &fields.hashes("frontier")?);
            Some(range.map_err(|_| ReadError::Field { field: "frontier", problem: "does not fit the head's size" })?)
        }
        _ => None,
    };
    Ok(Head { note, stream, frontier })
}

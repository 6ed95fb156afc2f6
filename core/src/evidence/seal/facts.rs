//! The records that a stream makes about itself. They hold our own facts alone, so there is nothing to redact.

use super::Origin;
use crate::canon::parse_body;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;
use crate::evidence::note::PublicKey;
use crate::evidence::stream::StreamId;
use crate::record::{Field, RECORD_VERSION, Record, Redacted, Stamp, Typ, uuid_v7};

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// It goes on under another name (S4).
    Rotated,
    /// The process ends in order.
    Terminated,
}

impl CloseReason {
    /// As it stands in the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rotated => "rotated",
            Self::Terminated => "terminated",
        }
    }
}

/// Sealed records that are not there (G2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoleFacts<'a> {
    /// Whose.
    pub stream: &'a StreamId,
    /// The first one.
    pub from: u64,
    /// The one after the last.
    pub to: u64,
    /// The only sink that never gets them; `None`: nobody does.
    pub sink: Option<&'a str>,
    /// Why.
    pub reason: &'a str,
    /// Compact form of the range, from left to right.
    pub nodes: &'a [Hash],
}

/// What the body of a hole says of one sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkHole {
    /// Whose records are not there.
    pub stream: StreamId,
    /// Which ones.
    pub range: Range,
    /// The sink that never gets them.
    pub sink: String,
}

impl SinkHole {
    /// Reads it. `None`: this is another record, or a hole of all sinks.
    pub fn from_body(body: &[u8]) -> Option<Self> {
        let fields = parse_body(body).ok()?;
        let text = |field: Field| std::str::from_utf8(fields.get(field.key())?).ok();
        if text(Field::Typ)? != Typ::Hole.as_str() {
            return None;
        }
        let number = |field| text(field)?.parse().ok();
        let nodes = text(Field::Nodes)?.split(',').map(|node| node.parse().ok()).collect::<Option<Vec<Hash>>>()?;
        let range = Range::from_nodes(number(Field::HoleFrom)?, number(Field::HoleTo)?, &nodes).ok()?;
        let sink = text(Field::Scope)?.strip_prefix("sink=")?.to_owned();
        Some(Self { stream: text(Field::HoleSid)?.parse().ok()?, range, sink })
    }
}

/// How far an earlier stream went (D3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveredFacts<'a> {
    /// Its name.
    pub stream: &'a StreamId,
    /// Its size.
    pub size: u64,
    /// Its root.
    pub root: Hash,
    /// Size of its last signed head; 0: there is none.
    pub head_size: u64,
    /// It was closed in order.
    pub closed: bool,
}

/// A record about the stream, with what all of them have.
pub(super) fn fact(typ: Typ, revision: &str, now: Stamp, random: u128) -> Record {
    let mut record = Record::new(typ.event());
    record.set(Field::V, RECORD_VERSION.as_bytes());
    record.set(Field::Typ, typ.as_str().as_bytes());
    record.set(Field::Id, &uuid_v7(now.wall_ns, random));
    record.set_int(Field::T0, now.wall_ns);
    record.set(Field::PolicyRevision, revision.as_bytes());
    record.set(Field::Outcome, if typ == Typ::Gap { b"unknown" } else { b"success" });
    record.set(Field::Action, typ.as_str().to_ascii_uppercase().as_bytes());
    record.set(Field::Actor, b"testimony");
    record.set(Field::ActorType, b"system");
    record
}

/// A head (H3): no leaf, so no place, and the same whoever writes it again.
pub(super) fn head(note: &str, frontier: &[Hash], now: Stamp) -> Redacted<Record> {
    let mut record = with_note(note, now);
    record.set(Field::Frontier, &hashes(frontier));
    Redacted::new(record)
}

/// A head once more, now with the cosignatures.
pub(super) fn cosigned_head(note: &str, cosigned: &str, now: Stamp) -> Redacted<Record> {
    let mut record = with_note(note, now);
    record.set(Field::Cosig, base64(cosigned).as_bytes());
    Redacted::new(record)
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn with_note(note: &str, now: Stamp) -> Record {
    let mut record = Record::new(Typ::Head.event());
    record.set(Field::V, RECORD_VERSION.as_bytes());
    record.set(Field::Typ, Typ::Head.as_str().as_bytes());
    record.set_int(Field::T0, now.wall_ns);
    record.set(Field::Note, base64(note).as_bytes());
    record
}

/// Writes what is known of the stream's maker into `open`.
pub(super) fn describe_origin(record: &mut Record, origin: &Origin, key: PublicKey, after: Option<&StreamId>) {
    for (field, value) in [
        (Field::Pod, &origin.pod),
        (Field::Node, &origin.node),
        (Field::Image, &origin.image),
        (Field::Sa, &origin.service_account),
    ] {
        if !value.is_empty() {
            record.set(field, value.as_bytes());
        }
    }
    record.set(Field::Key, key.to_string().as_bytes());
    if let Some(after) = after {
        record.set(Field::After, after.as_str().as_bytes());
    }
    let mut found = String::new();
    // What follows a rotation names that stream; what the spool held at the start may be delivered and gone by now.
    for stream in origin.found.iter().filter(|_| after.is_none()) {
        // Names are left out whole; `recovered` tells of each one.
        if found.len() + stream.as_str().len() < Field::Found.bytes_max() {
            found.push_str(if found.is_empty() { "" } else { "," });
            found.push_str(stream.as_str());
        }
    }
    if !found.is_empty() {
        record.set(Field::Found, found.as_bytes());
    }
}

pub(super) fn describe_hole(record: &mut Record, hole: &HoleFacts<'_>) {
    record.set(Field::HoleSid, hole.stream.as_str().as_bytes());
    record.set_int(Field::HoleFrom, hole.from);
    record.set_int(Field::HoleTo, hole.to);
    record.set(Field::HoleReason, hole.reason.as_bytes());
    let scope = hole.sink.map_or_else(|| "all".to_owned(), |sink| format!("sink={sink}"));
    record.set(Field::Scope, scope.as_bytes());
    record.set(Field::Nodes, &hashes(hole.nodes));
}

pub(super) fn describe_recovered(record: &mut Record, recovered: &RecoveredFacts<'_>) {
    record.set(Field::RecSid, recovered.stream.as_str().as_bytes());
    record.set_int(Field::Size, recovered.size);
    record.set(Field::Root, &recovered.root.hex());
    record.set_int(Field::HeadSize, recovered.head_size);
    record.set(Field::State, if recovered.closed { b"closed" } else { b"lost" });
}

fn hashes(hashes: &[Hash]) -> Vec<u8> {
    let mut list = Vec::with_capacity(hashes.len() * 65);
    for hash in hashes {
        if !list.is_empty() {
            list.push(b',');
        }
        list.extend_from_slice(&hash.hex());
    }
    list
}

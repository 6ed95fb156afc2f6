//! Which records of an export go by order (G2): what is meant, and what of it the export proves.

use super::prune::PruneOrder;
use super::vouch::{Vouched, Voucher};
use super::{LEDGER, StreamId};
use crate::canon::parse_body;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{Range, leaf};
use crate::evidence::note::SignedNote;
use crate::record::filed_ns;
use std::collections::BTreeMap;

/// Most records of the chosen streams that are held at a time, some 100 bytes each.
pub const RECORDS_MAX: usize = 5_000_000;

/// Most heads of the chosen streams that are held at a time, some 700 bytes each.
pub const HEADS_MAX: usize = 1_000_000;

/// Most hashes of a head's frontier.
const FRONTIER_MAX: usize = 64;

/// How often what a later start found of a stream is asked for: each time one more process that died early is passed.
const STARTS_MAX: usize = 64;

/// Which records are meant. Nothing chosen is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of streams whose name begins so.
    pub stream: Option<String>,
    /// Of pods of this namespace.
    pub namespace: Option<String>,
    /// Those that a backend files under a time before this one, in nanoseconds since the epoch.
    pub before_ns: Option<u64>,
    /// Also those of which nothing in the export says that they were not changed.
    pub unproved: bool,
}

impl Selection {
    fn has_stream(&self, sid: &StreamId) -> bool {
        let Some(parts) = sid.parts() else { return false };
        parts.pod_uid != LEDGER
            && self.namespace.as_deref().is_none_or(|namespace| namespace == parts.namespace)
            && self.stream.as_deref().is_none_or(|prefix| sid.as_str().starts_with(prefix))
    }
}

/// Why an export cannot be ordered from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// It was changed, or belongs to another stream.
    #[error(
        "record {1} of {0} is not the one that the record after it follows: `testimony verify` says more; nothing is ordered"
    )]
    Broken(StreamId, u64),
    /// It, or one before it, was changed.
    #[error(
        "record {1} of {0} is not the one that the stream's key signed: `testimony verify` says more; nothing is ordered"
    )]
    Unsigned(StreamId, u64),
    /// Two records claim one place.
    #[error("two different records claim place {1} of {0}: `testimony verify` says more; nothing is ordered")]
    Twice(StreamId, u64),
    /// More than is held.
    #[error(
        "more than {RECORDS_MAX} records or {HEADS_MAX} signed heads: choose fewer streams, or give the export in parts"
    )]
    TooMany,
}

/// One record of a chosen stream.
#[derive(Clone, Copy, Debug)]
struct Known {
    leaf: Hash,
    prev: Option<Hash>,
    /// It is meant.
    goes: bool,
}

/// What is known of one stream.
#[derive(Debug, Default)]
struct Stream {
    records: BTreeMap<u64, Known>,
    voucher: Voucher,
}

/// What a later start of a pod says that it found of one of its streams (D3).
#[derive(Clone, Debug)]
struct Recovered {
    /// The stream that says so, and where.
    by: StreamId,
    seq: u64,
    size: u64,
    root: Hash,
}

/// Records of one stream that go, without a gap between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The stream.
    pub sid: StreamId,
    /// The records.
    pub range: Range,
}

impl Part {
    /// As it is told.
    pub fn order(&self) -> PruneOrder {
        let (from, to) = (self.range.begin(), self.range.end());
        PruneOrder { stream: self.sid.clone(), from, to, nodes: self.range.nodes().map(Hash::to_hex).collect() }
    }
}

/// Finds the records of an export that are meant, in any order and with repeats.
#[derive(Debug, Default)]
pub struct Plan {
    selection: Selection,
    streams: BTreeMap<StreamId, Stream>,
    /// By the stream that was found.
    recovered: BTreeMap<StreamId, Vec<Recovered>>,
    records: usize,
    heads: usize,
}

/// Records in a row, each of which the next one names: the first one of each row, with how far it is vouched for.
type Rows = BTreeMap<StreamId, BTreeMap<u64, Vouched>>;

impl Plan {
    /// A plan without records.
    pub fn new(selection: Selection) -> Self {
        Self { selection, ..Self::default() }
    }

    /// Takes a body of the export; what is no record of a chosen stream is passed over.
    ///
    /// # Errors
    /// Another record claims its place, or there are too many.
    pub fn body(&mut self, body: &str) -> Result<(), PlanError> {
        let Ok(fields) = parse_body(body.as_bytes()) else { return Ok(()) };
        let text = |key: &str| fields.get(key).and_then(|value| std::str::from_utf8(value).ok());
        let number = |key: &str| text(key)?.parse::<u64>().ok();
        // A head has no place in a stream: it is no record.
        if text("typ") == Some("head") {
            return self.head(&fields);
        }
        let (Some(sid), Some(seq)) = (text("sid").and_then(|sid| sid.parse().ok()), number("seq")) else {
            return Ok(());
        };
        if !self.selection.has_stream(&sid) {
            return Ok(());
        }
        let filed = number("t0").map(|t0| filed_ns(t0, number("t1")));
        let goes = self.selection.before_ns.is_none_or(|before| filed.is_some_and(|filed| filed < before));
        let known = Known { leaf: leaf(body.as_bytes()), prev: text("prev").and_then(|prev| prev.parse().ok()), goes };
        let stream = self.streams.entry(sid.clone()).or_default();
        match stream.records.get(&seq) {
            Some(there) if there.leaf == known.leaf => return Ok(()),
            Some(_) => return Err(PlanError::Twice(sid, seq)),
            None => {}
        }
        if self.records >= RECORDS_MAX {
            return Err(PlanError::TooMany);
        }
        self.records += 1;
        stream.records.insert(seq, known);
        let key = text(if seq == 0 { "key" } else { "next_key" }).and_then(|key| key.parse().ok());
        key.into_iter().for_each(|key| stream.voucher.key(seq, key));
        let found = (text("rec_sid").and_then(|of| of.parse().ok()), number("size"), text("root"));
        if let (Some(of), Some(size), Some(root)) = found
            && text("typ") == Some("recovered")
            && sid.is_of_same_pod(&of)
            && let Ok(root) = root.parse()
        {
            self.recovered.entry(of).or_default().push(Recovered { by: sid, seq, size, root });
        }
        Ok(())
    }

    /// Takes a head of a chosen stream.
    fn head(&mut self, fields: &BTreeMap<String, Vec<u8>>) -> Result<(), PlanError> {
        let text = |key: &str| fields.get(key).and_then(|value| std::str::from_utf8(value).ok());
        let Some(note) = text("note").and_then(SignedNote::from_base64) else { return Ok(()) };
        let Ok(sid) = note.checkpoint.origin.parse::<StreamId>() else { return Ok(()) };
        if !self.selection.has_stream(&sid) {
            return Ok(());
        }
        let frontier = text("frontier").unwrap_or_default().split(',').map_while(|node| node.parse().ok());
        let stream = self.streams.entry(sid.clone()).or_default();
        if stream.voucher.head(&sid, &note, frontier.take(FRONTIER_MAX).collect()) {
            self.heads += 1;
        }
        if self.heads > HEADS_MAX { Err(PlanError::TooMany) } else { Ok(()) }
    }

    /// What goes, by stream and in order: of what is meant, that which a head of the stream vouches for.
    ///
    /// # Errors
    /// A record was changed: an order over it would prove nothing.
    pub fn parts(&self) -> Result<Vec<Part>, PlanError> {
        let rows = self.rows();
        let mut parts: Vec<Part> = Vec::new();
        for (sid, stream) in &self.streams {
            let rows = rows.get(sid);
            let mut range: Option<Range> = None;
            for (seq, known) in stream.records.iter().filter(|(_, known)| known.goes) {
                if !stream.is_followed(*seq, known) {
                    return Err(PlanError::Broken(sid.clone(), *seq));
                }
                let row = rows.and_then(|rows| rows.range(..=seq).next_back()).map(|(_, row)| *row).unwrap_or_default();
                if row.last.is_none_or(|last| last < *seq) {
                    if let Some(at) = row.contradicted {
                        return Err(PlanError::Unsigned(sid.clone(), at));
                    }
                    if !self.selection.unproved {
                        continue;
                    }
                }
                if range.as_ref().is_some_and(|range| range.end() != *seq) {
                    parts.extend(range.take().map(|range| Part { sid: sid.clone(), range }));
                }
                range.get_or_insert_with(|| Range::empty(*seq)).push(known.leaf);
            }
            parts.extend(range.map(|range| Part { sid: sid.clone(), range }));
        }
        Ok(parts)
    }

    /// Records that are meant and stand in none of the parts: nothing in the export says that they were not changed, and an order
    /// over a wrong hash would leave the genuine ones missing for ever.
    pub fn unproved(&self, parts: &[Part]) -> Vec<(StreamId, std::ops::Range<u64>)> {
        let mut unproved: Vec<(StreamId, std::ops::Range<u64>)> = Vec::new();
        let mut parts = parts.iter().peekable();
        for (sid, stream) in &self.streams {
            for seq in stream.records.iter().filter(|(_, known)| known.goes).map(|(seq, _)| *seq) {
                let behind = |part: &&Part| (&part.sid, part.range.end()) <= (sid, seq);
                while parts.next_if(|part| behind(part)).is_some() {}
                if parts.peek().is_some_and(|part| part.sid == *sid && part.range.begin() <= seq) {
                    continue;
                }
                match unproved.last_mut() {
                    Some((last, range)) if last == sid && range.end == seq => range.end = seq.saturating_add(1),
                    _ => unproved.push((sid.clone(), seq..seq.saturating_add(1))),
                }
            }
        }
        unproved
    }

    /// How far the rows of each stream are vouched for: by its own heads, and by what a later start found, if a head vouches for
    /// that.
    fn rows(&self) -> Rows {
        let mut rows: Rows = self.streams.iter().map(|(sid, stream)| (sid.clone(), stream.rows(sid))).collect();
        for _ in 0..STARTS_MAX {
            let mut more = false;
            for (of, recovered) in &self.recovered {
                for found in recovered {
                    more |= is_vouched(&rows, &found.by, found.seq) && self.found(of, found, &mut rows);
                }
            }
            if !more {
                break;
            }
        }
        rows
    }

    /// Takes what a later start found; whether it says more than was known.
    fn found(&self, of: &StreamId, found: &Recovered, rows: &mut Rows) -> bool {
        let Some(stream) = self.streams.get(of) else { return false };
        let Some(row) = rows.get_mut(of).and_then(|rows| rows.get_mut(&0)) else { return false };
        let Some(last) = found.size.checked_sub(1).filter(|last| row.last.is_none_or(|known| known < *last)) else {
            return false;
        };
        let mut range = Range::empty(0);
        for leaf in stream.row(0).take_while(|(seq, _)| *seq <= last).map(|(_, leaf)| leaf) {
            range.push(leaf);
        }
        // What it found and the export does not hold says nothing of the rest.
        if range.end() != found.size || row.contradicted == Some(last) {
            return false;
        }
        match range.root() == Some(found.root) {
            true => row.last = Some(last),
            false => row.contradicted = Some(last),
        }
        true
    }

    /// Records between those that go which the export does not hold: their hashes are not known, so nobody can order them.
    pub fn absent(&self) -> Vec<(StreamId, std::ops::Range<u64>)> {
        let mut absent = Vec::new();
        for (sid, Stream { records, .. }) in &self.streams {
            let last = records.iter().rev().find(|(_, known)| known.goes).map(|(seq, _)| *seq);
            let mut next = None;
            for seq in records.keys().take_while(|seq| last.is_some_and(|last| **seq <= last)) {
                if let Some(next) = next.filter(|next| next < seq) {
                    absent.push((sid.clone(), next..*seq));
                }
                next = seq.checked_add(1);
            }
        }
        absent
    }
}

/// Whether this record of a stream is vouched for.
fn is_vouched(rows: &Rows, sid: &StreamId, seq: u64) -> bool {
    let row = rows.get(sid).and_then(|rows| rows.range(..=seq).next_back());
    row.is_some_and(|(_, row)| row.last.is_some_and(|last| last >= seq))
}

impl Stream {
    /// Whether the next record, if it is there, names this one.
    fn is_followed(&self, seq: u64, known: &Known) -> bool {
        let next = seq.checked_add(1).and_then(|next| self.records.get(&next));
        next.is_none_or(|next| next.prev == Some(known.leaf))
    }

    /// The records from here on, as long as each is there and names the one before.
    fn row(&self, from: u64) -> impl Iterator<Item = (u64, Hash)> {
        let mut before: Option<(u64, Hash)> = None;
        self.records.range(from..).map_while(move |(seq, known)| {
            let follows =
                before.is_none_or(|(last, leaf)| last.checked_add(1) == Some(*seq) && known.prev == Some(leaf));
            before = Some((*seq, known.leaf));
            follows.then_some((*seq, known.leaf))
        })
    }

    /// All rows, by their first record.
    fn rows(&self, sid: &StreamId) -> BTreeMap<u64, Vouched> {
        let mut rows = BTreeMap::new();
        let mut next = self.records.keys().next().copied();
        while let Some(from) = next {
            let mut last = from;
            let row = self.row(from).inspect(|(seq, _)| last = *seq);
            let vouched = self.voucher.vouched(sid, row);
            rows.insert(from, vouched);
            next = last.checked_add(1).and_then(|next| self.records.range(next..).next()).map(|(seq, _)| *seq);
        }
        rows
    }
}

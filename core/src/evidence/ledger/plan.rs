//! Which records of an export go by order (G2): what is meant, and what of it the export proves.

use super::claims::{Claims, Known, settle};
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

/// Why of an export nothing can be ordered, or nothing of one stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// It was changed, or belongs to another stream.
    #[error(
        "record {1} of {0} is not the one that the record after it follows: `testimony verify` says more; nothing of that stream \
         is ordered"
    )]
    Broken(StreamId, u64),
    /// It, or one before it, was changed.
    #[error(
        "record {1} of {0} is not the one that the stream's key signed: `testimony verify` says more; nothing of that stream is \
         ordered"
    )]
    Unsigned(StreamId, u64),
    /// Several records claim one place, and no signed head says which one is genuine.
    #[error(
        "several records claim place {1} of {0}, and no signed head of the export says which one is genuine: `testimony verify` \
         says more; nothing of that stream is ordered"
    )]
    Twice(StreamId, u64),
    /// Somebody put a history of their own under the stream's name, with a key of their own.
    #[error(
        "two histories of {0} are signed, which differ at record {1}, each by a key that its own records name: `testimony verify` \
         with roots and ledger says whose is genuine; nothing of that stream is ordered"
    )]
    Signed(StreamId, u64),
    /// More than is held.
    #[error(
        "more than {RECORDS_MAX} records or {HEADS_MAX} signed heads: choose fewer streams, or give the export in parts"
    )]
    TooMany,
}

/// What is known of one stream.
#[derive(Debug, Default)]
struct Stream {
    records: Claims,
    voucher: Voucher,
}

/// What a later start of a pod says that it found of one of its streams (D3).
#[derive(Clone, Debug)]
struct Recovered {
    /// The stream that says so, and where.
    by: StreamId,
    seq: u64,
    leaf: Hash,
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

/// What of an export goes, and what of it does not.
#[derive(Debug, Default)]
pub struct Found {
    /// What goes, by stream and in order: of what is meant, that which a head of the stream vouches for.
    pub parts: Vec<Part>,
    /// Why nothing of some streams goes.
    pub refused: Vec<PlanError>,
    /// Records of the others that are meant and stand in none of the parts: nothing in the export says that they were not changed,
    /// and an order over a wrong hash would leave the genuine ones missing for ever.
    pub unproved: Vec<(StreamId, std::ops::Range<u64>)>,
    /// Records between those that go which the export does not hold: their hashes are not known, so nobody can order them.
    pub absent: Vec<(StreamId, std::ops::Range<u64>)>,
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
    /// There are too many.
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
        let known = Known { prev: text("prev").and_then(|prev| prev.parse().ok()), goes };
        let leaf = leaf(body.as_bytes());
        let stream = self.streams.entry(sid.clone()).or_default();
        if stream.records.contains_key(&(seq, leaf)) {
            return Ok(());
        }
        if self.records >= RECORDS_MAX {
            return Err(PlanError::TooMany);
        }
        self.records += 1;
        stream.records.insert((seq, leaf), known);
        let key = text(if seq == 0 { "key" } else { "next_key" }).and_then(|key| key.parse().ok());
        key.into_iter().for_each(|key| stream.voucher.key(leaf, key));
        let found = (text("rec_sid").and_then(|of| of.parse().ok()), number("size"), text("root"));
        if let (Some(of), Some(size), Some(root)) = found
            && text("typ") == Some("recovered")
            && sid.is_of_same_pod(&of)
            && let Ok(root) = root.parse()
        {
            self.recovered.entry(of).or_default().push(Recovered { by: sid, seq, leaf, size, root });
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

    /// What goes. Who pushes records of one stream stops no other one.
    pub fn finish(mut self) -> Found {
        let mut found = Found::default();
        self.streams.retain(|sid, stream| match settle(sid, &stream.voucher, &mut stream.records) {
            Ok(()) => true,
            Err(error) => {
                found.refused.push(error);
                false
            }
        });
        let rows = self.rows();
        self.streams.retain(|sid, stream| match stream.parts(sid, rows.get(sid), self.selection.unproved) {
            Ok(parts) => {
                found.parts.extend(parts);
                true
            }
            Err(error) => {
                found.refused.push(error);
                false
            }
        });
        found.unproved = self.unproved(&found.parts);
        found.absent = self.absent();
        found
    }

    /// Records that are meant and stand in none of the parts.
    fn unproved(&self, parts: &[Part]) -> Vec<(StreamId, std::ops::Range<u64>)> {
        let mut unproved: Vec<(StreamId, std::ops::Range<u64>)> = Vec::new();
        let mut parts = parts.iter().peekable();
        for (sid, stream) in &self.streams {
            for seq in stream.records.iter().filter(|(_, known)| known.goes).map(|((seq, _), _)| *seq) {
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
                    let by = self.streams.get(&found.by);
                    // It may be one that somebody pushed.
                    let is_there = by.is_some_and(|by| by.records.contains_key(&(found.seq, found.leaf)));
                    more |= is_there && is_vouched(&rows, &found.by, found.seq) && self.found(of, found, &mut rows);
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

    /// Records between those that go which the export does not hold.
    fn absent(&self) -> Vec<(StreamId, std::ops::Range<u64>)> {
        let mut absent = Vec::new();
        for (sid, Stream { records, .. }) in &self.streams {
            let last = records.iter().rev().find(|(_, known)| known.goes).map(|((seq, _), _)| *seq);
            let mut next = None;
            for seq in records.keys().map(|(seq, _)| seq).take_while(|seq| last.is_some_and(|last| **seq <= last)) {
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
    /// What goes of it.
    ///
    /// # Errors
    /// A record was changed: an order over it would prove nothing.
    fn parts(&self, sid: &StreamId, rows: Option<&BTreeMap<u64, Vouched>>, all: bool) -> Result<Vec<Part>, PlanError> {
        let mut parts: Vec<Part> = Vec::new();
        let mut range: Option<Range> = None;
        for ((seq, leaf), _) in self.records.iter().filter(|(_, known)| known.goes) {
            let row = rows.and_then(|rows| rows.range(..=seq).next_back());
            let (first, row) = row.map(|(first, row)| (*first, *row)).unwrap_or_default();
            if row.last.is_none_or(|last| last < *seq) {
                if !self.is_followed(*seq, *leaf) {
                    let next = seq.checked_add(1).and_then(|next| rows?.get(&next));
                    if first > 0 && next.is_some_and(|row| row.last.is_some()) {
                        // The next one is proved, and follows another one, which is not there: somebody pushed this one.
                        continue;
                    }
                    return Err(PlanError::Broken(sid.clone(), *seq));
                }
                if let Some(at) = row.contradicted {
                    return Err(PlanError::Unsigned(sid.clone(), at));
                }
                if !all {
                    continue;
                }
            }
            if range.as_ref().is_some_and(|range| range.end() != *seq) {
                parts.extend(range.take().map(|range| Part { sid: sid.clone(), range }));
            }
            range.get_or_insert_with(|| Range::empty(*seq)).push(*leaf);
        }
        parts.extend(range.map(|range| Part { sid: sid.clone(), range }));
        Ok(parts)
    }

    /// Whether the next record, if it is there, names this one.
    fn is_followed(&self, seq: u64, leaf: Hash) -> bool {
        let next = seq
            .checked_add(1)
            .and_then(|next| self.records.range(from(next)).next().filter(|((seq, _), _)| *seq == next));
        next.is_none_or(|(_, next)| next.prev == Some(leaf))
    }

    /// The records from here on, as long as each is there and names the one before.
    fn row(&self, first: u64) -> impl Iterator<Item = (u64, Hash)> {
        let mut before: Option<(u64, Hash)> = None;
        self.records.range(from(first)).map_while(move |((seq, leaf), known)| {
            let follows =
                before.is_none_or(|(last, leaf)| last.checked_add(1) == Some(*seq) && known.prev == Some(leaf));
            before = Some((*seq, *leaf));
            follows.then_some((*seq, *leaf))
        })
    }

    /// All rows, by their first record.
    fn rows(&self, sid: &StreamId) -> BTreeMap<u64, Vouched> {
        let mut rows = BTreeMap::new();
        let mut next = self.records.keys().next().map(|(seq, _)| *seq);
        while let Some(first) = next {
            let mut last = first;
            let row = self.row(first).inspect(|(seq, _)| last = *seq);
            let vouched = self.voucher.vouched(sid, row);
            rows.insert(first, vouched);
            next = last.checked_add(1).and_then(|next| self.records.range(from(next)).next()).map(|((seq, _), _)| *seq);
        }
        rows
    }
}

/// From this place on.
fn from(seq: u64) -> std::ops::RangeFrom<(u64, Hash)> {
    (seq, Hash([0; 32]))..
}

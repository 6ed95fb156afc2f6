//! A ledger as OTLP logs, and back: entries and heads look like the records of a stream, so that the same backends keep them
//! and the same adapters read them.

use super::block::{Block, Chain};
use super::entry::Entry;
use super::fact::Fact;
use super::pick::{Claims, pick};
use super::read::{Reader, Summary};
use crate::canon::{BodyWriter, parse_body};
use crate::evidence::hash::Hash;
use crate::evidence::note::{Checkpoint, PublicKey, SignedNote};
use crate::evidence::stream::StreamId;
use crate::otlp::proto;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What event names of entries begin with; the entry's type follows, without its `ledger-`.
pub const EVENT_PREFIX: &str = "audit.ledger.";

/// Event name of a head.
pub const HEAD_EVENT: &str = "audit.checkpoint";

/// OTel's severity INFO.
const SEVERITY: u64 = 9;

const VERSION: &str = "audit.schema.version";
const STREAM: &str = "audit.sequence.stream_id";
const NUMBER: &str = "audit.sequence.number";
const PREVIOUS: &str = "testimony.prev";

/// The exported head of a ledger (H3): like that of a stream, it is no leaf.
pub fn head_body(note: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = BodyWriter::new(&mut out);
    writer.member("note", STANDARD.encode(note).as_bytes());
    writer.member("typ", b"head");
    writer.member("v", super::entry::ENTRY_VERSION.as_bytes());
    writer.finish();
    out
}

/// One log record: an entry, or a head.
struct LogRecord {
    time_ns: u64,
    event: String,
    body: String,
    sid: String,
    /// `audit.sequence.number`, which begins at 1; a head has none.
    number: Option<u64>,
    prev: Option<String>,
}

/// A block's log records, its head last.
fn log_records(block: &Block) -> Result<Vec<LogRecord>, String> {
    let mut records = Vec::new();
    for body in block.entries.lines() {
        let entry = Entry::parse(body.as_bytes())?;
        let typ = super::entry::typ(&entry.fact);
        let event = typ.strip_prefix(super::entry::TYPE_PREFIX).unwrap_or(typ);
        records.push(LogRecord {
            time_ns: entry.at_ns,
            event: format!("{EVENT_PREFIX}{event}"),
            body: body.to_owned(),
            sid: entry.sid.to_string(),
            number: Some(entry.seq.saturating_add(1)),
            prev: entry.prev.map(Hash::to_hex),
        });
    }
    if let Some(last) = records.last() {
        let body = String::from_utf8(head_body(&block.note)).map_err(|error| error.to_string())?;
        let (time_ns, sid) = (last.time_ns, last.sid.clone());
        records.push(LogRecord { time_ns, event: HEAD_EVENT.to_owned(), body, sid, number: None, prev: None });
    }
    Ok(records)
}

/// The Resource: the operator of this cluster.
fn resource(sid: &StreamId) -> [(&'static str, &str); 2] {
    let cluster = sid.parts().map(|parts| parts.cluster_uid).unwrap_or_default();
    [("service.name", "testimony-operator"), ("k8s.cluster.uid", cluster)]
}

impl LogRecord {
    fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let own = [(VERSION, super::entry::ENTRY_VERSION), (STREAM, self.sid.as_str())];
        own.into_iter().chain(self.prev.as_deref().map(|prev| (PREVIOUS, prev)))
    }

    fn json(&self) -> Value {
        let text = |(key, text): (&str, &str)| json!({"key": key, "value": {"stringValue": text}});
        let number = self.number.map(|number| json!({"key": NUMBER, "value": {"intValue": number.to_string()}}));
        let attributes: Vec<Value> = self.texts().map(text).chain(number).collect();
        let time = self.time_ns.to_string();
        json!({
            "timeUnixNano": time, "observedTimeUnixNano": time, "severityNumber": SEVERITY, "eventName": self.event,
            "body": {"stringValue": self.body}, "attributes": attributes,
        })
    }

    /// As a `log_records` field of a ScopeLogs.
    fn proto(&self, out: &mut Vec<u8>) {
        let mut record = Vec::new();
        proto::fixed64(&mut record, 1, self.time_ns);
        proto::varint_field(&mut record, 2, SEVERITY);
        proto::bytes(&mut record, 5, &text_value(&self.body));
        for (key, text) in self.texts() {
            proto::bytes(&mut record, 6, &pair(key, &text_value(text)));
        }
        if let Some(number) = self.number {
            let mut value = Vec::new();
            proto::varint_field(&mut value, 3, number);
            proto::bytes(&mut record, 6, &pair(NUMBER, &value));
        }
        proto::fixed64(&mut record, 11, self.time_ns);
        proto::bytes(&mut record, 12, self.event.as_bytes());
        proto::bytes(out, 2, &record);
    }
}

/// An AnyValue of text.
fn text_value(text: &str) -> Vec<u8> {
    let mut value = Vec::new();
    proto::bytes(&mut value, 1, text.as_bytes());
    value
}

/// A KeyValue.
fn pair(key: &str, value: &[u8]) -> Vec<u8> {
    let mut pair = Vec::new();
    proto::bytes(&mut pair, 1, key.as_bytes());
    proto::bytes(&mut pair, 2, value);
    pair
}

/// A block as one line of OTLP JSON, as the Collector's file exporter writes it.
///
/// # Errors
/// The bodies are no entries.
pub fn otlp_line(block: &Block, sid: &StreamId) -> Result<String, String> {
    let attribute = |(key, text): (&str, &str)| json!({"key": key, "value": {"stringValue": text}});
    let attributes: Vec<Value> = resource(sid).into_iter().map(attribute).collect();
    let records: Vec<Value> = log_records(block)?.iter().map(LogRecord::json).collect();
    let scope = json!({"scope": {}, "logRecords": records});
    Ok(json!({"resourceLogs": [{"resource": {"attributes": attributes}, "scopeLogs": [scope]}]}).to_string())
}

/// A block as an ExportLogsServiceRequest in protobuf.
///
/// # Errors
/// The bodies are no entries.
pub fn otlp_request(block: &Block, sid: &StreamId) -> Result<Vec<u8>, String> {
    let mut records = Vec::new();
    log_records(block)?.iter().for_each(|record| record.proto(&mut records));
    Ok(crate::otlp::export_request(&crate::otlp::resource(resource(sid)), &[&records]))
}

/// Heads of which entries say that a witness outside cosigned them, by their size.
fn witnessed(entries: &BTreeMap<u64, &[u8]>) -> Result<BTreeMap<u64, Vec<SignedNote>>, String> {
    let mut heads: BTreeMap<u64, Vec<SignedNote>> = BTreeMap::new();
    for (seq, body) in entries {
        let fields = parse_body(body).unwrap_or_default();
        if fields.get("typ").is_none_or(|typ| typ != b"ledger-witnessed") {
            continue;
        }
        let Ok(Entry { fact: Fact::Witnessed(note), .. }) = Entry::parse(body) else { continue };
        let note = SignedNote::parse(&note).map_err(|problem| format!("entry {seq}: its note: {problem}"))?;
        heads.entry(note.checkpoint.size).or_default().push(note);
    }
    Ok(heads)
}

/// Bodies of one ledger: what claims to be its entries, and its signed heads by size.
pub(in crate::evidence) struct Bodies<'a> {
    pub(in crate::evidence) claims: Claims<'a>,
    pub(in crate::evidence) heads: BTreeMap<u64, (String, Hash)>,
}

/// Sorts exported bodies in any order. Others than those of this ledger are left out.
///
/// # Errors
/// Two of its heads contradict each other.
pub(in crate::evidence) fn sort<'a>(
    sid: &StreamId,
    key: PublicKey,
    bodies: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Bodies<'a>, String> {
    let mut claims = Claims::new();
    let mut heads: BTreeMap<u64, (String, Hash)> = BTreeMap::new();
    for body in bodies {
        let Ok(fields) = parse_body(body) else { continue };
        let text = |key: &str| fields.get(key).and_then(|value| std::str::from_utf8(value).ok());
        if text("typ") == Some("head") {
            let note = text("note").and_then(|note| STANDARD.decode(note).ok()).map(String::from_utf8);
            let Some(Ok(note)) = note else { continue };
            let Ok(signed) = SignedNote::parse(&note) else { continue };
            // Another head of this size is another ledger's, or proves nothing: only the signed one is looked at.
            if signed.checkpoint.origin == sid.as_str() && signed.is_signed_by(sid.as_str(), &key) {
                let Checkpoint { size, root, .. } = signed.checkpoint;
                if heads.insert(size, (note, root)).is_some_and(|(_, other)| other != root) {
                    return Err(format!("two heads of {size} entries are signed, and contradict each other"));
                }
            }
        } else if text("sid") == Some(sid.as_str())
            && let Some(seq) = text("seq").and_then(|seq| seq.parse().ok())
        {
            claims.entry(seq).or_default().push(body);
        }
    }
    for bodies in claims.values_mut().filter(|bodies| bodies.len() > 1) {
        bodies.sort_unstable();
        bodies.dedup();
    }
    Ok(Bodies { claims, heads })
}

/// Reads exported bodies in any order, duplicates too: entries of one ledger and its heads. Other bodies are left out. Only what
/// is under the last signed head is read.
///
/// Old blocks are removed one by one, so that a ledger may begin amid two restatements: what stands ahead of the first of them is
/// restated there.
///
/// # Errors
/// The entries are no whole ledger under this key; the text names the entry.
pub fn read_bodies<'a>(
    sid: &StreamId,
    key: PublicKey,
    bodies: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Summary, String> {
    let Bodies { claims, heads } = sort(sid, key, bodies)?;
    let end = *heads.keys().next_back().ok_or("no signed head of its entries is there")?;
    let there = claims.keys().next_back().map_or(0, |last| last.saturating_add(1));
    if there < end {
        return Err(format!("the ledger has {end} entries, as its own head says, and {there} are there"));
    }
    let roots = heads.iter().map(|(size, (_, root))| (*size, *root)).collect();
    let Some(picked) = pick(&claims, &roots) else {
        // What is wrong with them is told as far as reading comes.
        let first = claims.range(..end).filter_map(|(seq, bodies)| Some((*seq, *bodies.first()?)));
        let entries: BTreeMap<u64, &[u8]> = first.collect();
        let begins = |body: &[u8]| Entry::parse(body).is_ok_and(|entry| Chain::before(&entry).is_some());
        let begin = entries.iter().find(|(_, body)| begins(body)).map_or(0, |(seq, _)| *seq);
        let read = read(key, &entries.range(begin..).map(|(seq, body)| (*seq, *body)).collect(), &heads);
        return read.and_then(|_| Err(format!("its entries do not give the signed root of {end}")));
    };
    let mut summary = read(key, &picked.entries, &heads)?;
    summary.unproved = claims.range(end..).map(|(_, bodies)| bodies.len()).chain([picked.refused.len()]).fold(0, more);
    summary.refused = picked.refused;
    Ok(summary)
}

fn more(sum: u64, count: usize) -> u64 {
    sum.saturating_add(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Reads entries in order, with their heads.
fn read(
    key: PublicKey,
    entries: &BTreeMap<u64, &[u8]>,
    heads: &BTreeMap<u64, (String, Hash)>,
) -> Result<Summary, String> {
    let witnessed = witnessed(entries)?;
    let mut reader = Reader::new(key);
    for (seq, body) in entries {
        reader.entry(body).map_err(|problem| format!("entry {seq}: {problem}"))?;
        let size = seq.saturating_add(1);
        for note in witnessed.get(&size).into_iter().flatten() {
            reader.witnessed(note).map_err(|problem| format!("a cosigned head of {size} entries: {problem}"))?;
        }
        if let Some((note, _)) = heads.get(&size) {
            reader.head(note).map_err(|problem| format!("head of {size} entries: {problem}"))?;
        }
    }
    if reader.is_partial() {
        return Err("reading begins where what is known is restated, and the end of that is not there".to_owned());
    }
    Ok(reader.finish())
}

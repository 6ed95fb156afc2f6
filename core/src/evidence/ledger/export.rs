//! A ledger as OTLP logs, and back: entries and heads look like the records of a stream, so that the same backends keep them
//! and the same adapters read them.

use super::block::Block;
use super::entry::Entry;
use super::read::{Reader, Summary};
use crate::canon::{BodyWriter, parse_body};
use crate::evidence::note::PublicKey;
use crate::evidence::stream::StreamId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What event names of entries begin with; the entry's type follows, without its `ledger-`.
pub const EVENT_PREFIX: &str = "audit.ledger.";

/// OTel's severity INFO.
const SEVERITY: u8 = 9;

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

/// A block as JSON of OTLP log records, its head last.
///
/// # Errors
/// The bodies are no entries.
pub fn log_records(block: &Block) -> Result<Vec<Value>, String> {
    let mut records = Vec::new();
    let mut last: Option<Entry> = None;
    for body in block.entries.lines() {
        let entry = Entry::parse(body.as_bytes())?;
        records.push(record(&entry, body));
        last = Some(entry);
    }
    let Some(last) = last else { return Ok(records) };
    let body = String::from_utf8(head_body(&block.note)).map_err(|error| error.to_string())?;
    let time = last.at_ns.to_string();
    let attributes = [
        attribute("audit.schema.version", json!({"stringValue": super::entry::ENTRY_VERSION})),
        attribute("audit.sequence.stream_id", json!({"stringValue": last.sid.as_str()})),
    ];
    records.push(json!({
        "timeUnixNano": time, "observedTimeUnixNano": time, "severityNumber": SEVERITY, "eventName": "audit.checkpoint",
        "body": {"stringValue": body}, "attributes": attributes,
    }));
    Ok(records)
}

fn record(entry: &Entry, body: &str) -> Value {
    let typ = super::entry::typ(&entry.fact);
    let event = typ.strip_prefix(super::entry::TYPE_PREFIX).unwrap_or(typ);
    let time = entry.at_ns.to_string();
    let number = entry.seq.saturating_add(1).to_string();
    let mut attributes = vec![
        attribute("audit.schema.version", json!({"stringValue": super::entry::ENTRY_VERSION})),
        attribute("audit.sequence.stream_id", json!({"stringValue": entry.sid.as_str()})),
        attribute("audit.sequence.number", json!({"intValue": number})),
    ];
    attributes.extend(entry.prev.map(|prev| attribute("testimony.prev", json!({"stringValue": prev.to_hex()}))));
    json!({
        "timeUnixNano": time, "observedTimeUnixNano": time, "severityNumber": SEVERITY,
        "eventName": format!("{EVENT_PREFIX}{event}"), "body": {"stringValue": body}, "attributes": attributes,
    })
}

fn attribute(key: &str, value: Value) -> Value {
    json!({"key": key, "value": value})
}

/// A block as one line of OTLP JSON, as the Collector's file exporter writes it.
///
/// # Errors
/// The bodies are no entries.
pub fn otlp_line(block: &Block, sid: &StreamId) -> Result<String, String> {
    let cluster = sid.parts().map(|parts| parts.cluster_uid).unwrap_or_default();
    let resource = [
        attribute("service.name", json!({"stringValue": "testimony-operator"})),
        attribute("k8s.cluster.uid", json!({"stringValue": cluster})),
    ];
    let records = log_records(block)?;
    let scope = json!({"scope": {}, "logRecords": records});
    Ok(json!({"resourceLogs": [{"resource": {"attributes": resource}, "scopeLogs": [scope]}]}).to_string())
}

/// Reads exported bodies in any order, duplicates too: entries of one ledger and its heads. Other bodies are left out.
///
/// # Errors
/// The entries are no whole ledger under this key; the text names the entry.
pub fn read_bodies<'a>(
    sid: &StreamId,
    key: PublicKey,
    bodies: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Summary, String> {
    let mut entries: BTreeMap<u64, &[u8]> = BTreeMap::new();
    let mut notes: BTreeMap<u64, String> = BTreeMap::new();
    for body in bodies {
        let Ok(fields) = parse_body(body) else { continue };
        let text = |key: &str| fields.get(key).and_then(|value| std::str::from_utf8(value).ok());
        if text("typ") == Some("head") {
            let note = text("note").and_then(|note| STANDARD.decode(note).ok()).map(String::from_utf8);
            let Some(Ok(note)) = note else { continue };
            let Ok(signed) = crate::evidence::note::SignedNote::parse(&note) else { continue };
            // Another head of this size is another ledger's, or proves nothing: only the signed one is looked at.
            if signed.checkpoint.origin == sid.as_str() && signed.is_signed_by(sid.as_str(), &key) {
                notes.insert(signed.checkpoint.size, note);
            }
        } else if text("sid") == Some(sid.as_str())
            && let Some(seq) = text("seq").and_then(|seq| seq.parse().ok())
            && let Some(other) = entries.insert(seq, body)
            && other != body
        {
            return Err(format!("entry {seq} is there with two bodies"));
        }
    }
    let mut reader = Reader::new(key);
    for (seq, body) in entries {
        reader.entry(body).map_err(|problem| format!("entry {seq}: {problem}"))?;
        if let Some(note) = notes.get(&seq.saturating_add(1)) {
            reader.head(note).map_err(|problem| format!("head of {} entries: {problem}", seq.saturating_add(1)))?;
        }
    }
    let summary = reader.finish();
    match notes.keys().next_back() {
        Some(size) if *size > summary.size => {
            Err(format!("the ledger has {size} entries, as its own head says, and {} are there", summary.size))
        }
        _ => Ok(summary),
    }
}

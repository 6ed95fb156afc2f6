//! A ledger as OTLP logs, and back: entries and heads look like the records of a stream, so that the same backends keep them
//! and the same adapters read them.

use super::block::Block;
use super::entry::Entry;
use super::pass::{Reading, Unread, Why};
use super::pick::WAITING_BYTES_MAX;
use super::read::Summary;
use super::rows::{Row, sorted};
use super::shown::Times;
use crate::canon::BodyWriter;
use crate::evidence::hash::Hash;
use crate::evidence::note::PublicKey;
use crate::evidence::stream::StreamId;
use crate::otlp::proto;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

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
    let all = sorted(bodies);
    let own = || all.iter().filter_map(|row| Row::read(row)).filter(|row| row.ledger == sid.as_str());
    let mut reading = Reading::new(sid.as_str(), key, Times::default(), WAITING_BYTES_MAX);
    own().for_each(|row| reading.row(&row));
    reading.finish().map(|said| said.summary).map_err(|problem| match problem {
        Unread::Unproved(end) => {
            let mut why = Why::new(key, end);
            own().for_each(|row| why.row(&row));
            why.finish()
        }
        problem => problem.to_string(),
    })
}

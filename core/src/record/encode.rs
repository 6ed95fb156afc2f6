//! From a redacted record to its two forms: the canonical body, and an OTLP LogRecord that carries it.

use super::{Field, Projection, Record, Redacted, Side, decimal};
use crate::canon::{BODY_BYTES_MAX, BodyWriter, escape};
use crate::otlp::proto;

/// Scratch space of one data thread; reused for every record.
#[derive(Default)]
pub struct Encoder {
    body: Vec<u8>,
    log: Vec<u8>,
    attribute: Vec<u8>,
    value: Vec<u8>,
    pair: Vec<u8>,
}

/// Where an encoded record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// Appended.
    Appended,
    /// The body would be over [`BODY_BYTES_MAX`] even without headers: nothing was appended, count it into a gap.
    TooLong,
}

impl Encoder {
    /// Appends the record to `batch` as a `log_records` field of a ScopeLogs (tag, length, LogRecord), so that batches can
    /// be joined by concatenation. `observed_ns` is the time of sealing.
    pub fn append(&mut self, record: &Redacted<Record>, observed_ns: u64, batch: &mut Vec<u8>) -> Encoded {
        let record = record.get();
        self.write_body(record, true);
        if self.body.len() > BODY_BYTES_MAX {
            // R3: headers are cut before anything that identifies the exchange.
            self.write_body(record, false);
        }
        if self.body.len() > BODY_BYTES_MAX {
            return Encoded::TooLong;
        }
        self.write_log(record, observed_ns);
        proto::bytes(batch, 2, &self.log);
        Encoded::Appended
    }

    /// The canonical body of the last record that was appended.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    fn write_body(&mut self, record: &Record, with_headers: bool) {
        self.body.clear();
        let mut writer = BodyWriter::new(&mut self.body);
        for &field in Field::ALL {
            if field == Field::Id && with_headers {
                write_headers(&mut writer, record, &mut self.pair);
            }
            if field == Field::Trunc {
                if !with_headers || !record.truncated.is_empty() {
                    self.pair.clear();
                    self.pair.extend_from_slice(if with_headers { b"" } else { b"headers," });
                    self.pair.extend_from_slice(&record.truncated);
                    let kept = self.pair.get(..Field::Trunc.bytes_max()).unwrap_or(&self.pair);
                    writer.member(Field::Trunc.key(), kept);
                }
            } else if let Some(value) = record.get(field) {
                writer.member(field.key(), value);
            }
        }
        writer.finish();
    }

    /// LogRecord of opentelemetry/proto/logs/v1/logs.proto, fields in order of their numbers.
    fn write_log(&mut self, record: &Record, observed_ns: u64) {
        self.log.clear();
        proto::fixed64(&mut self.log, 1, record.get(Field::T0).and_then(parse_decimal).unwrap_or(0));
        self.value.clear();
        proto::bytes(&mut self.value, 1, &self.body);
        proto::bytes(&mut self.log, 5, &self.value);
        let outbound = record.get(Field::Dir) == Some(b"outbound");
        for &field in Field::ALL {
            let Some(value) = record.get(field) else { continue };
            match field.projection() {
                Projection::Text(name, _) => self.text(name, value),
                Projection::Int(name, _) => self.int(name, value),
                Projection::PeerAddress(_) => self.address(!outbound, value),
                Projection::LocalAddress(_) => self.address(outbound, value),
                Projection::Own(_) => {}
            }
        }
        if !record.truncated.is_empty() {
            let kept = record.truncated.get(..Field::Trunc.bytes_max()).unwrap_or(&record.truncated);
            if let Projection::Text(name, _) = Field::Trunc.projection() {
                self.text(name, kept);
            }
        }
        let mut id = [0; 16];
        if let Some(trace) = record.get(Field::TraceId).and_then(|hex| unhex(hex, &mut id)) {
            proto::bytes(&mut self.log, 9, trace);
        }
        if let Some(span) = record.get(Field::SpanId).and_then(|hex| unhex(hex, &mut id)) {
            proto::bytes(&mut self.log, 10, span);
        }
        proto::fixed64(&mut self.log, 11, observed_ns);
        proto::bytes(&mut self.log, 12, record.event().as_str().as_bytes());
    }

    /// A string attribute, escaped like the body (R1): proto3 strings must be UTF-8, and wire bytes need not be.
    fn text(&mut self, name: &str, value: &[u8]) {
        self.pair.clear();
        escape(value, &mut self.pair);
        self.value.clear();
        proto::bytes(&mut self.value, 1, &self.pair);
        self.push_attribute(name);
    }

    fn int(&mut self, name: &str, value: &[u8]) {
        let Some(number) = parse_decimal(value) else { return };
        self.value.clear();
        proto::varint_field(&mut self.value, 3, number.min(i64::MAX as u64));
        self.push_attribute(name);
    }

    /// `address:port`, the address without brackets.
    fn address(&mut self, of_client: bool, value: &[u8]) {
        let Some(colon) = value.iter().rposition(|&b| b == b':') else { return };
        let (host, port) = value.split_at(colon);
        let host = host.strip_prefix(b"[").and_then(|h| h.strip_suffix(b"]")).unwrap_or(host);
        self.text(if of_client { "client.address" } else { "server.address" }, host);
        self.int(if of_client { "client.port" } else { "server.port" }, port.get(1..).unwrap_or_default());
    }

    fn push_attribute(&mut self, name: &str) {
        self.attribute.clear();
        proto::bytes(&mut self.attribute, 1, name.as_bytes());
        proto::bytes(&mut self.attribute, 2, &self.value);
        proto::bytes(&mut self.log, 6, &self.attribute);
    }
}

fn write_headers(writer: &mut BodyWriter<'_>, record: &Record, scratch: &mut Vec<u8>) {
    for (prefix, side) in [("hq", Side::Request), ("hs", Side::Response)] {
        for (at, (name, value)) in record.headers(side).enumerate() {
            let mut digits = [0; 20];
            let number = decimal(at as u64, &mut digits);
            let mut key = [0_u8; 4];
            key[..2].copy_from_slice(prefix.as_bytes());
            key[2..].copy_from_slice(if number.len() == 1 { b"00" } else { b"  " });
            for (slot, digit) in key.iter_mut().rev().zip(number.iter().rev()) {
                *slot = *digit;
            }
            if let Ok(key) = std::str::from_utf8(&key) {
                writer.header(key, name, value, scratch);
            }
        }
    }
}

fn parse_decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Decodes a trace id (32 digits) or a span id (16 digits).
fn unhex<'a>(hex: &[u8], into: &'a mut [u8; 16]) -> Option<&'a [u8]> {
    let length = hex.len() / 2;
    if !matches!(hex.len(), 16 | 32) {
        return None;
    }
    for (slot, pair) in into.iter_mut().zip(hex.chunks_exact(2)) {
        *slot = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    into.get(..length)
}

//! From a redacted record to its two forms: the canonical body, and an OTLP LogRecord that carries it.

use super::{Field, Projection, Record, Redacted, Side, decimal};
use crate::canon::{BODY_BYTES_MAX, BodyWriter, escape};
use crate::otlp::proto;

/// Scratch space of one data thread; reused for every record.
#[derive(Default)]
pub struct Encoder {
    body: Vec<u8>,
    log: Vec<u8>,
    pair: Vec<u8>,
    /// Value of the field `trunc`; empty: there is none.
    trunc: Vec<u8>,
}

/// Where a record stands in its stream (L1).
pub struct Place<'a> {
    sid: &'a str,
    prev: Option<&'a [u8]>,
    seq: u64,
    digits: [u8; 20],
}

impl<'a> Place<'a> {
    /// Place `seq` of the stream `sid`; `prev` is the hash before it, in hex.
    pub fn new(sid: &'a str, seq: u64, prev: Option<&'a [u8]>) -> Self {
        Self { sid, prev, seq, digits: [0; 20] }
    }
}

/// A record with its place, if it has one: what there is to write.
struct Source<'a> {
    record: &'a Record,
    sid: Option<&'a [u8]>,
    seq: Option<&'a [u8]>,
    prev: Option<&'a [u8]>,
    bits: u128,
}

impl<'a> Source<'a> {
    fn new(record: &'a Record, place: Option<&'a mut Place<'_>>) -> Self {
        let Some(place) = place else {
            return Self { record, sid: None, seq: None, prev: None, bits: record.present };
        };
        let mut bits = record.present | Field::Sid.bit() | Field::Seq.bit();
        if place.prev.is_some() {
            bits |= Field::Prev.bit();
        }
        let Place { sid, prev, seq, digits } = place;
        Self { record, sid: Some(sid.as_bytes()), seq: Some(decimal(*seq, digits)), prev: *prev, bits }
    }

    /// What there is to write, in order.
    fn fields(&self) -> impl Iterator<Item = (Field, &'a [u8])> {
        Field::of_bits(self.bits).filter_map(|field| {
            let value = match field {
                Field::Sid => self.sid,
                Field::Seq => self.seq,
                Field::Prev => self.prev,
                _ => self.record.get(field),
            };
            Some((field, value?))
        })
    }
}

/// The canonical body that a record would have outside a stream: to look at, for it proves nothing. `None` when it is over
/// [`BODY_BYTES_MAX`].
pub fn body_of(record: &Redacted<Record>) -> Option<Vec<u8>> {
    let mut encoder = Encoder::default();
    encoder.encode(record, None, 0).then_some(encoder.body)
}

impl Encoder {
    /// Makes body and LogRecord of a record at this place of its stream. `observed_ns` is the time of sealing. False: the
    /// body would be over [`BODY_BYTES_MAX`] even without headers.
    pub(crate) fn encode(
        &mut self,
        record: &Redacted<Record>,
        place: Option<&mut Place<'_>>,
        observed_ns: u64,
    ) -> bool {
        let source = Source::new(record.get(), place);
        self.write_body(&source, true);
        if self.body.len() > BODY_BYTES_MAX {
            // R3: headers are cut before anything that identifies the exchange.
            self.write_body(&source, false);
        }
        if self.body.len() > BODY_BYTES_MAX {
            return false;
        }
        self.write_log(&source, observed_ns);
        true
    }

    /// The canonical body of the last record.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// The OTLP LogRecord of the last record.
    pub(crate) fn log_record(&self) -> &[u8] {
        &self.log
    }

    fn write_body(&mut self, source: &Source<'_>, with_headers: bool) {
        self.body.clear();
        let record = source.record;
        self.trunc.clear();
        self.trunc.extend_from_slice(if with_headers { b"" } else { b"headers," });
        self.trunc.extend_from_slice(&record.truncated);
        self.trunc.truncate(Field::Trunc.bytes_max());
        let trunc = Some(self.trunc.as_slice()).filter(|trunc| !trunc.is_empty());
        let mut writer = BodyWriter::new(&mut self.body);
        let mut headers_due = with_headers;
        let mut trunc_due = trunc;
        for (field, value) in source.fields() {
            if headers_due && field >= Field::Id {
                write_headers(&mut writer, record, &mut self.pair);
                headers_due = false;
            }
            if field > Field::Trunc
                && let Some(trunc) = trunc_due.take()
            {
                writer.member(Field::Trunc.key(), trunc);
            }
            if field != Field::Trunc {
                writer.member(field.key(), value);
            }
        }
        if headers_due {
            write_headers(&mut writer, record, &mut self.pair);
        }
        if let Some(trunc) = trunc_due {
            writer.member(Field::Trunc.key(), trunc);
        }
        writer.finish();
    }

    /// LogRecord of opentelemetry/proto/logs/v1/logs.proto, fields in order of their numbers.
    fn write_log(&mut self, source: &Source<'_>, observed_ns: u64) {
        self.log.clear();
        let record = source.record;
        let log = &mut self.log;
        proto::fixed64(log, 1, record.get(Field::T0).and_then(parse_decimal).unwrap_or(0));
        proto::key_and_len(log, 5, proto::bytes_len(1, self.body.len()));
        proto::bytes(log, 1, &self.body);
        let outbound = record.get(Field::Dir) == Some(b"outbound");
        for (field, value) in source.fields() {
            match field.projection() {
                Projection::Text(name, _) if field != Field::Trunc => text(log, name, value, &mut self.pair),
                Projection::Int(name, _) => int(log, name, value, 0),
                Projection::Number(name, _) => int(log, name, value, 1),
                Projection::PeerAddress(_) => address(log, !outbound, value, &mut self.pair),
                Projection::LocalAddress(_) => address(log, outbound, value, &mut self.pair),
                Projection::Own(_) | Projection::Body | Projection::Text(..) => {}
            }
        }
        if let Projection::Text(name, _) = Field::Trunc.projection()
            && !self.trunc.is_empty()
        {
            text(log, name, &self.trunc, &mut self.pair);
        }
        let mut id = [0; 16];
        if let Some(trace) = record.get(Field::TraceId).and_then(|hex| unhex(hex, &mut id)) {
            proto::bytes(log, 9, trace);
        }
        if let Some(span) = record.get(Field::SpanId).and_then(|hex| unhex(hex, &mut id)) {
            proto::bytes(log, 10, span);
        }
        proto::fixed64(log, 11, observed_ns);
        proto::bytes(log, 12, record.event().as_str().as_bytes());
    }
}

/// A string attribute, escaped like the body (R1): proto3 strings must be UTF-8, and wire bytes need not be.
fn text(log: &mut Vec<u8>, name: &str, value: &[u8], escaped: &mut Vec<u8>) {
    escaped.clear();
    escape(value, escaped);
    attribute(log, name, proto::bytes_len(1, escaped.len()));
    proto::bytes(log, 1, escaped);
}

fn int(log: &mut Vec<u8>, name: &str, value: &[u8], more: u64) {
    let Some(number) = parse_decimal(value) else { return };
    let number = number.saturating_add(more).min(i64::MAX as u64);
    attribute(log, name, 1 + proto::varint_len(number));
    proto::varint_field(log, 3, number);
}

/// `address:port`, the address without brackets.
fn address(log: &mut Vec<u8>, of_client: bool, value: &[u8], escaped: &mut Vec<u8>) {
    let Some(colon) = value.iter().rposition(|&b| b == b':') else { return };
    let (host, port) = value.split_at(colon);
    let host = host.strip_prefix(b"[").and_then(|h| h.strip_suffix(b"]")).unwrap_or(host);
    text(log, if of_client { "client.address" } else { "server.address" }, host, escaped);
    int(log, if of_client { "client.port" } else { "server.port" }, port.get(1..).unwrap_or_default(), 0);
}

/// Begins an attribute whose AnyValue has this length, and follows.
fn attribute(log: &mut Vec<u8>, name: &str, value_len: usize) {
    proto::key_and_len(log, 6, proto::bytes_len(1, name.len()) + proto::bytes_len(2, value_len));
    proto::bytes(log, 1, name.as_bytes());
    proto::key_and_len(log, 2, value_len);
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

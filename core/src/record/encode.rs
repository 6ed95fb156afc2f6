//! From a redacted record to its two forms: the canonical body, and an OTLP LogRecord that carries it.

use super::{Field, Projection, Record, Redacted, Side, decimal, parse_decimal};
use crate::canon::{BODY_BYTES_MAX, BodyWriter, Escaped};
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{LEAF_PREFIX, leaf_of_prefixed};
use crate::otlp::proto;

/// Scratch space of one data thread; reused for every record.
#[derive(Default)]
pub struct Encoder {
    /// The canonical body behind [`LEAF_PREFIX`], so that its leaf is hashed without a copy. Empty before the first record.
    prefixed: Vec<u8>,
    /// The LogRecord's attributes, which are made with the body: each value is looked at once.
    attributes: Vec<u8>,
    log: Vec<u8>,
    pair: Vec<u8>,
    /// Value of the field `trunc`; empty: there is none.
    trunc: Vec<u8>,
}

/// Bytes of a LogRecord beside its body and its attributes, at most.
const LOG_FRAME_BYTES: usize = 128;

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
    encoder.encode(record, None, 0).then(|| encoder.body().to_vec())
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
        if self.body().len() > BODY_BYTES_MAX {
            // R3: headers are cut before anything that identifies the exchange.
            self.write_body(&source, false);
        }
        if self.body().len() > BODY_BYTES_MAX {
            return false;
        }
        self.write_log(&source, observed_ns);
        true
    }

    /// The canonical body of the last record.
    pub(crate) fn body(&self) -> &[u8] {
        self.prefixed.get(1..).unwrap_or_default()
    }

    /// The leaf of the last record (L1).
    pub(crate) fn leaf(&self) -> Hash {
        leaf_of_prefixed(&self.prefixed)
    }

    /// The OTLP LogRecord of the last record.
    pub(crate) fn log_record(&self) -> &[u8] {
        &self.log
    }

    fn write_body(&mut self, source: &Source<'_>, with_headers: bool) {
        let Self { prefixed, attributes, pair, trunc, .. } = self;
        let record = source.record;
        prefixed.clear();
        prefixed.push(LEAF_PREFIX);
        attributes.clear();
        trunc.clear();
        trunc.extend_from_slice(if with_headers { b"" } else { b"headers," });
        trunc.extend_from_slice(&record.truncated);
        trunc.truncate(Field::Trunc.bytes_max());
        let outbound = record.get(Field::Dir) == Some(b"outbound");
        let mut writer = BodyWriter::new(prefixed);
        let mut headers_due = with_headers;
        let mut trunc_due = Some(trunc.as_slice()).filter(|trunc| !trunc.is_empty());
        for (field, value) in source.fields() {
            if headers_due && field >= Field::Id {
                write_headers(&mut writer, record, pair);
                headers_due = false;
            }
            if field > Field::Trunc
                && let Some(trunc) = trunc_due.take()
            {
                writer.member(Field::Trunc.key(), trunc);
            }
            if field != Field::Trunc {
                let escaped = Escaped::of(value, pair);
                writer.escaped_member(field.joint(), escaped);
                project(attributes, field, value, escaped.text(), outbound);
            }
        }
        if headers_due {
            write_headers(&mut writer, record, pair);
        }
        if let Some(trunc) = trunc_due {
            writer.member(Field::Trunc.key(), trunc);
        }
        writer.finish();
        if let Projection::Text(name, _) = Field::Trunc.projection()
            && !trunc.is_empty()
        {
            proto::text_attribute(attributes, name, Escaped::of(trunc, pair).text());
        }
    }

    /// LogRecord of opentelemetry/proto/logs/v1/logs.proto, fields in order of their numbers.
    fn write_log(&mut self, source: &Source<'_>, observed_ns: u64) {
        let Self { prefixed, attributes, log, .. } = self;
        let (record, body) = (source.record, prefixed.get(1..).unwrap_or_default());
        log.clear();
        log.reserve(body.len() + attributes.len() + LOG_FRAME_BYTES);
        proto::fixed64(log, 1, record.get(Field::T0).and_then(parse_decimal).unwrap_or(0));
        proto::key_and_len(log, 5, proto::bytes_len(1, body.len()));
        proto::bytes(log, 1, body);
        log.extend_from_slice(attributes);
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

/// Adds the attribute of a field. Text is escaped like the body (R1): proto3 strings must be UTF-8, and wire bytes need not be.
fn project(attributes: &mut Vec<u8>, field: Field, value: &[u8], escaped: &[u8], outbound: bool) {
    match field.projection() {
        Projection::Text(name, _) => proto::text_attribute(attributes, name, escaped),
        Projection::Int(name, _) => int(attributes, name, value, 0),
        Projection::Number(name, _) => int(attributes, name, value, 1),
        Projection::PeerAddress(_) => address(attributes, !outbound, value),
        Projection::LocalAddress(_) => address(attributes, outbound, value),
        Projection::Own(_) | Projection::Body => {}
    }
}

fn int(attributes: &mut Vec<u8>, name: &str, value: &[u8], more: u64) {
    if let Some(number) = parse_decimal(value) {
        proto::int_attribute(attributes, name, number.saturating_add(more).min(i64::MAX as u64));
    }
}

/// `address:port`, the address without brackets.
fn address(attributes: &mut Vec<u8>, of_client: bool, value: &[u8]) {
    let Some(colon) = value.iter().rposition(|&b| b == b':') else { return };
    let (host, port) = value.split_at(colon);
    let host = host.strip_prefix(b"[").and_then(|h| h.strip_suffix(b"]")).unwrap_or(host);
    let mut room = Vec::new();
    let escaped = Escaped::of(host, &mut room).text();
    proto::text_attribute(attributes, if of_client { "client.address" } else { "server.address" }, escaped);
    int(attributes, if of_client { "client.port" } else { "server.port" }, port.get(1..).unwrap_or_default(), 0);
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

/// Decodes a trace id (32 digits) or a span id (16 digits).
fn unhex<'a>(hex: &[u8], into: &'a mut [u8; 16]) -> Option<&'a [u8]> {
    let length = hex.len() / 2;
    if !matches!(hex.len(), 16 | 32) {
        return None;
    }
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    for (slot, [high, low]) in into.iter_mut().zip(hex.as_chunks::<2>().0) {
        *slot = digit(*high)? << 4 | digit(*low)?;
    }
    into.get(..length)
}

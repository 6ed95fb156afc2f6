//! A sealed record as it is kept until it leaves, and the OTLP LogRecord as which it leaves.
//!
//! A record's attributes say nothing that its body does not say. So only the body is kept, and the attributes are made of it
//! for each sink: the data thread does not write every value twice, and the disk does not hold it twice.

use super::{Body, EventName, Field, Member, Projection, parse_decimal};
use crate::canon::BODY_BYTES_MAX;
use crate::otlp::proto;
use std::borrow::Cow;

/// Time of sealing, and the event.
const HEAD_BYTES: usize = 8 + 1;

/// Most bytes of what is kept of one record.
pub const KEPT_BYTES_MAX: usize = HEAD_BYTES + BODY_BYTES_MAX;

/// Bytes of a LogRecord beside its body and its attributes, at most: keys and lengths, times, ids, the event's name, and the
/// key and length in front of it in a ScopeLogs.
const LOG_FRAME_BYTES: usize = 128;

/// Bytes of an attribute beside its name and its value, at most: four keys, and lengths of three bytes.
const ATTRIBUTE_FRAME_BYTES: usize = 14;

/// A LogRecord is at most so much longer than two times its body: it holds each value twice, and names of its own.
pub const LOG_OVERHEAD_BYTES_MAX: usize = {
    let (mut bytes, mut at) = (LOG_FRAME_BYTES, 0);
    while at < Field::ALL.len() {
        bytes += match Field::ALL[at].projection() {
            Projection::Text(name, _) | Projection::Int(name, _) | Projection::Number(name, _) => {
                ATTRIBUTE_FRAME_BYTES + name.len()
            }
            Projection::PeerAddress(_) | Projection::LocalAddress(_) => {
                2 * ATTRIBUTE_FRAME_BYTES + "server.address".len() + "server.port".len()
            }
            Projection::Own(_) | Projection::Body => 0,
        };
        at += 1;
    }
    bytes
};

/// So long after its begin a record may be filed under its begin, in nanoseconds: one hour. A backend is asked for so much more
/// than is looked at.
pub const FILED_AFTER_MAX_NS: u64 = 3_600_000_000_000;

/// The time of a LogRecord, `time_unix_nano`, under which a backend files it: when what it tells of began; but when it ended, or
/// was looked at, if that was over [`FILED_AFTER_MAX_NS`] later. What a connection of many hours leaves would be filed where
/// nobody looks for what was sealed just now, and where some backends take nothing any more.
pub const fn filed_ns(t0: u64, t1: Option<u64>) -> u64 {
    match t1 {
        Some(t1) if t1.saturating_sub(t0) > FILED_AFTER_MAX_NS => t1,
        _ => t0,
    }
}

/// What is kept of a sealed record or a head: its body, and what the body does not say. A stream makes it, or it is read back
/// from where it was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept<'a> {
    sealed_ns: u64,
    event: EventName,
    body: &'a [u8],
}

impl<'a> Kept<'a> {
    /// For what a stream has just encoded.
    pub(crate) fn new(sealed_ns: u64, event: EventName, body: &'a [u8]) -> Self {
        Self { sealed_ns, event, body }
    }

    /// When it was sealed, in nanoseconds since the epoch.
    pub fn sealed_ns(&self) -> u64 {
        self.sealed_ns
    }

    /// Its kind, in OTLP.
    pub fn event(&self) -> EventName {
        self.event
    }

    /// Its canonical body.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Appends it: time (8 bytes, little-endian), event (1), body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.bytes_len());
        out.extend_from_slice(&self.sealed_ns.to_le_bytes());
        out.push(self.event.code());
        out.extend_from_slice(self.body);
    }

    /// Length of what [`Kept::encode`] appends, in bytes.
    pub fn bytes_len(&self) -> usize {
        HEAD_BYTES.saturating_add(self.body.len())
    }

    /// Reads it back. `None`: it is too short, or of an event that is not known.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (sealed, rest) = bytes.split_first_chunk::<8>()?;
        let (event, body) = rest.split_first()?;
        Some(Self { sealed_ns: u64::from_le_bytes(*sealed), event: EventName::from_code(*event)?, body })
    }
}

/// Makes LogRecords. Keeps its room.
#[derive(Debug, Default)]
pub struct LogWriter {
    /// What follows the body: attributes, ids, time of sealing, event.
    rest: Vec<u8>,
}

/// What stands in fields of a LogRecord, and not in an attribute.
#[derive(Default)]
struct OwnFields<'a> {
    t0: u64,
    t1: Option<u64>,
    trace_id: Cow<'a, str>,
    span_id: Cow<'a, str>,
}

impl LogWriter {
    /// Appends the LogRecord as a `log_records` field of a ScopeLogs, so that batches can be joined by concatenation:
    /// opentelemetry/proto/logs/v1/logs.proto, fields in order of their numbers. A body that is not canonical, which nothing
    /// seals, stands there without attributes.
    pub fn append(&mut self, kept: &Kept<'_>, batch: &mut Vec<u8>) {
        self.rest.clear();
        let body = std::str::from_utf8(kept.body).ok().and_then(|text| Body::parse(text).ok()).unwrap_or_default();
        let own = self.project(&body);
        for (field, hex) in [(9, own.trace_id), (10, own.span_id)] {
            if let Some(id) = unhex(hex.as_bytes(), &mut [0; 16]) {
                proto::bytes(&mut self.rest, field, id);
            }
        }
        proto::fixed64(&mut self.rest, 11, kept.sealed_ns);
        proto::bytes(&mut self.rest, 12, kept.event.as_str().as_bytes());
        let body_len = proto::bytes_len(1, kept.body.len());
        let filed_ns = filed_ns(own.t0, own.t1);
        let length = proto::fixed64_len(1, filed_ns) + proto::bytes_len(5, body_len) + self.rest.len();
        batch.reserve(length.saturating_add(LOG_FRAME_BYTES));
        proto::key_and_len(batch, 2, length);
        proto::fixed64(batch, 1, filed_ns);
        proto::key_and_len(batch, 5, body_len);
        proto::bytes(batch, 1, kept.body);
        batch.extend_from_slice(&self.rest);
    }

    /// The attributes of a body, and what else it says of the LogRecord.
    fn project<'a>(&mut self, body: &Body<'a>) -> OwnFields<'a> {
        let attributes = &mut self.rest;
        let mut own = OwnFields::default();
        let mut outbound = false;
        let mut trunc = None;
        for member in body.members() {
            let Some(field) = member.field else { continue };
            match field {
                // It stands before the addresses.
                Field::Dir => outbound = member.text() == "outbound",
                Field::T0 => own.t0 = parse_decimal(member.text().as_bytes()).unwrap_or(0),
                Field::T1 => own.t1 = parse_decimal(member.text().as_bytes()),
                Field::TraceId => own.trace_id = member.text(),
                Field::SpanId => own.span_id = member.text(),
                _ => {}
            }
            match field.projection() {
                Projection::Text(name, _) if field == Field::Trunc => trunc = Some((name, member)),
                Projection::Text(name, _) => text(attributes, name, member),
                Projection::Int(name, _) => int(attributes, name, member.text().as_bytes(), 0),
                Projection::Number(name, _) => int(attributes, name, member.text().as_bytes(), 1),
                Projection::PeerAddress(_) => address(attributes, !outbound, member),
                Projection::LocalAddress(_) => address(attributes, outbound, member),
                Projection::Own(_) | Projection::Body => {}
            }
        }
        if let Some((name, member)) = trunc {
            text(attributes, name, member);
        }
        own
    }
}

/// Text stands escaped as in the body (R1): proto3 strings must be UTF-8, and wire bytes need not be.
fn text(attributes: &mut Vec<u8>, name: &str, member: &Member<'_>) {
    proto::text_attribute(attributes, name, member.text().as_bytes());
}

fn int(attributes: &mut Vec<u8>, name: &str, value: &[u8], more: u64) {
    if let Some(number) = parse_decimal(value) {
        proto::int_attribute(attributes, name, number.saturating_add(more).min(i64::MAX as u64));
    }
}

/// `address:port`, the address without brackets.
fn address(attributes: &mut Vec<u8>, of_client: bool, member: &Member<'_>) {
    let value = member.text();
    let Some((host, port)) = value.rsplit_once(':') else { return };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let [address, number] =
        if of_client { ["client.address", "client.port"] } else { ["server.address", "server.port"] };
    proto::text_attribute(attributes, address, host.as_bytes());
    int(attributes, number, port.as_bytes(), 0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BODY: &[u8] = br#"{"dir":"outbound","peer":"10.0.0.9:80","t0":"7","v":"1"}"#;

    #[test]
    fn what_is_kept_is_read_back_and_a_prefix_is_nothing_or_a_shorter_body() {
        for event in EventName::ALL {
            let kept = Kept { sealed_ns: 0x0102_0304_0506_0708, event: *event, body: BODY };
            let mut bytes = Vec::new();
            kept.encode(&mut bytes);
            assert_eq!(bytes.len(), kept.bytes_len());
            assert_eq!(Kept::decode(&bytes), Some(kept));
            for end in 0..bytes.len() {
                let body = end.checked_sub(HEAD_BYTES).map(|length| &BODY[..length]);
                assert_eq!(Kept::decode(&bytes[..end]), body.map(|body| Kept { body, ..kept }));
            }
        }
        assert_eq!(Kept::decode(&[0; 20]), None, "no event has this number");
    }

    #[test]
    fn v4_a_record_is_filed_under_its_begin_unless_its_end_is_over_an_hour_later() {
        const HOUR_NS: u64 = 3_600 * 1_000_000_000;
        for (t0, t1, filed) in [
            (7, None, 7),
            (7, Some(7), 7),
            (7, Some(7 + HOUR_NS), 7),
            (7, Some(8 + HOUR_NS), 8 + HOUR_NS),
            (7, Some(u64::MAX), u64::MAX),
            (2 * HOUR_NS, Some(0), 2 * HOUR_NS),
            (u64::MAX, Some(u64::MAX), u64::MAX),
        ] {
            assert_eq!(filed_ns(t0, t1), filed, "{t0} {t1:?}");
            let t1 = t1.map(|t1| format!(r#","t1":"{t1}""#)).unwrap_or_default();
            let body = format!(r#"{{"t0":"{t0}"{t1},"v":"1"}}"#);
            let mut batch = Vec::new();
            LogWriter::default()
                .append(&Kept { sealed_ns: 9, event: EventName::Gap, body: body.as_bytes() }, &mut batch);
            let wanted = [&[1 << 3 | 1][..], &filed.to_le_bytes()].concat();
            assert!(proto::content(&batch).is_some_and(|log| log.starts_with(&wanted)), "{body}");
        }
    }

    proptest! {
        #[test]
        fn a_log_record_of_any_bytes_is_a_field_and_keeps_to_its_length(
            sealed_ns in any::<u64>(),
            body in proptest::collection::vec(any::<u8>(), 0..200),
            canonical in any::<bool>(),
        ) {
            let body = if canonical { BODY } else { &body };
            let kept = Kept { sealed_ns, event: EventName::Gap, body };
            let mut batch = Vec::new();
            LogWriter::default().append(&kept, &mut batch);
            prop_assert_eq!(proto::field_len(&batch), Some(batch.len()));
            prop_assert!(batch.len() <= 2 * body.len() + LOG_OVERHEAD_BYTES_MAX);
        }
    }
}

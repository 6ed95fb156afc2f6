//! A record: the audit fact of one exchange, of a stage of a long one, or a gap.
//!
//! [`Record`] is what the request path collects; it may hold what must not leave. Only [`crate::redact::redact`] turns it
//! into a [`Redacted`] record, and only that can be encoded.

mod body;
mod encode;
mod event;
mod field;
mod gap;
mod kept;
mod restore;
mod text;

pub use body::{Body, Flaw, Member};
pub use encode::{Encoder, Place, body_of};
pub use event::{EventName, Typ};
pub use field::{Field, Projection, Stability, reference_markdown};
pub use gap::{Gap, GapReason};
pub use kept::{FILED_AFTER_MAX_NS, KEPT_BYTES_MAX, Kept, LOG_OVERHEAD_BYTES_MAX, LogWriter, filed_ns};
pub use restore::restore_exchange;
pub(crate) use text::{ShortText, decimal, hex, parse_decimal};

use std::fmt;

/// Version of the record format.
pub const RECORD_VERSION: &str = "1";

/// Most header fields kept of one head; more are named in `trunc`.
pub const HEADERS_MAX: usize = 32;

/// Most bytes of one kept header value; more are cut.
pub const HEADER_VALUE_BYTES_MAX: usize = 1024;

/// Fields that a record usually has; more cost an allocation.
const SPANS_USUAL: usize = 48;

/// A field that was never set: no record has so many.
const NO_SLOT: u8 = u8::MAX;

/// Wall and monotonic time, taken together. The core never reads a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Nanoseconds since the Unix epoch.
    pub wall_ns: u64,
    /// Nanoseconds on a clock that never steps.
    pub mono_ns: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
}

/// One kept header: name in lower case.
#[derive(Clone, Copy, Debug)]
struct HeaderSpan {
    name: Span,
    value: Span,
}

/// Whose head a header stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The request's head.
    Request,
    /// The response's head.
    Response,
}

/// What was seen of one exchange, before redaction. All values stand in one buffer.
#[derive(Clone)]
pub struct Record {
    event: EventName,
    /// Which fields are there: a bit for each.
    present: u128,
    /// Where each field's span stands in `spans`, if it was ever set.
    slots: [u8; Field::COUNT],
    spans: Vec<Span>,
    headers: [Vec<HeaderSpan>; 2],
    buffer: Vec<u8>,
    truncated: Vec<u8>,
}

impl fmt::Debug for Record {
    /// Names only: the values are not redacted yet.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let present = Field::ALL.iter().filter(|field| self.get(**field).is_some()).map(|field| field.key());
        f.debug_struct("Record").field("event", &self.event).field("fields", &present.collect::<Vec<_>>()).finish()
    }
}

impl Record {
    /// An empty record of this kind.
    pub fn new(event: EventName) -> Self {
        Self {
            event,
            present: 0,
            slots: [NO_SLOT; Field::COUNT],
            spans: Vec::with_capacity(SPANS_USUAL),
            headers: [Vec::new(), Vec::new()],
            buffer: Vec::with_capacity(1024),
            truncated: Vec::new(),
        }
    }

    /// What kind of event it is.
    pub fn event(&self) -> EventName {
        self.event
    }

    /// Makes it another kind of event.
    pub fn set_event(&mut self, event: EventName) {
        self.event = event;
    }

    /// Sets a field; a value over [`Field::bytes_max`] is cut and named in `trunc`.
    pub fn set(&mut self, field: Field, value: &[u8]) {
        let kept = value.get(..field.bytes_max()).unwrap_or(value);
        if kept.len() < value.len() {
            self.note_cut(field.key(), value.len());
        }
        let (Some(span), Some(slot)) = (self.push(kept), self.slots.get_mut(field.index())) else { return };
        match self.spans.get_mut(usize::from(*slot)) {
            Some(known) => *known = span,
            None => {
                *slot = u8::try_from(self.spans.len()).unwrap_or(NO_SLOT);
                self.spans.push(span);
            }
        }
        self.present |= field.bit();
    }

    /// Sets a field to a decimal number.
    pub fn set_int(&mut self, field: Field, value: u64) {
        let mut digits = [0; 20];
        self.set(field, decimal(value, &mut digits));
    }

    /// Takes a field away.
    pub fn clear(&mut self, field: Field) {
        self.present &= !field.bit();
    }

    /// A field's raw value.
    pub fn get(&self, field: Field) -> Option<&[u8]> {
        if self.present & field.bit() == 0 {
            return None;
        }
        let slot = self.slots.get(field.index())?;
        self.spans.get(usize::from(*slot)).and_then(|span| self.slice(*span))
    }

    /// Its kind of record, by the field `typ`.
    pub fn typ(&self) -> Option<Typ> {
        self.get(Field::Typ).and_then(Typ::parse)
    }

    /// When what it tells of began, in nanoseconds since the epoch; 0: it is not known.
    pub fn start_ns(&self) -> u64 {
        self.get(Field::T0).and_then(parse_decimal).unwrap_or(0)
    }

    /// Keeps a header field. The name is lowered; at most [`HEADERS_MAX`] are kept of each head.
    pub fn push_header(&mut self, side: Side, name: &str, value: &[u8]) {
        if self.headers_of(side).len() >= HEADERS_MAX {
            self.note_cut(if side == Side::Request { "hq" } else { "hs" }, HEADERS_MAX + 1);
            return;
        }
        let kept = value.get(..HEADER_VALUE_BYTES_MAX).unwrap_or(value);
        if kept.len() < value.len() {
            self.note_cut(name, value.len());
        }
        let start = self.buffer.len();
        self.buffer.extend_from_slice(name.as_bytes());
        if let Some(name) = self.buffer.get_mut(start..) {
            name.make_ascii_lowercase();
        }
        let name = span(start, self.buffer.len());
        let value = self.push(kept);
        if let (Some(name), Some(value)) = (name, value) {
            self.headers_mut(side).push(HeaderSpan { name, value });
        }
    }

    /// The kept header fields of one head: name and raw value.
    pub fn headers(&self, side: Side) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers_of(side).iter().filter_map(|h| Some((self.slice(h.name)?, self.slice(h.value)?)))
    }

    /// Keeps only the header fields for which `keep(name, value)` is true.
    pub(crate) fn retain_headers(&mut self, side: Side, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let mut list = std::mem::take(self.headers_mut(side));
        list.retain(|h| match (self.slice(h.name), self.slice(h.value)) {
            (Some(name), Some(value)) => keep(name, value),
            _ => false,
        });
        *self.headers_mut(side) = list;
    }

    fn headers_of(&self, side: Side) -> &Vec<HeaderSpan> {
        let [request, response] = &self.headers;
        if side == Side::Request { request } else { response }
    }

    fn headers_mut(&mut self, side: Side) -> &mut Vec<HeaderSpan> {
        let [request, response] = &mut self.headers;
        if side == Side::Request { request } else { response }
    }

    fn push(&mut self, value: &[u8]) -> Option<Span> {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(value);
        span(start, self.buffer.len())
    }

    fn slice(&self, span: Span) -> Option<&[u8]> {
        self.buffer.get(span.start as usize..span.end as usize)
    }

    fn note_cut(&mut self, name: &str, length: usize) {
        if !self.truncated.is_empty() {
            self.truncated.push(b',');
        }
        self.truncated.extend_from_slice(name.as_bytes());
        self.truncated.push(b'=');
        let mut digits = [0; 20];
        self.truncated.extend_from_slice(decimal(length as u64, &mut digits));
    }
}

fn span(start: usize, end: usize) -> Option<Span> {
    Some(Span { start: u32::try_from(start).ok()?, end: u32::try_from(end).ok()? })
}

/// A value that went through redaction. Nothing but [`crate::redact::redact`] makes one of a [`Record`].
#[derive(Debug)]
pub struct Redacted<T>(T);

impl<T> Redacted<T> {
    /// For `redact`, and for records that are made of our own counters alone.
    pub(crate) fn new(value: T) -> Self {
        Self(value)
    }

    /// The redacted value.
    pub fn get(&self) -> &T {
        &self.0
    }
}

/// Random bits and time make a UUIDv7 (RFC 9562): 74 random bits.
pub fn uuid_v7(wall_ns: u64, random: u128) -> [u8; 36] {
    let millis = u128::from(wall_ns / 1_000_000) & 0xffff_ffff_ffff;
    let rand_a = (random >> 64) & 0x0fff;
    let rand_b = random & 0x3fff_ffff_ffff_ffff;
    let value = (millis << 80) | (0x7 << 76) | (rand_a << 64) | (0b10 << 62) | rand_b;
    let digits: [u8; 32] = hex(value.to_be_bytes());
    let mut text = [b'-'; 36];
    for (to, from) in [(0, 0..8), (9, 8..12), (14, 12..16), (19, 16..20), (24, 20..32)] {
        let part = digits.get(from).unwrap_or_default();
        if let Some(slot) = text.get_mut(to..to + part.len()) {
            slot.copy_from_slice(part);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_v7_golden() {
        let id = uuid_v7(1_700_000_000_000_000_000, 0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(std::str::from_utf8(&id), Ok("018bcfe5-6800-7def-8011-223344556677"));
    }

    #[test]
    fn r3_a_long_value_is_cut_and_told() {
        let mut record = Record::new(EventName::HttpRequest);
        record.set(Field::Method, &[b'A'; 70]);
        record.push_header(Side::Request, "Accept", &[b'x'; 2000]);
        assert_eq!(record.get(Field::Method).map(<[u8]>::len), Some(64));
        assert_eq!(record.truncated, b"method=70,Accept=2000");
    }
}

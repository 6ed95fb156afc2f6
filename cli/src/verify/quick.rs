//! OTLP JSON as the Collector's file exporter writes it, in one pass and without a tree.
//!
//! It reads the usual form only: no white space, no key twice, texts and integers as values. Whatever else stands there, right or
//! wrong, is left to [`super::otlp`], which judges the line as a whole and says what is wrong with it. So this reader may give up
//! anywhere, but never takes what the other one refuses, nor reads it otherwise; a test holds the two against each other.

use std::borrow::Cow;
use testimony_core::evidence::verify::{Stored, Value, resource_digest};

/// Gives each record of one line: its body, and what stands beside it. `give` sees the records in order of the line.
///
/// # Errors
/// After so many records it met something that it leaves to the other reader.
pub fn records(line: &str, give: &mut dyn FnMut(Option<&str>, &Stored<'_>)) -> Result<(), u64> {
    let mut given = 0;
    let mut reader = Reader { line, bytes: line.as_bytes(), at: 0, given: &mut given };
    // JSON has no control characters in texts, and this form none between them.
    let plain = line.bytes().fold(true, |plain, byte| plain & (byte >= b' '));
    let read = if plain { reader.request(give) } else { None };
    read.ok_or(given)
}

struct Reader<'a, 'n> {
    line: &'a str,
    bytes: &'a [u8],
    at: usize,
    given: &'n mut u64,
}

/// Records of one Resource share what is said of it, and the room for attributes.
#[derive(Default)]
struct Room<'a> {
    stored: Stored<'a>,
    body: Option<Cow<'a, str>>,
}

impl<'a> Reader<'a, '_> {
    fn request(&mut self, give: &mut dyn FnMut(Option<&str>, &Stored<'_>)) -> Option<()> {
        self.literal(b"{\"resourceLogs\":[")?;
        loop {
            self.resource_logs(&mut *give)?;
            if self.end_of(b']')? {
                break;
            }
        }
        self.literal(b"}")?;
        (self.at == self.bytes.len()).then_some(())
    }

    fn resource_logs(&mut self, give: &mut dyn FnMut(Option<&str>, &Stored<'_>)) -> Option<()> {
        let mut attributes = Vec::new();
        self.literal(b"{\"resource\":{\"attributes\":[")?;
        self.attributes(&mut attributes)?;
        self.literal(b"},\"scopeLogs\":[")?;
        let of = |key: &str| {
            let found = attributes.iter().find(|(name, _)| name == key);
            found.and_then(|(_, value)| if let Value::Text(text) = value { Some(text.clone()) } else { None })
        };
        let text = |key| of(key).unwrap_or_default();
        let mut room = Room::default();
        room.stored.resource = [of("k8s.cluster.uid"), of("k8s.namespace.name"), of("k8s.pod.uid")];
        room.stored.resource_digest = resource_digest(&text("k8s.pod.name"), &text("k8s.node.name"));
        loop {
            self.scope_logs(&mut room, &mut *give)?;
            if self.end_of(b']')? {
                break;
            }
        }
        if self.peek()? == b',' {
            // Not `resource` or `scopeLogs` once more: that would be an error.
            self.literal(b",\"schemaUrl\":")?;
            self.text()?;
        }
        self.literal(b"}")
    }

    fn scope_logs(&mut self, room: &mut Room<'a>, give: &mut dyn FnMut(Option<&str>, &Stored<'_>)) -> Option<()> {
        let mut seen = 0_u32;
        self.literal(b"{")?;
        while !self.end_of(b'}')? {
            let bit = match self.key()? {
                "scope" => {
                    self.literal(b"{")?;
                    while !self.end_of(b'}')? {
                        self.key()?;
                        self.text()?;
                    }
                    1
                }
                "logRecords" => {
                    self.log_records(room, &mut *give)?;
                    2
                }
                "schemaUrl" => {
                    self.text()?;
                    4
                }
                _ => return None,
            };
            if seen & bit != 0 {
                return None;
            }
            seen |= bit;
        }
        Some(())
    }

    fn log_records(&mut self, room: &mut Room<'a>, give: &mut dyn FnMut(Option<&str>, &Stored<'_>)) -> Option<()> {
        self.literal(b"[")?;
        loop {
            self.record(room)?;
            give(room.body.as_deref(), &room.stored);
            *self.given += 1;
            if self.end_of(b']')? {
                return Some(());
            }
        }
    }

    fn record(&mut self, room: &mut Room<'a>) -> Option<()> {
        let stored = &mut room.stored;
        let mut attributes = stored.attributes.take().unwrap_or_default();
        attributes.clear();
        let (mut seen, mut time) = (0_u32, 0);
        let (mut body, mut event, mut trace_id, mut span_id) = (None, None, None, None);
        self.literal(b"{")?;
        while !self.end_of(b'}')? {
            let key = self.key()?;
            let bit = match key {
                "timeUnixNano" => {
                    time = self.plain_text()?.parse().ok()?;
                    1
                }
                "body" => {
                    if let Value::Text(text) = self.any()? {
                        body = Some(text);
                    }
                    2
                }
                "attributes" => {
                    self.literal(b"[")?;
                    self.attributes(&mut attributes)?;
                    4
                }
                "traceId" => {
                    trace_id = Some(self.text()?);
                    8
                }
                "spanId" => {
                    span_id = Some(self.text()?);
                    16
                }
                "eventName" => {
                    event = Some(self.text()?);
                    32
                }
                "observedTimeUnixNano" | "severityText" => {
                    self.text()?;
                    0
                }
                "severityNumber" | "flags" => {
                    self.digits()?;
                    0
                }
                _ => return None,
            };
            if seen & bit != 0 {
                return None;
            }
            seen |= bit;
        }
        stored.time_ns = Some(time);
        stored.event = Some(event.unwrap_or_default());
        stored.trace_id = Some(trace_id.unwrap_or_default());
        stored.span_id = Some(span_id.unwrap_or_default());
        stored.attributes = Some(attributes);
        room.body = body;
        Some(())
    }

    /// What comes after `[`, with the `]`.
    fn attributes(&mut self, out: &mut Vec<(Cow<'a, str>, Value<'a>)>) -> Option<()> {
        if self.peek()? == b']' {
            return self.literal(b"]");
        }
        loop {
            self.literal(b"{\"key\":")?;
            let key = self.text()?;
            self.literal(b",\"value\":")?;
            out.push((key, self.any()?));
            self.literal(b"}")?;
            if self.end_of(b']')? {
                return Some(());
            }
        }
    }

    fn any(&mut self) -> Option<Value<'a>> {
        let value = if self.bytes.get(self.at..)?.starts_with(b"{\"stringValue\":") {
            self.at += b"{\"stringValue\":".len();
            Value::Text(self.text()?)
        } else {
            self.literal(b"{\"intValue\":")?;
            Value::Int(self.plain_text()?.parse().ok()?)
        };
        self.literal(b"}")?;
        Some(value)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn literal(&mut self, wanted: &[u8]) -> Option<()> {
        let fits = self.bytes.get(self.at..)?.starts_with(wanted);
        self.at += wanted.len();
        fits.then_some(())
    }

    /// After a member: whether the array or object ends here, or goes on after a comma. At an object's begin: whether it is empty.
    fn end_of(&mut self, end: u8) -> Option<bool> {
        let byte = self.peek()?;
        // No value ends with this one, so the object has just begun, and no comma may stand here.
        let begins = self.at.checked_sub(1).and_then(|at| self.bytes.get(at)) == Some(&b'{');
        if begins && byte == b'"' {
            return Some(false);
        }
        self.at += 1;
        if byte == end { Some(true) } else { (byte == b',' && !begins).then_some(false) }
    }

    /// A key without escapes, and the colon.
    fn key(&mut self) -> Option<&'a str> {
        let key = self.plain_text()?;
        self.literal(b":")?;
        Some(key)
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek()?.is_ascii_digit() {
            self.at += 1;
        }
        let digits = self.line.get(start..self.at)?;
        (digits == "0" || (!digits.starts_with('0') && matches!(digits.len(), 1..=9))).then_some(())
    }

    /// A text without escapes.
    fn plain_text(&mut self) -> Option<&'a str> {
        match self.text()? {
            Cow::Borrowed(text) => Some(text),
            Cow::Owned(_) => None,
        }
    }

    fn text(&mut self) -> Option<Cow<'a, str>> {
        self.literal(b"\"")?;
        let rest = self.bytes.get(self.at..)?;
        let length = special(rest, 0)?;
        if rest.get(length) == Some(&b'"') {
            let text = self.line.get(self.at..self.at + length)?;
            self.at += length + 1;
            return Some(Cow::Borrowed(text));
        }
        let (text, length) = unescaped(rest, length)?;
        self.at += length;
        Some(Cow::Owned(text))
    }
}

const STEP: usize = 8;
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Where the first quote or backslash among eight bytes stands; 8: there is none.
fn special_of(chunk: [u8; STEP]) -> usize {
    let word = u64::from_le_bytes(chunk);
    // The lowest marked byte is right whatever stands above it.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let marks = zero(word ^ (ONES * b'"' as u64)) | zero(word ^ (ONES * b'\\' as u64));
    (marks.trailing_zeros() / 8) as usize
}

/// Where the first quote or backslash from `at` on stands.
fn special(bytes: &[u8], mut at: usize) -> Option<usize> {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<STEP>()) {
        let found = special_of(*chunk);
        at += found;
        if found < STEP {
            return Some(at);
        }
    }
    let rest = bytes.get(at..)?;
    rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).map(|found| at + found)
}

/// A text up to its quote, without the escapes of JSON, and its length with the quote. The first `plain` bytes have none.
fn unescaped(bytes: &[u8], plain: usize) -> Option<(String, usize)> {
    // A text that is long in escapes is a body: about an eighth of it are backslashes.
    let mut out = Vec::with_capacity(plain + 1536);
    out.extend_from_slice(bytes.get(..plain)?);
    let mut at = plain;
    loop {
        // Eight bytes are copied at once; what is too much is taken back.
        if let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<STEP>()) {
            let found = special_of(*chunk);
            out.extend_from_slice(chunk);
            out.truncate(out.len() - (STEP - found));
            at += found;
            if found == STEP {
                continue;
            }
        }
        match bytes.get(at)? {
            b'"' => return Some((String::from_utf8(out).ok()?, at + 1)),
            b'\\' => {
                let byte = match bytes.get(at + 1)? {
                    byte @ (b'"' | b'\\' | b'/') => *byte,
                    b'b' => 8,
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'u' => {
                        // `<`, `>` and `&`, as Go may write them; others are rare.
                        let digits = std::str::from_utf8(bytes.get(at + 4..at + 6)?).ok()?;
                        let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                        let low = bytes.get(at + 2..at + 4)? == b"00" && hex;
                        at += 4;
                        u8::from_str_radix(digits, 16).ok().filter(|byte| low && byte.is_ascii())?
                    }
                    _ => return None,
                };
                out.push(byte);
                at += 2;
            }
            byte => {
                out.push(*byte);
                at += 1;
            }
        }
    }
}

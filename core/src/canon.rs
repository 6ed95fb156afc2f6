//! The canonical form of a record: rules R1 to R3 of the evidence format.
//!
//! A record is a flat map from ASCII keys to printable ASCII values, serialised by RFC 8785 (JCS). With this shape JCS comes
//! down to sorted keys and two escapes, and no rule about numbers or Unicode ever applies.

use std::collections::BTreeMap;
use thiserror::Error;

/// Largest body, in bytes (R3).
pub const BODY_BYTES_MAX: usize = 65_536;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// What a byte needs, as bits: an escape of R1,
const ESCAPE: u8 = 1;
/// or a backslash of JSON.
const BACKSLASH: u8 = 2;

const NEEDS: [u8; 256] = {
    let mut needs = [ESCAPE; 256];
    let mut byte = 0x20;
    while byte <= 0x7e {
        needs[byte] = 0;
        byte += 1;
    }
    needs[b'%' as usize] = ESCAPE;
    needs[b'"' as usize] = BACKSLASH;
    needs[b'\\' as usize] = BACKSLASH;
    needs
};

/// A value in the form of R1, which nearly always is the value itself.
#[derive(Clone, Copy)]
pub(crate) struct Escaped<'a> {
    text: &'a [u8],
    /// Bytes of it have a backslash in JSON.
    backslashes: bool,
}

impl<'a> Escaped<'a> {
    /// Escapes a value, into `room` if it must be.
    pub(crate) fn of(value: &'a [u8], room: &'a mut Vec<u8>) -> Self {
        let needs = value.iter().fold(0, |all, byte| all | NEEDS.get(usize::from(*byte)).copied().unwrap_or(ESCAPE));
        let spaced = value.first().is_none_or(|first| *first == b' ') || value.last() == Some(&b' ');
        let backslashes = needs & BACKSLASH != 0;
        if needs & ESCAPE == 0 && !spaced {
            return Self { text: value, backslashes };
        }
        room.clear();
        escape(value, room);
        Self { text: room, backslashes }
    }
}

/// R1: printable ASCII but `%` stands for itself; `%`, a first or last space and every other byte become `%XX`; an empty
/// value is `%`. Appends to `out`.
pub fn escape(value: &[u8], out: &mut Vec<u8>) {
    if value.is_empty() {
        out.push(b'%');
        return;
    }
    let last = value.len() - 1;
    let mut at = 0;
    while let Some(rest) = value.get(at..).filter(|rest| !rest.is_empty()) {
        // Runs of what stands for itself are copied at once: nearly all there is.
        let run = rest.iter().position(|byte| !is_plain(*byte)).unwrap_or(rest.len());
        let run = if run > 0 && at == 0 && rest.first() == Some(&b' ') { 0 } else { run };
        let run = if run > 0 && at + run > last && value.last() == Some(&b' ') { run - 1 } else { run };
        out.extend_from_slice(rest.get(..run).unwrap_or_default());
        at += run;
        if let Some(byte) = value.get(at) {
            out.push(b'%');
            push_hex(*byte, out);
            at += 1;
        }
    }
}

const fn is_plain(byte: u8) -> bool {
    byte >= 0x20 && byte <= 0x7e && byte != b'%'
}

fn push_hex(byte: u8, out: &mut Vec<u8>) {
    for nibble in [byte >> 4, byte & 15] {
        if let Some(&digit) = HEX.get(usize::from(nibble)) {
            out.push(digit);
        }
    }
}

/// A string that [`escape`] does not produce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EscapeError {
    /// A byte outside printable ASCII, or an unescaped space at an edge.
    #[error("byte {0} must be escaped")]
    Unescaped(usize),
    /// `%` without two upper-case hex digits.
    #[error("bad escape at byte {0}")]
    BadEscape(usize),
    /// An escape of a byte that stands for itself.
    #[error("needless escape at byte {0}")]
    Needless(usize),
}

/// The inverse of [`escape`]. Refuses what `escape` does not produce, so that a value has one form only.
pub fn unescape(text: &str) -> Result<Vec<u8>, EscapeError> {
    let bytes = text.as_bytes();
    if bytes == b"%" {
        return Ok(Vec::new());
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let first = out.is_empty();
        if byte == b'%' {
            let (Some(high), Some(low)) = (hex_value(bytes.get(at + 1)), hex_value(bytes.get(at + 2))) else {
                return Err(EscapeError::BadEscape(at));
            };
            let value = high * 16 + low;
            let edge = first || at + 3 == bytes.len();
            let needless = (0x20..=0x7e).contains(&value) && value != b'%' && !(value == b' ' && edge);
            if needless {
                return Err(EscapeError::Needless(at));
            }
            out.push(value);
            at += 3;
        } else {
            let edge = first || at + 1 == bytes.len();
            if !(0x20..=0x7e).contains(&byte) || (byte == b' ' && edge) {
                return Err(EscapeError::Unescaped(at));
            }
            out.push(byte);
            at += 1;
        }
    }
    if out.is_empty() { Err(EscapeError::BadEscape(0)) } else { Ok(out) }
}

fn hex_value(digit: Option<&u8>) -> Option<u8> {
    match digit {
        Some(d @ b'0'..=b'9') => Some(d - b'0'),
        Some(d @ b'A'..=b'F') => Some(d - b'A' + 10),
        _ => None,
    }
}

/// Writes the JCS form of a flat map. Keys must come in byte order; the caller's field table sees to that.
pub struct BodyWriter<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
    room: Vec<u8>,
}

impl<'a> BodyWriter<'a> {
    /// Opens the map at the end of `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true, room: Vec::new() }
    }

    /// Adds a member; `value` is escaped by R1.
    pub fn member(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        let escaped = Escaped::of(value, &mut self.room);
        push_value(escaped, self.out);
    }

    /// Adds a member whose value is escaped. `joint` is what stands between the value before and this one: `","key":"`.
    pub(crate) fn escaped_member(&mut self, joint: &str, value: Escaped<'_>) {
        let joint = joint.as_bytes();
        // Nothing ends before the first one.
        let joint = if self.first { joint.get(2..).unwrap_or_default() } else { joint };
        self.first = false;
        self.out.extend_from_slice(joint);
        push_value(value, self.out);
    }

    /// Adds the member of one header field: the value is `name:value`, escaped as one.
    pub fn header(&mut self, key: &str, name: &[u8], value: &[u8], scratch: &mut Vec<u8>) {
        scratch.clear();
        scratch.extend_from_slice(name);
        scratch.push(b':');
        scratch.extend_from_slice(value);
        self.member(key, scratch);
    }

    fn key(&mut self, key: &str) {
        self.out.extend_from_slice(if self.first { b"\"" } else { b"\",\"" });
        self.first = false;
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":\"");
    }

    /// Closes the map.
    pub fn finish(self) {
        self.out.extend_from_slice(if self.first { b"}" } else { b"\"}" });
    }
}

/// Writes a value without its quotes: whatever follows closes it.
fn push_value(value: Escaped<'_>, out: &mut Vec<u8>) {
    if value.backslashes { push_json(value.text, out) } else { out.extend_from_slice(value.text) }
}

fn push_json(mut run: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = run.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        let (before, rest) = run.split_at(at);
        out.extend_from_slice(before);
        out.push(b'\\');
        out.extend(rest.first());
        run = rest.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(run);
}

/// A body that is not a canonical record.
#[derive(Debug, Error)]
pub enum BodyError {
    /// Longer than [`BODY_BYTES_MAX`].
    #[error("body of {0} bytes: at most {BODY_BYTES_MAX}")]
    TooLong(usize),
    /// Not a flat JSON map of strings.
    #[error("not a flat map of strings: {0}")]
    Json(#[from] serde_json::Error),
    /// A value with an escape that is not canonical.
    #[error("field {key}: {source}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong.
        source: EscapeError,
    },
    /// The bytes are not those that the writer makes of this map (order, spaces, duplicates, escapes).
    #[error("not in canonical form")]
    NotCanonical,
}

/// Parses a body and checks that writing it again gives the same bytes (R3). Values come back unescaped.
pub fn parse_body(body: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, BodyError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(BodyError::TooLong(body.len()));
    }
    let escaped: BTreeMap<String, String> = serde_json::from_slice(body)?;
    let mut map = BTreeMap::new();
    for (key, text) in escaped {
        let value = unescape(&text).map_err(|source| BodyError::Value { key: key.clone(), source })?;
        map.insert(key, value);
    }
    let mut again = Vec::with_capacity(body.len());
    let mut writer = BodyWriter::new(&mut again);
    for (key, value) in &map {
        writer.member(key, value);
    }
    writer.finish();
    if again == body { Ok(map) } else { Err(BodyError::NotCanonical) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(value: &[u8]) -> String {
        let mut out = Vec::new();
        escape(value, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn r1_table() {
        for (value, text) in [
            (&b""[..], "%"),
            (b"%", "%25"),
            (b" ", "%20"),
            (b" a b ", "%20a b%20"),
            (b"\"\\", "\"\\"),
            ("\u{e4}\n".as_bytes(), "%C3%A4%0A"),
        ] {
            assert_eq!(escaped(value), text);
            assert_eq!(unescape(text).as_deref(), Ok(value));
        }
    }

    #[test]
    fn r1_decoder_refuses_what_the_encoder_does_not_make() {
        for text in ["", " a", "a ", "%4", "%zz", "%41", "%c3", "a%20b", "\u{e4}", "\n", "%%"] {
            assert!(unescape(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn r3_refuses_other_forms_of_the_same_map() {
        assert!(parse_body(br#"{"a":"1","b":"2"}"#).is_ok());
        for body in [
            &br#"{"b":"2","a":"1"}"#[..],
            br#"{"a":"1", "b":"2"}"#,
            br#"{"a":"1","a":"1"}"#,
            br#"{"a":"\u0031"}"#,
            br#"{"a":1}"#,
            br#"{"a":""}"#,
            br#"["a"]"#,
        ] {
            assert!(parse_body(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }

    proptest! {
        #[test]
        fn r1_round_trip(value in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(unescape(&escaped(&value)), Ok(value));
        }

        #[test]
        fn r1_one_form_only(text in "[ -~]{0,12}") {
            if let Ok(value) = unescape(&text) {
                prop_assert_eq!(escaped(&value), text);
            }
        }

        #[test]
        fn r2_equals_jcs(map in proptest::collection::btree_map("[a-z0-9_]{1,8}", proptest::collection::vec(any::<u8>(), 0..24), 0..8)) {
            let mut out = Vec::new();
            let mut writer = BodyWriter::new(&mut out);
            for (key, value) in &map {
                writer.member(key, value);
            }
            writer.finish();
            let plain: BTreeMap<&String, String> = map.iter().map(|(k, v)| (k, escaped(v))).collect();
            prop_assert_eq!(&out, &serde_jcs::to_vec(&plain).expect("a map of strings"));
            prop_assert_eq!(parse_body(&out).expect("canonical"), map);
        }
    }
}

//! A canonical body, taken apart without copies: what [`crate::canon::parse_body`] checks, in one pass.

use super::Field;
use crate::canon::{BODY_BYTES_MAX, EscapeError, unescape};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::LazyLock;

/// Most members of a body: every field, and the headers of two heads.
const MEMBERS_MAX: usize = 256;

/// One member of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its key.
    pub key: &'a str,
    /// The field of this key; `None`: a header, or none of the table.
    pub field: Option<Field>,
    /// First bytes of its key, as [`first_bytes`] gives them.
    first: u64,
    /// Its value as it stands in the body: with the escapes of JSON and of R1.
    raw: &'a str,
    /// Whether the raw value has escapes of JSON.
    json_escaped: bool,
    /// Whether it has escapes of R1.
    percent: bool,
}

impl<'a> Member<'a> {
    /// The value with the escapes of R1, as attributes show it.
    pub fn text(&self) -> Cow<'a, str> {
        if !self.json_escaped {
            return Cow::Borrowed(self.raw);
        }
        let mut out = String::with_capacity(self.raw.len());
        let mut chars = self.raw.chars();
        while let Some(c) = chars.next() {
            out.extend(if c == '\\' { chars.next() } else { Some(c) });
        }
        Cow::Owned(out)
    }

    /// The value without any escape, if it is text.
    pub fn plain(&self) -> Option<Cow<'a, str>> {
        if !self.percent {
            return Some(self.text());
        }
        String::from_utf8(unescape(&self.text()).ok()?).ok().map(Cow::Owned)
    }

    /// How its key stands to another one with these first bytes. Few keys have the same.
    fn order(&self, first: u64, key: &str) -> Ordering {
        self.first.cmp(&first).then_with(|| self.key.cmp(key))
    }

    /// The value, which has no escape of any kind.
    fn simple(&self) -> Option<&'a str> {
        (!self.json_escaped && !self.percent).then_some(self.raw)
    }
}

/// Why bytes are no canonical body (R3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Too many bytes or members.
    #[error("it is too long")]
    TooLong,
    /// Not `{"key":"value",...}` in printable ASCII.
    #[error("byte {0} does not belong into the canonical form")]
    Form(usize),
    /// Keys out of order, or twice.
    #[error("the key at byte {0} stands out of order")]
    Order(usize),
    /// A value with an escape that is not canonical.
    #[error("the value before byte {0}: {1}")]
    Escape(usize, EscapeError),
}

/// The members of a body, in order of their keys.
#[derive(Clone, Debug, Default)]
pub struct Body<'a> {
    members: Vec<Member<'a>>,
}

impl<'a> Body<'a> {
    /// Takes a canonical body apart.
    ///
    /// # Errors
    /// It is not canonical.
    pub fn parse(text: &'a str) -> Result<Self, Flaw> {
        let bytes = text.as_bytes();
        if bytes.len() > BODY_BYTES_MAX {
            return Err(Flaw::TooLong);
        }
        let mut members: Vec<Member<'a>> = Vec::with_capacity(48);
        let mut table = table().iter();
        let mut at = expect(bytes, 0, b"{\"")?;
        loop {
            let key_at = at;
            while matches!(bytes.get(at), Some(b'a'..=b'z' | b'0'..=b'9' | b'_')) {
                at += 1;
            }
            let key = text.get(key_at..at).filter(|key| !key.is_empty()).ok_or(Flaw::Form(at))?;
            let first = first_bytes(key);
            if members.last().is_some_and(|last| last.order(first, key) != Ordering::Less) {
                return Err(Flaw::Order(key_at));
            }
            at = expect(bytes, at, b"\":\"")?;
            let mut member = value(text, key, at)?;
            member.first = first;
            member.field = find(&mut table, first, key);
            at += member.raw.len() + 1;
            members.push(member);
            if members.len() > MEMBERS_MAX {
                return Err(Flaw::TooLong);
            }
            match bytes.get(at..) {
                Some(b"}") => return Ok(Self { members }),
                _ => at = expect(bytes, at, b",\"")?,
            }
        }
    }

    /// The members, in order.
    pub fn members(&self) -> &[Member<'a>] {
        &self.members
    }

    /// The member with this key.
    pub fn get(&self, key: &str) -> Option<&Member<'a>> {
        let first = first_bytes(key);
        let at = self.members.binary_search_by(|member| member.order(first, key)).ok()?;
        self.members.get(at)
    }

    /// A value without any escape.
    pub fn simple(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Member::simple)
    }
}

/// The fields in order of their keys, each with the first bytes of its key.
fn table() -> &'static [(u64, Field)] {
    static TABLE: LazyLock<Vec<(u64, Field)>> =
        LazyLock::new(|| Field::ALL.iter().map(|field| (first_bytes(field.key()), *field)).collect());
    &TABLE
}

/// First eight bytes of a key, as a number of the same order.
#[inline]
fn first_bytes(key: &str) -> u64 {
    let bytes = key.as_bytes();
    match bytes.first_chunk::<8>() {
        Some(first) => u64::from_be_bytes(*first),
        None => bytes.iter().rev().fold(0, |word, byte| word >> 8 | u64::from(*byte) << 56),
    }
}

/// The field of a key. Table and keys come in the same order, so that one pass over the table is enough.
fn find(table: &mut std::slice::Iter<'_, (u64, Field)>, first: u64, key: &str) -> Option<Field> {
    while let Some((begins, field)) = table.as_slice().first() {
        if *begins < first || (*begins == first && field.key() < key) {
            table.next();
        } else if *begins == first && field.key() == key {
            table.next();
            return Some(*field);
        } else {
            return None;
        }
    }
    None
}

fn expect(bytes: &[u8], at: usize, wanted: &[u8]) -> Result<usize, Flaw> {
    match bytes.get(at..) {
        Some(rest) if rest.starts_with(wanted) => Ok(at + wanted.len()),
        _ => Err(Flaw::Form(at)),
    }
}

/// Passes over eight bytes at a time of what stands for itself, up to near the first byte that does not.
fn plain_until(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // The lowest marked byte of a word is right, whatever is marked above it.
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGHS;
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
        let marks = below(word, b' ') | is(b'"') | is(b'\\') | is(b'%') | is(0x7f) | (word & HIGHS);
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at
}

/// The member whose value begins at `start`, checked.
fn value<'a>(text: &'a str, key: &'a str, start: usize) -> Result<Member<'a>, Flaw> {
    let bytes = text.as_bytes();
    let (mut at, mut json_escaped, mut percent) = (start, false, false);
    loop {
        at = plain_until(bytes, at);
        match bytes.get(at) {
            Some(b'"') => break,
            Some(b'\\') if matches!(bytes.get(at + 1), Some(b'"' | b'\\')) => {
                json_escaped = true;
                at += 2;
            }
            Some(b'%') => {
                percent = true;
                at += 1;
            }
            Some(b' '..=b'[' | b']'..=b'~') => at += 1,
            _ => return Err(Flaw::Form(at)),
        }
    }
    let raw = text.get(start..at).ok_or(Flaw::Form(at))?;
    let member = Member { key, field: None, first: 0, raw, json_escaped, percent };
    if percent || raw.is_empty() || raw.starts_with(' ') || raw.ends_with(' ') {
        unescape(&member.text()).map_err(|error| Flaw::Escape(at, error))?;
    }
    Ok(member)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canon::{BodyWriter, parse_body};
    use proptest::prelude::*;

    #[test]
    fn r3_the_one_pass_refuses_what_the_other_does() {
        for body in [
            "",
            "{}",
            "{\"a\":\"1\"",
            "{\"a\":\"1\",}",
            "{\"a\":\"1\"}}",
            "{\"b\":\"2\",\"a\":\"1\"}",
            "{\"a\":\"1\", \"b\":\"2\"}",
            "{\"a\":\"1\",\"a\":\"1\"}",
            "{\"a\":\"\\u0031\"}",
            "{\"a\":\"\\n\"}",
            "{\"a\":1}",
            "{\"a\":\"\"}",
            "{\"a\":\" 1\"}",
            "{\"a\":\"%41\"}",
            "{\"A\":\"1\"}",
            "[\"a\"]",
            "{\"a\":\"\u{e4}\"}",
        ] {
            assert!(Body::parse(body).is_err(), "{body}");
        }
    }

    #[test]
    fn r3_every_field_is_found_by_its_key() {
        let mut walk = table().iter();
        for field in Field::ALL {
            assert_eq!(find(&mut walk, first_bytes(field.key()), field.key()), Some(*field));
        }
        let body = Body::parse("{\"action\":\"1\",\"actions\":\"2\",\"hq00\":\"3\",\"v\":\"1\",\"zz\":\"1\"}")
            .expect("canonical");
        let fields: Vec<Option<Field>> = body.members().iter().map(|member| member.field).collect();
        assert_eq!(fields, [Some(Field::Action), None, None, Some(Field::V), None]);
    }

    proptest! {
        #[test]
        fn r3_the_one_pass_reads_what_the_writer_makes(
            map in proptest::collection::btree_map("[a-z0-9_]{1,8}", proptest::collection::vec(any::<u8>(), 0..24), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut out = Vec::new();
            let mut writer = BodyWriter::new(&mut out);
            for (key, value) in &map {
                writer.member(key, value);
            }
            writer.finish();
            let text = String::from_utf8(out).expect("ASCII");
            let body = Body::parse(&text).expect("canonical");
            prop_assert_eq!(body.members().len(), map.len());
            for (key, value) in &map {
                let member = body.get(key).expect("a member");
                prop_assert_eq!(&unescape(&member.text()).expect("escaped"), value);
                if let Some(plain) = member.plain() {
                    prop_assert_eq!(plain.as_bytes(), &value[..]);
                }
            }
            let cut = cut.index(text.len());
            prop_assert!(Body::parse(&text[..cut]).is_err());
        }

        #[test]
        fn r3_both_readers_judge_alike(text in "\\{(\"[ab]\":\"[ -~]{0,4}\",?){1,3}\\}") {
            prop_assert_eq!(Body::parse(&text).is_ok(), parse_body(text.as_bytes()).is_ok(), "{}", text);
        }
    }
}

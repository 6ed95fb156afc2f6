//! Adding our fields to a request head, and leaving every other byte alone.

use super::head::{is_control, is_token};
use httparse::Header;
use memchr::memchr;

/// What the observer adds to a request head before it goes upstream. Fields are written before the empty line that
/// ends the head; the machine removes the names of added fields from the client's `Connection` field, so that the next
/// hop does not drop them. One value is reused for all requests of a connection.
#[derive(Debug, Default)]
pub struct HeadEdit {
    /// Complete lines, each ending in CRLF.
    lines: Vec<u8>,
    /// Names of added and of protected fields, each followed by LF.
    guarded: Vec<u8>,
    /// Names of fields of which every occurrence is left out of the forwarded head, each followed by LF.
    removed: Vec<u8>,
    at: usize,
    refused: bool,
}

impl HeadEdit {
    /// Adds the field line `name: value`. Does nothing and returns false when `name` is no token, or `value` holds CR, LF,
    /// NUL or another control character than TAB, so that no value can ever open a second line.
    pub fn add_field(&mut self, name: &str, value: &str) -> bool {
        if !is_token(name.as_bytes()) || value.bytes().any(is_control) {
            return false;
        }
        self.lines.extend_from_slice(name.as_bytes());
        self.lines.extend_from_slice(b": ");
        self.lines.extend_from_slice(value.as_bytes());
        self.lines.extend_from_slice(b"\r\n");
        self.protect(name);
        true
    }

    /// Leaves the client's occurrences of `name` (any case) out of the forwarded head. Fields that frame the message or
    /// belong to the connection (`Content-Length`, `Transfer-Encoding`, `Host`, `Connection`, `Upgrade`) stay.
    pub fn remove_field(&mut self, name: &str) {
        let kept = ["content-length", "transfer-encoding", "host", "connection", "upgrade"];
        if !kept.iter().any(|field| name.eq_ignore_ascii_case(field)) {
            push_name(&mut self.removed, name);
        }
    }

    /// Keeps a field that came from the client from being nominated in the client's `Connection` field.
    pub fn protect(&mut self, name: &str) {
        push_name(&mut self.guarded, name);
    }

    /// Refuses the request: nothing of it goes upstream, and the answer is 503.
    pub fn refuse(&mut self) {
        self.refused = true;
    }

    /// How many bytes of this call go upstream before the head.
    pub fn at(&self) -> usize {
        self.at
    }

    pub(super) fn is_refused(&self) -> bool {
        self.refused
    }

    pub(super) fn clear(&mut self, at: usize) {
        self.at = at;
        self.refused = false;
        self.lines.clear();
        self.guarded.clear();
        self.removed.clear();
    }

    /// Writes `head`, whose fields are `fields`, with the edits to `out`.
    pub(super) fn write(&self, head: &[u8], fields: &[Header<'_>], out: &mut Vec<u8>) {
        if !self.touches(fields) {
            let (before, end) = head.split_at_checked(head.len().saturating_sub(2)).unwrap_or((head, b""));
            out.extend_from_slice(before);
            out.extend_from_slice(&self.lines);
            out.extend_from_slice(end);
            return;
        }
        let mut rest = head;
        let mut is_first = true;
        while let Some((line, after)) = memchr(b'\n', rest).and_then(|at| rest.split_at_checked(at.saturating_add(1))) {
            rest = after;
            if is_first {
                is_first = false;
                out.extend_from_slice(line);
            } else if line == b"\r\n" {
                out.extend_from_slice(&self.lines);
                out.extend_from_slice(line);
            } else {
                self.write_field(line, out);
            }
        }
    }

    fn write_field(&self, line: &[u8], out: &mut Vec<u8>) {
        let colon = memchr(b':', line).unwrap_or(line.len());
        let (name, value) = line.split_at_checked(colon).unwrap_or((line, b""));
        if has_name(&self.removed, name) {
            return;
        }
        if !name.eq_ignore_ascii_case(b"connection") || !self.nominates(value.strip_prefix(b":").unwrap_or(value)) {
            out.extend_from_slice(line);
            return;
        }
        self.write_connection(name, value, out);
    }

    /// Writes a `Connection` line without the nominations of guarded fields; nothing when no option remains.
    fn write_connection(&self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_suffix(b"\r\n").unwrap_or(value);
        let kept = || value.split(|byte| *byte == b',').filter(|option| !self.is_guarded(option));
        if kept().all(|option| option.trim_ascii().is_empty()) {
            return;
        }
        out.extend_from_slice(name);
        for (index, option) in kept().enumerate() {
            out.push(if index == 0 { b':' } else { b',' });
            out.extend_from_slice(option);
        }
        out.extend_from_slice(b"\r\n");
    }

    fn touches(&self, fields: &[Header<'_>]) -> bool {
        fields.iter().any(|field| {
            has_name(&self.removed, field.name.as_bytes())
                || (field.name.eq_ignore_ascii_case("connection") && self.nominates(field.value))
        })
    }

    fn nominates(&self, value: &[u8]) -> bool {
        !self.guarded.is_empty() && value.split(|byte| *byte == b',').any(|option| self.is_guarded(option))
    }

    fn is_guarded(&self, option: &[u8]) -> bool {
        has_name(&self.guarded, option.trim_ascii())
    }
}

fn push_name(names: &mut Vec<u8>, name: &str) {
    if is_token(name.as_bytes()) {
        names.extend_from_slice(name.as_bytes());
        names.push(b'\n');
    }
}

fn has_name(names: &[u8], name: &[u8]) -> bool {
    !name.is_empty() && names.split(|byte| *byte == b'\n').any(|known| known.eq_ignore_ascii_case(name))
}

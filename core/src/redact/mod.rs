//! Redaction: the only way from a [`Record`] to a [`Redacted`] one.
//!
//! The floor holds whatever a policy says: header fields by allow-list, query values masked, and no value that looks like a
//! secret (the built-in never-list). A policy can only add to it.

mod shapes;

pub use shapes::looks_secret;

use crate::policy;
use crate::record::{Field, Record, Redacted, Side};
use memchr::{memchr, memchr3};
use shapes::{Signs, has_secret, looks_random};
use std::borrow::Cow;

/// What stands in place of a masked value.
pub const MASK: &[u8] = b"*";

/// Header fields that are kept, lower case, in byte order. Everything else is left out.
pub const HEADERS_ALLOWED: &[&str] = &[
    "accept",
    "accept-encoding",
    "accept-language",
    "allow",
    "cache-control",
    "connection",
    "content-encoding",
    "content-language",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "expect",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "last-modified",
    "origin",
    "range",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
];

/// Header fields that never stand in a record, whatever a policy asks for.
pub const HEADERS_NEVER: &[&str] = &[
    "authorization",
    "cookie",
    "proxy-authorization",
    "set-cookie",
    "x-amz-security-token",
    "x-api-key",
    "x-auth-token",
    "x-csrf-token",
    "x-forwarded-client-cert",
];

/// Header fields whose values stand in fields of a record besides.
const HEADERS_COPIED: &[(&str, &[Field])] = &[
    ("host", &[Field::Authority, Field::Target]),
    ("traceparent", &[Field::ClientTraceparent, Field::TraceId, Field::SpanId]),
    ("user-agent", &[Field::UserAgent]),
];

/// What holds the value of the correlation header.
const CORRELATED: &[Field] = &[Field::CorrelationId];

/// A policy's redaction, compiled.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    headers: Vec<String>,
    query: Vec<String>,
    /// Fields of a record that hold values of `headers`, whole or in part.
    copies: Vec<Field>,
}

impl Redactor {
    /// Compiles the document's redaction. Names are compared without case. `correlation` is the header of the correlation id.
    pub fn new(redact: &policy::Redact, correlation: Option<&str>) -> Self {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        let mut redactor = Self { headers: lower(&redact.headers), query: lower(&redact.query), copies: Vec::new() };
        let copies = HEADERS_COPIED.iter().copied().chain(correlation.map(|name| (name, CORRELATED)));
        redactor.copies =
            copies.filter(|(name, _)| redactor.names_header(name)).flat_map(|(_, fields)| fields).copied().collect();
        redactor
    }

    /// Whether a header field may be kept at all, by its name. The request path asks before it copies anything.
    pub fn keeps_header(&self, name: &str) -> bool {
        is_allowed(name) && !self.names_header(name)
    }

    fn names_header(&self, name: &str) -> bool {
        self.headers.iter().any(|redacted| redacted.eq_ignore_ascii_case(name))
    }

    fn names_query(&self, name: &[u8]) -> bool {
        let decoded = percent_decode_all(name);
        self.query.iter().any(|redacted| decoded.eq_ignore_ascii_case(redacted.as_bytes()))
    }
}

/// Whether the floor keeps a header field of this name, in any case.
fn is_allowed(name: &str) -> bool {
    // Few have the same length: that is quicker than a search by bytes.
    HEADERS_ALLOWED.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
}

/// Fields whose whole value is masked when it looks like a secret.
const SCANNED: &[Field] = &[
    Field::Actor,
    Field::ActorIssuer,
    Field::AlpnOffered,
    Field::AlpnSelected,
    Field::Authority,
    Field::ClientTraceparent,
    Field::CorrelationId,
    Field::Method,
    Field::Action,
    Field::RpcMethod,
    Field::RpcService,
    Field::Sni,
    Field::Target,
    Field::UserAgent,
];

/// Masks and leaves out what must not be recorded, and says in `redacted` in which fields (EV-2).
pub fn redact(mut record: Record, redactor: &Redactor) -> Redacted<Record> {
    let mut names = Vec::new();
    // A request without an authority has the address of its destination as target.
    let by_address = record.get(Field::Authority).is_none();
    for &field in &redactor.copies {
        if record.get(field).is_none() || field == Field::Target && by_address {
            continue;
        }
        match field {
            // Each record has one.
            Field::Target => record.set(field, MASK),
            _ => record.clear(field),
        }
        note(&mut names, field.key().as_bytes());
    }
    for &field in SCANNED {
        if record.get(field).is_some_and(hides_secret) {
            record.set(field, MASK);
            note(&mut names, field.key().as_bytes());
        }
    }
    for field in [Field::Authority, Field::Target] {
        if let Some(host) = record.get(field).and_then(without_userinfo) {
            let host = host.to_vec();
            record.set(field, &host);
            note(&mut names, b"userinfo");
        }
    }
    mask_with(&mut record, Field::Path, &mut names, mask_path);
    for field in [Field::RpcService, Field::RpcMethod] {
        mask_with(&mut record, field, &mut names, mask_parameters);
    }
    mask_with(&mut record, Field::Query, &mut names, |query| mask_query(query, redactor));
    for side in [Side::Request, Side::Response] {
        record.retain_headers(side, |name, value| {
            let text = std::str::from_utf8(name).unwrap_or_default();
            let keep = redactor.keeps_header(text) && !hides_secret(value);
            if !keep {
                note(&mut names, &[b"header:", name].concat());
            }
            keep
        });
    }
    if !names.is_empty() {
        record.set(Field::Redacted, &names);
    }
    Redacted::new(record)
}

fn note(names: &mut Vec<u8>, name: &[u8]) {
    if names.split(|&b| b == b',').any(|known| known == name) {
        return;
    }
    if !names.is_empty() {
        names.push(b',');
    }
    names.extend_from_slice(name);
}

fn mask_with(record: &mut Record, field: Field, names: &mut Vec<u8>, mask: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    if let Some(masked) = record.get(field).and_then(mask) {
        record.set(field, &masked);
        note(names, field.key().as_bytes());
    }
}

/// `user:password@host` without its userinfo.
fn without_userinfo(authority: &[u8]) -> Option<&[u8]> {
    let at = authority.iter().rposition(|&b| b == b'@')?;
    authority.get(at + 1..)
}

/// Masks segments that look like secrets and the values of parameters, and leaves out the userinfo of what is a URL. `None`:
/// nothing to mask.
fn mask_path(path: &[u8]) -> Option<Vec<u8>> {
    let mut changed = url_without_userinfo(path);
    if let Some(masked) = mask_parameters(changed.as_deref().unwrap_or(path)) {
        changed = Some(masked);
    }
    let path = changed.as_deref().unwrap_or(path);
    if !hides_secret(path) {
        return changed;
    }
    let masked: Vec<&[u8]> =
        path.split(|&b| b == b'/').map(|segment| if hides_secret(segment) { MASK } else { segment }).collect();
    let masked = masked.join(&b'/');
    // A shape that spans segments (a PEM block has slashes) leaves nothing worth keeping.
    Some(if hides_secret(&masked) { MASK.to_vec() } else { masked })
}

/// Masks the values of a path's parameters (`;name=value`, also escaped), and what stands behind a `#` as a query's values are,
/// but for what reads as a path: servers differ in what they take it for. `None`: nothing to mask.
fn mask_parameters(path: &[u8]) -> Option<Vec<u8>> {
    let mark = |bytes: &[u8]| bytes.first() == Some(&b'#') || escaped(b';', bytes).is_some();
    let first = memchr3(b';', b'#', b'%', path)?;
    let first = (first..path.len()).find(|&at| path.get(at..).is_some_and(mark))?;
    let hash = memchr(b'#', path).unwrap_or(path.len());
    let mut out = Vec::with_capacity(path.len());
    let (before, mut rest) = path.split_at_checked(first)?;
    out.extend_from_slice(before);
    // Each round takes a piece with the mark before it, and looks at no byte behind what it takes.
    while !rest.is_empty() {
        let semicolon = escaped(b';', rest);
        let (mark, tail) = rest.split_at_checked(semicolon.unwrap_or(1))?;
        out.extend_from_slice(mark);
        let is_behind = path.len() - tail.len() > hash;
        let ends = |byte: &u8| matches!(byte, b';' | b'/' | b'#') || is_behind && *byte == b'&';
        let end = (0..tail.len()).find(|&at| {
            tail.get(at..).is_some_and(|from| from.first().is_some_and(ends) || escaped(b';', from).is_some())
        });
        let (piece, after) = tail.split_at_checked(end.unwrap_or(tail.len()))?;
        match split_escaped(b'=', piece).filter(|_| is_behind || semicolon.is_some()) {
            Some((name, equals)) => {
                // A value behind `#` may have all that base64 has.
                let (sign, value) = tail.get(name.len()..)?.split_at_checked(equals)?;
                let end =
                    if is_behind { memchr(b'&', value) } else { value.iter().position(ends) }.unwrap_or(value.len());
                out.extend_from_slice(if hides_secret(name) { MASK } else { name });
                out.extend_from_slice(sign);
                if end > 0 {
                    out.extend_from_slice(MASK);
                }
                rest = value.get(end..).unwrap_or_default();
            }
            None => {
                out.extend_from_slice(if is_behind && hides_token(piece) { MASK } else { piece });
                rest = after;
            }
        }
    }
    (out != path).then_some(out)
}

/// How long this byte is where it stands first, as itself or percent-escaped, up to [`ENCODED_TIMES_MAX`] times.
fn escaped(byte: u8, bytes: &[u8]) -> Option<usize> {
    let mut hex = match bytes {
        [first, ..] if *first == byte => return Some(1),
        [b'%', hex @ ..] => hex,
        _ => return None,
    };
    for _ in 1..ENCODED_TIMES_MAX {
        hex = hex.strip_prefix(b"25").unwrap_or(hex);
    }
    let length = bytes.len() - hex.len() + 2;
    (hex.get(..2).and_then(parse_hex)? == byte).then_some(length)
}

/// What stands before this byte, and how long the byte is there.
fn split_escaped(byte: u8, bytes: &[u8]) -> Option<(&[u8], usize)> {
    (0..bytes.len()).find_map(|at| {
        let (before, from) = bytes.split_at_checked(at)?;
        Some((before, escaped(byte, from)?))
    })
}

/// A target that does not begin with its path may be a URL in some form that nobody took apart. `None`: it has no userinfo.
fn url_without_userinfo(path: &[u8]) -> Option<Vec<u8>> {
    const MARK: &[u8] = b"://";
    if path.starts_with(b"/") {
        return None;
    }
    let begin = path.windows(MARK.len()).position(|bytes| bytes == MARK).map_or(0, |at| at.saturating_add(MARK.len()));
    let (scheme, rest) = path.split_at_checked(begin)?;
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    let (authority, after) = rest.split_at_checked(end)?;
    if after.is_empty() && path.len() >= Field::Path.bytes_max() {
        // Cut off, perhaps within a password.
        return Some(MASK.to_vec());
    }
    Some([scheme, without_userinfo(authority)?, after].concat())
}

/// Keeps parameter names, masks values; a name that the policy lists, looks like a secret, or stands without a value is
/// masked as well. What looks like a token and has nothing but `=` behind it is no name: that is its padding.
fn mask_query(query: &[u8], redactor: &Redactor) -> Option<Vec<u8>> {
    if query.is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(query.len());
    let mut changed = false;
    for (at, pair) in query.split(|&b| b == b'&').enumerate() {
        if at > 0 {
            out.push(b'&');
        }
        let equals = pair.iter().position(|&b| b == b'=');
        let (name, value) = pair.split_at(equals.unwrap_or(0));
        match equals {
            Some(_) => {
                let bare = value.iter().all(|&b| b == b'=');
                let hidden = redactor.names_query(name) || hides_secret(name) || bare && hides_token(name);
                out.extend_from_slice(if hidden { MASK } else { name });
                out.push(b'=');
                if value.len() > 1 {
                    out.extend_from_slice(MASK);
                }
                changed |= hidden || value.len() > 1;
            }
            None if pair.is_empty() => {}
            None => {
                out.extend_from_slice(MASK);
                changed = true;
            }
        }
    }
    if changed { Some(out) } else { None }
}

/// Looks at the value as it came and percent-decoded.
fn hides_secret(value: &[u8]) -> bool {
    let signs = Signs::of(value);
    if has_secret(value, signs) {
        return true;
    }
    if !signs.has_percent() {
        return false;
    }
    let mut decoded = Cow::Borrowed(value);
    (0..ENCODED_TIMES_MAX).any(|_| match percent_decode(&decoded) {
        // An escape is longer than what it stands for.
        Cow::Owned(inner) if inner.len() < decoded.len() => {
            decoded = Cow::Owned(inner);
            looks_secret(&decoded)
        }
        _ => false,
    })
}

/// Whether a value without context, as it came or percent-decoded, is no word.
fn hides_token(value: &[u8]) -> bool {
    looks_random(&percent_decode_all(value))
}

/// Most times that a path may be percent-encoded: proxies and applications that each decode it take it for what is inside.
const ENCODED_TIMES_MAX: usize = 3;

/// Decodes percent-escapes [`ENCODED_TIMES_MAX`] times.
pub(crate) fn percent_decode_all(value: &[u8]) -> Cow<'_, [u8]> {
    let mut decoded = percent_decode(value);
    for _ in 1..ENCODED_TIMES_MAX {
        if decoded.contains(&b'%') {
            decoded = Cow::Owned(percent_decode(&decoded).into_owned());
        }
    }
    decoded
}

/// Decodes percent-escapes once; what is none stays as it is.
pub(crate) fn percent_decode(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.contains(&b'%') {
        return Cow::Borrowed(value);
    }
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, tail)) = rest.split_first() {
        let decoded = if byte == b'%' { tail.get(..2).and_then(parse_hex) } else { None };
        match decoded {
            Some(decoded) => {
                out.push(decoded);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    Cow::Owned(out)
}

fn parse_hex(digits: &[u8]) -> Option<u8> {
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests;

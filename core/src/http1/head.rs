//! Heads: the strict check that httparse does not make, and what a head says about its body (RFC 9112 section 6.3).

use super::body::Body;
use super::{Limits, Refusal, RequestHead, ResponseHead};
use httparse::{Header, ParserConfig, Request, Response, Status};
use memchr::{memchr, memchr2};
use std::mem::MaybeUninit;

/// Most header fields whatever the limits say: the size of an array on the stack.
const HEADER_COUNT_CAP: usize = 256;

/// Parses a complete request head (through its empty line) and hands it to `then`, with its body.
///
/// # Errors
/// The [`Refusal`] of the first rule of section 10 that it breaks; `then` is not called.
pub(super) fn with_request<R>(
    head: &[u8],
    limits: &Limits,
    then: impl FnOnce(&RequestHead<'_>, Option<Body>) -> R,
) -> Result<R, Refusal> {
    check_lines(head, limits.header_count_max)?;
    let mut slots = [const { MaybeUninit::uninit() }; HEADER_COUNT_CAP];
    let mut request = Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(head, &mut slots).map_err(refusal_of)?;
    let (Some(method), Some(target), Some(minor_version)) = (request.method, request.path, request.version) else {
        return Err(Refusal::MalformedHead);
    };
    if parsed != Status::Complete(head.len()) {
        return Err(Refusal::MalformedHead);
    }
    let framing = Framing::of(request.headers);
    if minor_version == 1 {
        match framing.hosts {
            0 => return Err(Refusal::MissingHost),
            1 => {}
            _ => return Err(Refusal::DuplicateHost),
        }
    }
    let body = match framing.check(minor_version, Side::Request)? {
        Declared::Chunked => Some(Body::chunked()),
        Declared::Length(bytes) => Body::length(bytes),
        Declared::Nothing => None,
    };
    let head_bytes = head.len() as u64;
    Ok(then(&RequestHead { method, target, minor_version, fields: request.headers, head_bytes }, body))
}

/// What a response answers: the framing of a response depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub head_method: bool,
    pub connect_method: bool,
    /// CONNECT, or a request with an `Upgrade` field.
    pub switch: bool,
}

/// What follows a response head.
#[derive(Debug)]
pub(super) enum Follows {
    /// The head was interim: another head.
    Interim,
    /// The connection is a tunnel.
    Tunnel,
    /// Nothing of this message.
    Nothing,
    Body(Body),
}

/// Parses a complete response head and hands it to `then`, with what follows it.
///
/// # Errors
/// As [`with_request`].
pub(super) fn with_response<R>(
    head: &[u8],
    limits: &Limits,
    asked: Asked,
    then: impl FnOnce(&ResponseHead<'_>, Follows) -> R,
) -> Result<R, Refusal> {
    check_lines(head, limits.header_count_max)?;
    let mut slots = [const { MaybeUninit::uninit() }; HEADER_COUNT_CAP];
    let mut response = Response::new(&mut []);
    let parsed = ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, head, &mut slots)
        .map_err(refusal_of)?;
    let (Some(status @ 100..=999), Some(minor_version)) = (response.code, response.version) else {
        return Err(Refusal::MalformedHead);
    };
    if parsed != Status::Complete(head.len()) {
        return Err(Refusal::MalformedHead);
    }
    let follows = if asked.connect_method && (200..300).contains(&status) {
        Follows::Tunnel // RFC 9112 section 6.3: Content-Length and Transfer-Encoding are ignored
    } else {
        let declared = Framing::of(response.headers).check(minor_version, Side::Response)?;
        match (status, declared) {
            (101, _) if asked.switch && !asked.connect_method => Follows::Tunnel,
            (101, _) => return Err(Refusal::MalformedHead),
            (..200, _) => Follows::Interim,
            (204 | 304, _) => Follows::Nothing,
            _ if asked.head_method => Follows::Nothing,
            (_, Declared::Chunked) => Follows::Body(Body::chunked()),
            (_, Declared::Length(bytes)) => Body::length(bytes).map_or(Follows::Nothing, Follows::Body),
            (_, Declared::Nothing) => Follows::Body(Body::UntilEof),
        }
    };
    let head_bytes = head.len() as u64;
    Ok(then(&ResponseHead { status, minor_version, fields: response.headers, head_bytes }, follows))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

enum Declared {
    Nothing,
    Length(u64),
    Chunked,
}

/// The fields that frame a message.
#[derive(Default)]
struct Framing<'a> {
    hosts: usize,
    lengths: usize,
    length: &'a [u8],
    encodings: usize,
    encoding: &'a [u8],
}

impl<'a> Framing<'a> {
    fn of(fields: &[Header<'a>]) -> Self {
        let mut framing = Self::default();
        for field in fields {
            match field.name.len() {
                4 if field.name.eq_ignore_ascii_case("host") => framing.hosts = framing.hosts.saturating_add(1),
                14 if field.name.eq_ignore_ascii_case("content-length") => {
                    framing.lengths = framing.lengths.saturating_add(1);
                    framing.length = field.value;
                }
                17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                    framing.encodings = framing.encodings.saturating_add(1);
                    framing.encoding = field.value;
                }
                _ => {}
            }
        }
        framing
    }

    fn check(&self, minor_version: u8, side: Side) -> Result<Declared, Refusal> {
        match (self.lengths, self.encodings) {
            (0, 0) => Ok(Declared::Nothing),
            (1.., 1..) => Err(Refusal::LengthWithTransferEncoding),
            (_, 1..) if minor_version == 0 => Err(Refusal::TransferEncodingInHttp10),
            (_, 1) if is_chunked(self.encoding, side) => Ok(Declared::Chunked),
            (_, 1..) => Err(Refusal::BadTransferEncoding),
            (1, _) => content_length(self.length).map(Declared::Length).ok_or(Refusal::BadContentLength),
            _ => Err(Refusal::BadContentLength),
        }
    }
}

/// Names of codings have no case (RFC 9112 section 7), but servers exist that think otherwise, so a request must write it
/// as everyone does; a response may not.
fn is_chunked(value: &[u8], side: Side) -> bool {
    value == b"chunked" || (side == Side::Response && value.eq_ignore_ascii_case(b"chunked"))
}

/// Digits only, within 64 bits.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |length, byte| match byte {
        b'0'..=b'9' => length.checked_mul(10)?.checked_add(u64::from(byte.wrapping_sub(b'0'))),
        _ => None,
    })
}

/// Checks what httparse would let pass: line ends, folds, spaces before colons, names, the number of fields.
fn check_lines(head: &[u8], header_count_max: usize) -> Result<(), Refusal> {
    let mut rest = head;
    let mut fields = 0_usize;
    let mut is_first = true;
    while let Some((line, after)) = memchr(b'\n', rest).and_then(|at| rest.split_at_checked(at.saturating_add(1))) {
        rest = after;
        let content = line.strip_suffix(b"\r\n").ok_or(Refusal::BareCrLfOrNul)?;
        if memchr2(b'\r', 0, content).is_some() {
            return Err(Refusal::BareCrLfOrNul);
        }
        if is_first {
            is_first = false;
            if content.is_empty() {
                return Err(Refusal::MalformedHead);
            }
        } else if !content.is_empty() {
            fields = fields.saturating_add(1);
            if fields > header_count_max.min(HEADER_COUNT_CAP) {
                return Err(Refusal::TooManyHeaders);
            }
            check_field_line(content)?;
        }
    }
    Ok(())
}

/// Name and value (not trimmed) of a field line without its CRLF.
///
/// # Errors
/// The refusal of a name that is not a token directly followed by a colon.
pub(super) fn check_field_line(content: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    if let Some(b' ' | b'\t') = content.first() {
        return Err(Refusal::ObsoleteFold);
    }
    let colon = memchr(b':', content).ok_or(Refusal::MalformedHead)?;
    let (name, value) = content.split_at_checked(colon).ok_or(Refusal::MalformedHead)?;
    match name {
        [.., b' ' | b'\t'] => Err(Refusal::SpaceBeforeColon),
        name if is_token(name) => Ok((name, value.strip_prefix(b":").unwrap_or(value))),
        _ => Err(Refusal::BadFieldName),
    }
}

fn refusal_of(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::TooManyHeaders,
        httparse::Error::HeaderName => Refusal::BadFieldName,
        _ => Refusal::MalformedHead,
    }
}

/// Whether `bytes` is a token (RFC 9110 section 5.6.2).
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

/// Whether a token may hold `byte`.
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    byte < 128 && (TOKEN_BYTES >> byte) & 1 == 1
}

/// The set of the bytes of tokens: bit n stands for byte n.
const TOKEN_BYTES: u128 = {
    let bytes = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let (mut set, mut at) = (0, 0);
    while at < bytes.len() {
        set |= 1 << bytes[at];
        at += 1;
    }
    set
};

/// Control characters but TAB: in no field value and no chunk extension.
pub(super) const fn is_control(byte: u8) -> bool {
    matches!(byte, 0..=8 | 10..=31 | 127)
}

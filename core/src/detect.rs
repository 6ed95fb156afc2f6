//! What a connection speaks, told from the client's first bytes.
//!
//! Bytes are held back only while they can still become HTTP/1, HTTP/2 or TLS; the moment they cannot, the connection is
//! opaque and everything goes on unchanged.

use crate::http1::is_token_byte;
use crate::http2::PREFACE;
use memchr::memchr;

/// Longest first line of HTTP/1, in bytes with its line end.
pub const FIRST_LINE_BYTES_MAX: usize = 16 * 1024;

/// Longest fragment of a TLS record (RFC 8446 section 5.1).
const TLS_FRAGMENT_BYTES_MAX: usize = 1 << 14;

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// They can still become several things.
    NeedMore,
    /// The first line ends in `HTTP/1.0` or `HTTP/1.1`. The line may still be malformed: that is for
    /// [`crate::http1::Session`] to refuse.
    Http1,
    /// The HTTP/2 preface.
    Http2,
    /// A TLS ClientHello begins.
    Tls,
    /// Anything else.
    Opaque,
}

/// Tells protocols apart. Holds nothing: every call sees all bytes so far, at most [`FIRST_LINE_BYTES_MAX`] of which
/// matter (and one CRLF before them).
#[derive(Clone, Copy, Debug, Default)]
pub struct Detector;

impl Detector {
    /// A detector.
    pub const fn new() -> Self {
        Self
    }

    /// What the connection is, given all bytes that the client has sent so far. Any other answer than
    /// [`Detected::NeedMore`] is final: it stays the same however many bytes follow.
    pub fn feed(&self, prefix: &[u8]) -> Detected {
        if prefix.first() == Some(&0x16) {
            return tls(prefix);
        }
        if prefix.starts_with(PREFACE) {
            return Detected::Http2;
        }
        if PREFACE.starts_with(prefix) {
            return Detected::NeedMore;
        }
        http1(prefix)
    }
}

/// Record header of a handshake, SSL 3.0 to TLS 1.3, then the handshake type client_hello.
fn tls(prefix: &[u8]) -> Detected {
    let checks: [fn(u8) -> bool; 3] = [|byte| byte == 0x16, |byte| byte == 3, |byte| byte <= 4];
    if prefix.iter().zip(checks).any(|(byte, check)| !check(*byte)) {
        return Detected::Opaque;
    }
    match prefix {
        [_, _, _, high, ..] if usize::from(*high) << 8 > TLS_FRAGMENT_BYTES_MAX => Detected::Opaque,
        [_, _, _, high, low, ..] if !(1..=TLS_FRAGMENT_BYTES_MAX).contains(&length(*high, *low)) => Detected::Opaque,
        [_, _, _, _, _, 1, ..] => Detected::Tls,
        [_, _, _, _, _, _, ..] => Detected::Opaque,
        _ => Detected::NeedMore,
    }
}

fn length(high: u8, low: u8) -> usize {
    usize::from(u16::from_be_bytes([high, low]))
}

/// A method and a space, then anything up to LF; the line must end in the version. One empty line may come first (RFC
/// 9112 section 2.2).
fn http1(prefix: &[u8]) -> Detected {
    let line = match prefix {
        [b'\r'] => return Detected::NeedMore,
        [b'\r', b'\n', line @ ..] => line,
        line => line,
    };
    let window = line.get(..FIRST_LINE_BYTES_MAX).unwrap_or(line);
    match window.iter().position(|byte| !is_token_byte(*byte)) {
        None => {}
        Some(at) if at > 0 && window.get(at) == Some(&b' ') => {}
        Some(_) => return Detected::Opaque,
    }
    match memchr(b'\n', window).and_then(|lf| window.get(..lf)) {
        Some(line) => {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let is_http1 = line.ends_with(b" HTTP/1.0") || line.ends_with(b" HTTP/1.1");
            if is_http1 { Detected::Http1 } else { Detected::Opaque }
        }
        None if window.len() >= FIRST_LINE_BYTES_MAX => Detected::Opaque,
        None => Detected::NeedMore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The answer at the end, and the number of bytes after which it is known; checks that nothing changes after it.
    fn decide(bytes: &[u8]) -> (Detected, usize) {
        let answers: Vec<_> =
            (0..=bytes.len()).map(|end| Detector::new().feed(bytes.get(..end).unwrap_or_default())).collect();
        let known = answers.iter().position(|answer| *answer != Detected::NeedMore).unwrap_or(answers.len());
        let last = answers.last().copied().unwrap_or(Detected::NeedMore);
        assert!(answers.iter().skip(known).all(|answer| *answer == last), "{answers:?} for {bytes:?}");
        (last, known)
    }

    #[test]
    fn every_prefix_of_each_sample() {
        use Detected::{Http1, Http2, NeedMore, Opaque, Tls};
        let table: &[(&[u8], Detected, usize)] = &[
            (b"", NeedMore, 1),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Http1, 16),
            (b"GET / HTTP/1.0\r\n\r\n", Http1, 16),
            (b"GET / HTTP/1.1\n\n", Http1, 15),
            (b"\r\nGET / HTTP/1.1\r\n", Http1, 18),
            (b"\r\n\r\nGET / HTTP/1.1\r\n", Opaque, 3),
            (b"\nGET / HTTP/1.1\r\n", Opaque, 1),
            (b"\rGET / HTTP/1.1\r\n", Opaque, 2),
            (b"M-SEARCH * HTTP/1.1\r\n", Http1, 21),
            (b"GET /a b HTTP/1.1\r\n", Http1, 19),
            (b"GET HTTP/1.1\r\n", Http1, 14),
            (b"GET  \x00 HTTP/1.1\r\n", Http1, 17),
            (b"GET / HTTP/1.2\r\n", Opaque, 16),
            (b"GET / HTTP/1.1 \r\n", Opaque, 17),
            (b"GET /\r\n", Opaque, 7),
            (b"GET /xHTTP/1.1\r\n", Opaque, 16),
            (b"G@T / HTTP/1.1\r\n", Opaque, 2),
            (b" GET / HTTP/1.1\r\n", Opaque, 1),
            (b"HTTP/1.1 200 OK\r\n", Opaque, 5),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00", Http2, 24),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", Opaque, 24),
            (b"PRI * HTTP/1.1\r\n", Http1, 16),
            (b"PROPFIND /a HTTP/1.1\r\n", Http1, 22),
            (b"EHLO mail.example\r\n", Opaque, 19),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Opaque, 20),
            (b"*1\r\n$4\r\nPING\r\n", Opaque, 3),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Opaque, 1),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", Tls, 6),
            (b"\x16\x03\x03\x00\x01\x01", Tls, 6),
            (b"\x16\x03\x01\x02\x00\x02\x00", Opaque, 6),
            (b"\x16\x03\x01\x00\x00\x01", Opaque, 5),
            (b"\x16\x03\x01\x40\x01\x01", Opaque, 5),
            (b"\x16\x03\x01\x41", Opaque, 4),
            (b"\x16\x03\x05", Opaque, 3),
            (b"\x16\x02", Opaque, 2),
            (b"\x15\x03\x01\x00\x02\x01", Opaque, 1),
        ];
        for (bytes, detected, known) in table {
            assert_eq!(decide(bytes), (*detected, *known), "{:?}", bytes.escape_ascii().to_string());
        }
    }

    #[test]
    fn the_first_line_is_bounded() {
        let line_of = |bytes: usize| {
            let mut line = b"GET /".to_vec();
            line.resize(bytes - b" HTTP/1.1\r\n".len(), b'a');
            line.extend_from_slice(b" HTTP/1.1\r\n");
            line
        };
        let detector = Detector::new();
        assert_eq!(detector.feed(&line_of(FIRST_LINE_BYTES_MAX)), Detected::Http1);
        let longer = line_of(FIRST_LINE_BYTES_MAX + 1);
        assert_eq!(detector.feed(&longer), Detected::Opaque);
        assert_eq!(detector.feed(&longer[..FIRST_LINE_BYTES_MAX]), Detected::Opaque);
        assert_eq!(detector.feed(&longer[..FIRST_LINE_BYTES_MAX - 1]), Detected::NeedMore);
        assert_eq!(detector.feed(&vec![b'A'; FIRST_LINE_BYTES_MAX]), Detected::Opaque);
    }

    proptest! {
        #[test]
        fn an_answer_is_final(bytes in proptest::collection::vec(prop_oneof![
            any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b' '), Just(0x16), Just(3), Just(b'G')], 0..60)) {
            decide(&bytes);
        }
    }
}

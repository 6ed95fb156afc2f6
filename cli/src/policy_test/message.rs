//! Messages from files: what an editor makes of HTTP/1 is put right, and each change is told.

use thiserror::Error;

/// One HTTP/1 message, as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What was changed.
    pub notes: Vec<String>,
}

/// Why a file is no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// Nothing in it.
    #[error(
        "the file is empty: write a request such as `GET /path HTTP/1.1`, a line `Host: example`, and an empty line"
    )]
    Empty,
    /// Not HTTP/1.
    #[error("the first line is {0:?}: write it as `GET /path HTTP/1.1`")]
    NoRequestLine(String),
    /// Not HTTP/1.
    #[error("the first line is {0:?}: write it as `HTTP/1.1 200 OK`")]
    NoStatusLine(String),
}

impl Message {
    /// A request. Lines may end in LF alone, the empty line at the end may be missing, and a body may lack its length.
    ///
    /// # Errors
    /// The first line is none of HTTP/1.
    pub fn request(bytes: &[u8]) -> Result<Self, MessageError> {
        Self::read(
            bytes,
            |line| line.ends_with(" HTTP/1.1") || line.ends_with(" HTTP/1.0"),
            MessageError::NoRequestLine,
        )
    }

    /// A response, with the same freedom.
    ///
    /// # Errors
    /// The first line is none of HTTP/1.
    pub fn response(bytes: &[u8]) -> Result<Self, MessageError> {
        Self::read(bytes, |line| line.starts_with("HTTP/1."), MessageError::NoStatusLine)
    }

    /// A response without a body.
    pub fn empty_response(status: u16) -> Self {
        let bytes = format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n\r\n");
        Self { bytes: bytes.into_bytes(), notes: Vec::new() }
    }

    fn read(
        bytes: &[u8],
        is_first: impl Fn(&str) -> bool,
        error: impl Fn(String) -> MessageError,
    ) -> Result<Self, MessageError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(MessageError::Empty);
        }
        let mut notes = Vec::new();
        let (lines, mut body) = split(bytes);
        let first = String::from_utf8_lossy(lines.first().copied().unwrap_or_default()).into_owned();
        if !is_first(first.trim_end_matches('\r')) {
            return Err(error(first.trim_end_matches('\r').chars().take(80).collect()));
        }
        let has = |name: &str| {
            let matches = |line: &&&[u8]| {
                line.split(|&b| b == b':').next().is_some_and(|n| n.eq_ignore_ascii_case(name.as_bytes()))
            };
            lines.iter().find(matches).is_some()
        };
        let framed = has("content-length") || has("transfer-encoding");
        let mut out = Vec::with_capacity(bytes.len() + 64);
        for line in &lines {
            out.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
            out.extend_from_slice(b"\r\n");
        }
        if !framed && body.iter().all(u8::is_ascii_whitespace) {
            body = b"";
        }
        if !framed && !body.is_empty() {
            out.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
            notes.push(format!("a line Content-Length: {} was added for the body of the file", body.len()));
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
        Ok(Self { bytes: out, notes })
    }
}

/// The lines of the head, without their LF, and the body.
fn split(bytes: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = rest.iter().position(|&b| b == b'\n');
        let (line, after) = match end {
            Some(end) => (rest.get(..end).unwrap_or_default(), rest.get(end + 1..).unwrap_or_default()),
            None => (rest, &[][..]),
        };
        rest = after;
        if line.is_empty() || line == b"\r" {
            if lines.is_empty() {
                continue;
            }
            break;
        }
        lines.push(line);
    }
    (lines, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> String {
        String::from_utf8(Message::request(text.as_bytes()).expect("a request").bytes).expect("text")
    }

    #[test]
    fn what_editors_leave_out_is_put_in() {
        let whole = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for text in [whole, "GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.1\nHost: a", "\nGET / HTTP/1.1\nHost: a\n\n\n"]
        {
            assert_eq!(request(text), whole, "{text:?}");
        }
        let post = Message::request(b"POST / HTTP/1.1\nHost: a\n\n{}\n").expect("a request");
        assert_eq!(post.bytes, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n{}\n");
        assert_eq!(post.notes.len(), 1);
        assert_eq!(
            request("POST / HTTP/1.1\nHost: a\nContent-Length: 2\n\n\n\n"),
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n\n\n"
        );
    }

    #[test]
    fn every_prefix_is_a_message_or_an_error() {
        let text = b"\r\nPOST /a HTTP/1.1\r\nHost: a\nA:b\r\n\r\nbody";
        for end in 0..text.len() {
            let _ = Message::request(&text[..end]);
            let _ = Message::response(&text[..end]);
        }
        assert_eq!(Message::request(b" \n"), Err(MessageError::Empty));
        assert!(matches!(Message::request(b"GET /\n"), Err(MessageError::NoRequestLine(line)) if line == "GET /"));
    }
}

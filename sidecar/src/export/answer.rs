//! What a sink's answer means.

use crate::client::Answer;
use hyper::StatusCode;
use hyper::header::RETRY_AFTER;
use std::time::{Duration, SystemTime};
use testimony_core::otlp::answer::{PartialSuccess, http_success};
use testimony_core::policy::{Compression, DocumentSink, SinkProtocol};

/// Longest wait that a sink may ask for by `Retry-After`.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Longest part of a sink's own words that is repeated, in characters.
const WORDS_CHARS_MAX: usize = 200;

/// Statuses that tell of a bill (402), of the connection or its TLS (421, 426; of nginx 495 to 497) or of headers (431; of nginx
/// 494), and never of records.
const OF_THE_WAY: [u16; 8] = [402, 421, 426, 431, 494, 495, 496, 497];

/// What to do with a request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The sink has it, but for what it says.
    Taken(PartialSuccess),
    /// The same again, later.
    Again {
        /// What the sink asks for.
        after: Option<Duration>,
        /// For people.
        why: String,
    },
    /// Nothing will be taken before somebody mends credentials or URL.
    Park {
        /// For people.
        why: String,
    },
    /// Too much at once, or too much to say of it: the same in parts, and a single record later.
    Split {
        /// For people.
        why: String,
    },
    /// It took the sink too long: the same again, later, and then in parts.
    Late {
        /// What the sink asks for.
        after: Option<Duration>,
        /// For people.
        why: String,
    },
    /// This content will never be taken.
    Refused {
        /// For people.
        why: String,
        /// It says so of the records, and cannot mean how they are sent.
        of_records: bool,
    },
}

/// Judges an answer; `now` is for `Retry-After` with a date.
pub(super) fn judge(answer: &Answer, now: SystemTime, sink: &DocumentSink) -> Verdict {
    let status = answer.status;
    if status.is_success() {
        return judge_success(answer);
    }
    let why = words(answer);
    match status {
        StatusCode::TOO_MANY_REQUESTS => Verdict::Again { after: retry_after(answer, now), why },
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => {
            Verdict::Late { after: retry_after(answer, now), why }
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            Verdict::Park { why: format!("{why}; check the credentials") }
        }
        // No record is at fault when the place is wrong: nothing may be lost by it.
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Verdict::Park { why: format!("{why}; check that the endpoint takes {}", expected(sink)) }
        }
        status if OF_THE_WAY.contains(&status.as_u16()) => {
            Verdict::Park { why: format!("{why}; check scheme, headers and client certificate") }
        }
        status if status.is_server_error() => Verdict::Again { after: retry_after(answer, now), why },
        status if status.is_client_error() => {
            let of_records = matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY);
            Verdict::Refused { why, of_records }
        }
        _ => Verdict::Park { why: format!("{why}; redirects are not followed, name the final URL") },
    }
}

fn judge_success(answer: &Answer) -> Verdict {
    let number = answer.status.as_u16();
    if answer.cut {
        // It may be a receipt that names what was rejected, record by record: of fewer records it is shorter.
        return Verdict::Split { why: format!("{number} with a body that is too long or breaks off") };
    }
    match http_success(&answer.body) {
        Ok(success) => Verdict::Taken(success),
        // A login page or a proxy says 200 too: that is no receipt.
        Err(_) => Verdict::Again { after: None, why: format!("{number} without an OTLP response in its body") },
    }
}

/// Seconds or an HTTP date, at most [`RETRY_AFTER_MAX`].
fn retry_after(answer: &Answer, now: SystemTime) -> Option<Duration> {
    let value = answer.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or(Duration::ZERO),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// What a sink must take.
pub(super) fn expected(sink: &DocumentSink) -> String {
    let protocol = match sink.protocol {
        SinkProtocol::HttpProtobuf => "HTTP/protobuf",
        SinkProtocol::Grpc => "gRPC",
    };
    let compression = match sink.compression {
        Compression::Gzip => " with gzip",
        Compression::Zstd => " with zstd",
        Compression::None => "",
    };
    format!("OTLP logs over {protocol}{compression}")
}

/// The status and, where the body is text, its beginning.
fn words(answer: &Answer) -> String {
    let status = answer.status.as_u16();
    let text = readable(&answer.body);
    if text.is_empty() { format!("answered {status}") } else { format!("answered {status}: {text}") }
}

/// The beginning of a text on one line; nothing of what is no text.
pub(super) fn readable(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return String::new();
    }
    text.chars().take(WORDS_CHARS_MAX).map(|c| if c.is_whitespace() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use hyper::header::{HeaderMap, HeaderValue};

    fn answer(status: u16, retry_after: &str, body: &[u8]) -> Answer {
        let mut headers = HeaderMap::new();
        if !retry_after.is_empty() {
            headers.insert(RETRY_AFTER, HeaderValue::from_str(retry_after).expect("value"));
        }
        let status = StatusCode::from_u16(status).expect("status");
        Answer { status, headers, trailers: HeaderMap::new(), body: Bytes::copy_from_slice(body), cut: false }
    }

    fn sink() -> DocumentSink {
        crate::export::testing::sink()
    }

    fn after(retry_after: &str) -> Option<Duration> {
        // 06 Nov 1994 08:49:37 GMT is second 784111777.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        match judge(&answer(503, retry_after, b""), now, &sink()) {
            Verdict::Again { after, .. } => after,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn statuses_are_success_retry_park_or_refusal() {
        let cases = [
            (200, "taken"),
            (202, "taken"),
            (204, "taken"),
            (301, "park"),
            (400, "refused"),
            (401, "park"),
            (403, "park"),
            (404, "park"),
            (405, "park"),
            (402, "park"),
            (408, "late"),
            (413, "refused"),
            (415, "park"),
            (421, "park"),
            (422, "refused"),
            (426, "park"),
            (429, "again"),
            (431, "park"),
            (494, "park"),
            (495, "park"),
            (496, "park"),
            (497, "park"),
            (500, "again"),
            (502, "again"),
            (503, "again"),
            (504, "late"),
        ];
        for (status, expected) in cases {
            let got = match judge(&answer(status, "", b""), SystemTime::UNIX_EPOCH, &sink()) {
                Verdict::Taken(_) => "taken",
                Verdict::Again { .. } => "again",
                Verdict::Park { .. } => "park",
                Verdict::Split { .. } => "split",
                Verdict::Late { .. } => "late",
                Verdict::Refused { .. } => "refused",
            };
            assert_eq!(got, expected, "{status}");
        }
    }

    #[test]
    fn a_success_needs_an_empty_body_or_an_otlp_response() {
        let taken = |body: &[u8]| judge(&answer(200, "", body), SystemTime::UNIX_EPOCH, &sink());
        let partial =
            |rejected, message: &str| Verdict::Taken(PartialSuccess { rejected, message: message.to_owned() });
        assert_eq!(taken(b""), partial(0, ""));
        assert_eq!(taken(b"\x0a\x05\x08\x03\x12\x01x"), partial(3, "x"));
        assert_eq!(taken(b"{}"), partial(0, ""));
        assert_eq!(taken(br#"{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"old"}}"#), partial(2, "old"));
        assert!(matches!(taken(b"<html>log in</html>"), Verdict::Again { .. }));
        let mut broken = answer(200, "", b"");
        broken.cut = true;
        assert!(matches!(judge(&broken, SystemTime::UNIX_EPOCH, &sink()), Verdict::Split { .. }));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        assert_eq!(after(""), None);
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
        assert_eq!(after("86400"), Some(RETRY_AFTER_MAX));
        assert_eq!(after("soon"), None);
    }
}

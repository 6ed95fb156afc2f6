//! gRPC as far as one unary call needs it: the frame around a message, the deadline, and what the status means.

use super::answer::{self, RETRY_AFTER_MAX, Verdict};
use super::transport::ANSWER_BYTES_MAX;
use crate::client::Answer;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use flate2::read::GzDecoder;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use std::borrow::Cow;
use std::io::Read;
use std::time::{Duration, SystemTime};
use testimony_core::otlp::answer::{NotAResponse, Value, fields, partial_success};
use testimony_core::otlp::grpc;
pub(super) use testimony_core::otlp::grpc::{LOGS_PATH, frame};
use testimony_core::policy::DocumentSink;

/// Compressions of an answer that are understood.
pub(super) const ACCEPTED: &str = "identity,gzip,zstd";

/// Largest window that an answer's zstd may ask for, as a power of two in bytes: 8 MiB, which every decoder is to take. A server
/// that streams asks for that of its level, however short the answer is; what is read of it is bounded.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Largest number of a `grpc-timeout`: it has at most 8 digits.
const TIMEOUT_MAX: u32 = 99_999_999;

/// Binary metadata may come with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const RETRY_INFO: &[u8] = b"type.googleapis.com/google.rpc.RetryInfo";

/// Names of the status codes, from 0.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Why an answer has no message that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoMessage {
    /// Larger than [`ANSWER_BYTES_MAX`].
    TooLong,
    /// Anything else than one message.
    Malformed,
}

/// The one message of an answer, decompressed: many servers compress as the request was, asked or not.
fn unframe<'a>(body: &'a [u8], encoding: &[u8]) -> Result<Cow<'a, [u8]>, NoMessage> {
    let (compressed, message) = grpc::unframe(body).ok_or(NoMessage::Malformed)?;
    match (compressed, encoding) {
        (false, _) => Ok(Cow::Borrowed(message)),
        (true, b"gzip") => read_bounded(GzDecoder::new(message)),
        (true, b"zstd") => {
            let decoder = zstd::stream::read::Decoder::new(message).and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Ok(decoder)
            });
            read_bounded(decoder.map_err(|_| NoMessage::Malformed)?)
        }
        _ => Err(NoMessage::Malformed),
    }
}

fn read_bounded(reader: impl Read) -> Result<Cow<'static, [u8]>, NoMessage> {
    let mut plain = Vec::new();
    // One byte more, so that what is too long shows.
    let most = u64::try_from(ANSWER_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(most).read_to_end(&mut plain).map_err(|_| NoMessage::Malformed)?;
    if plain.len() > ANSWER_BYTES_MAX { Err(NoMessage::TooLong) } else { Ok(Cow::Owned(plain)) }
}

/// The value of `grpc-timeout`, rounded up where it has too many digits.
pub(super) fn timeout(milliseconds: u32) -> HeaderValue {
    let text = if milliseconds <= TIMEOUT_MAX {
        format!("{milliseconds}m")
    } else {
        format!("{}S", milliseconds.div_ceil(1000))
    };
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("10S"))
}

/// Judges an answer; `now` is for `Retry-After` with a date, which proxies send.
pub(super) fn judge(answer: &Answer, now: SystemTime, sink: &DocumentSink) -> Verdict {
    let number = answer.status.as_u16();
    if answer.status != StatusCode::OK {
        // Said by a proxy or by a server that is none of gRPC: no record is at fault.
        return match answer::judge(answer, now, sink) {
            Verdict::Taken(_) | Verdict::Refused { .. } | Verdict::Split { .. } => {
                Verdict::Park { why: format!("answered {number}, which is not gRPC; check the endpoint") }
            }
            other => other,
        };
    }
    // A call that fails at once has its status in the header.
    let status = code(&answer.trailers).map(|code| (code, &answer.trailers));
    let Some((code, fields)) = status.or_else(|| code(&answer.headers).map(|code| (code, &answer.headers))) else {
        let content = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        return match content.starts_with("application/grpc") {
            // What comes after a body that is too long is not read.
            true if answer.cut => Verdict::Split { why: too_long() },
            true => Verdict::Again { after: None, why: "the answer broke off before its status".to_owned() },
            false => Verdict::Park { why: format!("answered {number} without a gRPC status; check the endpoint") },
        };
    };
    if code == 0 {
        let encoding = answer.headers.get("grpc-encoding").map_or(&b""[..], HeaderValue::as_bytes);
        let message = if answer.cut { Err(NoMessage::TooLong) } else { unframe(&answer.body, encoding) };
        let success = message.and_then(|message| partial_success(&message).map_err(|_| NoMessage::Malformed));
        return match success {
            Ok(success) => Verdict::Taken(success),
            Err(NoMessage::TooLong) => Verdict::Split { why: too_long() },
            Err(NoMessage::Malformed) => {
                Verdict::Again { after: None, why: "answered OK without an OTLP response".to_owned() }
            }
        };
    }
    judge_failure(code, fields, sink)
}

/// An answer that may name what was rejected, record by record: of fewer records it is shorter.
fn too_long() -> String {
    "the answer is too long or breaks off".to_owned()
}

/// OTLP's table of codes, with three differences for the sake of the records: what a server's own defect is (UNKNOWN,
/// INTERNAL) is retried as a 500 is, a wrong place (UNIMPLEMENTED, NOT_FOUND) parks the queue as a 404 does, and what is
/// too large or too much is split before it is retried.
fn judge_failure(code: usize, fields: &HeaderMap, sink: &DocumentSink) -> Verdict {
    let name = CODES.get(code).copied().unwrap_or("UNKNOWN");
    let message = message(fields);
    let why = if message.is_empty() { format!("answered {name}") } else { format!("answered {name}: {message}") };
    let after = retry_info(fields);
    match name {
        "UNAUTHENTICATED" | "PERMISSION_DENIED" => Verdict::Park { why: format!("{why}; check the credentials") },
        "UNIMPLEMENTED" | "NOT_FOUND" => {
            Verdict::Park { why: format!("{why}; check that the endpoint takes {}", answer::expected(sink)) }
        }
        "RESOURCE_EXHAUSTED" if after.is_none() => Verdict::Split { why },
        "INVALID_ARGUMENT" | "ALREADY_EXISTS" | "FAILED_PRECONDITION" => Verdict::Refused { why, of_records: false },
        "DEADLINE_EXCEEDED" => Verdict::Late { after, why },
        _ => Verdict::Again { after, why },
    }
}

fn code(fields: &HeaderMap) -> Option<usize> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// The percent-encoded words of the status, as much as is repeated of them.
fn message(fields: &HeaderMap) -> String {
    let mut rest = fields.get("grpc-message").map_or(&b""[..], HeaderValue::as_bytes);
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%');
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    answer::readable(&bytes)
}

/// The wait of a `google.rpc.RetryInfo` in the details of the status, at most [`RETRY_AFTER_MAX`].
fn retry_info(headers: &HeaderMap) -> Option<Duration> {
    let details = BASE64.decode(headers.get("grpc-status-details-bin")?.as_bytes()).ok()?;
    let mut wait = None;
    let read = fields(&details, |number, value| {
        if let (3, Value::Bytes(any)) = (number, value) {
            let (mut kind, mut inner) = (&b""[..], &b""[..]);
            fields(any, |number, value| {
                match (number, value) {
                    (1, Value::Bytes(url)) => kind = url,
                    (2, Value::Bytes(value)) => inner = value,
                    _ => {}
                }
                Ok(())
            })?;
            if kind == RETRY_INFO {
                wait = Some(Duration::ZERO);
                fields(inner, |number, value| {
                    if let (1, Value::Bytes(delay)) = (number, value) {
                        wait = Some(duration(delay)?);
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    });
    read.ok().and(wait)
}

/// A `google.protobuf.Duration`; what is negative is none.
fn duration(bytes: &[u8]) -> Result<Duration, NotAResponse> {
    let (mut seconds, mut nanos) = (0, 0);
    fields(bytes, |number, value| {
        match (number, value) {
            (1, Value::Number(value)) => seconds = u64::try_from(value.cast_signed()).unwrap_or(0),
            (2, Value::Number(value)) => nanos = u32::try_from(value.cast_signed()).unwrap_or(0),
            _ => {}
        }
        Ok(())
    })?;
    Ok(Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into())).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests;

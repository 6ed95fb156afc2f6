//! The ledger's one unary call over gRPC, and what the status of its answer means.

use super::receipt::{taken, words};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Request, StatusCode, header};
use testimony_core::otlp::answer::partial_success;
use testimony_core::otlp::grpc::{LOGS_PATH, frame, unframe};

/// The call that sends a message to this endpoint, uncompressed.
///
/// # Errors
/// The endpoint is no URL.
pub(super) fn call(endpoint: &str, message: &[u8]) -> hyper::http::Result<Request<Full<Bytes>>> {
    Request::post(format!("{}{LOGS_PATH}", endpoint.trim_end_matches('/')))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header("grpc-accept-encoding", "identity")
        .body(Full::new(Bytes::from(frame(false, message))))
}

/// Whether the sink has all of the block. `body`: none where it was not read to its end.
///
/// # Errors
/// It has none or only some of it, in words: the block has to be sent again.
pub(super) fn receipt(
    status: StatusCode,
    headers: &HeaderMap,
    trailers: Option<&HeaderMap>,
    body: Option<&Bytes>,
) -> Result<(), String> {
    let number = status.as_u16();
    if status != StatusCode::OK {
        return Err(format!("answered {number}, which is not gRPC: check the endpoint"));
    }
    // A call that fails at once has its status in the header.
    let fields = [trailers, Some(headers)].into_iter().flatten().find(|fields| fields.contains_key("grpc-status"));
    let Some(fields) = fields else { return Err(format!("answered {number} without a gRPC status")) };
    let text =
        |name: &str| fields.get(name).map(HeaderValue::as_bytes).map(String::from_utf8_lossy).unwrap_or_default();
    match text("grpc-status").as_ref() {
        "0" => {}
        code => {
            let message = words(&text("grpc-message"));
            return Err(format!("answered gRPC status {code}{}{message}", if message.is_empty() { "" } else { ": " }));
        }
    }
    // Only what is not compressed was asked for.
    let message = body.and_then(|body| unframe(body)).filter(|(compressed, _)| !compressed);
    let message = message.and_then(|(_, message)| partial_success(message).ok());
    taken(message.as_ref().ok_or("answered OK without an OTLP response")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (hyper::header::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn only_status_0_with_an_answer_that_takes_everything_is_a_receipt() {
        let ok = fields(&[("grpc-status", "0")]);
        let says = |trailers: Option<&HeaderMap>, body: &[u8]| {
            receipt(StatusCode::OK, &HeaderMap::new(), trailers, Some(&Bytes::copy_from_slice(body)))
        };
        assert_eq!(says(Some(&ok), b"\0\0\0\0\0"), Ok(()));
        assert_eq!(
            receipt(StatusCode::OK, &ok, None, Some(&Bytes::from_static(b"\0\0\0\0\0"))),
            Ok(()),
            "trailers only"
        );
        let full = fields(&[("grpc-status", "8"), ("grpc-message", "queue\u{9}full")]);
        let bare = fields(&[("grpc-status", "14")]);
        let refused: [(Option<&HeaderMap>, &[u8], &str); 7] = [
            (None, b"\0\0\0\0\0", "without a gRPC status"),
            (Some(&full), b"", "gRPC status 8: queuefull"),
            (Some(&bare), b"", "answered gRPC status 14"),
            (Some(&ok), b"", "without an OTLP response"),
            (Some(&ok), b"\x01\0\0\0\0", "without an OTLP response"),
            (Some(&ok), b"\0\0\0\0\x09x", "without an OTLP response"),
            (Some(&ok), b"\0\0\0\0\x07\x0a\x05\x08\x03\x12\x01x", "not 3 of its records: x"),
        ];
        for (trailers, body, why) in refused {
            let error = says(trailers, body).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
        assert!(receipt(StatusCode::OK, &HeaderMap::new(), Some(&ok), None).is_err(), "it broke off");
        let proxy = receipt(StatusCode::BAD_GATEWAY, &HeaderMap::new(), None, None).expect_err("a proxy");
        assert!(proxy.contains("502, which is not gRPC"), "{proxy}");
    }

    #[test]
    fn a_message_is_framed_and_goes_to_the_logs_service() {
        let request = call("http://c:4317/", b"abc").expect("a request");
        assert_eq!(request.uri(), "http://c:4317/opentelemetry.proto.collector.logs.v1.LogsService/Export");
        assert_eq!(unframe(b"\0\0\0\0\x03abc"), Some((false, &b"abc"[..])));
    }
}

//! What a sink's answer says of a block of the ledger.

use bytes::Bytes;
use hyper::StatusCode;
use testimony_core::otlp::answer::{PartialSuccess, http_success};

/// Longest part of a sink's own words that is repeated, in characters.
const WORDS_CHARS_MAX: usize = 200;

/// Whether the sink has all of the block. `body`: none where it was not read to its end.
///
/// # Errors
/// It has none or only some of it, in words: the block has to be sent again. Whoever has an entry twice loses nothing by it.
pub fn receipt(status: StatusCode, body: Option<&Bytes>) -> Result<(), String> {
    let number = status.as_u16();
    if !status.is_success() {
        let words = words(&String::from_utf8_lossy(body.map_or(b"", |body| body)));
        return Err(if words.is_empty() {
            format!("answered {number}")
        } else {
            format!("answered {number}: {words}")
        });
    }
    match body.map(|body| http_success(body)) {
        Some(Ok(answer)) => taken(&answer),
        // A login page or a proxy says 200 too: that is no receipt.
        Some(Err(_)) => Err(format!("answered {number} without an OTLP response in its body")),
        None => Err(format!("the body of its answer ({number}) broke off, or is too long")),
    }
}

/// Whether an answer takes all records.
pub(super) fn taken(answer: &PartialSuccess) -> Result<(), String> {
    match answer.rejected {
        0 => Ok(()),
        rejected => Err(format!("it took the request, but not {rejected} of its records: {}", words(&answer.message))),
    }
}

/// What is repeated of a sink's own words.
pub(super) fn words(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(WORDS_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_that_takes_everything_is_a_receipt() {
        let says = |status: u16, body: &'static [u8]| {
            receipt(StatusCode::from_u16(status).expect("a status"), Some(&Bytes::from_static(body)))
        };
        for (status, body) in [(200, &b""[..]), (202, b"{}"), (204, b""), (200, br#"{"partialSuccess":{}}"#)] {
            assert_eq!(says(status, body), Ok(()), "{status} {body:?}");
        }
        // A warning is no refusal.
        assert_eq!(says(200, b"\x0a\x03\x12\x01x"), Ok(()));
        let refused = [
            (200, &b"\x0a\x05\x08\x03\x12\x01x"[..], "not 3 of its records: x"),
            (
                200,
                br#"{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"old"}}"#,
                "not 2 of its records: old",
            ),
            (200, b"<html>log in</html>", "without an OTLP response"),
            (302, b"", "answered 302"),
            (400, b"no\nsuch tenant", "answered 400: nosuch tenant"),
            (503, b"", "answered 503"),
        ];
        for (status, body, why) in refused {
            let error = says(status, body).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
        assert!(receipt(StatusCode::OK, None).is_err_and(|error| error.contains("broke off")));
        let long = Bytes::from(vec![b'x'; 1000]);
        assert!(receipt(StatusCode::BAD_REQUEST, Some(&long)).is_err_and(|error| error.len() < 250));
    }
}

use super::*;
use crate::export::testing::sink;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use proptest::prelude::*;
use prost::Message;
use testimony_core::otlp::answer::PartialSuccess;
use testimony_core::policy::SinkProtocol;

fn grpc_sink() -> DocumentSink {
    DocumentSink { protocol: SinkProtocol::Grpc, ..sink() }
}

fn fields_of(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| ((*name).parse().expect("name"), value.parse().expect("value"))).collect()
}

fn answer(status: u16, headers: HeaderMap, trailers: HeaderMap, body: &[u8]) -> Answer {
    let status = StatusCode::from_u16(status).expect("status");
    Answer { status, headers, trailers, body: Bytes::copy_from_slice(body), cut: false }
}

/// What a code in the trailers leads to.
fn verdict(trailers: &[(&'static str, &str)]) -> Verdict {
    let headers = fields_of(&[("content-type", "application/grpc")]);
    judge(&answer(200, headers, fields_of(trailers), b""), SystemTime::UNIX_EPOCH, &grpc_sink())
}

fn kind(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Taken(_) => "taken",
        Verdict::Again { .. } => "again",
        Verdict::Park { .. } => "park",
        Verdict::Split { .. } => "split",
        Verdict::Late { .. } => "late",
        Verdict::Refused { .. } => "refused",
    }
}

/// `google.rpc.Status` with a RetryInfo, as `grpc-status-details-bin` carries it.
fn details(seconds: i64, nanos: i64) -> Vec<u8> {
    let mut delay = Vec::new();
    prost::encoding::int64::encode(1, &seconds, &mut delay);
    prost::encoding::int64::encode(2, &nanos, &mut delay);
    let mut info = Vec::new();
    prost::encoding::bytes::encode(1, &delay, &mut info);
    let mut any = Vec::new();
    prost::encoding::bytes::encode(1, &RETRY_INFO.to_vec(), &mut any);
    prost::encoding::bytes::encode(2, &info, &mut any);
    let mut other = Vec::new();
    prost::encoding::bytes::encode(1, &b"type.googleapis.com/google.rpc.DebugInfo".to_vec(), &mut other);
    prost::encoding::bytes::encode(2, &b"\xff\xff".to_vec(), &mut other);
    let mut status = Vec::new();
    prost::encoding::int32::encode(1, &8, &mut status);
    prost::encoding::bytes::encode(2, &b"slowly".to_vec(), &mut status);
    prost::encoding::bytes::encode(3, &other, &mut status);
    prost::encoding::bytes::encode(3, &any, &mut status);
    status
}

#[test]
fn every_code_is_success_retry_park_split_or_refusal() {
    let expected = [
        "again", // OK, but without a message: no receipt
        "again", // CANCELLED
        "again", // UNKNOWN
        "refused", "late", // DEADLINE_EXCEEDED
        "park", // NOT_FOUND
        "refused", "park",  // PERMISSION_DENIED
        "split", // RESOURCE_EXHAUSTED
        "refused", "again", // ABORTED
        "again", // OUT_OF_RANGE
        "park",  // UNIMPLEMENTED
        "again", // INTERNAL
        "again", // UNAVAILABLE
        "again", // DATA_LOSS
        "park",  // UNAUTHENTICATED
        "again", // no code of gRPC
    ];
    for (code, expected) in expected.into_iter().enumerate() {
        let got = verdict(&[("grpc-status", &code.to_string())]);
        assert_eq!(kind(&got), expected, "{code}: {got:?}");
    }
}

#[test]
fn the_words_of_a_status_are_decoded_and_bounded() {
    let why = |message: &str| match verdict(&[("grpc-status", "3"), ("grpc-message", message)]) {
        Verdict::Refused { why, .. } => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(""), "answered INVALID_ARGUMENT");
    assert_eq!(why("bad%20%C3%A4%0Aline"), "answered INVALID_ARGUMENT: bad ä line");
    assert_eq!(why("100%"), "answered INVALID_ARGUMENT: 100%");
    assert_eq!(why("%zz%4"), "answered INVALID_ARGUMENT: %zz%4");
    assert_eq!(why("%07"), "answered INVALID_ARGUMENT");
    assert!(why(&"x".repeat(5000)).len() < 300);
}

#[test]
fn a_success_needs_its_message_and_may_be_partial() {
    let taken = |body: &[u8]| {
        let trailers = fields_of(&[("grpc-status", "0")]);
        judge(&answer(200, HeaderMap::new(), trailers, body), SystemTime::UNIX_EPOCH, &grpc_sink())
    };
    let partial = ExportLogsPartialSuccess { rejected_log_records: 3, error_message: "old".to_owned() };
    let response = ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let framed = frame(false, &response);
    assert_eq!(taken(&framed), Verdict::Taken(PartialSuccess { rejected: 3, message: "old".to_owned() }));
    assert_eq!(taken(&frame(false, b"")), Verdict::Taken(PartialSuccess::default()));
    for cut in 0..framed.len() {
        assert_eq!(kind(&taken(&framed[..cut])), "again", "{cut}");
    }
    assert_eq!(kind(&taken(&frame(true, &response))), "again", "compressed by what nobody named");
    assert_eq!(kind(&taken(&[&framed[..], &framed].concat())), "again", "two messages");
}

#[test]
fn an_answer_that_is_compressed_as_the_request_was_is_read_within_bounds() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    // As a server does it that streams: its frames do not say their length, and ask for the window of their level.
    let zstd_of = |level: i32, bytes: &[u8]| {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).expect("memory");
        std::io::Write::write_all(&mut encoder, bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    let (zstd, zstd_most) = (|bytes: &[u8]| zstd_of(3, bytes), |bytes: &[u8]| zstd_of(19, bytes));
    let (long, longest) = (vec![0; ANSWER_BYTES_MAX + 1], vec![0; ANSWER_BYTES_MAX]);
    for (name, packed) in [("gzip", &gzip as &dyn Fn(&[u8]) -> Vec<u8>), ("zstd", &zstd), ("zstd", &zstd_most)] {
        let read = |bytes: &[u8]| unframe(&frame(true, &packed(bytes)), name.as_bytes()).map(Cow::into_owned);
        assert_eq!(read(b""), Ok(Vec::new()), "{name}");
        assert_eq!(read(&longest), Ok(longest.clone()), "{name}");
        assert_eq!(read(&long), Err(NoMessage::TooLong), "{name}");
        let whole = packed(b"some bytes");
        for cut in 1..whole.len() {
            let framed = frame(true, &whole[..cut]);
            let broken = unframe(&framed, name.as_bytes());
            assert_eq!(broken, Err(NoMessage::Malformed), "{name} {cut}");
        }
    }
    let headers = fields_of(&[("content-type", "application/grpc"), ("grpc-encoding", "gzip")]);
    let whole = answer(200, headers, fields_of(&[("grpc-status", "0")]), &frame(true, &gzip(b"")));
    assert_eq!(kind(&judge(&whole, SystemTime::UNIX_EPOCH, &grpc_sink())), "taken");
    let unpacked = answer(200, whole.headers.clone(), whole.trailers.clone(), &frame(true, &gzip(&long)));
    assert_eq!(kind(&judge(&unpacked, SystemTime::UNIX_EPOCH, &grpc_sink())), "split");
}

#[test]
fn what_is_no_grpc_loses_no_record() {
    for status in [201, 204, 301, 400, 401, 403, 404, 413, 415, 422, 431] {
        let got = judge(&answer(status, HeaderMap::new(), HeaderMap::new(), b""), SystemTime::UNIX_EPOCH, &grpc_sink());
        assert_eq!(kind(&got), "park", "{status}");
    }
    for status in [408, 429, 500, 502, 503, 504] {
        let headers = fields_of(&[("retry-after", "7")]);
        let got = judge(&answer(status, headers, HeaderMap::new(), b""), SystemTime::UNIX_EPOCH, &grpc_sink());
        let (Verdict::Again { after, .. } | Verdict::Late { after, .. }) = got else { panic!("{status} {got:?}") };
        assert_eq!(after, Some(Duration::from_secs(7)), "{status}");
    }
    let page = answer(200, fields_of(&[("content-type", "text/html")]), HeaderMap::new(), b"log in");
    assert_eq!(kind(&judge(&page, SystemTime::UNIX_EPOCH, &grpc_sink())), "park");
    let broken = answer(200, fields_of(&[("content-type", "application/grpc")]), HeaderMap::new(), b"");
    assert_eq!(kind(&judge(&broken, SystemTime::UNIX_EPOCH, &grpc_sink())), "again");
    // With its body, the trailers are not read.
    let long = Answer { cut: true, ..broken };
    assert_eq!(kind(&judge(&long, SystemTime::UNIX_EPOCH, &grpc_sink())), "split");
    let page = Answer { cut: true, ..page };
    assert_eq!(kind(&judge(&page, SystemTime::UNIX_EPOCH, &grpc_sink())), "park");
    // Said at once, in the header.
    let early = answer(200, fields_of(&[("grpc-status", "16")]), HeaderMap::new(), b"");
    assert_eq!(kind(&judge(&early, SystemTime::UNIX_EPOCH, &grpc_sink())), "park");
}

#[test]
fn retry_info_makes_a_wait_of_what_is_exhausted() {
    let wait = |details: &[u8], padded: bool| {
        let text = if padded {
            base64::engine::general_purpose::STANDARD.encode(details)
        } else {
            base64::engine::general_purpose::STANDARD_NO_PAD.encode(details)
        };
        match verdict(&[("grpc-status", "8"), ("grpc-status-details-bin", &text)]) {
            Verdict::Again { after, .. } => after,
            Verdict::Split { .. } => None,
            other => panic!("{other:?}"),
        }
    };
    for padded in [true, false] {
        assert_eq!(wait(&details(2, 500_000_000), padded), Some(Duration::from_millis(2500)));
    }
    assert_eq!(wait(&details(-5, -1), true), Some(Duration::ZERO));
    assert_eq!(wait(&details(i64::MAX, i64::MAX), true), Some(RETRY_AFTER_MAX));
    let whole = details(2, 0);
    for cut in 0..whole.len() {
        // The detail stands last: without its end there is none.
        assert_eq!(wait(&whole[..cut], true), None, "{cut}");
    }
    let unreadable = verdict(&[("grpc-status", "14"), ("grpc-status-details-bin", "***")]);
    assert!(matches!(unreadable, Verdict::Again { after: None, .. }), "{unreadable:?}");
}

#[test]
fn a_timeout_has_at_most_eight_digits() {
    for (milliseconds, text) in
        [(1, "1m"), (10_000, "10000m"), (99_999_999, "99999999m"), (100_000_001, "100001S"), (u32::MAX, "4294968S")]
    {
        assert_eq!(timeout(milliseconds), text);
    }
}

proptest! {
    #[test]
    fn what_is_framed_is_unframed_and_nothing_else(message in prop::collection::vec(any::<u8>(), 0..64), more in any::<u8>()) {
        let framed = frame(false, &message);
        prop_assert_eq!(unframe(&framed, b"").map(Cow::into_owned), Ok(message.clone()));
        let longer = [&framed[..], &[more]].concat();
        prop_assert_eq!(unframe(&longer, b""), Err(NoMessage::Malformed));
    }

    #[test]
    fn any_answer_is_judged(
        status in 100_u16..600, code in ".{0,3}", message in any::<Vec<u8>>(), details in any::<Vec<u8>>(), body in any::<Vec<u8>>(),
    ) {
        let mut trailers = HeaderMap::new();
        let details = base64::engine::general_purpose::STANDARD.encode(details);
        for (name, value) in [("grpc-status", code.as_bytes()), ("grpc-message", &message), ("grpc-status-details-bin", details.as_bytes())] {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                trailers.insert(name, value);
            }
        }
        judge(&answer(status, HeaderMap::new(), trailers, &body), SystemTime::UNIX_EPOCH, &grpc_sink());
    }
}

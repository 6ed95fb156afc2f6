//! What a sink answers is understood or refused, over HTTP and over gRPC; and a frame is taken apart as it was put together.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testimony_core::otlp::answer::{http_success, partial_success};
use testimony_core::otlp::grpc::{frame, unframe};

fuzz_target!(|bytes: &[u8]| {
    let _ = http_success(bytes);
    let _ = partial_success(bytes);
    if let Some((compressed, message)) = unframe(bytes) {
        let again = frame(compressed, message);
        assert_eq!(bytes.get(..again.len()), Some(again.as_slice()));
    }
    assert_eq!(unframe(&frame(false, bytes)), Some((false, bytes)));
});

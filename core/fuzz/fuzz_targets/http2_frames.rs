//! The frames of a connection tell the same, in whatever pieces they come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testimony_core::http2::FrameWatch;

fn told(mut watch: FrameWatch, bytes: &[u8], piece_bytes: usize) -> (String, bool) {
    let mut told = String::new();
    for piece in bytes.chunks(piece_bytes) {
        watch.feed(piece, |seen| told.push_str(&format!("{seen:?};")));
    }
    (told, watch.is_in_head())
}

fuzz_target!(|bytes: &[u8]| {
    for watch in [FrameWatch::of_client(), FrameWatch::of_server()] {
        let whole = told(watch.clone(), bytes, usize::MAX);
        for piece_bytes in [1, 3, 10] {
            assert_eq!(told(watch.clone(), bytes, piece_bytes), whole, "{piece_bytes} bytes at once");
        }
    }
});

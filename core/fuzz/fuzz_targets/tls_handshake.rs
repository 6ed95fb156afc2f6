//! A handshake fed whole and byte by byte tells the same, and what it tells at the end of a handshake stays.
//!
//! The input is a list of steps: a control byte, then its bytes. Control byte with bit 0 = from the server, and the rest of
//! it times 2 = how many bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testimony_core::tls::{Handshake, HandshakeStatus};

fn told(watch: &Handshake) -> impl PartialEq + std::fmt::Debug + use<> {
    let alert = watch.alert().map(|alert| alert.to_string());
    let names = (watch.server_name().map(str::to_owned), watch.alpn_offered().to_vec());
    (watch.status(), watch.version(), alert, watch.alpn_selected().map(str::to_owned), names)
}

fn feed(mut steps: &[u8], piece_bytes: usize) -> Handshake {
    let mut watch = Handshake::default();
    let mut known = None;
    while let Some((control, rest)) = steps.split_first() {
        let (bytes, rest) = rest.split_at(rest.len().min(usize::from(*control & !1)));
        steps = rest;
        for piece in bytes.chunks(piece_bytes) {
            if control & 1 == 0 { watch.from_client(piece) } else { watch.from_server(piece) }
            let status = watch.status();
            if let Some(known) = known {
                assert_eq!(Some(known), status, "it had ended");
            }
            known = status.filter(|status| *status == HandshakeStatus::Failed);
        }
    }
    watch
}

fuzz_target!(|bytes: &[u8]| {
    assert_eq!(told(&feed(bytes, 1)), told(&feed(bytes, usize::MAX)));
});

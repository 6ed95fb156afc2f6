//! What a sidecar asks the witness is written back as it was; what the witness answers ends the question, whatever it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::note::{Checkpoint, PublicKey, SignedNote};
use testimony_core::evidence::witness::client::Client;
use testimony_core::evidence::witness::csr::{parse_csr, stream_uri, stream_of_uri};
use testimony_core::evidence::witness::request::Request;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Request::parse(bytes) {
        assert_eq!(Request::parse(request.encode().as_bytes()).as_ref(), Ok(&request));
    }
    if let Some((sid, _)) = parse_csr(bytes) {
        assert_eq!(stream_of_uri(&stream_uri(&sid)), Some(sid));
    }
    let mut client = Client::new(PublicKey([7; 32]));
    client.push(Hash([1; 32]));
    let checkpoint = Checkpoint { origin: "c/n/p/0-0-0".to_owned(), size: 1, root: Hash([1; 32]) };
    client.head(SignedNote { checkpoint, signatures: Vec::new() }, None);
    let (status, text) = bytes.split_first().map_or((0, &[][..]), |(first, rest)| (u16::from(*first), rest));
    let text = String::from_utf8_lossy(text);
    for status in [200, 400, 404, 409, 422, 503, status.saturating_mul(3)] {
        let _ = client.request();
        let _ = client.answered(status, &text);
    }
});

//! Whatever stands in a file of the spool, reading it ends, and what was not written does not open.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testimony_core::evidence::hash::Hash;
use testimony_sidecar::spool::Counters;
use testimony_sidecar::spool::format::acks::{self, Acks};
use testimony_sidecar::spool::format::frame::{Clear, Decoder};
use testimony_sidecar::spool::format::header::Header;
use testimony_sidecar::spool::format::shed;
use testimony_sidecar::spool::keys::DataKey;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((header, length)) = Header::parse(bytes) {
        let mut again = Vec::new();
        header.encode(&mut again).expect("what was read can be written");
        assert_eq!(bytes.get(..length), Some(again.as_slice()));
    }
    let key = DataKey::new(&[0; 32]).expect("a key");
    let mut decoder = Decoder::new().expect("memory");
    for number in 0..2 {
        if let Ok(clear) = Clear::parse(bytes, number, 4) {
            assert!(decoder.open(&clear, &key, Hash([0; 32]), bytes).is_err(), "nobody sealed this");
        }
    }
    let _ = acks::read(bytes, &mut Acks::default());
    if let Ok(shed) = shed::read(bytes) {
        let again = shed::write(&shed).expect("what was read can be written");
        assert_eq!(bytes.get(..again.len()), Some(again.as_slice()));
    }
    let _ = Counters::parse(bytes);
});

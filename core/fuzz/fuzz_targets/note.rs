//! A note that is parsed is written back as it was, and its signatures are looked at without harm.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testimony_core::evidence::note::{PublicKey, SignedNote};

fuzz_target!(|text: &str| {
    let Ok(note) = SignedNote::parse(text) else { return };
    assert_eq!(note.encode(), text);
    let key = PublicKey([7; 32]);
    let _ = (note.is_signed_by(&note.checkpoint.origin, &key), note.cosigned_at(&note.checkpoint.origin, &key));
});

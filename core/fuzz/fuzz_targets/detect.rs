//! Any answer but `NeedMore` is final.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testimony_core::detect::{Detected, Detector};

fuzz_target!(|bytes: &[u8]| {
    let mut last = Detected::NeedMore;
    for end in 0..=bytes.len().min(256) {
        let answer = Detector::new().feed(&bytes[..end]);
        assert!(last == Detected::NeedMore || last == answer, "{last:?} became {answer:?} at {end}");
        last = answer;
    }
    let answer = Detector::new().feed(bytes);
    assert!(last == Detected::NeedMore || last == answer);
});

//! Any answer but `NeedMore` is final.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testimony_core::tls::{Hello, client_hello};

fuzz_target!(|bytes: &[u8]| {
    let mut last = Hello::NeedMore;
    for end in 0..=bytes.len().min(512) {
        let answer = client_hello(&bytes[..end]);
        assert!(last == Hello::NeedMore || last == answer, "{last:?} became {answer:?} at {end}");
        last = answer;
    }
    let answer = client_hello(bytes);
    assert!(last == Hello::NeedMore || last == answer);
});

//! What sealing costs in CPU time, printed: `cargo test --release -p testimony-core --test seal_cost -- --nocapture`. Times
//! are no condition; that every record is sealed is.

mod evidence_support;

use evidence_support::{TestKey, at, origin, usual_exchange};
use testimony_core::evidence::merkle::leaf;
use testimony_core::evidence::seal::{Fate, Head, Host, Sealed, Stream, Wanted};
use testimony_core::record::{Field, Record, Redacted, Side, body_of};
use testimony_core::redact::{Redactor, redact};

/// A host that only counts.
#[derive(Default)]
struct Counter {
    batch: Vec<u8>,
    sealed: u64,
    body_bytes: usize,
    heads: u64,
}

impl Host for Counter {
    type Key = TestKey;

    fn random(&mut self) -> u128 {
        7
    }

    fn key(&mut self) -> Option<TestKey> {
        Some(TestKey::new(1))
    }

    fn reserve(&mut self, _: Wanted) -> Result<(), testimony_core::record::GapReason> {
        Ok(())
    }

    fn write(&mut self, sealed: Sealed<'_>) {
        if self.batch.len() > 128 * 1024 {
            self.batch.clear();
        }
        sealed.kept().encode(&mut self.batch);
        self.sealed += 1;
        self.body_bytes = sealed.body().len();
    }

    fn head(&mut self, _: Head<'_>) {
        self.heads += 1;
    }
}

/// As an exchange of a usual service leaves it: about 1 KiB of body.
fn record() -> Redacted<Record> {
    let mut record = usual_exchange();
    for (field, value) in [
        (Field::T0, "1700000000000000001"),
        (Field::T1, "1700000000003000001"),
        (Field::CorrelationId, "0b8f4d2e-7c1f-4a0a-9b0a-5b1f2c3d4e5f"),
        (Field::CorrelationSrc, "client"),
    ] {
        record.set(field, value.as_bytes());
    }
    record.push_header(Side::Request, "content-type", b"application/json");
    record.push_header(Side::Request, "accept", b"*/*");
    record.push_header(Side::Response, "content-type", b"application/json");
    redact(record, &Redactor::default())
}

/// CPU time of this thread, in nanoseconds: a busy machine does not count.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

#[test]
fn what_sealing_costs() {
    let rounds =
        if cfg!(debug_assertions) && std::env::args().all(|arg| arg != "--nocapture") { 1_000 } else { 20_000 };
    let record = record();
    let mut host = Counter::default();
    let mut stream = Stream::open(origin(1), TestKey::new(1), "0011223344556677", at(0), &mut host).expect("a name");
    let body = body_of(&record).expect("a body");
    let each = |start: u64| (cpu_ns() - start) / rounds;
    let mut best = [u64::MAX; 3];
    for _ in 0..5 {
        let start = cpu_ns();
        for _ in 0..rounds {
            std::hint::black_box(body_of(std::hint::black_box(&record)));
        }
        best[0] = best[0].min(each(start));
        let start = cpu_ns();
        for _ in 0..rounds {
            stream.begin();
            assert_eq!(stream.seal(&record, at(1), &mut host), Fate::Sealed);
            if stream.awaits_durable() {
                stream.durable(stream.position(), at(1), &mut host);
            }
        }
        best[1] = best[1].min(each(start));
        let start = cpu_ns();
        for _ in 0..rounds {
            std::hint::black_box(leaf(std::hint::black_box(&body)));
        }
        best[2] = best[2].min(each(start));
    }
    let [encode, seal, hash] = best;
    println!("body {} B, heads {}", host.body_bytes, host.heads);
    println!("encode alone (with its buffers): {encode} ns; encode and seal: {seal} ns; the leaf's hash: {hash} ns");
    assert!(host.sealed > 5 * rounds && host.heads == stream.position().size / 8193);
}

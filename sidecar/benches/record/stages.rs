//! Each stage of a record alone, on one thread: what the whole is made of.
//!
//! A stage's figure is the difference to the stage before it, where it cannot be run without it.

use super::cpu::{Rounds, measure};
use super::load::{Client, REQUESTS_PER_CONNECTION, Silent, Size, connection, document};
use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use testimony_core::capture::{Begun, HttpCapture, InFlight, Outcome, Receipt, Shell, Unrecorded};
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::leaf;
use testimony_core::evidence::seal::{Fate, Head, Host, Sealed, Stream, Wanted};
use testimony_core::policy::{Compiled, Direction};
use testimony_core::record::{GapReason, Kept, LogWriter, Record, Redacted, Stamp};
use testimony_core::redact::redact;
use testimony_sidecar::data::{self, EpochKey, Random};
use testimony_sidecar::spool::format::frame::Encoder;
use testimony_sidecar::spool::keys::{DataKey, KEY_BYTES};
use testimony_sidecar::spool::{BLOCK_PAYLOAD_BYTES_MAX, Entry, Kind};

const ROUNDS: usize = 15;
const CALLS: u64 = 5_000;

/// Different records that the later stages work on.
const SAMPLES: usize = 512;

/// Records of one frame, as far as a block holds them: what a busy thread makes in a commit interval.
const FRAME_RECORDS_MAX: usize = 128;

/// Microseconds of CPU for each record.
pub struct Stages {
    /// HTTP/1 parsed and forwarded, without capture: a proxy pays that anyway.
    pub forward: f64,
    /// From the heads to the record, without redaction.
    pub capture: f64,
    pub redact: f64,
    /// Canonical body.
    pub encode: f64,
    /// The leaf.
    pub hash: f64,
    pub compress: f64,
    /// Encryption and checksums.
    pub encrypt: f64,
    /// LogRecord: when a record leaves, for each sink.
    pub leave: f64,
    /// Bytes of the canonical body.
    pub body_bytes: usize,
}

/// Measures all stages.
pub fn stages(size: Size) -> Stages {
    let forward = forward(size, ROUNDS, CALLS).least();
    let captured = capture(size, ROUNDS, CALLS).least() - forward;
    let redact = redaction(size, ROUNDS, CALLS);
    let sealed = seal(size, ROUNDS, CALLS).least();
    let Drain { bodies, payloads, .. } = Drain::of(size);
    let hash = measure(ROUNDS, CALLS, |number| {
        let body: &Vec<u8> = at(&bodies, number);
        black_box(leaf(body));
    });
    let (mut writer, mut batch) = (LogWriter::default(), Vec::new());
    let leave = measure(ROUNDS, CALLS, |number| {
        batch.clear();
        let payload: &Vec<u8> = at(&payloads, number);
        let kept = Kept::decode(payload).expect("a record");
        writer.append(&kept, &mut batch);
        black_box(&batch);
    });
    let (framed, encrypt) = (frame(size, ROUNDS, CALLS).least(), encryption(size));
    let body_bytes = bodies.iter().map(Vec::len).sum::<usize>() / bodies.len();
    Stages {
        forward,
        capture: captured - redact,
        redact,
        encode: sealed - hash.least(),
        hash: hash.least(),
        compress: framed - encrypt,
        encrypt,
        leave: leave.least(),
        body_bytes,
    }
}

/// HTTP/1 without capture.
pub fn forward(size: Size, rounds: usize, calls: u64) -> Rounds {
    let mut client = Client::new(size);
    measure(rounds, calls, |number| {
        if number.is_multiple_of(REQUESTS_PER_CONNECTION) {
            client = Client::new(size);
        }
        client.exchange(number, &mut Silent);
    })
}

/// HTTP/1 with capture and redaction; the records go nowhere.
pub fn capture(size: Size, rounds: usize, calls: u64) -> Rounds {
    let shell = Bare::default();
    let mut client = Client::new(size);
    let mut capture = HttpCapture::new(shell.clone(), connection());
    measure(rounds, calls, |number| {
        if number.is_multiple_of(REQUESTS_PER_CONNECTION) {
            client = Client::new(size);
            capture = HttpCapture::new(shell.clone(), connection());
        }
        client.exchange(number, &mut capture);
    })
}

/// Redaction of records that are redacted already: it looks at the same bytes.
fn redaction(size: Size, rounds: usize, calls: u64) -> f64 {
    let records = records(size);
    let policy = Compiled::new(document()).expect("valid");
    let copied = measure(rounds, calls, |number| {
        black_box(at(&records, number).get().clone());
    });
    let both = measure(rounds, calls, |number| {
        black_box(redact(at(&records, number).get().clone(), policy.redactor()));
    });
    both.least() - copied.least()
}

/// Body, hash, tree, and heads.
pub fn seal(size: Size, rounds: usize, calls: u64) -> Rounds {
    let records = records(size);
    let (mut stream, mut drain) = Drain::stream();
    drain.keeps = false;
    measure(rounds, calls, |number| drain.seal(&mut stream, at(&records, number), number))
}

/// Compression and encryption, frame by frame.
pub fn frame(size: Size, rounds: usize, calls: u64) -> Rounds {
    let (blocks, key) = (Blocks::of(size), DataKey::new(&[7; KEY_BYTES]).expect("a key"));
    let mut encoder = Encoder::new().expect("memory");
    let rounds = measure(rounds, calls / blocks.records as u64, |number| {
        let (entries, payload) = at(&blocks.all, number);
        black_box(encoder.encode(&key, Hash([0; 32]), number as u32, false, entries, payload).expect("a frame"));
    });
    rounds.scaled(1.0 / blocks.records as f64)
}

/// Encryption and checksums of frames as they are.
fn encryption(size: Size) -> f64 {
    let (blocks, key) = (Blocks::of(size), DataKey::new(&[7; KEY_BYTES]).expect("a key"));
    let mut encoder = Encoder::new().expect("memory");
    let frames = blocks.all.iter().map(|(entries, payload)| {
        encoder.encode(&key, Hash([0; 32]), 0, false, entries, payload).expect("a frame").to_vec()
    });
    let mut frames: Vec<Vec<u8>> = frames.collect();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; KEY_BYTES]).expect("a key"));
    let count = frames.len() as u64;
    let rounds = measure(ROUNDS, CALLS / blocks.records as u64, |number| {
        let Some(frame) = frames.get_mut((number % count) as usize) else { return };
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let _ = black_box(key.seal_in_place_separate_tag(nonce, Aad::empty(), frame).expect("a tag"));
        black_box(crc32c::crc32c(frame));
    });
    rounds.scaled(1.0 / blocks.records as f64).least()
}

fn at<T>(all: &[T], number: u64) -> &T {
    all.get(number as usize % all.len()).expect("in range")
}

/// Records of different exchanges, redacted.
fn records(size: Size) -> Vec<Redacted<Record>> {
    let shell = Bare { kept: Some(Arc::default()), ..Bare::default() };
    let mut client = Client::new(size);
    let mut capture = HttpCapture::new(shell.clone(), connection());
    for number in 0..SAMPLES as u64 {
        client.exchange(number, &mut capture);
    }
    std::mem::take(&mut shell.kept.expect("kept").lock().expect("no panic"))
}

/// A data thread without anything behind it.
#[derive(Clone)]
struct Bare {
    policy: Arc<ArcSwap<Compiled>>,
    in_flight: Arc<Mutex<InFlight>>,
    random: Arc<Mutex<Random>>,
    kept: Option<Arc<Mutex<Vec<Redacted<Record>>>>>,
}

impl Default for Bare {
    fn default() -> Self {
        let policy = Arc::new(ArcSwap::from_pointee(Compiled::new(document()).expect("valid")));
        Self { policy, in_flight: Arc::default(), random: Arc::default(), kept: None }
    }
}

impl Shell for Bare {
    fn now(&self) -> Stamp {
        data::now()
    }

    fn random(&mut self) -> u128 {
        self.random.lock().expect("no panic").next_u128()
    }

    fn policy(&self) -> Arc<Compiled> {
        self.policy.load_full()
    }

    fn in_flight<R>(&mut self, f: impl FnOnce(&mut InFlight) -> R) -> R {
        f(&mut self.in_flight.lock().expect("no panic"))
    }

    fn emit(&mut self, record: Redacted<Record>) -> Receipt {
        match &self.kept {
            Some(kept) => kept.lock().expect("no panic").push(record),
            None => drop(black_box(record)),
        }
        Receipt::Counted
    }

    fn emit_begin(&mut self, _: Redacted<Record>) -> Begun {
        Begun { number: None, receipt: Receipt::Counted }
    }

    fn emit_end(&mut self, record: Redacted<Record>, _: Begun) -> Receipt {
        self.emit(record)
    }

    fn can_record(&self) -> bool {
        true
    }

    fn begin(&mut self) {}
    fn count(&mut self, _: Direction, _: Outcome, _: Option<Unrecorded<'_>>) {}
    fn count_refused(&mut self, _: &'static str) {}
    fn count_undecided(&mut self, _: &'static str) {}
}

/// Takes what is sealed.
struct Drain {
    random: Random,
    keeps: bool,
    bodies: Vec<Vec<u8>>,
    payloads: Vec<Vec<u8>>,
}

impl Drain {
    fn stream() -> (Stream<EpochKey>, Self) {
        let mut drain = Self { random: Random::default(), keeps: false, bodies: Vec::new(), payloads: Vec::new() };
        let origin = super::origin(7);
        let key = EpochKey::generate().expect("a key");
        let stream = Stream::open(origin, key, "0011223344556677", data::now(), &mut drain).expect("a stream");
        drain.keeps = true;
        (stream, drain)
    }

    /// All samples, sealed.
    fn of(size: Size) -> Self {
        let (mut stream, mut drain) = Self::stream();
        for (number, record) in records(size).iter().enumerate() {
            drain.seal(&mut stream, record, number as u64);
        }
        drain
    }

    fn seal(&mut self, stream: &mut Stream<EpochKey>, record: &Redacted<Record>, number: u64) {
        let now = Stamp { wall_ns: 1_700_000_000_000_000_000 + number, mono_ns: number };
        assert_eq!(stream.seal(record, now, self), Fate::Sealed);
        if stream.awaits_durable() {
            stream.durable(stream.position(), now, self);
        }
    }
}

impl Host for Drain {
    type Key = EpochKey;

    fn random(&mut self) -> u128 {
        self.random.next_u128()
    }

    fn key(&mut self) -> Option<EpochKey> {
        EpochKey::generate()
    }

    fn reserve(&mut self, _: Wanted) -> Result<(), GapReason> {
        Ok(())
    }

    fn write(&mut self, sealed: Sealed<'_>) {
        if self.keeps {
            let mut payload = Vec::new();
            sealed.kept().encode(&mut payload);
            self.payloads.push(payload);
            self.bodies.push(sealed.body().to_vec());
        }
        black_box(sealed.body());
    }

    fn head(&mut self, head: Head<'_>) {
        black_box(head.body());
    }
}

/// Frames' entries with their payloads.
struct Blocks {
    all: Vec<(Vec<Entry<u16>>, Vec<u8>)>,
    /// In each of them.
    records: usize,
}

impl Blocks {
    fn of(size: Size) -> Self {
        let drain = Drain::of(size);
        let longest = drain.payloads.iter().map(Vec::len).max().unwrap_or(1);
        let records = FRAME_RECORDS_MAX.min(BLOCK_PAYLOAD_BYTES_MAX / longest);
        let blocks = drain.payloads.chunks_exact(records).zip(drain.bodies.chunks_exact(records));
        let blocks = blocks.map(|(payloads, bodies)| {
            let entry = |(seq, (payload, body)): (u64, (&Vec<u8>, &Vec<u8>))| Entry {
                stream: 0_u16,
                kind: Kind::Exchange,
                seq,
                leaf: leaf(body),
                exchanges: 1,
                payload_bytes: payload.len() as u32,
            };
            ((0..).zip(payloads.iter().zip(bodies)).map(entry).collect(), payloads.concat())
        });
        Self { all: blocks.collect(), records }
    }
}

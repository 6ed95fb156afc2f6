//! A host for streams in tests: keys from fixed seeds, counted randomness, everything kept in order.
#![allow(dead_code, reason = "not every test looks at everything")]

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use testimony_core::evidence::note::{PublicKey, SIGNATURE_BYTES};
use testimony_core::evidence::seal::{Head, Host, Origin, Sealed, Signer, Stream, Wanted};
use testimony_core::otlp::proto::content;
use testimony_core::record::{EventName, Field, Kept, LogWriter, Record, Stamp};

pub struct TestKey(Ed25519KeyPair);

impl TestKey {
    pub fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed"))
    }

    /// Where 256 are not enough.
    pub fn numbered(number: u64) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_le_bytes());
        Self(Ed25519KeyPair::from_seed_unchecked(&seed).expect("a seed"))
    }
}

impl Signer for TestKey {
    fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().try_into().expect("32 bytes"))
    }

    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(message).as_ref().try_into().expect("64 bytes")
    }
}

/// What left a stream: a record with its leaf, or a head without.
pub struct Line {
    pub body: String,
    pub leaf: Option<String>,
    pub log: Vec<u8>,
}

#[derive(Default)]
pub struct TestHost {
    pub random: u128,
    pub keys: u8,
    pub full: bool,
    pub lines: Vec<Line>,
    /// As a data thread batches them.
    pub batch: Vec<u8>,
}

impl Host for TestHost {
    type Key = TestKey;

    fn random(&mut self) -> u128 {
        self.random += 1;
        self.random
    }

    fn key(&mut self) -> Option<TestKey> {
        self.keys += 1;
        Some(TestKey::new(self.keys))
    }

    fn reserve(&mut self, _: Wanted) -> Result<(), testimony_core::record::GapReason> {
        if self.full { Err(testimony_core::record::GapReason::QueueFull) } else { Ok(()) }
    }

    fn write(&mut self, sealed: Sealed<'_>) {
        self.add(&sealed.kept(), Some(sealed.leaf().to_hex()));
    }

    fn head(&mut self, head: Head<'_>) {
        self.add(&head.kept(), None);
    }
}

impl TestHost {
    fn add(&mut self, kept: &Kept<'_>, leaf: Option<String>) {
        let mut field = Vec::new();
        LogWriter::default().append(kept, &mut field);
        self.batch.extend_from_slice(&field);
        self.lines.push(Line { body: text(kept.body()), leaf, log: content(&field).expect("a field").to_vec() });
    }
}

fn text(body: &[u8]) -> String {
    String::from_utf8(body.to_vec()).expect("ASCII")
}

/// 2023-11-14, and so many milliseconds.
pub fn at(millis: u64) -> Stamp {
    let passed = millis * 1_000_000;
    Stamp { wall_ns: 1_700_000_000_000_000_000 + passed, mono_ns: 1_000_000_000 + passed }
}

pub fn origin(boot: u128) -> Origin {
    Origin {
        cluster_uid: "2b1c6d1e-6a0f-4f6e-9b59-0d0a4f0a7a01".to_owned(),
        namespace: "shop".to_owned(),
        pod_uid: "7d6f2c1a-0001-4000-8000-00000000000a".to_owned(),
        boot,
        thread: 0,
        pod: "orders-5d9c7b-x2x4z".to_owned(),
        node: "node-1".to_owned(),
        image: "testimony/sidecar:0.1.0".to_owned(),
        service_account: "orders".to_owned(),
        found: Vec::new(),
        witness: false,
    }
}

pub fn open(origin: Origin, host: &mut TestHost, now: Stamp) -> Stream<TestKey> {
    let key = host.key().expect("a key");
    Stream::open(origin, key, "0011223344556677", now, host).expect("a stream's name")
}

/// As an exchange of a usual service leaves it, but for its times and headers: about 1 KiB of body.
pub fn usual_exchange() -> Record {
    let mut record = Record::new(EventName::HttpRequest);
    for (field, value) in [
        (Field::V, "1"),
        (Field::Typ, "exchange"),
        (Field::Id, "018bcfe5-6800-7def-8011-223344556677"),
        (Field::Dur, "3000000"),
        (Field::ConnId, "00112233445566aa"),
        (Field::ConnSeq, "17"),
        (Field::Xid, "00112233445566aa-17"),
        (Field::Dir, "inbound"),
        (Field::Peer, "10.244.1.17:43112"),
        (Field::Local, "10.244.2.9:8080"),
        (Field::UpstreamLocal, "10.244.2.9:51022"),
        (Field::Proto, "http/1.1"),
        (Field::Method, "POST"),
        (Field::Action, "POST"),
        (Field::Scheme, "http"),
        (Field::Authority, "orders.shop.svc.cluster.local:8080"),
        (Field::Target, "orders.shop.svc.cluster.local:8080"),
        (Field::Path, "/v1/customers/4711/orders"),
        (Field::Query, "page=*&limit=*"),
        (Field::Status, "201"),
        (Field::ReqBytes, "512"),
        (Field::ResBytes, "1024"),
        (Field::Outcome, "success"),
        (Field::Actor, "alice@example.org"),
        (Field::ActorType, "user"),
        (Field::ActorIssuer, "https://idp.example.org"),
        (Field::Assurance, "unverified"),
        (Field::AuthMethod, "jwt"),
        (Field::TraceId, "4bf92f3577b34da6a3ce929d0e0e4736"),
        (Field::SpanId, "00f067aa0ba902b7"),
        (Field::TraceTrust, "client"),
        (Field::Policy, "shop/all"),
        (Field::PolicyRevision, "0011223344556677"),
        (Field::Rule, "writes"),
        (Field::UserAgent, "python-requests/2.32.3"),
    ] {
        record.set(field, value.as_bytes());
    }
    record
}

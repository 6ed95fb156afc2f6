//! `core/tests/vectors/evidence/*.jsonl`: whole streams, byte for byte, for every implementation that reads them. One line
//! each: `body`, `leaf` (absent for heads) and `log`, the OTLP LogRecord in base64. `UPDATE_GOLDEN=1` rewrites them.

#[path = "../../e2e/tests/support/golden.rs"]
mod golden;

mod evidence_support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evidence_support::{TestHost, TestKey, at, open, origin};
use golden::{assert_golden, repository};
use testimony_core::canon::parse_body;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::{Range, leaf};
use testimony_core::evidence::seal::{Fate, HoleFacts, RecoveredFacts, Stream};
use testimony_core::record::{EventName, Field, Gap, GapReason, Record, Redacted, Side, Typ};
use testimony_core::redact::{Redactor, redact};

fn exchange(at_ms: u64, typ: &str, edit: impl FnOnce(&mut Record)) -> Redacted<Record> {
    let event = if typ == "stage" { EventName::StreamOpen } else { EventName::HttpRequest };
    let mut record = Record::new(event);
    for (field, value) in [
        (Field::V, "1"),
        (Field::Typ, typ),
        (Field::Dir, "inbound"),
        (Field::Peer, "10.0.0.9:4711"),
        (Field::Local, "[fd00::1]:8080"),
        (Field::Proto, "http/1.1"),
        (Field::Action, "GET"),
        (Field::Method, "GET"),
        (Field::Target, "orders.shop"),
        (Field::Path, "/caf\u{e9} 100%/\"x\""),
        (Field::Outcome, "success"),
        (Field::Actor, "alice"),
        (Field::ActorType, "user"),
        (Field::Assurance, "unverified"),
        (Field::Policy, "shop/all"),
        (Field::PolicyRevision, "0011223344556677"),
        (Field::Rule, "default"),
        (Field::TraceId, "4bf92f3577b34da6a3ce929d0e0e4736"),
        (Field::SpanId, "00f067aa0ba902b7"),
    ] {
        record.set(field, value.as_bytes());
    }
    record.set(Field::Id, format!("018bcfe5-6800-7def-8011-{at_ms:012x}").as_bytes());
    record.set(Field::Xid, format!("{:016x}-0", at_ms).as_bytes());
    record.set_int(Field::Status, 200);
    record.set_int(Field::T0, at(at_ms).wall_ns);
    record.set_int(Field::T1, at(at_ms + 3).wall_ns);
    record.push_header(Side::Request, "Accept", b"*/*");
    record.push_header(Side::Response, "Content-Type", b"text/plain; charset=utf-8");
    edit(&mut record);
    redact(record, &Redactor::default())
}

/// Seals exchanges, one each millisecond.
fn exchanges(stream: &mut Stream<TestKey>, host: &mut TestHost, from_ms: u64, count: u64) {
    for at_ms in from_ms..from_ms + count {
        stream.begin();
        assert_eq!(stream.seal(&exchange(at_ms, "exchange", |_| {}), at(at_ms + 3), host), Fate::Sealed);
    }
}

fn durable(stream: &mut Stream<TestKey>, host: &mut TestHost, at_ms: u64) {
    stream.durable(stream.position(), at(at_ms), host);
}

fn close(stream: &mut Stream<TestKey>, host: &mut TestHost, at_ms: u64) {
    assert!(stream.close(at(at_ms), host));
    durable(stream, host, at_ms);
}

/// Compares, and checks that leaves and canonical form hold.
fn golden(name: &str, host: &TestHost) {
    let mut page = String::new();
    for line in &host.lines {
        assert!(parse_body(line.body.as_bytes()).is_ok());
        assert!(line.leaf.as_ref().is_none_or(|hex| *hex == leaf(line.body.as_bytes()).to_hex()));
        let mut object = serde_json::Map::new();
        object.insert("body".to_owned(), line.body.clone().into());
        if let Some(leaf) = &line.leaf {
            object.insert("leaf".to_owned(), leaf.clone().into());
        }
        object.insert("log".to_owned(), STANDARD.encode(&line.log).into());
        page.push_str(&serde_json::Value::Object(object).to_string());
        page.push('\n');
    }
    assert_golden(&repository().join(format!("core/tests/vectors/evidence/{name}.jsonl")), &page);
}

#[test]
fn r5_one_stream_with_every_kind_of_record() {
    let mut host = TestHost::default();
    let mut stream = open(origin(2), &mut host, at(0));
    stream.begin();
    stream.seal(&exchange(1, "stage", |record| record.set(Field::Stage, b"opened")), at(2), &mut host);
    exchanges(&mut stream, &mut host, 3, 2);
    assert!(stream.certified("MIIBCertificateInDerAsBase64", at(10), &mut host));
    let earlier = "2b1c6d1e-6a0f-4f6e-9b59-0d0a4f0a7a01/shop/7d6f2c1a-0001-4000-8000-00000000000a/00000000000000000000000000000001-0-0"
        .parse()
        .expect("a stream");
    let recovered =
        RecoveredFacts { stream: &earlier, size: 9, root: Hash::of(&[b"root"]), head_size: 7, closed: false };
    assert!(stream.recovered(&recovered, at(11), &mut host));
    assert!(stream.policy("8899aabbccddeeff", at(12), &mut host));
    stream.none("8899aabbccddeeff", "probes");
    host.full = true;
    stream.begin();
    stream.seal(&exchange(13, "exchange", |_| {}), at(13), &mut host);
    host.full = false;
    for _ in 0..53 {
        stream.begin();
        let refused = exchange(14, "exchange", |record| {
            record.set(Field::Refusal, b"bare_lf");
            record.set_int(Field::Status, 400);
        });
        stream.seal(&refused, at(14), &mut host);
    }
    let mut missing = Range::empty(5);
    (5..8_u8).for_each(|seq| missing.push(leaf(&[seq])));
    let nodes: Vec<Hash> = missing.nodes().collect();
    let hole = HoleFacts { stream: &earlier, from: 5, to: 8, sink: Some("main"), reason: "rejected", nodes: &nodes };
    assert!(stream.hole(&hole, at(15), &mut host));
    let mut stepped = at(20);
    stepped.wall_ns -= 2_500_000_000;
    stream.tick(stepped, &mut host);
    let mut later = at(30_020);
    later.wall_ns -= 2_500_000_000;
    stream.tick(later, &mut host);
    durable(&mut stream, &mut host, 30_021);
    later.wall_ns += 1_000_000;
    later.mono_ns += 1_000_000;
    assert!(stream.close(later, &mut host));
    durable(&mut stream, &mut host, 30_022);
    for typ in Typ::ALL {
        let key = format!("\"typ\":\"{}\"", typ.as_str());
        assert!(host.lines.iter().any(|line| line.body.contains(&key)), "no {key}");
    }
    golden("every-typ", &host);
}

#[test]
fn k2_two_rollovers() {
    let mut host = TestHost::default();
    let mut stream = open(origin(3), &mut host, at(0));
    for epoch in 0..2_u64 {
        let start = epoch * 570_000;
        exchanges(&mut stream, &mut host, start + 1, 3);
        stream.tick(at(start + 30_000), &mut host);
        durable(&mut stream, &mut host, start + 30_001);
        exchanges(&mut stream, &mut host, start + 40_000, 2);
        stream.tick(at(start + 570_000), &mut host);
        durable(&mut stream, &mut host, start + 570_001);
    }
    exchanges(&mut stream, &mut host, 1_150_000, 1);
    close(&mut stream, &mut host, 1_151_000);
    assert_eq!(host.keys, 3);
    golden("rollover", &host);
}

#[test]
fn s4_a_rotation_with_an_exchange_that_stays_open() {
    let mut host = TestHost::default();
    let mut stream = open(origin(4), &mut host, at(0));
    stream.begin();
    exchanges(&mut stream, &mut host, 1, 3);
    stream.tick(at(86_400_000), &mut host);
    durable(&mut stream, &mut host, 86_400_001);
    exchanges(&mut stream, &mut host, 86_400_010, 2);
    stream.seal(&exchange(0, "exchange", |_| {}), at(86_400_020), &mut host);
    close(&mut stream, &mut host, 86_401_000);
    golden("rotation", &host);
}

#[test]
fn d3_a_crash_and_the_stream_after_it() {
    let mut host = TestHost::default();
    let mut lost = open(origin(5), &mut host, at(0));
    exchanges(&mut lost, &mut host, 1, 4);
    lost.tick(at(30_000), &mut host);
    durable(&mut lost, &mut host, 30_001);
    exchanges(&mut lost, &mut host, 30_010, 2);
    let mut leaves = Range::empty(0);
    host.lines.iter().filter_map(|line| line.leaf.as_ref()).for_each(|leaf| leaves.push(leaf.parse().expect("a hash")));
    let name = lost.id().clone();
    let size = lost.position().size;
    drop(lost);
    let mut origin = origin(6);
    origin.found = vec![(*name).clone()];
    let mut stream = open(origin, &mut host, at(31_000));
    let root = leaves.root().expect("a tree from 0");
    let recovered = RecoveredFacts { stream: &name, size, root, head_size: 6, closed: false };
    assert!(stream.recovered(&recovered, at(31_001), &mut host));
    let (from_ns, to_ns) = (at(30_012).wall_ns, at(30_500).wall_ns);
    stream.lose(Gap { count: 2, exact: true, from_ns, to_ns, reason: GapReason::WorkerDied }, Some((*name).clone()));
    exchanges(&mut stream, &mut host, 31_010, 2);
    close(&mut stream, &mut host, 32_000);
    golden("crash", &host);
}

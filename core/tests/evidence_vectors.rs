//! `core/tests/vectors/evidence/*.jsonl`: whole streams, byte for byte, for every implementation that reads them. One line
//! each: `body`, `leaf` (absent for heads) and `log`, the OTLP LogRecord in base64. `UPDATE_GOLDEN=1` rewrites them.

#[path = "../../e2e/tests/support/golden.rs"]
mod golden;

mod evidence_support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evidence_support::{TestHost, TestKey, at, open, origin};
use golden::{assert_golden, repository};
use std::collections::BTreeMap;
use testimony_core::canon::parse_body;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::ledger::export::head_body;
use testimony_core::evidence::ledger::{
    AbandonedRow, Book, Fact, HeadRow, Keys, PodRow, Pruned, STATE_EVERY_BLOCKS, UncoveredRow, ledger_id, witness_name,
};
use testimony_core::evidence::merkle::{Range, leaf};
use testimony_core::evidence::note::PublicKey;
use testimony_core::evidence::roots::{NamedKey, Roots};
use testimony_core::evidence::seal::{Fate, HoleFacts, RecoveredFacts, Signer as _, Stream};
use testimony_core::evidence::stream::StreamId;
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

fn rollover() -> TestHost {
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
    host
}

#[test]
fn k2_two_rollovers() {
    golden("rollover", &rollover());
}

fn rotation() -> TestHost {
    let mut host = TestHost::default();
    let mut stream = open(origin(4), &mut host, at(0));
    stream.begin();
    exchanges(&mut stream, &mut host, 1, 3);
    stream.tick(at(86_400_000), &mut host);
    durable(&mut stream, &mut host, 86_400_001);
    exchanges(&mut stream, &mut host, 86_400_010, 2);
    stream.seal(&exchange(0, "exchange", |_| {}), at(86_400_020), &mut host);
    close(&mut stream, &mut host, 86_401_000);
    host
}

#[test]
fn s4_a_rotation_with_an_exchange_that_stays_open() {
    golden("rotation", &rotation());
}

fn crash() -> TestHost {
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
    host
}

#[test]
fn d3_a_crash_and_the_stream_after_it() {
    golden("crash", &crash());
}

/// What the operator knows of a stream: its first key, the heads that end epochs, its last head, and whether that is its end.
struct Known {
    sid: StreamId,
    key: PublicKey,
    epochs: Vec<(u64, Hash, PublicKey)>,
    last: (u64, Hash),
    closed: bool,
}

/// The streams of a golden, by their bodies.
fn known(host: &TestHost) -> Vec<Known> {
    let mut bodies: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let field = |body: &str, key: &str| {
        let fields = parse_body(body.as_bytes()).expect("a body");
        fields.get(key).map(|value| String::from_utf8(value.clone()).expect("text"))
    };
    let sealed = host.lines.iter().filter(|line| line.leaf.is_some());
    sealed.for_each(|line| bodies.entry(field(&line.body, "sid").expect("sid")).or_default().push(line.body.clone()));
    let of = |(sid, bodies): (String, Vec<String>)| {
        let mut range = Range::empty(0);
        let (mut epochs, mut last, mut closed) = (Vec::new(), (0, Hash::of(&[])), false);
        for (seq, body) in (1..).zip(&bodies) {
            range.push(leaf(body.as_bytes()));
            let root = range.root().expect("from 0");
            let typ = field(body, "typ");
            match field(body, "next_key") {
                Some(next) => epochs.push((seq, root, next.parse().expect("a key"))),
                None => closed = typ.as_deref() == Some("close"),
            }
            if matches!(typ.as_deref(), Some("checkpoint" | "close")) {
                last = (seq, root);
            }
        }
        let key = bodies.first().and_then(|open| field(open, "key")).expect("open").parse().expect("a key");
        Known { sid: sid.parse().expect("a stream"), key, epochs, last, closed }
    };
    bodies.into_iter().map(of).collect()
}

/// The hashes of the records of one stream.
fn leaves_of(host: &TestHost) -> impl Iterator<Item = Hash> {
    host.lines.iter().filter_map(|line| line.leaf.as_ref()).map(|leaf| leaf.parse().expect("a hash"))
}

/// Commits a block; gives its entries and its head as golden lines.
fn commit(book: &mut Book, facts: &[Fact], heads: &[HeadRow], millis: u64) -> String {
    let sign = |text: &[u8]| TestKey::new(200).sign(text);
    let proposed = book.propose(facts, heads, at(millis).wall_ns, sign).expect("a block");
    let head = String::from_utf8(head_body(&proposed.block().note)).expect("ASCII");
    let entries = proposed.block().entries.lines();
    let entries = entries.map(|body| serde_json::json!({"body": body, "leaf": leaf(body.as_bytes()).to_hex()}));
    let page = entries.chain([serde_json::json!({"body": head})]).map(|line| format!("{line}\n")).collect();
    book.apply(proposed.committed()).expect("the next block");
    page
}

/// Goes on with a ledger until all is restated; gives the blocks from there on, which are those that the cluster may have alone.
fn last_blocks(book: &mut Book, fact: &Fact) -> String {
    let mut pages = vec![commit(book, std::slice::from_ref(fact), &[], 86_600_000)];
    let first = book.next_block() - 1;
    for n in 1..=STATE_EVERY_BLOCKS {
        pages.push(commit(book, &[Fact::Heads(Vec::new())], &[], 86_600_000 + n * 300_000));
    }
    let from = book.readable_from().checked_sub(first).expect("restated");
    pages.split_off(usize::try_from(from).expect("few")).concat()
}

/// The ledger over all golden streams but the first one, with an order to remove records, and records that were abandoned.
#[test]
fn w1_a_ledger_over_these_streams() {
    let streams: Vec<Known> = [rollover(), rotation(), crash()].iter().flat_map(known).collect();
    let place = origin(0);
    let sid = ledger_id(&place.cluster_uid, "testimony-system", 7).expect("a name");
    let keys = Keys { ledger: TestKey::new(200).public(), witness: TestKey::new(201).public() };
    let mut book = Book::new(sid.clone(), keys);
    let pod = PodRow {
        uid: place.pod_uid,
        namespace: place.namespace.clone(),
        name: place.pod,
        injection_id: "00112233445566778899aabbccddeeff".to_owned(),
        from_ns: at(0).wall_ns,
    };
    let bare = UncoveredRow {
        uid: "7d6f2c1a-0001-4000-8000-0000000000bb".to_owned(),
        namespace: place.namespace,
        name: "job-1".to_owned(),
        reason: "HostNetwork".to_owned(),
        from_ns: at(0).wall_ns,
    };
    let certified = |known: &Known| Fact::Certified(known.sid.clone(), known.key, 1_700_100_000, vec![0x30, 0]);
    let first =
        [Fact::Expected(pod), Fact::Uncovered(bare.clone(), None)].into_iter().chain(streams.iter().map(certified));
    let epoch = |known: &Known| {
        let facts = known.epochs.iter().map(|(size, root, next)| Fact::Epoch(known.sid.clone(), *size, *root, *next));
        facts.collect::<Vec<_>>()
    };
    let second = streams.iter().flat_map(epoch).chain([Fact::Uncovered(bare, Some(at(500).wall_ns))]);
    let end = |known: &Known| {
        let (size, root) = known.last;
        if known.closed {
            Fact::Closed(known.sid.clone(), size, root)
        } else {
            Fact::Lost(known.sid.clone(), size, root)
        }
    };
    let mut removed = Range::empty(1);
    let rolled = rollover();
    leaves_of(&rolled).skip(1).take(3).for_each(|leaf| removed.push(leaf));
    let (order, by) = ("erased at the user's wish".to_owned(), "alice".to_owned());
    let pruned = Pruned { sid: streams[0].sid.clone(), range: removed, reason: order, by };
    let rotated = &streams[2];
    let abandoned = Fact::Abandoned(AbandonedRow {
        sid: rotated.sid.clone(),
        from: rotated.last.0 - 2,
        to: rotated.last.0,
        reason: "sink down".to_owned(),
        sink: None,
    });
    let third = streams.iter().map(end).chain([Fact::Pruned(pruned), abandoned, Fact::Resumed(at(86_000_000).wall_ns)]);
    let heads = |book: &Book| {
        let row = |known: &Known| {
            let stream = book.tables().stream(&known.sid).expect("certified").number;
            HeadRow { stream, size: known.last.0, root: known.last.1 }
        };
        streams.iter().filter(|known| !known.closed).map(row).collect::<Vec<_>>()
    };
    let mut page = String::new();
    let blocks: [(u64, Vec<Fact>); 3] =
        [(10, first.collect()), (1_200_000, second.collect()), (86_500_000, third.collect())];
    for (number, (millis, facts)) in blocks.into_iter().enumerate() {
        let heads = if number == 1 { heads(&book) } else { Vec::new() };
        page += &commit(&mut book, &facts, &heads, millis);
    }
    assert_golden(&repository().join("core/tests/vectors/evidence/ledger.jsonl"), &page);
    let mut removed = Range::empty(4);
    leaves_of(&rolled).skip(4).take(2).for_each(|leaf| removed.push(leaf));
    let order =
        Pruned { sid: streams[0].sid.clone(), range: removed, reason: "ticket 4711".to_owned(), by: "bob".to_owned() };
    let path = repository().join("core/tests/vectors/evidence/ledger-last-blocks.jsonl");
    assert_golden(&path, &last_blocks(&mut book, &Fact::Erased(order)));
    let named = |name: String, key| NamedKey { name, key };
    let roots = Roots {
        ledgers: vec![named(sid.to_string(), keys.ledger)],
        witnesses: vec![named(witness_name(&place.cluster_uid, "testimony-system"), keys.witness)],
        authorities: String::new(),
    };
    assert_golden(&repository().join("core/tests/vectors/evidence/roots.txt"), &roots.encode());
}

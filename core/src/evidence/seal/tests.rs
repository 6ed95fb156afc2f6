//! Streams over any order of events, checked from what a reader sees: bodies, hashes, notes.

use super::*;
use crate::canon::parse_body;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{leaf, root_of};
use crate::evidence::note::{PublicKey, SIGNATURE_BYTES, SignedNote};
use crate::record::{EventName, Field, Side};
use crate::redact::{Redactor, redact};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use proptest::prelude::*;
use std::collections::BTreeMap;

pub(super) struct TestKey(Ed25519KeyPair);

impl TestKey {
    pub fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed"))
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

type Body = BTreeMap<String, Vec<u8>>;

/// What a host got, stream by stream.
#[derive(Default)]
struct TestHost {
    random: u128,
    keys: u8,
    full: bool,
    bodies: BTreeMap<u64, Vec<(Hash, Body)>>,
    heads: Vec<(Position, SignedNote, Body, HeadUse)>,
    reserved: usize,
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

    fn reserve(&mut self, wanted: Wanted) -> Result<(), GapReason> {
        self.reserved = if self.full { 0 } else { wanted.kept_bytes };
        if self.full { Err(GapReason::QueueFull) } else { Ok(()) }
    }

    fn write(&mut self, sealed: Sealed<'_>) {
        let body = parse_body(sealed.body()).expect("canonical");
        assert_eq!(sealed.leaf(), leaf(sealed.body()));
        assert!(sealed.seq() == 0 || self.reserved == sealed.kept().bytes_len(), "S3: sealed without a place");
        self.bodies.entry(sealed.position().rotation).or_default().push((sealed.leaf(), body));
    }

    fn head(&mut self, head: Head<'_>) {
        let body = parse_body(head.body()).expect("canonical");
        self.heads.push((head.position(), head.note().clone(), body, head.purpose()));
    }
}

fn origin() -> Origin {
    Origin {
        cluster_uid: "c".into(),
        namespace: "shop".into(),
        pod_uid: "u".into(),
        boot: 7,
        pod: "web-1".into(),
        witness: true,
        ..Origin::default()
    }
}

fn at(seconds: f64) -> Stamp {
    let passed = (seconds * 1e9) as u64;
    Stamp { wall_ns: 1_700_000_000_000_000_000 + passed, mono_ns: 5_000_000_000 + passed }
}

fn record(typ: &str, refusal: Option<&str>) -> Redacted<Record> {
    let mut record = Record::new(EventName::HttpRequest);
    record.set(Field::Typ, typ.as_bytes());
    record.set_int(Field::T0, 1_700_000_000_000_000_000);
    record.set(Field::Peer, b"10.0.0.9:1234");
    record.set(Field::Rule, b"default");
    record.set(Field::Dir, b"inbound");
    record.set(Field::Status, b"204");
    record.push_header(Side::Request, "accept", b"*/*");
    if let Some(refusal) = refusal {
        record.set(Field::Refusal, refusal.as_bytes());
    }
    redact(record, &Redactor::default())
}

fn stream(host: &mut TestHost) -> Stream<TestKey> {
    let key = host.key().expect("a key");
    Stream::open(origin(), key, "r0", at(0.0), host).expect("a name")
}

fn number(body: &Body, field: Field) -> u64 {
    body.get(field.key()).map_or(0, |digits| String::from_utf8_lossy(digits).parse().expect("a number"))
}

fn text(body: &Body, field: Field) -> String {
    String::from_utf8_lossy(body.get(field.key()).map_or(&[][..], |value| value)).into_owned()
}

fn typs(host: &TestHost, rotation: u64) -> Vec<String> {
    host.bodies[&rotation].iter().map(|(_, body)| text(body, Field::Typ)).collect()
}

/// Checks everything that a reader can check, and returns the exchanges that stand in the last totals of each stream.
fn check(host: &TestHost) {
    assert!(host.heads.windows(2).all(|pair| pair[0].0 < pair[1].0), "heads come in order, and none twice");
    for (rotation, bodies) in &host.bodies {
        let leaves: Vec<Hash> = bodies.iter().map(|(leaf, _)| *leaf).collect();
        let (mut exchanges, mut gaps, mut bursts) = (0, 0, 0);
        let mut key: PublicKey = text(&bodies[0].1, Field::Key).parse().expect("the first key");
        let mut keys = vec![(0_u64, key)];
        for (seq, (_, body)) in bodies.iter().enumerate() {
            // CH-1, L1.
            assert_eq!(number(body, Field::Seq), seq as u64);
            assert_eq!(text(body, Field::Sid), format!("c/shop/u/{:032x}-0-{rotation}", 7));
            assert_eq!(text(body, Field::Prev), seq.checked_sub(1).map_or_else(String::new, |at| leaves[at].to_hex()));
            match text(body, Field::Typ).as_str() {
                "exchange" => exchanges += 1,
                "gap" => gaps += number(body, Field::Count),
                "burst" => bursts += number(body, Field::Count),
                "checkpoint" | "close" => {
                    assert_eq!(number(body, Field::Size), seq as u64);
                    assert_eq!(number(body, Field::Exchanges), exchanges);
                    assert_eq!(number(body, Field::Gaps), gaps);
                    assert_eq!(number(body, Field::Bursts), bursts);
                    let parts =
                        [exchanges, gaps, bursts, number(body, Field::NoneCount), number(body, Field::OpenCount)];
                    assert_eq!(number(body, Field::Begun), parts.iter().sum::<u64>(), "G3");
                    let none_by = text(body, Field::NoneBy);
                    let by = none_by.split(',').filter_map(|by| by.rsplit_once('=')?.1.parse::<u64>().ok());
                    assert_eq!(by.sum::<u64>(), number(body, Field::NoneCount));
                    if body.contains_key(Field::NextKey.key()) {
                        key = text(body, Field::NextKey).parse().expect("a key");
                        keys.push((seq as u64 + 1, key));
                    }
                }
                _ => {}
            }
        }
        for (position, note, body, purpose) in host.heads.iter().filter(|(at, ..)| at.rotation == *rotation) {
            let size = position.size as usize;
            assert_eq!(note.checkpoint.root, root_of(&leaves[..size]), "H1");
            // K2: under the key of its epoch, and no other.
            let of_epoch = keys.iter().rev().find(|(after, _)| position.size > *after).expect("an epoch").1;
            for (_, key) in &keys {
                assert_eq!(note.is_signed_by(&note.checkpoint.origin, key), *key == of_epoch);
            }
            if *purpose == HeadUse::Export {
                let frontier = text(body, Field::Frontier);
                let hashes: Vec<Hash> = frontier.split(',').filter_map(|hash| hash.parse().ok()).collect();
                let mut range = Range::from_nodes(0, position.size - 1, &hashes).expect("H4");
                range.push(leaves[size - 1]);
                assert_eq!(range.root(), Some(note.checkpoint.root), "H4");
            }
        }
    }
}

#[test]
fn s2_s4_a_stream_opens_rotates_and_closes() {
    let mut host = TestHost::default();
    let mut stream = stream(&mut host);
    stream.begin();
    stream.begin();
    assert_eq!(stream.seal(&record("stage", None), at(0.5), &mut host), Fate::Sealed);
    assert_eq!(stream.seal(&record("exchange", None), at(0.5), &mut host), Fate::Sealed);
    stream.tick(at(86_400.0), &mut host);
    stream.none("r0", "probes");
    assert!(stream.policy("r1", at(86_401.0), &mut host) && stream.policy("r1", at(86_401.0), &mut host));
    assert!(stream.close(at(86_402.0), &mut host));
    assert!(!stream.renew(at(86_402.0), &mut host), "it has ended for good");
    assert_eq!(stream.seal(&record("exchange", None), at(86_403.0), &mut host), Fate::Lost(GapReason::Closed));
    assert_eq!(typs(&host, 0), ["open", "stage", "exchange", "close"]);
    assert_eq!(typs(&host, 1), ["open", "policy", "close"]);
    let open = &host.bodies[&1][0].1;
    assert_eq!(text(open, Field::After), format!("c/shop/u/{:032x}-0-0", 7));
    let close = &host.bodies[&1][2].1;
    assert_eq!((number(close, Field::Begun), text(close, Field::NoneBy)), (1, "r0/probes=1".to_owned()));
    assert!(host.heads.is_empty(), "H1: nothing is signed before it is durable");
    stream.durable(Position { rotation: 0, size: 4 }, at(86_402.0), &mut host);
    assert_eq!(host.heads.len(), 1);
    stream.durable(stream.position(), at(86_402.0), &mut host);
    assert!(host.heads.len() == 2 && !stream.awaits_durable());
    check(&host);
}

#[test]
fn s4_a_stream_may_end_before_its_day_is_over_if_there_is_a_place_for_its_end() {
    let mut host = TestHost::default();
    let mut stream = stream(&mut host);
    host.full = true;
    assert!(!stream.renew(at(1.0), &mut host));
    host.full = false;
    assert!(stream.renew(at(2.0), &mut host));
    assert_eq!(
        (typs(&host, 0), typs(&host, 1)),
        (vec!["open".to_owned(), "close".to_owned()], vec!["open".to_owned()])
    );
    stream.durable(stream.position(), at(2.0), &mut host);
    check(&host);
}

#[test]
fn k2_a_rollover_ends_an_epoch_even_when_its_head_waits() {
    let mut host = TestHost::default();
    let mut stream = stream(&mut host);
    for step in 0..40 {
        stream.tick(at(f64::from(step) * 60.0), &mut host);
    }
    let keys = host.keys;
    assert!((4..=5).contains(&keys), "{keys} keys in 40 minutes");
    stream.durable(stream.position(), at(2400.0), &mut host);
    assert!(host.heads.len() > 5, "{}", host.heads.len());
    check(&host);
}

#[test]
fn g1_what_finds_no_place_is_declared_with_rule_and_peer() {
    let mut host = TestHost::default();
    let mut stream = stream(&mut host);
    host.full = true;
    for _ in 0..3 {
        stream.begin();
        assert_eq!(stream.seal(&record("exchange", None), at(1.0), &mut host), Fate::Lost(GapReason::QueueFull));
    }
    assert_eq!(stream.seal(&record("stage", None), at(1.0), &mut host), Fate::Lost(GapReason::QueueFull));
    assert_eq!(stream.tally().open(), 3, "not declared yet");
    stream.tick(at(30.0), &mut host);
    host.full = false;
    assert!(stream.due_ns() <= at(31.0).mono_ns);
    stream.tick(at(31.0), &mut host);
    assert_eq!(typs(&host, 0), ["open", "gap", "checkpoint"]);
    let gap = &host.bodies[&0][1].1;
    assert_eq!((number(gap, Field::Count), text(gap, Field::By)), (3, "default/inbound/2xx=3".to_owned()));
    assert_eq!((text(gap, Field::Peers), text(gap, Field::Exact)), ("10.0.0.9=3".to_owned(), "1".to_owned()));
    stream.durable(stream.position(), at(31.0), &mut host);
    check(&host);
}

#[test]
fn g1_what_nothing_is_known_of_but_that_it_was_is_declared_beside_what_is() {
    let mut host = TestHost::default();
    let mut stream = stream(&mut host);
    (0..3).for_each(|_| stream.begin());
    host.full = true;
    assert_eq!(stream.seal(&record("exchange", None), at(1.0), &mut host), Fate::Lost(GapReason::QueueFull));
    host.full = false;
    for reason in [GapReason::QueueFull, GapReason::Defect] {
        stream.lose_own(Gap { count: 1, exact: true, from_ns: 5, to_ns: at(1.0).wall_ns, reason });
    }
    assert!(stream.declare(at(2.0), &mut host));
    assert_eq!(typs(&host, 0), ["open", "gap", "gap"]);
    let told = |at: usize| {
        let gap = &host.bodies[&0][at].1;
        (number(gap, Field::Count), text(gap, Field::GapReason), text(gap, Field::By))
    };
    assert_eq!(told(1), (2, "queue_full".to_owned(), "default/inbound/2xx=1,other=1".to_owned()));
    assert_eq!(told(2), (1, "defect".to_owned(), String::new()));
    stream.close(at(3.0), &mut host);
    assert!(stream.tally().adds_up() && stream.tally().open() == 0);
    check(&host);
}

#[test]
fn g3_a_flood_of_refused_exchanges_is_folded_and_counted() {
    let mut host = TestHost::default();
    let mut stream = stream(&mut host);
    for at_ms in 0..200_u32 {
        stream.begin();
        let fate = stream.seal(&record("exchange", Some("bare_lf")), at(f64::from(at_ms) / 1000.0), &mut host);
        assert_eq!(fate == Fate::Folded, u64::from(at_ms) >= REFUSED_PER_SECOND_MAX);
        stream.begin();
        assert_eq!(stream.seal(&record("exchange", None), at(f64::from(at_ms) / 1000.0), &mut host), Fate::Sealed);
    }
    assert_eq!(stream.due_ns(), at(1.0).mono_ns);
    stream.tick(at(1.0), &mut host);
    let (_, burst) = host.bodies[&0].iter().find(|(_, body)| text(body, Field::Typ) == "burst").expect("a burst");
    assert_eq!((number(burst, Field::Count), text(burst, Field::Peer)), (150, "10.0.0.9:0".to_owned()));
    stream.close(at(2.0), &mut host);
    assert!(stream.tally().adds_up() && stream.tally().open() == 0);
    check(&host);
}

#[test]
fn r5_a_step_of_the_wall_clock_is_told_and_a_drift_is_not() {
    let mut host = TestHost::default();
    let mut stream = stream(&mut host);
    let stepped = |seconds: f64, by: i64| {
        let stamp = at(seconds);
        Stamp { wall_ns: stamp.wall_ns.saturating_add_signed(by), ..stamp }
    };
    stream.tick(stepped(0.1, 900_000_000), &mut host);
    stream.tick(stepped(0.2, 1_700_000_000), &mut host);
    assert_eq!(typs(&host, 0), ["open"], "less than a second at a time");
    stream.tick(stepped(0.3, -3_000_000_000), &mut host);
    stream.seal(&record("exchange", None), stepped(0.4, -3_000_000_000), &mut host);
    assert_eq!(typs(&host, 0), ["open", "clock", "exchange"]);
    let clock = &host.bodies[&0][1].1;
    assert_eq!((number(clock, Field::StepNs), text(clock, Field::StepDir)), (4_700_000_000, "back".to_owned()));
}

#[test]
fn what_others_tell_is_sealed() {
    let mut host = TestHost::default();
    let mut stream = stream(&mut host);
    let lost: StreamId = format!("c/shop/u/{:032x}-0-0", 6).parse().expect("a name");
    let nodes = [leaf(b"x")];
    let facts = HoleFacts { stream: &lost, from: 4, to: 5, sink: Some("main"), reason: "rejected", nodes: &nodes };
    assert!(stream.hole(&facts, at(0.0), &mut host));
    let facts = RecoveredFacts { stream: &lost, size: 9, root: leaf(b"y"), head_size: 8, closed: false };
    assert!(stream.recovered(&facts, at(0.0), &mut host));
    assert!(stream.certified("AAAA", at(0.0), &mut host));
    let gap = Gap { count: 5, exact: false, from_ns: 1, to_ns: 2, reason: GapReason::WorkerDied };
    stream.lose(gap, Some(lost));
    stream.close(at(1.0), &mut host);
    assert_eq!(typs(&host, 0), ["open", "hole", "recovered", "certified", "gap", "close"]);
    assert_eq!(text(&host.bodies[&0][1].1, Field::Scope), "sink=main");
    assert_eq!(text(&host.bodies[&0][2].1, Field::State), "lost");
    assert_eq!(number(&host.bodies[&0][5].1, Field::Begun), 5);
    check(&host);
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Begin,
    End,
    Refused,
    Stage,
    None(u8),
    Full(bool),
    Policy(u8),
    Wait(u32),
    Durable,
    Step,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => Just(Event::Begin),
        6 => Just(Event::End),
        3 => Just(Event::Refused),
        1 => Just(Event::Stage),
        2 => (0..3_u8).prop_map(Event::None),
        1 => any::<bool>().prop_map(Event::Full),
        1 => (0..3_u8).prop_map(Event::Policy),
        2 => (0..60_000_u32).prop_map(Event::Wait),
        1 => Just(Event::Wait(43_200_000)),
        1 => Just(Event::Durable),
        1 => Just(Event::Step),
    ];
    proptest::collection::vec((event, 1..70_usize), 0..60).prop_map(|runs| {
        runs.into_iter()
            .flat_map(|(event, times)| {
                let times = if matches!(event, Event::Begin | Event::End | Event::Refused) { times } else { 1 };
                std::iter::repeat_n(event, times)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ch_1_l1_g3_h1_k2_any_order_of_events_makes_a_stream_that_adds_up(events in events()) {
        let mut host = TestHost::default();
        let mut stream = stream(&mut host);
        let (mut millis, mut step) = (0_u64, 0_u64);
        for event in events {
            let mut now = at(millis as f64 / 1000.0);
            now.wall_ns += step;
            match event {
                Event::Begin => stream.begin(),
                Event::End => { stream.seal(&record("exchange", None), now, &mut host); }
                Event::Refused => { stream.begin(); stream.seal(&record("exchange", Some("loop")), now, &mut host); }
                Event::Stage => { stream.seal(&record("stage", None), now, &mut host); }
                Event::None(rule) => stream.none("r0", &format!("rule-{rule}")),
                Event::Full(full) => host.full = full,
                Event::Policy(revision) => { stream.policy(&format!("r{revision}"), now, &mut host); }
                Event::Wait(wait) => millis += u64::from(wait),
                Event::Durable => stream.durable(stream.position(), now, &mut host),
                Event::Step => step += 5_000_000_000,
            }
            if now.mono_ns >= stream.due_ns() {
                stream.tick(now, &mut host);
            }
            prop_assert!(stream.tally().adds_up());
        }
        host.full = false;
        let now = Stamp { wall_ns: at(millis as f64 / 1000.0).wall_ns + step, ..at(millis as f64 / 1000.0) };
        prop_assert!(stream.close(now, &mut host));
        stream.durable(stream.position(), now, &mut host);
        prop_assert!(!stream.awaits_durable());
        check(&host);
    }
}

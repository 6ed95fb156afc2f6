use super::block::Block;
use super::entry::Entry;
use super::fact::StateFact;
use super::read::Reader;
use super::*;
use crate::evidence::hash::Hash;
use crate::evidence::note::{PublicKey, SIGNATURE_BYTES, SignedNote};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message as _;

pub(super) const START_NS: u64 = 1_700_000_000_000_000_000;

pub(super) fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed")
}

pub(super) fn public(seed: u8) -> PublicKey {
    PublicKey(pair(seed).public_key().as_ref().try_into().expect("32 bytes"))
}

fn sign(message: &[u8]) -> [u8; SIGNATURE_BYTES] {
    pair(8).sign(message).as_ref().try_into().expect("64 bytes")
}

pub(super) fn keys() -> Keys {
    Keys { ledger: public(8), witness: public(9) }
}

pub(super) fn ledger() -> StreamId {
    ledger_id("c-1", "testimony-system", 7).expect("a name")
}

pub(super) fn sid(n: u64) -> StreamId {
    format!("c-1/shop/pod-{n}/{n:032x}-0-0").parse().expect("a name")
}

pub(super) fn pod(n: u64) -> PodRow {
    let (uid, name) = (format!("pod-{n}"), format!("web-{n}"));
    PodRow { uid, namespace: "shop".to_owned(), name, injection_id: format!("i{n}"), from_ns: START_NS }
}

pub(super) fn abandoned(sid: StreamId, from: u64, to: u64, reason: &str) -> Fact {
    Fact::Abandoned(abandoned_row(sid, from, to, reason))
}

fn abandoned_row(sid: StreamId, from: u64, to: u64, reason: &str) -> AbandonedRow {
    AbandonedRow { sid, from, to, reason: reason.to_owned(), sink: None }
}

fn uncovered(n: u64) -> UncoveredRow {
    let (uid, name) = (format!("bare-{n}"), format!("bare-{n}"));
    UncoveredRow { uid, namespace: "shop".to_owned(), name, reason: "HostNetwork".to_owned(), from_ns: START_NS }
}

pub(super) fn root(n: u64) -> Hash {
    Hash::of(&[&n.to_be_bytes()])
}

pub(super) fn certified(n: u64) -> Fact {
    Fact::Certified(sid(n), public(1), START_NS / 1_000_000_000 + 93_600, vec![0x30; 400])
}

/// What is done to blocks, and what reading them says.
type Damage<'a> = (&'a dyn Fn(&mut Vec<Block>), Result<(), &'a str>);

/// A keeper whose objects are a list.
pub(super) struct Keeper {
    pub(super) book: Book,
    pub(super) blocks: Vec<Block>,
    pub(super) now_ns: u64,
}

impl Keeper {
    pub(super) fn new() -> Self {
        Self { book: Book::new(ledger(), keys()), blocks: Vec::new(), now_ns: START_NS }
    }

    pub(super) fn later(&mut self, seconds: u64) {
        self.now_ns += seconds * 1_000_000_000;
    }

    pub(super) fn propose(&self, facts: &[Fact], heads: &[HeadRow]) -> Option<Proposed> {
        self.book.propose(facts, heads, self.now_ns, sign)
    }

    pub(super) fn read(&self) -> Book {
        Book::load(&self.blocks, keys()).expect("whole").expect("some")
    }

    pub(super) fn commit(&mut self, facts: &[Fact], heads: &[HeadRow]) -> (usize, usize, Vec<Cosignable>) {
        self.now_ns += 1_000_000_000;
        let Some(proposed) = self.propose(facts, heads) else { return (0, 0, Vec::new()) };
        let (facts, heads) = (proposed.facts_taken, proposed.heads_taken);
        self.blocks.push(proposed.block().clone());
        let cosignable = self.book.apply(proposed.committed()).expect("the next block");
        (facts, heads, cosignable)
    }

    pub(super) fn head(&self, n: u64, size: u64) -> HeadRow {
        let stream = self.book.tables().stream(&sid(n)).expect("certified").number;
        HeadRow { stream, size, root: root(size) }
    }

    pub(super) fn check(&self) {
        let read = self.read();
        assert_eq!(read.tables(), self.book.tables());
        assert_eq!((read.size(), read.next_block()), (self.book.size(), self.book.next_block()));
        assert_eq!(read.readable_from(), self.book.readable_from());
    }
}

/// Records `[from, to)` of this stream were removed.
pub(super) fn order(n: u64, from: u64, to: u64) -> Pruned {
    let mut range = crate::evidence::merkle::Range::empty(from);
    (from..to).for_each(|seq| range.push(root(seq)));
    Pruned { sid: sid(n), range, reason: "retention: 30 days".to_owned(), by: "alice, for bob".to_owned() }
}

fn facts() -> Vec<Fact> {
    let row = StreamRow {
        number: 3,
        sid: sid(1),
        state: crate::evidence::witness::StreamState::certified(public(1), 5),
        life: Life::Open,
        at_ns: START_NS,
        certificate: Some(vec![1, 2]),
    };
    let state = StateFact {
        first: Some((public(8), public(9), vec![root(1), root(2)])),
        last: true,
        streams: vec![row],
        pods: vec![pod(1)],
        uncovered: vec![uncovered(1)],
        abandoned: vec![
            abandoned_row(sid(1), 3, 9, "sink, down: no room").plain(),
            AbandonedRow { sink: Some("archive".to_owned()), ..abandoned_row(sid(1), 3, 4, "") },
        ],
        pruned: vec![order(1, 2, 5).plain()],
        erased: vec![order(1, 3, 4).plain()],
    };
    let first = Some((public(8), public(9), Vec::new()));
    vec![
        Fact::Open(public(8), public(9)),
        Fact::Resumed(START_NS),
        Fact::Expected(pod(1)),
        Fact::Gone("pod-1".to_owned()),
        Fact::Uncovered(uncovered(1), None),
        Fact::Uncovered(uncovered(1), Some(START_NS + 5)),
        certified(1),
        Fact::Heads(vec![HeadRow { stream: 3, size: 9, root: root(9) }, HeadRow { stream: 4, size: 1, root: root(1) }]),
        Fact::Epoch(sid(1), 10, root(10), public(2)),
        Fact::Closed(sid(1), 12, root(12)),
        Fact::Lost(sid(1), 12, root(12)),
        Fact::Rebased(sid(1), (3, root(3)), (12, root(12)), public(2)),
        Fact::Fork(sid(1), "note\n".to_owned()),
        abandoned(sid(1), 5, 9, "pod gone"),
        Fact::Abandoned(AbandonedRow { sink: Some("archive".to_owned()), ..abandoned_row(sid(1), 5, 7, "pod gone") }),
        Fact::Unwrapped(sid(1), "pod-2".to_owned()),
        Fact::Witnessed("note\n".to_owned()),
        Fact::Pruned(order(1, 0, 5)),
        Fact::Erased(order(1, 2, 3)),
        Fact::State(state),
        Fact::State(StateFact { first, ..StateFact::default() }),
        Fact::State(StateFact { last: true, ..StateFact::default() }),
    ]
}

#[test]
fn r3_every_entry_has_one_form() {
    for (seq, fact) in facts().into_iter().enumerate() {
        let seq = seq as u64;
        let prev = seq.checked_sub(1).map(root);
        let entry = Entry { sid: ledger(), seq, prev, at_ns: START_NS, fact };
        let body = entry.body();
        let text = String::from_utf8(body.clone()).expect("ASCII");
        assert_eq!(Entry::parse(&body).as_ref(), Ok(&entry), "{text}");
        for end in 0..body.len() {
            assert!(Entry::parse(&body[..end]).is_err(), "{text} up to {end}");
        }
        let spaced = text.replacen("\"v\":\"1\"", "\"v\":\"2\"", 1);
        assert!(Entry::parse(spaced.as_bytes()).is_err(), "another version");
        assert!(Entry::parse(text.replacen("\"v\":", "\"unknown\":\"1\",\"v\":", 1).as_bytes()).is_err());
    }
}

#[test]
fn the_first_block() {
    let mut keeper = Keeper::new();
    assert!(keeper.book.known(&checkpoint(1, 1)).is_none());
    keeper.commit(&[Fact::Expected(pod(1)), certified(1)], &[]);
    let text = keeper.blocks[0].entries.replace(&"MDAw".repeat(133), "...");
    expect_test::expect![[r#"
        {"key":"1398f62c6d1a457c51ba6a4b5f3dbd2f69fca93216218dc8997e416bd17d93ca","seq":"0","sid":"c-1/testimony-system/ledger/00000000000000000000000000000007-0-0","t0":"1700000001000000000","typ":"ledger-open","v":"1","witness":"fd1724385aa0c75b64fb78cd602fa1d991fdebf76b13c58ed702eac835e9f618"}
        {"from":"1700000000000000000","injection":"i1","name":"web-1","ns":"shop","pod":"pod-1","prev":"61f034a249022fb335e103b7da49e7079f9fb342b2e926cf6e3ecda780db7e3e","seq":"1","sid":"c-1/testimony-system/ledger/00000000000000000000000000000007-0-0","t0":"1700000001000000000","typ":"ledger-expected","v":"1"}
        {"cert":"...MA==","key":"8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c","prev":"e11ff3c383dbcfbf531cf23eeabdf2ee0b9317f78de7dc5630128f0760dbc0df","seq":"2","sid":"c-1/testimony-system/ledger/00000000000000000000000000000007-0-0","stream":"c-1/shop/pod-1/00000000000000000000000000000001-0-0","t0":"1700000001000000000","typ":"ledger-certified","until":"1700093600","v":"1"}
    "#]].assert_eq(&text);
    expect_test::expect![[r#"
        c-1/testimony-system/ledger/00000000000000000000000000000007-0-0
        3
        ZI3VsQeds8a4qGVjsoKK7c2H0oaVkgrzDmnQPGjxSzw=

        — c-1/testimony-system/ledger/00000000000000000000000000000007-0-0 gPgwBvqVVrvI8BjJu1LPJmoW4Da7VzYZIETFPY/FErAu5/s0FXhBlNd6+w0xANbIwugDh7XVOiWqOMwOMneqfFmmYg0=
    "#]].assert_eq(&keeper.blocks[0].note);
}

fn checkpoint(n: u64, size: u64) -> crate::evidence::note::Checkpoint {
    crate::evidence::note::Checkpoint { origin: sid(n).to_string(), size, root: root(size) }
}

#[test]
fn w1_what_is_committed_can_be_cosigned_and_nothing_else() {
    let mut keeper = Keeper::new();
    keeper.commit(&[certified(1), certified(2)], &[]);
    let heads = [keeper.head(1, 4), keeper.head(2, 6)];
    let proposed = keeper.book.propose(&[], &heads, START_NS, sign).expect("heads");
    // Somebody else's object has this number: the proposal is dropped, and nothing of it is known.
    drop(proposed);
    assert!(keeper.book.known(&checkpoint(1, 4)).is_none());
    let (_, taken, cosignable) = keeper.commit(&[Fact::Epoch(sid(1), 7, root(7), public(2))], &heads[1..]);
    assert_eq!(taken, 1);
    let heads: Vec<_> = cosignable.iter().map(|head| head.checkpoint().clone()).collect();
    assert_eq!(heads, [checkpoint(1, 7), checkpoint(2, 6)]);
    let signed =
        cosignable[0].cosign("w", &public(9), 5, |message| pair(9).sign(message).as_ref().try_into().expect("64"));
    let note = SignedNote { checkpoint: checkpoint(1, 7), signatures: vec![signed] };
    assert_eq!(note.cosigned_at("w", &public(9)), Some(5));
    assert!(keeper.book.known(&checkpoint(1, 7)).is_some());
    assert!(keeper.book.known(&checkpoint(1, 4)).is_none(), "an older head");
    assert_eq!(keeper.book.propose(&[], &[], START_NS, sign).map(|_| ()), None, "nothing to say");
    keeper.check();
}

#[test]
fn w1_a_block_of_another_keeper_does_not_count() {
    let mut keeper = Keeper::new();
    let stale = keeper.book.propose(&[certified(1)], &[], START_NS, sign).expect("a block");
    keeper.commit(&[certified(2)], &[]);
    let error = keeper.book.apply(stale.committed()).expect_err("its number is taken");
    assert_eq!(error.to_string(), "block 0, entry 0: block 1 was due");
    assert!(keeper.book.tables().stream(&sid(1)).is_none());
}

#[test]
fn blocks_have_limits_and_the_rest_waits() {
    let mut keeper = Keeper::new();
    let facts: Vec<Fact> = (0..3_000).map(certified).collect();
    let mut at = 0;
    while at < facts.len() {
        let (taken, _, _) = keeper.commit(&facts[at..], &[]);
        assert!(taken > 0);
        at += taken;
    }
    let heads: Vec<HeadRow> = (0..3_000).map(|n| keeper.head(n, n + 1)).collect();
    let (_, taken, cosignable) = keeper.commit(&[], &heads);
    assert_eq!((taken, cosignable.len()), (3_000, 3_000));
    for block in &keeper.blocks {
        assert!(block.entries.len() <= BLOCK_BYTES_MAX && block.entries.lines().count() <= ENTRIES_PER_BLOCK_MAX);
    }
    assert_eq!(keeper.book.tables().live(), 3_000);
    keeper.check();
}

#[test]
fn what_is_known_is_restated_and_older_blocks_may_go() {
    let mut keeper = Keeper::new();
    let facts: Vec<Fact> =
        (0..700).flat_map(|n| [Fact::Expected(pod(n)), certified(n), Fact::Uncovered(uncovered(n), None)]).collect();
    let mut at = 0;
    while at < facts.len() {
        at += keeper.commit(&facts[at..], &[]).0;
    }
    let mut restating = 0;
    for n in 0..STATE_EVERY_BLOCKS + 20 {
        // What changes while it is restated must be right in the end, before and behind the place that was reached.
        let some = [Fact::Uncovered(uncovered(n), Some(START_NS)), Fact::Lost(sid(699 - n), 0, root(0))];
        let heads = [keeper.head(n, 3), keeper.head(650, n + 1)];
        keeper.commit(&some, &heads);
        restating += usize::from(keeper.book.is_restating());
    }
    assert!(restating > 0, "it takes more than a block");
    let from = keeper.book.readable_from();
    assert!(from >= STATE_EVERY_BLOCKS, "{from}");
    keeper.check();
    let mut reader = Reader::new(public(8));
    for block in keeper.blocks.iter().filter(|block| block.number < 3 || block.number >= from) {
        block.entries.lines().for_each(|line| reader.entry(line.as_bytes()).expect("it follows, or restates"));
        reader.head(&block.note).expect("its head");
    }
    let summary = reader.finish();
    assert_eq!((summary.streams.len(), summary.pods.len(), summary.missing.len()), (700, 700, 1));
    assert_eq!((summary.unproved, summary.streams[&sid(650)].size), (0, STATE_EVERY_BLOCKS + 20));
    // An export whose oldest blocks are gone is read from the first restatement on; none of what comes before may be changed.
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    for block in keeper.blocks.iter().skip(3) {
        bodies.extend(block.entries.lines().map(|line| line.as_bytes().to_vec()));
        bodies.push(export::head_body(&block.note));
    }
    let read = |bodies: &[Vec<u8>]| export::read_bodies(&ledger(), public(8), bodies.iter().map(Vec::as_slice));
    let summary = read(&bodies).expect("whole");
    assert_eq!((summary.streams.len(), summary.pods.len(), summary.unproved), (700, 700, 0));
    let text = String::from_utf8(bodies[0].clone()).expect("ASCII");
    bodies[0] = text.replacen("\"t0\":\"1", "\"t0\":\"2", 1).into_bytes();
    let refused = |bodies: &[Vec<u8>]| {
        let summary = read(bodies).expect("what comes behind is whole");
        assert_eq!(summary.unproved, 1);
        (summary.refused.altered.is_some(), summary.refused.foreign.is_some())
    };
    assert_eq!(refused(&bodies), (true, false));
    bodies.remove(1);
    assert_eq!(refused(&bodies), (false, true), "what came behind it is not there to tell");
    for cut in [1, from as usize] {
        keeper.blocks.drain(..cut - usize::from(cut > 1));
        keeper.check();
    }
    assert_eq!(keeper.blocks[0].number, from);
    keeper.blocks.remove(0);
    let error = Book::load(&keeper.blocks, keys()).expect_err("nothing to begin with");
    assert!(error.to_string().ends_with("no block begins the ledger, and none restates it whole"), "{error}");
}

#[test]
fn a_ledger_that_is_not_whole_is_not_read() {
    let mut keeper = Keeper::new();
    keeper.commit(&[Fact::Expected(pod(1)), certified(1), certified(2)], &[]);
    keeper.commit(&[], &[keeper.head(1, 3)]);
    keeper.commit(&[Fact::Closed(sid(1), 5, root(5))], &[]);
    let good = keeper.blocks.clone();
    let with = |change: &dyn Fn(&mut Vec<Block>)| {
        let mut blocks = good.clone();
        change(&mut blocks);
        Book::load(&blocks, keys()).map(|_| ()).map_err(|error| error.to_string())
    };
    let note = "block 0, entry 0: its note is that of other entries";
    let table: [Damage<'_>; 8] = [
        (&|_| {}, Ok(())),
        (
            &|b| b[0].entries = b[0].entries.replace("web-1", "web-2"),
            Err("block 0, entry 3: it does not follow the entry before it: prev is another hash"),
        ),
        (&|b| b[0].entries = b[0].entries.lines().take(3).map(|l| format!("{l}\n")).collect(), Err(note)),
        (&|b| b[0].note = b[1].note.clone(), Err(note)),
        (&|b| drop(b.remove(1)), Err("block 2, entry 0: block 1 was due")),
        (&|b| b.swap(1, 2), Err("block 2, entry 0: block 1 was due")),
        (&|b| b[1].entries = "{}\n".to_owned(), Err("block 1, entry 1: not an entry that this version knows")),
        (&|b| b[2].entries.clear(), Err("block 2, entry 0: a block has 1 to 1024 entries and 524288 bytes at most")),
    ];
    for (change, expected) in table {
        assert_eq!(with(change), expected.map_err(str::to_owned));
    }
    let other = Keys { ledger: public(7), ..keys() };
    let error = Book::load(&good, other).map(|_| ()).expect_err("another key");
    assert_eq!(error.to_string(), "block 0, entry 0: its note is not signed by the ledger's key");
    assert!(Book::load(&[], keys()).expect("empty").is_none());
}

#[test]
fn w4_a_reader_learns_what_must_exist_and_what_was_not_covered() {
    let mut keeper = Keeper::new();
    keeper.commit(
        &[Fact::Expected(pod(1)), Fact::Expected(pod(2)), Fact::Uncovered(uncovered(3), None), certified(1)],
        &[],
    );
    keeper.commit(&[], &[keeper.head(1, 3)]);
    keeper.commit(&[Fact::Resumed(START_NS + 1), Fact::Gone("pod-1".to_owned()), Fact::Lost(sid(1), 3, root(3))], &[]);
    keeper.commit(&[Fact::Uncovered(uncovered(3), Some(START_NS + 9)), Fact::Fork(sid(1), "note".to_owned())], &[]);
    let mut reader = Reader::new(public(8));
    for block in &keeper.blocks {
        block.entries.lines().for_each(|line| reader.entry(line.as_bytes()).expect("it follows"));
        reader.head(&block.note).expect("its head");
    }
    let summary = reader.finish();
    let said = &summary.streams[&sid(1)];
    assert_eq!((said.first_key, said.size, said.root, said.life), (Some(public(1)), 3, root(3), Life::Lost));
    assert_eq!(summary.pods["pod-1"].to_ns, Some(START_NS + 3_000_000_000));
    assert_eq!(summary.pods["pod-2"].to_ns, None);
    assert_eq!(summary.uncovered, [(uncovered(3), Some(START_NS + 9))]);
    assert_eq!(summary.outages, [(START_NS + 1, START_NS + 3_000_000_000)]);
    assert_eq!((summary.others.len(), summary.from, summary.size, summary.unproved), (1, 0, keeper.book.size(), 0));
    let mut cut = Reader::new(public(8));
    cut.head(&keeper.blocks[0].note).expect_err("no entry yet");
    let lines: Vec<&str> = keeper.blocks.iter().flat_map(|block| block.entries.lines()).collect();
    assert!(cut.entry(lines[1].as_bytes()).is_err(), "nothing begins here");
    cut.entry(lines[0].as_bytes()).expect("the first");
    assert!(cut.entry(lines[2].as_bytes()).is_err(), "one is missing");
    cut.head(&keeper.blocks[1].note).expect_err("the head of more entries");
}

#[test]
fn an_export_is_read_in_any_order_and_says_what_is_missing() {
    let mut keeper = Keeper::new();
    keeper.commit(&[Fact::Expected(pod(1)), certified(1)], &[]);
    keeper.commit(&[], &[keeper.head(1, 3)]);
    let lines: Vec<String> =
        keeper.blocks.iter().map(|block| export::otlp_line(block, &ledger()).expect("entries")).collect();
    expect_test::expect![[r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"testimony-operator"}},{"key":"k8s.cluster.uid","value":{"stringValue":"c-1"}}]},"scopeLogs":[{"logRecords":[{"attributes":[{"key":"audit.schema.version","value":{"stringValue":"1"}},{"key":"audit.sequence.stream_id","value":{"stringValue":"c-1/testimony-system/ledger/00000000000000000000000000000007-0-0"}},{"key":"testimony.prev","value":{"stringValue":"90bcd138a652629881839dc8089242f1bb6dc8e9d55b567d11553789d5b43165"}},{"key":"audit.sequence.number","value":{"intValue":"4"}}],"body":{"stringValue":"{\"heads\":\"2:3:d5688a52d55a02ec4aea5ec1eadfffe1c9e0ee6a4ddbe2377f98326d42dfc975\",\"prev\":\"90bcd138a652629881839dc8089242f1bb6dc8e9d55b567d11553789d5b43165\",\"seq\":\"3\",\"sid\":\"c-1/testimony-system/ledger/00000000000000000000000000000007-0-0\",\"t0\":\"1700000002000000000\",\"typ\":\"ledger-head\",\"v\":\"1\"}"},"eventName":"audit.ledger.head","observedTimeUnixNano":"1700000002000000000","severityNumber":9,"timeUnixNano":"1700000002000000000"},{"attributes":[{"key":"audit.schema.version","value":{"stringValue":"1"}},{"key":"audit.sequence.stream_id","value":{"stringValue":"c-1/testimony-system/ledger/00000000000000000000000000000007-0-0"}}],"body":{"stringValue":"{\"note\":\"Yy0xL3Rlc3RpbW9ueS1zeXN0ZW0vbGVkZ2VyLzAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA3LTAtMAo0CmFxWUNRMUcwa21TWERFRndHWjg1OG1rUi9zdnh5UGZidkY5UERtSEhKMHc9CgrigJQgYy0xL3Rlc3RpbW9ueS1zeXN0ZW0vbGVkZ2VyLzAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA3LTAtMCBnUGd3QnBXcndCZ0JZc2s3N2VJK3p2dEw4WDdmYVk0Y3hjS2d3Ulg5ZzQwd21IRFhheHdrTzE2UTBGd1JOdWNzdmw2ZUN5U0VzdGMvWEx0K0JXT29ZU1hFa3dvPQo=\",\"typ\":\"head\",\"v\":\"1\"}"},"eventName":"audit.checkpoint","observedTimeUnixNano":"1700000002000000000","severityNumber":9,"timeUnixNano":"1700000002000000000"}],"scope":{}}]}]}"#]].assert_eq(&lines[1]);
    for (block, line) in keeper.blocks.iter().zip(&lines) {
        let request = export::otlp_request(block, &ledger()).expect("entries");
        let request = ExportLogsServiceRequest::decode(request.as_slice()).expect("protobuf");
        let json: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let json = json["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().expect("records").clone();
        let records = &request.resource_logs[0].scope_logs[0].log_records;
        assert_eq!(request.resource_logs[0].resource.as_ref().map(|resource| resource.attributes.len()), Some(2));
        assert_eq!((records.len(), json.len()), (block.entries.lines().count() + 1, records.len()));
        for (record, json) in records.iter().zip(json) {
            let (body, attributes) = (format!("{:?}", record.body), format!("{:?}", record.attributes));
            assert!(body.contains(&format!("{:?}", json["body"]["stringValue"].as_str().expect("text"))), "{body}");
            assert_eq!(json["eventName"], record.event_name.as_str());
            assert_eq!(json["timeUnixNano"], record.time_unix_nano.to_string());
            assert_eq!(json["attributes"].as_array().map(Vec::len), Some(record.attributes.len()));
            for attribute in json["attributes"].as_array().expect("attributes") {
                let value = &attribute["value"];
                let text = value["stringValue"].as_str().or(value["intValue"].as_str()).expect("a value");
                assert!(attributes.contains(text) && attributes.contains(attribute["key"].as_str().expect("a key")));
            }
        }
    }
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    for block in &keeper.blocks {
        bodies.extend(block.entries.lines().map(|line| line.as_bytes().to_vec()));
        bodies.push(export::head_body(&block.note));
    }
    bodies.reverse();
    bodies.push(bodies[1].clone());
    bodies.push(b"not a body".to_vec());
    let read = |bodies: &[Vec<u8>]| {
        export::read_bodies(&ledger(), public(8), bodies.iter().map(Vec::as_slice)).map(|summary| summary.size)
    };
    assert_eq!(read(&bodies), Ok(keeper.book.size()));
    let without = |at: usize| bodies.iter().filter(|body| **body != bodies[at]).cloned().collect::<Vec<_>>();
    assert_eq!(read(&without(0)), Ok(3), "the last entry is there, and nothing proves it");
    assert_eq!(read(&without(1)), Err("the ledger has 4 entries, as its own head says, and 3 are there".to_owned()));
    assert_eq!(read(&without(3)), Err("entry 3: its number is 3, and 2 was due".to_owned()));
    let text = String::from_utf8(bodies[1].clone()).expect("ASCII").replace("3:", "4:");
    bodies.push(text.into_bytes());
    // Anyone can push another body for a place: the root tells which one was signed.
    let both = export::read_bodies(&ledger(), public(8), bodies.iter().map(Vec::as_slice)).expect("whole");
    assert_eq!((both.size, both.unproved, both.refused.foreign, both.refused.altered), (4, 1, Some((3, 1)), None));
}

//! What is not there because it went with its pod, or was removed by order; and a ledger that somebody changed (V2, G2, W2).

use super::ledger_tests::read;
use super::tamper_tests::honest;
use super::testing::*;
use super::*;
use crate::evidence::hash::Hash;
use crate::evidence::ledger::export::head_body as ledger_head;
use crate::evidence::ledger::{AbandonedRow, Book, Fact as Said, HeadRow, Keys, PodRow, Pruned, ledger_id};
use crate::evidence::merkle::Range;
use crate::evidence::note::PublicKey;
use crate::evidence::roots::NamedKey;
use crate::evidence::stream::StreamId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const LEDGER_SEED: u8 = 8;

pub(super) fn ledger_key() -> NamedKey {
    let sid = ledger_id("c", "testimony-system", 7).expect("a name");
    NamedKey { name: sid.to_string(), key: Key::new(LEDGER_SEED).public() }
}

/// A ledger, written block by block.
pub(super) struct Operator {
    pub(super) book: Book,
    pub(super) bodies: Vec<String>,
    pub(super) now_ns: u64,
}

impl Operator {
    pub(super) fn new() -> Self {
        let sid = ledger_id("c", "testimony-system", 7).expect("a name");
        let keys = Keys { ledger: Key::new(LEDGER_SEED).public(), witness: Key::new(9).public() };
        Self { book: Book::new(sid, keys), bodies: Vec::new(), now_ns: NOW - 120_000_000_000 }
    }

    pub(super) fn block(&mut self, facts: &[Said], heads: &[HeadRow]) -> &mut Self {
        self.now_ns += 1;
        let sign = |text: &[u8]| Key::new(LEDGER_SEED).sign(std::str::from_utf8(text).expect("text"));
        let proposed = self.book.propose(facts, heads, self.now_ns, sign).expect("a block");
        let block = proposed.block().clone();
        self.book.apply(proposed.committed()).expect("the next block");
        self.bodies.extend(block.entries.lines().map(str::to_owned));
        self.bodies.push(String::from_utf8(ledger_head(&block.note)).expect("ASCII"));
        self
    }

    /// A minute passes in which nothing happens: what it knows is no news any more.
    pub(super) fn goes_on(&mut self) -> &mut Self {
        self.now_ns += 60_000_000_000;
        self.block(&[Said::Heads(Vec::new())], &[])
    }

    pub(super) fn certify(&mut self, writer: &Writer) -> &mut Self {
        let key = Key::new(writer.first_seed).public();
        self.block(&[Said::Certified(writer.sid.clone(), key, NOW / 1_000_000_000, vec![0x30; 4])], &[])
    }

    /// The stream showed its head of this size.
    pub(super) fn shown(&mut self, writer: &Writer, size: usize) -> &mut Self {
        let stream = self.book.tables().stream(&writer.sid).expect("certified").number;
        self.block(&[], &[HeadRow { stream, size: size as u64, root: root(writer, size) }])
    }

    /// A whole stream, closed; its epoch at 11 is that of [`honest`].
    pub(super) fn closed(&mut self, writer: &Writer) -> &mut Self {
        let epoch = Said::Epoch(writer.sid.clone(), 11, root(writer, 11), writer.key.public());
        let end = Said::Closed(writer.sid.clone(), writer.size(), root(writer, writer.leaves.len()));
        self.certify(writer).block(&[epoch, end], &[])
    }

    /// A whole stream of one epoch, closed.
    pub(super) fn ended(&mut self, writer: &Writer) -> &mut Self {
        let end = Said::Closed(writer.sid.clone(), writer.size(), root(writer, writer.leaves.len()));
        self.certify(writer).block(&[end], &[])
    }

    pub(super) fn ledger(&self) -> Ledger {
        let (ledger, findings) = read(&ledger_key(), &self.bodies);
        assert_eq!(findings, []);
        ledger.expect("whole")
    }
}

pub(super) fn root(writer: &Writer, size: usize) -> Hash {
    writer.range(size).root().expect("from 0")
}

pub(super) fn report(bodies: &[String], ledger: Ledger) -> Report {
    verify(bodies, settings(), Trust { ledger: Some(ledger), ..Trust::default() })
}

fn check(bodies: &[String], operator: &Operator) -> Vec<String> {
    found(&report(bodies, operator.ledger()))
}

pub(super) fn pruned(writer: &Writer, from: usize, to: usize) -> Said {
    let mut range = Range::empty(from as u64);
    writer.leaves[from..to].iter().for_each(|leaf| range.push(*leaf));
    Said::Pruned(Pruned { sid: writer.sid.clone(), range, reason: "GDPR 17".to_owned(), by: "alice".to_owned() })
}

/// 0 open, 1-2 exchanges, 3 checkpoint with a head; 4-8 exchanges, and no more heads that a sink got.
pub(super) fn sink_down(pod: &str) -> Writer {
    let mut writer = Writer::new(sid(pod, 0), 1, &[]);
    (0..2).for_each(|n| writer.exchange(&format!("/a/{n}")));
    writer.checkpoint();
    (0..5).for_each(|n| writer.exchange(&format!("/b/{n}")));
    writer
}

pub(super) fn abandoned(writer: &Writer, from: u64, to: u64) -> Said {
    abandoned_for(writer, from, to, None)
}

fn abandoned_for(writer: &Writer, from: u64, to: u64, sink: Option<&str>) -> Said {
    let (sid, reason, sink) = (writer.sid.clone(), "sink down".to_owned(), sink.map(str::to_owned));
    Said::Abandoned(AbandonedRow { sid, from, to, reason, sink })
}

#[test]
fn v2_what_went_with_its_pod_is_told_as_abandoned_and_never_missing() {
    // The witness saw 6 records, then the end; the sink got 6 records and the head of 4.
    let mut writer = sink_down("p");
    writer.close();
    let export = [&writer.bodies[..6], &writer.heads[..1]].concat();
    let mut operator = Operator::new();
    operator.certify(&writer).shown(&writer, 6);
    let end = Said::Closed(writer.sid.clone(), 10, root(&writer, 10));
    operator.block(std::slice::from_ref(&end), &[]).goes_on();
    let found_without = check(&export, &operator);
    assert!(found_without.contains(&"MISSING 6..10".to_owned()), "{found_without:?}");
    operator.block(&[abandoned(&writer, 6, 10)], &[]);
    let report = report(&export, operator.ledger());
    assert_eq!(found(&report), ["GAP 6..10"]);
    let gap = report.findings.iter().find(|finding| finding.verdict == Verdict::Gap).map(|gap| gap.message.as_str());
    assert!(
        gap.is_some_and(|message| message.starts_with("abandoned: ") && message.ends_with("(sink down)")),
        "{gap:?}"
    );
    assert!(report.streams[0].closed);
    assert_eq!(report.streams[0].proved, 6, "the ledger's own head proves what the sink got");
    // One record more than it names is missing, and only that.
    let fewer = [&writer.bodies[..5], &writer.heads[..1]].concat();
    assert_eq!(check(&fewer, &operator), ["MISSING 5..6", "UNCLOSED", "GAP 6..10"]);
    // What is there all the same is no gap.
    let all = [&writer.bodies[..], &writer.heads[..]].concat();
    assert_eq!(check(&all, &operator), [""; 0]);
    // The whole stream.
    operator.block(&[abandoned(&writer, 0, 6)], &[]);
    let other = honest("q", 2);
    operator.closed(&other);
    assert_eq!(check(&other.all(), &operator), ["GAP 0..6", "GAP 6..10", "GAP 9..10"]);
}

#[test]
fn v2_g2_what_went_with_its_pod_before_one_sink_had_it_is_missing_in_the_export_of_another() {
    let mut writer = sink_down("p");
    writer.close();
    // `archive` got 4 records; `main` 9, of which the last two were removed.
    let archive = [&writer.bodies[..4], &writer.heads[..1]].concat();
    let main = [&writer.bodies[..7], &writer.heads[..1]].concat();
    let mut operator = Operator::new();
    operator.certify(&writer).shown(&writer, 4).shown(&writer, 9);
    let end = Said::Closed(writer.sid.clone(), 10, root(&writer, 10));
    let told = [abandoned_for(&writer, 9, 10, None), abandoned_for(&writer, 4, 9, Some("archive"))];
    operator.block(&[&[end][..], &told].concat(), &[]).goes_on();
    let check = |export: &[String], sink: Option<&str>| {
        let settings = Settings { sink: sink.map(str::to_owned), ..settings() };
        let report = verify(export, settings, Trust { ledger: Some(operator.ledger()), ..Trust::default() });
        let limit = report.not_concluded.iter().any(|limit| limit.contains("whose export this is was not said"));
        (found(&report), limit)
    };
    let gaps = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
    assert_eq!(check(&archive, Some("archive")), (gaps(&["GAP 4..9", "GAP 9..10"]), false));
    assert_eq!(check(&archive, None), (gaps(&["GAP 4..9", "GAP 9..10"]), true), "said to be accepted");
    assert_eq!(check(&main, Some("main")), (gaps(&["MISSING 7..9", "UNCLOSED", "GAP 9..10"]), false));
    assert_eq!(check(&main, None), (gaps(&["UNCLOSED 4..7", "GAP 7..9", "GAP 9..10"]), true));
}

#[test]
fn v2_a_lost_pod_whose_sink_was_down_is_unclosed_and_abandoned() {
    let writer = sink_down("p");
    let export = [&writer.bodies[..6], &writer.heads[..1]].concat();
    let mut operator = Operator::new();
    operator.certify(&writer).shown(&writer, 5).shown(&writer, 8);
    operator.block(&[abandoned(&writer, 6, 9), Said::Lost(writer.sid.clone(), 8, root(&writer, 8))], &[]);
    let report = report(&export, operator.ledger());
    assert_eq!(found(&report), ["UNCLOSED", "GAP 6..8"]);
    let unclosed = &report.findings.iter().find(|finding| finding.verdict == Verdict::Unclosed).expect("told").message;
    assert!(unclosed.ends_with("no head covers records 5 to 5"), "{unclosed}");
    assert_eq!(report.verdict, Verdict::Unanchored, "no roots of certificates");
}

#[test]
fn g2_what_was_pruned_by_order_is_told_and_the_rest_is_proved() {
    let writer = honest("p", 1);
    let mut operator = Operator::new();
    operator.closed(&writer).block(&[pruned(&writer, 6, 8)], &[]);
    let mut export = writer.all();
    export.drain(6..8);
    let report = report(&export, operator.ledger());
    assert_eq!(found(&report), ["GAP 9..10", "PRUNED 6..8"]);
    let order = report.findings.iter().find(|finding| finding.verdict == Verdict::Pruned).expect("told");
    assert_eq!(order.message, "removed by order: GDPR 17, by alice");
    assert_eq!((report.proved, order.verdict.exit_code()), (17, 0));
    // One record more than the order names.
    let mut more = writer.all();
    more.drain(6..9);
    assert_eq!(check(&more, &operator), ["MISSING 8..9", "GAP 9..10", "PRUNED 6..8"]);
    // Hashes that are not those of the records: the order does not stand.
    let mut wrong = Operator::new();
    let Said::Pruned(order) = pruned(&writer, 6, 8) else { unreachable!("an order") };
    let range = Range::from_nodes(6, 8, &[writer.leaves[1]]).expect("one subtree");
    wrong.closed(&writer).block(&[Said::Pruned(Pruned { range, ..order })], &[]);
    let found = check(&export, &wrong);
    assert!(found.contains(&"MISSING 6..8".to_owned()) && !found.iter().any(|f| f.starts_with("PRUNED")), "{found:?}");
}

#[test]
fn v1_g2_what_was_erased_is_told_by_whom_and_why() {
    let writer = honest("p", 1);
    let Said::Pruned(order) = pruned(&writer, 6, 8) else { unreachable!("an order") };
    let mut operator = Operator::new();
    operator.closed(&writer).block(&[Said::Erased(order), pruned(&writer, 0, 3)], &[]);
    let mut export = writer.all();
    export.drain(6..8);
    let told = report(&export, operator.ledger());
    assert_eq!(found(&told), ["GAP 9..10", "ERASED 6..8"]);
    let erased = told.findings.iter().find(|finding| finding.verdict == Verdict::Erased).expect("told");
    assert_eq!((erased.message.as_str(), Verdict::Erased.exit_code()), ("erased: GDPR 17, by alice", 0));
    assert_eq!(told.proved, 17);
    export.drain(0..3);
    assert_eq!(check(&export, &operator), ["GAP 9..10", "ERASED 6..8", "PRUNED 0..3"]);
    // One record more than the order names, and one that was put in its place.
    export.remove(3);
    assert_eq!(check(&export, &operator)[0], "MISSING 8..9");
    let mut replaced = writer.all();
    replaced[6] = edit(&replaced[6], "path", Some("/x"));
    assert!(
        check(&replaced, &operator)
            .iter()
            .any(|found| found.starts_with("TAMPERED 6") || found.starts_with("FOREIGN 6"))
    );
    // Nobody's order.
    let mut silent = Operator::new();
    silent.closed(&writer);
    let mut export = writer.all();
    export.drain(6..8);
    assert_eq!(check(&export, &silent)[0], "MISSING 6..8");
}

#[test]
fn g2_retention_takes_the_start_of_a_stream_in_steps() {
    let writer = honest("p", 1);
    let mut operator = Operator::new();
    operator.closed(&writer).block(&[pruned(&writer, 0, 5)], &[]);
    let heads = || writer.heads[1..].iter().cloned();
    let export = |from: usize| writer.bodies[from..].iter().cloned().chain(heads()).collect::<Vec<_>>();
    assert_eq!(check(&export(5), &operator), ["GAP 9..10", "PRUNED 0..5"]);
    // Again and further, past the record that names the next key: the ledger knows it.
    operator.block(&[pruned(&writer, 0, 13)], &[]);
    assert_eq!(check(&export(13), &operator), ["PRUNED 0..13"]);
    let report = report(&export(13), operator.ledger());
    assert_eq!(report.proved, 6);
    // Heads of the first epoch went with its records: the ledger names the key of the next.
    let later: Vec<String> = [&writer.bodies[13..], &writer.heads[2..]].concat();
    assert_eq!(check(&later, &operator), ["PRUNED 0..13"]);
    let mut forged = export(13);
    forged[1] = edit(&forged[1], "path", Some("/x"));
    assert_eq!(check(&forged, &operator), ["TAMPERED 14..15", "PRUNED 0..13"]);
    // All of it.
    operator.block(&[pruned(&writer, 0, 19)], &[]);
    let other = honest("q", 2);
    operator.closed(&other);
    assert_eq!(check(&other.all(), &operator), ["GAP 9..10", "PRUNED 0..19"]);
}

#[test]
fn k1_keys_that_the_whole_ledger_does_not_know_are_tampered_wherever_reading_began() {
    let (writer, forger) = (honest("p", 1), honest("p", 7));
    let mut operator = Operator::new();
    operator.closed(&writer);
    // From a rollover of the forger's on, whose head lets reading begin there.
    let forged = [&forger.bodies[10..], &forger.heads[1..]].concat();
    let report = report(&forged, operator.ledger());
    let told: Vec<&str> = report
        .findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Tampered && finding.records.is_none())
        .map(|finding| finding.message.as_str())
        .collect();
    assert_eq!(told, ["its heads are signed by keys that the operator's ledger does not know"]);
    assert!(!report.streams[0].certified);
}

#[test]
fn g2_a_prune_without_an_entry_is_missing() {
    let writer = honest("p", 1);
    let mut operator = Operator::new();
    operator.closed(&writer);
    let mut export = writer.all();
    export.drain(6..8);
    assert_eq!(check(&export, &operator), ["MISSING 6..8", "GAP 9..10"]);
    // An order that the backend's keeper adds to the export by himself.
    let mut forger = Operator::new();
    forger.closed(&writer).block(&[pruned(&writer, 6, 8)], &[]);
    let order = forger.bodies.iter().find(|body| body.contains("ledger-pruned")).expect("an entry");
    let (ledger, findings) = read(&ledger_key(), &[operator.bodies.clone(), vec![order.clone()]].concat());
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].0, Verdict::Foreign, "{findings:?}");
    assert!(check_with(&export, ledger).contains(&"MISSING 6..8".to_owned()));
}

fn check_with(bodies: &[String], ledger: Option<Ledger>) -> Vec<String> {
    found(&report(bodies, ledger.expect("whole up to its head")))
}

#[test]
fn w2_a_rebased_ledger_is_told_and_the_records_prove_both_heads() {
    let writer = honest("p", 1);
    let mut operator = Operator::new();
    operator.certify(&writer).shown(&writer, 3);
    let rebased = |old: Hash| Said::Rebased(writer.sid.clone(), (3, old), (6, root(&writer, 6)), writer.key.public());
    operator.block(&[rebased(root(&writer, 3))], &[]);
    operator.block(&[Said::Closed(writer.sid.clone(), 19, root(&writer, 19))], &[]);
    let told = report(&writer.all(), operator.ledger());
    assert_eq!(found(&told), ["GAP 9..10"]);
    assert_eq!(told.ledger.len(), 1);
    assert!(told.ledger[0].contains("gone back to 3 records, though the witness had cosigned 6"), "{:?}", told.ledger);
    // The head that the ledger knew is not one of these records.
    let mut other = Operator::new();
    other.certify(&writer).block(&[rebased(writer.leaves[0])], &[]);
    assert!(check(&writer.all(), &other).contains(&"FORK".to_owned()));
}

#[test]
fn w1_a_ledger_cut_or_rolled_back_is_told() {
    let (a, b) = (honest("p", 1), honest("q", 2));
    let mut operator = Operator::new();
    operator.closed(&a).closed(&b);
    let all = &operator.bodies;
    // Cut with its heads, or put back from an old copy: a shorter ledger is a good ledger. What it does not know is told.
    let at = all.iter().position(|body| body.contains("ledger-closed")).expect("an entry") + 2;
    let (ledger, findings) = read(&ledger_key(), &all[..at]);
    assert_eq!(findings, []);
    let found = check_with(&[a.all(), b.all()].concat(), ledger);
    assert_eq!(found, ["FOREIGN", "UNANCHORED", "GAP 9..10", "GAP 9..10"], "stream b is a stranger to it");
    // Cut, and a later head is there; entries taken out of the middle.
    for without in [at - 2, at - 3] {
        let bodies: Vec<String> =
            all.iter().enumerate().filter(|(n, _)| *n != without).map(|(_, b)| b.clone()).collect();
        let (ledger, findings) = read(&ledger_key(), &bodies);
        assert!(ledger.is_none());
        assert_eq!(findings[0].0, Verdict::Tampered, "{findings:?}");
    }
    // Two ledgers of one name, both signed: whoever shows both shows the fork.
    let mut other = Operator::new();
    other.certify(&b).closed(&a);
    let (ledger, findings) = read(&ledger_key(), &[all.clone(), other.bodies].concat());
    assert!(ledger.is_none());
    assert_eq!(findings[0].0, Verdict::Tampered);
    assert!(findings[0].1.contains("contradict each other"), "{findings:?}");
}

#[test]
fn w4_k1_strangers_are_told_with_their_place() {
    let (a, rogue) = (honest("p", 1), honest("q", 2));
    let mut operator = Operator::new();
    let pod = |uid: &str| PodRow {
        uid: uid.to_owned(),
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        injection_id: "i".to_owned(),
        from_ns: 1,
    };
    operator.block(&[Said::Expected(pod("p"))], &[]).closed(&a).goes_on();
    // A stream that says of itself that it was certified, of a pod that nobody expected.
    let mut certified = Writer::new(sid("q", 0), 2, &[]);
    certified.record("certified", &[("cert", &STANDARD.encode([0x30; 4]))]);
    certified.close();
    struct Anyone;
    impl Certificates for Anyone {
        fn certify(&self, _: &StreamId, _: &PublicKey, _: &[u8]) -> Result<(), String> {
            Ok(())
        }
    }
    let trust = Trust { roots: Some(Box::new(Anyone)), ledger: Some(operator.ledger()), ..Trust::default() };
    let report = verify(&[a.all(), certified.all()].concat(), settings(), trust);
    assert_eq!(found(&report), ["FOREIGN", "GAP 9..10"], "a good certificate for an unexpected pod");
    assert_eq!(report.findings[0].stream.as_ref(), Some(&certified.sid));
    // The keys of a whole stream replaced, all of it signed anew: the ledger has certified another first key.
    let mut replaced = Writer::new(a.sid.clone(), 66, &[]);
    (0..4).for_each(|n| replaced.exchange(&format!("/a/{n}")));
    replaced.close();
    let found = check(&replaced.all(), &operator);
    assert!(found.contains(&"TAMPERED".to_owned()), "{found:?}");
    assert!(found.contains(&"FORK".to_owned()) || found.iter().any(|f| f.starts_with("MISSING")), "{found:?}");
    // Another cluster's.
    let elsewhere = Writer::new(rogue.sid.as_str().replacen("c/", "d/", 1).parse().expect("a name"), 3, &[]);
    let mut elsewhere = elsewhere;
    elsewhere.close();
    assert_eq!(check(&[a.all(), elsewhere.all()].concat(), &operator), ["FOREIGN", "UNANCHORED", "GAP 9..10"]);
}

#[test]
fn w3_late_anchoring_is_told_as_a_window() {
    let writer = honest("p", 1);
    let mut operator = Operator::new();
    operator.closed(&writer);
    let witness = Key::new(9);
    let name = "c/testimony-system/witness";
    let mut bodies = writer.all();
    // The witness cosigned the last head an hour after it was signed.
    let late_s = writer.time / 1_000_000_000 + 3_600;
    let last = bodies.last_mut().expect("a head");
    *last = cosigned(last, name, &witness, late_s);
    let trust = Trust {
        witnesses: vec![Witness { name: name.to_owned(), key: witness.public() }],
        ledger: Some(operator.ledger()),
        ..Trust::default()
    };
    let report = verify(&bodies, settings(), trust);
    assert_eq!(found(&report), ["GAP 9..10"], "late is no finding");
    let [(stream, from, to)] = &report.exposure.windows[..] else { panic!("{:?}", report.exposure) };
    assert_eq!((stream, *to, report.exposure.uncovered), (&writer.sid, late_s * 1_000_000_000, 0));
    assert!(*from < writer.time && report.exposure.longest_ns == Some(to - from));
}

#[test]
fn v2_records_after_the_last_shown_head_of_a_killed_sidecar_are_no_strangers() {
    let writer = sink_down("p");
    let export = [&writer.bodies[..], &writer.heads[..1]].concat();
    let mut operator = Operator::new();
    operator.certify(&writer).shown(&writer, 6);
    operator.block(&[Said::Lost(writer.sid.clone(), 6, root(&writer, 6))], &[]);
    let report = report(&export, operator.ledger());
    assert_eq!(found(&report), ["UNCLOSED", "UNCLOSED 6..9"]);
    assert_eq!(report.proved, 6);
    // Nothing but what the ledger's head covers, and no head of its own: the ledger vouches for all of it.
    let report = verify(&writer.bodies[..6], settings(), Trust { ledger: Some(operator.ledger()), ..Trust::default() });
    assert_eq!(found(&report), ["UNCLOSED"]);
    assert!(report.streams[0].certified);
}

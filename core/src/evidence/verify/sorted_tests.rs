//! Ledgers that are larger than what may wait of them (V4, W1).

use super::removed_tests::{Operator, ledger_key};
use super::testing::*;
use super::*;
use crate::canon::parse_body;
use crate::evidence::hash::Hash;
use crate::evidence::ledger::{Fact as Said, HeadRow};
use crate::evidence::note::SignedNote;

const STREAMS: u8 = 10;
const BLOCKS: u64 = 600;

/// So many blocks, each with a head of each of ten streams.
fn busy(blocks: u64) -> Operator {
    let mut operator = Operator::new();
    let writers: Vec<Writer> = (1..=STREAMS).map(|n| Writer::new(sid(&format!("p{n}"), 0), n, &[])).collect();
    for writer in &writers {
        operator.certify(writer);
    }
    let number =
        |writer: &Writer, operator: &Operator| operator.book.tables().stream(&writer.sid).map(|row| row.number);
    let numbers: Vec<u64> = writers.iter().filter_map(|writer| number(writer, &operator)).collect();
    for size in 1..=blocks {
        let root = |stream: u64| Hash::of(&[&stream.to_be_bytes(), &size.to_be_bytes()]);
        let heads: Vec<HeadRow> =
            numbers.iter().map(|stream| HeadRow { stream: *stream, size, root: root(*stream) }).collect();
        operator.block(&[], &heads);
    }
    operator
}

fn read(bodies: &[String], waiting_max: usize) -> (Option<Ledger>, Vec<(Verdict, String)>) {
    let keys = [ledger_key()];
    let asked = Asked { keys: &keys, waiting_max: Some(waiting_max), ..Asked::default() };
    let (ledger, findings) = Ledger::read_asked(&asked, bodies);
    (ledger, findings.into_iter().map(|finding| (finding.verdict, finding.message)).collect())
}

/// Bodies that follow what the entry at this place follows, and say something else.
fn forged(operator: &Operator, at: u64, count: u64) -> Vec<String> {
    let is = |body: &&String| {
        parse_body(body.as_bytes())
            .is_ok_and(|fields| fields.get("seq").is_some_and(|seq| *seq == at.to_string().into_bytes()))
    };
    let genuine = operator.bodies.iter().find(is).expect("an entry");
    (0..count).map(|n| edit(genuine, "t0", Some(&(NOW - n).to_string()))).collect()
}

#[test]
fn w1_a_ledger_far_beyond_what_may_wait_is_read_and_repeats_are_nothing() {
    const WAITING: usize = 32 * 1024;
    let operator = busy(BLOCKS);
    let bytes: usize = operator.bodies.iter().map(String::len).sum();
    assert!(bytes > 20 * WAITING, "{bytes}");
    let mut bodies = [&operator.bodies[..], &operator.bodies[..], &operator.bodies[..]].concat();
    bodies.reverse();
    let (ledger, findings) = read(&bodies, WAITING);
    assert_eq!(findings, []);
    let ledger = ledger.expect("whole");
    assert_eq!(ledger.streams.len(), usize::from(STREAMS));
    assert!(ledger.streams.values().all(|stream| stream.size == BLOCKS));
    // Others that are pushed beside many of its entries do not add up.
    let pushed: Vec<String> = (20..400).flat_map(|at| forged(&operator, at, 3)).collect();
    assert!(pushed.iter().map(String::len).sum::<usize>() > 20 * WAITING);
    let (ledger, findings) = read(&[&operator.bodies[..], &pushed[..]].concat(), WAITING);
    assert!(ledger.is_some_and(|ledger| ledger.streams.len() == usize::from(STREAMS)));
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].0 == Verdict::Foreign && findings[0].1.starts_with("1140 bodies, the first as entry 20,"),
        "{findings:?}"
    );
}

#[test]
fn v4_more_than_may_wait_for_one_head_is_a_limit_and_no_damage() {
    const WAITING: usize = 32 * 1024;
    let operator = busy(30);
    let told = |count: u64| {
        let (ledger, findings) = read(&[&operator.bodies[..], &forged(&operator, 25, count)[..]].concat(), WAITING);
        (ledger.is_some(), findings.into_iter().map(|(verdict, _)| verdict).collect::<Vec<_>>())
    };
    assert_eq!(told(5), (true, vec![Verdict::Foreign]));
    assert_eq!(told(60), (false, vec![Verdict::Unanchored]));
    // Without heads all of it waits for the last one.
    let is_head = |body: &&String| body.contains("\"typ\":\"head\"");
    let last = operator.bodies.last().expect("a head").clone();
    let bare: Vec<String> = operator.bodies.iter().filter(|body| !is_head(body)).cloned().chain([last]).collect();
    assert!(read(&bare, 1024 * 1024).0.is_some());
    let (ledger, findings) = read(&bare, 8 * 1024);
    assert!(ledger.is_none());
    assert!(
        findings[0].0 == Verdict::Unanchored && findings[0].1.contains("between two of its signed heads"),
        "{findings:?}"
    );
}

#[test]
fn v4_ledgers_of_no_key_are_told_one_by_one_up_to_a_limit() {
    let operator = busy(1);
    let entry = operator.bodies.first().expect("an entry");
    let stranger = |n: u32| edit(entry, "sid", Some(&format!("c/other/ledger/{n:032x}-0-0")));
    let bodies: Vec<String> = (0..100).map(stranger).chain(operator.bodies.iter().cloned()).collect();
    let (ledger, findings) = read(&bodies, usize::MAX);
    assert!(ledger.is_some());
    assert_eq!(findings.len(), 65);
    assert!(findings.iter().all(|(verdict, _)| *verdict == Verdict::Foreign));
    assert!(findings.iter().any(|(_, message)| message.contains("36 further ledgers")), "{findings:?}");
}

#[test]
fn v3_a_scope_of_one_cluster_passes_over_the_ledgers_of_others() {
    let operator = busy(1);
    let entry = operator.bodies.first().expect("an entry");
    let stranger = |cluster: &str| edit(entry, "sid", Some(&format!("{cluster}/other/ledger/{:032x}-0-0", 1)));
    let judged = |bodies: &[String], prefix: &str| {
        let scope = Scope { stream: Some(prefix.to_owned()), ..Scope::default() };
        let trust = Trust { ledger_keys: vec![ledger_key()], ..Trust::default() };
        let report = verify(bodies, Settings { scope, ..settings() }, trust);
        report.findings.iter().filter(|finding| finding.message.contains("/other/ledger/")).count()
    };
    let bodies = [&operator.bodies[..], &[stranger("c"), stranger("d"), stranger("cc")]].concat();
    assert_eq!(judged(&bodies, "c/"), 1, "a stranger of the cluster itself is told");
    assert_eq!(judged(&bodies, "c/shop/p1"), 1);
    assert_eq!(judged(&bodies, "c"), 3, "these may all be meant");
    assert_eq!(judged(&bodies, "d/"), 1);
}

#[test]
fn w3_a_cosigned_head_is_known_by_when_its_last_entry_was_written() {
    let mut operator = busy(3);
    let head = |body: &String| {
        let fields = parse_body(body.as_bytes()).expect("a body");
        let note = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, &fields["note"]).expect("base64");
        String::from_utf8(note).expect("text")
    };
    let (note, until_ns) = (head(operator.bodies.last().expect("a head")), operator.now_ns);
    // What says so stands well behind that head.
    operator.block(&[Said::Heads(Vec::new())], &[]).block(&[Said::Witnessed(note.clone())], &[]);
    let (ledger, findings) = read(&operator.bodies, usize::MAX);
    assert_eq!(findings, []);
    let witnessed = ledger.expect("whole").witnessed;
    assert_eq!(witnessed.len(), 1);
    assert_eq!((witnessed[0].until_ns, &witnessed[0].note), (until_ns, &SignedNote::parse(&note).expect("a note")));
}

//! What the ledger adds: streams that must be there, how far they went, whose keys they are (V2, W4).

use super::tamper_tests::honest;
use super::testing::*;
use super::*;
use crate::evidence::note::PublicKey;
use std::collections::BTreeMap;

/// As the operator knows these streams.
fn ledger(writers: &[(&Writer, Life)]) -> Ledger {
    let mut ledger = Ledger { cluster_uid: "c".to_owned(), last_ns: NOW, ..Ledger::default() };
    for (writer, life) in writers {
        let root = writer.range(writer.leaves.len()).root().expect("from 0");
        let key = Some(Key::new(writer.first_seed).public());
        ledger.streams.insert(writer.sid.clone(), LedgerStream { key, size: writer.size(), root, life: *life });
    }
    ledger
}

fn report(bodies: &[String], ledger: Ledger) -> Report {
    verify(bodies, settings(), Trust { ledger: Some(ledger), ..Trust::default() })
}

fn check(bodies: &[String], ledger: Ledger) -> Vec<String> {
    found(&report(bodies, ledger)).into_iter().filter(|found| found != "GAP 9..10").collect()
}

#[test]
fn v2_with_the_ledger_a_whole_export_has_no_finding() {
    let (a, b) = (honest("p", 1), honest("q", 2));
    let all = [a.all(), b.all()].concat();
    let known = ledger(&[(&a, Life::Closed), (&b, Life::Closed)]);
    let report = report(&all, known);
    assert_eq!(found(&report), ["GAP 9..10", "GAP 9..10"]);
    assert!(report.streams.iter().all(|stream| stream.certified));
}

#[test]
fn v2_a_dropped_stream_and_a_cut_tail_are_missing() {
    let (a, b) = (honest("p", 1), honest("q", 2));
    let known = || ledger(&[(&a, Life::Closed), (&b, Life::Closed)]);
    assert_eq!(check(&a.all(), known()), ["MISSING"]);
    let cut: Vec<String> = [&b.bodies[..15], &b.heads[..3]].concat();
    let found = check(&[a.all(), cut].concat(), known());
    assert!(found.contains(&"MISSING 15..19".to_owned()), "{found:?}");
    // A stream that is alive, cut after its last exported head.
    let mut open = Writer::new(sid("r", 0), 3, &[]);
    open.exchange("/a");
    open.checkpoint();
    let shorter = open.all();
    open.exchange("/b");
    let known = ledger(&[(&open, Life::Open)]);
    assert_eq!(check(&open.all(), known.clone()), [""; 0], "the ledger has a later head than the export");
    let found = check(&shorter, known);
    assert!(found.contains(&"MISSING 3..4".to_owned()), "{found:?}");
}

#[test]
fn w4_strangers_are_foreign_and_pods_without_a_stream_missing() {
    let (a, b) = (honest("p", 1), honest("q", 2));
    let all = [a.all(), b.all()].concat();
    let only = || ledger(&[(&a, Life::Closed)]);
    assert_eq!(check(&all, only()), ["FOREIGN", "UNANCHORED"], "a pod that nobody expected");
    let pod = |uid: &str| ExpectedPod {
        uid: uid.to_owned(),
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        from_ns: 1,
        to_ns: None,
    };
    let expected = Ledger { pods: vec![pod("q")], ..only() };
    assert_eq!(check(&all, expected), ["UNANCHORED"], "expected, but not yet certified");
    let outage = Ledger { outages: vec![(0, NOW)], ..only() };
    assert_eq!(check(&all, outage), ["UNANCHORED"], "nobody kept the ledger then");
    let absent = Ledger { pods: vec![pod("p"), pod("z")], ..only() };
    assert_eq!(check(&a.all(), absent), ["MISSING"], "no stream of pod z");
    let elsewhere = Ledger { cluster_uid: "other".to_owned(), pods: vec![pod("q")], ..only() };
    assert_eq!(check(&all, elsewhere), ["FOREIGN", "UNANCHORED"], "another cluster's stream");
    let uncovered = Ledger { uncovered: vec![("shop".to_owned(), "job-1: skipped".to_owned())], ..only() };
    assert_eq!(check(&a.all(), uncovered), ["GAP"]);
}

#[test]
fn k1_another_first_key_than_the_certified_is_tampered() {
    let a = honest("p", 1);
    let mut known = ledger(&[(&a, Life::Closed)]);
    if let Some(stream) = known.streams.get_mut(&a.sid) {
        stream.key = Some(PublicKey([9; 32]));
    }
    assert!(check(&a.all(), known).contains(&"TAMPERED".to_owned()));
    // And another history than the cosigned one.
    let mut known = ledger(&[(&a, Life::Closed)]);
    known.streams =
        BTreeMap::from([(a.sid.clone(), LedgerStream { root: a.leaves[0], ..known.streams[&a.sid].clone() })]);
    assert!(check(&a.all(), known).contains(&"FORK".to_owned()));
}

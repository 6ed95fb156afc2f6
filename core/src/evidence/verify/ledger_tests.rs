//! What the ledger adds: streams that must be there, how far they went, whose keys they are (V2, W4).

use super::removed_tests::Operator;
use super::tamper_tests::honest;
use super::testing::*;
use super::*;
use crate::evidence::ledger::export::head_body;
use crate::evidence::ledger::{Book, Fact as Said, Keys, PodRow, UncoveredRow, ledger_id};
use crate::evidence::note::PublicKey;
use crate::evidence::roots::NamedKey;
use crate::evidence::stream::StreamId;
use std::collections::{BTreeMap, BTreeSet};

const MINUTE_NS: u64 = 60_000_000_000;

/// As the operator knows these streams, and has known them for a minute.
fn ledger(writers: &[(&Writer, Life)]) -> Ledger {
    let mut ledger = Ledger { cluster_uid: "c".to_owned(), last_ns: NOW, ..Ledger::default() };
    for (writer, life) in writers {
        let root = writer.range(writer.leaves.len()).root().expect("from 0");
        ledger.shown.entry(writer.sid.clone()).or_default().push(NOW - MINUTE_NS, writer.size());
        let key = Some(Key::new(writer.first_seed).public());
        ledger.streams.insert(
            writer.sid.clone(),
            LedgerStream {
                key,
                certified_ns: None,
                size: writer.size(),
                root,
                life: *life,
                to_ns: NOW,
                later_keys: BTreeMap::new(),
                heads: Vec::new(),
            },
        );
    }
    ledger
}

fn not_covered(what: &str) -> Uncovered {
    Uncovered { namespace: "shop".to_owned(), what: what.to_owned(), from_ns: 1, to_ns: None }
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
fn w4_a_pod_that_began_just_before_the_ledgers_end_is_pending() {
    let a = honest("p", 1);
    let told = |from_ns: u64, after_ns: u64| {
        let (uid, namespace, name) = ("z".to_owned(), "shop".to_owned(), "web-0".to_owned());
        let pods = vec![ExpectedPod { uid, namespace, name, from_ns, to_ns: None }];
        let known = Ledger { pods, ..ledger(&[(&a, Life::Closed)]) };
        let settings = Settings { now_ns: NOW + after_ns, ..settings() };
        let found = found(&verify(&a.all(), settings, Trust { ledger: Some(known), ..Trust::default() }));
        found.into_iter().filter(|found| found != "GAP 9..10").collect::<Vec<_>>()
    };
    // The ledger ends at NOW.
    for (before_ns, after_ns, expected) in [
        (1, 0, &[][..]),
        (1, 10 * MINUTE_NS, &["PENDING"]),
        (5 * MINUTE_NS, 10 * MINUTE_NS, &["PENDING"]),
        (5 * MINUTE_NS, 0, &[]),
        (5 * MINUTE_NS + 1, 0, &["MISSING"]),
        (5 * MINUTE_NS + 1, 10 * MINUTE_NS, &["MISSING"]),
        (1_000 * MINUTE_NS, 100_000 * MINUTE_NS, &["MISSING"]),
    ] {
        assert_eq!(told(NOW - before_ns, after_ns), expected, "{before_ns} {after_ns}");
    }
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
    let uncovered = Ledger { uncovered: vec![not_covered("job-1: skipped")], ..only() };
    assert_eq!(check(&a.all(), uncovered.clone()), ["GAP"]);
    for (prefix, told) in [("c/", true), ("c/shop/", true), ("c/shop/p/", false), ("c/other/", false)] {
        let scope = Scope { stream: Some(prefix.to_owned()), ..Scope::default() };
        let trust = Trust { ledger: Some(uncovered.clone()), ..Trust::default() };
        let report = verify(&a.all(), Settings { scope, ..settings() }, trust);
        let gap = |finding: &&Finding| finding.verdict == Verdict::Gap && finding.stream.is_none();
        assert_eq!(report.findings.iter().any(|finding| gap(&finding)), told, "{prefix}");
    }
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

/// A ledger of these streams as the operator writes it, exported: its blocks' bodies, each with its head last.
fn written(writers: &[(&Writer, Life)], more: &[Said]) -> (NamedKey, Vec<Vec<String>>) {
    let sid = ledger_id("c", "testimony-system", 7).expect("a name");
    let keys = Keys { ledger: Key::new(8).public(), witness: Key::new(9).public() };
    let name = NamedKey { name: sid.to_string(), key: keys.ledger };
    let mut book = Book::new(sid, keys);
    let certified = |writer: &Writer| {
        Said::Certified(writer.sid.clone(), Key::new(writer.first_seed).public(), NOW / 1_000_000_000, vec![0x30; 4])
    };
    let first: Vec<Said> = writers.iter().map(|(writer, _)| certified(writer)).chain(more.iter().cloned()).collect();
    let end = |(writer, life): &(&Writer, Life)| {
        let root = writer.range(writer.leaves.len()).root().expect("from 0");
        let (sid, size) = (writer.sid.clone(), writer.size());
        match life {
            Life::Open => Said::Epoch(sid, size, root, writer.key.public()),
            Life::Closed => Said::Closed(sid, size, root),
            Life::Lost => Said::Lost(sid, size, root),
        }
    };
    let second: Vec<Said> = writers.iter().map(end).collect();
    let mut blocks = Vec::new();
    for (at, facts) in [first, second].into_iter().enumerate() {
        let sign = |text: &[u8]| Key::new(8).sign(std::str::from_utf8(text).expect("text"));
        let proposed = book.propose(&facts, &[], NOW - MINUTE_NS + at as u64, sign).expect("a block");
        let block = proposed.block().clone();
        book.apply(proposed.committed()).expect("the next block");
        let head = String::from_utf8(head_body(&block.note)).expect("ASCII");
        blocks.push(block.entries.lines().map(str::to_owned).chain([head]).collect());
    }
    (name, blocks)
}

pub(super) fn read(key: &NamedKey, bodies: &[String]) -> (Option<Ledger>, Vec<(Verdict, String)>) {
    let (ledger, findings) = Ledger::read(std::slice::from_ref(key), bodies);
    (ledger, findings.into_iter().map(|finding| (finding.verdict, finding.message)).collect())
}

#[test]
fn v2_an_exported_ledger_says_what_the_operator_knows() {
    let (a, b) = (honest("p", 1), honest("q", 2));
    let pod = PodRow {
        uid: "p".to_owned(),
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        injection_id: "i".to_owned(),
        from_ns: 1,
    };
    let bare = UncoveredRow {
        uid: "u".to_owned(),
        namespace: "shop".to_owned(),
        name: "job-1".to_owned(),
        reason: "HostNetwork".to_owned(),
        from_ns: 1,
    };
    let more = [Said::Expected(pod), Said::Uncovered(bare, None)];
    let (key, blocks) = written(&[(&a, Life::Closed), (&b, Life::Closed)], &more);
    let mut bodies = blocks.concat();
    bodies.reverse();
    bodies.extend(blocks[0].clone());
    let (ledger, findings) = read(&key, &bodies);
    let ledger = ledger.expect("whole");
    assert_eq!(findings, []);
    assert_eq!((ledger.pods.len(), ledger.last_ns, ledger.cluster_uid.as_str()), (1, NOW - MINUTE_NS + 1, "c"));
    // Nothing happened in its last minute.
    let ledger = Ledger { last_ns: NOW, ..ledger };
    assert_eq!(ledger.uncovered, [not_covered("job-1: HostNetwork")]);
    assert_eq!(check(&[a.all(), b.all()].concat(), ledger.clone()), ["GAP"], "the pod that is not covered");
    assert_eq!(check(&a.all(), ledger.clone()), ["MISSING", "GAP"], "a dropped stream");
    let cut: Vec<String> = [&b.bodies[..15], &b.heads[..3]].concat();
    assert!(check(&[a.all(), cut].concat(), ledger).contains(&"MISSING 15..19".to_owned()));
}

#[test]
fn w1_a_ledger_that_was_changed_says_nothing() {
    let (a, b) = (honest("p", 1), honest("q", 2));
    let (key, blocks) = written(&[(&a, Life::Closed), (&b, Life::Closed)], &[]);
    let all = blocks.concat();
    let refused = |bodies: &[String], verdict, problem: &str| {
        let (ledger, findings) = read(&key, bodies);
        assert!(ledger.is_none(), "{problem}");
        let found = findings.iter().any(|(of, message)| *of == verdict && message.contains(problem));
        assert!(found, "{problem}: {findings:?}");
    };
    for at in 0..all.len() {
        let entry = !all[at].contains("\"typ\":\"head\"");
        if entry && at > 0 {
            let without: Vec<String> = [&all[..at], &all[at + 1..]].concat();
            refused(&without, Verdict::Tampered, "");
            let mut changed = all.clone();
            changed[at] = edit(&all[at], "t0", Some("1"));
            refused(&changed, Verdict::Tampered, "");
            // The true one is there too: anyone can push another.
            changed.push(all[at].clone());
            let (ledger, findings) = read(&key, &changed);
            assert_eq!(findings.iter().map(|(verdict, _)| *verdict).collect::<Vec<_>>(), [Verdict::Foreign], "{at}");
            assert!(
                findings[0].1.contains(&format!("1 bodies, the first as entry {}", at - usize::from(at > 3))),
                "{at}: {findings:?}"
            );
            assert!(ledger.is_some_and(|ledger| ledger.streams.len() == 2));
        }
    }
    let no_heads: Vec<String> = all.iter().filter(|body| !body.contains("\"typ\":\"head\"")).cloned().collect();
    refused(&no_heads, Verdict::Tampered, "no signed head");
    refused(&[], Verdict::Unanchored, "is not in the input");
    // What stands behind the last head is not taken at its word.
    let (last, rest) = all.split_last().expect("a head");
    assert!(last.contains("\"typ\":\"head\""));
    let (ledger, findings) = read(&key, rest);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].0 == Verdict::Foreign && findings[0].1.starts_with("2 entries"), "{findings:?}");
    assert!(ledger.expect("the first block").streams.values().all(|stream| stream.life == Life::Open));
    // Another key's ledger, and one of which the roots say nothing.
    let other = NamedKey { key: Key::new(7).public(), ..key.clone() };
    let (ledger, findings) = read(&other, &all);
    assert!(ledger.is_none() && findings[0].0 == Verdict::Tampered, "{findings:?}");
    let stranger = NamedKey { name: key.name.replace("ledger/0", "ledger/1"), ..key.clone() };
    let (ledger, findings) = read(&stranger, &all);
    let verdicts: Vec<Verdict> = findings.iter().map(|finding| finding.0).collect();
    assert!(ledger.is_none());
    assert_eq!(verdicts, [Verdict::Foreign, Verdict::Unanchored]);
    let (ledger, findings) = Ledger::read(&[], &all);
    assert!(ledger.is_none() && findings[0].verdict == Verdict::Unanchored, "{findings:?}");
}

#[test]
fn v3_a_part_is_not_blamed_for_what_it_need_not_hold() {
    let (a, b) = (honest("p", 1), honest("q", 2));
    let known = || ledger(&[(&a, Life::Closed), (&b, Life::Closed)]);
    let with = |settings: Settings, ledger: Ledger| {
        let report = verify(&a.all(), settings, Trust { ledger: Some(ledger), ..Trust::default() });
        report.findings.iter().filter(|found| found.verdict == Verdict::Missing).count()
    };
    assert_eq!(with(settings(), known()), 1);
    assert_eq!(with(Settings { partial: true, ..settings() }, known()), 0);
    let from = |from_ns: u64| Settings { scope: Scope { from_ns: Some(from_ns), ..Scope::default() }, ..settings() };
    assert_eq!(with(from(1), known()), 1);
    let mut ended = known();
    ended.streams.values_mut().for_each(|stream| stream.to_ns = NOW - 1_000);
    assert_eq!(with(from(NOW - 500), ended), 0, "it ended before");
    // It never showed a head, and its pod is gone: that nothing is there is no crime of the backend.
    let mut silent = known();
    if let Some(stream) = silent.streams.get_mut(&b.sid) {
        (stream.size, stream.life) = (0, Life::Lost);
    }
    assert_eq!(check(&a.all(), silent), ["UNCLOSED"]);
}

/// A ledger that is exported first may still know what is on its way to the backend: that is due once it knew it for `max_lag`.
#[test]
fn v2_what_the_ledger_had_just_now_is_pending_in_a_whole_export_and_later_missing() {
    const SECOND_NS: u64 = 1_000_000_000;
    let mut writer = Writer::new(sid("p", 0), 1, &[]);
    (0..8).for_each(|n| writer.exchange(&format!("/a/{n}")));
    writer.checkpoint();
    writer.exchange("/b");
    writer.checkpoint();
    let fresh = Writer::new(sid("q", 0), 2, &[]);
    // Up to the head of 10; without what stands before it; nothing.
    let to_ten = [&writer.bodies[..10], &writer.heads[..1]].concat();
    let cut = [&writer.bodies[..8], &writer.heads[..1]].concat();
    for (age_s, now_s, late) in
        [(1, 0, false), (9, 0, false), (10, 0, true), (11, 0, true), (1, 3_600, false), (3_600, 0, true)]
    {
        let mut operator = Operator::new();
        operator.now_ns = NOW - 7_200 * SECOND_NS;
        operator.certify(&writer).shown(&writer, 10);
        operator.now_ns = NOW - age_s * SECOND_NS - 2;
        operator.shown(&writer, 12).certify(&fresh);
        operator.now_ns = NOW - 1;
        operator.block(&[Said::Heads(Vec::new())], &[]);
        let told = |bodies: &[String]| {
            let settings = Settings { now_ns: NOW + now_s * SECOND_NS, ..settings() };
            let report = verify(bodies, settings, Trust { ledger: Some(operator.ledger()), ..Trust::default() });
            found(&report).into_iter().filter(|found| !found.starts_with("UN")).collect::<BTreeSet<_>>()
        };
        // The second one is the whole stream.
        let verdict = if late { "MISSING" } else { "PENDING" };
        let rest = [format!("{verdict} 10..12"), verdict.to_owned()];
        assert_eq!(told(&to_ten), BTreeSet::from(rest), "{age_s} {now_s}");
        // What the export's own head vouches for is due at once.
        let own = told(&cut);
        assert!(own.iter().any(|found| found.starts_with("MISSING 8..")), "{age_s} {now_s}: {own:?}");
        assert_eq!(own.contains("PENDING 10..12"), !late, "{age_s} {now_s}: {own:?}");
        assert!(told(&[]).contains("MISSING"), "{age_s} {now_s}: one is known for two hours");
    }
}

/// Of a stream that has just begun no head is exported yet, and the ledger may have one.
#[test]
fn v2_what_is_there_of_a_stream_that_has_just_begun_is_pending_while_the_rest_is_on_its_way() {
    const SECOND_NS: u64 = 1_000_000_000;
    let mut writer = Writer::new(sid("p", 0), 1, &[]);
    writer.time = NOW - 20 * SECOND_NS;
    writer.exchange("/a");
    writer.exchange("/b");
    let changed = edit(&writer.bodies[1], "path", Some("/x"));
    let told = |bodies: &[String], age_s: u64| {
        let mut operator = Operator::new();
        operator.now_ns = NOW - age_s * SECOND_NS - 2;
        operator.certify(&writer).shown(&writer, 3);
        operator.now_ns = NOW - 1;
        operator.block(&[Said::Heads(Vec::new())], &[]);
        let found = check(bodies, operator.ledger());
        found.into_iter().filter(|found| found != "UNANCHORED").collect::<Vec<_>>()
    };
    let there = &writer.bodies[..2];
    let on_its_way = told(there, 1);
    assert!(on_its_way.iter().all(|found| found.starts_with("PENDING")), "{on_its_way:?}");
    assert_eq!(told(there, 60), ["FOREIGN", "MISSING 2..3"]);
    // What is there is not what was sealed; and something stands behind what is absent.
    let [open, first, second] = [0, 1, 2].map(|at| writer.bodies[at].clone());
    for bodies in [vec![open.clone(), changed, second.clone()], vec![open, second.clone()], vec![first, second]] {
        let found = told(&bodies, 1);
        assert!(found.iter().any(|found| !found.starts_with("PENDING")), "{found:?}");
    }
}

/// Certificates that say nothing but for how long they are good.
struct For(i64, i64);

impl Certificates for For {
    fn certify(&self, _: &StreamId, _: &PublicKey, _: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn validity(&self, _: &[u8]) -> Option<(i64, i64)> {
        Some((self.0, self.1))
    }
}

#[test]
fn k1_a_certificate_must_have_been_valid_when_the_ledger_took_it_up() {
    let mut writer = Writer::new(sid("p", 0), 1, &[]);
    writer.record("certified", &[("cert", "MAAA")]);
    writer.close();
    let taken_ns = NOW - 86_400_000_000_000;
    let mut operator = Operator::new();
    operator.now_ns = taken_ns - 1;
    operator.ended(&writer);
    let taken = i64::try_from(taken_ns / 1_000_000_000).expect("a time");
    let told = |ledger: Option<Ledger>, from: i64, to: i64| {
        let trust = Trust { roots: Some(Box::new(For(from, to))), ledger, ..Trust::default() };
        found(&verify(&writer.all(), settings(), trust))
    };
    // By the time of today it has long ended; that is nothing.
    for (from, to, good) in [
        (taken, taken, true),
        (taken - 60, taken + 60, true),
        (0, taken - 1, false),
        (taken + 1, i64::MAX, false),
        (taken + 1, taken - 1, false),
    ] {
        let expected: &[&str] = if good { &[] } else { &["UNANCHORED 1..2"] };
        assert_eq!(told(Some(operator.ledger()), from, to), expected, "{from} {to}");
        assert_eq!(told(None, from, to), [""; 0], "without the ledger there is no witness's time");
    }
}

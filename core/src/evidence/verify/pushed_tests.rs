//! What others push as entries of the ledger, entries that are missing, and times that are over (V2, V4, W4).

use super::ledger_tests::read;
use super::removed_tests::{Operator, abandoned, ledger_key, report, root, sink_down};
use super::tamper_tests::honest;
use super::testing::*;
use super::*;
use crate::evidence::ledger::entry::Entry;
use crate::evidence::ledger::fact::StateFact;
use crate::evidence::ledger::{Fact as Said, HeadRow, PodRow, STATE_EVERY_BLOCKS, UncoveredRow};
use crate::evidence::note::PublicKey;

/// A ledger with a restatement in its middle: streams before and behind it.
fn restated() -> Operator {
    let mut operator = Operator::new();
    operator.closed(&honest("p", 1));
    while operator.book.readable_from() == 0 {
        operator.block(&[Said::Heads(Vec::new())], &[]);
    }
    operator.closed(&honest("q", 2));
    operator
}

fn seq(body: &str) -> Option<u64> {
    Entry::parse(body.as_bytes()).ok().map(|entry| entry.seq)
}

/// The place of the entry that begins the restatement.
fn begin(operator: &Operator) -> u64 {
    operator.bodies.iter().find(|body| body.contains("\"frontier\"")).and_then(|body| seq(body)).expect("restated")
}

/// Bodies of the entries from this one on, with heads.
fn from(operator: &Operator, first: u64) -> Vec<String> {
    let at = operator.bodies.iter().position(|body| seq(body) == Some(first)).expect("an entry");
    operator.bodies[at..].to_vec()
}

/// How many streams are known, and the verdicts.
fn told(bodies: &[String]) -> (Option<usize>, Vec<Verdict>) {
    let (ledger, findings) = read(&ledger_key(), bodies);
    (ledger.map(|ledger| ledger.streams.len()), findings.into_iter().map(|(verdict, _)| verdict).collect())
}

fn unknown_typ(seq: u64) -> String {
    edit(
        &edit(&format!("{{\"sid\":\"{}\"}}", ledger_key().name), "seq", Some(&seq.to_string())),
        "typ",
        Some("ledger-x"),
    )
}

#[test]
fn v4_a_pushed_body_is_foreign_and_harms_no_other_entry() {
    let operator = restated();
    let begin = begin(&operator);
    let end = operator.book.size();
    let window = from(&operator, begin - 3);
    for at in [0, 1, 5, begin - 4, begin - 2, begin - 1, begin, begin + 1, end - 1, end, end + 1, u64::MAX] {
        let whole = [&operator.bodies[..], &[unknown_typ(at)]].concat();
        assert_eq!(told(&whole), (Some(2), vec![Verdict::Foreign]), "{at}");
        // In an export over a time it may claim the place of an entry that is not there; nothing tells it from a changed one.
        let verdict = if at == begin - 4 { Verdict::Tampered } else { Verdict::Foreign };
        let part = [&window[..], &[unknown_typ(at)]].concat();
        assert_eq!(told(&part), (Some(2), vec![verdict]), "{at} of a part");
    }
    // Made to follow, to be followed, and to begin with; whatever it says is not taken up.
    let entry = |body: &String| Entry::parse(body.as_bytes()).expect("an entry");
    let entries: Vec<Entry> = operator.bodies.iter().filter(|body| seq(body).is_some()).map(entry).collect();
    for at in [1, 4, entries.len() - 2] {
        let forged = Entry { fact: Said::Fork(honest("p", 1).sid, String::new()), ..entries[at].clone() };
        let next =
            Entry { seq: forged.seq + 1, prev: Some(crate::evidence::merkle::leaf(&forged.body())), ..forged.clone() };
        let mut frontier = crate::evidence::merkle::Range::empty(0);
        entries[..at].iter().for_each(|entry| frontier.push(crate::evidence::merkle::leaf(&entry.body())));
        let first = Some((PublicKey([1; 32]), PublicKey([2; 32]), frontier.nodes().collect()));
        let state = StateFact { first, last: true, ..StateFact::default() };
        let begins = Entry { fact: Said::State(state), ..entries[at].clone() };
        let pushed = [forged, next, begins].map(|entry| String::from_utf8(entry.body()).expect("ASCII"));
        let whole = [&operator.bodies[..], &pushed].concat();
        assert_eq!(told(&whole), (Some(2), vec![Verdict::Foreign]), "{at}");
    }
}

#[test]
fn w1_an_altered_entry_stays_tampered_wherever_it_stands() {
    let operator = restated();
    let begin = begin(&operator);
    let first = begin - 3;
    for bodies in [operator.bodies.clone(), from(&operator, first)] {
        for at in (0..bodies.len()).filter(|at| seq(&bodies[*at]).is_some_and(|seq| seq < 8 || seq + 8 > begin)) {
            let mut changed = bodies.clone();
            changed[at] = edit(&bodies[at], "t0", Some("1"));
            let (_, verdicts) = told(&changed);
            assert!(verdicts.contains(&Verdict::Tampered), "{at}: {verdicts:?}");
        }
    }
}

/// The whole ledger, without some entries (and the heads between them).
fn without(operator: &Operator, entries: std::ops::Range<u64>) -> Vec<String> {
    let mut last = None;
    let kept = operator.bodies.iter().filter(|body| {
        last = seq(body).or(last);
        !last.is_some_and(|seq| entries.contains(&seq))
    });
    kept.cloned().collect()
}

#[test]
fn v2_entries_that_are_missing_ahead_of_a_restatement_are_told() {
    let (a, b) = (honest("p", 1), honest("q", 2));
    let operator = restated();
    let begin = begin(&operator);
    let all = [a.all(), b.all()].concat();
    let bodies = without(&operator, 5..begin);
    let (ledger, findings) = read(&ledger_key(), &bodies);
    assert_eq!(findings, []);
    let ledger = ledger.expect("restated behind them");
    let told = report(&all, ledger.clone());
    assert_eq!(found(&told), ["MISSING", "GAP 9..10", "GAP 9..10"]);
    assert!(told.findings[0].message.starts_with(&format!("entries 5 to {} of ledger", begin - 1)), "{told:?}");
    // Not of the time that is looked at.
    let last_ns = ledger.missing[0].between_ns.1;
    let scope = Scope { from_ns: Some(last_ns + 1), ..Scope::default() };
    let trust = Trust { ledger: Some(ledger), ..Trust::default() };
    let later = verify(&all, Settings { scope, ..settings() }, trust);
    assert!(!later.findings.iter().any(|found| found.stream.is_none() && found.verdict == Verdict::Missing));
    // A ledger that begins there misses nothing, and says from where it tells.
    let (ledger, findings) = read(&ledger_key(), &from(&operator, begin));
    assert_eq!(findings, []);
    let told = report(&all, ledger.expect("restated"));
    assert_eq!(found(&told), ["GAP 9..10", "GAP 9..10"]);
    let limit = format!("was read from entry {begin} on");
    assert!(told.not_concluded.iter().any(|said| said.contains(&limit)), "{:?}", told.not_concluded);
    // Entries that no head covers ahead of what is missing say nothing.
    let forged = Entry {
        fact: Said::Fork(a.sid.clone(), String::new()),
        prev: bodies
            .iter()
            .rfind(|body| seq(body) == Some(4))
            .map(|body| crate::evidence::merkle::leaf(body.as_bytes())),
        ..Entry::parse(operator.bodies.iter().find(|body| seq(body) == Some(5)).expect("it").as_bytes()).expect("it")
    };
    let forged = [&bodies[..], &[String::from_utf8(forged.body()).expect("ASCII")]].concat();
    let (_, findings) = read(&ledger_key(), &forged);
    assert_eq!(findings.iter().map(|(verdict, _)| *verdict).collect::<Vec<_>>(), [Verdict::Foreign]);
}

#[test]
fn w4_what_was_not_covered_before_the_time_that_is_looked_at_is_over() {
    let writer = honest("p", 1);
    let bare = |name: &str, from_ns: u64| UncoveredRow {
        uid: name.to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        reason: "HostNetwork".to_owned(),
        from_ns,
    };
    let mut operator = Operator::new();
    operator.closed(&writer).block(&[Said::Uncovered(bare("job-1", 100), None)], &[]);
    operator.block(&[Said::Uncovered(bare("job-1", 100), Some(200)), Said::Uncovered(bare("job-2", 300), None)], &[]);
    let gaps = |from_ns: Option<u64>, to_ns: Option<u64>| {
        let scope = Scope { from_ns, to_ns, ..Scope::default() };
        let trust = Trust { ledger: Some(operator.ledger()), ..Trust::default() };
        let report = verify(&writer.all(), Settings { scope, ..settings() }, trust);
        let of = |name: &str| {
            let gap = |found: &&Finding| found.verdict == Verdict::Gap && found.message.contains(name);
            report.findings.iter().filter(gap).count()
        };
        (of("job-1"), of("job-2"))
    };
    let table = [
        (None, None, (1, 1)),
        (Some(200), None, (1, 1)),
        (Some(201), None, (0, 1)),
        (Some(NOW), None, (0, 1)),
        (None, Some(299), (1, 0)),
        (Some(201), Some(299), (0, 0)),
    ];
    for (from_ns, to_ns, expected) in table {
        assert_eq!(gaps(from_ns, to_ns), expected, "{from_ns:?} to {to_ns:?}");
    }
}

#[test]
fn w4_what_ended_while_entries_are_missing_is_not_expected_for_ever() {
    let pod = PodRow {
        uid: "gone".to_owned(),
        namespace: "shop".to_owned(),
        name: "web-9".to_owned(),
        injection_id: "i".to_owned(),
        from_ns: 1,
    };
    let mut operator = Operator::new();
    operator.closed(&honest("p", 1)).block(&[Said::Expected(pod)], &[]);
    let last = operator.book.size();
    operator.block(&[Said::Gone("gone".to_owned())], &[]);
    for _ in 0..STATE_EVERY_BLOCKS {
        operator.block(&[Said::Heads(Vec::new())], &[]);
    }
    let begin = begin(&operator);
    let (ledger, _) = read(&ledger_key(), &without(&operator, last..begin));
    let ledger = ledger.expect("restated");
    assert_eq!(ledger.pods.iter().map(|pod| pod.to_ns).collect::<Vec<_>>(), [Some(ledger.missing[0].between_ns.1)]);
}

#[test]
fn v4_a_pushed_head_of_a_stream_is_no_head_of_the_ledger() {
    let mut writer = sink_down("p");
    writer.close();
    let mut operator = Operator::new();
    operator.certify(&writer).shown(&writer, 4);
    let end = Said::Closed(writer.sid.clone(), 10, root(&writer, 10));
    operator.block(&[end, abandoned(&writer, 6, 10)], &[]);
    let export = [&writer.bodies[..6], &writer.heads[..1]].concat();
    let honest = found(&report(&export, operator.ledger()));
    let at = operator.bodies.iter().rfind(|body| body.contains("ledger-head")).expect("an entry");
    let entry = Entry::parse(at.as_bytes()).expect("an entry");
    let Said::Heads(rows) = &entry.fact else { unreachable!("heads") };
    let forged = Said::Heads(vec![HeadRow { size: 5, root: writer.leaves[0], ..rows[0] }]);
    let forged = String::from_utf8(Entry { fact: forged, ..entry }.body()).expect("ASCII");
    let later = Entry { seq: 1, ..Entry::parse(forged.as_bytes()).expect("an entry") };
    let later = String::from_utf8(later.body()).expect("ASCII");
    let (ledger, findings) = read(&ledger_key(), &[&operator.bodies[..], &[forged, later]].concat());
    assert_eq!(findings.iter().map(|(verdict, _)| *verdict).collect::<Vec<_>>(), [Verdict::Foreign]);
    assert_eq!(found(&report(&export, ledger.expect("whole"))), honest);
}

#[test]
fn v4_copies_in_any_number_do_not_push_out_the_record_that_was_sealed() {
    let writer = honest("p", 1);
    let mut operator = Operator::new();
    operator.closed(&writer);
    let last = writer.bodies.len() - 1;
    let whole = |known: bool, more: &[String]| {
        let ledger = known.then(|| operator.ledger());
        verify(&[&writer.all()[..], more].concat(), settings(), Trust { ledger, ..Trust::default() })
    };
    // Open with the key of whoever pushes it, in the middle, and the last one, which no record names but only a head.
    for at in [0, 1, last] {
        let stranger = Key::new(77).public().to_string();
        let copy = |n: u64| {
            let body = edit(&writer.bodies[at], "t0", Some(&(NOW - n).to_string()));
            if at == 0 { edit(&body, "key", Some(&stranger)) } else { body }
        };
        for (known, count) in [(true, 7), (true, 8), (true, 40), (false, 40), (true, 900)] {
            let copies: Vec<String> = (0..count).map(copy).collect();
            let (honest, told) = (whole(known, &[]), whole(known, &copies));
            let found = found(&told);
            assert!(!found.iter().any(|found| found.starts_with("TAMPERED")), "{at}, {known}, {count}: {found:?}");
            assert_eq!(told.proved, honest.proved, "{at}, {known}, {count}");
            let foreign = format!("FOREIGN {at}..{}", at + 1);
            let some = found.iter().filter(|found| **found == foreign).count();
            assert_eq!(some, usize::try_from(count.min(9)).expect("few"), "{at}, {known}, {count}: {found:?}");
            assert!(!told.findings.iter().any(|finding| finding.verdict == Verdict::Unknown), "{:?}", told.findings);
        }
        // Of more than are read it is not known which one was sealed.
        let copies: Vec<String> = (0..3_000).map(copy).collect();
        let told = whole(true, &copies);
        assert!(!found(&told).iter().any(|found| found.starts_with("TAMPERED")), "{at}: {:?}", found(&told));
        assert_eq!(told.exit_code, 1);
    }
}

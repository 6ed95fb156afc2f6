//! Streams that somebody makes up are no end of memory, and hide nothing (V1, V4).

use super::crowd::Room;
use super::removed_tests::{Operator, ledger_key};
use super::tamper_tests::honest;
use super::testing::*;
use super::*;

const MADE_UP: usize = 200;

fn made_up(n: usize) -> String {
    format!("c/shop/made-up/{n:032x}-0-0")
}

/// Judges with little room for streams that nobody vouches for.
fn judged(bodies: &[String], ledger: Option<Ledger>, room: Room) -> Report {
    let projector = Projector::new(Shape { underscores: false, numbers_as_text: false });
    let (settings, mut intake, mut rows) = (settings(), Intake::default(), Vec::new());
    for (place, body) in (0..).zip(bodies) {
        intake.record(body, &Stored::default(), &projector, place, |row| rows.push(row.to_vec()));
    }
    ledger.iter().for_each(|ledger| intake.ledger_says(ledger, |row| rows.push(row.to_vec())));
    rows.sort_unstable();
    let trust = Trust { ledger, ledger_keys: vec![ledger_key()], ..Trust::default() };
    let mut verification = Verification::new(intake, settings, trust);
    verification.room = room;
    assert!(rows.iter().all(|row| verification.feed(row)));
    verification.finish()
}

const NONE: Room = Room { strangers: 3, waiting: 0, sources: 0 };

/// A record each of many streams, one of which names many more.
fn flood() -> Vec<String> {
    let names: Vec<String> = (0..MADE_UP).map(|n| made_up(1_000_000 + n)).collect();
    let named: Vec<String> = (0..MADE_UP).map(made_up).collect();
    let of = |name: &String| Writer::new(name.parse().expect("a name"), 5, &[("found", &named.join(","))]).bodies;
    names.iter().flat_map(of).collect()
}

/// Two streams, and the operator that knows them.
fn two_known() -> ([Writer; 2], Operator) {
    let both = [honest("p", 1), honest("q", 2)];
    let mut operator = Operator::new();
    both.iter().for_each(|stream| {
        operator.closed(stream);
    });
    (both, operator)
}

#[test]
fn v4_made_up_streams_are_counted_and_those_that_the_ledger_knows_are_judged_as_ever() {
    let ([good, bad], operator) = two_known();
    let honest = [good.all(), bad.all()].concat();
    let alone = judged(&honest, Some(operator.ledger()), NONE);
    let mut bodies = honest;
    let changed = bodies.iter().position(|body| *body == bad.bodies[3]).expect("a record");
    bodies[changed] = edit(&bad.bodies[3], "path", Some("/other"));
    for flooded in [[bodies.clone(), flood()].concat(), [flood(), bodies.clone()].concat()] {
        let report = judged(&flooded, Some(operator.ledger()), NONE);
        assert_eq!((report.verdict, report.exit_code), (Verdict::Tampered, 1));
        let verdicts: Vec<(&str, Verdict)> =
            report.streams.iter().map(|stream| (stream.sid.as_str(), stream.verdict)).collect();
        assert!(verdicts.contains(&(bad.sid.as_str(), Verdict::Tampered)), "{verdicts:?}");
        let known = |report: &Report| report.streams.iter().find(|stream| stream.sid == good.sid).map(|s| s.verdict);
        assert_eq!(known(&report), known(&alone));
        // What is not listed is counted.
        assert_eq!((report.streams.len(), report.more_streams), (2 + 3, MADE_UP as u64 - 3));
        assert_eq!(report.records, alone.records + MADE_UP as u64);
        assert_eq!(report.findings.iter().filter(|f| f.verdict == Verdict::Foreign).count(), MADE_UP);
    }
}

#[test]
fn v4_an_honest_export_is_judged_alike_however_little_room_there_is() {
    let ([good, other], operator) = two_known();
    let bodies = [good.all(), other.all()].concat();
    let all = judged(&bodies, Some(operator.ledger()), Room::default());
    let none = judged(&bodies, Some(operator.ledger()), Room { strangers: 0, ..NONE });
    assert_eq!(serde_json::to_value(&all).expect("JSON"), serde_json::to_value(&none).expect("JSON"));
    assert_eq!((all.more_streams, all.streams.len()), (0, 2));
}

/// Nobody vouches for these: without room for a statement about them, the worst that it may mean counts.
#[test]
fn v1_statements_for_which_there_is_no_room_hide_nothing() {
    let lost = honest("p", 7);
    // Its number is larger or smaller than that of the stream which names it.
    for boot in 0..16 {
        let name = format!("c/shop/p/{boot:032x}-0-0").parse().expect("a name");
        let mut next = Writer::new(name, 3, &[("after", lost.sid.as_str())]);
        next.close();
        let all = judged(&next.all(), None, Room::default());
        let none = judged(&next.all(), None, NONE);
        assert_eq!((all.verdict, all.exit_code), (Verdict::Missing, 1));
        assert_eq!((none.verdict, none.exit_code), (Verdict::Missing, 1));
        // Of a name that nothing proved says, nothing is missing.
        let pushed = judged(&next.bodies[..1], None, Room::default());
        assert!(!found(&pushed).iter().any(|found| found.starts_with("MISSING")), "{:?}", found(&pushed));
    }
}

#[test]
fn v1_names_that_are_forgotten_are_said_again() {
    let mut names = super::names::Names::default();
    let first = names.number(&made_up(0)).expect("a name");
    let mut said = Vec::new();
    for n in 1..70_000 {
        names.number(&made_up(n));
        names.say(|_, fact| said.push(fact));
    }
    assert_eq!(said.len(), 70_000);
    assert!(names.name(first).is_none());
    assert_eq!(names.number(&made_up(0)), Some(first));
    names.say(|_, fact| said.push(fact));
    assert_eq!(said.len(), 70_001);
}

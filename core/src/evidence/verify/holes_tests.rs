//! Many holes, and many statements of others: honest ones all count, and forged ones cost little (G2, D3, V4).

use super::chain::Chain;
use super::conclude::conclude;
use super::condition::Condition;
use super::settle::Proved;
use super::tamper_tests::{check, honest};
use super::testing::*;
use super::*;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;
use proptest::prelude::*;

/// More than any limit on what waits or follows at one place.
const MANY: usize = 1200;

pub(super) fn nodes(writer: &Writer, from: usize, to: usize) -> String {
    let mut range = Range::empty(from as u64);
    writer.leaves[from..to].iter().for_each(|leaf| range.push(*leaf));
    range.nodes().map(Hash::to_hex).collect::<Vec<_>>().join(",")
}

pub(super) fn declare(writer: &mut Writer, about: &str, from: u64, to: u64, nodes: &str) {
    let (from, to) = (from.to_string(), to.to_string());
    let hole = [("hole_sid", about), ("hole_from", &from), ("hole_to", &to), ("nodes", nodes)];
    writer.record("hole", &[&hole[..], &[("scope", "all"), ("hole_reason", "rejected")]].concat());
}

/// 0 open, then two exchanges for each of the holes that are declared behind them.
fn many_holes() -> Writer {
    let mut writer = Writer::new(sid("p", 0), 1, &[]);
    (0..2 * MANY).for_each(|_| writer.exchange("/a"));
    let own = writer.sid.to_string();
    for from in (1..=2 * MANY).step_by(2) {
        let nodes = nodes(&writer, from, from + 2);
        declare(&mut writer, &own, from as u64, from as u64 + 2, &nodes);
    }
    writer.close();
    writer
}

#[test]
fn g2_more_than_a_thousand_holes_count() {
    let writer = many_holes();
    assert_eq!(check(&writer.all()), [""; 0], "the records are there all the same");
    let lost = [&writer.bodies[..1], &writer.bodies[1 + 2 * MANY..], &writer.heads].concat();
    let report = verify(&lost, settings(), Trust::default());
    let holes = (1..=2 * MANY).step_by(2).map(|from| format!("GAP {from}..{}", from + 2));
    assert_eq!(found(&report), holes.collect::<Vec<_>>());
    assert_eq!(report.proved, 2 + MANY as u64, "all that is there");
    // Every second hole's records are there.
    let half: Vec<String> = writer
        .all()
        .into_iter()
        .enumerate()
        .filter(|(at, _)| at % 4 < 3 || *at > 2 * MANY)
        .map(|(_, body)| body)
        .collect();
    let found = check(&half);
    assert!(found.len() == MANY / 2 && found.iter().all(|found| found.starts_with("GAP ")), "{:?}", found.first());
    // One that is not declared.
    let mut more = lost;
    more.remove(1);
    assert_eq!(check(&more), ["MISSING 0..1".to_owned(), format!("MISSING 1..{}", 2 + 2 * MANY)]);
}

#[test]
fn g2_one_hole_may_be_declared_by_several_and_one_that_is_proved_is_enough() {
    let mut writer = Writer::new(sid("p", 0), 1, &[]);
    (0..6).for_each(|_| writer.exchange("/a"));
    let (own, lost) = (writer.sid.to_string(), nodes(&writer, 2, 5));
    declare(&mut writer, &own, 2, 5, &lost);
    writer.close();
    let mut bodies = writer.all();
    bodies.drain(2..5);
    let copies = (0..9).map(|n| edit(&writer.bodies[7], "hole_reason", Some(&format!("forged-{n}"))));
    bodies.extend(copies);
    // By one that no stream proves, too.
    let mut forger = Writer::new(sid("p", 7), 7, &[]);
    declare(&mut forger, &own, 2, 5, &lost);
    bodies.insert(0, forger.bodies.remove(1));
    for bodies in [bodies.clone(), bodies.iter().rev().cloned().collect()] {
        let found = check(&bodies);
        assert!(found.contains(&"GAP 2..5".to_owned()), "{found:?}");
        assert!(!found.iter().any(|found| found.starts_with("MISSING")), "{found:?}");
    }
}

/// Records of a stream that nobody signed, which declare two different holes at each of these places.
fn forged_holes(about: &str, places: u64, of_each: u64) -> Vec<String> {
    let mut forger = Writer::new(sid("p", 7), 7, &[]);
    for place in 0..places {
        for n in 0..of_each {
            declare(
                &mut forger,
                about,
                place,
                place + 1,
                &Hash::of(&[&place.to_be_bytes(), &n.to_be_bytes()]).to_hex(),
            );
        }
    }
    forger.bodies.split_off(1)
}

#[test]
fn v4_forged_holes_are_foreign_and_cost_little() {
    let victim = sid("p", 0);
    let far = edit(&edit(&honest("p", 1).bodies[3], "seq", Some("1000")), "prev", Some(&"ab".repeat(32)));
    for (places, of_each) in [(128, 2), (128, 16), (2, 2000), (3000, 2)] {
        let bodies = [forged_holes(victim.as_str(), places, of_each), vec![far.clone()]].concat();
        let report = verify(&bodies, settings(), Trust::default());
        assert_eq!((report.verdict, report.exit_code), (Verdict::Foreign, 1), "{places} {of_each}");
        assert_eq!(found(&report).iter().filter(|found| *found == "FOREIGN").count(), 2, "{:?}", report.findings);
        // A genuine stream stands as it stood.
        let writer = honest("p", 1);
        let found = check(&[forged_holes(victim.as_str(), places, of_each), writer.all()].concat());
        let expected = ["FOREIGN", "GAP 9..10"];
        assert!(expected.iter().all(|expected| found.contains(&(*expected).to_owned())), "{found:?}");
        let known = |found: &String| expected.contains(&found.as_str()) || found == "UNKNOWN";
        assert!(found.iter().all(known), "{found:?}");
    }
}

#[test]
fn d3_v4_many_forged_statements_of_an_end_cost_little_and_are_told() {
    let mut crashed = Writer::new(sid("p", 0), 1, &[]);
    (0..40).for_each(|_| crashed.exchange("/a"));
    let whole = crashed.range(41).root().expect("from 0").to_hex();
    let other = "cd".repeat(32);
    // Of one size with the true root and a wrong one, of many sizes, and beyond all that is there; each with all records and
    // with some absent.
    let forged = |size: &dyn Fn(usize) -> usize, root: &str| -> Vec<String> {
        let mut forger = Writer::new(sid("p", 7), 7, &[]);
        for n in 0..3000 {
            let (size, head) = (size(n).to_string(), (n + 100).to_string());
            let told = [("rec_sid", crashed.sid.as_str()), ("size", &size), ("root", root), ("state", "lost")];
            forger.record("recovered", &[&told[..], &[("head_size", &head)]].concat());
        }
        forger.bodies.split_off(1)
    };
    let mut holed = crashed.all();
    holed.retain(|body| crashed.bodies[2..].iter().step_by(2).any(|kept| kept == body));
    for statements in
        [forged(&|_| 41, &whole), forged(&|_| 41, &other), forged(&|n| 1 + n % 41, &other), forged(&|n| 50 + n, &other)]
    {
        for bodies in [crashed.all(), holed.clone()] {
            let report = verify(&[statements.clone(), bodies].concat(), settings(), Trust::default());
            let found = found(&report);
            assert_eq!(report.exit_code, 1, "{found:?}");
            assert!(found.contains(&"FOREIGN".to_owned()) && found.contains(&"UNKNOWN".to_owned()), "{found:?}");
        }
    }
}

#[test]
fn d3_v4_what_is_said_of_an_end_is_kept_once_however_many_say_it() {
    const GAPS: usize = 4000;
    let mut crashed = Writer::new(sid("p", 0), 1, &[]);
    (0..GAPS).for_each(|_| crashed.gap(1));
    let mut forger = Writer::new(sid("p", 7), 7, &[]);
    let sizes = [GAPS - 1, GAPS, GAPS + 1];
    for size in sizes {
        let root = crashed.range(size).root().expect("from 0").to_hex();
        let size = size.to_string();
        for _ in 0..257 {
            let told = [("rec_sid", crashed.sid.as_str()), ("size", &size), ("root", &root), ("state", "lost")];
            forger.record("recovered", &told);
        }
    }
    let (settings, trust) = (settings(), Trust::default());
    let (mut intake, mut rows) = (Intake::of(&settings.scope), Vec::new());
    let projector = Projector::new(Shape { underscores: false, numbers_as_text: false });
    for (place, body) in (0..).zip(crashed.bodies.iter().chain(&forger.bodies)) {
        intake.record(body, &Stored::default(), &projector, place, |row| rows.push(row.to_vec()));
    }
    rows.sort_unstable();
    let mut chain = Chain::new(crashed.sid.clone(), None, 0..=u64::MAX, None);
    let facts: Vec<(StreamNo, Fact)> = rows.iter().filter_map(|row| Fact::read(row)).collect();
    let of = |fact: &Fact| matches!(fact, Fact::Name(name) if *name == crashed.sid);
    let number = facts.iter().find(|(_, fact)| of(fact)).expect("a name").0;
    facts.into_iter().filter(|(stream, _)| *stream == number).for_each(|(_, fact)| chain.feed(fact));
    chain.end();
    let told = conclude(&chain, number, &settings, &trust);
    let [said] = &told.conditions[..] else { panic!("{} conditions", told.conditions.len()) };
    assert_eq!(1 + said.others.len(), sizes.len());
    let stored = |said: &Condition| said.yes.len() + said.no.len() + said.sources.len() + said.also.len();
    let stored = stored(said) + said.others.iter().map(stored).sum::<usize>();
    assert!(stored < (sizes.len() + 1) * (GAPS + 300), "{stored}");
    // One of those who say it is enough, whichever it is.
    let told: Vec<Source> = said.said_by().copied().collect();
    assert_eq!(told.len(), 257);
    let proved = |source: &Source| {
        let mut proved = Proved::new(false);
        proved.insert(*source);
        said.is_proved(&proved)
    };
    assert!(told.iter().all(proved));
}

#[test]
fn d3_a_long_row_of_starts_that_vouch_for_each_other_costs_little() {
    // Each was killed behind its last head, and the next one says what was found of it; the last one closes.
    const STARTS: u64 = 3000;
    let mut bodies = Vec::new();
    let mut before: Option<Writer> = None;
    for n in 0..STARTS {
        let mut writer = Writer::new(sid("p", n), 1, &[]);
        if let Some(before) = &before {
            let (name, size) = (before.sid.to_string(), before.size().to_string());
            let root = before.range(before.leaves.len()).root().expect("from 0").to_hex();
            let told = [("rec_sid", name.as_str()), ("size", &size), ("root", &root), ("state", "lost")];
            writer.record("recovered", &told);
        }
        if n + 1 == STARTS {
            writer.close();
        }
        bodies.extend(writer.all());
        // Somebody else says otherwise.
        bodies.extend(writer.bodies.get(1).filter(|_| n % 2 == 0).map(|body| edit(body, "state", Some("closed"))));
        before = Some(writer);
    }
    let found = check(&bodies);
    assert!(found.iter().all(|found| found == "FOREIGN 1..2"), "{:?} of {}", found.last(), found.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn g2_v1_the_order_of_the_input_says_nothing(order in any::<u64>(), lost in 0_usize..3, crowd in 0_u64..200) {
        let mut writer = Writer::new(sid("p", 0), 1, &[]);
        (0..6).for_each(|_| writer.exchange("/a"));
        let (own, nodes) = (writer.sid.to_string(), nodes(&writer, 2, 5));
        declare(&mut writer, &own, 2, 5, &nodes);
        writer.checkpoint();
        writer.exchange("/b");
        let size = writer.size();
        let root = writer.range(writer.leaves.len()).root().expect("from 0").to_hex();
        let mut next = Writer::new(sid("p", 9), 9, &[("found", &own)]);
        let size = size.to_string();
        let told = [("rec_sid", own.as_str()), ("size", &size), ("root", &root), ("state", "lost")];
        next.record("recovered", &told);
        next.close();
        let mut bodies = [writer.all(), next.all(), forged_holes(&own, 3, crowd)].concat();
        // The same hole by one that nothing proves, copies of each statement, and what is lost.
        let mut forger = Writer::new(sid("p", 8), 8, &[]);
        declare(&mut forger, &own, 2, 5, &nodes);
        bodies.push(forger.bodies.remove(1));
        bodies.push(edit(&writer.bodies[7], "hole_reason", Some("forged")));
        bodies.push(edit(&next.bodies[1], "state", Some("closed")));
        bodies.drain(2..2 + lost);
        let expected = check(&bodies);
        let mut state = order | 1;
        for at in (1..bodies.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bodies.swap(at, (state >> 33) as usize % (at + 1));
        }
        let sorted = |mut found: Vec<String>| {
            found.sort_unstable();
            found
        };
        prop_assert_eq!(sorted(check(&bodies)), sorted(expected));
    }
}

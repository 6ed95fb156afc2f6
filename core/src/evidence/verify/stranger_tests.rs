//! What one stream says of another one of its pod excuses only if somebody vouches for it: anyone who may push OTLP can sign a stream of
//! any pod with a key of their own (V2, V4, G2, D3).

use super::holes_tests::{declare, nodes};
use super::removed_tests::{Operator, root};
use super::testing::*;
use super::*;
use crate::evidence::ledger::{Fact as Said, PodRow};
use crate::evidence::note::PublicKey;
use crate::evidence::stream::StreamId;

const SECOND: u64 = 1_000_000_000;
const DAY_AGO: u64 = NOW - 86_400 * SECOND;

/// Certifies the streams that do not begin with `f`.
struct Genuine;

impl Certificates for Genuine {
    fn certify(&self, stream: &StreamId, _: &PublicKey, _: &[u8]) -> Result<(), String> {
        if stream.as_str().contains(&"f".repeat(32)) { Err("of nobody".to_owned()) } else { Ok(()) }
    }
}

/// What is given.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Given {
    Nothing,
    Roots,
    Ledger,
}

/// A stream of the pod under another boot: `n` is a hexadecimal digit.
fn another(n: &str, seed: u8, more: &[(&str, &str)]) -> Writer {
    let name = sid("p", 0).to_string().replace(&"0123456789abcdef".repeat(2), &n.repeat(32));
    Writer::new(name.parse().expect("a name"), seed, more)
}

/// 0 open, 1 its certificate, 2-7 exchanges, 8 checkpoint.
fn victim() -> Writer {
    let mut victim = Writer::new(sid("p", 0), 1, &[]);
    victim.record("certified", &[("cert", "MAAA")]);
    (0..6).for_each(|_| victim.exchange("/a"));
    victim.checkpoint();
    victim
}

fn recovered(writer: &mut Writer, of: &Writer, size: usize) {
    let (name, text, root) = (of.sid.to_string(), size.to_string(), root(of, size).to_hex());
    writer.record("recovered", &[("rec_sid", &name), ("size", &text), ("root", &root), ("state", "lost")]);
}

fn expected(operator: &mut Operator) -> &mut Operator {
    let (uid, namespace, name) = ("p".to_owned(), "shop".to_owned(), "web-0".to_owned());
    operator.block(&[Said::Expected(PodRow { uid, namespace, name, injection_id: "i".to_owned(), from_ns: 1 })], &[])
}

fn told(bodies: &[String], given: Given, operator: &Operator, settings: Settings) -> Vec<String> {
    let trust = match given {
        Given::Nothing => Trust::default(),
        Given::Roots => Trust { roots: Some(Box::new(Genuine)), ..Trust::default() },
        Given::Ledger => Trust { ledger: Some(operator.ledger()), ..Trust::default() },
    };
    let mut report = verify(bodies, settings, trust);
    let limit =
        "without trust roots and ledger, a stream that was made up excuses what is missing of others of its pod";
    assert_eq!(report.not_concluded.iter().any(|said| said == limit), given == Given::Nothing);
    report.findings.retain(|finding| finding.stream.as_ref().is_some_and(|sid| !sid.as_str().contains("/ffff")));
    found(&report)
}

#[test]
fn v2_g2_a_stream_that_nobody_vouches_for_declares_no_hole_in_another_one() {
    let mut victim = victim();
    victim.close();
    let mut operator = Operator::new();
    expected(&mut operator).ended(&victim);
    let holed = |by: &mut Writer| {
        declare(by, victim.sid.as_str(), 3, 6, &nodes(&victim, 3, 6));
        by.close();
        let left = victim.all().into_iter().enumerate().filter(|(at, _)| !(3..6).contains(at)).map(|(_, body)| body);
        left.chain(by.all()).collect::<Vec<_>>()
    };
    let mut forged = another("f", 66, &[("found", victim.sid.as_str())]);
    let removed = holed(&mut forged);
    let mut genuine = another("e", 2, &[]);
    genuine.record("certified", &[("cert", "MAAA")]);
    let honest = holed(&mut genuine);
    let mut knows_both = Operator::new();
    expected(&mut knows_both).ended(&victim).ended(&genuine);
    for reverse in [false, true] {
        let ordered = |bodies: &[String]| -> Vec<String> {
            if reverse { bodies.iter().rev().cloned().collect() } else { bodies.to_vec() }
        };
        assert_eq!(told(&ordered(&removed), Given::Nothing, &operator, settings()), ["GAP 3..6"]);
        for given in [Given::Roots, Given::Ledger] {
            assert_eq!(told(&ordered(&removed), given, &operator, settings()), ["MISSING 3..6"], "{given:?}");
            assert_eq!(told(&ordered(&honest), given, &knows_both, settings()), ["GAP 3..6"], "{given:?}");
            // Where both say it, whoever is vouched for counts.
            let both = [ordered(&honest), ordered(&forged.all())].concat();
            assert_eq!(told(&both, given, &knows_both, settings()), ["GAP 3..6"], "{given:?}");
        }
    }
    // With its certificate removed, too, the stream is known to nobody: that excuses nothing either.
    let mut forged = another("f", 66, &[]);
    declare(&mut forged, victim.sid.as_str(), 1, 8, &nodes(&victim, 1, 8));
    forged.close();
    let left = victim.all().into_iter().enumerate().filter(|(at, _)| !(1..8).contains(at)).map(|(_, body)| body);
    let left: Vec<String> = left.chain(forged.all()).collect();
    assert_eq!(told(&left, Given::Roots, &operator, settings()), ["MISSING 1..8", "UNANCHORED"]);
}

#[test]
fn v2_d3_a_stream_that_nobody_vouches_for_ends_no_other_one() {
    let mut victim = victim();
    (0..4).for_each(|_| victim.exchange("/b"));
    let mut operator = Operator::new();
    expected(&mut operator).certify(&victim).shown(&victim, 9);
    operator.now_ns = NOW;
    // Its end was cut off.
    let left = || victim.all().into_iter().filter(|body| !victim.bodies[9..].contains(body));
    let honest = told(&left().collect::<Vec<_>>(), Given::Roots, &operator, settings());
    assert_eq!(honest, ["UNCLOSED"]);
    let mut forged = another("f", 66, &[]);
    recovered(&mut forged, &victim, 9);
    forged.close();
    let bodies: Vec<String> = left().chain(forged.all()).collect();
    assert_eq!(told(&bodies, Given::Roots, &operator, settings()), honest);
    assert_eq!(told(&bodies, Given::Nothing, &operator, settings()), [""; 0]);
    // Nor does it say that there never was one which is named.
    let mut next = another("e", 2, &[("found", "c/shop/p/dddddddddddddddddddddddddddddddd-0-0")]);
    next.record("certified", &[("cert", "MAAA")]);
    next.close();
    let mut forged = another("f", 66, &[]);
    let nothing = [("rec_sid", "c/shop/p/dddddddddddddddddddddddddddddddd-0-0"), ("size", "0"), ("state", "lost")];
    forged.record("recovered", &[&nothing[..], &[("root", &"ab".repeat(32))]].concat());
    forged.close();
    let bodies = [next.all(), forged.all()].concat();
    assert_eq!(told(&bodies, Given::Nothing, &operator, settings()), [""; 0]);
    assert_eq!(told(&bodies, Given::Roots, &operator, settings()), ["MISSING"]);
    let mut operator = Operator::new();
    expected(&mut operator).ended(&next);
    assert_eq!(told(&bodies, Given::Ledger, &operator, settings()), ["MISSING"]);
}

/// The ledger did not come to know it before it was killed, but its successor is known.
#[test]
fn v2_d3_of_a_stream_that_a_known_one_found_no_stranger_declares_a_hole() {
    let mut killed = another("d", 4, &[]);
    (0..4).for_each(|_| killed.exchange("/a"));
    killed.checkpoint();
    let mut next = another("e", 3, &[("found", killed.sid.as_str())]);
    next.record("certified", &[("cert", "MAAA")]);
    recovered(&mut next, &killed, killed.leaves.len());
    next.close();
    let mut operator = Operator::new();
    expected(&mut operator).ended(&next);
    let mut forged = another("f", 66, &[]);
    declare(&mut forged, killed.sid.as_str(), 2, 4, &nodes(&killed, 2, 4));
    forged.close();
    let left = killed.all().into_iter().enumerate().filter(|(at, _)| !(2..4).contains(at)).map(|(_, body)| body);
    let all: Vec<String> = left.chain(next.all()).chain(forged.all()).collect();
    for bodies in [all.clone(), all.iter().rev().cloned().collect()] {
        assert_eq!(told(&bodies, Given::Nothing, &operator, settings()), ["GAP 2..4"]);
        for given in [Given::Roots, Given::Ledger] {
            let told = told(&bodies, given, &operator, settings());
            assert!(
                told.contains(&"MISSING 2..4".to_owned()) && !told.contains(&"GAP 2..4".to_owned()),
                "{given:?}: {told:?}"
            );
        }
    }
}

#[test]
fn v2_d3_what_a_known_stream_found_of_another_one_vouches_for_it() {
    let mut victim = victim();
    victim.close();
    // One that was gone before it was known.
    let mut short = another("f", 2, &[]);
    declare(&mut short, victim.sid.as_str(), 3, 6, &nodes(&victim, 3, 6));
    short.checkpoint();
    short.exchange("/c");
    let mut next = another("e", 3, &[("found", short.sid.as_str())]);
    next.record("certified", &[("cert", "MAAA")]);
    recovered(&mut next, &short, short.leaves.len());
    next.close();
    let mut operator = Operator::new();
    expected(&mut operator).ended(&victim).ended(&next);
    let left = victim.all().into_iter().enumerate().filter(|(at, _)| !(3..6).contains(at)).map(|(_, body)| body);
    let all: Vec<String> = left.chain(short.all()).chain(next.all()).collect();
    for bodies in [all.clone(), all.iter().rev().cloned().collect()] {
        assert_eq!(told(&bodies, Given::Roots, &operator, settings()), ["GAP 3..6"]);
        assert_eq!(told(&bodies, Given::Ledger, &operator, settings()), ["GAP 3..6"]);
    }
}

#[test]
fn v2_w4_a_hole_of_a_time_in_which_nobody_kept_the_ledger_is_unanchored() {
    let mut victim = victim();
    victim.close();
    let mut next = another("f", 2, &[("found", victim.sid.as_str())]);
    declare(&mut next, victim.sid.as_str(), 3, 6, &nodes(&victim, 3, 6));
    next.close();
    let left = victim.all().into_iter().enumerate().filter(|(at, _)| !(3..6).contains(at)).map(|(_, body)| body);
    let all: Vec<String> = left.chain(next.all()).collect();
    let judged =
        |operator: &Operator, now_ns: u64| told(&all, Given::Ledger, operator, Settings { now_ns, ..settings() });
    // The ledger says that nobody kept it.
    let mut operator = Operator::new();
    operator.now_ns = DAY_AGO - 60 * SECOND;
    expected(&mut operator).ended(&victim);
    let from_ns = operator.now_ns;
    operator.now_ns = DAY_AGO + 3_600 * SECOND;
    operator.block(&[Said::Resumed(from_ns)], &[]);
    operator.now_ns = NOW;
    assert_eq!(judged(&operator, NOW), ["UNANCHORED 3..6", "GAP 3..6"]);
    // It ends before, and nobody can say whether it goes on.
    let mut operator = Operator::new();
    operator.now_ns = DAY_AGO - 60 * SECOND;
    expected(&mut operator).ended(&victim);
    assert_eq!(judged(&operator, NOW), ["UNANCHORED 3..6", "GAP 3..6"]);
    // It had just been kept.
    assert_eq!(judged(&operator, DAY_AGO + 10 * SECOND), ["MISSING 3..6"]);
}

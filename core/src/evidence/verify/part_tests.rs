//! An export over a time holds a part of the ledger, in which reading need not be able to begin (V2, V4).

use super::ledger_tests::read;
use super::removed_tests::{Operator, ledger_key};
use super::tamper_tests::honest;
use super::testing::*;
use super::*;
use crate::evidence::ledger::Fact as Said;
use crate::evidence::note::SignedNote;
use crate::evidence::roots::NamedKey;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Entries 2 and 3 with a head, 4 with a head, 5 and 6 with a head; those before and their head are not there.
fn window() -> Vec<String> {
    let (a, b) = (honest("p", 1), honest("q", 2));
    let mut operator = Operator::new();
    operator.certify(&a);
    let first = operator.bodies.len();
    assert_eq!(operator.book.size(), 2, "the ledger's first entry, and what the block says");
    operator.block(&[gone("x"), gone("y")], &[]).certify(&b).block(&[gone("z"), gone("w")], &[]);
    operator.bodies.split_off(first)
}

/// The note of a head's body.
fn note(body: &String) -> String {
    let fields = crate::canon::parse_body(body.as_bytes()).expect("a body");
    String::from_utf8(STANDARD.decode(&fields["note"]).expect("base64")).expect("text")
}

fn gone(uid: &str) -> Said {
    Said::Gone(uid.to_owned())
}

fn verdicts(bodies: &[String]) -> Vec<Verdict> {
    let (ledger, findings) = read(&ledger_key(), bodies);
    assert!(ledger.is_none(), "{findings:?}");
    findings.into_iter().map(|(verdict, _)| verdict).collect()
}

#[test]
fn v2_a_part_of_a_ledger_in_which_reading_cannot_begin_is_unanchored() {
    let (ledger, findings) = read(&ledger_key(), &window());
    assert!(ledger.is_none());
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].0, Verdict::Unanchored);
    for said in ["only entries 2 to 6 are in the input", "--ledger FILE (`testimony ledger export`)"] {
        assert!(findings[0].1.contains(said), "{said}: {findings:?}");
    }
    let mut twice = [window(), window()].concat();
    twice.reverse();
    assert_eq!(verdicts(&twice), [Verdict::Unanchored]);
}

#[test]
fn v4_a_part_of_a_ledger_that_was_changed_stays_tampered() {
    let window = window();
    let is_head = |body: &String| body.contains("\"typ\":\"head\"");
    assert_eq!(window.iter().map(is_head).collect::<Vec<_>>(), [false, false, true, false, true, false, false, true]);
    let without = |at: &[usize]| -> Vec<String> {
        let left = window.iter().enumerate().filter(|(place, _)| !at.contains(place));
        left.map(|(_, body)| body.clone()).collect()
    };
    let with = |at: usize, key: &str, value: Option<&str>| {
        let mut changed = window.clone();
        changed[at] = edit(&window[at], key, value);
        changed
    };
    let copy = [&window[..], &[edit(&window[6], "pod", Some("other"))]].concat();
    // Another ledger of the same key and size, of which somebody kept a head.
    let mut other = Operator::new();
    other.block(&[gone("1"), gone("2"), gone("3"), gone("4"), gone("5"), gone("6")], &[]);
    let kept = [&window[..], &other.bodies[other.bodies.len() - 1..]].concat();
    other.block(&[gone("7")], &[]);
    let larger = [&window[..], &other.bodies[other.bodies.len() - 1..]].concat();
    for (what, bodies) in [
        ("an entry in the middle is gone", without(&[3])),
        ("an entry of a block is gone", without(&[1])),
        ("an entry was edited", with(1, "pod", Some("other"))),
        ("an entry has another time", with(3, "t0", Some("1"))),
        ("an entry is of no known form", with(6, "pod", None)),
        ("two bodies", copy),
        ("no head is there", without(&[2, 4, 7])),
        ("its own head says more", without(&[5, 6])),
        ("another root was signed for its size", kept),
        ("a head says more", larger),
    ] {
        assert_eq!(verdicts(&bodies), [Verdict::Tampered], "{what}");
    }
    // What no head covers is foreign here as it is in a whole ledger.
    assert_eq!(verdicts(&without(&[7])), [Verdict::Unanchored, Verdict::Foreign]);
}

#[test]
fn w3_a_part_of_a_ledger_with_a_cosigned_head_that_nobody_signed_is_tampered() {
    let (mut operator, mut other) = (Operator::new(), Operator::new());
    operator.certify(&honest("p", 1));
    other.certify(&honest("p", 1));
    let own = note(operator.bodies.last().expect("a head"));
    let first = operator.bodies.len();
    let foreign = own.replacen("ledger/", "ledger/1", 1);
    operator.block(&[Said::Witnessed(own)], &[]);
    other.block(&[Said::Witnessed(foreign)], &[]);
    assert_eq!(verdicts(&operator.bodies[first..]), [Verdict::Unanchored]);
    assert_eq!(verdicts(&other.bodies[first..]), [Verdict::Tampered]);
}

#[test]
fn v2_nothing_that_a_part_of_a_ledger_says_is_used() {
    let a = honest("p", 1);
    let window = window();
    for at in 0..window.len() {
        let bodies = [a.all(), window[..=at].to_vec()].concat();
        let trust = Trust { ledger_keys: vec![ledger_key()], ..Trust::default() };
        let report = judge_bodies(bodies.iter().map(String::as_str), settings(), trust);
        assert!(report.verdict >= Verdict::Unanchored, "{at}: {report:?}");
        assert!(report.streams.iter().all(|stream| !stream.certified), "{at}");
    }
}

#[test]
fn w3_a_ledger_of_which_nothing_is_left_is_tampered_if_somebody_kept_its_head() {
    let (mut operator, key) = (Operator::new(), ledger_key());
    operator.certify(&honest("p", 1));
    let note = SignedNote::parse(&note(operator.bodies.last().expect("a head"))).expect("a note");
    let read = |bodies: &[String], kept: &[SignedNote], key: &NamedKey| {
        let (_, findings) =
            Ledger::read_asked(&Asked { keys: std::slice::from_ref(key), kept, ..Asked::default() }, bodies);
        findings.into_iter().map(|finding| finding.verdict).collect::<Vec<_>>()
    };
    let kept = [note];
    assert_eq!(read(&operator.bodies, &kept, &key), []);
    assert_eq!(read(&[], &kept, &key), [Verdict::Tampered]);
    assert_eq!(read(&[], &[], &key), [Verdict::Unanchored]);
    // A head that the key of the roots did not sign tells nothing.
    let other = NamedKey { key: Key::new(7).public(), ..key };
    assert_eq!(read(&[], &kept, &other), [Verdict::Unanchored]);
}

//! What is said without a right to: of another pod's streams, with another head's cosignature, with another key (G2, D3, W3, V4).

use super::removed_tests::Operator;
use super::tamper_tests::{check, honest};
use super::testing::*;
use super::*;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;

const WITNESS: &str = "c/testimony-system/witness";

fn hole(writer: &mut Writer, about: &Writer, from: usize, to: usize) {
    let mut range = Range::empty(from as u64);
    about.leaves[from..to].iter().for_each(|leaf| range.push(*leaf));
    let nodes = range.nodes().map(Hash::to_hex).collect::<Vec<_>>().join(",");
    let (sid, from, to) = (about.sid.to_string(), from.to_string(), to.to_string());
    let fields = [("hole_sid", sid.as_str()), ("hole_from", &from), ("hole_to", &to), ("nodes", &nodes)];
    writer.record("hole", &[&fields[..], &[("scope", "all"), ("hole_reason", "rejected")]].concat());
}

fn recovered(writer: &mut Writer, about: &Writer, size: usize) {
    let root = about.range(size).root().expect("from 0").to_hex();
    let (sid, size) = (about.sid.to_string(), size.to_string());
    writer.record("recovered", &[("rec_sid", &sid), ("size", &size), ("root", &root), ("state", "lost")]);
}

/// A later start in the pod, that names this stream.
fn later(pod: &str, found: &Writer) -> Writer {
    Writer::new(sid(pod, 9), 9, &[("found", found.sid.as_str())])
}

fn crashed() -> Writer {
    let mut crashed = Writer::new(sid("p", 0), 1, &[]);
    (0..3).for_each(|_| crashed.exchange("/a"));
    crashed.checkpoint();
    (0..3).for_each(|_| crashed.exchange("/b"));
    crashed
}

#[test]
fn g2_d3_no_pod_vouches_for_the_streams_of_another_one() {
    let excused = |pod: &str| {
        let whole = honest("p", 1);
        let mut says = later(pod, &whole);
        hole(&mut says, &whole, 2, 5);
        says.close();
        let mut bodies = [whole.all(), says.all()].concat();
        bodies.drain(2..5);
        check(&bodies)
    };
    assert_eq!(excused("p"), ["GAP 2..5", "GAP 9..10"]);
    // The tree cannot be followed over what only another pod tells, up to the next frontier.
    assert_eq!(excused("q"), ["FOREIGN 0..1", "FOREIGN 1..2", "MISSING 0..2", "MISSING 2..5", "GAP 9..10"]);
    let ended = |pod: &str| {
        let crashed = crashed();
        let mut says = later(pod, &crashed);
        recovered(&mut says, &crashed, 8);
        says.close();
        check(&[crashed.all(), says.all()].concat())
    };
    assert_eq!(ended("p"), [""; 0]);
    assert_eq!(ended("q"), ["FOREIGN 0..1", "FOREIGN 1..2", "UNCLOSED"]);
    // That a stream was there is no other pod's to say either.
    let named = |pod: &str| {
        let mut says = later(pod, &crashed());
        says.close();
        check(&says.all())
    };
    assert_eq!(named("p"), ["MISSING"]);
    assert_eq!(named("q"), ["FOREIGN 0..1"]);
    // The same pod in another namespace or cluster is another pod.
    for other in ["c/other/p", "d/shop/p"] {
        let whole = honest("p", 1);
        let name = sid("p", 9).to_string().replace("c/shop/p", other);
        let mut says = Writer::new(name.parse().expect("a name"), 9, &[]);
        hole(&mut says, &whole, 2, 5);
        says.close();
        let mut bodies = [whole.all(), says.all()].concat();
        bodies.drain(2..5);
        let found = check(&bodies);
        assert!(found.contains(&"MISSING 2..5".to_owned()) && found.contains(&"FOREIGN 1..2".to_owned()), "{found:?}");
    }
}

#[test]
fn d3_g2_v4_a_forged_hole_and_a_forged_recovery_leave_the_tail_as_it_is() {
    let crashed = crashed();
    let mut says = later("p", &crashed);
    recovered(&mut says, &crashed, 8);
    says.close();
    let honest = [crashed.all(), says.all()].concat();
    assert_eq!(check(&honest), [""; 0]);
    // Made-up hashes of two records behind the last head, and the root with them.
    let forged = [Hash::of(&[b"a"]), Hash::of(&[b"b"])];
    let mut tree = crashed.range(5);
    assert!(tree.append(&Range::from_nodes(5, 7, &forged).expect("two subtrees")));
    tree.push(crashed.leaves[7]);
    let root = tree.root().expect("from 0").to_hex();
    let mut forger = Writer::new(sid("p", 7), 7, &[]);
    let (own, nodes) = (crashed.sid.to_string(), forged.map(Hash::to_hex).join(","));
    let hole = [("hole_sid", own.as_str()), ("hole_from", "5"), ("hole_to", "7"), ("nodes", &nodes)];
    forger.record("hole", &[&hole[..], &[("scope", "all"), ("hole_reason", "rejected")]].concat());
    forger.record("recovered", &[("rec_sid", own.as_str()), ("size", "8"), ("root", &root), ("state", "lost")]);
    let bodies = [honest, forger.bodies.split_off(1)].concat();
    let report = verify(&bodies, settings(), Trust::default());
    assert_eq!(found(&report), ["FOREIGN"]);
    assert_eq!(report.proved, 8 + says.size());
    // Nor where nobody tells what became of it.
    let mut alone = crashed.all();
    alone.extend(bodies[bodies.len() - 2..].iter().cloned());
    assert_eq!(check(&alone), ["FOREIGN", "UNCLOSED"]);
}

#[test]
fn v3_scope_does_not_hide_what_another_namespace_says() {
    let scoped = |bodies: &[String]| {
        let scope = Scope { namespace: Some("shop".to_owned()), ..Scope::default() };
        found(&verify(bodies, Settings { scope, ..settings() }, Trust::default()))
    };
    let lost = crashed();
    let mut next = later("p", &lost);
    next.close();
    let name = sid("p", 7).to_string().replace("/shop/", "/other/");
    let mut stranger = Writer::new(name.parse().expect("a name"), 7, &[]);
    let nothing = [("rec_sid", lost.sid.as_str()), ("size", "0"), ("state", "lost")];
    stranger.record("recovered", &nothing);
    stranger.close();
    assert_eq!(scoped(&[next.all(), stranger.all()].concat()), ["MISSING"]);
    // Nor does one of the pod itself that nothing proves; one that is proved does.
    let mut forger = Writer::new(sid("p", 7), 7, &[]);
    forger.record("recovered", &nothing);
    let found = scoped(&[next.all(), vec![forger.bodies[1].clone()]].concat());
    assert_eq!(found, ["FOREIGN", "MISSING"]);
    let mut tells = later("p", &lost);
    tells.record("recovered", &nothing);
    tells.close();
    assert_eq!(scoped(&[tells.all(), vec![forger.bodies[1].clone()]].concat()), ["FOREIGN"]);
}

#[test]
fn g2_many_forged_names_do_not_hide_that_a_stream_is_missing() {
    let lost = crashed();
    let mut next = later("p", &lost);
    next.close();
    let forged = |pod: &'static str| {
        let lost = lost.sid.to_string();
        (0..1100_u64).map(move |n| Writer::new(sid(pod, 100 + n), 7, &[("found", &lost)]).bodies.remove(0))
    };
    // Those of another pod take no room.
    let found = check(&[forged("q").collect(), next.all()].concat());
    assert!(found.contains(&"MISSING".to_owned()) && found.contains(&"FOREIGN 0..1".to_owned()), "{:?}", &found[..3]);
    // Where there is no room, that is told.
    let found = check(&[forged("p").collect(), next.all()].concat());
    assert!(found.iter().any(|found| found == "MISSING" || found == "UNKNOWN"), "{:?}", &found[..3]);
}

#[test]
fn w3_a_cosignature_counts_for_its_own_head_alone() {
    let (a, b) = (honest("p", 1), honest("q", 2));
    let witness = Key::new(9);
    let trust =
        || Trust { witnesses: vec![Witness { name: WITNESS.to_owned(), key: witness.public() }], ..Trust::default() };
    let at_s = NOW / 1_000_000_000;
    let cosig = |head: &str| {
        let fields = crate::canon::parse_body(cosigned(head, WITNESS, &witness, at_s).as_bytes()).expect("a body");
        String::from_utf8(fields["cosig"].clone()).expect("text")
    };
    let table = [
        ("its own", cosig(&a.heads[3]), true),
        ("of another stream, of the same size", cosig(&b.heads[3]), false),
        ("of another size", cosig(&a.heads[2]), false),
        ("no note", "AAAA".to_owned(), false),
        ("no base64", "%%".to_owned(), false),
    ];
    for (name, cosig, counts) in table {
        let mut bodies = a.all();
        let last = bodies.len() - 1;
        bodies[last] = edit(&bodies[last], "cosig", Some(&cosig));
        let report = verify(&bodies, settings(), trust());
        assert_eq!(report.exposure.longest_ns.is_some(), counts, "{name}");
        assert_eq!(report.exposure.uncovered, if counts { 0 } else { 19 }, "{name}");
        let foreign = if counts { vec![] } else { vec!["FOREIGN"] };
        assert_eq!(found(&report), [&foreign[..], &["GAP 9..10"]].concat(), "{name}");
        assert_eq!(report.proved, 19, "{name}: the head itself holds");
    }
}

#[test]
fn w1_a_cosignature_of_another_head_says_nothing_of_the_ledgers_end() {
    let (a, b) = (honest("p", 1), honest("q", 2));
    let mut operator = Operator::new();
    operator.now_ns = NOW - 7_200_000_000_000;
    operator.closed(&a).closed(&b);
    let late = cosigned(&b.heads[3], WITNESS, &Key::new(9), NOW / 1_000_000_000);
    let fields = crate::canon::parse_body(late.as_bytes()).expect("a body");
    let cosig = String::from_utf8(fields["cosig"].clone()).expect("text");
    let told = |head: String| {
        let bodies = [&a.bodies[..], &a.heads[..3], &[head], &b.all()].concat();
        let report = verify(&bodies, settings(), Trust { ledger: Some(operator.ledger()), ..Trust::default() });
        report.findings.iter().any(|finding| finding.message.contains("the ledger that was given ends"))
    };
    assert!(told(cosigned(&a.heads[3], WITNESS, &Key::new(9), NOW / 1_000_000_000)));
    assert!(!told(edit(&a.heads[3], "cosig", Some(&cosig))));
}

/// 0 open, 1-3 exchanges, 4 checkpoint with a head, 5-6 exchanges, 7 the hole [2, 6), 8 close.
fn head_in_a_hole() -> Writer {
    let mut writer = Writer::new(sid("p", 0), 1, &[]);
    (0..3).for_each(|_| writer.exchange("/a"));
    writer.checkpoint();
    (0..2).for_each(|_| writer.exchange("/b"));
    let about = leaves_of(&writer);
    hole(&mut writer, &about, 2, 6);
    writer.close();
    writer
}

fn leaves_of(writer: &Writer) -> Writer {
    let mut copy = Writer::new(writer.sid.clone(), 1, &[]);
    copy.leaves.clone_from(&writer.leaves);
    copy
}

#[test]
fn h1_v4_a_head_within_a_hole_must_be_signed_by_the_key_and_once() {
    let writer = head_in_a_hole();
    let without = |from: usize, to: usize, heads: &[String]| {
        check(&[&writer.bodies[..from], &writer.bodies[to..], heads].concat())
    };
    assert_eq!(without(2, 6, &writer.heads), ["GAP 2..6"]);
    // The same head by somebody else; another one by the stream's key.
    let mut other = Writer::new(sid("p", 0), 1, &[]);
    (0..4).for_each(|_| other.exchange("/other"));
    let forged = head_body(&other.note(&Key::new(77)), None);
    let fork = head_body(&other.note(&Key::new(1)), None);
    let with = |more: &String| [&writer.heads[..], std::slice::from_ref(more)].concat();
    for (from, to) in [(2, 6), (3, 6), (2, 5), (4, 5)] {
        let (told, twice) = (without(from, to, &with(&forged)), without(from, to, &with(&fork)));
        assert!(told.contains(&"FOREIGN".to_owned()), "{from}..{to}: {told:?}");
        assert!(twice.contains(&"FORK".to_owned()), "{from}..{to}: {twice:?}");
    }
    let last = &writer.heads[1..];
    assert_eq!(without(2, 6, &[last, &[forged]].concat()), ["FOREIGN", "GAP 2..6"]);
}

#[test]
fn k2_a_head_within_a_hole_may_be_of_a_key_that_went_with_it() {
    let mut writer = Writer::new(sid("p", 0), 1, &[]);
    (0..2).for_each(|_| writer.exchange("/a"));
    writer.rollover();
    writer.exchange("/b");
    writer.head(false);
    writer.exchange("/b");
    let about = leaves_of(&writer);
    hole(&mut writer, &about, 2, 6);
    writer.close();
    let found = check(&[&writer.bodies[..2], &writer.bodies[6..], &writer.heads].concat());
    assert!(!found.iter().any(|found| found.starts_with("FO")), "{found:?}");
}

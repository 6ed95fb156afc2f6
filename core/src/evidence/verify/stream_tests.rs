//! What a stream says of itself and of others: gaps, holes, totals, recovery; filtered exports.

use super::tamper_tests::{check, honest};
use super::testing::*;
use super::*;
use crate::evidence::hash::Hash;

#[test]
fn g1_g3_gaps_and_totals_cannot_be_changed_or_wrong() {
    let writer = honest("p", 1);
    let mut bodies = writer.all();
    bodies[9] = edit(&bodies[9], "count", Some("1"));
    assert_eq!(check(&bodies), ["TAMPERED 9..10"]);
    bodies.remove(9);
    assert_eq!(check(&bodies), ["MISSING 9..10"]);
    // A sidecar that does not count what it leaves out.
    let mut writer = Writer::new(sid("p", 0), 1, &[]);
    writer.exchange("/a");
    writer.record("checkpoint", &[("begun", "2"), ("exchanges", "1")]);
    writer.head(false);
    writer.record("close", &[("begun", "2"), ("exchanges", "2")]);
    writer.head(false);
    assert_eq!(check(&writer.all()), ["TAMPERED 3..4", "MISSING 2..3"]);
}

#[test]
fn g3_what_policy_leaves_out_stands_under_a_revision_and_a_rule() {
    let found_with = |none: &str, more: &[(&str, &str)]| {
        let mut writer = Writer::new(sid("p", 0), 1, &[]);
        writer.exchange("/a");
        let begun = (1 + none.parse::<u64>().expect("a number")).to_string();
        let totals = [("begun", begun.as_str()), ("exchanges", "1"), ("none", none)];
        writer.record("close", &[&totals[..], more].concat());
        writer.head(false);
        check(&writer.all())
    };
    let by = |list: &'static str| [("none_by", list)];
    assert_eq!(found_with("5", &by("0011/probes=3,0011/a%252Cb%253Dc=1,other=1")), [""; 0]);
    assert_eq!(found_with("0", &[]), [""; 0]);
    assert_eq!(found_with("5", &by("0011/probes=3")), ["MISSING 2..3"]);
    assert_eq!(found_with("5", &[]), ["MISSING 2..3"]);
    assert_eq!(found_with("2", &by("0011/probes=3")), ["TAMPERED 2..3"]);
    assert_eq!(found_with("0", &by("0011/probes=3")), ["TAMPERED 2..3"]);
    for odd in ["probes", "probes=", "probes=-1", "a=1,,b=x"] {
        assert_eq!(found_with("1", &[("none_by", odd)])[0], "UNKNOWN 2..3", "{odd}");
    }
    // A list that was cut cannot be summed up.
    assert_eq!(found_with("5", &[("none_by", "0011/probes=3"), ("trunc", "none_by=9000")]), [""; 0]);
    assert_eq!(found_with("5", &[("none_by", "0011/probes=3"), ("trunc", "other_none_by=9000")]), ["MISSING 2..3"]);
}

#[test]
fn g2_a_hole_stands_for_what_is_lost() {
    let mut writer = Writer::new(sid("p", 0), 1, &[]);
    (0..6).for_each(|n| writer.exchange(&format!("/{n}")));
    let mut range = crate::evidence::merkle::Range::empty(2);
    writer.leaves[2..5].iter().for_each(|leaf| range.push(*leaf));
    let nodes: Vec<String> = range.nodes().map(crate::evidence::hash::Hash::to_hex).collect();
    let own = writer.sid.to_string();
    writer.record(
        "hole",
        &[
            ("hole_sid", &own),
            ("hole_from", "2"),
            ("hole_to", "5"),
            ("scope", "all"),
            ("hole_reason", "rejected"),
            ("nodes", &nodes.join(",")),
        ],
    );
    writer.close();
    assert_eq!(check(&writer.all()), [""; 0], "the records are there all the same");
    let mut bodies = writer.all();
    bodies.drain(2..5);
    assert_eq!(check(&bodies), ["GAP 2..5"]);
    // Some of them are there.
    let mut bodies = writer.all();
    bodies.drain(3..5);
    assert_eq!(check(&bodies), ["GAP 2..5"]);
    // One more than declared.
    let mut bodies = writer.all();
    bodies.drain(2..6);
    assert_eq!(check(&bodies), ["MISSING 5..6", "GAP 2..5"]);
    // A hole that nobody sealed.
    let mut bodies = writer.all();
    bodies.drain(2..5);
    let forged = edit(&bodies[4], "hole_to", Some("6"));
    bodies[4] = edit(&forged, "hole_from", Some("3"));
    let found = check(&bodies);
    assert!(found.contains(&"TAMPERED 7..8".to_owned()) && found.contains(&"MISSING 2..5".to_owned()), "{found:?}");
}

/// 0 open, 1-6 exchanges, 7 a hole of [2, 5) with this scope.
fn with_a_hole(scope: &str) -> Writer {
    let mut writer = Writer::new(sid("p", 0), 1, &[]);
    (0..6).for_each(|n| writer.exchange(&format!("/{n}")));
    let mut range = crate::evidence::merkle::Range::empty(2);
    writer.leaves[2..5].iter().for_each(|leaf| range.push(*leaf));
    let nodes: Vec<String> = range.nodes().map(crate::evidence::hash::Hash::to_hex).collect();
    let (own, nodes) = (writer.sid.to_string(), nodes.join(","));
    let hole = [("hole_sid", own.as_str()), ("hole_from", "2"), ("hole_to", "5"), ("nodes", nodes.as_str())];
    writer.record("hole", &[&hole[..], &[("scope", scope), ("hole_reason", "rejected")]].concat());
    writer
}

/// With a hole for the sink `b`, 8 an exchange, 9 close.
fn with_a_hole_of_b() -> Writer {
    let mut writer = with_a_hole("sink=b");
    writer.exchange("/6");
    writer.close();
    writer
}

fn export_of(bodies: &[String], sink: Option<&str>) -> Report {
    verify(bodies, Settings { sink: sink.map(str::to_owned), ..settings() }, Trust::default())
}

#[test]
fn g2_a_hole_of_another_sink_excuses_nothing() {
    let writer = with_a_hole_of_b();
    let without = |from: usize, to: usize| [&writer.all()[..from], &writer.all()[to..]].concat();
    let found_in = |bodies: &[String], sink| found(&export_of(bodies, sink));
    assert_eq!(found_in(&without(2, 5), Some("b")), ["GAP 2..5"]);
    let report = export_of(&without(2, 5), Some("a"));
    assert_eq!(found(&report), ["MISSING 2..5"]);
    assert_eq!((report.exit_code, report.proved), (1, 7), "what is there is proved all the same");
    assert!(report.findings[0].message.ends_with("another sink's: rejected (sink=b)"), "{:?}", report.findings[0]);
    // What the export of the other sink must have is there.
    assert_eq!(found_in(&writer.all(), Some("a")), [""; 0]);
    // Of some that are there it is not told which ones, as with a hole that counts.
    assert_eq!(found_in(&without(3, 4), Some("a")), ["MISSING 2..5"]);
    let mut edited = writer.all();
    edited[3] = edit(&edited[3], "path", Some("/x"));
    assert_eq!(found_in(&edited, Some("a")), ["TAMPERED 3..4"]);
    let copy = edit(&writer.bodies[3], "path", Some("/x"));
    assert_eq!(found_in(&[writer.all(), vec![copy]].concat(), Some("a")), ["FOREIGN 3..4"]);
    let partial = Settings { sink: Some("a".to_owned()), partial: true, ..settings() };
    let found = found(&verify(&without(2, 5), partial, Trust::default()));
    assert_eq!(found, ["PARTIAL", "PARTIAL 2..5"], "absence proves nothing");
}

#[test]
fn g2_v3_a_hole_of_any_sink_is_accepted_and_told_where_the_sink_is_not_known() {
    let writer = with_a_hole_of_b();
    let mut bodies = writer.all();
    let told =
        |report: &Report| report.not_concluded.iter().any(|limit| limit.contains("whose export this is was not said"));
    assert!(!told(&export_of(&bodies, None)), "it excused nothing");
    bodies.drain(2..5);
    let report = export_of(&bodies, None);
    assert_eq!(found(&report), ["GAP 2..5"]);
    assert!(told(&report), "{:?}", report.not_concluded);
    assert!(!told(&export_of(&bodies, Some("b"))));
    // A scope that is neither: the record is genuine, and says nothing.
    let mut odd = Writer::new(sid("p", 0), 1, &[]);
    let hole = [("hole_from", "0"), ("hole_to", "1"), ("scope", "sink="), ("hole_reason", "rejected")];
    let (own, node) = (odd.sid.to_string(), odd.leaves[0].to_hex());
    odd.record("hole", &[&hole[..], &[("hole_sid", &own), ("nodes", &node)]].concat());
    odd.close();
    assert_eq!(check(&odd.all()), ["UNKNOWN 1..2"]);
}

#[test]
fn d3_a_later_start_proves_the_tail() {
    let mut crashed = Writer::new(sid("p", 0), 1, &[]);
    (0..3).for_each(|_| crashed.exchange("/a"));
    crashed.checkpoint();
    (0..3).for_each(|_| crashed.exchange("/b"));
    let other = crashed.sid.to_string().replace("0123456789abcdef0123456789abcdef", &"f".repeat(32));
    let mut next = Writer::new(other.parse().expect("a name"), 2, &[("found", crashed.sid.as_str())]);
    let root = crashed.range(8).root().expect("from 0").to_hex();
    next.record(
        "recovered",
        &[("rec_sid", crashed.sid.as_str()), ("size", "8"), ("root", &root), ("state", "lost"), ("head_size", "5")],
    );
    next.close();
    let report = verify(&[crashed.all(), next.all()].concat(), settings(), Trust::default());
    assert_eq!(found(&report), [""; 0]);
    assert_eq!(report.proved, report.records);
    let mut cut = crashed.all();
    cut.remove(7);
    assert!(
        check(&[cut, next.all()].concat())
            .iter()
            .any(|found| found.starts_with("UNCLOSED") || found.starts_with("MISSING"))
    );
    let mut edited = crashed.all();
    edited[7] = edit(&edited[7], "path", Some("/c"));
    assert!(check(&[edited, next.all()].concat()).contains(&"TAMPERED 5..8".to_owned()));
    assert_eq!(check(&next.all()), ["MISSING"], "the stream as a whole");
    // V3: where not everything is there, that proves nothing; it may have ended before the window.
    let partial = Settings { partial: true, ..settings() };
    let window = Settings { scope: Scope { from_ns: Some(1), ..Scope::default() }, ..settings() };
    for settings in [partial, window] {
        let found = found(&verify(&next.all(), settings, Trust::default()));
        assert!(found.contains(&"PARTIAL".to_owned()) && !found.contains(&"MISSING".to_owned()), "{found:?}");
    }
}

#[test]
fn g2_d3_a_stream_that_holes_account_for_as_a_whole_is_a_gap_and_not_missing() {
    let mut crashed = Writer::new(sid("p", 0), 1, &[]);
    (0..6).for_each(|_| crashed.exchange("/a"));
    let size = crashed.leaves.len();
    let root = crashed.range(size).root().expect("from 0").to_hex();
    let other = crashed.sid.to_string().replace("0123456789abcdef0123456789abcdef", &"f".repeat(32));
    let told = |upto: usize| {
        let mut next = Writer::new(other.parse().expect("a name"), 2, &[("found", crashed.sid.as_str())]);
        let size = size.to_string();
        let recovered = [("rec_sid", crashed.sid.as_str()), ("size", &size), ("root", &root)];
        next.record("recovered", &[&recovered[..], &[("state", "lost"), ("head_size", "0")]].concat());
        let nodes = crashed.range(upto).nodes().map(Hash::to_hex).collect::<Vec<_>>().join(",");
        let upto = upto.to_string();
        let hole = [("hole_sid", crashed.sid.as_str()), ("hole_from", "0"), ("hole_to", &upto), ("nodes", &nodes)];
        next.record("hole", &[&hole[..], &[("scope", "sink=a"), ("hole_reason", "spool_damaged")]].concat());
        next.close();
        next
    };
    // None of it ever came, as where its key went with the node.
    assert_eq!(check(&told(size).all()), ["GAP 0..7"]);
    assert_eq!(check(&told(size - 1).all()), ["MISSING"], "one is not accounted for");
    let mut unproved = told(size).all();
    unproved[2] = edit(&unproved[2], "hole_reason", Some("rejected"));
    assert!(check(&unproved).iter().any(|found| found.starts_with("MISSING")), "{:?}", check(&unproved));
}

#[test]
fn g2_d3_a_later_start_proves_what_a_hole_left_of_a_stream_without_heads() {
    let mut crashed = Writer::new(sid("p", 0), 1, &[]);
    (0..6).for_each(|_| crashed.exchange("/a"));
    let other = crashed.sid.to_string().replace("0123456789abcdef0123456789abcdef", &"f".repeat(32));
    let mut next = Writer::new(other.parse().expect("a name"), 2, &[("found", crashed.sid.as_str())]);
    let root = crashed.range(7).root().expect("from 0").to_hex();
    let told = [("rec_sid", crashed.sid.as_str()), ("size", "7"), ("root", &root), ("state", "lost")];
    next.record("recovered", &[&told[..], &[("head_size", "0")]].concat());
    let nodes = crashed.range(3).nodes().map(Hash::to_hex).collect::<Vec<_>>().join(",");
    let hole = [("hole_sid", crashed.sid.as_str()), ("hole_from", "0"), ("hole_to", "3"), ("nodes", &nodes)];
    next.record("hole", &[&hole[..], &[("scope", "sink=a"), ("hole_reason", "spool_damaged")]].concat());
    next.close();
    // The first frame of its spool is damaged: its key is gone with its first record.
    let left = || crashed.bodies.iter().skip(3).cloned();
    let all: Vec<String> = left().chain(next.all()).collect();
    assert_eq!(check(&all), ["GAP 0..3"]);
    let mut edited = all.clone();
    edited[1] = edit(&edited[1], "path", Some("/c"));
    let found = check(&edited);
    assert!(found.iter().any(|found| found.starts_with("TAMPERED")), "{found:?}");
    // Whoever is not proved proves nothing, and nobody does where only the records are there.
    let heads = next.heads.iter();
    let unproved: Vec<String> = all.iter().filter(|body| !heads.clone().any(|head| head == *body)).cloned().collect();
    assert!(check(&unproved).contains(&"FOREIGN".to_owned()), "{:?}", check(&unproved));
    assert!(check(&left().collect::<Vec<_>>()).contains(&"FOREIGN".to_owned()));
}

#[test]
fn d3_a_head_beyond_what_recovery_found_is_a_finding() {
    let mut crashed = Writer::new(sid("p", 0), 1, &[]);
    (0..3).for_each(|_| crashed.exchange("/a"));
    crashed.checkpoint();
    let name = crashed.sid.to_string().replace("0123456789abcdef0123456789abcdef", &"f".repeat(32));
    let recovered = |size: usize, head_size: u64| {
        let mut next = Writer::new(name.parse().expect("a name"), 2, &[("found", crashed.sid.as_str())]);
        let (size_text, head_size) = (size.to_string(), head_size.to_string());
        let root = crashed.range(size).root().map(crate::evidence::hash::Hash::to_hex).unwrap_or_default();
        let told = [("rec_sid", crashed.sid.as_str()), ("size", &size_text), ("root", &root), ("state", "lost")];
        next.record("recovered", &[&told[..], &[("head_size", &head_size)]].concat());
        next.close();
        next
    };
    let all = |next: &Writer| [crashed.all(), next.all()].concat();
    // As many records as the head covers.
    assert_eq!(check(&all(&recovered(5, 5))), [""; 0]);
    let next = recovered(5, 8);
    let report = verify(&all(&next), settings(), Trust::default());
    assert_eq!(found(&report), ["TAMPERED 5..8"]);
    assert_eq!((report.verdict, report.exit_code), (Verdict::Tampered, 1));
    assert!(
        report.findings[0].message.contains("5 records on its disk, but a head over 8"),
        "{:?}",
        report.findings[0]
    );
    // Nothing was on the disk, and nothing is in the export: that it was never kept excuses nothing.
    assert_eq!(check(&recovered(0, 0).all()), [""; 0]);
    assert_eq!(check(&recovered(0, 4).all()), ["TAMPERED 0..4", "MISSING"]);
    // Whoever is not proved accuses nobody.
    let mut forged = all(&recovered(5, 5));
    let at = forged.iter().position(|body| body.contains("\"typ\":\"recovered\"")).expect("it is there");
    forged.push(edit(&forged[at], "head_size", Some("9")));
    assert_eq!(check(&forged), ["FOREIGN 1..2"]);
}

#[test]
fn d3_v4_forged_copies_of_what_recovery_found_are_foreign_and_no_more() {
    // Records behind the last head, which only the next start vouches for.
    let crash = || {
        let mut crashed = Writer::new(sid("p", 0), 1, &[]);
        (0..3).for_each(|_| crashed.exchange("/a"));
        crashed.checkpoint();
        (0..3).for_each(|_| crashed.exchange("/b"));
        crashed
    };
    let crashed = crash();
    let name = crashed.sid.to_string().replace("0123456789abcdef0123456789abcdef", &"f".repeat(32));
    let mut next = Writer::new(name.parse().expect("a name"), 2, &[("found", crashed.sid.as_str())]);
    let root = |size: usize| crashed.range(size).root().expect("from 0").to_hex();
    let (size, whole) = (crashed.size().to_string(), root(8));
    let told = [("rec_sid", crashed.sid.as_str()), ("size", &size), ("root", &whole), ("state", "lost")];
    next.record("recovered", &[&told[..], &[("head_size", "5")]].concat());
    next.close();
    let honest = || [crashed.all(), next.all()].concat();
    assert_eq!(check(&honest()), [""; 0]);
    let copies: Vec<Vec<(&str, String)>> = vec![
        vec![("head_size", "9".to_owned())],
        vec![("head_size", "0".to_owned())],
        vec![("state", "closed".to_owned())],
        vec![("id", "another".to_owned())],
        vec![("size", "6".to_owned()), ("root", root(6))],
        vec![("size", "5".to_owned()), ("root", root(5))],
        vec![("size", "8".to_owned()), ("root", root(5))],
        vec![("size", "9".to_owned()), ("root", root(8))],
    ];
    let copy = |edits: &[(&str, String)]| {
        let body = next.bodies[1].clone();
        edits.iter().fold(body, |body, (key, value)| edit(&body, key, Some(value)))
    };
    for edits in &copies {
        assert_eq!(check(&[honest(), vec![copy(edits)]].concat()), ["FOREIGN 1..2"], "{edits:?}");
    }
    // All of them, and many more, whichever comes first.
    let all = copies.iter().map(|edits| copy(edits));
    assert_eq!(check(&all.take(7).chain(honest()).collect::<Vec<_>>()), ["FOREIGN 1..2"; 7]);
    // One that makes the stream longer, with a record that it made up.
    let mut longer = crash();
    longer.exchange("/c");
    let grown = [("size", "9".to_owned()), ("root", longer.range(9).root().expect("from 0").to_hex())];
    let bodies = [honest(), vec![longer.bodies[8].clone(), copy(&grown)]].concat();
    assert_eq!(check(&bodies), ["FOREIGN 8..9", "FOREIGN 1..2"]);
}

#[test]
fn v3_a_filtered_export_is_partial() {
    let writer = honest("p", 1);
    let partial = Settings { partial: true, ..settings() };
    let mut bodies = writer.all();
    bodies.remove(12);
    bodies.drain(3..5);
    let report = verify(&bodies, partial.clone(), Trust::default());
    assert_eq!(found(&report), ["GAP 9..10", "PARTIAL", "PARTIAL 0..3", "PARTIAL 3..5", "PARTIAL 12..13"]);
    bodies[3] = edit(&bodies[3], "t0", Some("1"));
    assert_eq!(found(&verify(&bodies, partial, Trust::default()))[0], "TAMPERED 5..6");
}

#[test]
fn h4_reading_can_begin_at_a_rollover() {
    let writer = honest("p", 1);
    let settings = Settings { partial: true, ..settings() };
    let bodies = [&writer.bodies[10..], &writer.heads[1..]].concat();
    let report = verify(&bodies, settings.clone(), Trust::default());
    assert_eq!(report.proved, 9, "{:?}", report.findings);
    assert!(found(&report).iter().all(|found| found.starts_with("PARTIAL")), "{:?}", found(&report));
    let mut edited = bodies;
    edited[3] = edit(&edited[3], "path", Some("/x"));
    assert_eq!(found(&verify(&edited, settings, Trust::default()))[0], "TAMPERED 13..14");
}

#[test]
fn g2_what_lies_in_a_hole_must_be_what_was_sealed() {
    let mut writer = with_a_hole("all");
    writer.close();
    for seqs in [&[2][..], &[3], &[4], &[2, 4], &[2, 3, 4]] {
        let mut bodies = writer.all();
        for seq in seqs {
            bodies[*seq] = edit(&bodies[*seq], "path", Some("/x"));
        }
        let found = check(&bodies);
        for seq in seqs {
            let told = [format!("TAMPERED {seq}..{}", seq + 1), format!("FOREIGN {seq}..{}", seq + 1)];
            assert!(found.iter().any(|found| told.contains(found)), "{seqs:?}: {found:?}");
        }
    }
    // Beside one that is not there.
    let mut bodies = writer.all();
    bodies[4] = edit(&bodies[4], "path", Some("/x"));
    bodies.remove(3);
    assert!(check(&bodies).contains(&"FOREIGN 4..5".to_owned()), "{:?}", check(&bodies));
}

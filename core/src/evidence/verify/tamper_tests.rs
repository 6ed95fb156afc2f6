//! The tamper suite: every change of an honest stream is found, with the right verdict (V1, V4, CH-2).

use super::testing::*;
use super::*;
use crate::evidence::note::SignedNote;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

/// 0 open, 1-4 exchanges, 5 checkpoint, 6-8, 9 gap, 10 rollover, 11-13, 14 checkpoint, 15-17, 18 close.
pub(super) fn honest(pod: &str, seed: u8) -> Writer {
    let mut writer = Writer::new(sid(pod, 0), seed, &[]);
    (0..4).for_each(|n| writer.exchange(&format!("/a/{n}")));
    writer.checkpoint();
    (0..3).for_each(|n| writer.exchange(&format!("/b/{n}")));
    writer.gap(3);
    writer.rollover();
    (0..3).for_each(|n| writer.exchange(&format!("/c/{n}")));
    writer.checkpoint();
    (0..3).for_each(|n| writer.exchange(&format!("/d/{n}")));
    writer.close();
    assert_eq!(writer.size(), 19);
    writer
}

pub(super) fn check(bodies: &[String]) -> Vec<String> {
    found(&verify(bodies, settings(), Trust::default()))
}

/// Without the declared gap, which every honest stream here has.
fn check_more(bodies: &[String]) -> Vec<String> {
    check(bodies).into_iter().filter(|found| found != "GAP 9..10").collect()
}

fn reversed_twice(bodies: &[String]) -> Vec<String> {
    bodies.iter().rev().chain(bodies.iter()).cloned().collect()
}

#[test]
fn v1_an_honest_stream_in_any_order_and_twice() {
    let writer = honest("p", 1);
    for bodies in [writer.all(), reversed_twice(&writer.all())] {
        let report = verify(&bodies, settings(), Trust::default());
        assert_eq!(found(&report), ["GAP 9..10"]);
        assert_eq!((report.records, report.proved), (19, 19));
        assert_eq!(report.verdict, Verdict::Unanchored, "without roots nothing is OK");
        assert_eq!(report.exit_code, 3);
        assert!(report.streams[0].closed);
    }
}

#[test]
fn ch_2_every_edit_is_found_where_it_was_made() {
    let writer = honest("p", 1);
    for seq in 0..writer.bodies.len() {
        for (key, value) in [("id", Some("x")), ("t0", Some("1")), ("trace_id", Some("a")), ("id", None)] {
            let mut bodies = writer.all();
            bodies[seq] = edit(&bodies[seq], key, value);
            let expected = vec![format!("TAMPERED {seq}..{}", seq + 1)];
            let found: Vec<String> = check(&bodies).into_iter().filter(|found| found != "GAP 9..10").collect();
            if seq == 18 {
                assert_eq!(found[0], "TAMPERED 15..19", "no record after the last one tells which it is");
            } else {
                assert_eq!(found, expected, "{key} of record {seq}");
            }
        }
    }
}

#[test]
fn ch_2_an_edit_of_prev_is_found_where_it_was_made() {
    let writer = honest("p", 1);
    let other = "ab".repeat(32);
    for seq in 1..writer.bodies.len() - 1 {
        let mut bodies = writer.all();
        bodies[seq] = edit(&bodies[seq], "prev", Some(&other));
        assert_eq!(check_more(&bodies), [format!("TAMPERED {seq}..{}", seq + 1)], "record {seq}");
    }
}

#[test]
fn ch_2_several_edits_are_all_found() {
    let writer = honest("p", 1);
    let mut bodies = writer.all();
    for seq in [1, 2, 3, 7, 12] {
        bodies[seq] = edit(&bodies[seq], "path", Some("/other"));
    }
    assert_eq!(
        check_more(&bodies),
        ["TAMPERED 1..2", "TAMPERED 2..3", "TAMPERED 3..4", "TAMPERED 7..8", "TAMPERED 12..13"]
    );
}

#[test]
fn ch_2_every_drop_is_found() {
    let writer = honest("p", 1);
    for seq in 0..writer.bodies.len() {
        let mut bodies = writer.all();
        bodies.remove(seq);
        let found = check_more(&bodies);
        assert!(found.contains(&format!("MISSING {seq}..{}", seq + 1)), "record {seq}: {found:?}");
        assert!(
            !found.iter().any(|found| found.starts_with("TAMPERED") || found.starts_with("FO")),
            "{seq}: {found:?}"
        );
        if (1..18).contains(&seq) && seq != 10 {
            assert_eq!(found.len(), 1, "record {seq}: {found:?}");
        }
    }
}

#[test]
fn ch_2_a_dropped_range_is_found_and_what_follows_is_proved_again() {
    let writer = honest("p", 1);
    let mut bodies = writer.all();
    bodies.drain(2..5);
    let report = verify(&bodies, settings(), Trust::default());
    assert_eq!(found(&report), ["MISSING 0..2", "MISSING 2..5", "GAP 9..10"]);
    assert_eq!(report.proved, 14, "all that is there, by the frontier of the rollover's head");
}

#[test]
fn ch_2_swapped_places_are_found() {
    let writer = honest("p", 1);
    let mut bodies = writer.all();
    let (a, b) = (bodies[2].clone(), bodies[7].clone());
    bodies[2] = edit(&b, "seq", Some("2"));
    bodies[7] = edit(&a, "seq", Some("7"));
    assert_eq!(check_more(&bodies), ["TAMPERED 2..3", "TAMPERED 7..8"]);
}

#[test]
fn v2_a_cut_tail() {
    let writer = honest("p", 1);
    // A head of what was cut is there.
    let mut bodies = writer.all();
    bodies.drain(16..19);
    let report = verify(&bodies, settings(), Trust::default());
    assert!(found(&report).contains(&"MISSING 16..19".to_owned()), "{:?}", found(&report));
    // The heads were cut too.
    let without: Vec<String> = [&writer.bodies[..16], &writer.heads[..3]].concat();
    let report = verify(&without, settings(), Trust::default());
    assert_eq!(found(&report), ["UNCLOSED", "GAP 9..10"]);
    // And while the stream is alive, that is how it looks.
    let now = Settings { now_ns: writer.time + 1_000_000_000, ..settings() };
    assert_eq!(found(&verify(&without, now, Trust::default())), ["GAP 9..10", "PENDING 15..16"]);
}

#[test]
fn v4_a_foreign_record_and_an_altered_copy() {
    let writer = honest("p", 1);
    let copy = edit(&writer.bodies[3], "path", Some("/x"));
    assert_eq!(check_more(&[writer.all(), vec![copy]].concat()), ["FOREIGN 3..4"]);
    let last = edit(&writer.bodies[18], "id", Some("x"));
    assert_eq!(check_more(&[writer.all(), vec![last]].concat()), ["FOREIGN 18..19"]);
    let after = edit(&edit(&writer.bodies[3], "seq", Some("19")), "prev", Some(&writer.leaves[18].to_hex()));
    assert_eq!(check_more(&[writer.all(), vec![after]].concat()), ["FOREIGN 19..20"]);
    let far = edit(&writer.bodies[3], "seq", Some("1000000"));
    assert_eq!(check_more(&[writer.all(), vec![far]].concat()), ["FOREIGN 1000000..1000001"]);
    let stranger = edit(&writer.bodies[3], "sid", Some(sid("q", 0).as_str()));
    assert_eq!(check_more(&[writer.all(), vec![stranger]].concat()), ["FOREIGN"]);
    let unsealed = edit(&writer.bodies[3], "sid", None);
    assert_eq!(check_more(&[writer.all(), vec![unsealed]].concat()), ["FOREIGN"]);
}

#[test]
fn v4_a_splice_of_two_pods() {
    let (a, b) = (honest("p", 1), honest("q", 2));
    let mut bodies = [a.all(), b.all()].concat();
    bodies[6] = edit(&b.bodies[6], "sid", Some(a.sid.as_str()));
    assert_eq!(check_more(&bodies), ["TAMPERED 6..7"]);
}

#[test]
fn k2_another_key_proves_nothing() {
    let writer = honest("p", 1);
    let rogue = Key::new(77);
    // The heads signed anew.
    let mut again = honest("p", 1);
    again.heads = resigned(&writer.heads, &rogue);
    let found = check_more(&again.all());
    assert!(found.iter().filter(|found| *found == "FOREIGN").count() == 4, "{found:?}");
    // The first record too: then nothing is left that the pod signed, but it is still another record than was chained.
    again.bodies[0] = edit(&again.bodies[0], "key", Some(&rogue.public().to_string()));
    let found = check_more(&again.all());
    assert!(found.contains(&"TAMPERED 0..1".to_owned()), "{found:?}");
    // The next key exchanged, and what follows signed with it.
    let mut next = honest("p", 1);
    next.bodies[10] = edit(&next.bodies[10], "next_key", Some(&rogue.public().to_string()));
    next.heads.splice(2.., resigned(&writer.heads[2..], &rogue));
    let found = check_more(&next.all());
    assert!(found.contains(&"TAMPERED 10..11".to_owned()), "{found:?}");
}

fn parsed(head: &str) -> SignedNote {
    let fields = crate::canon::parse_body(head.as_bytes()).expect("a body");
    let note = STANDARD.decode(&fields["note"]).expect("base64");
    SignedNote::parse(&String::from_utf8(note).expect("text")).expect("a note")
}

fn resigned(heads: &[String], key: &Key) -> Vec<String> {
    let again = |head: &String| {
        let mut note = parsed(head);
        let signature = key.sign(&note.checkpoint.text());
        note.signatures =
            vec![crate::evidence::note::Signature::log(&note.checkpoint.origin, &key.public(), &signature)];
        edit(head, "note", Some(&STANDARD.encode(note.encode())))
    };
    heads.iter().map(again).collect()
}

#[test]
fn k2_a_newer_key_does_not_sign_the_past() {
    let writer = honest("p", 1);
    let newer = Key::new(101);
    assert_eq!(newer.public(), writer.key.public());
    let mut again = honest("p", 1);
    again.heads[0] = resigned(&writer.heads[..1], &newer).remove(0);
    assert_eq!(check_more(&again.all()), ["FOREIGN"]);
    // An edit before the rollover, with all heads made to fit by the newer key.
    again = Writer::new(sid("p", 0), 1, &[]);
    (0..4).for_each(|n| again.exchange(&format!("/forged/{n}")));
    again.checkpoint();
    again.rollover();
    again.close();
    again.heads[0] = resigned(&again.heads[..1], &newer).remove(0);
    again.heads[1] = resigned(&again.heads[1..2], &newer).remove(0);
    let found = check_more(&again.all());
    assert!(found.iter().filter(|found| *found == "FOREIGN").count() == 2, "{found:?}");
}

#[test]
fn k2_no_epoch_is_skipped() {
    let writer = honest("p", 1);
    let mut bodies = writer.all();
    bodies.remove(19 + 1);
    assert_eq!(check_more(&bodies), ["MISSING 10..11"]);
}

#[test]
fn h3_other_heads_may_be_absent() {
    let writer = honest("p", 1);
    for head in [0, 2] {
        let mut bodies = writer.all();
        bodies.remove(19 + head);
        assert_eq!(check_more(&bodies), [""; 0]);
    }
}

#[test]
fn v4_two_histories_are_a_fork() {
    let mut one = Writer::new(sid("p", 0), 1, &[]);
    let mut two = Writer::new(sid("p", 0), 1, &[]);
    for (writer, path) in [(&mut one, "/one"), (&mut two, "/two")] {
        writer.exchange("/both");
        writer.checkpoint();
        (0..3).for_each(|_| writer.exchange(path));
        writer.checkpoint();
    }
    // Same size.
    let bodies = [one.all(), two.heads.clone()].concat();
    assert_eq!(check(&bodies)[0], "FORK");
    // Another size, with and without its records.
    two.exchange("/more");
    two.checkpoint();
    let longer = two.heads.last().cloned().into_iter().collect::<Vec<_>>();
    assert_eq!(check(&[one.all(), two.all()].concat())[0], "FORK");
    one.exchange("/on");
    one.exchange("/on");
    one.exchange("/on");
    one.checkpoint();
    assert_eq!(check(&[one.all(), longer].concat())[0], "FORK");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn v1_no_false_alarm_and_no_edit_unseen(
        steps in proptest::collection::vec(0_u8..12, 1..60),
        order in any::<u64>(),
        victim in any::<prop::sample::Index>(),
        key in 0_usize..4,
    ) {
        let mut writer = Writer::new(sid("p", 0), 1, &[]);
        let mut last_rollover = 0;
        for step in steps {
            match step {
                0..8 => writer.exchange(&format!("/{step}")),
                8 => writer.record("clock", &[("step_ns", "5")]),
                9 | 10 => writer.checkpoint(),
                _ if last_rollover < 2 => { last_rollover += 1; writer.rollover() }
                _ => {
                    writer.exchange("/last");
                    writer.head(false);
                }
            }
        }
        writer.close();
        let mut bodies = writer.all();
        // Any order, and some of them twice.
        let mut state = order | 1;
        for at in (1..bodies.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bodies.swap(at, (state >> 33) as usize % (at + 1));
        }
        let copies: Vec<String> = bodies.iter().step_by(3).cloned().collect();
        bodies.extend(copies);
        let report = verify(&bodies, settings(), Trust::default());
        prop_assert_eq!(found(&report), [""; 0]);
        prop_assert_eq!(report.proved, writer.size());

        let mut bodies = writer.all();
        let at = victim.index(writer.bodies.len());
        let field = ["id", "t0", "sid", "seq"][key];
        let value = ["x", "7", sid("other", 0).as_str(), "4711"][key].to_owned();
        bodies[at] = edit(&bodies[at], field, Some(&value));
        let report = verify(&bodies, settings(), Trust::default());
        prop_assert!(matches!(report.verdict, Verdict::Tampered | Verdict::Missing | Verdict::Foreign), "{:?}", report.findings);
        prop_assert_eq!(report.exit_code, 1);
    }
}

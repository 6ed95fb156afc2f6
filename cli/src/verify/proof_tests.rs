//! One record with its proof: whoever may add to an export cannot keep it from being made, and nothing is proved that was not signed.

use super::backend::Format;
use super::ledger_tests::evidence_support::TestKey;
use super::proof::{self, RecordName, record_name};
use super::tests::{Temporary, body, line, vectors};
use serde_json::{Value, json};
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::ledger::export::head_body;
use testimony_core::evidence::merkle::leaf;
use testimony_core::evidence::note::{Checkpoint, Signature, SignedNote};
use testimony_core::evidence::seal::Signer as _;
use testimony_core::evidence::verify::Verdict;

/// A golden stream as Loki's lines, and its name.
fn export() -> (Vec<String>, String) {
    let records = vectors("rollover");
    let first: Value = serde_json::from_str(&body(&records[1])).expect("a body");
    let sid = first["sid"].as_str().expect("a sid").to_owned();
    (records.iter().map(|record| line(Format::Loki, record).to_string()).collect(), sid)
}

fn name(sid: &str, seq: u64) -> RecordName {
    record_name(&format!("{sid}:{seq}")).expect("a name")
}

#[test]
fn a_record_is_proved_without_the_rest() {
    let (lines, sid) = export();
    let file = Temporary::new("prove", lines.join("\n").as_bytes());
    for seq in [0_u64, 1, 7, 15] {
        let proof = proof::make(std::slice::from_ref(&file.0), None, &name(&sid, seq), None);
        let (text, key) = proof.unwrap_or_else(|error| panic!("{seq}: {error:#}"));
        assert_eq!(proof::check(&text, Some(&key)).map(|checked| checked.0).expect("a proof"), Verdict::Ok, "{seq}");
        assert_eq!(proof::check(&text, None).map(|checked| checked.0).expect("a proof"), Verdict::Unanchored);
        let edited = text.replacen("index ", "index 1", 1);
        assert_eq!(proof::check(&edited, Some(&key)).map(|checked| checked.0).expect("a proof"), Verdict::Tampered);
        for cut in 0..text.len() {
            if let Some(prefix) = text.get(..cut) {
                let good = proof::check(prefix, Some(&key)).is_ok_and(|checked| checked.0 == Verdict::Ok);
                assert!(!good, "{cut} of {}", text.len());
            }
        }
    }
    let absent = proof::make(std::slice::from_ref(&file.0), None, &name(&sid, 999), None);
    assert!(format!("{:#}", absent.expect_err("absent")).contains("record 999 of "));
}

/// The line with this text of its body changed.
fn with_body(line: &str, change: impl Fn(&str) -> String) -> String {
    let mut line: Value = serde_json::from_str(line).expect("JSON");
    line["line"] = json!(change(line["line"].as_str().expect("a body")));
    line.to_string()
}

/// A record altered, and the records after it sealed anew, by somebody who has no key.
fn forged(lines: &[String], from: usize) -> Vec<String> {
    let mut prev: Option<(Hash, Hash)> = None;
    let mut all = Vec::new();
    for line in lines.iter().skip(from) {
        let old: Value = serde_json::from_str(line).expect("JSON");
        let old = old["line"].as_str().expect("a body");
        if !old.contains("\"seq\":") {
            continue;
        }
        let line = with_body(line, |body| match prev {
            Some((old, new)) => body.replace(&old.to_hex(), &new.to_hex()),
            None => body.replacen("\"t0\":\"1", "\"t0\":\"2", 1),
        });
        let new: Value = serde_json::from_str(&line).expect("JSON");
        prev = Some((leaf(old.as_bytes()), leaf(new["line"].as_str().expect("a body").as_bytes())));
        all.push(line);
    }
    all
}

#[test]
fn v2_nobody_who_may_add_to_an_export_keeps_a_record_from_being_proved() {
    let (lines, sid) = export();
    let proofs = |added: &[String]| {
        let file = Temporary::new("prove-added", [&lines, added].concat().join("\n").as_bytes());
        let front = Temporary::new("prove-ahead", [added, &lines].concat().join("\n").as_bytes());
        let of = |file: &Temporary| {
            [0, 1, 7, 15]
                .map(|seq| proof::make(std::slice::from_ref(&file.0), None, &name(&sid, seq), None).map(|made| made.0))
        };
        of(&file).into_iter().chain(of(&front)).collect::<Result<Vec<_>, _>>()
    };
    let wanted = proofs(&[]).expect("proofs");
    let first = &lines[0];
    let seq = |seq: u64| with_body(first, |body| body.replacen("\"seq\":\"0\"", &format!("\"seq\":\"{seq}\""), 1));
    let note = |text: &str| {
        with_body(first, |_| {
            use base64::Engine as _;
            format!(
                "{{\"note\":\"{}\",\"typ\":\"head\",\"v\":\"1\"}}",
                base64::engine::general_purpose::STANDARD.encode(text)
            )
        })
    };
    let root = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let unsigned = |size: u64| note(&format!("{sid}\n{size}\n{root}\n\n\u{2014} {sid} AAAAAAAA\n"));
    let other_key = with_body(first, |body| {
        let (before, key) = body.split_once("\"key\":\"").expect("a key");
        let digit = if key.starts_with('0') { '1' } else { '0' };
        format!("{before}\"key\":\"{digit}{}", &key[1..])
    });
    for (what, added) in [
        ("an altered copy", forged(&lines, 0)[..1].to_vec()),
        ("another key", vec![other_key]),
        ("all altered and tied together", forged(&lines, 0)),
        ("altered from the middle on", forged(&lines, 5)),
        ("a place that cannot be", vec![seq(1 << 24), seq(u64::MAX)]),
        ("places after the last head", (100..200).map(seq).collect()),
        ("heads that nobody signed", vec![unsigned(1), unsigned(16), unsigned(1 << 24), unsigned(u64::MAX)]),
        ("the same again", lines.clone()),
    ] {
        let made = proofs(&added).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        assert_eq!(made, wanted, "{what}");
    }
}

#[test]
fn v2_a_record_that_was_altered_is_not_proved() {
    let (lines, sid) = export();
    let altered = forged(&lines, 0);
    let with = |lines: Vec<String>| {
        let file = Temporary::new("prove-altered", lines.join("\n").as_bytes());
        let made = proof::make(std::slice::from_ref(&file.0), None, &name(&sid, 0), None);
        format!("{:#}", made.expect_err("nothing is signed"))
    };
    let told = "no signed head covers record 0 together with every record before it";
    assert!(with([&altered[..1], &lines[1..]].concat()).starts_with(told));
    let heads = lines.iter().filter(|line| !line.contains("\\\"seq\\\":")).cloned().collect();
    assert!(with([altered, heads].concat()).starts_with(told));
}

#[test]
fn text_of_others_in_a_proof_does_not_reach_a_terminal() {
    let (lines, sid) = export();
    let file = Temporary::new("prove-escapes", lines.join("\n").as_bytes());
    let (made, key) = proof::make(std::slice::from_ref(&file.0), None, &name(&sid, 1), None).expect("a proof");
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode("{}\u{1b}[2J\r\u{9b}2J\nOK all is well");
    let start = made.find("extra ").expect("a record");
    let end = made.find("\nindex ").expect("a place");
    let edited = format!("{}extra {body}{}", &made[..start], &made[end..]);
    let (verdict, proof, message) = proof::check(&edited, Some(&key)).expect("a proof");
    let text = proof::text(verdict, &proof, message);
    assert_eq!(verdict, Verdict::Tampered);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn v2_two_signed_records_of_one_place_are_told_and_the_key_says_which_is_meant() {
    let (lines, sid) = export();
    let of = |added: &[String], only| {
        let file = Temporary::new("prove-two", [added, &lines].concat().join("\n").as_bytes());
        let made = proof::make(std::slice::from_ref(&file.0), None, &name(&sid, 0), only);
        made.map_err(|error| format!("{error:#}"))
    };
    let (wanted, genuine) = of(&[], None).expect("a proof");
    // Somebody makes a history of one record, under a key of their own.
    let other = TestKey::new(7);
    let first = with_body(&lines[0], |body| {
        let (before, key) = body.split_once("\"key\":\"").expect("a key");
        format!("{before}\"key\":\"{}{}", other.public(), &key[64..])
    });
    let value: Value = serde_json::from_str(&first).expect("JSON");
    let root = leaf(value["line"].as_str().expect("a body").as_bytes());
    let checkpoint = Checkpoint { origin: sid.clone(), size: 1, root };
    let signature = Signature::log(&sid, &other.public(), &other.sign(checkpoint.text().as_bytes()));
    let note = SignedNote { checkpoint, signatures: vec![signature] }.encode();
    let head = with_body(&lines[0], |_| String::from_utf8(head_body(&note)).expect("text"));
    let added = [first, head];
    let error = of(&added, None).expect_err("nobody can tell which is meant");
    assert!(error.contains(&genuine.to_string()) && error.contains(&other.public().to_string()), "{error}");
    assert_eq!(of(&added, Some(genuine)), Ok((wanted, genuine)));
    assert_eq!(of(&added, Some(other.public())).map(|made| made.1), Ok(other.public()));
    assert!(of(&added, Some(TestKey::new(8).public())).is_err());
}

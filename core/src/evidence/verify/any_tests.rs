//! Whatever a backend gives back: judged or refused, never a panic. The same entry points as in `core/fuzz/`.

use super::removed_tests::{Operator, abandoned, ledger_key, pruned};
use super::testing::*;
use super::*;
use crate::evidence::ledger::export::read_bodies;
use crate::evidence::ledger::{Block, Book, Fact as Said, Keys, entry::Entry};
use crate::evidence::note::SignedNote;
use proptest::prelude::*;

/// A stream and a ledger over it, in which most kinds of records and entries stand.
fn export() -> (Vec<String>, Vec<String>) {
    let mut writer = Writer::new(sid("p", 0), 1, &[("found", sid("q", 0).as_str())]);
    writer.exchange("/a");
    writer.gap(2);
    writer.rollover();
    let (own, root) = (writer.sid.to_string(), "ab".repeat(32));
    let hole = [("hole_sid", own.as_str()), ("hole_from", "1"), ("hole_to", "2"), ("nodes", root.as_str())];
    writer.record("hole", &[&hole[..], &[("scope", "all"), ("hole_reason", "rejected")]].concat());
    let other = sid("q", 0).to_string();
    let told = [("rec_sid", other.as_str()), ("size", "3"), ("root", &root), ("state", "lost"), ("head_size", "4")];
    writer.record("recovered", &told);
    writer.close();
    let mut operator = Operator::new();
    let Said::Pruned(order) = pruned(&writer, 1, 2) else { unreachable!("an order") };
    operator.ended(&writer).block(&[abandoned(&writer, 2, 3), Said::Pruned(order.clone()), Said::Erased(order)], &[]);
    (writer.all(), operator.bodies)
}

/// Judges lines with the ledger among them, and checks what must hold of each report.
fn judged(lines: &[String]) -> Report {
    let trust = Trust { ledger_keys: vec![ledger_key()], ..Trust::default() };
    let report = judge_bodies(lines.iter().map(String::as_str), settings(), trust);
    assert!(report.proved <= report.records, "{} of {}", report.proved, report.records);
    let worst = report.findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    assert_eq!(report.verdict, worst);
    report
}

/// The ledger's ways in.
fn ledger_lines(text: &[u8]) {
    for line in text.split(|byte| *byte == b'\n') {
        if let Ok(entry) = Entry::parse(line) {
            assert_eq!(entry.body(), line);
        }
    }
    let key = ledger_key();
    let sid = key.name.parse().expect("a name");
    let _ = read_bodies(&sid, key.key, text.split(|byte| *byte == b'\n'));
    let text = String::from_utf8_lossy(text);
    let (entries, note) = text.split_once("\n\n").unwrap_or((&text, ""));
    let blocks = [Block { number: 0, entries: entries.to_owned(), note: note.to_owned() }];
    let _ = Book::load(&blocks, Keys { ledger: key.key, witness: key.key });
}

fn notes(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(note) = SignedNote::parse(&text) else { return };
    assert_eq!(note.encode(), text);
    let key = ledger_key().key;
    let _ = (note.is_signed_by(&note.checkpoint.origin, &key), note.cosigned_at(&note.checkpoint.origin, &key));
}

#[test]
fn v1_every_prefix_of_an_export_is_judged() {
    let (stream, ledger) = export();
    let all = [stream, ledger].concat();
    let whole = judged(&all);
    assert!(whole.records > 5 && whole.proved > 0, "{whole:?}");
    for (at, line) in all.iter().enumerate() {
        // What is cut is the last line of what came; every 16th place, another one in each line.
        for cut in (0..line.len()).filter(|cut| cut % 16 == at % 16) {
            let lines = [&all[..at], &[line[..cut].to_owned()]].concat();
            judged(&lines);
        }
    }
}

#[test]
fn w1_h1_every_prefix_of_a_ledger_and_of_its_heads_is_read_or_refused() {
    let (stream, ledger) = export();
    let text = ledger.join("\n");
    for cut in 0..text.len() {
        ledger_lines(text[..cut].rsplit('\n').next().unwrap_or_default().as_bytes());
    }
    let head = stream.iter().rev().find(|body| body.contains("\"note\"")).expect("a head");
    let fields = crate::canon::parse_body(head.as_bytes()).expect("a body");
    let note = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, &fields["note"]).expect("base64");
    (0..=note.len()).for_each(|cut| notes(&note[..cut]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn v1_any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let text = String::from_utf8_lossy(&bytes);
        judged(&text.split('\n').map(str::to_owned).collect::<Vec<_>>());
        notes(&bytes);
        ledger_lines(&bytes);
    }

    #[test]
    fn v1_any_change_of_an_export_is_judged(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_u8..128), 1..4),
    ) {
        let (stream, ledger) = export();
        let mut all = [stream, ledger].concat();
        for (line, at, byte) in &changes {
            let mut bytes = line.get(&all).clone().into_bytes();
            let place = at.index(bytes.len());
            match byte % 3 {
                0 => bytes[place] = *byte,
                1 => bytes.insert(place, *byte),
                _ => drop(bytes.remove(place)),
            }
            let index = line.index(all.len());
            all[index] = String::from_utf8_lossy(&bytes).into_owned();
        }
        judged(&all);
        all.iter().for_each(|line| ledger_lines(line.as_bytes()));
        all.iter().for_each(|line| notes(line.as_bytes()));
    }
}

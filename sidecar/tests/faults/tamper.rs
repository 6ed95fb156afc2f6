//! An export that somebody changed, of a sidecar that declared a gap and holes.

use super::oracle::{Row, Typ};
use super::receiver::{Fault, Weather};
use super::scene::Scene;
use std::borrow::Cow;
use std::collections::BTreeMap;
use testimony_core::canon::{BodyWriter, parse_body};
use testimony_core::evidence::verify::{Finding, Verdict};

/// Requests between two things that happen.
const REQUESTS: u64 = 60;

/// Of the exchanges every so manieth is changed; of all other records each.
const EVERY: usize = 12;

/// The body with another value of a field.
fn edited(body: &str, key: &str, value: &str) -> String {
    let mut fields = parse_body(body.as_bytes()).expect("canonical");
    fields.insert(key.to_owned(), value.as_bytes().to_vec());
    let mut out = Vec::new();
    let mut writer = BodyWriter::new(&mut out);
    fields.iter().for_each(|(key, value)| writer.member(key, value));
    writer.finish();
    String::from_utf8(out).expect("ASCII")
}

/// Another value that may stand in this field.
fn other(key: &str, value: &str) -> String {
    let number = value.parse::<u128>().ok().filter(|_| !value.starts_with('0') || value == "0");
    match (key, number) {
        ("exact", _) => if value == "1" { "0" } else { "1" }.to_owned(),
        (_, Some(number)) => (number + 1).to_string(),
        // Text, hashes, names of streams: their last character.
        (_, None) => {
            let (rest, last) = value.split_at(value.len() - 1);
            format!("{rest}{}", if last == "1" { "0" } else { "1" })
        }
    }
}

/// What an edit of a record may be found to be, and what its loss.
fn expected(rows: &BTreeMap<(String, u64), Row>, row: &Row) -> (&'static [Verdict], &'static [Verdict]) {
    let in_hole =
        |typ: &Typ| matches!(typ, Typ::Hole { sid, from, to } if *sid == row.sid && (*from..*to).contains(&row.seq));
    if rows.values().any(|other| in_hole(&other.typ)) {
        // It came although a hole says that it never will: the answer was lost, or the process that had it. What else comes in
        // its place is proved by nothing; nor is anything of a stream whose process had no time for a head.
        let is_closed = rows.values().any(|other| other.sid == row.sid && other.body.contains(r#""typ":"close""#));
        return match is_closed {
            true => (&[Verdict::Foreign], &[Verdict::Gap]),
            false => (&[Verdict::Foreign, Verdict::Gap], &[Verdict::Gap, Verdict::Foreign]),
        };
    }
    // What it was is known by the record after it. Where that is in a hole, nobody can tell an edit from a record that was
    // dropped: what was sealed is not there.
    let has_next = rows.contains_key(&(row.sid.clone(), row.seq + 1));
    let is_last = !rows.keys().any(|(sid, seq)| *sid == row.sid && *seq > row.seq);
    let edit: &[Verdict] = if has_next || is_last { &[Verdict::Tampered] } else { &[Verdict::Missing] };
    // `open` has the key: without it nothing proves a stream that had no time for a head.
    (edit, if row.seq == 0 { &[Verdict::Missing, Verdict::Foreign] } else { &[Verdict::Missing] })
}

/// Whether a finding of this kind is about a record.
fn is_about(finding: &Finding, verdict: Verdict, row: &Row) -> bool {
    let there = finding.records.as_ref().is_none_or(|records| records.contains(&row.seq));
    finding.verdict == verdict && finding.stream.as_ref().is_some_and(|stream| stream.as_str() == row.sid) && there
}

#[test]
fn ch_2_g1_g2_every_edit_and_every_drop_is_found_in_an_export_with_a_gap_and_holes() {
    let scene = Scene::start("tamper");
    let load = scene.load();
    scene.more(&load, REQUESTS);
    let worker = scene.sidecar.kill_worker();
    scene.sidecar.successor(worker);
    scene.more(&load, REQUESTS);
    scene.sink.set(Weather::Always(Fault::Refusing));
    scene.sidecar.until("it is refused", |_| scene.sink.seen().get(&Fault::Refusing).is_some_and(|times| *times > 20));
    scene.sink.set(Weather::Always(Fault::None));
    scene.more(&load, REQUESTS);
    let outcome = scene.end(load);
    outcome.check_counts();

    let rows: BTreeMap<(String, u64), Row> = outcome.rows().map(|row| ((row.sid.clone(), row.seq), row)).collect();
    let exchange = |row: &&Row| matches!(row.typ, Typ::Exchange { .. } | Typ::Stage { .. });
    let (exchanges, others): (Vec<&Row>, Vec<&Row>) = rows.values().partition(exchange);
    let has = |wanted: fn(&Typ) -> bool| others.iter().any(|row| wanted(&row.typ));
    outcome.check("a gap is declared", has(|typ| matches!(typ, Typ::Gap { .. })));
    outcome.check("a hole is declared", has(|typ| matches!(typ, Typ::Hole { .. })));

    let mut ways = 0;
    let mut try_to = |row: &Row, what: &str, instead: Option<String>, verdicts: &[Verdict]| {
        let report = outcome.export().verify_changed(|body| match body == row.body {
            true => instead.as_deref().map(Cow::Borrowed),
            false => Some(Cow::Borrowed(body)),
        });
        let known = |finding: &&Finding| outcome.report.findings.contains(finding);
        let new: Vec<&Finding> = report.findings.iter().filter(|finding| !known(finding)).collect();
        let found = new.iter().any(|finding| verdicts.iter().any(|verdict| is_about(finding, *verdict, row)));
        outcome.check(&format!("{} {}: {what}: {verdicts:?} is found: {new:#?}", row.sid, row.seq), found);
        ways += 1;
    };
    for row in exchanges.into_iter().step_by(EVERY).chain(others) {
        let fields = parse_body(row.body.as_bytes()).expect("canonical");
        let (edit, drop) = expected(&rows, row);
        let is_declared = matches!(row.typ, Typ::Gap { .. } | Typ::Hole { .. });
        for (key, value) in &fields {
            // Its place makes it another record; what it is called, and by which version, makes it one that cannot be read.
            let is_of_place = ["sid", "seq", "typ", "v"].contains(&key.as_str());
            if is_of_place || !is_declared && !["id", "t0"].contains(&key.as_str()) {
                continue;
            }
            let value = String::from_utf8(value.clone()).expect("text");
            try_to(row, key, Some(edited(&row.body, key, &other(key, &value))), edit);
        }
        try_to(row, "dropped", None, drop);
    }
    println!("figure: {ways} edits and drops among {} records of a real sidecar, all found", rows.len());
}

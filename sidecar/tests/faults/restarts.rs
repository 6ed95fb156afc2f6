//! What a process that starts says of those before it, and what it is good for.

use super::scene::{Outcome, Scene};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use testimony_core::canon::parse_body;
use testimony_core::evidence::verify::{Finding, Report, Verdict};

/// Requests of each process.
const REQUESTS: u64 = 60;

/// By stream, in the order in which they came: the streams that its `open` names.
fn named(outcome: &Outcome) -> Vec<(String, BTreeSet<String>)> {
    let mut seen = BTreeMap::new();
    let mut opens = Vec::new();
    for row in outcome.rows().filter(|row| row.seq == 0) {
        if seen.insert(row.sid.clone(), ()).is_none() {
            let fields = parse_body(row.body.as_bytes()).expect("canonical");
            let found = fields.get("found").map(|found| String::from_utf8(found.clone()).expect("text"));
            let names = found.unwrap_or_default().split(',').filter(|sid| !sid.is_empty()).map(str::to_owned).collect();
            opens.push((row.sid, names));
        }
    }
    opens
}

/// The stream of a record, or of a head: a note begins with it.
fn stream(body: &str) -> String {
    let fields = parse_body(body.as_bytes()).expect("canonical");
    let note = || STANDARD.decode(&fields["note"]).expect("base64");
    let text = String::from_utf8(fields.get("sid").cloned().unwrap_or_else(note)).expect("text");
    text.lines().next().expect("a name").to_owned()
}

/// The process of a stream.
fn boot(sid: &str) -> &str {
    let last = sid.rsplit('/').next().expect("a name");
    last.split('-').next().expect("a process")
}

fn is_missing(report: &Report, sid: &str) -> bool {
    let is_about = |one: &Finding| one.stream.as_ref().is_some_and(|of| of.as_str() == sid);
    report.findings.iter().any(|one| one.verdict == Verdict::Missing && is_about(one))
}

#[test]
fn s2_a_restarted_sidecar_names_the_streams_that_it_finds_and_none_can_be_taken_away_as_a_whole() {
    let mut scene = Scene::start("restarts");
    let load = scene.load();
    scene.more(&load, REQUESTS);
    // The worker alone, then the container.
    let worker = scene.sidecar.kill_worker();
    scene.sidecar.successor(worker);
    scene.more(&load, REQUESTS);
    scene.sidecar.kill_all();
    scene.sidecar.start();
    scene.more(&load, REQUESTS);
    let outcome = scene.end(load);
    outcome.check_counts();

    let opens = named(&outcome);
    let first = opens.iter().filter(|(_, names)| names.is_empty()).map(|(sid, _)| sid.clone());
    let first: BTreeSet<String> = first.collect();
    let mut boots: Vec<&str> = opens.iter().map(|(sid, _)| boot(sid)).collect();
    boots.dedup();
    outcome.check("two data threads, three processes", (opens.len(), boots.len()) == (6, 3));
    let of = |at: usize| -> BTreeSet<String> {
        opens.iter().filter(|(sid, _)| boot(sid) == boots[at]).map(|(sid, _)| sid.clone()).collect()
    };
    let (one, two) = (of(0), of(1));
    outcome.check("only the first process found nothing", first == one);
    for (sid, names) in &opens {
        outcome.check(
            &format!("{sid} names {names:?}, those of its spool"),
            match sid {
                sid if one.contains(sid) => names.is_empty(),
                sid if two.contains(sid) => *names == one,
                // What the first left may be delivered and gone.
                _ => names.is_superset(&two) && names.is_subset(&(&one | &two)),
            },
        );
    }
    // A backend that loses a whole stream, heads and all: the one that came after it tells.
    for gone in one.iter().chain(&two) {
        let report = outcome.export().verify_changed(|body| (stream(body) != *gone).then_some(Cow::Borrowed(body)));
        outcome.check(&format!("{gone} is missed"), is_missing(&report, gone));
    }
}

//! What a process that starts says of those before it, and what it is good for.

use super::oracle::Typ;
use super::scene::{Outcome, Scene};
use super::shim::{Operation, Synced};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use testimony_core::canon::parse_body;
use testimony_core::evidence::verify::{Finding, Report, Verdict};
use testimony_sidecar::spool::Boot;
use testimony_sidecar::spool::disk::Folder;
use testimony_sidecar::spool::keys::Keys;
use testimony_sidecar::spool::recover::{Report as Found, Unreadable, scan};

/// Requests of each process.
const REQUESTS: u64 = 60;
/// A segment that is longer has frames behind its header, in bytes.
const HEADER_BYTES_MAX: u64 = 4096;

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

/// What the folder of a dead process shows. Damage stands in the clear: any key will do.
fn look(folder: &Path) -> Found {
    let name = folder.file_name().and_then(|name| name.to_str()).expect("a name");
    let boot: Boot = name.parse().expect("a process");
    let keys = Keys::with_pod_key([0; 32], None);
    scan(Folder::new(folder), &keys, boot, boot, Unreadable::Damaged, &|| true).expect("a folder").report
}

/// The only process's folder, once it is there.
fn only_folder(spool: &Path) -> Option<PathBuf> {
    fs::read_dir(spool).expect("a folder").flatten().map(|entry| entry.path()).find(|path| path.is_dir())
}

/// The segments of a process, in order.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    let mut segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "seg")).collect();
    segments.sort();
    segments
}

/// Alters one byte of a segment that another one follows, so that the content of one frame is gone and nothing else. The
/// records that stood there, by stream. What was not synced stands in the next segment, too.
fn damage(folder: &Path, synced: &Synced) -> Vec<(String, u64, u64)> {
    let mut segments = segments(folder);
    segments.pop();
    let synced = |path: &Path| path.metadata().ok().and_then(|data| synced.length(&data)).unwrap_or(0);
    let largest = segments.iter().max_by_key(|path| synced(path)).expect("two segments");
    let whole = fs::read(largest).expect("a segment");
    let end = whole.len().min(usize::try_from(synced(largest)).expect("small"));
    for at in end / 2..end {
        let mut altered = whole.clone();
        altered[at] ^= 1;
        fs::write(largest, &altered).expect("written");
        let lost: Vec<_> = look(folder).damage.into_iter().flat_map(|damage| damage.lost).collect();
        if !lost.is_empty() && lost.iter().all(|lost| lost.nodes.is_some()) {
            return lost.into_iter().map(|lost| (lost.sid.to_string(), lost.from, lost.to)).collect();
        }
    }
    panic!("no byte of {} belongs to the content of a frame", largest.display());
}

#[test]
fn g2_what_a_restarted_sidecar_finds_damaged_is_told_by_one_hole() {
    let mut scene = Scene::start("damaged");
    scene.sink.down();
    let load = scene.load();
    scene.more(&load, REQUESTS);
    let files = || -> Vec<Metadata> {
        let all = only_folder(&scene.spool_folder()).map(|folder| segments(&folder)).unwrap_or_default();
        all.iter().filter_map(|path| path.metadata().ok()).collect()
    };
    // A stream that opens later begins another segment too.
    let has_records = |length: u64| length > HEADER_BYTES_MAX;
    // What was never synced is written anew, and leaves a segment without records.
    scene.sidecar.until("records are synced", |sidecar| {
        let synced = sidecar.shim.synced();
        files().last().is_some_and(|last| synced.length(last).is_some_and(has_records))
    });
    // After a sync that failed another segment is begun.
    let before = files().len();
    scene.sidecar.shim.fail(Operation::Sync, 1);
    scene.sidecar.until("it has failed", |sidecar| sidecar.shim.failed(Operation::Sync) > 0);
    scene.sidecar.shim.fail(Operation::Sync, 0);
    scene.sidecar.until("another segment has records", |_| {
        files().get(before..).is_some_and(|new| new.iter().any(|file| has_records(file.len())))
    });
    scene.sidecar.kill_all();
    let mut lost =
        damage(&only_folder(&scene.spool_folder()).expect("a process's folder"), &scene.sidecar.shim.synced());
    // A process that tells what it finds, and dies before the sink is back; and one after it.
    scene.sidecar.start();
    scene.sidecar.until("it has looked", |sidecar| sidecar.log().contains("the spool is damaged"));
    scene.more(&load, REQUESTS);
    scene.sidecar.kill_all();
    scene.sidecar.start();
    scene.sink.up();
    scene.more(&load, REQUESTS);
    let outcome = scene.end(load);
    outcome.check_counts();
    let rows: BTreeMap<(String, u64), Typ> = outcome.rows().map(|row| ((row.sid, row.seq), row.typ)).collect();
    let holes = rows.values().filter_map(|typ| match typ {
        Typ::Hole { sid, from, to } => Some((sid.clone(), *from, *to)),
        _ => None,
    });
    let mut holes: Vec<_> = holes.collect();
    holes.sort();
    lost.sort();
    outcome.check(&format!("one hole for each stream of {lost:?}: {holes:?}"), holes == lost);
}

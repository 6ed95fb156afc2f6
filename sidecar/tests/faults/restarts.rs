//! What a process that starts says of those before it, and what it is good for.

use super::oracle::Typ;
use super::scene::{Outcome, Scene, folders, look};
use super::shim::Operation;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use testimony_core::canon::parse_body;
use testimony_core::evidence::verify::{Finding, Report, Verdict};
use testimony_sidecar::spool::Boot;
use testimony_sidecar::spool::disk::Folder;
use testimony_sidecar::spool::recover::names;

/// Requests of each process.
const REQUESTS: u64 = 60;
/// A segment that is longer has frames behind its header, in bytes.
const HEADER_BYTES_MAX: usize = 4096;
/// The content of a frame is longer.
const STEP_BYTES: usize = 64;

/// By stream: the streams that its `open` names.
fn named(outcome: &Outcome) -> BTreeMap<String, BTreeSet<String>> {
    let opens = outcome.rows().filter(|row| row.seq == 0).map(|row| {
        let fields = parse_body(row.body.as_bytes()).expect("canonical");
        let found = fields.get("found").map(|found| String::from_utf8(found.clone()).expect("text"));
        let names = found.unwrap_or_default().split(',').filter(|sid| !sid.is_empty()).map(str::to_owned).collect();
        (row.sid, names)
    });
    opens.collect()
}

/// The streams of the process that runs, once its folder shows both: the next one finds them there. `before`: those of all
/// processes before it.
fn began(scene: &Scene, before: &BTreeSet<String>) -> BTreeSet<String> {
    let known: BTreeSet<Boot> = before.iter().map(|sid| boot(sid)).collect();
    let mut streams = BTreeSet::new();
    scene.sidecar.until("both streams of the process stand in its folder", |_| {
        let folders = folders(&scene.spool_folder()).into_iter().filter(|(boot, _)| !known.contains(boot));
        streams =
            names(folders.map(|(boot, path)| (boot, Folder::new(&path)))).iter().map(ToString::to_string).collect();
        streams.len() == 2
    });
    streams
}

/// The stream of a record, or of a head: a note begins with it.
fn stream(body: &str) -> String {
    let fields = parse_body(body.as_bytes()).expect("canonical");
    let note = || STANDARD.decode(&fields["note"]).expect("base64");
    let text = String::from_utf8(fields.get("sid").cloned().unwrap_or_else(note)).expect("text");
    text.lines().next().expect("a name").to_owned()
}

/// The process of a stream.
fn boot(sid: &str) -> Boot {
    let last = sid.rsplit('/').next().expect("a name");
    last.split('-').next().and_then(|boot| boot.parse().ok()).expect("a process")
}

fn is_missing(report: &Report, sid: &str) -> bool {
    let is_about = |one: &Finding| one.stream.as_ref().is_some_and(|of| of.as_str() == sid);
    report.findings.iter().any(|one| one.verdict == Verdict::Missing && is_about(one))
}

#[test]
fn s2_a_restarted_sidecar_names_the_streams_that_it_finds_and_none_can_be_taken_away_as_a_whole() {
    let mut scene = Scene::start("restarts");
    let load = scene.load();
    let one = began(&scene, &BTreeSet::new());
    scene.more(&load, REQUESTS);
    // The worker alone, then the container.
    let worker = scene.sidecar.kill_worker();
    scene.sidecar.successor(worker);
    let two = began(&scene, &one);
    scene.more(&load, REQUESTS);
    scene.sidecar.kill_all();
    scene.sidecar.start();
    let three = began(&scene, &(&one | &two));
    scene.more(&load, REQUESTS);
    let outcome = scene.end(load);
    outcome.check_counts();

    let opens = named(&outcome);
    let all = &(&one | &two) | &three;
    outcome.check("two data threads, three processes", opens.keys().eq(&all) && all.len() == 6);
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

/// The only process's folder, once it is there.
fn only_folder(spool: &Path) -> Option<(Boot, PathBuf)> {
    folders(spool).pop()
}

/// The segments of a process, in order.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    let mut segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "seg")).collect();
    segments.sort();
    segments
}

/// Alters one byte of a segment that another one follows, so that the content of one frame is gone and nothing else. The
/// records that stood there, by stream. What was not known to be synced stands in the next segment, too.
fn damage((boot, folder): (Boot, PathBuf)) -> Vec<(String, u64, u64)> {
    let mut segments = segments(&folder);
    segments.pop();
    for path in segments {
        let whole = fs::read(&path).expect("a segment");
        for at in (HEADER_BYTES_MAX..whole.len()).step_by(STEP_BYTES) {
            let mut altered = whole.clone();
            altered[at] ^= 1;
            fs::write(&path, &altered).expect("written");
            let found = look(boot, &folder).expect("a folder").report;
            let lost: Vec<_> = found.damage.into_iter().flat_map(|damage| damage.lost).collect();
            if !lost.is_empty() && lost.iter().all(|lost| lost.nodes.is_some()) {
                return lost.into_iter().map(|lost| (lost.sid.to_string(), lost.from, lost.to)).collect();
            }
        }
        fs::write(&path, whole).expect("written");
    }
    panic!("no byte in {} belongs to the content of a frame", folder.display());
}

#[test]
fn g2_what_a_restarted_sidecar_finds_damaged_is_told_by_one_hole() {
    let mut scene = Scene::start("damaged");
    scene.sink.down();
    let load = scene.load();
    scene.more(&load, REQUESTS);
    let files = || -> Vec<Metadata> {
        let all = only_folder(&scene.spool_folder()).map(|(_, folder)| segments(&folder)).unwrap_or_default();
        all.iter().filter_map(|path| path.metadata().ok()).collect()
    };
    let has_records = |length: u64| length > HEADER_BYTES_MAX as u64;
    // A stream that opens later begins another segment, and what its writer does not know to be synced is written anew there.
    // A sync of a file begins once the end of the one before is known: so the second shows that the first is.
    let mut first: Option<(u64, u64)> = None;
    scene.sidecar.until("records are synced, and it is known", |sidecar| {
        let synced = sidecar.shim.synced();
        let last = files().last().and_then(|last| Some((last.ino(), synced.length(last)?)));
        let Some((file, length)) = last.filter(|(_, length)| has_records(*length)) else { return false };
        match first {
            Some((known, before)) if known == file => before < length,
            _ => {
                first = Some((file, length));
                false
            }
        }
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
    let mut lost = damage(only_folder(&scene.spool_folder()).expect("a process's folder"));
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

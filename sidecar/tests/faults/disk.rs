//! A spool without room, and a disk that fails.

use super::process::Sidecar;
use super::scene::{Outcome, Scene};
use super::shim::Operation;
use super::sinks::nothing_is_lost;

/// The smallest spool that there can be, in bytes.
const SMALL_SPOOL_BYTES: u64 = 16 * 1024 * 1024;
/// What the sink never gets: exchanges that found no place in the spool, records that cannot be read.
const LOST: &str = "testimony_export_lost_records_total";
/// Exchanges with a record.
const RECORDED: &str = "testimony_records_total";
/// Whether there is no spool.
const SPOOL_MISSING: &str = "testimony_spool_missing";
/// Workers that died.
const RESTARTS: &str = "testimony_worker_restarts_total";
/// What is refused.
const REFUSED: &str = "testimony_refused_total";
/// Requests of each part.
const REQUESTS: u64 = 150;
/// The records of so many are more than stays in memory for sinks: the first of them are read from files.
const BEYOND_MEMORY: u64 = 1500;
/// The same, of heavy ones.
const BEYOND_MEMORY_HEAVY: u64 = 250;

/// Whether all gaps have one of these reasons.
fn gaps_only(outcome: &Outcome, reasons: &[&str]) {
    let found = outcome.count.gaps.keys().all(|reason| reasons.contains(&reason.as_str()));
    outcome.check(&format!("only gaps of {reasons:?}"), found);
    outcome.check_gap_metric();
    outcome.check("every request was answered", outcome.count.answered == outcome.count.asked);
}

#[test]
fn sp_3_a_full_spool_loses_only_what_a_gap_declares_and_takes_records_again_once_there_is_room() {
    let scene = Scene::with_spool("full", SMALL_SPOOL_BYTES);
    scene.sink.down();
    let load = scene.heavy_load();
    scene.sidecar.until("the spool refuses records", |sidecar| sidecar.metric(LOST) > 0);
    scene.more(&load, REQUESTS);
    assert!(scene.spool_bytes() <= SMALL_SPOOL_BYTES, "{} bytes are used", scene.spool_bytes());
    scene.sink.up();
    // More than what was let in while it was full, now and then.
    let target = scene.sidecar.metric(RECORDED) + REQUESTS;
    scene.sidecar.until("records are taken again", |sidecar| sidecar.metric(RECORDED) > target);
    let refused = scene.sidecar.metric(LOST);
    scene.more(&load, REQUESTS);
    assert_eq!(scene.sidecar.metric(LOST), refused, "there is room");
    let outcome = scene.end(load);
    outcome.check_counts();
    gaps_only(&outcome, &["spool_full"]);
    outcome.check("something was lost", !outcome.count.lost.is_empty());
    let last = outcome.asked.iter().max_by_key(|one| one.sent).expect("requests");
    outcome.check("the last one is recorded again", !outcome.count.lost.contains(&last.path));
}

#[test]
fn ev_1_a_disk_that_cannot_write_or_sync_loses_only_what_a_gap_declares() {
    for (name, operation, every) in [
        ("sync", Operation::Sync, 1),
        ("write", Operation::Write, 1),
        ("sync-sometimes", Operation::Sync, 7),
        ("write-sometimes", Operation::Write, 7),
    ] {
        let scene = Scene::start(name);
        let load = scene.load();
        scene.more(&load, REQUESTS);
        scene.sidecar.shim.fail(operation, every);
        scene.sidecar.until("it has failed", |sidecar| sidecar.shim.failed(operation) > 2);
        scene.more(&load, REQUESTS);
        scene.sidecar.shim.fail(operation, 0);
        let before = scene.sink.exchanges();
        scene.sidecar.until("something arrives again", |_| scene.sink.exchanges() > before);
        scene.more(&load, REQUESTS);
        let outcome = scene.end(load);
        outcome.check_counts();
        gaps_only(&outcome, &["disk_failed"]);
        let last = outcome.asked.iter().max_by_key(|one| one.sent).expect("requests");
        outcome.check("the last one is recorded again", !outcome.count.lost.contains(&last.path));
    }
}

#[test]
fn ex_1_a_disk_that_cannot_be_read_for_a_while_loses_nothing() {
    let scene = Scene::start("read");
    scene.sink.down();
    let load = scene.load();
    scene.more(&load, BEYOND_MEMORY);
    scene.sidecar.shim.fail(Operation::Read, 1);
    scene.sink.up();
    scene.sidecar.until("it has failed", |sidecar| sidecar.shim.failed(Operation::Read) > 2);
    scene.more(&load, REQUESTS);
    scene.sidecar.shim.fail(Operation::Read, 0);
    nothing_is_lost(&scene.end(load));
}

/// The parts in clear of its frames can be read, so that holes can stand for the records.
#[test]
fn g2_what_the_disk_never_gives_is_told_as_holes_and_the_rest_arrives() {
    let scene = Scene::start("unreadable");
    let load = scene.sparse_load();
    scene.sidecar.until("something arrives", |_| scene.sink.exchanges() > 0);
    scene.sink.down();
    scene.more(&load, BEYOND_MEMORY_HEAVY);
    scene.sidecar.shim.fail(Operation::LongRead, 1);
    scene.sink.up();
    scene.sidecar.until("it is given up", |sidecar| sidecar.metric(LOST) > 0);
    scene.sidecar.shim.fail(Operation::LongRead, 0);
    let before = scene.sink.exchanges();
    scene.sidecar.until("something arrives", |_| scene.sink.exchanges() > before);
    let outcome = scene.end(load);
    outcome.check_counts();
    gaps_only(&outcome, &[]);
    outcome.check("something is lost", !outcome.count.lost.is_empty());
    outcome.check("each one is in a hole", outcome.count.in_holes >= outcome.count.lost.len() as u64);
    let last = outcome.asked.iter().max_by_key(|one| one.sent).expect("requests");
    outcome.check("the last one is there", !outcome.count.lost.contains(&last.path));
}

/// Starts again while the disk takes nothing, and so without a spool. The worker that runs then.
fn started_without_spool(sidecar: &mut Sidecar) -> i32 {
    sidecar.kill_all();
    sidecar.shim.fail(Operation::Write, 1);
    sidecar.start();
    assert_eq!(sidecar.metric(SPOOL_MISSING), 1);
    sidecar.worker().expect("a worker")
}

/// Until then everything is refused: nothing that is recorded in memory can become durable.
#[test]
fn t4_a_sidecar_that_starts_while_its_disk_fails_has_its_spool_when_the_disk_is_back() {
    let mut scene = Scene::strict("late");
    let worker = started_without_spool(&mut scene.sidecar);
    let load = scene.load();
    scene.sidecar.until("requests are refused", |sidecar| sidecar.metric(REFUSED) > REQUESTS);
    assert_eq!(scene.sidecar.metric(SPOOL_MISSING), 1);
    scene.sidecar.shim.fail(Operation::Write, 0);
    scene.sidecar.successor(worker);
    assert_eq!((scene.sidecar.metric(SPOOL_MISSING), scene.sidecar.metric(REFUSED)), (0, 0));
    assert_eq!(scene.sidecar.metric(RESTARTS), 0, "it ended in order");
    scene.more(&load, REQUESTS);
    assert_eq!(scene.sidecar.metric(REFUSED), 0);
    let outcome = scene.end(load);
    outcome.check_counts();
    let last = outcome.asked.iter().max_by_key(|one| one.sent).expect("requests");
    outcome.check("the last one is recorded", !outcome.count.lost.contains(&last.path));
}

#[test]
fn d3_what_was_left_is_sent_when_the_disk_is_back_and_no_connection_is_open() {
    let mut scene = Scene::start("idle");
    scene.sink.down();
    let load = scene.load();
    scene.more(&load, REQUESTS);
    let answered = load.stop().iter().filter(|one| one.answered.is_some()).count() as u64;
    scene.until_the_spool_rests();
    let worker = started_without_spool(&mut scene.sidecar);
    scene.sink.up();
    scene.sidecar.shim.fail(Operation::Write, 0);
    scene.sidecar.successor(worker);
    scene.sidecar.until("what was left arrives", |_| scene.sink.exchanges() >= answered);
    scene.leave();
}

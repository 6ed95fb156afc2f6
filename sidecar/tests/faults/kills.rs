//! SIGKILL at random points: what is lost stands in gaps with the exact count, and is what was in flight or just over.

use super::oracle::Typ;
use super::receiver::{Fault, Weather};
use super::scene::{CLIENTS, Outcome, Scene};
use super::shim::Operation;
use super::wire::Chance;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use testimony_core::evidence::verify::Verdict;

/// Kills of each test, where `TESTIMONY_KILLS` says nothing.
const KILLS_DEFAULT: u64 = 8;
/// Longest time between two kills, in microseconds: where there are few, so long that a record that is written late is missed,
const BETWEEN_FEW_KILLS_MAX_US: u64 = 600_000;
/// and where there are many.
const BETWEEN_MANY_KILLS_MAX_US: u64 = 250_000;
/// From so many on there are many.
const MANY_KILLS: u64 = 100;
/// An answered request that is lost was answered at most so long before the kill,
const LOST_AGE_MAX: Duration = Duration::from_millis(50);
/// the median of few kills, which a machine that is busy for a moment moves, at most so long,
const LOST_AGE_OF_FEW_MAX: Duration = Duration::from_millis(100);
/// and on a machine that is busy with other things, where the disk's thread waits for its turn, at most so long.
const LOST_AGE_BUSY_MAX: Duration = Duration::from_secs(5);
/// After so many requests more some were answered by the new process: a client asks again only then, or where it is cut off.
pub const SERVED: u64 = 4 * CLIENTS as u64;
/// What a slow sync takes: longer than clients need for
const SLOW_SYNC: Duration = Duration::from_secs(20);
/// so many requests, which would all be lost if none was written meanwhile.
const SENT_DURING_SYNC: u64 = 500;
/// Of so many kills there is a median.
const MEDIAN_OF_KILLS: usize = 8;

/// A kill: the process died in between.
pub struct Kill {
    began: Instant,
    over: Instant,
}

/// Does it.
pub fn kill(how: impl FnOnce()) -> Kill {
    let began = Instant::now();
    how();
    Kill { began, over: Instant::now() }
}

/// How many.
pub fn kills() -> u64 {
    std::env::var("TESTIMONY_KILLS").map_or(KILLS_DEFAULT, |text| text.parse().expect("TESTIMONY_KILLS is a number"))
}

/// For each kill, how long before it the lost requests that had been answered were answered; those in flight count as 0.
fn ages(outcome: &Outcome, killed: &[Kill]) -> BTreeMap<Instant, Vec<Duration>> {
    let mut ages: BTreeMap<Instant, (Instant, Vec<Duration>)> =
        killed.iter().map(|kill| (kill.over, (kill.began, Vec::new()))).collect();
    for one in outcome.asked.iter().filter(|one| outcome.count.lost.contains(&one.path)) {
        // Who was asked before a kill and answered after it was in flight.
        if let Some((_, (began, ages))) = ages.range_mut(one.sent..).next() {
            ages.push(one.answered.map_or(Duration::ZERO, |answered| began.saturating_duration_since(answered)));
        }
    }
    ages.into_iter().map(|(over, (_, ages))| (over, ages)).collect()
}

/// What was answered long before a process died was durable: that must not be lost.
pub fn only_what_is_young_is_lost(outcome: &Outcome, killed: &[Kill]) {
    let ages = ages(outcome, killed);
    let explained: usize = ages.values().map(Vec::len).sum();
    let mut oldest: Vec<Duration> = ages.values().map(|ages| ages.iter().max().copied().unwrap_or_default()).collect();
    oldest.sort_unstable();
    let late = oldest.iter().filter(|age| **age > LOST_AGE_MAX).count();
    let most = ages.values().map(Vec::len).max().unwrap_or(0);
    let last = oldest.len().saturating_sub(1);
    let [median, last] = [last / 2, last].map(|at| oldest.get(at).copied());
    println!(
        "figure: {} kills: {} lost, at most {most} by one kill; the oldest answered {median:?} before it (median), {last:?} (most), \
         {late} times more than {LOST_AGE_MAX:?}",
        killed.len(),
        outcome.count.lost.len(),
    );
    outcome.check("everything lost was lost by a kill", explained == outcome.count.lost.len());
    outcome.check("what was lost was young", last.is_none_or(|age| age < LOST_AGE_BUSY_MAX));
    let is_many = killed.len() as u64 >= MANY_KILLS;
    let usual = if is_many { LOST_AGE_MAX } else { LOST_AGE_OF_FEW_MAX };
    outcome.check("most of it was very young", killed.len() < MEDIAN_OF_KILLS || median < Some(usual));
}

/// What holds after kills.
fn only_what_a_kill_explains(outcome: &Outcome, killed: &[Kill]) {
    outcome.check_counts();
    only_what_is_young_is_lost(outcome, killed);
    let reasons: Vec<&String> = outcome.count.gaps.keys().collect();
    outcome.check_gap_metric();
    outcome.check("no other gap", reasons.iter().all(|reason| *reason == "worker_died"));
    let ended = |verdict| !matches!(verdict, Verdict::Unclosed | Verdict::Pending);
    outcome.check("each stream's end is told", outcome.report.findings.iter().all(|finding| ended(finding.verdict)));
}

/// For some time.
pub fn wait(chance: &mut Chance) {
    let longest = if kills() < MANY_KILLS { BETWEEN_FEW_KILLS_MAX_US } else { BETWEEN_MANY_KILLS_MAX_US };
    std::thread::sleep(Duration::from_micros(chance.between(0, longest)));
}

#[test]
fn ev_1_d3_a_killed_worker_loses_only_what_a_gap_declares() {
    let mut chance = Chance::of("worker");
    let scene = Scene::start("worker");
    let load = scene.load();
    let mut killed = Vec::new();
    for _ in 0..kills() {
        wait(&mut chance);
        killed.push(kill(|| {
            let worker = scene.sidecar.kill_worker();
            scene.sidecar.successor(worker);
        }));
        scene.more(&load, SERVED);
    }
    only_what_a_kill_explains(&scene.end(load), &killed);
}

#[test]
fn ev_1_d3_a_killed_sidecar_that_starts_again_loses_only_what_a_gap_declares() {
    let mut chance = Chance::of("all");
    let mut scene = Scene::start("all");
    let load = scene.load();
    let mut killed = Vec::new();
    for _ in 0..kills() {
        wait(&mut chance);
        killed.push(kill(|| scene.sidecar.kill_all()));
        scene.sidecar.start();
        scene.more(&load, SERVED);
    }
    only_what_a_kill_explains(&scene.end(load), &killed);
}

/// What was answered is written in time, however long the disk takes to sync what was written before. Its logs of
/// acknowledgements become durable no more than its records: each process delivers again what all before it left, so there
/// are few kills.
#[test]
fn ev_1_d1_a_killed_sidecar_whose_disk_is_slow_to_sync_loses_no_more_than_another() {
    let mut scene = Scene::with_one_stream("slow");
    let load = scene.load();
    scene.more(&load, SERVED);
    let mut killed = Vec::new();
    for _ in 0..KILLS_DEFAULT {
        scene.sidecar.shim.slow_syncs(SLOW_SYNC);
        scene.more(&load, SENT_DURING_SYNC);
        killed.push(kill(|| scene.sidecar.kill_all()));
        scene.sidecar.shim.slow_syncs(Duration::ZERO);
        scene.sidecar.start();
        scene.more(&load, SERVED);
    }
    only_what_a_kill_explains(&scene.end(load), &killed);
}

/// It delivers what those before it left, once the sink is there; those that ended in order left nothing undeclared.
#[test]
fn ex_1_d3_a_sidecar_that_starts_again_while_the_sink_is_away_delivers_what_its_predecessors_left() {
    let mut scene = Scene::start("restart");
    let load = scene.load();
    scene.more(&load, 100);
    scene.sink.down();
    let mut killed = Vec::new();
    for _ in 0..2 {
        scene.more(&load, 200);
        killed.push(kill(|| scene.sidecar.kill_all()));
        scene.sidecar.start();
        scene.more(&load, 200);
        let status = scene.sidecar.terminate();
        assert!(status.success(), "{status}");
        scene.sidecar.start();
    }
    scene.more(&load, 100);
    scene.sink.up();
    only_what_a_kill_explains(&scene.end(load), &killed);
}

/// Kills, a sink that fails, and a disk that fails now and then, all at once: gaps may have other reasons, but they count
/// exactly.
#[test]
fn ev_1_everything_at_once_loses_only_what_a_gap_declares() {
    let mut chance = Chance::of("everything");
    let mut scene = Scene::start("everything");
    let load = scene.load();
    scene.sink.set(Weather::Mixed(Fault::PASSING.to_vec(), 70, chance.clone()));
    for _ in 0..kills() {
        let operation = [Operation::Sync, Operation::Write, Operation::Read][chance.between(0, 3) as usize];
        scene.sidecar.shim.fail(operation, chance.between(2, 20));
        wait(&mut chance);
        // Where its folder cannot be written at the start, there is no spool: `disk.rs`.
        for operation in [Operation::Sync, Operation::Write] {
            scene.sidecar.shim.fail(operation, 0);
        }
        if chance.between(0, 2) == 0 {
            let worker = scene.sidecar.kill_worker();
            scene.sidecar.successor(worker);
        } else {
            scene.sidecar.kill_all();
            scene.sidecar.start();
        }
        scene.more(&load, CLIENTS as u64);
        scene.sidecar.shim.fail(Operation::Read, 0);
    }
    let outcome = scene.end(load);
    outcome.check_counts();
    let died = outcome.rows().any(|row| matches!(row.typ, Typ::Gap { lost_sid: Some(_), .. }));
    outcome.check("gaps name the streams that were lost", died || outcome.count.lost.is_empty());
}

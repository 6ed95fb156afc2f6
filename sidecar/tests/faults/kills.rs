//! SIGKILL at random points.

use super::oracle::Wrong;
use super::scene::{CLIENTS, Outcome, Scene};
use super::wire::Chance;
use std::time::{Duration, Instant};

/// Kills of each test, where `TESTIMONY_KILLS` says nothing.
const KILLS_DEFAULT: u64 = 10;

fn kills() -> u64 {
    std::env::var("TESTIMONY_KILLS").map_or(KILLS_DEFAULT, |text| text.parse().expect("TESTIMONY_KILLS is a number"))
}

/// How long before the kill that took it with it each lost request had been answered.
fn ages(outcome: &Outcome, killed: &[Instant]) -> Vec<Duration> {
    let lost = outcome.asked.iter().filter(|one| outcome.count.lost.contains(&one.path));
    let mut ages: Vec<Duration> = lost
        .filter_map(|one| {
            let answered = one.answered?;
            let kill = killed.iter().find(|kill| **kill >= one.sent)?;
            // Its answer was on its way at the kill: it was in flight.
            Some(kill.saturating_duration_since(answered))
        })
        .collect();
    ages.sort_unstable();
    ages
}

#[test]
fn ev_1_a_killed_worker_loses_only_what_a_gap_declares() {
    let mut chance = Chance::of("worker");
    let scene = Scene::start("worker");
    let load = scene.load();
    let mut killed = Vec::new();
    for _ in 0..kills() {
        std::thread::sleep(Duration::from_micros(chance.between(0, 300_000)));
        killed.push(Instant::now());
        let worker = scene.sidecar.kill_worker();
        scene.sidecar.successor(worker);
        scene.more(&load, CLIENTS as u64);
    }
    let outcome = scene.end(load, false);
    let ages = ages(&outcome, &killed);
    println!("{} lost that were answered, the oldest {:?} before the kill", ages.len(), ages.last());
    outcome.check("client log = records + gaps", outcome.count.wrong.is_empty());
}

/// Without a spool, what its memory held is gone with the process; but nothing is told twice.
#[test]
fn s1_a_killed_sidecar_that_starts_again_tells_nothing_twice() {
    let mut chance = Chance::of("all");
    let mut scene = Scene::start("all");
    let load = scene.load();
    for _ in 0..kills() {
        std::thread::sleep(Duration::from_micros(chance.between(0, 300_000)));
        scene.sidecar.kill_all();
        scene.sidecar.start();
        scene.more(&load, CLIENTS as u64);
    }
    let outcome = scene.end(load, true);
    let only_lost = outcome.count.wrong.iter().all(|wrong| matches!(wrong, Wrong::Undeclared { .. }));
    outcome.check("nothing is wrong but that something is lost", only_lost);
}

//! A clock that jumps.

use super::oracle::Typ;
use super::scene::Scene;
use super::sinks::nothing_is_lost;
use std::collections::BTreeMap;

const HOUR_NS: i64 = 3_600_000_000_000;
/// What both clocks may differ in all, without a step.
const DRIFT_NS_MAX: u64 = 4_000_000_000;
const REQUESTS_PER_STEP: u64 = 150;

#[test]
fn r5_v4_a_clock_that_jumps_loses_nothing_and_the_jumps_are_told() {
    let scene = Scene::start("clock");
    let load = scene.load();
    for ahead_ns in [HOUR_NS, -2 * HOUR_NS, 24 * HOUR_NS, -HOUR_NS] {
        scene.more(&load, REQUESTS_PER_STEP);
        scene.sidecar.shim.set_clock(ahead_ns);
    }
    scene.more(&load, REQUESTS_PER_STEP);
    let outcome = scene.end(load);
    nothing_is_lost(&outcome);
    let mut steps: BTreeMap<(String, u64), i64> = BTreeMap::new();
    for row in outcome.rows() {
        if let Typ::Clock { step_ns } = row.typ {
            steps.insert((row.sid, row.seq), step_ns);
        }
    }
    // A stream without traffic may see two steps as one, but their sum is what the clock has done.
    let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
    steps.iter().for_each(|((sid, _), step_ns)| *sums.entry(sid).or_default() += step_ns);
    let told = sums.values().all(|sum| sum.abs_diff(-HOUR_NS) < DRIFT_NS_MAX);
    outcome.check(&format!("both streams tell every step: {steps:?}"), told && sums.len() == 2 && steps.len() >= 4);
}

//! A sink that fails loses nothing.

use super::receiver::{Fault, Weather};
use super::scene::{Outcome, Scene};
use super::wire::Chance;
use std::time::{Duration, Instant};
use testimony_core::evidence::verify::Verdict;

/// A spool for an outage: so much in any case, and for each second of it.
const SPOOL_BYTES_MIN: u64 = 256 * 1024 * 1024;
const SPOOL_BYTES_PER_SECOND: u64 = 2 * 1024 * 1024;
/// Requests that each fault sees.
pub const REQUESTS_PER_FAULT: u64 = 150;

/// How long sinks are away, beyond the least, where it is said by hand.
pub fn by_hand() -> Duration {
    let text = std::env::var("TESTIMONY_OUTAGE_SECONDS").unwrap_or("0".to_owned());
    Duration::from_secs(text.parse().expect("a number of seconds"))
}

/// A spool that holds what comes while a sink is away so long.
pub fn spool_bytes(outage: Duration) -> u64 {
    SPOOL_BYTES_MIN + outage.as_secs() * SPOOL_BYTES_PER_SECOND
}

/// No gap, no hole, every request recorded, every stream closed; nothing but the missing trust roots is found.
pub fn nothing_is_lost(outcome: &Outcome) {
    outcome.check_counts();
    outcome.check("nothing is lost", outcome.count.lost.is_empty() && outcome.count.gaps.is_empty());
    outcome.check("there is no hole", outcome.count.in_holes == 0);
    outcome.check("every request was answered", outcome.count.answered == outcome.count.asked);
    let verdicts = outcome.report.findings.iter().all(|finding| finding.verdict == Verdict::Unanchored);
    outcome.check("nothing is found but that no roots were given", verdicts);
    outcome.check("every stream is closed", outcome.report.streams.iter().all(|stream| stream.closed));
}

#[test]
fn ex_1_a_sink_that_fails_in_every_way_one_after_the_other_loses_nothing() {
    let scene = Scene::start("each-fault");
    let load = scene.load();
    for fault in Fault::PASSING {
        // Until it has struck: the sink may still wait after the fault before.
        scene.sink.set(Weather::Always(fault));
        scene.sidecar.until(&format!("{fault:?} strikes"), |_| scene.sink.seen().contains_key(&fault));
        scene.more(&load, REQUESTS_PER_FAULT);
        // Something must get through between two faults, or the pauses between the tries grow.
        scene.sink.set(Weather::Always(Fault::None));
        let before = scene.sink.exchanges();
        scene.sidecar.until("something arrives", |_| scene.sink.exchanges() > before);
    }
    let outcome = scene.end(load);
    nothing_is_lost(&outcome);
    outcome.check("copies came, which are no fault", outcome.count.copies > 0);
}

#[test]
fn ex_1_a_sink_that_fails_by_chance_loses_nothing() {
    by_chance(Scene::start("weather"));
}

fn by_chance(scene: Scene) {
    let load = scene.load();
    let chance = Chance::of("weather");
    scene.sink.set(Weather::Mixed(Fault::PASSING.to_vec(), 60, chance));
    scene.sidecar.until("it has failed often", |_| {
        scene.sink.seen().iter().filter(|(fault, _)| **fault != Fault::None).map(|(_, times)| times).sum::<u64>() >= 15
    });
    nothing_is_lost(&scene.end(load));
}

#[test]
fn ex_1_a_sink_that_fails_by_chance_loses_nothing_that_waits_in_memory() {
    by_chance(Scene::in_memory("weather-memory"));
}

#[test]
fn ex_1_a_sink_that_takes_no_credentials_for_a_while_loses_nothing() {
    is_waited_for("unauthorized", Fault::Unauthorized);
}

#[test]
fn ex_1_a_sink_that_answers_400_to_whatever_it_is_sent_for_a_while_loses_nothing() {
    is_waited_for("misfit", Fault::Misfit);
}

fn is_waited_for(name: &'static str, fault: Fault) {
    let scene = Scene::start(name);
    scene.sink.set(Weather::Always(fault));
    let load = scene.load();
    scene.sidecar.until("it is refused", |_| scene.sink.seen().contains_key(&fault));
    scene.more(&load, REQUESTS_PER_FAULT);
    scene.sink.set(Weather::Always(Fault::None));
    nothing_is_lost(&scene.end(load));
}

#[test]
fn ex_1_a_sink_that_is_away_under_load_and_comes_back_loses_nothing() {
    let outage = by_hand();
    let scene = Scene::with_spool("outage", spool_bytes(outage));
    let load = scene.load();
    for _ in 0..2 {
        let before = scene.sink.exchanges();
        scene.sidecar.until("something arrives", |_| scene.sink.exchanges() > before);
        scene.sink.down();
        let (down, sent) = (Instant::now(), load.sent());
        scene.more(&load, 5 * REQUESTS_PER_FAULT);
        while down.elapsed() < outage / 2 {
            scene.more(&load, REQUESTS_PER_FAULT);
        }
        let (away, spooled) = (down.elapsed(), scene.spool_bytes());
        println!("figure: {} requests in an outage of {away:?}; {spooled} bytes in the spool", load.sent() - sent);
        scene.sink.up();
    }
    nothing_is_lost(&scene.end(load));
}

/// What one sink refuses for good is a hole, which says which records: never a gap, never silence.
#[test]
fn g2_what_the_sink_refuses_for_good_is_told_as_holes() {
    let scene = Scene::start("refusing");
    let load = scene.load();
    scene.more(&load, REQUESTS_PER_FAULT);
    scene.sink.set(Weather::Always(Fault::Refusing));
    scene.sidecar.until("it is refused", |_| scene.sink.seen().get(&Fault::Refusing).is_some_and(|times| *times > 20));
    scene.sink.set(Weather::Always(Fault::None));
    let outcome = scene.end(load);
    outcome.check_counts();
    outcome.check("something was refused", !outcome.count.lost.is_empty());
    outcome.check("that is no gap", outcome.count.gaps.is_empty());
    outcome.check("each one is in a hole", outcome.count.in_holes >= outcome.count.lost.len() as u64);
}

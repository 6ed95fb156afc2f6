//! What audit adds to an answer's time: `cargo bench -p testimony-sidecar --bench latency`.
//!
//! Real sidecars, each a process of its own, between an application and clients on this machine. The load is an open loop: each
//! request has its time on a fixed schedule, and its latency counts from there, whether or not the connection was free (no
//! coordinated omission). First Async against no audit at all (level `None`, no spool); then Strict against Async, beside the
//! commit interval and the time that a sync takes on this disk. The two that are compared take turns each half second, so that
//! what else the machine does meets both alike. Prints figures and asserts nothing about time.
//!
//! `TESTIMONY_LATENCY_SECONDS` is how long each of the two is measured in a round (5), `TESTIMONY_LATENCY_DIR` where spools
//! stand (the temporary folder): a disk is measured only if that is on one.

mod load;
#[path = "../../tests/support/ports.rs"]
mod ports;
mod world;

use load::{Latencies, measure};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use testimony_sidecar::spool::Limits;
use world::{Sidecar, application, sink};

/// Rounds of each comparison.
const ROUNDS: usize = 5;
/// Requests a second, and connections they share, where Async is compared with no audit,
const RATE: u32 = 4_000;
const CONNECTIONS: usize = 32;
/// and where Strict is compared with Async: each answer takes a commit, so fewer come at once.
const STRICT_RATE: u32 = 1_000;
/// Length of a turn, and what is sent before it counts.
const TURN: Duration = Duration::from_millis(500);
const WARM_UP: Duration = Duration::from_millis(100);
/// Audit may add so much to the 99th percentile: a part of it, and so many microseconds.
const GOAL_PART: f64 = 0.05;
const GOAL_US: f64 = 20.0;
/// Limit of each spool, in bytes: the chart's.
const SPOOL_BYTES: u64 = 256 * 1024 * 1024;
/// Syncs that are timed, and bytes that each makes durable.
const SYNCS: usize = 200;
const SYNC_BYTES: usize = 4096;

fn main() {
    let seconds = std::env::var("TESTIMONY_LATENCY_SECONDS").map_or(5, |text| text.parse().expect("a number"));
    let turns = usize::try_from(Duration::from_secs(seconds).as_millis() / TURN.as_millis()).expect("a few");
    let place = std::env::var_os("TESTIMONY_LATENCY_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = place.join(format!("testimony-bench-latency-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (origin, sink) = (application(), sink());
    let spool = |name: &str| {
        let [disk, key] = ["disk", "key"].map(|part| folder.join(name).join(part));
        [&disk, &key].into_iter().for_each(|path| std::fs::create_dir_all(path).expect("a folder"));
        format!("spool: {{dir: '{}', keyDir: '{}', bytesMax: {SPOOL_BYTES}}}\n", disk.display(), key.display())
    };
    let start = |name: &str, yaml: &str| Sidecar::start(&folder.join(name), origin, sink, yaml);
    std::fs::create_dir_all(folder.join("off")).expect("a folder");
    let off = start("off", "policy: {rules: [{name: all, level: None}]}\n");
    let on = start("async", &format!("policy: {{rules: []}}\n{}", spool("async")));
    let strict = start("strict", &format!("policy: {{delivery: {{mode: Strict}}}}\n{}", spool("strict")));

    println!(
        "Async against no audit: {RATE} requests a second, {CONNECTIONS} connections, {seconds} s each, {ROUNDS} rounds"
    );
    let [without, with] = alternate([("no audit", &off), ("Async", &on)], RATE, turns);
    let goal = |without_us: f64| without_us * (1.0 + GOAL_PART) + GOAL_US;
    let reached = if with.p99_us <= goal(without.p99_us) { "reached" } else { "missed" };
    println!(
        "medians: no audit p50 {:.0} p99 {:.0} us, Async p50 {:.0} p99 {:.0} us: {:+.0} us at p99; goal {:.0} us (5 % and 20 us \
         more than without): {reached}\n\
         when the machine is quiet: no audit p99 {:.0} us, Async p99 {:.0} us: {:+.0} us; goal {:.0} us\n",
        without.p50_us,
        without.p99_us,
        with.p50_us,
        with.p99_us,
        with.p99_us - without.p99_us,
        goal(without.p99_us),
        without.quiet_p99_us,
        with.quiet_p99_us,
        with.quiet_p99_us - without.quiet_p99_us,
        goal(without.quiet_p99_us),
    );

    println!(
        "Strict against Async: {STRICT_RATE} requests a second, {CONNECTIONS} connections, {seconds} s each, {ROUNDS} rounds"
    );
    let [with, held] = alternate([("Async", &on), ("Strict", &strict)], STRICT_RATE, turns);
    let sync = syncs(&folder.join("strict/disk"));
    println!(
        "medians: Async p50 {:.0} p99 {:.0} us, Strict p50 {:.0} p99 {:.0} us: {:+.0} us at p50, {:+.0} us at p99\n\
         commit interval {} us (Strict), {} us (Async); a sync of {SYNC_BYTES} bytes takes {:.0} us (p50), {:.0} us (p99) on this disk",
        with.p50_us,
        with.p99_us,
        held.p50_us,
        held.p99_us,
        held.p50_us - with.p50_us,
        held.p99_us - with.p99_us,
        Limits::default().commit_after_urgent.as_micros(),
        Limits::default().commit_after.as_micros(),
        sync.p50_us,
        sync.p99_us,
    );
    drop((off, on, strict));
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}

/// Measures both in turns, in the other order every other time; prints each round and returns the medians of all turns.
fn alternate(sidecars: [(&str, &Sidecar); 2], rate: u32, turns: usize) -> [Latencies; 2] {
    let mut all: [Vec<Latencies>; 2] = Default::default();
    for round in 0..ROUNDS {
        for turn in 0..2 * turns {
            let at = (turn + turn / 2) % 2;
            let to = sidecars[at].1.inbound;
            measure(to, rate, CONNECTIONS, WARM_UP);
            all[at].push(measure(to, rate, CONNECTIONS, TURN));
        }
        for ((name, _), all) in sidecars.iter().zip(&all) {
            let got = Latencies::median_of(&all[round * turns..]);
            println!(
                "round {}, {name}: {} answers, p50 {:.0} p99 {:.0} max {:.0} us, p99 when quiet {:.0} us; sent late by p99 {:.0} us",
                round + 1,
                got.count,
                got.p50_us,
                got.p99_us,
                got.max_us,
                got.quiet_p99_us,
                got.late_p99_us,
            );
        }
    }
    all.map(|all| Latencies::median_of(&all))
}

/// How long a sync takes where spools stand, with nothing else to do.
fn syncs(folder: &Path) -> Latencies {
    let path = folder.join("sync");
    let mut file = File::create(&path).expect("a file");
    let mut took = Vec::new();
    for _ in 0..SYNCS {
        file.write_all(&[7; SYNC_BYTES]).expect("written");
        let begun = Instant::now();
        file.sync_data().expect("synced");
        took.push(begun.elapsed());
    }
    std::fs::remove_file(&path).expect("it goes");
    Latencies::of(took, Vec::new())
}

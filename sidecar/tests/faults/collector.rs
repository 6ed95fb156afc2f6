//! A real Collector between the sidecar and the store, which is killed.

use super::otelcol::Otelcol;
use super::ports::free_port;
use super::receiver::{Fault, Weather};
use super::scene::Scene;
use super::sinks::{REQUESTS_PER_FAULT, by_hand, nothing_is_lost, spool_bytes};
use super::wire::Chance;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How often it is killed, unless `TESTIMONY_KILLS` says otherwise.
const KILLS: u64 = 4;

/// Instead of its queue: nothing is answered before the store has answered.
const NO_QUEUE: &str = "{enabled: false}";
/// A queue on disk that is soon full: the store is away for longer than that takes.
const SHORT_QUEUE: &str = "{queue_size: 5}";

/// A Collector that passes on what it takes, running or between two runs.
pub struct Relay {
    /// Where it takes records.
    pub address: SocketAddr,
    configs: [PathBuf; 2],
    log: PathBuf,
    process: Option<Otelcol>,
}

impl Relay {
    /// With the configuration of the documentation, but for what belongs to this run.
    pub fn start(folder: &Path, store: SocketAddr, queue: &str) -> Self {
        let (address, grpc, disk) = (free_port(), free_port(), folder.join("otelcol"));
        let own = format!(
            "extensions: {{file_storage: {{directory: '{}'}}}}\n\
             receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '{grpc}'}}, http: {{endpoint: '{address}'}}}}}}}}\n\
             exporters:\n  otlp_http:\n    endpoint: 'http://{store}'\n    sending_queue: {queue}\n    \
             retry_on_failure: {{initial_interval: 50ms, max_interval: 200ms}}\n\
             service: {{telemetry: {{metrics: {{level: none}}}}}}\n",
            disk.display()
        );
        let own_file = folder.join("collector.yaml");
        std::fs::write(&own_file, own).expect("a file");
        let documented = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/collector.yaml");
        let log = folder.join("otelcol.log");
        let mut relay = Self { address, configs: [documented, own_file], log, process: None };
        relay.up();
        relay
    }

    fn up(&mut self) {
        let [documented, own] = &self.configs;
        self.process = Some(Otelcol::start(&[documented, own], &[self.address], &self.log));
    }

    fn kill(&mut self) {
        self.process = None;
    }
}

/// Kills the Collector under load, every other time while the store takes nothing, so that it holds records.
fn killed(name: &'static str, queue: &str) {
    let number = |text: String| text.parse().expect("a number");
    let kills = std::env::var("TESTIMONY_KILLS").map_or(KILLS, number);
    let outage = by_hand();
    let (scene, mut relay) = Scene::behind_collector(name, spool_bytes(outage), queue);
    let (load, mut chance) = (scene.load(), Chance::of(name));
    for kill in 0..kills {
        let before = scene.sink.exchanges();
        scene.sidecar.until("something arrives", |_| scene.sink.exchanges() > before);
        if kill % 2 == 1 {
            scene.sink.set(Weather::Always(Fault::Unavailable));
        }
        scene.more(&load, chance.between(1, REQUESTS_PER_FAULT));
        relay.kill();
        let (down, sent) = (Instant::now(), load.sent());
        scene.more(&load, REQUESTS_PER_FAULT);
        while down.elapsed() < outage / u32::try_from(kills).expect("few") {
            scene.more(&load, REQUESTS_PER_FAULT);
        }
        println!("figure: {} requests in {:?} without the Collector", load.sent() - sent, down.elapsed());
        relay.up();
        scene.sink.set(Weather::Always(Fault::None));
    }
    nothing_is_lost(&scene.end(load));
}

#[test]
fn ex_1_a_killed_collector_as_documented_loses_nothing() {
    killed("collector", SHORT_QUEUE);
}

#[test]
fn ex_1_a_killed_collector_without_a_queue_loses_nothing() {
    killed("collector-no-queue", NO_QUEUE);
}

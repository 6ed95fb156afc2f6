//! What one record costs from the first byte of its request to the disk: `cargo bench -p testimony-sidecar --bench record`.
//!
//! CPU time of the whole process (getrusage: all threads, user and system) over exchanges that are captured, redacted, sealed
//! with signed heads, compressed, encrypted, appended and synced. What parsing and forwarding HTTP/1 takes without capture is
//! measured apart and taken off: a proxy pays that anyway. Each figure is the least of several rounds, with the middle one in
//! brackets where it says how noisy the machine is.
//!
//! With `-- STAGE SIZE COUNT` only one stage runs, as often: for a profiler that counts instructions.

mod cpu;
mod load;
mod stages;

use arc_swap::ArcSwap;
use bytes::Bytes;
use cpu::{Cpu, Rounds};
use load::{Client, REQUESTS_PER_CONNECTION, Size, connection, document};
use stages::{Stages, stages};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use testimony_core::capture::{HttpCapture, Shell as _};
use testimony_core::evidence::seal::Origin;
use testimony_core::policy::Compiled;
use testimony_core::record::Kept;
use testimony_sidecar::data::{Recorder, Shared};
use testimony_sidecar::export::{self, SinkFolders};
use testimony_sidecar::metrics::Metrics;
use testimony_sidecar::spool::{Boot, Kind, Limits, Place, Read, Settings, SinkRule, Spool, SpoolHandle};
use testimony_sidecar::tail::Tail;
use tokio::sync::watch;

/// What a record of 1 KiB may cost, in microseconds of CPU.
const GOAL_US: f64 = 5.0;
/// Room for all records of a run, in bytes.
const SPOOL_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// The load comes in bursts so far apart.
const BURST_EVERY: Duration = Duration::from_millis(5);
/// Exchanges of a burst when there is no pace: as many as a busy proxy finds ready at once.
const BURST: u64 = 32;
const ROUNDS: u64 = 9;

/// A load.
#[derive(Clone, Copy)]
struct Load {
    size: Size,
    /// Exchanges a second; `None`: as fast as the spool takes them.
    rate: Option<u64>,
    /// Records of each round.
    records: u64,
}

/// What a load cost, in microseconds of CPU a record.
struct Cost {
    all: Rounds,
    /// Of it, on the data thread.
    data: Rounds,
    body_bytes: u64,
    disk_bytes: u64,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [stage, size, count] = words.as_slice() {
        return only(stage, size, count.parse().expect("a count"));
    }
    let folder = folder();
    let parts = Size::ALL.map(|size| (size, stages(size)));
    let mut boot = 0;
    let mut cost = |load| {
        boot += 1;
        run(&folder, boot, load)
    };
    for (size, stages) in &parts {
        shares(stages, &cost(Load { size: *size, rate: None, records: 20_000 }));
    }
    let (_, usual) = &parts[1];
    for rate in [1_000, 5_000] {
        let Cost { all, .. } = cost(Load { size: Size::Usual, rate: Some(rate), records: rate });
        let [least, middle] = [all.least(), all.middle()].map(|us| us - usual.forward);
        println!("{rate} a second: {least:.2} us CPU a record (middle of {ROUNDS} rounds {middle:.2})");
    }
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}

fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("testimony-bench-record-{}", std::process::id()))
}

/// Runs one stage so often.
fn only(stage: &str, size: &str, count: u64) {
    let size = Size::ALL.into_iter().find(|known| known.name() == size).expect("least, usual or long");
    let rounds = match stage {
        "forward" => stages::forward(size, 1, count),
        "capture" => stages::capture(size, 1, count),
        "seal" => stages::seal(size, 1, count),
        "frame" => stages::frame(size, 1, count),
        "whole" => {
            let folder = folder();
            let cost = run(&folder, 1, Load { size, rate: None, records: count.div_ceil(ROUNDS) });
            std::fs::remove_dir_all(&folder).expect("the folder goes");
            cost.all
        }
        _ => panic!("forward, capture, seal, frame or whole"),
    };
    println!("{:.2} us", rounds.least());
}

/// Prints what a record of one size costs, and the share of each stage.
fn shares(stages: &Stages, cost: &Cost) {
    let net = |us: f64| us - stages.forward;
    let all = net(cost.all.least());
    println!(
        "body {} B, on disk {} B: {all:.2} us CPU a record (middle of {ROUNDS} rounds {:.2}){}",
        cost.body_bytes,
        cost.disk_bytes,
        net(cost.all.middle()),
        if stages.body_bytes.abs_diff(1024) < 256 { format!(", goal {GOAL_US} us") } else { String::new() },
    );
    let data = net(cost.data.least());
    let thread = cost.all.least() - cost.data.least();
    let [put, write] = [
        data - stages.capture - stages.redact - stages.encode - stages.hash,
        thread - stages.compress - stages.encrypt,
    ];
    for (name, us) in [
        ("capture: from the heads to the record", stages.capture),
        ("redact", stages.redact),
        ("encode: canonical body", stages.encode),
        ("hash and tree", stages.hash),
        ("put: clocks, counters, the way to the spool", put),
        ("compress", stages.compress),
        ("encrypt, with checksums", stages.encrypt),
        ("write: system calls, waking", write),
    ] {
        println!("  {us:>5.2} us {:>3.0} %  {name}", us / all * 100.0);
    }
    println!("  {:>5.2} us        not in it: LogRecord, when it leaves, for each sink", stages.leave);
}

/// Captures exchanges, round by round.
fn run(root: &Path, boot: u128, load: Load) -> Cost {
    let (spool, handle) = spool(root, boot);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut all, mut data) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let recorder = recorder(&handle, boot);
        let rounds = async {
            let mut client = Clients::new(&recorder, load.size);
            for _ in 0..ROUNDS {
                let before = Cpu::now();
                round(&recorder, &mut client, load).await;
                recorder.all_durable().await;
                let used = Cpu::now().since(&before);
                all.push(used.process_us / load.records as f64);
                data.push(used.thread_us / load.records as f64);
            }
        };
        tokio::select! {
            () = recorder.keep() => panic!("it never ends"),
            () = rounds => {}
        }
    });
    let (read, body_bytes) = read_back(&handle);
    let records = load.records * ROUNDS;
    assert_eq!(read, records, "every exchange has its record");
    let disk_bytes = handle.stats().used_bytes / records;
    drop(spool);
    Cost { all: Rounds::new(all), data: Rounds::new(data), body_bytes, disk_bytes }
}

async fn round(recorder: &Recorder, clients: &mut Clients<'_>, load: Load) {
    let burst = load.rate.map_or(BURST, |rate| (rate * BURST_EVERY.as_millis() as u64 / 1000).max(1));
    let mut tick = tokio::time::interval(BURST_EVERY);
    let mut left = load.records;
    while left > 0 {
        match load.rate {
            Some(_) => drop(tick.tick().await),
            None => tokio::task::yield_now().await,
        }
        for number in 0..burst.min(left) {
            // Where a record has room, so have some more of its size.
            let asks = load.size == Size::Long || number.is_multiple_of(4);
            while asks && !recorder.can_record() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            clients.exchange();
            left -= 1;
        }
    }
}

/// One connection after the other.
struct Clients<'a> {
    recorder: &'a Recorder,
    size: Size,
    number: u64,
    client: Client,
    capture: HttpCapture<Recorder>,
}

impl<'a> Clients<'a> {
    fn new(recorder: &'a Recorder, size: Size) -> Self {
        let capture = HttpCapture::new(recorder.clone(), connection());
        Self { recorder, size, number: 0, client: Client::new(size), capture }
    }

    fn exchange(&mut self) {
        if self.number.is_multiple_of(REQUESTS_PER_CONNECTION) {
            self.client = Client::new(self.size);
            self.capture = HttpCapture::new(self.recorder.clone(), connection());
        }
        self.client.exchange(self.number, &mut self.capture);
        self.number += 1;
    }
}

fn spool(root: &Path, boot: u128) -> (Spool, SpoolHandle) {
    let memory: PathBuf = root.join("memory");
    std::fs::create_dir_all(&memory).expect("a folder");
    let settings = Settings {
        folder: root.join(format!("disk-{boot}")),
        key_folder: memory,
        limit_bytes: SPOOL_BYTES,
        limits: Limits::default(),
        boot: Boot(boot.to_be_bytes()),
        recovery: None,
        now_unix_nanos: || testimony_sidecar::data::now().wall_ns,
    };
    let sinks = [SinkRule { name: "a".to_owned(), required: true }];
    let (spool, _events) = Spool::start(settings, &sinks).expect("a spool");
    let handle = spool.handle().clone();
    (spool, handle)
}

fn recorder(spool: &SpoolHandle, boot: u128) -> Recorder {
    let metrics = Arc::new(Metrics::default());
    let settings = export::Settings {
        resource: Bytes::new(),
        folders: SinkFolders::default(),
        namespace: None,
        sink_headers: BTreeMap::new(),
        metrics: metrics.clone(),
        spool: Some(spool.clone()),
    };
    let (queue, _exporter) = export::new(settings, watch::channel(Arc::from([])).1);
    let shared = Shared {
        policy: Arc::new(ArcSwap::from_pointee(Compiled::new(document()).expect("valid"))),
        in_flight: Arc::default(),
        names: None,
        queue,
        spool: Some(spool.clone()),
        metrics,
        tail: Tail::default(),
    };
    Recorder::new(shared, origin(boot)).expect("a stream")
}

/// Whose stream it is.
fn origin(boot: u128) -> Origin {
    let [cluster_uid, namespace, pod_uid] =
        ["0a1b2c3d-4e5f-6789-abcd-ef0123456789", "shop", "9f8e7d6c-5b4a-3210-fedc-ba9876543210"].map(str::to_owned);
    Origin { cluster_uid, namespace, pod_uid, boot, ..Origin::default() }
}

/// How many exchanges the disk has, and how long a body is on average, in bytes.
fn read_back(spool: &SpoolHandle) -> (u64, u64) {
    let mut reader = spool.reader_at(spool.boot(), Place::default()).expect("a reader");
    let (mut records, mut bytes) = (0, 0);
    while let Read::Block(block) = reader.read().expect("readable") {
        for one in block.iter().filter(|one| one.entry.kind == Kind::Exchange) {
            records += 1;
            bytes += Kept::decode(one.payload).expect("a record").body().len() as u64;
        }
    }
    (records, bytes / records.max(1))
}

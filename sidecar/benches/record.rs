//! What one record costs from the first byte of its request to the disk: `cargo bench -p testimony-sidecar --bench record`.
//!
//! CPU time of the whole process (getrusage: all threads, user and system) over exchanges that are captured, redacted, sealed
//! with signed heads, compressed, encrypted, appended and synced. What parsing and forwarding HTTP/1 takes without capture is
//! measured apart and taken off: a proxy pays that anyway. A record's canonical body has a little more than 1 KiB.

use arc_swap::ArcSwap;
use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::ScopeLogs;
use prost::Message as _;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use testimony_core::capture::{ConnFacts, HttpCapture, Shell as _};
use testimony_core::evidence::seal::Origin;
use testimony_core::http1::{
    ConnSeq, End, HeadEdit, Limits as Http1Limits, Observer, RequestHead, ResponseHead, Session,
};
use testimony_core::policy::{
    Compiled, Correlation, DOCUMENT_VERSION, DeliveryMode, Direction, DocumentPolicy, FailureMode, PolicyDocument,
};
use testimony_sidecar::data::{Recorder, Shared};
use testimony_sidecar::export::{self, SinkFolders};
use testimony_sidecar::metrics::Metrics;
use testimony_sidecar::spool::{Boot, Kind, Limits, Place, Read, Settings, SinkRule, Spool, SpoolHandle};
use testimony_sidecar::tail::Tail;
use tokio::sync::watch;

/// What a record may cost, in microseconds of CPU.
const GOAL_US: f64 = 5.0;
/// Room for all records of a run, in bytes.
const SPOOL_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Requests on one connection.
const REQUESTS_PER_CONNECTION: u64 = 100;
/// The load comes in bursts so far apart.
const BURST_EVERY: Duration = Duration::from_millis(5);

const RESPONSE: &[u8] = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

fn main() {
    let folder = std::env::temp_dir().join(format!("testimony-bench-record-{}", std::process::id()));
    let forwarding_us = forwarding(200_000);
    println!("HTTP/1 parsed and forwarded alone: {forwarding_us:.2} us CPU a request");
    for (number, rate, records) in [(1, Some(1_000), 5_000), (2, Some(5_000), 25_000), (3, None, 200_000)] {
        run(&folder, number, rate, records, forwarding_us);
    }
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}

/// Captures so many exchanges, at this rate a second, or as fast as the spool takes them.
fn run(root: &Path, boot: u128, rate: Option<u64>, records: u64, forwarding_us: f64) {
    let (spool, handle) = spool(root, boot);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (cpu, wall) = runtime.block_on(async {
        let recorder = recorder(&handle, boot);
        let (started, before) = (Instant::now(), Cpu::now());
        let load = load(&recorder, rate, records);
        tokio::select! {
            () = recorder.keep() => panic!("it never ends"),
            () = load => {}
        }
        recorder.all_durable().await;
        (Cpu::now().since(&before), started.elapsed())
    });
    let (read, body_bytes) = read_back(&handle);
    assert_eq!(read, records, "every exchange has its record");
    let disk_bytes = handle.stats().used_bytes / records;
    let [all, data] = [cpu.process_us, cpu.thread_us].map(|us| us / records as f64);
    let [net, data_net, spool_us] = [all - forwarding_us, data - forwarding_us, all - data];
    let pace = rate.map_or("as fast as it goes".to_owned(), |rate| format!("{rate} a second"));
    println!(
        "{pace}: {net:.2} us CPU a record, goal {GOAL_US} us; of it {data_net:.2} to capture and seal it, {spool_us:.2} to encrypt and \
         append it; {:.0} records/s, body {body_bytes} B, on disk {disk_bytes} B",
        records as f64 / wall.as_secs_f64(),
    );
    drop(spool);
}

async fn load(recorder: &Recorder, rate: Option<u64>, records: u64) {
    let burst = rate.map_or(4, |rate| (rate * BURST_EVERY.as_millis() as u64 / 1000).max(1));
    let mut tick = tokio::time::interval(BURST_EVERY);
    let mut client = Client::default();
    let mut capture = HttpCapture::new(recorder.clone(), connection());
    let mut number = 0;
    while number < records {
        match rate {
            Some(_) => drop(tick.tick().await),
            None => tokio::task::yield_now().await,
        }
        while !recorder.can_record() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        for _ in 0..burst.min(records - number) {
            if number % REQUESTS_PER_CONNECTION == 0 {
                client = Client::default();
                capture = HttpCapture::new(recorder.clone(), connection());
            }
            client.exchange(number, &mut capture);
            number += 1;
        }
    }
}

/// What remains of the same work without capture, in microseconds of CPU a request.
fn forwarding(requests: u64) -> f64 {
    let before = Cpu::now();
    let mut client = Client::default();
    for number in 0..requests {
        if number % REQUESTS_PER_CONNECTION == 0 {
            client = Client::default();
        }
        client.exchange(number, &mut Silent);
    }
    Cpu::now().since(&before).thread_us / requests as f64
}

/// One connection.
struct Client {
    session: Session,
    request: Vec<u8>,
    up: Vec<u8>,
    down: Vec<u8>,
}

impl Default for Client {
    fn default() -> Self {
        let (request, up, down) = Default::default();
        Self { session: Session::new(Http1Limits::default()), request, up, down }
    }
}

impl Client {
    fn exchange(&mut self, number: u64, observer: &mut impl Observer) {
        use std::io::Write as _;
        self.request.clear();
        write!(
            self.request,
            "GET /v1/orders/{number:08} HTTP/1.1\r\nhost: orders.shop\r\nuser-agent: python-requests/2.32.3\r\n\
             accept: application/json\r\ntraceparent: 00-4bf92f3577b34da6{:016x}-00f067aa{:08x}-01\r\n\r\n",
            number.wrapping_mul(0x94d0_49bb_1331_11eb) | 1,
            number | 1,
        )
        .expect("memory");
        self.up.clear();
        self.down.clear();
        let asked = self.session.client_bytes(&self.request, observer, &mut self.up, &mut self.down);
        assert_eq!(asked.consumed, self.request.len());
        let answered = self.session.upstream_bytes(RESPONSE, observer, &mut self.down, &mut self.up);
        assert_eq!(answered.consumed, RESPONSE.len());
    }
}

/// Looks at nothing.
struct Silent;

impl Observer for Silent {
    fn request_head(&mut self, _: ConnSeq, _: &RequestHead<'_>, _: &mut HeadEdit) {}
    fn request_unparsed(&mut self, _: ConnSeq, _: &[u8]) {}
    fn request_body(&mut self, _: ConnSeq, _: u64) {}
    fn request_end(&mut self, _: ConnSeq) {}
    fn response_head(&mut self, _: ConnSeq, _: &ResponseHead<'_>, _: usize) {}
    fn answered(&mut self, _: ConnSeq, _: u16, _: usize) {}
    fn response_body(&mut self, _: ConnSeq, _: u64) {}
    fn tunnel(&mut self, _: ConnSeq, _: u64, _: u64) {}
    fn exchange_end(&mut self, _: ConnSeq, _: End) {}
}

fn connection() -> ConnFacts {
    let address = |text: &str| text.parse().expect("an address");
    ConnFacts {
        direction: Direction::Inbound,
        conn_id: 0x0011_2233_4455_66aa,
        peer: address("10.244.1.17:43112"),
        local: address("10.244.2.9:8080"),
        upstream_local: Some(address("10.244.2.9:51022")),
        pod_actor: Some(Arc::from("system:serviceaccount:shop:orders")),
        from_node: false,
        peer_name: None,
    }
}

fn document() -> PolicyDocument {
    let policy = DocumentPolicy {
        name: "shop/all".to_owned(),
        directions: vec![Direction::Inbound, Direction::Outbound],
        exclude_ports: Vec::new(),
        rules: Vec::new(),
        delivery: DeliveryMode::Async,
        failure_mode: FailureMode::Open,
    };
    PolicyDocument {
        version: DOCUMENT_VERSION,
        revision: "0011223344556677".to_owned(),
        policies: vec![policy],
        client_address: Default::default(),
        correlation: Correlation::default(),
        redact: Default::default(),
        sinks: Vec::new(),
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
    let [cluster_uid, namespace, pod_uid] =
        ["0a1b2c3d-4e5f-6789-abcd-ef0123456789", "shop", "9f8e7d6c-5b4a-3210-fedc-ba9876543210"].map(str::to_owned);
    Recorder::new(shared, Origin { cluster_uid, namespace, pod_uid, boot, ..Origin::default() }).expect("a stream")
}

/// How many exchanges the disk has, and how long a body is on average, in bytes.
fn read_back(spool: &SpoolHandle) -> (u64, u64) {
    let mut reader = spool.reader_at(spool.boot(), Place::default()).expect("a reader");
    let (mut records, mut bytes) = (0, 0);
    while let Read::Block(block) = reader.read().expect("readable") {
        for one in block.iter().filter(|one| one.entry.kind == Kind::Exchange) {
            let logs = ScopeLogs::decode(one.payload).expect("OTLP");
            for record in &logs.log_records {
                let Some(Value::StringValue(body)) = record.body.as_ref().and_then(|body| body.value.as_ref()) else {
                    continue;
                };
                records += 1;
                bytes += body.len() as u64;
            }
        }
    }
    (records, bytes / records.max(1))
}

/// CPU time, user and system, in microseconds.
struct Cpu {
    /// Of all threads of this process, those too that have ended.
    process_us: f64,
    /// Of this thread: it captures and seals.
    thread_us: f64,
}

impl Cpu {
    fn now() -> Self {
        Self { process_us: usage_us(libc::RUSAGE_SELF), thread_us: usage_us(libc::RUSAGE_THREAD) }
    }

    fn since(&self, before: &Self) -> Self {
        Self { process_us: self.process_us - before.process_us, thread_us: self.thread_us - before.thread_us }
    }
}

fn usage_us(who: libc::c_int) -> f64 {
    // SAFETY: zeros are a valid value of this struct of integers, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(who, &raw mut usage), 0);
        usage
    };
    let us = |time: libc::timeval| time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
    us(usage.ru_utime) + us(usage.ru_stime)
}

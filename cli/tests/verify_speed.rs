//! The whole program over a long honest export: no finding, speed and memory. The figures are printed:
//! `cargo test --release -p testimony-cli --test verify_speed -- --nocapture`; `VERIFY_RECORDS` sets how many records.

#[path = "../../core/tests/evidence_support/mod.rs"]
mod evidence_support;

use evidence_support::{TestKey, at, origin, usual_exchange};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message;
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use testimony_core::evidence::seal::{Fate, Head, Host, Sealed, Stream, Wanted};
use testimony_core::record::{Field, Record, Redacted, Side};
use testimony_core::redact::{Redactor, redact};

/// Most memory that a verification may use, whatever it reads.
const MEMORY_MB_MAX: u64 = 512;

/// Between two looks at its memory.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Records of one line, as the Collector batches them.
const BATCH: usize = 512;

/// As the Collector's file exporter writes it.
fn otlp(log: &[u8]) -> Value {
    let record = LogRecord::decode(log).expect("a LogRecord");
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let any = |value: Option<Any>| match value {
        Some(Any::StringValue(text)) => json!({ "stringValue": text }),
        Some(Any::IntValue(number)) => json!({ "intValue": number.to_string() }),
        other => panic!("{other:?}"),
    };
    let attributes: Vec<Value> = record
        .attributes
        .into_iter()
        .map(|pair| json!({ "key": pair.key, "value": any(pair.value.and_then(|value| value.value)) }))
        .collect();
    json!({
        "timeUnixNano": record.time_unix_nano.to_string(), "observedTimeUnixNano": record.observed_time_unix_nano.to_string(),
        "body": any(record.body.and_then(|body| body.value)), "attributes": attributes,
        "traceId": hex(&record.trace_id), "spanId": hex(&record.span_id), "eventName": record.event_name,
    })
}

struct Export {
    out: BufWriter<ChildStdin>,
    batch: Vec<Value>,
    bytes: u64,
    sealed: u64,
    keys: u8,
}

impl Export {
    fn add(&mut self, log: &[u8]) {
        self.batch.push(otlp(log));
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
        let of = [
            text("service.name", "orders"),
            text("k8s.cluster.uid", "2b1c6d1e-6a0f-4f6e-9b59-0d0a4f0a7a01"),
            text("k8s.namespace.name", "shop"),
            text("k8s.pod.name", "orders-5d9c7b-x2x4z"),
            text("k8s.pod.uid", "7d6f2c1a-0001-4000-8000-00000000000a"),
            text("k8s.node.name", "node-1"),
        ];
        let records = std::mem::take(&mut self.batch);
        let line = json!({"resourceLogs": [{"resource": {"attributes": of}, "scopeLogs": [{"scope": {}, "logRecords": records}]}]});
        let line = line.to_string() + "\n";
        self.bytes += line.len() as u64;
        self.out.write_all(line.as_bytes()).expect("it reads");
    }
}

impl Host for Export {
    type Key = TestKey;

    fn random(&mut self) -> u128 {
        7
    }

    fn key(&mut self) -> Option<TestKey> {
        self.keys = self.keys.wrapping_add(1);
        Some(TestKey::new(self.keys))
    }

    fn reserve(&mut self, _: Wanted) -> bool {
        true
    }

    fn write(&mut self, sealed: Sealed<'_>) {
        self.sealed += 1;
        self.add(sealed.log_record());
    }

    fn head(&mut self, head: Head<'_>) {
        self.add(head.log_record());
    }
}

/// About 1 KiB of body.
fn record(at_ns: u64) -> Redacted<Record> {
    let mut record = usual_exchange();
    record.set_int(Field::T0, at_ns);
    record.set_int(Field::T1, at_ns + 3_000_000);
    record.push_header(Side::Request, "content-type", b"application/json");
    record.push_header(Side::Response, "content-type", b"application/json");
    redact(record, &Redactor::default())
}

/// CPU time of the children that were awaited, in seconds.
fn children_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
    let after = stat.rsplit(')').next().expect("fields");
    let ticks: u64 = after.split_whitespace().skip(13).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
    ticks as f64 / 100.0
}

/// Most memory that the process has used, in MB; `None`: it has ended.
fn peak_mb(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib / 1024)
}

#[test]
fn v1_a_long_honest_export_has_no_finding_and_little_memory() {
    let default = if cfg!(debug_assertions) { 3_000 } else { 1_000_000 };
    let wanted = std::env::var("VERIFY_RECORDS").ok().and_then(|count| count.parse().ok()).unwrap_or(default);
    let mut child = Command::new(env!("CARGO_BIN_EXE_testimony"))
        .args(["verify", "-o", "json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let out = BufWriter::with_capacity(1 << 20, child.stdin.take().expect("a pipe"));
    let mut host = Export { out, batch: Vec::new(), bytes: 0, sealed: 0, keys: 0 };
    let key = host.key().expect("a key");
    let mut stream = Stream::open(origin(1), key, "0011223344556677", at(0), &mut host).expect("a name");
    let mut peak = 0;
    for n in 0..wanted {
        let now = at(n);
        stream.begin();
        assert_eq!(stream.seal(&record(now.wall_ns), now, &mut host), Fate::Sealed);
        if now.mono_ns >= stream.due_ns() {
            stream.tick(now, &mut host);
        }
        if stream.awaits_durable() {
            stream.durable(stream.position(), now, &mut host);
            peak = peak.max(peak_mb(&child).unwrap_or_default());
        }
    }
    assert!(stream.close(at(wanted), &mut host));
    stream.durable(stream.position(), at(wanted), &mut host);
    host.flush();
    let (sealed, bytes) = (host.sealed, host.bytes);
    drop(host);
    let last = Instant::now();
    while let Some(mb) = peak_mb(&child) {
        peak = peak.max(mb);
        std::thread::sleep(LOOK_EVERY);
    }
    let output = child.wait_with_output().expect("it ends");
    let cpu = children_cpu();
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["records"], sealed);
    assert_eq!(report["proved"], sealed);
    let findings = report["findings"].as_array().expect("findings");
    assert!(findings.iter().all(|finding| finding["verdict"] == "UNANCHORED"), "{findings:#?}");
    println!(
        "figure: verify {sealed} records, {} MB: {:.0} records/s of CPU time, {peak} MB of memory, {:.1} s after the input",
        bytes >> 20,
        sealed as f64 / cpu.max(0.01),
        last.elapsed().as_secs_f64()
    );
    assert!(peak < MEMORY_MB_MAX, "{peak} MB");
}

//! The whole program over a long honest export: no finding, speed and memory. The figures are printed:
//! `cargo test --release -p testimony-cli --test verify_speed -- --nocapture`; `VERIFY_RECORDS` sets how many records.

#[path = "../../core/tests/evidence_support/mod.rs"]
mod evidence_support;
#[path = "support/otlp.rs"]
mod otlp;

use evidence_support::{TestKey, at, origin, usual_exchange};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use otlp::{line, otlp};
use prost::Message;
use serde_json::Value;
use std::io::{BufWriter, Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use testimony_core::evidence::seal::{Fate, Head, Host, Sealed, Stream, Wanted};
use testimony_core::otlp::proto::content;
use testimony_core::record::{Field, Kept, LogWriter, Record, Redacted, Side};
use testimony_core::redact::{Redactor, redact};

/// Most memory that a verification may use, whatever it reads.
const MEMORY_MB_MAX: u64 = 512;

/// Below that, what short exports may use: the program with its buffers, and so much for each record.
const MEMORY_MB_FIXED: u64 = 96;
const MEMORY_BYTES_A_RECORD: u64 = 256;

/// Between two looks at its memory.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long the program may take after its input, on any machine.
const END_MAX: Duration = Duration::from_secs(300);

/// Records of one line, as the Collector batches them.
const BATCH: usize = 512;

struct Export {
    out: BufWriter<ChildStdin>,
    writer: LogWriter,
    field: Vec<u8>,
    /// Records of the line that is being made, and how many.
    batch: String,
    batched: usize,
    bytes: u64,
    sealed: u64,
    keys: u8,
}

impl Export {
    fn add(&mut self, kept: &Kept<'_>) {
        if self.batched > 0 {
            self.batch.push(',');
        }
        self.field.clear();
        self.writer.append(kept, &mut self.field);
        let record = LogRecord::decode(content(&self.field).expect("a LogRecord")).expect("a LogRecord");
        otlp(record, &mut self.batch);
        self.batched += 1;
        if self.batched >= BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let line = line(&self.batch);
        self.batch.clear();
        self.batched = 0;
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

    fn reserve(&mut self, _: Wanted) -> Result<(), testimony_core::record::GapReason> {
        Ok(())
    }

    fn write(&mut self, sealed: Sealed<'_>) {
        self.sealed += 1;
        self.add(&sealed.kept());
    }

    fn head(&mut self, head: Head<'_>) {
        self.add(&head.kept());
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

/// CPU time of the children that were awaited, in seconds: their own, and the kernel's for them.
fn children_cpu() -> [f64; 2] {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
    let after = stat.rsplit(')').next().expect("fields");
    let mut seconds = after.split_whitespace().skip(13).map(|field| field.parse::<f64>().expect("ticks") / 100.0);
    [(); 2].map(|()| seconds.next().expect("times of children"))
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
    // Read from the start: a long report would fill the pipe, and the program would wait for ever.
    let mut stdout = child.stdout.take().expect("a pipe");
    let reading = thread::spawn(move || {
        let mut report = Vec::new();
        stdout.read_to_end(&mut report).map(|_| report)
    });
    let out = BufWriter::with_capacity(1 << 20, child.stdin.take().expect("a pipe"));
    let mut host = Export {
        out,
        writer: LogWriter::default(),
        field: Vec::new(),
        batch: String::new(),
        batched: 0,
        bytes: 0,
        sealed: 0,
        keys: 0,
    };
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
        if last.elapsed() > END_MAX {
            child.kill().expect("killed");
            panic!("no end {} s after the input", END_MAX.as_secs());
        }
        thread::sleep(LOOK_EVERY);
    }
    child.wait().expect("it ends");
    let [user, system] = children_cpu();
    let report = reading.join().expect("a thread").expect("it is read");
    let report: Value = serde_json::from_slice(&report).expect("a report");
    assert_eq!(report["records"], sealed);
    assert_eq!(report["proved"], sealed);
    let findings = report["findings"].as_array().expect("findings");
    let others: Vec<&Value> = findings.iter().filter(|finding| finding["verdict"] != "UNANCHORED").collect();
    println!(
        "figure: verify {sealed} records, {} MB: {:.0} records/s of CPU time ({user:.1} s user, {system:.1} s system), \
         {peak} MB of memory, {:.1} s after the input, {} findings but UNANCHORED",
        bytes >> 20,
        sealed as f64 / (user + system).max(0.01),
        last.elapsed().as_secs_f64(),
        others.len(),
    );
    assert!(others.is_empty(), "{others:#?}");
    let limit_mb = (MEMORY_MB_FIXED + ((wanted * MEMORY_BYTES_A_RECORD) >> 20)).min(MEMORY_MB_MAX);
    assert!((1..limit_mb).contains(&peak), "{peak} MB of {limit_mb}");
}

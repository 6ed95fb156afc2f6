//! A sidecar in this process, and a sink that decodes what it exports.
#![allow(dead_code)]

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic;
use std::sync::{Arc, Condvar, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};
use testimony_core::canon::parse_body;
use testimony_sidecar::config::{ProcessVars, from_yaml};
use testimony_sidecar::supervisor::ListenConfig;
use testimony_sidecar::worker;

/// A record: key to unescaped value, and the event's name under `(event)`.
pub type Record = BTreeMap<String, String>;

/// The name of a worker's first thread here, and how those of its data threads begin.
const WORKER: &str = "worker of a test";
const DATA: &str = "data-";

/// No condition takes longer, on any machine.
const DEADLINE: Duration = Duration::from_secs(90);
/// How long a surplus may take to show.
const SURPLUS_WAIT: Duration = Duration::from_millis(500);

/// Closes with a reset.
pub fn reset(stream: TcpStream) {
    use std::os::fd::AsRawFd;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: a valid descriptor, and a pointer to a struct of the size that is given.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "SO_LINGER");
}

/// A worker in a thread of this process.
pub struct Sidecar {
    /// Where clients connect.
    pub inbound: SocketAddr,
    /// The admin port.
    pub admin: SocketAddr,
}

impl Sidecar {
    /// Forwards to `origin`; `policy` is YAML of the policy's fields besides its rules.
    pub fn start(origin: SocketAddr, sink: &Sink, policy: &str) -> Self {
        let yaml = format!(
            "service: {{name: test}}\nlisten: {{inbound: '127.0.0.1:1', admin: '127.0.0.1:2'}}\nforward: '{origin}'\n\
             policy:\n  {}\nsinks: [{{name: default, endpoint: 'http://{}'}}]\n",
            if policy.is_empty() { "rules: []" } else { policy },
            sink.address
        );
        let config = from_yaml(&yaml, &ProcessVars).expect("valid configuration");
        let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listeners = ListenConfig { inbound: any, outbound: None, admin: any, ..ListenConfig::default() };
        let listeners = listeners.bind().expect("bind");
        let inbound = listeners.inbound[0].local_addr().expect("address");
        let admin = listeners.admin.as_ref().expect("admin").local_addr().expect("address");
        end_at_a_panic_of_a_sidecar();
        let worker = thread::Builder::new().name(WORKER.to_owned());
        worker.spawn(move || worker::run(config, listeners, None).expect("the worker")).expect("a thread");
        Self { inbound, admin }
    }
}

/// A panic in a thread of a sidecar ends this process, and with it the test: the sidecar goes on without the connection, and
/// whoever waits for something else would not see it.
fn end_at_a_panic_of_a_sidecar() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |told| {
            previous(told);
            let thread = thread::current();
            let name = thread.name().unwrap_or_default();
            if name == WORKER || name.starts_with(DATA) {
                // Not by eprintln: libtest keeps that of a test and its threads until the test is over.
                let _ = writeln!(io::stderr(), "a sidecar's thread {name} {told}");
                std::process::abort();
            }
        }));
    });
}

/// An OTLP receiver of records of traffic that answers 200 with an empty body, as VictoriaLogs does.
pub struct Sink {
    pub address: SocketAddr,
    records: Arc<(Mutex<Vec<Record>>, Condvar)>,
    evidence: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Sink {
    /// One that nobody answers.
    pub fn start_refusing() -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        Self { address, records: Arc::default(), evidence: Arc::default() }
    }

    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let records: Arc<(Mutex<Vec<Record>>, Condvar)> = Arc::default();
        let evidence: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let (taken, sealed) = (records.clone(), evidence.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (taken, sealed) = (taken.clone(), sealed.clone());
                thread::spawn(move || while take(&stream, &taken, &sealed).is_some() {});
            }
        });
        Self { address, records, evidence }
    }

    /// Every body that came, those about the stream itself too.
    pub fn bodies(&self) -> Vec<Vec<u8>> {
        self.evidence.lock().expect("lock").clone()
    }

    /// Waits for at least `count` records of what is over, then a moment longer so that a surplus shows. Stages are left
    /// out: on a busy machine anything may take long enough to be shown while it is open.
    pub fn wait_for(&self, count: usize) -> Vec<Record> {
        let over = |record: &&Record| record["typ"] != "stage";
        self.wait_until(&format!("{count} records"), |records| records.iter().filter(over).count() >= count);
        let (records, arrived) = &*self.records;
        let guard = records.lock().expect("lock");
        // However many requests come meanwhile, those about the stream itself too.
        let (guard, _) = arrived.wait_timeout_while(guard, SURPLUS_WAIT, |_| true).expect("lock");
        guard.iter().filter(over).cloned().collect()
    }

    /// Waits until `wanted` holds of all records, stages among them.
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&[Record]) -> bool) -> Vec<Record> {
        let (records, arrived) = &*self.records;
        let deadline = Instant::now() + DEADLINE;
        let mut guard = records.lock().expect("lock");
        while !wanted(&guard) {
            let left = deadline.checked_duration_since(Instant::now()).unwrap_or_default();
            assert!(!left.is_zero(), "no {what} among {guard:#?}");
            guard = arrived.wait_timeout(guard, left).expect("lock").0;
        }
        guard.clone()
    }
}

fn take(mut stream: &TcpStream, records: &(Mutex<Vec<Record>>, Condvar), evidence: &Mutex<Vec<Vec<u8>>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut plain = Vec::new();
    GzDecoder::new(body.as_slice()).read_to_end(&mut plain).expect("gzip");
    let request = ExportLogsServiceRequest::decode(plain.as_slice()).expect("OTLP");
    let logs = request.resource_logs.into_iter().flat_map(|r| r.scope_logs).flat_map(|s| s.log_records);
    let mut guard = records.0.lock().expect("lock");
    for log in logs {
        let Some(Value::StringValue(body)) = log.body.and_then(|b| b.value) else { panic!("a body that is no string") };
        let map = parse_body(body.as_bytes()).expect("canonical");
        evidence.lock().expect("lock").push(body.into_bytes());
        if !matches!(&map["typ"][..], b"exchange" | b"stage" | b"burst" | b"gap") {
            continue;
        }
        let fields = map.into_iter().map(|(k, v)| (k, String::from_utf8_lossy(&v).into_owned()));
        guard.push(fields.chain([("(event)".to_owned(), log.event_name)]).collect());
    }
    records.1.notify_all();
    drop(guard);
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()
}

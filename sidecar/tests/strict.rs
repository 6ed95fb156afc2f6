//! `delivery.mode: Strict` and `failureMode: Closed` over a whole sidecar with its spool; where one is killed, it is this
//! program, started again.

#[path = "support/panics.rs"]
mod panics;
mod support;

use bytes::Bytes;
use h2::client;
use libtest_mimic::{Arguments, Trial};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use support::{Sidecar, Sink};
use testimony_core::evidence::hash::Hash;
use testimony_sidecar::config::{ProcessVars, from_yaml};
use testimony_sidecar::spool::{Boot, Class, Entry, Kind, LIMIT_BYTES_MIN, Limits, Refusal, Settings, Spool};
use testimony_sidecar::supervisor::ListenConfig;
use testimony_sidecar::worker;

/// Makes this program a sidecar with this configuration.
const CHILD: &str = "TESTIMONY_TEST_CONFIG";

/// How long anything here may take.
const DEADLINE: Duration = Duration::from_secs(90);

/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:9";

const STRICT_CLOSED: &str = "delivery: {mode: Strict}\n  failureMode: Closed";
const STRICT_OPEN: &str = "delivery: {mode: Strict}";
const ASYNC_CLOSED: &str = "failureMode: Closed";
const PROBES: &str = "rules: [{name: probes, match: {pathPrefixes: [/healthz]}, level: None}]";

fn main() -> ExitCode {
    match std::env::var(CHILD) {
        Ok(yaml) => child(&yaml),
        Err(_) => tests(),
    }
}

fn tests() -> ExitCode {
    let test = |name: &'static str, body: fn()| {
        Trial::test(name, move || {
            body();
            Ok(())
        })
    };
    let trials = vec![
        test("px_3_under_strict_with_closed_no_answered_request_lacks_a_durable_record", px_3_killed),
        test("t1_1xx_is_never_held_and_the_answer_comes", t1_interim),
        test("t1_answers_of_http2_and_grpc_wait_for_their_records", t1_http2),
        test("t3_an_opaque_connection_is_shown_before_its_first_bytes", t3_opaque),
        test("t4_a_full_spool_refuses_under_closed_and_passes_under_open_and_for_level_none", t4_full),
        test("t4_a_full_spool_refuses_http2_with_503_and_grpc_with_unavailable", t4_full_http2),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

// === a sidecar as a process of its own ===

fn child(yaml: &str) -> ExitCode {
    let config = from_yaml(yaml, &ProcessVars).expect("valid configuration");
    let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let listeners = ListenConfig { inbound: any, outbound: None, admin: any, ..ListenConfig::default() };
    let listeners = listeners.bind().expect("bind");
    println!("{}", listeners.inbound[0].local_addr().expect("address"));
    worker::run(config, listeners, None).expect("the worker");
    ExitCode::SUCCESS
}

struct Killable {
    process: Child,
    address: SocketAddr,
    /// What it says on standard error: the log, and panics, which end no process.
    log: PathBuf,
}

impl Killable {
    fn start(origin: SocketAddr, sink: &str, root: &Path) -> Self {
        let yaml = format!(
            "service: {{name: test}}\nlisten: {{inbound: '127.0.0.1:1', admin: '127.0.0.1:2'}}\nforward: '{origin}'\n\
             policy:\n  {STRICT_CLOSED}\n{}\nsinks: [{{name: default, endpoint: '{sink}'}}]\n",
            spool(root),
        );
        let program = std::env::current_exe().expect("this program");
        let log = root.join("log");
        let errors = std::fs::File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = Command::new(program);
        command.env(CHILD, yaml).stdout(Stdio::piped()).stderr(errors);
        let mut process = command.spawn().expect("a child process");
        let mut line = String::new();
        let out = process.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("its address");
        let address = line.trim().parse();
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let address = address.unwrap_or_else(|_| panic!("no address: {line:?}\n{}", said()));
        Self { process, address, log }
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("reaped");
        let said = std::fs::read_to_string(&self.log).expect("a log");
        assert_eq!(panics::first(&said), None, "{said}");
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        // A test that failed leaves no process behind.
        let _ = self.process.kill();
    }
}

fn root() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("strict-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(path.join("key")).expect("a folder");
    path
}

/// The spool's part of a configuration.
fn spool(root: &Path) -> String {
    let folder = |name: &str| root.join(name).display().to_string();
    format!("spool: {{dir: '{}', keyDir: '{}', bytesMax: {LIMIT_BYTES_MIN}}}", folder("spool"), folder("key"))
}

/// An origin that answers each request and remembers its target. A target with `slow` is answered in two pieces.
fn origin() -> (SocketAddr, Arc<Mutex<BTreeSet<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let seen: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let all = seen.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = seen.clone();
            thread::spawn(move || answer(&stream, &seen));
        }
    });
    (address, all)
}

fn answer(mut stream: &TcpStream, seen: &Mutex<BTreeSet<String>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut target = String::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
            if let Some(rest) = line.strip_prefix("GET ") {
                target = rest.split(' ').next().unwrap_or_default().to_owned();
            }
            if line == "\r\n" {
                break;
            }
        }
        let is_slow = target.contains("slow");
        seen.lock().expect("lock").insert(target);
        let (head, body) = (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok");
        if is_slow {
            stream.write_all(head).ok()?;
            stream.write_all(body).ok()?;
        } else {
            stream.write_all(&[head.as_slice(), body].concat()).ok()?;
        }
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
    stream
}

/// Asks, and reads the answer's status and body; `None`: the connection broke.
fn ask(stream: &mut TcpStream, target: &str) -> Option<u16> {
    write!(stream, "GET {target} HTTP/1.1\r\nHost: shop\r\n\r\n").ok()?;
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        seen.push(byte[0]);
    }
    let head = String::from_utf8(seen).expect("a head");
    let status = head.get(9..12)?.parse().ok()?;
    if head.contains("ontent-") && head.contains(": 2\r\n") {
        stream.read_exact(&mut [0; 2]).ok()?;
    }
    Some(status)
}

// === tests ===

/// Kills the sidecar while clients work, five times over; at the end every answered request has its record, and so has every
/// one that the origin saw.
fn px_3_killed() {
    let (origin, seen) = origin();
    let root = root();
    let answered: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    for round in 0..5 {
        let sidecar = Killable::start(origin, NOWHERE, &root);
        let address = sidecar.address;
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let answered = answered.clone();
                thread::spawn(move || {
                    let mut stream = connect(address);
                    for at in 0.. {
                        let kind = if at % 3 == 0 { "slow" } else { "whole" };
                        let target = format!("/{kind}/{round}/{client}/{at}");
                        match ask(&mut stream, &target) {
                            Some(status) => {
                                assert_eq!(status, 200, "{target}");
                                answered.lock().expect("lock").insert(target);
                            }
                            None => return,
                        }
                    }
                })
            })
            .collect();
        let before = answered.lock().expect("lock").len();
        wait("answers", || answered.lock().expect("lock").len() > before + 20);
        sidecar.kill();
        for client in clients {
            client.join().expect("a client");
        }
    }
    let sink = Sink::start();
    let last = Killable::start(origin, &format!("http://{}", sink.address), &root);
    let (answered, seen) = (answered.lock().expect("lock").clone(), seen.lock().expect("lock").clone());
    assert!(answered.len() > 100 && answered.is_subset(&seen));
    let records = sink.wait_until("record of each request that the origin saw", |records| {
        let told = targets(records.iter().map(|record| (record["typ"].as_str(), record.get("path"))));
        seen.is_subset(&told)
    });
    // An exchange is recorded in one place at most, however often that is delivered. Only the statement that it was open at a
    // death may be repeated by the process after the next one (D3), and then it is the same.
    let mut once = BTreeMap::new();
    for record in records.iter().filter(|record| record["typ"] == "exchange") {
        let unknown = record.get("cause").is_some_and(|cause| cause == "crash_unknown");
        let place = if unknown { "unknown".to_owned() } else { format!("{}/{}", record["sid"], record["seq"]) };
        let before = once.insert(&record["xid"], (place.clone(), &record["id"]));
        let same = before.as_ref().is_none_or(|before| *before == (place, &record["id"]));
        assert!(same, "recorded twice: {before:?} and {record:#?}");
        assert!(!unknown || (record["outcome"] == "unknown" && !record.contains_key("status")), "{record:#?}");
    }
    last.kill();
}

/// Paths of those that have an exchange, or a stage at least.
fn targets<'a>(records: impl Iterator<Item = (&'a str, Option<&'a String>)>) -> BTreeSet<String> {
    let told = records.filter(|(typ, _)| matches!(*typ, "exchange" | "stage"));
    told.filter_map(|(_, path)| path.cloned()).collect()
}

#[track_caller]
fn wait(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "no {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sidecar in this process, its policy, and its spool.
fn start(origin: SocketAddr, sink: &Sink, policy: &str, root: &Path) -> Sidecar {
    Sidecar::start(origin, sink, &format!("{policy}\n{}", spool(root)))
}

fn held(sidecar: &Sidecar, result: &str) -> u64 {
    let mut stream = connect(sidecar.admin);
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("write");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("metrics");
    let sample = format!("testimony_held_total{{result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&sample)).map_or(0, |value| value.parse().expect("a number"))
}

fn t1_interim() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let sink = Sink::start();
    let sidecar = start(listener.local_addr().expect("address"), &sink, STRICT_OPEN, &root());
    let mut client = connect(sidecar.inbound);
    let (mut origin, _) = listener.accept().expect("dialled at once");
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        .expect("write");
    origin.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").expect("write");
    read_all(&mut client, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(held(&sidecar, "durable"), 0, "nothing waited");
    client.write_all(b"ab").expect("write");
    origin.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("write");
    read_all(&mut client, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!((held(&sidecar, "durable"), held(&sidecar, "passed")), (1, 0));
}

fn read_all(stream: &mut TcpStream, wanted: &[u8]) {
    let mut bytes = vec![0; wanted.len()];
    stream.read_exact(&mut bytes).expect("bytes");
    assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(wanted));
}

fn t3_opaque() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let sink = Sink::start();
    let sidecar = start(listener.local_addr().expect("address"), &sink, STRICT_CLOSED, &root());
    let mut client = connect(sidecar.inbound);
    let (mut origin, _) = listener.accept().expect("dialled at once");
    client.write_all(b"\x01\x02\x03").expect("write");
    read_all(&mut origin, b"\x01\x02\x03");
    assert!(held(&sidecar, "durable") >= 1);
    origin.write_all(b"\x04").expect("write");
    read_all(&mut client, b"\x04");
    sink.wait_until("stage", |records| records.iter().any(|r| r["typ"] == "stage" && r["stage"] == "opened"));
}

/// A folder of a spool that has no room left.
fn full() -> PathBuf {
    let root = root();
    let settings = Settings {
        folder: root.join("spool"),
        key_folder: root.join("key"),
        limit_bytes: LIMIT_BYTES_MIN,
        limits: Limits::default(),
        boot: Boot([9; 16]),
        recovery: None,
        now_unix_nanos: || 1_700_000_000_000_000_000,
    };
    let rules = [testimony_sidecar::spool::SinkRule { name: "default".to_owned(), required: true }];
    let (spool, _events) = Spool::start(settings, &rules).expect("a spool");
    let inbox = spool.handle().inbox().clone();
    let stream = inbox.add_stream(format!("c/n/p/{:032x}-0-0", 9).parse().expect("a name"), 0);
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    let payload: Vec<u8> = (0..32 * 1024).map(|_| noise()).collect();
    let (mut seq, mut last) = (0, None);
    let mut refused = 0;
    let deadline = Instant::now() + DEADLINE;
    // A refusal may be about what waits for the disk; only one that stays when nothing does is about the limit.
    while refused < 200 {
        match inbox.reserve(Class::Evidence, payload.len()) {
            Ok(mut permit) => {
                let varied: Vec<u8> = payload.iter().map(|byte| byte.wrapping_mul(seq as u8 | 1)).collect();
                let entry = Entry::new(stream, Kind::Exchange, seq, Hash([1; 32]), 1);
                last = Some(permit.push(entry, &varied).expect("in order"));
                seq += 1;
                refused = 0;
            }
            Err(refusal) => {
                assert!(Instant::now() < deadline, "the spool never fills: {refusal}");
                let waits = last.is_some_and(|place| !inbox.durable().borrow().covers(place));
                refused += u32::from(refusal == Refusal::SpoolFull && !waits);
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
    spool.stop();
    root
}

fn t4_full() {
    let (origin, seen) = origin();
    for (policy, expected) in [(STRICT_CLOSED, 503), (ASYNC_CLOSED, 503), (STRICT_OPEN, 200)] {
        let root = full();
        let dead = Sink::start_refusing();
        let sidecar = start(origin, &dead, &format!("{policy}\n  {PROBES}"), &root);
        let (target, probe) = (format!("/{}", root.display()), format!("/healthz{}", root.display()));
        assert_eq!(ask(&mut connect(sidecar.inbound), &target), Some(expected), "{policy}");
        assert_eq!(ask(&mut connect(sidecar.inbound), &probe), Some(200), "level None passes: {policy}");
        let seen = seen.lock().expect("lock").clone();
        assert_eq!((seen.contains(&target), seen.contains(&probe)), (expected == 200, true), "{policy}");
        if policy == STRICT_OPEN {
            assert_eq!(held(&sidecar, "passed"), 1, "it is counted");
        }
    }
}

// === HTTP/2 ===

fn play<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test()).await.expect("in time") });
}

/// An origin that answers each stream: paths with `rpc` as gRPC does.
async fn origin_http2() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket).await.expect("handshake");
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let is_rpc = request.uri().path().contains("rpc");
                    let head = http::Response::builder().header("content-type", "application/grpc");
                    let mut down = respond.send_response(head.body(()).expect("a head"), !is_rpc).expect("head");
                    if is_rpc {
                        down.send_data(Bytes::from_static(&[0, 0, 0, 0, 0]), false).expect("data");
                        let fields = [("grpc-status".parse().expect("name"), "0".parse().expect("value"))];
                        down.send_trailers(fields.into_iter().collect()).expect("trailers");
                    }
                }
            });
        }
    });
    address
}

/// Status and `grpc-status` of an answer that stands in its head.
async fn ask_http2(address: SocketAddr, path: &str) -> (u16, String, Vec<u8>) {
    let socket = tokio::net::TcpStream::connect(address).await.expect("connect");
    let (sender, connection) = client::handshake(socket).await.expect("handshake");
    tokio::spawn(connection);
    let mut sender = sender.ready().await.expect("ready");
    let mut request = http::Request::post(format!("http://shop{path}"));
    if path.contains("rpc") {
        request = request.header("content-type", "application/grpc");
    }
    let (response, _) = sender.send_request(request.body(()).expect("a request"), true).expect("sent");
    let response = response.await.expect("an answer");
    let status = response.status().as_u16();
    let grpc = response.headers().get("grpc-status").map_or("", |value| value.to_str().expect("text")).to_owned();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.expect("data");
        body.flow_control().release_capacity(data.len()).expect("window");
        bytes.extend_from_slice(&data);
    }
    (status, grpc, bytes)
}

fn t1_http2() {
    play(|| async {
        let origin = origin_http2().await;
        for policy in [STRICT_OPEN, STRICT_CLOSED] {
            let sink = Sink::start();
            let sidecar = start(origin, &sink, policy, &root());
            // Two waits with Closed: the request's, and the answer's.
            let waits = if policy == STRICT_CLOSED { 2 } else { 1 };
            assert_eq!(ask_http2(sidecar.inbound, "/whole").await.0, 200);
            assert_eq!(held(&sidecar, "durable"), waits);
            assert_eq!(ask_http2(sidecar.inbound, "/rpc").await, (200, String::new(), vec![0; 5]));
            assert_eq!((held(&sidecar, "durable"), held(&sidecar, "passed")), (2 * waits, 0));
            let records = sink.wait_for(2);
            assert!(records.iter().all(|record| record["outcome"] == "success"), "{records:#?}");
        }
    });
}

fn t4_full_http2() {
    play(|| async {
        let origin = origin_http2().await;
        for (policy, plain, rpc) in [(STRICT_CLOSED, 503, "14"), (ASYNC_CLOSED, 503, "14"), (STRICT_OPEN, 200, "")] {
            let sidecar = start(origin, &Sink::start_refusing(), policy, &full());
            assert_eq!(ask_http2(sidecar.inbound, "/a").await.0, plain, "{policy}");
            let (status, grpc, _) = ask_http2(sidecar.inbound, "/rpc").await;
            assert_eq!((status, grpc.as_str()), (200, rpc), "{policy}");
        }
    });
}

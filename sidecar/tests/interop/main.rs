//! The programs by which others test gRPC and HTTP/2, with the sidecar in between. `cargo xtask test --only unit` builds
//! them from Go modules.

#[path = "../support/ports.rs"]
mod ports;
#[path = "../support/mod.rs"]
mod support;

use ports::free_port;
use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Sidecar, Sink};

/// A server is up after this time.
const START_SECONDS_MAX: u64 = 60;

/// So often what only the sidecar fails is tried.
const H2SPEC_TRIES: usize = 3;

/// gRPC's interoperability cases that need no credentials
/// (<https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md>), with how many calls each makes and what
/// becomes of them.
const CASES: [(&str, &[(&str, &str)]); 14] = [
    ("empty_unary", &[("EmptyCall", "0")]),
    ("large_unary", &[("UnaryCall", "0")]),
    ("client_streaming", &[("StreamingInputCall", "0")]),
    ("server_streaming", &[("StreamingOutputCall", "0")]),
    ("ping_pong", &[("FullDuplexCall", "0")]),
    ("empty_stream", &[("FullDuplexCall", "0")]),
    ("timeout_on_sleeping_server", &[("FullDuplexCall", "-")]),
    ("cancel_after_begin", &[("StreamingInputCall", "-")]),
    ("cancel_after_first_response", &[("FullDuplexCall", "-")]),
    ("status_code_and_message", &[("UnaryCall", "2"), ("FullDuplexCall", "2")]),
    ("special_status_message", &[("UnaryCall", "2")]),
    ("custom_metadata", &[("UnaryCall", "0"), ("FullDuplexCall", "0")]),
    ("unimplemented_method", &[("UnimplementedCall", "12")]),
    ("unimplemented_service", &[("UnimplementedCall", "12")]),
];

fn program(name: &str) -> PathBuf {
    let cache = std::env::var_os("TESTIMONY_CACHE_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/testimony");
    let program = cache.unwrap_or_else(home).join("bin").join(name);
    assert!(program.is_file(), "{} is missing: `cargo xtask test --only unit` builds it", program.display());
    program
}

/// A server that ends with the test.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(name: &str, arguments: impl FnOnce(SocketAddr) -> Vec<String>) -> Self {
        let address = free_port();
        let mut command = Command::new(program(name));
        command.args(arguments(address)).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("the server");
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "{name} does not listen");
            std::thread::yield_now();
        }
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        assert!(ended.is_ok() || std::thread::panicking(), "{ended:?}");
    }
}

fn run(command: &mut Command) -> io::Result<(bool, String)> {
    let output = command.output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn px_1_all_cases_of_grpcs_interoperability_test_pass_through_two_sidecars() {
    let server = Server::start("grpc-interop-server", |at| vec!["-port".into(), at.port().to_string()]);
    let sinks = [Sink::start(), Sink::start()];
    let inner = Sidecar::start(server.address, &sinks[0], "");
    let outer = Sidecar::start(inner.inbound, &sinks[1], "");
    let (port, mut failed) = (outer.inbound.port().to_string(), Vec::new());
    for (case, _) in CASES {
        let mut client = Command::new(program("grpc-interop-client"));
        client.args(["-server_host", "127.0.0.1", "-server_port", &port, "-test_case", case]);
        let (passed, output) = run(&mut client).expect("the client");
        if !passed {
            failed.push(format!("{case}:\n{output}"));
        }
    }
    assert!(failed.is_empty(), "{} of {} cases fail:\n{}", failed.len(), CASES.len(), failed.join("\n"));
    println!("{} cases passed", CASES.len());
    // A call that was given up may have gone before its head was whole: only the others must be recorded on both sides.
    let mut wanted: Vec<(String, String)> = Vec::new();
    for (method, status) in CASES.iter().flat_map(|(_, calls)| calls.iter()).filter(|(_, status)| *status != "-") {
        wanted.push(((*method).to_owned(), (*status).to_owned()));
    }
    wanted.sort();
    for sink in &sinks {
        let answered = |records: &[support::Record]| {
            let whole = records.iter().filter(|record| record["typ"] == "exchange");
            let mut calls: Vec<_> = whole
                .filter_map(|record| Some((record.get("rpc_method")?.clone(), record.get("grpc_status")?.clone())))
                .collect();
            calls.sort();
            calls
        };
        let records = sink.wait_until("all calls", |records| answered(records).len() >= wanted.len());
        assert_eq!(answered(&records), wanted);
        // The client of the sleeping server may give up before it says anything.
        let said_something = |record: &&support::Record| record["req_bytes"] != "0";
        let other: Vec<_> = records.iter().filter(|r| r["proto"] != "http/2").filter(said_something).collect();
        assert!(other.is_empty(), "taken for another protocol: {other:#?}");
        let large = records.iter().find(|record| record["rpc_method"] == "StreamingOutputCall").expect("a record");
        assert_eq!((large["req_msgs"].as_str(), large["res_msgs"].as_str()), ("1", "4"));
    }
}

/// The cases that fail, by section and title, and the line with the numbers.
fn h2spec(at: SocketAddr) -> (BTreeSet<String>, String) {
    let mut command = Command::new(program("h2spec"));
    command.args(["-h", "127.0.0.1", "-p", &at.port().to_string(), "-o", "2"]);
    let (_, output) = run(&mut command).expect("h2spec");
    // The failures are told again at the end, each section with its title.
    let told = output.split_once("Failures:").map_or("", |(_, told)| told);
    let mut section = String::new();
    let (mut failed, mut count) = (BTreeSet::new(), 0);
    for line in told.lines().map(str::trim) {
        if let Some(case) = line.strip_prefix("× ") {
            failed.insert(format!("{section}: {case}"));
            count += 1;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            section = line.to_owned();
        }
    }
    let numbers = output.lines().rev().find(|line| line.contains("tests,")).unwrap_or_default();
    assert!(numbers.ends_with(&format!(", {count} failed")), "{count} failures are told, {numbers}");
    (failed, numbers.to_owned())
}

#[test]
fn px_1_h2spec_finds_nothing_wrong_that_it_does_not_find_in_the_server_itself() {
    let server = Server::start("fortio", |at| {
        let off =
            ["-redirect-port", "-grpc-port", "-tcp-port", "-udp-port"].iter().flat_map(|name| [*name, "disabled"]);
        ["server", "-http-port"]
            .into_iter()
            .map(str::to_owned)
            .chain([at.to_string()])
            .chain(off.map(str::to_owned))
            .collect()
    });
    let sink = Sink::start();
    let sidecar = Sidecar::start(server.address, &sink, "");
    let total = |numbers: &str| numbers.split(' ').next().and_then(|word| word.parse::<u32>().ok());
    // Where the machine is busy, what is right may come late: what is wrong is so each time.
    let mut ours: Option<BTreeSet<String>> = None;
    for _ in 0..H2SPEC_TRIES {
        let (of_server, direct) = h2spec(server.address);
        let (of_sidecar, through) = h2spec(sidecar.inbound);
        println!("direct:  {direct}\nthrough: {through}");
        assert!(
            total(&direct).is_some_and(|total| total > 100) && total(&direct) == total(&through),
            "{direct}, {through}"
        );
        let alone = &of_sidecar - &of_server;
        let wrong = ours.map_or_else(|| alone.clone(), |before| &before & &alone);
        if wrong.is_empty() {
            return;
        }
        ours = Some(wrong);
    }
    panic!("the sidecar alone fails: {ours:#?}");
}

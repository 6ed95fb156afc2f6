//! PX-1: what client and origin see through the sidecar is what they see without it, byte for byte, but for the fields that
//! policy lets it add.
//!
//! Each row is a script for a client and one for an origin. It is played twice, directly and through a sidecar that adds
//! nothing, and both sides must have seen the same; a third time through one that adds its fields, where the origin must
//! have seen exactly two more lines in each request head.

#[path = "../support/ports.rs"]
mod ports;
mod rows;
#[path = "../support/mod.rs"]
mod support;

use ports::free_port;
use rows::{opaque, send, table};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use support::{Sidecar, Sink};

const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
enum Step {
    /// Writes.
    Send(Vec<u8>),
    /// Reads until what was received since the last `Until` ends so.
    Until(Vec<u8>),
    /// Sends a FIN, goes on reading.
    Fin,
    /// Reads until the peer's FIN.
    Eof,
    /// Closes with a reset.
    Rst,
    /// Reads until the peer's reset.
    Gone,
}

#[derive(Debug, PartialEq, Eq, Default)]
struct Seen {
    bytes: Vec<u8>,
    events: Vec<String>,
}

struct Row {
    name: String,
    client: Vec<Step>,
    origin: Vec<Step>,
}

fn play(mut stream: TcpStream, steps: &[Step]) -> Seen {
    stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
    stream.set_nodelay(true).expect("nodelay");
    let mut seen = Seen::default();
    let mut mark = 0;
    for step in steps {
        match step {
            Step::Send(bytes) => {
                if let Err(error) = stream.write_all(bytes) {
                    seen.events.push(format!("write: {:?}", error.kind()));
                    return seen;
                }
            }
            Step::Until(suffix) => {
                while !seen.bytes[mark..].ends_with(suffix) {
                    if let Err(event) = read_some(&mut stream, &mut seen) {
                        seen.events.push(event);
                        return seen;
                    }
                }
                mark = seen.bytes.len();
            }
            Step::Fin => stream.shutdown(Shutdown::Write).expect("FIN"),
            Step::Eof | Step::Gone => loop {
                if let Err(event) = read_some(&mut stream, &mut seen) {
                    seen.events.push(event);
                    break;
                }
            },
            Step::Rst => {
                support::reset(stream);
                return seen;
            }
        }
    }
    seen
}

fn read_some(stream: &mut TcpStream, seen: &mut Seen) -> Result<(), String> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(0) => Err("FIN".into()),
        Ok(count) => {
            seen.bytes.extend_from_slice(&buffer[..count]);
            Ok(())
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err("deadline".into()),
        Err(error) => Err(format!("{:?}", error.kind())),
    }
}

/// Plays one row: the client connects to `entry`, the origin accepts on `origin`.
fn exchange(row: &Row, entry: SocketAddr, origin: &TcpListener) -> (Seen, Seen) {
    let (client_steps, origin_steps) = (row.client.clone(), row.origin.clone());
    let listener = origin.try_clone().expect("clone");
    let (send, seen_by_origin) = mpsc::channel();
    let origin_side = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        send.send(play(stream, &origin_steps)).expect("send");
    });
    let client = play(TcpStream::connect(entry).expect("connect"), &client_steps);
    let origin = seen_by_origin.recv_timeout(DEADLINE * 2).expect("the origin's side ended");
    origin_side.join().expect("origin");
    (client, origin)
}

// --- the table ---

/// Takes out the lines that the sidecar added, counting them.
fn without_added(bytes: &[u8]) -> (Vec<u8>, usize) {
    let mut kept = Vec::new();
    let mut added = 0;
    for line in bytes.split_inclusive(|&b| b == b'\n') {
        if line.starts_with(b"traceparent: 00-") || line.starts_with(b"x-request-id: ") {
            added += 1;
        } else {
            kept.extend_from_slice(line);
        }
    }
    (kept, added)
}

#[test]
fn px_1_bytes_are_the_same_with_and_without_the_sidecar() {
    let origin = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = origin.local_addr().expect("address");
    let sink = Sink::start();
    let silent =
        "correlation: {traceContext: Continue, whenAbsent: Leave, sampledPercent: 100, inferFromSingleInFlight: false}";
    let untouched = Sidecar::start(address, &sink, silent);
    let adding = Sidecar::start(address, &sink, "");
    let rows = table();
    assert!(rows.len() >= 60, "{} rows", rows.len());
    let mut wrong = Vec::new();
    let mut exchanges = 0;
    for row in &rows {
        let direct = exchange(row, address, &origin);
        assert!(!format!("{direct:?}").contains("deadline"), "{}: the row itself is wrong: {direct:?}", row.name);
        let through = exchange(row, untouched.inbound, &origin);
        if direct != through {
            wrong.push(format!("{}:\n  direct  {direct:?}\n  through {through:?}", row.name));
        }
        let requests = direct.1.bytes.windows(9).filter(|w| *w == b" HTTP/1.1" || *w == b" HTTP/1.0").count();
        let (client, origin_seen) = exchange(row, adding.inbound, &origin);
        let (kept, added) = without_added(&origin_seen.bytes);
        if (&client, &kept) != (&direct.0, &direct.1.bytes) {
            wrong.push(format!("{}, with fields added:\n  {client:?}\n  {origin_seen:?}", row.name));
        }
        let opaque = added == 0 && opaque().iter().any(|o| o.name == row.name);
        let looks_like_a_request = row.name == "body that looks like a request";
        if !opaque && added != 2 * (requests - usize::from(looks_like_a_request)) {
            wrong.push(format!("{}: {added} lines added to {requests} requests", row.name));
        }
        exchanges += if opaque { 1 } else { requests - usize::from(looks_like_a_request) };
    }
    assert!(wrong.is_empty(), "{} of {} rows differ:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    println!("{} rows, {exchanges} exchanges, the same with and without the sidecar", rows.len());
    // EV-1: each exchange has one record from each of the two sidecars.
    let records = sink.wait_for(2 * exchanges);
    assert_eq!(records.len(), 2 * exchanges);
}

#[test]
fn a_refused_dial_becomes_a_reset() {
    let sink = Sink::start();
    let sidecar = Sidecar::start(free_port(), &sink, "");
    let seen = play(
        TcpStream::connect(sidecar.inbound).expect("connect"),
        &[send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Step::Gone],
    );
    assert_eq!(seen.events, ["ConnectionReset"]);
    let records = sink.wait_for(1);
    assert_eq!((records[0]["outcome"].as_str(), records[0]["cause"].as_str()), ("failure", "upstream_failed"));
}

#[test]
fn malformed_requests_are_refused_and_recorded() {
    let origin = TcpListener::bind("127.0.0.1:0").expect("bind");
    let sink = Sink::start();
    let sidecar = Sidecar::start(origin.local_addr().expect("address"), &sink, "");
    let cases = [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "length_with_transfer_encoding",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "bad_content_length"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "bad_transfer_encoding"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "obsolete_fold"),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "space_before_colon"),
        ("GET / HTTP/1.1\r\n\r\n", "missing_host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "duplicate_host"),
    ];
    for (request, refusal) in cases {
        let seen = play(TcpStream::connect(sidecar.inbound).expect("connect"), &[send(request), Step::Eof]);
        assert!(seen.bytes.starts_with(b"HTTP/1.1 400 "), "{refusal}: {seen:?}");
        let (mut upstream, _) = origin.accept().expect("dialled at once");
        let mut reached = Vec::new();
        let _ = upstream.read_to_end(&mut reached);
        assert!(reached.is_empty(), "{refusal}: the origin saw {:?}", String::from_utf8_lossy(&reached));
    }
    let mut refusals: Vec<String> = sink.wait_for(cases.len()).iter().map(|r| r["refusal"].clone()).collect();
    refusals.sort();
    let mut wanted: Vec<&str> = cases.iter().map(|(_, refusal)| *refusal).collect();
    wanted.sort_unstable();
    assert_eq!(refusals, wanted);
}

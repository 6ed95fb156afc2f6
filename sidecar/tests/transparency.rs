//! PX-1: what client and origin see through the sidecar is what they see without it, byte for byte, but for the fields that
//! policy lets it add.
//!
//! Each row is a script for a client and one for an origin. It is played twice, directly and through a sidecar that adds
//! nothing, and both sides must have seen the same; a third time through one that adds its fields, where the origin must
//! have seen exactly two more lines in each request head.

mod support;

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

fn send(text: &str) -> Step {
    Step::Send(text.as_bytes().to_vec())
}

fn until(text: &str) -> Step {
    Step::Until(text.as_bytes().to_vec())
}

fn row(name: impl Into<String>, client: Vec<Step>, origin: Vec<Step>) -> Row {
    Row { name: name.into(), client, origin }
}

/// One request, one response, then the client closes.
fn simple(name: impl Into<String>, request: &str, request_end: &str, response: &str, response_end: &str) -> Row {
    row(
        name,
        vec![send(request), until(response_end), Step::Fin, Step::Eof],
        vec![until(request_end), send(response), Step::Eof, Step::Fin],
    )
}

const HOST: &str = "Host: shop\r\n";

/// Every method with every framing of the response.
fn matrix() -> Vec<Row> {
    let bodies = [
        ("length", "Content-Length: 5\r\n\r\nhello", "hello"),
        ("empty", "Content-Length: 0\r\n\r\n", "\r\n\r\n"),
        ("chunked", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "0\r\n\r\n"),
        (
            "chunks, extensions, trailers",
            "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2;a=b\r\nhe\r\n003 ; q=\"x\"\r\nllo\r\n0;last\r\nX-Sum: 9\r\n\r\n",
            "X-Sum: 9\r\n\r\n",
        ),
    ];
    let mut rows = Vec::new();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
        for (name, tail, end) in &bodies {
            let request = format!("{method} /a/b?c=d {}\r\n{HOST}\r\n", "HTTP/1.1");
            let response = format!("HTTP/1.1 200 OK\r\n{tail}");
            rows.push(simple(format!("{method}, {name}"), &request, "\r\n\r\n", &response, end));
        }
    }
    rows
}

fn requests() -> Vec<Row> {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let get = |name: &str, head: &str| simple(name, head, "\r\n\r\n", ok, "ok");
    let with_body = |name: &str, request: &str, end: &str| simple(name, request, end, ok, "ok");
    vec![
        get("order and case of fields", "GET / HTTP/1.1\r\nhOsT: shop\r\nX-B: 1\r\nx-a:2\r\nX-B:  3  \r\n\r\n"),
        get("empty values and odd names", &format!("GET / HTTP/1.1\r\n{HOST}X:\r\n!#$%&'*+-.^_`|~: y\r\n\r\n")),
        get("bytes over 127 in a value", &format!("GET / HTTP/1.1\r\n{HOST}X: \u{e4}\u{20ac}\r\n\r\n")),
        get("absolute form", &format!("GET http://shop/a HTTP/1.1\r\n{HOST}\r\n")),
        get("asterisk form", &format!("OPTIONS * HTTP/1.1\r\n{HOST}\r\n")),
        get("odd targets", &format!("GET /a//b/../c?%00&&=;#x HTTP/1.1\r\n{HOST}\r\n")),
        get("long target", &format!("GET /{} HTTP/1.1\r\n{HOST}\r\n", "x".repeat(8000))),
        get("many fields", &format!("GET / HTTP/1.1\r\n{HOST}{}\r\n", "X: y\r\n".repeat(90))),
        get(
            "hop-by-hop fields stay",
            &format!("GET / HTTP/1.1\r\n{HOST}Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\r\n"),
        ),
        get(
            "cookies and authorization pass",
            &format!("GET / HTTP/1.1\r\n{HOST}Cookie: a=b\r\nAuthorization: Basic eDp5\r\n\r\n"),
        ),
        with_body("POST with a length", &format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 4\r\n\r\nbody"), "body"),
        with_body("GET with a body", &format!("GET / HTTP/1.1\r\n{HOST}Content-Length: 4\r\n\r\nbody"), "body"),
        with_body(
            "chunked request with trailers",
            &format!(
                "POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n1;x\r\n!\r\n0\r\nT: 1\r\n\r\n"
            ),
            "T: 1\r\n\r\n",
        ),
        with_body(
            "body that looks like a request",
            &format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
            "GET / HTTP/1.1\r\n\r\n",
        ),
        with_body(
            "big body",
            &format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 300004\r\n\r\n{}done", "y".repeat(300_000)),
            "done",
        ),
        row(
            "HTTP/1.0 without Host, closed by the origin",
            vec![send("GET / HTTP/1.0\r\n\r\n"), Step::Eof, Step::Fin],
            vec![until("\r\n\r\n"), send("HTTP/1.0 200 OK\r\n\r\nuntil the end"), Step::Fin, Step::Eof],
        ),
        row(
            "HTTP/1.0 keep-alive",
            vec![
                send("GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
                until("one"),
                send("GET /2 HTTP/1.0\r\n\r\n"),
                Step::Eof,
                Step::Fin,
            ],
            vec![
                until("\r\n\r\n"),
                send("HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\none"),
                until("\r\n\r\n"),
                send("HTTP/1.0 200 OK\r\n\r\ntwo"),
                Step::Fin,
                Step::Eof,
            ],
        ),
    ]
}

fn responses() -> Vec<Row> {
    let get = format!("GET / HTTP/1.1\r\n{HOST}\r\n");
    let simple = |name: &str, response: &str, end: &str| simple(name, &get, "\r\n\r\n", response, end);
    let mut rows: Vec<Row> = [204, 304]
        .iter()
        .map(|status| simple(&format!("{status}"), &format!("HTTP/1.1 {status} x\r\nETag: \"a\"\r\n\r\n"), "\r\n\r\n"))
        .collect();
    for status in [201, 206, 301, 400, 404, 418, 429, 500, 503, 599] {
        let response = format!("HTTP/1.1 {status} Some Reason\r\nContent-Length: 1\r\n\r\n!");
        rows.push(simple(&format!("status {status}"), &response, "!"));
    }
    rows.push(simple("no reason phrase", "HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\n!", "!"));
    rows.push(simple(
        "set-cookie twice",
        "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 1\r\n\r\n!",
        "!",
    ));
    rows.push(simple(
        "early hints, then the answer",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "ok",
    ));
    rows.push(super_simple_head());
    rows.push(row(
        "closed by the origin after an answer that says so",
        vec![send(&get), Step::Eof, Step::Fin],
        vec![
            until("\r\n\r\n"),
            send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
            Step::Fin,
            Step::Eof,
        ],
    ));
    rows.push(row(
        "until the end of the connection",
        vec![send(&get), Step::Eof, Step::Fin],
        vec![until("\r\n\r\n"), send("HTTP/1.1 200 OK\r\n\r\nto the end"), Step::Fin, Step::Eof],
    ));
    rows.push(row(
        "cut in the middle of a body by a reset",
        vec![send(&get), until("he"), Step::Gone],
        vec![until("\r\n\r\n"), send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"), Step::Rst],
    ));
    rows
}

fn super_simple_head() -> Row {
    let request = format!("HEAD / HTTP/1.1\r\n{HOST}\r\n");
    simple("HEAD", &request, "\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "\r\n\r\n")
}

fn conversations() -> Vec<Row> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\n{HOST}\r\n");
    let ok = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let upgrade =
        format!("GET /ws HTTP/1.1\r\n{HOST}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n\r\n");
    vec![
        row(
            "two requests, one after the other",
            vec![send(&get("/1")), until("one"), send(&get("/2")), until("two"), Step::Fin, Step::Eof],
            vec![until("\r\n\r\n"), send(&ok("one")), until("\r\n\r\n"), send(&ok("two")), Step::Eof, Step::Fin],
        ),
        row(
            "pipelined",
            vec![send(&(get("/1") + &post("/2", "body"))), until("two"), Step::Fin, Step::Eof],
            vec![until("body"), send(&ok("one")), send(&ok("two")), Step::Eof, Step::Fin],
        ),
        row(
            "100-continue",
            vec![
                send(&format!("POST / HTTP/1.1\r\n{HOST}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")),
                until("100 Continue\r\n\r\n"),
                send("body"),
                until("ok"),
                Step::Fin,
                Step::Eof,
            ],
            vec![
                until("\r\n\r\n"),
                send("HTTP/1.1 100 Continue\r\n\r\n"),
                until("body"),
                send(&ok("ok")),
                Step::Eof,
                Step::Fin,
            ],
        ),
        row(
            "an answer before the body is whole",
            vec![
                send(&format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 8\r\n\r\nhalf")),
                until("no"),
                send("rest"),
                Step::Fin,
                Step::Eof,
            ],
            vec![until("half"), send(&ok("no")), until("rest"), Step::Eof, Step::Fin],
        ),
        row(
            "the client half-closes after its request",
            vec![send(&get("/")), Step::Fin, Step::Eof],
            vec![until("\r\n\r\n"), Step::Eof, send(&ok("still here")), Step::Fin],
        ),
        row(
            "the client resets while it waits",
            vec![send(&get("/")), until("100 Continue\r\n\r\n"), Step::Rst],
            vec![until("\r\n\r\n"), send("HTTP/1.1 100 Continue\r\n\r\n"), Step::Gone],
        ),
        row(
            "upgrade to WebSocket",
            vec![send(&upgrade), until("\r\n\r\n"), send("\x01ping"), until("pong\x02"), Step::Fin, Step::Eof],
            vec![
                until("\r\n\r\n"),
                send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
                until("\x01ping"),
                send("pong\x02"),
                Step::Eof,
                Step::Fin,
            ],
        ),
        row(
            "upgrade refused, then another request",
            vec![send(&upgrade), until("no"), send(&get("/2")), until("two"), Step::Fin, Step::Eof],
            vec![until("\r\n\r\n"), send(&ok("no")), until("\r\n\r\n"), send(&ok("two")), Step::Eof, Step::Fin],
        ),
        row(
            "CONNECT",
            vec![
                send("CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n"),
                until("\r\n\r\n"),
                send("\0anything\r\n"),
                until("back"),
                Step::Fin,
                Step::Eof,
            ],
            vec![
                until("\r\n\r\n"),
                send("HTTP/1.1 200 Connected\r\n\r\n"),
                until("anything\r\n"),
                send("back"),
                Step::Eof,
                Step::Fin,
            ],
        ),
    ]
}

fn opaque() -> Vec<Row> {
    vec![
        row(
            "the server speaks first",
            vec![until("ready\r\n"), send("QUIT\r\n"), Step::Eof, Step::Fin],
            vec![send("220 ready\r\n"), until("QUIT\r\n"), Step::Fin, Step::Eof],
        ),
        row(
            "binary, client first",
            vec![Step::Send(vec![0, 1, 2, 255]), until("\u{1}"), Step::Fin, Step::Eof],
            vec![Step::Until(vec![2, 255]), send("\u{1}"), Step::Eof, Step::Fin],
        ),
        row(
            "HTTP/2 preface",
            vec![send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"), until("x"), Step::Fin, Step::Eof],
            vec![Step::Until(vec![4, 0, 0, 0, 0, 0]), send("x"), Step::Eof, Step::Fin],
        ),
        row(
            "almost HTTP",
            vec![send("GET / HTTQ/1.1\r\n\r\n"), until("x"), Step::Fin, Step::Eof],
            vec![until("\r\n\r\n"), send("x"), Step::Eof, Step::Fin],
        ),
        row(
            "a line that never became HTTP",
            vec![send("HELO shop"), Step::Fin, Step::Eof],
            vec![until("HELO shop"), Step::Eof, send("bye"), Step::Fin],
        ),
        row("nothing at all", vec![Step::Fin, Step::Eof], vec![Step::Eof, Step::Fin]),
    ]
}

fn table() -> Vec<Row> {
    [matrix(), requests(), responses(), conversations(), opaque()].into_iter().flatten().collect()
}

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
    let closed = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    let sink = Sink::start();
    let sidecar = Sidecar::start(closed, &sink, "");
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

//! Long exchanges through a whole sidecar: a stage record comes while they are open, and their end has the same `xid`.

mod support;

use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message as _;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;
use support::{Record, Sidecar, Sink};

const DEADLINE: Duration = Duration::from_secs(20);
/// Between two requests of [`deliver`].
const BETWEEN: Duration = Duration::from_millis(20);

struct Rig {
    origin: TcpListener,
    sink: Sink,
    sidecar: Sidecar,
}

impl Rig {
    fn new(policy: &str) -> Self {
        let origin = TcpListener::bind("127.0.0.1:0").expect("bind");
        let sink = Sink::start();
        let sidecar = Sidecar::start(origin.local_addr().expect("address"), &sink, policy);
        Self { origin, sink, sidecar }
    }

    /// The client's and the origin's end of one connection.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.sidecar.inbound).expect("connect");
        let (origin, _) = self.origin.accept().expect("dialled at once");
        for stream in [&client, &origin] {
            stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
        }
        (client, origin)
    }

    /// The stage with this value; on a busy machine there may be others.
    fn stage(&self, field: &str, value: &str) -> Record {
        let is_stage = |record: &&Record| record["typ"] == "stage" && record.get(field).is_some_and(|is| is == value);
        let records = self.sink.wait_until("stage", |records| records.iter().any(|record| is_stage(&record)));
        records.iter().find(is_stage).expect("it was there").clone()
    }

    /// How often a metric was counted.
    fn metric(&self, sample: &str) -> u64 {
        let text = get(self.sidecar.admin, "/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(sample));
        line.map_or(0, |value| value.trim().parse().expect("a number"))
    }
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connect");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn read_until(stream: &mut TcpStream, end: &[u8]) {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(end) {
        stream.read_exact(&mut byte).expect("more bytes");
        seen.push(byte[0]);
    }
}

fn close(client: &mut TcpStream, origin: &mut TcpStream) {
    for stream in [&mut *client, &mut *origin] {
        stream.shutdown(Shutdown::Write).expect("FIN");
    }
    for stream in [client, origin] {
        stream.read_to_end(&mut Vec::new()).expect("FIN");
    }
}

#[test]
fn a_connection_that_says_nothing_shows_while_it_is_open() {
    let rig = Rig::new("");
    let (mut client, mut origin) = rig.connect();
    let stage = rig.stage("proto", "tcp");
    let field = |name: &str| stage.get(name).map_or("", String::as_str);
    assert_eq!((field("(event)"), field("stage"), field("outcome")), ("audit.tcp.open", "opened", "unknown"));
    assert_eq!((field("proto"), field("req_bytes")), ("tcp", "0"));
    let open_ns: u64 = field("dur").parse().expect("a number");
    assert!(open_ns >= 500_000_000, "a short connection has one record: {open_ns}");
    assert_eq!(rig.metric("testimony_stage_records_total"), 1);
    assert_eq!(rig.metric("testimony_exchanges_total{direction=\"inbound\",outcome=\"success\"}"), 0);
    close(&mut client, &mut origin);
    let end = rig.sink.wait_for(1).remove(0);
    assert_eq!((end["(event)"].as_str(), end["typ"].as_str()), ("audit.tcp.close", "exchange"));
    assert_eq!(end["xid"], stage["xid"]);
    assert_ne!(end["id"], stage["id"]);
    assert_eq!(rig.metric("testimony_exchanges_total{direction=\"inbound\",outcome=\"success\"}"), 1);
}

#[test]
fn a_websocket_shows_while_it_is_open() {
    let rig = Rig::new("");
    let (mut client, mut origin) = rig.connect();
    client
        .write_all(b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        .expect("write");
    read_until(&mut origin, b"\r\n\r\n");
    origin
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        .expect("write");
    read_until(&mut client, b"\r\n\r\n");
    let stage = rig.stage("status", "101");
    assert!(stage["(event)"].starts_with("audit.stream."), "{stage:#?}");
    assert_eq!(stage["path"], "/ws");
    close(&mut client, &mut origin);
    let end = rig.sink.wait_for(1).remove(0);
    assert_eq!((end["(event)"].as_str(), end["cause"].as_str()), ("audit.stream.close", "upgraded"));
    assert_eq!(end["xid"], stage["xid"]);
    assert_eq!(end["span_id"], stage["span_id"]);
}

#[test]
fn a_slow_answer_shows_and_what_policy_leaves_out_does_not() {
    let rig = Rig::new("rules: [{name: quiet, match: {pathPrefixes: [/quiet]}, level: None}]");
    let (mut quiet, mut quiet_origin) = rig.connect();
    quiet.write_all(b"GET /quiet HTTP/1.1\r\nHost: a\r\n\r\n").expect("write");
    read_until(&mut quiet_origin, b"\r\n\r\n");
    // The stage of this one, which began later, would come after that of the quiet one.
    let (mut client, mut origin) = rig.connect();
    client.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").expect("write");
    read_until(&mut origin, b"\r\n\r\n");
    let stage = rig.stage("path", "/slow");
    assert_eq!((stage["(event)"].as_str(), stage["stage"].as_str()), ("audit.stream.open", "opened"));
    assert!(
        rig.sink.wait_until("record", |_| true).iter().all(|record| record.get("path") != Some(&"/quiet".to_owned()))
    );
    assert!(!stage.contains_key("status"), "{stage:#?}");
    for (origin, client) in [(&mut origin, &mut client), (&mut quiet_origin, &mut quiet)] {
        origin.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("write");
        read_until(client, b"ok");
    }
    let end = rig.sink.wait_for(1);
    assert_eq!(end.len(), 1, "{end:#?}");
    assert_eq!((end[0]["(event)"].as_str(), end[0]["xid"].as_str()), ("audit.http.request", stage["xid"].as_str()));
}

#[test]
fn a_refused_request_has_the_status_of_our_answer() {
    let rig = Rig::new("");
    let (mut client, _origin) = rig.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n").expect("write");
    read_until(&mut client, b"HTTP/1.1 400 ");
    let end = rig.sink.wait_for(1).remove(0);
    assert_eq!((end["status"].as_str(), end["refusal"].as_str()), ("400", "space_before_colon"));

    let (mut client, mut origin) = rig.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("write");
    read_until(&mut origin, b"\r\n\r\n");
    origin.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").expect("write");
    read_until(&mut client, b"HTTP/1.1 502 ");
    let end = rig.sink.wait_for(2).remove(1);
    assert_eq!((end["status"].as_str(), end["refusal"].as_str()), ("502", "bad_content_length"));
}

/// One request of OTLP with a record of this type; returns when it is answered.
fn deliver(sink: SocketAddr, typ: &str) {
    let body = AnyValue { value: Some(Value::StringValue(format!("{{\"typ\":\"{typ}\"}}"))) };
    let logs =
        ScopeLogs { log_records: vec![LogRecord { body: Some(body), ..LogRecord::default() }], ..ScopeLogs::default() };
    let logs = ResourceLogs { scope_logs: vec![logs], ..ResourceLogs::default() };
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&ExportLogsServiceRequest { resource_logs: vec![logs] }.encode_to_vec()).expect("gzip");
    let packed = packed.finish().expect("gzip");
    let mut stream = TcpStream::connect(sink).expect("connect");
    write!(stream, "POST /v1/logs HTTP/1.1\r\ncontent-length: {}\r\n\r\n", packed.len()).expect("write");
    stream.write_all(&packed).expect("write");
    read_until(&mut stream, b"\r\n\r\n");
}

/// The sink of these tests, for itself.
#[test]
fn a_surplus_shows_also_where_something_else_comes_before_it() {
    let sink = Sink::start();
    let address = sink.address;
    deliver(address, "exchange");
    let others = thread::spawn(move || {
        for typ in ["head", "exchange"] {
            // Time in which a wait may end too early. With less of it the test finds less, and never fails.
            thread::sleep(BETWEEN);
            deliver(address, typ);
        }
    });
    assert_eq!(sink.wait_for(1).len(), 2);
    others.join().expect("delivered");
}

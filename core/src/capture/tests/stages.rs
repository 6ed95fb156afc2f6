//! Stages: what is open for long is shown, under the `xid` of its end, and counted once.

use super::*;
use crate::canon::parse_body;
use std::collections::BTreeMap;

pub(super) type Fields = BTreeMap<String, String>;

pub(super) fn records(shell: &TestShell) -> Vec<Fields> {
    let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
    let parse = |body: &String| parse_body(body.replace("\",\n\"", "\",\"").as_bytes()).expect("canonical");
    let bodies = &shell.state.borrow().bodies;
    bodies.iter().map(|body| parse(body).into_iter().map(|(key, value)| (key, text(value))).collect()).collect()
}

pub(super) fn field<'a>(record: &'a Fields, name: &str) -> &'a str {
    record.get(name).map_or("", String::as_str)
}

/// `typ`, `stage`, `outcome` of each record.
fn kinds(records: &[Fields]) -> Vec<(&str, &str, &str)> {
    records.iter().map(|r| (field(r, "typ"), field(r, "stage"), field(r, "outcome"))).collect()
}

/// One connection of HTTP/1, with the time in its own hands.
struct Http {
    shell: TestShell,
    capture: HttpCapture<TestShell>,
    session: Session,
}

impl Http {
    fn new() -> Self {
        let shell = shell();
        let capture = HttpCapture::new(shell.clone(), conn(Direction::Inbound));
        Self { shell, capture, session: Session::new(Limits::default()) }
    }

    fn client(&mut self, text: &str) {
        let _ = self.session.client_bytes(text.as_bytes(), &mut self.capture, &mut Vec::new(), &mut Vec::new());
    }

    fn upstream(&mut self, text: &str) {
        let _ = self.session.upstream_bytes(text.as_bytes(), &mut self.capture, &mut Vec::new(), &mut Vec::new());
    }

    /// It is so late now; the connection's timer does what it does.
    fn at(&mut self, seconds: u64) {
        self.shell.state.borrow_mut().seconds = seconds;
        let now = self.shell.now();
        if now.mono_ns >= self.capture.due_ns() {
            self.capture.tick(now);
        }
    }

    fn records(&self) -> Vec<Fields> {
        records(&self.shell)
    }
}

const UPGRADE: &str = "GET /ws?token=abc HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

#[test]
fn a_websocket_is_shown_when_it_opens_each_minute_and_at_its_end() {
    let mut http = Http::new();
    http.client(UPGRADE);
    http.at(0);
    assert!(http.records().is_empty(), "before the answer it is a request like others");
    http.upstream(SWITCHED);
    http.at(0);
    http.client("abc");
    http.at(59);
    http.upstream("defgh");
    http.at(60);
    http.client("x");
    http.at(3600);
    let _ = http.session.client_eof(&mut http.capture);
    let _ = http.session.upstream_eof(&mut http.capture, &mut Vec::new());
    http.at(4000);
    let records = http.records();
    assert_eq!(
        kinds(&records),
        [
            ("stage", "opened", "unknown"),
            ("stage", "progress", "unknown"),
            ("stage", "progress", "unknown"),
            ("exchange", "", "success")
        ]
    );
    let column = |name: &str| records.iter().map(|r| r.get(name).map_or("-", String::as_str)).collect::<Vec<_>>();
    assert_eq!(column("xid"), ["0000000000000abc-0"; 4]);
    assert_eq!(column("status"), ["101"; 4]);
    assert_eq!(column("query"), ["token=*"; 4], "stages are redacted as all records are");
    assert_eq!(column("tunnel_req_bytes"), ["-", "3", "4", "4"]);
    assert_eq!(column("tunnel_res_bytes"), ["-", "5", "5", "5"]);
    assert_eq!(column("dur"), ["0", "60000000000", "3600000000000", "3600000000000"]);
    assert_eq!(column("t0"), ["1000000000"; 4]);
    assert_eq!(column("cause"), ["-", "-", "-", "upgraded"]);
    let mut ids = column("id");
    ids.dedup();
    assert_eq!(ids.len(), 4, "each record has an id of its own");
    assert_eq!(http.shell.state.borrow().counted, [(Outcome::Success, true)], "counted once");
}

#[test]
fn connect_and_server_sent_events_are_streams_and_what_ends_at_once_is_not_shown() {
    let sse = "GET /e HTTP/1.1\r\nHost: a\r\n\r\n";
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (request, answer) in [("CONNECT b:1 HTTP/1.1\r\nHost: b:1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"), (sse, head)] {
        let mut http = Http::new();
        http.client(request);
        http.upstream(answer);
        assert_eq!(http.capture.due_ns(), 0);
        http.at(0);
        assert_eq!(kinds(&http.records()), [("stage", "opened", "unknown")], "{request}");
    }
    for (request, answer) in [
        (sse, &format!("{head}0\r\n\r\n")),
        ("HEAD /e HTTP/1.1\r\nHost: a\r\n\r\n", &head.to_owned()),
        ("CONNECT b:1 HTTP/1.1\r\nHost: b:1\r\n\r\n", &"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n".to_owned()),
    ] {
        let mut http = Http::new();
        http.client(request);
        http.upstream(answer);
        http.at(0);
        http.at(100);
        assert_eq!(http.records().len(), 1, "{request}");
    }
}

#[test]
fn a_slow_request_is_shown_after_a_second_and_a_quick_one_has_one_record() {
    let mut http = Http::new();
    http.client("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    http.upstream(OK);
    http.at(0);
    http.client("GET /b HTTP/1.1\r\nHost: a\r\n\r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\n");
    http.at(1);
    http.upstream(OK);
    http.at(2);
    http.upstream(OK);
    http.at(100);
    let records = http.records();
    let paths: Vec<_> =
        records.iter().map(|r| (r["typ"].as_str(), r["path"].as_str(), r["conn_seq"].as_str())).collect();
    assert_eq!(
        paths,
        [
            ("exchange", "/a", "0"),
            ("stage", "/b", "1"),
            ("stage", "/c", "2"),
            ("exchange", "/b", "1"),
            ("exchange", "/c", "2")
        ]
    );
    assert_eq!(records[1].get("status"), None, "no answer yet");
    assert_eq!(http.shell.state.borrow().counted.len(), 3);
    assert_eq!(http.capture.due_ns(), NEVER_NS, "an idle connection waits for nothing");
}

#[test]
fn level_none_has_no_stages() {
    let mut http = Http::new();
    http.client("GET /healthz HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n");
    assert_eq!(http.capture.due_ns(), NEVER_NS);
    http.upstream(SWITCHED);
    http.at(100);
    drop(http.capture);
    assert_eq!(records(&http.shell), []);
    assert_eq!(http.shell.state.borrow().counted, [(Outcome::Unknown, false)]);
}

/// A connection that nobody speaks on, connected at once.
fn silent(shell: &TestShell) -> OpaqueCapture<TestShell> {
    let facts = ConnFacts { upstream_local: None, ..conn(Direction::Inbound) };
    let mut capture = OpaqueCapture::new(shell.clone(), facts, shell.now(), "tcp");
    assert_eq!(capture.due_ns(), NEVER_NS, "it is not open before its upstream is connected");
    capture.connected(conn(Direction::Inbound).upstream_local);
    assert_eq!(capture.due_ns(), 500_000_005);
    capture
}

#[test]
fn a_silent_connection_shows_in_its_first_second() {
    let shell = shell();
    let mut capture = silent(&shell);
    let tick = |capture: &mut OpaqueCapture<TestShell>, seconds: u64| {
        shell.state.borrow_mut().seconds = seconds;
        capture.tick(shell.now());
    };
    tick(&mut capture, 0);
    tick(&mut capture, 1);
    capture.from_client(b"late");
    let paused = capture.pause();
    let mut capture =
        OpaqueCapture::new(shell.clone(), conn(Direction::Inbound), Stamp::default(), "tcp").resuming(paused);
    tick(&mut capture, 60);
    tick(&mut capture, 61);
    capture.finish(OpaqueEnd::Closed);
    let records = records(&shell);
    assert_eq!(
        kinds(&records),
        [("stage", "opened", "unknown"), ("stage", "progress", "unknown"), ("exchange", "", "success")]
    );
    assert_eq!(records.iter().map(|r| r["xid"].as_str()).collect::<Vec<_>>(), ["0000000000000abc-0"; 3]);
    assert_eq!((records[0]["req_bytes"].as_str(), records[0]["dur"].as_str()), ("0", "1000000000"));
    assert_eq!(shell.state.borrow().counted, [(Outcome::Success, true)]);
}

#[test]
fn a_short_connection_is_one_record() {
    let shell = shell();
    silent(&shell).finish(OpaqueEnd::Closed);
    assert_eq!(kinds(&records(&shell)), [("exchange", "", "success")]);
}

#[test]
fn what_was_shown_is_recorded_at_its_end_even_if_policy_changed_its_mind() {
    let mut shell = shell();
    let facts = conn(Direction::Inbound);
    let mut capture = OpaqueCapture::new(shell.clone(), facts.clone(), shell.now(), "tcp");
    shell.state.borrow_mut().seconds = 1;
    capture.tick(shell.now());
    let paused = capture.pause();
    let mut document = shell.policy.document().clone();
    document.policies.clear();
    shell.policy = Arc::new(Compiled::new(document).expect("valid"));
    let mut capture = OpaqueCapture::new(shell.clone(), facts, shell.now(), "tcp").resuming(paused);
    shell.state.borrow_mut().seconds = 100;
    capture.tick(shell.now());
    capture.finish(OpaqueEnd::Closed);
    assert_eq!(kinds(&records(&shell)), [("stage", "opened", "unknown"), ("exchange", "", "success")]);
}

#[test]
fn a_failed_handshake_is_a_failure_and_an_unfinished_one_is_no_success() {
    let hello = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\
                  \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x00\x00\x02\x13\x01\x01\x00";
    for (answer, wanted) in [
        (
            &b"\x15\x03\x03\x00\x02\x02\x28"[..],
            ("failed", "failure", Some("tls_failed"), Some("server:handshake_failure")),
        ),
        (b"", ("incomplete", "unknown", None, None)),
    ] {
        let shell = shell();
        let capture = OpaqueCapture::new(shell.clone(), conn(Direction::Outbound), shell.now(), "tls");
        let mut capture = capture.watching_tls();
        capture.from_client(hello);
        capture.from_upstream(answer);
        capture.finish(OpaqueEnd::Closed);
        let records = records(&shell);
        let field = |name: &str| records[0].get(name).map(String::as_str);
        let (handshake, outcome, cause, alert) = wanted;
        assert_eq!((field("tls_handshake"), field("outcome")), (Some(handshake), Some(outcome)));
        assert_eq!((field("cause"), field("tls_alert")), (cause, alert));
    }
}

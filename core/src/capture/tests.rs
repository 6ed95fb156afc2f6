//! Capture as the data thread drives it: bytes through a session, records out.

mod stages;
mod strict;

use super::*;
use crate::http1::{Limits, Session};
use crate::policy::{
    Correlation, DOCUMENT_VERSION, DeliveryMode, DocumentPolicy, DocumentRule, FailureMode, Level, PolicyDocument,
    RuleMatch,
};
use crate::record::body_of;
use expect_test::{Expect, expect};
use std::cell::RefCell;
use std::rc::Rc;

/// What all clones of the shell share.
#[derive(Default)]
pub(super) struct State {
    random: u128,
    pub in_flight: InFlight,
    pub bodies: Vec<String>,
    pub counted: Vec<(Outcome, bool)>,
    /// How many exchanges began.
    pub begun: usize,
    pub refused: Vec<&'static str>,
    pub undecided: Vec<&'static str>,
    /// Seconds that have passed.
    pub seconds: u64,
    /// Markers of beginnings, and which of them ended.
    pub markers: Vec<String>,
    pub marked_ends: Vec<u64>,
    /// Nothing is recorded any more.
    pub is_full: bool,
}

#[derive(Clone)]
pub(super) struct TestShell {
    policy: Arc<Compiled>,
    pub state: Rc<RefCell<State>>,
}

impl Shell for TestShell {
    fn now(&self) -> Stamp {
        let passed_ns = self.state.borrow().seconds * 1_000_000_000;
        Stamp { wall_ns: 1_000_000_000 + passed_ns, mono_ns: 5 + passed_ns }
    }

    fn random(&mut self) -> u128 {
        let mut state = self.state.borrow_mut();
        state.random += 1;
        state.random
    }

    fn policy(&self) -> Arc<Compiled> {
        self.policy.clone()
    }

    fn in_flight<R>(&mut self, f: impl FnOnce(&mut InFlight) -> R) -> R {
        f(&mut self.state.borrow_mut().in_flight)
    }

    fn emit(&mut self, record: Redacted<Record>) -> Receipt {
        let mut state = self.state.borrow_mut();
        if state.is_full {
            return Receipt::Never;
        }
        let body = body_of(&record).expect("a body");
        state.bodies.push(String::from_utf8_lossy(&body).replace("\",\"", "\",\n\""));
        Receipt::At(state.bodies.len() as u64)
    }

    fn emit_begin(&mut self, record: Redacted<Record>) -> Begun {
        let mut state = self.state.borrow_mut();
        if state.is_full {
            return Begun { number: None, receipt: Receipt::Never };
        }
        let body = body_of(&record).expect("a body");
        state.markers.push(String::from_utf8_lossy(&body).into_owned());
        let number = state.markers.len() as u64;
        Begun { number: Some(number), receipt: Receipt::At(100 + number) }
    }

    fn emit_end(&mut self, record: Redacted<Record>, begun: Begun) -> Receipt {
        self.state.borrow_mut().marked_ends.extend(begun.number);
        self.emit(record)
    }

    fn can_record(&self) -> bool {
        !self.state.borrow().is_full
    }

    fn begin(&mut self) {
        self.state.borrow_mut().begun += 1;
    }

    fn count(&mut self, _: Direction, outcome: Outcome, none: Option<Unrecorded<'_>>) {
        self.state.borrow_mut().counted.push((outcome, none.is_none()));
    }

    fn count_refused(&mut self, reason: &'static str) {
        self.state.borrow_mut().refused.push(reason);
    }

    fn count_undecided(&mut self, reason: &'static str) {
        self.state.borrow_mut().undecided.push(reason);
    }
}

pub(super) fn shell() -> TestShell {
    let probes = DocumentRule {
        name: "probes".into(),
        matches: RuleMatch { path_prefixes: vec!["/healthz".into()], ..RuleMatch::default() },
        level: Level::None,
    };
    shell_with(vec![probes])
}

pub(super) fn shell_with(rules: Vec<DocumentRule>) -> TestShell {
    shell_of(rules, DeliveryMode::Async, FailureMode::Open)
}

pub(super) fn shell_of(rules: Vec<DocumentRule>, delivery: DeliveryMode, failure_mode: FailureMode) -> TestShell {
    let policy = DocumentPolicy {
        name: "shop/all".into(),
        directions: vec![Direction::Inbound, Direction::Outbound],
        exclude_ports: Vec::new(),
        rules,
        delivery,
        failure_mode,
    };
    let document = PolicyDocument {
        version: DOCUMENT_VERSION,
        revision: "0011223344556677".into(),
        policies: vec![policy],
        client_address: crate::policy::ClientAddress::None,
        correlation: Correlation::default(),
        redact: crate::policy::Redact::default(),
        sinks: Vec::new(),
    };
    TestShell { policy: Arc::new(Compiled::new(document).expect("valid")), state: Rc::default() }
}

pub(super) fn conn(direction: Direction) -> ConnFacts {
    let address = |text: &str| text.parse().expect("address");
    ConnFacts {
        direction,
        conn_id: 0xabc,
        peer: address("[::ffff:10.0.0.9]:4711"),
        local: address("10.0.0.1:8080"),
        upstream_local: Some(address("10.0.0.1:5000")),
        pod_actor: Some(Arc::from("system:serviceaccount:shop:orders")),
        from_node: true,
        peer_name: None,
    }
}

/// Feeds a request and a response; returns what went upstream.
fn exchange(capture: &mut HttpCapture<TestShell>, request: &str, response: &str) -> String {
    let mut session = Session::new(Limits::default());
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let _ = session.client_bytes(request.as_bytes(), capture, &mut up, &mut down);
    let _ = session.upstream_bytes(response.as_bytes(), capture, &mut down, &mut up);
    String::from_utf8_lossy(&up).into_owned()
}

fn check(direction: Direction, request: &str, response: &str, wanted: Expect) -> TestShell {
    let shell = shell();
    let mut capture = HttpCapture::new(shell.clone(), conn(direction));
    exchange(&mut capture, request, response);
    drop(capture);
    wanted.assert_eq(&shell.state.borrow().bodies.join("\n"));
    shell
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: x\r\n\r\nok";

#[test]
fn an_inbound_request_with_everything() {
    let request = "POST http://u:p@shop:80/buy?card=4111111111111111&a HTTP/1.1\r\nHost: shop\r\nUser-Agent: curl/8\r\n\
                   Authorization: Basic YWxpY2U6c2VjcmV0\r\nX-Request-Id: r-1\r\nCookie: session=1\r\nContent-Length: 3\r\n\
                   traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\nabc";
    let shell = check(
        Direction::Inbound,
        request,
        OK,
        expect![[r#"
            {"action":"POST",
            "actor":"alice",
            "actor_type":"user",
            "assurance":"unverified",
            "auth_method":"basic",
            "authority":"shop:80",
            "conn_id":"0000000000000abc",
            "conn_seq":"0",
            "correlation_id":"r-1",
            "correlation_src":"client",
            "dir":"inbound",
            "dur":"0",
            "hq00":"content-length:3",
            "hs00":"content-length:2",
            "hs01":"server:x",
            "id":"00000000-03e8-7000-8000-000000000003",
            "local":"10.0.0.1:8080",
            "method":"POST",
            "outcome":"success",
            "path":"/buy",
            "peer":"10.0.0.9:4711",
            "policy":"shop/all",
            "policy_revision":"0011223344556677",
            "proto":"http/1.1",
            "query":"card=*&*",
            "redacted":"userinfo,query",
            "req_bytes":"3",
            "res_bytes":"2",
            "rule":"default",
            "scheme":"http",
            "span_id":"00f067aa0ba902b7",
            "status":"200",
            "t0":"1000000000",
            "t1":"1000000000",
            "target":"shop:80",
            "trace_id":"4bf92f3577b34da6a3ce929d0e0e4736",
            "trace_trust":"client",
            "typ":"exchange",
            "upstream_local":"10.0.0.1:5000",
            "user_agent":"curl/8",
            "v":"1",
            "xid":"0000000000000abc-0"}"#]],
    );
    assert_eq!(shell.state.borrow().counted, [(Outcome::Success, true)]);
    assert!(shell.state.borrow().in_flight.is_empty());
}

#[test]
fn ev_2_no_password_of_a_target_is_recorded_whatever_its_scheme_and_length() {
    let long = "s3cret".repeat(1000);
    for target in [
        "ftp://alice:s3cret@files/x".to_owned(),
        "ws://alice:s3cret@files/x".to_owned(),
        "1ftp://alice:s3cret@files/x".to_owned(),
        "alice:s3cret@files:21".to_owned(),
        format!("http://alice:{long}@files/x"),
        format!("ftp://alice:{long}@files/x"),
        format!("1ftp://alice:{long}@files/x"),
    ] {
        let shell = shell();
        let mut capture = HttpCapture::new(shell.clone(), conn(Direction::Outbound));
        exchange(&mut capture, &format!("GET {target} HTTP/1.1\r\nHost: files\r\n\r\n"), OK);
        drop(capture);
        let body = shell.state.borrow().bodies.join("");
        assert!(body.contains(r#""redacted":""#) && !body.contains("s3cret"), "{target}: {body}");
    }
}

#[test]
fn an_outbound_request_joins_the_inbound_one_that_is_in_flight() {
    let shell = shell();
    let mut inbound = HttpCapture::new(shell.clone(), conn(Direction::Inbound));
    let mut session = Session::new(Limits::default());
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let head = b"GET /in HTTP/1.1\r\nHost: a\r\n\r\n";
    let _ = session.client_bytes(head, &mut inbound, &mut up, &mut down);
    let mut outbound = HttpCapture::new(shell.clone(), ConnFacts { conn_id: 0xdef, ..conn(Direction::Outbound) });
    let forwarded = exchange(&mut outbound, "GET /out HTTP/1.1\r\nHost: b\r\n\r\n", OK);
    let body = shell.state.borrow().bodies.join("");
    for part in [
        r#""actor":"system:serviceaccount:shop:orders""#,
        r#""auth_method":"pod""#,
        r#""trace_trust":"inferred""#,
        r#""inferred_from":"0000000000000abc-0""#,
        r#""correlation_src":"inferred""#,
    ] {
        assert!(body.contains(part), "{part} in {body}");
    }
    let sent = String::from_utf8_lossy(&up).into_owned();
    let line = |text: &str, name: &str| text.lines().find(|l| l.starts_with(name)).map(str::to_owned).expect("a line");
    let trace = |text: &str| line(text, "traceparent: ").get(16..48).map(str::to_owned);
    assert_eq!(trace(&sent), trace(&forwarded), "one trace");
    assert_eq!(line(&sent, "x-request-id: "), line(&forwarded, "x-request-id: "), "one correlation id");
}

#[test]
fn level_none_is_counted_and_not_recorded_and_a_probe_is_the_kubelets() {
    let shell = check(Direction::Inbound, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", OK, expect![[""]]);
    assert_eq!(shell.state.borrow().counted, [(Outcome::Success, false)]);
    let shell = self::shell();
    let mut capture = HttpCapture::new(shell.clone(), conn(Direction::Inbound));
    exchange(&mut capture, "GET /x HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.36\r\n\r\n", OK);
    let body = shell.state.borrow().bodies.join("");
    assert!(body.contains(r#""actor":"kubelet""#) && body.contains(r#""actor_type":"system""#), "{body}");
}

/// The record of one inbound request of `connection`, with these lines in its head.
fn asked(connection: ConnFacts, line: &str, fields: &str) -> String {
    let shell = shell();
    let mut capture = HttpCapture::new(shell.clone(), connection);
    exchange(&mut capture, &format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), OK);
    drop(capture);
    shell.state.borrow().bodies.join("")
}

fn assert_actor(body: &str, actor: &str, method: &str, assurance: &str) {
    for (key, value) in [("actor", actor), ("auth_method", method), ("assurance", assurance)] {
        assert!(body.contains(&format!(r#""{key}":"{value}""#)), "{key} {value}: {body}");
    }
}

#[test]
fn only_what_a_probe_looks_like_and_nobody_is_named_in_is_the_kubelets() {
    const PROBE: &str = "User-Agent: kube-probe/1.36\r\n";
    let conn = || conn(Direction::Inbound);
    let with = |line: &str, field: &str| asked(conn(), line, &format!("{PROBE}{field}"));
    let alice = "Authorization: Basic YWxpY2U6c2VjcmV0\r\n";
    assert_actor(&with("GET /x", alice), "alice", "basic", "unverified");
    assert_actor(&with("DELETE /x", ""), "10.0.0.9", "address", "unverified");
    assert_actor(&with("HEAD /x", ""), "kubelet", "address", "unverified");
    assert_actor(&with("POST /grpc.health.v1.Health/Check", ""), "kubelet", "address", "unverified");
    assert_actor(&with("GET /x", "Authorization: Bearer opaque\r\n"), "kubelet", "bearer", "unverified");
}

#[test]
fn several_credentials_that_differ_name_nobody() {
    let alice = "Authorization: Basic YWxpY2U6c2VjcmV0\r\n";
    let both = format!("{alice}authorization: Basic Ym9iOnNlY3JldA==\r\n");
    assert_actor(&asked(conn(Direction::Inbound), "GET /x", &both), "10.0.0.9", "address", "invalid");
    assert_actor(
        &asked(conn(Direction::Inbound), "GET /x", &format!("{alice}{alice}")),
        "alice",
        "basic",
        "unverified",
    );
    let outbound = asked(conn(Direction::Outbound), "GET /x", &both);
    assert_actor(&outbound, "system:serviceaccount:shop:orders", "pod", "invalid");
    let probe = asked(conn(Direction::Inbound), "GET /x", &format!("User-Agent: kube-probe/1\r\n{both}"));
    assert_actor(&probe, "10.0.0.9", "address", "invalid");
}

#[test]
fn ev_2_a_key_sent_as_basic_credential_is_nobodys_name() {
    for text in ["a2V5LTEyMzQ1Ng==", "a2V5LTEyMzQ1Njo=", "OmtleS0xMjM0NTY="] {
        let field = format!("Authorization: Basic {text}\r\n");
        assert_actor(&asked(conn(Direction::Inbound), "GET /x", &field), "10.0.0.9", "basic", "unverified");
        let outbound = asked(conn(Direction::Outbound), "GET /x", &field);
        assert_actor(&outbound, "system:serviceaccount:shop:orders", "basic", "unverified");
    }
}

#[test]
fn what_stands_behind_a_number_sign_is_judged_and_recorded() {
    let body = asked(conn(Direction::Inbound), "GET /healthz#/../secrets.txt", "");
    assert!(body.contains(r#""path":"/healthz#/../secrets.txt""#), "{body}");
}

#[test]
fn ev_2_a_header_that_policy_names_stands_in_no_other_field() {
    let redact = |headers: &[&str]| crate::policy::Redact {
        headers: headers.iter().map(|name| (*name).to_owned()).collect(),
        ..crate::policy::Redact::default()
    };
    let named = |headers: &[&str]| {
        let shell = shell();
        let mut document = shell.policy.document().clone();
        document.redact = redact(headers);
        document.correlation.trace_context = crate::policy::TraceContext::Restart;
        let shell = TestShell { policy: Arc::new(Compiled::new(document).expect("valid")), ..shell };
        let mut capture = HttpCapture::new(shell.clone(), conn(Direction::Inbound));
        let fields = "Host: h0st\r\nX-Request-Id: r-1\r\n\
                      traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
        exchange(&mut capture, &format!("GET /x HTTP/1.1\r\n{fields}\r\n"), OK);
        drop(capture);
        shell.state.borrow().bodies.join("")
    };
    let all = named(&[]);
    for secret in ["h0st", "r-1", "4bf92f"] {
        assert!(all.contains(secret), "{secret}: {all}");
    }
    let none = named(&["X-Request-ID", "host", "traceparent"]);
    for secret in ["h0st", "\"r-1", "4bf92f", "\"trace_id\":", "\"span_id\":"] {
        assert!(!none.contains(secret), "{secret}: {none}");
    }
    let told = r#""redacted":"authority,target,client_traceparent,trace_id,span_id,correlation_id""#;
    assert!(none.contains(told) && none.contains(r#""target":"*""#), "{none}");
}

#[test]
fn ev_1_what_is_open_when_the_connection_is_dropped_is_recorded_once() {
    let shell = shell();
    let mut capture = HttpCapture::new(shell.clone(), conn(Direction::Inbound));
    exchange(
        &mut capture,
        "GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
        "HTTP/1.1 100 x\r\n\r\n",
    );
    drop(capture);
    let state = shell.state.borrow();
    assert_eq!(state.bodies.iter().filter(|body| body.contains(r#""cause":"drained""#)).count(), 2);
    assert!(state.in_flight.is_empty());
}

#[test]
fn a_refused_request_is_recorded_with_its_reason() {
    let shell = shell();
    let mut capture = HttpCapture::new(shell.clone(), conn(Direction::Inbound));
    exchange(&mut capture, "GET /a?b=c HTTP/1.1\r\nHost : a\r\n\r\n", "");
    let state = shell.state.borrow();
    let body = state.bodies.join("");
    for part in [
        r#""refusal":"space_before_colon""#,
        r#""cause":"rejected""#,
        r#""outcome":"failure""#,
        r#""query":"b=*""#,
        r#""status":"400""#,
    ] {
        assert!(body.contains(part), "{part} in {body}");
    }
    assert_eq!(state.refused, ["space_before_colon"]);
}

#[test]
fn an_opaque_connection_is_one_record() {
    let shell = shell();
    let start = Stamp { wall_ns: 900, mono_ns: 1 };
    let mut capture = OpaqueCapture::new(shell.clone(), conn(Direction::Outbound), start, "tcp");
    capture.from_client(&[0; 10]);
    capture.from_upstream(&[0; 20]);
    capture.finish(OpaqueEnd::Closed);
    drop(OpaqueCapture::new(shell.clone(), conn(Direction::Inbound), start, "tcp"));
    let state = shell.state.borrow();
    assert_eq!(state.counted, [(Outcome::Success, true), (Outcome::Unknown, true)]);
    for part in [r#""proto":"tcp""#, r#""req_bytes":"10""#, r#""res_bytes":"20""#, r#""dur":"4""#] {
        assert!(state.bodies[0].contains(part), "{part} in {}", state.bodies[0]);
    }
}

#[test]
fn a_peer_of_the_cluster_is_named_also_when_the_name_comes_late() {
    let shell = shell();
    let place = super::PeerName::default();
    let mut named = conn(Direction::Inbound);
    (named.peer_name, named.from_node) = (Some(place.clone()), false);
    let mut capture = HttpCapture::new(shell.clone(), named);
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    exchange(&mut capture, request, "HTTP/1.1 204 No Content\r\n\r\n");
    let pod = crate::names::Bearer::Pod {
        namespace: "shop".into(),
        name: "web-1".into(),
        uid: "u".into(),
        service_account: "web".into(),
        workload: "Deployment/web".into(),
    };
    place.set(pod).expect("an empty place");
    drop(capture);
    let mut conn = conn(Direction::Inbound);
    (conn.peer_name, conn.from_node) = (Some(place), false);
    exchange(&mut HttpCapture::new(shell.clone(), conn), request, "HTTP/1.1 204 No Content\r\n\r\n");
    let bodies = &shell.state.borrow().bodies;
    for wanted in ["\"actor\":\"10.0.0.9\"", "\"peer_src\":\"unknown\""] {
        assert!(bodies[0].contains(wanted) && !bodies[0].contains("peer_pod"), "{}", bodies[0]);
    }
    let wanted = [
        "\"actor\":\"system:serviceaccount:shop:web\"",
        "\"actor_type\":\"service\"",
        "\"assurance\":\"unverified\"",
        "\"auth_method\":\"address\"",
        "\"peer_namespace\":\"shop\"",
        "\"peer_pod\":\"web-1\"",
        "\"peer_src\":\"operator\"",
        "\"peer_workload\":\"Deployment/web\"",
    ];
    for wanted in wanted {
        assert!(bodies[1].contains(wanted), "{wanted}: {}", bodies[1]);
    }
}

//! Streams of HTTP/2 as the proxy drives them.

use super::tests::{conn, shell, shell_with};
use super::*;
use crate::policy::{DocumentRule, Level, RuleMatch};
use expect_test::expect;

fn field<'a>(name: &'a str, value: &'a str) -> Header<'a> {
    Header { name, value: value.as_bytes() }
}

const GRPC: StreamRequest<'_> = StreamRequest {
    method: "POST",
    scheme: "http",
    authority: "shop:80",
    path: "/shop.v1.Cart/Add",
    fields: &[Header { name: "content-type", value: b"application/grpc" }, Header { name: "te", value: b"trailers" }],
};

const MESSAGE: &[u8] = &[0, 0, 0, 0, 1, 9];

/// Plays one stream and gives its body and outcome.
fn play(head: &StreamRequest<'_>, steps: impl FnOnce(StreamCapture<tests::TestShell>)) -> (String, Outcome) {
    let shell = shell();
    let (capture, _) = StreamCapture::begin(shell.clone(), conn(Direction::Inbound), 0, head);
    steps(capture);
    let state = shell.state.borrow();
    assert!(state.in_flight.is_empty());
    assert_eq!((state.bodies.len(), state.counted.len()), (1, 1), "EV-1");
    (state.bodies.concat(), state.counted[0].0)
}

#[test]
fn a_grpc_call_with_its_messages_and_status() {
    let (body, outcome) = play(&GRPC, |mut capture| {
        capture.request_data(MESSAGE);
        capture.response_head(200, &[field("content-type", "application/grpc")], false);
        capture.response_data(&[MESSAGE, &MESSAGE[..3]].concat());
        capture.response_data(&MESSAGE[3..]);
        capture.response_trailers(&[field("grpc-status", "0")]);
        capture.end(StreamEnd::Complete);
    });
    assert_eq!(outcome, Outcome::Success);
    expect![[r#"
        {"action":"POST",
        "actor":"10.0.0.9",
        "actor_type":"unknown",
        "assurance":"unverified",
        "auth_method":"address",
        "authority":"shop:80",
        "conn_id":"0000000000000abc",
        "conn_seq":"0",
        "correlation_id":"00000000-03e8-7000-8000-000000000003",
        "correlation_src":"generated",
        "dir":"inbound",
        "dur":"0",
        "grpc_status":"0",
        "hq00":"content-type:application/grpc",
        "hq01":"te:trailers",
        "hs00":"content-type:application/grpc",
        "id":"00000000-03e8-7000-8000-000000000004",
        "local":"10.0.0.1:8080",
        "method":"POST",
        "outcome":"success",
        "path":"/shop.v1.Cart/Add",
        "peer":"10.0.0.9:4711",
        "policy":"shop/all",
        "policy_revision":"0011223344556677",
        "proto":"http/2",
        "req_bytes":"6",
        "req_msgs":"1",
        "res_bytes":"12",
        "res_msgs":"2",
        "rpc_method":"Add",
        "rpc_service":"shop.v1.Cart",
        "rpc_system":"grpc",
        "rule":"default",
        "scheme":"http",
        "span_id":"0000000000000002",
        "status":"200",
        "t0":"1000000000",
        "t1":"1000000000",
        "target":"shop:80",
        "trace_id":"00000000000000000000000000000001",
        "trace_trust":"made",
        "typ":"exchange",
        "upstream_local":"10.0.0.1:5000",
        "v":"1",
        "xid":"0000000000000abc-0"}"#]]
    .assert_eq(&body);
}

#[test]
fn the_status_of_a_call_decides_its_outcome() {
    let trailers_only = |status: &'static str| {
        play(&GRPC, move |mut capture| {
            capture.response_head(200, &[field("grpc-status", status)], true);
            capture.end(StreamEnd::Complete);
        })
    };
    let (body, outcome) = trailers_only("5");
    assert!(outcome == Outcome::Failure && body.contains(r#""grpc_status":"5""#), "{body}");
    assert_eq!(trailers_only("0").1, Outcome::Success);
    let (body, outcome) = trailers_only("nonsense");
    assert!(outcome == Outcome::Unknown && !body.contains("grpc_status"), "{body}");
    let (_, outcome) = play(&GRPC, |mut capture| {
        // A status that stands in a head which is not all of the response does not count.
        capture.response_head(200, &[field("grpc-status", "0")], false);
        capture.end(StreamEnd::Complete);
    });
    assert_eq!(outcome, Outcome::Unknown);
    let (_, outcome) = play(&GRPC, |mut capture| {
        capture.response_head(503, &[], true);
        capture.end(StreamEnd::Complete);
    });
    assert_eq!(outcome, Outcome::Failure);
}

#[test]
fn ev_1_every_end_of_a_stream_is_one_record() {
    let get = StreamRequest { method: "GET", path: "/a?b=c", fields: &[], ..GRPC };
    for (end, parts) in [
        (StreamEnd::ClientReset(8), [r#""cause":"client_gone""#, r#""h2_error":"cancel""#]),
        (StreamEnd::UpstreamReset(7), [r#""cause":"upstream_failed""#, r#""h2_error":"refused_stream""#]),
        (StreamEnd::RequestRefused("malformed_request"), [r#""refusal":"malformed_request""#, r#""cause":"rejected""#]),
        (StreamEnd::TimedOut, [r#""cause":"timeout""#, r#""outcome":"failure""#]),
        (StreamEnd::UpstreamGone, [r#""cause":"upstream_failed""#, r#""query":"b=*""#]),
    ] {
        let (body, _) = play(&get, |capture| capture.end(end));
        assert!(parts.iter().all(|part| body.contains(part)), "{end:?}: {body}");
    }
    let (body, outcome) = play(&get, drop);
    assert!(outcome == Outcome::Unknown && body.contains(r#""cause":"drained""#), "{body}");
}

#[test]
fn an_extended_connect_is_a_tunnel() {
    let head = StreamRequest { method: "CONNECT", path: "/chat?token=1", fields: &[], ..GRPC };
    let (body, outcome) = play(&head, |mut capture| {
        capture.response_head(200, &[], false);
        capture.request_data(b"abc");
        capture.response_data(b"de");
        capture.end(StreamEnd::Complete);
    });
    assert_eq!(outcome, Outcome::Success);
    for part in [r#""cause":"upgraded""#, r#""tunnel_req_bytes":"3""#, r#""path":"/chat""#, r#""query":"token=*""#] {
        assert!(body.contains(part), "{part} in {body}");
    }
}

#[test]
fn what_a_request_lacks_is_added_and_what_it_has_is_kept() {
    let (_, edit) = StreamCapture::begin(shell(), conn(Direction::Inbound), 0, &GRPC);
    let names: Vec<&str> = edit.added.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names, edit.removed.len()), (vec!["traceparent", "x-request-id"], 0));
    let has =
        [field("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), field("x-request-id", "r-1")];
    let head = StreamRequest { fields: &has, ..GRPC };
    let (_, edit) = StreamCapture::begin(shell(), conn(Direction::Inbound), 0, &head);
    assert_eq!(edit, FieldEdit::default());
}

// === Conditions ===

/// A policy that keeps what its expression says of, and nothing else.
fn judged(when: &str, head: &StreamRequest<'_>) -> (Vec<String>, Vec<&'static str>) {
    let rule = |name: &str, level, when: Option<&str>| DocumentRule {
        name: name.into(),
        matches: RuleMatch { when: when.map(Into::into), ..RuleMatch::default() },
        level,
    };
    let rules = vec![rule("wanted", Level::Metadata, Some(when)), rule("rest", Level::None, None)];
    let shell = shell_with(rules);
    let (mut capture, _) = StreamCapture::begin(shell.clone(), conn(Direction::Inbound), 0, head);
    capture.response_head(200, &[], true);
    capture.end(StreamEnd::Complete);
    let mut state = shell.state.borrow_mut();
    (std::mem::take(&mut state.bodies), std::mem::take(&mut state.undecided))
}

#[test]
fn an_expression_judges_a_stream_by_its_head() {
    let tenant = &[field("x-tenant", "acme")];
    let get = StreamRequest { method: "GET", path: "/v1/cart?page=2", fields: tenant, ..GRPC };
    for (when, recorded) in [
        ("request.path == '/v1/cart'", true),
        ("request.path.startsWith('/v2/')", false),
        ("request.headers['x-tenant'] == 'acme'", true),
        ("request.headers['x-tenant'] == 'other'", false),
        ("request.method == 'GET' && request.host == 'shop'", true),
    ] {
        let (bodies, undecided) = judged(when, &get);
        assert_eq!((bodies.len(), undecided), (usize::from(recorded), Vec::new()), "{when}");
        assert!(bodies.iter().all(|body| body.contains(r#""rule":"wanted""#)), "{when}: {bodies:?}");
    }
    // A call of gRPC is judged as the request that it is.
    let (bodies, _) = judged("request.path == '/shop.v1.Cart/Add' && request.headers['te'] == 'trailers'", &GRPC);
    assert!(bodies.concat().contains(r#""rpc_method":"Add""#), "{bodies:?}");
}

#[test]
fn an_expression_that_a_stream_leaves_undecided_is_counted_and_the_stream_recorded() {
    let (bodies, undecided) = judged("request.headers['x-tenant'] == 'acme'", &GRPC);
    assert_eq!(undecided, ["no_header"]);
    assert!(bodies.concat().contains(r#""rule":"wanted""#), "{bodies:?}");
}

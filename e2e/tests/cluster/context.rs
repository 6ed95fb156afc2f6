//! What a record says of a request's trace, its sender and its secrets, and what the application sees of it.

use crate::harness::{Space, marker, single};
use crate::objects::{SELECT_SERVER, audited, edited, in_force, text};
use anyhow::{Context, Result};
use serde_json::Value;
use testimony_e2e::records::AuditRecord;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// Sends a request and returns what the application saw and the record.
fn sent(space: &Space, options: &str, query: &str) -> Result<(Value, AuditRecord)> {
    let wanted = marker();
    let script = format!("curl -sS --fail --max-time 20 {options} 'http://server:8080/anything/{wanted}{query}'");
    let seen = serde_json::from_str(&space.sh("client", &script)?).context("go-httpbin's answer")?;
    let holds = |record: &AuditRecord| record.attribute("url.path").contains(&wanted);
    let records = space.records_when("the record", |records| records.iter().any(holds))?;
    Ok((seen, single(records.into_iter().filter(holds).collect())?))
}

/// The only value of a header that the application saw, or the empty string.
fn seen_header(seen: &Value, name: &str) -> String {
    text(seen, &format!("/headers/{name}/0"))
}

/// Whether the `Accept` field stands in the record.
fn has_accept(record: &AuditRecord) -> bool {
    record.fields().values().any(|value| value.to_lowercase().starts_with("accept:"))
}

fn traceparent() -> String {
    format!("00-{TRACE}-{SPAN}-01")
}

#[test]
fn trace_context_and_correlation_id_are_kept_or_made() -> Result<()> {
    let space = audited("trace", "correlation: {header: x-request-id}")?;
    let brought = format!("-H 'traceparent: {}' -H 'x-request-id: order-7'", traceparent());
    let (seen, record) = sent(&space, &brought, "")?;
    assert_eq!((record.trace_id.as_str(), record.span_id.as_str()), (TRACE, SPAN));
    assert_eq!(record.attribute("testimony.trace.trust"), "client");
    assert_eq!(record.attribute("testimony.correlation.id"), "order-7");
    assert_eq!(record.attribute("testimony.correlation.source"), "client");
    assert_eq!(seen_header(&seen, "Traceparent"), traceparent());
    assert_eq!(seen_header(&seen, "X-Request-Id"), "order-7");

    let (seen, record) = sent(&space, "", "")?;
    assert!(has_accept(&record), "curl sends one, and no policy hides it: {record:#?}");
    assert_eq!(record.attribute("testimony.trace.trust"), "made");
    assert_eq!(seen_header(&seen, "Traceparent"), format!("00-{}-{}-01", record.trace_id, record.span_id));
    assert_eq!(record.attribute("testimony.correlation.source"), "generated");
    assert!(!record.attribute("testimony.correlation.id").is_empty());
    assert_eq!(seen_header(&seen, "X-Request-Id"), record.attribute("testimony.correlation.id"));

    let broken = "00-00000000000000000000000000000000-0000000000000000-01";
    let (seen, record) = sent(&space, &format!("-H 'traceparent: {broken}'"), "")?;
    assert_eq!(record.attribute("testimony.trace.trust"), "invalid");
    assert_eq!((seen_header(&seen, "Traceparent").as_str(), record.trace_id.as_str()), (broken, ""));
    Ok(())
}

#[test]
fn a_restarted_trace_keeps_the_clients_value_and_left_means_left() -> Result<()> {
    let space = audited("restart", "correlation: {traceContext: Restart}")?;
    let (seen, record) = sent(&space, &format!("-H 'traceparent: {}'", traceparent()), "")?;
    assert_eq!(record.attribute("testimony.trace.trust"), "restarted");
    assert_eq!(record.attribute("testimony.client.traceparent"), traceparent());
    assert_ne!(record.trace_id, TRACE);
    assert_eq!(seen_header(&seen, "Traceparent"), format!("00-{}-{}-01", record.trace_id, record.span_id));

    space.policy("audit", &format!("{{{SELECT_SERVER}, correlation: {{whenAbsent: Leave, header: ''}}}}"))?;
    edited(&space, "audit", 1)?;
    let (seen, record) = sent(&space, "", "")?;
    assert_eq!((record.attribute("testimony.trace.trust"), record.trace_id.as_str()), ("none", ""));
    assert_eq!(record.attribute("testimony.correlation.id"), "");
    assert!(
        seen.pointer("/headers/Traceparent").is_none() && seen.pointer("/headers/X-Request-Id").is_none(),
        "{seen:#}"
    );
    Ok(())
}

#[test]
fn an_outbound_request_is_linked_to_the_only_inbound_one_in_flight() -> Result<()> {
    let space = Space::new("infer")?;
    space.policy("audit", "{podSelector: {matchLabels: {app: gateway}}}")?;
    space.httpbin("server")?;
    // A gateway that, like many services, hands no header on.
    space.server(
        "gateway",
        8000,
        "image: \"{{image:toolbox}}\", command: [/bin/sh, -c], args: ['mkdir -p /tmp/www/cgi-bin; cd /tmp/www/cgi-bin; \
         { echo \"#!/bin/sh\"; echo \"printf \\\"Content-Type: text/plain\\\\r\\\\n\\\\r\\\\n\\\"; exec curl -sS http://server:8080/anything/\\$QUERY_STRING\"; } > on; \
         chmod 755 on; exec httpd -f -p 8000 -h /tmp/www'], ports: [{containerPort: 8000}], \
         readinessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1}",
    )?;
    space.toolbox("client", "{app: client}")?;
    in_force(&space, "audit", 1)?;
    let wanted = marker();
    let url = format!("http://gateway:8000/cgi-bin/on?{wanted}");
    let header = format!("traceparent: {}", traceparent());
    let answer =
        space.sh("client", &format!("curl -sS --fail --max-time 20 -H '{header}' -H 'x-request-id: r-1' '{url}'"))?;
    let inbound = |record: &AuditRecord| record.is_inbound() && record.trace_id == TRACE;
    let outbound = |record: &AuditRecord| record.attribute("url.path").contains(&wanted) && !record.is_inbound();
    let records = space
        .records_when("the records of both", |records| records.iter().any(inbound) && records.iter().any(outbound))?;
    let inbound = single(records.iter().filter(|record| inbound(record)).collect())?;
    let outbound = single(records.iter().filter(|record| outbound(record)).collect())?;
    assert_eq!(outbound.attribute("testimony.trace.trust"), "inferred", "{outbound:#?}");
    assert_eq!(outbound.attribute("testimony.inferred.from"), inbound.attribute("testimony.xid"));
    assert_eq!(outbound.trace_id, TRACE);
    assert_ne!(outbound.span_id, SPAN);
    assert_eq!(outbound.attribute("testimony.correlation.id"), "r-1");
    let seen: Value = serde_json::from_str(&answer).with_context(|| answer.clone())?;
    assert_eq!(seen_header(&seen, "Traceparent"), format!("00-{TRACE}-{}-01", outbound.span_id));
    Ok(())
}

#[test]
fn the_clients_address_is_told_where_wanted_and_excluded_ports_are_left_alone() -> Result<()> {
    let space = audited("address", "capture: {clientAddress: XForwardedFor}")?;
    let client = cluster_ip(&space, "client")?;
    let (seen, record) = sent(&space, "", "")?;
    assert_eq!(seen_header(&seen, "X-Forwarded-For"), client);
    assert_eq!(record.attribute("client.address"), client);
    let (seen, _) = sent(&space, "-H 'x-forwarded-for: 192.0.2.7'", "")?;
    assert_eq!(seen_header(&seen, "X-Forwarded-For"), "192.0.2.7", "the client's own value stays");

    let excluded = "capture: {excludePorts: [{port: 8080, direction: Inbound}]}";
    space.policy("audit", &format!("{{{SELECT_SERVER}, {excluded}}}"))?;
    edited(&space, "audit", 1)?;
    let unseen = marker();
    space.sh("client", &format!("curl -sS --fail http://server:8080/anything/{unseen}"))?;
    space.policy("audit", &format!("{{{SELECT_SERVER}}}"))?;
    edited(&space, "audit", 1)?;
    let (seen, _) = sent(&space, "", "")?;
    assert!(seen.pointer("/headers/X-Forwarded-For").is_none(), "{seen:#}");
    assert!(space.records()?.iter().all(|record| !record.attribute("url.path").contains(&unseen)));
    Ok(())
}

fn cluster_ip(space: &Space, pod: &str) -> Result<String> {
    let pod = crate::harness::cluster().kubectl.get(&space.name, &["pod", pod])?;
    Ok(text(&pod, "/status/podIP"))
}

/// `{"alg":"none"}`, the claims, and a signature that nobody checks.
fn token(space: &Space, claims: &str) -> Result<String> {
    let encode = format!("printf '%s' '{claims}' | base64 -w0 | tr '+/' '-_' | tr -d '='");
    Ok(format!("eyJhbGciOiJub25lIn0.{}.c2lnbmF0dXJl", space.sh("client", &encode)?.trim()))
}

#[test]
fn ev_2_identities_are_told_as_unverified_and_no_secret_stands_in_a_record() -> Result<()> {
    let space = audited("identity", "redact: {query: [iban], headers: [accept]}")?;
    let token = token(&space, r#"{"sub":"alice","iss":"https://idp.example"}"#)?;
    let options = format!("-H 'authorization: Bearer {token}' -H 'cookie: session=s3cret' -H 'x-api-key: s3cret'");
    let (seen, record) = sent(&space, &options, "?q=s3cret&iban=s3cret&flag")?;
    assert_eq!(seen_header(&seen, "Authorization"), format!("Bearer {token}"), "the application gets all of it");
    assert_eq!((record.actor(), record.attribute("audit.actor.type")), ("alice", "user"));
    assert_eq!(record.attribute("testimony.actor.issuer"), "https://idp.example");
    assert_eq!(record.attribute("testimony.auth.method"), "jwt");
    assert_eq!(record.attribute("testimony.assurance"), "unverified");
    assert_eq!(record.attribute("url.query"), "q=*&*=*&*");
    let whole = format!("{record:?}");
    for secret in ["s3cret", token.as_str(), "iban", "c2lnbmF0dXJl"] {
        assert!(!whole.contains(secret), "{secret:?} in {whole}");
    }
    assert!(!has_accept(&record), "{record:#?}");

    let (_, record) = sent(&space, "-u bob:s3cret", "")?;
    assert_eq!((record.actor(), record.attribute("testimony.auth.method")), ("bob", "basic"));
    assert_eq!(record.attribute("testimony.assurance"), "unverified");
    assert!(!format!("{record:?}").contains("s3cret"), "{record:?}");

    let (_, record) = sent(&space, "", "")?;
    assert_eq!(record.attribute("testimony.auth.method"), "address");
    let account = format!("system:serviceaccount:{}:default", space.name);
    assert!([cluster_ip(&space, "client")?, account].contains(&record.actor().to_string()), "{record:#?}");
    Ok(())
}

#[test]
fn both_sides_of_a_request_are_named() -> Result<()> {
    let space = Space::new("names")?;
    space.policy("everything", "{}")?;
    space.httpbin("server")?;
    space.toolbox("client", "{app: client}")?;
    in_force(&space, "everything", 2)?;
    let path = format!("/anything/{}", marker());
    let both = |records: &[AuditRecord]| {
        let named = |direction: &str, attribute: &str| {
            let of = |record: &&AuditRecord| {
                record.attribute("testimony.direction") == direction && record.attribute("url.path") == path
            };
            records.iter().filter(of).find(|record| !record.attribute(attribute).is_empty()).cloned()
        };
        named("inbound", "testimony.peer.k8s.pod.name").zip(named("outbound", "testimony.peer.k8s.service.name"))
    };
    // The very first exchange may end before the operator has told a name.
    let records = space.records_when("names on both sides", |records| {
        let sent =
            space.sh("client", &format!("curl -sS --fail -o /dev/null --max-time 20 'http://server:8080{path}'"));
        sent.is_ok() && both(records).is_some()
    })?;
    let (inbound, outbound) = both(&records).context("both")?;
    assert_eq!(inbound.attribute("testimony.peer.k8s.pod.name"), "client");
    assert_eq!(inbound.attribute("testimony.peer.k8s.namespace.name"), space.name);
    assert_eq!(inbound.attribute("testimony.peer.k8s.service_account.name"), "default");
    assert_eq!(inbound.attribute("testimony.peer.k8s.workload.name"), "Pod/client");
    assert_eq!(inbound.actor(), format!("system:serviceaccount:{}:default", space.name));
    assert_eq!(outbound.attribute("testimony.peer.k8s.service.name"), "server");
    for record in [inbound, outbound] {
        assert_eq!(record.attribute("testimony.peer.source"), "operator");
    }
    Ok(())
}

#[test]
fn a_malformed_request_is_answered_by_400_and_recorded() -> Result<()> {
    let space = audited("malformed", "rules: []")?;
    let table = [
        ("Host: h\\r\\nContent-Length: 3\\r\\nTransfer-Encoding: chunked", "length_with_transfer_encoding"),
        ("Host: h\\r\\nContent-Length: 3\\r\\nContent-Length: 4", "bad_content_length"),
        ("Host: h\\r\\nX-Field : 1", "space_before_colon"),
        ("Accept: text/plain", "missing_host"),
    ];
    for (fields, refusal) in table {
        let path = format!("/anything/{}", marker());
        let request = format!("printf 'POST {path} HTTP/1.1\\r\\n{fields}\\r\\n\\r\\n' | nc -w 10 server 8080");
        let answer = space.sh("client", &request)?;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{refusal}: {answer:?}");
        let refused = |record: &AuditRecord| record.attribute("testimony.refusal") == refusal;
        let records = space.records_when(refusal, |records| records.iter().any(refused))?;
        let record = single(records.into_iter().filter(refused).collect())?;
        assert_eq!(record.attribute("testimony.cause"), "rejected", "{record:#?}");
        assert_eq!(record.attribute("audit.outcome"), "failure", "{record:#?}");
    }
    Ok(())
}

//! HTTP/2 and gRPC between two audited pods.

use crate::harness::{Space, cluster};
use crate::pods::EVERY_POD;
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use testimony_e2e::records::AuditRecord;

/// As it stands in OTLP.
const RPC_CALL: &str = "audit.rpc.call";

/// gRPC's interoperability cases that need no credentials.
const CASES: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];

fn is_call(record: &AuditRecord, method: &str, status: &str) -> bool {
    record.event == RPC_CALL
        && record.attribute("rpc.method") == method
        && record.attribute("rpc.grpc.status_code") == status
}

#[test]
fn all_cases_of_grpcs_interoperability_test_pass_between_two_sidecars_and_are_records() -> Result<()> {
    let space = Space::new("grpc")?;
    space.policy("all", EVERY_POD)?;
    let interop = "image: \"{{image:grpc-interop}}\", args: [-port, \"10000\"], \
                   readinessProbe: {tcpSocket: {port: 10000}, periodSeconds: 1}";
    space.server("server", 10_000, interop)?;
    // The image has no shell: its server is what keeps the client's pod.
    space.server("client", 10_000, interop)?;
    let client = space.pods("client")?;
    ensure!(client.len() == 1, "{client:#?}");
    let mut failed = Vec::new();
    for case in CASES {
        let command = ["/grpc-interop-client", "-server_host", "server", "-server_port", "10000", "-test_case", case];
        if let Err(error) = cluster().kubectl.exec(&space.name, "deployment/client", "client", &command) {
            failed.push(format!("{case}: {error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{} of {} cases fail:\n{}", failed.len(), CASES.len(), failed.join("\n"));
    let both = |records: &[AuditRecord], method: &str, status: &str| {
        let calls = || records.iter().filter(|record| is_call(record, method, status));
        calls().any(AuditRecord::is_inbound) && calls().any(|record| !record.is_inbound())
    };
    let wanted = [("EmptyCall", "0"), ("StreamingOutputCall", "0"), ("UnaryCall", "2"), ("UnimplementedCall", "12")];
    let all = |records: &[AuditRecord]| wanted.iter().all(|(method, status)| both(records, method, status));
    let records = space.records_when("calls on both sides", all)?;
    let calls: Vec<&AuditRecord> = records.iter().filter(|r| is_call(r, "StreamingOutputCall", "0")).collect();
    for call in &calls {
        assert_eq!((call.field("req_msgs").as_str(), call.field("res_msgs").as_str()), ("1", "4"), "{call:#?}");
        assert_eq!(call.attribute("rpc.service"), "grpc.testing.TestService");
    }
    let (inbound, outbound): (Vec<_>, Vec<_>) = calls.into_iter().partition(|call| call.is_inbound());
    ensure!(outbound.iter().all(|out| inbound.iter().any(|r#in| out.pairs_with(r#in))), "{outbound:#?}\n{inbound:#?}");
    Ok(())
}

/// The cases of h2spec that fail.
fn h2spec(space: &Space, client: &str, server: &str) -> Result<BTreeSet<String>> {
    // It ends with 1 when a case fails; what failed stands in its report.
    let output = space.sh(client, &format!("/h2spec -h {server} -p 8080 -o 3 2>&1 || true"))?;
    ensure!(output.contains(" tests, "), "h2spec did not run: {output}");
    let (mut section, mut failed) = (String::new(), BTreeSet::new());
    for line in output.split_once("Failures:").map_or("", |(_, told)| told).lines().map(str::trim) {
        if let Some(case) = line.strip_prefix("× ") {
            failed.insert(format!("{section}: {case}"));
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            section = line.to_owned();
        }
    }
    ensure!(failed.is_empty() == output.contains(" 0 failed"), "the report was not understood: {output}");
    Ok(failed)
}

#[test]
fn h2spec_finds_nothing_wrong_between_two_sidecars_that_it_does_not_find_in_the_server_itself() -> Result<()> {
    let space = Space::new("h2spec")?;
    let fortio = "image: \"{{image:fortio}}\", args: [server, -http-port, \"8080\", -redirect-port, disabled], \
                  readinessProbe: {httpGet: {port: 8080, path: /fortio/}, periodSeconds: 1}";
    for name in ["server", "client"] {
        space.policy(name, &format!("{{podSelector: {{matchLabels: {{app: {name}}}}}}}"))?;
    }
    for (server, client) in [("bare", "plain"), ("server", "client")] {
        space.server(server, 8080, fortio)?;
        space.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {client}, labels: {{app: {client}}}}}\nspec:\n  \
             terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: toolbox, image: \"{{{{image:h2spec}}}}\"}}\n"
        ))?;
        space.ready(&[client])?;
    }
    let direct = h2spec(&space, "plain", "bare")?;
    let through = h2spec(&space, "client", "server")?;
    let ours: Vec<&String> = through.difference(&direct).collect();
    ensure!(ours.is_empty(), "the sidecars alone fail: {ours:#?}; the server fails {direct:#?}");
    Ok(())
}

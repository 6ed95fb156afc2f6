//! From a request to its record.

use crate::harness::{Space, init_containers, marker, single};
use anyhow::Result;
use testimony_e2e::records::{AuditRecord, HTTP_REQUEST, TCP_CLOSE};

fn get(space: &Space, server: &str, path: &str) -> Result<()> {
    let status =
        space.sh("client", &format!("curl -sS -o /dev/null -w '%{{http_code}}' http://{server}:8080{path}"))?;
    assert_eq!(status, "200", "{path}");
    Ok(())
}

#[test]
fn a_request_into_a_selected_pod_is_one_inbound_record() -> Result<()> {
    let space = Space::new("inbound")?;
    space.policy("servers", "{podSelector: {matchLabels: {app: server}}}")?;
    space.httpbin("server")?;
    space.toolbox("client", "{app: client}")?;
    let pod = single(space.pods("server")?)?;
    assert_eq!(init_containers(&pod), ["testimony-init", "testimony-sidecar"]);
    assert!(init_containers(&single(space.pods("client")?)?).is_empty());

    let wanted = marker();
    get(&space, "server", &format!("/anything/{wanted}?token=secret"))?;
    let records = space.settled(&wanted, |last| get(&space, "server", &format!("/anything/{last}")))?;
    let record = single(records)?;
    assert_eq!(record.event, HTTP_REQUEST);
    assert_eq!(record.direction(), "inbound");
    assert_eq!(record.attribute("http.request.method"), "GET");
    assert_eq!(record.attribute("url.path"), format!("/anything/{wanted}"));
    assert_eq!(record.status(), Some(200));
    assert_eq!(record.pod(), pod.pointer("/metadata/name").and_then(|name| name.as_str()).unwrap_or_default());
    assert_eq!((record.trace_id.len(), record.span_id.len()), (32, 16), "{record:?}");
    assert!(!record.body.contains("secret"), "{}", record.body);
    Ok(())
}

#[test]
fn a_request_between_selected_pods_is_one_record_on_each_side_and_they_pair() -> Result<()> {
    let space = Space::new("pair")?;
    space.policy("all", "{podSelector: {}}")?;
    space.httpbin("server")?;
    space.toolbox("client", "{app: client}")?;

    let wanted = marker();
    get(&space, "server", &format!("/anything/{wanted}"))?;
    let mut records = space.settled(&wanted, |last| get(&space, "server", &format!("/anything/{last}")))?;
    if records.len() < 2 {
        // The two sidecars send on their own; one may be later.
        let both = |records: &[AuditRecord]| {
            records.iter().filter(|record| record.attribute("url.path").contains(&wanted)).count() >= 2
        };
        records = space.records_when("the record of the other side", both)?;
        records.retain(|record| record.attribute("url.path").contains(&wanted));
    }
    let (inbound, outbound): (Vec<_>, Vec<_>) = records.into_iter().partition(AuditRecord::is_inbound);
    let (inbound, outbound) = (single(inbound)?, single(outbound)?);
    assert!(outbound.pairs_with(&inbound), "{outbound:#?}\n{inbound:#?}");
    assert_eq!((&outbound.trace_id, &outbound.span_id), (&inbound.trace_id, &inbound.span_id));
    assert_eq!(outbound.status(), inbound.status());
    Ok(())
}

#[test]
fn a_protocol_that_is_not_http_is_one_connection_with_bytes_both_ways() -> Result<()> {
    let space = Space::new("opaque")?;
    space.policy("database", "{podSelector: {matchLabels: {app: postgres}}}")?;
    space.server(
        "postgres",
        5432,
        "image: \"{{image:postgres}}\", ports: [{containerPort: 5432}], \
         readinessProbe: {exec: {command: [pg_isready, -h, 127.0.0.1, -U, postgres]}, periodSeconds: 1}",
    )?;
    space.toolbox("client", "{app: client}")?;
    let psql = "psql -h postgres -U postgres -d postgres -At | wc -c";
    let answer = space.sh_with_input("client", psql, b"select repeat('x', 5000)")?;
    assert_eq!(answer.trim(), "5001");
    let closed = |record: &AuditRecord| record.event == TCP_CLOSE && record.is_inbound();
    let records = space.records_when("the connection's record", |records| records.iter().any(closed))?;
    let record = single(records.into_iter().filter(closed).collect())?;
    let bytes = |name: &str| record.field(name).parse::<u64>().unwrap_or_default();
    assert!(bytes("req_bytes") > 50, "{record:#?}");
    assert!(bytes("res_bytes") > 5000, "{record:#?}");
    Ok(())
}

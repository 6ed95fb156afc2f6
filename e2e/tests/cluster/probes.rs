//! The four kinds of probes behind a redirect.

use crate::harness::{POD_READY_SECONDS_MAX, Space, cluster, eventually, marker};
use crate::pods::{EVERY_POD, is_injected, list, named, text};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use testimony_e2e::records::AuditRecord;

/// Failed probes after which a pod counts as not becoming ready.
const FAILED_PROBES: i64 = 3;

/// A pod with one container and one probe; `container` and `probe` in flow style.
fn probed(name: &str, container: &str, kind: &str, probe: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - {{name: app, {container}, {kind}: {{{probe}, periodSeconds: 1}}}}\n---\n"
    )
}

const HTTPBIN: &str = "image: \"{{image:go-httpbin}}\", args: [-host, \"0.0.0.0\", -port, \"8080\"], ports: [{name: web, containerPort: 8080}]";

#[test]
fn pods_become_ready_by_http_tcp_grpc_and_exec_probes_and_http_probes_are_the_systems() -> Result<()> {
    let space = Space::new("probes")?;
    space.policy("all", EVERY_POD)?;
    let wanted = marker();
    let grpc = "image: \"{{image:fortio}}\", args: [server, -http-port, disabled, -redirect-port, disabled, -grpc-port, \"8079\"]";
    let toolbox = "image: \"{{image:toolbox}}\"";
    space.apply(
        &[
            probed("http", HTTPBIN, "readinessProbe", &format!("httpGet: {{path: /anything/{wanted}, port: web}}")),
            probed("tcp", HTTPBIN, "readinessProbe", "tcpSocket: {port: 8080}"),
            probed("tcp-startup", HTTPBIN, "startupProbe", "tcpSocket: {port: web}"),
            probed("grpc", grpc, "readinessProbe", "grpc: {port: 8079}"),
            probed("exec", toolbox, "readinessProbe", "exec: {command: [test, -d, /tmp]}"),
        ]
        .concat(),
    )?;
    space.ready(&["http", "tcp", "tcp-startup", "grpc", "exec"])?;
    for (pod, probe, original) in
        [("tcp", "readinessProbe", json!({"port": 8080})), ("tcp-startup", "startupProbe", json!({"port": "web"}))]
    {
        let object = space.pod(pod)?;
        assert!(is_injected(&object), "{object:#}");
        let container = named(list(&object, "/spec/containers"), "app")?;
        let changed = container.get(probe).context("the probe is there")?;
        assert_eq!(changed.get("tcpSocket"), None);
        assert_eq!(text(changed, "/httpGet/path"), "/probe/tcp/8080");
        assert_eq!(changed.pointer("/httpGet/port").and_then(Value::as_i64), Some(24803));
        let status: Value = serde_json::from_str(text(&object, "/metadata/annotations/testimony.dev~1status"))?;
        let kept = json!([{"container": "app", "probe": probe, "tcpSocket": original}]);
        assert_eq!(status.get("probes"), Some(&kept), "the original is kept");
    }

    let ours = |record: &&AuditRecord| record.attribute("url.path").contains(&wanted);
    let answered = |record: &AuditRecord| record.status() == Some(200);
    let records = space
        .records_when("records of probes", |records| records.iter().any(|record| ours(&record) && answered(record)))?;
    for record in records.iter().filter(ours) {
        assert_eq!((record.direction(), record.pod()), ("inbound", "http"));
        // A probe that came before the application listened is a record too: a failure without an answer.
        assert!(
            answered(record) || (record.status(), record.attribute("audit.outcome")) == (None, "failure"),
            "{record:#?}"
        );
        assert_eq!(record.attribute("audit.actor.type"), "system", "{record:#?}");
        assert!(record.attribute("user_agent.original").starts_with("kube-probe/"), "{record:#?}");
    }
    Ok(())
}

#[test]
fn a_pod_whose_tcp_probe_finds_no_listener_does_not_become_ready() -> Result<()> {
    let space = Space::new("closed")?;
    space.policy("all", EVERY_POD)?;
    space.apply(&probed("closed", HTTPBIN, "readinessProbe", "tcpSocket: {port: 9999}"))?;
    eventually("probes of the running container to fail", POD_READY_SECONDS_MAX, || {
        let pod = space.pod("closed")?;
        let app = named(list(&pod, "/status/containerStatuses"), "app")?;
        let selector = "--field-selector=involvedObject.name=closed,reason=Unhealthy";
        let events = cluster().kubectl.get(&space.name, &["events", selector])?;
        let failures = list(&events, "/items").iter().filter(|event| text(event, "/message").contains("Readiness"));
        let failures = failures.filter_map(|event| event.get("count")?.as_i64()).sum::<i64>();
        Ok(app.pointer("/state/running").is_some() && failures >= FAILED_PROBES)
    })?;
    let pod = space.pod("closed")?;
    assert!(is_injected(&pod), "{pod:#}");
    let ready = list(&pod, "/status/conditions").iter().find(|condition| text(condition, "/type") == "Ready");
    assert_eq!(ready.map(|condition| text(condition, "/status")), Some("False"), "{pod:#}");
    Ok(())
}

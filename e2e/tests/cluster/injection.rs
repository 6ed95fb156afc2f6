//! Which pods get a sidecar: the cases that cannot have one, and where each is told.

use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually, marker, single};
use crate::pods::{EVERY_POD, is_injected, list, text};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use testimony_e2e::install::OPERATOR_NAMESPACE;

/// How long the status and the Events may lag behind a pod, in seconds.
const TOLD_SECONDS_MAX: u64 = 60;
const TOOLBOX: &str = "{name: toolbox, image: \"{{image:toolbox}}\"}";

/// A pod whose `labels` and `spec` are given in flow style; the toolbox is a container of each.
fn pod(name: &str, labels: &str, containers: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{{labels}}}}}, \
         spec: {{terminationGracePeriodSeconds: 1, containers: [{TOOLBOX}{containers}]{spec}}}}}"
    )
}

fn policy_status(space: &Space, name: &str) -> Result<Value> {
    let policy = cluster().kubectl.get(&space.name, &["auditpolicy", name])?;
    policy.get("status").cloned().context("the policy has no status")
}

/// `pods` of a status, in the order matched, injected, needRestart, skipped.
fn counts(status: &Value) -> [i64; 4] {
    ["matched", "injected", "needRestart", "skipped"]
        .map(|name| status.pointer(&format!("/pods/{name}")).and_then(Value::as_i64).unwrap_or_default())
}

/// `skipped` of a status: how many pods for each reason.
fn reasons(status: &Value) -> BTreeMap<String, i64> {
    let entries = list(status, "/skipped").iter();
    let entries = entries.map(|e| (text(e, "/reason").to_string(), e.get("count").and_then(Value::as_i64)));
    entries.map(|(reason, count)| (reason, count.unwrap_or_default())).collect()
}

/// Waits until the policy's status has these counts and reasons; an example is one of the namespace's pods.
fn expect_status(space: &Space, policy: &str, wanted: [i64; 4], wanted_reasons: &[(&str, i64)]) -> Result<Value> {
    let mut status = Value::Null;
    let by_reason: BTreeMap<String, i64> = wanted_reasons.iter().map(|(k, v)| ((*k).to_string(), *v)).collect();
    // Both at once: while pods come and go, the counts may be right for a moment with other reasons.
    let waited = eventually(&format!("the status of {policy}"), TOLD_SECONDS_MAX, || {
        status = policy_status(space, policy)?;
        Ok(counts(&status) == wanted && reasons(&status) == by_reason)
    });
    waited.with_context(|| format!("wanted {wanted:?} and {wanted_reasons:?}, the status is {status:#}"))?;
    for entry in list(&status, "/skipped") {
        let example = text(entry, "/example").strip_prefix(&format!("{}/", space.name)).unwrap_or_default();
        space.pod(example).with_context(|| format!("the example {entry} is no pod"))?;
    }
    Ok(status)
}

/// Waits until the pod has a warning Event with this reason.
fn expect_event(space: &Space, pod: &str, reason: &str) -> Result<()> {
    eventually(&format!("an Event {reason} on {pod}"), TOLD_SECONDS_MAX, || {
        let selector = format!("--field-selector=involvedObject.kind=Pod,involvedObject.name={pod},reason={reason}");
        let events = cluster().kubectl.get(&space.name, &["events", &selector])?;
        let told =
            |event: &Value| text(event, "/type") == "Warning" && text(event, "/message").starts_with("not audited");
        Ok(list(&events, "/items").iter().any(told))
    })
}

/// How many admissions ended with this result and reason, over all webhook pods.
fn admissions(result: &str, reason: &str) -> Result<u64> {
    let pods = cluster().kubectl.get(OPERATOR_NAMESPACE, &["pods", "-l", "app.kubernetes.io/component=webhook"])?;
    let wanted = format!("testimony_operator_injections_total{{result=\"{result}\",reason=\"{reason}\"}} ");
    let mut sum = 0;
    for pod in list(&pods, "/items") {
        let name = text(pod, "/metadata/name");
        let path = format!("/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{name}:8080/proxy/metrics");
        let page = cluster().kubectl.run(&["get", "--raw", &path])?;
        let values = page.lines().filter_map(|line| line.strip_prefix(&wanted)?.parse::<u64>().ok());
        sum += values.sum::<u64>();
    }
    Ok(sum)
}

/// Nothing of ours is in the pod.
fn expect_untouched(pod: &Value) {
    assert!(!is_injected(pod), "{pod:#}");
    assert_eq!(pod.pointer("/metadata/labels/testimony.dev~1injected"), None, "{pod:#}");
    assert_eq!(pod.pointer("/metadata/annotations/testimony.dev~1injection-id"), None, "{pod:#}");
    let mounts = list(pod, "/spec/volumes").iter().filter(|volume| text(volume, "/name") == "testimony-token");
    assert_eq!(mounts.count(), 0, "{pod:#}");
}

/// Creates the pod and checks that it has no sidecar, and that this is told in the warning, the metric and an Event.
fn expect_skipped(space: &Space, name: &str, manifest: &str, reason: &str) -> Result<()> {
    let before = admissions("skipped", reason)?;
    let warnings = space.apply_warned(manifest)?;
    assert!(warnings.contains(&format!("Warning: testimony: no sidecar ({reason}): ")), "{name}: {warnings}");
    expect_untouched(&space.pod(name)?);
    let after = admissions("skipped", reason)?;
    assert!(after > before, "{name}: the metric of {reason} stays at {before}");
    expect_event(space, name, reason)
}

#[test]
fn pods_that_cannot_be_audited_start_without_a_sidecar_and_each_is_told_with_its_reason() -> Result<()> {
    let space = Space::new("skipped")?;
    space.policy("all", EVERY_POD)?;
    let proxy = "{{image:toolbox}}";
    let cases = [
        ("host-network", "HostNetwork", "", "", ", hostNetwork: true".to_string()),
        ("windows", "Windows", "", "", ", os: {name: windows}, nodeSelector: {kubernetes.io/os: windows}".to_string()),
        ("opted-out", "OptedOut", "testimony.dev/inject: disabled", "", String::new()),
        ("istio", "OtherProxy", "", ", {name: istio-proxy, image: \"{{image:toolbox}}\"}", String::new()),
        (
            "linkerd",
            "OtherProxy",
            "",
            "",
            format!(", initContainers: [{{name: linkerd-proxy, image: \"{proxy}\", restartPolicy: Always}}]"),
        ),
        (
            "port",
            "PortCollision",
            "",
            ", {name: other, image: \"{{image:toolbox}}\", ports: [{containerPort: 24802}]}",
            String::new(),
        ),
        ("name", "NameCollision", "", "", ", volumes: [{name: testimony-state, emptyDir: {}}]".to_string()),
    ];
    for (name, reason, labels, containers, spec) in &cases {
        expect_skipped(&space, name, &pod(name, labels, containers, spec), reason)?;
    }
    let wanted = [
        ("HostNetwork", 1),
        ("Windows", 1),
        ("OptedOut", 1),
        ("OtherProxy", 2),
        ("PortCollision", 1),
        ("NameCollision", 1),
    ];
    let status = expect_status(&space, "all", [7, 0, 0, 7], &wanted)?;
    let first = list(&status, "/skipped").first().map(|entry| text(entry, "/reason"));
    assert_eq!(first, Some("OtherProxy"), "the most frequent reason stands first: {status:#}");
    // It waits for a node that does not exist; the others run as if nothing were there.
    assert_eq!(text(&space.pod("windows")?, "/status/phase"), "Pending");
    space.ready(&["host-network", "opted-out", "istio", "linkerd", "port", "name"])
}

#[test]
fn pods_of_a_namespace_that_enforces_pod_security_run_without_a_sidecar() -> Result<()> {
    for level in ["baseline", "restricted"] {
        let space = Space::new("podsecurity")?;
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        cluster().kubectl.run(&["label", "namespace", &space.name, &label])?;
        space.policy("all", EVERY_POD)?;
        // What restricted asks of a pod.
        let manifest = "{apiVersion: v1, kind: Pod, metadata: {name: app}, spec: {terminationGracePeriodSeconds: 1, \
             securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}, \
             containers: [{name: toolbox, image: \"{{image:toolbox}}\", \
             securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]}}";
        expect_skipped(&space, "app", manifest, "PodSecurity")?;
        expect_status(&space, "all", [1, 0, 0, 1], &[("PodSecurity", 1)])?;
        space.ready(&["app"])?;
    }
    Ok(())
}

#[test]
fn containers_that_can_avoid_the_audit_are_injected_with_a_warning() -> Result<()> {
    let space = Space::new("warned")?;
    space.policy("all", EVERY_POD)?;
    let cases = [
        (
            "our-ids",
            "securityContext: {runAsUser: 62819, runAsGroup: 62820}",
            "Warning: testimony: container other runs as the sidecar's user and group",
        ),
        (
            "net-admin",
            "securityContext: {capabilities: {add: [NET_ADMIN]}}",
            "Warning: testimony: container other may change the network",
        ),
        (
            "net-raw",
            "securityContext: {capabilities: {add: [NET_RAW]}}",
            "Warning: testimony: container other may change the network",
        ),
        (
            "sys-module",
            "securityContext: {capabilities: {add: [SYS_MODULE]}}",
            "Warning: testimony: container other may change the network",
        ),
    ];
    for (name, context, warning) in cases {
        let before = admissions("injected", "")?;
        let other = format!(", {{name: other, image: \"{{{{image:toolbox}}}}\", {context}}}");
        let warnings = space.apply_warned(&pod(name, "", &other, ""))?;
        assert!(warnings.contains(warning), "{name}: {warnings}");
        assert!(is_injected(&space.pod(name)?), "{name}");
        assert!(admissions("injected", "")? > before, "{name}");
    }
    let quiet = space.apply_warned(&pod("quiet", "", "", ""))?;
    assert!(!quiet.contains("testimony"), "a pod without a risk is not warned of: {quiet}");
    space.ready(&["our-ids", "net-admin", "net-raw", "sys-module", "quiet"])?;
    expect_status(&space, "all", [5, 5, 0, 0], &[])?;
    Ok(())
}

#[test]
fn a_pod_that_is_older_than_its_policy_needs_a_restart_and_is_audited_after_it() -> Result<()> {
    let space = Space::new("older")?;
    space.httpbin("server")?;
    let before = single(space.pods("server")?)?;
    space.policy("all", EVERY_POD)?;
    let status = expect_status(&space, "all", [1, 0, 1, 0], &[("NeedsRestart", 1)])?;
    expect_event(&space, text(&before, "/metadata/name"), "NeedsRestart")?;
    expect_untouched(&single(space.pods("server")?)?);
    let ready = list(&status, "/conditions").iter().find(|condition| text(condition, "/type") == "Ready");
    assert_eq!(ready.map(|condition| text(condition, "/status")), Some("False"), "{status:#}");

    cluster().kubectl.run(&["rollout", "restart", "-n", &space.name, "deployment/server"])?;
    cluster().kubectl.rollout(&space.name, "deployment/server")?;
    let mut status = Value::Null;
    let waited = eventually("the policy to be in force", OPERATOR_SECONDS_MAX, || {
        status = policy_status(&space, "all")?;
        let programmed = status.pointer("/pods/programmed").and_then(Value::as_i64);
        let ready = list(&status, "/conditions").iter().find(|condition| text(condition, "/type") == "Ready");
        Ok(programmed == Some(1) && ready.is_some_and(|condition| text(condition, "/status") == "True"))
    });
    waited.with_context(|| format!("{status:#}"))?;
    assert_eq!(counts(&status), [1, 1, 0, 0], "{status:#}");
    assert_eq!(reasons(&status), BTreeMap::new());
    let mut pods = space.pods("server")?;
    // The former pod may still be on its way out.
    pods.retain(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
    assert!(is_injected(&single(pods)?));
    Ok(())
}

/// An AuditSink of one test; it belongs to no namespace, so it is deleted here.
struct Sink(String);

impl Drop for Sink {
    fn drop(&mut self) {
        if let Err(error) = cluster().kubectl.run(&["delete", "auditsink", &self.0]) {
            eprintln!("AuditSink {} was not deleted: {error:#}", self.0);
        }
    }
}

#[test]
fn pods_behind_the_service_of_a_sink_are_not_audited() -> Result<()> {
    let space = Space::new("sink")?;
    space.policy("all", EVERY_POD)?;
    let sink = Sink(format!("e2e-{}", marker()));
    space.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: receiver}}\nspec: {{selector: {{app: receiver}}, ports: [{{port: 4318}}]}}\n---\n\
         apiVersion: audit.testimony.dev/v1alpha1\nkind: AuditSink\nmetadata: {{name: {}}}\nspec: {{endpoint: \"http://receiver.{}.svc:4318\"}}\n",
        sink.0, space.name
    ))?;
    eventually("the sink to be accepted", OPERATOR_SECONDS_MAX, || {
        let sink = cluster().kubectl.get(&space.name, &["auditsink", &sink.0])?;
        let accepted =
            |condition: &Value| text(condition, "/type") == "Accepted" && text(condition, "/status") == "True";
        Ok(list(&sink, "/status/conditions").iter().any(accepted))
    })?;
    expect_skipped(&space, "receiver", &pod("receiver", "app: receiver", "", ""), "Sink")?;
    let other = space.apply_warned(&pod("other", "app: other", "", ""))?;
    assert!(!other.contains("testimony"), "{other}");
    assert!(is_injected(&space.pod("other")?));
    expect_status(&space, "all", [2, 1, 0, 1], &[("Sink", 1)])?;
    space.ready(&["receiver", "other"])
}

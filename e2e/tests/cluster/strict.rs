//! Strict namespaces: every pod is injected, and what cannot be audited does not start, with a message that says what to do.

use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually, init_containers, marker};
use crate::objects::{SELECT_SERVER, counts, in_force, policy_when, text};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;

/// A space whose namespace is strict; returns when the API server knows it.
pub fn strict_space(test: &str) -> Result<Space> {
    let space = Space::new(test)?;
    make_strict(&space)?;
    Ok(space)
}

/// Makes a space strict; returns when the API server knows it.
fn make_strict(space: &Space) -> Result<()> {
    label(space, "testimony.dev/enforcement=strict")?;
    eventually("the namespace to be strict", OPERATOR_SECONDS_MAX, || {
        Ok(refusal(space, &json!({"spec": {"hostNetwork": true}})).is_ok())
    })
}

/// Labels a space's namespace.
pub fn label(space: &Space, label: &str) -> Result<()> {
    cluster().kubectl.run(&["label", "namespace", &space.name, label, "--overwrite"]).map(|_| ())
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// What the API server would store for a pod of one container, changed by `extra`; nothing is stored.
pub fn dry_run(space: &Space, extra: &Value) -> Result<Value> {
    dry_run_warned(space, extra).map(|(pod, _)| pod)
}

/// As [`dry_run`], with what kubectl wrote to standard error: the admission's warnings.
fn dry_run_warned(space: &Space, extra: &Value) -> Result<(Value, String)> {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": marker(), "namespace": space.name},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    });
    merge(&mut pod, extra);
    let mut command = cluster().kubectl.command();
    command.args(["create", "--dry-run=server", "-o", "json", "-f", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no standard input")?.write_all(pod.to_string().as_bytes())?;
    let done = child.wait_with_output()?;
    let warnings = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success(), "kubectl create: {warnings}");
    Ok((serde_json::from_slice(&done.stdout).context("kubectl's JSON")?, warnings))
}

/// The message with which such a pod is refused.
fn refusal(space: &Space, extra: &Value) -> Result<String> {
    match dry_run(space, extra) {
        Ok(pod) => anyhow::bail!("it was not refused: {pod:#}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

#[test]
fn every_pod_is_injected_or_refused_with_what_to_do() -> Result<()> {
    let space = strict_space("strict")?;
    let pod = dry_run(&space, &json!({}))?;
    ensure!(init_containers(&pod) == ["testimony-init", "testimony-sidecar"], "without a policy too: {pod:#}");

    let app = |fields: Value| {
        let mut app = json!({"name": "app", "image": "app:1"});
        merge(&mut app, &fields);
        json!({"spec": {"containers": [app]}})
    };
    let ids = json!({"runAsUser": 62819, "runAsGroup": 62820});
    let tracer = |how: &str| {
        let mut pod = app(json!({"securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}}));
        pod["spec"][how] = json!(true);
        pod
    };
    let cases = [
        (json!({"spec": {"hostNetwork": true}}), "HostNetwork", "remove hostNetwork"),
        (json!({"spec": {"os": {"name": "windows"}}}), "Windows", "a namespace that is not strict"),
        (json!({"metadata": {"labels": {"testimony.dev/inject": "disabled"}}}), "OptedOut", "remove the label"),
        (json!({"spec": {"containers": [{"name": "linkerd-proxy", "image": "a"}]}}), "OtherProxy", "another mesh"),
        (json!({"spec": {"containers": [{"name": "istio-proxy", "image": "a"}]}}), "OtherProxy", "another mesh"),
        (app(json!({"ports": [{"containerPort": 24802}]})), "PortCollision", "use others"),
        (json!({"spec": {"volumes": [{"name": "testimony-state", "emptyDir": {}}]}}), "NameCollision", "rename it"),
        (app(json!({"securityContext": ids})), "UidCollision", "[app]"),
        (json!({"spec": {"securityContext": ids}}), "UidCollision", "[app]"),
        (app(json!({"securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}})), "NetworkAdmin", "[app]"),
        (app(json!({"securityContext": {"capabilities": {"add": ["NET_RAW"]}}})), "NetworkAdmin", "[app]"),
        (app(json!({"securityContext": {"capabilities": {"add": ["SYS_MODULE"]}}})), "NetworkAdmin", "[app]"),
        (tracer("shareProcessNamespace"), "NetworkAdmin", "[app]"),
        (tracer("hostPID"), "NetworkAdmin", "[app]"),
        (app(json!({"securityContext": {"privileged": true}})), "NetworkAdmin", "remove the capability"),
    ];
    for (extra, reason, fix) in cases {
        let message = refusal(&space, &extra)?;
        for wanted in [format!("testimony: refused ({reason})"), "To fix it: ".to_string(), fix.to_string()] {
            ensure!(message.contains(&wanted), "{extra}: {wanted:?} is not in: {message}");
        }
    }
    for level in ["baseline", "restricted"] {
        label(&space, &format!("pod-security.kubernetes.io/enforce={level}"))?;
        eventually(&format!("Pod Security {level} to be in the way"), OPERATOR_SECONDS_MAX, || {
            let message = refusal(&space, &json!({}))?;
            Ok(message.contains("testimony: refused (PodSecurity)") && message.contains("enforce: privileged"))
        })?;
        label(&space, "pod-security.kubernetes.io/enforce=privileged")?;
        eventually("Pod Security to be out of the way", OPERATOR_SECONDS_MAX, || {
            dry_run(&space, &json!({})).map(|pod| !init_containers(&pod).is_empty())
        })?;
    }
    Ok(())
}

#[test]
fn a_pod_that_is_older_than_its_strict_namespace_stays_and_needs_a_restart() -> Result<()> {
    let space = Space::new("strictolder")?;
    space.toolbox("server", "{app: server}")?;
    make_strict(&space)?;
    space.policy("audit", &format!("{{{SELECT_SERVER}}}"))?;
    let told = policy_when(&space, "audit", "to tell of the older pod", OPERATOR_SECONDS_MAX, |policy| {
        counts(policy) == [1, 0, 0, 1, 0]
    })?;
    assert_eq!(text(&told, "/status/skipped/0/reason"), "NeedsRestart", "{told:#}");
    // What it does not bring is not held against it.
    cluster().kubectl.run(&["label", "pod", "server", "-n", &space.name, "some=thing"])?;
    let pod = space.pod("server")?;
    ensure!(init_containers(&pod).is_empty() && text(&pod, "/status/phase") == "Running", "{pod:#}");
    Ok(())
}

#[test]
fn a_pod_of_a_normal_namespace_starts_with_a_warning() -> Result<()> {
    let space = Space::new("normal")?;
    space.policy("audit", "{podSelector: {}}")?;
    // The webhook may learn of the policy after the controller.
    eventually("pods to be injected", OPERATOR_SECONDS_MAX, || {
        Ok(!init_containers(&dry_run(&space, &json!({}))?).is_empty())
    })?;
    let ids = json!({"runAsUser": 62819, "runAsGroup": 62820});
    for (spec, injected, warning) in [
        (json!({"hostNetwork": true}), false, "Warning: testimony: no sidecar (HostNetwork): "),
        (
            json!({"securityContext": ids}),
            true,
            "Warning: testimony: container app runs as the sidecar's user and group",
        ),
    ] {
        let (pod, warnings) = dry_run_warned(&space, &json!({"spec": spec}))?;
        ensure!(init_containers(&pod).is_empty() != injected, "{pod:#}");
        ensure!(warnings.contains(warning), "{warning:?} is not in: {warnings}");
    }
    Ok(())
}

#[test]
fn a_running_pod_of_a_strict_namespace_records_and_stays_what_it_is() -> Result<()> {
    let space = strict_space("strictrun")?;
    space.policy("audit", &format!("{{{SELECT_SERVER}}}"))?;
    space.httpbin("server")?;
    space.toolbox("client", "{app: client}")?;
    in_force(&space, "audit", 1)?;
    let records = space.recorded_request()?;
    ensure!(records.iter().all(|record| record.is_inbound()), "the client has a sidecar and no policy: {records:#?}");
    let client = cluster().kubectl.get(&space.name, &["pod", "client"])?;
    ensure!(init_containers(&client) == ["testimony-init", "testimony-sidecar"], "{client:#}");

    let patch = |arguments: &[&str], patch: Value| {
        let patch = patch.to_string();
        let mut all = vec!["patch", "pod", "client", "-n", &space.name, "-p", &patch];
        all.extend_from_slice(arguments);
        cluster().kubectl.run(&all)
    };
    let refused = |done: Result<String>, wanted: &str| -> Result<()> {
        let message = match done {
            Ok(done) => anyhow::bail!("it was not refused: {done}"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(message.contains(wanted), "{wanted:?} is not in: {message}");
        Ok(())
    };
    let image = json!({"spec": {"initContainers": [{"name": "testimony-sidecar", "image": "pause:1"}]}});
    refused(patch(&[], image), "testimony: refused (WrongImage)")?;
    let debug = |name: &str, fields: Value| {
        let mut container = json!({"name": name, "image": "app:1"});
        merge(&mut container, &fields);
        patch(&["--subresource", "ephemeralcontainers"], json!({"spec": {"ephemeralContainers": [container]}}))
    };
    let context = |context: Value| json!({"securityContext": context});
    refused(debug("admin", context(json!({"capabilities": {"add": ["NET_ADMIN"]}}))), "refused (NetworkAdmin)")?;
    refused(debug("twin", context(json!({"runAsUser": 62819, "runAsGroup": 62820}))), "refused (UidCollision)")?;
    for volume in ["testimony-token", "testimony-state", "testimony-key"] {
        let mounts = json!({"volumeMounts": [{"name": volume, "mountPath": "/stolen"}]});
        refused(debug("thief", mounts), "refused (NameCollision)")?;
    }
    let trace = json!({"capabilities": {"add": ["SYS_PTRACE"]}});
    let tracer = json!({"targetContainerName": "testimony-sidecar", "securityContext": trace});
    refused(debug("tracer", tracer), "refused (NetworkAdmin)")?;
    debug("tracer", context(trace))?;
    debug("harmless", context(json!({"runAsUser": 1000})))?;
    patch(&[], json!({"metadata": {"labels": {"some": "thing"}}}))?;
    Ok(())
}

#[test]
fn a_forged_sidecar_is_replaced_by_the_true_one() -> Result<()> {
    let space = strict_space("forged")?;
    let honest = dry_run(&space, &json!({}))?;
    let about = &honest["metadata"];
    let mut forged = json!({
        "metadata": {"name": about["name"], "annotations": about["annotations"], "labels": about["labels"]},
        "spec": {"initContainers": honest["spec"]["initContainers"], "volumes": honest["spec"]["volumes"]},
    });
    forged["spec"]["initContainers"][1]["env"] = json!([{"name": "TESTIMONY_POLICY", "value": "{}"}]);
    let stored = dry_run(&space, &forged)?;
    assert_eq!(stored["spec"]["initContainers"], honest["spec"]["initContainers"]);
    Ok(())
}

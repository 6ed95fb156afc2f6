//! The chart: an upgrade that no record notices, an uninstall that leaves running pods working and nothing behind.

use super::strict::Restored;
use super::{Scaled, alone};
use crate::cli::run_json;
use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually, init_containers, marker};
use crate::objects::{audited, in_force, text};
use crate::strict::{dry_run, strict_space};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use testimony_e2e::install::{BACKEND_ENDPOINT, OPERATOR_NAMESPACE, install_chart, install_chart_with};

/// How long the cluster's garbage collector may take, in seconds: it learns of new kinds every half minute.
const COLLECTED_SECONDS_MAX: u64 = 180;

fn get(space: &Space, path: &str) -> Result<()> {
    space.sh("client", &format!("curl -sS --fail -o /dev/null --max-time 20 'http://server:8080{path}'")).map(|_| ())
}

/// Sends requests while `work` runs, and waits until each has its record. Returns how many.
pub fn while_requests_flow(space: &Space, work: impl FnOnce() -> Result<()>) -> Result<usize> {
    let (wanted, done) = (marker(), AtomicBool::new(false));
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                let path = format!("/anything/{wanted}/{}", sent.len());
                get(space, &path)?;
                sent.insert(path);
            }
            Ok::<_, anyhow::Error>(sent)
        });
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
        worked.and(sent)
    })?;
    let paths = |records: &[testimony_e2e::records::AuditRecord]| -> Vec<String> {
        let paths = records.iter().map(|record| record.attribute("url.path"));
        paths.filter(|path| path.contains(&wanted)).map(str::to_string).collect()
    };
    let records = space.records_when("a record of each request", |records| paths(records).len() >= sent.len())?;
    let recorded = paths(&records);
    ensure!(recorded.len() == sent.len(), "{} records of {} requests", recorded.len(), sent.len());
    ensure!(recorded.into_iter().collect::<BTreeSet<_>>() == sent, "each request has its record");
    Ok(sent.len())
}

/// Puts the release back to what it was before its last upgrade.
pub fn roll_back() -> Result<()> {
    let rollback = ["rollback", "testimony", "--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout", "180s"];
    cluster().helm.run(&rollback).map(drop)
}

fn ca_bundle() -> Result<String> {
    let webhook = cluster().kubectl.get("default", &["mutatingwebhookconfiguration", "testimony-default"])?;
    Ok(text(&webhook, "/webhooks/0/clientConfig/caBundle"))
}

/// The ledger, its keys and the roots that prove it outlive an uninstall: they are evidence.
fn is_evidence(name: &str) -> bool {
    ["secret/testimony-witness", "configmap/testimony-roots"].contains(&name)
        || name.starts_with("configmap/testimony-ledger-")
}

/// Everything of ours in the cluster, as `kind.group/name`, but for the definitions, the namespace itself, evidence and Events.
fn left_behind() -> Result<Vec<String>> {
    let kubectl = &cluster().kubectl;
    let kinds = |namespaced: &str| -> Result<String> {
        let list = kubectl.run(&["api-resources", "--verbs=list", namespaced, "-o", "name"])?;
        // Some lists are views of others.
        let kinds = list.lines().filter(|kind| !kind.starts_with("events") && !kind.contains("metrics.k8s.io"));
        Ok(kinds.collect::<Vec<_>>().join(","))
    };
    let (own, cluster_wide) = (kinds("--namespaced=true")?, kinds("--namespaced=false")?);
    let mut left = Vec::new();
    let inside = kubectl.run(&["get", &own, "-n", OPERATOR_NAMESPACE, "-o", "name"])?;
    let everyones = ["serviceaccount/default", "configmap/kube-root-ca.crt"];
    let others = |name: &&str| !everyones.contains(name) && !is_evidence(name);
    left.extend(inside.lines().filter(others).map(str::to_string));
    let definitions = |name: &str| name.starts_with("customresourcedefinition") || name.starts_with("namespace/");
    let named = kubectl.run(&["get", &cluster_wide, "-o", "name"])?;
    let named =
        named.lines().filter(|name| name.split_once('/').is_some_and(|(_, name)| name.starts_with("testimony")));
    left.extend(named.filter(|name| !definitions(name)).map(str::to_string));
    for (kinds, everywhere) in [(&own, true), (&cluster_wide, false)] {
        let mut arguments = vec!["get", kinds.as_str(), "-l", "app.kubernetes.io/part-of=testimony", "-o", "name"];
        if everywhere {
            arguments.push("--all-namespaces");
        }
        let labelled = kubectl.run(&arguments)?;
        let others = labelled.lines().filter(|name| !definitions(name) && !is_evidence(name));
        left.extend(others.map(str::to_string));
    }
    let sink = kubectl.run(&["get", "auditsink", "default", "--ignore-not-found", "-o", "name"])?;
    left.extend(sink.lines().map(str::to_string));
    Ok(left)
}

#[test]
fn an_upgrade_goes_unnoticed_and_an_uninstall_leaves_pods_working_and_nothing_behind() -> Result<()> {
    let _alone = alone();
    let space = audited("chart", "rules: []")?;
    space.policy("extra", "{podSelector: {matchLabels: {app: extra}}}")?;
    let before = ca_bundle()?;
    ensure!(!before.is_empty(), "the webhook has no authority");
    let restored = Restored;
    while_requests_flow(&space, || {
        let upgraded =
            install_chart(cluster(), BACKEND_ENDPOINT, &["podAnnotations.upgraded=again", "logFormat=text"])?;
        ensure!(upgraded.contains("STATUS: deployed"), "{upgraded}");
        Ok(())
    })?;
    assert_eq!(ca_bundle()?, before, "the authority outlives an upgrade");
    in_force(&space, "audit", 1)?;
    new_pods_are_audited(&space)?;

    while_requests_flow(&space, || {
        let uninstall = ["uninstall", "testimony", "--namespace", OPERATOR_NAMESPACE, "--wait"];
        cluster().helm.run(&uninstall)?;
        let mut left = Vec::new();
        let gone = eventually("nothing to be left behind", COLLECTED_SECONDS_MAX, || {
            left = left_behind()?;
            Ok(left.is_empty())
        });
        gone.with_context(|| format!("there is {left:#?}"))
    })?;
    check_says_what_an_empty_cluster_needs()?;
    let kept = cluster().kubectl.run(&["get", "configmaps,secrets", "-n", OPERATOR_NAMESPACE, "-o", "name"])?;
    assert!(kept.lines().filter(|name| is_evidence(name)).count() > 1, "the ledger and its keys stay: {kept}");
    let definitions = cluster().kubectl.run(&["get", "crd", "-o", "name"])?;
    for name in ["auditpolicies", "auditsinks", "clusterauditpolicies"] {
        assert!(definitions.contains(&format!("{name}.audit.testimony.dev")), "{definitions}");
    }
    let kept = crate::objects::policy(&space, "audit")?;
    assert_eq!(text(&kept, "/metadata/name"), "audit");
    assert!(!is_injected(&space)?, "without the chart nothing is injected");

    install_chart(cluster(), BACKEND_ENDPOINT, &[])?;
    restored.by_the_test();
    new_pods_are_audited(&space)?;
    while_requests_flow(&space, || Ok(()))?;
    Ok(())
}

/// `testimony check` where nothing is installed: nothing is in the way of an installation, and it says how
/// to make one.
fn check_says_what_an_empty_cluster_needs() -> Result<()> {
    let severity = |findings: &serde_json::Value, id: &str| {
        let mut found = findings.as_array().into_iter().flatten().filter(|finding| finding["id"] == id);
        found.next().map(|finding| text(finding, "/severity")).unwrap_or_default()
    };
    let (code, before) = run_json(&["check", "--pre"])?;
    ensure!(code < 2, "exit code {code}: {before:#}");
    for id in ["kubernetes-version", "install-rights", "node-kernel", "node-kubelet"] {
        ensure!(severity(&before, id) == "ok", "{id}: {before:#}");
    }
    let (code, after) = run_json(&["check"])?;
    ensure!(code < 2 && severity(&after, "installed") == "info", "exit code {code}: {after:#}");
    ensure!(after.to_string().contains("helm install testimony"), "the fix is the next command: {after:#}");
    Ok(())
}

#[test]
fn an_upgrade_takes_the_meaning_of_strict_away_and_gives_it_back() -> Result<()> {
    let _alone = alone();
    let space = strict_space("toggle")?;
    let strict = || {
        let kinds = "mutatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings";
        let list = cluster().kubectl.run(&["get", kinds, "-o", "name"])?;
        Ok::<_, anyhow::Error>(list.lines().filter(|name| name.ends_with("/testimony-strict")).count())
    };
    let host_network = serde_json::json!({"spec": {"hostNetwork": true}});
    ensure!(strict()? == 3 && dry_run(&space, &host_network).is_err());
    let restored = Restored;
    install_chart(cluster(), BACKEND_ENDPOINT, &["strict.enabled=false"])?;
    ensure!(strict()? == 0, "the webhook and the policy of strict namespaces are gone");
    eventually("the label to mean nothing", OPERATOR_SECONDS_MAX, || {
        let pod = dry_run(&space, &host_network).and_then(|_| dry_run(&space, &serde_json::json!({})));
        Ok(pod.is_ok_and(|pod| init_containers(&pod).is_empty()))
    })?;
    // By a rollback: what the operator owns in the objects must not be in its way.
    roll_back()?;
    ensure!(strict()? == 3);
    restored.by_the_test();
    eventually("the label to have its meaning again", OPERATOR_SECONDS_MAX, || {
        let refused = dry_run(&space, &host_network).is_err();
        let pod = dry_run(&space, &serde_json::json!({}));
        Ok(refused && pod.is_ok_and(|pod| init_containers(&pod) == ["testimony-init", "testimony-sidecar"]))
    })
}

/// Replicas of a Deployment of the operator that are ready.
fn ready(component: &str) -> Result<i64> {
    let deployment = cluster().kubectl.get(OPERATOR_NAMESPACE, &["deployment", &format!("testimony-{component}")])?;
    Ok(deployment.pointer("/status/readyReplicas").and_then(serde_json::Value::as_i64).unwrap_or_default())
}

/// Names of the objects of a kind in the operator's namespace.
fn named(kind: &str) -> Result<Vec<String>> {
    let list = cluster().kubectl.run(&["get", kind, "-n", OPERATOR_NAMESPACE, "-o", "name"])?;
    Ok(list.lines().map(str::to_string).collect())
}

#[test]
fn an_upgrade_to_high_availability_and_its_rollback_go_unnoticed() -> Result<()> {
    let _alone = alone();
    let space = audited("ha", "rules: []")?;
    space.policy("extra", "{podSelector: {matchLabels: {app: extra}}}")?;
    let before = ca_bundle()?;
    let restored = Restored;
    while_requests_flow(&space, || {
        install_chart_with(cluster(), BACKEND_ENDPOINT, &[], &["values-ha.yaml"])?;
        ensure!(ready("controller")? == 2 && ready("webhook")? == 3, "the replicas of values-ha.yaml are ready");
        ensure!(named("poddisruptionbudgets")?.len() == 2 && named("networkpolicies")?.len() == 2);
        let pods = cluster().kubectl.get(OPERATOR_NAMESPACE, &["pods", "-l", "app.kubernetes.io/name=testimony"])?;
        let pods = pods.pointer("/items").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
        let classes: BTreeSet<String> = pods.iter().map(|pod| text(pod, "/spec/priorityClassName")).collect();
        ensure!(classes.contains("system-cluster-critical"), "{classes:?}");
        new_pods_are_audited(&space)
    })?;
    in_force(&space, "audit", 1)?;

    while_requests_flow(&space, || {
        roll_back()?;
        ensure!(named("poddisruptionbudgets")?.is_empty() && named("networkpolicies")?.is_empty());
        eventually("one replica of each", OPERATOR_SECONDS_MAX, || {
            Ok(ready("controller")? == 1 && ready("webhook")? == 1)
        })
    })?;
    restored.by_the_test();
    assert_eq!(ca_bundle()?, before, "the authority outlives both");
    in_force(&space, "audit", 1)?;
    new_pods_are_audited(&space)
}

/// Whether `helm test` succeeded, and what it printed: Helm writes the logs of hooks to standard error.
pub fn helm_test() -> Result<(bool, String)> {
    let test = ["test", "testimony", "--namespace", OPERATOR_NAMESPACE, "--timeout", "300s"];
    let done = cluster().helm.command().args(test).output()?;
    let printed = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok((done.status.success(), printed.concat()))
}

/// Waits until the test has left nothing behind.
fn nothing_is_left_of_the_test() -> Result<()> {
    eventually("the test to leave nothing behind", COLLECTED_SECONDS_MAX, || {
        let kinds = "namespaces,auditsinks,clusterroles,clusterrolebindings";
        let wide = cluster().kubectl.run(&["get", kinds, "-o", "name"])?;
        let own = cluster().kubectl.run(&["get", "pods,serviceaccounts", "-n", OPERATOR_NAMESPACE, "-o", "name"])?;
        Ok(!wide.contains("testimony-selftest") && !own.contains("testimony-selftest"))
    })
}

#[test]
fn helm_test_finds_a_record_or_says_what_fails() -> Result<()> {
    let _alone = alone();
    let (passed, printed) = helm_test()?;
    ensure!(passed, "{printed}");
    for line in [
        "ok      the webhook adds the sidecar to a new pod",
        "ok      the sidecar says that it runs the policy",
        "ok      its record arrives at a sink of this test",
        "ok      the default sink acknowledges the record",
    ] {
        ensure!(printed.contains(line), "no line {line:?} in: {printed}");
    }
    nothing_is_left_of_the_test()?;

    let _webhook = Scaled::to("webhook", 0)?;
    let (passed, printed) = helm_test()?;
    ensure!(!passed && printed.contains("FAILED  the webhook adds the sidecar to a new pod"), "{printed}");
    ensure!(printed.contains("every pod that was made came without the sidecar"), "{printed}");
    nothing_is_left_of_the_test()
}

/// Whether a pod that is made now has a sidecar.
fn is_injected(space: &Space) -> Result<bool> {
    let name = marker();
    space.toolbox(&name, "{app: extra}")?;
    let pod = cluster().kubectl.get(&space.name, &["pod", &name])?;
    cluster().kubectl.run(&["delete", "pod", &name, "-n", &space.name, "--wait=false"])?;
    Ok(init_containers(&pod) == ["testimony-init", "testimony-sidecar"])
}

/// The API server may take a moment to reach a webhook that is new.
pub fn new_pods_are_audited(space: &Space) -> Result<()> {
    eventually("new pods to have a sidecar", OPERATOR_SECONDS_MAX, || is_injected(space))
}

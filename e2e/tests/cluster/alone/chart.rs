//! The chart: an upgrade that no record notices, an uninstall that leaves running pods working and nothing behind.

use super::alone;
use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually, init_containers, marker};
use crate::objects::{audited, in_force, text};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use testimony_e2e::install::{BACKEND_ENDPOINT, OPERATOR_NAMESPACE, install_chart};

/// How long the cluster's garbage collector may take, in seconds: it learns of new kinds every half minute.
const COLLECTED_SECONDS_MAX: u64 = 180;

fn get(space: &Space, path: &str) -> Result<()> {
    space.sh("client", &format!("curl -sS --fail -o /dev/null --max-time 20 'http://server:8080{path}'")).map(|_| ())
}

/// Sends requests while `work` runs, and waits until each has its record. Returns how many.
fn while_requests_flow(space: &Space, work: impl FnOnce() -> Result<()>) -> Result<usize> {
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

fn ca_bundle() -> Result<String> {
    let webhook = cluster().kubectl.get("default", &["mutatingwebhookconfiguration", "testimony-default"])?;
    Ok(text(&webhook, "/webhooks/0/clientConfig/caBundle"))
}

/// Everything of ours in the cluster, as `kind.group/name`, but for the definitions, the namespace itself and Events.
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
    left.extend(inside.lines().filter(|name| !everyones.contains(name)).map(str::to_string));
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
        left.extend(kubectl.run(&arguments)?.lines().filter(|name| !definitions(name)).map(str::to_string));
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
    let definitions = cluster().kubectl.run(&["get", "crd", "-o", "name"])?;
    for name in ["auditpolicies", "auditsinks"] {
        assert!(definitions.contains(&format!("{name}.audit.testimony.dev")), "{definitions}");
    }
    let kept = crate::objects::policy(&space, "audit")?;
    assert_eq!(text(&kept, "/metadata/name"), "audit");
    assert!(!is_injected(&space)?, "without the chart nothing is injected");

    install_chart(cluster(), BACKEND_ENDPOINT, &[])?;
    new_pods_are_audited(&space)?;
    while_requests_flow(&space, || Ok(()))?;
    Ok(())
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
fn new_pods_are_audited(space: &Space) -> Result<()> {
    eventually("new pods to have a sidecar", OPERATOR_SECONDS_MAX, || is_injected(space))
}

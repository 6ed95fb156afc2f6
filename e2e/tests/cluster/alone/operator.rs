//! The operator is away, and comes back: running pods keep their policy, new ones start without a sidecar and are counted.

use super::{Scaled, alone, sidecar_processes, supervisor};
use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually, init_containers, marker, single};
use crate::objects::{SELECT_SERVER, admin, audited, condition, counts, in_force, policy_when, revision, text};
use anyhow::{Result, ensure};
use std::process::Command;
use testimony_e2e::install::OPERATOR_NAMESPACE;
use testimony_e2e::steps::output;

/// How long statuses may be wrong after the controller is back, in seconds.
const BACK_SECONDS_MAX: u64 = 90;

fn get(space: &Space, path: &str) -> Result<()> {
    space.sh("client", &format!("curl -sS --fail -o /dev/null --max-time 20 'http://server:8080{path}'")).map(|_| ())
}

/// How many records `marker` has, once a later request is recorded.
fn recorded(space: &Space, marker: &str) -> Result<usize> {
    let last = crate::harness::marker();
    get(space, &format!("/anything/{last}"))?;
    let records = space.records_when("the record of the last request", |records| {
        records.iter().any(|record| record.attribute("url.path").contains(&last))
    })?;
    Ok(records.iter().filter(|record| record.attribute("url.path").contains(marker)).count())
}

#[test]
fn without_the_webhook_pods_start_and_are_counted_as_needing_a_restart() -> Result<()> {
    let _alone = alone();
    let space = audited("nowebhook", "rules: []")?;
    let webhook = Scaled::to("webhook", 0)?;
    space.toolbox("meanwhile", "{app: server}")?;
    let pod = cluster().kubectl.get(&space.name, &["pod", "meanwhile"])?;
    assert!(init_containers(&pod).is_empty(), "{pod:#}");
    let told =
        policy_when(&space, "audit", "the pod without a sidecar to be counted", OPERATOR_SECONDS_MAX, |policy| {
            counts(policy) == [2, 1, 1, 1, 0]
        })?;
    assert!(condition(&told, "Ready").starts_with("False NeedsRestart"), "{told:#}");
    assert_eq!(text(&told, "/status/skipped/0/example"), format!("{}/meanwhile", space.name));

    webhook.scale(1)?;
    // The API server may take a moment to reach the webhook again.
    eventually("new pods to have a sidecar again", OPERATOR_SECONDS_MAX, || {
        cluster().kubectl.run(&["delete", "pod", "meanwhile", "-n", &space.name, "--ignore-not-found"])?;
        space.toolbox("meanwhile", "{app: server}")?;
        Ok(!init_containers(&cluster().kubectl.get(&space.name, &["pod", "meanwhile"])?).is_empty())
    })?;
    let told = policy_when(&space, "audit", "all pods in line", OPERATOR_SECONDS_MAX, |policy| {
        counts(policy) == [2, 2, 2, 0, 0]
    })?;
    assert!(condition(&told, "Ready").starts_with("True"), "{told:#}");
    Ok(())
}

#[test]
fn without_the_controller_pods_keep_their_policy_and_survive_their_own_restarts() -> Result<()> {
    let _alone = alone();
    let space = audited("nocontroller", "rules: []")?;
    let (quiet, before, during) = (marker(), marker(), marker());
    // The policy in force is not the one that the pod was born with.
    let rules = format!("rules: [{{name: quiet, match: {{pathPrefixes: [/anything/{quiet}]}}, level: None}}]");
    space.policy("audit", &format!("{{{SELECT_SERVER}, {rules}}}"))?;
    let kept = revision(&in_force(&space, "audit", 1)?);

    let controller = Scaled::to("controller", 0)?;
    get(&space, &format!("/anything/{before}"))?;
    assert_eq!(recorded(&space, &before)?, 1);
    let pod = single(space.pods("server")?)?;
    let restarts = |pod: &serde_json::Value| pod.pointer("/status/initContainerStatuses/1/restartCount").cloned();
    let pid = supervisor(&sidecar_processes(&text(&pod, "/metadata/uid"))?)?;
    output(Command::new("kill").args(["-KILL", &pid.to_string()]))?;
    eventually("the sidecar's container to start again", OPERATOR_SECONDS_MAX, || {
        let pod = single(space.pods("server")?)?;
        let started = pod.pointer("/status/initContainerStatuses/1/started") == Some(&serde_json::json!(true));
        Ok(started && restarts(&pod) == Some(serde_json::json!(1)))
    })?;
    let mut config = String::new();
    eventually("the sidecar to answer", OPERATOR_SECONDS_MAX, || {
        config = admin(&space, "client", "server", "/config")?;
        get(&space, &format!("/anything/{quiet}"))?;
        Ok(true)
    })?;
    let config: serde_json::Value = serde_json::from_str(&config)?;
    assert_eq!((text(&config, "/revision"), text(&config, "/source")), (kept, "last-good".to_string()));
    get(&space, &format!("/anything/{during}"))?;
    assert_eq!(recorded(&space, &during)?, 1);
    assert_eq!(recorded(&space, &quiet)?, 0, "the last good policy holds");

    // An edit that nobody has seen yet.
    let edit = "suspend: true";
    cluster().kubectl.apply_in(
        &space.name,
        &format!(
            "apiVersion: audit.testimony.dev/v1alpha1\nkind: AuditPolicy\nmetadata: {{name: audit}}\nspec: {{{SELECT_SERVER}, {edit}}}\n"
        ),
    )?;
    controller.scale(1)?;
    policy_when(&space, "audit", "its status to be true again", BACK_SECONDS_MAX, |policy| {
        counts(policy) == [1, 1, 1, 0, 0] && condition(policy, "Programmed").starts_with("True Suspended")
    })?;
    Ok(())
}

fn leader() -> Result<String> {
    let lease = cluster().kubectl.get(OPERATOR_NAMESPACE, &["lease", "testimony-controller"])?;
    Ok(text(&lease, "/spec/holderIdentity"))
}

#[test]
fn when_the_leader_goes_another_controller_leads() -> Result<()> {
    let _alone = alone();
    let space = audited("leader", "rules: []")?;
    let controller = Scaled::to("controller", 2)?;
    let first = leader()?;
    ensure!(controller.pods()?.iter().any(|pod| pod.ends_with(&first)), "{first} leads, but is no pod");
    cluster().kubectl.run(&["delete", "pod", &first, "-n", OPERATOR_NAMESPACE, "--wait=false"])?;
    eventually("another leader", BACK_SECONDS_MAX, || {
        let now = leader()?;
        Ok(!now.is_empty() && now != first)
    })?;
    space.policy("audit", &format!("{{{SELECT_SERVER}, suspend: true}}"))?;
    policy_when(&space, "audit", "an edit to be in force under the new leader", BACK_SECONDS_MAX, |policy| {
        counts(policy) == [1, 1, 1, 0, 0] && condition(policy, "Programmed").starts_with("True Suspended")
    })?;
    Ok(())
}

//! Two replicas of the webhook, of which one goes, under a stream of pod creations.

use super::measures::{operator_pods, operator_process};
use super::simulated::SimulatedNode;
use super::stream::Stream;
use super::{Scaled, alone};
use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually};
use crate::objects::{condition, counts, policy_when, text};
use crate::pods::EVERY_POD;
use crate::strict::strict_space;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Command;
use testimony_e2e::install::OPERATOR_NAMESPACE;
use testimony_e2e::steps::output;

/// Replicas of the webhook.
const REPLICAS: u8 = 2;
/// How often one goes.
const TIMES: usize = 2;
/// Pods of each namespace before and after one goes.
const PODS: usize = 50;

/// A normal namespace in which every pod is selected, and a strict one.
fn spaces(test: &str) -> Result<(Space, Space)> {
    let normal = Space::new(test)?;
    normal.policy("all", EVERY_POD)?;
    Ok((normal, strict_space(&format!("{test}-strict"))?))
}

/// Waits until both replicas serve, and the old ones are gone.
fn both_serve() -> Result<()> {
    eventually("both replicas of the webhook to serve", OPERATOR_SECONDS_MAX, || {
        let slices = ["endpointslices", "-l", "kubernetes.io/service-name=testimony-webhook"];
        let slices = cluster().kubectl.get(OPERATOR_NAMESPACE, &slices)?;
        let slices = slices.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let endpoints = slices.iter().filter_map(|slice| slice.get("endpoints")?.as_array()).flatten();
        let serve = endpoints.filter(|end| end.pointer("/conditions/ready") == Some(&Value::Bool(true))).count();
        Ok(serve == usize::from(REPLICAS) && operator_pods("webhook")?.len() == usize::from(REPLICAS))
    })
}

fn one_of_them() -> Result<String> {
    operator_pods("webhook")?.into_iter().next().context("there is no webhook")
}

#[test]
fn a_replica_that_is_deleted_or_replaced_costs_no_sidecar_and_refuses_nothing() -> Result<()> {
    let _alone = alone();
    let node = SimulatedNode::new("replicas")?;
    let _webhook = Scaled::to("webhook", REPLICAS)?;
    let (normal, strict) = spaces("replicas")?;
    both_serve()?;
    let stream = Stream::start(&node, &[&normal, &strict])?;
    let mut before = stream.counts();
    let mut step = |what: &str, act: &dyn Fn() -> Result<()>| -> Result<()> {
        stream.more(PODS)?;
        act()?;
        both_serve()?;
        stream.more(PODS)?;
        let now = stream.counts();
        let (created, without, refused) = (now.0 - before.0, now.1 - before.1, now.2 - before.2);
        println!("figure: {what}: of {created} pods {without} without a sidecar, {refused} refused");
        before = now;
        Ok(())
    };
    let delete = |more: &[&str]| -> Result<()> {
        let pod = one_of_them()?;
        let arguments = ["delete", "pod", &pod, "-n", OPERATOR_NAMESPACE, "--wait=false"];
        cluster().kubectl.run(&[&arguments, more].concat()).map(drop)
    };
    for _ in 0..TIMES {
        step("a replica is deleted", &|| delete(&[]))?;
        step("a replica is deleted with a grace period of 0", &|| delete(&["--grace-period=0", "--force"]))?;
    }
    step("all replicas are replaced", &|| {
        let deployment = "deployment/testimony-webhook";
        cluster().kubectl.run(&["rollout", "restart", deployment, "-n", OPERATOR_NAMESPACE])?;
        cluster().kubectl.rollout(OPERATOR_NAMESPACE, deployment)
    })?;
    stream.expect_no_loss().map(drop)
}

/// Whoever is killed cannot finish what it began: the API server does not ask again. What is promised then: the other replica goes
/// on, a strict namespace lets nothing through, and the status counts what has no sidecar.
#[test]
fn what_a_killed_replica_had_begun_is_refused_or_counted_and_nothing_else() -> Result<()> {
    let _alone = alone();
    let node = SimulatedNode::new("killed")?;
    let _webhook = Scaled::to("webhook", REPLICAS)?;
    let (normal, strict) = spaces("killed")?;
    both_serve()?;
    let mut stream = Stream::start(&node, &[&normal, &strict])?;
    for _ in 0..TIMES {
        stream.more(PODS)?;
        let pod = one_of_them()?;
        let restarts = |pod: &str| -> Result<Option<i64>> {
            let pod = cluster().kubectl.get(OPERATOR_NAMESPACE, &["pod", pod])?;
            Ok(pod.pointer("/status/containerStatuses/0/restartCount").and_then(Value::as_i64))
        };
        let before = restarts(&pod)?;
        output(Command::new("kill").args(["-KILL", &operator_process(&pod)?.to_string()]))?;
        eventually("the killed replica to start again", OPERATOR_SECONDS_MAX, || Ok(restarts(&pod)? > before))?;
        both_serve()?;
        // The API server may still find an old way to the replica that was away.
        stream.more(PODS)?;
    }
    let lost = stream.counts();
    stream.more(PODS)?;
    ensure!(stream.counts().1 == lost.1 && stream.counts().2 == lost.2, "once both serve, nothing is lost: {lost:?}");
    stream.end()?;
    let (created, without, refused) = stream.counts();
    println!("figure: {TIMES} replicas killed: of {created} pods {without} without a sidecar, {refused} refused");
    ensure!(stream.without(&strict).is_empty(), "a strict namespace lets nothing through");

    let left = i64::try_from(stream.without(&normal).len())?;
    let told =
        policy_when(&normal, "all", "every pod without a sidecar to be counted", OPERATOR_SECONDS_MAX, |policy| {
            counts(policy) == [left, 0, 0, left, 0]
        })?;
    if left > 0 {
        // Only pods without a sidecar are left.
        ensure!(condition(&told, "Ready").starts_with("False NoSidecars"), "{told:#}");
        ensure!(text(&told, "/status/skipped/0/reason") == "NeedsRestart", "{told:#}");
    }
    Ok(())
}

//! The operator's certificates, rotated again and again under a stream of pod creations and of polls.

use super::measures::{leaf_ends, operator_pods};
use super::polling::{News, Sidecars};
use super::simulated::{SimulatedNode, creation, has_sidecar, pods_of, run, runtime};
use super::stream::Stream;
use super::{Scaled, alone};
use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually, marker};
use crate::objects::text;
use crate::pods::EVERY_POD;
use crate::strict::strict_space;
use anyhow::{Result, bail, ensure};
use serde_json::json;
use std::time::{Duration, Instant};
use testimony_e2e::install::OPERATOR_NAMESPACE;

/// Rotations.
const ROTATIONS: usize = 10;
/// Simulated sidecars that poll meanwhile.
const SIDECARS: usize = 5;
/// Pods of each namespace after each rotation.
const PODS: usize = 20;
/// Replicas of the webhook: each has its own leaf and its own view of the authority.
const REPLICAS: u8 = 2;

/// What the API server trusts, for the webhook of normal and of strict namespaces.
fn bundles() -> Result<[String; 2]> {
    let bundle = |name: &str| -> Result<String> {
        let object = cluster().kubectl.get("default", &["mutatingwebhookconfiguration", name])?;
        Ok(text(&object, "/webhooks/0/clientConfig/caBundle"))
    };
    Ok([bundle("testimony-default")?, bundle("testimony-strict")?])
}

/// Waits until each sidecar was given other authorities than `before`, the same; a failed poll is an error.
fn follow(sidecars: &mut Sidecars, before: &str) -> Result<String> {
    let mut have = [const { String::new() }; SIDECARS];
    let deadline = Instant::now() + Duration::from_secs(OPERATOR_SECONDS_MAX);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match runtime().block_on(async { tokio::time::timeout(left, sidecars.news.recv()).await }) {
            Ok(Some(News::Revision { sidecar, authorities, .. })) => {
                if let Some(slot) = have.get_mut(sidecar) {
                    *slot = authorities;
                }
            }
            Ok(Some(News::Failed(error))) => bail!("a poll failed: {error}"),
            Ok(None) | Err(_) => bail!("not every sidecar was given the authorities: {have:#?}"),
        }
        let [first, others @ ..] = &have;
        if !first.is_empty() && first != before && others.iter().all(|other| other == first) {
            return Ok(first.clone());
        }
    }
}

/// Pods of the space whose sidecars poll.
fn polling_pods(node: &SimulatedNode, space: &Space) -> Result<Vec<String>> {
    let pods = pods_of(space)?;
    (0..SIDECARS)
        .map(|number| {
            let name = format!("polls-{number}");
            let made = runtime().block_on(pods.create(&creation(), &node.pod(&name, &json!({}))?))?;
            ensure!(has_sidecar(&made), "{name} has no sidecar");
            runtime().block_on(run(&pods, &name, number))?;
            Ok(name)
        })
        .collect()
}

#[test]
fn authority_and_leaf_rotate_ten_times_and_nobody_notices() -> Result<()> {
    let _alone = alone();
    let node = SimulatedNode::new("rotation")?;
    let webhook = Scaled::to("webhook", REPLICAS)?;
    let normal = Space::new("rotation")?;
    normal.policy("all", EVERY_POD)?;
    let strict = strict_space("rotation-strict")?;
    let stream = Stream::start(&node, &[&normal, &strict])?;
    let mut sidecars = Sidecars::start(&normal, &polling_pods(&node, &normal)?)?;
    let mut authorities = follow(&mut sidecars, "")?;
    let (mut before, mut ends) = (bundles()?, leaf_ends("webhook")?);
    ensure!(webhook.pods()?.len() == usize::from(REPLICAS) && ends.len() == usize::from(REPLICAS));
    let begun = Instant::now();
    for _ in 0..ROTATIONS {
        let annotation = format!("testimony.dev/rotate={}", marker());
        cluster().kubectl.run(&[
            "annotate",
            "secret",
            "testimony-ca",
            "-n",
            OPERATOR_NAMESPACE,
            &annotation,
            "--overwrite",
        ])?;
        eventually("the API server to be told of another authority", OPERATOR_SECONDS_MAX, || {
            let [normal, strict] = bundles()?;
            Ok(normal == strict && ![&normal, &strict].into_iter().any(|bundle| before.contains(bundle)))
        })?;
        eventually("each replica to have another leaf", OPERATOR_SECONDS_MAX, || {
            let now = leaf_ends("webhook")?;
            Ok(now.len() == ends.len() && now.iter().all(|(pod, end)| ends.get(pod).is_some_and(|old| end > old)))
        })?;
        authorities = follow(&mut sidecars, &authorities)?;
        stream.more(PODS)?;
        (before, ends) = (bundles()?, leaf_ends("webhook")?);
    }
    ensure!(operator_pods("webhook")?.iter().all(|pod| ends.contains_key(pod)), "no replica was restarted");
    let created = stream.expect_no_loss()?;
    println!(
        "figure: {ROTATIONS} rotations in {:.0} s: {created} pods, none without a sidecar",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

//! The status is true within 5 s: after a rollout, after pods are gone, and whenever it is looked at while the operator
//! itself restarts.

use super::{Scaled, alone};
use crate::harness::{Space, cluster, eventually};
use crate::objects::{audited, condition, counts, in_force, policy, policy_when, text};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use testimony_e2e::install::OPERATOR_NAMESPACE;

/// How long the status may be wrong, in seconds.
const TRUE_SECONDS_MAX: u64 = 5;
/// More than that where all of a cluster runs on two busy cores, in seconds.
const BUSY_SECONDS_MAX: u64 = 5;
/// How long it may take until another replica of the operator leads, in seconds.
const LEADS_SECONDS_MAX: u64 = 60;

/// Waits for counts for as long as they may be wrong, and prints how long they were.
fn soon(space: &Space, what: &str, wanted: [i64; 5]) -> Result<()> {
    let begun = Instant::now();
    policy_when(space, "audit", what, TRUE_SECONDS_MAX, |policy| {
        counts(policy) == wanted && condition(policy, "Programmed").starts_with("True")
    })?;
    println!("{what}: the status was true after {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn scale(space: &Space, replicas: u8) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    cluster().kubectl.run(&["scale", "deployment/server", &replicas, "-n", &space.name])?;
    cluster().kubectl.rollout(&space.name, "deployment/server")
}

#[test]
fn rollouts_and_deletions_are_counted_right_at_once() -> Result<()> {
    let _alone = alone();
    let space = audited("honest", "rules: []")?;
    scale(&space, 3)?;
    soon(&space, "three pods", [3, 3, 3, 0, 0])?;
    cluster().kubectl.run(&["rollout", "restart", "deployment/server", "-n", &space.name])?;
    cluster().kubectl.rollout(&space.name, "deployment/server")?;
    soon(&space, "three new pods", [3, 3, 3, 0, 0])?;
    // A pod on its way out counts no more, however long it takes.
    space.toolbox("bare", "{app: server}")?;
    soon(&space, "a bare pod beside them", [4, 4, 4, 0, 0])?;
    cluster().kubectl.run(&["delete", "pod", "bare", "-n", &space.name, "--wait=false"])?;
    soon(&space, "the bare pod gone", [3, 3, 3, 0, 0])?;
    scale(&space, 1)?;
    soon(&space, "one pod left", [1, 1, 1, 0, 0])?;
    cluster().kubectl.run(&["scale", "deployment/server", "--replicas=0", "-n", &space.name])?;
    policy_when(&space, "audit", "no pod left", TRUE_SECONDS_MAX, |policy| {
        counts(policy) == [0; 5] && condition(policy, "Programmed").starts_with("True NoPods")
    })?;
    Ok(())
}

/// Looks at the policy again and again while `meanwhile` runs; returns all that was seen.
fn watched(space: &Space, meanwhile: impl FnOnce() -> Result<()>) -> Result<Vec<Value>> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut seen: Vec<Value> = Vec::new();
            while !done.load(Ordering::Relaxed) {
                // The API server may be busy for a moment; what is not seen is not judged.
                if let Ok(now) = policy(space, "audit")
                    && seen.last() != Some(&now)
                {
                    seen.push(now);
                }
            }
            seen
        });
        let result = meanwhile();
        done.store(true, Ordering::Relaxed);
        let seen = looks.join().map_err(|_| anyhow::anyhow!("the looks died"))?;
        result.map(|()| seen)
    })
}

/// Prints how long after the new operator's pod was ready the status was true, and judges it.
fn is_soon(what: &str, ready: Instant) -> Result<()> {
    let seconds = ready.elapsed().as_secs_f64();
    println!("figure: {what}: the status was true {seconds:.1} s after the new pod was ready");
    let seconds_max = TRUE_SECONDS_MAX + BUSY_SECONDS_MAX;
    ensure!(ready.elapsed().as_secs() < seconds_max, "{what}: {seconds:.1} s, more than {seconds_max} s");
    Ok(())
}

#[test]
fn an_operators_restart_never_shows_what_is_not_so() -> Result<()> {
    let _alone = alone();
    let space = audited("again", "rules: []")?;
    scale(&space, 2)?;
    let before = in_force(&space, "audit", 2)?;
    let leader = || -> Result<String> {
        Ok(text(
            &cluster().kubectl.get(OPERATOR_NAMESPACE, &["lease", "testimony-controller"])?,
            "/spec/holderIdentity",
        ))
    };
    let first = leader()?;
    let seen = watched(&space, || {
        let kubectl = &cluster().kubectl;
        kubectl.run(&["rollout", "restart", "deployment/testimony-controller", "-n", OPERATOR_NAMESPACE])?;
        kubectl.rollout(OPERATOR_NAMESPACE, "deployment/testimony-controller")?;
        let ready = Instant::now();
        eventually("another leader", LEADS_SECONDS_MAX, || {
            let now = leader()?;
            Ok(!now.is_empty() && now != first)
        })?;
        // It has written something else since it leads, or it never had to.
        space.policy("other", "{podSelector: {matchLabels: {app: nobody}}}")?;
        let is_told = |name: &str, wanted: [i64; 5]| {
            policy_when(&space, name, "its new leader's word", LEADS_SECONDS_MAX, |policy| {
                counts(policy) == wanted && condition(policy, "Programmed").starts_with("True")
            })
        };
        is_told("other", [0; 5])?;
        is_told("audit", [2, 2, 2, 0, 0])?;
        is_soon("the operator was restarted", ready)
    })?;
    ensure!(!seen.is_empty(), "nobody looked");
    for status in &seen {
        let programmed = condition(status, "Programmed");
        assert_eq!(counts(status), [2, 2, 2, 0, 0], "{status:#}");
        assert!(programmed.starts_with("True") || programmed.starts_with("Unknown Reconciling"), "{programmed}");
        assert_eq!(text(status, "/status/effectiveRevision"), text(&before, "/status/effectiveRevision"));
    }
    println!("{} different states of the policy were seen", seen.len());

    // What happens while nobody is there is true soon after somebody is.
    let controller = Scaled::to("controller", 0)?;
    scale(&space, 1)?;
    let seen = watched(&space, || {
        controller.scale(1)?;
        let ready = Instant::now();
        policy_when(&space, "audit", "one pod left", LEADS_SECONDS_MAX, |policy| {
            counts(policy) == [1, 1, 1, 0, 0] && condition(policy, "Programmed").starts_with("True")
        })?;
        is_soon("a pod went while there was no operator", ready)
    })?;
    for status in &seen {
        let [matched, injected, programmed, ..] = counts(status);
        assert!(programmed <= injected && injected <= matched && programmed > 0, "{status:#}");
    }
    Ok(())
}

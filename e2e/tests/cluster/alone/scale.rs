//! A large cluster: many policies, many pods, many sidecars that wait for news. Asserted is that everything is right, and the
//! goals of what people wait for; how long the rest takes and what it costs is printed.

use super::alone;
use super::measures::{Histogram, Usage, of_the_api_server, of_the_webhook, quantile, usage};
use super::polling::{News, Sidecars};
use super::simulated::{
    CALLS_AT_A_TIME, SimulatedNode, at_once, client, creation, has_sidecar, is_full_scale, pods_of, run, runtime,
};
use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually};
use crate::objects::{SELECT_SERVER, counts, in_force, is_observed, policy_when, revision};
use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use testimony_core::contract::annotation;

/// How long statuses may take to tell of everything, in seconds.
const TOLD_SECONDS_MAX: u64 = 300;
/// How long news may take to every sidecar, in seconds.
const NEWS_SECONDS_MAX: u64 = 60;
/// Within so many milliseconds the last sidecar has an edit, in the median of some edits.
const NEWS_MILLIS_GOAL: f64 = 2000.0;
/// So many milliseconds the webhook takes at most, for 99 of 100 pods.
const ADMISSION_MILLIS_GOAL: f64 = 50.0;
/// Sidecars that wait for news.
const SIDECARS: usize = 200;
/// Edits of their policy.
const EDITS: usize = 5;

/// How large the cluster is.
#[derive(Clone, Copy, Debug)]
struct Size {
    namespaces: usize,
    /// In each namespace.
    policies: usize,
    /// Selected by each policy.
    pods: usize,
}

/// What CI can bear.
const SMALL: Size = Size { namespaces: 4, policies: 25, pods: 5 };
/// 1,000 policies and 5,000 pods.
const FULL: Size = Size { namespaces: 20, policies: 50, pods: 5 };

fn policies_of(space: &Space) -> Result<Api<DynamicObject>> {
    let gvk = kube::core::GroupVersionKind::gvk("audit.testimony.dev", "v1alpha1", "AuditPolicy");
    Ok(Api::namespaced_with(client()?, &space.name, &ApiResource::from_gvk_with_plural(&gvk, "auditpolicies")))
}

/// Policies that are all different: each has a rule of its own.
async fn make_policies(space: &Space, size: Size) -> Result<()> {
    let api = policies_of(space)?;
    let made = futures::stream::iter(0..size.policies).map(|number| {
        let api = api.clone();
        async move {
            let rule = json!({"name": "own", "match": {"pathPrefixes": [format!("/{number}")]}, "level": "None"});
            let selector = json!({"matchLabels": {"app": format!("app-{number}")}});
            let policy = json!({
                "apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy",
                "metadata": {"name": format!("app-{number}")}, "spec": {"podSelector": selector, "rules": [rule]},
            });
            api.create(&creation(), &serde_json::from_value(policy)?).await?;
            Ok::<_, anyhow::Error>(())
        }
    });
    made.buffer_unordered(CALLS_AT_A_TIME).try_collect::<Vec<()>>().await?;
    Ok(())
}

/// Makes these pods (name and label `app`) and lets them run. Returns milliseconds of each creation.
async fn make_pods(
    node: &SimulatedNode,
    pods: Api<Pod>,
    names: Vec<(String, String)>,
    first: usize,
) -> Result<Vec<f64>> {
    let made = futures::stream::iter(names.into_iter().enumerate()).map(|(number, (name, app))| {
        let pods = pods.clone();
        async move {
            let pod = node.pod(&name, &json!({"app": app}))?;
            let begun = Instant::now();
            let made = pods.create(&creation(), &pod).await?;
            let millis = begun.elapsed().as_secs_f64() * 1000.0;
            ensure!(has_sidecar(&made) != (app == "none"), "{name} is not as wanted: {made:#?}");
            run(&pods, &name, first + number).await?;
            Ok(millis)
        }
    });
    made.buffer_unordered(CALLS_AT_A_TIME).try_collect().await
}

/// The names of a space's pods: some for each policy, and one that no policy selects.
fn names(size: Size) -> Vec<(String, String)> {
    let selected = (0..size.policies)
        .flat_map(|policy| (0..size.pods).map(move |pod| (format!("app-{policy}-{pod}"), format!("app-{policy}"))));
    selected.chain([("plain".to_string(), "none".to_string())]).collect()
}

/// Waits until each policy of the space tells `pods` pods, all with a sidecar; returns the revisions by policy.
fn told(space: &Space, size: Size, pods: usize) -> Result<BTreeMap<String, String>> {
    let pods = i64::try_from(pods)?;
    let mut wrong: Vec<String> = Vec::new();
    let mut revisions = BTreeMap::new();
    let waited = eventually("all policies to tell the truth", TOLD_SECONDS_MAX, || {
        let list = cluster().kubectl.get(&space.name, &["auditpolicies"])?;
        let list = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let name = |policy: &Value| crate::objects::text(policy, "/metadata/name");
        let is_true = |policy: &&Value| is_observed(policy) && counts(policy) == [pods, pods, 0, 0, 0];
        wrong = list.iter().filter(|policy| !is_true(policy)).map(|p| format!("{} {:?}", name(p), counts(p))).collect();
        revisions = list.iter().map(|policy| (name(policy), revision(policy))).collect();
        Ok(wrong.is_empty() && list.len() == size.policies)
    });
    waited.with_context(|| format!("in {} these do not: {wrong:?}", space.name))?;
    Ok(revisions)
}

/// Each pod has the document of its policy, and no other one.
fn expect_documents(space: &Space, size: Size, revisions: &BTreeMap<String, String>) -> Result<()> {
    let pods = runtime()
        .block_on(async { pods_of(space)?.list(&ListParams::default()).await.map_err(anyhow::Error::from) })?;
    ensure!(pods.items.len() == size.policies * size.pods + 1, "{} pods in {}", pods.items.len(), space.name);
    for pod in &pods.items {
        let app = pod.labels().get("app").cloned().unwrap_or_default();
        let given = pod.annotations().get(annotation::REVISION);
        ensure!(given == revisions.get(&app), "{} of {app} has {given:?}", pod.name_any());
    }
    Ok(())
}

fn print_usage(component: &str, before: &[Usage]) -> Result<()> {
    for now in usage(component)? {
        let earlier = before.iter().find(|usage| usage.pod == now.pod).map_or(0.0, |usage| usage.cpu_seconds);
        println!("figure: {component}: {:.1} s of CPU, {} MiB resident", now.cpu_seconds - earlier, now.memory_mib);
    }
    Ok(())
}

/// Prints how long admission took, in milliseconds; the time that 99 in 100 pods do not exceed.
fn print_admission(who: &str, seen: &Histogram) -> f64 {
    let [p50, p99] = [0.5, 0.99].map(|share| seen.quantile_millis(share));
    let count = seen.count();
    println!(
        "figure: admission, seen by {who}: p50 {p50:.2} ms, p99 {p99:.2} ms (goal: below {ADMISSION_MILLIS_GOAL}) of {count}"
    );
    p99
}

#[test]
fn many_policies_and_pods_are_told_right() -> Result<()> {
    let _alone = alone();
    let size = if is_full_scale() { FULL } else { SMALL };
    let node = SimulatedNode::new("scale")?;
    let spaces = (0..size.namespaces).map(|_| Space::new("scale")).collect::<Result<Vec<_>>>()?;
    let all_policies = size.namespaces * size.policies;
    let all_pods = all_policies * size.pods;

    let (controller, webhook) = (usage("controller")?, usage("webhook")?);
    let begun = Instant::now();
    spaces.iter().try_for_each(|space| runtime().block_on(make_policies(space, size)))?;
    spaces.iter().try_for_each(|space| told(space, size, 0).map(drop))?;
    println!("figure: {all_policies} policies made and told after {:.1} s", begun.elapsed().as_secs_f64());

    let (own, seen) = (of_the_webhook()?, of_the_api_server("inject.testimony.dev")?);
    let begun = Instant::now();
    let mut millis = Vec::new();
    for (number, space) in spaces.iter().enumerate() {
        let (pods, names) = (pods_of(space)?, names(size));
        let first = number * names.len();
        millis.extend(runtime().block_on(make_pods(&node, pods, names, first))?);
    }
    let made = begun.elapsed();
    let (own, seen) = (of_the_webhook()?.since(&own), of_the_api_server("inject.testimony.dev")?.since(&seen));
    let rate = millis.len() as f64 / made.as_secs_f64();
    println!("figure: {} pods made and run in {:.1} s, {rate:.0} each second", millis.len(), made.as_secs_f64());
    let p99 = print_admission("the webhook itself", &own);
    // Not by what the API server saw: its histogram knows nothing between 25 and 100 ms.
    ensure!(!is_full_scale() || p99 < ADMISSION_MILLIS_GOAL, "the webhook takes {p99:.2} ms for one in 100 pods");
    print_admission("the API server", &seen);
    let [p50, p99] = [0.5, 0.99].map(|share| quantile(millis.clone(), share));
    println!(
        "figure: creation of a pod, seen by a client of {CALLS_AT_A_TIME} at a time: p50 {p50:.1} ms, p99 {p99:.1} ms"
    );
    ensure!(own.count() >= all_pods as f64, "the webhook was asked for every pod");

    let mut revisions = Vec::new();
    for space in &spaces {
        revisions.push(told(space, size, size.pods)?);
    }
    println!("figure: all statuses right {:.1} s after the last pod", (begun.elapsed() - made).as_secs_f64());
    print_usage("controller", &controller)?;
    print_usage("webhook", &webhook)?;
    for (space, revisions) in spaces.iter().zip(&revisions) {
        expect_documents(space, size, revisions)?;
    }

    let begun = Instant::now();
    let first = spaces.first().context("a namespace")?;
    runtime().block_on(async {
        pods_of(first)?
            .delete_collection(&at_once(), &ListParams::default())
            .await
            .map(drop)
            .map_err(anyhow::Error::from)
    })?;
    told(first, size, 0)?;
    println!(
        "figure: {} pods deleted and no longer told after {:.1} s",
        names(size).len(),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Waits until each sidecar has a revision that is not `before`, the same for all; returns it and the times.
fn all_have(sidecars: &mut Sidecars, before: &str) -> Result<(String, Vec<Instant>)> {
    let mut have: BTreeMap<usize, (String, Instant)> = BTreeMap::new();
    let mut failed = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(NEWS_SECONDS_MAX);
    while have.len() < SIDECARS {
        let left = deadline.saturating_duration_since(Instant::now());
        let next = runtime().block_on(async { tokio::time::timeout(left, sidecars.news.recv()).await });
        match next {
            Ok(Some(News::Revision { sidecar, revision, at, .. })) if revision != before => {
                have.insert(sidecar, (revision, at));
            }
            Ok(Some(News::Revision { .. })) => {}
            Ok(Some(News::Failed(error))) => failed.push(error),
            Ok(None) => bail!("no sidecar is left: {failed:?}"),
            Err(_) => bail!("{} of {SIDECARS} have news after {NEWS_SECONDS_MAX} s; failed: {failed:?}", have.len()),
        }
    }
    let revision = have.values().next().map(|(revision, _)| revision.clone()).unwrap_or_default();
    ensure!(have.values().all(|(other, _)| *other == revision), "they differ: {have:?}");
    Ok((revision, have.into_values().map(|(_, at)| at).collect()))
}

#[test]
fn an_edit_reaches_two_hundred_sidecars() -> Result<()> {
    let _alone = alone();
    let node = SimulatedNode::new("sidecars")?;
    let space = Space::new("sidecars")?;
    space.policy("audit", &format!("{{{SELECT_SERVER}}}"))?;
    let names: Vec<String> = (0..SIDECARS).map(|number| format!("server-{number}")).collect();
    let with_label = names.iter().map(|name| (name.clone(), "server".to_string())).collect();
    // The webhook knows the policy a moment after the controller has told so.
    eventually("the webhook to know the policy", OPERATOR_SECONDS_MAX, || {
        let (pods, probe) = (pods_of(&space)?, node.pod("probe", &json!({"app": "server"}))?);
        let made = runtime().block_on(pods.create(&creation(), &probe))?;
        runtime().block_on(pods.delete("probe", &at_once()))?;
        Ok(has_sidecar(&made))
    })?;
    runtime().block_on(make_pods(&node, pods_of(&space)?, with_label, 0))?;

    let mut sidecars = Sidecars::start(&space, &names)?;
    let (mut revision, _) = all_have(&mut sidecars, "")?;
    let policies = policies_of(&space)?;
    let (mut last, mut middle) = (Vec::new(), Vec::new());
    for edit in 0..EDITS {
        in_force(&space, "audit", i64::try_from(SIDECARS)?)?;
        let rule = json!({"name": "edit", "match": {"pathPrefixes": [format!("/edit/{edit}")]}, "level": "None"});
        let patch = Patch::Merge(json!({"spec": {"rules": [rule]}}));
        let begun = Instant::now();
        runtime().block_on(policies.patch("audit", &PatchParams::default(), &patch))?;
        let (next, times) = all_have(&mut sidecars, &revision)?;
        let millis: Vec<f64> = times.iter().map(|at| (*at - begun).as_secs_f64() * 1000.0).collect();
        last.push(quantile(millis.clone(), 1.0));
        middle.push(quantile(millis, 0.5));
        let told = policy_when(&space, "audit", "all sidecars to run the edit", OPERATOR_SECONDS_MAX, |policy| {
            crate::objects::revision(policy) == next && counts(policy)[2] == SIDECARS as i64
        })?;
        println!("figure: told as programmed by all {:.1} s after the edit", begun.elapsed().as_secs_f64());
        ensure!(counts(&told)[1] == SIDECARS as i64, "{told:#}");
        revision = next;
    }
    let (usual, worst) = (quantile(last.clone(), 0.5), quantile(last, 1.0));
    println!(
        "figure: an edit reaches {SIDECARS} sidecars: the last one after {usual:.0} ms (goal: {NEWS_MILLIS_GOAL}), at worst \
         {worst:.0} ms, the middle one after {:.0} ms; median of {EDITS} edits",
        quantile(middle, 0.5)
    );
    ensure!(usual < NEWS_MILLIS_GOAL, "the last sidecar has an edit after {usual:.0} ms");
    Ok(())
}

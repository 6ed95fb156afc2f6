//! Pods that are evicted, or replaced by a rollout, under a stream of requests: what a client logged is what was recorded.

use crate::evidence::{Evidence, findings};
use crate::harness::{OPERATOR_SECONDS_MAX, POD_READY_SECONDS_MAX, Space, cluster, eventually, marker};
use crate::objects::{SELECT_SERVER, in_force, text};
use crate::pods::Running;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use testimony_e2e::records::{AuditRecord, GAP, HTTP_REQUEST};
use testimony_e2e::steps::output_with_input;

/// Pods of the Deployment.
const PODS: usize = 2;

/// Clients that send one request after another, each on a connection of its own.
const CLIENTS: usize = 3;

/// Two pods that end as pods should: out of the Service first, then no more.
fn deployment() -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: server}}\nspec:\n  replicas: {PODS}\n  \
         selector: {{matchLabels: {{app: server}}}}\n  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: {PODS}}}}}\n  \
         template:\n    metadata: {{labels: {{app: server}}}}\n    spec:\n      terminationGracePeriodSeconds: 30\n      \
         containers:\n      - {{name: server, image: \"{{{{image:go-httpbin}}}}\", args: [-host, \"0.0.0.0\", -port, \"8080\"], \
            lifecycle: {{preStop: {{sleep: {{seconds: 3}}}}}}, \
            readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: server}}\n\
         spec: {{selector: {{app: server}}, ports: [{{port: 8080}}]}}\n"
    )
}

/// Requests from the toolbox until they are told to end, each with a path of its own.
struct Clients<'a> {
    space: &'a Space,
    wanted: String,
    running: Running,
}

impl<'a> Clients<'a> {
    fn start(space: &'a Space) -> Result<Self> {
        let wanted = marker();
        let path = format!("/anything/{wanted}/$client/$i");
        let one =
            format!("curl -s -o /dev/null --max-time 20 -w \"{path} %{{http_code}}\\n\" http://server:8080{path}");
        let each = format!("i=0; while test ! -e /tmp/end; do i=$((i+1)); {one}; done");
        let script = format!("for client in $(seq {CLIENTS}); do ({each}) & done; wait");
        let running = space.start("client", "toolbox", &script)?;
        Ok(Self { space, wanted, running })
    }

    /// Ends them: each path, and whether its request was answered.
    fn end(self) -> Result<BTreeMap<String, bool>> {
        self.space.sh("client", "touch /tmp/end")?;
        let log = String::from_utf8(self.running.finish()?)?;
        log.lines()
            .map(|line| {
                let (path, status) = line.split_once(' ').with_context(|| format!("a line of the log: {line}"))?;
                ensure!(path.contains(&self.wanted), "a line of the log: {line}");
                Ok((path.to_owned(), status == "200"))
            })
            .collect()
    }
}

/// Uids of the pods, those that are on their way out too.
fn uids(space: &Space) -> Result<BTreeSet<String>> {
    Ok(space.pods("server")?.iter().map(|pod| text(pod, "/metadata/uid")).collect())
}

/// Waits until none of these pods is left, and as many others serve.
fn replaced(space: &Space, old: &BTreeSet<String>) -> Result<()> {
    cluster().kubectl.rollout(&space.name, "deployment/server")?;
    eventually("the old pods to be gone", POD_READY_SECONDS_MAX, || {
        let now = uids(space)?;
        Ok(now.len() == PODS && now.is_disjoint(old))
    })
}

/// Evicts one pod by the API that `kubectl drain` uses; returns its uid.
fn evict(space: &Space) -> Result<BTreeSet<String>> {
    let pod = space.pods("server")?.into_iter().next().context("a pod")?;
    let name = text(&pod, "/metadata/name");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let path = format!("/api/v1/namespaces/{}/pods/{name}/eviction", space.name);
    output_with_input(
        cluster().kubectl.command().args(["create", "--raw", &path, "-f", "-"]),
        eviction.to_string().as_bytes(),
    )?;
    Ok(BTreeSet::from([text(&pod, "/metadata/uid")]))
}

/// How often each of the clients' paths was recorded, and how many exchanges gaps declare.
fn counted(records: &[AuditRecord], wanted: &str) -> (BTreeMap<String, usize>, u64) {
    let mut paths = BTreeMap::new();
    let exchanges = records.iter().filter(|record| record.event == HTTP_REQUEST);
    for path in exchanges.map(|record| record.attribute("url.path")).filter(|path| path.contains(wanted)) {
        *paths.entry(path.to_owned()).or_insert(0) += 1;
    }
    let gaps = records.iter().filter(|record| record.event == GAP);
    let declared = gaps.filter_map(|record| record.field("count").parse::<u64>().ok()).sum();
    (paths, declared)
}

/// What the clients' log and the records of a namespace come to.
fn check_counts(space: &Space, asked: &BTreeMap<String, bool>, wanted: &str) -> Result<()> {
    let answered: BTreeSet<&String> = asked.iter().filter(|(_, answered)| **answered).map(|(path, _)| path).collect();
    ensure!(!answered.is_empty(), "no request was answered: {asked:?}");
    let mut records = Vec::new();
    let waited = eventually("a record of each request, or a gap", OPERATOR_SECONDS_MAX, || {
        records = space.records()?;
        let (paths, declared) = counted(&records, wanted);
        let lost = answered.iter().filter(|path| !paths.contains_key(path.as_str())).count() as u64;
        Ok(lost <= declared)
    });
    let (paths, declared) = counted(&records, wanted);
    let lost: Vec<_> = answered.iter().filter(|path| !paths.contains_key(path.as_str())).collect();
    waited.with_context(|| format!("gaps declare {declared}; without a record: {lost:?}"))?;
    ensure!(paths.values().all(|times| *times == 1), "recorded more than once: {paths:?}");
    ensure!(paths.keys().all(|path| asked.contains_key(path)), "nobody asked for all of these: {paths:?}");
    let lost_at_most = asked.keys().filter(|path| !paths.contains_key(path.as_str())).count() as u64;
    ensure!(declared <= lost_at_most, "gaps declare {declared}, {lost_at_most} requests at most have no record");
    println!(
        "figure: an eviction and a rollout under {} requests: {} answered, {} recorded, {declared} in gaps",
        asked.len(),
        answered.len(),
        paths.len()
    );
    Ok(())
}

/// Waits until verification finds nothing against what is there, and every stream of a pod that is gone has its end.
fn verified(space: &Space, gone: &BTreeSet<String>) -> Result<()> {
    let mut said = Value::Null;
    let waited = eventually("every record to be proved", 2 * OPERATOR_SECONDS_MAX, || {
        said = Evidence::of(space)?.verified()?;
        let streams = said.get("streams").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let ended = |uid: &String| {
            let of: Vec<&Value> = streams.iter().filter(|stream| text(stream, "/sid").contains(uid.as_str())).collect();
            !of.is_empty() && of.iter().all(|stream| stream["closed"] == true && stream["proved"] == stream["records"])
        };
        let allowed = |one: &Value| ["GAP", "PENDING"].contains(&text(one, "/verdict").as_str());
        Ok(gone.iter().all(ended) && findings(&said).iter().all(allowed))
    });
    waited.with_context(|| format!("{said:#}"))
}

#[test]
fn ev_1_an_eviction_and_a_rollout_under_requests_lose_nothing_that_is_not_declared() -> Result<()> {
    let space = Space::new("leaving")?;
    space.policy("audit", &format!("{{{SELECT_SERVER}}}"))?;
    space.apply(&deployment())?;
    space.toolbox("client", "{app: client}")?;
    cluster().kubectl.rollout(&space.name, "deployment/server")?;
    in_force(&space, "audit", i64::try_from(PODS)?)?;

    let clients = Clients::start(&space)?;
    let wanted = clients.wanted.clone();
    let mut gone = evict(&space)?;
    replaced(&space, &gone)?;
    let before = uids(&space)?;
    cluster().kubectl.run(&["rollout", "restart", "-n", &space.name, "deployment/server"])?;
    replaced(&space, &before)?;
    gone.extend(before);
    check_counts(&space, &clients.end()?, &wanted)?;
    verified(&space, &gone)
}

//! A rollout under load, without and with sidecars: none of the requests may fail that would not have failed anyway.

use super::alone;
use super::simulated::is_full_scale;
use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually, init_containers};
use crate::objects::text;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use testimony_e2e::steps::output;

/// Pods of the Deployment on CI.
const PODS_SMALL: usize = 6;
/// Pods of the Deployment at full scale.
const PODS_FULL: usize = 50;
/// How long a rollout may take for each pod, in seconds.
const POD_SECONDS_MAX: u64 = 40;
/// Requests that are open at a time.
const CONNECTIONS: &str = "8";
/// Requests of a second.
const RATE: &str = "40";
/// How long load comes before and after the rollout, in seconds.
const STEADY_SECONDS: u64 = 5;
/// How long one request may take.
const TIMEOUT: &str = "10s";

/// Requests from this machine until they are told to end.
struct Load(Option<Child>);

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Load {
    /// Each request on a connection of its own, so that each can go to any pod; each takes 200 ms, so that pods end under requests.
    fn on(space: &Space) -> Result<Self> {
        let service = cluster().kubectl.get(&space.name, &["service", "server"])?;
        let url = format!("http://{}:8080/delay/0.2", text(&service, "/spec/clusterIP"));
        let mut fortio = Command::new(cluster().paths.program("fortio"));
        fortio.args(["load", "-quiet", "-json", "-", "-t", "0", "-c", CONNECTIONS, "-qps", RATE, "-keepalive=false"]);
        fortio.args(["-nocatchup", "-allow-initial-errors", "-timeout", TIMEOUT, &url]);
        let child = fortio.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("fortio")?;
        Ok(Self(Some(child)))
    }

    /// Ends it; how many requests there were, and how many of them did not succeed.
    fn end(mut self) -> Result<(u64, u64)> {
        let child = self.0.take().context("it has ended")?;
        output(Command::new("kill").args(["-INT", &child.id().to_string()]))?;
        let done = child.wait_with_output()?;
        let report: Value = serde_json::from_slice(&done.stdout).context("fortio's JSON")?;
        let codes = report.get("RetCodes").and_then(Value::as_object).context("fortio's RetCodes")?;
        let count = |value: &Value| value.as_u64().unwrap_or_default();
        let all: u64 = codes.values().map(count).sum();
        Ok((all, all - codes.get("200").map(count).unwrap_or_default()))
    }
}

/// A Deployment whose pods end as pods should: out of the Service first, then no more.
fn deployment(pods: usize) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: server}}\nspec:\n  replicas: {pods}\n  \
         selector: {{matchLabels: {{app: server}}}}\n  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 2}}}}\n  \
         template:\n    metadata: {{labels: {{app: server}}}}\n    spec:\n      terminationGracePeriodSeconds: 30\n      \
         containers:\n      - {{name: server, image: \"{{{{image:go-httpbin}}}}\", args: [-host, \"0.0.0.0\", -port, \"8080\"], \
            lifecycle: {{preStop: {{sleep: {{seconds: 5}}}}}}, \
            readinessProbe: {{httpGet: {{path: /status/200, port: 8080}}, periodSeconds: 1}}}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: server}}\n\
         spec: {{selector: {{app: server}}, ports: [{{port: 8080}}]}}\n"
    )
}

fn out(space: &Space, pods: usize) -> Result<()> {
    let timeout = format!("--timeout={}s", pods as u64 * POD_SECONDS_MAX);
    let status = cluster().kubectl.run(&["rollout", "status", "-n", &space.name, "deployment/server", &timeout]);
    status.map(drop).map_err(|error| {
        let events = cluster().kubectl.run(&["get", "pods,events", "-n", &space.name]).unwrap_or_default();
        error.context(events)
    })
}

fn steady() -> Result<()> {
    let begun = Instant::now();
    let steady = Duration::from_secs(STEADY_SECONDS);
    eventually("some load", 2 * STEADY_SECONDS, || Ok(begun.elapsed() >= steady))
}

/// Requests, failures, and seconds of the rollout.
fn roll(space: &Space, pods: usize, injected: bool) -> Result<(u64, u64, f64)> {
    space.apply(&deployment(pods))?;
    out(space, pods)?;
    let all_as_wanted = || -> Result<bool> {
        let running = space.pods("server")?;
        Ok(running.len() == pods && running.iter().all(|pod| init_containers(pod).is_empty() != injected))
    };
    ensure!(all_as_wanted()?, "the pods are not as wanted");
    let load = Load::on(space)?;
    steady()?;
    let begun = Instant::now();
    cluster().kubectl.run(&["rollout", "restart", "-n", &space.name, "deployment/server"])?;
    out(space, pods)?;
    let seconds = begun.elapsed().as_secs_f64();
    eventually("the old pods to be gone", OPERATOR_SECONDS_MAX, all_as_wanted)?;
    steady()?;
    let (requests, failed) = load.end()?;
    Ok((requests, failed, seconds))
}

#[test]
fn a_rollout_under_load_fails_no_request_because_of_sidecars() -> Result<()> {
    let _alone = alone();
    let pods = if is_full_scale() { PODS_FULL } else { PODS_SMALL };
    let measure = |test: &str, injected: bool| -> Result<(u64, u64)> {
        let space = Space::new(test)?;
        if injected {
            space.policy("audit", "{podSelector: {matchLabels: {app: server}}}")?;
        }
        let (requests, failed, seconds) = roll(&space, pods, injected)?;
        let how = if injected { "with sidecars" } else { "without sidecars" };
        println!("figure: rollout of {pods} pods {how}: {seconds:.0} s, {failed} of {requests} requests failed");
        Ok((requests, failed))
    };
    let (_, failed_anyway) = measure("roll", false)?;
    let (requests, failed) = measure("roll-audited", true)?;
    ensure!(
        requests > 0 && failed <= failed_anyway,
        "{failed} of {requests} requests failed, {failed_anyway} would have anyway"
    );
    Ok(())
}

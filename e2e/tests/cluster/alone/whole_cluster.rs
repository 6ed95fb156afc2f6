//! The power of the whole cluster is cut: with strict namespaces, too, it comes up by itself.

use super::alone;
use crate::harness::{cluster, eventually, init_containers, marker, single};
use crate::objects::{SELECT_SERVER, in_force};
use crate::strict::strict_space;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testimony_e2e::install::OPERATOR_NAMESPACE;
use testimony_e2e::node::Node;
use testimony_e2e::steps::Log;

/// How long the pods of the node may take to be ready again, in seconds: kubelet holds back what failed while the webhook
/// was not yet there.
const UP_SECONDS_MAX: u64 = 300;

/// Sum of a pod's container restarts, init containers included.
fn restarts(pod: &Value) -> u64 {
    let statuses = ["initContainerStatuses", "containerStatuses"].map(|list| pod["status"][list].as_array());
    statuses.into_iter().flatten().flatten().filter_map(|status| status["restartCount"].as_u64()).sum()
}

#[test]
fn a_cold_start_of_the_whole_cluster_with_strict_namespaces_comes_up_by_itself() -> Result<()> {
    let _alone = alone();
    ensure!(cluster().is_local(), "this test needs the local cluster");
    let space = strict_space("cold")?;
    space.policy("audit", &format!("{{{SELECT_SERVER}}}"))?;
    space.httpbin("server")?;
    space.toolbox("client", "{app: client}")?;
    in_force(&space, "audit", 1)?;
    let kubectl = &cluster().kubectl;
    let before = single(space.pods("server")?)?;

    let log = Log::create(&cluster().paths.logs().join("power-cycle.log"))?;
    Node::new(&cluster().paths).power_cycle(&log).context("the node's restart")?;

    for deployment in ["deployment/testimony-webhook", "deployment/testimony-controller"] {
        eventually(&format!("{deployment} to be back"), UP_SECONDS_MAX, || {
            kubectl.rollout(OPERATOR_NAMESPACE, deployment).map(|()| true)
        })?;
    }
    eventually("the pod to be up again in its place", UP_SECONDS_MAX, || {
        let pod = single(space.pods("server")?)?;
        let ready =
            pod["status"]["containerStatuses"].as_array().is_some_and(|all| all.iter().all(|c| c["ready"] == true));
        Ok(ready && pod["metadata"]["uid"] == before["metadata"]["uid"] && restarts(&pod) > restarts(&before))
    })?;
    // A pod that is created now passes the strict webhook.
    kubectl.run(&["rollout", "restart", "deployment/server", "-n", &space.name])?;
    kubectl.rollout(&space.name, "deployment/server")?;
    eventually("one new pod", UP_SECONDS_MAX, || Ok(space.pods("server")?.len() == 1))?;
    let pod = single(space.pods("server")?)?;
    ensure!(init_containers(&pod) == ["testimony-init", "testimony-sidecar"], "{pod:#}");
    in_force(&space, "audit", 1)?;
    let wanted = marker();
    let request = format!("curl -sS --fail -o /dev/null --max-time 20 http://server:8080/anything/{wanted}");
    eventually("the client's request to succeed", UP_SECONDS_MAX, || space.sh("client", &request).map(|_| true))?;
    space.records_when("the record", |records| {
        records.iter().any(|record| record.attribute("url.path").contains(&wanted))
    })?;
    // The tests that come after this one find everything as it was.
    eventually("every pod of the node to be ready", UP_SECONDS_MAX, || {
        let pods: Value = serde_json::from_str(&kubectl.run(&["get", "pods", "-A", "-o", "json"])?)?;
        let all = pods["items"].as_array().context("a list")?;
        Ok(all.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).all(|pod| {
            let phase = pod["status"]["phase"].as_str().unwrap_or_default();
            let ready = |status: &Value| status["type"] == "Ready" && status["status"] == "True";
            phase == "Succeeded" || pod["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(ready))
        }))
    })
}

//! Pods that are objects only: bound to a Node without a kubelet, they pass through admission and the operator's watches as
//! real ones do, and cost this machine next to nothing.

use crate::harness::{Space, cluster};
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Calls to the API server at a time.
pub const CALLS_AT_A_TIME: usize = 4;
/// Time between two renewals of the Node's Lease, in seconds: without them the node controller evicts its pods.
const RENEW_SECONDS: u64 = 10;
/// How long a Lease is valid, in seconds.
const LEASE_SECONDS: i32 = 40;
/// Namespace of the Leases of nodes.
const LEASES: &str = "kube-node-lease";
/// Environment variable that asks for the sizes of a large cluster.
const SCALE_ENV: &str = "TESTIMONY_SCALE";

/// Whether the tests run with the sizes of a large cluster: `TESTIMONY_SCALE=full`.
pub fn is_full_scale() -> bool {
    std::env::var(SCALE_ENV).is_ok_and(|value| value == "full")
}

/// Where everything asynchronous of these tests runs.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap_or_else(|error| panic!("no runtime: {error}"))
    })
}

/// A client with the rights of an administrator.
pub fn client() -> Result<Client> {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client.clone());
    }
    let made = runtime().block_on(async {
        let kubeconfig = Kubeconfig::read_from(cluster().kubectl.kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok::<_, anyhow::Error>(Client::try_from(config)?)
    })?;
    Ok(CLIENT.get_or_init(|| made).clone())
}

/// A Node without a machine, deleted at the end.
pub struct SimulatedNode {
    /// Its name.
    pub name: String,
    renewal: JoinHandle<()>,
}

impl Drop for SimulatedNode {
    fn drop(&mut self) {
        self.renewal.abort();
        for (kind, namespace) in [("node", "default"), ("lease", LEASES)] {
            let arguments = ["delete", kind, &self.name, "-n", namespace, "--ignore-not-found", "--wait=false"];
            if let Err(error) = cluster().kubectl.run(&arguments) {
                eprintln!("the simulated {kind} is not deleted: {error:#}");
            }
        }
    }
}

impl SimulatedNode {
    /// Makes a Node that is ready, and on which nothing is scheduled.
    pub fn new(test: &str) -> Result<Self> {
        let (name, client) = (format!("simulated-{test}"), client()?);
        let leases: Api<Lease> = Api::namespaced(client.clone(), LEASES);
        runtime().block_on(async {
            let nodes: Api<Node> = Api::all(client);
            let taint = json!({"key": "e2e.testimony.dev/simulated", "effect": "NoSchedule"});
            let node =
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": [taint]}});
            nodes.patch(&name, &params(), &Patch::Apply(node)).await.context("the simulated Node")?;
            let now = Time(Timestamp::now());
            let ready = json!({"type": "Ready", "status": "True", "reason": "Simulated", "message": "no kubelet",
                               "lastHeartbeatTime": now, "lastTransitionTime": now});
            let status = json!({"status": {"conditions": [ready], "capacity": {"pods": "10000"}}});
            nodes.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await?;
            renew(&leases, &name).await
        })?;
        let renewal = runtime().spawn({
            let name = name.clone();
            async move {
                loop {
                    tokio::time::sleep(Duration::from_secs(RENEW_SECONDS)).await;
                    if let Err(error) = renew(&leases, &name).await {
                        eprintln!("the Lease of the simulated Node is not renewed: {error:#}");
                    }
                }
            }
        });
        Ok(Self { name, renewal })
    }

    /// A pod on this Node; `labels` as JSON.
    pub fn pod(&self, name: &str, labels: &Value) -> Result<Pod> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
            "spec": {"nodeName": self.name, "terminationGracePeriodSeconds": 0,
                     "containers": [{"name": "app", "image": "simulated.invalid/app:1"}]},
        });
        Ok(serde_json::from_value(pod)?)
    }
}

fn params() -> PatchParams {
    PatchParams::apply("testimony-e2e").force()
}

async fn renew(leases: &Api<Lease>, name: &str) -> Result<()> {
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS,
                      "renewTime": MicroTime(Timestamp::now())});
    let lease =
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec});
    leases.patch(name, &params(), &Patch::Apply(lease)).await.context("the simulated Node's Lease")?;
    Ok(())
}

/// Makes a pod run, as far as its object tells. `number` becomes its address, one of those that carriers use.
pub async fn run(pods: &Api<Pod>, name: &str, number: usize) -> Result<()> {
    let number = u32::try_from(number)? + 1;
    ensure!(number < 1 << 22, "no address is left");
    let ip = std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(100, 64, 0, 0)) + number).to_string();
    let now = Time(Timestamp::now());
    let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": now});
    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "100.127.255.254",
                                   "startTime": now, "conditions": [ready]}});
    pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await?;
    Ok(())
}

/// The pods of a space.
pub fn pods_of(space: &Space) -> Result<Api<Pod>> {
    Ok(Api::namespaced(client()?, &space.name))
}

/// Deletes without a grace period.
pub fn at_once() -> DeleteParams {
    DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }
}

/// Parameters of a creation.
pub fn creation() -> PostParams {
    PostParams::default()
}

/// Whether a pod has both of our containers, first in the list.
pub fn has_sidecar(pod: &Pod) -> bool {
    let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    init.iter().map(|container| container.name.as_str()).take(2).eq(crate::pods::INJECTED)
}

//! The sidecar's configuration: parsed once, before any port is bound, from the environment of an injected pod
//! ([`from_env`]) or from a YAML file ([`from_file`]). All problems are told at once, each with its field and the fix.

mod check;
mod env;
mod file;
mod problem;

pub use check::document_problems;
pub use env::{ProcessVars, Vars, from_env};
pub use file::{from_file, from_yaml};
pub use problem::{ConfigError, Problem};

use crate::client::Secret;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use testimony_core::policy::PolicyDocument;

/// How long a sidecar finishes open exchanges and exports what waits, unless the file says otherwise.
pub const DRAIN_DEFAULT: Duration = Duration::from_secs(10);

/// Longest drain that a file may ask for, in seconds.
pub const DRAIN_S_MAX: u64 = 3600;

/// Most data threads that a file may ask for: the spool counts what so many begin.
pub const DATA_THREADS_MAX: usize = crate::spool::COUNTED_THREADS_MAX;

/// Everything that a sidecar must know before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who is audited: the resource of every record.
    pub workload: Workload,
    /// The sidecar's own image; absent outside Kubernetes.
    pub image: Option<String>,
    /// Where the sidecar listens.
    pub listen: Listen,
    /// The pod's addresses; the first is where `/probe/tcp/<port>` dials. Empty outside Kubernetes.
    pub pod_ips: Vec<IpAddr>,
    /// The node's addresses, from where the kubelet probes. Empty outside Kubernetes.
    pub host_ips: Vec<IpAddr>,
    /// The policy to start with.
    pub policy: PolicyDocument,
    /// Where [`Config::policy`] comes from.
    pub policy_source: PolicySource,
    /// From whom newer policies come; absent outside Kubernetes.
    pub operator: Option<Operator>,
    /// Folder that survives the process; absent: nothing is kept for restarts.
    pub state_dir: Option<PathBuf>,
    /// Where records wait until they are delivered; absent: in memory.
    pub spool: Option<SpoolConfig>,
    /// One folder for each sink with credentials, one file for each header.
    pub sinks_dir: PathBuf,
    /// Headers of sinks that the file takes from environment variables, by the sink's name.
    pub sink_headers: BTreeMap<String, Vec<SinkHeader>>,
    /// Number of data threads.
    pub data_threads: usize,
    /// From SIGTERM to exit at the latest.
    pub drain: Duration,
    /// Log filter, as of `tracing_subscriber::EnvFilter`.
    pub log: String,
}

/// The spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Its folder, on disk.
    pub folder: PathBuf,
    /// The folder with the key that its keys are wrapped under: in memory, and it outlives the process.
    pub key_folder: PathBuf,
    /// Most bytes of all its files, at least [`crate::spool::LIMIT_BYTES_MIN`].
    pub bytes_max: u64,
}

/// Where a policy document comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicySource {
    /// The pod's environment, written at admission.
    Environment,
    /// A configuration file.
    File,
    /// What an earlier process of this pod had from the operator.
    LastGood,
    /// The operator's long poll.
    Operator,
}

/// Identity of the audited workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// `service.name`.
    pub service_name: String,
    /// `k8s.namespace.name`, and `service.namespace`.
    pub namespace: Option<String>,
    /// `k8s.cluster.uid`.
    pub cluster_uid: Option<String>,
    /// `k8s.pod.name`.
    pub pod_name: Option<String>,
    /// `k8s.pod.uid`.
    pub pod_uid: Option<String>,
    /// `k8s.node.name`.
    pub node: Option<String>,
    /// The pod's ServiceAccount.
    pub service_account: Option<String>,
    /// Kind of the workload: `Deployment`, `StatefulSet`, ...
    pub kind: Option<String>,
    /// Name of the workload.
    pub name: Option<String>,
    /// `k8s.container.name`: the first application container.
    pub container: Option<String>,
}

/// Where the sidecar listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Connections to the application.
    pub inbound: Option<Listener>,
    /// Connections from the application.
    pub outbound: Option<Listener>,
    /// Health, metrics, configuration.
    pub admin: SocketAddr,
}

/// One listener of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address to bind.
    pub addr: SocketAddr,
    /// Where its connections go.
    pub target: Target,
}

/// Where the connections of a listener go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Where they went before the redirect rule.
    OriginalDestination,
    /// Always to this place.
    Fixed(HostPort),
}

/// A host name or IP address (without brackets), and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Host name or address.
    pub host: String,
    /// TCP port, not 0.
    pub port: u16,
}

/// The operator's policy server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Base URL, `https` only.
    pub url: String,
    /// PEM bundle that signs its certificate.
    pub ca_pem: String,
    /// File with the projected token; read anew for each request.
    pub token_file: PathBuf,
    /// The injection id of this pod.
    pub injection_id: String,
    /// The document at admission is a stand-in: the start waits for the operator's first answer, for a while.
    pub awaited: bool,
}

/// A header of a sink whose value came from the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkHeader {
    /// Field name, lower case.
    pub name: String,
    /// Field value; never shown.
    pub value: Secret,
}

impl Workload {
    /// The attributes of the OTLP Resource: names of the semantic conventions, and the audited pod's values.
    pub fn resource_attributes(&self) -> Vec<(&'static str, &str)> {
        let workload = match self.kind.as_deref() {
            Some("Deployment") => Some("k8s.deployment.name"),
            Some("ReplicaSet") => Some("k8s.replicaset.name"),
            Some("StatefulSet") => Some("k8s.statefulset.name"),
            Some("DaemonSet") => Some("k8s.daemonset.name"),
            Some("Job") => Some("k8s.job.name"),
            Some("CronJob") => Some("k8s.cronjob.name"),
            _ => None,
        };
        let attributes = [
            (Some("service.name"), Some(&self.service_name)),
            (Some("service.namespace"), self.namespace.as_ref()),
            (Some("k8s.cluster.uid"), self.cluster_uid.as_ref()),
            (Some("k8s.namespace.name"), self.namespace.as_ref().filter(|_| self.pod_name.is_some())),
            (Some("k8s.pod.name"), self.pod_name.as_ref()),
            (Some("k8s.pod.uid"), self.pod_uid.as_ref()),
            (Some("k8s.container.name"), self.container.as_ref()),
            (Some("k8s.node.name"), self.node.as_ref()),
            (workload, self.name.as_ref()),
            // The semantic conventions have no name for it.
            (Some("testimony.k8s.service_account"), self.service_account.as_ref()),
        ];
        attributes.into_iter().filter_map(|(name, value)| Some((name?, value?.as_str()))).collect()
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

//! `testimony-operator selftest`: what `helm test` runs. It makes a pod that is audited, sends it a request, and looks for
//! the record in a sink of its own and at the default sink. Whatever fails is told with the next thing to look at.
//!
//! [`objects`] and [`judge`] are pure; [`run`] asks the API server and waits, [`receiver`] is the sink, [`server`] the
//! application in the audited pod.

pub mod http;
pub mod judge;
pub mod objects;
pub mod receiver;
pub mod run;
pub mod server;
#[cfg(test)]
mod tests;

use crate::settings::{InjectionMode, PullPolicy};
use clap::{Args, Subcommand};
use std::net::IpAddr;

/// The namespace that the chart makes for the test and deletes after it.
pub const OWN_NAMESPACE: &str = "testimony-selftest";

/// Port of the receiver.
const RECEIVER_PORT: u16 = 4318;

/// Port of the application in the audited pod.
const SERVER_PORT: u16 = 8080;

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Make an audited pod, send it a request, and look for the record.
    Run(Box<RunArgs>),
    /// Answer every request with 200: the application in the audited pod.
    Server(ServerArgs),
}

/// Settings of `selftest run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Namespace of the audited pod. It must exist.
    #[arg(long, default_value = OWN_NAMESPACE)]
    pub namespace: String,
    /// Namespace of the operator, for the hints.
    #[arg(long, env = "POD_NAMESPACE")]
    pub operator_namespace: String,
    /// Address of this pod: the audited pod sends its records there.
    #[arg(long, env = "POD_IP")]
    pub pod_ip: IpAddr,
    /// Image of the audited pod: the operator's own.
    #[arg(long)]
    pub image: String,
    /// Pull policy of that image; omitted: Kubernetes' default for its tag.
    #[arg(long)]
    pub image_pull_policy: Option<PullPolicy>,
    /// Secret, in the namespace of the audited pod, with which its images are pulled; may be given several times.
    #[arg(long)]
    pub image_pull_secret: Vec<String>,
    /// How pods get their sidecar, for the hints.
    #[arg(long, default_value = "Webhook")]
    pub injection_mode: InjectionMode,
    /// ClusterRole that owns the test's AuditSink, so that it goes with it; without it only the test itself deletes it.
    #[arg(long)]
    pub owner_cluster_role: Option<String>,
}

/// Settings of `selftest server`.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// Port to answer on.
    #[arg(long, default_value_t = SERVER_PORT)]
    pub port: u16,
}

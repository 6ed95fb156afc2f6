//! Tests that disturb every other one, or that every other one disturbs: they run after the rest, one at a time
//! (`--test-threads 1 alone::`).

mod anchoring;
mod chart;
mod daily;
mod figures;
mod honest;
mod measures;
mod network;
mod node_restart;
mod operator;
mod outside;
mod polling;
mod replicas;
mod rollout;
mod rotation;
mod scale;
mod simulated;
mod stream;
mod strict;
mod whole_cluster;

use crate::harness::{cluster, eventually};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use testimony_e2e::install::OPERATOR_NAMESPACE;
use testimony_e2e::panics::{OPERATOR, expect_none};

/// Held by each of these tests, for runs with more than one thread.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a Deployment of the operator may take to go or to come, in seconds.
pub const SCALE_SECONDS_MAX: u64 = 60;

/// The operator's Deployments as the chart makes them, again so at the end.
pub struct Scaled {
    component: &'static str,
}

impl Scaled {
    /// Scales `controller` or `webhook` and waits until it is so.
    pub fn to(component: &'static str, replicas: u8) -> Result<Self> {
        // Its pods go, and their logs with them.
        expect_none(&cluster().kubectl, OPERATOR_NAMESPACE, OPERATOR)?;
        let scaled = Self { component };
        scaled.scale(replicas)?;
        Ok(scaled)
    }

    /// Scales again.
    pub fn scale(&self, replicas: u8) -> Result<()> {
        let kubectl = &cluster().kubectl;
        let deployment = format!("deployment/testimony-{}", self.component);
        let replicas = replicas.to_string();
        kubectl.run(&["scale", &deployment, "--replicas", &replicas, "-n", OPERATOR_NAMESPACE])?;
        eventually(&format!("{deployment} with {replicas} pods"), SCALE_SECONDS_MAX, || {
            Ok(self.pods()?.len().to_string() == replicas)
        })?;
        kubectl.rollout(OPERATOR_NAMESPACE, &deployment)
    }

    /// Names of its pods, those that are on their way out too.
    pub fn pods(&self) -> Result<Vec<String>> {
        let label = format!("app.kubernetes.io/component={}", self.component);
        let arguments = ["get", "pods", "-n", OPERATOR_NAMESPACE, "-l", &label, "-o", "name"];
        Ok(cluster().kubectl.run(&arguments)?.lines().map(str::to_string).collect())
    }
}

impl Drop for Scaled {
    fn drop(&mut self) {
        if let Err(error) = self.scale(1) {
            eprintln!("testimony-{} is not as it was: {error:#}", self.component);
        }
    }
}

/// The sidecar's processes of a pod, seen from this machine: pid to parent's pid. The pod must run here.
pub fn sidecar_processes(pod_uid: &str) -> Result<BTreeMap<u32, u32>> {
    let mut processes = BTreeMap::new();
    let wanted = format!("TESTIMONY_POD_UID={pod_uid}");
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Processes end while they are looked at.
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
            && let Some(parent) = status_field(&entry.path().join("status"), "PPid:")
        {
            processes.insert(pid, parent);
        }
    }
    ensure!(
        !processes.is_empty(),
        "no sidecar of pod {pod_uid} runs on this machine: this test needs the local cluster"
    );
    Ok(processes)
}

/// The process whose parent is none of them.
pub fn supervisor(processes: &BTreeMap<u32, u32>) -> Result<u32> {
    let top = processes.iter().find(|(_, parent)| !processes.contains_key(parent));
    top.map(|(pid, _)| *pid).context("no supervisor")
}

/// The first number of a line of a file of `/proc`.
pub fn status_field(file: &PathBuf, name: &str) -> Option<u32> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

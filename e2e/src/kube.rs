//! kubectl and helm, as functions.

use crate::steps::{output, output_with_input, wait_until};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a rollout may take, in seconds.
pub const ROLLOUT_SECONDS_MAX: u64 = 180;
/// How often conditions are looked at, in milliseconds.
const POLL_MILLIS: u64 = 250;

/// kubectl for one cluster.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// `program` with the cluster of `kubeconfig`.
    pub fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { program, kubeconfig }
    }

    /// The file that names the cluster.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A command to add arguments to.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// Runs kubectl and returns what it printed.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        output(self.command().args(args))
    }

    /// Server-side apply of one or more documents.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        let args = ["apply", "--server-side", "--force-conflicts", "--field-manager=testimony-e2e", "-f", "-"];
        output_with_input(self.command().args(args), yaml.as_bytes())
    }

    /// As [`Self::apply`], with a default namespace.
    pub fn apply_in(&self, namespace: &str, yaml: &str) -> Result<String> {
        let args = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=testimony-e2e",
            "-n",
            namespace,
            "-f",
            "-",
        ];
        output_with_input(self.command().args(args), yaml.as_bytes())
    }

    /// One object, or the list of a kind, as JSON.
    pub fn get(&self, namespace: &str, what: &[&str]) -> Result<Value> {
        let mut args = vec!["get", "-n", namespace, "-o", "json"];
        args.extend_from_slice(what);
        serde_json::from_str(&self.run(&args)?).context("kubectl's JSON")
    }

    /// Waits until a Deployment, StatefulSet or DaemonSet (`deployment/NAME`) is out.
    pub fn rollout(&self, namespace: &str, what: &str) -> Result<()> {
        let timeout = format!("--timeout={ROLLOUT_SECONDS_MAX}s");
        self.run(&["rollout", "status", "-n", namespace, what, &timeout]).map_err(|error| {
            let pods = self.run(&["get", "pods", "-n", namespace, "-o", "wide"]).unwrap_or_default();
            let events = self.run(&["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"]).unwrap_or_default();
            error.context(format!("{what} in {namespace} did not become ready\n{pods}\n{events}"))
        })?;
        Ok(())
    }

    /// Runs a command in a pod (`deploy/NAME`, or a pod's name).
    pub fn exec(&self, namespace: &str, target: &str, container: &str, command: &[&str]) -> Result<String> {
        let mut args = vec!["exec", "-n", namespace, target, "-c", container, "--"];
        args.extend_from_slice(command);
        self.run(&args)
    }

    /// Waits for a condition of our own, with the default rhythm.
    pub fn wait(&self, what: &str, seconds_max: u64, ready: impl FnMut() -> Result<bool>) -> Result<()> {
        wait_until(what, Duration::from_secs(seconds_max), Duration::from_millis(POLL_MILLIS), ready)
    }

    /// Makes a namespace if it is not there.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}")).map(|_| ())
    }
}

/// helm for one cluster.
#[derive(Clone, Debug)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Helm {
    /// `program` with the cluster of `kubeconfig`.
    pub fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { program, kubeconfig }
    }

    /// A command to add arguments to.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// Runs helm and returns what it printed.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        output(self.command().args(args))
    }
}

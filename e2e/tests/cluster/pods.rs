//! What the tests of workloads and of injection share: warnings, running commands, a debugger in a sidecar.

use crate::harness::{POD_READY_SECONDS_MAX, Space, cluster, eventually, init_containers};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use testimony_e2e::steps::output_with_input;

/// A policy that selects every pod.
pub const EVERY_POD: &str = "{podSelector: {}}";
/// A policy that selects pods with the label `audited: "yes"`.
pub const AUDITED_PODS: &str = "{podSelector: {matchLabels: {audited: \"yes\"}}}";
/// The names of what injection adds, first in the list.
pub const INJECTED: [&str; 2] = ["testimony-init", "testimony-sidecar"];

/// A command in a container whose standard output is read while it runs; it is killed at the end of the test.
pub struct Running {
    child: Child,
    stdin: ChildStdin,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has mostly ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Gives it a line to read.
    pub fn say(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.stdin, "{line}")?)
    }

    /// Fills the buffer with what it prints next.
    pub fn read_exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        Ok(self.stdout.as_mut().context("its output was taken")?.read_exact(buffer)?)
    }

    /// What it prints, line by line.
    pub fn take_lines(&mut self) -> Result<Lines<BufReader<ChildStdout>>> {
        Ok(self.stdout.take().context("its output was taken")?.lines())
    }

    /// Reads the rest of what it prints and waits for its end; an error unless it succeeded.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.stdout.as_mut().context("its output was taken")?.read_to_end(&mut rest)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the command in the pod ended with {status}");
        Ok(rest)
    }
}

impl Space {
    /// Applies manifests as [`Space::apply`] and returns what kubectl wrote to standard error: the admission's warnings.
    pub fn apply_warned(&self, yaml: &str) -> Result<String> {
        let mut command = cluster().kubectl.command();
        command.args(["apply", "--server-side", "--field-manager=testimony-e2e", "-n", &self.name, "-f", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("no standard input")?.write_all(cluster().fill(yaml)?.as_bytes())?;
        let result = child.wait_with_output()?;
        let stderr = String::from_utf8_lossy(&result.stderr).into_owned();
        ensure!(result.status.success(), "kubectl apply: {stderr}");
        Ok(stderr)
    }

    /// One pod as JSON.
    pub fn pod(&self, name: &str) -> Result<Value> {
        cluster().kubectl.get(&self.name, &["pod", name])
    }

    /// Waits until these pods are ready.
    pub fn ready(&self, pods: &[&str]) -> Result<()> {
        let timeout = format!("--timeout={POD_READY_SECONDS_MAX}s");
        let mut arguments = vec!["wait", "-n", &self.name, "pod", "--for=condition=Ready", &timeout];
        arguments.extend_from_slice(pods);
        cluster().kubectl.run(&arguments).map(drop)
    }

    /// Starts a shell script in a container.
    pub fn start(&self, pod: &str, container: &str, script: &str) -> Result<Running> {
        let mut command = cluster().kubectl.command();
        command.args(["exec", "-i", "-n", &self.name, pod, "-c", container, "--", "sh", "-c", script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Running { child, stdin, stdout: Some(stdout) })
    }

    /// Adds a container `debugger`, with a shell, that sees the processes of the pod's sidecar and runs as its user, so
    /// that it may do to them what the sidecar itself may. The sidecar's image has no shell.
    pub fn debug_sidecar(&self, pod: &str) -> Result<()> {
        let context = "{\"securityContext\": {\"runAsUser\": 62819, \"runAsGroup\": 62820}}";
        let image = format!("--image={}", cluster().reference("toolbox")?);
        let pull = format!("--image-pull-policy={}", cluster().pull_policy());
        let mut command = cluster().kubectl.command();
        command.args(["debug", "-n", &self.name, pod, "--target=testimony-sidecar", "--container=debugger"]);
        command.args(["--profile=general", "--custom=/dev/stdin", "--attach=false", &image, &pull]);
        command.args(["--", "/bin/sleep", "2147483647"]);
        output_with_input(&mut command, context.as_bytes())?;
        eventually("the debugger to run", POD_READY_SECONDS_MAX, || {
            let pod = self.pod(pod)?;
            Ok(pod.pointer("/status/ephemeralContainerStatuses/0/state/running").is_some())
        })
    }

    /// Runs a shell script in the container that [`Self::debug_sidecar`] added.
    pub fn debugger(&self, pod: &str, script: &str) -> Result<String> {
        cluster().kubectl.exec(&self.name, pod, "debugger", &["sh", "-c", script])
    }
}

/// Whether a pod has both of our containers, first in the list.
pub fn is_injected(pod: &Value) -> bool {
    init_containers(pod).starts_with(&INJECTED.map(str::to_string))
}

/// A text at a JSON pointer, or the empty string.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A list at a JSON pointer, or none.
pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The element of a list that has this name.
pub fn named<'a>(list: &'a [Value], name: &str) -> Result<&'a Value> {
    list.iter().find(|item| text(item, "/name") == name).with_context(|| format!("no {name} in {list:#?}"))
}

/// The state of the sidecar's container after its end.
pub fn sidecar_end(pod: &Value) -> Option<&Value> {
    let status = named(list(pod, "/status/initContainerStatuses"), "testimony-sidecar").ok()?;
    status.pointer("/state/terminated")
}

//! What policies, sinks and sidecars say of themselves.

use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually, single};
use anyhow::{Context, Result};
use serde_json::Value;

/// How long an edit of a policy may take until it is in force and told, in seconds.
pub const EDIT_SECONDS_MAX: u64 = 60;

/// A condition as `status reason: message`; empty while there is none.
pub fn condition(object: &Value, kind: &str) -> String {
    let list = object.pointer("/status/conditions").and_then(Value::as_array);
    let found = list.into_iter().flatten().find(|condition| condition.get("type").is_some_and(|is| is == kind));
    let text = |name: &str| found.and_then(|found| found.get(name)?.as_str()).unwrap_or_default();
    if found.is_none() { String::new() } else { format!("{} {}: {}", text("status"), text("reason"), text("message")) }
}

/// Whether the status speaks of the object as it is now.
pub fn is_observed(object: &Value) -> bool {
    let generation = object.pointer("/metadata/generation");
    generation.is_some() && generation == object.pointer("/status/observedGeneration")
}

/// `matched, injected, programmed, needRestart, skipped` of a policy.
pub fn counts(policy: &Value) -> [i64; 5] {
    ["matched", "injected", "programmed", "needRestart", "skipped"].map(|name| {
        let count = policy.pointer(&format!("/status/pods/{name}"));
        count.and_then(Value::as_i64).unwrap_or(-1)
    })
}

/// The revision that a policy's status tells.
pub fn revision(policy: &Value) -> String {
    policy.pointer("/status/effectiveRevision").and_then(Value::as_str).unwrap_or_default().to_string()
}

/// A text field of an object, or the empty string.
pub fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string()
}

/// An AuditPolicy as it is now.
pub fn policy(space: &Space, name: &str) -> Result<Value> {
    cluster().kubectl.get(&space.name, &["auditpolicy", name])
}

/// A ClusterAuditPolicy, deleted at the end: it belongs to the whole cluster, so its selector must hold to the test's own
/// namespaces.
pub struct ClusterPolicy {
    /// Its name.
    pub name: String,
}

impl Drop for ClusterPolicy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let policy = cluster().kubectl.run(&["get", "clusterauditpolicy", &self.name, "-o", "yaml"]);
            eprintln!("--- {}", policy.unwrap_or_else(|error| format!("{error:#}")));
        }
        let arguments = ["delete", "clusterauditpolicy", &self.name, "--wait=false", "--ignore-not-found"];
        let _ = cluster().kubectl.run(&arguments);
    }
}

impl ClusterPolicy {
    /// Makes a policy with a `spec` as JSON.
    pub fn new(name: &str, spec: &Value) -> Result<Self> {
        let policy = Self { name: name.to_string() };
        policy.apply(spec)?;
        Ok(policy)
    }

    /// Replaces its spec.
    pub fn apply(&self, spec: &Value) -> Result<()> {
        let object = serde_json::json!({
            "apiVersion": "audit.testimony.dev/v1alpha1", "kind": "ClusterAuditPolicy", "metadata": {"name": self.name},
            "spec": spec,
        });
        cluster().kubectl.apply(&object.to_string()).map(drop)
    }

    /// Waits until its status is as wanted, and returns it.
    pub fn when(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let waited = eventually(&format!("policy {}: {what}", self.name), OPERATOR_SECONDS_MAX, || {
            last = cluster().kubectl.get("default", &["clusterauditpolicy", &self.name])?;
            Ok(is_observed(&last) && wanted(&last))
        });
        waited.with_context(|| format!("its status is {:#}", last.get("status").unwrap_or(&Value::Null)))?;
        Ok(last)
    }

    /// Waits until `sidecars` sidecars run it as it is now.
    pub fn in_force(&self, sidecars: i64) -> Result<Value> {
        self.when("to be in force", |policy| runs(policy, sidecars))
    }
}

/// Selects the server of [`audited`].
pub const SELECT_SERVER: &str = "podSelector: {matchLabels: {app: server}}";

/// A space with a policy `audit`, a server that it selects and that runs it, and a client that it does not select.
pub fn audited(test: &str, spec: &str) -> Result<Space> {
    let space = Space::new(test)?;
    space.policy("audit", &format!("{{{SELECT_SERVER}, {spec}}}"))?;
    space.httpbin("server")?;
    space.toolbox("client", "{app: client}")?;
    in_force(&space, "audit", 1)?;
    Ok(space)
}

/// Waits until a policy's status is as wanted, and returns the policy.
pub fn policy_when(
    space: &Space,
    name: &str,
    what: &str,
    seconds_max: u64,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let mut last = Value::Null;
    let waited = eventually(&format!("policy {name}: {what}"), seconds_max, || {
        last = policy(space, name)?;
        Ok(is_observed(&last) && wanted(&last))
    });
    waited.with_context(|| format!("its status is {:#}", last.get("status").unwrap_or(&Value::Null)))?;
    Ok(last)
}

/// Waits until `sidecars` sidecars run the policy as it is now.
pub fn in_force(space: &Space, name: &str, sidecars: i64) -> Result<Value> {
    policy_when(space, name, "to be in force", OPERATOR_SECONDS_MAX, |policy| runs(policy, sidecars))
}

/// As [`in_force`], within the time that an edit may take.
pub fn edited(space: &Space, name: &str, sidecars: i64) -> Result<Value> {
    policy_when(space, name, "the edit to be in force", EDIT_SECONDS_MAX, |policy| runs(policy, sidecars))
}

fn runs(policy: &Value, sidecars: i64) -> bool {
    let [_, injected, programmed, ..] = counts(policy);
    condition(policy, "Programmed").starts_with("True") && injected == sidecars && programmed == sidecars
}

/// An AuditSink, deleted at the end: sinks belong to the whole cluster.
pub struct Sink {
    /// Its name.
    pub name: String,
}

impl Drop for Sink {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let sink = cluster().kubectl.run(&["get", "auditsink", &self.name, "-o", "yaml"]);
            eprintln!("--- {}", sink.unwrap_or_else(|error| format!("{error:#}")));
        }
        let _ = cluster().kubectl.run(&["delete", "auditsink", &self.name, "--wait=false", "--ignore-not-found"]);
    }
}

impl Sink {
    /// Makes a sink with a `spec` as JSON.
    pub fn new(name: &str, spec: &Value) -> Result<Self> {
        let sink = Self { name: name.to_string() };
        let object = serde_json::json!({
            "apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditSink", "metadata": {"name": name}, "spec": spec,
        });
        cluster().kubectl.apply(&object.to_string())?;
        Ok(sink)
    }

    /// Waits until the condition `Delivering` begins with `status` and holds `message`, and returns it.
    pub fn delivering(&self, status: &str, message: &str) -> Result<String> {
        let mut last = String::new();
        let waited = eventually(&format!("sink {} to be Delivering={status}", self.name), OPERATOR_SECONDS_MAX, || {
            last = condition(&cluster().kubectl.get("default", &["auditsink", &self.name])?, "Delivering");
            Ok(last.starts_with(status) && last.contains(message))
        });
        waited.with_context(|| format!("{message:?} is wanted; it is {last:?}"))?;
        Ok(last)
    }
}

/// A page of the admin port of an app's only pod, read from the toolbox `from`.
pub fn admin(space: &Space, from: &str, app: &str, page: &str) -> Result<String> {
    let pod = single(space.pods(app)?)?;
    let ip = text(&pod, "/status/podIP");
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip };
    space.sh(from, &format!("curl -sS --fail --max-time 10 http://{host}:24803{page}"))
}

/// A metric whose line begins with `name`; 0 where it is absent.
pub fn metric(space: &Space, from: &str, app: &str, name: &str) -> Result<u64> {
    let page = admin(space, from, app, "/metrics")?;
    let line = page.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default();
    Ok(value as u64)
}

//! A namespace for each test, waits with deadlines, and the records that the backend has.

use anyhow::{Context, Result, ensure};
use std::collections::HashSet;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use testimony_e2e::cluster::Cluster;
use testimony_e2e::install::records_of;
use testimony_e2e::panics::{SIDECARS, expect_none};
use testimony_e2e::paths::Paths;
use testimony_e2e::records::AuditRecord;
use testimony_e2e::stages::CLUSTER_FILE_ENV;
use testimony_e2e::steps::{output_with_input, wait_until};

/// How long a pod may take to become ready, in seconds: all tests share two cores.
pub const POD_READY_SECONDS_MAX: u64 = 180;
/// How long a record may take from the exchange to the backend's file, in seconds.
pub const RECORD_SECONDS_MAX: u64 = 60;
/// How long the operator may take to act on an object, in seconds.
pub const OPERATOR_SECONDS_MAX: u64 = 60;
const POLL_MILLIS: u64 = 500;

/// The cluster under test. Without one the tests fail; they are never skipped.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let file = std::env::var_os(CLUSTER_FILE_ENV);
        let file =
            file.unwrap_or_else(|| panic!("{CLUSTER_FILE_ENV} is not set: run `cargo xtask test --only cluster`"));
        let cluster = Paths::from_env().and_then(|paths| Cluster::from_file(&paths, Path::new(&file)));
        cluster.unwrap_or_else(|error| panic!("no cluster: {error:#}"))
    })
}

/// Waits for a condition; the error names it.
pub fn eventually(what: &str, seconds_max: u64, ready: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_until(what, Duration::from_secs(seconds_max), Duration::from_millis(POLL_MILLIS), ready)
}

/// A text that stands in no other exchange.
pub fn marker() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    // In letters: among digits there is a card's number now and then, which redaction takes out of the path.
    let letters: String = micros.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect();
    format!("m{letters}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A namespace of one test, deleted at its end. A test fails in which a sidecar panicked, whatever it asked for itself.
pub struct Space {
    /// Its name.
    pub name: String,
}

impl Drop for Space {
    fn drop(&mut self) {
        let panics = if std::thread::panicking() {
            self.explain();
            Ok(())
        } else {
            expect_none(&cluster().kubectl, &self.name, SIDECARS)
        };
        let _ = cluster().kubectl.run(&["delete", "namespace", &self.name, "--wait=false"]);
        if let Err(error) = panics {
            panic!("{error:#}");
        }
    }
}

impl Space {
    /// Makes a namespace whose name begins with `test`.
    pub fn new(test: &str) -> Result<Self> {
        let space = Self { name: format!("{test}-{}", marker()) };
        cluster().kubectl.namespace(&space.name)?;
        // A pod without it is refused.
        eventually("the namespace's ServiceAccount", OPERATOR_SECONDS_MAX, || {
            cluster().kubectl.run(&["get", "serviceaccount", "default", "-n", &space.name]).map(|_| true)
        })?;
        Ok(space)
    }

    /// What a person would look at first after a failure.
    fn explain(&self) {
        for what in ["pods", "events", "auditpolicies"] {
            let output = cluster().kubectl.run(&["get", what, "-n", &self.name, "-o", "wide"]);
            eprintln!("--- {what} of {}\n{}", self.name, output.unwrap_or_else(|error| format!("{error:#}")));
        }
    }

    /// Applies manifests; `{{image:NAME}}` is filled in, the namespace is this one.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        cluster().kubectl.apply_in(&self.name, &cluster().fill(yaml)?)
    }

    /// Applies an AuditPolicy whose `spec` is given in flow style and waits until it is accepted.
    pub fn policy(&self, name: &str, spec: &str) -> Result<()> {
        self.apply(&format!(
            "{{apiVersion: audit.testimony.dev/v1alpha1, kind: AuditPolicy, metadata: {{name: {name}}}, spec: {spec}}}"
        ))?;
        eventually(&format!("policy {name} to be accepted"), OPERATOR_SECONDS_MAX, || {
            let policy = cluster().kubectl.get(&self.name, &["auditpolicy", name])?;
            let conditions = policy.pointer("/status/conditions").and_then(|list| list.as_array());
            Ok(conditions.into_iter().flatten().any(|condition| {
                condition.get("type").is_some_and(|kind| kind == "Accepted")
                    && condition.get("status").is_some_and(|status| status == "True")
            }))
        })
    }

    /// A Deployment of one pod and its Service; `container` is one container's fields in flow style without its name.
    pub fn server(&self, name: &str, port: u16, container: &str) -> Result<()> {
        self.server_with_volumes(name, port, container, "[]")
    }

    /// As [`Self::server`], with the pod's `volumes`, a list in flow style.
    pub fn server_with_volumes(&self, name: &str, port: u16, container: &str, volumes: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n  \
             template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
             volumes: {volumes}\n      containers:\n      - {{name: {name}, {container}}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{port: {port}}}]}}\n"
        ))?;
        cluster().kubectl.rollout(&self.name, &format!("deployment/{name}"))
    }

    /// go-httpbin with a readiness probe.
    pub fn httpbin(&self, name: &str) -> Result<()> {
        self.server(
            name,
            8080,
            "image: \"{{image:go-httpbin}}\", args: [-host, \"0.0.0.0\", -port, \"8080\"], ports: [{containerPort: 8080}], \
             readinessProbe: {httpGet: {path: /status/200, port: 8080}, periodSeconds: 1}",
        )
    }

    /// A pod with a shell, curl and psql; `labels` in flow style.
    pub fn toolbox(&self, name: &str, labels: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {labels}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
             containers:\n  - {{name: toolbox, image: \"{{{{image:toolbox}}}}\"}}\n"
        ))?;
        let timeout = format!("--timeout={POD_READY_SECONDS_MAX}s");
        cluster().kubectl.run(&["wait", "-n", &self.name, "pod", name, "--for=condition=Ready", &timeout])?;
        Ok(())
    }

    /// Runs a shell script in a toolbox.
    pub fn sh(&self, pod: &str, script: &str) -> Result<String> {
        cluster().kubectl.exec(&self.name, pod, "toolbox", &["sh", "-c", script])
    }

    /// Runs a shell script in a toolbox with `input` on its standard input. The script must keep its standard output open until
    /// it has read all of it, as `cat >FILE` alone does not: the rest of the input is lost then.
    pub fn sh_with_input(&self, pod: &str, script: &str, input: &[u8]) -> Result<String> {
        let arguments = ["exec", "-i", "-n", &self.name, pod, "-c", "toolbox", "--", "sh", "-c", script];
        output_with_input(cluster().kubectl.command().args(arguments), input)
    }

    /// The pods of a label `app`, as JSON.
    pub fn pods(&self, app: &str) -> Result<Vec<serde_json::Value>> {
        let list = cluster().kubectl.get(&self.name, &["pods", "-l", &format!("app={app}")])?;
        Ok(list.get("items").and_then(|items| items.as_array()).cloned().unwrap_or_default())
    }

    /// All records of this namespace that the backend has, stages among them. Delivery is at least once: a batch whose answer
    /// came too late is there twice. It is the same record only if its body is the same, byte for byte; another record of the
    /// same exchange has another place in the stream, and stays.
    pub fn all_records(&self) -> Result<Vec<AuditRecord>> {
        let mut seen = HashSet::new();
        let mut records = records_of(cluster(), &self.name)?;
        records.retain(|record| record.body.is_empty() || seen.insert(record.body.clone()));
        Ok(records)
    }

    /// The records of this namespace that the backend has of what is over. Stages are left out: on a busy machine anything
    /// may take long enough to be shown while it is open.
    pub fn records(&self) -> Result<Vec<AuditRecord>> {
        Ok(self.all_records()?.into_iter().filter(|record| !record.is_stage()).collect())
    }

    /// Waits until `wanted` holds of this namespace's records, and returns them.
    pub fn records_when(&self, what: &str, wanted: impl Fn(&[AuditRecord]) -> bool) -> Result<Vec<AuditRecord>> {
        let mut records = Vec::new();
        let waited = eventually(what, RECORD_SECONDS_MAX, || {
            records = self.records()?;
            Ok(wanted(&records))
        });
        waited.with_context(|| format!("the backend has {records:#?}"))?;
        Ok(records)
    }

    /// One request of the toolbox `client` to `server`, and all records once it is among them.
    pub fn recorded_request(&self) -> Result<Vec<AuditRecord>> {
        let wanted = marker();
        self.sh("client", &format!("curl -sS --fail -o /dev/null --max-time 20 http://server:8080/anything/{wanted}"))?;
        self.records_when("the record", |records| {
            records.iter().any(|record| record.attribute("url.path").contains(&wanted))
        })
    }

    /// The records whose path or query holds `marker`, once a later request of `after` has arrived too. Sidecars send in
    /// order, so a second record of the same exchange would be there by then.
    pub fn settled(&self, marker: &str, after: impl FnOnce(&str) -> Result<()>) -> Result<Vec<AuditRecord>> {
        let last = self::marker();
        after(&last)?;
        let holds = |record: &AuditRecord, text: &str| record.attribute("url.path").contains(text);
        let records = self.records_when("the record of the last request", |records| {
            let kinds = |text: &str| records.iter().filter(|record| holds(record, text)).count();
            kinds(&last) > 0 && kinds(marker) > 0
        })?;
        Ok(records.into_iter().filter(|record| holds(record, marker)).collect())
    }
}

/// Names of a pod's init containers.
pub fn init_containers(pod: &serde_json::Value) -> Vec<String> {
    let list = pod.pointer("/spec/initContainers").and_then(|list| list.as_array());
    let names = list.into_iter().flatten().filter_map(|container| container.get("name")?.as_str());
    names.map(str::to_string).collect()
}

/// The only element.
pub fn single<T: std::fmt::Debug>(mut items: Vec<T>) -> Result<T> {
    ensure!(items.len() == 1, "exactly one is wanted: {items:#?}");
    items.pop().context("exactly one is wanted")
}

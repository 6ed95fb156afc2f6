//! The two containers and the volumes that injection adds, as JSON.

use super::Selection;
use super::resources::{self, Resources};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use std::ops::RangeInclusive;
use testimony_core::contract::{self, env, id, path, pod, port};
use testimony_core::policy::PolicyDocument;

/// Whether `testimony-init` may gain privileges by its file capability.
///
/// `false` sets no_new_privs, under which the kernel still grants a file capability that the process had before `execve`:
/// the container runtime leaves NET_ADMIN in the permitted set of a non-root process whose container adds it.
const INIT_MAY_ESCALATE: bool = false;

/// Failures of the startup probe, one second each, before the sidecar is restarted.
pub const PROBE_FAILURES_MAX: u32 = 120;

/// Life of the projected token, in seconds; the kubelet renews it at 80 %.
const TOKEN_EXPIRATION_S: u32 = 3600;

/// Size of the state volume without a spool, in MiB: two policy documents and room for the next.
const STATE_MEBIBYTES: u32 = 1;

/// Percent of the spool's size that its files may take: an emptyDir over its limit evicts the pod.
const SPOOL_FILL_PERCENT: u64 = 90;

/// Size limit of the volume with the pod's key: one file.
const KEY_SIZE_LIMIT: &str = "1Mi";

/// Digits of the suffix of a CronJob's Jobs: minutes since the epoch.
pub(super) const CRON_SUFFIX_DIGITS: usize = 8;

/// The first two of them, 2025 to 2065: a date such as 20261130 is smaller.
pub(super) const CRON_SUFFIX_BEGINS: RangeInclusive<u8> = 29..=49;

/// What follows them in a date such as 30112026, which one in a thousand of such minutes looks like, too: month and century.
/// Of an owner a pod says no more than kind and name, and a Job's own name is true of both.
pub(super) const DATE_MONTHS: RangeInclusive<u8> = 1..=12;
pub(super) const DATE_CENTURY: &str = "20";

/// Where the API server's ServiceAccount plugin, which runs again after us, mounts the application's token for the API into
/// every container that has nothing there. Our containers must not hold it: the state volume stands in its place.
const API_TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What every injected pod gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidecarConfig {
    /// Image of both containers.
    pub image: String,
    /// Size of the spool in MiB; 0: records wait in memory.
    pub spool_mebibytes: u32,
    /// `Always`, `IfNotPresent`, `Never`; `None`: Kubernetes' default for the tag.
    pub pull_policy: Option<String>,
    /// For images that lost the file capability on their way.
    pub init_run_as_root: bool,
    /// Of the sidecar.
    pub resources: Resources,
    /// Of the init container.
    pub init_resources: Resources,
    /// Log filter of the sidecar.
    pub log: String,
    /// Base URL of the policy server.
    pub operator_url: String,
}

/// All that goes into one pod.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Same for all pods.
    pub config: &'a SidecarConfig,
    /// What this pod runs.
    pub selection: &'a Selection,
    /// Namespace of the pod: the pod itself may not say.
    pub namespace: &'a str,
    /// Uid of kube-system.
    pub cluster_uid: &'a str,
    /// PEM bundle that signs the policy server's certificate.
    pub operator_ca: &'a str,
    /// Random.
    pub injection_id: &'a str,
}

/// Kind and name of the workload that owns a pod; the name is `None` when only the created pod knows its own.
pub fn workload(object: &Pod) -> (String, Option<String>) {
    let owner = object.owner_references().iter().find(|o| o.controller.unwrap_or_default());
    let Some(owner) = owner else { return ("Pod".to_owned(), object.metadata.name.clone().filter(|n| !n.is_empty())) };
    if owner.kind == "ReplicaSet"
        && let Some(hash) = object.labels().get("pod-template-hash")
        && let Some(name) = owner.name.strip_suffix(hash.as_str()).and_then(|n| n.strip_suffix('-'))
    {
        return ("Deployment".to_owned(), Some(name.to_owned()));
    }
    if owner.kind == "Job"
        && let Some((name, suffix)) = owner.name.rsplit_once('-')
        && suffix.len() == CRON_SUFFIX_DIGITS
        && suffix.bytes().all(|b| b.is_ascii_digit())
        && number_at(suffix, 0).is_some_and(|n| CRON_SUFFIX_BEGINS.contains(&n))
        && !(number_at(suffix, 2).is_some_and(|n| DATE_MONTHS.contains(&n)) && suffix.get(4..6) == Some(DATE_CENTURY))
    {
        return ("CronJob".to_owned(), Some(name.to_owned()));
    }
    (owner.kind.clone(), Some(owner.name.clone()))
}

fn number_at(digits: &str, begin: usize) -> Option<u8> {
    digits.get(begin..begin + 2)?.parse().ok()
}

/// `testimony-init`.
pub(super) fn init_container(object: &Pod, plan: &Plan<'_>) -> Value {
    let root = plan.config.init_run_as_root;
    let (user, group) = if root { (0, 0) } else { (id::INIT_UID, id::INIT_GID) };
    with_pull_policy(
        plan,
        json!({
            "name": pod::INIT_CONTAINER,
            "image": plan.config.image,
            "command": [path::BINARY],
            "args": ["init"],
            "resources": plan.config.init_resources.json(is_guaranteed(object)),
            "securityContext": security_context(user, group, !root, json!({"drop": ["ALL"], "add": ["NET_ADMIN"]}), INIT_MAY_ESCALATE),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [no_api_token()],
        }),
    )
}

/// `testimony-sidecar`.
pub(super) fn sidecar_container(object: &Pod, plan: &Plan<'_>) -> Value {
    let mut mounts = vec![
        json!({"name": pod::TOKEN_VOLUME, "mountPath": parent(path::TOKEN), "readOnly": true}),
        json!({"name": pod::STATE_VOLUME, "mountPath": path::STATE_DIR}),
        no_api_token(),
    ];
    if plan.config.spool_mebibytes > 0 {
        mounts.push(json!({"name": pod::KEY_VOLUME, "mountPath": path::SPOOL_KEY_DIR}));
    }
    for sink in plan.selection.secrets.keys() {
        let mount = format!("{}/{sink}", path::SINKS_DIR);
        mounts
            .push(json!({"name": format!("{}{sink}", pod::SINK_VOLUME_PREFIX), "mountPath": mount, "readOnly": true}));
    }
    mounts.extend(
        shown_volumes(&plan.selection.document)
            .map(|volume| json!({"name": volume.name, "mountPath": volume.mount, "readOnly": true})),
    );
    with_pull_policy(
        plan,
        json!({
            "name": pod::SIDECAR_CONTAINER,
            "image": plan.config.image,
            "command": [path::BINARY],
            "args": ["run"],
            "restartPolicy": "Always",
            "env": environment(object, plan),
            "startupProbe": {
                "httpGet": {"path": "/ready", "port": port::ADMIN, "scheme": "HTTP"},
                "periodSeconds": 1,
                "failureThreshold": PROBE_FAILURES_MAX,
            },
            "resources": plan.config.resources.json(is_guaranteed(object)),
            "securityContext": security_context(id::SIDECAR_UID, id::SIDECAR_GID, true, json!({"drop": ["ALL"]}), false),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": mounts,
        }),
    )
}

/// The volumes of the sidecar.
pub(super) fn volumes(plan: &Plan<'_>) -> Vec<Value> {
    let token = json!({"serviceAccountToken": {
        "audience": contract::TOKEN_AUDIENCE, "expirationSeconds": TOKEN_EXPIRATION_S, "path": file_name(path::TOKEN),
    }});
    let mut volumes = vec![
        json!({"name": pod::TOKEN_VOLUME, "projected": {"sources": [token]}}),
        json!({"name": pod::STATE_VOLUME, "emptyDir": {"sizeLimit": state_size_limit(plan.config)}}),
    ];
    if plan.config.spool_mebibytes > 0 {
        let key = json!({"medium": "Memory", "sizeLimit": KEY_SIZE_LIMIT});
        volumes.push(json!({"name": pod::KEY_VOLUME, "emptyDir": key}));
    }
    for (sink, secret) in &plan.selection.secrets {
        let name = format!("{}{sink}", pod::SINK_VOLUME_PREFIX);
        volumes.push(json!({"name": name, "secret": {"secretName": secret, "optional": true}}));
    }
    for mut volume in shown_volumes(&plan.selection.document) {
        if let Value::Object(fields) = &mut volume.source {
            fields.insert("name".to_owned(), json!(volume.name));
        }
        volumes.push(volume.source);
    }
    volumes
}

/// Those of our volumes that would keep the cluster autoscaler from removing a node, as its annotation lists them (D5): what
/// is in the spool then is sent at the pod's end, or told as abandoned.
pub(super) fn evictable(plan: &Plan<'_>) -> String {
    let local = volumes(plan).into_iter().filter(|volume| volume.get("emptyDir").is_some());
    let names = local.filter_map(|volume| Some(volume.get("name")?.as_str()?.to_owned()));
    names.collect::<Vec<_>>().join(",")
}

fn state_size_limit(config: &SidecarConfig) -> String {
    format!("{}Mi", config.spool_mebibytes.saturating_add(STATE_MEBIBYTES))
}

/// Names of the volumes that a pod needs for the sinks of a document: one that lacks any must be restarted.
pub fn sink_volumes(document: &PolicyDocument) -> Vec<String> {
    let headers = document.sinks.iter().filter(|sink| sink.credentials);
    let headers = headers.map(|sink| format!("{}{}", pod::SINK_VOLUME_PREFIX, sink.name));
    headers.chain(shown_volumes(document).map(|volume| volume.name)).collect()
}

/// A volume with what a sink is shown.
struct ShownVolume {
    name: String,
    mount: String,
    source: Value,
}

/// Client certificates and tokens of all sinks in the document.
fn shown_volumes(document: &PolicyDocument) -> impl Iterator<Item = ShownVolume> {
    document.sinks.iter().flat_map(|sink| {
        let certificate = sink.client_certificate_secret.as_ref().map(|secret| ShownVolume {
            name: format!("{}{}", pod::SINK_CERTIFICATE_VOLUME_PREFIX, sink.name),
            mount: format!("{}/{}", path::SINK_CERTIFICATES_DIR, sink.name),
            source: json!({"secret": {"secretName": secret, "optional": true, "items": [
                {"key": "tls.crt", "path": "tls.crt"}, {"key": "tls.key", "path": "tls.key"},
            ]}}),
        });
        let token = sink.token_audience.as_ref().map(|audience| ShownVolume {
            name: format!("{}{}", pod::SINK_TOKEN_VOLUME_PREFIX, sink.name),
            mount: format!("{}/{}", path::SINK_TOKENS_DIR, sink.name),
            source: json!({"projected": {"sources": [{"serviceAccountToken": {
                "audience": audience, "expirationSeconds": TOKEN_EXPIRATION_S, "path": path::SINK_TOKEN_FILE,
            }}]}}),
        });
        certificate.into_iter().chain(token)
    })
}

fn environment(object: &Pod, plan: &Plan<'_>) -> Vec<Value> {
    let literal = |name: &str, value: &str| json!({"name": name, "value": escape(value)});
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let (kind, name) = workload(object);
    let service = object.labels().get("app.kubernetes.io/name").cloned().or_else(|| name.clone());
    let named = |variable: &str, value: Option<String>| match value {
        Some(value) => literal(variable, &value),
        None => field(variable, "metadata.name"),
    };
    let container = object.spec.as_ref().and_then(|s| s.containers.first()).map(|c| c.name.as_str());
    let document = serde_json::to_string(&plan.selection.document).unwrap_or_default();
    let spool_bytes = u64::from(plan.config.spool_mebibytes) * 1024 * 1024 / 100 * SPOOL_FILL_PERCENT;
    let spool = (spool_bytes > 0).then(|| literal(env::SPOOL_BYTES_MAX, &spool_bytes.to_string()));
    let variables = vec![
        literal(env::POLICY, &document),
        literal(env::CLUSTER_UID, plan.cluster_uid),
        literal(env::IMAGE, &plan.config.image),
        field(env::POD_NAMESPACE, "metadata.namespace"),
        field(env::POD_NAME, "metadata.name"),
        field(env::POD_UID, "metadata.uid"),
        field(env::NODE_NAME, "spec.nodeName"),
        field(env::SERVICE_ACCOUNT, "spec.serviceAccountName"),
        field(env::POD_IPS, "status.podIPs"),
        field(env::HOST_IPS, "status.hostIPs"),
        literal(env::WORKLOAD_KIND, &kind),
        named(env::WORKLOAD_NAME, name),
        named(env::SERVICE_NAME, service),
        literal(env::CONTAINER_NAME, container.unwrap_or_default()),
        literal(env::INJECTION_ID, plan.injection_id),
        literal(env::OPERATOR_URL, &plan.config.operator_url),
        literal(env::OPERATOR_CA, plan.operator_ca),
        literal(env::LOG, &plan.config.log),
    ];
    variables.into_iter().chain(spool).collect()
}

fn is_guaranteed(object: &Pod) -> bool {
    object.spec.as_ref().is_some_and(resources::is_guaranteed)
}

fn no_api_token() -> Value {
    json!({"name": pod::STATE_VOLUME, "mountPath": API_TOKEN_DIR, "readOnly": true})
}

/// Kubernetes expands `$(NAME)` in values; `$$` stands for one dollar.
fn escape(value: &str) -> String {
    value.replace('$', "$$")
}

fn security_context(user: u32, group: u32, non_root: bool, capabilities: Value, escalate: bool) -> Value {
    json!({
        "runAsUser": user,
        "runAsGroup": group,
        "runAsNonRoot": non_root,
        "allowPrivilegeEscalation": escalate,
        "readOnlyRootFilesystem": true,
        "capabilities": capabilities,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

fn with_pull_policy(plan: &Plan<'_>, mut container: Value) -> Value {
    if let (Some(policy), Value::Object(fields)) = (&plan.config.pull_policy, &mut container) {
        fields.insert("imagePullPolicy".to_owned(), json!(policy));
    }
    container
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(parent, _)| parent)
}

fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

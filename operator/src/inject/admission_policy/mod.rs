//! Injection without a webhook: MutatingAdmissionPolicies, which the API server evaluates itself.
//!
//! They are made of the very containers and volumes that the webhook's patch is made of. What must differ: CEL cannot compile
//! a policy document, so a pod starts with the [`bootstrap`] document and gets its own by its first poll, for which it waits
//! before its containers start; CEL has no randomness, so the injection id is a constant; and the Secrets of all sinks are
//! mounted, because which sinks a pod uses stands in its document.

mod bootstrap;
mod cel;
mod probes;
mod resources;
mod selects;
#[cfg(test)]
mod tests;

pub use bootstrap::bootstrap;

use super::decide::POD_SECURITY_STRICT;
use super::traits::{OS_LABEL, OTHER_PROXIES, SINK_VOLUME_PREFIXES};
use super::{ExcludedNamespaces, NAMESPACES_NEVER, Plan, Selection, SidecarConfig, build};
use cel::{list, literal, operation, quoted, raw};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use testimony_core::contract::{annotation, env, label, pod, port};

/// Names of the policies and of their bindings; they never change.
pub const NAMES: [&str; 3] = ["testimony-inject", "testimony-inject-cluster", "testimony-inject-strict"];

/// Injection id of every pod that was injected without a webhook.
pub const INJECTION_ID: &str = "admission-policy";

const OURS: [&str; 2] = [pod::INIT_CONTAINER, pod::SIDECAR_CONTAINER];

/// What the policies are made of, besides the plan that all pods share.
#[derive(Clone, Debug)]
pub struct Surroundings<'a> {
    /// Namespaces that are never touched.
    pub excluded: &'a ExcludedNamespaces,
    /// Whether there are strict namespaces.
    pub strict: bool,
    /// What pods must be able to reach: all sinks.
    pub mounts: &'a Selection,
    /// Namespace and selector of the Services of AuditSinks.
    pub sink_services: Vec<(String, BTreeMap<String, String>)>,
}

/// Whom a policy injects; each has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    /// Pods that an AuditPolicy of their namespace selects.
    Selected,
    /// Pods that a ClusterAuditPolicy selects.
    ClusterSelected,
    /// Every pod of a strict namespace.
    Strict,
}

impl Whom {
    /// Of the policy and its binding.
    const fn name(self) -> &'static str {
        let [selected, cluster, strict] = NAMES;
        match self {
            Self::Selected => selected,
            Self::ClusterSelected => cluster,
            Self::Strict => strict,
        }
    }

    /// The kind of the policies that select: each is tried as the parameter.
    const fn param_kind(self) -> Option<&'static str> {
        match self {
            Self::Selected => Some("AuditPolicy"),
            Self::ClusterSelected => Some("ClusterAuditPolicy"),
            Self::Strict => None,
        }
    }

    fn is_strict(self) -> bool {
        self == Self::Strict
    }
}

/// Policies and bindings, in the order in which they are to be applied. The plan's namespace is not looked at.
pub fn objects(plan: &Plan<'_>, surroundings: &Surroundings<'_>) -> Vec<Value> {
    let made = made(plan, surroundings.mounts);
    let all = [Whom::Selected, Whom::ClusterSelected, Whom::Strict];
    let wanted = all.into_iter().filter(|whom| surroundings.strict || !whom.is_strict());
    wanted.flat_map(|whom| [policy(whom, &made, surroundings), binding(whom, surroundings)]).collect()
}

const API_VERSION: &str = "admissionregistration.k8s.io/v1";

fn metadata(name: &str) -> Value {
    let labels =
        json!({"app.kubernetes.io/managed-by": "testimony-operator", "app.kubernetes.io/part-of": "testimony"});
    json!({"name": name, "labels": labels})
}

fn policy(whom: Whom, made: &Made, surroundings: &Surroundings<'_>) -> Value {
    let strict = whom.is_strict();
    let mut conditions = obstacles(whom, surroundings);
    let mut variables = variables(made);
    let mut patch = patch(made, strict);
    if !strict {
        conditions.push(("selected", selects::pod()));
    }
    if whom == Whom::ClusterSelected {
        // Variables and mutations see the namespace's labels; conditions do not.
        variables.push(("reached", selects::namespace()));
        patch = format!("!variables.reached ? [] :\n{patch}");
    }
    let named = |(name, expression): (&str, String)| json!({"name": name, "expression": expression});
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
                      "scope": "Namespaced"});
    let mut spec = json!({
        "failurePolicy": if strict { "Fail" } else { "Ignore" },
        "reinvocationPolicy": "IfNeeded",
        "matchConstraints": {"resourceRules": [rule]},
        "matchConditions": conditions.into_iter().map(named).collect::<Vec<_>>(),
        "variables": variables.into_iter().map(named).collect::<Vec<_>>(),
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}],
    });
    if let Some(kind) = whom.param_kind() {
        spec["paramKind"] = json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": kind});
    }
    let metadata = metadata(whom.name());
    json!({"apiVersion": API_VERSION, "kind": "MutatingAdmissionPolicy", "metadata": metadata, "spec": spec})
}

/// Without a namespace in `paramRef`, the AuditPolicies of the pod's own namespace are the parameters, and all
/// ClusterAuditPolicies.
fn binding(whom: Whom, surroundings: &Surroundings<'_>) -> Value {
    let excluded = surroundings.excluded;
    let never =
        NAMESPACES_NEVER.into_iter().chain([excluded.own.as_str()]).chain(excluded.further.iter().map(String::as_str));
    let not_in = |key: &str, values: Vec<&str>| json!({"key": key, "operator": "NotIn", "values": values});
    let mut expressions = vec![
        not_in("kubernetes.io/metadata.name", never.collect()),
        // Conditions cannot see the namespace; selectors can.
        not_in("pod-security.kubernetes.io/enforce", POD_SECURITY_STRICT.to_vec()),
    ];
    if surroundings.strict {
        let operator = if whom.is_strict() { "In" } else { "NotIn" };
        expressions.push(json!({"key": label::ENFORCEMENT, "operator": operator, "values": [label::STRICT]}));
    }
    let name = whom.name();
    let mut spec =
        json!({"policyName": name, "matchResources": {"namespaceSelector": {"matchExpressions": expressions}}});
    if whom.param_kind().is_some() {
        spec["paramRef"] = json!({"selector": {}, "parameterNotFoundAction": "Allow"});
    }
    json!({"apiVersion": API_VERSION, "kind": "MutatingAdmissionPolicyBinding", "metadata": metadata(name), "spec": spec})
}

// === Conditions ===

const LABELS: &str = "object.metadata.?labels.orValue({})";
const ANNOTATIONS: &str = "object.metadata.?annotations.orValue({})";
const CONTAINERS: &str = "(object.spec.?initContainers.orValue([]) + object.spec.containers)";

/// Whether the pod has its sidecar already, as [`super::PodTraits`] sees it.
fn injected() -> String {
    format!(
        "{} in {ANNOTATIONS} && object.spec.?initContainers.orValue([]).exists(c, c.name == {})",
        quoted(annotation::INJECTION_ID),
        quoted(pod::SIDECAR_CONTAINER)
    )
}

/// Each holds for a pod that can be audited: the counterpart of `obstacle` in [`super::decide()`].
fn obstacles(whom: Whom, surroundings: &Surroundings<'_>) -> Vec<(&'static str, String)> {
    let (ours, proxies) = (list(OURS), list(OTHER_PROXIES));
    let ports = [port::INBOUND, port::OUTBOUND, port::ADMIN].map(|p| p.to_string()).join(", ");
    let volumes = list([pod::TOKEN_VOLUME, pod::STATE_VOLUME, pod::KEY_VOLUME]);
    let is_ours = |name: &str| {
        let prefixes = SINK_VOLUME_PREFIXES.map(|prefix| format!(" || {name}.startsWith({})", quoted(prefix)));
        format!("({name} in {volumes}{})", prefixes.concat())
    };
    let stays = format!("{LABELS}[?{}].orValue('') != 'disabled'", quoted(label::INJECT));
    // Of a floor no label opts out.
    let stays = if whom == Whom::ClusterSelected { format!("{stays} || {}", selects::is_baseline()) } else { stays };
    let mut conditions = vec![
        ("no-mirror-pod", format!("!('kubernetes.io/config.mirror' in {ANNOTATIONS})")),
        ("no-host-network", "!object.spec.?hostNetwork.orValue(false)".to_owned()),
        ("linux", linux()),
        ("not-opted-out", stays),
        ("no-other-proxy", format!("!{CONTAINERS}.exists(c, c.name in {proxies})")),
        (
            "ports-are-free",
            format!(
                "!{CONTAINERS}.exists(c, !(c.name in {ours}) && c.?ports.orValue([]).exists(p, p.containerPort in [{ports}]))"
            ),
        ),
        (
            "names-are-free",
            format!(
                "({}) || !({CONTAINERS}.exists(c, c.name in {ours} || c.?volumeMounts.orValue([]).exists(m, {})) || \
                 object.spec.?volumes.orValue([]).exists(v, {}))",
                injected(),
                is_ours("m.name"),
                is_ours("v.name")
            ),
        ),
    ];
    let sinks = surroundings.sink_services.iter().map(|(namespace, selector)| {
        let pairs = selector.iter().map(|(k, v)| format!(" && {LABELS}[?{}] == optional.of({})", quoted(k), quoted(v)));
        format!("!(request.namespace == {}{})", quoted(namespace), pairs.collect::<String>())
    });
    let sinks: Vec<String> = sinks.collect();
    if !sinks.is_empty() {
        conditions.push(("no-sink", sinks.join(" && ")));
    }
    conditions
}

/// Neither the pod's OS, nor its node selector, nor each term of its affinity asks for another one.
fn linux() -> String {
    let label = quoted(OS_LABEL);
    let terms = "object.spec.?affinity.?nodeAffinity.?requiredDuringSchedulingIgnoredDuringExecution.?nodeSelectorTerms\
                 .orValue([])";
    let demands = format!(
        "e.key == {label} && (e.operator == 'In' && e.?values.orValue([]).all(v, v == 'windows') || \
         e.operator == 'NotIn' && 'linux' in e.?values.orValue([]))"
    );
    format!(
        "object.spec.?os.?name.orValue('') != 'windows' && \
         object.spec.?nodeSelector.orValue({{}})[?{label}].orValue('') != 'windows' && \
         (size({terms}) == 0 || !{terms}.all(t, t.?matchExpressions.orValue([]).exists(e, {demands})))"
    )
}

// === Variables ===

/// What the pod's environment and annotations are made of.
fn variables(made: &Made) -> Vec<(&'static str, String)> {
    let hash = "variables.labels[?'pod-template-hash'].orValue('')";
    let digits = build::CRON_SUFFIX_DIGITS;
    let any = |numbers: RangeInclusive<u8>| numbers.map(|n| format!("{n:02}")).collect::<Vec<_>>().join("|");
    let (begins, months, century) = (any(build::CRON_SUFFIX_BEGINS), any(build::DATE_MONTHS), build::DATE_CENTURY);
    let owner = "variables.owners[0]";
    let absent = [
        ("object.spec.?initContainers", "/spec/initContainers"),
        ("object.spec.?volumes", "/spec/volumes"),
        ("object.metadata.?labels", "/metadata/labels"),
        ("object.metadata.?annotations", "/metadata/annotations"),
    ]
    .map(|(field, path)| format!("({field}.hasValue() ? '' : '\"{path}\"')"));
    vec![
        ("labels", LABELS.to_owned()),
        ("annotations", ANNOTATIONS.to_owned()),
        ("initContainers", "object.spec.?initContainers.orValue([])".to_owned()),
        ("containers", "object.spec.containers".to_owned()),
        ("injected", injected()),
        ("owners", "object.metadata.?ownerReferences.orValue([]).filter(o, o.?controller.orValue(false))".to_owned()),
        (
            "kind",
            format!(
                "size(variables.owners) == 0 ? 'Pod' :\n\
                 {owner}.kind == 'ReplicaSet' && 'pod-template-hash' in variables.labels && {owner}.name.endsWith('-' + {hash}) ? 'Deployment' :\n\
                 {owner}.kind == 'Job' && {owner}.name.matches('-({begins})[0-9]{{{}}}$') && \
                 !{owner}.name.matches('-[0-9]{{2}}({months}){century}[0-9]{{2}}$') ? 'CronJob' : {owner}.kind",
                digits - 2
            ),
        ),
        (
            "workload",
            format!(
                "size(variables.owners) == 0 ? object.metadata.?name.orValue('') :\n\
                 variables.kind == 'Deployment' && {owner}.kind == 'ReplicaSet' ? {owner}.name.substring(0, size({owner}.name) - size({hash}) - 1) :\n\
                 variables.kind == 'CronJob' && {owner}.kind == 'Job' ? {owner}.name.substring(0, size({owner}.name) - {}) : {owner}.name",
                digits + 1
            ),
        ),
        ("service", "variables.labels[?'app.kubernetes.io/name'].orValue(variables.workload)".to_owned()),
        ("changed", probes::changed()),
        ("absent", format!("[{}].filter(t, t != '').join(',')", absent.join(", "))),
        ("guaranteed", resources::guaranteed()),
        ("grown", resources::grown()),
        ("init", literal(&made.init)),
        ("sidecar", literal(&made.sidecar)),
    ]
}

/// What pods get, as JSON with expressions, and the entries of their labels and annotations.
struct Made {
    init: Value,
    sidecar: Value,
    volumes: Vec<Value>,
    raised: String,
    entries: String,
}

fn made(plan: &Plan<'_>, mounts: &Selection) -> Made {
    let all = Plan { selection: mounts, ..*plan };
    Made {
        init: resources::fitted(build::init_container(&Pod::default(), &all), &plan.config.init_resources),
        sidecar: resources::fitted(sidecar(plan, &all), &plan.config.resources),
        volumes: build::volumes(&all),
        raised: resources::raised(plan.config),
        entries: entries(plan),
    }
}

/// The container of the webhook, with expressions where it differs from pod to pod. It mounts what all sinks need, and starts
/// with the plan's document.
fn sidecar(plan: &Plan<'_>, all: &Plan<'_>) -> Value {
    let start = build::sidecar_container(&Pod::default(), plan);
    let environment = start.get("env").cloned().unwrap_or_default();
    let mut container = build::sidecar_container(&Pod::default(), all);
    if let Some(own) = container.get_mut("env") {
        *own = environment;
    }
    let entry = |name: &str, value: &str| {
        let field = json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
        let literal_value = json!({"name": name, "value": raw(value)});
        raw(format!("{value} == '' ? {} : {}", literal(&field), literal(&literal_value)))
    };
    for variable in container.pointer_mut("/env").and_then(Value::as_array_mut).into_iter().flatten() {
        let replaced = match variable.get("name").and_then(Value::as_str) {
            Some(env::WORKLOAD_KIND) => json!({"name": env::WORKLOAD_KIND, "value": raw("variables.kind")}),
            Some(env::WORKLOAD_NAME) => entry(env::WORKLOAD_NAME, "variables.workload"),
            Some(env::SERVICE_NAME) => entry(env::SERVICE_NAME, "variables.service"),
            Some(env::CONTAINER_NAME) => {
                json!({"name": env::CONTAINER_NAME, "value": raw("object.spec.containers[0].name")})
            }
            _ => continue,
        };
        *variable = replaced;
    }
    if let Some(environment) = container.pointer_mut("/env").and_then(Value::as_array_mut) {
        environment.push(json!({"name": env::POLICY_WAIT, "value": "true"}));
    }
    container
}

// === The patch ===

fn patch(made: &Made, strict: bool) -> String {
    let probes = probes::operations();
    let fresh = [containers(), volumes(&made.volumes), made.raised.clone(), made.entries.clone()].join(" +\n");
    // A pod that is looked at again, because something changed it after us.
    let status = quoted(annotation::STATUS);
    let before = format!("variables.annotations[?{status}].orValue('{{}}')");
    let merged = format!(
        "({before}.startsWith('{{\"probes\":[') ? '{{\"probes\":[' + variables.changed + ',' + {before}.substring(11) : \
         '{{\"probes\":[' + variables.changed + ']' + ({before} == '{{}}' ? '}}' : ',' + {before}.substring(1)))"
    );
    let path = quoted(&format!("/metadata/annotations/{}", escaped(annotation::STATUS)));
    let late = format!("(variables.changed == '' ? [] : [{}])", operation("add", &path, Some(&merged)));
    let again = if strict { format!("{} +\n{late}", repaired(&made.volumes)) } else { late };
    format!("{probes} +\n(variables.injected ?\n{again} :\n{fresh})")
}

fn containers() -> String {
    let at = |i: usize, name: &str| operation("add", &quoted(&format!("/spec/initContainers/{i}")), Some(name));
    format!(
        "(has(object.spec.initContainers) ? [{}, {}] : [{}])",
        at(0, "variables.init"),
        at(1, "variables.sidecar"),
        operation("add", "\"/spec/initContainers\"", Some("[variables.init, variables.sidecar]"))
    )
}

fn volumes(volumes: &[Value]) -> String {
    let each: Vec<String> =
        volumes.iter().map(|v| operation("add", "\"/spec/volumes/-\"", Some(&literal(v)))).collect();
    let all = operation("add", "\"/spec/volumes\"", Some(&literal(&Value::Array(volumes.to_vec()))));
    format!("(has(object.spec.volumes) ? [{}] : [{all}])", each.join(",\n"))
}

/// In a strict namespace a claim is not enough: what stands where our containers and volumes stand is replaced. What does
/// not stand there is refused by the ValidatingAdmissionPolicy.
fn repaired(volumes: &[Value]) -> String {
    let names = "variables.initContainers.map(c, c.name)";
    let containers = OURS.iter().zip(["variables.init", "variables.sidecar"]).enumerate().map(|(i, (name, value))| {
        let path = quoted(&format!("/spec/initContainers/{i}"));
        let replace = operation("replace", &path, Some(value));
        format!("(size({names}) > {i} && {names}[{i}] == {} ? [{replace}] : [])", quoted(name))
    });
    let held = "object.spec.?volumes.orValue([])";
    let volumes = volumes.iter().map(|volume| {
        let name = quoted(volume.get("name").and_then(Value::as_str).unwrap_or_default());
        let path = format!("\"/spec/volumes/\" + string({held}.map(v, v.name).indexOf({name}))");
        let replace = operation("replace", &path, Some(&literal(volume)));
        format!("({held}.exists(v, v.name == {name}) ? [{replace}] : [])")
    });
    containers.chain(volumes).collect::<Vec<_>>().join(" +\n")
}

/// Labels and annotations.
fn entries(plan: &Plan<'_>) -> String {
    let parts = "[variables.changed == '' ? '' : '\"probes\":[' + variables.changed + ']', \
                 variables.absent == '' ? '' : '\"absent\":[' + variables.absent + ']', \
                 variables.grown == '' ? '' : '\"resources\":{' + variables.grown + '}']";
    let status = format!("'{{' + {parts}.filter(t, t != '').join(',') + '}}'");
    let labels = [(label::INJECTED, quoted("true"))];
    let (evictable, ours) = (quoted(annotation::EVICTABLE_VOLUMES), build::evictable(plan));
    let merged = format!(
        "({evictable} in variables.annotations ? variables.annotations[{evictable}] + {} : {})",
        quoted(&format!(",{ours}")),
        quoted(&ours)
    );
    let annotations = [
        (annotation::EVICTABLE_VOLUMES, merged),
        (annotation::INJECTION_ID, quoted(plan.injection_id)),
        (annotation::REVISION, quoted(&plan.selection.document.revision)),
        (annotation::STATUS, status),
    ];
    format!("{} +\n{}", map("labels", &labels), map("annotations", &annotations))
}

fn map(field: &str, entries: &[(&str, String)]) -> String {
    let each = entries
        .iter()
        .map(|(key, value)| operation("add", &quoted(&format!("/metadata/{field}/{}", escaped(key))), Some(value)));
    let all = entries.iter().map(|(key, value)| format!("{}: {value}", quoted(key)));
    let whole = format!("{{{}}}", all.collect::<Vec<_>>().join(", "));
    format!(
        "(has(object.metadata.{field}) ? [{}] : [{}])",
        each.collect::<Vec<_>>().join(", "),
        operation("add", &quoted(&format!("/metadata/{field}")), Some(&whole))
    )
}

/// A key as part of a JSON pointer.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

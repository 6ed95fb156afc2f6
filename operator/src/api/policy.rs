//! `AuditPolicy`: what to record for which pods of a namespace.

// One printcolumn each, with the same keys.
#![allow(clippy::duplicated_attributes)]

use super::{AuditPolicyStatus, yes};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use testimony_core::policy;

/// What to record for the pods that it selects. Policies add up: adding one never audits less.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "audit.testimony.dev",
    version = "v1alpha1",
    kind = "AuditPolicy",
    plural = "auditpolicies",
    namespaced,
    status = "AuditPolicyStatus",
    shortname = "audpol",
    category = "audit",
    derive = "PartialEq",
    doc = "What to record for the pods that it selects. Policies add up: adding one never audits less.",
    printcolumn(name = "Sinks", type_ = "string", json_path = ".status.sinks"),
    printcolumn(name = "Matched", type_ = "integer", json_path = ".status.pods.matched"),
    printcolumn(name = "Programmed", type_ = "integer", json_path = ".status.pods.programmed"),
    printcolumn(name = "Restart", type_ = "integer", json_path = ".status.pods.needRestart"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Gaps", type_ = "integer", json_path = ".status.evidence.gaps", priority = 1),
    printcolumn(name = "Unanchored", type_ = "integer", json_path = ".status.evidence.unanchored", priority = 1),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.effectiveRevision", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct AuditPolicySpec {
    /// Pods, by their labels; empty selects every pod.
    #[serde(default)]
    pub pod_selector: PodSelector,
    /// Names of AuditSinks that receive the records. Omitted: the sink that is marked default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8), inner(length(min = 1, max = 48)), extend("x-kubernetes-list-type" = "set"))]
    pub sinks: Option<Vec<String>>,
    /// Which connections are looked at.
    #[serde(default)]
    pub capture: Capture,
    /// The first rule that matches an exchange gives its level; no rules, or none that matches: Metadata.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["name"],
            "x-kubernetes-validations" = [{
                "rule": "self.filter(r, !has(r.match) || ((!has(r.match.methods) || size(r.match.methods) == 0) && (!has(r.match.pathPrefixes) || size(r.match.pathPrefixes) == 0) && (!has(r.match.ports) || size(r.match.ports) == 0) && !has(r.match.when))).all(r, r.name == self[size(self) - 1].name)",
                "message": "rules: a rule without match conditions matches everything, so the rules after it can never match: move it to the end or give it a match"
            }]
        )
    )]
    pub rules: Vec<Rule>,
    /// When the answer to a recorded request may leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// What happens to what this policy records while it cannot be recorded. Of several policies `Closed` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_mode: Option<FailureMode>,
    /// How requests are tied together.
    #[serde(default)]
    pub correlation: Correlation,
    /// What must never stand in a record, on top of the built-in floor.
    #[serde(default)]
    pub redact: Redact,
    /// Stops recording by this policy; injection goes on, so that resuming needs no restart.
    #[serde(default)]
    pub suspend: bool,
    /// What happens to pods that need a restart.
    #[serde(default)]
    pub rollout: Rollout,
}

/// When the answer to a recorded request may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Delivery {
    /// Of several policies that record a request `Strict` counts.
    #[serde(default)]
    pub mode: DeliveryMode,
}

/// When the answer to a recorded request may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeliveryMode {
    /// At once. The record is durable a moment later: the death of the node may cost the last moments.
    #[default]
    Async,
    /// Once a record of it is durable in the pod's spool, a few milliseconds later; never does it wait for a sink. With
    /// `failureMode: Closed` the request, too, goes on only when its beginning is durable. Waits end after a second.
    Strict,
}

/// What happens to what a policy records while it cannot be recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailureMode {
    /// It passes, and a gap counts it.
    #[default]
    Open,
    /// It is refused: HTTP gets 503, gRPC UNAVAILABLE, other connections are closed. What no rule records passes.
    Closed,
}

/// What happens to selected pods that only a restart brings into line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Rollout {
    /// They are counted.
    #[default]
    Manual,
    /// The operator restarts their Deployment, StatefulSet or DaemonSet as `kubectl rollout restart` does: one workload of a
    /// namespace at a time, none while another is not fully available, and each once for each edit of the policy; none while the
    /// policy is suspended. Needs the chart's value `rollout.enabled`. Pods of Jobs and bare pods are only counted.
    Restart,
}

/// A label selector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSelector {
    /// Labels that a pod must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(
        extend(
            "maxProperties" = 32,
            "x-kubernetes-validations" = [{
                "rule": "self.all(k, size(k) <= 317 && size(self[k]) <= 63)",
                "message": "matchLabels: a label's name has at most 317 characters and its value at most 63"
            }]
        )
    )]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions that a pod's labels must meet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Vec<SelectorRequirement>,
}

/// One condition of a selector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : !has(self.values) || size(self.values) == 0",
    "message": "matchExpressions: In and NotIn need values, Exists and DoesNotExist allow none"
}]))]
pub struct SelectorRequirement {
    /// The label's name.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the label is compared.
    pub operator: SelectorOperator,
    /// Values for In and NotIn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 63)), extend("x-kubernetes-list-type" = "atomic"))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SelectorOperator {
    /// The value is one of the given.
    In,
    /// The value is none of the given, or the label is absent.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// Which connections are looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capture {
    /// Directions that are recorded, seen from the pod.
    #[serde(default = "both_directions")]
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub directions: Vec<Direction>,
    /// Ports that this policy leaves alone. An edit needs no restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port", "direction"])
    )]
    pub exclude_ports: Vec<ExcludePort>,
    /// Whether the application is told the client's address, which the proxy hides.
    #[serde(default)]
    pub client_address: ClientAddress,
}

impl Default for Capture {
    fn default() -> Self {
        Self { directions: both_directions(), exclude_ports: Vec::new(), client_address: ClientAddress::None }
    }
}

fn both_directions() -> Vec<Direction> {
    vec![Direction::Inbound, Direction::Outbound]
}

/// From whom a connection was opened, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Direction {
    /// To the pod.
    Inbound,
    /// From the pod.
    Outbound,
}

/// A port that a policy leaves alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.port < 24801 || self.port > 24803",
    "message": "excludePorts: ports 24801 to 24803 are the sidecar's own and never captured: remove this entry"
}]))]
pub struct ExcludePort {
    /// The original destination's port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// In which direction.
    pub direction: Direction,
}

/// Whether the application is told the client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClientAddress {
    /// Nothing is added.
    #[default]
    None,
    /// `x-forwarded-for` is added to inbound requests that lack it.
    XForwardedFor,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Unique in this policy; records and metrics name it.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// All that is given must match; empty matches everything.
    #[serde(default, rename = "match", skip_serializing_if = "RuleMatch::is_empty")]
    pub matches: RuleMatch,
    /// How much is recorded.
    pub level: Level,
}

/// What a rule matches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleMatch {
    /// HTTP methods, in capitals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 32), regex(pattern = r"^[A-Z][A-Z0-9_-]*$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub methods: Vec<String>,
    /// Prefixes of the path, compared by whole segments: `/api` matches `/api` and `/api/x`, not `/apiary`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 256), regex(pattern = r"^/[^?#]*$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub path_prefixes: Vec<String>,
    /// Ports of the original destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 1, max = 65535)), extend("x-kubernetes-list-type" = "set"))]
    pub ports: Vec<u16>,
    /// An expression in CEL over `request` and `connection`, such as `request.path.startsWith('/v1/')`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub when: Option<String>,
}

impl RuleMatch {
    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.methods.is_empty() && self.path_prefixes.is_empty() && self.ports.is_empty() && self.when.is_none()
    }
}

/// How much is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Level {
    /// Nothing, but the exchange is counted.
    None,
    /// Everything but bodies.
    Metadata,
}

/// How requests are tied together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Correlation {
    /// What happens to a trace context that a request brings: Continue keeps it, Restart begins a new trace for inbound
    /// requests and records the client's value.
    #[serde(default)]
    pub trace_context: TraceContext,
    /// What happens to a request without trace context: Make adds a `traceparent`, Leave adds nothing.
    #[serde(default)]
    pub when_absent: WhenAbsent,
    /// Percent of the traces made here that carry the sampled flag. Records are never sampled.
    #[serde(default = "sampled_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub sampled_percent: u8,
    /// Header of the correlation id, kept or made; empty: none.
    #[serde(default = "correlation_header")]
    #[schemars(
        length(max = 64),
        regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]*$"),
        extend("x-kubernetes-validations" = [{
            "rule": "!(self.lowerAscii() in ['authorization', 'proxy-authorization', 'proxy-authenticate', 'www-authenticate', 'cookie', 'set-cookie', 'host', 'content-length', 'content-type', 'content-encoding', 'transfer-encoding', 'te', 'trailer', 'connection', 'keep-alive', 'proxy-connection', 'upgrade', 'expect', 'date', 'traceparent', 'tracestate', 'x-forwarded-for', 'forwarded'])",
            "message": "correlation.header: this header has a meaning of its own; use one that only carries an id, such as x-request-id"
        }])
    )]
    pub header: String,
    /// Link an outbound request without trace context to the only inbound exchange in flight.
    #[serde(default = "yes")]
    pub infer_from_single_in_flight: bool,
}

fn sampled_percent() -> u8 {
    100
}

fn correlation_header() -> String {
    "x-request-id".to_owned()
}

impl Default for Correlation {
    fn default() -> Self {
        Self {
            trace_context: TraceContext::Continue,
            when_absent: WhenAbsent::Make,
            sampled_percent: sampled_percent(),
            header: correlation_header(),
            infer_from_single_in_flight: true,
        }
    }
}

/// What happens to a trace context that a request brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TraceContext {
    /// It is kept untouched.
    #[default]
    Continue,
    /// Inbound requests get a new trace.
    Restart,
}

/// What happens to a request without trace context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenAbsent {
    /// A `traceparent` is made and forwarded.
    #[default]
    Make,
    /// Nothing is added.
    Leave,
}

/// What must never stand in a record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Redact {
    /// Header names that are left out of records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub headers: Vec<String>,
    /// Query parameters whose names are masked too; values are always masked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 128)), extend("x-kubernetes-list-type" = "set"))]
    pub query: Vec<String>,
}

// === conversions ===

impl From<&PodSelector> for LabelSelector {
    fn from(selector: &PodSelector) -> Self {
        let expressions = selector.match_expressions.iter().map(|e| LabelSelectorRequirement {
            key: e.key.clone(),
            operator: format!("{:?}", e.operator),
            values: (!e.values.is_empty()).then(|| e.values.clone()),
        });
        Self { match_labels: Some(selector.match_labels.clone()), match_expressions: Some(expressions.collect()) }
    }
}

impl From<Direction> for policy::Direction {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::Inbound,
            Direction::Outbound => Self::Outbound,
        }
    }
}

impl From<DeliveryMode> for policy::DeliveryMode {
    fn from(mode: DeliveryMode) -> Self {
        match mode {
            DeliveryMode::Async => Self::Async,
            DeliveryMode::Strict => Self::Strict,
        }
    }
}

impl From<FailureMode> for policy::FailureMode {
    fn from(mode: FailureMode) -> Self {
        match mode {
            FailureMode::Open => Self::Open,
            FailureMode::Closed => Self::Closed,
        }
    }
}

impl From<Level> for policy::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::None => Self::None,
            Level::Metadata => Self::Metadata,
        }
    }
}

impl From<ClientAddress> for policy::ClientAddress {
    fn from(address: ClientAddress) -> Self {
        match address {
            ClientAddress::None => Self::None,
            ClientAddress::XForwardedFor => Self::XForwardedFor,
        }
    }
}

impl From<TraceContext> for policy::TraceContext {
    fn from(context: TraceContext) -> Self {
        match context {
            TraceContext::Continue => Self::Continue,
            TraceContext::Restart => Self::Restart,
        }
    }
}

impl From<WhenAbsent> for policy::WhenAbsent {
    fn from(absent: WhenAbsent) -> Self {
        match absent {
            WhenAbsent::Make => Self::Make,
            WhenAbsent::Leave => Self::Leave,
        }
    }
}

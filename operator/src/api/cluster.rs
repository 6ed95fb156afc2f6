//! `ClusterAuditPolicy`: what to record for pods of many namespaces.

// One printcolumn each, with the same keys.
#![allow(clippy::duplicated_attributes)]

use super::{AuditPolicySpec, AuditPolicyStatus, PodSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to record for the pods that it selects in many namespaces.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "audit.testimony.dev",
    version = "v1alpha1",
    kind = "ClusterAuditPolicy",
    plural = "clusterauditpolicies",
    status = "AuditPolicyStatus",
    shortname = "caudpol",
    category = "audit",
    derive = "PartialEq",
    doc = "What to record for the pods that it selects in many namespaces. Policies add up: adding one never audits less.",
    printcolumn(name = "Enforcement", type_ = "string", json_path = ".spec.enforcement"),
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
pub struct ClusterAuditPolicySpec {
    /// Namespaces, by their labels; empty selects every namespace. Kubernetes' own namespaces and the operator's are
    /// never touched.
    #[serde(default)]
    pub namespace_selector: PodSelector,
    /// Whether pods and namespaces can opt out.
    #[serde(default)]
    pub enforcement: Enforcement,
    /// Pods that this policy leaves alone; other policies are not affected. The status counts them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub exclusions: Vec<Exclusion>,
    /// All that an AuditPolicy has.
    #[serde(flatten)]
    pub policy: AuditPolicySpec,
}

/// Whether pods and namespaces can opt out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Enforcement {
    /// A pod's label `testimony.dev/inject: disabled` keeps the sidecar away, and a namespace's label
    /// `testimony.dev/cluster-defaults: disabled` keeps the policy away.
    #[default]
    Default,
    /// A floor: no label opts out of it.
    Baseline,
}

/// Pods that a cluster policy leaves alone. All that is given must match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.namespaces) || has(self.namespaceSelector) || has(self.podSelector)",
    "message": "exclusions: name the pods by namespaces, namespaceSelector or podSelector: an empty exclusion would leave every pod alone"
}]))]
pub struct Exclusion {
    /// Names of namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub namespaces: Option<Vec<String>>,
    /// Namespaces, by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<PodSelector>,
    /// Pods, by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<PodSelector>,
    /// Why, for those who read the status.
    #[schemars(length(min = 1, max = 256))]
    pub reason: String,
}

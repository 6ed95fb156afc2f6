//! What a cluster policy has beyond a namespaced one: which namespaces, who may opt out, what is left alone.

use super::accept::{AcceptedPolicy, Invalid, accept_policy, invalid, selector};
use crate::api::{ClusterAuditPolicySpec, Enforcement, Exclusion};
use kube::core::{Selector, SelectorExt};
use std::collections::BTreeMap;
use testimony_core::contract::label;

/// Why a namespace with the label [`label::CLUSTER_DEFAULTS`] is left alone.
pub const NAMESPACE_OPTED_OUT: &str = "NamespaceOptedOut";

/// Labels as Kubernetes keeps them.
type Labels = BTreeMap<String, String>;

/// Of which pods a policy can speak.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Scope {
    /// Those of its namespace.
    #[default]
    Namespace,
    /// Those of many namespaces.
    Cluster(ClusterScope),
}

/// Of which pods a cluster policy can speak.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterScope {
    namespaces: Selector,
    enforcement: Enforcement,
    exclusions: Vec<AcceptedExclusion>,
}

#[derive(Clone, Debug, PartialEq)]
struct AcceptedExclusion {
    names: Option<Vec<String>>,
    namespaces: Option<Selector>,
    pods: Option<Selector>,
    reason: String,
}

/// What a policy says of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach<'a> {
    /// It does not speak of it.
    Outside,
    /// It would select it, but leaves it alone for this reason.
    Excluded(&'a str),
    /// It selects it.
    Selected,
}

impl AcceptedPolicy {
    /// What this policy says of a pod in a namespace. Of a namespaced policy the caller knows that it is the pod's.
    pub fn reach(&self, namespace: &str, namespace_labels: &Labels, pod_labels: &Labels) -> Reach<'_> {
        if !self.selector.matches(pod_labels) {
            return Reach::Outside;
        }
        match &self.scope {
            Scope::Namespace => Reach::Selected,
            Scope::Cluster(scope) => scope.reach(namespace, namespace_labels, pod_labels),
        }
    }

    /// Whether no label opts out of it.
    pub fn is_baseline(&self) -> bool {
        matches!(&self.scope, Scope::Cluster(scope) if scope.enforcement == Enforcement::Baseline)
    }

    /// Order of what cannot merge: a baseline, then the namespace's own policies, then the cluster's defaults.
    pub(super) fn rank(&self) -> u8 {
        match &self.scope {
            Scope::Cluster(scope) if scope.enforcement == Enforcement::Baseline => 0,
            Scope::Namespace => 1,
            Scope::Cluster(_) => 2,
        }
    }
}

impl ClusterScope {
    fn reach(&self, namespace: &str, namespace_labels: &Labels, pod_labels: &Labels) -> Reach<'_> {
        if !self.namespaces.matches(namespace_labels) {
            return Reach::Outside;
        }
        let opted_out = namespace_labels.get(label::CLUSTER_DEFAULTS).is_some_and(|v| v == "disabled");
        if opted_out && self.enforcement == Enforcement::Default {
            return Reach::Excluded(NAMESPACE_OPTED_OUT);
        }
        let exclusion = self.exclusions.iter().find(|e| {
            e.names.as_ref().is_none_or(|names| names.iter().any(|n| n == namespace))
                && e.namespaces.as_ref().is_none_or(|s| s.matches(namespace_labels))
                && e.pods.as_ref().is_none_or(|s| s.matches(pod_labels))
        });
        exclusion.map_or(Reach::Selected, |e| Reach::Excluded(&e.reason))
    }
}

/// Parses a cluster policy's spec.
///
/// # Errors
/// The first field that is wrong, with the fix.
pub fn accept_cluster_policy(spec: &ClusterAuditPolicySpec) -> Result<AcceptedPolicy, Invalid> {
    let namespaces = selector(&spec.namespace_selector, || "spec.namespaceSelector".to_owned())?;
    let exclusions = spec.exclusions.iter().enumerate().map(|(i, e)| exclusion(i, e)).collect::<Result<_, _>>()?;
    let scope = ClusterScope { namespaces, enforcement: spec.enforcement, exclusions };
    Ok(AcceptedPolicy { scope: Scope::Cluster(scope), ..accept_policy(&spec.policy)? })
}

fn exclusion(at: usize, spec: &Exclusion) -> Result<AcceptedExclusion, Invalid> {
    let field = |name: &str| format!("spec.exclusions[{at}].{name}");
    if spec.namespaces.is_none() && spec.namespace_selector.is_none() && spec.pod_selector.is_none() {
        let fix = "give it namespaces, namespaceSelector or podSelector";
        let problem = "matches every pod, so the policy would select none";
        return Err(invalid("InvalidExclusions", format!("spec.exclusions[{at}]"), problem, fix));
    }
    if spec.namespaces.as_ref().is_some_and(Vec::is_empty) {
        let fix = "name a namespace or leave the field out";
        return Err(invalid("InvalidExclusions", field("namespaces"), "is empty", fix));
    }
    let namespaces = spec.namespace_selector.as_ref().map(|s| selector(s, || field("namespaceSelector")));
    let pods = spec.pod_selector.as_ref().map(|s| selector(s, || field("podSelector")));
    Ok(AcceptedExclusion {
        names: spec.namespaces.clone(),
        namespaces: namespaces.transpose()?,
        pods: pods.transpose()?,
        reason: spec.reason.clone(),
    })
}

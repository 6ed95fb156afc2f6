//! Whether a pod gets a sidecar.

use super::{PodTraits, Reason};
use crate::index::{Index, PolicyEntry};
use std::collections::BTreeMap;
use testimony_core::policy::PolicyDocument;

/// Namespaces that are never touched.
pub const NAMESPACES_NEVER: [&str; 2] = ["kube-system", "kube-node-lease"];

/// Values of the enforce label that refuse NET_ADMIN.
pub(super) const POD_SECURITY_STRICT: [&str; 2] = ["baseline", "restricted"];

/// Namespaces that are never touched: Kubernetes' own, the operator's, and those that the installation names.
#[derive(Clone, Debug, Default)]
pub struct ExcludedNamespaces {
    /// The operator's own namespace.
    pub own: String,
    /// Further ones, such as those of network plugins and DNS.
    pub further: Vec<String>,
}

impl ExcludedNamespaces {
    /// Whether pods of this namespace are left alone.
    pub fn contains(&self, namespace: &str) -> bool {
        namespace == self.own || NAMESPACES_NEVER.contains(&namespace) || self.further.iter().any(|n| n == namespace)
    }
}

/// What a namespace demands of its pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// Pods that a policy selects get a sidecar where they can; the others start without.
    #[default]
    Default,
    /// No pod starts without a sidecar: namespace label `testimony.dev/enforcement: strict`.
    Strict,
}

/// What a selected pod runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// The policy document at admission.
    pub document: PolicyDocument,
    /// Secrets with headers, by sink.
    pub secrets: BTreeMap<String, String>,
    /// For the user who creates the pod.
    pub warnings: Vec<String>,
}

/// What happens to a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// No policy in force selects it.
    NotSelected,
    /// It has its sidecar.
    Already,
    /// It is selected and gets none.
    Skip(Reason),
    /// Its namespace is strict, and it cannot be audited: it must not start.
    Deny(Reason),
    /// It gets one; in a strict namespace also where it claims to have one.
    Inject(Box<Selection>),
}

/// Decides on the index as it is: how a pod that exists stands.
pub fn decide(index: &Index, excluded: &ExcludedNamespaces, namespace: &str, pod: &PodTraits) -> Decision {
    let enforcement = match pod.injected {
        true => Enforcement::Default,
        false => index.enforcement(namespace),
    };
    admit(index, excluded, enforcement, namespace, pod)
}

/// Decides at admission. There `enforcement` is what the API server says: it knows a namespace's label before the index.
pub fn admit(
    index: &Index,
    excluded: &ExcludedNamespaces,
    enforcement: Enforcement,
    namespace: &str,
    pod: &PodTraits,
) -> Decision {
    let strict = enforcement == Enforcement::Strict;
    if excluded.contains(namespace) {
        return Decision::NotSelected;
    }
    if pod.injected && !strict {
        return Decision::Already;
    }
    let selecting: Vec<&PolicyEntry> = index.selecting(namespace, &pod.labels).collect();
    if !strict && selecting.is_empty() {
        return Decision::NotSelected;
    }
    let baseline = selecting.iter().any(|p| p.good.as_ref().is_some_and(|good| good.is_baseline()));
    match obstacle(index, namespace, pod, baseline && !strict) {
        // What the API server shows of a static pod runs already: refusing it would only hide the pod.
        Some(Reason::MirrorPod) => return Decision::Skip(Reason::MirrorPod),
        Some(reason) if strict => return Decision::Deny(reason),
        Some(reason) => return Decision::Skip(reason),
        None => {}
    }
    if strict && let Some(reason) = evasion(pod) {
        return Decision::Deny(reason);
    }
    let document = index.join(&selecting).document.clone();
    let secrets = document
        .sinks
        .iter()
        .filter_map(|s| Some((s.name.clone(), index.sinks.get(&s.name)?.credentials_secret.clone()?)))
        .collect();
    Decision::Inject(Box::new(Selection { document, secrets, warnings: warnings(pod) }))
}

/// What is in the way; of a `baseline` no label opts out.
fn obstacle(index: &Index, namespace: &str, pod: &PodTraits, baseline: bool) -> Option<Reason> {
    let level = index.namespaces.get(namespace).and_then(|n| n.pod_security.as_deref());
    let checks = [
        (pod.mirror, Reason::MirrorPod),
        (pod.host_network, Reason::HostNetwork),
        (pod.windows, Reason::Windows),
        (pod.opted_out && !baseline, Reason::OptedOut),
        (level.is_some_and(|l| POD_SECURITY_STRICT.contains(&l)), Reason::PodSecurity),
        (pod.other_proxy.is_some(), Reason::OtherProxy),
        (index.is_sink_pod(namespace, &pod.labels), Reason::Sink),
        (pod.port_collision.is_some(), Reason::PortCollision),
        (pod.name_collision.is_some(), Reason::NameCollision),
    ];
    checks.into_iter().find_map(|(applies, reason)| applies.then_some(reason))
}

/// How the pod could avoid its audit: refused where the namespace is strict, told as a warning elsewhere.
fn evasion(pod: &PodTraits) -> Option<Reason> {
    if !pod.loop_guard_collision.is_empty() {
        return Some(Reason::UidCollision);
    }
    (!pod.network_admins.is_empty()).then_some(Reason::NetworkAdmin)
}

fn warnings(pod: &PodTraits) -> Vec<String> {
    let collision = pod.loop_guard_collision.iter().map(|name| {
        format!("testimony: container {name} runs as the sidecar's user and group: its connections are not audited")
    });
    let admins = pod.network_admins.iter().map(|name| {
        format!("testimony: container {name} may change the network (NET_ADMIN, NET_RAW or privileged): it can avoid the audit")
    });
    collision.chain(admins).collect()
}

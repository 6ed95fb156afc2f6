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

/// A decision without what the sidecar would run: cheap enough for each pod of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// No policy in force selects it.
    NotSelected,
    /// It has its sidecar.
    Already,
    /// It is selected and gets none.
    Skip(Reason),
    /// Its namespace is strict, and it cannot be audited.
    Deny(Reason),
    /// It gets one.
    Inject,
}

/// Decides on the index as it is: how a pod that exists stands.
pub fn decide(index: &Index, excluded: &ExcludedNamespaces, namespace: &str, pod: &PodTraits) -> Decision {
    admit(index, excluded, existing(index, namespace, pod), namespace, pod)
}

/// Says what [`decide`] decides of a pod that `selecting` select.
pub fn outlook(
    index: &Index,
    excluded: &ExcludedNamespaces,
    namespace: &str,
    pod: &PodTraits,
    selecting: &[&PolicyEntry],
) -> Outlook {
    judge(index, excluded, existing(index, namespace, pod), namespace, pod, selecting)
}

/// A sidecar that is there is not put in question afterwards.
fn existing(index: &Index, namespace: &str, pod: &PodTraits) -> Enforcement {
    match pod.injected {
        true => Enforcement::Default,
        false => index.enforcement(namespace),
    }
}

/// Decides at admission. There `enforcement` is what the API server says: it knows a namespace's label before the index.
pub fn admit(
    index: &Index,
    excluded: &ExcludedNamespaces,
    enforcement: Enforcement,
    namespace: &str,
    pod: &PodTraits,
) -> Decision {
    let selecting: Vec<&PolicyEntry> = index.selecting(namespace, &pod.labels).collect();
    match judge(index, excluded, enforcement, namespace, pod, &selecting) {
        Outlook::NotSelected => return Decision::NotSelected,
        Outlook::Already => return Decision::Already,
        Outlook::Skip(reason) => return Decision::Skip(reason),
        Outlook::Deny(reason) => return Decision::Deny(reason),
        Outlook::Inject => {}
    }
    let document = index.join(&selecting).document.clone();
    let secrets = document
        .sinks
        .iter()
        .filter_map(|s| Some((s.name.clone(), index.sinks.get(&s.name)?.credentials_secret.clone()?)))
        .collect();
    Decision::Inject(Box::new(Selection { document, secrets, warnings: warnings(pod) }))
}

fn judge(
    index: &Index,
    excluded: &ExcludedNamespaces,
    enforcement: Enforcement,
    namespace: &str,
    pod: &PodTraits,
    selecting: &[&PolicyEntry],
) -> Outlook {
    let strict = enforcement == Enforcement::Strict;
    if excluded.contains(namespace) {
        return Outlook::NotSelected;
    }
    if pod.injected && !strict {
        return Outlook::Already;
    }
    if !strict && selecting.is_empty() {
        return Outlook::NotSelected;
    }
    let baseline = selecting.iter().any(|p| p.good.as_ref().is_some_and(|good| good.is_baseline()));
    match obstacle(index, namespace, pod, baseline && !strict) {
        // What the API server shows of a static pod runs already: refusing it would only hide the pod.
        Some(Reason::MirrorPod) => return Outlook::Skip(Reason::MirrorPod),
        Some(reason) if strict => return Outlook::Deny(reason),
        Some(reason) => return Outlook::Skip(reason),
        None => {}
    }
    match evasion(pod).filter(|_| strict) {
        Some(reason) => Outlook::Deny(reason),
        None => Outlook::Inject,
    }
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
        format!("testimony: container {name} may change the network or reach into the sidecar (NET_ADMIN, NET_RAW, SYS_MODULE or privileged; SYS_PTRACE or SYS_ADMIN with shareProcessNamespace or hostPID): it can avoid the audit")
    });
    collision.chain(admins).collect()
}

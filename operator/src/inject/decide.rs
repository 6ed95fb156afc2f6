//! Whether a pod gets a sidecar.

use super::PodTraits;
use crate::index::Index;
use std::collections::BTreeMap;
use std::fmt;
use testimony_core::policy::PolicyDocument;

/// Namespaces that are never touched.
const NAMESPACES_NEVER: [&str; 2] = ["kube-system", "kube-node-lease"];

/// Value of the enforce label that refuses NET_ADMIN.
const POD_SECURITY_STRICT: [&str; 2] = ["baseline", "restricted"];

/// Namespaces that are never touched: Kubernetes' own, and the operator's.
#[derive(Clone, Debug)]
pub struct ExcludedNamespaces {
    /// The operator's own namespace.
    pub own: String,
}

impl ExcludedNamespaces {
    /// Whether pods of this namespace are left alone.
    pub fn contains(&self, namespace: &str) -> bool {
        namespace == self.own || NAMESPACES_NEVER.contains(&namespace)
    }
}

/// Why a selected pod has no sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// It uses the node's network: a redirect would catch the node's connections.
    HostNetwork,
    /// The sidecar needs Linux.
    Windows,
    /// A static pod's shadow cannot be changed.
    MirrorPod,
    /// The pod's label says so.
    OptedOut,
    /// The namespace enforces a Pod Security level that refuses NET_ADMIN.
    PodSecurity,
    /// Another mesh redirects the same connections.
    OtherProxy,
    /// Records are sent to it: recording it would make records of records.
    Sink,
    /// It declares one of our ports.
    PortCollision,
    /// It has a container or volume with one of our names.
    NameCollision,
}

impl Reason {
    /// CamelCase, for status, metrics and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostNetwork => "HostNetwork",
            Self::Windows => "Windows",
            Self::MirrorPod => "MirrorPod",
            Self::OptedOut => "OptedOut",
            Self::PodSecurity => "PodSecurity",
            Self::OtherProxy => "OtherProxy",
            Self::Sink => "Sink",
            Self::PortCollision => "PortCollision",
            Self::NameCollision => "NameCollision",
        }
    }

    /// For people: what is in the way, and what they can do.
    pub fn explain(self) -> &'static str {
        match self {
            Self::HostNetwork => "the pod uses hostNetwork, which cannot be audited",
            Self::Windows => "the pod runs on Windows; the sidecar needs Linux",
            Self::MirrorPod => "static pods cannot be changed by the API server",
            Self::OptedOut => "the pod is labelled testimony.dev/inject: disabled",
            Self::PodSecurity => {
                "the namespace enforces Pod Security baseline or restricted, which refuses NET_ADMIN; enforce privileged to audit it"
            }
            Self::OtherProxy => "another mesh's proxy redirects the pod's connections",
            Self::Sink => "an AuditSink sends its records to this pod",
            Self::PortCollision => "the pod declares one of the ports 24801 to 24803; use others",
            Self::NameCollision => "the pod has a container or volume named testimony-...; rename it",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
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
    /// It gets one.
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
    /// It gets one.
    Inject,
}

/// Says what [`decide`] decides.
pub fn outlook(index: &Index, excluded: &ExcludedNamespaces, namespace: &str, pod: &PodTraits) -> Outlook {
    if excluded.contains(namespace) {
        return Outlook::NotSelected;
    }
    if pod.injected {
        return Outlook::Already;
    }
    if index.selecting(namespace, &pod.labels).next().is_none() {
        return Outlook::NotSelected;
    }
    obstacle(index, namespace, pod).map_or(Outlook::Inject, Outlook::Skip)
}

/// Decides on the index as it is.
pub fn decide(index: &Index, excluded: &ExcludedNamespaces, namespace: &str, pod: &PodTraits) -> Decision {
    match outlook(index, excluded, namespace, pod) {
        Outlook::NotSelected => return Decision::NotSelected,
        Outlook::Already => return Decision::Already,
        Outlook::Skip(reason) => return Decision::Skip(reason),
        Outlook::Inject => {}
    }
    let document = index.document(namespace, &pod.labels).document;
    let secrets = document
        .sinks
        .iter()
        .filter_map(|s| Some((s.name.clone(), index.sinks.get(&s.name)?.credentials_secret.clone()?)))
        .collect();
    Decision::Inject(Box::new(Selection { document, secrets, warnings: warnings(pod) }))
}

fn obstacle(index: &Index, namespace: &str, pod: &PodTraits) -> Option<Reason> {
    let level = index.namespaces.get(namespace).and_then(|n| n.pod_security.as_deref());
    let checks = [
        (pod.host_network, Reason::HostNetwork),
        (pod.windows, Reason::Windows),
        (pod.mirror, Reason::MirrorPod),
        (pod.opted_out, Reason::OptedOut),
        (level.is_some_and(|l| POD_SECURITY_STRICT.contains(&l)), Reason::PodSecurity),
        (pod.other_proxy.is_some(), Reason::OtherProxy),
        (index.is_sink_pod(namespace, &pod.labels), Reason::Sink),
        (pod.port_collision.is_some(), Reason::PortCollision),
        (pod.name_collision.is_some(), Reason::NameCollision),
    ];
    checks.into_iter().find_map(|(applies, reason)| applies.then_some(reason))
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

//! Why a pod has no sidecar, in one word and in sentences.

use super::PodTraits;
use std::fmt;

/// Why a selected pod has no sidecar, or may not start in a strict namespace.
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
    /// It has a container or volume with one of our names, or mounts one of our volumes.
    NameCollision,
    /// Strict namespaces only: a container has the sidecar's user and group, so the redirect lets it pass.
    UidCollision,
    /// Strict namespaces only: a container may change the network, or reach into the sidecar.
    NetworkAdmin,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::HostNetwork,
        Self::Windows,
        Self::MirrorPod,
        Self::OptedOut,
        Self::PodSecurity,
        Self::OtherProxy,
        Self::Sink,
        Self::PortCollision,
        Self::NameCollision,
        Self::UidCollision,
        Self::NetworkAdmin,
    ];

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
            Self::UidCollision => "UidCollision",
            Self::NetworkAdmin => "NetworkAdmin",
        }
    }

    /// For people: what is in the way, and what they can do.
    pub fn explain(self) -> &'static str {
        match self {
            Self::HostNetwork => "the pod uses hostNetwork, which cannot be audited",
            Self::Windows => "the pod runs on Windows; the sidecar needs Linux",
            Self::MirrorPod => "static pods cannot be changed by the API server",
            Self::OptedOut => "the pod is labelled testimony.dev/inject: disabled, and no baseline selects it",
            Self::PodSecurity => {
                "the namespace enforces Pod Security baseline or restricted, which refuses NET_ADMIN; enforce privileged to audit it"
            }
            Self::OtherProxy => "another mesh's proxy redirects the pod's connections",
            Self::Sink => "an AuditSink sends its records to this pod",
            Self::PortCollision => "the pod declares one of the ports 24801 to 24803; use others",
            Self::NameCollision => {
                "the pod has a container or volume named testimony-..., or mounts such a volume; rename it"
            }
            Self::UidCollision => {
                "a container runs as the sidecar's user and group (62819:62820), which is never audited"
            }
            Self::NetworkAdmin => {
                "a container may change the network (NET_ADMIN, NET_RAW, SYS_MODULE, ALL or privileged) or reach into the sidecar (SYS_PTRACE or SYS_ADMIN with shareProcessNamespace or hostPID), and so avoid the audit"
            }
        }
    }

    /// What lets the pod start in a strict namespace.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::HostNetwork => "remove hostNetwork, or run the pod in a namespace that is not strict",
            Self::Windows | Self::OtherProxy | Self::Sink | Self::MirrorPod => {
                "run the pod in a namespace that is not strict"
            }
            Self::OptedOut => "remove the label, or run the pod in a namespace that is not strict",
            Self::PodSecurity => {
                "set pod-security.kubernetes.io/enforce: privileged, or remove the label testimony.dev/enforcement"
            }
            Self::PortCollision | Self::NameCollision => "change the pod",
            Self::UidCollision => "set another runAsUser or runAsGroup",
            Self::NetworkAdmin => "remove the capability, or run the pod in a namespace that is not strict",
        }
    }

    /// The refusal of a pod in a strict namespace: what, why, and what to do.
    pub fn denial(self, namespace: &str, pod: &PodTraits) -> String {
        let culprits = match self {
            Self::UidCollision => pod.loop_guard_collision.as_slice(),
            Self::NetworkAdmin => pod.network_admins.as_slice(),
            _ => &[],
        };
        let culprits = if culprits.is_empty() { String::new() } else { format!(" [{}]", culprits.join(", ")) };
        let (why, fix) = (self.explain(), self.remedy());
        format!(
            "testimony: refused ({self}), because namespace {namespace} is strict: {why}{culprits}. To fix it: {fix}"
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

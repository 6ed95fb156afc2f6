//! What injection looks at in a pod, and nothing else: the index keeps this for each pod of the cluster.

use super::admission_policy;
use k8s_openapi::api::core::v1::{Container, NodeSelectorRequirement, Pod, PodSpec};
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use testimony_core::contract::{annotation, id, label, pod, port};

/// Containers of service meshes, which redirect the same connections.
pub(super) const OTHER_PROXIES: [&str; 2] = ["istio-proxy", "linkerd-proxy"];

/// What decisions look at in a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodTraits {
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
    /// Uses the node's network.
    pub host_network: bool,
    /// Runs on Windows.
    pub windows: bool,
    /// A static pod's shadow: the API server cannot change what it stands for.
    pub mirror: bool,
    /// Has the label that opts out.
    pub opted_out: bool,
    /// The container of another mesh.
    pub other_proxy: Option<String>,
    /// Has our sidecar.
    pub injected: bool,
    /// The injection id, where it has the form that admission writes: anybody can write another one, of any length.
    pub injection_id: Option<String>,
    /// A declared container port that is one of ours.
    pub port_collision: Option<u16>,
    /// A container or volume that has one of our names and is not ours, or a mount of one of our volumes.
    pub name_collision: Option<String>,
    /// Containers with our user and group: the redirect rules let them pass.
    pub loop_guard_collision: Vec<String>,
    /// Containers with capabilities by which they can undo or avoid the redirect, or reach into the sidecar.
    pub network_admins: Vec<String>,
    /// Names of the volumes with what sinks are shown, see [`super::sink_volumes`].
    pub sink_volumes: BTreeSet<String>,
}

impl PodTraits {
    /// Reads a pod.
    pub fn of(object: &Pod) -> Self {
        let empty = PodSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&empty);
        let labels = object.labels().clone();
        let claimed = object.annotations().get(annotation::INJECTION_ID);
        let injection_id = claimed.filter(|id| is_injection_id(id) || *id == admission_policy::INJECTION_ID).cloned();
        let injected =
            claimed.is_some() && spec.init_containers.iter().flatten().any(|c| c.name == pod::SIDECAR_CONTAINER);
        let sink_volumes = spec
            .volumes
            .iter()
            .flatten()
            .filter(|_| injected)
            .filter(|v| is_sink_volume(&v.name))
            .map(|v| v.name.clone())
            .collect();
        Self {
            host_network: spec.host_network.unwrap_or_default(),
            windows: is_windows(spec),
            mirror: object.annotations().contains_key("kubernetes.io/config.mirror"),
            opted_out: labels.get(label::INJECT).is_some_and(|v| v == "disabled"),
            other_proxy: containers(spec).map(|c| &c.name).find(|n| OTHER_PROXIES.contains(&n.as_str())).cloned(),
            port_collision: others(spec).find_map(colliding_port),
            name_collision: if injected { None } else { colliding_name(spec) },
            loop_guard_collision: others(spec).filter(|c| has_our_ids(spec, c)).map(|c| c.name.clone()).collect(),
            network_admins: others(spec).filter(|c| is_network_admin(spec, c)).map(|c| c.name.clone()).collect(),
            labels,
            injected,
            injection_id,
            sink_volumes,
        }
    }
}

/// Whether this is an injection id as the webhook makes them: 128 bits in hex.
pub fn is_injection_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// All containers, init containers first.
pub(super) fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// Containers that are not ours.
pub(super) fn others(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    containers(spec).filter(|c| !is_our_container(&c.name))
}

pub(super) fn is_our_container(name: &str) -> bool {
    name == pod::INIT_CONTAINER || name == pod::SIDECAR_CONTAINER
}

pub(super) fn is_our_volume(name: &str) -> bool {
    [pod::TOKEN_VOLUME, pod::STATE_VOLUME, pod::KEY_VOLUME].contains(&name) || is_sink_volume(name)
}

/// What the names of volumes begin with that belong to one sink.
pub(super) const SINK_VOLUME_PREFIXES: [&str; 3] =
    [pod::SINK_VOLUME_PREFIX, pod::SINK_CERTIFICATE_VOLUME_PREFIX, pod::SINK_TOKEN_VOLUME_PREFIX];

fn is_sink_volume(name: &str) -> bool {
    SINK_VOLUME_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn is_windows(spec: &PodSpec) -> bool {
    spec.os.as_ref().is_some_and(|os| os.name == "windows")
        || spec.node_selector.iter().flatten().any(|(k, v)| k == OS_LABEL && v == "windows")
        || must_not_be_linux(spec).unwrap_or_default()
}

/// What nodes are labelled with.
pub(super) const OS_LABEL: &str = "kubernetes.io/os";

/// Whether every node that the pod's affinity lets it run on is none with Linux.
fn must_not_be_linux(spec: &PodSpec) -> Option<bool> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let demands = |e: &NodeSelectorRequirement| {
        let values = e.values.as_deref().unwrap_or_default();
        e.key == OS_LABEL
            && match e.operator.as_str() {
                "In" => values.iter().all(|v| v == "windows"),
                "NotIn" => values.iter().any(|v| v == "linux"),
                _ => false,
            }
    };
    // One of the terms must hold, and in it all expressions.
    Some(!terms.is_empty() && terms.iter().all(|t| t.match_expressions.iter().flatten().any(demands)))
}

fn colliding_port(container: &Container) -> Option<u16> {
    container
        .ports
        .iter()
        .flatten()
        .filter_map(|p| u16::try_from(p.container_port).ok())
        .find(|p| (port::INBOUND..=port::ADMIN).contains(p))
}

fn colliding_name(spec: &PodSpec) -> Option<String> {
    let container = containers(spec).map(|c| &c.name).find(|n| is_our_container(n));
    let volume = || spec.volumes.iter().flatten().map(|v| &v.name).find(|n| is_our_volume(n));
    // The volume need not be there yet: it would be ours, with the sidecar's policy or token in another's hands.
    let mount = || {
        let mounts = containers(spec).flat_map(|c| c.volume_mounts.iter().flatten());
        mounts.map(|m| &m.name).find(|n| is_our_volume(n))
    };
    container.or_else(volume).or_else(mount).cloned()
}

fn has_our_ids(spec: &PodSpec, container: &Container) -> bool {
    let own = container.security_context.as_ref();
    let pod = spec.security_context.as_ref();
    let user = own.and_then(|s| s.run_as_user).or_else(|| pod.and_then(|s| s.run_as_user));
    let group = own.and_then(|s| s.run_as_group).or_else(|| pod.and_then(|s| s.run_as_group));
    user == Some(i64::from(id::SIDECAR_UID)) && group == Some(i64::from(id::SIDECAR_GID))
}

fn is_network_admin(spec: &PodSpec, container: &Container) -> bool {
    let sees_sidecar = spec.share_process_namespace.unwrap_or_default() || spec.host_pid.unwrap_or_default();
    let context = container.security_context.as_ref();
    let added = context.and_then(|s| s.capabilities.as_ref()).and_then(|c| c.add.as_ref());
    let adds = added.into_iter().flatten().any(|c| {
        let name = c.to_ascii_uppercase();
        match name.trim_start_matches("CAP_") {
            "NET_ADMIN" | "NET_RAW" | "SYS_MODULE" | "ALL" => true,
            "SYS_PTRACE" | "SYS_ADMIN" => sees_sidecar,
            _ => false,
        }
    });
    adds || context.and_then(|s| s.privileged).unwrap_or_default()
}

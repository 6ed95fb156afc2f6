//! `tcpSocket` probes: behind a redirect they succeed always, so the sidecar dials in their stead.

use super::traits::is_our_container;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, RemoveOperation};
use k8s_openapi::api::core::v1::{Container, PodSpec, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use testimony_core::contract::{TCP_PROBE_PATH, port};

/// What injection changed, kept in the pod's annotation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectionStatus {
    /// Probes and what they were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ChangedProbe>,
    /// Lists and maps (JSON pointers) that the pod did not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<String>,
    /// Requests and limits of the pod as a whole (JSON pointers) that grew, and what they were; empty: there were none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, String>,
}

/// A probe and what it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangedProbe {
    /// Name of the container.
    pub container: String,
    /// `readinessProbe`, `livenessProbe` or `startupProbe`.
    pub probe: String,
    /// The original.
    pub tcp_socket: TCPSocketAction,
}

/// The operations that change a pod's `tcpSocket` probes, and what they were. Indices are those before any other change.
pub(super) fn change(spec: &PodSpec) -> (Vec<PatchOperation>, Vec<ChangedProbe>) {
    let mut operations = Vec::new();
    let mut changed = Vec::new();
    let lists =
        [("initContainers", spec.init_containers.as_deref().unwrap_or_default()), ("containers", &spec.containers)];
    for (list, containers) in lists {
        for (i, container) in containers.iter().enumerate().filter(|(_, c)| !is_our_container(&c.name)) {
            for (field, probe) in probes_of(container) {
                let Some((socket, number)) = redirected(container, probe) else { continue };
                let at = |last: &str| PointerBuf::from_tokens(["spec", list, &i.to_string(), field, last]);
                let action =
                    json!({"path": format!("{TCP_PROBE_PATH}{number}"), "port": port::ADMIN, "scheme": "HTTP"});
                operations.push(PatchOperation::Remove(RemoveOperation { path: at("tcpSocket") }));
                operations.push(PatchOperation::Add(AddOperation { path: at("httpGet"), value: action }));
                changed.push(ChangedProbe {
                    container: container.name.clone(),
                    probe: field.to_owned(),
                    tcp_socket: socket.clone(),
                });
            }
        }
    }
    (operations, changed)
}

fn probes_of(container: &Container) -> impl Iterator<Item = (&'static str, &Probe)> {
    [
        ("readinessProbe", &container.readiness_probe),
        ("livenessProbe", &container.liveness_probe),
        ("startupProbe", &container.startup_probe),
    ]
    .into_iter()
    .filter_map(|(field, probe)| Some((field, probe.as_ref()?)))
}

/// The socket and its port number, if the redirect catches this probe. One that dials another host is not caught; one
/// whose port has no number fails with or without us.
fn redirected<'a>(container: &Container, probe: &'a Probe) -> Option<(&'a TCPSocketAction, u16)> {
    let socket = probe.tcp_socket.as_ref()?;
    if socket.host.as_ref().is_some_and(|h| !h.is_empty()) {
        return None;
    }
    let number = match &socket.port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let port = container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name));
            port.map(|p| p.container_port).or_else(|| name.parse().ok())?
        }
    };
    Some((socket, u16::try_from(number).ok().filter(|n| *n > 0)?))
}

//! The JSON patch that adds the sidecar.

use super::{InjectionStatus, Plan, build, probes};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt;
use serde_json::{Map, Value, json};
use testimony_core::contract::{annotation, label};

/// Why there is no patch.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The pod has no spec: the API server does not send such.
    #[error("the pod has no spec")]
    NoSpec,
    /// The annotation of an earlier injection was changed.
    #[error("annotation testimony.dev/status is not what injection wrote: {0}")]
    Status(#[from] serde_json::Error),
}

/// The patch for a pod. With a plan: the sidecar and all that belongs to it. Without, for a pod that has its sidecar: only
/// `tcpSocket` probes that came since (another webhook may add containers after us); mostly nothing.
///
/// # Errors
/// The pod has no spec, or a foreign status annotation.
pub fn patch(pod: &Pod, plan: Option<&Plan<'_>>) -> Result<Patch, PatchError> {
    let spec = pod.spec.as_ref().ok_or(PatchError::NoSpec)?;
    let (mut operations, changed) = probes::change(spec);
    let Some(plan) = plan else {
        if !changed.is_empty() {
            let written = pod.annotations().get(annotation::STATUS).map(|s| serde_json::from_str(s)).transpose()?;
            let mut status: InjectionStatus = written.unwrap_or_default();
            status.probes.extend(changed);
            let annotations = [(annotation::STATUS, serde_json::to_string(&status)?)];
            add_entries(&mut operations, "annotations", pod.metadata.annotations.is_some(), &annotations);
        }
        return Ok(Patch(operations));
    };
    let status = InjectionStatus { probes: changed, absent: absent(pod, spec) };
    let containers = [build::init_container(plan), build::sidecar_container(pod, plan)];
    match &spec.init_containers {
        Some(_) => {
            for (i, container) in containers.into_iter().enumerate() {
                operations.push(add(&["spec", "initContainers", &i.to_string()], container));
            }
        }
        None => operations.push(add(&["spec", "initContainers"], json!(containers))),
    }
    let volumes = build::volumes(plan);
    match &spec.volumes {
        Some(_) => operations.extend(volumes.into_iter().map(|v| add(&["spec", "volumes", "-"], v))),
        None => operations.push(add(&["spec", "volumes"], json!(volumes))),
    }
    let labels = [(label::INJECTED, "true".to_owned())];
    add_entries(&mut operations, "labels", pod.metadata.labels.is_some(), &labels);
    let annotations = [
        (annotation::INJECTION_ID, plan.injection_id.to_owned()),
        (annotation::REVISION, plan.selection.document.revision.clone()),
        (annotation::STATUS, serde_json::to_string(&status)?),
    ];
    add_entries(&mut operations, "annotations", pod.metadata.annotations.is_some(), &annotations);
    Ok(Patch(operations))
}

/// Lists and maps that the pod does not have: undoing must not leave empty ones.
fn absent(pod: &Pod, spec: &PodSpec) -> Vec<String> {
    let found = [
        ("/spec/initContainers", spec.init_containers.is_none()),
        ("/spec/volumes", spec.volumes.is_none()),
        ("/metadata/labels", pod.metadata.labels.is_none()),
        ("/metadata/annotations", pod.metadata.annotations.is_none()),
    ];
    found.into_iter().filter(|(_, absent)| *absent).map(|(path, _)| path.to_owned()).collect()
}

fn add_entries(operations: &mut Vec<PatchOperation>, map: &str, exists: bool, entries: &[(&str, String)]) {
    if exists {
        operations.extend(entries.iter().map(|(k, v)| add(&["metadata", map, k], json!(v))));
    } else {
        let entries: Map<String, Value> = entries.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        operations.push(add(&["metadata", map], Value::Object(entries)));
    }
}

fn add(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(path.iter().copied()), value })
}

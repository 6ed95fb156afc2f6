//! The JSON patch that adds the sidecar.

use super::traits::is_our_container;
use super::{InjectionStatus, Plan, PodTraits, build, evictable, probes, resources};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
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

/// The patch for a pod. With a plan: the sidecar and all that belongs to it; what the pod claims to have of it is replaced,
/// so that a pod that was patched before is as it was, and one that was written to look so is patched. Without a plan, for a
/// pod that has its sidecar: only `tcpSocket` probes that came since (another webhook may add containers after us); mostly
/// nothing.
///
/// # Errors
/// The pod has no spec, or a foreign status annotation.
pub fn patch(pod: &Pod, plan: Option<&Plan<'_>>) -> Result<Patch, PatchError> {
    let spec = pod.spec.as_ref().ok_or(PatchError::NoSpec)?;
    let (mut operations, changed) = probes::change(spec);
    let Some(plan) = plan else {
        if !changed.is_empty() {
            let mut status = written(pod)?;
            status.probes.extend(changed);
            let annotations = [(annotation::STATUS, serde_json::to_string(&status)?)];
            add_entries(&mut operations, "annotations", pod.metadata.annotations.is_some(), &annotations);
        }
        return Ok(Patch(operations));
    };
    let again = PodTraits::of(pod).injected;
    let status = if again {
        let before = written(pod)?;
        InjectionStatus { probes: [before.probes, changed].concat(), ..before }
    } else {
        let (raised, resources) = resources::raise(spec, plan.config);
        operations.extend(raised);
        InjectionStatus { probes: changed, absent: absent(pod, spec), resources }
    };
    let containers = [build::init_container(pod, plan), build::sidecar_container(pod, plan)];
    match &spec.init_containers {
        Some(list) => {
            // From the end, so that each index still holds.
            for (i, _) in list.iter().enumerate().rev().filter(|(_, c)| is_our_container(&c.name)) {
                operations.push(remove(&["spec", "initContainers", &i.to_string()]));
            }
            for (i, container) in containers.into_iter().enumerate() {
                operations.push(add(&["spec", "initContainers", &i.to_string()], container));
            }
        }
        None => operations.push(add(&["spec", "initContainers"], json!(containers))),
    }
    let volumes = build::volumes(plan);
    match &spec.volumes {
        Some(list) => {
            for volume in volumes {
                let known =
                    list.iter().position(|v| Some(v.name.as_str()) == volume.get("name").and_then(Value::as_str));
                operations.push(match known {
                    Some(i) => replace(&["spec", "volumes", &i.to_string()], volume),
                    None => add(&["spec", "volumes", "-"], volume),
                });
            }
        }
        None => operations.push(add(&["spec", "volumes"], json!(volumes))),
    }
    let labels = [(label::INJECTED, "true".to_owned())];
    add_entries(&mut operations, "labels", pod.metadata.labels.is_some(), &labels);
    let own = pod.annotations().get(annotation::EVICTABLE_VOLUMES).map(String::as_str);
    let annotations = [
        (annotation::EVICTABLE_VOLUMES, evictable::with(own, &build::evictable(plan), again)),
        (annotation::INJECTION_ID, plan.injection_id.to_owned()),
        (annotation::REVISION, plan.selection.document.revision.clone()),
        (annotation::STATUS, serde_json::to_string(&status)?),
    ];
    add_entries(&mut operations, "annotations", pod.metadata.annotations.is_some(), &annotations);
    Ok(Patch(operations))
}

/// What an earlier injection changed.
fn written(pod: &Pod) -> Result<InjectionStatus, PatchError> {
    let written = pod.annotations().get(annotation::STATUS).map(|s| serde_json::from_str(s)).transpose()?;
    Ok(written.unwrap_or_default())
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

fn remove(path: &[&str]) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation { path: PointerBuf::from_tokens(path.iter().copied()) })
}

fn replace(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Replace(ReplaceOperation { path: PointerBuf::from_tokens(path.iter().copied()), value })
}

fn add(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(path.iter().copied()), value })
}

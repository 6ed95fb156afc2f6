//! Taking an injection back (OP-2).

use super::traits::{is_our_container, is_our_volume};
use super::{InjectionStatus, evictable};
use serde_json::Value;
use testimony_core::contract::{annotation, label};

/// Why an injection cannot be taken back.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// It was never injected.
    #[error("the pod has no annotation testimony.dev/status: it was not injected")]
    NotInjected,
    /// The annotation was changed.
    #[error("annotation testimony.dev/status is not what injection wrote: {0}")]
    Status(#[from] serde_json::Error),
}

/// The pod as it was before injection.
///
/// # Errors
/// The pod was not injected, or its status annotation was changed.
pub fn undo(pod: &Value) -> Result<Value, UndoError> {
    let mut pod = pod.clone();
    let annotations = pod.pointer("/metadata/annotations");
    let written = annotations.and_then(|a| a.get(annotation::STATUS)).and_then(Value::as_str);
    let status: InjectionStatus = serde_json::from_str(written.ok_or(UndoError::NotInjected)?)?;
    take_evictable(&mut pod);
    retain(&mut pod, "/spec/initContainers", |name| !is_our_container(name));
    retain(&mut pod, "/spec/volumes", |name| !is_our_volume(name));
    for changed in &status.probes {
        for list in ["/spec/initContainers", "/spec/containers"] {
            let containers = pod.pointer_mut(list).and_then(Value::as_array_mut);
            let same = |c: &&mut Value| c.get("name").and_then(Value::as_str) == Some(&changed.container);
            let container = containers.into_iter().flatten().find(same);
            if let Some(Value::Object(probe)) = container.and_then(|c| c.get_mut(&changed.probe)) {
                probe.remove("httpGet");
                probe.insert("tcpSocket".to_owned(), serde_json::to_value(&changed.tcp_socket)?);
            }
        }
    }
    for (path, was) in status.resources.iter().filter(|(path, _)| path.starts_with("/spec/resources/")) {
        let place = path.rsplit_once('/').filter(|_| was.is_empty());
        if let Some((map, name)) = place {
            remove_keys(&mut pod, map, &[name]);
        } else if let Some(value) = pod.pointer_mut(path) {
            *value = Value::from(was.as_str());
        }
    }
    remove_keys(&mut pod, "/metadata/labels", &[label::INJECTED]);
    let ours = [annotation::INJECTION_ID, annotation::REVISION, annotation::STATUS];
    remove_keys(&mut pod, "/metadata/annotations", &ours);
    for path in &status.absent {
        let empty = match pod.pointer(path) {
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            _ => false,
        };
        if let (true, Some((parent, name))) = (empty, path.rsplit_once('/'))
            && let Some(Value::Object(fields)) = pod.pointer_mut(parent)
        {
            fields.remove(name);
        }
    }
    Ok(pod)
}

/// Takes our volumes out of the autoscaler's list, while they still stand in the pod.
fn take_evictable(pod: &mut Value) {
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    let local = volumes.into_iter().flatten().filter(|volume| volume.get("emptyDir").is_some());
    let names = local.filter_map(|volume| volume.get("name")?.as_str()).filter(|name| is_our_volume(name));
    let ours = names.collect::<Vec<_>>().join(",");
    let Some(Value::Object(annotations)) = pod.pointer_mut("/metadata/annotations") else { return };
    if ours.is_empty() {
        return;
    }
    let Some(list) = annotations.get(annotation::EVICTABLE_VOLUMES).and_then(Value::as_str) else { return };
    match evictable::without(list, &ours) {
        Some(list) => annotations.insert(annotation::EVICTABLE_VOLUMES.to_owned(), Value::from(list)),
        None => annotations.remove(annotation::EVICTABLE_VOLUMES),
    };
}

fn retain(pod: &mut Value, list: &str, keep: impl Fn(&str) -> bool) {
    if let Some(Value::Array(items)) = pod.pointer_mut(list) {
        items.retain(|item| item.get("name").and_then(Value::as_str).is_none_or(&keep));
    }
}

fn remove_keys(pod: &mut Value, map: &str, keys: &[&str]) {
    if let Some(Value::Object(entries)) = pod.pointer_mut(map) {
        for key in keys {
            entries.remove(*key);
        }
    }
}

//! What the answers of the API server, the sidecar and the sink mean (pure).

use crate::api::AuditSink;
use crate::index::{Index, Indexed};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DynamicObject, TypeMeta};
use std::collections::BTreeMap;
use testimony_core::contract::pod as names;

/// What looking once has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe<T> {
    /// It is so.
    Done(T),
    /// Not yet; why.
    Wait(String),
    /// It will not be so; why.
    Fail(String),
}

/// The fields of a record's body.
pub type Record = BTreeMap<String, String>;

/// Longest message of a container that is repeated, in characters.
const MESSAGE_CHARS_MAX: usize = 400;

/// Whether the controller accepted an object of this `generation` and found what it refers to.
pub fn accepted(generation: Option<i64>, observed: Option<i64>, conditions: &[Condition]) -> Probe<()> {
    if observed.is_none() || observed != generation {
        return Probe::Wait("the controller has not looked at it".to_owned());
    }
    for kind in ["Accepted", "ResolvedRefs"] {
        // A sink has no references.
        let Some(condition) = conditions.iter().find(|condition| condition.type_ == kind) else { continue };
        match (condition.status.as_str(), kind) {
            ("True", _) => {}
            ("False", "Accepted") => return Probe::Fail(format!("Accepted is False: {}", condition.message)),
            (status, _) => return Probe::Wait(format!("{kind} is {status}: {}", condition.message)),
        }
    }
    Probe::Done(())
}

/// Whether the sidecar said that it runs the policy.
pub fn programmed(programmed: i64, conditions: &[Condition]) -> Probe<()> {
    let condition = conditions.iter().find(|condition| condition.type_ == "Programmed");
    match condition {
        Some(condition) if condition.status == "True" && programmed > 0 => Probe::Done(()),
        Some(condition) => Probe::Wait(condition.message.clone()),
        None => Probe::Wait("the policy's status does not speak of its pods".to_owned()),
    }
}

/// Whether the pod came with the sidecar.
pub fn injected(pod: &Pod) -> bool {
    let containers = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    containers.iter().any(|container| container.name == names::SIDECAR_CONTAINER)
}

/// Whether the pod is ready; its address.
pub fn started(pod: &Pod) -> Probe<String> {
    let Some(status) = &pod.status else { return Probe::Wait("the pod has no status".to_owned()) };
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let is = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    if let (Some("True"), Some(address)) = (is("Ready").map(|ready| ready.status.as_str()), &status.pod_ip) {
        return Probe::Done(address.clone());
    }
    let all = [&status.init_container_statuses, &status.container_statuses];
    if let Some(trouble) = all.into_iter().flatten().flatten().find_map(trouble) {
        return Probe::Wait(trouble);
    }
    match is("PodScheduled") {
        Some(scheduled) if scheduled.status == "False" => {
            Probe::Wait(format!("it is not scheduled: {}", scheduled.message.as_deref().unwrap_or_default()))
        }
        _ => Probe::Wait("it is not ready, and no container says why".to_owned()),
    }
}

/// Why a container does not run.
fn trouble(container: &ContainerStatus) -> Option<String> {
    let cut = |message: &Option<String>| -> String {
        message.as_deref().unwrap_or_default().trim().chars().take(MESSAGE_CHARS_MAX).collect()
    };
    let states = [&container.state, &container.last_state];
    let ended = states.into_iter().flatten().find_map(|state| state.terminated.as_ref().filter(|it| it.exit_code != 0));
    if let Some(ended) = ended {
        return Some(format!(
            "container {} ended with exit code {}: {}",
            container.name,
            ended.exit_code,
            cut(&ended.message)
        ));
    }
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    // These are what every pod goes through.
    if ["", "PodInitializing", "ContainerCreating"].contains(&reason) {
        return None;
    }
    Some(format!("container {}: {reason}: {}", container.name, cut(&waiting.message)))
}

/// A sink that policies without `sinks` use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultSink {
    /// Its name.
    pub name: String,
    /// Its endpoint.
    pub endpoint: String,
    /// The Secret with its headers, in the namespace of each audited pod.
    pub credentials: Option<String>,
}

/// The sink that policies without `sinks` use: what the operator itself would say of these. One of another shape hides no
/// other.
pub fn default_sink(sinks: &[DynamicObject]) -> Option<DefaultSink> {
    let mut index = Index::default();
    for sink in sinks {
        let types = Some(TypeMeta::resource::<AuditSink>());
        if let Ok(sink) = (DynamicObject { types, ..sink.clone() }).try_parse::<AuditSink>() {
            AuditSink::apply(&mut index, sink);
        }
    }
    let name = index.default_sink()?.to_owned();
    let sink = index.sinks.get(&name)?;
    let endpoint = sink.good.as_ref()?.endpoint.clone();
    Some(DefaultSink { name, endpoint, credentials: sink.credentials_secret.clone() })
}

/// Message of the condition `Delivering` of a sink.
pub fn delivering(sink: &DynamicObject) -> String {
    let conditions = sink.data.pointer("/status/conditions").and_then(|list| list.as_array());
    let condition = conditions.into_iter().flatten().find(|condition| condition["type"] == "Delivering");
    condition.and_then(|condition| condition["message"].as_str()).unwrap_or_default().to_owned()
}

/// Sum of a metric's samples that carry all `labels`, from a page of metrics.
pub fn metric(page: &str, name: &str, labels: &[(&str, &str)]) -> u64 {
    let samples = page.lines().filter_map(|line| {
        let (sample, value) = line.rsplit_once(' ')?;
        let rest = sample.strip_prefix(name)?;
        let has = |(label, value): &(&str, &str)| rest.contains(&format!("{label}=\"{value}\""));
        ((rest.is_empty() || rest.starts_with('{')) && labels.iter().all(has)).then_some(value)
    });
    samples.filter_map(|value| value.parse::<f64>().ok()).map(|value| value as u64).sum()
}

/// Whether a sink acknowledged a record of this sidecar; how many. `sink` is the sink's name.
pub fn delivered(page: &str, sink: &str) -> Probe<u64> {
    match metric(page, "testimony_export_records_total", &[("sink", sink)]) {
        0 => {
            let results = ["retry", "parked", "refused", "partial"].map(|result| {
                let labels = [("sink", sink), ("result", result)];
                (result, metric(page, "testimony_export_requests_total", &labels))
            });
            let told: Vec<String> = results
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(result, count)| format!("{count} {result}"))
                .collect();
            let told = if told.is_empty() { "none was answered".to_owned() } else { told.join(", ") };
            Probe::Wait(format!("it acknowledged no record; requests of the sidecar: {told}"))
        }
        records => Probe::Done(records),
    }
}

/// The record, in an ExportLogsServiceRequest, whose path is `path`. The body of each record is one JSON object of strings,
/// and stands in the message as it is.
pub fn find_record(request: &[u8], path: &str) -> Option<Record> {
    let starts = request.windows(2).enumerate().filter(|(_, window)| *window == b"{\"").map(|(at, _)| at);
    for at in starts {
        let mut values = serde_json::Deserializer::from_slice(request.get(at..)?).into_iter::<Record>();
        if let Some(Ok(record)) = values.next()
            && record.get("path").is_some_and(|found| found == path)
        {
            return Some(record);
        }
    }
    None
}

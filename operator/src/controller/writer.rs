//! Writes statuses and Events, and keeps the leader's label.

use super::conditions::transitions;
use super::status::{Report, Uncovered, View, report};
use crate::api::{AuditPolicy, AuditPolicyStatus, AuditSink, AuditSinkStatus, ClusterAuditPolicy};
use crate::index::{Index, Key, PolicyEntry, SinkEntry};
use crate::inject::ExcludedNamespaces;
use crate::metrics::{Metrics, ResultLabels, StateLabels};
use crate::plain::Plain;
use crate::serve::Shutdown;
use crate::state::State;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testimony_core::contract::label;
use tracing::Instrument;

/// Field manager of statuses.
const MANAGER: &str = "testimony-operator";

/// Changes within this time are written together, in milliseconds.
const DEBOUNCE_MS: u64 = 250;

/// Statuses are looked at anew after this time without changes, in seconds: acknowledgements grow old.
const REFRESH_SECONDS: u64 = 30;

/// Most Events of one pass; the rest follows in the next.
const EVENTS_PER_PASS_MAX: usize = 50;

/// Longest note of an Event, in characters.
const NOTE_CHARS_MAX: usize = 1000;

/// A status to write.
struct Change {
    at: ObjectReference,
    resource: ApiResource,
    status: Status,
    news: Vec<Condition>,
}

/// Whose status.
enum Status {
    Policy(Key, AuditPolicyStatus),
    Sink(AuditSinkStatus),
}

impl Change {
    fn policy(key: &Key, entry: &PolicyEntry, status: &AuditPolicyStatus) -> Self {
        let news = news(&entry.status.conditions, &status.conditions);
        let (namespace, name) = key;
        let (at, resource) = match entry.is_cluster() {
            true => {
                (reference::<ClusterAuditPolicy>(None, name, &entry.uid), ApiResource::erase::<ClusterAuditPolicy>(&()))
            }
            false => {
                (reference::<AuditPolicy>(Some(namespace), name, &entry.uid), ApiResource::erase::<AuditPolicy>(&()))
            }
        };
        Self { at, resource, status: Status::Policy(key.clone(), status.clone()), news }
    }

    fn sink(name: &str, entry: &SinkEntry, status: &AuditSinkStatus) -> Self {
        let news = news(&entry.status.conditions, &status.conditions);
        let (at, resource) = (reference::<AuditSink>(None, name, &entry.uid), ApiResource::erase::<AuditSink>(&()));
        Self { at, resource, status: Status::Sink(status.clone()), news }
    }

    fn status(&self) -> Value {
        match &self.status {
            Status::Policy(_, status) => json!(status),
            Status::Sink(status) => json!(status),
        }
    }

    fn remember(self, index: &mut Index) {
        let uid = self.at.uid.unwrap_or_default();
        match self.status {
            Status::Policy(key, status) => {
                if let Some(entry) = index.policies.get_mut(&key).filter(|entry| entry.uid == uid) {
                    entry.status = status;
                }
            }
            Status::Sink(status) => {
                let name = self.at.name.unwrap_or_default();
                if let Some(entry) = index.sinks.get_mut(&name).filter(|entry| entry.uid == uid) {
                    entry.status = status;
                }
            }
        }
    }
}

/// Writes what [`report`] says.
pub struct Writer {
    /// The API server.
    pub client: Client,
    /// The cluster and what sidecars said.
    pub state: Arc<State>,
    /// Namespaces that are never touched.
    pub excluded: ExcludedNamespaces,
    /// Counters.
    pub metrics: Metrics,
    /// Name of this replica, for Events.
    pub replica: String,
}

impl Writer {
    /// Writes until the signal to stop. Errors are logged and tried again with the next pass.
    pub async fn run(self, mut shutdown: Shutdown) {
        let reporter = Reporter { controller: "testimony-operator".to_owned(), instance: Some(self.replica.clone()) };
        let recorder = Recorder::new(self.client.clone(), reporter);
        let mut told = HashSet::new();
        loop {
            let report = self.report();
            self.gauges(&report);
            let failed = self.write(&recorder, &report).await;
            let more = self.tell(&recorder, &report.uncovered, &mut told).await;
            let wait = Duration::from_secs(if failed || more { 2 } else { REFRESH_SECONDS });
            tokio::select! {
                () = self.state.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
                () = shutdown.wait() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(DEBOUNCE_MS)) => {}
                () = shutdown.wait() => return,
            }
        }
    }

    fn report(&self) -> Report {
        let index = self.state.index();
        let acks = self.state.acks();
        let (instant, now) = (Instant::now(), Timestamp::now());
        report(View { index: &index, acks: &acks, excluded: &self.excluded, instant, now })
    }

    fn gauges(&self, report: &Report) {
        let totals = &report.totals;
        let counts = [
            ("matched", totals.matched),
            ("injected", totals.injected),
            ("programmed", totals.programmed),
            ("need_restart", totals.need_restart),
            ("skipped", totals.skipped),
        ];
        for (state, count) in counts {
            self.metrics.pods.get_or_create(&StateLabels { state }).set(count);
        }
    }

    /// Writes the statuses that differ from what the API server holds; `true`: something failed.
    async fn write(&self, recorder: &Recorder, report: &Report) -> bool {
        let mut failed = false;
        for change in self.changes(report) {
            let at = &change.at;
            let span = tracing::info_span!("status", kind = at.kind, namespace = at.namespace, name = at.name);
            let result = self.write_one(&change).instrument(span).await;
            self.counted(&result);
            match result {
                Ok(()) => {
                    for condition in &change.news {
                        self.tell_condition(recorder, at, condition).await;
                    }
                    // Not only by the watch: it does not bring the status of an undecodable object.
                    self.state.remember(|index| change.remember(index));
                }
                Err(error) => {
                    failed = true;
                    tracing::warn!(error = %Plain(&error), kind = at.kind, namespace = at.namespace, name = at.name, "status not written");
                }
            }
        }
        failed
    }

    fn changes(&self, report: &Report) -> Vec<Change> {
        let index = self.state.index();
        let policies = report.policies.iter().filter_map(|(key, status)| {
            let entry = index.policies.get(key).filter(|entry| entry.status != *status)?;
            Some(Change::policy(key, entry, status))
        });
        let sinks = report.sinks.iter().filter_map(|(name, status)| {
            let entry = index.sinks.get(name).filter(|entry| entry.status != *status)?;
            Some(Change::sink(name, entry, status))
        });
        policies.chain(sinks).collect()
    }

    async fn write_one(&self, change: &Change) -> kube::Result<()> {
        let at = &change.at;
        let name = at.name.clone().unwrap_or_default();
        let patch = json!({
            "apiVersion": at.api_version,
            "kind": at.kind,
            // The uid guards against an object that was deleted and made again in between.
            "metadata": {"name": name, "namespace": at.namespace, "uid": at.uid},
            "status": change.status(),
        });
        // Untyped: the answer repeats the object, which may be the undecodable one that the status speaks of.
        let api: Api<DynamicObject> = match &at.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &change.resource),
            None => Api::all_with(self.client.clone(), &change.resource),
        };
        api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await.map(drop)
    }

    async fn tell_condition(&self, recorder: &Recorder, at: &ObjectReference, condition: &Condition) {
        let type_ = if condition.status == "False" { EventType::Warning } else { EventType::Normal };
        let event = Event {
            type_,
            reason: condition.reason.clone(),
            note: Some(note(&format!("{}={}: {}", condition.type_, condition.status, condition.message))),
            action: condition.type_.clone(),
            secondary: None,
        };
        self.publish(recorder, &event, at).await;
    }

    /// An Event on each pod that has no sidecar, once for each reason; `true`: some are left for the next pass.
    async fn tell(
        &self,
        recorder: &Recorder,
        uncovered: &[Uncovered],
        told: &mut HashSet<(String, &'static str)>,
    ) -> bool {
        let current: HashSet<(&str, &'static str)> = uncovered.iter().map(|u| (u.uid.as_str(), u.reason)).collect();
        told.retain(|(uid, reason)| current.contains(&(uid.as_str(), *reason)));
        let mut news: Vec<&Uncovered> =
            uncovered.iter().filter(|u| !told.contains(&(u.uid.clone(), u.reason))).collect();
        let more = news.len() > EVENTS_PER_PASS_MAX;
        news.truncate(EVENTS_PER_PASS_MAX);
        for pod in news {
            let event = Event {
                type_: EventType::Warning,
                reason: pod.reason.to_owned(),
                note: Some(note(&format!("not audited: {}", pod.message))),
                action: "InjectionSkipped".to_owned(),
                secondary: None,
            };
            self.publish(recorder, &event, &reference::<Pod>(Some(&pod.namespace), &pod.name, &pod.uid)).await;
            told.insert((pod.uid.clone(), pod.reason));
        }
        more
    }

    async fn publish(&self, recorder: &Recorder, event: &Event, at: &ObjectReference) {
        let result = recorder.publish(event, at).await;
        self.counted(&result);
        if let Err(error) = result {
            tracing::warn!(error = %Plain(&error), namespace = at.namespace, name = at.name, "event not written");
        }
    }

    fn counted<T>(&self, result: &kube::Result<T>) {
        let result = if result.is_ok() { "ok" } else { "error" };
        self.metrics.writes.get_or_create(&ResultLabels { result }).inc();
    }
}

/// Sets or removes the label by which the policy server's Service finds the leader.
///
/// # Errors
/// The API server's.
pub async fn label_leader(client: Client, namespace: &str, pod: &str, leads: bool) -> kube::Result<()> {
    let api: Api<Pod> = Api::namespaced(client, namespace);
    let value = if leads { json!("true") } else { Value::Null };
    let patch = json!({"metadata": {"labels": {label::LEADER: value}}});
    match api.patch(pod, &PatchParams::default(), &Patch::Merge(patch)).await {
        // A pod that is gone has no label either.
        Err(kube::Error::Api(status)) if status.code == 404 && !leads => Ok(()),
        other => other.map(drop),
    }
}

/// Transitions that deserve an Event. `Ready=False` repeats another condition, and `Programmed` changes with each rollout.
fn news(before: &[Condition], after: &[Condition]) -> Vec<Condition> {
    let told = |c: &&Condition| match c.type_.as_str() {
        "Ready" => c.status == "True",
        "Programmed" => matches!(c.reason.as_str(), "Refused" | "NoSidecars"),
        _ => true,
    };
    transitions(before, after).filter(told).cloned().collect()
}

fn reference<K: Resource<DynamicType = ()>>(namespace: Option<&str>, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: namespace.map(str::to_owned),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

fn note(text: &str) -> String {
    text.chars().take(NOTE_CHARS_MAX).collect()
}

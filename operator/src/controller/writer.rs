//! Writes statuses and Events, and keeps the leader's label.

use super::events::{Events, reference};
use super::status::{Report, View, report};
use super::tell::{News, changed, of_conditions, of_injection};
use super::{evidence_status, sink_status};
use crate::api::{AuditPolicy, AuditPolicyStatus, AuditSink, AuditSinkStatus, ClusterAuditPolicy};
use crate::index::{Index, Key, PolicyEntry, SinkEntry};
use crate::inject::ExcludedNamespaces;
use crate::metrics::{Metrics, ResultLabels, StateLabels, TransitionLabels};
use crate::plain::Plain;
use crate::serve::Shutdown;
use crate::state::State;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use testimony_core::contract::label;
use testimony_core::policy::ABSENT_RETRY_MS_MAX;
use tracing::Instrument;

/// Field manager of statuses.
const MANAGER: &str = "testimony-operator";

/// Changes within this time are written together, in milliseconds.
const DEBOUNCE_MS: u64 = 250;

/// Longest such time, in milliseconds: in a large cluster, where a look takes long, less often is often enough.
const DEBOUNCE_MS_MAX: u64 = 2000;

/// The time between two looks is this many times as long as the look took, within the bounds.
const DEBOUNCE_FACTOR: u32 = 5;

/// Statuses that are written at a time.
const WRITES_AT_ONCE: usize = 8;

/// A new leader holds back what it does not know for this long, in seconds: sidecars that live have reported again by then.
const HOLD_SECONDS: u64 = 3;

// Their longest pause, and as long again for the way to the new leader.
const _: () = assert!(HOLD_SECONDS * 1000 >= 2 * ABSENT_RETRY_MS_MAX);

/// Sidecars that are older than the leader have reported again within this time, or are counted as silent, in seconds: those of
/// earlier versions pause for longer, and in a large cluster it takes time until all are answered.
const SETTLE_SECONDS: u64 = 60;

/// Counts of a sink's records and of a policy's evidence are written after this time, in seconds, where nothing else changed.
const COUNTS_SECONDS: u64 = 30;

/// Statuses are looked at anew after this time without changes, in seconds: acknowledgements grow old.
const REFRESH_SECONDS: u64 = 30;

/// A status to write.
struct Change {
    at: ObjectReference,
    resource: ApiResource,
    status: Status,
    told: Told,
}

/// Whose status.
enum Status {
    Policy(Key, AuditPolicyStatus),
    Sink(AuditSinkStatus),
}

/// What a change tells beside the status.
struct Told {
    changed: Vec<Condition>,
    news: Vec<News>,
}

impl Told {
    fn of(before: &[Condition], after: &[Condition], also: Option<News>) -> Self {
        let news = of_conditions(before, after).into_iter().chain(also).collect();
        Self { changed: changed(before, after).cloned().collect(), news }
    }
}

impl Change {
    fn policy(key: &Key, entry: &PolicyEntry, status: &AuditPolicyStatus) -> Self {
        let also = of_injection(&entry.status, &status.pods);
        let told = Told::of(&entry.status.conditions, &status.conditions, also);
        let (namespace, name) = key;
        let (at, resource) = match entry.is_cluster() {
            true => {
                (reference::<ClusterAuditPolicy>(None, name, &entry.uid), ApiResource::erase::<ClusterAuditPolicy>(&()))
            }
            false => {
                (reference::<AuditPolicy>(Some(namespace), name, &entry.uid), ApiResource::erase::<AuditPolicy>(&()))
            }
        };
        Self { at, resource, status: Status::Policy(key.clone(), status.clone()), told }
    }

    fn sink(name: &str, entry: &SinkEntry, status: &AuditSinkStatus) -> Self {
        let told = Told::of(&entry.status.conditions, &status.conditions, None);
        let (at, resource) = (reference::<AuditSink>(None, name, &entry.uid), ApiResource::erase::<AuditSink>(&()));
        Self { at, resource, status: Status::Sink(status.clone()), told }
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
    /// Whether `rollout: Restart` is switched on.
    pub rollouts: bool,
    /// Since when it leads.
    since: Since,
    events: Events,
    /// When each status was written, by uid, for as long as its counts wait.
    written: Mutex<HashMap<String, tokio::time::Instant>>,
}

/// A moment on both clocks.
#[derive(Clone, Copy, Debug)]
struct Since {
    instant: tokio::time::Instant,
    time: Timestamp,
}

impl Since {
    /// This moment.
    fn now() -> Self {
        Self { instant: tokio::time::Instant::now(), time: Timestamp::now() }
    }

    fn seconds(&self) -> u64 {
        self.instant.elapsed().as_secs()
    }
}

impl Writer {
    /// A writer of the replica that leads from now on.
    pub fn new(
        client: Client,
        state: Arc<State>,
        excluded: ExcludedNamespaces,
        metrics: Metrics,
        replica: String,
        rollouts: bool,
    ) -> Self {
        let events = Events::new(client.clone(), metrics.clone(), replica);
        Self { client, state, excluded, metrics, rollouts, since: Since::now(), events, written: Mutex::default() }
    }

    /// Writes until the signal to stop. Errors are logged and tried again with the next pass.
    pub async fn run(self, mut shutdown: Shutdown) {
        loop {
            let begun = Instant::now();
            let report = self.report();
            let pause = begun.elapsed() * DEBOUNCE_FACTOR;
            self.metrics.status_seconds.observe(begun.elapsed().as_secs_f64());
            self.gauges(&report);
            let failed = self.write(&report).await;
            let more = self.events.uncovered(&report.uncovered).await;
            let soon = failed || more || report.unheard > 0;
            let wait = Duration::from_secs(if soon { 2 } else { REFRESH_SECONDS });
            tokio::select! {
                () = self.state.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
                () = shutdown.wait() => return,
            }
            let pause = pause.clamp(Duration::from_millis(DEBOUNCE_MS), Duration::from_millis(DEBOUNCE_MS_MAX));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.wait() => return,
            }
        }
    }

    fn report(&self) -> Report {
        let index = self.state.index();
        let acks = self.state.acks();
        let (instant, now) = (Instant::now(), Timestamp::now());
        let settling = (self.since.seconds() < SETTLE_SECONDS).then_some(self.since.time);
        let rollouts = self.rollouts;
        report(View { index: &index, acks: &acks, excluded: &self.excluded, instant, now, settling, rollouts })
    }

    fn gauges(&self, report: &Report) {
        let totals = &report.totals;
        let counts = [
            ("matched", totals.matched),
            ("injected", totals.injected),
            ("programmed", totals.programmed),
            ("waiting", report.waiting),
            ("need_restart", totals.need_restart),
            ("skipped", totals.skipped),
        ];
        for (state, count) in counts {
            // A new leader does not know it yet; what it does not know it does not show as zero.
            if state != "programmed" || report.unheard == 0 {
                self.metrics.pods.get_or_create(&StateLabels { state }).set(count);
            }
        }
    }

    /// Writes the statuses that differ from what the API server holds; `true`: something failed.
    async fn write(&self, report: &Report) -> bool {
        let changes = futures::stream::iter(self.changes(report));
        let writes = changes.map(|change| self.write_change(change)).buffer_unordered(WRITES_AT_ONCE);
        writes.fold(false, |failed, written| async move { failed || !written }).await
    }

    /// Whether it was written.
    async fn write_change(&self, change: Change) -> bool {
        let at = change.at.clone();
        let span = tracing::info_span!("status", kind = at.kind, namespace = at.namespace, name = at.name);
        let result = self.write_one(&change).instrument(span).await;
        self.counted(&result);
        if let Err(error) = result {
            tracing::warn!(error = %Plain(&error), kind = at.kind, namespace = at.namespace, name = at.name, "status not written");
            return false;
        }
        for condition in &change.told.changed {
            let kind = at.kind.as_deref().unwrap_or_default();
            let labels = TransitionLabels::of(kind, &condition.type_, &condition.status);
            self.metrics.transitions.get_or_create(&labels).inc();
        }
        for news in &change.told.news {
            self.events.publish(news, &at).await;
        }
        if let Some(uid) = &at.uid {
            self.written().insert(uid.clone(), tokio::time::Instant::now());
        }
        // Not only by the watch: until it brings the new status, the next pass would write it again.
        self.state.remember(|index| change.remember(index));
        true
    }

    fn changes(&self, report: &Report) -> Vec<Change> {
        let index = self.state.index();
        let hold = self.since.seconds() < HOLD_SECONDS;
        let mut written = self.written();
        written.retain(|_, at| at.elapsed() < Duration::from_secs(COUNTS_SECONDS));
        let policies = report.policies.iter().filter_map(|(key, status)| {
            let entry = index.policies.get(key).filter(|entry| entry.status != *status)?;
            let recent = written.contains_key(&entry.uid);
            if hold && is_reconciling(&status.conditions) || recent && !evidence_status::is_news(&entry.status, status)
            {
                return None;
            }
            Some(Change::policy(key, entry, status))
        });
        let sinks = report.sinks.iter().filter_map(|(name, status)| {
            let entry = index.sinks.get(name).filter(|entry| entry.status != *status)?;
            let recent = written.contains_key(&entry.uid);
            let partial = report.unheard > 0 || hold && is_reconciling(&status.conditions);
            if partial && hold || (recent || partial) && !sink_status::is_news(&entry.status, status) {
                return None;
            }
            Some(Change::sink(name, entry, status))
        });
        policies.chain(sinks).collect()
    }

    fn written(&self) -> MutexGuard<'_, HashMap<String, tokio::time::Instant>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Whether it says that not all sidecars have reported to a new leader.
fn is_reconciling(conditions: &[Condition]) -> bool {
    conditions.iter().any(|c| c.status == "Unknown" && c.reason == "Reconciling")
}

//! Events: on policies and sinks when a condition changes, on pods that have no sidecar.

use super::status::Uncovered;
use super::tell::{Gate, News};
use crate::metrics::{Metrics, ResultLabels};
use crate::plain::Plain;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Longest note of an Event, in characters.
const NOTE_CHARS_MAX: usize = 1000;

/// Writes Events, at a rate that a large cluster bears.
pub(super) struct Events {
    recorder: Recorder,
    gate: Mutex<Gate>,
    /// Pods without a sidecar that were told, by uid and reason.
    told: Mutex<HashSet<(String, &'static str)>>,
    metrics: Metrics,
}

impl Events {
    /// Events in the name of this replica.
    pub(super) fn new(client: Client, metrics: Metrics, replica: String) -> Self {
        let reporter = Reporter { controller: "testimony-operator".to_owned(), instance: Some(replica) };
        let gate = Mutex::new(Gate::new(Instant::now()));
        Self { recorder: Recorder::new(client, reporter), gate, told: Mutex::default(), metrics }
    }

    /// An Event on each pod that has no sidecar, once for each reason; `true`: some are left for the next pass.
    pub(super) async fn uncovered(&self, uncovered: &[Uncovered]) -> bool {
        let current: HashSet<(&str, &'static str)> = uncovered.iter().map(|u| (u.uid.as_str(), u.reason)).collect();
        let left: Vec<&Uncovered> = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.retain(|(uid, reason)| current.contains(&(uid.as_str(), *reason)));
            uncovered.iter().filter(|u| !told.contains(&(u.uid.clone(), u.reason))).collect()
        };
        for pod in left {
            let news = News {
                action: "InjectionSkipped".to_owned(),
                reason: pod.reason.to_owned(),
                note: format!("not audited: {}", pod.message),
                warning: true,
            };
            if !self.gate.lock().unwrap_or_else(PoisonError::into_inner).has_room(Instant::now()) {
                return true;
            }
            self.publish(&news, &reference::<Pod>(Some(&pod.namespace), &pod.name, &pod.uid)).await;
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.insert((pod.uid.clone(), pod.reason));
        }
        false
    }

    /// Writes one Event, unless it was told already or there are too many.
    pub(super) async fn publish(&self, news: &News, at: &ObjectReference) {
        let uid = at.uid.clone().unwrap_or_default();
        if !self.gate.lock().unwrap_or_else(PoisonError::into_inner).admits(&uid, news, Instant::now()) {
            self.metrics.events.get_or_create(&ResultLabels { result: "left_out" }).inc();
            return;
        }
        let event = Event {
            type_: if news.warning { EventType::Warning } else { EventType::Normal },
            reason: news.reason.clone(),
            note: Some(note(&news.note)),
            action: news.action.clone(),
            secondary: None,
        };
        let result = self.recorder.publish(&event, at).await;
        let counted = match &result {
            Ok(_) => "ok",
            Err(error) if is_terminating(error) => "gone",
            Err(_) => "error",
        };
        self.metrics.events.get_or_create(&ResultLabels { result: counted }).inc();
        match result {
            Ok(_) => {}
            Err(error) if is_terminating(&error) => {
                tracing::debug!(error = %Plain(&error), namespace = at.namespace, name = at.name, "no event in a namespace that goes");
            }
            Err(error) => {
                tracing::warn!(error = %Plain(&error), namespace = at.namespace, name = at.name, "event not written");
            }
        }
    }
}

/// A namespace that is being deleted, or is gone, takes no new objects.
fn is_terminating(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => {
            status.code == 404 || status.code == 403 && status.message.contains("because it is being terminated")
        }
        _ => false,
    }
}

/// Names an object, for Events and writes.
pub(super) fn reference<K: Resource<DynamicType = ()>>(
    namespace: Option<&str>,
    name: &str,
    uid: &str,
) -> ObjectReference {
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

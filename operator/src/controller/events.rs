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
use std::time::{Duration, Instant};

/// Longest note of an Event, in characters.
const NOTE_CHARS_MAX: usize = 1000;

/// Attempts at one Event that the API server is too busy for, and the time between them, in seconds.
const ATTEMPTS_MAX: u32 = 3;
const RETRY_SECONDS: u64 = 1;

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
            if !self.publish(&news, &reference::<Pod>(Some(&pod.namespace), &pod.name, &pod.uid)).await {
                // The others would wait as long for the same.
                return true;
            }
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.insert((pod.uid.clone(), pod.reason));
        }
        false
    }

    /// Writes one Event, unless it was told already or there are too many; `false`: it may work later.
    pub(super) async fn publish(&self, news: &News, at: &ObjectReference) -> bool {
        let uid = at.uid.clone().unwrap_or_default();
        if !self.gate.lock().unwrap_or_else(PoisonError::into_inner).admits(&uid, news, Instant::now()) {
            self.metrics.events.get_or_create(&ResultLabels { result: "left_out" }).inc();
            return true;
        }
        let event = Event {
            type_: if news.warning { EventType::Warning } else { EventType::Normal },
            reason: news.reason.clone(),
            note: Some(note(&news.note)),
            action: news.action.clone(),
            secondary: None,
        };
        let mut result = self.recorder.publish(&event, at).await;
        for _ in 1..ATTEMPTS_MAX {
            if !result.as_ref().is_err_and(is_busy) {
                break;
            }
            tokio::time::sleep(Duration::from_secs(RETRY_SECONDS)).await;
            result = self.recorder.publish(&event, at).await;
        }
        let counted = match &result {
            Ok(_) => "ok",
            Err(error) if is_terminating(error) => "gone",
            Err(_) => "error",
        };
        self.metrics.events.get_or_create(&ResultLabels { result: counted }).inc();
        match result {
            Ok(_) => true,
            Err(error) if is_terminating(&error) => {
                tracing::debug!(error = %Plain(&error), namespace = at.namespace, name = at.name, "no event in a namespace that goes");
                true
            }
            Err(error) => {
                tracing::warn!(error = %Plain(&error), namespace = at.namespace, name = at.name, "event not written");
                let later = is_busy(&error) || !matches!(error, kube::Error::Api(_));
                if later {
                    self.gate.lock().unwrap_or_else(PoisonError::into_inner).take_back(&uid, news);
                }
                !later
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

/// Whether the API server is there, and cannot do it now.
fn is_busy(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 429 | 503 | 504))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;

    #[tokio::test(start_paused = true)]
    async fn an_event_that_the_api_server_was_too_busy_for_is_written_later() {
        let api = FakeApi::default();
        let events = Events::new(api.client(), Metrics::new().0, "me".to_owned());
        let written = || api.paths("/apis/events.k8s.io/v1/namespaces/shop/events/").len();
        let pod = |name: &str| Uncovered {
            uid: name.to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            reason: "NeedsRestart",
            message: "",
        };
        api.busy(1);
        assert!(!events.uncovered(&[pod("a")]).await);
        assert_eq!(written(), 1);
        api.busy(3);
        let more = [pod("a"), pod("b"), pod("c")];
        assert!(events.uncovered(&more).await, "the rest is left for the next pass");
        assert_eq!(written(), 1);
        assert!(!events.uncovered(&more).await);
        assert_eq!(written(), 3);
    }
}

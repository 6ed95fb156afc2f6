//! What the writer writes, and when, against a small API server on a paused clock.

use super::tests::{ack, cluster, pod, policy, put, sink};
use super::writer::Writer;
use crate::api::{AuditPolicy, AuditPolicyStatus, ClusterAuditPolicy};
use crate::index::Index;
use crate::inject::ExcludedNamespaces;
use crate::metrics::{Metrics, ResultLabels, TransitionLabels};
use crate::serve::Shutdown;
use crate::state::{Ack, State};
use crate::testing::FakeApi;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use testimony_core::policy::{ABSENT_RETRY_MS_MAX, EvidenceState, Refused};

const POLICY: &str = "/apis/audit.testimony.dev/v1alpha1/namespaces/shop/auditpolicies/all";
const WIDE: &str = "/apis/audit.testimony.dev/v1alpha1/clusterauditpolicies/floor";
const SINK: &str = "/apis/audit.testimony.dev/v1alpha1/auditsinks/main";

fn wide() -> Value {
    json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "ClusterAuditPolicy", "spec": {},
           "metadata": {"name": "floor", "uid": "floor", "generation": 3}})
}

/// A cluster with a policy of each kind and a pod that is older than any leader.
fn shop() -> (FakeApi, Index) {
    let api = FakeApi::default();
    api.put(POLICY, policy("all", json!({})));
    api.put(WIDE, wide());
    api.put(SINK, sink("main", json!({"endpoint": "http://collector.example:4318", "default": true})));
    let mut index = cluster();
    put::<ClusterAuditPolicy>(&mut index, wide());
    let mut old = pod("a", true);
    old["metadata"]["creationTimestamp"] = json!("1970-01-01T00:00:10Z");
    put::<Pod>(&mut index, old);
    (api, index)
}

fn state(index: Index) -> Arc<State> {
    let state = State::new("cluster.local");
    state.remember(|empty| *empty = index);
    Arc::new(state)
}

/// A controller that leads for a while of the paused clock.
async fn lead(api: &FakeApi, state: &Arc<State>, seconds: u64) {
    lead_counted(api, state, seconds, Metrics::new().0).await;
}

async fn lead_counted(api: &FakeApi, state: &Arc<State>, seconds: u64, metrics: Metrics) {
    let (_stop, shutdown) = Shutdown::new();
    let excluded = ExcludedNamespaces { own: "testimony-system".to_owned(), ..Default::default() };
    let client = api.client();
    let writer = Writer::new(client, state.clone(), excluded, metrics, "me".to_owned(), true);
    let _ = tokio::time::timeout(Duration::from_secs(seconds), writer.run(shutdown)).await;
}

fn status(api: &FakeApi, path: &str) -> AuditPolicyStatus {
    let object = api.get(path).expect("the policy");
    serde_json::from_value(object["status"].clone()).unwrap_or_default()
}

/// Status and reason of `Programmed`, and how many pods are programmed.
fn programmed(api: &FakeApi, path: &str) -> (String, i64) {
    let status = status(api, path);
    let found = status.conditions.iter().find(|c| c.type_ == "Programmed");
    (found.map(|c| format!("{} {}", c.status, c.reason)).unwrap_or_default(), status.pods.programmed)
}

fn acknowledge(state: &State) {
    let said = ack(&state.index(), Instant::now());
    state.acknowledge("a", said);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_holds_back_then_says_unknown_then_what_is_so() {
    let (api, index) = shop();
    let before = state(index);
    acknowledge(&before);
    lead(&api, &before, 2).await;
    for path in [POLICY, WIDE] {
        assert_eq!(programmed(&api, path), ("True Programmed".to_owned(), 1), "{path}");
    }

    // Another controller knows what the API server holds, and has heard nobody.
    let (_, mut index) = shop();
    let told = [POLICY, WIDE].map(|path| api.get(path).expect("the policy"));
    let [namespaced, wide] = told;
    put::<AuditPolicy>(&mut index, namespaced);
    put::<ClusterAuditPolicy>(&mut index, wide);
    let after = state(index);
    lead(&api, &after, 2).await;
    for path in [POLICY, WIDE] {
        assert_eq!(programmed(&api, path), ("True Programmed".to_owned(), 1), "{path}: most have told by then");
    }
    lead(&api, &after, 7).await;
    for path in [POLICY, WIDE] {
        assert_eq!(programmed(&api, path), ("Unknown Reconciling".to_owned(), 1), "{path}");
    }
    acknowledge(&after);
    lead(&api, &after, 2).await;
    for path in [POLICY, WIDE] {
        assert_eq!(programmed(&api, path), ("True Programmed".to_owned(), 1), "{path}");
    }
}

/// A sidecar that lost its leader tries again within [`ABSENT_RETRY_MS_MAX`]; what happened while nobody led is true within 5 s
/// of the new leader's start, and nothing else is shown meanwhile.
#[tokio::test(start_paused = true)]
async fn a_new_leader_tells_what_is_so_within_five_seconds_and_nothing_else_before() {
    for late_ms in [0, 300, ABSENT_RETRY_MS_MAX, 2 * ABSENT_RETRY_MS_MAX] {
        let (api, mut index) = shop();
        let second = || {
            let mut old = pod("b", true);
            old["metadata"]["creationTimestamp"] = json!("1970-01-01T00:00:10Z");
            old
        };
        put::<Pod>(&mut index, second());
        let before = state(index);
        for uid in ["a", "b"] {
            let said = ack(&before.index(), Instant::now());
            before.acknowledge(uid, said);
        }
        lead(&api, &before, 2).await;
        assert_eq!(programmed(&api, POLICY), ("True Programmed".to_owned(), 2));

        // One pod went while nobody led.
        let (_, mut index) = shop();
        put::<AuditPolicy>(&mut index, api.get(POLICY).expect("the policy"));
        put::<ClusterAuditPolicy>(&mut index, api.get(WIDE).expect("the policy"));
        let after = state(index);
        let seen = Mutex::new(Vec::new());
        let begun = tokio::time::Instant::now();
        let looks = async {
            loop {
                let now = (programmed(&api, POLICY), status(&api, POLICY).pods.matched);
                {
                    let mut seen = seen.lock().expect("a lock");
                    if seen.last().is_none_or(|(last, _)| *last != now) {
                        seen.push((now, begun.elapsed()));
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let tells = async {
            tokio::time::sleep(Duration::from_millis(late_ms)).await;
            acknowledge(&after);
            // The leader's time is over first.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = lead(&api, &after, 10) => {}
            () = looks => {}
            () = tells => {}
        }
        let seen = seen.into_inner().expect("a lock");
        let states: Vec<_> =
            seen.iter().map(|((programmed, matched), _)| (programmed.0.as_str(), programmed.1, *matched)).collect();
        assert_eq!(states, [("True Programmed", 2, 2), ("True Programmed", 1, 1)], "told after {late_ms} ms");
        let last = seen.last().expect("a look").1;
        assert!(last <= Duration::from_secs(5), "{last:?}");
    }
}

/// Type, reason and object of each Event of a namespace.
fn events(api: &FakeApi, namespace: &str) -> Vec<String> {
    let paths = api.paths(&format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events/"));
    let event = |path: &String| {
        let event = api.get(path).expect("an Event");
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        format!("{} {} {}/{}", text("/type"), text("/reason"), text("/regarding/kind"), text("/regarding/name"))
    };
    let mut events: Vec<_> = paths.iter().map(event).collect();
    events.sort();
    events
}

#[tokio::test(start_paused = true)]
async fn a_condition_that_changes_is_told_once_by_an_event_and_counted() {
    let (api, index) = shop();
    let state = state(index);
    let metrics = Metrics::new().0;
    let counted = |status| {
        let labels = TransitionLabels::of("AuditPolicy", "Programmed", status);
        metrics.transitions.get_or_create(&labels).get()
    };
    acknowledge(&state);
    lead_counted(&api, &state, 5, metrics.clone()).await;
    assert_eq!((counted("True"), counted("False")), (1, 0));
    let of_policy = |event: &String| event.ends_with("AuditPolicy/all");
    let first: Vec<_> = events(&api, "shop").into_iter().filter(of_policy).collect();
    assert!(first.contains(&"Normal Programmed AuditPolicy/all".to_owned()), "{first:?}");

    // The sidecar refuses what it is given: a Warning, once, however often the status is looked at.
    let revision = ack(&state.index(), Instant::now()).revision.expect("a revision");
    let refused = Refused { revision, message: "policies[0]: no".to_owned() };
    let said = Ack { revision: None, refused: Some(refused), ..ack(&state.index(), Instant::now()) };
    state.acknowledge("a", said);
    lead_counted(&api, &state, 90, metrics.clone()).await;
    assert_eq!(programmed(&api, POLICY).0, "False Refused");
    assert_eq!((counted("True"), counted("False")), (1, 1));
    let warnings: Vec<_> = events(&api, "shop").into_iter().filter(|event| event.starts_with("Warning")).collect();
    assert_eq!(warnings, ["Warning Refused AuditPolicy/all"]);
    let written = metrics.events.get_or_create(&ResultLabels { result: "ok" }).get();
    assert!(written >= 2, "{written} Events are counted");
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_never_tells_a_new_leader_counts_as_silent_in_the_end() {
    let (api, index) = shop();
    let state = state(index);
    lead(&api, &state, 100).await;
    assert_eq!(programmed(&api, WIDE), ("False Pending".to_owned(), 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_new_is_not_written_again() {
    let (api, index) = shop();
    let state = state(index);
    acknowledge(&state);
    lead(&api, &state, 5).await;
    assert_eq!(programmed(&api, POLICY), ("True Programmed".to_owned(), 1));
    let version = |path: &str| api.get(path).expect("an object")["metadata"]["resourceVersion"].clone();
    let before = [POLICY, WIDE, SINK].map(version);
    lead(&api, &state, 90).await;
    assert_eq!([POLICY, WIDE, SINK].map(version), before);
}

#[tokio::test(start_paused = true)]
async fn figures_of_the_evidence_are_written_twice_a_minute_but_what_begins_or_ends_at_once() {
    let (api, index) = shop();
    let state = state(index);
    let tell = |gap_exchanges, streams| {
        let evidence = Some(EvidenceState { gap_exchanges, streams, unanchored: 0 });
        let said = Ack { evidence, ..ack(&state.index(), Instant::now()) };
        state.acknowledge("a", said);
        // Something else is looked at.
        state.changed.notify_one();
    };
    let told = || status(&api, POLICY).evidence.map(|evidence| (evidence.gaps, evidence.streams));
    let soon = || tokio::time::sleep(Duration::from_secs(3));
    let changes = async {
        tell(0, 1);
        soon().await;
        assert_eq!(told(), Some((0, 1)));
        tell(0, 2);
        soon().await;
        assert_eq!(told(), Some((0, 1)), "it waits");
        tell(5, 2);
        soon().await;
        assert_eq!(told(), Some((5, 2)), "the first gap is told at once");
        tell(6, 2);
        soon().await;
        assert_eq!(told(), Some((5, 2)), "it waits");
        tokio::time::sleep(Duration::from_secs(70)).await;
        assert_eq!(told(), Some((6, 2)));
    };
    tokio::join!(lead(&api, &state, 100), changes);
}

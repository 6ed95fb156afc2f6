use super::identity::verdict;
use super::*;
use crate::api::{AuditPolicy, AuditSink};
use crate::index::Indexed;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use testimony_core::policy::{EvidenceState, Refused, SinkCondition, SinkState};

/// Deadline of what must happen, in seconds.
const SOON: u64 = 10;

#[derive(Clone)]
struct Nobody;

impl Identify for Nobody {
    async fn identify(&self, _: &str) -> Result<Identity, Unauthorized> {
        Err(Unauthorized::NotBound)
    }

    async fn may_prune(&self, _: &str) -> Result<String, Unauthorized> {
        Err(Unauthorized::NotBound)
    }
}

struct Bench {
    state: Arc<State>,
    server: PolicyServer<Nobody>,
    bundle: watch::Sender<Option<Arc<str>>>,
    stop: watch::Sender<bool>,
}

impl Bench {
    fn new() -> Self {
        let state = Arc::new(State::new("cluster.local"));
        let bundle = watch::Sender::new(Some(Arc::from("CA 1")));
        let (metrics, _) = Metrics::new();
        let (stop, shutdown) = Shutdown::new();
        let server = PolicyServer::new(state.clone(), Nobody, bundle.subscribe(), metrics, shutdown);
        let bench = Self { state, server, bundle, stop };
        bench.put::<AuditSink>(json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditSink",
            "metadata": {"name": "main", "uid": "s"}, "spec": {"endpoint": "http://c.example", "default": true}}));
        bench
    }

    fn put<K: Indexed + serde::de::DeserializeOwned>(&self, object: Value) {
        let object: K = serde_json::from_value(object).expect("object");
        self.state.change(|index| K::apply(index, object));
    }

    fn policy(&self, spec: Value) {
        self.put::<AuditPolicy>(json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy",
            "metadata": {"name": "all", "namespace": "shop", "uid": "p"}, "spec": spec}));
    }

    fn pod(&self) {
        self.put::<Pod>(
            json!({"metadata": {"name": "a", "namespace": "shop", "uid": "a"}, "spec": {"containers": []}}),
        );
    }

    fn revision(&self) -> String {
        self.state.index().document("shop", &Default::default()).document.revision.clone()
    }

    async fn poll(&self, poll: &PollRequest) -> Option<PollResponse> {
        self.poll_as(&identity(), poll).await
    }

    async fn poll_as(&self, identity: &Identity, poll: &PollRequest) -> Option<PollResponse> {
        let notify = self.state.register(&identity.pod_uid);
        assert!(notify.is_some(), "a free place");
        self.server.metrics.polls_open.inc();
        let registration = Registration { server: &self.server, uid: &identity.pod_uid, notify };
        self.server.wait(identity, poll, &registration).await
    }
}

fn identity() -> Identity {
    Identity { namespace: "shop".to_owned(), pod_name: "a".to_owned(), pod_uid: "a".to_owned() }
}

fn request(revision: Option<String>, wait_seconds: u16) -> PollRequest {
    let (refused, sinks, evidence) = Default::default();
    PollRequest { revision, injection_id: "i".to_owned(), refused, sinks, evidence, wait_seconds }
}

/// Polls until the bundle is known, as a sidecar does after its start.
async fn settled(bench: &Bench) -> String {
    let first = bench.poll(&request(None, 0)).await.expect("a document");
    assert_eq!(first.operator_ca, "CA 1");
    first.document.revision
}

#[tokio::test]
async fn what_is_new_comes_at_once_and_what_is_not_is_waited_for() {
    let bench = Bench::new();
    bench.policy(json!({}));
    bench.pod();
    let revision = settled(&bench).await;
    assert_eq!(revision, bench.revision());
    assert_eq!(bench.poll(&request(Some(revision.clone()), 0)).await, None);
    let waiting = request(Some(revision.clone()), 50);
    let poll = bench.poll(&waiting);
    let change = async {
        tokio::task::yield_now().await;
        bench.policy(json!({"redact": {"query": ["token"]}}));
    };
    let both = async { tokio::join!(poll, change) };
    let (news, ()) = tokio::time::timeout(Duration::from_secs(SOON), both).await.expect("in time");
    let news = news.expect("a document").document;
    assert_eq!(news.redact.query, ["token"]);
    assert_ne!(news.revision, revision);
}

#[tokio::test]
async fn the_revision_in_the_poll_is_the_acknowledgement() {
    let bench = Bench::new();
    bench.policy(json!({}));
    bench.pod();
    let revision = settled(&bench).await;
    bench.poll(&request(Some(revision.clone()), 0)).await;
    assert_eq!(bench.state.acks()["a"].revision, Some(revision.clone()));
    assert_eq!(bench.state.acks()["a"].evidence, None, "a sidecar of an older version tells none");
    let wild = EvidenceState { gap_exchanges: 3, streams: u32::MAX, unanchored: 2 };
    bench.poll(&PollRequest { evidence: Some(wild), ..request(Some(revision), 0) }).await;
    assert_eq!(bench.state.acks()["a"].evidence, Some(wild.bounded()));
    bench.state.change(|index| Pod::delete(index, &("shop".to_owned(), "a".to_owned())));
    assert!(bench.state.acks().is_empty(), "it goes with its pod");
}

#[tokio::test]
async fn a_pod_that_the_watch_does_not_know_yet_waits_for_it() {
    let bench = Bench::new();
    bench.policy(json!({}));
    assert_eq!(bench.poll(&request(None, 0)).await, None);
    assert!(bench.state.acks().is_empty(), "nothing is kept of unknown pods");
    let poll = request(None, 50);
    let arrive = async {
        tokio::task::yield_now().await;
        bench.pod();
    };
    let both = async { tokio::join!(bench.poll(&poll), arrive) };
    let (news, ()) = tokio::time::timeout(Duration::from_secs(SOON), both).await.expect("in time");
    assert_eq!(news.expect("a document").document.revision, bench.revision());
}

#[tokio::test]
async fn without_a_policy_the_document_records_nothing() {
    let bench = Bench::new();
    bench.policy(json!({}));
    bench.pod();
    let revision = settled(&bench).await;
    bench.state.change(|index| AuditPolicy::delete(index, &("shop".to_owned(), "all".to_owned())));
    let news = bench.poll(&request(Some(revision), 50)).await.expect("at once").document;
    assert!(news.policies.is_empty() && news.sinks.is_empty());
}

#[tokio::test]
async fn a_pod_that_delivers_keeps_its_document_when_every_sink_is_gone() {
    let bench = Bench::new();
    bench.policy(json!({}));
    bench.pod();
    let revision = settled(&bench).await;
    bench.state.change(|index| AuditSink::delete(index, &(String::new(), "main".to_owned())));
    assert_ne!(bench.revision(), revision);
    let sink = SinkState {
        name: "main".to_owned(),
        state: SinkCondition::Delivering,
        error: None,
        oldest_undelivered_seconds: 0,
        delivered: 1,
        lost: 0,
    };
    let delivering = PollRequest { sinks: vec![sink], ..request(Some(revision.clone()), 0) };
    assert_eq!(bench.poll(&delivering).await, None, "records would have nowhere to go");
    assert!(bench.poll(&request(Some(revision), 0)).await.is_some(), "nothing is lost where there was no sink");
    bench.state.change(|index| AuditPolicy::delete(index, &("shop".to_owned(), "all".to_owned())));
    let news = bench.poll(&delivering).await.expect("at once").document;
    assert!(news.policies.is_empty(), "what records nothing needs no sink");
}

#[tokio::test]
async fn a_refused_document_is_not_sent_again_and_again() {
    let bench = Bench::new();
    bench.policy(json!({}));
    bench.pod();
    let refused = Refused { revision: settled(&bench).await, message: "no".to_owned() };
    let poll = PollRequest { refused: Some(refused), ..request(None, 0) };
    assert_eq!(bench.poll(&poll).await, None);
}

#[tokio::test]
async fn a_new_authority_is_told_once() {
    let bench = Bench::new();
    bench.policy(json!({}));
    bench.pod();
    let revision = settled(&bench).await;
    bench.bundle.send_replace(Some(Arc::from("CA 2")));
    let told = bench.poll(&request(Some(revision.clone()), 50)).await.expect("at once");
    assert_eq!(told.operator_ca, "CA 2");
    assert_eq!(bench.poll(&request(Some(revision), 0)).await, None);
}

#[tokio::test]
async fn polls_that_wait_end_with_the_server() {
    let bench = Bench::new();
    bench.policy(json!({}));
    bench.pod();
    let revision = settled(&bench).await;
    let poll = request(Some(revision), 50);
    let end = async {
        tokio::task::yield_now().await;
        bench.stop.send_replace(true);
    };
    let both = async { tokio::join!(bench.poll(&poll), end) };
    let (answer, ()) = tokio::time::timeout(Duration::from_secs(SOON), both).await.expect("in time");
    assert_eq!(answer, None);
}

#[tokio::test]
async fn a_token_of_another_namespace_gets_nothing() {
    let bench = Bench::new();
    bench.policy(json!({}));
    bench.pod();
    let stranger = Identity { namespace: "other".to_owned(), ..identity() };
    assert_eq!(bench.poll_as(&stranger, &request(None, 0)).await, None);
}

#[test]
fn one_pod_cannot_take_all_places() {
    let state = State::new("cluster.local");
    let held: Vec<_> = std::iter::from_fn(|| state.register("a")).take(100).collect();
    assert_eq!(held.len(), 4);
    assert!(state.register("b").is_some(), "others are free");
    for notify in held {
        state.unregister("a", notify);
    }
    assert!(state.register("a").is_some(), "places come back");
}

#[test]
fn who_polls_is_what_the_review_says() {
    let review = |status: Value| {
        verdict(
            &serde_json::from_value(json!({"metadata": {}, "spec": {"token": "t"}, "status": status})).expect("review"),
        )
    };
    let user = |name: &str| {
        json!({"username": name, "extra": {
            "authentication.kubernetes.io/pod-uid": ["a"], "authentication.kubernetes.io/pod-name": ["a"]}})
    };
    let good = user("system:serviceaccount:shop:default");
    let audience = json!(["testimony.dev/operator"]);
    let status = json!({"authenticated": true, "audiences": audience, "user": good});
    assert_eq!(review(status), Ok(identity()));
    let status = json!({"authenticated": true, "audiences": ["other"], "user": good});
    assert!(matches!(review(status), Err(Unauthorized::Refused(_))));
    let status = json!({"authenticated": false, "error": "expired"});
    assert_eq!(review(status), Err(Unauthorized::Refused("expired".to_owned())));
    let status = json!({"authenticated": true, "audiences": audience, "user": user("admin")});
    assert_eq!(review(status), Err(Unauthorized::NotBound));
    let status = json!({"authenticated": true, "audiences": audience, "user": {"username": "system:serviceaccount:shop:default"}});
    assert_eq!(review(status), Err(Unauthorized::NotBound));
}

#[test]
fn only_bearer_tokens_count() {
    let of = |value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, header::HeaderValue::from_static(value));
        bearer(&headers).map(str::to_owned)
    };
    assert_eq!(of("Bearer abc"), Some("abc".to_owned()));
    assert_eq!(of("bearer abc"), Some("abc".to_owned()));
    assert_eq!(of("Basic abc"), None);
    assert_eq!(of("Bearer "), None);
    assert_eq!(bearer(&HeaderMap::new()), None);
}

//! The long poll against a scripted operator with TLS.

use serde_json::json;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use testimony_core::contract::POLL_PATH;
use testimony_core::policy::{EvidenceState, PolicyDocument, PollRequest, PollResponse, Refused};
use testimony_core::record::GapReason;
use testimony_sidecar::config::{Operator, PolicySource, from_yaml};
use testimony_sidecar::export::{self, Batch, Queue, Settings};
use testimony_sidecar::metrics::Metrics;
use testimony_sidecar::poll::{self, Apply, Caller, LAST_GOOD, LastGood, PolicyState, Poller, Store, StoreError};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

mod control_support;
#[path = "support/ports.rs"]
mod ports;
use control_support::{Ca, DEADLINE, Received, Reply, Server, batch, document, eventually, folder};
use ports::free_port;

struct Rig {
    dir: PathBuf,
    applied: Arc<Mutex<Vec<String>>>,
    state: PolicyState,
    metrics: Arc<Metrics>,
    queue: Queue,
    _stop: oneshot::Sender<()>,
    _task: JoinSet<()>,
}

/// A poller with revision `r0` in force and the token `t1`. Documents whose revision starts with `bad` cannot be run.
fn start(operator_url: String, ca_pem: String, sink: &str) -> Rig {
    let dir = folder();
    std::fs::write(dir.join("token"), "t1\n").expect("a token");
    let metrics = Arc::new(Metrics::default());
    let (_, policy) = watch::channel(vec![control_support::sink(sink)].into());
    let settings = Settings {
        resource: Default::default(),
        folders: Default::default(),
        namespace: None,
        sink_headers: Default::default(),
        metrics: metrics.clone(),
        spool: None,
    };
    let (queue, exporter) = export::new(settings, policy);
    let state = PolicyState::new("r0", PolicySource::Environment, metrics.clone());
    let applied = Arc::new(Mutex::new(Vec::new()));
    let list = applied.clone();
    let apply: Apply = Arc::new(move |document: &PolicyDocument| {
        if document.revision.starts_with("bad") {
            return Err("policies[0].rules[0]: cannot be run".to_owned());
        }
        list.lock().expect("a lock").push(document.revision.clone());
        Ok(())
    });
    let operator = Operator {
        url: operator_url,
        ca_pem,
        token_file: dir.join("token"),
        injection_id: "i-1".to_owned(),
        awaited: false,
    };
    let store = Some(Store::new(&dir));
    let caller = Caller::new(operator, None).expect("a URL");
    let poller = Poller::new(caller, store, apply, state.clone(), queue.clone(), metrics.clone());
    let (stop, stopped) = oneshot::channel::<()>();
    let mut task = JoinSet::new();
    task.spawn(poller.run(async move {
        let _ = stopped.await;
    }));
    task.spawn(async move {
        // Never told to end: it ends with the test.
        let (_alive, shutdown) = watch::channel(None);
        exporter.run(shutdown).await;
    });
    Rig { dir, applied, state, metrics, queue, _stop: stop, _task: task }
}

impl Rig {
    fn applied(&self) -> Vec<String> {
        self.applied.lock().expect("a lock").clone()
    }
}

fn poll_request(received: &Received) -> PollRequest {
    serde_json::from_slice(&received.body).expect("a PollRequest")
}

fn answer(document: PolicyDocument, ca: &str) -> Reply {
    let response = PollResponse { document, operator_ca: ca.to_owned() };
    Reply::body(200, serde_json::to_vec(&response).expect("JSON"))
}

const NOWHERE: &str = "http://127.0.0.1:9";

#[tokio::test]
async fn a_new_document_comes_into_force_is_kept_and_acknowledged() {
    let ca = Ca::new();
    let pem = ca.pem.clone();
    let server = Server::start(Some(&ca), move |number, _| match number {
        0 => answer(document("r1"), &pem),
        1 => Reply::status(204),
        _ => Reply::Hang,
    })
    .await;
    let rig = start(server.url("https"), ca.pem.clone(), NOWHERE);
    let received = server.until(|all| all.len() == 3).await;
    assert_eq!(received[0].path, POLL_PATH);
    assert_eq!(received[0].header("authorization"), "Bearer t1");
    let asked: Vec<PollRequest> = received.iter().map(poll_request).collect();
    let revisions: Vec<_> = asked.iter().map(|one| one.revision.as_deref()).collect();
    assert_eq!(revisions, [Some("r0"), Some("r1"), Some("r1")]);
    assert_eq!((asked[0].injection_id.as_str(), asked[0].wait_seconds, &asked[0].refused), ("i-1", 50, &None));
    assert_eq!(asked[0].sinks[0].name, "main");
    assert_eq!(rig.applied(), ["r1"]);
    assert_eq!(rig.state.get(), ("r1".to_owned(), PolicySource::Operator, None));
    let kept = Store::new(&rig.dir).load().expect("readable").expect("kept");
    assert_eq!(kept, LastGood { document: document("r1"), operator_ca: ca.pem });
    assert!(!rig.dir.join("last-good.json.partial").exists());
    let text = rig.metrics.text();
    assert!(text.contains("testimony_policy_revision_info{revision=\"r1\"} 1\n"), "{text}");
    assert!(text.contains("testimony_policy_polls_total{result=\"changed\"} 1\n"), "{text}");
}

#[tokio::test]
async fn what_cannot_be_run_is_told_and_the_policy_in_force_stays() {
    let ca = Ca::new();
    let pem = ca.pem.clone();
    let server = Server::start(Some(&ca), move |number, _| match number {
        0 => answer(document("bad1"), &pem),
        1 => {
            let mut wrong = document("r2");
            wrong.version = 7;
            answer(wrong, &pem)
        }
        2 => Reply::body(200, json!({"document": {"version": 1}, "operatorCa": ""}).to_string().into_bytes()),
        3 => {
            let mut newer = serde_json::to_value(document("r4")).expect("JSON");
            newer["bodies"] = json!(true);
            Reply::body(200, json!({"document": newer, "operatorCa": pem}).to_string().into_bytes())
        }
        4 => answer(document("r5"), &pem),
        _ => Reply::Hang,
    })
    .await;
    let rig = start(server.url("https"), ca.pem.clone(), NOWHERE);
    let received = server.until(|all| all.len() == 6).await;
    let asked: Vec<PollRequest> = received.iter().map(poll_request).collect();
    assert!(asked[..5].iter().all(|one| one.revision.as_deref() == Some("r0")));
    let message = "policies[0].rules[0]: cannot be run".to_owned();
    assert_eq!(asked[1].refused, Some(Refused { revision: "bad1".to_owned(), message }));
    let refused = |number: usize| asked[number].refused.clone().expect("a refusal");
    assert!(refused(2).revision == "r2" && refused(2).message.contains("document.version"), "{:?}", refused(2));
    assert_eq!(refused(3), refused(2), "an answer without a revision is no document");
    assert!(refused(4).revision == "r4" && refused(4).message.contains("`bodies`"), "{:?}", refused(4));
    assert_eq!((asked[5].revision.as_deref(), &asked[5].refused), (Some("r5"), &None), "a success ends the refusal");
    assert_eq!(rig.applied(), ["r5"]);
    assert!(rig.metrics.text().contains("testimony_policy_refused_total 3\n"));
}

#[tokio::test]
async fn an_unreachable_or_refusing_operator_is_asked_again_with_a_fresh_token() {
    let ca = Ca::new();
    let pem = ca.pem.clone();
    let server = Server::start(Some(&ca), move |number, one| match (number, one.header("authorization")) {
        (0, _) => Reply::status(500),
        (1, _) => Reply::Close,
        (_, "Bearer t2") => answer(document("r1"), &pem),
        _ => Reply::status(401),
    })
    .await;
    let rig = start(server.url("https"), ca.pem.clone(), NOWHERE);
    eventually("unauthorized", || rig.metrics.text().contains("testimony_policy_polls_total{result=\"unauthorized\"}"))
        .await;
    assert!(rig.applied().is_empty());
    std::fs::write(rig.dir.join("token"), "t2").expect("a token");
    eventually("in force", || rig.applied() == ["r1"]).await;
}

#[tokio::test]
async fn a_rotated_authority_is_used_from_the_next_connection_and_kept() {
    let (old, new) = (Ca::new(), Ca::new());
    let addr = free_port();
    let listener = tokio::net::TcpListener::bind(addr).await.expect("its port");
    let both = format!("{}{}", old.pem, new.pem);
    let sent = both.clone();
    let first = Server::on(listener, Some(&old), move |number, _| match number {
        0 => answer(document("r0"), "not PEM"),
        1 => answer(document("r0"), &sent),
        _ => Reply::Hang,
    });
    let rig = start(format!("https://{addr}"), old.pem.clone(), NOWHERE);
    first.until(|all| all.len() == 3).await;
    assert!(rig.applied().is_empty(), "the document is the one in force");
    let kept = Store::new(&rig.dir).load().expect("readable").expect("kept");
    assert_eq!(kept.operator_ca, both);
    drop(first);
    // The first server's socket closes when its task is gone.
    let listener = loop {
        if let Ok(listener) = tokio::net::TcpListener::bind(addr).await {
            break listener;
        }
        tokio::task::yield_now().await;
    };
    let second = Server::on(listener, Some(&new), |_, _| Reply::Hang);
    second.until(|all| all.len() == 1).await;
}

#[tokio::test]
async fn a_sink_that_changes_its_state_is_told_before_the_wait_is_over() {
    let ca = Ca::new();
    let server = Server::start(Some(&ca), |_, _| Reply::Hang).await;
    let sink = Server::start(None, |_, _| Reply::status(403)).await;
    let rig = start(server.url("https"), ca.pem.clone(), &sink.url("http"));
    server.until(|all| all.len() == 1).await;
    let one: Batch = batch(0, 1);
    rig.queue.push(one, None);
    let received = tokio::time::timeout(DEADLINE, server.until(|all| all.len() == 2)).await.expect("in time");
    let told = poll_request(&received[1]);
    assert_eq!(serde_json::to_value(told.sinks[0].state).expect("JSON"), "Parked");
}

#[tokio::test]
async fn each_poll_tells_how_the_evidence_stands() {
    let ca = Ca::new();
    let server = Server::start(Some(&ca), |number, _| if number == 0 { Reply::status(204) } else { Reply::Hang }).await;
    let rig = start(server.url("https"), ca.pem.clone(), NOWHERE);
    rig.metrics.anchoring.shown(0, 2, 2);
    server.until(|all| all.len() == 1).await;
    rig.metrics.gap(GapReason::QueueFull, 1);
    rig.metrics.gap(GapReason::WorkerDied, 4);
    rig.metrics.anchoring.cosigned(0, Instant::now());
    rig.metrics.anchoring.shown(0, 2, 1);
    let received = server.until(|all| all.len() == 2).await;
    let told: Vec<_> = received.iter().map(|one| poll_request(one).evidence).collect();
    let evidence = |gap_exchanges, streams, unanchored| Some(EvidenceState { gap_exchanges, streams, unanchored });
    assert_eq!(told, [evidence(0, 2, 2), evidence(5, 2, 1)]);
}

#[test]
fn the_last_good_document_is_used_at_the_start_if_it_can_be_run() {
    let file = "service: {name: a}\nlisten: {outbound: '127.0.0.1:1'}\nsinks: [{name: s, endpoint: 'http://c'}]\n";
    let mut config = from_yaml(file, &std::collections::BTreeMap::new()).expect("a configuration");
    let dir = folder();
    let store = Store::new(&dir);
    let source = |config: &_| poll::start(config, Some(&store)).source;
    config.operator = Some(Operator {
        url: "https://o:8443".to_owned(),
        ca_pem: String::new(),
        token_file: dir.join("token"),
        injection_id: String::new(),
        awaited: false,
    });
    assert_eq!(source(&config), PolicySource::File, "nothing is kept yet");
    let kept = LastGood { document: document("r9"), operator_ca: "CA".to_owned() };
    store.save(&kept).expect("saved");
    let start = poll::start(&config, Some(&store));
    assert_eq!(
        (start.document, start.source, start.operator_ca),
        (kept.document.clone(), PolicySource::LastGood, Some("CA".to_owned()))
    );
    assert_eq!(poll::start(&config, None).source, PolicySource::File);

    let whole = std::fs::read(dir.join(LAST_GOOD)).expect("the file");
    for cut in 0..whole.len() {
        std::fs::write(dir.join(LAST_GOOD), &whole[..cut]).expect("a cut file");
        assert!(matches!(store.load(), Err(StoreError::Content { .. })), "{cut}");
    }
    assert_eq!(source(&config), PolicySource::File, "a broken file is no policy");
    let mut wrong = kept;
    wrong.document.version = 9;
    store.save(&wrong).expect("saved");
    assert_eq!(source(&config), PolicySource::File, "another version is not run");
    config.operator = None;
    assert_eq!(source(&config), PolicySource::File);
}

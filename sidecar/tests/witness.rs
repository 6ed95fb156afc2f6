//! A data thread's streams before the operator: certificates and cosigned heads, whatever the operator does.

use arc_swap::ArcSwap;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use serde_json::json;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testimony_core::capture::Shell as _;
use testimony_core::contract::{ADD_CHECKPOINT_PATH, CERTIFICATE_PATH};
use testimony_core::evidence::note::{PublicKey, Signature, SignedNote};
use testimony_core::evidence::seal::Origin;
use testimony_core::evidence::witness::csr::{CertificateRequest, parse_csr};
use testimony_core::evidence::witness::{Request, StreamState, judge};
use testimony_core::policy::Compiled;
use testimony_core::record::{EventName, Field, Record, Redacted};
use testimony_core::redact::{Redactor, redact};
use testimony_sidecar::data::{Recorder, Shared};
use testimony_sidecar::spool::{Boot, LIMIT_BYTES_MIN, Limits, Settings, Spool};
use testimony_sidecar::tail::Tail;
use testimony_sidecar::witness::{Ask, Certified, Messenger, accompany};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

mod control_support;
use control_support::rig::Rig;
use control_support::{Ca, DEADLINE, Received, Reply, Server, caller, document, folder, sink};

const WITNESS: &str = "c-1/testimony-system/witness";
const NOW_S: u64 = 1_700_000_000;

/// An operator in memory: certifies, judges and cosigns.
struct Witness {
    key: Ed25519KeyPair,
    streams: Mutex<HashMap<String, StreamState>>,
    /// Answers with this status instead, so many times.
    trouble: Mutex<(u16, usize)>,
    /// Sizes that were cosigned, in order.
    cosigned: Mutex<Vec<u64>>,
    /// It began anew, under another key: it knows none of its cosignatures.
    began_anew: AtomicBool,
}

impl Witness {
    fn new() -> Arc<Self> {
        let key = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).expect("a seed");
        let (streams, trouble, cosigned, began_anew) = Default::default();
        Arc::new(Self { key, streams, trouble, cosigned, began_anew })
    }

    fn public(&self) -> PublicKey {
        PublicKey(self.key.public_key().as_ref().try_into().expect("32 bytes"))
    }

    fn trouble(&self, status: u16, times: usize) {
        *self.trouble.lock().expect("unpoisoned") = (status, times);
    }

    fn answer(&self, received: &Received) -> Reply {
        let mut trouble = self.trouble.lock().expect("unpoisoned");
        if trouble.1 > 0 {
            trouble.1 -= 1;
            return Reply::status(trouble.0);
        }
        match received.path.as_str() {
            CERTIFICATE_PATH => self.certify(received),
            ADD_CHECKPOINT_PATH => self.add_checkpoint(received),
            other => panic!("{other}"),
        }
    }

    fn certify(&self, received: &Received) -> Reply {
        let request: CertificateRequest = serde_json::from_slice(&received.body).expect("a request");
        assert_eq!((request.injection_id.as_str(), received.header("authorization")), ("i-1", "Bearer t1"));
        let (sid, key) = parse_csr(&STANDARD.decode(&request.csr).expect("base64")).expect("a certificate request");
        let mut streams = self.streams.lock().expect("unpoisoned");
        streams.insert(sid.to_string(), StreamState::certified(key, NOW_S + 1));
        Reply::body(200, json!({"certificate": certificate(), "intervalMs": 1000}).to_string().into_bytes())
    }

    fn add_checkpoint(&self, received: &Received) -> Reply {
        let request = Request::parse(&received.body).expect("a request");
        let checkpoint = &request.note.checkpoint;
        let mut streams = self.streams.lock().expect("unpoisoned");
        let Some(state) = streams.get_mut(&checkpoint.origin) else { return Reply::status(404) };
        let began_anew = self.began_anew.load(Ordering::Relaxed);
        let is_own = |note: &SignedNote| !began_anew && note.cosigned_at(WITNESS, &self.public()).is_some();
        match judge(state, &request, NOW_S, is_own) {
            Ok(accepted) => {
                state.advance(&accepted);
                self.cosigned.lock().expect("unpoisoned").push(checkpoint.size);
                let signature = self.key.sign(checkpoint.cosigned_text(NOW_S).as_bytes());
                let signature = signature.as_ref().try_into().expect("64 bytes");
                let line = Signature::witness(WITNESS, &self.public(), NOW_S, &signature).line();
                Reply::body(200, line.into_bytes())
            }
            Err(refusal) => Reply::body(refusal.status(), refusal.body().into_bytes()),
        }
    }

    /// It is put back from a copy that knows no stream.
    fn forget(&self) {
        self.streams.lock().expect("unpoisoned").clear();
    }

    /// Changes what it knows of the only stream.
    fn alter(&self, change: impl FnOnce(&mut StreamState)) {
        change(self.streams.lock().expect("unpoisoned").values_mut().next().expect("certified"));
    }

    /// What it knows of the stream after so many rotations.
    fn of(&self, rotation: u64) -> Option<StreamState> {
        let ends = format!("-{rotation}");
        let streams = self.streams.lock().expect("unpoisoned");
        streams.iter().find(|(sid, _)| sid.ends_with(&ends)).map(|(_, state)| state.clone())
    }

    fn cosigned(&self) -> Vec<u64> {
        self.cosigned.lock().expect("unpoisoned").clone()
    }

    /// Of the only stream.
    fn state(&self) -> Option<StreamState> {
        self.streams.lock().expect("unpoisoned").values().next().cloned()
    }
}

fn certificate() -> String {
    STANDARD.encode([0x30; 400])
}

fn exchange(at: usize) -> Redacted<Record> {
    let mut record = Record::new(EventName::HttpRequest);
    let path = format!("/{at}");
    for (field, value) in [(Field::V, "1"), (Field::Typ, "exchange"), (Field::T0, "1"), (Field::Path, &path)] {
        record.set(field, value.as_bytes());
    }
    redact(record, &Redactor::default())
}

/// A recorder that is accompanied, and its operator.
struct Scene {
    recorder: Recorder,
    rig: Rig,
    server: Server,
    operator: Arc<Witness>,
    asks: mpsc::Sender<Ask>,
    messengers: JoinSet<()>,
    backend: Server,
    _spool: Option<Spool>,
}

impl Scene {
    async fn new() -> Self {
        Self::over(None).await
    }

    async fn over(spool: Option<Spool>) -> Self {
        let backend = Server::start(None, |_, _| Reply::status(200)).await;
        let rig = Rig::start(vec![sink(&backend.url("http"))]);
        let operator = Witness::new();
        let ca = Ca::new();
        let answering = operator.clone();
        let server = Server::start(Some(&ca), move |_, received| answering.answer(received)).await;
        let (asks, asked) = mpsc::channel(1);
        let messenger = Messenger::new(caller(&ca, &server), asked);
        let mut running = JoinSet::new();
        running.spawn(messenger.run(std::future::pending()));
        let shared = Shared {
            policy: Arc::new(ArcSwap::from_pointee(Compiled::new(document("00aa")).expect("valid"))),
            in_flight: Arc::default(),
            names: None,
            queue: rig.queue.clone(),
            spool: spool.as_ref().map(|spool| spool.handle().clone()),
            metrics: rig.metrics.clone(),
            tail: Tail::default(),
        };
        let (cluster_uid, namespace, pod_uid) = ("c-1".to_owned(), "shop".to_owned(), "u-1".to_owned());
        let origin = Origin { cluster_uid, namespace, pod_uid, boot: 5, witness: true, ..Origin::default() };
        let recorder = Recorder::new(shared, origin).expect("a stream");
        Self { recorder, rig, server, operator, asks, messengers: running, backend, _spool: spool }
    }

    fn record(&self, at: usize) {
        let mut recorder = self.recorder.clone();
        recorder.begin();
        recorder.emit(exchange(at));
    }

    /// Keeps the schedule until `done` holds, then closes the recorder. Ends when its end is shown, or given up.
    async fn until(&self, mut done: impl FnMut() -> bool) {
        let schedule = async {
            while !done() {
                self.recorder.tick();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.recorder.close();
            self.recorder.settled().await;
        };
        let both = async { tokio::join!(schedule, accompany(self.recorder.clone(), self.asks.clone())) };
        tokio::time::timeout(DEADLINE, both).await.expect("in time");
    }

    fn answers(&self, answer: &str) -> u64 {
        let name = format!("testimony_witness_answers_total{{answer=\"{answer}\"}} ");
        let text = self.rig.metrics.text();
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
    }
}

#[tokio::test]
async fn w2_heads_are_cosigned_while_records_come_and_at_the_end() {
    let scene = Scene::new().await;
    scene.record(0);
    let mut at = 0;
    let operator = scene.operator.clone();
    let streams = || scene.rig.metrics.anchoring.streams(tokio::time::Instant::now());
    let mut during = (0, 0);
    scene
        .until(|| {
            at += 1;
            scene.record(at);
            during = streams();
            operator.cosigned().len() >= 2
        })
        .await;
    assert_eq!((during, streams()), ((1, 0), (0, 0)), "anchored while it is open, then shown to its end");
    let state = operator.state().expect("certified");
    assert_eq!(state.closed.then_some(state.size), operator.cosigned().last().copied(), "its end is shown");
    assert!(operator.cosigned().is_sorted());
    assert!(scene.answers("cosigned") >= 3);
    assert!(scene.rig.metrics.text().contains("testimony_witness_cosigned_at_seconds{thread=\"0\"} "));
    let authorized = |one: &Received| one.header("authorization") == "Bearer t1";
    assert!(scene.server.received().iter().all(authorized));
}

#[tokio::test]
async fn h3_a_head_goes_out_once_more_with_its_cosignature_and_not_with_each() {
    let scene = Scene::new().await;
    let operator = scene.operator.clone();
    let cosigned = || -> Vec<SignedNote> {
        let requests = scene.backend.received().into_iter().map(|one| one.request());
        let logs = requests.flat_map(|request| request.resource_logs).flat_map(|logs| logs.scope_logs);
        let notes = logs.flat_map(|scope| scope.log_records).filter_map(|record| {
            let Value::StringValue(body) = record.body?.value? else { return None };
            let fields = testimony_core::canon::parse_body(body.as_bytes()).expect("canonical");
            let note = STANDARD.decode(fields.get("cosig")?).expect("base64");
            Some(SignedNote::parse(std::str::from_utf8(&note).expect("text")).expect("a note"))
        });
        notes.collect()
    };
    scene
        .until(|| {
            scene.record(0);
            operator.cosigned().len() >= 3 && !cosigned().is_empty()
        })
        .await;
    let notes = cosigned();
    let [note] = &notes[..] else { panic!("one in half a minute, not {}", notes.len()) };
    assert_eq!(note.cosigned_at(WITNESS, &operator.public()), Some(NOW_S));
    assert!(operator.cosigned().contains(&note.checkpoint.size));
}

#[tokio::test]
async fn h1_over_a_spool_the_end_is_shown_once_it_is_durable() {
    let root = folder();
    let key_folder = root.join("key");
    std::fs::create_dir_all(&key_folder).expect("a folder");
    let settings = Settings {
        folder: root.join("spool"),
        key_folder,
        limit_bytes: LIMIT_BYTES_MIN,
        // Long enough for somebody to give up who does not wait.
        limits: Limits { commit_after: Duration::from_millis(300), ..Limits::default() },
        boot: Boot(5_u128.to_be_bytes()),
        recovery: None,
        now_unix_nanos: || 1,
    };
    let (spool, _events) = Spool::start(settings, &[]).expect("a spool");
    let scene = Scene::over(Some(spool)).await;
    scene.record(0);
    let operator = scene.operator.clone();
    scene.until(|| !operator.cosigned().is_empty()).await;
    assert!(operator.state().is_some_and(|state| state.closed));
}

#[tokio::test]
async fn k1_the_certificate_is_asked_for_until_it_comes_and_is_sealed() {
    let scene = Scene::new().await;
    scene.operator.trouble(503, 2);
    let operator = scene.operator.clone();
    scene.until(|| !operator.cosigned().is_empty()).await;
    let requests = scene.server.received();
    assert!(requests[..3].iter().all(|one| one.path == CERTIFICATE_PATH));
    assert!(scene.rig.metrics.text().contains("testimony_sealed_records_total{type=\"certified\"} 1"));
}

#[tokio::test]
async fn w2_an_operator_that_was_away_or_forgot_the_stream_gets_all_heads_later() {
    let scene = Scene::new().await;
    let operator = scene.operator.clone();
    let mut step = 0;
    scene
        .until(|| {
            scene.record(step);
            let cosigned = operator.cosigned().len();
            match step {
                0 if cosigned >= 1 => {
                    operator.trouble(503, 1);
                    step = 1;
                }
                1 if scene.answers("later") == 1 && cosigned >= 2 => {
                    // It is put back from a copy that knows nothing of the stream.
                    operator.forget();
                    step = 2;
                }
                _ => {}
            }
            step == 2 && operator.state().is_some_and(|state| state.size > 0)
        })
        .await;
    assert!(operator.state().is_some_and(|state| state.closed));
    assert!(scene.answers("uncertified") >= 1);
}

#[tokio::test]
async fn w2_a_refused_head_is_an_alarm_and_no_end() {
    let scene = Scene::new().await;
    let operator = scene.operator.clone();
    let mut refused = false;
    scene
        .until(|| {
            scene.record(0);
            if !refused && operator.state().is_some() {
                operator.trouble(422, 1);
                refused = true;
            }
            refused && !operator.cosigned().is_empty()
        })
        .await;
    assert_eq!(scene.answers("refused"), 1);
    assert!(operator.state().is_some_and(|state| state.closed));
}

#[tokio::test]
async fn k1_without_a_certificate_the_end_is_not_waited_for() {
    let scene = Scene::new().await;
    scene.operator.trouble(503, usize::MAX);
    let asked = || scene.server.received().len() > 1;
    scene.until(asked).await;
    assert!(scene.operator.cosigned().is_empty());
}

#[tokio::test]
async fn w2_a_witness_put_back_from_an_older_copy_is_an_alarm_and_takes_the_stream_up_again() {
    let scene = Scene::new().await;
    let operator = scene.operator.clone();
    let mut copy = None;
    let mut put_back_at = None;
    scene
        .until(|| {
            scene.record(0);
            let cosigned = operator.cosigned().len();
            if copy.is_none() && cosigned >= 1 {
                copy = operator.state();
            }
            if put_back_at.is_none() && cosigned >= 2 {
                let copy = copy.clone().expect("a copy");
                operator.alter(|state| *state = copy);
                put_back_at = Some(cosigned);
            }
            put_back_at.is_some_and(|at| cosigned > at)
        })
        .await;
    assert_eq!(scene.answers("went_back"), 1);
    assert!(operator.state().is_some_and(|state| state.closed), "its end is shown");
}

#[tokio::test]
async fn w2_a_witness_that_knows_more_than_the_stream_is_an_alarm() {
    let scene = Scene::new().await;
    let operator = scene.operator.clone();
    let mut altered = false;
    scene
        .until(|| {
            scene.record(0);
            if !altered && !operator.cosigned().is_empty() {
                operator.alter(|state| state.size += 1_000_000);
                altered = true;
            }
            scene.answers("ahead") >= 1
        })
        .await;
    assert!(operator.state().is_some_and(|state| !state.closed));
    assert_eq!(scene.answers("went_back"), 0);
}

/// The present stream is cosigned; then `trouble` comes to it, which is for good.
async fn goes_on_under_the_next_name(trouble: impl Fn(&Witness)) -> Scene {
    let scene = Scene::new().await;
    let operator = scene.operator.clone();
    let mut troubled = false;
    scene
        .until(|| {
            scene.record(0);
            if !troubled && !operator.cosigned().is_empty() {
                trouble(&operator);
                troubled = true;
            }
            operator.of(1).is_some_and(|state| state.size > 0)
        })
        .await;
    assert!(operator.of(0).is_some_and(|state| !state.closed), "given up");
    assert!(operator.of(1).is_some_and(|state| state.closed), "its end is shown");
    assert!(operator.of(2).is_none());
    scene
}

#[tokio::test]
async fn w2_a_stream_whose_certificate_ran_out_ends_and_the_next_one_is_certified_and_no_alarm() {
    let scene = goes_on_under_the_next_name(|operator| operator.alter(|state| state.until_s = NOW_S - 1)).await;
    assert_eq!(["expired", "went_back", "refused"].map(|answer| scene.answers(answer)), [3, 0, 0]);
}

#[tokio::test]
async fn w2_a_stream_that_a_new_witness_cannot_take_up_ends_and_the_next_one_is_certified() {
    let scene = goes_on_under_the_next_name(|operator| {
        operator.forget();
        operator.began_anew.store(true, Ordering::Relaxed);
    })
    .await;
    assert_eq!(["went_back", "refused"].map(|answer| scene.answers(answer)), [1, 3], "what it forgot is offered once");
}

#[tokio::test]
async fn w2_a_403_in_other_words_than_the_witnesss_does_not_say_that_it_went_back() {
    let scene = Scene::new().await;
    let operator = scene.operator.clone();
    let mut denied_at = None;
    scene
        .until(|| {
            scene.record(0);
            let cosigned = operator.cosigned().len();
            if denied_at.is_none() && cosigned >= 1 {
                operator.trouble(403, 1);
                denied_at = Some(cosigned);
            }
            denied_at.is_some_and(|at| scene.answers("denied") >= 1 && cosigned > at)
        })
        .await;
    assert_eq!(["denied", "went_back", "refused"].map(|answer| scene.answers(answer)), [1, 0, 0]);
    assert!(operator.state().is_some_and(|state| state.closed));
}

#[tokio::test]
async fn w3_a_stream_counts_as_unanchored_until_its_first_cosigned_head() {
    let scene = Scene::new().await;
    scene.operator.trouble(503, 2);
    let operator = scene.operator.clone();
    let unanchored = || {
        let text = scene.rig.metrics.text();
        let name = "testimony_witness_streams_unanchored{thread=\"0\"} ";
        text.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok())
    };
    let mut seen = Vec::new();
    scene
        .until(|| {
            scene.record(0);
            seen.extend(unanchored().filter(|streams| seen.last() != Some(streams)));
            !operator.cosigned().is_empty() && seen.last() == Some(&0)
        })
        .await;
    assert_eq!(seen, [1, 0]);
}

#[tokio::test]
async fn w2_a_panic_while_a_head_is_shown_costs_no_more_than_that_try() {
    let mut scene = Scene::new().await;
    let mut asked;
    (scene.asks, asked) = mpsc::channel(1);
    scene.messengers.spawn(async move {
        while let Some(ask) = asked.recv().await {
            if let Ask::Certificate { answer, .. } = ask {
                // No time is so far away: to look for it panics.
                let _ = answer.send(Certified { certificate: certificate(), interval: Duration::MAX });
            }
        }
    });
    let failed_twice = || {
        scene.record(0);
        scene.answers("failed") >= 2
    };
    scene.until(failed_twice).await;
}

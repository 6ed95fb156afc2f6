//! Blocks reach sinks, each at least once, and whoever gets none is told.

use super::*;
use crate::api::{AuditPolicy, AuditSink};
use crate::certs::Authority;
use crate::index::Indexed;
use crate::serve::{serve, text_answer};
use crate::testing::FakeApi;
use hyper::StatusCode;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use testimony_core::evidence::ledger::{Block, Book, Fact, Keys, ledger_id};
use testimony_core::evidence::note::PublicKey;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

const MAPS: &str = "/api/v1/namespaces/testimony-system/configmaps";

fn put<K: Indexed + serde::de::DeserializeOwned>(state: &State, object: Value) {
    let object: K = serde_json::from_value(object).expect("object");
    state.change(|index| K::apply(index, object));
}

fn state(endpoint: &str, sink: Value) -> Arc<State> {
    let state = State::new("cluster.local");
    let mut spec = json!({"endpoint": endpoint, "default": true});
    spec.as_object_mut().expect("a map").extend(sink.as_object().cloned().unwrap_or_default());
    put::<AuditSink>(
        &state,
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditSink",
        "metadata": {"name": "main", "uid": "s"}, "spec": spec}),
    );
    put::<AuditPolicy>(
        &state,
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "spec": {},
        "metadata": {"name": "all", "namespace": "shop", "uid": "p"}}),
    );
    Arc::new(state)
}

/// A sink that answers 200 with one of these bodies after the other, and with an empty one after that.
struct Sink {
    endpoint: String,
    received: mpsc::UnboundedReceiver<(String, Bytes)>,
    stop: watch::Sender<bool>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Sink {
    async fn start(answers: &[&'static str]) -> Self {
        Self::behind(Arc::new(Semaphore::new(1)), answers).await
    }

    /// It answers while there is a permit.
    async fn behind(gate: Arc<Semaphore>, answers: &[&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let endpoint = format!("http://{}", listener.local_addr().expect("address"));
        let (sender, received) = mpsc::unbounded_channel();
        let (stop, shutdown) = Shutdown::new();
        let answers = Arc::new(std::sync::Mutex::new(answers.iter().rev().copied().collect::<Vec<_>>()));
        let handler = move |request: Request<hyper::body::Incoming>| {
            let (sender, answers, gate) = (sender.clone(), answers.clone(), gate.clone());
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.expect("body").to_bytes();
                let _ = sender.send((path, body));
                let _permit = gate.acquire().await.expect("never closed");
                let answer = answers.lock().expect("nobody panics").pop();
                text_answer(StatusCode::OK, answer.unwrap_or_default())
            }
        };
        let server = tokio::spawn(serve(listener, None, 4, handler, shutdown));
        Self { endpoint, received, stop, server }
    }

    /// The next request is this block.
    async fn gets(&mut self, block: &Block, sid: &StreamId) {
        let soon = tokio::time::timeout(Duration::from_secs(20), self.received.recv());
        let (path, body) = soon.await.expect("in time").expect("a request");
        assert_eq!(path, "/v1/logs");
        assert_eq!(body, otlp_request(block, sid).expect("entries"), "{}", block.number);
    }

    /// It gets nothing more.
    async fn end(mut self) {
        assert!(self.received.try_recv().is_err(), "nothing twice");
        self.stop.send_replace(true);
        self.server.await.expect("server").expect("a clean end");
    }
}

fn sid() -> StreamId {
    ledger_id("c-1", "testimony-system", 7).expect("a name")
}

/// The API server with these blocks.
async fn stored(blocks: &[Block]) -> (FakeApi, Store) {
    let api = FakeApi::default();
    let store = Store::new(api.client(), "testimony-system");
    for block in blocks {
        store.create(block).await.expect("created");
    }
    (api, store)
}

fn blocks(count: u64) -> Vec<Block> {
    let key = PublicKey([1; 32]);
    let mut book =
        Book::new(ledger_id("c-1", "testimony-system", 7).expect("a name"), Keys { ledger: key, witness: key });
    let block = |now: u64| {
        let proposed = book.propose(&[Fact::Gone(now.to_string())], &[], now, |_| [0; 64]).expect("a fact");
        let block = proposed.block().clone();
        book.apply(proposed.committed()).expect("the next block");
        block
    };
    (0..count).map(block).collect()
}

#[tokio::test]
async fn every_block_reaches_the_sink_and_none_twice_after_a_restart() {
    let blocks = blocks(4);
    let (api, store) = stored(&blocks).await;
    // One was removed: what it says is restated.
    api.delete(&format!("{MAPS}/testimony-ledger-1"));
    let mut sink = Sink::start(&[]).await;
    let (metrics, _) = Metrics::new();
    let mut next = 3;
    for expected in [&[0, 2][..], &[3]] {
        let progress = watch::Sender::new(Some(Progress { sid: sid(), oldest: 0, next }));
        let (end, until) = Shutdown::new();
        let state = state(&sink.endpoint, json!({}));
        let exporter = Exporter {
            store: store.clone(),
            state,
            metrics: metrics.clone(),
            progress: progress.subscribe(),
            unread: Unread::new(),
        };
        let exporter = tokio::spawn(exporter.run(until));
        for number in expected {
            sink.gets(&blocks[*number], &sid()).await;
        }
        end.send_replace(true);
        exporter.await.expect("a clean end");
        next = 4;
    }
    assert_eq!(metrics.ledger_exports.get_or_create(&ResultLabels { result: "success" }).get(), 3);
    assert_eq!(metrics.ledger_skipped.get(), 1);
    sink.end().await;
}

#[test]
fn w1_a_sink_begins_where_it_was_of_this_ledger_and_endpoint() {
    let progress = Progress { sid: sid(), oldest: 7, next: 20 };
    let other = ledger_id("c-1", "testimony-system", 8).expect("a name");
    let at = |next, ledger: StreamId, to: &str| Some(Position { next, of: Some((ledger, to.to_owned())) });
    let table = [
        (at(12, sid(), "http://c"), 12),
        (at(3, sid(), "http://c"), 3),
        (at(99, sid(), "http://c"), 20),
        // The ledger was begun anew, or records go elsewhere now.
        (at(12, other, "http://c"), 7),
        (at(12, sid(), "http://d"), 7),
        (Some(Position { next: 12, of: None }), 7),
        (None, 7),
    ];
    for (position, expected) in table {
        assert_eq!(begins(position.as_ref(), "http://c", &progress), expected, "{position:?}");
    }
}

#[tokio::test]
async fn w1_positions_are_read_back_and_those_of_before_too() {
    let (api, store) = stored(&[]).await;
    let of = Some((sid(), "http://c:4318/a b".to_owned()));
    let positions = BTreeMap::from([("main".to_owned(), Position { next: 9, of })]);
    store.write_positions(&positions).await.expect("written");
    assert_eq!(store.positions().await.expect("read"), positions);
    let path = format!("{MAPS}/testimony-ledger-sent");
    let mut object = api.get(&path).expect("positions");
    object["data"] = json!({"main": "17", "wrong": "x", "odd": "1 not-a-ledger http://c"});
    api.put(&path, object);
    let old = BTreeMap::from([("main".to_owned(), Position { next: 17, of: None })]);
    assert_eq!(store.positions().await.expect("read"), old);
}

#[tokio::test]
async fn w1_a_ledger_that_is_begun_anew_is_sent_from_its_beginning_and_what_is_skipped_is_told() {
    let blocks = blocks(4);
    let (_api, store) = stored(&blocks).await;
    let mut sink = Sink::start(&[]).await;
    let (metrics, _) = Metrics::new();
    let unread = Unread::new();
    let state = state(&sink.endpoint, json!({}));
    let progress = watch::Sender::new(Some(Progress { sid: sid(), oldest: 0, next: 2 }));
    let (end, until) = Shutdown::new();
    let (seen, shared) = (progress.subscribe(), unread.clone());
    let exporter = Exporter { store, state, metrics: metrics.clone(), progress: seen, unread: shared };
    let exporter = tokio::spawn(exporter.run(until));
    sink.gets(&blocks[0], &sid()).await;
    sink.gets(&blocks[1], &sid()).await;
    let waits = async |block: u64| {
        while unread.first() != block {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waits(2)).await.expect("in time");
    // Block 2 went before it was sent.
    progress.send_replace(Some(Progress { sid: sid(), oldest: 3, next: 4 }));
    sink.gets(&blocks[3], &sid()).await;
    assert_eq!(metrics.ledger_skipped.get(), 1);
    // Another ledger under the same numbers.
    let other = ledger_id("c-1", "testimony-system", 8).expect("a name");
    progress.send_replace(Some(Progress { sid: other.clone(), oldest: 0, next: 1 }));
    let soon = tokio::time::timeout(Duration::from_secs(20), sink.received.recv());
    let (_, body) = soon.await.expect("in time").expect("a request");
    assert_eq!(body, otlp_request(&blocks[0], &other).expect("entries"));
    tokio::time::timeout(Duration::from_secs(20), waits(1)).await.expect("in time");
    assert_eq!(metrics.ledger_skipped.get(), 1);
    end.send_replace(true);
    exporter.await.expect("a clean end");
    sink.end().await;
}

#[tokio::test]
async fn what_a_sink_does_not_take_is_sent_again() {
    let blocks = blocks(2);
    let (_api, store) = stored(&blocks).await;
    let mut sink = Sink::start(&["<html>log in</html>", "\n\x05\x08\x01\x12\x01x"]).await;
    let (metrics, _) = Metrics::new();
    let progress = watch::Sender::new(Some(Progress { sid: sid(), oldest: 0, next: 2 }));
    let (end, until) = Shutdown::new();
    let state = state(&sink.endpoint, json!({}));
    let exporter =
        Exporter { store, state, metrics: metrics.clone(), progress: progress.subscribe(), unread: Unread::new() };
    let exporter = tokio::spawn(exporter.run(until));
    // A page is no receipt, nor is an answer that refuses one of the entries.
    for number in [0, 0, 0, 1] {
        sink.gets(&blocks[number], &sid()).await;
    }
    end.send_replace(true);
    exporter.await.expect("a clean end");
    let count = |result| metrics.ledger_exports.get_or_create(&ResultLabels { result }).get();
    assert_eq!((count("success"), count("error")), (2, 2));
    sink.end().await;
}

#[tokio::test]
async fn w1_a_sink_that_answers_late_stops_no_other_one_nor_the_end() {
    let blocks = blocks(50);
    let (_api, store) = stored(&blocks).await;
    let gate = Arc::new(Semaphore::new(0));
    // By its name the first.
    let (mut late, mut sink) = (Sink::behind(gate.clone(), &[]).await, Sink::start(&[]).await);
    let state = state(&sink.endpoint, json!({}));
    put::<AuditSink>(
        &state,
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditSink",
        "metadata": {"name": "late", "uid": "l"}, "spec": {"endpoint": late.endpoint}}),
    );
    put::<AuditPolicy>(
        &state,
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "spec": {"sinks": ["late", "main"]},
        "metadata": {"name": "all", "namespace": "shop", "uid": "p"}}),
    );
    let (metrics, _) = Metrics::new();
    let progress = watch::Sender::new(Some(Progress { sid: sid(), oldest: 0, next: 20 }));
    let (end, until) = Shutdown::new();
    let (seen, unread) = (progress.subscribe(), Unread::new());
    let (shared, kept, counted) = (unread.clone(), store.clone(), metrics.clone());
    let exporter = Exporter { store, state, metrics, progress: seen, unread: shared };
    let exporter = tokio::spawn(exporter.run(until));
    let start = Instant::now();
    late.gets(&blocks[0], &sid()).await;
    for (number, block) in blocks.iter().enumerate() {
        if number == 20 {
            progress.send_replace(Some(Progress { sid: sid(), oldest: 0, next: 50 }));
        }
        sink.gets(block, &sid()).await;
    }
    let count = || counted.ledger_exports.get_or_create(&ResultLabels { result: "success" }).get();
    while count() < 50 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((unread.first(), count()), (0, 50), "the late one has nothing yet");
    assert!(start.elapsed() < Duration::from_secs(REQUEST_SECONDS_MAX), "nobody waited for its deadline");
    end.send_replace(true);
    exporter.await.expect("a clean end");
    assert!(start.elapsed() < Duration::from_secs(REQUEST_SECONDS_MAX), "nor did the end");
    let positions = kept.positions().await.expect("written");
    assert_eq!((positions["late"].next, positions["main"].next), (0, 50));
    gate.add_permits(1);
    sink.end().await;
    late.end().await;
}

#[tokio::test]
async fn sinks_that_get_nothing_are_counted() {
    let (_api, store) = stored(&[]).await;
    let state = state("http://c.example", json!({"credentialsSecretName": "s"}));
    let (metrics, _) = Metrics::new();
    let progress = watch::Sender::new(Some(Progress { sid: sid(), oldest: 0, next: 0 }));
    let (end, until) = Shutdown::new();
    let exporter =
        Exporter { store, state, metrics: metrics.clone(), progress: progress.subscribe(), unread: Unread::new() };
    let exporter = tokio::spawn(exporter.run(until));
    let count = |state| metrics.ledger_sinks.get_or_create(&StateLabels { state }).get();
    let told = async {
        while count("unable") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("in time");
    assert_eq!((count("sent"), count("failing"), count("unable")), (0, 0, 1));
    end.send_replace(true);
    exporter.await.expect("a clean end");
}

#[test]
fn sinks_that_want_what_the_operator_lacks_are_told() {
    let problem = |sink: Value| {
        let sinks = sinks(&state("http://c.example", sink).index());
        client(&sinks["main"]).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(problem(json!({})), Ok(()));
    let secret = problem(json!({"credentialsSecretName": "s"})).expect_err("a secret");
    assert!(secret.contains("may not read them"), "{secret}");
    assert_eq!(problem(json!({"protocol": "Grpc"})), Ok(()));
}

/// An HTTPS endpoint at an address whose certificate names `sink.example` alone, and its authority.
async fn named_peer() -> (String, String) {
    let now = time::OffsetDateTime::now_utc();
    let authority = Authority::create(now, Duration::from_secs(86_400)).expect("authority");
    let leaf = authority.issue(&["sink.example".to_owned()], now, Duration::from_secs(86_400)).expect("leaf");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let tls = tls.expect("versions").with_no_client_auth().with_single_cert(leaf.chain, leaf.key).expect("a key");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let endpoint = format!("https://{}", listener.local_addr().expect("address"));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let (stop, shutdown) = Shutdown::new();
    tokio::spawn(async move {
        let _stop = stop;
        let answer = |_: Request<hyper::body::Incoming>| async { text_answer(StatusCode::OK, "") };
        let _ = serve(listener, Some(acceptor), 4, answer, shutdown).await;
    });
    (endpoint, authority.bundle(now))
}

#[tokio::test]
async fn the_name_that_a_sinks_certificate_must_have_is_the_one_of_its_tls() {
    let (endpoint, bundle) = named_peer().await;
    for (tls, works) in [
        (json!({"caBundle": bundle, "serverName": "sink.example"}), true),
        (json!({"caBundle": bundle, "serverName": "other.example"}), false),
        (json!({"caBundle": bundle}), false),
    ] {
        let sinks = sinks(&state(&endpoint, json!({"tls": tls})).index());
        let client = client(&sinks["main"]).expect("a client");
        let request = Request::post(url(&endpoint)).body(Full::new(Bytes::new())).expect("a request");
        let answer = tokio::time::timeout(Duration::from_secs(20), client.request(request)).await.expect("in time");
        assert_eq!(answer.is_ok(), works, "{tls}: {answer:?}");
    }
}

#[tokio::test]
async fn without_a_bundle_the_webs_authorities_are_trusted_whatever_is_in_the_image() {
    let (endpoint, _) = named_peer().await;
    let sinks = sinks(&state(&endpoint, json!({})).index());
    let client = client(&sinks["main"]).expect("a client");
    let request = Request::post(url(&endpoint)).body(Full::new(Bytes::new())).expect("a request");
    let error = tokio::time::timeout(Duration::from_secs(20), client.request(request)).await.expect("in time");
    let error = format!("{:?}", error.expect_err("nobody knows its authority"));
    assert!(error.contains("UnknownIssuer"), "{error}");
    assert!(crate::trust::tls(Some("")).is_err(), "a bundle without authorities");
}

#[test]
fn the_signals_path_is_added_where_there_is_none() {
    for (endpoint, expected) in [
        ("http://c:4318", "http://c:4318/v1/logs"),
        ("http://c:4318/", "http://c:4318/v1/logs"),
        ("http://c/insert/logs", "http://c/insert/logs"),
    ] {
        assert_eq!(url(endpoint), expected);
    }
}

/// What a scripted peer of gRPC answers: a message, and the fields behind it; without a message they stand in the head.
type GrpcAnswer = (Option<&'static [u8]>, &'static [(&'static str, &'static str)]);

/// A peer that gives these answers one after the other, and takes everything after that. It speaks HTTP/2 and nothing else. A
/// connection on which it gave one of them is dead from then on.
async fn grpc_peer(
    answers: &[GrpcAnswer],
) -> (String, mpsc::UnboundedReceiver<(String, Bytes)>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let endpoint = format!("http://{}", listener.local_addr().expect("address"));
    let (sender, received) = mpsc::unbounded_channel();
    let answers = Arc::new(std::sync::Mutex::new(answers.iter().rev().copied().collect::<Vec<_>>()));
    let served = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (sender, answers) = (sender.clone(), answers.clone());
            let fails = Arc::new(AtomicBool::new(false));
            let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                let (sender, answers, fails) = (sender.clone(), answers.clone(), fails.clone());
                async move {
                    if fails.load(Ordering::SeqCst) {
                        std::future::pending::<()>().await;
                    }
                    assert_eq!(request.headers()[header::CONTENT_TYPE], "application/grpc");
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    let _ = sender.send((path, body));
                    let next = answers.lock().expect("nobody panics").pop();
                    fails.store(next.is_some(), Ordering::SeqCst);
                    let (message, fields) = next.unwrap_or((Some(b"\0\0\0\0\0"), &[("grpc-status", "0")]));
                    let mut answer = hyper::Response::new(());
                    let mut trailers = hyper::HeaderMap::new();
                    for (name, value) in fields {
                        let value = header::HeaderValue::from_static(value);
                        if message.is_some() { &mut trailers } else { answer.headers_mut() }.insert(*name, value);
                    }
                    let body = Full::new(Bytes::from_static(message.unwrap_or_default()));
                    let behind = message.map(|_| Ok(trailers));
                    Ok::<_, std::convert::Infallible>(answer.map(|()| body.with_trailers(std::future::ready(behind))))
                }
            });
            let io = hyper_util::rt::TokioIo::new(tcp);
            tokio::spawn(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service));
        }
    });
    (endpoint, received, served)
}

#[tokio::test]
async fn a_sink_that_takes_grpc_gets_every_block_until_it_takes_it_whole() {
    let blocks = blocks(2);
    let (_api, store) = stored(&blocks).await;
    let partial: GrpcAnswer = (Some(b"\0\0\0\0\x07\x0a\x05\x08\x01\x12\x01x"), &[("grpc-status", "0")]);
    let (endpoint, mut received, served) = grpc_peer(&[(None, &[("grpc-status", "14")]), partial]).await;
    let (metrics, _) = Metrics::new();
    let progress = watch::Sender::new(Some(Progress { sid: sid(), oldest: 0, next: 2 }));
    let (end, until) = Shutdown::new();
    let state = state(&endpoint, json!({"protocol": "Grpc"}));
    let exporter =
        Exporter { store, state, metrics: metrics.clone(), progress: progress.subscribe(), unread: Unread::new() };
    let exporter = tokio::spawn(exporter.run(until));
    for number in [0, 0, 0, 1] {
        let soon = tokio::time::timeout(Duration::from_secs(20), received.recv());
        let (path, body) = soon.await.expect("in time").expect("a request");
        assert_eq!(path, "/opentelemetry.proto.collector.logs.v1.LogsService/Export");
        let block = &blocks[number];
        assert_eq!(body[5..], otlp_request(block, &sid()).expect("entries"), "{}", block.number);
        assert_eq!(body[..5], [&[0][..], &u32::try_from(body.len() - 5).expect("short").to_be_bytes()].concat());
    }
    let count = |result| metrics.ledger_exports.get_or_create(&ResultLabels { result }).get();
    let told = async {
        while count("success") < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("in time");
    assert_eq!((count("success"), count("error")), (2, 2));
    assert_eq!(metrics.ledger_sinks.get_or_create(&StateLabels { state: "unable" }).get(), 0);
    end.send_replace(true);
    exporter.await.expect("a clean end");
    served.abort();
}

//! The ledger through the sinks: every block as OTLP log records, to each AuditSink that a policy uses and that needs no
//! secrets. At least once, in order; blocks come from the API server, so that nothing is kept in memory.

use super::store::Store;
use crate::index::Index;
use crate::metrics::{Metrics, ResultLabels};
use crate::serve::Shutdown;
use crate::state::State;
use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use testimony_core::evidence::ledger::export::otlp_request;
use testimony_core::evidence::stream::StreamId;
use testimony_core::policy::{DocumentSink, SinkProtocol};
use tokio::sync::watch;
use tokio::time::Instant;

/// Deadline of one request, in seconds.
const REQUEST_SECONDS_MAX: u64 = 10;

/// First and longest pause before a request is tried again, in seconds.
const RETRY_SECONDS: u64 = 1;
const RETRY_SECONDS_MAX: u64 = 60;

/// Time between two looks when there is nothing to do, in seconds: sinks come and go.
const LOOK_SECONDS: u64 = 5;

/// Time between two writes of how far the sinks are, in seconds.
const POSITIONS_SECONDS: u64 = 30;

/// Largest answer of a sink that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What the keeper has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The ledger.
    pub sid: StreamId,
    /// The oldest block that is there.
    pub oldest: u64,
    /// The block that comes next.
    pub next: u64,
}

/// Sends blocks to sinks.
pub struct Exporter {
    /// Where blocks are.
    pub store: Store,
    /// Which sinks there are.
    pub state: Arc<State>,
    /// Counters.
    pub metrics: Metrics,
    /// What there is to send.
    pub progress: watch::Receiver<Option<Progress>>,
}

/// One sink's way through the blocks.
struct Route {
    sink: DocumentSink,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    next: u64,
    retry_at: Instant,
    pause: Duration,
    failing: bool,
}

impl Exporter {
    /// Sends until the signal to stop.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        let mut routes: BTreeMap<String, Route> = BTreeMap::new();
        let mut positions: Option<BTreeMap<String, u64>> = None;
        let mut written_at = Instant::now();
        let mut told = BTreeSet::new();
        loop {
            let progress = self.progress.borrow_and_update().clone();
            if let Some(progress) = progress {
                if positions.is_none() {
                    positions = self.store.positions().await.ok();
                }
                if let Some(positions) = &mut positions {
                    self.routes(&mut routes, positions, &progress, &mut told);
                    for route in routes.values_mut() {
                        self.advance(route, &progress).await;
                        positions.insert(route.sink.name.clone(), route.next);
                    }
                    if written_at.elapsed() >= Duration::from_secs(POSITIONS_SECONDS) {
                        written_at = Instant::now();
                        self.write(positions).await;
                    }
                }
            }
            tokio::select! {
                _ = self.progress.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(LOOK_SECONDS)) => {}
                () = shutdown.wait() => break,
            }
        }
        if let Some(positions) = &positions {
            self.write(positions).await;
        }
    }

    async fn write(&self, positions: &BTreeMap<String, u64>) {
        if let Err(error) = self.store.write_positions(positions).await {
            tracing::warn!(%error, "positions of the ledger's export not written, trying again");
        }
    }

    /// Keeps one route for each sink as it is now.
    fn routes(
        &self,
        routes: &mut BTreeMap<String, Route>,
        positions: &BTreeMap<String, u64>,
        progress: &Progress,
        told: &mut BTreeSet<String>,
    ) {
        let sinks = sinks(&self.state.index());
        routes.retain(|name, route| sinks.get(name) == Some(&route.sink));
        for (name, sink) in sinks {
            if routes.contains_key(&name) {
                continue;
            }
            match client(&sink) {
                Ok(client) => {
                    let next = positions.get(&name).copied().unwrap_or_default().min(progress.next);
                    let (retry_at, pause) = (Instant::now(), Duration::from_secs(RETRY_SECONDS));
                    routes.insert(name, Route { sink, client, next, retry_at, pause, failing: false });
                }
                Err(error) => {
                    if told.insert(name) {
                        tracing::warn!(
                            sink = sink.name,
                            error = format!("{error:#}"),
                            "the ledger is not sent to this sink"
                        );
                    }
                }
            }
        }
    }

    /// Sends what this sink does not have, until it has all of it or fails.
    async fn advance(&self, route: &mut Route, progress: &Progress) {
        let count = |result| self.metrics.ledger_exports.get_or_create(&ResultLabels { result }).inc();
        route.next = route.next.max(progress.oldest);
        while route.next < progress.next && Instant::now() >= route.retry_at {
            match self.send(route, &progress.sid).await {
                Ok(()) => {
                    count("success");
                    route.next += 1;
                    route.pause = Duration::from_secs(RETRY_SECONDS);
                    route.failing = false;
                }
                Err(error) => {
                    count("error");
                    if !std::mem::replace(&mut route.failing, true) {
                        tracing::warn!(
                            sink = route.sink.name,
                            block = route.next,
                            error = format!("{error:#}"),
                            "block of the ledger not sent, trying again"
                        );
                    }
                    route.retry_at = Instant::now() + route.pause;
                    route.pause = (route.pause * 2).min(Duration::from_secs(RETRY_SECONDS_MAX));
                }
            }
        }
    }

    async fn send(&self, route: &Route, sid: &StreamId) -> anyhow::Result<()> {
        // Removed in between: what it said is restated in a later one.
        let Some(block) = self.store.get(route.next).await? else { return Ok(()) };
        let body = otlp_request(&block, sid).map_err(anyhow::Error::msg)?;
        let request = Request::post(url(&route.sink.endpoint))
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(Bytes::from(body)))?;
        let exchange = async {
            let answer = route.client.request(request).await?;
            let (status, body) = (answer.status(), answer.into_body());
            let body =
                Limited::new(body, ANSWER_BYTES_MAX).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            Ok::<_, anyhow::Error>((status, body))
        };
        let deadline = Duration::from_secs(REQUEST_SECONDS_MAX);
        let (status, body) = tokio::time::timeout(deadline, exchange).await.context("no answer in time")??;
        if status != StatusCode::OK && status != StatusCode::ACCEPTED && status != StatusCode::NO_CONTENT {
            let text: String = String::from_utf8_lossy(&body).chars().filter(|c| !c.is_control()).take(200).collect();
            bail!("{status}: {text}");
        }
        Ok(())
    }
}

/// Sinks that policies use, by name.
pub fn sinks(index: &Index) -> BTreeMap<String, DocumentSink> {
    let names: BTreeSet<String> = index.policies.values().flat_map(|policy| index.sinks_of(policy).0).collect();
    let good = |name: &String| index.sinks.get(name)?.good.clone();
    names.iter().filter_map(|name| Some((name.clone(), good(name)?))).collect()
}

/// The URL for logs: `/v1/logs` is added unless there is a path.
fn url(endpoint: &str) -> String {
    let path = endpoint.splitn(4, '/').nth(3).unwrap_or_default();
    if path.is_empty() { format!("{}/v1/logs", endpoint.trim_end_matches('/')) } else { endpoint.to_owned() }
}

/// A client of this sink.
fn client(sink: &DocumentSink) -> anyhow::Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>> {
    if sink.protocol != SinkProtocol::HttpProtobuf {
        bail!("the operator sends OTLP over HTTP/protobuf only");
    }
    if sink.credentials || sink.client_certificate_secret.is_some() || sink.token_audience.is_some() {
        bail!("it wants credentials, which stand in the pods' namespaces: the operator may not read them");
    }
    https(sink.ca_bundle.as_deref(), &sink.endpoint)
}

/// A client that trusts these authorities (PEM), or the image's own where there are none.
pub(super) fn https(
    ca_bundle: Option<&str>,
    endpoint: &str,
) -> anyhow::Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>> {
    let builder = HttpsConnectorBuilder::new();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_bundle.unwrap_or_default().as_bytes()) {
        roots.add(certificate.context("caBundle")?).context("caBundle")?;
    }
    let builder = match endpoint.starts_with("https://") && roots.is_empty() {
        true => builder.with_native_roots().context("no certificate authorities in this image: give a caBundle")?,
        false => {
            builder.with_tls_config(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
        }
    };
    Ok(Client::builder(TokioExecutor::new()).build(builder.https_or_http().enable_http1().build()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{AuditPolicy, AuditSink};
    use crate::index::Indexed;
    use crate::serve::{serve, text_answer};
    use crate::testing::FakeApi;
    use serde_json::{Value, json};
    use testimony_core::evidence::ledger::{Block, Book, Fact, Keys, ledger_id};
    use testimony_core::evidence::note::PublicKey;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

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
        let api = FakeApi::default();
        let store = Store::new(api.client(), "testimony-system");
        let blocks = blocks(4);
        for block in &blocks {
            store.create(block).await.expect("created");
        }
        // One was removed: what it says is restated.
        api.delete(&format!("{MAPS}/testimony-ledger-1"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let endpoint = format!("http://{}", listener.local_addr().expect("address"));
        let (sender, mut received) = mpsc::unbounded_channel();
        let (stop, shutdown) = Shutdown::new();
        let handler = move |request: Request<hyper::body::Incoming>| {
            let sender = sender.clone();
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.expect("body").to_bytes();
                let _ = sender.send((path, body));
                text_answer(StatusCode::OK, "")
            }
        };
        let server = tokio::spawn(serve(listener, None, 4, handler, shutdown.clone()));
        let sid = ledger_id("c-1", "testimony-system", 7).expect("a name");
        let (metrics, _) = Metrics::new();
        let mut next = 3;
        for expected in [&[0, 2][..], &[3]] {
            let progress = watch::Sender::new(Some(Progress { sid: sid.clone(), oldest: 0, next }));
            let (end, until) = Shutdown::new();
            let state = state(&endpoint, json!({}));
            let exporter =
                Exporter { store: store.clone(), state, metrics: metrics.clone(), progress: progress.subscribe() };
            let exporter = tokio::spawn(exporter.run(until));
            for number in expected {
                let soon = tokio::time::timeout(Duration::from_secs(20), received.recv());
                let (path, body) = soon.await.expect("in time").expect("a request");
                assert_eq!(path, "/v1/logs");
                assert_eq!(body, otlp_request(&blocks[*number], &sid).expect("entries"), "{number}");
            }
            end.send_replace(true);
            exporter.await.expect("a clean end");
            next = 4;
        }
        assert!(received.try_recv().is_err(), "nothing twice");
        assert_eq!(metrics.ledger_exports.get_or_create(&ResultLabels { result: "success" }).get(), 4);
        stop.send_replace(true);
        server.await.expect("server").expect("a clean end");
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
        let grpc = problem(json!({"protocol": "Grpc"})).expect_err("gRPC");
        assert!(grpc.contains("HTTP/protobuf only"), "{grpc}");
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
}

//! The ledger through the sinks: every block as OTLP log records, to each AuditSink that a policy uses and that needs no
//! secrets. At least once, in order; blocks come from the API server, so that nothing is kept in memory.

use super::grpc;
use super::receipt::receipt;
use super::retain::{ReaderOf, Unread};
use super::store::{Position, Store};
use crate::index::Index;
use crate::metrics::{Metrics, ResultLabels, StateLabels};
use crate::serve::Shutdown;
use crate::state::State;
use crate::trust::tls;
use anyhow::{Context, Error, bail};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::{Request, header};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::ServerName;
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

/// Time for answers that are under way when the operator ends, in seconds: a block whose answer is not awaited is sent twice.
const END_SECONDS: u64 = 2;

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
    /// Where it is said which blocks all sinks have.
    pub unread: Unread,
}

/// One sink's way through the blocks of one ledger.
struct Route {
    target: Arc<Target>,
    next: u64,
    retry_at: Instant,
    pause: Duration,
    failing: bool,
    /// A block is under way.
    busy: bool,
}

/// Where the blocks of a ledger go.
struct Target {
    ledger: StreamId,
    sink: DocumentSink,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// What came of one block; `false`: it is not there any more.
struct Sent {
    target: Arc<Target>,
    result: anyhow::Result<bool>,
}

/// Blocks that are under way: one for each sink at most, so that no sink waits for another.
type UnderWay = FuturesUnordered<BoxFuture<'static, Sent>>;

impl Exporter {
    /// Sends until the signal to stop.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        let mut routes: BTreeMap<String, Route> = BTreeMap::new();
        let mut positions: Option<BTreeMap<String, Position>> = None;
        let mut under_way = UnderWay::new();
        // Until it is known what the sinks have, they may lack all.
        self.unread.from(ReaderOf::Sinks, Some(0));
        let mut written_at = Instant::now();
        let mut unable = BTreeMap::new();
        let mut looks = true;
        loop {
            looks |= self.progress.has_changed().unwrap_or_default();
            let progress = self.progress.borrow_and_update().clone();
            if let Some(progress) = progress {
                if positions.is_none() {
                    positions = self.store.positions().await.ok();
                }
                if let Some(positions) = &mut positions {
                    if looks {
                        self.routes(&mut routes, positions, &progress, &mut unable);
                    }
                    for route in routes.values_mut() {
                        under_way.extend(self.advance(route, &progress));
                        positions.insert(route.target.sink.name.clone(), route.position());
                    }
                    self.unread.from(ReaderOf::Sinks, routes.values().map(|route| route.next).min());
                    self.show(&routes, unable.len());
                    if written_at.elapsed() >= Duration::from_secs(POSITIONS_SECONDS) {
                        written_at = Instant::now();
                        self.write(positions).await;
                    }
                }
            }
            looks = tokio::select! {
                _ = self.progress.changed() => true,
                Some(sent) = under_way.next() => {
                    self.sent(&mut routes, sent);
                    false
                }
                () = tokio::time::sleep_until(next_look(&routes)) => true,
                () = shutdown.wait() => break,
            };
        }
        let rest = async {
            while let Some(sent) = under_way.next().await {
                self.sent(&mut routes, sent);
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(END_SECONDS), rest).await;
        if let Some(positions) = &mut positions {
            positions.extend(routes.values().map(|route| (route.target.sink.name.clone(), route.position())));
            self.write(positions).await;
        }
    }

    async fn write(&self, positions: &BTreeMap<String, Position>) {
        if let Err(error) = self.store.write_positions(positions).await {
            tracing::warn!(%error, "positions of the ledger's export not written, trying again");
        }
    }

    /// How many sinks get the ledger, and how many do not.
    fn show(&self, routes: &BTreeMap<String, Route>, unable: usize) {
        let failing = routes.values().filter(|route| route.failing).count();
        for (state, count) in [("sent", routes.len() - failing), ("failing", failing), ("unable", unable)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.metrics.ledger_sinks.get_or_create(&StateLabels { state }).set(count);
        }
    }

    /// Keeps one route for each sink as it is now; `unable`: the sinks that none leads to, and why.
    fn routes(
        &self,
        routes: &mut BTreeMap<String, Route>,
        positions: &BTreeMap<String, Position>,
        progress: &Progress,
        unable: &mut BTreeMap<String, String>,
    ) {
        let sinks = sinks(&self.state.index());
        routes.retain(|name, Route { target, .. }| {
            sinks.get(name) == Some(&target.sink) && target.ledger == progress.sid
        });
        unable.retain(|name, _| sinks.contains_key(name));
        for (name, sink) in sinks {
            if routes.contains_key(&name) {
                continue;
            }
            match client(&sink) {
                Ok(client) => {
                    let next = begins(positions.get(&name), &sink.endpoint, progress);
                    let target = Arc::new(Target { ledger: progress.sid.clone(), sink, client });
                    let (retry_at, pause) = (Instant::now(), Duration::from_secs(RETRY_SECONDS));
                    unable.remove(&name);
                    routes.insert(name, Route { target, next, retry_at, pause, failing: false, busy: false });
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    if unable.insert(name, why.clone()).as_ref() != Some(&why) {
                        tracing::warn!(sink = sink.name, error = why, "the ledger is not sent to this sink");
                    }
                }
            }
        }
    }

    /// Sends the next block that this sink does not have, unless one is under way, or it has just failed.
    fn advance(&self, route: &mut Route, progress: &Progress) -> Option<BoxFuture<'static, Sent>> {
        if route.busy {
            return None;
        }
        if let Some(count) = progress.oldest.checked_sub(route.next).filter(|count| *count > 0) {
            self.skipped(route, count);
        }
        if route.next >= progress.next || Instant::now() < route.retry_at {
            return None;
        }
        route.busy = true;
        let (store, target, number) = (self.store.clone(), route.target.clone(), route.next);
        Some(Box::pin(async move {
            let result = target.send(&store, number).await;
            Sent { target, result }
        }))
    }

    /// What came of a block, if its way is still the same.
    fn sent(&self, routes: &mut BTreeMap<String, Route>, Sent { target, result }: Sent) {
        let count = |result| self.metrics.ledger_exports.get_or_create(&ResultLabels { result }).inc();
        let route = routes.get_mut(&target.sink.name).filter(|route| Arc::ptr_eq(&route.target, &target));
        let Some(route) = route else { return };
        route.busy = false;
        match result {
            Ok(true) => {
                count("success");
                route.next = route.next.saturating_add(1);
                route.pause = Duration::from_secs(RETRY_SECONDS);
                route.failing = false;
            }
            Ok(false) => self.skipped(route, 1),
            Err(error) => {
                count("error");
                if !std::mem::replace(&mut route.failing, true) {
                    tracing::warn!(
                        sink = target.sink.name,
                        block = route.next,
                        error = format!("{error:#}"),
                        "block of the ledger not sent, trying again"
                    );
                }
                // Over HTTP/2 a connection whose other end is gone would be used again and again.
                if let Ok(client) = client(&target.sink) {
                    let (ledger, sink) = (target.ledger.clone(), target.sink.clone());
                    route.target = Arc::new(Target { ledger, sink, client });
                }
                route.retry_at = Instant::now() + route.pause;
                route.pause = (route.pause * 2).min(Duration::from_secs(RETRY_SECONDS_MAX));
            }
        }
    }

    /// Blocks that were removed before this sink had them. What matters of them to a verification is restated in later ones.
    fn skipped(&self, route: &mut Route, count: u64) {
        let (sink, from) = (&route.target.sink.name, route.next);
        tracing::warn!(sink, from, count, "blocks of the ledger were removed before this sink had them");
        self.metrics.ledger_skipped.inc_by(count);
        route.next = route.next.saturating_add(count);
    }
}

impl Target {
    /// Sends this block; `false`: it is not there any more.
    async fn send(&self, store: &Store, number: u64) -> anyhow::Result<bool> {
        let Some(block) = store.get(number).await? else { return Ok(false) };
        let body = otlp_request(&block, &self.ledger).map_err(Error::msg)?;
        let request = match self.sink.protocol {
            SinkProtocol::Grpc => grpc::call(&self.sink.endpoint, &body)?,
            SinkProtocol::HttpProtobuf => Request::post(url(&self.sink.endpoint))
                .header(header::CONTENT_TYPE, "application/x-protobuf")
                .body(Full::new(Bytes::from(body)))?,
        };
        let exchange = async {
            let (head, body) = self.client.request(request).await?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.ok();
            Ok::<_, Error>((head, body))
        };
        let deadline = Duration::from_secs(REQUEST_SECONDS_MAX);
        let (head, body) = tokio::time::timeout(deadline, exchange).await.context("no answer in time")??;
        let trailers = body.as_ref().and_then(|body| body.trailers().cloned());
        let body = body.map(Collected::to_bytes);
        let result = match self.sink.protocol {
            SinkProtocol::Grpc => grpc::receipt(head.status, &head.headers, trailers.as_ref(), body.as_ref()),
            SinkProtocol::HttpProtobuf => receipt(head.status, body.as_ref()),
        };
        result.map(|()| true).map_err(Error::msg)
    }
}

impl Route {
    fn position(&self) -> Position {
        let Target { ledger, sink, .. } = &*self.target;
        Position { next: self.next, of: Some((ledger.clone(), sink.endpoint.clone())) }
    }
}

/// The block with which a sink's way begins: where it was, or with the oldest for a sink that has nothing of this ledger. What
/// an operator of before wrote does not say of which ledger, nor to whom: such a sink gets some blocks twice.
fn begins(position: Option<&Position>, endpoint: &str, progress: &Progress) -> u64 {
    match position {
        Some(Position { next, of: Some((ledger, to)) }) if *ledger == progress.sid && to == endpoint => {
            (*next).min(progress.next)
        }
        _ => progress.oldest,
    }
}

/// When there is something to do, if nothing is committed before.
fn next_look(routes: &BTreeMap<String, Route>) -> Instant {
    let look = Instant::now() + Duration::from_secs(LOOK_SECONDS);
    routes.values().filter(|route| route.failing && !route.busy).fold(look, |look, route| look.min(route.retry_at))
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
    if sink.credentials || sink.client_certificate_secret.is_some() || sink.token_audience.is_some() {
        bail!("it wants credentials, which stand in the pods' namespaces: the operator may not read them");
    }
    let (bundle, name) = (sink.ca_bundle.as_deref(), sink.server_name.as_deref());
    http(bundle, name, sink.protocol == SinkProtocol::Grpc)
}

/// A client over HTTP/1.1 that trusts these authorities (PEM), or the web's public ones.
pub(super) fn https(ca_bundle: Option<&str>) -> anyhow::Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>> {
    http(ca_bundle, None, false)
}

/// The same; `server_name` is verified in place of the URL's host; `http2` says that it speaks HTTP/2, by prior knowledge or by
/// ALPN, and nothing else.
fn http(
    ca_bundle: Option<&str>,
    server_name: Option<&str>,
    http2: bool,
) -> anyhow::Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>> {
    let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls(ca_bundle)?).https_or_http();
    if let Some(name) = server_name {
        let name = ServerName::try_from(name.to_owned()).context("tls.serverName")?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let mut client = Client::builder(TokioExecutor::new());
    Ok(match http2 {
        true => client.http2_only(true).build(builder.enable_http2().build()),
        false => client.build(builder.enable_http1().build()),
    })
}

#[cfg(test)]
mod tests;

//! The server of the admin port.

use super::State;
use super::probe::{Probe, dial};
use crate::metrics::CONTENT_TYPE as METRICS_TYPE;
use crate::tail::{Lines, SUBSCRIBERS_MAX};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use testimony_core::contract::TCP_PROBE_PATH;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Most connections at a time; more wait in the listener's backlog.
pub const CONNECTIONS_MAX: usize = 64;

/// Largest request head, in bytes.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// How long a client may take for a head, also while a kept-alive connection is idle.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may live: a client that does not read cannot hold its place for ever.
const CONNECTION_MAX: Duration = Duration::from_secs(300);

/// How long more a connection may live that shows `/tail`.
const TAIL_MAX: Duration = Duration::from_secs(3600);

/// Path of the live records.
pub const TAIL_PATH: &str = "/tail";

/// Wait after an accept that failed: with no file descriptors left, trying at once would only burn the processor.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The admin port, bound.
pub struct Admin {
    listener: TcpListener,
    state: Arc<State>,
}

impl Admin {
    /// A server on a bound listener.
    pub fn new(listener: TcpListener, state: State) -> Self {
        Self { listener, state: Arc::new(state) }
    }

    /// Serves until `shutdown` ends; open connections are cut then.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let mut connections = JoinSet::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        tokio::pin!(shutdown);
        loop {
            let accept = async {
                // The semaphore is never closed.
                let place = places.clone().acquire_owned().await.ok();
                (self.listener.accept().await, place)
            };
            tokio::select! {
                () = &mut shutdown => return,
                Some(_) = connections.join_next() => {}
                (accepted, place) = accept => match accepted {
                    Ok((stream, peer)) => {
                        let state = self.state.clone();
                        connections.spawn(async move {
                            serve(stream, peer, state).await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the admin port cannot accept");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
            }
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, state: Arc<State>) {
    let tailing = Arc::new(AtomicBool::new(false));
    let shown = tailing.clone();
    let service = service_fn(move |request| {
        let (state, shown) = (state.clone(), shown.clone());
        async move { Ok::<_, Infallible>(route(&request, peer, &state, &shown).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX.max(8192))
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // A client that went away is no event.
    let ended = tokio::time::timeout(CONNECTION_MAX, &mut connection).await.is_ok();
    if !ended && tailing.load(Ordering::Relaxed) {
        let _ = tokio::time::timeout(TAIL_MAX, connection).await;
    }
}

/// A short text, or lines without an end.
enum Answer {
    Text(Full<Bytes>),
    Lines(Lines),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Text(text) => Pin::new(text).poll_frame(context),
            Self::Lines(lines) => Pin::new(lines).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_end_stream())
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Text(text) => text.size_hint(),
            Self::Lines(lines) => lines.size_hint(),
        }
    }
}

async fn route(request: &Request<Incoming>, peer: SocketAddr, state: &State, tailing: &AtomicBool) -> Response<Answer> {
    if request.method() != Method::GET || request.uri().path() != TAIL_PATH {
        return answer(request, state).await.map(Answer::Text);
    }
    if !is_local(peer.ip()) {
        let why = "only for the loopback interface: use `testimony tail` or `kubectl port-forward`\n".to_owned();
        return text(StatusCode::FORBIDDEN, why).map(Answer::Text);
    }
    let Some(lines) = state.tail.subscribe() else {
        let why = format!("{SUBSCRIBERS_MAX} others look already: try again when one has gone\n");
        return text(StatusCode::SERVICE_UNAVAILABLE, why).map(Answer::Text);
    };
    tailing.store(true, Ordering::Relaxed);
    typed(StatusCode::OK, "application/x-ndjson", String::new()).map(|_| Answer::Lines(lines))
}

/// A forwarded port, or a container of the same pod: it sees its own pod's redacted records.
fn is_local(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

async fn answer(request: &Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match path {
        "/live" => text(StatusCode::OK, "live\n".to_owned()),
        "/ready" if state.ready.is_set() => text(StatusCode::OK, "ready\n".to_owned()),
        "/ready" => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: the listeners are not open yet, or the first policy has not come\n".to_owned(),
        ),
        "/metrics" => {
            (state.refresh)();
            typed(StatusCode::OK, METRICS_TYPE, state.metrics.text())
        }
        "/config" => match serde_json::to_string_pretty(&(state.config)()) {
            Ok(json) => typed(StatusCode::OK, "application/json", json + "\n"),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        _ => match path.strip_prefix(TCP_PROBE_PATH) {
            Some(port) => match dial(state.probe_address, port).await {
                Probe::Open => text(StatusCode::OK, "open\n".to_owned()),
                Probe::Closed(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("closed: {why}\n")),
                Probe::NoPort => text(StatusCode::BAD_REQUEST, format!("use {TCP_PROBE_PATH}PORT\n")),
            },
            None => {
                let known = format!(
                    "no such page; there are /live, /ready, /metrics, /config, {TAIL_PATH}, {TCP_PROBE_PATH}PORT\n"
                );
                text(StatusCode::NOT_FOUND, known)
            }
        },
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    let nosniff = HeaderName::from_static("x-content-type-options");
    response.headers_mut().insert(nosniff, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_may_tail() {
        let table = [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("::ffff:10.0.0.1", false),
        ];
        for (peer, may) in table {
            assert_eq!(is_local(peer.parse().expect("an address")), may, "{peer}");
        }
    }
}

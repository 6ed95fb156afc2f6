//! The server of the admin port.

use super::State;
use super::probe::{Probe, dial};
use crate::metrics::CONTENT_TYPE as METRICS_TYPE;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
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
                    Ok((stream, _)) => {
                        let state = self.state.clone();
                        connections.spawn(async move {
                            serve(stream, state).await;
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

async fn serve(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(&request, &state).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX.max(8192))
        .serve_connection(TokioIo::new(stream), service);
    // A client that went away is no event.
    let _ = tokio::time::timeout(CONNECTION_MAX, connection).await;
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
        "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: the listeners are not open yet\n".to_owned()),
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
                let known = format!("no such page; there are /live, /ready, /metrics, /config, {TCP_PROBE_PATH}PORT\n");
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

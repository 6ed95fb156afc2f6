//! The admin port: `/live`, `/ready`, `/metrics`.

use crate::serve::{Answer, answer, text_answer};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use tokio::sync::watch;

/// Connections at a time.
pub const CONNECTIONS_MAX: usize = 64;

/// Named parts, each of which says whether it is ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Vec<(&'static str, watch::Receiver<bool>)>);

impl Readiness {
    /// Adds a part.
    pub fn with(mut self, name: &'static str, ready: watch::Receiver<bool>) -> Self {
        self.0.push((name, ready));
        self
    }

    /// Names of the parts that are not ready.
    pub fn missing(&self) -> Vec<&'static str> {
        self.0.iter().filter(|(_, ready)| !*ready.borrow()).map(|(name, _)| *name).collect()
    }
}

/// Answers one request.
pub fn handle(request: &Request<Incoming>, readiness: &Readiness, registry: &Registry) -> Answer {
    if request.method() != Method::GET {
        return text_answer(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
    }
    match request.uri().path() {
        "/live" => text_answer(StatusCode::OK, "ok\n"),
        "/ready" => match readiness.missing() {
            missing if missing.is_empty() => text_answer(StatusCode::OK, "ok\n"),
            missing => text_answer(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", "))),
        },
        "/metrics" => {
            let mut text = String::new();
            match prometheus_client::encoding::text::encode(&mut text, registry) {
                Ok(()) => answer(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
                Err(error) => text_answer(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            }
        }
        _ => text_answer(StatusCode::NOT_FOUND, "try /live, /ready or /metrics\n"),
    }
}

/// The handler for [`crate::serve::serve`].
pub fn handler(
    readiness: Readiness,
    registry: Arc<Registry>,
) -> impl Fn(Request<Incoming>) -> std::future::Ready<Answer> + Clone + Send + Sync + 'static {
    move |request| std::future::ready(handle(&request, &readiness, &registry))
}

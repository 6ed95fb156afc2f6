//! The admin port: `/live`, `/ready`, `/metrics`.

use crate::serve::{Answer, Shutdown, answer, text_answer};
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

/// What `/ready` answers. Who leaves is not ready, so that nobody new comes.
pub fn ready(readiness: &Readiness, leaving: bool) -> Answer {
    let mut missing = readiness.missing();
    if leaving {
        missing.push("stopping");
    }
    match missing {
        missing if missing.is_empty() => text_answer(StatusCode::OK, "ok\n"),
        missing => text_answer(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", "))),
    }
}

/// Answers one request.
pub fn handle(request: &Request<Incoming>, readiness: &Readiness, registry: &Registry, leaving: bool) -> Answer {
    if request.method() != Method::GET {
        return text_answer(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
    }
    match request.uri().path() {
        "/live" => text_answer(StatusCode::OK, "ok\n"),
        "/ready" => ready(readiness, leaving),
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
    shutdown: Shutdown,
) -> impl Fn(Request<Incoming>) -> std::future::Ready<Answer> + Clone + Send + Sync + 'static {
    move |request| std::future::ready(handle(&request, &readiness, &registry, shutdown.is_leaving()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_is_not_ready() {
        let (part, is_ready) = watch::channel(false);
        let readiness = Readiness::default().with("certificate", is_ready);
        assert_eq!(ready(&readiness, false).status(), StatusCode::SERVICE_UNAVAILABLE);
        part.send_replace(true);
        assert_eq!(ready(&readiness, false).status(), StatusCode::OK);
        assert_eq!(ready(&readiness, true).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

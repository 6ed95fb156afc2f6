//! The policy server: sidecars poll it for their document, and say by that what they run; and they ask it for the names of
//! addresses. The witness answers here too (see [`crate::witness`]), and [`orders`] of people to the ledger come in here.
//! Only the leader serves.

#[cfg(test)]
mod http_tests;
mod identity;
mod names;
mod orders;
#[cfg(test)]
mod tests;

pub use identity::{Identity, Reviewer, Unauthorized};

use crate::metrics::{Metrics, ResultLabels};
use crate::serve::{Answer, Shutdown, body, json_answer, text_answer};
use crate::state::{Ack, State};
use crate::witness::WitnessDoor;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, StatusCode, header};
use std::sync::Arc;
use std::time::{Duration, Instant};
use testimony_core::contract::{NAMES_PATH, POLL_PATH, PRUNE_PATH};
use testimony_core::names::{ADDRESSES_MAX, NamesRequest};
use testimony_core::policy::{POLL_WAIT_S_MAX, PollRequest, PollResponse};
use tokio::sync::{Notify, Semaphore, watch};

/// Polls that wait at a time; more are told to come back.
pub const POLLS_MAX: usize = 10_000;

/// Connections at a time: each sidecar has one to poll, one to ask for names, and one for the witness.
pub const CONNECTIONS_MAX: usize = 3 * POLLS_MAX + 256;

/// Largest poll.
const POLL_BYTES_MAX: usize = 64 * 1024;

/// Largest request for names: an address with quotes and a comma takes at most 48 bytes.
const NAMES_BYTES_MAX: usize = 48 * ADDRESSES_MAX + 1024;

/// An answer without success, and what metrics call it.
type Refusal = (Answer, &'static str);

/// Where identities come from: the API server, or a table in tests.
pub trait Identify: Clone + Send + Sync + 'static {
    /// The pod that a token belongs to.
    fn identify(&self, token: &str) -> impl Future<Output = Result<Identity, Unauthorized>> + Send;

    /// Who the owner of a token is, where they may prune the ledger.
    fn may_prune(&self, token: &str) -> impl Future<Output = Result<String, Unauthorized>> + Send;
}

/// What whoever is not authorised is answered.
fn refusal(error: &Unauthorized) -> Refusal {
    let (status, result) = match error {
        Unauthorized::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        Unauthorized::Forbidden(_) => (StatusCode::FORBIDDEN, "denied"),
        Unauthorized::Refused(_) | Unauthorized::NotBound => (StatusCode::UNAUTHORIZED, "unauthorized"),
    };
    (text_answer(status, format!("{error}\n")), result)
}

/// Answers polls.
#[derive(Clone)]
pub struct PolicyServer<I> {
    state: Arc<State>,
    identify: I,
    bundle: watch::Receiver<Option<Arc<str>>>,
    metrics: Metrics,
    polls: Arc<Semaphore>,
    witness: Option<WitnessDoor>,
    shutdown: Shutdown,
}

impl<I: Identify> PolicyServer<I> {
    /// A server on this state. At the signal to stop, polls that wait are answered: their sidecars find the next leader.
    pub fn new(
        state: Arc<State>,
        identify: I,
        bundle: watch::Receiver<Option<Arc<str>>>,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> Self {
        Self { state, identify, bundle, metrics, polls: Arc::new(Semaphore::new(POLLS_MAX)), witness: None, shutdown }
    }

    /// Serves the witness too.
    #[must_use]
    pub fn with_witness(self, door: WitnessDoor) -> Self {
        Self { witness: Some(door), ..self }
    }

    /// Handles one HTTP request.
    pub async fn handle(self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        let witness = self.witness.clone().filter(|_| WitnessDoor::serves(path) || path == PRUNE_PATH);
        if path != POLL_PATH && path != NAMES_PATH && witness.is_none() {
            return text_answer(StatusCode::NOT_FOUND, format!("try {POLL_PATH}\n"));
        }
        if request.method() != Method::POST {
            return text_answer(StatusCode::METHOD_NOT_ALLOWED, "use POST\n");
        }
        if let Some(door) = witness {
            let done = match path == PRUNE_PATH {
                true => self.order(door, request).await,
                false => self.witness(door, request).await,
            };
            let (answer, result) = done.unwrap_or_else(|refused| refused);
            self.metrics.witness_requests.get_or_create(&ResultLabels { result }).inc();
            return answer;
        }
        if path == NAMES_PATH {
            return self.names(request).await.unwrap_or_else(|(answer, _)| answer);
        }
        let (answer, result) = self.poll(request).await.unwrap_or_else(|refused| refused);
        self.metrics.polls.get_or_create(&ResultLabels { result }).inc();
        answer
    }

    /// Who asks.
    async fn who(&self, headers: &HeaderMap) -> Result<Identity, Refusal> {
        let Some(token) = bearer(headers) else {
            return Err((
                text_answer(StatusCode::UNAUTHORIZED, "send the projected token as Bearer\n"),
                "unauthorized",
            ));
        };
        self.identify.identify(token).await.map_err(|error| refusal(&error))
    }

    async fn witness(&self, door: WitnessDoor, request: Request<Incoming>) -> Result<(Answer, &'static str), Refusal> {
        let identity = self.who(request.headers()).await?;
        Ok(door.handle(identity, request).await)
    }

    async fn names(&self, request: Request<Incoming>) -> Result<Answer, Refusal> {
        let identity = self.who(request.headers()).await?;
        let body = body(request, NAMES_BYTES_MAX).await.map_err(|answer| (answer, "bad_request"))?;
        let asked: NamesRequest = serde_json::from_slice(&body)
            .map_err(|error| (text_answer(StatusCode::BAD_REQUEST, format!("names: {error}\n")), "bad_request"))?;
        let answer = names::answer(&self.state.index(), &identity.namespace, &asked);
        Ok(answer_json(answer.as_ref()).0)
    }

    async fn poll(&self, request: Request<Incoming>) -> Result<(Answer, &'static str), Refusal> {
        let Ok(_permit) = self.polls.try_acquire() else {
            let mut answer = text_answer(StatusCode::SERVICE_UNAVAILABLE, "too many polls\n");
            answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("5"));
            return Err((answer, "busy"));
        };
        let identity = self.who(request.headers()).await?;
        let body = body(request, POLL_BYTES_MAX).await.map_err(|answer| (answer, "bad_request"))?;
        let poll: PollRequest = serde_json::from_slice(&body)
            .map_err(|error| (text_answer(StatusCode::BAD_REQUEST, format!("poll: {error}\n")), "bad_request"))?;
        let Some(notify) = self.state.register(&identity.pod_uid) else {
            return Err((text_answer(StatusCode::TOO_MANY_REQUESTS, "this pod polls already\n"), "busy"));
        };
        self.metrics.polls_open.inc();
        // Gives back also when the client goes and this future is dropped.
        let registration = Registration { server: self, uid: &identity.pod_uid, notify: Some(notify) };
        let answer = self.wait(&identity, &poll, &registration).await;
        drop(registration);
        Ok(answer_json(answer.as_ref()))
    }

    /// Waits until there is something new for this pod, or the wait is over.
    async fn wait(&self, identity: &Identity, poll: &PollRequest, at: &Registration<'_, I>) -> Option<PollResponse> {
        let wait = Duration::from_secs(u64::from(poll.wait_seconds.min(POLL_WAIT_S_MAX)));
        let notify = at.notify.as_ref()?;
        let mut shutdown = self.shutdown.clone();
        tokio::select! {
            answer = self.news(identity, poll, notify) => answer,
            // A wait of zero still looks once.
            () = tokio::time::sleep(wait) => self.look(identity, poll),
            () = shutdown.wait() => None,
        }
    }

    async fn news(&self, identity: &Identity, poll: &PollRequest, notify: &Notify) -> Option<PollResponse> {
        let mut epochs = self.state.epochs();
        let mut bundle = self.bundle.clone();
        loop {
            // Registered before the look, so that no change falls between look and wait.
            let mut pod_changed = std::pin::pin!(notify.notified());
            pod_changed.as_mut().enable();
            epochs.mark_unchanged();
            bundle.mark_unchanged();
            if let Some(response) = self.look(identity, poll) {
                return Some(response);
            }
            let open = tokio::select! {
                () = pod_changed => true,
                changed = epochs.changed() => changed.is_ok(),
                changed = bundle.changed() => changed.is_ok(),
            };
            if !open {
                return None;
            }
        }
    }

    /// What is new for this pod now; keeps what it said.
    fn look(&self, identity: &Identity, poll: &PollRequest) -> Option<PollResponse> {
        let bundle = self.bundle.borrow().clone()?;
        let index = self.state.index();
        let pod = index.pod(&identity.pod_uid).filter(|p| p.namespace == identity.namespace)?;
        let compiled = index.document(&pod.namespace, &pod.traits.labels);
        drop(index);
        let document = &compiled.document;
        self.state.acknowledge(
            &identity.pod_uid,
            Ack {
                revision: poll.revision.clone(),
                refused: poll.refused.clone(),
                sinks: poll.sinks.clone(),
                evidence: poll.evidence,
                at: Instant::now(),
                bundle: None,
            },
        );
        let mut acks = self.state.acks();
        let ack = acks.get_mut(&identity.pod_uid);
        let bundle_known = ack.as_ref().is_none_or(|a| a.bundle.as_ref() == Some(&bundle));
        let runs = poll.revision.as_ref() == Some(&document.revision);
        // What it refused once it would refuse again.
        let refused = poll.refused.as_ref().is_some_and(|r| r.revision == document.revision);
        // Whose sinks are gone, all at once, as at an uninstall: what is in force stays, rather than records with no way out.
        let loses_sinks = !poll.sinks.is_empty() && document.sinks.is_empty() && !document.policies.is_empty();
        if loses_sinks || (runs || refused) && bundle_known {
            return None;
        }
        if let Some(ack) = ack {
            ack.bundle = Some(bundle.clone());
        }
        let (namespace, pod) = (&identity.namespace, &identity.pod_name);
        let _span = tracing::info_span!("document", namespace, pod, revision = document.revision).entered();
        tracing::debug!("sent");
        Some(PollResponse { document: document.clone(), operator_ca: bundle.to_string() })
    }
}

/// A poll that waits.
struct Registration<'a, I: Identify> {
    server: &'a PolicyServer<I>,
    uid: &'a str,
    notify: Option<Arc<Notify>>,
}

impl<I: Identify> Drop for Registration<'_, I> {
    fn drop(&mut self) {
        if let Some(notify) = self.notify.take() {
            self.server.state.unregister(self.uid, notify);
            self.server.metrics.polls_open.dec();
        }
    }
}

/// 200 with JSON, or 204.
fn answer_json(response: Option<&impl serde::Serialize>) -> (Answer, &'static str) {
    let Some(response) = response else { return (text_answer(StatusCode::NO_CONTENT, ""), "unchanged") };
    match serde_json::to_vec(response) {
        Ok(bytes) => (json_answer(StatusCode::OK, bytes), "document"),
        Err(error) => (text_answer(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()), "error"),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

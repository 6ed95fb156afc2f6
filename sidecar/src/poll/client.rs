//! The client of the operator's long poll.

use super::state::{Apply, PolicyState};
use super::store::{LastGood, Store};
use crate::client::{Answer, Backoff, Client, Endpoint, Jitter, Secret, Trust, Version, error_line, tls_config};
use crate::config::{Operator, document_problems};
use crate::export::Queue;
use crate::metrics::{Metrics, PollResult};
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use testimony_core::contract::POLL_PATH;
use testimony_core::policy::{DOCUMENT_BYTES_MAX, POLL_WAIT_S_MAX, PolicyDocument, PollRequest, Refused};
use tokio::sync::watch;
use tokio::time::Instant;

/// Deadline of one request: the wait that it asks for, and time for the network.
pub const POLL_DEADLINE: Duration = Duration::from_secs(POLL_WAIT_S_MAX as u64 + 15);

/// A sink's change of state is told at once, but at most this often.
pub const STATE_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// First and longest wait after a request that failed.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Shortest time between two requests that were answered: an operator that answers at once keeps nobody busy.
const ANSWERED_PAUSE: Duration = Duration::from_millis(100);

/// Largest answer, in bytes: a document and a CA bundle, each with room for JSON's escapes.
const ANSWER_BYTES_MAX: usize = 8 * DOCUMENT_BYTES_MAX;

/// Largest token file, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Asks the operator for newer policies, for ever.
pub struct Poller {
    operator: Operator,
    endpoint: Endpoint,
    store: Option<Store>,
    apply: Apply,
    state: PolicyState,
    queue: Queue,
    metrics: Arc<Metrics>,
    /// The authority in use.
    ca_pem: String,
    client: Option<Client>,
    backoff: Backoff,
    /// The operator answered the last request.
    reachable: bool,
}

/// An answer with a document.
struct Answered {
    revision: String,
    /// The document, or why it is none.
    document: Result<PolicyDocument, String>,
    operator_ca: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Loose {
    document: serde_json::Value,
    operator_ca: String,
}

/// A request that brought nothing to run. Holds no secret.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error("the token file {file} cannot be used: {reason}")]
    Token { file: String, reason: String },
    #[error("the operator refuses the token: {0}")]
    Unauthorized(StatusCode),
    #[error("the operator answered {0}")]
    Status(StatusCode),
    #[error("the operator's answer is not a policy: {0}")]
    Body(String),
    #[error("{0}")]
    Client(String),
}

impl Poller {
    /// A poller. `operator_ca`: from the last good answer, where it is newer than the environment's.
    ///
    /// # Errors
    /// The operator's URL is none.
    pub fn new(
        operator: Operator,
        operator_ca: Option<String>,
        store: Option<Store>,
        apply: Apply,
        state: PolicyState,
        queue: Queue,
        metrics: Arc<Metrics>,
    ) -> Result<Self, crate::client::EndpointError> {
        let endpoint = Endpoint::parse(&operator.url)?;
        let ca_pem = operator_ca.unwrap_or_else(|| operator.ca_pem.clone());
        let backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, Jitter::seeded());
        let reachable = true;
        Ok(Self { operator, endpoint, store, apply, state, queue, metrics, ca_pem, client: None, backoff, reachable })
    }

    /// Polls until `shutdown` ends.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = shutdown => {}
            () = self.poll_for_ever() => {}
        }
    }

    async fn poll_for_ever(&mut self) {
        let mut changes = self.queue.state_changes();
        loop {
            let began = Instant::now();
            changes.mark_unchanged();
            let request = self.request();
            let result = tokio::select! {
                result = self.ask(&request) => Some(result),
                () = changed_after(&mut changes, began + STATE_POLL_INTERVAL) => None,
            };
            let pause = match result {
                // The request is given up with its connection: the next one tells the new state.
                None => {
                    self.client = None;
                    Duration::ZERO
                }
                // An operator that repeats what is in force, or what was refused, is not asked again at once.
                Some(Ok(answer)) => {
                    if self.answered(answer) {
                        self.backoff.reset();
                        ANSWERED_PAUSE
                    } else {
                        self.backoff.wait()
                    }
                }
                Some(Err(error)) => {
                    self.failed(&error);
                    self.backoff.wait()
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn request(&self) -> PollRequest {
        let (revision, _, refused) = self.state.get();
        PollRequest {
            revision: Some(revision),
            injection_id: self.operator.injection_id.clone(),
            refused,
            sinks: self.queue.sink_states(),
            wait_seconds: POLL_WAIT_S_MAX,
        }
    }

    /// One request; none: nothing is new.
    async fn ask(&mut self, request: &PollRequest) -> Result<Option<Answered>, PollError> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, self.token()?.expose());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = serde_json::to_vec(request).map_err(|error| PollError::Client(error.to_string()))?;
        let client = match &mut self.client {
            Some(client) => client,
            None => {
                let trust = Trust { ca_pem: Some(&self.ca_pem), ..Trust::default() };
                let client = Client::new(self.endpoint.clone(), Version::Http1, &trust);
                self.client.insert(client.map_err(|error| PollError::Client(error_line(&error)))?)
            }
        };
        let base = self.endpoint.path().trim_end_matches('/');
        let path = format!("{base}{POLL_PATH}");
        let answer = client.post(&path, &headers, Bytes::from(body), POLL_DEADLINE, ANSWER_BYTES_MAX).await;
        let answer = answer.map_err(|error| PollError::Client(error_line(&error)))?;
        judge(&answer)
    }

    /// The projected token; the kubelet renews the file, so it is read each time.
    fn token(&self) -> Result<Secret, PollError> {
        let fail = |reason: String| PollError::Token { file: self.operator.token_file.display().to_string(), reason };
        let text = std::fs::read_to_string(&self.operator.token_file).map_err(|error| fail(error.to_string()))?;
        if text.len() > TOKEN_BYTES_MAX {
            return Err(fail(format!("it has more than {TOKEN_BYTES_MAX} bytes")));
        }
        let token = text.trim();
        if token.is_empty() {
            return Err(fail("it is empty".to_owned()));
        }
        Secret::header(&format!("Bearer {token}")).ok_or_else(|| fail("it is not a token".to_owned()))
    }

    /// Returns whether the answer was of use.
    fn answered(&mut self, answer: Option<Answered>) -> bool {
        if !self.reachable {
            tracing::info!("the operator answers again");
            self.reachable = true;
        }
        match answer {
            Some(response) => self.take(response),
            None => {
                self.metrics.poll(PollResult::Unchanged);
                true
            }
        }
    }

    fn failed(&mut self, error: &PollError) {
        self.client = None;
        let unauthorized = matches!(error, PollError::Unauthorized(_));
        self.metrics.poll(if unauthorized { PollResult::Unauthorized } else { PollResult::Failed });
        if self.reachable {
            tracing::warn!(%error, "no answer from the operator; the policy in force stays");
            self.reachable = false;
        } else {
            tracing::debug!(%error, "no answer from the operator");
        }
    }

    /// Validates before it swaps; what cannot be run is told to the operator by the next request. Returns whether another
    /// document, or another authority, is in use now.
    fn take(&mut self, answer: Answered) -> bool {
        let rotated = self.adopt_ca(&answer.operator_ca);
        if answer.revision == self.state.get().0 {
            self.metrics.poll(PollResult::Unchanged);
            if let (true, Ok(document)) = (rotated, answer.document) {
                self.keep(document);
            }
            return rotated;
        }
        let document = answer.document.and_then(|document| match document_problems("document", &document).first() {
            Some(problem) => Err(problem.to_string()),
            None => (self.apply)(&document).map(|()| document),
        });
        match document {
            Ok(document) => {
                tracing::info!(revision = document.revision, "policy in force");
                self.metrics.poll(PollResult::Changed);
                self.state.in_force(&document.revision);
                self.keep(document);
                true
            }
            Err(message) => {
                self.metrics.poll(PollResult::Refused);
                let revision = answer.revision;
                if self.state.refuse(Refused { revision: revision.clone(), message: message.clone() }) {
                    tracing::warn!(revision, message, "a policy cannot be run; the one in force stays");
                }
                rotated
            }
        }
    }

    /// Takes a rotated authority over, unless it is unusable. Returns whether it did.
    fn adopt_ca(&mut self, pem: &str) -> bool {
        if pem == self.ca_pem {
            return false;
        }
        if let Err(error) = tls_config(Some(pem)) {
            tracing::warn!(%error, "the operator sent an unusable authority; the one in use stays");
            return false;
        }
        self.ca_pem = pem.to_owned();
        self.client = None;
        true
    }

    fn keep(&self, document: PolicyDocument) {
        let Some(store) = &self.store else { return };
        if let Err(error) = store.save(&LastGood { document, operator_ca: self.ca_pem.clone() }) {
            tracing::warn!(%error, "the policy cannot be kept for restarts");
        }
    }
}

fn judge(answer: &Answer) -> Result<Option<Answered>, PollError> {
    match answer.status {
        StatusCode::NO_CONTENT => Ok(None),
        StatusCode::OK if answer.cut => {
            Err(PollError::Body(format!("broken off, or more than {ANSWER_BYTES_MAX} bytes")))
        }
        StatusCode::OK => decode(&answer.body).map(Some),
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(PollError::Unauthorized(status)),
        status => Err(PollError::Status(status)),
    }
}

/// Reads a [`testimony_core::policy::PollResponse`]. A document of a newer operator may hold what this sidecar does not
/// know: then its revision is still read, so that the refusal can name it, and the authority is still followed.
fn decode(body: &[u8]) -> Result<Answered, PollError> {
    let Loose { document, operator_ca } =
        serde_json::from_slice(body).map_err(|error| PollError::Body(error.to_string()))?;
    let revision = document.get("revision").and_then(|revision| revision.as_str()).unwrap_or_default().to_owned();
    if revision.is_empty() {
        return Err(PollError::Body("its document has no revision".to_owned()));
    }
    let document = PolicyDocument::deserialize(document).map_err(|error| format!("document: {error}"));
    Ok(Answered { revision, document, operator_ca })
}

/// A sink's state changed, and it is not before `earliest`.
async fn changed_after(changes: &mut watch::Receiver<u64>, earliest: Instant) {
    if changes.changed().await.is_err() {
        // Export has ended: nothing will change.
        std::future::pending::<()>().await;
    }
    tokio::time::sleep_until(earliest).await;
}

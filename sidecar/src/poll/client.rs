//! The client of the operator's long poll.

use super::state::{Apply, PolicyState};
use super::store::{LastGood, Store};
use crate::client::{Answer, Backoff, Client, Endpoint, Jitter, Secret, error_line, tls_config};
use crate::config::{Operator, document_problems};
use crate::export::Queue;
use crate::metrics::{Metrics, PollResult};
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use std::sync::Arc;
use std::time::Duration;
use testimony_core::contract::POLL_PATH;
use testimony_core::policy::{DOCUMENT_BYTES_MAX, POLL_WAIT_S_MAX, PolicyDocument, PollRequest, PollResponse, Refused};
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
const ANSWER_BYTES_MAX: usize = DOCUMENT_BYTES_MAX * 8;

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
    async fn ask(&mut self, request: &PollRequest) -> Result<Option<PollResponse>, PollError> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, self.token()?.expose());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = serde_json::to_vec(request).map_err(|error| PollError::Client(error.to_string()))?;
        let client = match &mut self.client {
            Some(client) => client,
            None => {
                let client = Client::new(self.endpoint.clone(), Some(&self.ca_pem), None);
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
    fn answered(&mut self, answer: Option<PollResponse>) -> bool {
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
    fn take(&mut self, response: PollResponse) -> bool {
        let PollResponse { document, operator_ca } = response;
        let rotated = self.adopt_ca(&operator_ca);
        if document.revision == self.state.get().0 {
            self.metrics.poll(PollResult::Unchanged);
            if rotated {
                self.keep(document);
            }
            return rotated;
        }
        let problems = document_problems("document", &document);
        let checked = match problems.first() {
            None => (self.apply)(&document),
            Some(problem) => Err(problem.to_string()),
        };
        match checked {
            Ok(()) => {
                tracing::info!(revision = document.revision, "policy in force");
                self.metrics.poll(PollResult::Changed);
                self.state.in_force(&document.revision);
                self.keep(document);
                true
            }
            Err(message) => {
                self.metrics.poll(PollResult::Refused);
                if self.state.refuse(Refused { revision: document.revision.clone(), message: message.clone() }) {
                    tracing::warn!(
                        revision = document.revision,
                        message,
                        "a policy cannot be run; the one in force stays"
                    );
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

fn judge(answer: &Answer) -> Result<Option<PollResponse>, PollError> {
    match answer.status {
        StatusCode::NO_CONTENT => Ok(None),
        StatusCode::OK if answer.cut => {
            Err(PollError::Body(format!("broken off, or more than {ANSWER_BYTES_MAX} bytes")))
        }
        StatusCode::OK => {
            serde_json::from_slice(&answer.body).map(Some).map_err(|error| PollError::Body(error.to_string()))
        }
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(PollError::Unauthorized(status)),
        status => Err(PollError::Status(status)),
    }
}

/// A sink's state changed, and it is not before `earliest`.
async fn changed_after(changes: &mut watch::Receiver<u64>, earliest: Instant) {
    if changes.changed().await.is_err() {
        // Export has ended: nothing will change.
        std::future::pending::<()>().await;
    }
    tokio::time::sleep_until(earliest).await;
}

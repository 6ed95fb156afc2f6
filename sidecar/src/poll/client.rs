//! The client of the operator's long poll.

use super::caller::{CallError, Caller};
use super::pause::Pauses;
use super::state::{Apply, PolicyState};
use super::store::{LastGood, Store};
use crate::client::Jitter;
use crate::config::document_problems;
use crate::export::Queue;
use crate::metrics::{Metrics, PollResult};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use testimony_core::contract::POLL_PATH;
use testimony_core::policy::{
    DOCUMENT_BYTES_MAX, EvidenceState, POLL_WAIT_S_MAX, PolicyDocument, PollRequest, Refused,
};
use tokio::sync::watch;
use tokio::time::Instant;

/// Deadline of one request: the wait that it asks for, and time for the network.
pub const POLL_DEADLINE: Duration = Duration::from_secs(POLL_WAIT_S_MAX as u64 + 15);

/// A sink's change of state is told at once, but at most this often.
pub const STATE_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Largest answer, in bytes: a document and a CA bundle, each with room for JSON's escapes.
const ANSWER_BYTES_MAX: usize = 8 * DOCUMENT_BYTES_MAX;

/// Asks the operator for newer policies, for ever.
pub struct Poller {
    caller: Caller,
    store: Option<Store>,
    apply: Apply,
    state: PolicyState,
    queue: Queue,
    metrics: Arc<Metrics>,
    pauses: Pauses,
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

impl Poller {
    /// A poller.
    pub fn new(
        caller: Caller,
        store: Option<Store>,
        apply: Apply,
        state: PolicyState,
        queue: Queue,
        metrics: Arc<Metrics>,
    ) -> Self {
        let pauses = Pauses::new(Jitter::seeded());
        Self { caller, store, apply, state, queue, metrics, pauses, reachable: true }
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
                    self.caller.disconnect();
                    Duration::ZERO
                }
                Some(Ok(answer)) => {
                    let of_use = self.answered(answer);
                    self.pauses.answered(of_use)
                }
                Some(Err(error)) => {
                    self.failed(&error);
                    self.pauses.failed(&error)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn request(&self) -> PollRequest {
        let (revision, _, refused) = self.state.get();
        PollRequest {
            revision: Some(revision),
            injection_id: self.caller.injection_id().to_owned(),
            refused,
            sinks: self.queue.sink_states(),
            evidence: Some(self.evidence()),
            wait_seconds: POLL_WAIT_S_MAX,
        }
    }

    fn evidence(&self) -> EvidenceState {
        let (streams, unanchored) = self.metrics.anchoring.streams(Instant::now());
        EvidenceState { gap_exchanges: self.metrics.gap_exchanges(), streams, unanchored }.bounded()
    }

    /// One request; none: nothing is new.
    async fn ask(&mut self, request: &PollRequest) -> Result<Option<Answered>, CallError> {
        let answer = self.caller.call(POLL_PATH, request, POLL_DEADLINE, ANSWER_BYTES_MAX).await?;
        answer.map(|body| decode(&body)).transpose()
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

    fn failed(&mut self, error: &CallError) {
        self.caller.disconnect();
        let unauthorized = matches!(error, CallError::Unauthorized(_));
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
        let rotated = self.caller.adopt_ca(&answer.operator_ca);
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

    fn keep(&self, document: PolicyDocument) {
        let Some(store) = &self.store else { return };
        if let Err(error) = store.save(&LastGood { document, operator_ca: self.caller.ca_pem().to_string() }) {
            tracing::warn!(%error, "the policy cannot be kept for restarts");
        }
    }
}

/// Reads a [`testimony_core::policy::PollResponse`]. A document of a newer operator may hold what this sidecar does not
/// know: then its revision is still read, so that the refusal can name it, and the authority is still followed.
fn decode(body: &[u8]) -> Result<Answered, CallError> {
    let Loose { document, operator_ca } =
        serde_json::from_slice(body).map_err(|error| CallError::Body(error.to_string()))?;
    let revision = document.get("revision").and_then(|revision| revision.as_str()).unwrap_or_default().to_owned();
    if revision.is_empty() {
        return Err(CallError::Body("its document has no revision".to_owned()));
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

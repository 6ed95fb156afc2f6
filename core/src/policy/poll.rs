//! The long poll between sidecar and operator: JSON over HTTPS, `POST` [`crate::contract::POLL_PATH`].
//!
//! The sidecar says what it runs; the operator answers 200 with [`PollResponse`] as soon as it has another revision, or
//! 204 when the wait is over. The revision in the request is the acknowledgement, and the only source of `programmed`.

use super::PolicyDocument;
use serde::{Deserialize, Serialize};

/// How the error of a sink begins whose credentials are not there: the operator lists the namespaces that lack the Secret.
pub const CREDENTIALS_MISSING: &str = "credentials are missing";

/// How the error of a sink begins whose client certificate is not there; as [`CREDENTIALS_MISSING`].
pub const CERTIFICATE_MISSING: &str = "the client certificate is missing";

/// Longest wait that a sidecar asks for, in seconds.
pub const POLL_WAIT_S_MAX: u16 = 50;

/// What a sidecar says of itself. Who it is comes from its token, never from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PollRequest {
    /// Revision in force; absent before there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The injection id from the environment.
    pub injection_id: String,
    /// The last document that was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// Each sink's state.
    #[serde(default)]
    pub sinks: Vec<SinkState>,
    /// Seconds to wait when nothing is new, at most [`POLL_WAIT_S_MAX`].
    pub wait_seconds: u16,
}

/// A document that a sidecar could not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// Its revision.
    pub revision: String,
    /// Why: names the field.
    pub message: String,
}

/// How a sink is doing, seen from one sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SinkState {
    /// Name of the AuditSink.
    pub name: String,
    /// What it does now.
    pub state: SinkCondition,
    /// The last error, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Age of the oldest record not yet delivered, in seconds.
    pub oldest_undelivered_seconds: u64,
    /// Records delivered since the start.
    pub delivered: u64,
    /// Records lost (declared in gaps) since the start.
    pub lost: u64,
}

/// What a sink does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SinkCondition {
    /// Nothing was sent yet.
    Unknown,
    /// The last export succeeded.
    Delivering,
    /// The last export failed and is retried.
    Failing,
    /// Wrong or missing credentials: retried slowly, nothing is dropped before the queue is full.
    Parked,
}

/// The document to run from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PollResponse {
    /// The document.
    pub document: PolicyDocument,
    /// PEM bundle that signs the policy server's certificate from now on: the authority is rotated while pods live.
    pub operator_ca: String,
}

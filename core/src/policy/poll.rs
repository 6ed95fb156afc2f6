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

/// Longest pause of a sidecar between two tries while nobody answers, in milliseconds: a leader hears of all sidecars that live
/// soon after it began. An operator that answers, but not as it should, is given more time.
pub const ABSENT_RETRY_MS_MAX: u64 = 1000;

/// Most streams that a sidecar is counted with: many times what its data threads can have.
pub const STREAMS_TOLD_MAX: u32 = 1024;

/// What a sidecar says of itself. Who it is comes from its token, never from here.
///
/// Sidecars and operators of different versions meet: a field that is new is optional, and one that is not known is
/// passed over.
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
    /// How its evidence stands; older sidecars do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceState>,
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

/// How the evidence of one process stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EvidenceState {
    /// Exchanges without a record, which gaps of this process tell; those that an earlier one took with it, too.
    pub gap_exchanges: u64,
    /// Streams whose end the witness has not seen: the open ones, and closed ones that are still to be shown.
    pub streams: u32,
    /// Of these, without a cosigned head, or with none that is recent.
    pub unanchored: u32,
}

impl EvidenceState {
    /// No more than a sidecar can mean, whatever it says.
    pub fn bounded(self) -> Self {
        let streams = self.streams.min(STREAMS_TOLD_MAX);
        Self { streams, unanchored: self.unanchored.min(streams), ..self }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What an operator knows that is older than `evidence`.
    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Older {
        injection_id: String,
        #[serde(default)]
        sinks: Vec<SinkState>,
        wait_seconds: u16,
    }

    fn request(evidence: Option<EvidenceState>) -> PollRequest {
        PollRequest {
            revision: Some("00aa".to_owned()),
            injection_id: "i".to_owned(),
            refused: None,
            sinks: Vec::new(),
            evidence,
            wait_seconds: 50,
        }
    }

    #[test]
    fn a_sidecar_that_is_older_tells_no_evidence() {
        let old = json!({"revision": "00aa", "injectionId": "i", "sinks": [], "waitSeconds": 50});
        let read: PollRequest = serde_json::from_value(old.clone()).expect("a request");
        assert_eq!(read, request(None));
        assert_eq!(serde_json::to_value(read).expect("JSON"), old, "nothing is told in its place");
    }

    #[test]
    fn an_operator_that_is_older_passes_over_the_evidence() {
        let new = request(Some(EvidenceState { gap_exchanges: 3, streams: 2, unanchored: 1 }));
        let text = serde_json::to_string(&new).expect("JSON");
        assert_eq!(serde_json::from_str::<PollRequest>(&text).expect("a request"), new);
        let read: Older = serde_json::from_str(&text).expect("a request");
        assert_eq!(read, Older { injection_id: "i".to_owned(), sinks: Vec::new(), wait_seconds: 50 });
    }

    #[test]
    fn evidence_of_a_later_version_is_read_as_far_as_it_is_known() {
        let told = json!({"injectionId": "i", "waitSeconds": 1, "evidence": {"streams": 4, "holes": 9}, "more": true});
        let read: PollRequest = serde_json::from_value(told).expect("a request");
        assert_eq!(read.evidence, Some(EvidenceState { streams: 4, ..EvidenceState::default() }));
    }

    #[test]
    fn what_no_sidecar_can_mean_is_cut_off() {
        let told = EvidenceState { gap_exchanges: 7, streams: u32::MAX, unanchored: u32::MAX };
        let cut = EvidenceState { gap_exchanges: 7, streams: STREAMS_TOLD_MAX, unanchored: STREAMS_TOLD_MAX };
        assert_eq!(told.bounded(), cut);
        let more = EvidenceState { gap_exchanges: 0, streams: 2, unanchored: 5 };
        assert_eq!(more.bounded().unanchored, 2);
    }
}

//! Conditions of statuses. Pure: time comes in as an argument.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Longest message that the API accepts.
const MESSAGE_CHARS_MAX: usize = 32_768;

/// A condition before it meets the one that stands already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Such as `Ready`.
    pub kind: &'static str,
    /// `Some(true)`, `Some(false)`, or unknown.
    pub holds: Option<bool>,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Finding {
    /// It holds.
    pub fn yes(kind: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { kind, holds: Some(true), reason: reason.to_owned(), message: message.into() }
    }

    /// It does not hold.
    pub fn no(kind: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { kind, holds: Some(false), reason: reason.to_owned(), message: message.into() }
    }

    /// Nobody knows.
    pub fn unknown(kind: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { kind, holds: None, reason: reason.to_owned(), message: message.into() }
    }

    fn status(&self) -> &'static str {
        match self.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// Findings as conditions; a condition whose status stays keeps the time of its transition.
pub fn conditions(
    before: &[Condition],
    findings: Vec<Finding>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    findings
        .into_iter()
        .map(|finding| {
            let status = finding.status();
            let same = before.iter().find(|c| c.type_ == finding.kind && c.status == status);
            Condition {
                last_transition_time: same.map_or(Time(now), |c| c.last_transition_time.clone()),
                message: finding.message.chars().take(MESSAGE_CHARS_MAX).collect(),
                observed_generation: generation,
                reason: finding.reason,
                status: status.to_owned(),
                type_: finding.kind.to_owned(),
            }
        })
        .collect()
}

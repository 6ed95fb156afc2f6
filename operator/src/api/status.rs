//! What the controller says about policies and sinks.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most entries of `status.skipped` and of `status.excluded`.
pub const SKIPPED_MAX: usize = 8;

/// Status of an AuditPolicy or a ClusterAuditPolicy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditPolicyStatus {
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: the latest spec is valid. `ResolvedRefs`: all its sinks exist. `Programmed`: every sidecar of its pods
    /// acknowledged its revision. `Ready`: all of these, and no pod needs a restart.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Revision of the policy document that most of the matched pods must run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_revision: Option<String>,
    /// How many pods.
    #[serde(default)]
    pub pods: PodCounts,
    /// How the evidence stands; absent while no sidecar has told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceCounts>,
    /// Names of the AuditSinks that receive the records, also where `spec.sinks` leaves it to the default one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<String>,
    /// The spec in force while the latest one is not accepted, so that it outlives a restart of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<LastGood>,
    /// Why matched pods have no sidecar, most frequent first.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub skipped: Vec<Skipped>,
    /// Pods that `spec.exclusions` or a namespace's label takes out of a ClusterAuditPolicy, most frequent first; they do
    /// not count as matched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub excluded: Vec<Skipped>,
}

/// A spec that was accepted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastGood {
    /// Its generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// The spec, as JSON.
    pub spec: String,
}

/// Counts of pods; pods that are finished or on their way out do not count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodCounts {
    /// Selected by the policy.
    pub matched: i64,
    /// Of these, with a sidecar.
    pub injected: i64,
    /// Of these, acknowledged the revision in force.
    pub programmed: i64,
    /// Of the matched, those that a restart would bring into line.
    pub need_restart: i64,
    /// Of the matched, those that cannot have a sidecar.
    pub skipped: i64,
}

/// How the evidence of the selected pods stands, by what their sidecars tell; brought up to date twice a minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceCounts {
    /// Sidecars that told it; those of older versions do not.
    pub sidecars: i64,
    /// Exchanges without a record since these sidecars started; each is declared in a gap record.
    pub gaps: i64,
    /// Streams that are open, or whose end the witness has not seen yet.
    pub streams: i64,
    /// Of these, without a head that the witness cosigned, or with none that is younger than 10 minutes.
    pub unanchored: i64,
}

/// One reason for pods without a sidecar, or outside of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Skipped {
    /// The reason.
    pub reason: String,
    /// How many pods.
    pub count: i64,
    /// One of them, `namespace/name`.
    pub example: String,
}

/// Status of an AuditSink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditSinkStatus {
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: the latest spec is valid. `ResolvedRefs`: no sidecar misses the Secret with the credentials. `Encrypted`:
    /// records travel over TLS. `Reachable`: the endpoint answers every sidecar; unknown while none sends to it.
    /// `Delivering`: the last export of every sidecar succeeded; unknown while none has exported. `Delivered`: every sidecar's
    /// records are acknowledged within 30 s; unknown while none was delivered.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many sidecars say what about this sink.
    #[serde(default)]
    pub sidecars: SinkCounts,
    /// Records that today's sidecars have delivered since they started; brought up to date twice a minute.
    #[serde(default)]
    pub delivered: i64,
    /// Records that today's sidecars have lost since they started; each loss is declared in a gap record.
    #[serde(default)]
    pub lost: i64,
    /// Since when the oldest record waits, where a sidecar cannot deliver or is more than 30 s late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_undelivered: Option<Time>,
    /// What a sidecar that cannot deliver says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<SinkError>,
    /// The spec in force while the latest one is not accepted, so that it outlives a restart of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<LastGood>,
}

/// What a sidecar that cannot deliver says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkError {
    /// Its pod, `namespace/name`.
    pub pod: String,
    /// The error of its last export.
    pub message: String,
}

/// How many sidecars say what about a sink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkCounts {
    /// The last export succeeded.
    pub delivering: i64,
    /// The last export failed and is retried.
    pub failing: i64,
    /// Credentials are missing or wrong.
    pub parked: i64,
    /// Nothing was sent yet.
    pub unknown: i64,
}

//! Prometheus metrics. Labels come from closed sets only.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;
use testimony_core::evidence::witness::Refusal;

/// Result and reason of an admission.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct InjectionLabels {
    /// `injected`, `skipped`, `denied`, `not_selected`, `already` or `error`.
    pub result: &'static str,
    /// A [`crate::inject::Reason`], or empty.
    pub reason: &'static str,
}

/// A kind of the API.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabels {
    /// Such as `Pod`.
    pub kind: &'static str,
}

/// A result of a closed set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabels {
    /// Such as `ok`.
    pub result: &'static str,
}

/// A state of pods, streams or sinks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabels {
    /// Of pods `matched`, `injected`, `programmed`, `waiting` (injected and not started), `need_restart` or `skipped`; of
    /// streams `live` or `silent`; of sinks `sent`, `failing` or `unable`.
    pub state: &'static str,
}

/// A condition that changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TransitionLabels {
    /// `AuditPolicy`, `ClusterAuditPolicy` or `AuditSink`.
    pub kind: &'static str,
    /// Such as `Programmed`.
    pub condition: &'static str,
    /// `True`, `False` or `Unknown`: what it is now.
    pub status: &'static str,
}

impl TransitionLabels {
    /// Labels from a closed set, whatever the API server holds.
    pub fn of(kind: &str, condition: &str, status: &str) -> Self {
        let conditions =
            ["Accepted", "ResolvedRefs", "Programmed", "Ready", "Encrypted", "Reachable", "Delivering", "Delivered"];
        let known = |set: &[&'static str], text: &str| set.iter().find(|s| **s == text).copied().unwrap_or("other");
        let status = known(&["True", "False", "Unknown"], status);
        let kind = known(&["AuditPolicy", "ClusterAuditPolicy", "AuditSink"], kind);
        Self { kind, condition: known(&conditions, condition), status }
    }
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CertificateLabels {
    /// `authority` or `leaf`.
    pub certificate: &'static str,
}

/// All metrics of the operator; cloning shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Admissions by result.
    pub injections: Family<InjectionLabels, Counter>,
    /// Time from a decoded request to an encoded answer.
    pub admission_seconds: Histogram,
    /// Objects that were skipped because they are not of the shape this version knows.
    pub undecodable: Family<KindLabels, Counter>,
    /// Errors of watches; each is retried.
    pub watch_errors: Family<KindLabels, Counter>,
    /// Objects in the index.
    pub objects: Family<KindLabels, Gauge>,
    /// Polls by result.
    pub polls: Family<ResultLabels, Counter>,
    /// Polls that wait now.
    pub polls_open: Gauge,
    /// Writes of statuses and labels.
    pub writes: Family<ResultLabels, Counter>,
    /// Events by result.
    pub events: Family<ResultLabels, Counter>,
    /// Conditions whose status changed.
    pub transitions: Family<TransitionLabels, Counter>,
    /// Workloads that `rollout: Restart` looked at, by what became of it.
    pub rollouts: Family<ResultLabels, Counter>,
    /// Time to work out all statuses.
    pub status_seconds: Histogram,
    /// Distinct pods that a policy selects, by state.
    pub pods: Family<StateLabels, Gauge>,
    /// 1 on the leading replica.
    pub leader: Gauge,
    /// End of a certificate's validity, in seconds since the epoch.
    pub certificate_not_after: Family<CertificateLabels, Gauge>,
    /// Requests to certify a stream or cosign a head, by result.
    pub witness_requests: Family<ResultLabels, Counter>,
    /// Streams of the ledger that go on, by state: `live`, and of those `silent`, which have shown no head.
    pub streams: Family<StateLabels, Gauge>,
    /// Blocks of the ledger: `committed`, `error` (tried again), `others` (written by another keeper), `reload`.
    pub ledger_blocks: Family<ResultLabels, Counter>,
    /// Requests with a block to a sink: `success` or `error` (tried again).
    pub ledger_exports: Family<ResultLabels, Counter>,
    /// Blocks that were removed before a sink had them.
    pub ledger_skipped: Counter,
    /// Sinks that policies use: `sent` the ledger, `failing` (tried again), or `unable`: the operator cannot send it there.
    pub ledger_sinks: Family<StateLabels, Gauge>,
    /// Heads of the ledger shown to a witness outside: `cosigned` or `error` (tried again).
    pub ledger_outside: Family<ResultLabels, Counter>,
    /// When a witness outside last cosigned the ledger, in seconds since the epoch.
    pub ledger_outside_at: Gauge,
    /// Entries of the ledger.
    pub ledger_entries: Gauge,
    /// Facts that can stand in no entry of the ledger, and were left out.
    pub ledger_dropped: Counter,
    /// Bytes of the blocks in the cluster.
    pub ledger_bytes: Gauge,
    /// Time between two blocks, in seconds.
    pub ledger_interval: Gauge<f64, AtomicU64>,
    /// When the last block was committed, in seconds since the epoch.
    pub ledger_committed_at: Gauge,
}

impl Metrics {
    /// Metrics and the registry that shows them.
    pub fn new() -> (Self, Registry) {
        let metrics = Self {
            injections: Family::default(),
            admission_seconds: Histogram::new([0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0]),
            undecodable: Family::default(),
            watch_errors: Family::default(),
            objects: Family::default(),
            polls: Family::default(),
            polls_open: Gauge::default(),
            writes: Family::default(),
            events: Family::default(),
            transitions: Family::default(),
            rollouts: Family::default(),
            status_seconds: Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0]),
            pods: Family::default(),
            leader: Gauge::default(),
            certificate_not_after: Family::default(),
            witness_requests: Family::default(),
            streams: Family::default(),
            ledger_blocks: Family::default(),
            ledger_exports: Family::default(),
            ledger_skipped: Counter::default(),
            ledger_sinks: Family::default(),
            ledger_outside: Family::default(),
            ledger_outside_at: Gauge::default(),
            ledger_entries: Gauge::default(),
            ledger_dropped: Counter::default(),
            ledger_bytes: Gauge::default(),
            ledger_interval: Gauge::default(),
            ledger_committed_at: Gauge::default(),
        };
        let mut registry = Registry::with_prefix("testimony_operator");
        metrics.register(&mut registry);
        metrics.register_witness(&mut registry);
        (metrics, registry)
    }

    fn register(&self, registry: &mut Registry) {
        // From the start on, for who looks at its increase.
        drop(self.injections.get_or_create(&InjectionLabels { result: "error", reason: "" }));
        registry.register("injections", "Admissions of pods by result and reason", self.injections.clone());
        let admission = self.admission_seconds.clone();
        registry.register_with_unit("admission", "Time to answer an admission", Unit::Seconds, admission);
        registry.register("undecodable_objects", "Objects skipped because of their shape", self.undecodable.clone());
        registry.register("watch_errors", "Errors of watches; each is retried", self.watch_errors.clone());
        registry.register("objects", "Objects in the index", self.objects.clone());
        registry.register("polls", "Long polls of sidecars by result", self.polls.clone());
        registry.register("polls_open", "Long polls that wait now", self.polls_open.clone());
        registry.register("writes", "Writes of statuses and labels by result", self.writes.clone());
        registry.register(
            "events",
            "Events by result; left_out: told before, or too many at once",
            self.events.clone(),
        );
        registry.register("transitions", "Conditions whose status changed", self.transitions.clone());
        registry.register("rollouts", "Restarts of workloads by rollout: Restart, by result", self.rollouts.clone());
        let status = self.status_seconds.clone();
        registry.register_with_unit("status", "Time to work out all statuses", Unit::Seconds, status);
        registry.register("pods", "Pods that a policy selects, by state", self.pods.clone());
        registry.register("leader", "1 on the leading replica", self.leader.clone());
        let not_after = self.certificate_not_after.clone();
        registry.register("certificate_not_after", "End of validity, seconds since the epoch", not_after);
    }

    fn register_witness(&self, registry: &mut Registry) {
        // From the start on: an alert that looks for an increase would miss the first one of a series that appears with it.
        for refusal in Refusal::CONTRADICTIONS {
            drop(self.witness_requests.get_or_create(&ResultLabels { result: refusal.as_str() }));
        }
        let requests = self.witness_requests.clone();
        registry.register("witness_requests", "Requests to certify streams and cosign heads, by result", requests);
        registry.register("streams", "Streams of the ledger that go on, by state", self.streams.clone());
        registry.register("ledger_blocks", "Blocks of the ledger by result", self.ledger_blocks.clone());
        registry.register(
            "ledger_exports",
            "Blocks of the ledger sent to a sink, by result",
            self.ledger_exports.clone(),
        );
        let skipped = self.ledger_skipped.clone();
        registry.register("ledger_skipped", "Blocks of the ledger removed before a sink had them", skipped);
        let sinks = self.ledger_sinks.clone();
        registry.register("ledger_sinks", "Sinks by whether the ledger is sent to them", sinks);
        let outside = self.ledger_outside.clone();
        registry.register("ledger_outside", "Heads of the ledger shown to a witness outside, by result", outside);
        let at = self.ledger_outside_at.clone();
        registry.register("ledger_outside_at", "Time of its last cosignature, seconds since the epoch", at);
        registry.register("ledger_entries", "Entries of the ledger", self.ledger_entries.clone());
        let dropped = self.ledger_dropped.clone();
        registry.register(
            "ledger_dropped",
            "Facts that can stand in no entry of the ledger, and were left out",
            dropped,
        );
        let (bytes, interval) = (self.ledger_bytes.clone(), self.ledger_interval.clone());
        registry.register_with_unit("ledger", "Blocks of the ledger in the cluster", Unit::Bytes, bytes);
        registry.register_with_unit("ledger_interval", "Time between two blocks", Unit::Seconds, interval);
        let committed = self.ledger_committed_at.clone();
        registry.register("ledger_committed_at", "Time of the last block, seconds since the epoch", committed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w1_contradictions_and_errors_are_shown_before_the_first_one() {
        let (_, registry) = Metrics::new();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        for result in ["fork", "consistency", "signature"] {
            let line = format!("testimony_operator_witness_requests_total{{result=\"{result}\"}} 0\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(text.contains("testimony_operator_ledger_skipped_total 0\n"), "{text}");
        assert!(text.contains("testimony_operator_injections_total{result=\"error\",reason=\"\"} 0\n"), "{text}");
    }
}

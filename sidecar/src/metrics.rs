//! Every metric of the sidecar. Names and label values come from closed sets, but for a sink's name and a revision; the
//! data threads touch plain atomics only.

mod definitions;

pub use definitions::{DEFINITIONS, Definition, reference};

use crate::defect;
use crate::export::LossReason;
use crate::witness::Anchoring;
use definitions::*;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};
use testimony_core::policy::Direction;
use testimony_core::record::{GapReason, Typ};

/// Content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels<const N: usize> = [(&'static str, &'static str); N];
type SinkLabels = Vec<(&'static str, String)>;

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Status under 400.
    Success,
    /// Status 400 or more, or broken off.
    Failure,
    /// An opaque connection, or cut off before an answer.
    Unknown,
}

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TLS.
    Tls,
    /// Anything else.
    Opaque,
}

/// What became of an export request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportResult {
    /// All of it was taken.
    Success,
    /// Some records were refused.
    Partial,
    /// To be sent again.
    Retry,
    /// Waits for credentials or a right URL.
    Parked,
    /// Refused for good.
    Refused,
}

/// What became of what waited for a durable record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldResult {
    /// The record is durable, and it went on.
    Durable,
    /// There was none in time, and it went on all the same (`failureMode: Open`).
    Passed,
    /// There was none in time, and it was refused (`failureMode: Closed`).
    Refused,
}

/// What became of a request to the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollResult {
    /// Another document, now in force.
    Changed,
    /// Nothing new.
    Unchanged,
    /// The operator does not accept the token.
    Unauthorized,
    /// Another document that cannot be run.
    Refused,
    /// No usable answer.
    Failed,
}

/// What the witness said to a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WitnessAnswer {
    /// It cosigned it.
    Cosigned,
    /// It cannot answer now.
    Later,
    /// There was no answer.
    Failed,
    /// The stream has no certificate.
    Uncertified,
    /// Whoever answers does not let this pod ask.
    Denied,
    /// The stream's certificate has run out.
    Expired,
    /// It forgot a head that it had cosigned.
    WentBack,
    /// It knows a head that the stream never had.
    Ahead,
    /// It refuses the head.
    Refused,
}

/// The metrics of one process.
pub struct Metrics {
    registry: Registry,
    exchanges: [[Counter; 3]; 2],
    /// Records that were made.
    pub records: Counter,
    /// Those of exchanges that are still open.
    pub stages: Counter,
    not_recorded: Counter,
    gaps: [Counter; GapReason::ALL.len()],
    sealed: [Counter; Typ::ALL.len()],
    /// Signed heads that were sent.
    pub heads: Counter,
    connections: [[Counter; 4]; 2],
    /// Accepted connections that are open.
    pub connections_open: Gauge,
    held: [Counter; 3],
    refused: Family<Labels<1>, Counter>,
    /// [`SPOOL_MISSING`].
    pub spool_missing: Gauge,
    /// [`WORKER_RESTARTS`].
    pub worker_restarts: Counter,
    policy_revision: Family<SinkLabels, Gauge>,
    /// Documents that could not be run.
    pub policy_refused: Counter,
    policy_undecided: Family<Labels<1>, Counter>,
    policy_polls: Family<Labels<1>, Counter>,
    witness_answers: Family<Labels<1>, Counter>,
    witness_cosigned: Family<SinkLabels, Gauge>,
    witness_unanchored: Family<SinkLabels, Gauge>,
    /// How far the witness is with all streams.
    pub anchoring: Anchoring,
    export_records: Family<SinkLabels, Counter>,
    export_requests: Family<SinkLabels, Counter>,
    export_lost: Family<SinkLabels, Counter>,
    export_undelivered: Family<SinkLabels, Counter>,
    export_queue_bytes: Family<SinkLabels, Gauge>,
    export_oldest: Family<SinkLabels, Gauge>,
}

/// The metrics of one sink.
pub struct SinkMetrics {
    /// Records that it acknowledged.
    pub records: Counter,
    /// Records that waited in vain.
    pub undelivered: Counter,
    /// Bytes that wait.
    pub queue_bytes: Gauge,
    /// Age of the oldest record, in seconds.
    pub oldest_seconds: Gauge,
    lost: [Counter; LossReason::ALL.len()],
    requests: [Counter; 5],
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        // Of the process: a panic belongs to no part of it.
        registry.register(registered(PANICS), PANICS.help, defect::panics());
        let exchanges: Family<Labels<2>, Counter> = register(&mut registry, EXCHANGES);
        let connections: Family<Labels<2>, Counter> = register(&mut registry, CONNECTIONS);
        let not_recorded: Family<Labels<1>, Counter> = register(&mut registry, NOT_RECORDED);
        let gaps: Family<Labels<1>, Counter> = register(&mut registry, GAPS);
        let sealed: Family<Labels<1>, Counter> = register(&mut registry, SEALED);
        let held: Family<Labels<1>, Counter> = register(&mut registry, HELD);
        let both = ["inbound", "outbound"];
        Self {
            exchanges: both.map(|direction| {
                ["success", "failure", "unknown"]
                    .map(|outcome| exchanges.get_or_create_owned(&[("direction", direction), ("outcome", outcome)]))
            }),
            connections: both.map(|direction| {
                ["http1", "http2", "tls", "opaque"].map(|protocol| {
                    connections.get_or_create_owned(&[("direction", direction), ("protocol", protocol)])
                })
            }),
            not_recorded: not_recorded.get_or_create_owned(&[("reason", "level_none")]),
            gaps: GapReason::ALL.map(|reason| gaps.get_or_create_owned(&[("reason", reason.as_str())])),
            sealed: Typ::ALL.map(|typ| sealed.get_or_create_owned(&[("type", typ.as_str())])),
            heads: register(&mut registry, HEADS),
            records: register(&mut registry, RECORDS),
            stages: register(&mut registry, STAGES),
            connections_open: register(&mut registry, CONNECTIONS_OPEN),
            held: ["durable", "passed", "refused"].map(|result| held.get_or_create_owned(&[("result", result)])),
            refused: register(&mut registry, REFUSED),
            spool_missing: register(&mut registry, SPOOL_MISSING),
            worker_restarts: register(&mut registry, WORKER_RESTARTS),
            policy_revision: register(&mut registry, POLICY_REVISION),
            policy_refused: register(&mut registry, POLICY_REFUSED),
            policy_undecided: register(&mut registry, POLICY_UNDECIDED),
            policy_polls: register(&mut registry, POLICY_POLLS),
            witness_answers: register(&mut registry, WITNESS_ANSWERS),
            witness_cosigned: register(&mut registry, WITNESS_COSIGNED),
            witness_unanchored: register(&mut registry, WITNESS_UNANCHORED),
            anchoring: Anchoring::default(),
            export_records: register(&mut registry, EXPORT_RECORDS),
            export_requests: register(&mut registry, EXPORT_REQUESTS),
            export_lost: register(&mut registry, EXPORT_LOST),
            export_undelivered: register(&mut registry, EXPORT_UNDELIVERED),
            export_queue_bytes: register(&mut registry, EXPORT_QUEUE_BYTES),
            export_oldest: register(&mut registry, EXPORT_OLDEST),
            registry,
        }
    }
}

impl Metrics {
    /// An exchange ended.
    pub fn exchange(&self, direction: Direction, outcome: Outcome) {
        let [inbound, outbound] = &self.exchanges;
        let [success, failure, unknown] = by_direction(direction, inbound, outbound);
        match outcome {
            Outcome::Success => success.inc(),
            Outcome::Failure => failure.inc(),
            Outcome::Unknown => unknown.inc(),
        };
    }

    /// A connection was understood.
    pub fn connection(&self, direction: Direction, protocol: Protocol) {
        let [inbound, outbound] = &self.connections;
        let [http1, http2, tls, opaque] = by_direction(direction, inbound, outbound);
        match protocol {
            Protocol::Http1 => http1.inc(),
            Protocol::Http2 => http2.inc(),
            Protocol::Tls => tls.inc(),
            Protocol::Opaque => opaque.inc(),
        };
    }

    /// Policy wants no record of an exchange: the highest level of all policies is `None`.
    pub fn not_recorded(&self) {
        self.not_recorded.inc();
    }

    /// So many exchanges have no record: a gap tells.
    pub fn gap(&self, reason: GapReason, exchanges: u64) {
        let known = GapReason::ALL.iter().zip(&self.gaps).find(|(known, _)| **known == reason);
        if let Some((_, counter)) = known {
            counter.inc_by(exchanges);
        }
    }

    /// A record of this kind was sealed.
    pub fn sealed(&self, typ: Typ) {
        if let Some(counter) = self.sealed.get(usize::from(typ.code()).wrapping_sub(1)) {
            counter.inc();
        }
    }

    /// An expression of a policy was neither true nor false; `reason` is a word of a closed set.
    pub fn undecided(&self, reason: &'static str) {
        self.policy_undecided.get_or_create(&[("reason", reason)]).inc();
    }

    /// Something waited for a durable record.
    pub fn held(&self, result: HeldResult) {
        let [durable, passed, refused] = &self.held;
        match result {
            HeldResult::Durable => durable,
            HeldResult::Passed => passed,
            HeldResult::Refused => refused,
        }
        .inc();
    }

    /// Something was refused; `reason` is a word of a closed set.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// A request to the operator ended.
    pub fn poll(&self, result: PollResult) {
        let result = match result {
            PollResult::Changed => "changed",
            PollResult::Unchanged => "unchanged",
            PollResult::Unauthorized => "unauthorized",
            PollResult::Refused => "refused",
            PollResult::Failed => "failed",
        };
        self.policy_polls.get_or_create(&[("result", result)]).inc();
    }

    /// The witness answered to a head, or did not.
    pub fn witness(&self, answer: WitnessAnswer) {
        let answer = match answer {
            WitnessAnswer::Cosigned => "cosigned",
            WitnessAnswer::Later => "later",
            WitnessAnswer::Failed => "failed",
            WitnessAnswer::Uncertified => "uncertified",
            WitnessAnswer::Denied => "denied",
            WitnessAnswer::Expired => "expired",
            WitnessAnswer::WentBack => "went_back",
            WitnessAnswer::Ahead => "ahead",
            WitnessAnswer::Refused => "refused",
        };
        self.witness_answers.get_or_create(&[("answer", answer)]).inc();
    }

    /// The witness cosigned a head of this data thread's stream now.
    pub fn cosigned(&self, thread: u32, wall_ns: u64) {
        let seconds = i64::try_from(wall_ns / 1_000_000_000).unwrap_or(i64::MAX);
        self.witness_cosigned.get_or_create(&vec![("thread", thread.to_string())]).set(seconds);
    }

    /// So many of this data thread's streams have no cosigned head.
    pub fn unanchored(&self, thread: u32, streams: usize) {
        let streams = i64::try_from(streams).unwrap_or(i64::MAX);
        self.witness_unanchored.get_or_create(&vec![("thread", thread.to_string())]).set(streams);
    }

    /// Exchanges that have no record, whatever the reason.
    pub fn gap_exchanges(&self) -> u64 {
        self.gaps.iter().map(Counter::get).fold(0, u64::saturating_add)
    }

    /// Another policy is in force.
    pub fn policy_in_force(&self, revision: &str) {
        self.policy_revision.clear();
        self.policy_revision.get_or_create(&vec![("revision", revision.to_owned())]).set(1);
    }

    /// The metrics of one sink.
    pub fn sink(&self, name: &str) -> SinkMetrics {
        let sink = || ("sink", name.to_owned());
        let with = |key: &'static str, value: &str| vec![sink(), (key, value.to_owned())];
        SinkMetrics {
            records: self.export_records.get_or_create_owned(&vec![sink()]),
            undelivered: self.export_undelivered.get_or_create_owned(&vec![sink()]),
            queue_bytes: self.export_queue_bytes.get_or_create_owned(&vec![sink()]),
            oldest_seconds: self.export_oldest.get_or_create_owned(&vec![sink()]),
            lost: LossReason::ALL.map(|reason| self.export_lost.get_or_create_owned(&with("reason", reason.as_str()))),
            requests: ["success", "partial", "retry", "parked", "refused"]
                .map(|result| self.export_requests.get_or_create_owned(&with("result", result))),
        }
    }

    /// A sink is gone: its gauges go too, its counters stay.
    pub fn forget_sink(&self, name: &str) {
        let labels = vec![("sink", name.to_owned())];
        self.export_queue_bytes.remove(&labels);
        self.export_oldest.remove(&labels);
    }

    /// Everything, in the OpenMetrics text format ([`CONTENT_TYPE`]).
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing into a string cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

impl SinkMetrics {
    /// Records were lost.
    pub fn lost(&self, reason: LossReason, count: u64) {
        let known = LossReason::ALL.iter().zip(&self.lost).find(|(known, _)| **known == reason);
        if let Some((_, counter)) = known {
            counter.inc_by(count);
        }
    }

    /// A request ended.
    pub fn request(&self, result: ExportResult) {
        let [success, partial, retry, parked, refused] = &self.requests;
        match result {
            ExportResult::Success => success.inc(),
            ExportResult::Partial => partial.inc(),
            ExportResult::Retry => retry.inc(),
            ExportResult::Parked => parked.inc(),
            ExportResult::Refused => refused.inc(),
        };
    }
}

fn by_direction<T>(direction: Direction, inbound: T, outbound: T) -> T {
    match direction {
        Direction::Inbound => inbound,
        Direction::Outbound => outbound,
    }
}

fn register<M: Metric + Default + Clone>(registry: &mut Registry, definition: Definition) -> M {
    let metric = M::default();
    registry.register(registered(definition), definition.help, metric.clone());
    metric
}

/// The text format adds `_total` to counters.
fn registered(definition: Definition) -> &'static str {
    definition.name.strip_suffix("_total").unwrap_or(definition.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_is_scraped_with_its_type_and_help() {
        let metrics = Metrics::default();
        metrics.refused("chunk_size");
        metrics.undecided("no_header");
        metrics.witness(WitnessAnswer::Cosigned);
        metrics.cosigned(0, 1);
        metrics.unanchored(0, 1);
        metrics.poll(PollResult::Changed);
        metrics.policy_in_force("00ff");
        metrics.policy_in_force("11ee");
        metrics.sink("default").request(ExportResult::Partial);
        metrics.exchange(Direction::Outbound, Outcome::Failure);
        metrics.gap(GapReason::WorkerDied, 3);
        metrics.gap(GapReason::WorkerDied, 2);
        let text = metrics.text();
        for definition in DEFINITIONS {
            let family = definition.name.strip_suffix("_total").unwrap_or(definition.name);
            assert!(text.contains(&format!("# TYPE {family} {}\n", definition.kind)), "{family}\n{text}");
            assert!(text.contains(&format!("# HELP {family} {}.\n", definition.help)), "{family}\n{text}");
            let sample = text.lines().find(|line| line.starts_with(&format!("{}{{", definition.name)));
            for label in definition.labels {
                let sample = sample.unwrap_or_else(|| panic!("no sample of {}\n{text}", definition.name));
                assert!(sample.contains(&format!("{label}=\"")), "{sample}");
            }
            assert!(reference().contains(definition.name));
        }
        assert!(text.contains("testimony_exchanges_total{direction=\"outbound\",outcome=\"failure\"} 1\n"), "{text}");
        assert!(text.contains("testimony_policy_revision_info{revision=\"11ee\"} 1\n"), "{text}");
        assert!(!text.contains("00ff"), "{text}");
        // A series that is there from the start shows its first increase.
        for reason in GapReason::ALL {
            let count = if reason == GapReason::WorkerDied { 5 } else { 0 };
            let sample = format!("testimony_gap_exchanges_total{{reason=\"{}\"}} {count}\n", reason.as_str());
            assert!(text.contains(&sample), "{sample}{text}");
        }
        assert_eq!(text.lines().filter(|line| line.starts_with("# TYPE")).count(), DEFINITIONS.len());
    }
}

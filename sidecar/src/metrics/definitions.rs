//! The table of the metrics, as it is documented.

/// One metric as it is documented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Name as it is scraped.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts; ends without a full stop (the text format adds one).
    pub help: &'static str,
}

macro_rules! definitions {
    ($($id:ident: $kind:literal, $name:literal, $labels:expr, $help:literal;)*) => {
        $(pub(super) const $id: Definition = Definition { name: $name, kind: $kind, labels: &$labels, help: $help };)*
        /// Every metric, in the order of the reference page.
        pub const DEFINITIONS: &[Definition] = &[$($id),*];
    };
}

definitions! {
    EXCHANGES: "counter", "testimony_exchanges_total", ["direction", "outcome"], "Exchanges that ended, recorded or not";
    RECORDS: "counter", "testimony_records_total", [], "Records that were made";
    STAGES: "counter", "testimony_stage_records_total", [], "Records among them that show an exchange which is still open";
    NOT_RECORDED: "counter", "testimony_not_recorded_total", ["reason"], "Exchanges of which policy wants no record (reason level_none)";
    GAPS: "counter", "testimony_gap_exchanges_total", ["reason"], "Exchanges that have no record, by the reason that their audit.gap gives; worker_died: of an earlier process";
    SEALED: "counter", "testimony_sealed_records_total", ["type"], "Records that were sealed into a stream, those about the stream itself too";
    HEADS: "counter", "testimony_heads_total", [], "Signed heads of streams that were sent with the records";
    CONNECTIONS: "counter", "testimony_connections_total", ["direction", "protocol"], "Connections, by what they turned out to carry";
    CONNECTIONS_OPEN: "gauge", "testimony_connections_open", [], "Accepted connections that are open now";
    HELD: "counter", "testimony_held_total", ["result"], "Requests and answers that waited for a durable record (delivery.mode: Strict), by what became of them: durable, passed without one or refused";
    REFUSED: "counter", "testimony_refused_total", ["reason"], "Exchanges and connections that were refused";
    EXPORT_RECORDS: "counter", "testimony_export_records_total", ["sink"], "Records that a sink acknowledged";
    EXPORT_REQUESTS: "counter", "testimony_export_requests_total", ["sink", "result"], "Export requests, by what became of them: success, partial, retry, parked or refused";
    EXPORT_LOST: "counter", "testimony_export_lost_records_total", ["sink", "reason"], "Records that a sink will never have; each is declared in a gap or a hole, unless the log says that it cannot be";
    EXPORT_UNDELIVERED: "counter", "testimony_export_undelivered_records_total", ["sink"], "Records that still waited when the sidecar or the sink went";
    EXPORT_QUEUE_BYTES: "gauge", "testimony_export_queue_bytes", ["sink"], "Encoded bytes that wait for a sink";
    EXPORT_OLDEST: "gauge", "testimony_export_oldest_seconds", ["sink"], "Age of the oldest record that a sink has not acknowledged";
    SPOOL_MISSING: "gauge", "testimony_spool_missing", [], "1 while the worker runs without the spool that it should have: its records wait in memory, and are lost with it";
    WORKER_RESTARTS: "counter", "testimony_worker_restarts_total", [], "Workers that died; the supervisor started another one each time";
    PANICS: "counter", "testimony_panics_total", [], "Panics that the worker survived: each is a defect that ended one piece of work, such as one connection; its log says where";
    POLICY_REVISION: "gauge", "testimony_policy_revision_info", ["revision"], "The policy in force; always 1";
    POLICY_REFUSED: "counter", "testimony_policy_refused_total", [], "Policy documents that could not be run";
    POLICY_UNDECIDED: "counter", "testimony_policy_undecided_total", ["reason"], "Exchanges for which it could not be told whether a rule of a policy matches; the higher level counted";
    WITNESS_ANSWERS: "counter", "testimony_witness_answers_total", ["answer"], "Heads of streams shown to the witness, by what it said: cosigned, later, failed, uncertified, denied, expired, went_back, ahead or refused";
    WITNESS_COSIGNED: "gauge", "testimony_witness_cosigned_at_seconds", ["thread"], "When the witness last cosigned a head of a data thread's stream, in seconds since the epoch";
    WITNESS_UNANCHORED: "gauge", "testimony_witness_streams_unanchored", ["thread"], "Streams of a data thread of which the witness has cosigned no head yet";
    POLICY_POLLS: "counter", "testimony_policy_polls_total", ["result"], "Requests to the operator, by what became of them: changed, unchanged, unauthorized, refused or failed";
}

/// The reference page: a Markdown table of [`DEFINITIONS`].
pub fn reference() -> String {
    let mut page = String::from("| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n");
    for metric in DEFINITIONS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        page.push_str(&format!("| `{}` | {} | {} | {} |\n", metric.name, metric.kind, labels.join(", "), metric.help));
    }
    page
}

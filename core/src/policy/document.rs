//! The policy document: the JSON that the operator compiles for one workload and the sidecar runs.

use serde::{Deserialize, Serialize};

/// Version of the document's format. A sidecar refuses a document of another version and keeps its last good one.
pub const DOCUMENT_VERSION: u16 = 1;

/// Largest serialised document, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;

/// What one workload records, and where the records go.
///
/// The policies stay apart, each with its own rules, directions and ports: an exchange is judged by each of them and the
/// highest level wins. So adding a policy can never audit less (OP-3), directions add up and an excluded port is one
/// that every policy excludes, without any merging of rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyDocument {
    /// [`DOCUMENT_VERSION`].
    pub version: u16,
    /// Names this content: 16 lower-case hex digits, the start of the SHA-256 of the document without this field.
    pub revision: String,
    /// Every policy that selects the pod and is not suspended, in order of precedence (see `client_address`).
    pub policies: Vec<DocumentPolicy>,
    /// Scalars that cannot merge come from the first policy in order of precedence.
    pub client_address: ClientAddress,
    /// How traces and correlation ids are kept and made.
    pub correlation: Correlation,
    /// Union of all policies' redaction, on top of the built-in floor.
    pub redact: Redact,
    /// Union of all policies' sinks.
    pub sinks: Vec<DocumentSink>,
}

impl PolicyDocument {
    /// Whether there may be exchanges that are refused while no record can be made durable: some policy is `Strict`, and some
    /// is `Closed`.
    pub fn may_refuse(&self) -> bool {
        self.policies.iter().any(|policy| policy.delivery == DeliveryMode::Strict)
            && self.policies.iter().any(|policy| policy.failure_mode == FailureMode::Closed)
    }
}

/// One policy, as far as the sidecar needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DocumentPolicy {
    /// `namespace/name` of the AuditPolicy, or the name alone of a ClusterAuditPolicy.
    pub name: String,
    /// Directions that this policy records.
    pub directions: Vec<Direction>,
    /// Ports that this policy leaves alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_ports: Vec<ExcludePort>,
    /// First match wins; none that matches: [`Level::Metadata`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<DocumentRule>,
    /// When an answer may leave; of several policies that record an exchange the strictest counts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub delivery: DeliveryMode,
    /// What happens to an exchange that cannot be recorded; of several policies that record it, `Closed` counts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub failure_mode: FailureMode,
}

/// When the answer to a recorded request may leave (rules T1 to T5). The order is the order of strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeliveryMode {
    /// At once; its record is durable a moment later.
    #[default]
    Async,
    /// When its record, or a stage of it, is durable in the pod's spool.
    Strict,
}

/// What happens to an exchange while it cannot be recorded. The order is the order of strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FailureMode {
    /// It passes, and a gap counts it.
    #[default]
    Open,
    /// It is refused.
    Closed,
}

/// From whom the connection was opened, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Direction {
    /// To the pod.
    Inbound,
    /// From the pod.
    Outbound,
}

/// A port that a policy leaves alone, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExcludePort {
    /// The original destination's port.
    pub port: u16,
    /// In which direction.
    pub direction: Direction,
}

/// How much is recorded. The order is the order of the levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Nothing, but it is counted.
    None,
    /// Everything but bodies.
    Metadata,
}

/// One rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DocumentRule {
    /// Unique inside its policy.
    pub name: String,
    /// All that is given must match; an empty match matches everything.
    #[serde(default, rename = "match")]
    pub matches: RuleMatch,
    /// The level if it matches.
    pub level: Level,
}

/// What a rule matches. A field that is empty matches everything. `methods` and `path_prefixes` never match an exchange
/// that is not HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RuleMatch {
    /// HTTP methods, compared exactly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Prefixes of the path, compared by whole segments: `/api` matches `/api` and `/api/x`, not `/apiary`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path_prefixes: Vec<String>,
    /// Ports of the original destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// An expression that must be true, see [`super::Expression`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
}

/// Whether the application is told the client's address, which the proxy hides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientAddress {
    /// The application sees its own pod's address as peer, and nothing is added.
    #[default]
    None,
    /// `x-forwarded-for: <client>` is added to inbound requests that lack the field.
    XForwardedFor,
}

/// What happens to a trace context that a request brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceContext {
    /// A valid `traceparent` is kept untouched.
    #[default]
    Continue,
    /// For untrusted peers: inbound requests get a new trace, the client's value stands in a field of its own.
    Restart,
}

/// What happens to a request without a trace context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenAbsent {
    /// A `traceparent`, and a correlation id where a header for it is named, are made and forwarded.
    #[default]
    Make,
    /// The request goes on as it came; its record has no trace and no correlation id of its own.
    Leave,
}

/// How requests are tied together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Correlation {
    /// A trace context that comes with the request.
    pub trace_context: TraceContext,
    /// A request without one.
    pub when_absent: WhenAbsent,
    /// Share of the traces made here that carry the sampled flag, 0 to 100. Audit records are never sampled.
    pub sampled_percent: u8,
    /// Header of the correlation id, lower case; absent: none is kept or made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Link an outbound request without trace context to the only inbound exchange in flight.
    pub infer_from_single_in_flight: bool,
}

impl Default for Correlation {
    fn default() -> Self {
        Self {
            trace_context: TraceContext::Continue,
            when_absent: WhenAbsent::Make,
            sampled_percent: 100,
            header: Some("x-request-id".to_owned()),
            infer_from_single_in_flight: true,
        }
    }
}

/// What must never stand in a record, on top of the built-in floor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Redact {
    /// Header names, lower case: left out even where the allow-list has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Query parameters whose *names* are masked too (values are always masked).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<String>,
}

/// An OTLP endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DocumentSink {
    /// Name of the AuditSink.
    pub name: String,
    /// Base URL (`http` or `https`); over HTTP/protobuf `/v1/logs` is added unless it has a path, over gRPC it has none.
    pub endpoint: String,
    /// How records travel.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: SinkProtocol,
    /// How requests are compressed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compression: Compression,
    /// PEM bundle of the authorities that may sign the endpoint's certificate; absent: the web's public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// Name to verify instead of the URL's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Headers come from the files of [`crate::contract::path::SINKS_DIR`]`/<name>/`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub credentials: bool,
    /// Name of the Secret behind those files, for messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<String>,
    /// Name of the Secret with the client's certificate and key, which stand in
    /// [`crate::contract::path::SINK_CERTIFICATES_DIR`]`/<name>/`; absent: no client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_secret: Option<String>,
    /// Audience of the ServiceAccount token in [`crate::contract::path::SINK_TOKENS_DIR`]`/<name>/token`, sent as bearer;
    /// absent: no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_audience: Option<String>,
    /// Deadline of one export, in milliseconds.
    pub timeout_ms: u32,
    /// Most bytes of encoded records that wait for this sink in memory; more become a gap.
    pub queue_bytes_max: u32,
    /// Whether records wait for this sink for as long as the spool has room. What a sink that is not required takes too
    /// late becomes a hole of its own; it cannot stop the others (T5).
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub required: bool,
}

/// The protocol of a sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SinkProtocol {
    /// OTLP over HTTP/1.1, encoded as protobuf.
    #[default]
    HttpProtobuf,
    /// OTLP over gRPC, which is HTTP/2.
    Grpc,
}

/// How a sink's requests are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// RFC 1952; every OTLP receiver takes it.
    #[default]
    Gzip,
    /// RFC 8878.
    Zstd,
    /// Not at all.
    None,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn yes() -> bool {
    true
}

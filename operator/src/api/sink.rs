//! `AuditSink`: an OTLP endpoint.

// One printcolumn each, with the same keys.
#![allow(clippy::duplicated_attributes)]

use super::AuditSinkStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use testimony_core::policy;

/// Longest name of an AuditSink: it stands in the name of a pod's volume, `testimony-sink-<name>`.
pub const SINK_NAME_CHARS_MAX: usize = 48;

/// Longest name of a Secret or an audience, in characters.
const NAME_CHARS_MAX: u32 = 253;

/// What a Secret may be called.
const SECRET_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// An OTLP endpoint that receives records over HTTP/protobuf or gRPC.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "audit.testimony.dev",
    version = "v1alpha1",
    kind = "AuditSink",
    plural = "auditsinks",
    status = "AuditSinkStatus",
    shortname = "audsink",
    category = "audit",
    derive = "PartialEq",
    doc = "An OTLP endpoint that receives records over HTTP/protobuf or gRPC.",
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".spec.endpoint"),
    printcolumn(name = "Protocol", type_ = "string", json_path = ".spec.protocol", priority = 1),
    printcolumn(name = "Default", type_ = "boolean", json_path = ".spec.default"),
    printcolumn(name = "Reachable", type_ = "string", json_path = ".status.conditions[?(@.type=='Reachable')].status"),
    printcolumn(
        name = "Delivering",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Delivering')].status"
    ),
    printcolumn(name = "Delivered", type_ = "string", json_path = ".status.conditions[?(@.type=='Delivered')].status"),
    printcolumn(name = "Oldest", type_ = "date", json_path = ".status.oldestUndelivered"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Delivering')].message",
        priority = 1
    ),
    printcolumn(name = "Records", type_ = "integer", json_path = ".status.delivered", priority = 1),
    printcolumn(name = "Lost", type_ = "integer", json_path = ".status.lost", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!has(self.tls) || self.endpoint.startsWith('https://')",
        "message": "tls: only an https endpoint has TLS: change the endpoint's scheme to https or remove tls"
    },
    {
        "rule": "!has(self.protocol) || self.protocol != 'Grpc' || !isURL(self.endpoint) || url(self.endpoint).getEscapedPath() in ['', '/']",
        "message": "endpoint: gRPC has no use for a path: remove it, or use protocol: HttpProtobuf"
    },
    {
        "rule": "!has(self.serviceAccountToken) || self.endpoint.startsWith('https://') || (has(self.serviceAccountToken.allowHttp) && self.serviceAccountToken.allowHttp)",
        "message": "serviceAccountToken: over http anybody on the way can read and use the token: change the endpoint's scheme to https, or set serviceAccountToken.allowHttp: true"
    }
]))]
pub struct AuditSinkSpec {
    /// Base URL of the OTLP receiver, `http` or `https`. Over HTTP/protobuf `/v1/logs` is added unless it has a path; for
    /// gRPC it has none.
    #[schemars(
        length(min = 8, max = 512),
        extend("x-kubernetes-validations" = [
            {
                "rule": "isURL(self) && (self.startsWith('http://') || self.startsWith('https://'))",
                "message": "endpoint: give a URL that starts with http:// or https://, such as https://collector.example:4318"
            },
            {
                "rule": "!self.contains('@') && !self.contains('?') && !self.contains('#')",
                "message": "endpoint: user, query and fragment are not allowed; put credentials into the Secret of credentialsSecretName"
            }
        ])
    )]
    pub endpoint: String,
    /// How records travel: OTLP over HTTP/1.1 with protobuf bodies (usually port 4318), or over gRPC (usually port 4317).
    #[serde(default)]
    pub protocol: Protocol,
    /// How requests are compressed. Every OTLP receiver takes Gzip.
    #[serde(default)]
    pub compression: Compression,
    /// TLS of an https endpoint. Omitted: the public authorities are trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// A Secret in the namespace of each audited pod: each key is a header, sent with its value. It is mounted as
    /// optional; where it is missing, records wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = NAME_CHARS_MAX), regex(pattern = SECRET_NAME))]
    pub credentials_secret_name: Option<String>,
    /// Send each pod's own ServiceAccount token as `authorization: Bearer`, in place of an `authorization` of the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_token: Option<ServiceAccountToken>,
    /// Whether policies without `sinks` use this one. Of several, the oldest counts.
    #[serde(default)]
    pub default: bool,
    /// Whether records must wait for this sink. What a sink that is not required (false) has not taken when its share of the
    /// spool is used up becomes a hole of its own; it never stops the others, and never makes `failureMode: Closed` refuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// Deadline of one export, in seconds.
    #[serde(default = "timeout_seconds")]
    #[schemars(range(min = 1, max = 60))]
    pub timeout_seconds: u32,
    /// Records that wait in memory, where there is no spool.
    #[serde(default)]
    pub queue: Queue,
}

/// How records travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Protocol {
    /// OTLP over HTTP/1.1, encoded as protobuf.
    #[default]
    HttpProtobuf,
    /// OTLP over gRPC.
    Grpc,
}

/// How requests are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Compression {
    /// RFC 1952.
    #[default]
    Gzip,
    /// RFC 8878: smaller and cheaper, but not every receiver takes it.
    Zstd,
    /// Not at all.
    None,
}

impl From<Protocol> for policy::SinkProtocol {
    fn from(value: Protocol) -> Self {
        match value {
            Protocol::HttpProtobuf => Self::HttpProtobuf,
            Protocol::Grpc => Self::Grpc,
        }
    }
}

impl From<Compression> for policy::Compression {
    fn from(value: Compression) -> Self {
        match value {
            Compression::Gzip => Self::Gzip,
            Compression::Zstd => Self::Zstd,
            Compression::None => Self::None,
        }
    }
}

/// A token of the pod's ServiceAccount, made for one audience and bound to the pod; the kubelet renews it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountToken {
    /// For whom the token is: what the receiver checks. A token for the cluster's API server is refused, because the
    /// receiver could act as the pod with it.
    #[schemars(
        length(min = 1, max = NAME_CHARS_MAX),
        extend("x-kubernetes-validations" = [{
            "rule": "!self.contains('kubernetes.default') && self != 'testimony.dev/operator'",
            "message": "serviceAccountToken.audience: the receiver could use this token in the pod's name: give it an audience of its own, such as the endpoint's host name"
        }])
    )]
    pub audience: String,
    /// Send the token to an http endpoint too, where anybody on the way can read and use it.
    #[serde(default)]
    pub allow_http: bool,
}

fn timeout_seconds() -> u32 {
    10
}

/// TLS of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// PEM bundle of the authorities that may sign the endpoint's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 16384),
        extend("x-kubernetes-validations" = [{
            "rule": "self.contains('-----BEGIN CERTIFICATE-----')",
            "message": "tls.caBundle: give PEM text with at least one -----BEGIN CERTIFICATE----- block"
        }])
    )]
    pub ca_bundle: Option<String>,
    /// Name to verify instead of the URL's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$"))]
    pub server_name: Option<String>,
    /// A Secret of type kubernetes.io/tls in the namespace of each audited pod: certificate and key with which the sidecar
    /// shows itself to the endpoint. It is mounted as optional; where it is missing, records wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = NAME_CHARS_MAX), regex(pattern = SECRET_NAME))]
    pub client_certificate_secret_name: Option<String>,
}

/// Records that wait in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// Most bytes of encoded records that wait for this sink in each sidecar's memory; more become a declared gap. It counts
    /// only without a spool (the chart's `sidecar.spoolMebibytes: 0`).
    #[serde(default = "queue_bytes_max")]
    #[schemars(range(min = 65536, max = 268435456))]
    pub bytes_max: u32,
}

fn queue_bytes_max() -> u32 {
    8 * 1024 * 1024
}

impl Default for Queue {
    fn default() -> Self {
        Self { bytes_max: queue_bytes_max() }
    }
}

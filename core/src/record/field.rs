//! The table of a record's fields: key in the body, attribute in the OTLP projection, limit, and what it means. The
//! encoder, the projection and the reference page all come from this one table.

/// How far an attribute's name is settled outside Testimony.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stability {
    /// A stable OpenTelemetry semantic convention.
    Stable,
    /// A semantic convention still in development.
    Development,
    /// OpenTelemetry's draft of audit names.
    AuditDraft,
    /// Our own name.
    Own,
}

/// Where a field stands in the OTLP projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// An attribute with a string value.
    Text(&'static str, Stability),
    /// An attribute with an integer value.
    Int(&'static str, Stability),
    /// `address:port` of the other side: `client.*` of an inbound record, `server.*` of an outbound one. The port is an integer.
    PeerAddress(Stability),
    /// `address:port` of this side: `server.*` of an inbound record, `client.*` of an outbound one. The port is an integer.
    LocalAddress(Stability),
    /// A field of the LogRecord itself.
    Own(&'static str),
    /// An attribute with an integer value, one more than the field's: the audit draft counts from 1.
    Number(&'static str, Stability),
    /// Stands in the body only: nobody searches for it.
    Body,
}

macro_rules! fields {
    ($( $variant:ident $key:literal $max:literal $projection:expr, $doc:literal; )*) => {
        /// A field of a record. The order of the variants is the byte order of the keys, hence of the canonical form.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Field { $( #[doc = $doc] $variant, )* }

        impl Field {
            /// Every field, in byte order of the keys.
            pub const ALL: &'static [Field] = &[ $( Field::$variant, )* ];

            /// Number of fields.
            pub const COUNT: usize = Self::ALL.len();

            /// Key in the body.
            pub const fn key(self) -> &'static str {
                match self { $( Field::$variant => $key, )* }
            }

            /// What stands in a body between the value before and this field's: `","key":"`.
            pub(crate) const fn joint(self) -> &'static str {
                match self { $( Field::$variant => concat!("\",\"", $key, "\":\""), )* }
            }

            /// Most bytes of the raw value; what is longer is cut and named in `trunc`.
            pub const fn bytes_max(self) -> usize {
                match self { $( Field::$variant => $max, )* }
            }

            /// Where it stands in the OTLP projection.
            pub const fn projection(self) -> Projection {
                match self { $( Field::$variant => $projection, )* }
            }

            /// What it means.
            pub const fn doc(self) -> &'static str {
                match self { $( Field::$variant => $doc, )* }
            }
        }
    };
}

use Projection::{Body, Int, LocalAddress, Number, Own as LogField, PeerAddress, Text};
use Stability::{AuditDraft, Development, Own, Stable};

fields! {
    Action "action" 64 Text("audit.action", AuditDraft), "What was done: the HTTP method, or CONNECT for a connection.";
    Actor "actor" 512 Text("audit.actor.id", AuditDraft), "Who did it: token subject, user name, ServiceAccount or peer address.";
    ActorIssuer "actor_issuer" 512 Text("testimony.actor.issuer", Own), "Who named the actor: the token's issuer.";
    ActorType "actor_type" 16 Text("audit.actor.type", AuditDraft), "user, service, system or unknown.";
    After "after" 256 Body, "open: sid of the stream that this one goes on from.";
    AlpnOffered "alpn_offered" 256 Text("testimony.tls.alpn_offered", Own), "Protocols that a TLS client offered, comma-separated.";
    AlpnSelected "alpn_selected" 255 Text("tls.next_protocol", Development), "Protocol that a TLS server chose; up to TLS 1.2, later it is encrypted.";
    Assurance "assurance" 16 Text("testimony.assurance", Own), "How far the identity is proved: unverified, none, or invalid (several credentials that differ: the actor is that of the connection).";
    AuthMethod "auth_method" 16 Text("testimony.auth.method", Own), "Where the identity comes from: jwt, basic, bearer, pod, address. bearer, and basic without user or password, name nobody: the actor is that of the connection.";
    Authority "authority" 512 Text("testimony.authority", Own), "The request's Host field, or the authority of its target, without userinfo.";
    Begun "begun" 20 Int("testimony.totals.begun", Own), "checkpoint, close: exchanges that began in this stream, with those that it took over open.";
    Bursts "bursts" 20 Int("testimony.totals.bursts", Own), "checkpoint, close: exchanges that were folded into bursts.";
    By "by" 8192 Body, "gap: where the lost exchanges belong: rule/direction/status class=count, comma-separated.";
    Cause "cause" 32 Text("testimony.cause", Own), "Why it ended as it did: client_gone, upstream_failed, timeout, rejected, protocol_error, tls_failed, drained, upgraded, crash_unknown (the proxy died while it was open).";
    Cert "cert" 8192 Body, "certified: the certificate of the stream's first key, DER in base64.";
    ClientTraceparent "client_traceparent" 128 Text("testimony.client.traceparent", Own), "The client's traceparent where policy restarts traces.";
    CloseReason "close_reason" 16 Text("audit.sequence.end", AuditDraft), "close: rotated or terminated.";
    ConnId "conn_id" 16 Text("testimony.conn.id", Own), "The accepted connection: 16 hex digits.";
    ConnSeq "conn_seq" 20 Int("testimony.conn.seq", Own), "Number of the exchange on its connection, from 0.";
    CorrelationId "correlation_id" 128 Text("testimony.correlation.id", Own), "The correlation id that the request carried or was given.";
    CorrelationSrc "correlation_src" 16 Text("testimony.correlation.source", Own), "client, generated or inferred.";
    Cosig "cosig" 16384 Body, "head: the note with the witnesses' cosignatures, in base64.";
    Count "count" 20 Int("testimony.gap.count", Own), "gap: how many exchanges were lost. burst: how many were folded.";
    Dir "dir" 8 Text("testimony.direction", Own), "inbound (to the pod) or outbound (from it).";
    Dur "dur" 20 Int("testimony.duration_ns", Own), "Duration by the monotonic clock, in nanoseconds; of a stage: so far.";
    Exact "exact" 1 Text("testimony.gap.exact", Own), "gap: 1 when count is exact, 0 when it is a lower bound.";
    Exchanges "exchanges" 20 Int("testimony.totals.exchanges", Own), "checkpoint, close: exchanges with a record in this stream.";
    Found "found" 4096 Body, "open: sids of earlier streams that were found in the spool.";
    From "from" 20 Text("testimony.gap.from", Own), "gap: earliest possible time, in nanoseconds since the epoch.";
    Frontier "frontier" 4160 Body, "head: compact form of the tree without its last leaf, hashes from left to right.";
    GapReason "gap_reason" 32 Text("testimony.gap.reason", Own), "gap: queue_full, worker_died, record_too_long, closed, spool_full, disk_failed or defect.";
    Gaps "gaps" 20 Int("testimony.totals.gaps", Own), "checkpoint, close: exchanges counted in gaps.";
    GrpcStatus "grpc_status" 3 Int("rpc.grpc.status_code", Development), "Status of a gRPC call, from its trailers; absent when none came.";
    H2Error "h2_error" 24 Text("testimony.http2.error", Own), "Error code of the RST_STREAM that ended the exchange: cancel, refused_stream, ...";
    HeadSize "head_size" 20 Int("testimony.recovered.head_size", Own), "recovered: size of its last signed head.";
    HoleFrom "hole_from" 20 Int("testimony.hole.from", Own), "hole: seq of the first record that is not there.";
    HoleReason "hole_reason" 32 Text("testimony.hole.reason", Own), "hole: rejected, queue_full, export_failed, spool_damaged or spool_full.";
    HoleSid "hole_sid" 256 Text("testimony.hole.stream_id", Own), "hole: the stream whose records are not there.";
    HoleTo "hole_to" 20 Int("testimony.hole.to", Own), "hole: seq after the last record that is not there.";
    Id "id" 36 Text("audit.record.id", AuditDraft), "UUIDv7 of the record, the same over retries.";
    Image "image" 512 Text("testimony.stream.image", Own), "open: image of the sidecar.";
    InferredFrom "inferred_from" 512 Text("testimony.inferred.from", Own), "xid of the inbound exchange that this outbound one is linked to, or of the candidates.";
    Key "key" 64 Body, "open: the stream's first public key (Ed25519), in hex.";
    Local "local" 64 LocalAddress(Stable), "Inbound: the address that the client connected to. Outbound: the application's own address.";
    LostSid "lost_sid" 256 Text("testimony.gap.stream_id", Own), "gap: the stream that was lost in a crash.";
    Method "method" 64 Text("http.request.method", Stable), "HTTP method, as sent.";
    NextKey "next_key" 64 Body, "checkpoint: public key of the next epoch, in hex; the head over this record is the last under the old key.";
    Node "node" 253 Text("testimony.stream.node", Own), "open: the node.";
    Nodes "nodes" 8192 Body, "hole: compact form of what is not there, hashes from left to right.";
    NoneCount "none" 20 Int("testimony.totals.none", Own), "checkpoint, close: exchanges of which policy wants no record.";
    NoneBy "none_by" 8192 Body, "checkpoint, close: these by policy revision and rule: revision/rule=count, comma-separated.";
    Note "note" 4096 Body, "head: the signed note, in base64.";
    OpenCount "open" 20 Int("testimony.totals.open", Own), "checkpoint, close: exchanges that have not ended.";
    Outcome "outcome" 8 Text("audit.outcome", AuditDraft), "success (status below 400 and, of gRPC, status 0; or a connection that ended in order), failure or unknown.";
    Path "path" 4096 Text("url.path", Stable), "Path of the request target, as sent, secrets masked.";
    Peer "peer" 64 PeerAddress(Stable), "Inbound: the client's address. Outbound: the destination.";
    PeerNamespace "peer_namespace" 63 Text("testimony.peer.k8s.namespace.name", Own), "Namespace of the other side, where it is a pod or Service of the cluster.";
    PeerPod "peer_pod" 253 Text("testimony.peer.k8s.pod.name", Own), "The other side's pod.";
    PeerPodUid "peer_pod_uid" 64 Text("testimony.peer.k8s.pod.uid", Own), "Uid of the other side's pod.";
    PeerService "peer_service" 253 Text("testimony.peer.k8s.service.name", Own), "The Service that an outbound connection was made to.";
    PeerServiceAccount "peer_service_account" 253 Text("testimony.peer.k8s.service_account.name", Own), "ServiceAccount of the other side's pod.";
    PeerSrc "peer_src" 16 Text("testimony.peer.source", Own), "Where the names of the other side come from: operator (its watch, by the address), or unknown (nobody of the cluster, or not yet known).";
    PeerWorkload "peer_workload" 320 Text("testimony.peer.k8s.workload.name", Own), "Kind/name of the workload that owns the other side's pod.";
    Peers "peers" 1024 Body, "gap: the peers with most lost exchanges: address=count, comma-separated.";
    Pod "pod" 253 Text("testimony.stream.pod", Own), "open: the pod.";
    Policy "policy" 317 Text("testimony.policy.name", Own), "namespace/name of the policy that asked for this record.";
    PolicyRevision "policy_revision" 64 Text("testimony.policy.revision", Own), "Revision of the policy document in force.";
    Prev "prev" 64 Text("testimony.prev", Own), "Leaf hash of the record before it in the stream, in hex; absent at seq 0.";
    Proto "proto" 16 Text("testimony.protocol", Own), "http/1.0, http/1.1, http/2, tls or tcp.";
    Query "query" 4096 Text("url.query", Stable), "Query of the request target: names kept, values masked.";
    RecSid "rec_sid" 256 Text("testimony.recovered.stream_id", Own), "recovered: the earlier stream.";
    Redacted "redacted" 1024 Text("testimony.redacted", Own), "Which fields something was masked in or left out of; never the values.";
    Refusal "refusal" 32 Text("testimony.refusal", Own), "Why the proxy refused a message or a connection.";
    ReqBytes "req_bytes" 20 Int("http.request.body.size", Development), "Bytes of the request body, or from the client on a connection.";
    ReqMsgs "req_msgs" 20 Int("testimony.rpc.request_messages", Own), "Whole messages that the client of a gRPC call sent.";
    ResBytes "res_bytes" 20 Int("http.response.body.size", Development), "Bytes of the response body, or from the server on a connection.";
    ResMsgs "res_msgs" 20 Int("testimony.rpc.response_messages", Own), "Whole messages that the server of a gRPC call sent.";
    Root "root" 64 Text("testimony.recovered.root", Own), "recovered: root of its tree, in hex.";
    RpcMethod "rpc_method" 256 Text("rpc.method", Development), "Method of a gRPC call.";
    RpcService "rpc_service" 512 Text("rpc.service", Development), "Full name of a gRPC call's service.";
    RpcSystem "rpc_system" 8 Text("rpc.system", Development), "grpc.";
    Rule "rule" 63 Text("testimony.rule", Own), "Name of the rule that matched; default when none did.";
    Sa "sa" 253 Text("testimony.stream.service_account", Own), "open: the pod's ServiceAccount.";
    Scheme "scheme" 8 Text("url.scheme", Stable), "http; of HTTP/2 what the client sent.";
    Scope "scope" 80 Text("testimony.hole.scope", Own), "hole: all, or sink=NAME: the one sink that never gets these records.";
    Seq "seq" 20 Number("audit.sequence.number", AuditDraft), "Place in the stream, from 0; in OTLP from 1.";
    Sid "sid" 256 Text("audit.sequence.stream_id", AuditDraft), "The stream: CLUSTER/NAMESPACE/POD/BOOT-THREAD-ROTATION.";
    Size "size" 20 Int("testimony.size", Own), "checkpoint, close: its own seq. recovered: size of the earlier stream.";
    Sni "sni" 255 Text("tls.client.server_name", Development), "Server name that a TLS client asked for.";
    SpanId "span_id" 16 LogField("span_id"), "Span id (W3C): the one that the request carried or was given.";
    Stage "stage" 8 Text("testimony.stage", Own), "stage: opened, progress, or answered (delivery.mode: Strict, before the answer leaves).";
    State "state" 8 Text("testimony.recovered.state", Own), "recovered: closed or lost.";
    Status "status" 3 Int("http.response.status_code", Stable), "Status of the final response; the proxy's own where it refused.";
    StepDir "step_dir" 8 Text("testimony.clock.direction", Own), "clock: back or forward.";
    StepNs "step_ns" 20 Int("testimony.clock.step_ns", Own), "clock: how far the wall clock stepped, in nanoseconds.";
    T0 "t0" 20 LogField("time_unix_nano"), "Start, in nanoseconds since the epoch. The LogRecord has t1 instead where that is over an hour later.";
    T1 "t1" 20 Text("testimony.end_unix_nano", Own), "End, in nanoseconds since the epoch; of a stage: when it was looked at.";
    Target "target" 1024 Text("audit.target.id", AuditDraft), "What it was done to: authority of an HTTP request, server name or address of a connection.";
    TlsAlert "tls_alert" 64 Text("testimony.tls.alert", Own), "Alert that ended a TLS handshake: client or server, a colon, and its name, its number, or encrypted.";
    TlsHandshake "tls_handshake" 10 Text("testimony.tls.handshake", Own), "completed, failed (an alert ended it) or incomplete (not seen to complete).";
    TlsVersion "tls_version" 3 Text("tls.protocol.version", Development), "Version of TLS that the server chose: 1.3, 1.2, ...";
    TraceId "trace_id" 32 LogField("trace_id"), "Trace id (W3C).";
    TraceTrust "trace_trust" 16 Text("testimony.trace.trust", Own), "client (kept), made, inferred, ambiguous, restarted, invalid or none.";
    Trunc "trunc" 512 Text("testimony.truncated", Own), "Fields that were cut, each with its true length.";
    TunnelReqBytes "tunnel_req_bytes" 20 Int("testimony.tunnel.request_bytes", Own), "Bytes from the client after an upgrade or CONNECT.";
    TunnelResBytes "tunnel_res_bytes" 20 Int("testimony.tunnel.response_bytes", Own), "Bytes from the server after an upgrade or CONNECT.";
    Typ "typ" 12 Text("testimony.record.type", Own), "exchange, stage (of an exchange that is still open), burst, gap, hole, open, certified, recovered, policy, clock, checkpoint, close or head.";
    UpstreamLocal "upstream_local" 64 Text("testimony.upstream_local", Own), "Address of our socket to the destination: the other side's peer.";
    UserAgent "user_agent" 512 Text("user_agent.original", Stable), "The User-Agent field.";
    V "v" 4 Text("audit.schema.version", AuditDraft), "Version of the record format: 1.";
    Xid "xid" 40 Text("testimony.xid", Own), "The exchange: conn_id, a hyphen, conn_seq.";
}

impl Field {
    /// Position in [`Field::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its bit in a set of fields.
    pub(super) const fn bit(self) -> u128 {
        const { assert!(Field::COUNT <= u128::BITS as usize) };
        1 << self.index()
    }

    /// The fields of a set, in byte order of their keys.
    pub(super) fn of_bits(mut bits: u128) -> impl Iterator<Item = Field> {
        std::iter::from_fn(move || {
            let field = Self::ALL.get(bits.trailing_zeros() as usize)?;
            bits &= bits.wrapping_sub(1);
            Some(*field)
        })
    }
}

/// The reference page of the fields, in Markdown.
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# Fields of a record\n\nGenerated from the field table; do not edit. Every value in the body is a string. Request headers \
         stand in `hq00`, `hq01`, ... and response headers in `hs00`, `hs01`, ..., each as `name:value` in wire order.\n\n\
         | key | OTLP | stability | bytes at most | meaning |\n|---|---|---|---|---|\n",
    );
    for field in Field::ALL {
        let (place, stability) = match field.projection() {
            Text(name, s) => (format!("`{name}`"), Some(s)),
            Int(name, s) => (format!("`{name}` (integer)"), Some(s)),
            Number(name, s) => (format!("`{name}` (integer, from 1)"), Some(s)),
            PeerAddress(s) => ("`client.address`, `client.port`; outbound `server.*`".to_owned(), Some(s)),
            LocalAddress(s) => ("`server.address`, `server.port`; outbound `client.*`".to_owned(), Some(s)),
            LogField(name) => (format!("LogRecord `{name}`"), None),
            Body => ("body only".to_owned(), None),
        };
        let stability = match stability {
            Some(Stable) => "stable",
            Some(Development) => "development",
            Some(AuditDraft) => "audit draft",
            Some(Own) => "Testimony",
            None => "",
        };
        page.push_str(&format!(
            "| `{}` | {place} | {stability} | {} | {} |\n",
            field.key(),
            field.bytes_max(),
            field.doc()
        ));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r2_fields_stand_in_byte_order_of_their_keys_and_attributes_do_not_clash() {
        assert!(Field::ALL.windows(2).all(|pair| pair[0].key() < pair[1].key()), "keys out of order");
        let mut names: Vec<&str> = Vec::new();
        for field in Field::ALL {
            match field.projection() {
                Text(name, _) | Int(name, _) | Number(name, _) => names.push(name),
                PeerAddress(_) => names.extend(["client.address", "client.port"]),
                LocalAddress(_) => names.extend(["server.address", "server.port"]),
                LogField(_) | Body => {}
            }
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "an attribute name is used twice");
        // A name that is a dotted prefix of another one cannot stand beside it in backends that nest.
        for a in &names {
            assert!(!names.iter().any(|b| b.starts_with(&format!("{a}."))), "{a} is a prefix of another attribute");
        }
    }

    #[test]
    fn r4_required_fields_fit_into_24_kib() {
        let required = [
            Field::V,
            Field::Id,
            Field::Sid,
            Field::Seq,
            Field::Prev,
            Field::Typ,
            Field::T0,
            Field::Xid,
            Field::Dir,
            Field::Peer,
            Field::Local,
            Field::Proto,
            Field::Action,
            Field::Target,
            Field::Outcome,
            Field::Actor,
            Field::ActorType,
            Field::Assurance,
            Field::PolicyRevision,
            Field::Rule,
        ];
        assert!(required.iter().map(|f| 3 * f.bytes_max() + f.key().len() + 6).sum::<usize>() <= 24 * 1024);
    }
}

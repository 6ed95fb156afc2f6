//! What a request's head says, and what is added to it.

use super::exchange::Request;
use super::tracing::{Brought, Trace};
use super::{ConnFacts, set_actor};
use crate::http1::HeadEdit;
use crate::identity::{self, ActorType, AuthMethod, Credential};
use crate::policy::{Compiled, Facts};
use crate::record::{Field, Record, Side, hex};
use crate::trace::TraceParent;
use httparse::Header;

/// Takes what capture adds to a request's head.
pub(super) trait Added {
    /// Adds a field.
    fn add_field(&mut self, name: &str, value: &str);
    /// Leaves every occurrence of a field away.
    fn remove_field(&mut self, name: &str);
    /// Keeps a client's field from being nominated as hop-by-hop.
    fn protect(&mut self, name: &str);
}

impl Added for HeadEdit {
    fn add_field(&mut self, name: &str, value: &str) {
        Self::add_field(self, name, value);
    }

    fn remove_field(&mut self, name: &str) {
        Self::remove_field(self, name);
    }

    fn protect(&mut self, name: &str) {
        Self::protect(self, name);
    }
}

/// What capture needs of a request head, gathered in one pass over its fields.
pub(super) struct Scan<'a> {
    target_authority: Option<&'a str>,
    host: &'a [u8],
    pub traceparent: Brought,
    pub correlation: Option<&'a [u8]>,
    authorization: Option<&'a [u8]>,
    /// Several credentials that differ: which one the application takes is not known.
    contradicted: bool,
    pub user_agent: Option<&'a [u8]>,
    pub forwarded_for: bool,
}

impl<'a> Scan<'a> {
    pub fn of(request: &Request<'a>, correlation_header: Option<&str>) -> Self {
        let mut scan = Self {
            target_authority: request.target.authority,
            host: b"",
            traceparent: Brought::Nothing,
            correlation: None,
            authorization: None,
            contradicted: false,
            user_agent: None,
            forwarded_for: false,
        };
        for field in request.fields {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            if is("host") {
                scan.host = field.value;
            } else if is("traceparent") {
                let parsed = TraceParent::parse(field.value.trim_ascii()).map_or(Brought::Invalid, Brought::Valid);
                scan.traceparent = if scan.traceparent == Brought::Nothing { parsed } else { Brought::Invalid };
            } else if is("authorization") {
                scan.contradicted |= scan.authorization.is_some_and(|other| other != field.value);
                scan.authorization = Some(field.value);
            } else if is("user-agent") {
                scan.user_agent = Some(field.value);
            } else if is("x-forwarded-for") {
                scan.forwarded_for = true;
            }
            if correlation_header.is_some_and(is) && scan.correlation.is_none() && !field.value.is_empty() {
                scan.correlation = Some(field.value);
            }
        }
        scan
    }

    /// Authority of the target, else the Host field.
    fn authority(&self) -> &'a [u8] {
        self.target_authority.map_or(self.host, str::as_bytes)
    }

    /// `None` also where several differ.
    fn credential(&self) -> Option<Credential> {
        self.authorization.filter(|_| !self.contradicted).and_then(identity::credential)
    }

    /// Whether it is one of the kubelet's probes, over HTTP or gRPC, as far as can be told: anybody can write its User-Agent.
    pub fn is_probe(&self, conn: &ConnFacts, request: &Request<'_>) -> bool {
        let asks = matches!(request.method, "GET" | "HEAD") || request.target.path == "/grpc.health.v1.Health/Check";
        let names_somebody = || matches!(self.credential(), Some(Credential::Jwt { .. } | Credential::Basic(Some(_))));
        conn.from_node
            && asks
            && self.user_agent.is_some_and(|agent| agent.starts_with(b"kube-probe/"))
            && !self.contradicted
            && !names_somebody()
    }

    /// What the judge looks at.
    pub fn facts(&self, conn: &ConnFacts, request: &Request<'a>) -> Facts<'a> {
        Facts {
            peer: Some(conn.peer.ip()),
            method: Some(request.method),
            path: Some(request.target.path),
            query: request.target.query,
            authority: std::str::from_utf8(self.authority()).ok(),
            headers: Some(request.fields),
            ..Facts::connection(conn.direction, conn.port())
        }
    }
}

/// Adds or takes away what the decision about the trace says.
pub(super) fn edit_trace(edit: &mut impl Added, context: &Trace) {
    if context.remove {
        edit.remove_field("traceparent");
        edit.remove_field("tracestate");
    }
    match context.context {
        Some(parent) if context.add => {
            edit.add_field("traceparent", &parent.to_header());
        }
        _ => edit.protect("traceparent"),
    }
}

/// What was asked for.
pub(super) fn fill_request(
    record: &mut Record,
    request: &Request<'_>,
    scan: &Scan<'_>,
    conn: &ConnFacts,
    policy: &Compiled,
) {
    let method = request.method.as_bytes();
    record.set(Field::Method, method);
    record.set(Field::Action, method);
    if !request.scheme.is_empty() {
        record.set(Field::Scheme, request.scheme.as_bytes());
    }
    record.set(Field::Proto, request.proto.as_bytes());
    let authority = without_long_userinfo(scan.authority());
    if authority.is_empty() {
        record.set(Field::Target, conn.destination().to_string().as_bytes());
    } else {
        record.set(Field::Authority, authority);
        record.set(Field::Target, authority);
    }
    record.set(Field::Path, request.target.path.as_bytes());
    if let Some(query) = request.target.query {
        record.set(Field::Query, query.as_bytes());
    }
    if let Some(agent) = scan.user_agent {
        record.set(Field::UserAgent, agent);
    }
    for field in request.fields.iter().filter(|field| policy.redactor().keeps_header(field.name)) {
        record.push_header(Side::Request, field.name, field.value);
    }
}

/// Redaction knows a password by the `@` behind it, which a field's limit must not cut off: then only what comes from there
/// on is kept.
fn without_long_userinfo(authority: &[u8]) -> &[u8] {
    if authority.len() <= Field::Authority.bytes_max() {
        return authority;
    }
    let at = authority.iter().rposition(|byte| *byte == b'@');
    at.and_then(|at| authority.get(at..)).unwrap_or(authority)
}

/// Who did it. A request that names nobody is the connection's, or the kubelet's.
pub(super) fn fill_actor(record: &mut Record, scan: &Scan<'_>, conn: &ConnFacts, probe: bool) {
    let method = match scan.credential() {
        Some(Credential::Jwt { subject, issuer, kind }) => {
            set_actor(record, &subject, kind.as_str(), AuthMethod::Jwt.as_str(), "unverified");
            if let Some(issuer) = issuer {
                record.set(Field::ActorIssuer, issuer.as_bytes());
            }
            return;
        }
        Some(Credential::Basic(Some(user))) => {
            set_actor(record, &user, ActorType::User.as_str(), AuthMethod::Basic.as_str(), "unverified");
            return;
        }
        Some(Credential::Basic(None)) => Some(AuthMethod::Basic),
        Some(Credential::OpaqueBearer) => Some(AuthMethod::Bearer),
        None => None,
    };
    if probe {
        set_actor(record, "kubelet", ActorType::System.as_str(), AuthMethod::Address.as_str(), "unverified");
    } else {
        conn.set_connection_actor(record);
    }
    if let Some(method) = method {
        record.set(Field::AuthMethod, method.as_str().as_bytes());
    }
    if scan.contradicted {
        record.set(Field::Assurance, b"invalid");
    }
}

/// Which trace it belongs to.
pub(super) fn fill_trace(record: &mut Record, context: &Trace, fields: &[Header<'_>]) {
    record.set(Field::TraceTrust, context.trust.as_bytes());
    if let Some(parent) = context.context {
        record.set(Field::TraceId, &hex::<16, 32>(parent.trace_id.to_be_bytes()));
        record.set(Field::SpanId, &hex::<8, 16>(parent.span_id.to_be_bytes()));
    }
    if !context.inferred_from.is_empty() {
        record.set(Field::InferredFrom, context.inferred_from.as_bytes());
    }
    if context.remove
        && let Some(field) = fields.iter().find(|field| field.name.eq_ignore_ascii_case("traceparent"))
    {
        record.set(Field::ClientTraceparent, field.value);
    }
}

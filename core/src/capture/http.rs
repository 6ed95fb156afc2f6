//! Capture of HTTP/1 exchanges: the observer of [`crate::http1::Session`].

use super::in_flight::{Candidate, Ticket};
use super::stage::{Kind, NEVER_NS, Stages, show};
use super::target::Target;
use super::tracing::{Brought, Trace, trace};
use super::{ConnFacts, Outcome, Shell, set_actor};
use crate::http1::{ConnSeq, End, HeadEdit, Observer, RequestHead, ResponseHead};
use crate::identity::{self, ActorType, AuthMethod, Credential};
use crate::policy::{ClientAddress, Compiled, Correlation, Direction, Facts, Level, WhenAbsent};
use crate::record::{EventName, Field, Record, Side, Stamp, uuid_v7};
use crate::redact::redact;
use crate::trace::TraceParent;
use std::collections::VecDeque;
use std::sync::Arc;

/// Longest correlation id that is taken from a client, in bytes.
const CORRELATION_ID_BYTES_MAX: usize = 128;

/// A correlation id and where it comes from.
type CorrelationId = (Vec<u8>, &'static str);

/// Captures every exchange of one connection. When it is dropped, whatever is still open is recorded as drained: no way out
/// of the connection's task loses a record (EV-1).
pub struct HttpCapture<S: Shell> {
    shell: S,
    conn: ConnFacts,
    open: VecDeque<Exchange>,
    /// No stage of an open exchange is due before; it may be earlier than any is.
    due_ns: u64,
}

/// One exchange between its request head and its end.
struct Exchange {
    seq: ConnSeq,
    start: Stamp,
    policy: Arc<Compiled>,
    /// `None`: no policy looks at it, or its level is None.
    record: Option<Record>,
    /// A policy looks at it: it is counted.
    judged: bool,
    ticket: Option<Ticket>,
    status: u16,
    req_bytes: u64,
    res_bytes: u64,
    tunnel: Option<(u64, u64)>,
    /// Its answer opened a tunnel, or is an event stream.
    stream: bool,
    stages: Stages,
}

/// What capture needs of a request head, gathered in one pass over its fields.
struct Scan<'a> {
    target: Target<'a>,
    host: &'a [u8],
    traceparent: Brought,
    correlation: Option<&'a [u8]>,
    authorization: Option<&'a [u8]>,
    user_agent: Option<&'a [u8]>,
    forwarded_for: bool,
}

impl<'a> Scan<'a> {
    fn of(head: &RequestHead<'a>, correlation_header: Option<&str>) -> Self {
        let mut scan = Self {
            target: Target::parse(head.method, head.target),
            host: b"",
            traceparent: Brought::Nothing,
            correlation: None,
            authorization: None,
            user_agent: None,
            forwarded_for: false,
        };
        for field in head.fields {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            if is("host") {
                scan.host = field.value;
            } else if is("traceparent") {
                let parsed = TraceParent::parse(field.value.trim_ascii()).map_or(Brought::Invalid, Brought::Valid);
                scan.traceparent = if scan.traceparent == Brought::Nothing { parsed } else { Brought::Invalid };
            } else if is("authorization") {
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
        self.target.authority.map_or(self.host, str::as_bytes)
    }

    /// What the judge looks at.
    fn facts(&self, conn: &ConnFacts, head: &'a RequestHead<'a>) -> Facts<'a> {
        Facts {
            peer: Some(conn.peer.ip()),
            method: Some(head.method),
            path: Some(self.target.path),
            query: self.target.query,
            authority: std::str::from_utf8(self.authority()).ok(),
            headers: Some(&head.fields),
            ..Facts::connection(conn.direction, conn.port())
        }
    }
}

impl ConnFacts {
    /// What the judge looks at when a request begins on this connection.
    pub fn facts<'a>(&self, head: &'a RequestHead<'a>) -> Facts<'a> {
        Scan::of(head, None).facts(self, head)
    }
}

impl<S: Shell> HttpCapture<S> {
    /// Captures the exchanges of one connection.
    pub fn new(shell: S, conn: ConnFacts) -> Self {
        Self { shell, conn, open: VecDeque::new(), due_ns: NEVER_NS }
    }

    /// The connection's facts, to add what becomes known later.
    pub fn conn_mut(&mut self) -> &mut ConnFacts {
        &mut self.conn
    }

    /// When to call [`HttpCapture::tick`], on the monotonic clock; a call before that does nothing.
    pub fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Shows the exchanges that have been open for long.
    pub fn tick(&mut self, now: Stamp) {
        if now.mono_ns < self.due_ns {
            return;
        }
        for exchange in &mut self.open {
            let Some(stage) = exchange.stages.take(now) else { continue };
            let Some(mut record) = exchange.record.clone() else { continue };
            exchange.fill_so_far(&mut record);
            show(&mut self.shell, &self.conn, &exchange.policy, exchange.start, Kind::Stream, stage, record);
        }
        self.due_ns = self.open.iter().map(|exchange| exchange.stages.due_ns()).min().unwrap_or(NEVER_NS);
    }

    fn exchange(&mut self, seq: ConnSeq) -> Option<&mut Exchange> {
        self.open.iter_mut().find(|exchange| exchange.seq == seq)
    }

    /// The request's correlation id; adds one where policy makes what is absent.
    fn correlate(
        &mut self,
        scan: &Scan<'_>,
        rules: &Correlation,
        inferred: bool,
        edit: &mut HeadEdit,
    ) -> Option<CorrelationId> {
        let header = rules.header.as_deref()?;
        if let Some(id) = scan.correlation {
            edit.protect(header);
            return Some((id.get(..CORRELATION_ID_BYTES_MAX).unwrap_or(id).to_vec(), "client"));
        }
        let make = rules.when_absent == WhenAbsent::Make;
        let known = self.shell.in_flight(|table| table.single().and_then(|only| only.correlation_id.clone()));
        let (id, source) = match known.filter(|_| inferred) {
            Some(id) => (id, "inferred"),
            None if make => {
                let now = self.shell.now();
                (uuid_v7(now.wall_ns, self.shell.random()).to_vec(), "generated")
            }
            None => return None,
        };
        if make && let Ok(text) = std::str::from_utf8(&id) {
            edit.add_field(header, text);
        }
        Some((id, source))
    }

    fn begin(&mut self, seq: ConnSeq, head: &RequestHead<'_>, edit: &mut HeadEdit) {
        let start = self.shell.now();
        let policy = self.shell.policy();
        let rules = &policy.document().correlation;
        let scan = Scan::of(head, rules.header.as_deref());
        let verdict = policy.judge(&scan.facts(&self.conn, head));
        if let Some(reason) = verdict.and_then(|verdict| verdict.undecided) {
            self.shell.count_undecided(reason.as_str());
        }
        let judged = verdict.is_some();
        let mut exchange = Exchange::new(seq, start, policy.clone(), judged);
        let Some(verdict) = verdict else {
            self.open.push_back(exchange);
            return;
        };
        let probe = self.conn.from_node && scan.user_agent.is_some_and(|agent| agent.starts_with(b"kube-probe/"));
        let random = [self.shell.random(), self.shell.random()];
        let direction = self.conn.direction;
        let context = self.shell.in_flight(|table| trace(scan.traceparent, direction, rules, table, random));
        edit_trace(edit, &context);
        let correlation = self.correlate(&scan, rules, context.trust == "inferred", edit);
        if policy.document().client_address == ClientAddress::XForwardedFor
            && direction == Direction::Inbound
            && !scan.forwarded_for
        {
            edit.add_field("x-forwarded-for", &self.conn.peer.ip().to_canonical().to_string());
        }
        if direction == Direction::Inbound && !probe {
            let candidate = Candidate {
                xid: self.conn.xid(seq),
                trace: context.context,
                correlation_id: correlation.as_ref().map(|(id, _)| id.clone()),
            };
            exchange.ticket = Some(self.shell.in_flight(|table| table.begin(candidate)));
        }
        if verdict.level > Level::None {
            let mut record = self.conn.record(EventName::HttpRequest, seq, start);
            record.set(Field::Policy, verdict.policy.as_bytes());
            record.set(Field::Rule, verdict.rule.as_bytes());
            fill_request(&mut record, head, &scan, &self.conn, &policy);
            fill_actor(&mut record, &scan, &self.conn, probe);
            fill_trace(&mut record, &context, head);
            if let Some((id, source)) = &correlation {
                record.set(Field::CorrelationId, id);
                record.set(Field::CorrelationSrc, source.as_bytes());
            }
            exchange.record = Some(record);
            exchange.stages = Stages::of_exchange(start);
            self.due_ns = self.due_ns.min(exchange.stages.due_ns());
        }
        self.open.push_back(exchange);
    }

    fn finish(&mut self, mut exchange: Exchange, end: End) {
        if let Some(ticket) = exchange.ticket.take() {
            self.shell.in_flight(|table| table.end(ticket));
        }
        if let End::RequestRefused(reason) | End::ResponseRefused(reason) = end {
            self.shell.count_refused(reason.as_str());
        }
        let (outcome, cause) = judge_end(end, exchange.status);
        if exchange.judged {
            self.shell.count(self.conn.direction, outcome, exchange.record.is_some());
        }
        let Some(mut record) = exchange.record.take() else { return };
        record.set(Field::Outcome, outcome.as_str().as_bytes());
        if let Some(cause) = cause {
            record.set(Field::Cause, cause.as_bytes());
        }
        if let End::RequestRefused(reason) | End::ResponseRefused(reason) = end {
            record.set(Field::Refusal, reason.as_str().as_bytes());
        }
        if exchange.stream {
            record.set_event(EventName::StreamClose);
        }
        exchange.fill_so_far(&mut record);
        record.set(Field::PolicyRevision, exchange.policy.document().revision.as_bytes());
        let now = self.shell.now();
        let random = self.shell.random();
        self.conn.close(&mut record, exchange.start, now, random);
        self.shell.emit(redact(record, exchange.policy.redactor()));
    }
}

impl Exchange {
    fn new(seq: ConnSeq, start: Stamp, policy: Arc<Compiled>, judged: bool) -> Self {
        Self {
            seq,
            start,
            policy,
            record: None,
            judged,
            ticket: None,
            status: 0,
            req_bytes: 0,
            res_bytes: 0,
            tunnel: None,
            stream: false,
            stages: Stages::never(),
        }
    }

    /// Status and sizes as they are now.
    fn fill_so_far(&self, record: &mut Record) {
        if self.status != 0 {
            record.set_int(Field::Status, u64::from(self.status));
        }
        record.set_int(Field::ReqBytes, self.req_bytes);
        record.set_int(Field::ResBytes, self.res_bytes);
        if let Some((from_client, from_upstream)) = self.tunnel {
            record.set_int(Field::TunnelReqBytes, from_client);
            record.set_int(Field::TunnelResBytes, from_upstream);
        }
    }
}

/// Whether what follows this final response head is open for as long as both sides like: a tunnel, or server-sent events.
fn begins_stream(record: &Record, head: &ResponseHead<'_>) -> bool {
    let success = (200..300).contains(&head.status);
    let connect = || record.get(Field::Method) == Some(b"CONNECT");
    let events = || {
        let is_type = |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case("content-type");
        let value = head.fields.iter().find(is_type).map_or(&b""[..], |field| field.value.trim_ascii());
        let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
        essence.trim_ascii_end().eq_ignore_ascii_case(b"text/event-stream")
    };
    head.status == 101 || (success && (connect() || events()))
}

fn edit_trace(edit: &mut HeadEdit, context: &Trace) {
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

fn fill_request(record: &mut Record, head: &RequestHead<'_>, scan: &Scan<'_>, conn: &ConnFacts, policy: &Compiled) {
    let method = head.method.as_bytes();
    record.set(Field::Method, method);
    record.set(Field::Action, method);
    record.set(Field::Scheme, b"http");
    record.set(Field::Proto, if head.minor_version == 0 { b"http/1.0" } else { b"http/1.1" });
    let authority = scan.authority();
    if authority.is_empty() {
        record.set(Field::Target, conn.destination().to_string().as_bytes());
    } else {
        record.set(Field::Authority, authority);
        record.set(Field::Target, authority);
    }
    record.set(Field::Path, scan.target.path.as_bytes());
    if let Some(query) = scan.target.query {
        record.set(Field::Query, query.as_bytes());
    }
    if let Some(agent) = scan.user_agent {
        record.set(Field::UserAgent, agent);
    }
    for field in head.fields.iter().filter(|field| policy.redactor().keeps_header(field.name)) {
        record.push_header(Side::Request, field.name, field.value);
    }
}

fn fill_actor(record: &mut Record, scan: &Scan<'_>, conn: &ConnFacts, probe: bool) {
    if probe {
        set_actor(record, "kubelet", ActorType::System.as_str(), AuthMethod::Address.as_str(), "unverified");
        return;
    }
    match scan.authorization.and_then(identity::credential) {
        Some(Credential::Jwt { subject, issuer, kind }) => {
            set_actor(record, &subject, kind.as_str(), AuthMethod::Jwt.as_str(), "unverified");
            if let Some(issuer) = issuer {
                record.set(Field::ActorIssuer, issuer.as_bytes());
            }
        }
        Some(Credential::Basic(user)) => {
            set_actor(record, &user, ActorType::User.as_str(), AuthMethod::Basic.as_str(), "unverified");
        }
        Some(Credential::OpaqueBearer) => {
            conn.set_connection_actor(record);
            record.set(Field::AuthMethod, AuthMethod::Bearer.as_str().as_bytes());
        }
        None => conn.set_connection_actor(record),
    }
}

fn fill_trace(record: &mut Record, context: &Trace, head: &RequestHead<'_>) {
    record.set(Field::TraceTrust, context.trust.as_bytes());
    if let Some(parent) = context.context {
        record.set(Field::TraceId, format!("{:032x}", parent.trace_id).as_bytes());
        record.set(Field::SpanId, format!("{:016x}", parent.span_id).as_bytes());
    }
    if !context.inferred_from.is_empty() {
        record.set(Field::InferredFrom, context.inferred_from.as_bytes());
    }
    if context.remove
        && let Some(field) = head.fields.iter().find(|field| field.name.eq_ignore_ascii_case("traceparent"))
    {
        record.set(Field::ClientTraceparent, field.value);
    }
}

/// Outcome and cause of an exchange that ended so, with this final status (0: none came).
fn judge_end(end: End, status: u16) -> (Outcome, Option<&'static str>) {
    match end {
        End::Complete if status < 400 => (Outcome::Success, None),
        End::Complete => (Outcome::Failure, None),
        End::TunnelClosed => (Outcome::Success, Some("upgraded")),
        End::ClientGone => (Outcome::Failure, Some("client_gone")),
        End::UpstreamGone => (Outcome::Failure, Some("upstream_failed")),
        End::RequestRefused(_) => (Outcome::Failure, Some("rejected")),
        End::ResponseRefused(_) => (Outcome::Failure, Some("protocol_error")),
        End::TimedOut => (Outcome::Failure, Some("timeout")),
        End::Drained => (Outcome::Unknown, Some("drained")),
    }
}

impl<S: Shell> Observer for HttpCapture<S> {
    fn request_head(&mut self, seq: ConnSeq, head: &RequestHead<'_>, edit: &mut HeadEdit) {
        self.begin(seq, head, edit);
    }

    fn request_unparsed(&mut self, seq: ConnSeq, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let mut words = line.trim_end().splitn(3, ' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let head = RequestHead { method, target, minor_version: 1, fields: &[], head_bytes: 0 };
        // Nothing of this request goes on, so nothing is added to it.
        self.begin(seq, &head, &mut HeadEdit::default());
    }

    fn request_body(&mut self, seq: ConnSeq, payload_bytes: u64) {
        if let Some(exchange) = self.exchange(seq) {
            exchange.req_bytes = exchange.req_bytes.saturating_add(payload_bytes);
        }
    }

    fn request_end(&mut self, _seq: ConnSeq) {}

    fn response_head(&mut self, seq: ConnSeq, head: &ResponseHead<'_>) {
        let Some(exchange) = self.exchange(seq) else { return };
        let interim = (100..200).contains(&head.status) && head.status != 101;
        if interim {
            return;
        }
        exchange.status = head.status;
        let policy = exchange.policy.clone();
        let mut due_ns = NEVER_NS;
        if let Some(record) = &mut exchange.record {
            if begins_stream(record, head) {
                exchange.stream = true;
                exchange.stages.hasten();
                due_ns = exchange.stages.due_ns();
            }
            for field in head.fields.iter().filter(|field| policy.redactor().keeps_header(field.name)) {
                record.push_header(Side::Response, field.name, field.value);
            }
        }
        self.due_ns = self.due_ns.min(due_ns);
    }

    fn answered(&mut self, seq: ConnSeq, status: u16) {
        if let Some(exchange) = self.exchange(seq) {
            exchange.status = status;
        }
    }

    fn response_body(&mut self, seq: ConnSeq, payload_bytes: u64) {
        if let Some(exchange) = self.exchange(seq) {
            exchange.res_bytes = exchange.res_bytes.saturating_add(payload_bytes);
        }
    }

    fn tunnel(&mut self, seq: ConnSeq, from_client_bytes: u64, from_upstream_bytes: u64) {
        if let Some(exchange) = self.exchange(seq) {
            let (up, down) = exchange.tunnel.unwrap_or_default();
            exchange.tunnel = Some((up.saturating_add(from_client_bytes), down.saturating_add(from_upstream_bytes)));
        }
    }

    fn exchange_end(&mut self, seq: ConnSeq, end: End) {
        if let Some(at) = self.open.iter().position(|exchange| exchange.seq == seq)
            && let Some(exchange) = self.open.remove(at)
        {
            self.finish(exchange, end);
        }
    }
}

impl<S: Shell> Drop for HttpCapture<S> {
    fn drop(&mut self) {
        while let Some(exchange) = self.open.pop_front() {
            self.finish(exchange, End::Drained);
        }
    }
}

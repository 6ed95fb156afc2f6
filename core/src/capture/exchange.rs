//! One exchange of HTTP, of whatever version, from its request head to its record.
//!
//! The fronts ([`super::HttpCapture`] for HTTP/1, [`super::StreamCapture`] for HTTP/2) translate what their protocol shows;
//! trace context, correlation, identity, the judge, the in-flight table, redaction and the record are here, once.

use super::in_flight::{Candidate, InFlight, Ticket};
use super::request::{Added, Scan, edit_trace, fill_actor, fill_request, fill_trace};
use super::stage::{Kind, Stages, show};
use super::target::Target;
use super::tracing::trace;
use super::{Begun, ConnFacts, Hold, Outcome, Receipt, Shell, Stage, Unrecorded};
use crate::policy::{ClientAddress, Compiled, Correlation, DeliveryMode, Direction, FailureMode, Level, WhenAbsent};
use crate::record::{EventName, Field, Record, Side, Stamp, uuid_v7};
use crate::redact::redact;
use httparse::Header;
use std::sync::Arc;

/// Longest correlation id that is taken from a client, in bytes.
const CORRELATION_ID_BYTES_MAX: usize = 128;

/// A correlation id and where it comes from.
type CorrelationId = (Vec<u8>, &'static str);

/// A request head, whatever version of HTTP it came by.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    /// Kind of the record.
    pub event: EventName,
    /// `http/1.0`, `http/1.1` or `http/2`.
    pub proto: &'static str,
    /// As sent.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The target in parts; without an authority the Host field counts.
    pub target: Target<'a>,
    /// Fields in wire order, repeats kept.
    pub fields: &'a [Header<'a>],
}

/// How an exchange ended, in the words of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub outcome: Outcome,
    pub cause: Option<&'static str>,
    pub refusal: Option<&'static str>,
}

impl Verdict {
    pub const fn new(outcome: Outcome, cause: Option<&'static str>) -> Self {
        Self { outcome, cause, refusal: None }
    }
}

/// One exchange between its request head and its end.
pub(super) struct Exchange {
    seq: u64,
    start: Stamp,
    policy: Arc<Compiled>,
    /// `None`: no policy looks at it, or its level is None.
    record: Option<Record>,
    /// A policy looks at it: it is counted.
    judged: bool,
    /// The rule that wants no record of it.
    none_by: Option<Box<str>>,
    ticket: Option<Ticket>,
    /// Status of the final response; 0 until it came.
    pub status: u16,
    /// Payload bytes of the request body.
    pub req_bytes: u64,
    /// Payload bytes of the response body.
    pub res_bytes: u64,
    /// Bytes each way after an upgrade or CONNECT.
    pub tunnel: Option<(u64, u64)>,
    /// Its answer opened a tunnel, or is an event stream.
    stream: bool,
    stages: Stages,
    /// Its answer waits for a durable record (T1).
    strict: bool,
    /// It is refused if it cannot be recorded.
    closed: bool,
    /// It cannot be recorded, and is refused.
    refused: bool,
    /// Its answer may go, or is none that is held.
    answer_shown: bool,
    begun: Option<Begun>,
}

impl Exchange {
    /// Begins with the request's head; what `added` collects goes upstream with it.
    pub fn begin<S: Shell>(
        shell: &mut S,
        conn: &ConnFacts,
        seq: u64,
        request: &Request<'_>,
        added: &mut impl Added,
    ) -> Self {
        let start = shell.now();
        let policy = shell.policy();
        let rules = &policy.document().correlation;
        let scan = Scan::of(request, rules.header.as_deref());
        let verdict = policy.judge(&scan.facts(conn, request));
        if let Some(reason) = verdict.and_then(|verdict| verdict.undecided) {
            shell.count_undecided(reason.as_str());
        }
        let mut exchange = Self::new(seq, start, policy.clone(), verdict.is_some());
        let Some(verdict) = verdict else { return exchange };
        shell.begin();
        let probe = scan.is_probe(conn, request);
        let random = [shell.random(), shell.random()];
        let context = shell.in_flight(|table| trace(scan.traceparent, conn.direction, rules, table, random));
        edit_trace(added, &context);
        let correlation = correlate(shell, &scan, rules, start, context.trust == "inferred", added);
        if policy.document().client_address == ClientAddress::XForwardedFor
            && conn.direction == Direction::Inbound
            && !scan.forwarded_for
        {
            added.add_field("x-forwarded-for", &conn.peer.ip().to_canonical().to_string());
        }
        if conn.direction == Direction::Inbound && !probe {
            let candidate = Candidate {
                xid: conn.xid(seq).as_str().to_owned(),
                trace: context.context,
                correlation_id: correlation.as_ref().map(|(id, _)| id.clone()),
            };
            exchange.ticket = Some(shell.in_flight(|table| table.begin(candidate)));
        }
        if verdict.level > Level::None {
            let mut record = conn.record(request.event, seq, start);
            record.set(Field::Policy, verdict.policy.as_bytes());
            record.set(Field::Rule, verdict.rule.as_bytes());
            fill_request(&mut record, request, &scan, conn, &policy);
            fill_actor(&mut record, &scan, conn, probe);
            fill_trace(&mut record, &context, request.fields);
            if let Some((id, source)) = &correlation {
                record.set(Field::CorrelationId, id);
                record.set(Field::CorrelationSrc, source.as_bytes());
            }
            exchange.record = Some(record);
            exchange.stages = Stages::of_exchange(start);
            exchange.strict = verdict.delivery == DeliveryMode::Strict;
            exchange.closed = verdict.failure == FailureMode::Closed;
            exchange.refused = exchange.closed && !shell.can_record();
        } else {
            exchange.none_by = Some(verdict.rule.into());
        }
        exchange
    }

    /// Nothing of it may go upstream: it cannot be recorded, and policy wants it refused then.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// Tells of its beginning, if its request waits for that (T2): what must be durable.
    pub fn tell_begin<S: Shell>(&mut self, shell: &mut S, conn: &ConnFacts) -> Option<Receipt> {
        if !self.strict || !self.closed || self.refused {
            return None;
        }
        let mut record = self.record.clone()?;
        record.set(Field::Outcome, Outcome::Unknown.as_str().as_bytes());
        record.set(Field::Cause, b"crash_unknown");
        record.set(Field::PolicyRevision, self.policy.document().revision.as_bytes());
        let (now, random) = (shell.now(), shell.random());
        conn.close(&mut record, self.start, now, random);
        let begun = shell.emit_begin(redact(record, self.policy.redactor()));
        self.begun = Some(begun);
        Some(begun.receipt)
    }

    /// Whether its answer, which is about to leave, waits for a durable record.
    pub fn is_held(&self) -> bool {
        self.strict && !self.answer_shown
    }

    /// Its answer does not wait any more.
    pub fn release(&mut self) {
        self.answer_shown = true;
    }

    /// What its answer waits for, at this place of the output.
    pub fn hold(&self, from: usize, until: Receipt) -> Hold {
        Hold { from, seq: self.seq, until, closed: self.closed }
    }

    /// Shows it as answered (T1); `fill` adds what its front knows so far.
    pub fn show_answered<S: Shell>(
        &mut self,
        shell: &mut S,
        conn: &ConnFacts,
        fill: impl FnOnce(&mut Record),
    ) -> Receipt {
        self.answer_shown = true;
        let Some(mut record) = self.record.clone() else { return Receipt::Counted };
        self.stages.shown(shell.now());
        self.fill_so_far(&mut record);
        fill(&mut record);
        show(shell, conn, &self.policy, self.start, Kind::Stream, Stage::Answered, record)
    }

    fn new(seq: u64, start: Stamp, policy: Arc<Compiled>, judged: bool) -> Self {
        Self {
            seq,
            start,
            policy,
            record: None,
            judged,
            none_by: None,
            ticket: None,
            status: 0,
            req_bytes: 0,
            res_bytes: 0,
            tunnel: None,
            stream: false,
            stages: Stages::never(),
            strict: false,
            closed: false,
            refused: false,
            answer_shown: false,
            begun: None,
        }
    }

    /// Number of the exchange on its connection.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The record that is being made, if policy wants one.
    pub fn record_mut(&mut self) -> Option<&mut Record> {
        self.record.as_mut()
    }

    /// The exchange is open: the head of its final response was seen.
    pub fn opened(&mut self, status: u16, fields: &[Header<'_>]) {
        self.status = status;
        if let Some(record) = &mut self.record {
            if begins_stream(record, status, fields) {
                self.stream = true;
                self.stages.hasten();
            }
            for field in fields.iter().filter(|field| self.policy.redactor().keeps_header(field.name)) {
                record.push_header(Side::Response, field.name, field.value);
            }
        }
    }

    /// Payload went by.
    pub fn moved(&mut self, request_bytes: u64, response_bytes: u64) {
        self.req_bytes = self.req_bytes.saturating_add(request_bytes);
        self.res_bytes = self.res_bytes.saturating_add(response_bytes);
    }

    /// Bytes in a tunnel went by.
    pub fn tunnelled(&mut self, from_client_bytes: u64, from_upstream_bytes: u64) {
        let (up, down) = self.tunnel.unwrap_or_default();
        self.tunnel = Some((up.saturating_add(from_client_bytes), down.saturating_add(from_upstream_bytes)));
    }

    /// When to call [`Exchange::tick`], on the monotonic clock; a call before that does nothing.
    pub fn due_ns(&self) -> u64 {
        self.stages.due_ns()
    }

    /// Shows it if it has been open for long; `fill` adds what its front knows so far.
    pub fn tick<S: Shell>(&mut self, shell: &mut S, conn: &ConnFacts, now: Stamp, fill: impl FnOnce(&mut Record)) {
        let Some(stage) = self.stages.take(now) else { return };
        let Some(mut record) = self.record.clone() else { return };
        self.fill_so_far(&mut record);
        fill(&mut record);
        show(shell, conn, &self.policy, self.start, Kind::Stream, stage, record);
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

    /// Ends it: counted, and recorded if policy wants that.
    pub fn finish<S: Shell>(mut self, shell: &mut S, conn: &ConnFacts, end: Verdict) -> Receipt {
        if let Some(ticket) = self.ticket.take() {
            shell.in_flight(|table| table.end(ticket));
        }
        if let Some(reason) = end.refusal {
            shell.count_refused(reason);
        }
        if self.judged {
            let revision = &self.policy.document().revision;
            let none = self.none_by.as_deref().map(|rule| Unrecorded { revision, rule });
            shell.count(conn.direction, end.outcome, none);
        }
        let Some(mut record) = self.record.take() else { return Receipt::Counted };
        record.set(Field::Outcome, end.outcome.as_str().as_bytes());
        if let Some(cause) = end.cause {
            record.set(Field::Cause, cause.as_bytes());
        }
        if let Some(reason) = end.refusal {
            record.set(Field::Refusal, reason.as_bytes());
        }
        if self.stream {
            record.set_event(EventName::StreamClose);
        }
        self.fill_so_far(&mut record);
        record.set(Field::PolicyRevision, self.policy.document().revision.as_bytes());
        let now = shell.now();
        let random = shell.random();
        conn.close(&mut record, self.start, now, random);
        if !self.strict && !self.closed {
            shell.emit_late(record, self.policy);
            return Receipt::Counted;
        }
        let record = redact(record, self.policy.redactor());
        match self.begun {
            Some(begun) => shell.emit_end(record, begun),
            None => shell.emit(record),
        }
    }
}

/// Whether what follows this final response head is open for as long as both sides like: a tunnel, or server-sent events.
fn begins_stream(record: &Record, status: u16, fields: &[Header<'_>]) -> bool {
    let success = (200..300).contains(&status);
    let connect = || record.get(Field::Method) == Some(b"CONNECT");
    let events = || {
        let is_type = |field: &&Header<'_>| field.name.eq_ignore_ascii_case("content-type");
        let value = fields.iter().find(is_type).map_or(&b""[..], |field| field.value.trim_ascii());
        let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
        essence.trim_ascii_end().eq_ignore_ascii_case(b"text/event-stream")
    };
    status == 101 || (success && (connect() || events()))
}

/// The request's correlation id; adds one where policy makes what is absent.
fn correlate<S: Shell>(
    shell: &mut S,
    scan: &Scan<'_>,
    rules: &Correlation,
    start: Stamp,
    inferred: bool,
    added: &mut impl Added,
) -> Option<CorrelationId> {
    let header = rules.header.as_deref()?;
    if let Some(id) = scan.correlation {
        added.protect(header);
        return Some((id.get(..CORRELATION_ID_BYTES_MAX).unwrap_or(id).to_vec(), "client"));
    }
    let make = rules.when_absent == WhenAbsent::Make;
    let single = |table: &mut InFlight| table.single().and_then(|only| only.correlation_id.clone());
    let (id, source) = match inferred.then(|| shell.in_flight(single)).flatten() {
        Some(id) => (id, "inferred"),
        None if make => (uuid_v7(start.wall_ns, shell.random()).to_vec(), "generated"),
        None => return None,
    };
    if make && let Ok(text) = std::str::from_utf8(&id) {
        added.add_field(header, text);
    }
    Some((id, source))
}

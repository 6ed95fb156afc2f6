//! Capture of a connection that is neither HTTP/1 nor carried an exchange of HTTP/2: one record at its end, and stages while it is open.

use super::stage::{Kind, Stages, show};
use super::{ConnFacts, Hold, Outcome, Receipt, Shell, Stage, Unrecorded};
use crate::policy::{Compiled, DeliveryMode, Facts, FailureMode, Level, Verdict};
use crate::record::{EventName, Field, Record, Stamp};
use crate::redact::redact;
use crate::tls::{Handshake, HandshakeStatus};
use std::net::SocketAddr;
use std::sync::Arc;

/// How an opaque connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpaqueEnd {
    /// Both sides closed it.
    Closed,
    /// The client reset it or went away.
    ClientGone,
    /// The upstream reset it, went away, or could not be reached.
    UpstreamFailed,
    /// It led back to ourselves and was closed.
    Loop,
    /// We closed it: what the client sent breaks this rule.
    Refused(&'static str),
    /// The server sent what breaks this rule.
    UpstreamRefused(&'static str),
    /// A deadline passed.
    TimedOut,
    /// We are shutting down.
    Drained,
}

/// Captures one connection. Dropped without an end it is recorded as drained.
pub struct OpaqueCapture<S: Shell> {
    shell: S,
    conn: ConnFacts,
    seq: u64,
    start: Stamp,
    proto: &'static str,
    tls: Option<Box<Handshake>>,
    bytes: (u64, u64),
    stages: Stages,
    /// The policy under which the connection was shown: it is recorded at its end, whatever the policy is then.
    shown_under: Option<Arc<Compiled>>,
    /// It was counted when it began.
    begun: bool,
    ended: bool,
    /// It is closed when it cannot be shown.
    closed: bool,
    /// Stages in a row that were not taken.
    failed: u8,
}

/// A connection under `failureMode: Closed` is closed when so many of its stages in a row were not recorded (T3).
const FAILED_STAGES_MAX: u8 = 2;

impl<S: Shell> OpaqueCapture<S> {
    /// Captures from now on; `start` is when the connection was accepted, `proto` one of `tcp`, `tls`, `http/2`.
    pub fn new(shell: S, conn: ConnFacts, start: Stamp, proto: &'static str) -> Self {
        let stages = if conn.upstream_local.is_some() { Stages::of_connection(start) } else { Stages::never() };
        let (tls, bytes) = (None, (0, 0));
        let (shown_under, begun, ended, closed, failed) = (None, false, false, false, 0);
        Self { shell, conn, seq: 0, start, proto, tls, bytes, stages, shown_under, begun, ended, closed, failed }
    }

    /// Its number, where the connection is not the only exchange.
    #[must_use]
    pub fn numbered(mut self, seq: u64) -> Self {
        self.seq = seq;
        self
    }

    /// Looks into the bytes for the handshake of TLS. Call it before the first bytes.
    #[must_use]
    pub fn watching_tls(mut self) -> Self {
        self.tls = Some(Box::default());
        self
    }

    /// Goes on from another capture of the same connection, see [`OpaqueCapture::pause`].
    #[must_use]
    pub fn resuming(mut self, paused: Paused) -> Self {
        self.stages = paused.stages;
        self.shown_under = paused.shown_under;
        self
    }

    /// It is known to be an exchange of its own: it is counted from now on, if policy looks at it.
    #[must_use]
    pub fn begun(mut self) -> Self {
        let policy = self.shell.policy();
        if self.verdict(&policy).is_some() {
            self.shell.begin();
            self.begun = true;
        }
        self
    }

    /// The connection is not over, but goes on under another capture: nothing is recorded now.
    pub fn pause(mut self) -> Paused {
        self.ended = true;
        Paused { stages: self.stages, shown_under: self.shown_under.take() }
    }

    /// The upstream is connected, from this address: the connection is open.
    pub fn connected(&mut self, upstream_local: Option<SocketAddr>) {
        self.conn.upstream_local = upstream_local;
        self.stages = Stages::of_connection(self.start);
    }

    /// Bytes from the client went by.
    pub fn from_client(&mut self, bytes: &[u8]) {
        self.bytes.0 = self.bytes.0.saturating_add(bytes.len() as u64);
        if let Some(tls) = &mut self.tls {
            tls.from_client(bytes);
        }
    }

    /// Bytes from the upstream went by.
    pub fn from_upstream(&mut self, bytes: &[u8]) {
        self.bytes.1 = self.bytes.1.saturating_add(bytes.len() as u64);
        if let Some(tls) = &mut self.tls {
            tls.from_server(bytes);
        }
    }

    /// When to call [`OpaqueCapture::tick`], on the monotonic clock; a call before that does nothing.
    pub fn due_ns(&self) -> u64 {
        self.stages.due_ns()
    }

    /// Shows the connection if it has been open for long.
    pub fn tick(&mut self, now: Stamp) {
        let Some(stage) = self.stages.take(now) else { return };
        let policy = self.shell.policy();
        let Some(verdict) = self.verdict(&policy).filter(|verdict| verdict.level > Level::None) else { return };
        let mut record = self.build(EventName::TcpOpen, &verdict);
        self.closed = verdict.failure == FailureMode::Closed;
        record.set_int(Field::ReqBytes, self.bytes.0);
        record.set_int(Field::ResBytes, self.bytes.1);
        let shown = show(&mut self.shell, &self.conn, &policy, self.start, Kind::Tcp, stage, record);
        self.failed = if shown == Receipt::Never { self.failed.saturating_add(1) } else { 0 };
        self.shown_under = Some(policy);
    }

    /// It cannot be shown any more, and policy wants it closed then (T3).
    pub fn has_failed(&self) -> bool {
        self.closed && self.failed >= FAILED_STAGES_MAX
    }

    /// It cannot be recorded, and policy wants it refused then.
    pub fn is_refused(&self) -> bool {
        let policy = self.shell.policy();
        let closed = |verdict: Verdict<'_>| verdict.level > Level::None && verdict.failure == FailureMode::Closed;
        self.verdict(&policy).is_some_and(closed) && !self.shell.can_record()
    }

    /// What the first bytes to the peer wait for (T3): under Strict it is shown now.
    pub fn hold_first(&mut self) -> Option<Hold> {
        let policy = self.shell.policy();
        let verdict = self.verdict(&policy).filter(|verdict| verdict.level > Level::None)?;
        if verdict.delivery != DeliveryMode::Strict {
            return None;
        }
        let closed = verdict.failure == FailureMode::Closed;
        let record = self.build(EventName::TcpOpen, &verdict);
        self.stages.shown(self.shell.now());
        let until = show(&mut self.shell, &self.conn, &policy, self.start, Kind::Tcp, Stage::Opened, record);
        self.closed = closed;
        self.shown_under = Some(policy);
        Some(Hold { from: 0, seq: self.seq, until, closed })
    }

    /// The data thread's side.
    pub fn shell(&self) -> &S {
        &self.shell
    }

    /// What is known of the connection.
    pub fn conn(&self) -> &ConnFacts {
        &self.conn
    }

    /// The same, for what is learnt later.
    pub fn conn_mut(&mut self) -> &mut ConnFacts {
        &mut self.conn
    }

    /// The connection is over.
    pub fn finish(mut self, end: OpaqueEnd) {
        self.record(end);
    }

    fn verdict<'p>(&self, policy: &'p Compiled) -> Option<Verdict<'p>> {
        let facts =
            Facts { peer: Some(self.conn.peer.ip()), ..Facts::connection(self.conn.direction, self.conn.port()) };
        policy.judge(&facts)
    }

    fn record(&mut self, end: OpaqueEnd) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let OpaqueEnd::Refused(why) | OpaqueEnd::UpstreamRefused(why) = end {
            self.shell.count_refused(why);
        }
        let shown_under = self.shown_under.take();
        let in_force = self.shell.policy();
        let recorded = self.verdict(&in_force).is_some_and(|verdict| verdict.level > Level::None);
        let policy = shown_under.filter(|_| !recorded).unwrap_or(in_force);
        let verdict = self.verdict(&policy);
        let begun = std::mem::replace(&mut self.begun, true);
        if verdict.is_none() && !begun {
            return;
        }
        if !begun {
            self.shell.begin();
        }
        let (event, outcome, cause) = self.judge_end(end);
        let revision = &policy.document().revision;
        let none = |rule| Some(Unrecorded { revision, rule });
        let verdict = match verdict {
            Some(verdict) if verdict.level > Level::None => verdict,
            other => {
                // No policy looks at it any more, though one did when it began.
                let rule = other.map_or("unselected", |verdict| verdict.rule);
                return self.shell.count(self.conn.direction, outcome, none(rule));
            }
        };
        self.shell.count(self.conn.direction, outcome, None);
        let mut record = self.build(event, &verdict);
        record.set(Field::PolicyRevision, policy.document().revision.as_bytes());
        record.set(Field::Outcome, outcome.as_str().as_bytes());
        if let Some(cause) = cause {
            record.set(Field::Cause, cause.as_bytes());
        }
        match end {
            OpaqueEnd::Loop => record.set(Field::Refusal, b"loop"),
            OpaqueEnd::Refused(why) | OpaqueEnd::UpstreamRefused(why) => record.set(Field::Refusal, why.as_bytes()),
            _ => {}
        }
        record.set_int(Field::ReqBytes, self.bytes.0);
        record.set_int(Field::ResBytes, self.bytes.1);
        let now = self.shell.now();
        let random = self.shell.random();
        self.conn.close(&mut record, self.start, now, random);
        let _ = self.shell.emit(redact(record, policy.redactor()));
    }

    /// What the end makes of the whole: a handshake that failed is a failure even if both sides closed in order, and one that
    /// was never seen to complete is no success.
    fn judge_end(&self, end: OpaqueEnd) -> (EventName, Outcome, Option<&'static str>) {
        let handshake = self.tls.as_ref().and_then(|tls| tls.status());
        let (outcome, cause) = match end {
            _ if handshake == Some(HandshakeStatus::Failed) => {
                return (EventName::TlsFailed, Outcome::Failure, Some("tls_failed"));
            }
            OpaqueEnd::Closed if handshake == Some(HandshakeStatus::Incomplete) => (Outcome::Unknown, None),
            OpaqueEnd::Closed => (Outcome::Success, None),
            OpaqueEnd::ClientGone => (Outcome::Failure, Some("client_gone")),
            OpaqueEnd::UpstreamFailed => (Outcome::Failure, Some("upstream_failed")),
            OpaqueEnd::Loop | OpaqueEnd::Refused(_) => (Outcome::Failure, Some("rejected")),
            OpaqueEnd::UpstreamRefused(_) => (Outcome::Failure, Some("protocol_error")),
            OpaqueEnd::TimedOut => (Outcome::Failure, Some("timeout")),
            OpaqueEnd::Drained => (Outcome::Unknown, Some("drained")),
        };
        (EventName::TcpClose, outcome, cause)
    }

    /// The record with what is known of the connection, but for its sizes and its end.
    fn build(&self, event: EventName, verdict: &Verdict<'_>) -> Record {
        let mut record = self.conn.record(event, self.seq, self.start);
        record.set(Field::Policy, verdict.policy.as_bytes());
        record.set(Field::Rule, verdict.rule.as_bytes());
        record.set(Field::Action, b"CONNECT");
        record.set(Field::Proto, self.proto.as_bytes());
        let destination = self.conn.destination();
        record.set(Field::Target, destination.to_string().as_bytes());
        if let Some(tls) = &self.tls {
            fill_tls(&mut record, tls, destination);
        }
        self.conn.set_connection_actor(&mut record);
        record
    }
}

fn fill_tls(record: &mut Record, tls: &Handshake, destination: SocketAddr) {
    if let Some(name) = tls.server_name() {
        record.set(Field::Sni, name.as_bytes());
        record.set(Field::Target, format!("{name}:{}", destination.port()).as_bytes());
    }
    if !tls.alpn_offered().is_empty() {
        record.set(Field::AlpnOffered, tls.alpn_offered().join(",").as_bytes());
    }
    if let Some(protocol) = tls.alpn_selected() {
        record.set(Field::AlpnSelected, protocol.as_bytes());
    }
    if let Some(version) = tls.version() {
        record.set(Field::TlsVersion, version.as_bytes());
    }
    if let Some(status) = tls.status() {
        record.set(Field::TlsHandshake, status.as_str().as_bytes());
    }
    if let Some(alert) = tls.alert() {
        record.set(Field::TlsAlert, alert.to_string().as_bytes());
    }
}

/// What one capture of a connection hands to the next.
#[derive(Default)]
pub struct Paused {
    stages: Stages,
    shown_under: Option<Arc<Compiled>>,
}

impl Paused {
    /// The upstream of a connection that was accepted at `start` is connected, and it has said nothing yet.
    pub fn connected(&mut self, start: Stamp) {
        self.stages = Stages::of_connection(start);
    }

    /// When the connection is to be shown, on the monotonic clock.
    pub fn due_ns(&self) -> u64 {
        self.stages.due_ns()
    }
}

impl<S: Shell> Drop for OpaqueCapture<S> {
    fn drop(&mut self) {
        self.record(OpaqueEnd::Drained);
    }
}

//! Capture of a connection that is not HTTP/1: one record, at its end.

use super::{ConnFacts, Outcome, Shell};
use crate::policy::{Facts, Level};
use crate::record::{EventName, Field, Stamp};
use crate::redact::redact;

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
    /// We are shutting down.
    Drained,
}

/// Captures one connection. Dropped without an end it is recorded as drained.
pub struct OpaqueCapture<S: Shell> {
    shell: S,
    conn: ConnFacts,
    start: Stamp,
    proto: &'static str,
    sni: Option<String>,
    bytes: (u64, u64),
    ended: bool,
}

impl<S: Shell> OpaqueCapture<S> {
    /// Captures from now on; `start` is when the connection was accepted, `proto` one of `tcp`, `tls`, `http/2`.
    pub fn new(shell: S, conn: ConnFacts, start: Stamp, proto: &'static str) -> Self {
        Self { shell, conn, start, proto, sni: None, bytes: (0, 0), ended: false }
    }

    /// The connection's facts, to add what becomes known later.
    pub fn conn_mut(&mut self) -> &mut ConnFacts {
        &mut self.conn
    }

    /// The server name that a TLS client asked for.
    pub fn set_sni(&mut self, sni: String) {
        self.sni = Some(sni);
    }

    /// Bytes that went by.
    pub fn bytes(&mut self, from_client: u64, from_upstream: u64) {
        self.bytes.0 = self.bytes.0.saturating_add(from_client);
        self.bytes.1 = self.bytes.1.saturating_add(from_upstream);
    }

    /// The connection is over.
    pub fn finish(mut self, end: OpaqueEnd) {
        self.record(end);
    }

    fn record(&mut self, end: OpaqueEnd) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let policy = self.shell.policy();
        let facts =
            Facts { peer: Some(self.conn.peer.ip()), ..Facts::connection(self.conn.direction, self.conn.port()) };
        let Some(verdict) = policy.judge(&facts) else { return };
        let (outcome, cause) = match end {
            OpaqueEnd::Closed => (Outcome::Success, None),
            OpaqueEnd::ClientGone => (Outcome::Failure, Some("client_gone")),
            OpaqueEnd::UpstreamFailed => (Outcome::Failure, Some("upstream_failed")),
            OpaqueEnd::Loop => (Outcome::Failure, Some("rejected")),
            OpaqueEnd::Drained => (Outcome::Unknown, Some("drained")),
        };
        self.shell.count(self.conn.direction, outcome, verdict.level > Level::None);
        if verdict.level == Level::None {
            return;
        }
        let mut record = self.conn.record(EventName::TcpClose, 0, self.start);
        record.set(Field::Policy, verdict.policy.as_bytes());
        record.set(Field::Rule, verdict.rule.as_bytes());
        record.set(Field::PolicyRevision, policy.document().revision.as_bytes());
        record.set(Field::Action, b"CONNECT");
        record.set(Field::Proto, self.proto.as_bytes());
        let destination = self.conn.destination();
        match &self.sni {
            Some(sni) => {
                record.set(Field::Sni, sni.as_bytes());
                record.set(Field::Target, format!("{sni}:{}", destination.port()).as_bytes());
            }
            None => record.set(Field::Target, destination.to_string().as_bytes()),
        }
        self.conn.set_connection_actor(&mut record);
        record.set(Field::Outcome, outcome.as_str().as_bytes());
        if let Some(cause) = cause {
            record.set(Field::Cause, cause.as_bytes());
        }
        if end == OpaqueEnd::Loop {
            record.set(Field::Refusal, b"loop");
        }
        record.set_int(Field::ReqBytes, self.bytes.0);
        record.set_int(Field::ResBytes, self.bytes.1);
        let now = self.shell.now();
        let random = self.shell.random();
        self.conn.close(&mut record, self.start, now, random);
        self.shell.emit(redact(record, policy.redactor()));
    }
}

impl<S: Shell> Drop for OpaqueCapture<S> {
    fn drop(&mut self) {
        self.record(OpaqueEnd::Drained);
    }
}

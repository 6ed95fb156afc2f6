//! Capture of HTTP/1 exchanges: the observer of [`crate::http1::Session`].

use super::exchange::{Exchange, Request, Verdict};
use super::request::Scan;
use super::stage::NEVER_NS;
use super::target::Target;
use super::{ConnFacts, Outcome, Shell};
use crate::http1::{ConnSeq, End, HeadEdit, Observer, RequestHead, ResponseHead};
use crate::policy::Facts;
use crate::record::{EventName, Stamp};
use std::collections::VecDeque;

/// Captures every exchange of one connection. When it is dropped, whatever is still open is recorded as drained: no way out
/// of the connection's task loses a record (EV-1).
pub struct HttpCapture<S: Shell> {
    shell: S,
    conn: ConnFacts,
    open: VecDeque<Exchange>,
    /// No stage of an open exchange is due before; it may be earlier than any is.
    due_ns: u64,
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
            exchange.tick(&mut self.shell, &self.conn, now, |_| {});
        }
        self.due_ns = self.open.iter().map(Exchange::due_ns).min().unwrap_or(NEVER_NS);
    }

    fn exchange(&mut self, seq: ConnSeq) -> Option<&mut Exchange> {
        self.open.iter_mut().find(|exchange| exchange.seq() == seq)
    }

    fn finish(&mut self, exchange: Exchange, end: End) {
        let (outcome, cause) = judge_end(end, exchange.status);
        let refusal = match end {
            End::RequestRefused(reason) | End::ResponseRefused(reason) => Some(reason.as_str()),
            _ => None,
        };
        exchange.finish(&mut self.shell, &self.conn, Verdict { outcome, cause, refusal });
    }
}

/// The head of HTTP/1, as any version of HTTP has it.
fn request_of<'a>(head: &RequestHead<'a>) -> Request<'a> {
    Request {
        event: EventName::HttpRequest,
        proto: if head.minor_version == 0 { "http/1.0" } else { "http/1.1" },
        method: head.method,
        scheme: "http",
        target: Target::parse(head.method, head.target),
        fields: head.fields,
    }
}

impl ConnFacts {
    /// What the judge looks at when a request begins on this connection.
    pub fn facts<'a>(&self, head: &'a RequestHead<'a>) -> Facts<'a> {
        let request = request_of(head);
        Scan::of(&request, None).facts(self, &request)
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
        let exchange = Exchange::begin(&mut self.shell, &self.conn, seq, &request_of(head), edit);
        self.due_ns = self.due_ns.min(exchange.due_ns());
        self.open.push_back(exchange);
    }

    fn request_unparsed(&mut self, seq: ConnSeq, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let mut words = line.trim_end().splitn(3, ' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let head = RequestHead { method, target, minor_version: 1, fields: &[], head_bytes: 0 };
        // Nothing of this request goes on, so nothing is added to it.
        self.request_head(seq, &head, &mut HeadEdit::default());
    }

    fn request_body(&mut self, seq: ConnSeq, payload_bytes: u64) {
        if let Some(exchange) = self.exchange(seq) {
            exchange.moved(payload_bytes, 0);
        }
    }

    fn request_end(&mut self, _seq: ConnSeq) {}

    fn response_head(&mut self, seq: ConnSeq, head: &ResponseHead<'_>) {
        let interim = (100..200).contains(&head.status) && head.status != 101;
        if !interim && let Some(exchange) = self.exchange(seq) {
            exchange.opened(head.status, head.fields);
            let due_ns = exchange.due_ns();
            self.due_ns = self.due_ns.min(due_ns);
        }
    }

    fn answered(&mut self, seq: ConnSeq, status: u16) {
        if let Some(exchange) = self.exchange(seq) {
            exchange.status = status;
        }
    }

    fn response_body(&mut self, seq: ConnSeq, payload_bytes: u64) {
        if let Some(exchange) = self.exchange(seq) {
            exchange.moved(0, payload_bytes);
        }
    }

    fn tunnel(&mut self, seq: ConnSeq, from_client_bytes: u64, from_upstream_bytes: u64) {
        if let Some(exchange) = self.exchange(seq) {
            exchange.tunnelled(from_client_bytes, from_upstream_bytes);
        }
    }

    fn exchange_end(&mut self, seq: ConnSeq, end: End) {
        if let Some(at) = self.open.iter().position(|exchange| exchange.seq() == seq)
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

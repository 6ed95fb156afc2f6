//! Capture of HTTP/1 exchanges: the observer of [`crate::http1::Session`].

use super::exchange::{Exchange, Request, Verdict};
use super::request::Scan;
use super::stage::NEVER_NS;
use super::target::Target;
use super::{ConnFacts, Hold, Outcome, Receipt, Shell};
use crate::http1::{ConnSeq, End, HeadEdit, Observer, Refusal, RequestHead, ResponseHead};
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
    /// What of the last call's output waits, on its way to the upstream and to the client.
    held_up: Option<Hold>,
    held_down: Option<Hold>,
}

impl<S: Shell> HttpCapture<S> {
    /// Captures the exchanges of one connection.
    pub fn new(shell: S, conn: ConnFacts) -> Self {
        Self { shell, conn, open: VecDeque::new(), due_ns: NEVER_NS, held_up: None, held_down: None }
    }

    /// The data thread's side.
    pub fn shell(&self) -> &S {
        &self.shell
    }

    /// What of the requests that the last call of the session sent upstream waits for the records of their beginning (T2).
    pub fn take_held_up(&mut self) -> Option<Hold> {
        self.held_up.take()
    }

    /// What of the answers that the last call of the session sent to the client waits for their records (T1). It must be
    /// asked after each call of the session: an exchange that is still open is shown now.
    pub fn take_held_down(&mut self) -> Option<Hold> {
        let mut held = self.held_down.take()?;
        let waits = |exchange: &&mut Exchange| exchange.status != 0 && exchange.is_held();
        for exchange in self.open.iter_mut().filter(waits) {
            let until = exchange.show_answered(&mut self.shell, &self.conn, |_| {});
            held.until = held.until.max(until);
            self.due_ns = self.due_ns.min(exchange.due_ns());
        }
        Some(held)
    }

    /// The answer of this exchange stands at this place of the output: what is held begins there, unless it began before.
    fn hold_answer(&mut self, seq: ConnSeq, at: usize) {
        if let Some(exchange) = self.open.iter().find(|exchange| exchange.seq() == seq)
            && exchange.is_held()
        {
            Hold::join(&mut self.held_down, exchange.hold(at, Receipt::Counted));
        }
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

    fn keep(&mut self, exchange: Exchange) {
        self.due_ns = self.due_ns.min(exchange.due_ns());
        self.open.push_back(exchange);
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
        let waits = exchange.is_held() && exchange.status != 0;
        let until = exchange.finish(&mut self.shell, &self.conn, Verdict { outcome, cause, refusal });
        if let Some(held) = self.held_down.as_mut().filter(|_| waits) {
            held.until = held.until.max(until);
        }
    }
}

/// Status of our own answer to what cannot be recorded.
const UNAVAILABLE: u16 = 503;

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
        End::RequestRefused(_) | End::ResponseRefused(Refusal::AuditFailed) => (Outcome::Failure, Some("rejected")),
        End::ResponseRefused(_) => (Outcome::Failure, Some("protocol_error")),
        End::TimedOut => (Outcome::Failure, Some("timeout")),
        End::Drained => (Outcome::Unknown, Some("drained")),
    }
}

impl<S: Shell> Observer for HttpCapture<S> {
    fn request_head(&mut self, seq: ConnSeq, head: &RequestHead<'_>, edit: &mut HeadEdit) {
        let mut exchange = Exchange::begin(&mut self.shell, &self.conn, seq, &request_of(head), edit);
        if exchange.is_refused() {
            edit.refuse();
        } else if let Some(until) = exchange.tell_begin(&mut self.shell, &self.conn) {
            Hold::join(&mut self.held_up, exchange.hold(edit.at(), until));
        }
        self.keep(exchange);
    }

    fn request_unparsed(&mut self, seq: ConnSeq, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let mut words = line.trim_end().splitn(3, ' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let head = RequestHead { method, target, minor_version: 1, fields: &[], head_bytes: 0 };
        // Nothing of this request goes on, so nothing is added to it, and nothing waits.
        let added = &mut HeadEdit::default();
        let exchange = Exchange::begin(&mut self.shell, &self.conn, seq, &request_of(&head), added);
        self.keep(exchange);
    }

    fn request_body(&mut self, seq: ConnSeq, payload_bytes: u64) {
        if let Some(exchange) = self.exchange(seq) {
            exchange.moved(payload_bytes, 0);
        }
    }

    fn request_end(&mut self, _seq: ConnSeq) {}

    fn response_head(&mut self, seq: ConnSeq, head: &ResponseHead<'_>, at: usize) {
        let interim = (100..200).contains(&head.status) && head.status != 101;
        if !interim && let Some(exchange) = self.exchange(seq) {
            exchange.opened(head.status, head.fields);
            let due_ns = exchange.due_ns();
            self.due_ns = self.due_ns.min(due_ns);
            self.hold_answer(seq, at);
        }
    }

    fn answered(&mut self, seq: ConnSeq, status: u16, at: usize) {
        if let Some(exchange) = self.exchange(seq) {
            exchange.status = status;
            if status == UNAVAILABLE {
                // It says that nothing could be recorded: it waits for no record.
                exchange.release();
            }
            self.hold_answer(seq, at);
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

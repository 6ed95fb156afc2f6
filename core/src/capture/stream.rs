//! Capture of one exchange of HTTP/2: one stream, with what gRPC adds to it.

use super::exchange::{Exchange, Request, Verdict};
use super::grpc::{Messages, is_grpc, method_of, status_of};
use super::request::Added;
use super::stage::NEVER_NS;
use super::target::Target;
use super::{ConnFacts, Hold, Outcome, Receipt, Shell};
use crate::http2::error_name;
use crate::record::{EventName, Field, Record, Stamp};
use httparse::Header;

/// A request's head as a stream brings it.
#[derive(Clone, Copy, Debug)]
pub struct StreamRequest<'a> {
    /// `:method`.
    pub method: &'a str,
    /// `:scheme`; empty for CONNECT.
    pub scheme: &'a str,
    /// `:authority`; empty where there is none.
    pub authority: &'a str,
    /// `:path` with its query; empty for CONNECT.
    pub path: &'a str,
    /// All other fields, names in lower case.
    pub fields: &'a [Header<'a>],
}

/// What capture adds to a request and takes out of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FieldEdit {
    /// To append: lower-case name, value.
    pub added: Vec<(String, String)>,
    /// Lower-case names of which every occurrence is left out, before anything is added.
    pub removed: Vec<String>,
}

impl Added for FieldEdit {
    fn add_field(&mut self, name: &str, value: &str) {
        self.added.push((name.to_ascii_lowercase(), value.to_owned()));
    }

    fn remove_field(&mut self, name: &str) {
        self.removed.push(name.to_ascii_lowercase());
    }

    /// HTTP/2 has no Connection field that could nominate one.
    fn protect(&mut self, _name: &str) {}
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The response went through whole.
    Complete,
    /// The client reset it, with this code (RFC 9113 section 7).
    ClientReset(u32),
    /// The server reset it, with this code.
    UpstreamReset(u32),
    /// The client's connection went away.
    ClientGone,
    /// The server's connection went away, or it took no more streams.
    UpstreamGone,
    /// We refused it: what the client sent breaks a rule of section 10.
    RequestRefused(&'static str),
    /// We refused what the server sent.
    ResponseRefused(&'static str),
    /// A deadline passed.
    TimedOut,
    /// We are shutting down.
    Drained,
}

/// Why a stream is refused that cannot be recorded, under `failureMode: Closed`.
pub const AUDIT_FAILED: &str = "audit_failed";

/// Captures one stream. Dropped without an end it is recorded as drained (EV-1).
pub struct StreamCapture<S: Shell> {
    shell: S,
    conn: ConnFacts,
    /// `None` once it is recorded.
    exchange: Option<Exchange>,
    rpc: Option<Rpc>,
    is_connect: bool,
    /// What its request waits for (T2).
    begin: Option<Hold>,
}

/// What a gRPC call has beside its exchange.
#[derive(Default)]
struct Rpc {
    status: Option<u64>,
    sent: Messages,
    received: Messages,
}

impl Rpc {
    /// What is known so far.
    fn fill(&self, record: &mut Record) {
        if let Some(status) = self.status {
            record.set_int(Field::GrpcStatus, status);
        }
        record.set_int(Field::ReqMsgs, self.sent.count());
        record.set_int(Field::ResMsgs, self.received.count());
    }
}

impl<S: Shell> StreamCapture<S> {
    /// Begins with the request's head. `seq` is the number of the exchange on its connection, from 0. Gives what is to be
    /// added to the head that goes upstream.
    pub fn begin(mut shell: S, conn: ConnFacts, seq: u64, head: &StreamRequest<'_>) -> (Self, FieldEdit) {
        let is_connect = head.method == "CONNECT";
        let mut target = if is_connect { Target::default() } else { Target::parse(head.method, head.path) };
        if is_connect {
            (target.path, target.query) =
                head.path.split_once('?').map_or((head.path, None), |(path, query)| (path, Some(query)));
        }
        if !head.authority.is_empty() {
            target.authority = Some(head.authority);
        }
        let content_type = head.fields.iter().find(|field| field.name.eq_ignore_ascii_case("content-type"));
        let is_rpc = content_type.is_some_and(|field| is_grpc(field.value));
        let request = Request {
            event: if is_rpc { EventName::RpcCall } else { EventName::HttpRequest },
            proto: "http/2",
            method: head.method,
            scheme: head.scheme,
            target,
            fields: head.fields,
        };
        let mut edit = FieldEdit::default();
        let mut exchange = Exchange::begin(&mut shell, &conn, seq, &request, &mut edit);
        if is_rpc && let Some(record) = exchange.record_mut() {
            record.set(Field::RpcSystem, b"grpc");
            if let Some((service, method)) = method_of(target.path) {
                record.set(Field::RpcService, service.as_bytes());
                record.set(Field::RpcMethod, method.as_bytes());
            }
        }
        let begin = exchange.tell_begin(&mut shell, &conn).map(|until| exchange.hold(0, until));
        let rpc = is_rpc.then(Rpc::default);
        (Self { shell, conn, exchange: Some(exchange), rpc, is_connect, begin }, edit)
    }

    /// The data thread's side.
    pub fn shell(&self) -> &S {
        &self.shell
    }

    /// It is a call of gRPC.
    pub fn is_rpc(&self) -> bool {
        self.rpc.is_some()
    }

    /// Nothing of the request may go on: it cannot be recorded, and policy wants it refused then.
    pub fn is_refused(&self) -> bool {
        self.exchange.as_ref().is_some_and(Exchange::is_refused)
    }

    /// What the request waits for before it goes on (T2).
    pub fn take_begin(&mut self) -> Option<Hold> {
        self.begin.take()
    }

    /// What the final answer, whose head was told, waits for before it goes on (T1). `is_whole`: there is nothing after
    /// its head, and the request is whole; then the exchange ends here.
    pub fn hold_answer(&mut self, is_whole: bool) -> Option<Hold> {
        let exchange = self.exchange.as_mut().filter(|exchange| exchange.is_held())?;
        let hold = exchange.hold(0, Receipt::Counted);
        let until = if is_whole {
            self.finish(StreamEnd::Complete)
        } else {
            let rpc = &self.rpc;
            exchange.show_answered(&mut self.shell, &self.conn, |record| {
                if let Some(rpc) = rpc {
                    rpc.fill(record);
                }
            })
        };
        Some(Hold { until, ..hold })
    }

    /// The head of the final response. It may be all of it (`is_end`): then a `grpc-status` stands here.
    pub fn response_head(&mut self, status: u16, fields: &[Header<'_>], is_end: bool) {
        if let Some(exchange) = &mut self.exchange {
            exchange.opened(status, fields);
        }
        if is_end {
            self.response_trailers(fields);
        }
    }

    /// We answered in the server's place, with this status.
    pub fn answered(&mut self, status: u16) {
        if let Some(exchange) = &mut self.exchange {
            exchange.status = status;
        }
    }

    /// Bytes of the request's body.
    pub fn request_data(&mut self, bytes: &[u8]) {
        self.data(bytes, &[]);
    }

    /// Bytes of the response's body.
    pub fn response_data(&mut self, bytes: &[u8]) {
        self.data(&[], bytes);
    }

    /// The response's trailers.
    pub fn response_trailers(&mut self, fields: &[Header<'_>]) {
        if let Some(rpc) = &mut self.rpc
            && let Some(field) = fields.iter().find(|field| field.name.eq_ignore_ascii_case("grpc-status"))
        {
            rpc.status = status_of(field.value);
        }
    }

    /// When to call [`StreamCapture::tick`], on the monotonic clock; a call before that does nothing.
    pub fn due_ns(&self) -> u64 {
        self.exchange.as_ref().map_or(NEVER_NS, Exchange::due_ns)
    }

    /// Shows the stream if it has been open for long.
    pub fn tick(&mut self, now: Stamp) {
        let rpc = &self.rpc;
        if let Some(exchange) = &mut self.exchange {
            exchange.tick(&mut self.shell, &self.conn, now, |record| {
                if let Some(rpc) = rpc {
                    rpc.fill(record);
                }
            });
        }
    }

    /// The stream is over.
    pub fn end(mut self, end: StreamEnd) {
        self.finish(end);
    }

    fn data(&mut self, from_client: &[u8], from_upstream: &[u8]) {
        let (up, down) = (from_client.len() as u64, from_upstream.len() as u64);
        if let Some(exchange) = &mut self.exchange {
            if self.is_connect && (200..300).contains(&exchange.status) {
                exchange.tunnelled(up, down);
            } else {
                exchange.moved(up, down);
            }
        }
        if let Some(rpc) = &mut self.rpc {
            rpc.sent.feed(from_client);
            rpc.received.feed(from_upstream);
        }
    }

    fn finish(&mut self, end: StreamEnd) -> Receipt {
        let Some(mut exchange) = self.exchange.take() else { return Receipt::Counted };
        let status = exchange.status;
        if let Some(record) = exchange.record_mut() {
            if let Some(rpc) = &self.rpc {
                rpc.fill(record);
            }
            if let StreamEnd::ClientReset(code) | StreamEnd::UpstreamReset(code) = end {
                record.set(Field::H2Error, error_name(code).as_bytes());
            }
        }
        let mut verdict = judge(end, status);
        if end == StreamEnd::Complete && self.is_connect && (200..300).contains(&status) {
            verdict = Verdict::new(Outcome::Success, Some("upgraded"));
        } else if let Some(rpc) = &self.rpc
            && verdict.outcome == Outcome::Success
        {
            verdict.outcome = match rpc.status {
                Some(0) => Outcome::Success,
                Some(_) => Outcome::Failure,
                None => Outcome::Unknown,
            };
        }
        exchange.finish(&mut self.shell, &self.conn, verdict)
    }
}

/// What an end says, with this final status (0: none came).
fn judge(end: StreamEnd, status: u16) -> Verdict {
    let failed = |cause| Verdict::new(Outcome::Failure, Some(cause));
    match end {
        StreamEnd::Complete if status < 400 => Verdict::new(Outcome::Success, None),
        StreamEnd::Complete => Verdict::new(Outcome::Failure, None),
        StreamEnd::ClientReset(_) | StreamEnd::ClientGone => failed("client_gone"),
        StreamEnd::UpstreamReset(_) | StreamEnd::UpstreamGone => failed("upstream_failed"),
        StreamEnd::RequestRefused(reason) => Verdict { refusal: Some(reason), ..failed("rejected") },
        StreamEnd::ResponseRefused(reason @ AUDIT_FAILED) => Verdict { refusal: Some(reason), ..failed("rejected") },
        StreamEnd::ResponseRefused(reason) => Verdict { refusal: Some(reason), ..failed("protocol_error") },
        StreamEnd::TimedOut => failed("timeout"),
        StreamEnd::Drained => Verdict::new(Outcome::Unknown, Some("drained")),
    }
}

impl<S: Shell> Drop for StreamCapture<S> {
    fn drop(&mut self) {
        self.finish(StreamEnd::Drained);
    }
}

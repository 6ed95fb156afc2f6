//! One stream: a request from the client, its answer from the server, and its record.

use super::super::hold::{Held, Verdict};
use super::ending::{Ending, client_failed, reset_by_client, reset_by_upstream, upstream_failed};
use super::head;
use super::limits::{TOO_MANY_FIELDS, has_too_many_fields};
use super::pump::{Passed, Pump, Stopped};
use crate::data::Recorder;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderValue, Request, Response, StatusCode, header, response};
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use testimony_core::capture::{AUDIT_FAILED, ConnFacts, Header, NEVER_NS, StreamCapture, StreamEnd};
use testimony_core::record::Stamp;

/// A stream under way. As a future it is over when both directions are, or it broke.
pub(super) struct Stream {
    capture: Option<StreamCapture<Recorder>>,
    respond: SendResponse<Bytes>,
    request_body: RecvStream,
    /// `None`: the server took no request.
    upstream: Option<Upstream>,
    /// To the client, once the final head went.
    down: Option<SendStream<Bytes>>,
    upload: Pump,
    /// The server takes no more of the request, with this code.
    upload_stopped: Option<Reason>,
    download: Pump,
    /// Nothing of it may go on, for this reason.
    refused: Option<&'static str>,
    /// What waits for a durable record; nothing most of the time.
    waiting: Option<Box<Waiting>>,
}

/// What waits for a durable record.
enum Waiting {
    /// The request (T2).
    Request { held: Held, request: Request<()>, sender: SendRequest<Bytes> },
    /// The head of the final answer (T1).
    Answer { held: Held, head: response::Parts, is_end: bool },
}

impl Waiting {
    fn held(&mut self) -> &mut Held {
        match self {
            Self::Request { held, .. } | Self::Answer { held, .. } => held,
        }
    }
}

/// What gRPC calls UNAVAILABLE.
const GRPC_UNAVAILABLE: &str = "14";

struct Upstream {
    response: ResponseFuture,
    /// The answer's body, once its head came.
    body: Option<RecvStream>,
    up: SendStream<Bytes>,
}

/// A stream that is over. Its handles are kept until what it sent before is on its way: a reset would overtake it.
pub(super) struct Finished {
    stream: Stream,
    to_client: Option<Reason>,
    to_upstream: Option<Reason>,
    /// The client reset it before it had an answer.
    pub is_early_reset: bool,
    /// The server's connection broke it: the client learns that by its own connection's end.
    pub is_broken: bool,
}

impl Finished {
    /// Sends the resets.
    pub fn reset(mut self) {
        if let Some(reason) = self.to_client {
            match &mut self.stream.down {
                Some(down) => down.send_reset(reason),
                None => self.stream.respond.send_reset(reason),
            }
        }
        if let (Some(reason), Some(upstream)) = (self.to_upstream, &mut self.stream.upstream) {
            upstream.up.send_reset(reason);
        }
    }
}

impl Stream {
    /// Takes a request that came in and sends it on.
    pub fn begin(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        sender: Option<&SendRequest<Bytes>>,
        recorder: Recorder,
        conn: ConnFacts,
        seq: u64,
    ) -> Self {
        let (parts, request_body) = request.into_parts();
        let (mut capture, edit) = head::capture(&parts, recorder, conn, seq);
        let refused = has_too_many_fields(&parts.headers).then_some(TOO_MANY_FIELDS);
        let refused = refused.or_else(|| capture.is_refused().then_some(AUDIT_FAILED));
        let is_end = request_body.is_end_stream();
        let request = head::forward(parts, edit);
        let begin = capture.take_begin().filter(|_| refused.is_none());
        let held = begin.map(|hold| Held::new(capture.shell(), &hold));
        let mut stream = Self {
            capture: Some(capture),
            respond,
            request_body,
            upstream: None,
            down: None,
            upload: if is_end { Pump::over() } else { Pump::default() },
            upload_stopped: None,
            download: Pump::default(),
            refused,
            waiting: None,
        };
        match (sender, held) {
            (Some(sender), Some(held)) => {
                stream.waiting = Some(Box::new(Waiting::Request { held, request, sender: sender.clone() }));
            }
            (Some(sender), None) if refused.is_none() => stream.send(request, sender),
            _ => {}
        }
        stream
    }

    /// Sends the request on; without effect where the server's connection takes none.
    fn send(&mut self, request: Request<()>, sender: &SendRequest<Bytes>) {
        // A clone knows of no request that waits for a place at the server, and so does not refuse the next one: the library
        // keeps them in their order until the resets of earlier ones are on their way. A client has no more of them than we
        // let it open, and those that it resets again count as early resets.
        match sender.clone().send_request(request, self.upload.is_over()) {
            Ok((response, up)) => self.upstream = Some(Upstream { response, body: None, up }),
            Err(error) => tracing::debug!(%error, "a request could not be sent on"),
        }
    }

    /// Ready: the request may go on, or the stream is over.
    fn turn_request(&mut self, cx: &mut Context<'_>) -> Poll<Option<Ending>> {
        if let Some(reason) = self.refused {
            return Poll::Ready(Some(self.refuse(StreamEnd::RequestRefused(reason))));
        }
        let Some(Waiting::Request { held, .. }) = self.waiting.as_deref_mut() else { return Poll::Ready(None) };
        let Poll::Ready(verdict) = held.poll(cx) else {
            return self.client_reset(cx).map(Some);
        };
        let waiting = self.waiting.take().map(|waiting| *waiting);
        match (verdict, waiting) {
            (Verdict::Go, Some(Waiting::Request { request, sender, .. })) => {
                self.send(request, &sender);
                Poll::Ready(None)
            }
            _ => Poll::Ready(Some(self.refuse(StreamEnd::RequestRefused(AUDIT_FAILED)))),
        }
    }

    /// Ends it with an answer in the server's place.
    fn refuse(&mut self, end: StreamEnd) -> Ending {
        match end {
            StreamEnd::RequestRefused(TOO_MANY_FIELDS) => self.answer_with(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            StreamEnd::ResponseRefused(TOO_MANY_FIELDS) => self.answer_with(StatusCode::BAD_GATEWAY),
            _ if self.capture.as_ref().is_some_and(StreamCapture::is_rpc) => self.answer_rpc_unavailable(),
            _ => self.answer_with(StatusCode::SERVICE_UNAVAILABLE),
        }
        Ending { to_client: self.stop_upload(), to_upstream: Some(Reason::CANCEL), ..Ending::of(end) }
    }

    /// What tells a client that has its answer to send no more.
    fn stop_upload(&self) -> Option<Reason> {
        Some(Reason::NO_ERROR).filter(|_| !self.upload.is_over())
    }

    /// Answers with this status and nothing else.
    fn answer_with(&mut self, status: StatusCode) {
        if let Some(capture) = &mut self.capture {
            capture.answered(status.as_u16());
        }
        let mut answer = Response::new(());
        *answer.status_mut() = status;
        self.down = self.respond.send_response(answer, true).ok();
    }

    /// Answers a call of gRPC in its own words.
    fn answer_rpc_unavailable(&mut self) {
        if let Some(capture) = &mut self.capture {
            capture.answered(StatusCode::OK.as_u16());
            capture.response_trailers(&[Header { name: "grpc-status", value: GRPC_UNAVAILABLE.as_bytes() }]);
        }
        let mut answer = Response::new(());
        let fields = answer.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        fields.insert("grpc-status", HeaderValue::from_static(GRPC_UNAVAILABLE));
        fields.insert("grpc-message", HeaderValue::from_static("the audit record cannot be kept"));
        self.down = self.respond.send_response(answer, true).ok();
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        if let Some(ending) = ready!(self.turn_request(cx)) {
            return Poll::Ready(ending);
        }
        if self.upstream.is_none() {
            // The server's connection takes no more streams: the client may try again elsewhere.
            let reason = Some(Reason::REFUSED_STREAM);
            return Poll::Ready(Ending { to_client: reason, ..Ending::of(StreamEnd::UpstreamGone) });
        }
        if let Poll::Ready(ending) = self.client_reset(cx) {
            return Poll::Ready(ending);
        }
        if let Poll::Ready(ending) = self.turn_upload(cx) {
            return Poll::Ready(ending);
        }
        match self.turn_download(cx) {
            Poll::Ready(Some(ending)) => Poll::Ready(ending),
            Poll::Ready(None) if self.upload.is_over() => Poll::Ready(Ending::of(StreamEnd::Complete)),
            Poll::Ready(None) => match self.upload_stopped {
                Some(reason) => {
                    let to_client = Some(reason);
                    Poll::Ready(Ending { to_client, ..Ending::of(StreamEnd::Complete) })
                }
                None => Poll::Pending,
            },
            Poll::Pending => Poll::Pending,
        }
    }

    /// Ready: the client gave the stream up.
    fn client_reset(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        let reset = match &mut self.down {
            Some(down) => down.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        match reset {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(reason)) => Poll::Ready(self.why_client(cx, reason)),
            Poll::Ready(Err(error)) => Poll::Ready(client_failed(&error)),
        }
    }

    /// A code alone does not tell whether the client reset the stream, or the library did for what the client sent: the
    /// body's error does. A request that was whole has none, and then the reset is the client's.
    fn why_client(&mut self, cx: &mut Context<'_>, reason: Reason) -> Ending {
        loop {
            match self.request_body.poll_data(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return client_failed(&error),
                Poll::Ready(None) | Poll::Pending => return reset_by_client(reason),
            }
        }
    }

    /// Ready: the stream is over because of what the client did.
    fn turn_upload(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        let Some(upstream) = &mut self.upstream else { return Poll::Pending };
        if self.upload_stopped.is_none()
            && let Poll::Ready(Ok(reason)) = upstream.up.poll_reset(cx)
        {
            self.upload_stopped = Some(reason);
        }
        if self.upload_stopped.is_some() || self.upload.is_over() {
            return Poll::Pending;
        }
        let capture = &mut self.capture;
        let result = self.upload.poll(cx, &mut self.request_body, &mut upstream.up, |passed| {
            if let (Passed::Data(data), Some(capture)) = (passed, capture.as_mut()) {
                capture.request_data(data);
            }
        });
        match result {
            Poll::Ready(Err(Stopped::Source(error))) => Poll::Ready(client_failed(&error)),
            Poll::Ready(Err(Stopped::Sink)) => {
                // Its reset, if that is why, shows at the next look; whatever else is told by the answer.
                match upstream.up.poll_reset(cx) {
                    Poll::Ready(Ok(reason)) => self.upload_stopped = Some(reason),
                    _ => self.upload = Pump::over(),
                }
                Poll::Pending
            }
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Ready: the answer went through (None), or the stream is over because of what the server did.
    fn turn_download(&mut self, cx: &mut Context<'_>) -> Poll<Option<Ending>> {
        if self.down.is_none() {
            match self.turn_head(cx) {
                Poll::Ready(None) => {}
                other => return other,
            }
        }
        let (Some(upstream), Some(down)) = (&mut self.upstream, &mut self.down) else { return Poll::Pending };
        let Some(body) = &mut upstream.body else { return Poll::Pending };
        let capture = &mut self.capture;
        let result = self.download.poll(cx, body, down, |passed| match (passed, capture.as_mut()) {
            (Passed::Data(data), Some(capture)) => capture.response_data(data),
            (Passed::Trailers(trailers), Some(capture)) => capture.response_trailers(&head::fields(trailers)),
            (_, None) => {}
        });
        match result {
            Poll::Ready(Ok(())) => Poll::Ready(None),
            Poll::Ready(Err(Stopped::Source(error))) => Poll::Ready(Some(upstream_failed(&error))),
            Poll::Ready(Err(Stopped::Sink)) => {
                let reset = down.poll_reset(cx);
                Poll::Ready(Some(match reset {
                    Poll::Ready(Ok(reason)) => self.why_client(cx, reason),
                    _ => Ending { to_upstream: Some(Reason::CANCEL), ..Ending::of(StreamEnd::ClientGone) },
                }))
            }
            // A reset does not wait for the client's window.
            Poll::Pending => match self.upload_stopped {
                Some(reason) if reason != Reason::NO_ERROR && self.download.is_blocked() => {
                    Poll::Ready(Some(reset_by_upstream(reason)))
                }
                _ => Poll::Pending,
            },
        }
    }

    /// Ready: the answer's head may go, or the stream is over. Pending: there is none, or it waits.
    fn turn_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Ending>> {
        let Some(Waiting::Answer { held, .. }) = self.waiting.as_deref_mut() else { return Poll::Pending };
        let verdict = ready!(held.poll(cx));
        match (verdict, self.waiting.take().map(|waiting| *waiting)) {
            (Verdict::Go, Some(Waiting::Answer { head, is_end, .. })) => Poll::Ready(self.answer(head, is_end)),
            _ => Poll::Ready(Some(self.refuse(StreamEnd::ResponseRefused(AUDIT_FAILED)))),
        }
    }

    /// Sends the head of the final answer. Some: the client is gone.
    fn answer(&mut self, head: response::Parts, is_end: bool) -> Option<Ending> {
        match self.respond.send_response(Response::from_parts(head, ()), is_end) {
            Ok(down) => {
                self.down = Some(down);
                None
            }
            Err(error) => Some(client_failed(&error)),
        }
    }

    /// Ready(None): the final head went to the client.
    fn turn_head(&mut self, cx: &mut Context<'_>) -> Poll<Option<Ending>> {
        if self.waiting.is_some() {
            return self.turn_answer(cx);
        }
        let Some(upstream) = &mut self.upstream else { return Poll::Pending };
        while let Poll::Ready(Some(Ok(interim))) = upstream.response.poll_informational(cx) {
            if has_too_many_fields(interim.headers()) {
                return Poll::Ready(Some(self.refuse(StreamEnd::ResponseRefused(TOO_MANY_FIELDS))));
            }
            // A failure shows at the next look at the client's side.
            let _ = self.respond.send_informational(interim);
        }
        let response = match Pin::new(&mut upstream.response).poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(response)) => response,
            Poll::Ready(Err(error)) => {
                let mut ending = upstream_failed(&error);
                if matches!(ending.end, StreamEnd::ResponseRefused(_)) && !ending.is_broken {
                    // Nothing of the answer has left: say so in the client's words (section 10).
                    self.answer_with(StatusCode::BAD_GATEWAY);
                    ending.to_client = self.stop_upload();
                }
                return Poll::Ready(Some(ending));
            }
        };
        if has_too_many_fields(response.headers()) {
            return Poll::Ready(Some(self.refuse(StreamEnd::ResponseRefused(TOO_MANY_FIELDS))));
        }
        let (parts, body) = response.into_parts();
        let is_end = body.is_end_stream();
        if is_end {
            self.download = Pump::over();
        }
        upstream.body = Some(body);
        if let Some(capture) = &mut self.capture {
            capture.response_head(parts.status.as_u16(), &head::fields(&parts.headers), is_end);
            if let Some(hold) = capture.hold_answer(is_end && self.upload.is_over()) {
                let held = Held::new(capture.shell(), &hold);
                self.waiting = Some(Box::new(Waiting::Answer { held, head: parts, is_end }));
                return self.turn_answer(cx);
            }
        }
        Poll::Ready(self.answer(parts, is_end))
    }
}

/// A [`Stream`] until it is over.
pub(super) struct Running {
    stream: Option<Stream>,
    /// When the connection is to look for stages.
    due: Rc<Cell<u64>>,
}

impl Running {
    pub fn new(stream: Stream, due: Rc<Cell<u64>>) -> Self {
        Self { stream: Some(stream), due }
    }

    fn capture(&mut self) -> Option<&mut StreamCapture<Recorder>> {
        self.stream.as_mut().and_then(|stream| stream.capture.as_mut())
    }

    fn waiting(&mut self) -> Option<&mut Held> {
        self.stream.as_mut().and_then(|stream| stream.waiting.as_deref_mut()).map(Waiting::held)
    }

    /// When to call [`Running::tick`], on the monotonic clock.
    pub fn due_ns(&mut self) -> u64 {
        let held_ns = self.waiting().map_or(NEVER_NS, |held| held.due_ns());
        self.capture().map_or(NEVER_NS, |capture| capture.due_ns()).min(held_ns)
    }

    /// Shows the stream if it has been open for long.
    pub fn tick(&mut self, now: Stamp) {
        if let Some(held) = self.waiting() {
            held.tick(now.mono_ns);
        }
        if let Some(capture) = self.capture() {
            capture.tick(now);
        }
    }

    /// Records it as ended so, whatever comes.
    pub fn end(&mut self, end: StreamEnd) {
        if let Some(capture) = self.stream.as_mut().and_then(|stream| stream.capture.take()) {
            capture.end(end);
        }
    }
}

impl Future for Running {
    /// `None` never comes: a future that is over is not asked again.
    type Output = Option<Finished>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let Poll::Ready(ending) = stream.turn(cx) else {
            let due_ns = self.due_ns();
            self.due.set(self.due.get().min(due_ns));
            return Poll::Pending;
        };
        let Some(mut stream) = self.stream.take() else { return Poll::Ready(None) };
        if let Some(capture) = stream.capture.take() {
            capture.end(ending.end);
        }
        let is_early_reset = stream.down.is_none() && matches!(ending.end, StreamEnd::ClientReset(_));
        let Ending { to_client, to_upstream, is_broken, .. } = ending;
        Poll::Ready(Some(Finished { stream, to_client, to_upstream, is_early_reset, is_broken }))
    }
}

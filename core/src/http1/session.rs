//! The machine of one connection pair: which byte belongs to which exchange, and when each of them ends.

use super::body::{Body, BodyStatus};
use super::gather::{Gather, Gathered};
use super::head::{Asked, Follows, with_request, with_response};
use super::{ConnSeq, End, HeadEdit, Limits, Observer, Refusal, RequestHead};
use memchr::memchr;
use std::collections::VecDeque;

const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const BAD_GATEWAY: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// What one call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Progress {
    /// Bytes of the input that were used. The rest must be fed again, as the start of the next input, once
    /// [`Session::wants_client`] (or [`Session::wants_upstream`]) is true.
    pub consumed: usize,
    /// What to do after the output was written.
    pub next: Next,
}

/// What to do with the sockets, after all output so far was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Go on.
    Continue,
    /// Close both sides gracefully: the client reads all that was written, then EOF. Every exchange has ended.
    Close,
    /// Reset the client's connection (RST), so that it cannot take a cut message for a whole one; close upstream. Every
    /// exchange has ended.
    Reset,
    /// Send FIN upstream; the client may still read.
    ShutdownUpstreamWrite,
    /// Send FIN to the client; it may still send.
    ShutdownClientWrite,
}

/// Where a connection stands: which deadline applies to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No exchange in flight, and nothing of a next one has come.
    Idle,
    /// In a request head; no exchange in flight.
    ClientHead,
    /// The oldest exchange waits for the rest of its request.
    ClientBody,
    /// The oldest exchange waits for its response.
    AwaitingResponse,
    /// In a response body.
    ResponseBody,
    /// A tunnel after 101, or 2xx to CONNECT.
    Tunnel,
    /// Over: the last verdict was [`Next::Close`] or [`Next::Reset`].
    Over,
}

/// One HTTP/1 connection from the client with its connection to the upstream.
///
/// Outputs are appended to. Memory: at most one partial head or line per direction (`head_bytes_max`), and
/// `pipelined_max` small entries; nothing is allocated per request once the buffers have grown.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    request: RequestState,
    response: ResponseState,
    from_client: Gather,
    from_upstream: Gather,
    /// Exchanges in flight, oldest first. All but the last have their request whole.
    queue: VecDeque<Exchange>,
    next_seq: ConnSeq,
    edit: HeadEdit,
    /// The one empty line that may come before a request line has gone by.
    empty_line_seen: bool,
    client_eof: bool,
    upstream_eof: bool,
    over: Option<Next>,
}

#[derive(Debug)]
enum RequestState {
    /// At or in a head.
    Head,
    /// In the body of the newest exchange.
    Body(Body),
    /// The newest exchange is a whole CONNECT or Upgrade request: nothing is read before its final answer.
    Held,
    /// The newest exchange is refused, or the client has sent all: nothing is read any more.
    Ended,
    Tunnel,
}

#[derive(Debug)]
enum ResponseState {
    /// At or in a head, if an exchange is in flight.
    Head,
    /// In the body of the oldest exchange's response.
    Body(Body),
    Tunnel,
}

#[derive(Debug)]
struct Exchange {
    seq: ConnSeq,
    asked: Asked,
    request_whole: bool,
    /// The final response head was forwarded.
    answered: bool,
    response_whole: bool,
    refused: Option<Refusal>,
}

impl Session {
    /// A new connection. `limits` of 0 count as 1.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            request: RequestState::Head,
            response: ResponseState::Head,
            from_client: Gather::default(),
            from_upstream: Gather::default(),
            queue: VecDeque::new(),
            next_seq: 0,
            edit: HeadEdit::default(),
            empty_line_seen: false,
            client_eof: false,
            upstream_eof: false,
            over: None,
        }
    }

    /// Whether bytes from the client would be used now. False at `pipelined_max`, behind a CONNECT or Upgrade request
    /// that has no final answer yet, behind a refused request, and when all is over. Asked before each read.
    pub fn wants_client(&self) -> bool {
        self.over.is_none()
            && !self.client_eof
            && match self.request {
                RequestState::Head => !self.upstream_eof && self.queue.len() < self.limits.pipelined_max.max(1),
                RequestState::Body(_) | RequestState::Tunnel => true,
                RequestState::Held | RequestState::Ended => false,
            }
    }

    /// Whether bytes from the upstream would be used now: always, until it has sent all or all is over.
    pub fn wants_upstream(&self) -> bool {
        self.over.is_none() && !self.upstream_eof
    }

    /// Number of exchanges that have begun and not ended.
    pub fn in_flight(&self) -> usize {
        self.queue.len()
    }

    /// Where the connection stands.
    pub fn phase(&self) -> Phase {
        match (&self.response, self.queue.front()) {
            _ if self.over.is_some() => Phase::Over,
            (ResponseState::Tunnel, _) => Phase::Tunnel,
            (ResponseState::Body(_), _) => Phase::ResponseBody,
            (_, Some(oldest)) if oldest.request_whole => Phase::AwaitingResponse,
            (_, Some(_)) => Phase::ClientBody,
            (_, None) if self.from_client.is_empty() => Phase::Idle,
            (_, None) => Phase::ClientHead,
        }
    }

    /// Bytes from the client. Appends what goes upstream to `to_upstream`, and what we answer ourselves to `to_client`.
    pub fn client_bytes<O: Observer>(
        &mut self,
        input: &[u8],
        obs: &mut O,
        to_upstream: &mut Vec<u8>,
        to_client: &mut Vec<u8>,
    ) -> Progress {
        let mut rest = input;
        while !rest.is_empty() && self.wants_client() {
            let used = match self.request {
                RequestState::Head => self.request_head(rest, obs, to_upstream, to_client),
                RequestState::Body(_) => self.request_body(rest, obs, to_upstream, to_client),
                RequestState::Tunnel => {
                    to_upstream.extend_from_slice(rest);
                    if let Some(exchange) = self.queue.front() {
                        obs.tunnel(exchange.seq, rest.len() as u64, 0);
                    }
                    rest.len()
                }
                RequestState::Held | RequestState::Ended => 0,
            };
            rest = rest.get(used..).unwrap_or_default();
        }
        if self.over.is_some() || matches!(self.request, RequestState::Ended) {
            rest = &[];
        }
        self.progress(input, rest)
    }

    /// Bytes from the upstream. Appends what goes to the client, our own answers among it, to `to_client`. When the bytes
    /// open a tunnel, what was gathered of the request and not yet forwarded goes to `to_upstream`. After it, bytes of
    /// the client that [`Session::client_bytes`] did not use may have become welcome: see [`Session::wants_client`].
    pub fn upstream_bytes<O: Observer>(
        &mut self,
        input: &[u8],
        obs: &mut O,
        to_client: &mut Vec<u8>,
        to_upstream: &mut Vec<u8>,
    ) -> Progress {
        let mut rest = input;
        while !rest.is_empty() && self.wants_upstream() {
            let used = match self.response {
                ResponseState::Tunnel => {
                    to_client.extend_from_slice(rest);
                    if let Some(exchange) = self.queue.front() {
                        obs.tunnel(exchange.seq, 0, rest.len() as u64);
                    }
                    rest.len()
                }
                ResponseState::Head => self.response_head(rest, obs, to_client, to_upstream),
                ResponseState::Body(_) => self.response_body(rest, obs, to_client),
            };
            rest = rest.get(used..).unwrap_or_default();
        }
        if self.over.is_some() || self.upstream_eof {
            rest = &[];
        }
        self.progress(input, rest)
    }

    /// The client has sent FIN. A cut request goes on upstream as a cut request: by FIN.
    pub fn client_eof<O: Observer>(&mut self, obs: &mut O) -> Next {
        if let Some(next) = self.over {
            return next;
        }
        if std::mem::replace(&mut self.client_eof, true) {
            return Next::Continue;
        }
        if let RequestState::Tunnel = self.request {
            return self.tunnel_eof(obs, self.upstream_eof, Next::ShutdownUpstreamWrite);
        }
        self.end_partial_head(obs, End::ClientGone);
        let was = std::mem::replace(&mut self.request, RequestState::Ended);
        if self.queue.front().is_none_or(|oldest| oldest.response_whole) {
            self.finish(obs, End::ClientGone, Next::Close);
            return Next::Close;
        }
        // Behind a refused request nothing is to be said upstream.
        if let RequestState::Ended = was { Next::Continue } else { Next::ShutdownUpstreamWrite }
    }

    /// The upstream has sent FIN: the end of a body that runs until then, otherwise of everything in flight. Our own
    /// answer to a refused request may follow in `to_client`.
    pub fn upstream_eof<O: Observer>(&mut self, obs: &mut O, to_client: &mut Vec<u8>) -> Next {
        if let Some(next) = self.over {
            return next;
        }
        if std::mem::replace(&mut self.upstream_eof, true) {
            return Next::Continue;
        }
        match self.response {
            ResponseState::Tunnel => return self.tunnel_eof(obs, self.client_eof, Next::ShutdownClientWrite),
            ResponseState::Body(Body::UntilEof) => self.response_is_whole(obs, to_client),
            _ => {}
        }
        if let Some(next) = self.over {
            return next;
        }
        match self.queue.front() {
            // An early answer: the upstream may still read what the client goes on sending.
            Some(oldest) if oldest.response_whole => Next::ShutdownClientWrite,
            oldest => {
                let is_cut_request = oldest.is_some_and(|oldest| self.client_eof && !oldest.request_whole);
                self.finish(obs, if is_cut_request { End::ClientGone } else { End::UpstreamGone }, Next::Close);
                Next::Close
            }
        }
    }

    /// Ends every exchange in flight with `end`; those whose response is whole end as [`End::Complete`], refused ones
    /// with their refusal. A head that had begun is told as an exchange too. After it the session is over; a second call
    /// does nothing. To be called whenever the shell stops before a verdict of [`Next::Close`] or [`Next::Reset`].
    pub fn abort<O: Observer>(&mut self, obs: &mut O, end: End) {
        if self.over.is_none() {
            self.finish(obs, end, Next::Reset);
        }
    }

    fn progress(&self, input: &[u8], rest: &[u8]) -> Progress {
        Progress { consumed: input.len().saturating_sub(rest.len()), next: self.over.unwrap_or(Next::Continue) }
    }

    // Requests.

    fn request_head<O: Observer>(
        &mut self,
        input: &[u8],
        obs: &mut O,
        to_upstream: &mut Vec<u8>,
        to_client: &mut Vec<u8>,
    ) -> usize {
        let used = match self.from_client.head(input, self.limits.head_bytes_max.max(1)) {
            Gathered::More => return input.len(),
            Gathered::Whole(used) => used,
            Gathered::BareLf => {
                self.refuse_head(Refusal::BareCrLfOrNul, obs, to_client);
                return input.len();
            }
            Gathered::TooLong => {
                self.refuse_head(Refusal::HeadTooLong, obs, to_client);
                return input.len();
            }
        };
        let gathered = self.from_client.take();
        let head = if gathered.is_empty() { input.get(..used).unwrap_or_default() } else { &gathered };
        if head == b"\r\n" && !self.empty_line_seen {
            self.empty_line_seen = true; // RFC 9112 section 2.2
            to_upstream.extend_from_slice(head);
        } else {
            self.empty_line_seen = false;
            self.whole_request_head(head, obs, to_upstream, to_client);
        }
        self.from_client.put_back(gathered);
        used
    }

    fn whole_request_head<O: Observer>(
        &mut self,
        head: &[u8],
        obs: &mut O,
        to_upstream: &mut Vec<u8>,
        to_client: &mut Vec<u8>,
    ) {
        let seq = self.next_seq;
        let edit = &mut self.edit;
        edit.clear();
        let parsed = with_request(head, &self.limits, |request, body| {
            obs.request_head(seq, request, edit);
            edit.write(head, request.fields, to_upstream);
            (asked_by(request), body)
        });
        match parsed {
            Err(refusal) => self.refuse_unparsed(head, refusal, obs, to_client),
            Ok((asked, body)) => {
                self.begin(asked, None);
                match body {
                    Some(body) => self.request = RequestState::Body(body),
                    None => self.request_is_whole(obs, to_client),
                }
            }
        }
    }

    fn request_body<O: Observer>(
        &mut self,
        input: &[u8],
        obs: &mut O,
        to_upstream: &mut Vec<u8>,
        to_client: &mut Vec<u8>,
    ) -> usize {
        let RequestState::Body(body) = &mut self.request else { return 0 };
        let fed = body.feed(input, &mut self.from_client, &self.limits, to_upstream);
        if let Some(newest) = self.queue.back()
            && fed.payload_bytes > 0
        {
            obs.request_body(newest.seq, fed.payload_bytes);
        }
        match fed.status {
            BodyStatus::More => {}
            BodyStatus::Whole => self.request_is_whole(obs, to_client),
            BodyStatus::Bad(refusal) => {
                self.request = RequestState::Ended;
                if let Some(newest) = self.queue.back_mut() {
                    newest.refused = Some(refusal);
                }
                self.settle(obs, to_client);
            }
        }
        fed.consumed
    }

    fn begin(&mut self, asked: Asked, refused: Option<Refusal>) {
        let seq = self.next_seq;
        self.next_seq = seq.saturating_add(1);
        self.queue.push_back(Exchange {
            seq,
            asked,
            request_whole: false,
            answered: false,
            response_whole: false,
            refused,
        });
    }

    fn request_is_whole<O: Observer>(&mut self, obs: &mut O, to_client: &mut Vec<u8>) {
        self.request = RequestState::Head;
        let Some(newest) = self.queue.back_mut() else { return };
        newest.request_whole = true;
        obs.request_end(newest.seq);
        if newest.response_whole {
            self.pop_complete(obs, to_client);
        } else if newest.asked.switch && !newest.answered {
            self.request = RequestState::Held;
        }
    }

    /// Refuses a head of which not even the end was found.
    fn refuse_head<O: Observer>(&mut self, refusal: Refusal, obs: &mut O, to_client: &mut Vec<u8>) {
        let gathered = self.from_client.take();
        self.refuse_unparsed(&gathered, refusal, obs, to_client);
        self.from_client.put_back(gathered);
    }

    fn refuse_unparsed<O: Observer>(&mut self, head: &[u8], refusal: Refusal, obs: &mut O, to_client: &mut Vec<u8>) {
        obs.request_unparsed(self.next_seq, first_line(head));
        self.begin(Asked { head_method: false, connect_method: false, switch: false }, Some(refusal));
        self.request = RequestState::Ended;
        self.from_client.clear();
        self.settle(obs, to_client);
    }

    // Responses.

    fn response_head<O: Observer>(
        &mut self,
        input: &[u8],
        obs: &mut O,
        to_client: &mut Vec<u8>,
        to_upstream: &mut Vec<u8>,
    ) -> usize {
        let asked = match self.queue.front() {
            Some(oldest) if !oldest.response_whole => oldest.asked,
            // Nobody asked (Refusal::UnsolicitedResponse): none of it is forwarded, and what was answered stands.
            _ => {
                self.finish(obs, End::ResponseRefused(Refusal::UnsolicitedResponse), Next::Close);
                return input.len();
            }
        };
        let used = match self.from_upstream.head(input, self.limits.head_bytes_max.max(1)) {
            Gathered::More => return input.len(),
            Gathered::Whole(used) => used,
            Gathered::BareLf => {
                self.refuse_response(Refusal::BareCrLfOrNul, obs, to_client);
                return input.len();
            }
            Gathered::TooLong => {
                self.refuse_response(Refusal::HeadTooLong, obs, to_client);
                return input.len();
            }
        };
        let gathered = self.from_upstream.take();
        let head = if gathered.is_empty() { input.get(..used).unwrap_or_default() } else { &gathered };
        self.whole_response_head(head, asked, obs, to_client, to_upstream);
        self.from_upstream.put_back(gathered);
        used
    }

    fn whole_response_head<O: Observer>(
        &mut self,
        head: &[u8],
        asked: Asked,
        obs: &mut O,
        to_client: &mut Vec<u8>,
        to_upstream: &mut Vec<u8>,
    ) {
        let Some(oldest) = self.queue.front_mut() else { return };
        let parsed = with_response(head, &self.limits, asked, |response, follows| {
            obs.response_head(oldest.seq, response);
            follows
        });
        match parsed {
            Err(refusal) => return self.refuse_response(refusal, obs, to_client),
            Ok(Follows::Interim) => return to_client.extend_from_slice(head),
            Ok(follows) => {
                to_client.extend_from_slice(head);
                oldest.answered = true;
                match follows {
                    Follows::Tunnel => return self.open_tunnel(to_upstream),
                    Follows::Body(body) => self.response = ResponseState::Body(body),
                    Follows::Nothing | Follows::Interim => self.response_is_whole(obs, to_client),
                }
            }
        }
        // The upstream refused to switch: what the client sent behind the request is read as HTTP/1 again. Only the
        // newest exchange can be held, and it was answered only now if it is also the oldest.
        if let RequestState::Held = self.request
            && self.queue.back().is_none_or(|newest| newest.answered)
        {
            self.request = RequestState::Head;
        }
    }

    fn response_body<O: Observer>(&mut self, input: &[u8], obs: &mut O, to_client: &mut Vec<u8>) -> usize {
        let ResponseState::Body(body) = &mut self.response else { return 0 };
        let fed = body.feed(input, &mut self.from_upstream, &self.limits, to_client);
        if let Some(oldest) = self.queue.front()
            && fed.payload_bytes > 0
        {
            obs.response_body(oldest.seq, fed.payload_bytes);
        }
        match fed.status {
            BodyStatus::More => {}
            BodyStatus::Whole => self.response_is_whole(obs, to_client),
            BodyStatus::Bad(refusal) => self.refuse_response(refusal, obs, to_client),
        }
        fed.consumed
    }

    fn open_tunnel(&mut self, to_upstream: &mut Vec<u8>) {
        to_upstream.extend_from_slice(self.from_client.bytes());
        self.from_client.clear();
        self.request = RequestState::Tunnel;
        self.response = ResponseState::Tunnel;
    }

    fn response_is_whole<O: Observer>(&mut self, obs: &mut O, to_client: &mut Vec<u8>) {
        self.response = ResponseState::Head;
        let Some(oldest) = self.queue.front_mut() else { return };
        oldest.response_whole = true;
        // A request that is cut, or still coming: the exchange stays until its request is whole or a side is gone.
        if oldest.request_whole || self.client_eof {
            self.pop_complete(obs, to_client);
        }
    }

    /// 502 if nothing of this response has left, reset otherwise.
    fn refuse_response<O: Observer>(&mut self, refusal: Refusal, obs: &mut O, to_client: &mut Vec<u8>) {
        let next = match self.queue.pop_front() {
            Some(oldest) => {
                obs.exchange_end(oldest.seq, End::ResponseRefused(refusal));
                if oldest.answered {
                    Next::Reset
                } else {
                    to_client.extend_from_slice(BAD_GATEWAY);
                    Next::Close
                }
            }
            None => Next::Close,
        };
        self.finish(obs, End::UpstreamGone, next);
    }

    // Ends.

    fn pop_complete<O: Observer>(&mut self, obs: &mut O, to_client: &mut Vec<u8>) {
        if let Some(oldest) = self.queue.pop_front() {
            obs.exchange_end(oldest.seq, End::Complete);
        }
        self.settle(obs, to_client);
    }

    /// Answers a refused request whose turn has come; ends a connection on which nothing more can happen.
    fn settle<O: Observer>(&mut self, obs: &mut O, to_client: &mut Vec<u8>) {
        match self.queue.front() {
            Some(Exchange { refused: Some(_), answered: true, .. }) => {
                self.finish(obs, End::ClientGone, Next::Reset);
            }
            Some(Exchange { refused: Some(_), .. }) => {
                to_client.extend_from_slice(BAD_REQUEST);
                self.finish(obs, End::ClientGone, Next::Close);
            }
            None if self.client_eof => self.finish(obs, End::ClientGone, Next::Close),
            None if self.upstream_eof => self.finish(obs, End::UpstreamGone, Next::Close),
            _ => {}
        }
    }

    fn tunnel_eof<O: Observer>(&mut self, obs: &mut O, other_is_done: bool, half: Next) -> Next {
        if !other_is_done {
            return half;
        }
        self.finish(obs, End::TunnelClosed, Next::Close);
        Next::Close
    }

    /// A head that was begun and will not be whole is told as an exchange that ended so.
    fn end_partial_head<O: Observer>(&mut self, obs: &mut O, end: End) {
        if let RequestState::Head = self.request
            && !matches!(self.from_client.bytes(), b"" | b"\r")
        {
            obs.request_unparsed(self.next_seq, first_line(self.from_client.bytes()));
            obs.exchange_end(self.next_seq, end);
            self.next_seq = self.next_seq.saturating_add(1);
            self.from_client.clear();
        }
    }

    /// Ends everything, in order.
    fn finish<O: Observer>(&mut self, obs: &mut O, end: End, next: Next) {
        for exchange in self.queue.drain(..) {
            let end = match exchange.refused {
                Some(refusal) => End::RequestRefused(refusal),
                None if exchange.response_whole => End::Complete,
                None => end,
            };
            obs.exchange_end(exchange.seq, end);
        }
        self.end_partial_head(obs, end);
        self.from_client.clear();
        self.from_upstream.clear();
        self.over = Some(next);
    }
}

fn asked_by(request: &RequestHead<'_>) -> Asked {
    let connect_method = request.method == "CONNECT";
    // Any `Upgrade` field counts, nominated in `Connection` or not: waiting costs nothing, and what a server makes of a
    // lone `Upgrade` is not known.
    let upgrade = || request.fields.iter().any(|field| field.name.eq_ignore_ascii_case("upgrade"));
    Asked { head_method: request.method == "HEAD", connect_method, switch: connect_method || upgrade() }
}

/// The first line without its end, or all when none has ended.
fn first_line(bytes: &[u8]) -> &[u8] {
    let line = memchr(b'\n', bytes).and_then(|at| bytes.get(..at)).unwrap_or(bytes);
    line.strip_suffix(b"\r").unwrap_or(line)
}

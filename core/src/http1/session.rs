//! The machine of one connection pair: which byte belongs to which exchange, and when each of them ends.

mod ends;
mod requests;
mod responses;

use super::body::Body;
use super::gather::Gather;
use super::head::Asked;
use super::{ConnSeq, End, HeadEdit, Limits, Observer, Refusal};
use memchr::memchr;
use std::collections::VecDeque;

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
    /// A new connection. `head_bytes_max` and `pipelined_max` of 0 count as 1.
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
}

/// The first line without its end, or all when none has ended.
fn first_line(bytes: &[u8]) -> &[u8] {
    let line = memchr(b'\n', bytes).and_then(|at| bytes.get(..at)).unwrap_or(bytes);
    line.strip_suffix(b"\r").unwrap_or(line)
}

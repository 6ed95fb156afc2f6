//! How exchanges end: each exactly once (EV-1), the oldest first.

use super::{Exchange, Next, RequestState, Session, first_line};
use crate::http1::{ConnSeq, End, Observer, Refusal};

const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

impl Session {
    /// What was held back of the requests from this one on is not to go upstream: they are refused with 503 in their turn.
    pub fn refuse_requests<O: Observer>(&mut self, from: ConnSeq, obs: &mut O, to_client: &mut Vec<u8>) -> Next {
        for exchange in self.queue.iter_mut().filter(|exchange| exchange.seq >= from) {
            exchange.refused.get_or_insert(Refusal::AuditFailed);
        }
        if self.over.is_none() {
            self.request = RequestState::Ended;
            self.from_client.clear();
            self.settle(obs, to_client);
        }
        self.over.unwrap_or(Next::Continue)
    }

    /// What was held back of the answers is not to go to the client: it gets 503, and everything in flight ends.
    pub fn refuse_answers<O: Observer>(&mut self, obs: &mut O, to_client: &mut Vec<u8>) -> Next {
        if let Some(oldest) = self.queue.front() {
            obs.answered(oldest.seq, 503, to_client.len());
        }
        to_client.extend_from_slice(UNAVAILABLE);
        if self.over.is_none() {
            self.finish(obs, End::ResponseRefused(Refusal::AuditFailed), Next::Close);
        }
        self.over.unwrap_or(Next::Close)
    }

    pub(super) fn pop_complete<O: Observer>(&mut self, obs: &mut O, to_client: &mut Vec<u8>) {
        if let Some(oldest) = self.queue.pop_front() {
            obs.exchange_end(oldest.seq, End::Complete);
        }
        self.settle(obs, to_client);
    }

    /// Answers a refused request whose turn has come; ends a connection on which nothing more can happen.
    pub(super) fn settle<O: Observer>(&mut self, obs: &mut O, to_client: &mut Vec<u8>) {
        match self.queue.front() {
            Some(Exchange { refused: Some(_), answered: true, .. }) => {
                self.finish(obs, End::ClientGone, Next::Reset);
            }
            Some(Exchange { seq, refused: Some(refusal), .. }) => {
                let (status, answer) = match refusal {
                    Refusal::AuditFailed => (503, UNAVAILABLE),
                    _ => (400, BAD_REQUEST),
                };
                obs.answered(*seq, status, to_client.len());
                to_client.extend_from_slice(answer);
                self.finish(obs, End::ClientGone, Next::Close);
            }
            None if self.client_eof => self.finish(obs, End::ClientGone, Next::Close),
            None if self.upstream_eof => self.finish(obs, End::UpstreamGone, Next::Close),
            _ => {}
        }
    }

    pub(super) fn tunnel_eof<O: Observer>(&mut self, obs: &mut O, other_is_done: bool, half: Next) -> Next {
        if !other_is_done {
            return half;
        }
        self.finish(obs, End::TunnelClosed, Next::Close);
        Next::Close
    }

    /// A head that was begun and will not be whole is told as an exchange that ended so.
    pub(super) fn end_partial_head<O: Observer>(&mut self, obs: &mut O, end: End) {
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
    pub(super) fn finish<O: Observer>(&mut self, obs: &mut O, end: End, next: Next) {
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

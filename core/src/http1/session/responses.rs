//! From the upstream: heads and bodies of responses.

use super::{Next, RequestState, ResponseState, Session};
use crate::http1::body::BodyStatus;
use crate::http1::gather::Gathered;
use crate::http1::head::{Asked, Follows, with_response};
use crate::http1::{End, Observer, Refusal};

const BAD_GATEWAY: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

impl Session {
    pub(super) fn response_head<O: Observer>(
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
        let at = to_client.len();
        let parsed = with_response(head, &self.limits, asked, |response, follows| {
            obs.response_head(oldest.seq, response, at);
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

    pub(super) fn response_body<O: Observer>(&mut self, input: &[u8], obs: &mut O, to_client: &mut Vec<u8>) -> usize {
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

    pub(super) fn response_is_whole<O: Observer>(&mut self, obs: &mut O, to_client: &mut Vec<u8>) {
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
                if !oldest.answered {
                    obs.answered(oldest.seq, 502, to_client.len());
                }
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
}

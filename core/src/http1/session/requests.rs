//! From the client: heads and bodies of requests.

use super::{Exchange, RequestState, Session, first_line};
use crate::http1::body::BodyStatus;
use crate::http1::gather::Gathered;
use crate::http1::head::{Asked, with_request};
use crate::http1::{Observer, Refusal, RequestHead};

impl Session {
    pub(super) fn request_head<O: Observer>(
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
        edit.clear(to_upstream.len());
        let parsed = with_request(head, &self.limits, |request, body| {
            obs.request_head(seq, request, edit);
            if !edit.is_refused() {
                edit.write(head, request.fields, to_upstream);
            }
            (asked_by(request), body)
        });
        match parsed {
            Err(refusal) => self.refuse_unparsed(head, refusal, obs, to_client),
            Ok((asked, _)) if self.edit.is_refused() => {
                self.begin(asked, Some(Refusal::AuditFailed));
                self.request = RequestState::Ended;
                self.settle(obs, to_client);
            }
            Ok((asked, body)) => {
                self.begin(asked, None);
                match body {
                    Some(body) => self.request = RequestState::Body(body),
                    None => self.request_is_whole(obs, to_client),
                }
            }
        }
    }

    pub(super) fn request_body<O: Observer>(
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
}

fn asked_by(request: &RequestHead<'_>) -> Asked {
    let connect_method = request.method == "CONNECT";
    // Any `Upgrade` field counts, nominated in `Connection` or not: waiting costs nothing, and what a server makes of a
    // lone `Upgrade` is not known.
    let upgrade = || request.fields.iter().any(|field| field.name.eq_ignore_ascii_case("upgrade"));
    Asked { head_method: request.method == "HEAD", connect_method, switch: connect_method || upgrade() }
}

//! The two connections of a pair, and the streams between them.

use super::super::alarm::Waits;
use super::ending::upstream_failed;
use super::io::{Io, Side};
use super::limits::EARLY_RESETS_MAX;
use super::stream::{Finished, Running, Stream};
use crate::data::Recorder;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, client, server};
use http::Request;
use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use testimony_core::capture::{ConnFacts, NEVER_NS, OpaqueCapture, OpaqueEnd, StreamCapture, StreamEnd, StreamRequest};
use testimony_core::http2::{Seen, error_name};
use testimony_core::record::Stamp;

/// Most streams that are known to have begun and not handed over by the library yet.
const BEGUN_MAX: usize = 4096;

/// The refusal of a request that the library answers with 431.
const HEADER_LIST_TOO_LONG: &str = "header_list_too_long";

/// A pair of connections.
pub(super) struct Pair {
    client: server::Connection<Io, Bytes>,
    client_side: Side,
    upstream: Option<client::Connection<Io, Bytes>>,
    upstream_side: Side,
    /// `None` once the client is gone: the server's connection ends with its last stream.
    sender: Option<SendRequest<Bytes>>,
    streams: FuturesUnordered<Running>,
    finished: Vec<Finished>,
    broken: Vec<Finished>,
    /// Streams of which a HEADERS frame came, and that the library has neither handed over nor refused.
    begun: VecDeque<u32>,
    facts: Facts,
    going: Going,
    early_resets: Resets,
    /// No stage of a stream is due before; streams that are due earlier say so here.
    due: Rc<Cell<u64>>,
}

/// What the records of the pair have in common.
pub(super) struct Facts {
    pub conn: ConnFacts,
    pub recorder: Recorder,
    pub start: Stamp,
    /// Exchanges so far.
    pub exchanges: u64,
}

/// How far the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Going {
    No,
    /// GOAWAY went to the client; streams finish.
    Gracefully,
    /// The client's connection is told its end and closed.
    Now,
    /// The client is gone; the server is told.
    ClientGone,
}

/// Streams within the window of [`EARLY_RESETS_MAX`].
#[derive(Default)]
struct Resets {
    opened: u32,
    early: u32,
}

impl Pair {
    pub fn new(
        client: (server::Connection<Io, Bytes>, Side),
        upstream: (client::Connection<Io, Bytes>, Side),
        sender: SendRequest<Bytes>,
        facts: Facts,
    ) -> Self {
        Self {
            client: client.0,
            client_side: client.1,
            upstream: Some(upstream.0),
            upstream_side: upstream.1,
            sender: Some(sender),
            streams: FuturesUnordered::new(),
            finished: Vec::new(),
            broken: Vec::new(),
            begun: VecDeque::new(),
            facts,
            going: Going::No,
            early_resets: Resets::default(),
            due: Rc::new(Cell::new(NEVER_NS)),
        }
    }

    /// Whether anything moved since the last call.
    pub fn take_moved(&self) -> bool {
        // Both are asked, so that both are cleared.
        let (client, upstream) = (self.client_side.take_moved(), self.upstream_side.take_moved());
        client || upstream
    }

    /// What the pair's alarm is set for. Resets are counted while streams come and go: then it rings often.
    pub fn waits(&self) -> Waits {
        Waits::new(self.due.get(), self.is_in_head() || self.is_lingering() || self.early_resets.early > 0)
    }

    /// Shows the streams that have been open for long.
    pub fn tick(&mut self, now: Stamp) {
        if now.mono_ns < self.due.get() {
            return;
        }
        let mut due_ns = NEVER_NS;
        for running in self.streams.iter_mut() {
            running.tick(now);
            due_ns = due_ns.min(running.due_ns());
        }
        self.due.set(due_ns);
    }

    /// The client is in the middle of a header block.
    pub fn is_in_head(&self) -> bool {
        self.client_side.is_in_head()
    }

    /// No new streams are to come: what is left must end soon.
    pub fn is_lingering(&self) -> bool {
        matches!(self.going, Going::Now | Going::ClientGone)
            || self.going == Going::Gracefully && self.streams.is_empty()
    }

    /// Everything ends at once, because nothing moved for too long.
    pub fn time_out(&mut self) {
        for running in self.streams.iter_mut() {
            running.end(StreamEnd::TimedOut);
        }
        self.abort();
    }

    /// Both sides see a reset when the pair is dropped; streams under way are recorded as drained.
    pub fn abort(&mut self) {
        self.client_side.reset_on_close(true);
        self.upstream_side.reset_on_close(true);
    }

    /// A window of time is over.
    pub fn forget_resets(&mut self) {
        self.early_resets = Resets::default();
    }

    /// The connection ended so; it is a record of its own where no exchange tells it.
    pub fn ended(&mut self, end: OpaqueEnd) {
        if self.facts.exchanges == 0 {
            self.facts.record(end);
        }
    }

    /// Finishes what is under way and takes nothing new.
    pub fn drain(&mut self) {
        if self.going == Going::No {
            self.going = Going::Gracefully;
            self.client.graceful_shutdown();
        }
    }

    /// Moves what can be moved. Ready: the pair is over.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.going != Going::ClientGone
                && let Some(end) = self.poll_client(cx)
            {
                self.client_ended(end);
            }
            if let Some(upstream) = &mut self.upstream
                && let Poll::Ready(end) = Pin::new(upstream).poll(cx)
            {
                self.upstream = None;
                self.upstream_ended(end);
            }
            self.look_upstream();
            // What these sent before is on its way now.
            let mut moved = !self.finished.is_empty();
            for finished in self.finished.drain(..) {
                finished.reset();
            }
            while let Poll::Ready(Some(finished)) = self.streams.poll_next_unpin(cx) {
                moved = true;
                self.stream_ended(finished);
            }
            if self.going == Going::ClientGone && self.streams.is_empty() && self.finished.is_empty() {
                moved |= self.sender.take().is_some();
                if self.upstream.is_none() {
                    return Poll::Ready(());
                }
            }
            if !moved && !self.close_client() {
                return Poll::Pending;
            }
        }
    }

    /// Takes new streams. Some: the client's connection is over.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Option<Result<(), h2::Error>> {
        let mut end = None;
        while let Poll::Ready(accepted) = self.client.poll_accept(cx) {
            match accepted {
                Some(Ok((request, respond))) => self.begin(request, respond),
                Some(Err(error)) => end = Some(Err(error)),
                None => end = Some(Ok(())),
            }
            if end.is_some() {
                break;
            }
        }
        self.look_client();
        end
    }

    fn begin(&mut self, request: Request<RecvStream>, respond: server::SendResponse<Bytes>) {
        // What came in before this one was handed over.
        self.look_begun();
        let id = respond.stream_id().as_u32();
        self.begun.retain(|begun| *begun != id);
        let seq = self.facts.next();
        let (recorder, conn) = (self.facts.recorder.clone(), self.facts.conn.clone());
        let stream = Stream::begin(request, respond, self.sender.as_ref(), recorder, conn, seq);
        self.streams.push(Running::new(stream, self.due.clone()));
        self.early_resets.opened = self.early_resets.opened.saturating_add(1);
    }

    fn look_begun(&mut self) {
        for seen in self.client_side.take_read() {
            if let Seen::Headers(id) = seen
                && self.begun.back().is_none_or(|last| *last < id)
                && id % 2 == 1
            {
                if self.begun.len() >= BEGUN_MAX {
                    self.begun.pop_front();
                }
                self.begun.push_back(id);
            }
        }
    }

    /// Records the streams that the library refused by itself.
    fn look_client(&mut self) {
        self.look_begun();
        for seen in self.client_side.take_written() {
            let (id, why) = match seen {
                Seen::Reset { stream, code: 7 } => (stream, "refused_stream"),
                Seen::Reset { stream, code: 1 } => (stream, "malformed_request"),
                Seen::Reset { stream, code } => (stream, error_name(code)),
                // An answer that nobody gave: 431.
                Seen::Headers(stream) => (stream, HEADER_LIST_TOO_LONG),
                _ => continue,
            };
            if let Some(at) = self.begun.iter().position(|begun| *begun == id) {
                self.begun.remove(at);
                self.facts.refused_stream(why);
            }
        }
    }

    /// A server that goes away gracefully: the client is told, what is under way finishes.
    fn look_upstream(&mut self) {
        let goes = |seen: &Seen| matches!(seen, Seen::GoAway { code: 0, .. });
        if self.upstream_side.take_read().iter().any(goes) {
            self.drain();
        }
        // Nothing of this is looked at.
        drop(self.upstream_side.take_written());
    }

    fn client_ended(&mut self, end: Result<(), h2::Error>) {
        self.going = Going::ClientGone;
        if let Err(error) = end
            && let Some(reason) = error.reason().filter(|_| error.is_library())
        {
            self.facts.refused_connection(error_name(reason.into()));
        }
    }

    fn upstream_ended(&mut self, end: Result<(), h2::Error>) {
        if self.going == Going::ClientGone {
            return;
        }
        let failed = end.err().and_then(|error| error.reason().map(|reason| (error, reason)));
        match failed {
            Some((error, reason)) if reason != Reason::NO_ERROR => {
                // What fails next is the client's side of each stream, which would tell it as the client's doing.
                let end = upstream_failed(&error).end;
                for running in self.streams.iter_mut() {
                    running.end(end);
                }
                self.going = Going::Now;
                self.client.abrupt_shutdown(reason);
            }
            _ => self.drain(),
        }
    }

    fn stream_ended(&mut self, finished: Option<Finished>) {
        let Some(finished) = finished else { return };
        if finished.is_early_reset {
            self.early_resets.early = self.early_resets.early.saturating_add(1);
        }
        let Resets { opened, early } = self.early_resets;
        if early > EARLY_RESETS_MAX && early.saturating_mul(2) > opened && self.going != Going::Now {
            self.going = Going::Now;
            self.facts.refused_connection("rapid_reset");
            self.client.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
        if finished.is_broken { self.broken.push(finished) } else { self.finished.push(finished) }
    }

    /// The server's connection broke: once all streams know, and what they sent is on its way, the client's connection ends
    /// too. True: it was told so just now.
    fn close_client(&mut self) -> bool {
        let ends = self.upstream.is_none()
            && !self.broken.is_empty()
            && self.streams.is_empty()
            && matches!(self.going, Going::No | Going::Gracefully);
        if ends {
            self.going = Going::Now;
            self.client.abrupt_shutdown(Reason::NO_ERROR);
            self.broken.clear();
        }
        ends
    }
}

impl Facts {
    fn next(&mut self) -> u64 {
        let seq = self.exchanges;
        self.exchanges = self.exchanges.saturating_add(1);
        seq
    }

    /// A stream that never became a request.
    fn refused_stream(&mut self, why: &'static str) {
        let head = StreamRequest { method: "", scheme: "", authority: "", path: "", fields: &[] };
        let seq = self.next();
        let (mut capture, _) = StreamCapture::begin(self.recorder.clone(), self.conn.clone(), seq, &head);
        if why == HEADER_LIST_TOO_LONG {
            capture.answered(431);
        }
        capture.end(StreamEnd::RequestRefused(why));
    }

    /// A connection that breaks the protocol.
    fn refused_connection(&mut self, why: &'static str) {
        self.record(OpaqueEnd::Refused(why));
    }

    /// A record of the connection itself.
    pub fn record(&mut self, end: OpaqueEnd) {
        let seq = self.next();
        let capture = OpaqueCapture::new(self.recorder.clone(), self.conn.clone(), self.start, "http/2");
        capture.numbered(seq).finish(end);
    }
}

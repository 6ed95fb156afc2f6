//! The relay of one connection pair: moves bytes between two sockets through a [`Flow`], with backpressure, half-close and
//! resets carried across.

use super::channel::Channel;
use super::flow::{Detect, Flow, Lost};
use super::hold::{Held, Verdict};
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use testimony_core::capture::Hold;
use testimony_core::http1::{Next, Progress};
use testimony_core::record::Stamp;
use tokio::net::TcpStream;

/// Bytes read at once; one buffer for each data thread, none for each connection.
const READ_BYTES: usize = 64 * 1024;

/// Bytes that are read and dropped after a refusal, so that the client reads the answer before it sees a reset.
const LINGER_BYTES_MAX: usize = 256 * 1024;

struct Scratch {
    read: Box<[u8]>,
    up: Vec<u8>,
    down: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        read: vec![0; READ_BYTES].into_boxed_slice(),
        up: Vec::new(),
        down: Vec::new(),
    });
}

pub(super) type Dial = Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>;

enum Upstream {
    Dialing { dial: Dial, pending: Vec<u8>, shutdown: bool },
    Open(Channel),
}

/// A connection pair.
pub(super) struct Relay {
    client: Channel,
    upstream: Upstream,
    flow: Flow,
    /// Bytes from the client that the flow could not take yet.
    client_left: Vec<u8>,
    draining: bool,
    /// Bytes to drop before a refused connection is closed.
    linger: Option<usize>,
    /// What waits for a durable record on its way to the upstream (T2), and to the client (T1).
    held_up: Option<Box<Held>>,
    held_down: Option<Box<Held>>,
    /// Whether anything moved since [`Relay::take_activity`].
    active: bool,
}

/// A pair that goes on as HTTP/2.
pub(super) struct Handoff {
    pub client: TcpStream,
    pub upstream: Dial,
    pub detect: Box<Detect>,
}

/// The pair is over.
struct Over;
type Step<T> = Result<T, Over>;

impl Relay {
    pub fn new(client: TcpStream, dial: Dial, flow: Flow) -> Self {
        Self {
            client: Channel::new(client),
            upstream: Upstream::Dialing { dial, pending: Vec::new(), shutdown: false },
            flow,
            client_left: Vec::new(),
            draining: false,
            linger: None,
            held_up: None,
            held_down: None,
            active: false,
        }
    }

    /// From now on the pair is closed as soon as nothing is under way.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether anything moved since the last call.
    pub fn take_activity(&mut self) -> bool {
        std::mem::replace(&mut self.active, false)
    }

    /// When to call [`Relay::tick`], on the monotonic clock.
    pub fn due_ns(&self) -> u64 {
        let held = [&self.held_up, &self.held_down].into_iter().flatten().map(|held| held.due_ns()).min();
        held.map_or(self.flow.due_ns(), |due_ns| due_ns.min(self.flow.due_ns()))
    }

    /// Shows what has been open for long.
    pub fn tick(&mut self, now: Stamp) {
        for held in [&mut self.held_up, &mut self.held_down].into_iter().flatten() {
            held.tick(now.mono_ns);
        }
        let (mut up, mut down) = (Vec::new(), Vec::new());
        self.flow.tick(now, &mut up, &mut down);
        // Written at the next poll.
        let (up, down) = self.hold(&up, &down);
        self.client.queue(down);
        if let Upstream::Open(upstream) = &mut self.upstream {
            upstream.queue(up);
        }
    }

    /// The client is in the middle of a head.
    pub fn is_in_head(&self) -> bool {
        self.flow.is_in_head()
    }

    /// A last answer was given; the client is only waited for.
    pub fn is_lingering(&self) -> bool {
        self.linger.is_some()
    }

    /// Ends the pair at once: the client sees a reset.
    pub fn abort(&mut self, why: Lost) {
        self.flow.lost(why);
        self.client.reset_on_close();
        self.reset_upstream();
    }

    /// What the client spoke turned out to be HTTP/2: both sockets, with the bytes so far. Nothing of these has been passed on.
    pub fn into_http2(self) -> Option<Handoff> {
        let Flow::Http2(detect) = self.flow else { return None };
        let upstream = match self.upstream {
            Upstream::Dialing { dial, .. } => dial,
            Upstream::Open(channel) => Box::pin(std::future::ready(Ok(channel.into_stream()))),
        };
        Some(Handoff { client: self.client.into_stream(), upstream, detect })
    }

    /// Moves bytes until nothing more moves. Ready: the pair is over, or HTTP/2 ([`Relay::into_http2`]).
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                match self.turn(cx, scratch) {
                    Err(Over) => return Poll::Ready(()),
                    Ok(true) => self.active = true,
                    Ok(false) => return Poll::Pending,
                }
            }
        })
    }

    /// One round. True: something moved.
    fn turn(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Step<bool> {
        if let Flow::Over = self.flow {
            // It was refused between two looks.
            self.client.reset_on_close();
            self.reset_upstream();
            return Err(Over);
        }
        let mut moved = self.dial(cx)?;
        moved |= self.flush(cx)?;
        if self.held_up.is_some() || self.held_down.is_some() {
            moved |= self.release(cx)?;
        }
        if self.linger.is_some() {
            return Ok(self.linger(cx, scratch)? || moved);
        }
        if self.draining && self.flow.is_idle() && self.client.is_flushed() && self.held_down.is_none() {
            self.flow.lost(Lost::Drained);
            return Err(Over);
        }
        moved |= self.pump_client(cx, scratch)?;
        if let Flow::Http2(_) = self.flow {
            return Err(Over);
        }
        if self.linger.is_none() {
            moved |= self.pump_upstream(cx, scratch)?;
        }
        let upstream_over = matches!(&self.upstream, Upstream::Open(up) if up.read_closed && up.write_over());
        if upstream_over && self.client.read_closed && self.client.write_over() {
            self.flow.closed();
            return Err(Over);
        }
        Ok(moved)
    }

    fn dial(&mut self, cx: &mut Context<'_>) -> Step<bool> {
        let Upstream::Dialing { dial, pending, shutdown } = &mut self.upstream else { return Ok(false) };
        match dial.as_mut().poll(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(stream)) => {
                self.flow.connected(stream.local_addr().ok());
                self.upstream = Upstream::Open(Channel::with_pending(stream, std::mem::take(pending), *shutdown));
                Ok(true)
            }
            Poll::Ready(Err(_)) => {
                // The client's connect succeeded before this one did; a refusal becomes a reset.
                self.flow.lost(Lost::Upstream);
                self.client.reset_on_close();
                Err(Over)
            }
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Step<bool> {
        let mut moved = false;
        if let Upstream::Open(up) = &mut self.upstream {
            match up.flush(cx) {
                Ok(any) => moved |= any,
                Err(_) => self.upstream_write_failed()?,
            }
        }
        match self.client.flush(cx) {
            Ok(any) => Ok(moved | any),
            Err(_) => self.client_lost(),
        }
    }

    fn pump_client(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Step<bool> {
        if self.held_up.is_some() || !self.upstream_accepts() || !self.client.accepts() || !self.flow.wants_client() {
            return Ok(false);
        }
        let Scratch { read, up, down } = scratch;
        up.clear();
        down.clear();
        if !self.client_left.is_empty() {
            let left = std::mem::take(&mut self.client_left);
            let progress = self.flow.client_bytes(&left, up, down);
            self.client_left = left.get(progress.consumed..).unwrap_or_default().to_vec();
            self.settle(cx, progress.next, up, down)?;
            return Ok(progress.consumed > 0);
        }
        if self.client.read_closed {
            return Ok(false);
        }
        let next = match self.client.read(cx, read) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(_)) => return self.client_lost(),
            Poll::Ready(Ok(0)) => self.flow.client_eof(up, down),
            Poll::Ready(Ok(count)) => {
                let input = read.get(..count).unwrap_or_default();
                let Progress { consumed, next } = self.flow.client_bytes(input, up, down);
                self.client_left.extend_from_slice(input.get(consumed..).unwrap_or_default());
                next
            }
        };
        self.settle(cx, next, up, down)?;
        Ok(true)
    }

    fn pump_upstream(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Step<bool> {
        let Upstream::Open(upstream) = &mut self.upstream else { return Ok(false) };
        if self.held_down.is_some() || !self.client.accepts() || !upstream.accepts() || !self.flow.wants_upstream() {
            return Ok(false);
        }
        let Scratch { read, up, down } = scratch;
        up.clear();
        down.clear();
        if upstream.read_closed {
            return Ok(false);
        }
        let next = match upstream.read(cx, read) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(_)) => {
                self.flow.lost(Lost::Upstream);
                self.client.reset_on_close();
                return Err(Over);
            }
            Poll::Ready(Ok(0)) => self.flow.upstream_eof(up, down),
            Poll::Ready(Ok(count)) => self.flow.upstream_bytes(read.get(..count).unwrap_or_default(), up, down),
        };
        self.settle(cx, next, up, down)?;
        Ok(true)
    }

    /// Keeps back what waits for a record; gives what may go now.
    fn hold<'a>(&mut self, up: &'a [u8], down: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let (hold_up, hold_down) = self.flow.take_held();
        (hold_one(&mut self.held_up, hold_up, up), hold_one(&mut self.held_down, hold_down, down))
    }

    /// Lets go what waited long enough, or refuses it.
    fn release(&mut self, cx: &mut Context<'_>) -> Step<bool> {
        let mut moved = false;
        if let Some(Poll::Ready(verdict)) = self.held_up.as_mut().map(|held| held.poll(cx))
            && let Some(held) = self.held_up.take()
        {
            moved = true;
            let mut down = Vec::new();
            match verdict {
                Verdict::Go => self.settle(cx, held.then, &held.bytes, &[])?,
                Verdict::Refuse => {
                    let next = self.flow.refuse_requests(held.seq, &mut down);
                    self.settle(cx, next, &[], &down)?;
                }
            }
        }
        if let Some(Poll::Ready(verdict)) = self.held_down.as_mut().map(|held| held.poll(cx))
            && let Some(held) = self.held_down.take()
        {
            moved = true;
            let mut down = Vec::new();
            match verdict {
                Verdict::Go => self.settle(cx, held.then, &[], &held.bytes)?,
                Verdict::Refuse => {
                    self.held_up = None;
                    let next = self.flow.refuse_answers(&mut down);
                    self.settle(cx, next, &[], &down)?;
                }
            }
        }
        Ok(moved)
    }

    /// Writes what the flow made and does what it says.
    fn settle(&mut self, cx: &mut Context<'_>, next: Next, up: &[u8], down: &[u8]) -> Step<()> {
        let (up, down) = self.hold(up, down);
        let next = self.defer(next);
        match &mut self.upstream {
            Upstream::Dialing { pending, .. } => pending.extend_from_slice(up),
            Upstream::Open(upstream) => {
                if upstream.write(cx, up).is_err() {
                    self.upstream_write_failed()?;
                }
            }
        }
        if self.client.write(cx, down).is_err() {
            self.client_lost()?;
        }
        match next {
            Next::Continue => {}
            Next::ShutdownUpstreamWrite => match &mut self.upstream {
                Upstream::Dialing { shutdown, .. } => *shutdown = true,
                Upstream::Open(upstream) => upstream.ask_shutdown(),
            },
            Next::ShutdownClientWrite => self.client.ask_shutdown(),
            Next::Close => {
                self.held_up = None;
                self.client.ask_shutdown();
                self.linger = Some(LINGER_BYTES_MAX);
            }
            Next::Reset => {
                self.flow.closed();
                self.client.reset_on_close();
                self.reset_upstream();
                return Err(Over);
            }
        }
        Ok(())
    }

    /// What concerns a socket whose last bytes are held waits with them.
    fn defer(&mut self, next: Next) -> Next {
        let held = match next {
            Next::Continue | Next::Reset => None,
            Next::ShutdownUpstreamWrite => self.held_up.as_mut(),
            Next::ShutdownClientWrite | Next::Close => self.held_down.as_mut(),
        };
        match held {
            Some(held) if held.then != Next::Close => {
                held.then = next;
                Next::Continue
            }
            Some(_) => Next::Continue,
            None => next,
        }
    }

    /// After a refusal: the answer goes out, then what the client still sends is dropped until it closes too, within a
    /// limit. A close with unread input would be a reset, which may overtake the answer.
    fn linger(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Step<bool> {
        if !self.client.is_flushed() {
            return Ok(false);
        }
        let left = self.linger.unwrap_or(0);
        match self.client.read(cx, &mut scratch.read) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(count)) if count > 0 && count <= left => {
                self.linger = Some(left - count);
                Ok(true)
            }
            Poll::Ready(_) => {
                self.flow.closed();
                Err(Over)
            }
        }
    }

    fn upstream_accepts(&self) -> bool {
        match &self.upstream {
            Upstream::Dialing { pending, .. } => pending.is_empty(),
            Upstream::Open(upstream) => upstream.accepts(),
        }
    }

    /// The upstream takes nothing more. It may still have an answer for us, which is read first.
    fn upstream_write_failed(&mut self) -> Step<()> {
        if let Upstream::Open(upstream) = &mut self.upstream {
            upstream.write_dead = true;
            if !upstream.read_closed {
                return Ok(());
            }
        }
        self.flow.lost(Lost::Upstream);
        self.client.reset_on_close();
        Err(Over)
    }

    fn client_lost<T>(&mut self) -> Step<T> {
        self.flow.lost(Lost::Client);
        self.reset_upstream();
        Err(Over)
    }

    fn reset_upstream(&self) {
        if let Upstream::Open(upstream) = &self.upstream {
            upstream.reset_on_close();
        }
    }
}

/// Keeps back what waits in one direction; gives what may go now.
fn hold_one<'a>(slot: &mut Option<Box<Held>>, hold: Option<(Hold, Held)>, bytes: &'a [u8]) -> &'a [u8] {
    match (slot.as_mut(), hold) {
        (None, None) => bytes,
        (Some(held), hold) => {
            if let Some((hold, _)) = hold {
                held.join(&hold);
            }
            held.bytes.extend_from_slice(bytes);
            &[]
        }
        (None, Some((hold, mut held))) => {
            let (now, later) = bytes.split_at_checked(hold.from).unwrap_or((bytes, &[]));
            held.bytes.extend_from_slice(later);
            *slot = Some(Box::new(held));
            now
        }
    }
}

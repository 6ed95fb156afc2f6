//! HTTP/2 in plaintext, known by its preface: a server towards the client, a client towards the server, one connection each.
//!
//! What passes: heads, interim answers and trailers, bodies within the receiver's window, reset codes, GOAWAY, half-closed
//! streams, the SETTINGS that bind the other side (see `limits`). What ends here: PING, PRIORITY, server push, frame borders.

mod ending;
mod head;
mod io;
mod limits;
mod pair;
mod pump;
mod stream;

use super::alarm::Alarm;
use super::connection::{Drain, HEAD_DEADLINE, IDLE_DEADLINE, LINGER_DEADLINE};
use super::flow::Detect;
use super::relay::{Dial, Handoff};
use crate::data::now;
use bytes::Bytes;
use h2::client::SendRequest;
use io::{Io, Side};
use pair::{Facts, Pair};
use std::future::{Future as _, poll_fn};
use std::io::Result as IoResult;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use testimony_core::capture::OpaqueEnd;
use testimony_core::http2::{FrameWatch, Seen, Settings};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Most bytes that are read of a client before its SETTINGS are whole: their frame has 16 KiB at most.
const SETTINGS_BYTES_MAX: usize = 32 * 1024;

type Upstream = h2::client::Connection<Io, Bytes>;

/// Why a pair could not begin.
enum Failed {
    Client,
    Upstream,
    /// The server does not speak HTTP/2.
    NotHttp2,
}

/// Serves a pair to its end.
pub(super) async fn serve(handoff: Handoff, mut drain: watch::Receiver<Drain>) {
    let Handoff { client, upstream, detect } = handoff;
    let Detect { conn, recorder, start, held, server_held, .. } = *detect;
    let mut facts = Facts { conn, recorder, start, exchanges: 0 };
    let side = Side::of_client();
    // The client's connect succeeded before ours did: a failure becomes a reset.
    side.reset_on_close(true);
    let client = Io::new(client, held, side.clone());
    let begun = tokio::select! {
        begun = timeout(HEAD_DEADLINE, begin(client, upstream, server_held, &mut facts)) => begun,
        () = aborted(drain.clone()) => return facts.record(OpaqueEnd::Drained),
    };
    let end = match begun {
        Ok(Ok((client, upstream, sender))) => {
            side.reset_on_close(false);
            let pair = Pair::new((client, side), upstream, sender, facts);
            return run(pair, &mut drain).await;
        }
        Ok(Err(Failed::Client)) => OpaqueEnd::ClientGone,
        Ok(Err(Failed::Upstream)) => OpaqueEnd::UpstreamFailed,
        Ok(Err(Failed::NotHttp2)) => OpaqueEnd::UpstreamRefused("not_http2"),
        Err(_) => OpaqueEnd::TimedOut,
    };
    facts.record(end);
}

/// What a pair waits for.
enum Event {
    Over,
    Rang,
}

async fn run(mut pair: Pair, drain: &mut watch::Receiver<Drain>) {
    let mut alarm = Alarm::new(now().mono_ns);
    let mut times = Times::now();
    if *drain.borrow_and_update() == Drain::Finish {
        pair.drain();
    }
    loop {
        let event = poll_fn(|cx| {
            if pair.poll(cx).is_ready() {
                return Poll::Ready(Event::Over);
            }
            if alarm.is_late_for(&pair.waits()) {
                alarm.set(now().mono_ns, &pair.waits());
            }
            alarm.poll(cx).map(|()| Event::Rang)
        });
        tokio::select! {
            biased;
            event = event => match event {
                Event::Over => return pair.ended(OpaqueEnd::Closed),
                Event::Rang => {}
            },
            changed = drain.changed() => {
                let state = if changed.is_ok() { *drain.borrow_and_update() } else { Drain::Abort };
                match state {
                    Drain::No => {}
                    Drain::Finish => pair.drain(),
                    Drain::Abort => {
                        pair.abort();
                        return pair.ended(OpaqueEnd::Drained);
                    }
                }
                continue;
            }
        }
        let stamp = now();
        pair.tick(stamp);
        alarm.set(stamp.mono_ns, &pair.waits());
        match times.look(&mut pair) {
            Late::No => {}
            Late::Lingered => return pair.ended(OpaqueEnd::Closed),
            Late::TimedOut => {
                pair.time_out();
                return pair.ended(OpaqueEnd::TimedOut);
            }
        }
    }
}

/// Since when a pair is as it is.
struct Times {
    idle_since: Instant,
    head_since: Option<Instant>,
    resets_since: Instant,
}

/// Which deadline has passed.
enum Late {
    No,
    Lingered,
    TimedOut,
}

impl Times {
    fn now() -> Self {
        let now = Instant::now();
        Self { idle_since: now, head_since: None, resets_since: now }
    }

    fn look(&mut self, pair: &mut Pair) -> Late {
        let now = Instant::now();
        if pair.take_moved() {
            self.idle_since = now;
        }
        if now.duration_since(self.resets_since) >= Duration::from_secs(limits::RESETS_WINDOW_S) {
            pair.forget_resets();
            self.resets_since = now;
        }
        let idle = now.duration_since(self.idle_since);
        if !pair.is_in_head() {
            self.head_since = None;
        } else if now.duration_since(*self.head_since.get_or_insert(now)) >= HEAD_DEADLINE {
            return Late::TimedOut;
        }
        match idle {
            _ if idle >= IDLE_DEADLINE => Late::TimedOut,
            _ if idle >= LINGER_DEADLINE && pair.is_lingering() => Late::Lingered,
            _ => Late::No,
        }
    }
}

async fn aborted(mut drain: watch::Receiver<Drain>) {
    // A dropped sender means the same.
    let _ = drain.wait_for(|state| *state == Drain::Abort).await;
}

type Begun = (h2::server::Connection<Io, Bytes>, (Upstream, Side), SendRequest<Bytes>);

/// Learns both sides' SETTINGS before it tells either side its own.
async fn begin(mut client: Io, dial: Dial, server_held: Vec<u8>, facts: &mut Facts) -> Result<Begun, Failed> {
    let of_client = client_settings(&mut client).await.map_err(|_| Failed::Client)?;
    let upstream = dial.await.map_err(|_| Failed::Upstream)?;
    facts.conn.upstream_local = upstream.local_addr().ok();
    let upstream_side = Side::of_server();
    let io = Io::new(upstream, server_held, upstream_side.clone());
    let (sender, mut upstream) = limits::client(of_client).handshake(io).await.map_err(|_| Failed::Upstream)?;
    let of_upstream = upstream_settings(&mut upstream, &upstream_side).await?;
    let client = limits::server(of_upstream).handshake(client).await.map_err(|_| Failed::Client)?;
    Ok((client, (upstream, upstream_side), sender))
}

/// The SETTINGS that follow the client's preface. What is no SETTINGS is for the library to refuse.
async fn client_settings(client: &mut Io) -> IoResult<Settings> {
    let mut watch = FrameWatch::of_client();
    let mut fed = 0;
    loop {
        let mut first = None;
        watch.feed(client.prefix().get(fed..).unwrap_or_default(), |seen| {
            first.get_or_insert(seen);
        });
        fed = client.prefix().len();
        match first {
            Some(Seen::FirstSettings(settings)) => return Ok(settings),
            Some(_) => return Ok(Settings::default()),
            None if fed >= SETTINGS_BYTES_MAX => return Ok(Settings::default()),
            None => {}
        }
        if !client.read_ahead().await? {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The SETTINGS that a server begins with.
async fn upstream_settings(upstream: &mut Upstream, side: &Side) -> Result<Settings, Failed> {
    poll_fn(|cx| {
        let ended = Pin::new(&mut *upstream).poll(cx).is_ready();
        match side.take_read().first() {
            Some(Seen::FirstSettings(settings)) => Poll::Ready(Ok(*settings)),
            Some(_) => Poll::Ready(Err(Failed::NotHttp2)),
            None if ended => Poll::Ready(Err(Failed::Upstream)),
            None => Poll::Pending,
        }
    })
    .await
}

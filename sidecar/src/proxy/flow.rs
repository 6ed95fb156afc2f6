//! What the bytes of a connection pair mean: not known yet, HTTP/1, opaque, or nothing that a policy looks at.

use crate::data::Recorder;
use crate::metrics::Protocol;
use std::net::SocketAddr;
use testimony_core::capture::{ConnFacts, HttpCapture, NEVER_NS, OpaqueCapture, OpaqueEnd, Paused, Shell as _};
use testimony_core::detect::{Detected, Detector};
use testimony_core::http1::{End, Limits, Next, Phase, Progress, Session};
use testimony_core::record::Stamp;

/// Why a connection pair ended without both sides closing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    Client,
    Upstream,
    TimedOut,
    Drained,
}

/// The machine of one connection pair.
pub(super) enum Flow {
    /// No policy looks at it: bytes pass, nothing is kept.
    Pass,
    /// The client's first bytes do not tell yet; they are held back only while they can still become HTTP/1, HTTP/2 or TLS.
    Detect(Box<Detect>),
    /// HTTP/1.
    Http(Box<Http>),
    /// Anything else.
    Opaque(Box<Opaque>),
    /// Recorded and over.
    Over,
}

pub(super) struct Detect {
    conn: ConnFacts,
    recorder: Recorder,
    start: Stamp,
    held: Vec<u8>,
    /// A connection on which nothing was said is shown all the same.
    shown: Paused,
}

pub(super) struct Http {
    session: Session,
    capture: HttpCapture<Recorder>,
}

pub(super) struct Opaque {
    capture: OpaqueCapture<Recorder>,
}

fn all(input: &[u8]) -> Progress {
    Progress { consumed: input.len(), next: Next::Continue }
}

impl Flow {
    /// A connection that policy captures.
    pub fn captured(conn: ConnFacts, recorder: Recorder) -> Self {
        let start = recorder.now();
        Self::Detect(Box::new(Detect { conn, recorder, start, held: Vec::new(), shown: Paused::default() }))
    }

    /// The upstream is connected, from this address.
    pub fn connected(&mut self, local: Option<SocketAddr>) {
        match self {
            Self::Detect(detect) => {
                detect.conn.upstream_local = local;
                detect.shown.connected(detect.start);
            }
            Self::Http(http) => http.capture.conn_mut().upstream_local = local,
            Self::Opaque(opaque) => opaque.capture.connected(local),
            Self::Pass | Self::Over => {}
        }
    }

    /// When to call [`Flow::tick`], on the monotonic clock. It may be earlier than anything is due, never later.
    pub fn due_ns(&self) -> u64 {
        match self {
            Self::Detect(detect) => detect.shown.due_ns(),
            Self::Http(http) => http.capture.due_ns(),
            Self::Opaque(opaque) => opaque.capture.due_ns(),
            Self::Pass | Self::Over => NEVER_NS,
        }
    }

    /// Shows what has been open for long.
    pub fn tick(&mut self, now: Stamp) {
        match self {
            Self::Detect(detect) => detect.tick(now),
            Self::Http(http) => http.capture.tick(now),
            Self::Opaque(opaque) => opaque.capture.tick(now),
            Self::Pass | Self::Over => {}
        }
    }

    pub fn wants_client(&self) -> bool {
        match self {
            Self::Http(http) => http.session.wants_client(),
            Self::Over => false,
            Self::Pass | Self::Detect(_) | Self::Opaque(_) => true,
        }
    }

    pub fn wants_upstream(&self) -> bool {
        match self {
            Self::Http(http) => http.session.wants_upstream(),
            Self::Over => false,
            Self::Pass | Self::Detect(_) | Self::Opaque(_) => true,
        }
    }

    /// Nothing is under way: the pair may be closed between two exchanges.
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Http(http) => http.session.phase() == Phase::Idle,
            Self::Detect(detect) => detect.held.is_empty(),
            Self::Over => true,
            Self::Pass | Self::Opaque(_) => false,
        }
    }

    /// The client is in the middle of a request head, or of a first line.
    pub fn is_in_head(&self) -> bool {
        match self {
            Self::Http(http) => http.session.phase() == Phase::ClientHead,
            Self::Detect(detect) => !detect.held.is_empty(),
            Self::Pass | Self::Opaque(_) | Self::Over => false,
        }
    }

    /// Bytes from the client.
    pub fn client_bytes(&mut self, input: &[u8], up: &mut Vec<u8>, down: &mut Vec<u8>) -> Progress {
        match self {
            Self::Pass | Self::Over => up.extend_from_slice(input),
            Self::Detect(detect) => {
                detect.held.extend_from_slice(input);
                let detected = Detector::new().feed(&detect.held);
                if detected != Detected::NeedMore {
                    return self.settle(detected, input.len(), up, down);
                }
            }
            Self::Http(http) => return http.session.client_bytes(input, &mut http.capture, up, down),
            Self::Opaque(opaque) => {
                opaque.capture.from_client(input);
                up.extend_from_slice(input);
            }
        }
        all(input)
    }

    /// Bytes from the upstream; all of them are taken.
    pub fn upstream_bytes(&mut self, input: &[u8], up: &mut Vec<u8>, down: &mut Vec<u8>) -> Next {
        if let Self::Detect(_) = self {
            // The server speaks first: whatever the client was about to say, this is not HTTP/1.
            let _ = self.settle(Detected::Opaque, 0, up, down);
        }
        match self {
            Self::Http(http) => return http.session.upstream_bytes(input, &mut http.capture, down, up).next,
            Self::Opaque(opaque) => {
                opaque.capture.from_upstream(input);
                down.extend_from_slice(input);
            }
            Self::Pass | Self::Detect(_) | Self::Over => down.extend_from_slice(input),
        }
        Next::Continue
    }

    /// The client sent a FIN.
    pub fn client_eof(&mut self, up: &mut Vec<u8>, down: &mut Vec<u8>) -> Next {
        if let Self::Detect(_) = self {
            let _ = self.settle(Detected::Opaque, 0, up, down);
        }
        match self {
            Self::Http(http) => http.session.client_eof(&mut http.capture),
            Self::Pass | Self::Detect(_) | Self::Opaque(_) | Self::Over => Next::ShutdownUpstreamWrite,
        }
    }

    /// The upstream sent a FIN.
    pub fn upstream_eof(&mut self, up: &mut Vec<u8>, down: &mut Vec<u8>) -> Next {
        if let Self::Detect(_) = self {
            let _ = self.settle(Detected::Opaque, 0, up, down);
        }
        match self {
            Self::Http(http) => http.session.upstream_eof(&mut http.capture, down),
            Self::Pass | Self::Detect(_) | Self::Opaque(_) | Self::Over => Next::ShutdownClientWrite,
        }
    }

    /// Both sides closed in order.
    pub fn closed(&mut self) {
        match std::mem::replace(self, Self::Over) {
            Self::Opaque(opaque) => opaque.capture.finish(OpaqueEnd::Closed),
            Self::Http(mut http) => http.session.abort(&mut http.capture, End::ClientGone),
            Self::Detect(detect) => detect.finish(OpaqueEnd::Closed),
            Self::Pass | Self::Over => {}
        }
    }

    /// The pair ended otherwise.
    pub fn lost(&mut self, why: Lost) {
        let (end, opaque_end) = match why {
            Lost::Client => (End::ClientGone, OpaqueEnd::ClientGone),
            Lost::Upstream => (End::UpstreamGone, OpaqueEnd::UpstreamFailed),
            Lost::TimedOut => (End::TimedOut, OpaqueEnd::ClientGone),
            Lost::Drained => (End::Drained, OpaqueEnd::Drained),
        };
        match std::mem::replace(self, Self::Over) {
            Self::Opaque(opaque) => opaque.capture.finish(opaque_end),
            Self::Http(mut http) => http.session.abort(&mut http.capture, end),
            Self::Detect(detect) => detect.finish(opaque_end),
            Self::Pass | Self::Over => {}
        }
    }

    /// Ends detection and passes the held bytes on. `fresh` of them came with the call that settled it: what the machine
    /// leaves unused is always a part of these, since none of the earlier ones ends a message.
    fn settle(&mut self, detected: Detected, fresh: usize, up: &mut Vec<u8>, down: &mut Vec<u8>) -> Progress {
        let done = Progress { consumed: fresh, next: Next::Continue };
        let detect = match std::mem::replace(self, Self::Over) {
            Self::Detect(detect) => detect,
            other => {
                *self = other;
                return done;
            }
        };
        let direction = detect.conn.direction;
        let metrics = &detect.recorder.shared().metrics;
        if detected == Detected::Http1 {
            metrics.connection(direction, Protocol::Http1);
            let capture = HttpCapture::new(detect.recorder, detect.conn);
            let mut http = Box::new(Http { session: Session::new(Limits::default()), capture });
            let progress = http.session.client_bytes(&detect.held, &mut http.capture, up, down);
            let unused = detect.held.len().saturating_sub(progress.consumed);
            *self = Self::Http(http);
            return Progress { consumed: fresh.saturating_sub(unused), next: progress.next };
        }
        let (protocol, proto) = match detected {
            Detected::Tls => (Protocol::Tls, "tls"),
            Detected::Http2 => (Protocol::Http2, "http/2"),
            Detected::NeedMore | Detected::Http1 | Detected::Opaque => (Protocol::Opaque, "tcp"),
        };
        metrics.connection(direction, protocol);
        let capture = OpaqueCapture::new(detect.recorder, detect.conn, detect.start, proto).resuming(detect.shown);
        let capture = if detected == Detected::Tls { capture.watching_tls() } else { capture };
        let mut opaque = Box::new(Opaque { capture });
        opaque.capture.from_client(&detect.held);
        up.extend_from_slice(&detect.held);
        *self = Self::Opaque(opaque);
        done
    }
}

impl Detect {
    /// What the connection is if it stays as it is.
    fn as_opaque(&mut self) -> OpaqueCapture<Recorder> {
        let shown = std::mem::take(&mut self.shown);
        let mut capture =
            OpaqueCapture::new(self.recorder.clone(), self.conn.clone(), self.start, "tcp").resuming(shown);
        capture.from_client(&self.held);
        capture
    }

    fn tick(&mut self, now: Stamp) {
        if now.mono_ns >= self.shown.due_ns() {
            let mut capture = self.as_opaque();
            capture.tick(now);
            self.shown = capture.pause();
        }
    }

    /// The connection ended before it said what it is.
    fn finish(mut self, end: OpaqueEnd) {
        self.recorder.shared().metrics.connection(self.conn.direction, Protocol::Opaque);
        self.as_opaque().finish(end);
    }
}

/// Records a connection that leads back to ourselves, or whose destination can't be told.
pub(super) fn record_loop(conn: ConnFacts, recorder: Recorder) {
    let start = recorder.now();
    OpaqueCapture::new(recorder, conn, start, "tcp").finish(OpaqueEnd::Loop);
}

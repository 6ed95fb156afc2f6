//! What the bytes of a connection pair mean: not known yet, HTTP/1, HTTP/2 (which `h2` takes over), opaque, or
//! nothing that a policy looks at.

use super::hold::Held;
use crate::data::Recorder;
use crate::metrics::Protocol;
use std::net::SocketAddr;
use testimony_core::capture::{
    AUDIT_FAILED, ConnFacts, Hold, HttpCapture, NEVER_NS, OpaqueCapture, OpaqueEnd, Paused, Shell as _,
};
use testimony_core::detect::{Detected, Detector};
use testimony_core::http1::{End, Limits, Next, Phase, Progress, Session};
use testimony_core::http2::{PREFACE, begins_settings};
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
    /// No policy has looked at it so far: bytes pass and are counted, and nothing is shown. See [`Flow::look_again`].
    Pass(Box<OpaqueCapture<Recorder>>),
    /// The client's first bytes do not tell yet; they are held back only while they can still become HTTP/1, HTTP/2 or TLS.
    Detect(Box<Detect>),
    /// HTTP/1.
    Http(Box<Http>),
    /// HTTP/2: nothing has been passed on yet, and the connection's task takes the pair over.
    Http2(Box<Detect>),
    /// Anything else.
    Opaque(Box<Opaque>),
    /// Recorded and over.
    Over,
}

pub(super) struct Detect {
    pub conn: ConnFacts,
    pub recorder: Recorder,
    pub start: Stamp,
    /// What the client has sent so far.
    pub held: Vec<u8>,
    /// What the server has sent so far: nothing, or what can begin HTTP/2. A server may speak first there.
    pub server_held: Vec<u8>,
    /// When these go on whatever the client is, on the monotonic clock.
    release_ns: u64,
    /// A connection on which nothing was said is shown all the same.
    shown: Paused,
}

pub(super) struct Http {
    session: Session,
    capture: HttpCapture<Recorder>,
}

pub(super) struct Opaque {
    capture: OpaqueCapture<Recorder>,
    /// What its first bytes wait for.
    first: Option<Hold>,
}

/// What is held back in one direction.
type Holding = Option<(Hold, Held)>;

/// Most bytes of a server that are held back until the client says whether it speaks HTTP/2.
const SERVER_HELD_BYTES_MAX: usize = 16 * 1024;

/// How long they are held, in nanoseconds: a client of HTTP/2 sends its preface as soon as it is connected.
const SERVER_HELD_NS_MAX: u64 = 5_000_000_000;

fn all(input: &[u8]) -> Progress {
    Progress { consumed: input.len(), next: Next::Continue }
}

impl Flow {
    /// A connection that policy captures.
    pub fn captured(conn: ConnFacts, recorder: Recorder) -> Self {
        let start = recorder.now();
        let (held, server_held, shown) = (Vec::new(), Vec::new(), Paused::default());
        Self::Detect(Box::new(Detect { conn, recorder, start, held, server_held, release_ns: NEVER_NS, shown }))
    }

    /// A connection that no policy looks at.
    pub fn passed(conn: ConnFacts, recorder: Recorder) -> Self {
        let start = recorder.now();
        Self::Pass(Box::new(OpaqueCapture::new(recorder, conn, start, "tcp")))
    }

    /// The policy is another one by now, and may look at a connection that was let pass. From then on it is an opaque one
    /// that was there before: what it speaks cannot be told from its middle. Its bytes are counted from its beginning.
    fn look_again(&mut self) -> Option<&mut Opaque> {
        let Self::Pass(pass) = self else { return None };
        let (shell, direction, port) = (pass.shell(), pass.conn().direction, pass.conn().port());
        if !shell.policy().captures(direction, port) {
            return None;
        }
        shell.shared().metrics.connection(direction, Protocol::Opaque);
        let peer_name = shell.shared().names.as_ref().map(|names| names.place(pass.conn().peer.ip()));
        let Self::Pass(mut pass) = std::mem::replace(self, Self::Over) else { return None };
        pass.conn_mut().peer_name = peer_name;
        if let Some(local) = pass.conn().upstream_local {
            pass.connected(Some(local));
        }
        *self = Self::Opaque(Box::new(Opaque { capture: pass.begun(), first: None }));
        match self {
            Self::Opaque(opaque) => Some(opaque),
            _ => None,
        }
    }

    /// The same while it goes on.
    fn look_on(&mut self) {
        if let Some(opaque) = self.look_again() {
            opaque.first = opaque.capture.hold_first();
        }
    }

    /// The upstream is connected, from this address.
    pub fn connected(&mut self, local: Option<SocketAddr>) {
        match self {
            Self::Detect(detect) | Self::Http2(detect) => {
                detect.conn.upstream_local = local;
                detect.shown.connected(detect.start);
            }
            Self::Http(http) => http.capture.conn_mut().upstream_local = local,
            Self::Opaque(opaque) => opaque.capture.connected(local),
            Self::Pass(pass) => pass.conn_mut().upstream_local = local,
            Self::Over => {}
        }
    }

    /// When to call [`Flow::tick`], on the monotonic clock. It may be earlier than anything is due, never later.
    pub fn due_ns(&self) -> u64 {
        match self {
            Self::Detect(detect) => detect.shown.due_ns().min(detect.release_ns),
            Self::Http(http) => http.capture.due_ns(),
            Self::Opaque(opaque) => opaque.capture.due_ns(),
            Self::Pass(_) | Self::Http2(_) | Self::Over => NEVER_NS,
        }
    }

    /// Shows what has been open for long. What a server said too long ago goes to `down`.
    pub fn tick(&mut self, now: Stamp, up: &mut Vec<u8>, down: &mut Vec<u8>) {
        self.look_on();
        if let Self::Detect(detect) = self
            && now.mono_ns >= detect.release_ns
        {
            let _ = self.settle(Detected::Opaque, 0, up, down);
        }
        match self {
            Self::Detect(detect) => detect.tick(now),
            Self::Http(http) => http.capture.tick(now),
            Self::Opaque(opaque) => {
                opaque.capture.tick(now);
                if opaque.capture.has_failed() {
                    let _ = self.refuse_opaque();
                }
            }
            Self::Pass(_) | Self::Http2(_) | Self::Over => {}
        }
    }

    /// What of the last call's output waits for a durable record: on its way up, and on its way down. To be asked after each
    /// call that makes output.
    pub fn take_held(&mut self) -> (Holding, Holding) {
        match self {
            Self::Http(http) => {
                let (up, down) = (http.capture.take_held_up(), http.capture.take_held_down());
                let recorder = http.capture.shell();
                let held = |hold: Option<Hold>| hold.map(|hold| (hold, Held::new(recorder, &hold)));
                (held(up), held(down))
            }
            Self::Opaque(opaque) => match opaque.first.take() {
                Some(hold) => {
                    let recorder = opaque.capture.shell();
                    (Some((hold, Held::new(recorder, &hold))), Some((hold, Held::new(recorder, &hold))))
                }
                None => (None, None),
            },
            Self::Pass(_) | Self::Detect(_) | Self::Http2(_) | Self::Over => (None, None),
        }
    }

    /// What was held on its way up, from this exchange on, is refused.
    pub fn refuse_requests(&mut self, seq: u64, down: &mut Vec<u8>) -> Next {
        match self {
            Self::Http(http) => http.session.refuse_requests(seq, &mut http.capture, down),
            _ => self.refuse_opaque(),
        }
    }

    /// What was held on its way down is refused.
    pub fn refuse_answers(&mut self, down: &mut Vec<u8>) -> Next {
        match self {
            Self::Http(http) => http.session.refuse_answers(&mut http.capture, down),
            _ => self.refuse_opaque(),
        }
    }

    /// An opaque connection that cannot be recorded is closed.
    fn refuse_opaque(&mut self) -> Next {
        match std::mem::replace(self, Self::Over) {
            Self::Opaque(opaque) => opaque.capture.finish(OpaqueEnd::Refused(AUDIT_FAILED)),
            other => *self = other,
        }
        Next::Reset
    }

    pub fn wants_client(&self) -> bool {
        match self {
            Self::Http(http) => http.session.wants_client(),
            Self::Http2(_) | Self::Over => false,
            Self::Pass(_) | Self::Detect(_) | Self::Opaque(_) => true,
        }
    }

    pub fn wants_upstream(&self) -> bool {
        match self {
            Self::Http(http) => http.session.wants_upstream(),
            Self::Http2(_) | Self::Over => false,
            Self::Pass(_) | Self::Detect(_) | Self::Opaque(_) => true,
        }
    }

    /// Nothing is under way: the pair may be closed between two exchanges.
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Http(http) => http.session.phase() == Phase::Idle,
            Self::Detect(detect) => detect.held.is_empty(),
            Self::Over => true,
            Self::Pass(_) | Self::Http2(_) | Self::Opaque(_) => false,
        }
    }

    /// The client is in the middle of a request head, or of a first line.
    pub fn is_in_head(&self) -> bool {
        match self {
            Self::Http(http) => http.session.phase() == Phase::ClientHead,
            Self::Detect(detect) => !detect.held.is_empty(),
            Self::Pass(_) | Self::Http2(_) | Self::Opaque(_) | Self::Over => false,
        }
    }

    /// Bytes from the client.
    pub fn client_bytes(&mut self, input: &[u8], up: &mut Vec<u8>, down: &mut Vec<u8>) -> Progress {
        self.look_on();
        match self {
            Self::Pass(pass) => {
                pass.from_client(input);
                up.extend_from_slice(input);
            }
            Self::Http2(_) | Self::Over => up.extend_from_slice(input),
            Self::Detect(detect) => {
                detect.held.extend_from_slice(input);
                let detected = detect.detected();
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
        if let Self::Detect(detect) = self {
            if detect.server_held.is_empty() {
                detect.release_ns = detect.recorder.now().mono_ns.saturating_add(SERVER_HELD_NS_MAX);
            }
            detect.server_held.extend_from_slice(input);
            if detect.detected() != Detected::NeedMore {
                // The server speaks first: whatever the client was about to say, this is not HTTP/1.
                return self.settle(Detected::Opaque, 0, up, down).next;
            }
            return Next::Continue;
        }
        self.look_on();
        match self {
            Self::Http(http) => return http.session.upstream_bytes(input, &mut http.capture, down, up).next,
            Self::Opaque(opaque) => {
                opaque.capture.from_upstream(input);
                down.extend_from_slice(input);
            }
            Self::Pass(pass) => {
                pass.from_upstream(input);
                down.extend_from_slice(input);
            }
            Self::Detect(_) | Self::Http2(_) | Self::Over => down.extend_from_slice(input),
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
            Self::Pass(_) | Self::Detect(_) | Self::Http2(_) | Self::Opaque(_) | Self::Over => {
                Next::ShutdownUpstreamWrite
            }
        }
    }

    /// The upstream sent a FIN.
    pub fn upstream_eof(&mut self, up: &mut Vec<u8>, down: &mut Vec<u8>) -> Next {
        if let Self::Detect(_) = self {
            let _ = self.settle(Detected::Opaque, 0, up, down);
        }
        match self {
            Self::Http(http) => http.session.upstream_eof(&mut http.capture, down),
            Self::Pass(_) | Self::Detect(_) | Self::Http2(_) | Self::Opaque(_) | Self::Over => {
                Next::ShutdownClientWrite
            }
        }
    }

    /// Both sides closed in order.
    pub fn closed(&mut self) {
        let _ = self.look_again();
        match std::mem::replace(self, Self::Over) {
            Self::Opaque(opaque) => opaque.capture.finish(OpaqueEnd::Closed),
            Self::Http(mut http) => http.session.abort(&mut http.capture, End::ClientGone),
            Self::Detect(detect) | Self::Http2(detect) => detect.finish(OpaqueEnd::Closed),
            Self::Pass(_) | Self::Over => {}
        }
    }

    /// The pair ended otherwise.
    pub fn lost(&mut self, why: Lost) {
        let (end, opaque_end) = match why {
            Lost::Client => (End::ClientGone, OpaqueEnd::ClientGone),
            Lost::Upstream => (End::UpstreamGone, OpaqueEnd::UpstreamFailed),
            Lost::TimedOut => (End::TimedOut, OpaqueEnd::TimedOut),
            Lost::Drained => (End::Drained, OpaqueEnd::Drained),
        };
        let _ = self.look_again();
        match std::mem::replace(self, Self::Over) {
            Self::Opaque(opaque) => opaque.capture.finish(opaque_end),
            Self::Http(mut http) => http.session.abort(&mut http.capture, end),
            Self::Detect(detect) | Self::Http2(detect) => detect.finish(opaque_end),
            Self::Pass(_) | Self::Over => {}
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
        if detected == Detected::Http2 {
            metrics.connection(direction, Protocol::Http2);
            *self = Self::Http2(detect);
            return done;
        }
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
            _ => (Protocol::Opaque, "tcp"),
        };
        metrics.connection(direction, protocol);
        let capture =
            OpaqueCapture::new(detect.recorder, detect.conn, detect.start, proto).resuming(detect.shown).begun();
        let capture = if detected == Detected::Tls { capture.watching_tls() } else { capture };
        let mut opaque = Box::new(Opaque { capture, first: None });
        if opaque.capture.is_refused() {
            opaque.capture.finish(OpaqueEnd::Refused(AUDIT_FAILED));
            return Progress { consumed: fresh, next: Next::Reset };
        }
        opaque.capture.from_client(&detect.held);
        up.extend_from_slice(&detect.held);
        opaque.capture.from_upstream(&detect.server_held);
        down.extend_from_slice(&detect.server_held);
        opaque.first = opaque.capture.hold_first();
        *self = Self::Opaque(opaque);
        done
    }
}

impl Detect {
    /// What the connection is, by the first bytes of both sides.
    fn detected(&self) -> Detected {
        let detected = Detector::new().feed(&self.held);
        if self.server_held.is_empty() {
            return detected;
        }
        let may_be_http2 = detected == Detected::Http2 || PREFACE.starts_with(&self.held);
        if may_be_http2 && self.server_held.len() <= SERVER_HELD_BYTES_MAX && begins_settings(&self.server_held) {
            detected
        } else {
            Detected::Opaque
        }
    }

    /// What the connection is if it stays as it is.
    fn as_opaque(&mut self) -> OpaqueCapture<Recorder> {
        let shown = std::mem::take(&mut self.shown);
        let mut capture =
            OpaqueCapture::new(self.recorder.clone(), self.conn.clone(), self.start, "tcp").resuming(shown);
        capture.from_client(&self.held);
        capture.from_upstream(&self.server_held);
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

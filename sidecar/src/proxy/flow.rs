//! What the bytes of a connection pair mean: not known yet, HTTP/1, HTTP/2 (which `h2` takes over), opaque, or
//! nothing that a policy looks at.

use crate::data::Recorder;
use crate::metrics::Protocol;
use std::net::SocketAddr;
use testimony_core::capture::{ConnFacts, HttpCapture, OpaqueCapture, OpaqueEnd, Shell as _};
use testimony_core::detect::{Detected, Detector};
use testimony_core::http1::{End, Limits, Next, Phase, Progress, Session};
use testimony_core::record::Stamp;
use testimony_core::tls::{Hello, client_hello};

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
}

pub(super) struct Http {
    session: Session,
    capture: HttpCapture<Recorder>,
}

pub(super) struct Opaque {
    capture: OpaqueCapture<Recorder>,
    /// The start of a ClientHello, until it is understood.
    hello: Option<Vec<u8>>,
}

fn all(input: &[u8]) -> Progress {
    Progress { consumed: input.len(), next: Next::Continue }
}

impl Flow {
    /// A connection that policy captures.
    pub fn captured(conn: ConnFacts, recorder: Recorder) -> Self {
        let start = recorder.now();
        Self::Detect(Box::new(Detect { conn, recorder, start, held: Vec::new() }))
    }

    /// The upstream is connected, from this address.
    pub fn connected(&mut self, local: Option<SocketAddr>) {
        match self {
            Self::Detect(detect) | Self::Http2(detect) => detect.conn.upstream_local = local,
            Self::Http(http) => http.capture.conn_mut().upstream_local = local,
            Self::Opaque(opaque) => opaque.capture.conn_mut().upstream_local = local,
            Self::Pass | Self::Over => {}
        }
    }

    pub fn wants_client(&self) -> bool {
        match self {
            Self::Http(http) => http.session.wants_client(),
            Self::Http2(_) | Self::Over => false,
            Self::Pass | Self::Detect(_) | Self::Opaque(_) => true,
        }
    }

    pub fn wants_upstream(&self) -> bool {
        match self {
            Self::Http(http) => http.session.wants_upstream(),
            Self::Http2(_) | Self::Over => false,
            Self::Pass | Self::Detect(_) | Self::Opaque(_) => true,
        }
    }

    /// Nothing is under way: the pair may be closed between two exchanges.
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Http(http) => http.session.phase() == Phase::Idle,
            Self::Detect(detect) => detect.held.is_empty(),
            Self::Over => true,
            Self::Pass | Self::Http2(_) | Self::Opaque(_) => false,
        }
    }

    /// The client is in the middle of a request head, or of a first line.
    pub fn is_in_head(&self) -> bool {
        match self {
            Self::Http(http) => http.session.phase() == Phase::ClientHead,
            Self::Detect(detect) => !detect.held.is_empty(),
            Self::Pass | Self::Http2(_) | Self::Opaque(_) | Self::Over => false,
        }
    }

    /// Bytes from the client.
    pub fn client_bytes(&mut self, input: &[u8], up: &mut Vec<u8>, down: &mut Vec<u8>) -> Progress {
        match self {
            Self::Pass | Self::Http2(_) | Self::Over => up.extend_from_slice(input),
            Self::Detect(detect) => {
                detect.held.extend_from_slice(input);
                let detected = Detector::new().feed(&detect.held);
                if detected != Detected::NeedMore {
                    return self.settle(detected, input.len(), up, down);
                }
            }
            Self::Http(http) => return http.session.client_bytes(input, &mut http.capture, up, down),
            Self::Opaque(opaque) => {
                opaque.tee(input);
                opaque.capture.bytes(input.len() as u64, 0);
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
                opaque.capture.bytes(0, input.len() as u64);
                down.extend_from_slice(input);
            }
            Self::Pass | Self::Detect(_) | Self::Http2(_) | Self::Over => down.extend_from_slice(input),
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
            Self::Pass | Self::Detect(_) | Self::Http2(_) | Self::Opaque(_) | Self::Over => Next::ShutdownUpstreamWrite,
        }
    }

    /// The upstream sent a FIN.
    pub fn upstream_eof(&mut self, up: &mut Vec<u8>, down: &mut Vec<u8>) -> Next {
        if let Self::Detect(_) = self {
            let _ = self.settle(Detected::Opaque, 0, up, down);
        }
        match self {
            Self::Http(http) => http.session.upstream_eof(&mut http.capture, down),
            Self::Pass | Self::Detect(_) | Self::Http2(_) | Self::Opaque(_) | Self::Over => Next::ShutdownClientWrite,
        }
    }

    /// Both sides closed in order.
    pub fn closed(&mut self) {
        match std::mem::replace(self, Self::Over) {
            Self::Opaque(opaque) => opaque.capture.finish(OpaqueEnd::Closed),
            Self::Http(mut http) => http.session.abort(&mut http.capture, End::ClientGone),
            Self::Detect(detect) | Self::Http2(detect) => detect.finish(OpaqueEnd::Closed),
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
            Self::Detect(detect) | Self::Http2(detect) => detect.finish(opaque_end),
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
        if detected == Detected::Http2 {
            metrics.connection(direction, Protocol::Http2);
            *self = Self::Http2(detect);
            return done;
        }
        let (protocol, proto, hello) = match detected {
            Detected::Tls => (Protocol::Tls, "tls", Some(Vec::new())),
            _ => (Protocol::Opaque, "tcp", None),
        };
        metrics.connection(direction, protocol);
        let capture = OpaqueCapture::new(detect.recorder, detect.conn, detect.start, proto);
        let mut opaque = Box::new(Opaque { capture, hello });
        opaque.tee(&detect.held);
        opaque.capture.bytes(detect.held.len() as u64, 0);
        up.extend_from_slice(&detect.held);
        *self = Self::Opaque(opaque);
        done
    }
}

impl Detect {
    /// The connection ended before it said anything.
    fn finish(self, end: OpaqueEnd) {
        self.recorder.shared().metrics.connection(self.conn.direction, Protocol::Opaque);
        OpaqueCapture::new(self.recorder, self.conn, self.start, "tcp").finish(end);
    }
}

impl Opaque {
    /// Looks for the server name in a copy of the first bytes; they are forwarded at once all the same.
    fn tee(&mut self, input: &[u8]) {
        let Some(prefix) = &mut self.hello else { return };
        prefix.extend_from_slice(input);
        match client_hello(prefix) {
            Hello::NeedMore => {}
            Hello::Parsed { server_name, .. } => {
                if let Some(name) = server_name {
                    self.capture.set_sni(name);
                }
                self.hello = None;
            }
            Hello::Invalid => self.hello = None,
        }
    }
}

/// Records a connection that leads back to ourselves, or whose destination can't be told.
pub(super) fn record_loop(conn: ConnFacts, recorder: Recorder) {
    let start = recorder.now();
    OpaqueCapture::new(recorder, conn, start, "tcp").finish(OpaqueEnd::Loop);
}

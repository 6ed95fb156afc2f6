//! A shell without sockets, which feeds a [`Session`] in pieces and checks EV-1 all the time.

mod edit;
mod flow;
mod property;
mod refused;
mod valid;

use super::*;
use std::collections::BTreeMap;

/// What happens on the wire.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Client(Vec<u8>),
    Upstream(Vec<u8>),
    ClientEof,
    UpstreamEof,
}

pub(super) fn client(bytes: impl AsRef<[u8]>) -> Step {
    Step::Client(bytes.as_ref().to_vec())
}

pub(super) fn upstream(bytes: impl AsRef<[u8]>) -> Step {
    Step::Upstream(bytes.as_ref().to_vec())
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub to_upstream: String,
    pub to_client: String,
    /// All verdicts but `Continue`, in order.
    pub verdicts: Vec<Next>,
    pub ends: Vec<(ConnSeq, End)>,
    pub seen: Seen,
}

/// What the observer was told, pieces added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub heads: Vec<String>,
    pub unparsed: Vec<String>,
    pub statuses: Vec<(ConnSeq, u16)>,
    /// What we answered ourselves.
    pub answered: Vec<(ConnSeq, u16)>,
    pub request_ends: Vec<ConnSeq>,
    pub request_payload: BTreeMap<ConnSeq, u64>,
    pub response_payload: BTreeMap<ConnSeq, u64>,
    pub tunnel: (u64, u64),
}

/// Writes down what it is told; panics when EV-1 or the order of calls is broken.
#[derive(Default)]
pub(super) struct Recorder {
    pub seen: Seen,
    pub ends: Vec<(ConnSeq, End)>,
    pub begun: ConnSeq,
    pub edit: Option<fn(&mut HeadEdit)>,
}

impl Recorder {
    fn begin(&mut self, seq: ConnSeq) {
        assert_eq!(seq, self.begun, "numbered from 0 without a gap");
        self.begun += 1;
    }

    fn in_flight(&self, seq: ConnSeq) {
        assert!(seq < self.begun, "{seq} never began");
        assert!(self.ends.iter().all(|(ended, _)| *ended != seq), "{seq} has ended");
    }
}

impl Observer for Recorder {
    fn request_head(&mut self, seq: ConnSeq, head: &RequestHead<'_>, edit: &mut HeadEdit) {
        self.begin(seq);
        self.seen.heads.push(format!("{} {} {}", head.method, head.target, head.minor_version));
        if let Some(apply) = self.edit {
            apply(edit);
        }
    }
    fn request_unparsed(&mut self, seq: ConnSeq, line: &[u8]) {
        self.begin(seq);
        self.seen.unparsed.push(line.escape_ascii().to_string());
    }
    fn request_body(&mut self, seq: ConnSeq, payload_bytes: u64) {
        self.in_flight(seq);
        *self.seen.request_payload.entry(seq).or_default() += payload_bytes;
    }
    fn request_end(&mut self, seq: ConnSeq) {
        self.in_flight(seq);
        self.seen.request_ends.push(seq);
    }
    fn response_head(&mut self, seq: ConnSeq, head: &ResponseHead<'_>, _: usize) {
        self.in_flight(seq);
        self.seen.statuses.push((seq, head.status));
    }
    fn answered(&mut self, seq: ConnSeq, status: u16, _: usize) {
        self.in_flight(seq);
        self.seen.answered.push((seq, status));
    }
    fn response_body(&mut self, seq: ConnSeq, payload_bytes: u64) {
        self.in_flight(seq);
        *self.seen.response_payload.entry(seq).or_default() += payload_bytes;
    }
    fn tunnel(&mut self, seq: ConnSeq, from_client_bytes: u64, from_upstream_bytes: u64) {
        self.in_flight(seq);
        self.seen.tunnel.0 += from_client_bytes;
        self.seen.tunnel.1 += from_upstream_bytes;
    }
    fn exchange_end(&mut self, seq: ConnSeq, end: End) {
        self.in_flight(seq);
        self.ends.push((seq, end));
    }
}

/// One connection with its held-back client bytes, as the sidecar keeps them.
pub(super) struct Shell {
    pub session: Session,
    pub recorder: Recorder,
    held: Vec<u8>,
    eof_held: bool,
    to_upstream: Vec<u8>,
    to_client: Vec<u8>,
    verdicts: Vec<Next>,
}

impl Shell {
    pub fn new(limits: Limits, edit: Option<fn(&mut HeadEdit)>) -> Self {
        Self {
            session: Session::new(limits),
            recorder: Recorder { edit, ..Recorder::default() },
            held: Vec::new(),
            eof_held: false,
            to_upstream: Vec::new(),
            to_client: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Client(bytes) => self.held.extend_from_slice(bytes),
            Step::ClientEof => self.eof_held = true,
            Step::Upstream(bytes) => {
                let progress =
                    self.session.upstream_bytes(bytes, &mut self.recorder, &mut self.to_client, &mut self.to_upstream);
                assert_eq!(progress.consumed, bytes.len());
                self.note(progress.next);
            }
            Step::UpstreamEof => {
                let next = self.session.upstream_eof(&mut self.recorder, &mut self.to_client);
                self.note(next);
            }
        }
        self.feed_held();
        assert_eq!(
            self.session.in_flight() as u64,
            self.recorder.begun - self.recorder.ends.len() as u64,
            "in_flight counts what has begun and not ended"
        );
    }

    fn feed_held(&mut self) {
        while !self.held.is_empty() && self.session.wants_client() {
            let progress =
                self.session.client_bytes(&self.held, &mut self.recorder, &mut self.to_upstream, &mut self.to_client);
            assert!(progress.consumed > 0, "wants_client() must mean progress");
            self.held.drain(..progress.consumed);
            self.note(progress.next);
        }
        if self.session.phase() == Phase::Over {
            self.held.clear();
        }
        if self.eof_held && self.held.is_empty() {
            self.eof_held = false;
            let next = self.session.client_eof(&mut self.recorder);
            self.note(next);
        }
    }

    fn note(&mut self, next: Next) {
        let over = self.session.phase() == Phase::Over;
        assert_eq!(over, matches!(next, Next::Close | Next::Reset), "a session is over exactly when it says so");
        if next != Next::Continue && self.verdicts.last() != Some(&next) {
            self.verdicts.push(next);
        }
    }

    /// Stops as a shell does that is told to, and checks EV-1.
    pub fn end(mut self) -> Outcome {
        self.session.abort(&mut self.recorder, End::Drained);
        self.session.abort(&mut self.recorder, End::TimedOut);
        let mut ended: Vec<_> = self.recorder.ends.iter().map(|(seq, _)| *seq).collect();
        ended.sort_unstable();
        assert_eq!(ended, (0..self.recorder.begun).collect::<Vec<_>>(), "EV-1: each exchange ends exactly once");
        assert_eq!(self.session.in_flight(), 0);
        Outcome {
            to_upstream: self.to_upstream.escape_ascii().to_string(),
            to_client: self.to_client.escape_ascii().to_string(),
            verdicts: self.verdicts,
            ends: self.recorder.ends,
            seen: self.recorder.seen,
        }
    }
}

pub(super) fn run_with<'a>(
    limits: Limits,
    edit: Option<fn(&mut HeadEdit)>,
    steps: impl IntoIterator<Item = &'a Step>,
) -> Outcome {
    let mut shell = Shell::new(limits, edit);
    for step in steps {
        shell.step(step);
    }
    shell.end()
}

/// The same steps with the pieces cut after every byte for which `cut` is true of its index in all bytes.
pub(super) fn pieces(steps: &[Step], cut: impl Fn(usize) -> bool) -> Vec<Step> {
    let mut index = 0;
    let mut cut_up = |bytes: &[u8]| {
        let mut pieces = vec![Vec::new()];
        for byte in bytes {
            pieces.last_mut().unwrap().push(*byte);
            if cut(index) {
                pieces.push(Vec::new());
            }
            index += 1;
        }
        pieces.retain(|piece| !piece.is_empty());
        pieces
    };
    let mut all = Vec::new();
    for step in steps {
        match step {
            Step::Client(bytes) => all.extend(cut_up(bytes).into_iter().map(Step::Client)),
            Step::Upstream(bytes) => all.extend(cut_up(bytes).into_iter().map(Step::Upstream)),
            other => all.push(other.clone()),
        }
    }
    all
}

/// Runs the steps whole, byte by byte, and cut at every place; all must come to the same.
pub(super) fn every_way_with(limits: Limits, edit: Option<fn(&mut HeadEdit)>, steps: &[Step]) -> Outcome {
    let whole = run_with(limits, edit, steps);
    let bytewise = run_with(limits, edit, &pieces(steps, |_| true));
    assert_eq!(bytewise, whole, "byte by byte");
    let total: usize = steps
        .iter()
        .map(|step| match step {
            Step::Client(bytes) | Step::Upstream(bytes) => bytes.len(),
            _ => 0,
        })
        .sum();
    for at in 0..total {
        assert_eq!(run_with(limits, edit, &pieces(steps, |index| index == at)), whole, "cut behind byte {at}");
    }
    whole
}

pub(super) fn every_way(steps: &[Step]) -> Outcome {
    every_way_with(Limits::default(), None, steps)
}

pub(super) fn text(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().escape_ascii().to_string()
}

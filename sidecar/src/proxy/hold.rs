//! Bytes that are held back until a record is durable (T1 to T4).

use crate::data::{Recorder, Wait, Waited};
use crate::metrics::{HeldResult, Metrics};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use testimony_core::capture::Hold;
use testimony_core::http1::Next;

/// What becomes of what was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes.
    Go,
    /// It is refused.
    Refuse,
}

/// What is held back of one direction. Nothing more is read for this direction meanwhile.
pub(super) struct Held {
    wait: Wait,
    closed: bool,
    metrics: Arc<Metrics>,
    /// The first exchange of which bytes are held.
    pub seq: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What is to be done with the sockets after them.
    pub then: Next,
}

impl Held {
    /// Holds nothing yet.
    pub fn new(recorder: &Recorder, hold: &Hold) -> Self {
        Self {
            wait: recorder.wait(hold.until),
            closed: hold.closed,
            metrics: recorder.shared().metrics.clone(),
            seq: hold.seq,
            bytes: Vec::new(),
            then: Next::Continue,
        }
    }

    /// Holds back for this reason, too.
    pub fn join(&mut self, hold: &Hold) {
        self.wait.join(hold.until);
        self.closed |= hold.closed;
    }

    /// Ready: what becomes of it.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Verdict> {
        let (result, verdict) = match ready!(self.wait.poll(cx)) {
            Waited::Durable => (HeldResult::Durable, Verdict::Go),
            Waited::Failed if self.closed => (HeldResult::Refused, Verdict::Refuse),
            Waited::Failed => (HeldResult::Passed, Verdict::Go),
        };
        self.metrics.held(result);
        Poll::Ready(verdict)
    }

    /// When to call [`Held::tick`], on the monotonic clock.
    pub fn due_ns(&self) -> u64 {
        self.wait.due_ns()
    }

    /// Ends the wait if it took too long.
    pub fn tick(&mut self, now_ns: u64) {
        self.wait.tick(now_ns);
    }
}

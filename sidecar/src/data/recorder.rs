//! The recorder of one data thread: takes redacted records, seals them into its stream, hands whole batches over.

use super::desk::Desk;
use super::{EpochKey, now};
use crate::export::{LossReason, Queue};
use crate::metrics::{self, Metrics};
use crate::names::Names;
use crate::tail::Tail;
use crate::witness::Shown;
use arc_swap::ArcSwap;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use testimony_core::capture::{InFlight, Outcome, Shell, Unrecorded};
use testimony_core::evidence::seal::{Fate, HoleFacts, Host as _, Origin, Stream};
use testimony_core::evidence::stream::StreamId;
use testimony_core::policy::{Compiled, Direction};
use testimony_core::record::{Gap, GapReason, Record, Redacted, Stamp, Typ};
use tokio::sync::Notify;

/// A batch leaves the data thread when its first record is this old, full or not.
pub const FLUSH_AFTER: Duration = Duration::from_millis(100);

/// What all data threads of a worker share.
#[derive(Clone)]
pub struct Shared {
    /// The policy in force.
    pub policy: Arc<ArcSwap<Compiled>>,
    /// Inbound exchanges in flight.
    pub in_flight: Arc<Mutex<InFlight>>,
    /// Names of addresses; `None` where nobody tells them.
    pub names: Option<Names>,
    /// Where batches go.
    pub queue: Queue,
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// People who look at records as they are made.
    pub tail: Tail,
}

/// Why a data thread cannot have a stream.
#[derive(Debug, thiserror::Error)]
pub enum NoStream {
    /// Something of its origin cannot stand in a name.
    #[error(transparent)]
    Name(#[from] testimony_core::evidence::stream::NotAStream),
    /// The system gave no randomness.
    #[error("no randomness for a key")]
    Key,
}

/// Handle of one data thread's recorder; clones share it.
#[derive(Clone)]
pub struct Recorder {
    shared: Shared,
    inner: Rc<RefCell<Inner>>,
    stirred: Rc<Notify>,
    /// There is something to show to the witness, or nothing more to come.
    shown_stirred: Rc<Notify>,
    /// Number of the data thread; the first one tells what sinks lost.
    thread: u32,
}

struct Inner {
    stream: Stream<EpochKey>,
    desk: Desk,
    policy: Arc<Compiled>,
}

impl Recorder {
    /// A recorder with a stream of its own, opened now.
    ///
    /// # Errors
    /// See [`NoStream`].
    pub fn new(shared: Shared, origin: Origin) -> Result<Self, NoStream> {
        let shown_stirred = Rc::new(Notify::new());
        let shown = origin.witness.then(|| Shown::new(shown_stirred.clone()));
        let mut desk = Desk::new(shared.queue.clone(), shared.metrics.clone(), shared.tail.clone(), shown);
        let policy = shared.policy.load_full();
        let key = desk.key().ok_or(NoStream::Key)?;
        let thread = origin.thread;
        let stream = Stream::open(origin, key, &policy.document().revision, now(), &mut desk)?;
        let stirred = Rc::new(Notify::new());
        stirred.notify_one();
        let inner = Rc::new(RefCell::new(Inner { stream, desk, policy }));
        Ok(Self { shared, inner, stirred, shown_stirred, thread })
    }

    /// Number of the data thread.
    pub fn thread(&self) -> u32 {
        self.thread
    }

    /// Whether the stream has ended for good.
    pub fn is_closed(&self) -> bool {
        self.inner.borrow().stream.is_closed()
    }

    /// Works on what the witness must see; `None`: there is no witness.
    pub fn shown<R>(&self, work: impl FnOnce(&mut Shown) -> R) -> Option<R> {
        self.inner.borrow_mut().desk.shown.as_mut().map(work)
    }

    /// Returns when there may be something new for the witness, or the recorder is closed.
    pub async fn shown_stirred(&self) {
        self.shown_stirred.notified().await;
    }

    /// Seals a stream's certificate, DER in base64, into it. `false`: there is no room now, try again.
    pub fn certified(&self, of: &StreamId, certificate: &str) -> bool {
        let now = now();
        let mut guard = self.inner.borrow_mut();
        let Inner { stream, desk, .. } = &mut *guard;
        if stream.is_closed() || **stream.id() != *of {
            // It came too late: the ledger has it.
            return true;
        }
        let told = stream.certified(certificate, now, desk);
        guard.settle(&self.shared, &self.stirred, now);
        told
    }

    /// What all data threads share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Declares exchanges that an earlier process saw.
    pub fn lose(&self, gap: Gap) {
        self.inner.borrow_mut().stream.lose(gap, None);
        self.stirred.notify_one();
    }

    /// Keeps the stream's schedule, hands over batches that have waited, and tells what sinks lost. Never ends.
    pub async fn keep(&self) {
        let losses = self.shared.queue.losses_told();
        loop {
            let due_ns = self.inner.borrow().stream.due_ns();
            let wait = Duration::from_nanos(due_ns.saturating_sub(now().mono_ns));
            tokio::select! {
                () = self.stirred.notified() => {
                    tokio::time::sleep(FLUSH_AFTER).await;
                    self.tick();
                    self.flush();
                }
                () = tokio::time::sleep(wait) => self.tick(),
                () = losses.notified(), if self.tells_losses() => self.tell_losses(),
            }
        }
    }

    /// Does what the stream has to do now.
    pub fn tick(&self) {
        let now = now();
        let mut guard = self.inner.borrow_mut();
        let Inner { stream, desk, .. } = &mut *guard;
        stream.tick(now, desk);
        guard.settle(&self.shared, &self.stirred, now);
    }

    fn tells_losses(&self) -> bool {
        self.thread == 0
    }

    /// Seals holes for what sinks will never have.
    pub fn tell_losses(&self) {
        let now = now();
        let mut guard = self.inner.borrow_mut();
        let Inner { stream, desk, .. } = &mut *guard;
        for (sink, loss) in self.shared.queue.take_losses() {
            let nodes: Vec<_> = loss.range.nodes().collect();
            let facts = HoleFacts {
                stream: &loss.stream,
                from: loss.range.begin(),
                to: loss.range.end(),
                sink: Some(&sink),
                reason: loss.reason.as_str(),
                nodes: &nodes,
            };
            if !stream.hole(&facts, now, desk) {
                self.shared.queue.return_loss(&sink, loss);
            }
        }
        guard.settle(&self.shared, &self.stirred, now);
    }

    /// Hands the batch over, if it holds anything.
    pub fn flush(&self) {
        self.inner.borrow_mut().desk.flush();
    }

    /// The data thread ends: the stream closes, and its last batch goes.
    pub fn close(&self) {
        if self.tells_losses() {
            self.tell_losses();
        }
        let now = now();
        let mut guard = self.inner.borrow_mut();
        let Inner { stream, desk, .. } = &mut *guard;
        if !stream.close(now, desk) {
            tracing::error!(stream = %stream.id(), "no room to close the stream in order");
        }
        guard.settle(&self.shared, &self.stirred, now);
        guard.desk.flush();
        self.shown_stirred.notify_one();
    }
}

impl Inner {
    /// After each step: a policy that changed is told, heads are signed, a full batch goes.
    fn settle(&mut self, shared: &Shared, stirred: &Notify, now: Stamp) {
        let in_force = shared.policy.load();
        if !Arc::ptr_eq(&in_force, &self.policy)
            && self.stream.policy(&in_force.document().revision, now, &mut self.desk)
        {
            self.policy = Arc::clone(&in_force);
        }
        if self.stream.awaits_durable() {
            // What waits in memory is as durable as it gets.
            self.stream.durable(self.stream.position(), now, &mut self.desk);
        }
        self.desk.flush_full();
        if self.desk.has_begun() {
            stirred.notify_one();
        }
    }
}

impl Shell for Recorder {
    fn now(&self) -> Stamp {
        now()
    }

    fn random(&mut self) -> u128 {
        self.inner.borrow_mut().desk.random.next_u128()
    }

    fn policy(&self) -> Arc<Compiled> {
        self.shared.policy.load_full()
    }

    fn in_flight<R>(&mut self, f: impl FnOnce(&mut InFlight) -> R) -> R {
        f(&mut self.shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn emit(&mut self, record: Redacted<Record>) {
        let now = now();
        let mut guard = self.inner.borrow_mut();
        let Inner { stream, desk, .. } = &mut *guard;
        match stream.seal(&record, now, desk) {
            Fate::Sealed => {
                self.shared.metrics.records.inc();
                if record.get().event().is_stage() {
                    self.shared.metrics.stages.inc();
                }
            }
            Fate::Folded => self.stirred.notify_one(),
            Fate::Lost(reason) => {
                self.stirred.notify_one();
                if record.get().typ() == Some(Typ::Exchange) {
                    self.shared.queue.count_unsealed(match reason {
                        GapReason::RecordTooLong => LossReason::RecordTooLong,
                        _ => LossReason::QueueFull,
                    });
                }
            }
        }
        guard.settle(&self.shared, &self.stirred, now);
    }

    fn begin(&mut self) {
        self.inner.borrow_mut().stream.begin();
    }

    fn count(&mut self, direction: Direction, outcome: Outcome, none: Option<Unrecorded<'_>>) {
        let outcome = match outcome {
            Outcome::Success => metrics::Outcome::Success,
            Outcome::Failure => metrics::Outcome::Failure,
            Outcome::Unknown => metrics::Outcome::Unknown,
        };
        self.shared.metrics.exchange(direction, outcome);
        if let Some(Unrecorded { revision, rule }) = none {
            self.inner.borrow_mut().stream.none(revision, rule);
            self.shared.metrics.not_recorded();
        }
    }

    fn count_refused(&mut self, reason: &'static str) {
        self.shared.metrics.refused(reason);
    }

    fn count_undecided(&mut self, reason: &'static str) {
        self.shared.metrics.undecided(reason);
    }
}

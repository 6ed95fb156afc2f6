//! The recorder of one data thread: takes redacted records, seals them into its stream, hands whole batches over.

mod late;

pub use late::LATE_RECORDS_MAX;

use super::desk::{Desk, Out};
use super::waiting::{Wait, Waiting};
use super::{EpochKey, now};
use crate::export::Queue;
use crate::metrics::{self, Metrics};
use crate::names::Names;
use crate::spool::{Durable, Place, SpoolHandle};
use crate::tail::Tail;
use crate::witness::Shown;
use arc_swap::ArcSwap;
use late::Late;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use testimony_core::capture::{Begun, InFlight, Outcome, Receipt, Shell, Unrecorded};
use testimony_core::evidence::note::SignedNote;
use testimony_core::evidence::seal::{Fate, HoleFacts, Host as _, Origin, Stream};
use testimony_core::evidence::stream::StreamId;
use testimony_core::policy::{Compiled, Direction};
use testimony_core::record::{Gap, Record, Redacted, Stamp, body_of};
use tokio::sync::{Notify, watch};

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
    /// What the sinks say; and where batches go, where there is no spool.
    pub queue: Queue,
    /// Where records wait; `None`: in memory.
    pub spool: Option<SpoolHandle>,
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
    /// The counter page has no room for this thread.
    #[error("no room for data thread {0} on the spool's counter page")]
    Page(u32),
}

/// Handle of one data thread's recorder; clones share it.
#[derive(Clone)]
pub struct Recorder {
    shared: Shared,
    inner: Rc<RefCell<Inner>>,
    stirred: Rc<Notify>,
    /// There are records to be sealed later.
    late_stirred: Rc<Notify>,
    /// There is something to show to the witness, or nothing more to come.
    shown_stirred: Rc<Notify>,
    /// Number of the data thread; the first one tells what sinks lost.
    thread: u32,
    /// Who waits for a record of this thread to become durable.
    waiting: Rc<Waiting>,
}

struct Inner {
    stream: Stream<EpochKey>,
    desk: Desk,
    /// Finished, to be sealed.
    late: Late,
    policy: Arc<Compiled>,
    /// Sinks of which holes tell, that are durable with this entry of the spool.
    told: VecDeque<(Place, Arc<str>)>,
    /// Somebody waits for more to become durable.
    waited: bool,
    /// Connections that hold bytes back until then.
    waiting: Rc<Waiting>,
}

/// The way out of a data thread.
fn out(shared: &Shared, thread: u32) -> Result<Out, NoStream> {
    let Some(spool) = &shared.spool else { return Ok(Out::memory(shared.queue.clone())) };
    let number = usize::try_from(thread).unwrap_or(usize::MAX);
    let counters = spool.page().thread(number).ok_or(NoStream::Page(thread))?;
    Ok(Out::spool(spool.inbox().clone(), counters))
}

/// Waits for news of what is durable, where there is a spool.
async fn more_durable(durable: &mut Option<watch::Receiver<Durable>>) {
    let changed = match durable {
        Some(durable) => durable.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        // There is no spool, or it has ended: no more will be.
        std::future::pending::<()>().await;
    }
}

impl Recorder {
    /// A recorder with a stream of its own, opened now.
    ///
    /// # Errors
    /// See [`NoStream`].
    pub fn new(shared: Shared, origin: Origin) -> Result<Self, NoStream> {
        let shown_stirred = Rc::new(Notify::new());
        let shown = origin.witness.then(|| Shown::new(shown_stirred.clone()));
        let out = out(&shared, origin.thread)?;
        let mut desk = Desk::new(out, shared.metrics.clone(), shared.tail.clone(), shown);
        let policy = shared.policy.load_full();
        let key = desk.key().ok_or(NoStream::Key)?;
        let thread = origin.thread;
        let stream = Stream::open(origin, key, &policy.document().revision, now(), &mut desk)?;
        let stirred = Rc::new(Notify::new());
        stirred.notify_one();
        let waiting = Rc::new(Waiting::default());
        let (told, waited) = (VecDeque::new(), false);
        let inner = Inner { stream, desk, late: Late::default(), policy, told, waited, waiting: waiting.clone() };
        let (inner, late_stirred) = (Rc::new(RefCell::new(inner)), Rc::default());
        Ok(Self { shared, inner, stirred, late_stirred, shown_stirred, thread, waiting })
    }

    /// Number of the data thread.
    pub fn thread(&self) -> u32 {
        self.thread
    }

    /// Whether the stream has ended for good.
    pub fn is_closed(&self) -> bool {
        self.inner.borrow().stream.is_closed()
    }

    /// Whether the stream has ended, and its last head is signed and durable.
    pub fn is_over(&self) -> bool {
        let inner = self.inner.borrow();
        inner.stream.is_closed() && !inner.stream.awaits_durable() && !inner.desk.has_heads()
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
        self.tell(|stream, now, desk| {
            // One that comes too late stands in the ledger.
            stream.is_closed() || **stream.id() != *of || stream.certified(certificate, now, desk)
        })
    }

    /// The witness cosigned this head: it goes out with the cosignature.
    pub fn cosigned(&self, of: &Arc<StreamId>, note: &SignedNote) {
        self.tell(|stream, now, desk| stream.cosigned(of, note, now, desk));
    }

    /// Begins to wait until a record of this thread is durable; it is written soon.
    pub fn wait(&self, until: Receipt) -> Wait {
        if let Receipt::At(_) = until {
            let mut inner = self.inner.borrow_mut();
            if let Some(spooled) = inner.desk.spooled() {
                spooled.hurry();
                self.waiting.durable(spooled.end());
            }
            if !std::mem::replace(&mut inner.waited, true) {
                self.stirred.notify_one();
            }
        }
        self.waiting.begin(until)
    }

    /// What all data threads share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The name of its present stream.
    pub fn stream_id(&self) -> Arc<StreamId> {
        self.inner.borrow().stream.id().clone()
    }

    /// Declares exchanges that an earlier process saw; `lost`: its stream, if that is known.
    pub fn lose(&self, gap: Gap, lost: Option<StreamId>) {
        self.shared.metrics.gap(gap.reason, gap.count);
        self.inner.borrow_mut().stream.lose(gap, lost);
        self.stirred.notify_one();
    }

    /// One step of the stream, behind all that was finished before. What others tell is sealed so.
    pub fn tell<R>(&self, step: impl FnOnce(&mut Stream<EpochKey>, Stamp, &mut Desk) -> R) -> R {
        let now = now();
        let mut guard = self.caught_up(now);
        let Inner { stream, desk, .. } = &mut *guard;
        let told = step(stream, now, desk);
        guard.settle(&self.shared, &self.stirred, now);
        told
    }

    /// Declares the gaps that are not declared yet, as far as there is room.
    pub fn declare(&self) -> bool {
        self.tell(|stream, now, desk| stream.declare(now, desk))
    }

    /// Waits until every head is signed and durable: what is to be done after [`Recorder::close`].
    pub async fn settled(&self) {
        let mut durable = self.inner.borrow_mut().desk.spooled().map(|spooled| spooled.watch());
        while self.inner.borrow().waits() {
            more_durable(&mut durable).await;
            let now = now();
            self.inner.borrow_mut().settle(&self.shared, &self.stirred, now);
        }
        self.shown_stirred.notify_one();
    }

    /// Waits until all that was sealed so far is durable. Without a spool it is, as far as it gets.
    pub async fn all_durable(&self) {
        let (last, watch) = match self.caught_up(now()).desk.spooled() {
            Some(spooled) => (spooled.last(), spooled.watch()),
            None => return,
        };
        let Some(last) = last else { return };
        let mut watch = watch;
        // An error: the spool has ended.
        let _ = watch.wait_for(|durable| durable.covers(last)).await;
    }

    /// Keeps the stream's schedule, hands over batches that have waited, and tells what sinks lost. Never ends.
    pub async fn keep(&self) {
        let losses = self.shared.queue.losses_told();
        let mut durable = self.inner.borrow_mut().desk.spooled().map(|spooled| spooled.watch());
        loop {
            let (due_ns, waits) = {
                let inner = self.inner.borrow();
                (inner.stream.due_ns(), inner.waits())
            };
            let wait = Duration::from_nanos(due_ns.saturating_sub(now().mono_ns));
            tokio::select! {
                () = self.stirred.notified() => {
                    if durable.is_none() {
                        tokio::time::sleep(FLUSH_AFTER).await;
                    }
                    self.tick();
                    self.flush();
                }
                () = tokio::time::sleep(wait) => self.tick(),
                () = more_durable(&mut durable), if waits => self.tick(),
                () = losses.notified(), if self.tells_losses() => self.tell_losses(),
            }
        }
    }

    /// Does what the stream has to do now.
    pub fn tick(&self) {
        self.tell(|stream, now, desk| stream.tick(now, desk));
    }

    fn tells_losses(&self) -> bool {
        self.thread == 0
    }

    /// Seals holes for what sinks will never have.
    pub fn tell_losses(&self) {
        let now = now();
        let mut guard = self.caught_up(now);
        let Inner { stream, desk, told, .. } = &mut *guard;
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
                continue;
            }
            match desk.spooled().and_then(|spooled| spooled.last()) {
                Some(place) => told.push_back((place, sink)),
                None => self.shared.queue.losses_durable(&sink),
            }
        }
        guard.settle(&self.shared, &self.stirred, now);
    }

    /// Hands the batch over, if it holds anything.
    pub fn flush(&self) {
        self.inner.borrow_mut().desk.flush();
    }

    /// The data thread ends: the stream closes. `false`: there is no room now, try again.
    pub fn close(&self) -> bool {
        if self.tells_losses() {
            self.shared.queue.end_holding_losses();
            self.tell_losses();
        }
        let closed = self.tell(|stream, now, desk| stream.close(now, desk));
        self.flush();
        self.shown_stirred.notify_one();
        closed
    }
}

impl Inner {
    /// Whether somebody waits for more to become durable.
    fn waits(&self) -> bool {
        self.stream.awaits_durable() || self.desk.has_heads() || !self.told.is_empty() || !self.waiting.is_empty()
    }

    /// When the last entry is durable.
    fn receipt(&mut self) -> Receipt {
        let last = self.desk.spooled().and_then(|spooled| spooled.last());
        last.map_or(Receipt::Never, |place| Receipt::At(place.number()))
    }

    /// After each step: a policy that changed is told, heads are signed, a full batch goes.
    fn settle(&mut self, shared: &Shared, stirred: &Notify, now: Stamp) {
        let in_force = shared.policy.load();
        if !Arc::ptr_eq(&in_force, &self.policy)
            && self.stream.policy(&in_force.document().revision, now, &mut self.desk)
        {
            self.policy = Arc::clone(&in_force);
        }
        if self.stream.awaits_durable()
            && let Some(upto) = self.desk.durable(self.stream.position())
        {
            self.stream.durable(upto, now, &mut self.desk);
        }
        self.desk.show_heads();
        // Who begins to wait asks how far it is.
        if !(self.waiting.is_empty() && self.told.is_empty())
            && let Some(spooled) = self.desk.spooled()
        {
            self.waiting.durable(spooled.end());
            while self.told.front().is_some_and(|(place, _)| spooled.covers(*place)) {
                if let Some((_, sink)) = self.told.pop_front() {
                    shared.queue.losses_durable(&sink);
                }
            }
        }
        // Whoever keeps the schedule looks at what is durable from now on.
        let waits = self.desk.spooled().is_some() && self.waits();
        if waits && !self.waited {
            stirred.notify_one();
        }
        self.waited = waits;
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

    fn emit(&mut self, record: Redacted<Record>) -> Receipt {
        let now = now();
        let mut guard = self.caught_up(now);
        let fate = guard.seal(&record, &self.shared, &self.stirred, now);
        let receipt = match fate {
            Fate::Sealed => guard.receipt(),
            Fate::Folded => Receipt::Counted,
            Fate::Lost(_) => Receipt::Never,
        };
        guard.settle(&self.shared, &self.stirred, now);
        receipt
    }

    fn emit_late(&mut self, record: Record, policy: Arc<Compiled>) {
        self.put_off(record, policy);
    }

    fn emit_begin(&mut self, record: Redacted<Record>) -> Begun {
        let mut inner = self.inner.borrow_mut();
        let put = body_of(&record).and_then(|body| inner.desk.spooled()?.begin(&body));
        let receipt = put.map_or(Receipt::Never, |(_, place)| Receipt::At(place.number()));
        Begun { number: put.map(|(number, _)| number), receipt }
    }

    fn emit_end(&mut self, record: Redacted<Record>, begun: Begun) -> Receipt {
        // Before the record: what is recovered up to anywhere never tells of one exchange twice. Up to here alone, the counter
        // page counts it.
        if let Some(number) = begun.number
            && let Some(spooled) = self.inner.borrow_mut().desk.spooled()
        {
            spooled.end_begin(number);
        }
        self.emit(record)
    }

    fn can_record(&self) -> bool {
        self.caught_up(now()).desk.has_room()
    }

    fn begin(&mut self) {
        let mut inner = self.inner.borrow_mut();
        inner.stream.begin();
        if let Some(spooled) = inner.desk.spooled() {
            spooled.counters().begin();
        }
    }

    fn count(&mut self, direction: Direction, outcome: Outcome, none: Option<Unrecorded<'_>>) {
        let outcome = match outcome {
            Outcome::Success => metrics::Outcome::Success,
            Outcome::Failure => metrics::Outcome::Failure,
            Outcome::Unknown => metrics::Outcome::Unknown,
        };
        self.shared.metrics.exchange(direction, outcome);
        let mut inner = self.inner.borrow_mut();
        if let Some(spooled) = inner.desk.spooled() {
            spooled.counters().end(1);
            if none.is_some() {
                spooled.counters().none();
            }
        }
        if let Some(Unrecorded { revision, rule }) = none {
            inner.stream.none(revision, rule);
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

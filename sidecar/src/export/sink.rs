//! One sink's task: takes what waits, sends it, and does what the answer says.

use super::answer::{Verdict, readable};
use super::delivery::{Delivery, Next};
use super::exporter::{Settings, Undelivered};
use super::pack::{Body, Packer};
use super::seals::LossReason;
use super::sink_queue::{SinkQueue, Taken};
use super::size::Size;
use super::source::Source;
use super::standing::Ends;
use super::transport::Transport;
use super::wire::Piece;
use crate::client::{Backoff, Jitter};
use crate::metrics::ExportResult;
use std::sync::Arc;
use std::time::Duration;
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::seal::SinkHole;
use testimony_core::evidence::stream::StreamId;
use testimony_core::otlp::answer::PartialSuccess;
use testimony_core::otlp::body_of_log_record;
use testimony_core::policy::{DocumentSink, SinkCondition};
use tokio::sync::watch;
use tokio::time::Instant;

/// First and longest wait between tries.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Wait between tries with wrong credentials or a wrong URL.
const PARKED_RETRY: Duration = Duration::from_secs(30);

/// Where too many losses wait to be told, it is looked so often whether they may be.
const FULL_LOOK: Duration = Duration::from_secs(1);

/// Where losses found no room, all that is not acknowledged is read again, at most so often.
const READ_AGAIN: Duration = Duration::from_secs(30);

/// What the exporter tells a sink's task.
#[derive(Clone, Debug)]
pub(super) struct Control {
    pub(super) sink: Arc<DocumentSink>,
    /// Send what waits until then, and end.
    pub(super) drain: Option<Instant>,
}

pub(super) struct SinkTask {
    queue: Arc<SinkQueue>,
    control: watch::Receiver<Control>,
    settings: Arc<Settings>,
    sink: Arc<DocumentSink>,
    drain: Option<Instant>,
    packer: Packer,
    transport: Transport,
    backoff: Backoff,
    jitter: Jitter,
    delivery: Delivery,
    size: Size,
    /// Where records come from, where there is a spool.
    source: Option<Source>,
    /// Where what was taken ends in the spool,
    ends: Ends,
    /// and what of it cannot be read, by stream. It is told when the rest is delivered: the sink of a process that dies before
    /// stands where it stood, and the next process tells the same.
    lost: Vec<(Arc<StreamId>, Range)>,
    /// When all of it was last read again,
    read_again_at: Option<Instant>,
    /// and that nothing was acknowledged since: losses of one request are told before the next one is read, so that they find
    /// room this time.
    reads_singly: bool,
}

/// What became of one piece.
enum Sent {
    Taken(PartialSuccess),
    Refused {
        why: String,
        of_records: bool,
    },
    /// It is to be sent in parts.
    TooLarge,
    /// The time to drain is over.
    Over,
}

// === impl SinkTask ===

impl SinkTask {
    pub(super) fn new(queue: Arc<SinkQueue>, control: watch::Receiver<Control>, settings: Arc<Settings>) -> Self {
        let Control { sink, drain } = control.borrow().clone();
        let backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, Jitter::seeded());
        let transport = Transport::new(settings.clone());
        let source = settings.spool.clone().map(|spool| Source::new(spool, queue.name.clone()));
        let (jitter, ends, lost) = (Jitter::seeded(), Ends::new(), Vec::new());
        let (read_again_at, reads_singly) = (None, false);
        Self {
            queue,
            control,
            settings,
            sink,
            drain,
            packer: Packer::default(),
            transport,
            backoff,
            jitter,
            delivery: Delivery::default(),
            size: Size::new(),
            source,
            ends,
            lost,
            read_again_at,
            reads_singly,
        }
    }

    pub(super) async fn run(mut self) -> Undelivered {
        while let Some(taken) = self.next().await {
            let over = self.deliver(taken).await;
            if over.is_none() {
                self.done();
            }
            self.queue.taken_is_done();
            if let Some(mut left) = over {
                let waiting = self.queue.left();
                left.records = left.records.saturating_add(waiting.records);
                left.undeclared = left.undeclared.saturating_add(waiting.undeclared);
                return left;
            }
        }
        self.queue.left()
    }

    /// What to send next; none when all is sent and the task is to end.
    async fn next(&mut self) -> Option<Taken> {
        loop {
            self.follow();
            if let Some(taken) = self.queue.take() {
                return Some(taken);
            }
            self.acknowledge();
            // At the end nobody tells more losses, and what is not acknowledged is read by the next process.
            let tells = self.drain.is_none() && self.source.is_some();
            let overflowed = tells && self.queue.is_to_be_read_again();
            if overflowed && self.read_again() {
                continue;
            }
            // What is lost of what is read now could not be told, and never be acknowledged.
            let waits = tells && self.queue.is_full_of_losses(self.reads_singly);
            self.queue.hold_back(waits && self.source.as_ref().is_some_and(Source::has_more));
            if !waits && self.read().await {
                self.done();
                continue;
            }
            if self.drain.is_some() {
                return None;
            }
            tokio::select! {
                () = self.queue.wake.notified() => {}
                () = changed(&mut self.control, self.drain) => {}
                () = more(&mut self.source), if !waits => {}
                () = tokio::time::sleep(FULL_LOOK), if waits || overflowed => {}
            }
        }
    }

    /// Begins anew where the spool has this sink. Nobody would tell the losses that found no room, and so nothing behind them
    /// would be acknowledged before the next process reads it. False: that was done a moment ago.
    fn read_again(&mut self) -> bool {
        if self.read_again_at.is_some_and(|at| at.elapsed() < READ_AGAIN) {
            return false;
        }
        (self.read_again_at, self.reads_singly) = (Some(Instant::now()), true);
        tracing::warn!(sink = %self.queue.name, "what it never gets found no room to be told: it is read again");
        self.queue.clear();
        self.source = self.settings.spool.clone().map(|spool| Source::new(spool, self.queue.name.clone()));
        (self.ends, self.lost) = (Ends::new(), Vec::new());
        true
    }

    /// Takes what the spool has for this sink into its queue. False: nothing now.
    async fn read(&mut self) -> bool {
        let Some(source) = &mut self.source else { return false };
        let Some(due) = source.read().await else { return false };
        if due.untold > 0 {
            self.queue.count_lost(due.untold, LossReason::SpoolDamaged);
        }
        self.ends.extend(due.ends);
        self.lost.extend(due.lost);
        due.batches.into_iter().for_each(|batch| self.queue.push(batch, 0));
        true
    }

    /// All that was taken is delivered, or told as lost.
    fn done(&mut self) {
        if self.queue.is_empty() {
            self.passed();
        }
        self.acknowledge();
    }

    /// The sink is done with all that was read.
    fn passed(&mut self) {
        for (stream, range) in self.lost.drain(..) {
            self.queue.lose_range(stream, range);
        }
        if self.source.is_some() {
            self.queue.done(std::mem::take(&mut self.ends));
        }
    }

    /// Tells the spool what is done with. Not what no hole tells durably: after a crash it would be told by nobody.
    fn acknowledge(&mut self) {
        if let Some(source) = &self.source {
            let ready = self.queue.take_ready();
            self.reads_singly &= ready.is_empty();
            source.acknowledge(ready);
        }
    }

    /// Takes over what the exporter told. Returns whether the sink itself is another.
    fn follow(&mut self) -> bool {
        let closed = self.control.has_changed().is_err();
        let control = self.control.borrow_and_update().clone();
        // Nobody is left to tell when to end.
        let drain = if closed { control.drain.or_else(|| Some(Instant::now())) } else { control.drain };
        if let (None, Some(_), Some(source)) = (std::mem::replace(&mut self.drain, drain), drain, &mut self.source) {
            source.try_at_once();
        }
        let altered = *control.sink != *self.sink;
        if altered {
            self.sink = control.sink;
            self.transport.disconnect();
            self.backoff.reset();
            self.delivery.distrust();
            self.size = Size::new();
        }
        altered
    }

    /// Sends everything that was taken, split as far as the sink asks for. Some: the time was over before.
    async fn deliver(&mut self, taken: Taken) -> Option<Undelivered> {
        self.delivery = Delivery::new(taken.batches);
        loop {
            let piece = match self.delivery.next(&self.size) {
                Next::Send(piece) => piece,
                Next::Ask => {
                    let Some(takes) = self.takes_anything().await else { return Some(self.undelivered()) };
                    self.delivery.answered(takes);
                    self.take_more().await;
                    continue;
                }
                Next::Done => return None,
            };
            match self.send(&piece).await {
                Sent::Taken(partial) if partial.rejected == 0 => {
                    self.taken(&piece, partial);
                    self.delivery.taken();
                }
                // Which ones, it does not say. A sink tells records that come again apart by their places.
                Sent::Taken(partial) => {
                    let why = self.partly_taken(&piece, partial);
                    if let Some(single) = self.delivery.partly_taken(piece) {
                        self.refused(single, &why);
                    }
                }
                Sent::Refused { why, of_records } => {
                    if let Some(single) = self.delivery.refused(piece, of_records) {
                        self.refused(single, &why);
                        if self.delivery.takes_others() {
                            self.queue.takes_others();
                        }
                    }
                }
                Sent::TooLarge => self.delivery.put_back(piece, true),
                Sent::Over => {
                    self.delivery.put_back(piece, false);
                    return Some(self.undelivered());
                }
            }
        }
    }

    fn undelivered(&self) -> Undelivered {
        Undelivered { records: self.delivery.records(), undeclared: 0 }
    }

    /// Where a sink took nothing of what is here, it may take what has come since: then it is known which records are at fault.
    async fn take_more(&mut self) {
        if !self.delivery.wants_more() || self.drain.is_some() {
            return;
        }
        if self.queue.is_empty() && !self.queue.is_full_of_losses(self.reads_singly) {
            self.read().await;
        }
        if let Some(more) = self.queue.take() {
            self.delivery.add(more.batches);
        }
    }

    /// Whether the sink takes a request at all, or refuses how it is spoken to: asked with one that has no records, which every
    /// receiver of OTLP is to take. If not, waits before the next try. None: the time to drain is over.
    async fn takes_anything(&mut self) -> Option<bool> {
        match self.send(&Piece::default()).await {
            Sent::Over => None,
            Sent::Refused { why, of_records: false } => {
                let hint = "it takes no request at all: check compression, scheme, client certificate and headers";
                let wait = self.jitter.spread(PARKED_RETRY);
                self.pause(wait, SinkCondition::Parked, format!("{why}; {hint}")).await.then_some(false)
            }
            Sent::Taken(_) | Sent::Refused { .. } | Sent::TooLarge => Some(true),
        }
    }

    /// Sends one piece until the sink says yes or no.
    async fn send(&mut self, piece: &Piece) -> Sent {
        let mut body = None;
        loop {
            let Some(verdict) = self.attempt(piece, &mut body).await else { return Sent::Over };
            let is_late = matches!(verdict, Verdict::Late { .. });
            let (wait, why, condition, result) = match verdict {
                Verdict::Taken(partial) => {
                    self.backoff.reset();
                    return Sent::Taken(partial);
                }
                Verdict::Refused { why, of_records } => {
                    // One without records is refused for how it is sent: nothing goes on until somebody mends that.
                    let is_parked = piece.records() == 0 && !of_records;
                    let result = if is_parked { ExportResult::Parked } else { ExportResult::Refused };
                    self.queue.metrics.request(result);
                    self.backoff.reset();
                    return Sent::Refused { why, of_records };
                }
                Verdict::Split { why } if piece.is_single() => {
                    (self.backoff.wait(), why, SinkCondition::Failing, ExportResult::Retry)
                }
                Verdict::Split { .. } => {
                    self.queue.metrics.request(ExportResult::Refused);
                    return Sent::TooLarge;
                }
                Verdict::Again { after, why } | Verdict::Late { after, why } => {
                    let wait = self.backoff.wait().max(after.unwrap_or_default());
                    (wait, why, SinkCondition::Failing, ExportResult::Retry)
                }
                Verdict::Park { why } => {
                    (self.jitter.spread(PARKED_RETRY), why, SinkCondition::Parked, ExportResult::Parked)
                }
            };
            self.queue.metrics.request(result);
            if !self.pause(wait, condition, why).await {
                return Sent::Over;
            }
            if is_late && self.size.late(piece) {
                return Sent::TooLarge;
            }
        }
    }

    /// Tells why it is waited, and waits. False: the time to drain is over, or nothing can come of waiting for it.
    async fn pause(&mut self, wait: Duration, condition: SinkCondition, why: String) -> bool {
        self.tell(condition, Some(why));
        self.follow();
        // Nobody mends credentials or a URL within the seconds of a drain: the pod is not held up for it.
        let is_vain = condition == SinkCondition::Parked && self.drain.is_some();
        !is_vain && self.wait(wait).await
    }

    /// One try; none when the time to drain ends before. `body` is kept for the next one.
    async fn attempt(&mut self, piece: &Piece, body: &mut Option<Body>) -> Option<Verdict> {
        if body.as_ref().is_some_and(|made| !made.fits(&self.sink)) {
            *body = None;
        }
        let body = match body {
            Some(made) => made,
            none => {
                let runs: Vec<&[u8]> = piece.0.iter().map(|batch| &batch.log_records[..]).collect();
                match self.packer.body(&self.sink, &self.settings.resource, &runs) {
                    Ok(made) => none.insert(made),
                    Err(error) => {
                        return Some(Verdict::Again { after: None, why: format!("cannot compress: {error}") });
                    }
                }
            }
        };
        tokio::select! {
            verdict = self.transport.post(&self.sink, body) => Some(verdict),
            () = drained(&self.control) => None,
        }
    }

    /// Waits before the next try; a sink that was altered and the start of a drain end the wait. False: the time to drain
    /// is over.
    async fn wait(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            let end = self.drain.map_or(until, |drain| drain.min(until));
            tokio::select! {
                () = tokio::time::sleep_until(end) => return end == until,
                () = changed(&mut self.control, self.drain) => {}
            }
            let draining = self.drain.is_some();
            if self.follow() || !draining && self.drain.is_some() {
                return true;
            }
        }
    }

    fn taken(&mut self, piece: &Piece, answer: PartialSuccess) {
        let records = piece.records();
        self.queue.release(piece.bytes(), records, records);
        self.queue.metrics.request(ExportResult::Success);
        self.size.taken();
        // A message without a rejection is a warning.
        let warning = Some(readable(answer.message.as_bytes())).filter(|message| !message.is_empty());
        self.tell(SinkCondition::Delivering, warning);
    }

    fn partly_taken(&mut self, piece: &Piece, partial: PartialSuccess) -> String {
        let records = piece.records();
        let rejected = partial.rejected.min(records);
        self.queue.metrics.request(ExportResult::Partial);
        let message = readable(partial.message.as_bytes());
        let why = format!("{rejected} of {records} records rejected: {message}");
        tracing::warn!(sink = %self.queue.name, rejected, records, message, "records rejected by the sink");
        self.tell(SinkCondition::Delivering, Some(why.clone()));
        why
    }

    /// The sink will never take this single record.
    fn refused(&mut self, piece: Piece, why: &str) {
        let records = piece.records();
        tracing::warn!(sink = %self.queue.name, records, error = why, "a record is refused by the sink");
        self.tell(SinkCondition::Failing, Some(why.to_owned()));
        self.queue.release(piece.bytes(), records, 0);
        for batch in &piece.0 {
            let hole = body_of_log_record(&batch.log_records).and_then(SinkHole::from_body);
            self.queue.refuse(u64::from(batch.records), batch.seals.as_ref(), hole);
        }
    }

    /// Tells a condition; a line in the log only when it is another.
    fn tell(&self, condition: SinkCondition, error: Option<String>) {
        let shown = error.clone().unwrap_or_default();
        if self.queue.set_condition(condition, error) {
            match condition {
                SinkCondition::Delivering => tracing::info!(sink = %self.queue.name, "delivering"),
                _ => tracing::warn!(sink = %self.queue.name, state = ?condition, error = shown, "not delivering"),
            }
        }
    }
}

/// There may be more in the spool.
async fn more(source: &mut Option<Source>) {
    match source {
        Some(source) => source.changed().await,
        None => std::future::pending().await,
    }
}

/// Something was told, or the exporter is gone; the latter is told once (`follow` turns it into the end of the task).
async fn changed(control: &mut watch::Receiver<Control>, drain: Option<Instant>) {
    if control.changed().await.is_err() && drain.is_some() {
        std::future::pending::<()>().await;
    }
}

/// The time to drain is over. Marks nothing as seen: `follow` must see it too.
async fn drained(control: &watch::Receiver<Control>) {
    let mut watcher = control.clone();
    loop {
        let drain = watcher.borrow_and_update().drain;
        match drain {
            Some(deadline) => return tokio::time::sleep_until(deadline).await,
            None if watcher.changed().await.is_err() => return,
            None => {}
        }
    }
}

//! The data thread's side: what its streams have to show goes to the operator, one thing after the other.

use super::{Ask, Certified, Errand, Shown};
use crate::client::{Backoff, Jitter};
use crate::data::Recorder;
use crate::defect::{Panicked, contained_task};
use crate::metrics::{Metrics, WitnessAnswer};
use std::sync::Arc;
use std::time::Duration;
use testimony_core::evidence::note::SignedNote;
use testimony_core::evidence::seal::{COSIGNED_SECONDS, WITNESS_IDLE_SECONDS};
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::witness::Outcome;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// A certificate that found no place in its stream is tried again after this.
const SEAL_AGAIN: Duration = Duration::from_secs(1);

/// First and longest wait after a head that was not cosigned.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Time between two streams that end because the witness takes no more of them: each one that it is shown takes room in the
/// ledger.
const RENEW_EVERY: Duration = Duration::from_secs(3600);

/// Time between two heads of a stream that go out with their cosignatures (H2).
const COSIGNED_EVERY: Duration = Duration::from_secs(COSIGNED_SECONDS);

/// A stream without news shows a sign of life after this.
const IDLE: Duration = Duration::from_secs(WITNESS_IDLE_SECONDS);

/// Gets the certificates of this recorder's streams and seals them, and shows the streams' heads. Ends when the recorder is
/// closed and its end is shown, or cannot be shown at once.
pub async fn accompany(recorder: Recorder, asks: mpsc::Sender<Ask>) {
    let metrics = recorder.shared().metrics.clone();
    let mut walk = Walk {
        recorder,
        asks,
        metrics,
        backoff: Backoff::new(RETRY_FIRST, RETRY_MAX, Jitter::seeded()),
        next: Instant::now(),
        interval: Duration::ZERO,
        alarmed: false,
        exported: None,
        renewed: None,
    };
    while walk.contained_step().await.is_some() {}
}

struct Walk {
    recorder: Recorder,
    asks: mpsc::Sender<Ask>,
    metrics: Arc<Metrics>,
    backoff: Backoff,
    /// When the next head may be shown.
    next: Instant,
    interval: Duration,
    /// The present trouble was told.
    alarmed: bool,
    /// The head that went out with its cosignature last: of which stream and size, and when.
    exported: Option<(Arc<StreamId>, u64, Instant)>,
    /// When a stream ended last because the witness takes no more of it.
    renewed: Option<Instant>,
}

impl Walk {
    /// One step; a panic costs no more than that one.
    async fn contained_step(&mut self) -> Option<()> {
        match contained_task(self.step()).await {
            Ok(done) => done,
            Err(Panicked) => {
                tracing::error!("a defect: to show a stream to the witness panicked; it goes on");
                self.recorder.shown(Shown::failed);
                self.retry(WitnessAnswer::Failed).await
            }
        }
    }

    /// One errand, or a wait for one. `None`: it is over.
    async fn step(&mut self) -> Option<()> {
        let errand = self.recorder.shown(Shown::errand).flatten();
        self.count();
        match errand {
            Some(Errand::Certificate { .. }) if self.recorder.is_closed() => None,
            Some(Errand::Certificate { stream, csr }) => self.certificate(&stream, csr).await,
            Some(Errand::Checkpoint(body)) => self.checkpoint(body).await,
            None if self.recorder.is_over() => None,
            None => {
                if timeout(IDLE, self.recorder.shown_stirred()).await.is_err() {
                    self.recorder.shown(Shown::again);
                }
                Some(())
            }
        }
    }

    /// Tells how far the witness is.
    fn count(&self) {
        let Some((streams, never)) = self.recorder.shown(|shown| (shown.streams(), shown.unanchored())) else { return };
        self.metrics.unanchored(self.recorder.thread(), never);
        self.metrics.anchoring.shown(self.recorder.thread(), streams, never);
    }

    async fn certificate(&mut self, stream: &StreamId, csr: Vec<u8>) -> Option<()> {
        let (answer, mut answered) = oneshot::channel();
        self.asks.send(Ask::Certificate { csr, answer }).await.ok()?;
        let Certified { certificate, interval } = loop {
            tokio::select! {
                certified = &mut answered => break certified.ok()?,
                () = self.recorder.shown_stirred() => {
                    if self.recorder.is_closed() {
                        return None;
                    }
                    // An operator that is away for long meets the streams of more than one day.
                    self.count();
                }
            }
        };
        self.interval = interval;
        // What comes after the stream's end is left to the ledger.
        while !self.recorder.certified(stream, &certificate) {
            sleep(SEAL_AGAIN).await;
        }
        self.recorder.shown(|shown| shown.certified(stream));
        Some(())
    }

    async fn checkpoint(&mut self, body: String) -> Option<()> {
        self.next = Instant::now() + self.interval;
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Checkpoint { body, answer }).await.ok()?;
        let Some((status, body)) = answered.await.ok()? else {
            self.recorder.shown(Shown::failed);
            return self.retry(WitnessAnswer::Failed).await;
        };
        let stream = self.recorder.shown(|shown| shown.stream().cloned()).flatten();
        let name = stream.as_ref().map_or("", |stream| stream.as_str());
        match self.recorder.shown(|shown| shown.answered(status, &body)).flatten()? {
            Outcome::Cosigned(note) => {
                if let Some(stream) = &stream {
                    self.export(stream, &note);
                }
                self.metrics.witness(WitnessAnswer::Cosigned);
                self.metrics.cosigned(self.recorder.thread(), crate::data::now().wall_ns);
                self.metrics.anchoring.cosigned(self.recorder.thread(), Instant::now());
                self.count();
                self.alarmed = false;
                self.backoff.reset();
                self.pause(self.next).await;
                Some(())
            }
            Outcome::Again => Some(()),
            Outcome::Later => self.retry(WitnessAnswer::Later).await,
            Outcome::Uncertified => self.retry(WitnessAnswer::Uncertified).await,
            Outcome::WentBack => {
                tracing::error!(stream = name, "the witness forgot a head that it had cosigned; showing it once more");
                self.retry(WitnessAnswer::WentBack).await
            }
            Outcome::Ahead(size) => {
                self.alarm(|| {
                    tracing::error!(stream = name, size, "the witness knows a head that this stream never had")
                });
                self.refused(WitnessAnswer::Ahead).await
            }
            Outcome::Denied(status, why) => {
                self.alarm(|| {
                    tracing::warn!(stream = name, status, why, "the pod may not show its heads to the witness")
                });
                self.retry(WitnessAnswer::Denied).await
            }
            Outcome::Expired => {
                self.alarm(|| {
                    tracing::warn!(stream = name, "the stream's certificate ran out before its head was shown")
                });
                self.refused(WitnessAnswer::Expired).await
            }
            Outcome::Refused(status, why) => {
                self.alarm(|| tracing::error!(stream = name, status, why, "the witness refuses the stream's head"));
                self.refused(WitnessAnswer::Refused).await
            }
        }
    }

    /// Refused: later again. A stream that is refused for good makes room for the next one at once, which the present one ends
    /// for.
    async fn refused(&mut self, answer: WitnessAnswer) -> Option<()> {
        self.renew();
        if !self.recorder.shown(|shown| shown.gives_up()).unwrap_or_default() {
            return self.retry(answer).await;
        }
        self.metrics.witness(answer);
        self.alarmed = false;
        self.backoff.reset();
        Some(())
    }

    /// Ends the present stream, if only another one can be anchored.
    fn renew(&mut self) {
        let soon = self.renewed.is_some_and(|at| at.elapsed() < RENEW_EVERY);
        let stuck = self.recorder.shown(|shown| shown.stuck().cloned()).flatten();
        let Some(stuck) = stuck.filter(|_| !soon) else { return };
        let present = |id: &Arc<StreamId>| Arc::ptr_eq(id, &stuck);
        if self.recorder.tell(|stream, now, desk| present(stream.id()) && stream.renew(now, desk)) {
            self.renewed = Some(Instant::now());
            tracing::warn!(stream = %stuck, "the witness takes no more of this stream: it ends, and the next one begins");
        }
    }

    /// Of heads that follow one another so fast, the export needs one in a while.
    fn export(&mut self, stream: &Arc<StreamId>, note: &SignedNote) {
        let size = note.checkpoint.size;
        let soon = self.exported.as_ref().is_some_and(|(of, known, at)| {
            Arc::ptr_eq(of, stream) && (*known == size || at.elapsed() < COSIGNED_EVERY)
        });
        // Of a stream's end the ledger says when it was shown.
        if !soon && !self.recorder.is_closed() {
            self.recorder.cosigned(stream, note);
            self.exported = Some((stream.clone(), size, Instant::now()));
        }
    }

    /// Says something once until the next head is cosigned.
    fn alarm(&mut self, say: impl FnOnce()) {
        if !std::mem::replace(&mut self.alarmed, true) {
            say();
        }
    }

    /// Not cosigned: later again, unless this is the end.
    async fn retry(&mut self, answer: WitnessAnswer) -> Option<()> {
        self.metrics.witness(answer);
        if self.recorder.is_closed() {
            return None;
        }
        let wait = self.backoff.wait();
        self.pause(Instant::now() + wait).await;
        Some(())
    }

    /// Waits, but not beyond the end of the recorder.
    async fn pause(&self, then: Instant) {
        while !self.recorder.is_closed() {
            tokio::select! {
                () = sleep_until(then) => return,
                () = self.recorder.shown_stirred() => {}
            }
        }
    }
}

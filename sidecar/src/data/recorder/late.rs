//! Records that are sealed a little later than they are finished: no answer waits for them, so they keep no request waiting
//! either.
//!
//! What is sealed at once has its place behind all of these.

use super::{Inner, Recorder, Shared, now};
use std::cell::RefMut;
use std::collections::VecDeque;
use std::sync::Arc;
use testimony_core::evidence::seal::Fate;
use testimony_core::policy::Compiled;
use testimony_core::record::{Record, Redacted, Stamp, Typ};
use testimony_core::redact::redact;
use tokio::sync::Notify;

/// Records that may wait at once: before another one does, the oldest is sealed.
pub const LATE_RECORDS_MAX: usize = 64;

/// Sealed between two looks at whether a request has come.
const PIECE_RECORDS: usize = 4;

/// Finished records in their order, and the policies that say what is redacted.
#[derive(Default)]
pub(super) struct Late(VecDeque<(Record, Arc<Compiled>)>);

impl Late {
    fn pop(&mut self) -> Option<Redacted<Record>> {
        let (record, policy) = self.0.pop_front()?;
        Some(redact(record, policy.redactor()))
    }
}

impl Recorder {
    /// Seals what came late whenever the data thread has nothing else to do. Never ends.
    pub async fn catch_up(&self) {
        loop {
            self.late_stirred.notified().await;
            while self.seal_piece() {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Whether there is more.
    fn seal_piece(&self) -> bool {
        let now = now();
        let mut inner = self.inner.borrow_mut();
        inner.seal_late(PIECE_RECORDS, &self.shared, &self.stirred, now);
        inner.settle(&self.shared, &self.stirred, now);
        !inner.late.0.is_empty()
    }

    /// The inner part, with everything sealed that was finished before.
    pub(super) fn caught_up(&self, now: Stamp) -> RefMut<'_, Inner> {
        let mut inner = self.inner.borrow_mut();
        inner.seal_late(LATE_RECORDS_MAX, &self.shared, &self.stirred, now);
        inner
    }

    /// Takes a finished record for later.
    pub(super) fn put_off(&self, record: Record, policy: Arc<Compiled>) {
        let mut inner = self.inner.borrow_mut();
        if inner.late.0.is_empty() {
            self.late_stirred.notify_one();
        }
        if inner.late.0.len() >= LATE_RECORDS_MAX {
            inner.seal_late(1, &self.shared, &self.stirred, now());
        }
        inner.late.0.push_back((record, policy));
        if inner.stream.is_closed() {
            // Nobody comes for it any more: it is counted as lost.
            inner.seal_late(LATE_RECORDS_MAX, &self.shared, &self.stirred, now());
        }
    }
}

impl Inner {
    fn seal_late(&mut self, records_max: usize, shared: &Shared, stirred: &Notify, now: Stamp) {
        for _ in 0..records_max {
            let Some(record) = self.late.pop() else { return };
            self.seal(&record, shared, stirred, now);
        }
    }

    /// Seals a record, and counts what became of it.
    pub(super) fn seal(&mut self, record: &Redacted<Record>, shared: &Shared, stirred: &Notify, now: Stamp) -> Fate {
        let fate = self.stream.seal(record, now, &mut self.desk);
        match fate {
            Fate::Sealed => {
                shared.metrics.records.inc();
                if record.get().event().is_stage() {
                    shared.metrics.stages.inc();
                }
            }
            Fate::Folded => stirred.notify_one(),
            Fate::Lost(reason) => {
                stirred.notify_one();
                if record.get().typ() == Some(Typ::Exchange) {
                    shared.metrics.gap(reason, 1);
                    shared.queue.count_unsealed(reason);
                }
            }
        }
        fate
    }
}

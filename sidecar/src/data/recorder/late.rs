//! Records that are sealed a little later than they are finished: no answer waits for them, so they keep no request waiting
//! either.
//!
//! What is sealed at once has its place behind all of these.

use super::{Inner, Recorder, Shared, now};
use crate::defect::{Panicked, contained};
use std::cell::RefMut;
use std::collections::VecDeque;
use std::sync::Arc;
use testimony_core::evidence::seal::Fate;
use testimony_core::policy::Compiled;
use testimony_core::record::{Gap, GapReason, Record, Redacted, Stamp, Typ};
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
    fn pop(&mut self) -> Option<Result<Redacted<Record>, Broken>> {
        let (record, policy) = self.0.pop_front()?;
        Some(unbroken(record, |record| redact(record, policy.redactor())))
    }
}

/// A record of which a defect left nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Broken {
    /// It was that of an exchange, not of a stage of one.
    exchange: bool,
    /// When that began, in nanoseconds since the epoch; 0: it is not known.
    start_ns: u64,
}

/// A defect at one record costs no other one: here they are of many connections.
fn unbroken<T>(record: Record, work: impl FnOnce(Record) -> T) -> Result<T, Broken> {
    let exchange = record.typ() == Some(Typ::Exchange);
    let start_ns = record.start_ns();
    contained(|| work(record)).map_err(|Panicked| Broken { exchange, start_ns })
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

impl Shared {
    /// Counts an exchange that has no record.
    fn count_lost(&self, reason: GapReason) {
        self.metrics.gap(reason, 1);
        self.queue.count_unsealed(reason);
    }
}

impl Inner {
    fn seal_late(&mut self, records_max: usize, shared: &Shared, stirred: &Notify, now: Stamp) {
        for _ in 0..records_max {
            match self.late.pop() {
                Some(Ok(record)) => {
                    self.seal(&record, shared, stirred, now);
                }
                Some(Err(broken)) => self.lose(broken, shared, stirred, now),
                None => return,
            }
        }
    }

    /// Counts what became of a record that there is none of.
    fn lose(&mut self, broken: Broken, shared: &Shared, stirred: &Notify, now: Stamp) {
        if broken.exchange {
            let reason = GapReason::Defect;
            self.stream.lose_own(Gap { count: 1, exact: true, from_ns: broken.start_ns, to_ns: now.wall_ns, reason });
            shared.count_lost(reason);
            stirred.notify_one();
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
                    shared.count_lost(reason);
                }
            }
        }
        fate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testimony_core::record::{EventName, Field};

    #[test]
    fn g1_of_a_record_that_a_defect_breaks_it_is_known_what_it_was_of() {
        for (typ, exchange) in [("exchange", true), ("stage", false)] {
            let record = || {
                let mut record = Record::new(EventName::HttpRequest);
                record.set(Field::Typ, typ.as_bytes());
                record.set_int(Field::T0, 7);
                record
            };
            assert!(unbroken(record(), |record| record.typ().is_some()).expect("it goes well"));
            let broken = unbroken(record(), |_| -> u8 { panic!("as the test wants it") });
            assert_eq!(broken, Err(Broken { exchange, start_ns: 7 }));
        }
    }
}

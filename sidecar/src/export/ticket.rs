//! Places in the sinks' queues, reserved before anything is sealed (S3).

use super::Batch;
use super::seals::LossReason;
use super::sink_queue::SinkQueue;
use std::sync::Arc;
use testimony_core::evidence::seal::Class;

/// A batch's place in the queues of the sinks that have room for it. Dropped without a batch it gives the places back.
pub struct Ticket {
    sinks: Vec<Arc<SinkQueue>>,
    /// Sinks without room: they never get the batch.
    full: Vec<Arc<SinkQueue>>,
    bytes: usize,
}

impl Ticket {
    pub(super) fn new(all: &[Arc<SinkQueue>], bytes: usize, class: Class) -> Self {
        let (sinks, full) = all.iter().cloned().partition(|sink| sink.reserve(bytes, class));
        Self { sinks, full, bytes }
    }

    /// At all sinks, without a reservation.
    pub(super) fn unbounded(all: &[Arc<SinkQueue>]) -> Self {
        Self { sinks: all.to_vec(), full: Vec::new(), bytes: 0 }
    }

    /// There are sinks, and none has room.
    pub(super) fn is_void(&self) -> bool {
        self.sinks.is_empty() && !self.full.is_empty()
    }

    /// Every sink has room.
    pub fn is_whole(&self) -> bool {
        self.full.is_empty()
    }

    /// Reserves more at all its sinks. False: one of them has no room, and nothing is reserved.
    pub fn grow(&mut self, bytes: usize, class: Class) -> bool {
        for (at, sink) in self.sinks.iter().enumerate() {
            if !sink.reserve(bytes, class) {
                self.sinks.iter().take(at).for_each(|before| before.free(bytes));
                return false;
            }
        }
        self.bytes = self.bytes.saturating_add(bytes);
        true
    }

    pub(super) fn hand_over(mut self, batch: Batch) {
        for sink in self.full.drain(..) {
            sink.lose(u64::from(batch.records), batch.seals.as_ref(), LossReason::QueueFull);
        }
        let reserved = std::mem::take(&mut self.bytes);
        for sink in self.sinks.drain(..) {
            sink.push(batch.clone(), reserved);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.sinks.iter().for_each(|sink| sink.free(self.bytes));
    }
}

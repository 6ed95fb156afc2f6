//! What waits for each sink: the way from the data threads into export.

use super::Batch;
use super::seals::{Loss, LossReason};
use super::sink_queue::SinkQueue;
use super::ticket::Ticket;
use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use std::sync::Arc;
use testimony_core::evidence::seal::Class;
use testimony_core::policy::SinkState;
use testimony_core::record::GapReason;
use tokio::sync::{Notify, watch};

/// The way into export. Clones share the same queues.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

/// What the queue and the exporter share.
struct Shared {
    /// The sinks of the policy in force; replaced as a whole.
    sinks: ArcSwap<Vec<Arc<SinkQueue>>>,
    /// Counts changes of any sink's condition.
    changes: watch::Sender<u64>,
    /// A sink has something to tell that it never gets.
    losses: Arc<Notify>,
    metrics: Arc<Metrics>,
}

impl Queue {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let (changes, _) = watch::channel(0);
        let losses = Arc::default();
        Self { shared: Arc::new(Shared { sinks: ArcSwap::default(), changes, losses, metrics }) }
    }

    /// Reserves so many bytes at every sink of the policy in force that has room for them. `None`: there are sinks, and none
    /// has room.
    pub fn ticket(&self, bytes: usize, class: Class) -> Option<Ticket> {
        let ticket = Ticket::new(&self.shared.sinks.load(), bytes, class);
        (!ticket.is_void()).then_some(ticket)
    }

    /// Hands a batch to the sinks of its ticket; those that had no room for it never get it. Without a ticket all take it,
    /// whether they have room or not.
    pub fn push(&self, batch: Batch, ticket: Option<Ticket>) {
        if batch.records > 0 {
            ticket.unwrap_or_else(|| Ticket::unbounded(&self.shared.sinks.load())).hand_over(batch);
        }
    }

    /// Counts an exchange that was not sealed: no sink ever gets it, and the stream declares a gap.
    pub fn count_unsealed(&self, reason: GapReason) {
        if let Some(reason) = LossReason::of_gap(reason) {
            self.shared.sinks.load().iter().for_each(|sink| sink.count_lost(1, reason));
        }
    }

    /// Notified when there is something to [`Queue::take_losses`].
    pub fn losses_told(&self) -> Arc<Notify> {
        self.shared.losses.clone()
    }

    /// What each sink never gets, with its name: to be told once. A sink that refused records has to take others before more
    /// is told of it, or half a minute has to pass; a record that tells could be refused, too, without end.
    pub fn take_losses(&self) -> Vec<(Arc<str>, Loss)> {
        let sinks = self.shared.sinks.load();
        sinks.iter().flat_map(|sink| sink.take_losses().into_iter().map(|loss| (sink.name.clone(), loss))).collect()
    }

    /// [`Queue::take_losses`] returns all of them from now on: the process ends.
    pub fn end_holding_losses(&self) {
        self.shared.sinks.load().iter().for_each(|sink| sink.end_holding());
    }

    /// The hole that tells the next [`Loss`] of this sink is durable: they become so in the order in which they were taken.
    /// `sink` is the name that came with it; a sink that has the same name by now is another one.
    pub fn losses_durable(&self, sink: &Arc<str>) {
        if let Some(queue) = self.of(sink) {
            queue.loss_is_durable();
        }
    }

    /// There was no room to tell it: before any other is taken.
    pub fn return_loss(&self, sink: &Arc<str>, loss: Loss) {
        if let Some(queue) = self.of(sink) {
            queue.return_loss(loss);
        }
    }

    fn of(&self, name: &Arc<str>) -> Option<Arc<SinkQueue>> {
        self.shared.sinks.load().iter().find(|queue| Arc::ptr_eq(&queue.name, name)).cloned()
    }

    /// Every sink's state: for the operator's poll and `/config`.
    pub fn sink_states(&self) -> Vec<SinkState> {
        self.shared.sinks.load().iter().map(|sink| sink.snapshot()).collect()
    }

    /// Changes whenever a sink's condition does.
    pub fn state_changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Brings the gauges up to date: before each scrape.
    pub fn refresh_metrics(&self) {
        for sink in self.shared.sinks.load().iter() {
            let state = sink.snapshot();
            sink.metrics.oldest_seconds.set(i64::try_from(state.oldest_undelivered_seconds).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn add_sink(&self, name: &str, bytes_max: usize) -> Arc<SinkQueue> {
        let Shared { metrics, changes, losses, .. } = &*self.shared;
        Arc::new(SinkQueue::new(name, bytes_max, metrics.sink(name), changes.clone(), losses.clone()))
    }

    pub(super) fn replace_sinks(&self, sinks: Vec<Arc<SinkQueue>>) {
        self.shared.sinks.store(Arc::new(sinks));
        self.shared.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }
}

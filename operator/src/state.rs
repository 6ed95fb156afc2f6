//! What the tasks of one process share: the index, what sidecars acknowledged, and who waits for news.

use crate::index::{Index, Touched};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;
use testimony_core::policy::{EvidenceState, Refused, SinkCondition, SinkState};
use tokio::sync::{Notify, watch};

/// Most acknowledgements that are kept; each belongs to a pod of the index.
const ACKS_MAX: usize = 100_000;

/// Polls of one pod that wait at a time: one, and those that its sidecar has not yet given up after a break.
const POLLS_PER_POD_MAX: usize = 4;

/// Most sinks of one acknowledgement that are kept.
const ACK_SINKS_MAX: usize = 64;

/// What a sidecar said last.
#[derive(Clone, Debug, PartialEq)]
pub struct Ack {
    /// Revision in force.
    pub revision: Option<String>,
    /// The last document that it refused.
    pub refused: Option<Refused>,
    /// Its sinks.
    pub sinks: Vec<SinkState>,
    /// How its evidence stands; sidecars of older versions do not tell.
    pub evidence: Option<EvidenceState>,
    /// When it said so.
    pub at: Instant,
    /// The authorities' bundle that it was given last.
    pub bundle: Option<Arc<str>>,
}

/// What the tasks share. No lock is held across an await.
#[derive(Debug)]
pub struct State {
    index: RwLock<Index>,
    acks: Mutex<HashMap<String, Ack>>,
    /// Counts changes that can concern any document.
    epoch: watch::Sender<u64>,
    /// Polls that wait, by pod uid.
    waiting: Mutex<HashMap<String, Arc<Notify>>>,
    /// Something changed that statuses may show.
    pub changed: Notify,
}

impl State {
    /// An empty state.
    pub fn new(cluster_domain: &str) -> Self {
        Self {
            index: RwLock::new(Index::new(cluster_domain)),
            acks: Mutex::default(),
            epoch: watch::Sender::new(0),
            waiting: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The index to look at.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the index and wakes those whom it concerns.
    pub fn change(&self, change: impl FnOnce(&mut Index) -> Touched) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let touched = change(&mut index);
        let gone = touched.pod.as_ref().filter(|uid| index.pod(uid).is_none()).cloned();
        drop(index);
        if touched.documents {
            self.epoch.send_modify(|epoch| *epoch = epoch.wrapping_add(1));
        }
        if let Some(uid) = &touched.pod
            && let Some(waiting) = self.waiting().get(uid)
        {
            waiting.notify_waiters();
        }
        if let Some(uid) = gone {
            self.acks().remove(&uid);
        }
        self.changed.notify_one();
    }

    /// Changes what concerns nobody else: wakes nobody.
    pub fn remember(&self, change: impl FnOnce(&mut Index)) {
        change(&mut self.index.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// What sidecars said, by pod uid.
    pub fn acks(&self) -> MutexGuard<'_, HashMap<String, Ack>> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what the sidecar of a known pod says; of an unknown pod nothing is kept.
    pub fn acknowledge(&self, uid: &str, mut ack: Ack) {
        ack.sinks.truncate(ACK_SINKS_MAX);
        ack.evidence = ack.evidence.map(EvidenceState::bounded);
        if self.index().pod(uid).is_none() {
            return;
        }
        let mut acks = self.acks();
        let known = acks.get(uid);
        if known.is_none() && acks.len() >= ACKS_MAX {
            return;
        }
        ack.bundle = known.and_then(|k| k.bundle.clone());
        let news = known.is_none_or(|known| {
            let same = (&known.revision, &known.refused) == (&ack.revision, &ack.refused);
            !same || sink_states(known).ne(sink_states(&ack)) || is_whole(known) != is_whole(&ack)
        });
        acks.insert(uid.to_owned(), ack);
        drop(acks);
        if news {
            self.changed.notify_one();
        }
    }

    /// Changes of any document.
    pub fn epochs(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// Wakes when the facts of this pod change; give it back by [`State::unregister`]. `None`: too many wait for this pod.
    pub fn register(&self, uid: &str) -> Option<Arc<Notify>> {
        let mut waiting = self.waiting();
        let notify = waiting.entry(uid.to_owned()).or_default();
        (Arc::strong_count(notify) <= POLLS_PER_POD_MAX).then(|| notify.clone())
    }

    /// Forgets who waits for a pod, if nobody does any more.
    pub fn unregister(&self, uid: &str, notify: Arc<Notify>) {
        let mut waiting = self.waiting();
        drop(notify);
        if waiting.get(uid).is_some_and(|n| Arc::strong_count(n) == 1) {
            waiting.remove(uid);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What statuses show at once. Ages and counts change with each poll, and wait for the next look.
fn sink_states(ack: &Ack) -> impl Iterator<Item = (&str, SinkCondition, Option<&str>)> {
    ack.sinks.iter().map(|s| (s.name.as_str(), s.state, s.error.as_deref()))
}

/// Whether there are gaps, and streams without an anchor: how many waits, as other counts do.
fn is_whole(ack: &Ack) -> Option<(bool, bool)> {
    ack.evidence.map(|evidence| (evidence.gap_exchanges == 0, evidence.unanchored == 0))
}

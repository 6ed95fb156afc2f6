//! The ways to a running spool, and what it tells.

use super::boots::{Boot, Predecessor};
use super::disk::Folder;
use super::inbox::Inbox;
use super::keys::{Change, DataKey, RecoveryKey};
use super::page::{CounterPage, Counters};
use super::position::Place;
use super::reader::Reader;
use super::recover::Report;
use super::shelf::{Shared, Shelf, SinkRule, Skipped};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::witness::unwrap::RECOVERY_KEY_BYTES;
use tokio::sync::watch;
use tokio::time::timeout;

/// What the spool tells.
#[derive(Debug)]
pub enum Event {
    /// What an earlier process left (D3).
    Found(Box<Found>),
    /// A sink that is not required never gets this (T5).
    Skipped(Boot, Skipped),
}

/// What an earlier process left.
#[derive(Debug)]
pub struct Found {
    /// Streams, begins, damage.
    pub report: Report,
    /// By data thread, what its counter page shows; empty where there is none.
    pub counters: Vec<Counters>,
    /// Whether they are exact: the node did not restart since (D2).
    pub counters_exact: bool,
}

/// A segment that the pod's key does not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedSegment {
    /// Of which process.
    pub boot: Boot,
    /// Its number.
    pub number: u64,
    /// Its key, wrapped to the operator's recovery key.
    pub wrapped: Vec<u8>,
    /// The streams whose records stand in it.
    pub streams: Vec<StreamId>,
}

/// How the spool is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of all segments, those of earlier processes too.
    pub used_bytes: u64,
    /// Entries that wait for the disk.
    pub pending: u64,
    /// Parts that sinks never get, and of which no hole tells durably.
    pub skipped_untold: usize,
    /// What is wrong with the disk, if anything is.
    pub fault: Option<String>,
}

/// The ways to a running spool; clones share it.
#[derive(Clone)]
pub struct SpoolHandle {
    pub(super) inbox: Inbox,
    pub(super) page: CounterPage,
    pub(super) boot: Boot,
    pub(super) shared: Arc<Common>,
}

pub(super) struct Common {
    pub(super) control: Mutex<Control>,
    pub(super) shelves: Mutex<BTreeMap<Boot, (PathBuf, Arc<Shared>)>>,
    pub(super) stats: Mutex<Stats>,
    pub(super) recovery: Option<Arc<RecoveryKey>>,
    /// Counts the folders of earlier processes that can be read.
    pub(super) adopted: watch::Sender<usize>,
    /// Whether all of them were read, and the spool's thread took them over.
    pub(super) all_adopted: watch::Sender<bool>,
}

/// What the thread is to do.
#[derive(Default)]
pub(super) struct Control {
    pub(super) sinks: Option<Vec<SinkRule>>,
    pub(super) acks: BTreeMap<(Boot, String), Place>,
    pub(super) recovered: Vec<Boot>,
    pub(super) skipped_told: Vec<(Boot, String)>,
    pub(super) unlocked: Vec<(Boot, u64, DataKey)>,
    pub(super) adopted: Vec<(Shelf<Folder>, Predecessor)>,
    /// No more of these come.
    pub(super) all_adopted: bool,
    /// The open segment is to end.
    pub(super) roll: bool,
    /// The recovery key was made anew: what was wrapped before is to be wrapped again.
    pub(super) outdated: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SpoolHandle {
    /// Where entries go in.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Where data threads count.
    pub fn page(&self) -> &CounterPage {
        &self.page
    }

    /// This start of the process.
    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// Other sinks are in force. A new one gets what comes from now on, and all that earlier processes left.
    pub fn set_sinks(&self, sinks: Vec<SinkRule>) {
        lock(&self.shared.control).sinks = Some(sinks);
        self.inbox.shared().request();
    }

    /// A sink has everything before `end` of a process's spool.
    pub fn ack(&self, boot: Boot, sink: &str, end: Place) {
        let mut control = lock(&self.shared.control);
        let known = control.acks.entry((boot, sink.to_owned())).or_default();
        *known = end.max(*known);
    }

    /// The `recovered` records about an earlier process, and all that follows from them, are durable (D3).
    pub fn set_recovered(&self, boot: Boot) {
        lock(&self.shared.control).recovered.push(boot);
        self.inbox.shared().request();
    }

    /// The holes about what sinks never get are durable; `file` as [`Skipped`] named it.
    pub fn set_skipped_told(&self, boot: Boot, file: &str) {
        lock(&self.shared.control).skipped_told.push((boot, file.to_owned()));
        self.inbox.shared().request();
    }

    /// The operator's recovery key: segments are wrapped to it from now on, and those that were wrapped to none, or to the one
    /// before.
    pub fn set_recovery_key(&self, key: [u8; RECOVERY_KEY_BYTES]) {
        let change = self.shared.recovery.as_ref().map_or(Change::None, |recovery| recovery.set(key));
        if change != Change::None {
            let mut control = lock(&self.shared.control);
            control.roll = true;
            control.outdated |= change == Change::Replaced;
            drop(control);
            self.inbox.shared().request();
        }
    }

    /// Segments of earlier processes that only the operator can open: the node restarted since.
    pub fn locked(&self) -> Vec<LockedSegment> {
        let shelves = lock(&self.shared.shelves);
        shelves.iter().flat_map(|(boot, (_, shared))| shared.locked(*boot)).collect()
    }

    /// The operator unwrapped the key of a segment, or cannot.
    pub fn unlock(&self, boot: Boot, segment: u64, key: DataKey) {
        lock(&self.shared.control).unlocked.push((boot, segment, key));
        self.inbox.shared().request();
    }

    /// Folders that can be read: its own and, as they are found, those of earlier processes.
    pub fn boots(&self) -> Vec<Boot> {
        lock(&self.shared.shelves).keys().copied().collect()
    }

    /// Tells when [`SpoolHandle::boots`] has more.
    pub fn adopted(&self) -> watch::Receiver<usize> {
        self.shared.adopted.subscribe()
    }

    /// Waits until sinks can read all that earlier processes left, but for what cannot be read; at most for so long. Returns
    /// whether they can.
    pub async fn wait_all_adopted(&self, patience: Duration) -> bool {
        let mut all = self.shared.all_adopted.subscribe();
        timeout(patience, all.wait_for(|all| *all)).await.is_ok_and(|all| all.is_ok())
    }

    /// Reads for a sink, from where it stands; `None` while the spool knows neither process nor sink.
    pub fn reader(&self, boot: Boot, sink: &str) -> Option<Reader<Folder>> {
        let (folder, shared) = lock(&self.shared.shelves).get(&boot).cloned()?;
        let at = shared.sink_position(sink)?;
        Reader::new(Folder::new(&folder), shared, at).ok()
    }

    /// Reads from a place on: what a backend lost, or what a [`Report`] names.
    pub fn reader_at(&self, boot: Boot, at: Place) -> Option<Reader<Folder>> {
        let (folder, shared) = lock(&self.shared.shelves).get(&boot).cloned()?;
        Reader::new(Folder::new(&folder), shared, at).ok()
    }

    /// Files are read again, and not what is still in memory of them.
    #[cfg(test)]
    pub(crate) fn forget_recent(&self) {
        let end = self.inbox.durable().borrow().end();
        lock(&self.shared.shelves).values().for_each(|(_, shared)| drop(shared.forget(end)));
    }

    /// The folders of all processes.
    pub(super) fn folders(&self) -> Vec<(Folder, Arc<Shared>)> {
        let shelves = lock(&self.shared.shelves);
        shelves.values().map(|(path, shared)| (Folder::new(path), shared.clone())).collect()
    }

    /// How the spool is.
    pub fn stats(&self) -> Stats {
        lock(&self.shared.stats).clone()
    }
}

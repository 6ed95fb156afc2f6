//! The spool's thread: takes what the inbox holds, makes it durable, tells so. A second thread reads what earlier processes
//! left, behind traffic.

use super::boots::{Boot, BootError, Boots, Predecessor};
use super::disk::{Folder, Syncer};
use super::foreign::Foreign;
use super::handle::{Common, Control, Event, SpoolHandle, Stats, lock};
use super::inbox::{Inbox, Refusal};
use super::keys::{KeyError, Keys, RecoveryKey};
use super::pace::Limits;
use super::page::{CounterPage, kernel_boot_id};
use super::position::{Durable, Place};
use super::recover::names;
use super::recovery;
use super::shelf::{Shelf, SinkRule};
use super::writer::{Fault, Writer, WriterSettings};
use super::{Block, SEGMENT_BYTES_MAX, StreamNumber};
use crate::background::{self, Waited};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use testimony_core::evidence::stream::StreamId;
use tokio::sync::{mpsc, watch};

/// How often acknowledgements are made durable, old segments go, and a disk that failed is tried again.
const TICK: Duration = Duration::from_secs(1);

/// How often the folder of a new process is tried to be made,
const STARTS_MAX: u32 = 8;
/// and the pause between two attempts, in ms: traffic waits for it.
const START_PAUSE_MS: u64 = 50;

/// Events that may wait to be taken.
const EVENTS_MAX: usize = 256;

/// What a spool needs.
#[derive(Clone)]
pub struct Settings {
    /// The folder on disk.
    pub folder: PathBuf,
    /// The folder in memory with the pod's key.
    pub key_folder: PathBuf,
    /// Bytes of all files together (SP-3).
    pub limit_bytes: u64,
    /// When is written, and how much may wait.
    pub limits: Limits,
    /// This start of the process.
    pub boot: Boot,
    /// The operator's recovery key, where there is an operator.
    pub recovery: Option<Arc<RecoveryKey>>,
    /// Time in ns since the epoch.
    pub now_unix_nanos: fn() -> u64,
}

/// Why a spool cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its folder.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The pod's key.
    #[error("the pod's key: {0}")]
    Key(#[from] KeyError),
    /// The counter page, or a thread.
    #[error("{what}: {source}")]
    Io {
        /// What was to be made.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A running spool. Dropping it stops it and waits for what waits to be written.
pub struct Spool {
    handle: SpoolHandle,
    /// Streams of earlier processes.
    found: Vec<StreamId>,
    threads: Vec<JoinHandle<()>>,
}

impl Spool {
    /// Starts the threads. New records are taken at once; what earlier processes left comes as [`Event::Found`].
    ///
    /// # Errors
    /// The folder, the key or the page cannot be made.
    pub fn start(settings: Settings, sinks: &[SinkRule]) -> Result<(Self, mpsc::Receiver<Event>), StartError> {
        let no_thread = |source| StartError::Io { what: "a thread of the spool", source };
        let keys = Keys::load(&settings.key_folder, settings.recovery.clone())?;
        let Made { boots, page, predecessors } = made(&settings)?;
        let found = names(predecessors.iter().map(|one| (one.boot, Folder::new(&one.path))));
        let folder = boots.folder();
        let inbox = Inbox::new(settings.limits);
        let syncer = {
            let inbox = inbox.shared().clone();
            Arc::new(Syncer::start(move || inbox.request_soon()).map_err(no_thread)?)
        };
        let mut disk = Folder::new(&folder);
        disk.set_syncer(&syncer);
        let shelf = Shelf::new(disk, settings.boot);
        let shared = shelf.shared().clone();
        let mut writer = Writer::new(WriterSettings::new(settings.limit_bytes), keys.clone(), shelf)
            .map_err(|source| StartError::Io { what: "the spool's writer", source })?;
        writer.set_sinks(sinks);
        let foreign = Foreign::unread(&predecessors);
        writer.set_elsewhere(foreign.takes());
        inbox.shared().settle(0, 0, writer.room(), None);
        let common = Common {
            control: Mutex::<Control>::default(),
            shelves: Mutex::new(BTreeMap::from([(settings.boot, (folder, shared))])),
            stats: Mutex::default(),
            recovery: settings.recovery,
            adopted: watch::channel(0).0,
            all_adopted: watch::channel(predecessors.is_empty()).0,
        };
        let handle = SpoolHandle { inbox, page, boot: settings.boot, shared: Arc::new(common) };
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let work = Work {
            writer,
            keys: keys.clone(),
            syncer,
            rewraps: false,
            outdated: false,
            handle: handle.clone(),
            foreign,
            sinks: sinks.to_vec(),
            events: events.clone(),
            untold: Vec::new(),
            now: settings.now_unix_nanos,
            kept_at: Instant::now(),
            keeps: false,
            waited: Waited::default(),
            fault: None,
            boots,
        };
        let mut threads = vec![background::thread("spool", move || work.run()).map_err(no_thread)?];
        if !predecessors.is_empty() {
            let (handle, boot) = (handle.clone(), settings.boot);
            let body = move || recovery::recover(&handle, predecessors, &keys, boot, &events);
            threads.push(background::thread("spool-recovery", body).map_err(no_thread)?);
        }
        Ok((Self { handle, found, threads }, receiver))
    }

    /// Whether one could be started now, in a process that has none. Leaves nothing on the disk.
    ///
    /// # Errors
    /// As [`Spool::start`].
    pub fn could_start(settings: &Settings) -> Result<(), StartError> {
        Keys::load(&settings.key_folder, settings.recovery.clone())?;
        let made = make(settings);
        Boots::clear(&settings.folder, settings.boot);
        made.map(drop)
    }

    /// The ways to it.
    pub fn handle(&self) -> &SpoolHandle {
        &self.handle
    }

    /// Names of streams that earlier processes left here (S2), newest first.
    pub fn found(&self) -> &[StreamId] {
        &self.found
    }

    /// Writes what waits, ends the open segment and the threads.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.handle.inbox.shared().stop();
        for thread in self.threads.drain(..) {
            // It ends in order, or the process does.
            let _ = thread.join();
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.end();
    }
}

/// What stands on the disk before the threads start.
struct Made {
    boots: Boots,
    page: CounterPage,
    predecessors: Vec<Predecessor>,
}

/// A disk that fails for a moment must not cost this process its spool.
fn made(settings: &Settings) -> Result<Made, StartError> {
    for _ in 1..STARTS_MAX {
        match make(settings) {
            Err(error) => tracing::warn!(%error, "the spool's folder cannot be made yet"),
            made => return made,
        }
        std::thread::sleep(Duration::from_millis(START_PAUSE_MS));
    }
    make(settings)
}

fn make(settings: &Settings) -> Result<Made, StartError> {
    Boots::clear(&settings.folder, settings.boot);
    let boots = Boots::open(&settings.folder, settings.boot)?;
    let page = CounterPage::create(&boots.folder(), kernel_boot_id());
    let page = page.map_err(|source| StartError::Io { what: "the counter page", source })?;
    boots.set_aside();
    let predecessors = boots.predecessors()?;
    Ok(Made { boots, page, predecessors })
}

/// How blocks are written.
type Write = fn(&mut Writer<Folder>, Vec<Block<StreamNumber>>, u64) -> Result<Durable, Fault>;

/// What the thread owns.
struct Work {
    writer: Writer<Folder>,
    keys: Keys,
    /// Dropped with this, which awaits its thread.
    syncer: Arc<Syncer>,
    /// Keys may have to be wrapped to the recovery key (D5).
    rewraps: bool,
    /// The recovery key was made anew while this process ran.
    outdated: bool,
    handle: SpoolHandle,
    foreign: Foreign,
    sinks: Vec<SinkRule>,
    events: mpsc::Sender<Event>,
    untold: Vec<Event>,
    now: fn() -> u64,
    /// When housekeeping began last,
    kept_at: Instant,
    /// and whether it has not come to its end.
    keeps: bool,
    waited: Waited,
    fault: Option<String>,
    /// Keeps the folder locked, and some blocks for the worst.
    boots: Boots,
}

impl Work {
    fn run(mut self) {
        loop {
            let batch = self.handle.inbox.shared().next(TICK);
            self.waited.tell(batch.urgent, Instant::now());
            let recovered = self.follow();
            for (number, sid, exchanges) in batch.new_streams {
                self.writer.add_stream(number, sid, exchanges);
            }
            let (mut entries, mut bytes) = self.writer.pending();
            for block in &batch.blocks {
                entries += block.len() as u64;
                bytes += block.payload_bytes();
            }
            let is_idle = batch.blocks.is_empty();
            // Who waits would wait for another thread's turn, too.
            let how = match batch.commits {
                false => Writer::write,
                true if batch.urgent || batch.stopping => Writer::commit,
                true => Writer::begin_commit,
            };
            let refusing = self.write(batch.blocks, how);
            let (entries_left, bytes_left) = self.writer.pending();
            self.handle.inbox.shared().publish(self.writer.durable());
            let (entries, bytes) = (entries.saturating_sub(entries_left), bytes.saturating_sub(bytes_left));
            if batch.stopping || recovered || self.kept_at.elapsed() >= TICK {
                self.keep_house(batch.stopping);
            } else if self.keeps {
                self.keep_foreign(false);
                self.count_elsewhere();
            }
            self.handle.inbox.shared().settle(entries, bytes, self.writer.room(), refusing);
            self.writer.forget_taken();
            self.handle.inbox.shared().reuse(self.writer.take_spent(), is_idle);
            self.tell(entries_left);
            if batch.stopping {
                if let Err(fault) = self.writer.finish() {
                    tracing::error!(%fault, "the last segment has no end");
                }
                return;
            }
        }
    }

    /// Does what was asked for. Whether an earlier process is told of now: that is to be durable at once, or a successor
    /// tells it again.
    fn follow(&mut self) -> bool {
        let control = std::mem::take(&mut *lock(&self.handle.shared.control));
        let is_counted = control.sinks.is_none() && control.adopted.is_empty();
        if let Some(sinks) = control.sinks {
            self.writer.set_sinks(&sinks);
            self.foreign.shelves().for_each(|shelf| shelf.set_sinks(&sinks, Place::default()));
            self.sinks = sinks;
        }
        self.rewraps |= control.roll || !control.adopted.is_empty();
        self.outdated |= control.outdated;
        for (mut shelf, predecessor) in control.adopted {
            if self.outdated {
                shelf.outdate_keys();
            }
            self.foreign.adopt(shelf, predecessor, &self.sinks, &self.syncer);
        }
        if control.all_adopted {
            self.handle.shared.all_adopted.send_replace(true);
        }
        if !is_counted {
            self.count_elsewhere();
        }
        for ((boot, sink), end) in control.acks {
            let Some(shelf) = self.shelf(boot) else { continue };
            if let Err(error) = shelf.ack(&sink, end) {
                tracing::debug!(sink, %error, "an acknowledgement is not taken");
            }
        }
        // Its key is the one of before; the next segment is wrapped to the recovery key of now.
        if control.roll {
            self.writer.end_segment();
        }
        if control.outdated {
            self.writer.shelf_mut().outdate_keys();
            self.foreign.shelves().for_each(Shelf::outdate_keys);
        }
        let recovered = !control.recovered.is_empty();
        for boot in control.recovered {
            if let Some(shelf) = self.shelf(boot) {
                shelf.set_recovered();
            }
        }
        for (boot, file) in control.skipped_told {
            if let Some(shelf) = self.shelf(boot) {
                shelf.set_skipped_told(&file);
            }
        }
        for (boot, segment, key) in control.unlocked {
            if let Some(shelf) = self.shelf(boot) {
                shelf.unlock(segment, key);
            }
        }
        recovered
    }

    fn shelf(&mut self, boot: Boot) -> Option<&mut Shelf<Folder>> {
        if boot == self.handle.boot {
            return Some(self.writer.shelf_mut());
        }
        self.foreign.shelf(boot)
    }

    /// Writes, and makes durable where it is time. Says why nothing more is to be sealed, if so.
    fn write(&mut self, blocks: Vec<Block<StreamNumber>>, how: Write) -> Option<Refusal> {
        let mut result = how(&mut self.writer, blocks, (self.now)());
        if result.as_ref().is_err_and(Fault::is_for_lack_of_room) {
            self.make_room();
            result = self.writer.retry((self.now)());
        }
        let fault = result.err();
        let text = fault.as_ref().map(Fault::to_string);
        if text.is_some() != self.fault.is_some() {
            match &text {
                Some(fault) => tracing::error!(fault, "records cannot be spooled"),
                None => tracing::info!("records are spooled again"),
            }
        }
        self.fault = text;
        fault.map(|fault| match fault {
            Fault::Full { .. } | Fault::DiskFull { .. } => Refusal::SpoolFull,
            _ => Refusal::DiskFailed,
        })
    }

    /// There is no room: below the limit, or on the file system, whoever fills it.
    fn make_room(&mut self) {
        // Acknowledgements that are not durable yet may make some.
        self.boots.give_back();
        self.keep_house(true);
        self.free(SEGMENT_BYTES_MAX);
        self.boots.set_aside();
        self.count_elsewhere();
    }

    /// Lets go what no room is kept for: who comes next must find some before it has read any of it.
    fn trim(&mut self) {
        self.count_elsewhere();
        let excess = self.writer.excess_bytes();
        if excess > 0 {
            self.free(excess);
            self.count_elsewhere();
        }
    }

    /// Removes so much of what nobody waits for, and then of what only sinks wait for that are not required; what earlier
    /// processes left goes first.
    fn free(&mut self, bytes: u64) {
        let mut left = bytes.saturating_sub(self.foreign.release(bytes));
        left = left.saturating_sub(self.writer.shelf_mut().release(left));
        left = left.saturating_sub(self.foreign.make_room(left));
        self.writer.shelf_mut().make_room(left);
    }

    /// What earlier processes left is counted when it changes: there may be many folders, and blocks come many times a second.
    fn count_elsewhere(&mut self) {
        self.writer.set_elsewhere(self.foreign.takes());
    }

    /// Makes acknowledgements durable, now or soon, and lets go what nobody waits for.
    fn keep_house(&mut self, waits: bool) {
        self.kept_at = Instant::now();
        let now = (self.now)();
        keep(self.writer.shelf_mut(), now, waits, &mut self.untold);
        self.rewrap();
        self.foreign.thin();
        self.foreign.restart();
        self.keep_foreign(waits);
        self.trim();
    }

    /// The same for what earlier processes left, of which there may be much: a little at a time, and the rest when a sync has
    /// ended. Nothing is written meanwhile.
    fn keep_foreign(&mut self, waits: bool) {
        let now = (self.now)();
        self.keeps = true;
        while waits || !self.syncer.is_busy() {
            let Some(shelf) = self.foreign.next() else {
                self.keeps = false;
                return;
            };
            keep(shelf, now, waits, &mut self.untold);
            let Some(predecessor) = self.foreign.give_up() else { continue };
            lock(&self.handle.shared.shelves).remove(&predecessor.boot);
            if let Err(error) = predecessor.remove() {
                tracing::warn!(%error, "a folder cannot be removed");
            }
        }
    }

    /// Wraps keys that were made before the recovery key was known. What the disk does not take is tried again.
    fn rewrap(&mut self) {
        if !std::mem::take(&mut self.rewraps) {
            return;
        }
        for shelf in std::iter::once(self.writer.shelf_mut()).chain(self.foreign.shelves()) {
            if let Err(error) = shelf.rewrap(&self.keys) {
                tracing::warn!(boot = %shelf.boot(), %error, "keys are not wrapped to the recovery key yet");
                self.rewraps = true;
            }
        }
    }

    fn tell(&mut self, pending: u64) {
        let used_bytes = self.foreign.segment_bytes().saturating_add(self.writer.shelf().used_bytes());
        let skipped_untold = self.foreign.skipped_untold() + self.writer.shelf().skipped_untold();
        *lock(&self.handle.shared.stats) = Stats { used_bytes, pending, skipped_untold, fault: self.fault.clone() };
        while let Some(event) = self.untold.pop() {
            if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
                self.untold.push(event);
                break;
            }
        }
    }
}

/// Makes the acknowledgements of one shelf durable, now or soon, and lets go what nobody waits for.
fn keep(shelf: &mut Shelf<Folder>, now_unix_nanos: u64, waits: bool, untold: &mut Vec<Event>) {
    let boot = shelf.boot();
    let flushed = if waits { shelf.flush(now_unix_nanos) } else { shelf.begin_flush(now_unix_nanos) };
    shelf.expire(now_unix_nanos);
    // What was removed may come back before the next sync, and goes again: that is worth no wait.
    let synced = if waits { shelf.sync_folder() } else { Ok(()) };
    if let Err(error) = flushed.and(synced) {
        tracing::warn!(%boot, %error, "acknowledgements are not durable; records may be sent again");
    }
    untold.extend(shelf.take_skipped().into_iter().map(|skipped| Event::Skipped(boot, skipped)));
}

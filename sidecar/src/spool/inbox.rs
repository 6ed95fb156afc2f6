//! The way into the spool: bounded, and a place is reserved before a record is sealed (S3).

use super::entry::{Block, Entry, StreamNumber};
use super::format::frame::ENTRY_BYTES;
use super::pace::{Limits, Waiting};
use super::position::{Durable, Place};
use super::writer::Room;
use super::{PAYLOAD_BYTES_MAX, SPARE_BLOCKS_MAX, TAG_BYTES};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use testimony_core::evidence::stream::StreamId;
use tokio::sync::watch;

/// What an entry may take on disk beyond its payload: what is in clear, and where each has a frame of its own, the rest of
/// a frame and what compression adds to bytes that it cannot shorten.
const ENTRY_OVERHEAD_BYTES: u64 = ENTRY_BYTES as u64 + TAG_BYTES as u64 + 128;

const UNITS_PER_BYTE: u64 = 128;

/// Which reserves may be used (T5), in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A record of traffic.
    Ordinary,
    /// A record about the streams themselves.
    Evidence,
    /// What has to be durable before segments can go.
    Release,
}

/// Why a record is not to be sealed: it is counted into the next gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too much waits for the disk.
    #[error("too many records wait for the spool's disk")]
    QueueFull,
    /// The limit is reached: sinks take less than comes.
    #[error("the spool is full")]
    SpoolFull,
    /// The disk failed.
    #[error("the spool's disk fails")]
    DiskFailed,
    /// Beyond [`PAYLOAD_BYTES_MAX`].
    #[error("a record is longer than the spool takes")]
    TooLong,
    /// The process ends.
    #[error("the spool is closed")]
    Closed,
}

/// Why an entry is not taken: a defect of who puts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// Longer than what was reserved.
    #[error("the payload is longer than the reserved place")]
    BeyondReservation,
    /// Leaves come in the order of seq (CH-1).
    #[error("seq {found} where {due} is due")]
    WrongSeq {
        /// What came.
        found: u64,
        /// What is due.
        due: u64,
    },
    /// No such stream.
    #[error("the stream is not known to the spool")]
    UnknownStream,
}

/// Handle of the inbox; clones share it.
#[derive(Clone)]
pub struct Inbox {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    durable: watch::Sender<Durable>,
}

struct State {
    limits: Limits,
    blocks: Vec<Block<StreamNumber>>,
    /// Empty ones with memory of before.
    spare: Vec<Block<StreamNumber>>,
    /// Payload bytes of `blocks`,
    waiting_bytes: usize,
    /// and of all that came since the writer was last told to make all durable.
    uncommitted_bytes: usize,
    /// Payload bytes that are reserved, wait, or are with the writer.
    held_bytes: u64,
    /// What these may take on disk at most, in 128ths of a byte: so it adds up exactly.
    held_on_disk: u64,
    room: Room,
    refusing: Option<Refusal>,
    next: Place,
    due: Vec<u64>,
    new_streams: Vec<(StreamNumber, StreamId, u64)>,
    /// Since when something waits to be durable. What the disk did not take counts no more: it is tried with what comes next.
    since: Option<Instant>,
    /// When the writer last took something.
    written_at: Option<Instant>,
    /// When the writer was last told to make all durable.
    committed_at: Option<Instant>,
    urgent: bool,
    requests: bool,
    stopping: bool,
}

/// A reserved place, for one or more entries. What is left of it when it is dropped is free again.
pub struct Permit {
    shared: Arc<Shared>,
    payload_bytes: u64,
    /// In 128ths of a byte.
    on_disk: u64,
}

/// What the writer takes at once.
pub(super) struct Batch {
    pub(super) new_streams: Vec<(StreamNumber, StreamId, u64)>,
    pub(super) blocks: Vec<Block<StreamNumber>>,
    /// All is to be durable now, with what was written before.
    pub(super) commits: bool,
    /// Somebody waits for it.
    pub(super) urgent: bool,
    pub(super) stopping: bool,
}

impl Inbox {
    pub(super) fn new(limits: Limits) -> Self {
        let (durable, _) = watch::channel(Durable::default());
        let state = State {
            limits,
            blocks: Vec::new(),
            spare: Vec::new(),
            waiting_bytes: 0,
            uncommitted_bytes: 0,
            held_bytes: 0,
            held_on_disk: 0,
            room: Room::default(),
            refusing: None,
            next: Place::default(),
            due: Vec::new(),
            new_streams: Vec::new(),
            since: None,
            written_at: None,
            committed_at: None,
            urgent: false,
            requests: false,
            stopping: false,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new(), durable }) }
    }

    /// A stream begins. `exchanges`: what the data thread's earlier entries told of.
    pub fn add_stream(&self, sid: StreamId, exchanges: u64) -> StreamNumber {
        let mut state = self.shared.lock();
        let number = StreamNumber(u32::try_from(state.due.len()).unwrap_or(u32::MAX));
        state.due.push(0);
        state.new_streams.push((number, sid, exchanges));
        number
    }

    /// Reserves room for one entry whose payload has at most so many bytes.
    ///
    /// # Errors
    /// There is none; nothing is to be sealed.
    pub fn reserve(&self, class: Class, payload_bytes_max: usize) -> Result<Permit, Refusal> {
        self.reserve_entries(class, payload_bytes_max, 1)
    }

    /// The same, for several entries: a record and the end of its `begin`.
    ///
    /// # Errors
    /// As [`Inbox::reserve`].
    pub fn reserve_entries(&self, class: Class, payload_bytes_max: usize, entries: u64) -> Result<Permit, Refusal> {
        let mut state = self.shared.lock();
        if payload_bytes_max > PAYLOAD_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
        if state.stopping {
            return Err(Refusal::Closed);
        }
        if let Some(refusal) = state.refusing {
            return Err(refusal);
        }
        let payload_bytes = payload_bytes_max as u64;
        let on_disk = on_disk(payload_bytes, entries);
        if state.held_bytes.saturating_add(payload_bytes) > state.limits.held_bytes_max {
            return Err(Refusal::QueueFull);
        }
        let room = match class {
            Class::Ordinary => state.room.ordinary_bytes,
            Class::Evidence => state.room.evidence_bytes,
            Class::Release => state.room.release_bytes,
        };
        if state.held_on_disk.saturating_add(on_disk) > room.saturating_mul(UNITS_PER_BYTE) {
            return Err(Refusal::SpoolFull);
        }
        state.held_bytes = state.held_bytes.saturating_add(payload_bytes);
        state.held_on_disk = state.held_on_disk.saturating_add(on_disk);
        drop(state);
        Ok(Permit { shared: self.shared.clone(), payload_bytes, on_disk })
    }

    /// A place for the first record of a stream: there is always room for that one (S2), within the fixed reserve.
    pub fn reserve_opening(&self, payload_bytes_max: usize) -> Permit {
        let payload_bytes = payload_bytes_max.min(PAYLOAD_BYTES_MAX) as u64;
        let on_disk = on_disk(payload_bytes, 1);
        let mut state = self.shared.lock();
        state.held_bytes = state.held_bytes.saturating_add(payload_bytes);
        state.held_on_disk = state.held_on_disk.saturating_add(on_disk);
        drop(state);
        Permit { shared: self.shared.clone(), payload_bytes, on_disk }
    }

    /// Tells how far entries are durable.
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.shared.durable.subscribe()
    }

    /// Writes what waits at once, because somebody waits for it (Strict).
    pub fn hurry(&self) {
        let mut state = self.shared.lock();
        if !state.urgent {
            state.urgent = true;
            self.shared.wake.notify_one();
        }
    }

    /// Waits until an entry is durable, at most so long; returns whether it is.
    pub async fn wait_durable(&self, place: Place, patience: Duration) -> bool {
        let mut durable = self.durable();
        self.hurry();
        let covered = durable.wait_for(|durable| durable.covers(place));
        matches!(tokio::time::timeout(patience, covered).await, Ok(Ok(_)))
    }

    /// Waits until all that was put so far is durable, at most so long; returns whether it is.
    pub async fn wait_all_durable(&self, patience: Duration) -> bool {
        let next = self.shared.lock().next;
        if next == Place::default() {
            return true;
        }
        self.hurry();
        let mut durable = self.durable();
        let covered = durable.wait_for(|durable| durable.end() >= next);
        matches!(tokio::time::timeout(patience, covered).await, Ok(Ok(_)))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// What entries may take on disk at most, in 128ths of a byte. Compression makes nothing longer by more than a 128th.
fn on_disk(payload_bytes: u64, entries: u64) -> u64 {
    let overhead = entries.saturating_mul(ENTRY_OVERHEAD_BYTES * UNITS_PER_BYTE);
    payload_bytes.saturating_mul(UNITS_PER_BYTE + 1).saturating_add(overhead)
}

impl State {
    fn waiting(&self) -> Option<Waiting> {
        let Self { written_at, urgent, committed_at, waiting_bytes: bytes, .. } = *self;
        self.since.map(|since| Waiting { since, written_at, bytes, urgent, committed_at })
    }
}

impl Permit {
    /// Puts an entry into the reserved place. Never waits.
    ///
    /// # Errors
    /// A defect of who puts it; nothing was put.
    pub fn push(&mut self, entry: Entry<StreamNumber>, payload: &[u8]) -> Result<Place, PushError> {
        let bytes = payload.len() as u64;
        let cost = on_disk(bytes, 1);
        if bytes > self.payload_bytes || cost > self.on_disk {
            return Err(PushError::BeyondReservation);
        }
        let mut state = self.shared.lock();
        let at = usize::try_from(entry.stream.0).unwrap_or(usize::MAX);
        let due = state.due.get_mut(at).ok_or(PushError::UnknownStream)?;
        if entry.kind.is_leaf() {
            if *due != entry.seq {
                return Err(PushError::WrongSeq { found: entry.seq, due: *due });
            }
            *due = due.saturating_add(1);
        }
        // From here on the inbox holds what the permit held.
        self.payload_bytes -= bytes;
        self.on_disk -= cost;
        let place = state.next;
        state.next = place.next();
        let fits = state.blocks.last().is_some_and(|block| block.has_room(payload.len()));
        if !fits {
            let empty = state.spare.pop().unwrap_or_default();
            state.blocks.push(empty);
        }
        if let Some(block) = state.blocks.last_mut() {
            block.push(entry, payload);
        }
        state.waiting_bytes = state.waiting_bytes.saturating_add(payload.len());
        let (before, commit_bytes) = (state.uncommitted_bytes, state.limits.commit_bytes);
        state.uncommitted_bytes = before.saturating_add(payload.len());
        let crosses = before < commit_bytes && state.uncommitted_bytes >= commit_bytes;
        let is_first = state.since.is_none();
        if is_first {
            state.since = Some(Instant::now());
        }
        drop(state);
        if is_first || crosses {
            self.shared.wake.notify_one();
        }
        Ok(place)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.payload_bytes > 0 || self.on_disk > 0 {
            let mut state = self.shared.lock();
            state.held_bytes = state.held_bytes.saturating_sub(self.payload_bytes);
            state.held_on_disk = state.held_on_disk.saturating_sub(self.on_disk);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is to be written, made durable or told, or `tick` is over.
    pub(super) fn next(&self, tick: Duration) -> Batch {
        let mut state = self.lock();
        let until = Instant::now() + tick;
        let commits = loop {
            let now = Instant::now();
            let waiting = state.waiting();
            let commit_due = waiting.is_some_and(|waiting| state.limits.commit_due(&waiting) <= now);
            let is_much = state.uncommitted_bytes >= state.limits.commit_bytes;
            if commit_due || is_much || state.stopping || until <= now {
                break true;
            }
            let due = waiting.map(|waiting| state.limits.due(&waiting));
            if state.requests || due.is_some_and(|due| due <= now) {
                break false;
            }
            let look = waiting.map_or(until, |waiting| state.limits.look(&waiting, now).min(until));
            let wait = look.saturating_duration_since(now);
            state = self.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        };
        if std::mem::take(&mut state.waiting_bytes) > 0 {
            state.written_at = Some(Instant::now());
        }
        state.requests = false;
        let urgent = state.urgent;
        if commits {
            (state.urgent, state.uncommitted_bytes) = (false, 0);
            if state.since.take().is_some() {
                state.committed_at = Some(Instant::now());
            }
        }
        Batch {
            new_streams: std::mem::take(&mut state.new_streams),
            blocks: std::mem::take(&mut state.blocks),
            commits,
            urgent,
            stopping: state.stopping,
        }
    }

    /// Something is to be told to the spool's thread.
    pub(super) fn request(&self) {
        self.lock().requests = true;
        self.wake.notify_one();
    }

    /// The same, but where something waits to be written, the spool's thread looks soon by itself.
    pub(super) fn request_soon(&self) {
        let mut state = self.lock();
        state.requests = true;
        if state.since.is_none() {
            self.wake.notify_one();
        }
    }

    /// Nothing more is taken; what waits is written.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.wake.notify_one();
    }

    /// Whether the process ends.
    pub(super) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// What the writer made durable is held no more; `room` is what is left on disk beside what the writer holds.
    pub(super) fn settle(&self, entries: u64, payload_bytes: u64, room: Room, refusing: Option<Refusal>) {
        let mut state = self.lock();
        state.held_bytes = state.held_bytes.saturating_sub(payload_bytes);
        state.held_on_disk = state.held_on_disk.saturating_sub(on_disk(payload_bytes, entries));
        state.room = room;
        state.refusing = refusing;
    }

    /// Takes empty blocks back; an idle spool, to which nothing came, keeps none.
    pub(super) fn reuse(&self, spent: Vec<Block<StreamNumber>>, is_idle: bool) {
        let kept_max = if is_idle { 0 } else { SPARE_BLOCKS_MAX };
        let unused = {
            let mut state = self.lock();
            state.spare.extend(spent);
            let kept = state.spare.len().min(kept_max);
            state.spare.split_off(kept)
        };
        drop(unused);
    }

    /// Tells how far entries are durable.
    pub(super) fn publish(&self, durable: Durable) {
        self.durable.send_if_modified(|known| std::mem::replace(known, durable) != durable);
    }
}

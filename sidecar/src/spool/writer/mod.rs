//! The writer: blocks in, durable segments out. One thread owns it; it waits for nothing but the disk.

mod limits;
mod open;
mod roll;

pub use limits::{Elsewhere, Fault, Room, WriterSettings};

use super::SPARE_BLOCKS_MAX;
use super::disk::Disk;
use super::entry::{Block, Kind, StreamNumber};
use super::format::frame::{Encoder, frame_bytes_max};
use super::keys::Keys;
use super::position::{Durable, Place, Written};
use super::shelf::{Placed, Shelf, SinkRule};
use open::{Appended, Open};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::stream::StreamId;

/// After a failure everything that is not durable goes to a new segment, once; then the policy decides.
const ATTEMPTS_MAX: usize = 2;

/// A segment is begun only where the file system has room for this much more than the first frame needs.
const FREE_BYTES_MIN: u64 = 64 * 1024;

/// A closed stream stands in new headers for so long: its last head may come after it.
const CLOSED_STREAM_NANOS: u64 = 60 * 1_000_000_000;

struct Stream {
    sid: StreamId,
    /// Leaves that are durable.
    leaves: Range,
    /// Exchanges that durable entries tell of, those before the stream too.
    exchanges: u64,
    closed_at: Option<u64>,
}

/// The writer of one spool.
pub struct Writer<D> {
    settings: WriterSettings,
    keys: Keys,
    shelf: Shelf<D>,
    encoder: Encoder,
    streams: BTreeMap<StreamNumber, Stream>,
    open: Option<Open>,
    next_number: u64,
    /// Blocks that are not durable, in order.
    pending: VecDeque<Block<StreamNumber>>,
    /// Blocks that are durable, empty: their memory is used again.
    spent: Vec<Block<StreamNumber>>,
    /// With the blocks of the open segment that are not synced.
    written: Place,
    /// What is written is to be synced, once no sync is under way.
    owes_sync: bool,
    /// When the last call was made, in ns since the epoch.
    now: u64,
    /// Bytes of the spools of earlier processes: they count (SP-3).
    elsewhere: Elsewhere,
}

impl<D: Disk> Writer<D> {
    /// A writer of an empty folder.
    ///
    /// # Errors
    /// No memory for the compressor.
    pub fn new(settings: WriterSettings, keys: Keys, shelf: Shelf<D>) -> io::Result<Self> {
        Ok(Self {
            settings,
            keys,
            shelf,
            encoder: Encoder::new()?,
            streams: BTreeMap::new(),
            open: None,
            next_number: 0,
            pending: VecDeque::new(),
            spent: Vec::new(),
            written: Place::default(),
            owes_sync: false,
            now: 0,
            elsewhere: Elsewhere::default(),
        })
    }

    /// A stream begins. Its first entry opens a new segment, because a header names the streams of its segment.
    /// `exchanges`: what the data thread's entries told of before.
    pub fn add_stream(&mut self, number: StreamNumber, sid: StreamId, exchanges: u64) {
        self.streams.insert(number, Stream { sid, leaves: Range::empty(0), exchanges, closed_at: None });
    }

    /// What earlier processes left takes so much.
    pub fn set_elsewhere(&mut self, elsewhere: Elsewhere) {
        self.elsewhere = elsewhere;
    }

    /// The segments.
    pub fn shelf(&self) -> &Shelf<D> {
        &self.shelf
    }

    /// The segments.
    pub fn shelf_mut(&mut self) -> &mut Shelf<D> {
        &mut self.shelf
    }

    /// Takes over which sinks there are. A new one begins with what those of before do not have yet: where it replaces one of
    /// them, at once or later, nobody else would get that.
    pub fn set_sinks(&mut self, rules: &[SinkRule]) {
        let start = self.shelf.taken();
        self.shelf.set_sinks(rules, start);
    }

    /// Everything before is durable.
    pub fn durable(&self) -> Durable {
        self.shelf.durable()
    }

    /// Everything before was handed to the system.
    pub fn written(&self) -> Written {
        Written(self.written.0.max(self.shelf.durable().0))
    }

    /// Empty blocks, for whoever fills the next ones.
    pub fn take_spent(&mut self) -> Vec<Block<StreamNumber>> {
        std::mem::take(&mut self.spent)
    }

    /// What waits for the disk: entries, and bytes of their payloads.
    pub fn pending(&self) -> (u64, u64) {
        self.pending
            .iter()
            .fold((0, 0), |(entries, bytes), block| (entries + block.len() as u64, bytes + block.payload.len() as u64))
    }

    /// What may still come, over and above what was handed over.
    pub fn room(&self) -> Room {
        let reclaimable_bytes = self.shelf.reclaimable_bytes().saturating_add(self.elsewhere.reclaimable_bytes);
        self.settings.room(self.used_bytes().saturating_sub(reclaimable_bytes))
    }

    /// Bytes of all segments.
    fn used_bytes(&self) -> u64 {
        self.shelf.used_bytes().saturating_add(self.elsewhere.bytes)
    }

    /// Bytes beyond what is kept of segments that nobody waits for: who comes next finds room before it has read them.
    pub fn excess_bytes(&self) -> u64 {
        self.used_bytes().saturating_sub(self.settings.replay_bytes_max())
    }

    /// Hands blocks to the system, with all that was left over before, and takes note of a sync that has ended. Another one
    /// begins where one is due.
    ///
    /// # Errors
    /// What is not written now stays here; the next call tries again.
    pub fn write(&mut self, blocks: Vec<Block<StreamNumber>>, now_unix_nanos: u64) -> Result<Durable, Fault> {
        self.take(blocks, now_unix_nanos);
        self.attempt(Self::write_on)
    }

    /// The same, and all of it becomes durable soon: a later call finds that it is. So a disk that is slow to sync keeps
    /// nothing from being written.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn begin_commit(&mut self, blocks: Vec<Block<StreamNumber>>, now_unix_nanos: u64) -> Result<Durable, Fault> {
        self.owes_sync = true;
        self.write(blocks, now_unix_nanos)
    }

    /// Waits until blocks are durable, with all that was written or left over before. One call is one group commit.
    ///
    /// # Errors
    /// What is not durable now stays here; [`Writer::retry`] tries again.
    pub fn commit(&mut self, blocks: Vec<Block<StreamNumber>>, now_unix_nanos: u64) -> Result<Durable, Fault> {
        self.take(blocks, now_unix_nanos);
        self.attempt(Self::commit_pending)
    }

    /// Tries again what is not durable.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub fn retry(&mut self, now_unix_nanos: u64) -> Result<Durable, Fault> {
        self.commit(Vec::new(), now_unix_nanos)
    }

    fn take(&mut self, blocks: Vec<Block<StreamNumber>>, now_unix_nanos: u64) {
        self.now = now_unix_nanos;
        self.pending.extend(blocks.into_iter().filter(|block| !block.is_empty()));
    }

    fn attempt(&mut self, work: fn(&mut Self) -> Result<(), Fault>) -> Result<Durable, Fault> {
        let mut failed = None;
        for _ in 0..ATTEMPTS_MAX {
            match work(self) {
                Ok(()) => return Ok(self.durable()),
                Err(fault @ Fault::Full { .. }) => return Err(fault),
                Err(fault) => {
                    self.abandon();
                    failed = Some(fault);
                }
            }
        }
        failed.map_or(Ok(self.durable()), Err)
    }

    /// Ends the open segment: its last frame is flagged.
    ///
    /// # Errors
    /// The disk failed; what was durable still is.
    pub fn finish(&mut self) -> Result<(), Fault> {
        let finished = self.finish_segment();
        if finished.is_err() {
            self.abandon();
        }
        finished
    }

    /// How many blocks of the front of `pending` stand in the open segment.
    fn appended(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.appended.len())
    }

    fn write_pending(&mut self) -> Result<(), Fault> {
        while let Some(block) = self.pending.get(self.appended()) {
            if self.open.as_ref().is_some_and(|open| open.takes(block, self.settings.segment_bytes)) {
                let bytes = frame_bytes_max(block.len(), block.payload.len()) as u64;
                if let Err(full) = self.make_room(bytes) {
                    self.sync_appended()?;
                    return Err(full);
                }
                self.append(false)?;
            } else if self.open.is_some() {
                self.roll()?;
            } else {
                self.start_segment()?;
            }
        }
        Ok(())
    }

    fn commit_pending(&mut self) -> Result<(), Fault> {
        self.write_pending()?;
        self.sync_appended()?;
        self.owes_sync = false;
        Ok(())
    }

    fn write_on(&mut self) -> Result<(), Fault> {
        self.find_synced()?;
        self.write_pending()?;
        if self.owes_sync { self.begin_sync() } else { Ok(()) }
    }

    /// Takes note of a sync that has ended.
    fn find_synced(&mut self) -> Result<(), Fault> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let Some(synced) = open.syncing else { return Ok(()) };
        let Some(outcome) = self.shelf.disk.synced(&open.name) else { return Ok(()) };
        open.syncing = None;
        // What it should have synced is written anew, and waits for another sync.
        self.owes_sync |= outcome.is_err();
        outcome.map_err(not_synced)?;
        self.set_durable(synced);
        Ok(())
    }

    /// Begins a sync of what was appended. While another one is under way, it waits for its turn.
    fn begin_sync(&mut self) -> Result<(), Fault> {
        let Some(open) = self.open.as_mut().filter(|open| !open.appended.is_empty()) else {
            self.owes_sync = false;
            return Ok(());
        };
        if open.syncing.is_none() {
            self.shelf.disk.begin_sync(&open.name).map_err(not_synced)?;
            open.syncing = Some(open.all());
            self.owes_sync = false;
        }
        Ok(())
    }

    /// Appends the frame of the next pending block, or an empty last one.
    fn append(&mut self, last: bool) -> Result<(), Fault> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let empty = Block::default();
        let block = if last { &empty } else { self.pending.get(open.appended.len()).unwrap_or(&empty) };
        let entries = open.map(&block.entries)?;
        let frame = self.encoder.encode(&open.key, open.header_hash, open.frames, last, &entries, &block.payload)?;
        let written = self.shelf.disk.append(&open.name, frame);
        let bytes = frame.len() as u64;
        open.frames += 1;
        open.bytes = open.bytes.saturating_add(bytes);
        if let Some(segment) = self.shelf.segments.get_mut(&open.number) {
            segment.file_bytes = open.bytes;
        }
        written.map_err(|source| Fault::Io { what: "write a segment", source })?;
        self.written = Place(self.written.0.saturating_add(block.len() as u64));
        if !last {
            open.appended.push(entries);
        }
        Ok(())
    }

    /// Waits until what was appended is durable.
    fn sync_appended(&mut self) -> Result<(), Fault> {
        if self.appended() > 0 { self.sync_open() } else { Ok(()) }
    }

    fn sync_open(&mut self) -> Result<(), Fault> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.syncing = None;
        self.shelf.disk.sync(&open.name).map_err(not_synced)?;
        let all = open.all();
        self.set_durable(all);
        Ok(())
    }

    /// So much of the open segment is durable, and what it says of streams.
    fn set_durable(&mut self, synced: Appended) {
        let Some(open) = &mut self.open else { return };
        let number = open.number;
        let mut end = self.shelf.durable().end();
        let mut recent = Vec::new();
        let appended = open.appended.drain(..synced.blocks.min(open.appended.len()));
        let blocks = self.pending.drain(..appended.len().min(self.pending.len()));
        for (block, entries) in blocks.zip(appended) {
            let first = end;
            for entry in &block.entries {
                end = end.next();
                let Some(stream) = self.streams.get_mut(&entry.stream).filter(|_| entry.kind.is_leaf()) else {
                    continue;
                };
                stream.exchanges = stream.exchanges.saturating_add(u64::from(entry.exchanges));
                debug_assert_eq!(stream.leaves.end(), entry.seq, "CH-1: seq + 1");
                stream.leaves.push(entry.leaf);
                if entry.kind == Kind::Close {
                    stream.closed_at = Some(self.now);
                }
            }
            recent.push((first, Arc::new(Block { entries, payload: block.payload })));
        }
        debug_assert!(end <= self.written, "SP-1: durable <= written");
        self.shelf.set_durable(end);
        if let Some(segment) = self.shelf.segments.get_mut(&number) {
            segment.end = end;
            segment.readable_bytes = synced.bytes;
            let segment = segment.clone();
            let header = &segment.header;
            let recent = recent.into_iter().map(|(first, block)| Placed { first, header: header.clone(), block });
            let forgotten = self.shelf.shared().grow(&segment, end, recent.collect());
            self.spend(forgotten);
        }
        // What was written again is durable here.
        self.forget_empty(|left| left < number);
    }

    /// What every required sink has is in memory no more.
    pub fn forget_taken(&mut self) {
        let forgotten = self.shelf.shared().forget(self.shelf.taken());
        self.spend(forgotten);
    }

    /// Keeps the memory of blocks that nobody reads.
    fn spend(&mut self, blocks: Vec<Arc<Block<u16>>>) {
        let free = SPARE_BLOCKS_MAX.saturating_sub(self.spent.len());
        for Block { mut payload, .. } in blocks.into_iter().filter_map(Arc::into_inner).take(free) {
            payload.clear();
            self.spent.push(Block { entries: Vec::new(), payload });
        }
    }

    /// Keeps the limit (SP-3).
    fn make_room(&mut self, bytes: u64) -> Result<(), Fault> {
        let limit_bytes = self.settings.segments_bytes_max();
        let wanted = self.used_bytes().saturating_add(bytes);
        if wanted > limit_bytes {
            self.shelf.make_room(wanted - limit_bytes);
        }
        let used_bytes = self.used_bytes();
        if used_bytes.saturating_add(bytes) > limit_bytes {
            Err(Fault::Full { used_bytes, limit_bytes })
        } else {
            Ok(())
        }
    }
}

fn not_synced(source: io::Error) -> Fault {
    Fault::Io { what: "sync a segment", source }
}

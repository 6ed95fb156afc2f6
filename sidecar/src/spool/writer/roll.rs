//! Where a segment ends, and the next one begins.

use super::open::Open;
use super::{CLOSED_STREAM_NANOS, FREE_BYTES_MIN, Fault, Stream, Writer};
use crate::spool::disk::Disk;
use crate::spool::entry::StreamNumber;
use crate::spool::format::frame::frame_bytes_max;
use crate::spool::format::header::{Header, StreamStart};
use crate::spool::shelf::Segment;
use std::collections::BTreeMap;
use std::sync::Arc;
use testimony_core::evidence::hash::Hash;

/// One part in so many of a segment may be written again in the next one, so that nobody waits for its sync.
const AGAIN_PART: u64 = 2;

/// A segment that can be begun.
struct Next {
    segment: Segment,
    /// Its header.
    bytes: Vec<u8>,
    open: Open,
}

impl<D: Disk> Writer<D> {
    /// What comes next goes to another segment.
    pub fn end_segment(&mut self) {
        if let Some(open) = &mut self.open {
            open.is_over = true;
        }
    }

    /// Goes on in a new segment, and waits for no sync: what is not durable is written again there, and counts from there.
    /// Where that is much, or finds no room twice, the segment is ended in order.
    pub(super) fn roll(&mut self) -> Result<(), Fault> {
        let again_bytes = self.open.as_ref().map_or(0, |open| {
            let synced_bytes = self.shelf.segments.get(&open.number).map_or(0, |segment| segment.readable_bytes);
            open.bytes.saturating_sub(synced_bytes)
        });
        let segment_bytes = self.settings.segment_bytes;
        // Behind it there must be room for more, or the next segment would end where it begins.
        let is_little = |next: &Next| next.segment.header_bytes.saturating_add(again_bytes) < segment_bytes;
        if again_bytes <= segment_bytes / AGAIN_PART
            && let Ok(next) = self.next_segment()
            && is_little(&next)
        {
            self.leave();
            return self.begin(next);
        }
        self.finish_segment()
    }

    pub(super) fn finish_segment(&mut self) -> Result<(), Fault> {
        if self.open.is_none() {
            return Ok(());
        }
        self.append(true)?;
        self.sync_open()?;
        self.leave();
        Ok(())
    }

    /// Makes a file.
    pub(super) fn start_segment(&mut self) -> Result<(), Fault> {
        let next = self.next_segment()?;
        self.begin(next)
    }

    /// Everything before its first entry is durable, so its header says where each stream stands.
    fn next_segment(&mut self) -> Result<Next, Fault> {
        let now = self.now;
        let first = self.shelf.durable().end();
        let needed: BTreeMap<StreamNumber, ()> =
            self.pending.iter().flat_map(|block| &block.entries).map(|entry| (entry.stream, ())).collect();
        let is_due = |(number, stream): &(&StreamNumber, &Stream)| {
            needed.contains_key(number)
                || stream.closed_at.is_none_or(|at| now.saturating_sub(at) < CLOSED_STREAM_NANOS)
        };
        let due: Vec<(&StreamNumber, &Stream)> = self.streams.iter().filter(is_due).collect();
        if needed.keys().any(|number| !self.streams.contains_key(number)) {
            return Err(Fault::UnknownStream);
        }
        let fresh = self.keys.fresh()?;
        let start = |stream: &Stream| {
            let (sid, leaves) = (stream.sid.clone(), stream.leaves.clone());
            StreamStart { sid, leaves, exchanges: stream.exchanges }
        };
        let header = Header {
            boot: self.shelf.boot(),
            number: self.next_number,
            first,
            created_unix_nanos: now,
            pod_key: fresh.pod,
            recovery_key: fresh.recovery,
            streams: due.iter().map(|(_, stream)| start(stream)).collect(),
        };
        let map = due.iter().zip(0_u16..).map(|((number, _), at)| (**number, at)).collect();
        let mut bytes = Vec::new();
        header.encode(&mut bytes)?;
        let length = bytes.len() as u64;
        let again_bytes = self.frames_bytes_max(self.appended());
        self.make_room(length.saturating_add(again_bytes))?;
        self.check_free(length)?;
        let key = Arc::new(fresh.key);
        let segment = Segment {
            header_hash: Hash::of(&[&bytes]),
            header: Arc::new(header),
            header_bytes: length,
            rewrapped: Arc::default(),
            key: Some(key.clone()),
            end: first,
            readable_bytes: length,
            file_bytes: length,
            released_at: None,
        };
        let open = Open::new(&segment, key, map);
        Ok(Next { segment, bytes, open })
    }

    fn begin(&mut self, next: Next) -> Result<(), Fault> {
        let Next { segment, bytes, open } = next;
        // No number is used twice, whatever became of its file.
        self.next_number = self.next_number.saturating_add(1);
        self.written = segment.first();
        let name = segment.name();
        self.shelf.open = Some(segment.number());
        self.shelf.segments.insert(segment.number(), segment);
        self.open = Some(open);
        self.shelf.disk.create(&name).map_err(|source| Fault::Io { what: "make a segment", source })?;
        self.shelf.disk.append(&name, &bytes).map_err(|source| Fault::Io { what: "write a segment", source })
    }

    /// What the first pending blocks take at most.
    fn frames_bytes_max(&self, blocks: usize) -> u64 {
        let frames =
            self.pending.iter().take(blocks).map(|block| frame_bytes_max(block.len(), block.payload.len()) as u64);
        frames.fold(0, u64::saturating_add)
    }

    /// No file is begun that cannot be written; so a full disk does not fill with beginnings.
    fn check_free(&self, header_bytes: u64) -> Result<(), Fault> {
        let frames_bytes = self.frames_bytes_max(self.appended().saturating_add(1));
        let needed = header_bytes.saturating_add(frames_bytes).saturating_add(FREE_BYTES_MIN);
        // Where the system does not tell, writing shows it.
        match self.shelf.disk.free_bytes() {
            Ok(free_bytes) if free_bytes < needed => Err(Fault::DiskFull { free_bytes }),
            _ => Ok(()),
        }
    }

    /// Leaves the open segment after a failure: what of it is durable stays readable, all else goes to a new one.
    pub(super) fn abandon(&mut self) {
        if let Some(left) = self.leave() {
            self.forget_empty(|number| number == left);
            self.shelf.publish();
        }
    }

    /// What of the open segment is not durable counts no more: it is still pending. Returns the segment's number.
    fn leave(&mut self) -> Option<u64> {
        let open = self.open.take()?;
        // What it was to make durable waits for another sync.
        self.owes_sync |= open.syncing.is_some();
        self.shelf.disk.close(&open.name);
        self.shelf.open = None;
        self.written = self.shelf.durable().end();
        Some(open.number)
    }

    /// Removes those of these segments of which nothing is durable.
    pub(super) fn forget_empty(&mut self, of: impl Fn(u64) -> bool) {
        let is_empty = |segment: &&Segment| of(segment.number()) && segment.end() <= segment.first();
        let empty: Vec<u64> = self.shelf.segments.values().filter(is_empty).map(Segment::number).collect();
        for number in empty {
            if let Some(segment) = self.shelf.segments.remove(&number) {
                self.shelf.discard(segment.name(), segment.file_bytes);
            }
        }
    }
}

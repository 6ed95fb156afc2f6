//! The way out without a spool: batches in memory, with a place in the sinks' queues.

use crate::export::{Batch, Mark, Queue, Seals, Ticket};
use bytes::Bytes;
use std::sync::Arc;
use testimony_core::evidence::seal::{Class, Head, Sealed, Wanted};
use testimony_core::evidence::stream::StreamId;
use testimony_core::record::{Kept, LOG_OVERHEAD_BYTES_MAX, LogWriter};

/// A batch leaves the data thread with this many records,
const BATCH_RECORDS_MAX: u32 = 64;
/// or this many bytes.
const BATCH_BYTES_MAX: usize = 128 * 1024;

/// Places are reserved in steps of so many bytes, so that most records touch no lock.
const RESERVE_STEP_BYTES: usize = 16 * 1024;

/// The batch that a data thread is filling.
pub struct Memory {
    queue: Queue,
    writer: LogWriter,
    bytes: Vec<u8>,
    marks: Vec<Mark>,
    stream: Option<Arc<StreamId>>,
    records: u32,
    first_ns: u64,
    last_ns: u64,
    ticket: Option<Ticket>,
    /// Bytes of the ticket that are not used yet.
    left: usize,
    /// Bytes that are reserved for the next record.
    reserved: usize,
    /// The batch has its first record since this was last asked.
    begun: bool,
}

impl Memory {
    pub fn new(queue: Queue) -> Self {
        Self {
            queue,
            writer: LogWriter::default(),
            bytes: Vec::new(),
            marks: Vec::new(),
            stream: None,
            records: 0,
            first_ns: u64::MAX,
            last_ns: 0,
            ticket: None,
            left: 0,
            reserved: 0,
            begun: false,
        }
    }

    /// Whether a batch has begun since this was last asked.
    pub fn has_begun(&mut self) -> bool {
        std::mem::take(&mut self.begun)
    }

    /// Hands the batch over, if it is full.
    pub fn flush_full(&mut self) {
        if self.records >= BATCH_RECORDS_MAX || self.bytes.len() >= BATCH_BYTES_MAX {
            self.flush();
        }
    }

    /// Hands the batch over, if it holds anything.
    pub fn flush(&mut self) {
        let ticket = self.ticket.take();
        (self.left, self.reserved) = (0, 0);
        let Some(stream) = self.stream.take() else { return };
        let batch = Batch {
            log_records: Bytes::copy_from_slice(&self.bytes),
            records: self.records,
            first_unix_nanos: self.first_ns.min(self.last_ns),
            last_unix_nanos: self.last_ns,
            seals: Some(Seals::new(stream, self.marks.as_slice().into())),
        };
        self.bytes.clear();
        self.marks.clear();
        self.records = 0;
        (self.first_ns, self.last_ns) = (u64::MAX, 0);
        self.queue.push(batch, ticket);
    }

    /// A place for one more record at the sinks of this batch; where one of them has none, the batch leaves without it. How
    /// long its LogRecord is, is known when it is made: what it does not need is free for the next one.
    pub fn reserve_record(&mut self, wanted: Wanted) -> bool {
        let bytes = wanted.kept_bytes.saturating_mul(2).saturating_add(LOG_OVERHEAD_BYTES_MAX);
        let has_place = self.reserve(bytes, wanted.class);
        self.reserved = if has_place { bytes } else { 0 };
        has_place
    }

    fn reserve(&mut self, bytes: usize, class: Class) -> bool {
        if bytes <= self.left {
            self.left -= bytes;
            return true;
        }
        for step in [RESERVE_STEP_BYTES.max(bytes), bytes] {
            if let Some(ticket) = &mut self.ticket
                && ticket.grow(step, class)
            {
                self.left += step - bytes;
                return true;
            }
        }
        self.flush();
        let whole = self.queue.ticket(RESERVE_STEP_BYTES.max(bytes), class).filter(Ticket::is_whole);
        match whole {
            Some(ticket) => {
                self.ticket = Some(ticket);
                self.left = RESERVE_STEP_BYTES.max(bytes) - bytes;
            }
            None => self.ticket = self.queue.ticket(bytes, class),
        }
        self.ticket.is_some()
    }

    /// Whether a record of ordinary size would be taken now.
    pub fn has_room(&self) -> bool {
        self.left >= RESERVE_STEP_BYTES || self.queue.ticket(RESERVE_STEP_BYTES, Class::Traffic).is_some()
    }

    pub fn write(&mut self, sealed: &Sealed<'_>) {
        self.turn_to(sealed.stream());
        self.add(sealed.stream(), Some((sealed.seq(), sealed.leaf())), &sealed.kept());
    }

    pub fn head(&mut self, head: &Head<'_>) {
        self.turn_to(head.stream());
        self.add(head.stream(), None, &head.kept());
    }

    fn add(&mut self, stream: &Arc<StreamId>, mark: Mark, kept: &Kept<'_>) {
        let before = self.bytes.len();
        self.writer.append(kept, &mut self.bytes);
        let needed = self.bytes.len().saturating_sub(before);
        self.left = self.left.saturating_add(std::mem::take(&mut self.reserved).saturating_sub(needed));
        self.stream.get_or_insert_with(|| stream.clone());
        self.marks.push(mark);
        self.begun |= self.records == 0;
        self.records = self.records.saturating_add(1);
        self.first_ns = self.first_ns.min(kept.sealed_ns());
        self.last_ns = self.last_ns.max(kept.sealed_ns());
    }

    /// A batch is of one stream.
    fn turn_to(&mut self, stream: &Arc<StreamId>) {
        if self.stream.as_ref().is_some_and(|before| !Arc::ptr_eq(before, stream)) {
            self.flush();
        }
    }
}

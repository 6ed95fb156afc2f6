//! The segment that is being written.

use super::Fault;
use crate::spool::entry::{Block, Entry, StreamNumber};
use crate::spool::keys::DataKey;
use crate::spool::shelf::Segment;
use std::collections::BTreeMap;
use std::sync::Arc;
use testimony_core::evidence::hash::Hash;

/// How much stood in the file at some time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Appended {
    /// Of what was not durable then.
    pub(super) blocks: usize,
    /// Of all of it.
    pub(super) bytes: u64,
}

pub(super) struct Open {
    pub(super) number: u64,
    pub(super) name: String,
    pub(super) header_hash: Hash,
    pub(super) key: Arc<DataKey>,
    /// Frames so far: the next one's nonce.
    pub(super) frames: u32,
    /// Bytes so far.
    pub(super) bytes: u64,
    /// Of each block of the front of `pending` that stands here, un-synced: its entries, with streams as the header numbers
    /// them.
    pub(super) appended: Vec<Vec<Entry<u16>>>,
    /// A sync is under way.
    pub(super) syncing: Option<Appended>,
    /// Nothing more is to stand here.
    pub(super) is_over: bool,
    /// Where streams stand in the header.
    streams: BTreeMap<StreamNumber, u16>,
}

impl Open {
    pub(super) fn new(segment: &Segment, key: Arc<DataKey>, streams: BTreeMap<StreamNumber, u16>) -> Self {
        Self {
            number: segment.number(),
            name: segment.name(),
            header_hash: segment.header_hash,
            key,
            frames: 0,
            bytes: segment.header_bytes,
            appended: Vec::new(),
            syncing: None,
            is_over: false,
            streams,
        }
    }

    /// How much stands here now.
    pub(super) fn all(&self) -> Appended {
        Appended { blocks: self.appended.len(), bytes: self.bytes }
    }

    /// Whether the block may stand here: the first one always, however long the header is.
    pub(super) fn takes(&self, block: &Block<StreamNumber>, segment_bytes: u64) -> bool {
        !self.is_over
            && (self.bytes < segment_bytes || self.frames == 0)
            && self.frames < u32::MAX - 1
            && block.entries.iter().all(|entry| self.streams.contains_key(&entry.stream))
    }

    /// Entries with their streams as the header numbers them.
    pub(super) fn map(&self, entries: &[Entry<StreamNumber>]) -> Result<Vec<Entry<u16>>, Fault> {
        let mapped = entries.iter().map(|entry| {
            let stream = *self.streams.get(&entry.stream).ok_or(Fault::UnknownStream)?;
            let Entry { kind, seq, leaf, exchanges, payload_bytes, .. } = *entry;
            Ok(Entry { stream, kind, seq, leaf, exchanges, payload_bytes })
        });
        mapped.collect()
    }
}

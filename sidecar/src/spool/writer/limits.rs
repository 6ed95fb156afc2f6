//! What a writer may take, and why it cannot.

use crate::spool::format::FormatError;
use crate::spool::keys::KeyError;
use crate::spool::{
    EVIDENCE_RESERVE_PERCENT, FIXED_RESERVE_BYTES, LIMIT_BYTES_MIN, RELEASE_RESERVE_PART, REPLAY_HEADROOM_PART,
    SEGMENT_BYTES_MAX,
};
use std::io::{self, ErrorKind};

/// What a spool may take.
#[derive(Clone, Copy, Debug)]
pub struct WriterSettings {
    /// Bytes of all files together (SP-3).
    pub limit_bytes: u64,
    /// Bytes of a segment, about.
    pub segment_bytes: u64,
}

impl WriterSettings {
    /// With a limit of at least [`LIMIT_BYTES_MIN`]; segments are at most an eighth of it.
    pub fn new(limit_bytes: u64) -> Self {
        let limit_bytes = limit_bytes.max(LIMIT_BYTES_MIN);
        Self { limit_bytes, segment_bytes: SEGMENT_BYTES_MAX.min(limit_bytes / 8) }
    }

    /// What segments may take.
    pub(super) fn segments_bytes_max(&self) -> u64 {
        self.limit_bytes.saturating_sub(FIXED_RESERVE_BYTES)
    }

    /// What records of level `Metadata` may take.
    fn ordinary_bytes_max(&self) -> u64 {
        self.segments_bytes_max() / 100 * (100 - EVIDENCE_RESERVE_PERCENT)
    }

    /// Segments that nobody waits for stay while all take no more than this.
    pub(super) fn replay_bytes_max(&self) -> u64 {
        let max = self.ordinary_bytes_max();
        max.saturating_sub(max / REPLAY_HEADROOM_PART)
    }

    /// What may still come where so much is kept.
    pub(super) fn room(&self, kept_bytes: u64) -> Room {
        let max = self.segments_bytes_max();
        let last = max / 100 * EVIDENCE_RESERVE_PERCENT / RELEASE_RESERVE_PART;
        Room {
            ordinary_bytes: self.ordinary_bytes_max().saturating_sub(kept_bytes),
            evidence_bytes: max.saturating_sub(last).saturating_sub(kept_bytes),
            release_bytes: max.saturating_sub(kept_bytes),
        }
    }
}

/// What the folders of earlier processes take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Elsewhere {
    /// All of it.
    pub bytes: u64,
    /// Of that, what can be given back at once.
    pub reclaimable_bytes: u64,
}

/// Why entries are not durable. They stay with the writer, and the next call tries again.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The limit is reached, and nothing that is here may go.
    #[error("the spool is full: {used_bytes} of {limit_bytes} bytes wait for sinks")]
    Full {
        /// In use.
        used_bytes: u64,
        /// Allowed.
        limit_bytes: u64,
    },
    /// The file system has no room left, whatever the limit says.
    #[error("the file system of the spool has {free_bytes} bytes left")]
    DiskFull {
        /// Left.
        free_bytes: u64,
    },
    /// The disk failed, twice.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No key for a new segment.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A block or header is larger than there may be.
    #[error("a segment cannot be written: {0}")]
    Format(#[from] FormatError),
    /// An entry of a stream that was never added.
    #[error("an entry of a stream that the spool does not know")]
    UnknownStream,
}

impl Fault {
    /// Whether there is no room, below the limit or on the file system.
    pub(in crate::spool) fn is_for_lack_of_room(&self) -> bool {
        match self {
            Self::Full { .. } | Self::DiskFull { .. } => true,
            Self::Io { source, .. } => matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded),
            _ => false,
        }
    }
}

/// How many more bytes may be handed to the writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// For records of traffic.
    pub ordinary_bytes: u64,
    /// For records about the streams themselves: they may use the reserve (T5).
    pub evidence_bytes: u64,
    /// For what has to be durable before segments can go: it may use all.
    pub release_bytes: u64,
}

//! The spool: encrypted files in which sealed records wait until every required sink has them.
//!
//! Data threads put entries into the [`Inbox`]; one thread ([`Spool`]) writes them in groups, makes them durable and only
//! then shows them to [`Reader`]s. What it keeps of each segment stands in a [`Shelf`], one for its own folder and one for
//! that of each earlier process. Rules: D1-D5, S3, SP-1, SP-2, SP-3. `docs/spool.md` describes files and limits.
//!
//! [`format`], [`Writer`], [`Shelf`] and [`recover`] know neither clock nor thread: time comes in, and the [`disk`] is given.

mod boots;
pub mod disk;
mod entry;
mod foreign;
pub mod format;
mod gone;
mod handle;
mod inbox;
pub mod keys;
pub mod left;
mod pace;
mod page;
mod position;
mod reader;
pub mod recover;
mod recovery;
mod shelf;
mod thread;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

pub use boots::{Boot, BootError, Boots, Predecessor};
pub use entry::{Block, Entry, Kind, StreamNumber};
pub use gone::Untold;
pub use handle::{Event, Found, LockedSegment, SpoolHandle, Stats};
pub use inbox::{Class, Inbox, Permit, PushError, Refusal};
pub use pace::Limits;
pub use page::THREADS_MAX as COUNTED_THREADS_MAX;
pub use page::{CounterPage, Counters, ThreadCounters, kernel_boot_id};
pub use position::{Durable, Place, Released, Written};
pub use reader::{Read, ReadBlock, ReadEntry, ReadError, Reader};
pub use shelf::{AckError, Shelf, SinkRule, Skipped};
pub use thread::{Settings, Spool, StartError};
pub use writer::{Fault, Room, Writer, WriterSettings};

/// Reads a folder of the system.
pub type FolderReader = Reader<disk::Folder>;

/// A segment is closed, and another made, when it is this long.
pub const SEGMENT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Entries of one block, and so of one frame.
pub const BLOCK_ENTRIES_MAX: usize = 256;

/// Bytes of all payloads of a block, uncompressed.
pub const BLOCK_PAYLOAD_BYTES_MAX: usize = 512 * 1024;

/// Empty blocks that are kept for the next records while records come: a new one would cost the system's pages again.
const SPARE_BLOCKS_MAX: usize = 8;

/// Bytes of durable blocks that stay in memory until every required sink has them: a sink that keeps up reads no file. What
/// becomes durable at once takes half of it.
const RECENT_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of one payload: a record.
pub const PAYLOAD_BYTES_MAX: usize = testimony_core::record::KEPT_BYTES_MAX;

/// Bytes of a frame, with everything.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a segment's header.
pub const HEADER_BYTES_MAX: usize = 256 * 1024;

/// Streams that one segment may hold: as many as one request for its key may name, or it would stay locked.
pub const STREAMS_MAX: usize = testimony_core::evidence::witness::unwrap::STREAMS_MAX;

/// Bytes of one wrapped key.
pub const WRAPPED_KEY_BYTES_MAX: usize = 4096;

pub use testimony_core::contract::SINK_NAME_BYTES_MAX;

/// Bytes of the tag of AES-256-GCM.
pub const TAG_BYTES: usize = 16;

/// Smallest limit that a spool works with.
pub const LIMIT_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// Of the limit, this much is kept for headers, logs of acknowledgements and the counter page.
pub const FIXED_RESERVE_BYTES: u64 = 1024 * 1024;

/// Percent of the limit that only records about the streams themselves may use (T5).
pub const EVIDENCE_RESERVE_PERCENT: u64 = 10;

/// Of these, one part in so many is for what has to be durable before segments can go: `hole`, `recovered`, `close`. Gaps
/// and heads of a spool that is full for hours would take it, and it would stay full.
pub const RELEASE_RESERVE_PART: u64 = 4;

/// Of what ordinary records may take, one part in so many is free of segments that nobody waits for: a process that starts
/// over a full folder has room before it has read it.
pub const REPLAY_HEADROOM_PART: u64 = 8;

/// How long a released segment stays, unless its space is needed, in ns.
pub const REPLAY_NANOS_MAX: u64 = 24 * 3600 * 1_000_000_000;

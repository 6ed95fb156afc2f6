//! The ledger: what the witness remembers, itself a chained stream (W1, W4).
//!
//! [`fact`] is what can be said, [`entry`] its canonical body, [`tables`] what all entries add up to. A [`Book`] proposes
//! blocks of entries; one create-only object for each block decides whether it stands ([`block`]); [`outline`] says where reading
//! them back begins. [`export`] shows it as OTLP,
//! [`read`] is how others read that. [`outside`] shows it to a witness outside of the cluster (W3); [`prune`] is how records are
//! ordered away (G2), [`plan`] finds them in an export, and `vouch` says which of them it proves.
//!
//! ```text
//! Book::propose -> Proposed --(the object was created)--> Committed -> Book::apply -> Cosignable
//! ```
//!
//! Only what was committed can be cosigned: the types leave no other way.

pub mod block;
pub mod book;
#[cfg(test)]
mod bounds_tests;
mod claims;
mod draft;
pub mod entry;
pub mod export;
pub mod fact;
pub mod outline;
pub mod outside;
#[cfg(test)]
mod outside_tests;
pub(in crate::evidence) mod pass;
pub mod pick;
pub mod plan;
#[cfg(test)]
mod plan_tests;
pub mod prune;
pub mod read;
#[cfg(test)]
mod restate_tests;
pub mod rows;
pub mod shown;
pub mod tables;
#[cfg(test)]
mod tests;
mod vouch;

pub use block::{Block, LedgerError};
pub use book::{Book, Committed, Cosignable, Keys, Proposed};
pub use fact::{AbandonedRow, Fact, HeadRow, Life, PodRow, Pruned, StreamRow, UncoveredRow};
pub use outline::Outline;

use super::stream::{NotAStream, StreamId, StreamParts};

/// Most entries of one block.
pub const ENTRIES_PER_BLOCK_MAX: usize = 1_024;

/// Most bytes of a block's entries.
pub const BLOCK_BYTES_MAX: usize = 512 * 1024;

/// Most heads of one entry.
pub const HEADS_PER_ENTRY_MAX: usize = 400;

/// Most bytes of the rows of one entry that restates what is known.
pub const ROWS_BYTES_MAX: usize = 40 * 1024;

/// Most bytes of a block that restate what is known: the rest is for what is new.
pub const STATE_BYTES_PER_BLOCK_MAX: usize = 256 * 1024;

/// Longest text of others in an entry, in bytes: what is longer is cut. Four of them fit an entry, however they are escaped.
pub const TEXT_BYTES_MAX: usize = 512;

/// Longest row of a head, in bytes: two numbers, a hash, and what stands between them.
pub const HEAD_ROW_BYTES_MAX: usize = 20 + 20 + 64 + 3;

/// Bytes of a block that facts leave to heads that wait.
pub const HEADS_RESERVED_BYTES: usize = 128 * 1024;

/// Blocks after which all that is known is restated, so that older blocks may go.
pub const STATE_EVERY_BLOCKS: u64 = 512;

/// Time after which the same is done, in seconds: an export of a day holds a place where reading begins, also of a ledger that
/// has little to say.
pub const STATE_EVERY_SECONDS: u64 = 6 * 3_600;

/// Bytes of blocks after which the same is done: all that cannot go yet stands in the cluster's etcd.
pub const STATE_EVERY_BYTES: usize = 16 * 1024 * 1024;

/// Most streams that go on at a time; beyond it no certificate is given.
pub const STREAMS_MAX: usize = 20_000;

/// Most of those that belong to one pod: a sidecar has at most 64 data threads, and after its restart as many streams of the
/// process before go on until they have been silent for long.
pub const STREAMS_PER_POD_MAX: usize = 2 * 64;

/// Streams that are known, finished ones too, at which a restatement makes room: those that were heard of longest ago are
/// left out of it.
pub const KNOWN_STREAMS_MAX: usize = 80_000;

/// How many are left then.
pub const KNOWN_STREAMS_KEEP: usize = 60_000;

/// Most ranges of a stream's records that are known as abandoned: further ones stand in their entries only.
pub const ABANDONED_PER_STREAM_MAX: usize = 64;

/// Most ranges of a stream's records that are known as removed by order; the same holds.
pub const ORDERS_PER_STREAM_MAX: usize = 1_024;

/// How long a stream that has ended is restated, in seconds: a week, unless [`KNOWN_STREAMS_MAX`] is reached.
pub const FINISHED_KEEP_S: u64 = 7 * 86_400;

/// Streams whose heads are committed within a second, at most on average.
pub const STREAMS_PER_SECOND: u64 = 500;

/// Time without news after which an entry says that there are none, in seconds: whoever reads the ledger can tell by its last
/// entry up to when it goes.
pub const HEARTBEAT_SECONDS: u64 = 300;

/// Least time between two blocks, in milliseconds.
pub const INTERVAL_MS_MIN: u64 = 1_000;

/// Time between two blocks with this many live streams, in milliseconds (W1).
pub fn interval_ms(streams: usize) -> u64 {
    let streams = u64::try_from(streams).unwrap_or(u64::MAX);
    INTERVAL_MS_MIN.max(streams.saturating_mul(1_000) / STREAMS_PER_SECOND)
}

/// Name of a ledger: `<cluster uid>/<namespace of the operator>/ledger/<random>-0-0`.
///
/// # Errors
/// A part cannot stand in a name.
pub fn ledger_id(cluster_uid: &str, namespace: &str, random: u128) -> Result<StreamId, NotAStream> {
    let boot = format!("{random:032x}");
    StreamId::new(&StreamParts { cluster_uid, namespace, pod_uid: LEDGER, boot: &boot, thread: 0, rotation: 0 })
}

/// Name of the witness's key in cosignatures: `<cluster uid>/<namespace of the operator>/witness`.
pub fn witness_name(cluster_uid: &str, namespace: &str) -> String {
    format!("{cluster_uid}/{namespace}/witness")
}

/// Stands in a ledger's name where that of a stream has the pod's uid.
pub const LEDGER: &str = "ledger";

//! Which blocks stay in the cluster: until everybody has read them who sends them on, as far as there is room. Pure, but for
//! the two numbers that the readers share with the keeper.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Blocks that are kept in the cluster, whoever has them.
const KEEP_BLOCKS: usize = 1_024;

/// Blocks that are kept for somebody who does not have them yet; at one a second, nearly three hours.
const KEEP_UNREAD_BLOCKS: usize = 10_000;

/// Bytes of blocks that are kept in the cluster, for whomever: etcd holds the whole cluster in 2 GiB, or 8.
const KEEP_BYTES: usize = 48 * 1024 * 1024;

/// What is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Number of blocks.
    pub blocks: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// Whether the oldest block, of this number, goes. Never one that reading the ledger may need.
pub fn goes(oldest: u64, readable_from: u64, kept: Kept, unread_from: u64) -> bool {
    let Kept { blocks, bytes } = kept;
    let room = bytes <= KEEP_BYTES && blocks <= KEEP_UNREAD_BLOCKS;
    oldest < readable_from && (!room || (blocks > KEEP_BLOCKS && oldest < unread_from))
}

/// The first block that somebody has not read yet, by reader; cloning shares it.
#[derive(Clone, Debug)]
pub struct Unread(Arc<[AtomicU64; 2]>);

/// Who reads blocks to send them on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderOf {
    /// The sinks.
    Sinks,
    /// The witness outside of the cluster.
    Outside,
}

impl Unread {
    /// Nobody waits for a block.
    pub fn new() -> Self {
        Self(Arc::new([AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)]))
    }

    /// This reader has all blocks below this one; `None`: it waits for none.
    pub fn from(&self, reader: ReaderOf, block: Option<u64>) {
        let [sinks, outside] = &*self.0;
        let slot = match reader {
            ReaderOf::Sinks => sinks,
            ReaderOf::Outside => outside,
        };
        slot.store(block.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The first that anybody waits for.
    pub fn first(&self) -> u64 {
        self.0.iter().map(|slot| slot.load(Ordering::Relaxed)).min().unwrap_or(u64::MAX)
    }
}

impl Default for Unread {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w1_blocks_stay_until_they_are_read_while_there_is_room() {
        let many = KEEP_BLOCKS + 1;
        // The oldest, where reading begins, blocks, bytes, the first that is unread; whether the oldest goes.
        let table = [
            (5, 9, many, 1, u64::MAX, true),
            (5, 9, KEEP_BLOCKS, 1, u64::MAX, false),
            (5, 5, many, 1, u64::MAX, false),
            (5, 9, many, 1, 5, false),
            (5, 9, many, 1, 6, true),
            (5, 9, many, KEEP_BYTES, 5, false),
            (5, 9, many, KEEP_BYTES + 1, 5, true),
            (5, 9, 2, KEEP_BYTES + 1, 5, true),
            (5, 5, 2, KEEP_BYTES + 1, 5, false),
            (5, 9, KEEP_UNREAD_BLOCKS, 1, 0, false),
            (5, 9, KEEP_UNREAD_BLOCKS + 1, 1, 0, true),
        ];
        for (oldest, readable_from, blocks, bytes, unread, expected) in table {
            let kept = Kept { blocks, bytes };
            assert_eq!(
                goes(oldest, readable_from, kept, unread),
                expected,
                "{oldest} {readable_from} {kept:?} {unread}"
            );
        }
        let unread = Unread::new();
        assert_eq!(unread.first(), u64::MAX);
        unread.from(ReaderOf::Sinks, Some(7));
        unread.clone().from(ReaderOf::Outside, Some(9));
        assert_eq!(unread.first(), 7);
        unread.from(ReaderOf::Sinks, None);
        assert_eq!(unread.first(), 9);
    }
}

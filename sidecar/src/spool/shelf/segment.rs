//! One segment, as far as it is known.

use crate::spool::format::header::Header;
use crate::spool::keys::DataKey;
use crate::spool::position::Place;
use std::sync::Arc;
use testimony_core::evidence::hash::Hash;

/// Ending of a segment's name.
const ENDING: &str = ".seg";

/// A segment. What readers may see of it ends at `readable_bytes`.
#[derive(Clone)]
pub struct Segment {
    pub(in crate::spool) header: Arc<Header>,
    /// Frames open only below this header.
    pub(in crate::spool) header_hash: Hash,
    pub(in crate::spool) header_bytes: u64,
    /// Its key, wrapped to the recovery key after the header was written; may be empty.
    pub(in crate::spool) rewrapped: Arc<[u8]>,
    /// `None`: the pod's key does not open it.
    pub(in crate::spool) key: Option<Arc<DataKey>>,
    /// The place after its last entry that is whole and durable.
    pub(in crate::spool) end: Place,
    /// Its whole and durable frames end here.
    pub(in crate::spool) readable_bytes: u64,
    /// What stands in the file.
    pub(in crate::spool) file_bytes: u64,
    /// When every required sink had it, in ns since the epoch.
    pub(in crate::spool) released_at: Option<u64>,
}

impl Segment {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.header.number
    }

    /// Place of its first entry.
    pub fn first(&self) -> Place {
        self.header.first
    }

    /// The place after its last entry.
    pub fn end(&self) -> Place {
        self.end
    }

    /// Its header.
    pub fn header(&self) -> &Arc<Header> {
        &self.header
    }

    /// Its key, wrapped to the operator's recovery key; empty: that was never known.
    pub fn recovery_key(&self) -> &[u8] {
        if self.rewrapped.is_empty() { &self.header.recovery_key } else { &self.rewrapped }
    }

    /// The name of its file.
    pub fn name(&self) -> String {
        name(self.number())
    }
}

/// The name of a segment's file: sorts by number.
pub(in crate::spool) fn name(number: u64) -> String {
    format!("{number:020}{ENDING}")
}

/// The number in a segment's name.
pub(in crate::spool) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(ENDING)?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

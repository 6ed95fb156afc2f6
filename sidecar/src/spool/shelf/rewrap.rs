//! Segments that were begun before the operator's recovery key was known, or before it was made anew: their keys are wrapped to it
//! afterwards (D5).

use super::{Segment, Shelf};
use crate::spool::disk::{Disk, Files, Listed};
use crate::spool::format::rewrapped;
use crate::spool::keys::Keys;
use std::collections::BTreeMap;
use std::io;

/// Beginning of a file's name.
const PREFIX: &str = "keys-";

/// Bytes of a file that are read: some thousand keys.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Keys that one file gets; what is beyond waits for the next.
const KEYS_MAX: usize = 4096;

/// What the files of a folder say, by segment. One that cannot be read means that the segment waits, or is lost, as without it.
pub(in crate::spool) fn read_all<F: Files>(files: &F, listed: &[Listed]) -> BTreeMap<u64, Vec<u8>> {
    let mut keys = BTreeMap::new();
    for file in listed {
        if file.name.starts_with(PREFIX)
            && let Ok(bytes) = files.read_at(&file.name, 0, FILE_BYTES_MAX)
            && let Err(error) = rewrapped::read(&bytes, &mut keys)
        {
            tracing::warn!(file = file.name, %error, "wrapped keys cannot be read");
        }
    }
    keys
}

impl<D: Disk> Shelf<D> {
    /// The recovery key was made anew: what is here is wrapped to the one before.
    pub fn outdate_keys(&mut self) {
        self.outdated_before = self.segments.keys().next_back().map_or(0, |last| last.saturating_add(1));
    }

    /// Wraps the keys that no recovery key opens to the one in force. They come into a file of their own: no process writes into
    /// a segment that is there (D4).
    ///
    /// # Errors
    /// What the disk says; the next call tries again, with another file.
    pub fn rewrap(&mut self, keys: &Keys) -> io::Result<()> {
        let before = self.outdated_before;
        let is_bare = |segment: &&Segment| segment.recovery_key().is_empty() || segment.number() < before;
        let wrap = |segment: &Segment| Some((segment.number(), keys.rewrap(&segment.header.pod_key)?));
        let wrapped: Vec<(u64, Vec<u8>)> =
            self.segments.values().filter(is_bare).filter_map(wrap).take(KEYS_MAX).collect();
        if wrapped.is_empty() {
            return Ok(());
        }
        // Which of two files of two processes is the later one nobody could tell.
        let of_before: Vec<Listed> = match wrapped.len() == self.segments.len() {
            true => self.disk.list()?.into_iter().filter(|file| file.name.starts_with(PREFIX)).collect(),
            false => Vec::new(),
        };
        let mut bytes = Vec::new();
        rewrapped::begin(&mut bytes);
        wrapped.iter().for_each(|(number, key)| rewrapped::append(&mut bytes, *number, key));
        let name = format!("{PREFIX}{}-{:010}", self.reader, self.rewraps);
        self.rewraps = self.rewraps.saturating_add(1);
        self.write_file(&name, &bytes)?;
        for file in of_before {
            self.discard(file.name, file.bytes);
        }
        for (number, key) in wrapped {
            if let Some(segment) = self.segments.get_mut(&number) {
                segment.rewrapped = key.into();
            }
        }
        self.outdated_before = 0;
        Ok(())
    }
}

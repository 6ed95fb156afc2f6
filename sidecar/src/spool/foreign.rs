//! What earlier processes left, as the spool's thread keeps it.

use super::Boot;
use super::boots::Predecessor;
use super::disk::{Files, Folder, Syncer};
use super::position::Place;
use super::shelf::{Shelf, SinkRule};
use super::writer::Elsewhere;
use std::path::Path;
use std::sync::Arc;

/// Folders of earlier processes that are kept only to be read again: each costs a file that is open, and blocks that nobody
/// counts.
const DONE_MAX: usize = 32;

/// The folders of earlier processes.
pub(super) struct Foreign {
    folders: Vec<Adopted>,
    /// Bytes of folders that are not read yet.
    unread_bytes: u64,
    /// Where housekeeping goes on.
    next: usize,
}

struct Adopted {
    shelf: Shelf<Folder>,
    predecessor: Predecessor,
    /// Bytes of what is no segment: they count, too (SP-3).
    other_bytes: u64,
}

impl Foreign {
    /// None of these is read yet.
    pub(super) fn unread(predecessors: &[Predecessor]) -> Self {
        let unread_bytes = predecessors.iter().map(|predecessor| folder_bytes(&predecessor.path)).sum();
        Self { folders: Vec::new(), unread_bytes, next: 0 }
    }

    /// One of them was read.
    pub(super) fn adopt(
        &mut self,
        mut shelf: Shelf<Folder>,
        predecessor: Predecessor,
        sinks: &[SinkRule],
        syncer: &Arc<Syncer>,
    ) {
        shelf.set_sinks(sinks, Place::default());
        shelf.disk.set_syncer(syncer);
        let bytes = folder_bytes(&predecessor.path);
        self.unread_bytes = self.unread_bytes.saturating_sub(bytes);
        let other_bytes = bytes.saturating_sub(shelf.used_bytes());
        self.folders.push(Adopted { shelf, predecessor, other_bytes });
    }

    /// Each of those that were read.
    pub(super) fn shelves(&mut self) -> impl Iterator<Item = &mut Shelf<Folder>> {
        self.folders.iter_mut().map(|adopted| &mut adopted.shelf)
    }

    /// The shelf of one process.
    pub(super) fn shelf(&mut self, boot: Boot) -> Option<&mut Shelf<Folder>> {
        self.shelves().find(|shelf| shelf.boot() == boot)
    }

    /// Bytes of everything.
    fn used_bytes(&self) -> u64 {
        let used = |adopted: &Adopted| adopted.shelf.used_bytes().saturating_add(adopted.other_bytes);
        self.folders.iter().map(used).sum::<u64>().saturating_add(self.unread_bytes)
    }

    /// What all of that takes.
    pub(super) fn takes(&self) -> Elsewhere {
        let reclaimable_bytes = self.folders.iter().map(|adopted| adopted.shelf.reclaimable_bytes()).sum();
        Elsewhere { bytes: self.used_bytes(), reclaimable_bytes }
    }

    /// Removes segments that nobody waits for until this many bytes are free of them, folder by folder. Returns what
    /// was freed.
    pub(super) fn release(&mut self, bytes: u64) -> u64 {
        self.free(bytes, Shelf::release)
    }

    /// The same, and then those that only sinks wait for that are not required.
    pub(super) fn make_room(&mut self, bytes: u64) -> u64 {
        let freed = self.release(bytes);
        freed.saturating_add(self.free(bytes.saturating_sub(freed), Shelf::make_room))
    }

    fn free(&mut self, bytes: u64, free: fn(&mut Shelf<Folder>, u64) -> u64) -> u64 {
        let freed = |freed: u64, shelf: &mut Shelf<Folder>| match bytes.saturating_sub(freed) {
            0 => freed,
            more => freed.saturating_add(free(shelf, more)),
        };
        self.shelves().fold(0, freed)
    }

    /// Bytes of the segments of those that were read.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.folders.iter().map(|adopted| adopted.shelf.used_bytes()).sum()
    }

    /// How much was shed of which no hole tells durably.
    pub(super) fn skipped_untold(&self) -> usize {
        self.folders.iter().map(|adopted| adopted.shelf.skipped_untold()).sum()
    }

    /// Housekeeping begins with the first.
    pub(super) fn restart(&mut self) {
        self.next = 0;
    }

    /// Of what nobody waits for no file is written any more, and some of it goes where a process that is started again and again
    /// leaves many folders.
    pub(super) fn thin(&mut self) {
        let over = self.folders.len().saturating_sub(DONE_MAX);
        let done = self.folders.iter_mut().map(|adopted| &mut adopted.shelf).filter(|shelf| shelf.is_done());
        for (at, shelf) in done.enumerate() {
            shelf.close_log();
            if at < over {
                shelf.make_room(u64::MAX);
            }
        }
    }

    /// The next one in the order of housekeeping.
    pub(super) fn next(&mut self) -> Option<&mut Shelf<Folder>> {
        let adopted = self.folders.get_mut(self.next)?;
        self.next += 1;
        Some(&mut adopted.shelf)
    }

    /// Gives up the one that [`Foreign::next`] gave last, if nothing is left in it that anybody waits for.
    pub(super) fn give_up(&mut self) -> Option<Predecessor> {
        let last = self.next.checked_sub(1)?;
        let Adopted { shelf, .. } = self.folders.get(last)?;
        if !shelf.is_done() || shelf.used_bytes() > 0 {
            return None;
        }
        self.next = last;
        Some(self.folders.remove(last).predecessor)
    }
}

fn folder_bytes(path: &Path) -> u64 {
    Folder::new(path).list().unwrap_or_default().iter().map(|file| file.bytes).sum()
}

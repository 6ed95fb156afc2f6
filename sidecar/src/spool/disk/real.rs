//! A folder of the file system.

use super::syncer::{Syncer, Unsynced};
use super::{Disk, Files, Listed};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

/// A file that has so many bytes gets room ahead of what is appended: as much as it has,
const AHEAD_FROM_BYTES: u64 = 64 * 1024;

/// but no more than this at once.
const AHEAD_BYTES_MAX: u64 = 512 * 1024;

/// A folder, and the files in it that this process writes.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    open: BTreeMap<String, Open>,
    /// Names came or went, and that is not synced: the next sync of a file does it, too.
    has_news: bool,
    /// Syncs what need not be waited for. `None`: that is waited for, too.
    syncer: Option<Arc<Syncer>>,
}

#[derive(Debug)]
struct Open {
    file: Arc<File>,
    /// Its name is not synced.
    is_new: bool,
    /// A sync that was begun: its outcome comes here.
    under_way: Option<Receiver<io::Result<()>>>,
    /// What was appended.
    bytes: u64,
    /// For so much the file system has set blocks aside. `None`: it cannot, or a write failed, and nobody knows what stands
    /// there; the file stays as it is.
    room_bytes: Option<u64>,
}

impl Open {
    /// Sets blocks aside, so that not every sync has to find some and write down which: its length stays what it is. Where
    /// the file system cannot, each append finds its own, as it would without.
    fn make_room(&mut self, more: usize) {
        let needed = self.bytes.saturating_add(more as u64);
        if needed < AHEAD_FROM_BYTES || self.room_bytes.is_none_or(|room_bytes| needed <= room_bytes) {
            return;
        }
        let ahead = needed.min(AHEAD_BYTES_MAX);
        let made = fallocate(&self.file, FallocateFlags::KEEP_SIZE, needed, ahead);
        self.room_bytes = made.ok().map(|()| needed.saturating_add(ahead));
    }

    /// Gives back what of it is not used.
    fn give_back(&self) {
        if self.room_bytes.is_some_and(|room_bytes| room_bytes > self.bytes) {
            // What cannot be given back goes with the file.
            let _ = self.file.set_len(self.bytes);
        }
    }
}

impl Folder {
    /// An existing folder.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: BTreeMap::new(), has_news: false, syncer: None }
    }

    /// From now on this syncs what need not be waited for.
    pub fn set_syncer(&mut self, syncer: &Arc<Syncer>) {
        self.syncer = Some(syncer.clone());
    }

    /// What has to be synced now, for all that stands in the file.
    fn unsynced(&mut self, name: &str) -> io::Result<Unsynced> {
        let Some(open) = self.open.get_mut(name) else { return Err(not_open()) };
        // After an error the file is left, and what was removed may come back.
        let is_new = std::mem::take(&mut open.is_new);
        let changed = std::mem::take(&mut self.has_news) || is_new;
        let folder = changed.then(|| File::open(&self.path)).transpose()?;
        Ok(Unsynced { file: open.file.clone(), folder })
    }

    fn open(&mut self, name: &str) -> io::Result<&mut Open> {
        self.open.get_mut(name).ok_or_else(not_open)
    }
}

fn not_open() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "not open for writing")
}

fn no_outcome() -> io::Error {
    io::Error::other("the thread that syncs is gone")
}

impl Files for Folder {
    fn list(&self) -> io::Result<Vec<Listed>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                found.push(Listed { name, bytes: metadata.len() });
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn read_at(&self, name: &str, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        let file = File::open(self.path.join(name))?;
        let mut bytes = vec![0; count];
        let mut read = 0;
        while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset.saturating_add(read as u64)) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(read);
        Ok(bytes)
    }
}

impl Disk for Folder {
    fn create(&mut self, name: &str) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(self.path.join(name))?;
        let open = Open { file: Arc::new(file), is_new: true, under_way: None, bytes: 0, room_bytes: Some(0) };
        self.open.insert(name.to_owned(), open);
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let open = self.open(name)?;
        open.make_room(bytes.len());
        let written = (&*open.file).write_all(bytes);
        match written {
            Ok(()) => open.bytes = open.bytes.saturating_add(bytes.len() as u64),
            Err(_) => open.room_bytes = None,
        }
        written
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        // The system tells of a failure once: it may have told that one.
        self.end_sync(name)?;
        self.unsynced(name)?.sync()
    }

    fn begin_sync(&mut self, name: &str) -> io::Result<()> {
        let Some(syncer) = self.syncer.clone() else { return self.sync(name) };
        if self.open(name)?.under_way.is_some() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "a sync is under way"));
        }
        let unsynced = self.unsynced(name)?;
        self.open(name)?.under_way = Some(syncer.begin(unsynced));
        Ok(())
    }

    fn synced(&mut self, name: &str) -> Option<io::Result<()>> {
        let open = match self.open(name) {
            Ok(open) => open,
            Err(error) => return Some(Err(error)),
        };
        let Some(under_way) = &open.under_way else { return Some(Ok(())) };
        let outcome = match under_way.try_recv() {
            Ok(outcome) => outcome,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err(no_outcome()),
        };
        open.under_way = None;
        Some(outcome)
    }

    fn end_sync(&mut self, name: &str) -> io::Result<()> {
        let under_way = self.open(name)?.under_way.take();
        under_way.map_or(Ok(()), |under_way| under_way.recv().unwrap_or_else(|_| Err(no_outcome())))
    }

    fn sync_found(&mut self, name: &str) -> io::Result<()> {
        self.has_news = true;
        let file = Arc::new(File::open(self.path.join(name))?);
        let Err(error) = (Unsynced { file: file.clone(), folder: None }).sync() else { return Ok(()) };
        tracing::warn!(file = name, %error, "not all that an earlier process wrote reached the disk");
        // The kernel keeps what it could not write, and calls it written: another sync would succeed.
        fadvise(&file, 0, None, Advice::DontNeed).map_err(io::Error::from)
    }

    fn close(&mut self, name: &str) {
        if let Some(open) = self.open.remove(name) {
            open.give_back();
        }
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        if self.has_news {
            File::open(&self.path)?.sync_all()?;
            self.has_news = false;
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))?;
        self.has_news = true;
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))?;
        self.has_news = true;
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

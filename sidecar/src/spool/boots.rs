//! The spool's folder: one folder below it for each start of a process, locked while that process lives (S1).

use rustix::fs::{FallocateFlags, fallocate};
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Bytes that are set aside: some logs of acknowledgements.
pub(super) const SPARE_BYTES: u64 = 256 * 1024;

/// Name of the file in each folder that is locked.
const LOCK: &str = "lock";

/// One start of a process: 128 random bits, written as 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Boot(pub [u8; 16]);

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the spool's folder {path}: {source}")]
pub struct BootError {
    path: PathBuf,
    source: io::Error,
}

/// The folders of a spool.
#[derive(Debug)]
pub struct Boots {
    path: PathBuf,
    own: Boot,
    /// Unlocked when the process ends, however it does. Its blocks are the spare ones.
    lock: File,
}

/// The folder of a process that is no more.
#[derive(Debug)]
pub struct Predecessor {
    /// Which process.
    pub boot: Boot,
    /// Its folder.
    pub path: PathBuf,
    _lock: File,
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is not 32 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 32 lower-case hex digits")]
pub struct NotABoot;

impl FromStr for Boot {
    type Err = NotABoot;

    fn from_str(text: &str) -> Result<Self, NotABoot> {
        let boot = u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| NotABoot)?;
        // One form only.
        if boot.to_string() == text { Ok(boot) } else { Err(NotABoot) }
    }
}

impl Boots {
    /// Makes and locks the folder of this process.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(path: &Path, own: Boot) -> Result<Self, BootError> {
        let make = || -> io::Result<File> {
            fs::create_dir_all(path)?;
            // Under its name it appears locked: nobody can take it for the folder of a dead process.
            let partial = path.join(format!("{own}.partial"));
            fs::create_dir(&partial)?;
            let lock = File::create_new(partial.join(LOCK))?;
            lock.try_lock()?;
            fs::rename(&partial, path.join(own.to_string()))?;
            File::open(path)?.sync_all()?;
            Ok(lock)
        };
        let lock = make().map_err(|source| BootError { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), own, lock })
    }

    /// Makes room for this process's folder: what an attempt to make it left goes, and so do the spare blocks of processes
    /// that are no more, which on a full file system are all that there is.
    pub(super) fn clear(path: &Path, own: Boot) {
        for name in [format!("{own}.partial"), own.to_string()] {
            // It is not there as a rule.
            let _ = fs::remove_dir_all(path.join(name));
        }
        // What cannot be listed is told by whoever needs it.
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let lock = File::options().append(true).open(entry.path().join(LOCK));
            if let Some(lock) = lock.ok().filter(|lock| lock.try_lock().is_ok()) {
                give_back(&lock);
            }
        }
    }

    /// The folder of this process.
    pub fn folder(&self) -> PathBuf {
        self.path.join(self.own.to_string())
    }

    /// The folders of processes that are no more, now locked by this one. What a start or a removal that was cut left is removed.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn predecessors(&self) -> Result<Vec<Predecessor>, BootError> {
        let read = || -> io::Result<Vec<Predecessor>> {
            let mut found = Vec::new();
            for entry in fs::read_dir(&self.path)? {
                let path = entry?.path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                match name.parse::<Boot>() {
                    Ok(boot) if boot != self.own => match predecessor(boot, path) {
                        Ok(one) => found.extend(one),
                        // The next process may: it must cost this one no more than that.
                        Err(error) => tracing::error!(%boot, %error, "what an earlier process left cannot be opened"),
                    },
                    Ok(_) => {}
                    Err(_) => remove_cut(&path, name),
                }
            }
            found.sort_by_key(|predecessor| predecessor.boot);
            Ok(found)
        };
        read().map_err(|source| BootError { path: self.path.clone(), source })
    }
}

impl Boots {
    /// Sets blocks aside for logs of acknowledgements: on a file system that is full nothing could be let go without them.
    /// Where it cannot, writing shows it.
    pub fn set_aside(&self) {
        let _ = fallocate(&self.lock, FallocateFlags::KEEP_SIZE, 0, SPARE_BYTES);
    }

    /// Gives them back.
    pub fn give_back(&self) {
        give_back(&self.lock);
    }
}

impl Predecessor {
    /// Removes the folder with what is left in it, when nobody waits for it any more.
    ///
    /// # Errors
    /// It stays.
    pub fn remove(self) -> Result<(), BootError> {
        // Cut short, what is left must not look like the folder of a process that told nothing.
        let partial = self.path.with_extension("partial");
        let removed = fs::rename(&self.path, &partial).and_then(|()| fs::remove_dir_all(&partial));
        removed.map_err(|source| BootError { path: self.path, source })
    }
}

/// A file's spare blocks are free again. They stand behind its end, where ext4 punches no holes.
fn give_back(lock: &File) {
    let _ = lock.set_len(0);
}

/// `None` if its process lives.
fn predecessor(boot: Boot, path: PathBuf) -> io::Result<Option<Predecessor>> {
    let lock = File::options().create(true).append(true).open(path.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => {
            give_back(&lock);
            Ok(Some(Predecessor { boot, path, _lock: lock }))
        }
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn remove_cut(path: &Path, name: &str) {
    let is_cut = name.strip_suffix(".partial").is_some_and(|boot| boot.parse::<Boot>().is_ok());
    let is_free = || File::open(path.join(LOCK)).map_or(true, |lock| lock.try_lock().is_ok());
    if is_cut
        && is_free()
        && let Err(error) = fs::remove_dir_all(path)
    {
        tracing::warn!(path = %path.display(), %error, "a folder of a start or a removal that was cut cannot be removed");
    }
}

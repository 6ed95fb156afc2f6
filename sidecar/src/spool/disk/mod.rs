//! The little that a spool needs of a disk, so that tests can bring one that loses, tears and refuses.

mod real;
#[cfg(test)]
pub mod sim;
mod syncer;

pub use real::Folder;
pub use syncer::Syncer;

use std::io;

/// A file in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its length, in bytes.
    pub bytes: u64,
}

/// Reading of one folder. Every call stands for itself.
pub trait Files: Send {
    /// The files of the folder, in the order of their names.
    ///
    /// # Errors
    /// What the system says; so of all methods here.
    fn list(&self) -> io::Result<Vec<Listed>>;

    /// Up to `count` bytes from `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, name: &str, offset: u64, count: usize) -> io::Result<Vec<u8>>;
}

/// Writing of one folder, by one thread. Files are only ever made anew, appended to, synced and closed.
pub trait Disk: Files {
    /// Makes a file, which must not exist.
    ///
    /// # Errors
    /// What the system says; so of all methods here.
    fn create(&mut self, name: &str) -> io::Result<()>;

    /// Appends to a file that this process made. After an error nobody knows how much of it stands there: the file is not
    /// to be appended to again.
    ///
    /// # Errors
    /// What the system says.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Waits until what was appended, and the file's name, survive the death of the node. After an error it is not to be
    /// called again: the kernel drops what it could not write, and the next call succeeds.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&mut self, name: &str) -> io::Result<()>;

    /// Begins the same, once at a time for a file, and does not wait for it: more can be appended meanwhile, which it does
    /// not cover. [`Disk::sync`] waits for it first, and fails where it fails.
    ///
    /// # Errors
    /// What the system says.
    fn begin_sync(&mut self, name: &str) -> io::Result<()>;

    /// How the sync ended that was begun; `None`: it has not. Tells it once; of a file without one, that all is well.
    fn synced(&mut self, name: &str) -> Option<io::Result<()>>;

    /// Waits for the sync that was begun, if one was.
    ///
    /// # Errors
    /// What the system said of it.
    fn end_sync(&mut self, name: &str) -> io::Result<()>;

    /// The same for a file that another process made, which is dead: it may not have synced all that it wrote. What of it
    /// could not be synced is forgotten: what is read afterwards is what the disk holds. Its name waits for
    /// [`Disk::sync_folder`].
    ///
    /// # Errors
    /// What the system says; the next call tries again.
    fn sync_found(&mut self, name: &str) -> io::Result<()>;

    /// No more is appended.
    fn close(&mut self, name: &str);

    /// Waits until it survives the death of the node that files were found, renamed and removed, unless a sync of a file
    /// since then has done it.
    ///
    /// # Errors
    /// What the system says.
    fn sync_folder(&mut self) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Gives a file another name.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Bytes that are left on the file system.
    ///
    /// # Errors
    /// What the system says.
    fn free_bytes(&self) -> io::Result<u64>;
}

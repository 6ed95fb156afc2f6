//! The last good document, kept for restarts.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use testimony_core::policy::PolicyDocument;

/// Name of the file in the state directory.
pub const LAST_GOOD: &str = "last-good.json";

/// Largest file, in bytes: a document and a CA bundle, each with room for JSON's escapes.
const FILE_BYTES_MAX: u64 = 512 * 1024;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastGood {
    /// The document.
    pub document: PolicyDocument,
    /// PEM bundle of the operator's authority.
    pub operator_ca: String,
}

/// Why the file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{path} is not a last good policy: {reason}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The folder that survives the process.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// A store in an existing folder.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// What an earlier process left, if any.
    ///
    /// # Errors
    /// The file is there, but cannot be read or understood.
    pub fn load(&self) -> Result<Option<LastGood>, StoreError> {
        let path = self.dir.join(LAST_GOOD);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        let mut text = Vec::new();
        let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text);
        if let Err(source) = read {
            return Err(StoreError::Io { path, source });
        }
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(StoreError::Content { path, reason: format!("more than {FILE_BYTES_MAX} bytes") });
        }
        serde_json::from_slice(&text).map(Some).map_err(|error| StoreError::Content { path, reason: error.to_string() })
    }

    /// Keeps a document: written beside the old one, synced, then renamed over it, so that a reader sees one or the other.
    ///
    /// # Errors
    /// The old file is as it was.
    pub fn save(&self, last: &LastGood) -> Result<(), StoreError> {
        let path = self.dir.join(LAST_GOOD);
        let partial = self.dir.join(format!("{LAST_GOOD}.partial"));
        let text = serde_json::to_vec(last)
            .map_err(|error| StoreError::Content { path: path.clone(), reason: error.to_string() })?;
        let write = || -> io::Result<()> {
            let mut file = File::create(&partial)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| StoreError::Io { path: path.clone(), source })
    }
}

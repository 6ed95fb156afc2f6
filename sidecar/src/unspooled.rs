//! A worker that cannot make its spool keeps records in memory, and what it takes along when it dies is known to nobody. Its
//! successor, which may have a spool again, must declare that: a mark beside the pod's key, which is in memory and outlives the
//! container, tells it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Name of the mark.
const FILE: &str = "unspooled";

/// The mark of a pod.
#[derive(Clone, Debug)]
pub struct Unspooled {
    mark: PathBuf,
}

impl Unspooled {
    /// In the folder of the pod's key.
    pub fn new(key_folder: &Path) -> Self {
        Self { mark: key_folder.join(FILE) }
    }

    /// Since when a process recorded without a spool and did not end in order, in nanoseconds since the epoch.
    pub fn since(&self) -> Option<u64> {
        let modified = fs::metadata(&self.mark).and_then(|mark| mark.modified()).ok()?;
        Some(modified.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// This process records without a spool from now on.
    pub fn set(&self) {
        if self.since().is_none()
            && let Err(error) = fs::write(&self.mark, [])
        {
            tracing::error!(mark = %self.mark.display(), %error, "what this process loses could not be declared by the next");
        }
    }

    /// Nothing is left to be declared.
    pub fn clear(&self) {
        if self.since().is_some()
            && let Err(error) = fs::remove_file(&self.mark)
        {
            tracing::warn!(mark = %self.mark.display(), %error, "a loss that was declared may be declared again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_set_once_and_cleared() {
        let folder = std::env::temp_dir().join(format!("testimony-unspooled-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let unspooled = Unspooled::new(&folder);
        assert_eq!(unspooled.since(), None);
        unspooled.set();
        let since = unspooled.since();
        assert!(since.is_some_and(|since| since > 0));
        unspooled.set();
        assert_eq!(unspooled.since(), since, "the first process without a spool counts");
        unspooled.clear();
        assert_eq!(unspooled.since(), None);
        unspooled.clear();
        fs::remove_dir_all(folder).expect("removed");
    }
}

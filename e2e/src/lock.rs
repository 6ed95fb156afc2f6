//! One command at a time changes the cluster.

use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

/// Held until dropped; the kernel lets go of it also when the process is killed.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock or says who holds it.
    pub fn take(path: &Path, purpose: &str) -> Result<Self> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = open.with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                bail!("another run holds {}: {}; wait for its end, or end it", path.display(), holder.trim());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "`cargo xtask {purpose}`, process {}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_told_who_holds_the_lock() -> Result<()> {
        let path = std::env::temp_dir().join(format!("testimony-lock-{}", std::process::id()));
        let first = Lock::take(&path, "demo")?;
        let error = Lock::take(&path, "test").err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains("`cargo xtask demo`"), "{error}");
        drop(first);
        Lock::take(&path, "test")?;
        std::fs::remove_file(&path)?;
        Ok(())
    }
}

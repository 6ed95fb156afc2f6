//! Where things are kept.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Overrides the folder in which everything is kept.
pub const CACHE_DIR_ENV: &str = "TESTIMONY_CACHE_DIR";

/// The folders of one checkout's local cluster: `$HOME/.cache/testimony`, or what [`CACHE_DIR_ENV`] names.
#[derive(Clone, Debug)]
pub struct Paths {
    cache: PathBuf,
}

impl Paths {
    /// Reads [`CACHE_DIR_ENV`] and `HOME`.
    pub fn from_env() -> Result<Self> {
        let cache = match std::env::var_os(CACHE_DIR_ENV) {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => PathBuf::from(std::env::var_os("HOME").context("HOME is not set; set it, or TESTIMONY_CACHE_DIR")?)
                .join(".cache/testimony"),
        };
        anyhow::ensure!(cache.is_absolute(), "{CACHE_DIR_ENV} must be an absolute path, not {}", cache.display());
        std::fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        // The clean-up compares with paths that the kernel reports, so symbolic links are resolved once here.
        Ok(Self { cache: cache.canonicalize()? })
    }

    /// The whole cache.
    pub fn cache(&self) -> &Path {
        &self.cache
    }
    /// Programs built from Go modules and cargo packages; survives `down`.
    pub fn bin(&self) -> PathBuf {
        self.cache.join("bin")
    }
    /// Go modules from which the programs are built; survives `down`.
    pub fn src(&self) -> PathBuf {
        self.cache.join("src")
    }
    /// State of the running node; removed by `down`.
    pub fn node(&self) -> PathBuf {
        self.cache.join("cluster")
    }
    /// Image archives; survives `down`.
    pub fn images(&self) -> PathBuf {
        self.cache.join("images")
    }
    /// One file for each step of the last run.
    pub fn logs(&self) -> PathBuf {
        self.cache.join("logs")
    }
    /// Held while a command changes the cluster.
    pub fn lock(&self) -> PathBuf {
        self.cache.join("lock")
    }
    /// A program in [`Self::bin`].
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin().join(name)
    }
}

/// The root of the repository from which this binary was built.
pub fn repo() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

//! Tests of the spool as a whole.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// A fresh folder of this test.
pub(super) fn folder(name: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("testimony-spool-{}-{name}-{number}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

//! Files that a test compares with what the code makes; `UPDATE_GOLDEN=1` rewrites them.

use std::fs;
use std::path::{Path, PathBuf};

/// Whether the goldens are being rewritten.
pub fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1")
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate stands in the repository").to_owned()
}

/// Compares with the file, or writes it if goldens are being updated. Says where the two first differ.
pub fn assert_golden(path: &Path, got: &str) {
    if updating() {
        fs::write(path, got).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        return;
    }
    let want = fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{}: {error}; UPDATE_GOLDEN=1 writes it", path.display()));
    if got != want {
        let line = got.lines().zip(want.lines()).take_while(|(got, want)| got == want).count();
        panic!(
            "{} differs from line {}:\n  golden: {}\n  now:    {}\nUPDATE_GOLDEN=1 rewrites it",
            path.display(),
            line + 1,
            want.lines().nth(line).unwrap_or("(end)"),
            got.lines().nth(line).unwrap_or("(end)")
        );
    }
}

//! What is given beside an export: roots, a kept head, a proof. As text, in each form in which people copy such files.

use super::{guess, url};
use anyhow::{Result, anyhow, bail, ensure};
use std::fs::File;
use std::io::{Error, Read};
use std::path::{Path, PathBuf};

/// Most bytes of such a file.
const BYTES_MAX: u64 = 1024 * 1024;

/// The text of a file, or of standard input (`-`): without a byte order mark, and with the ends of lines that are signed.
///
/// # Errors
/// It cannot be read, or is no text; it says what the file is, where that is known.
pub(crate) fn text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    } else {
        let file = File::open(path).map_err(|error| not_opened(path, &error))?;
        file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    }
    ensure!(bytes.len() as u64 <= BYTES_MAX, "it has more than {BYTES_MAX} bytes: is it the right file?");
    if let Some(guess) = guess::bytes(&bytes) {
        bail!("{guess}");
    }
    let bytes = bytes.strip_prefix(guess::BYTE_ORDER_MARK).unwrap_or(&bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        anyhow!("line {}: it is no text (UTF-8)", 1 + before.iter().filter(|byte| **byte == b'\n').count())
    })?;
    // Nothing in these files has a carriage return of its own.
    Ok(text.replace("\r\n", "\n"))
}

/// Why a file could not be opened. It may be a URL where none is read, or of another scheme.
pub(super) fn not_opened(path: &Path, error: &Error) -> anyhow::Error {
    match path.to_str().filter(|name| name.contains("://")) {
        Some(name) if url::is_url(name) => anyhow!("only an export is read from a URL: fetch it, and name the file"),
        Some(_) => anyhow!("only URLs that begin with http:// or https:// are read: fetch it, and name the file"),
        None => anyhow!("{error}"),
    }
}

/// Standard input can be read once.
///
/// # Errors
/// More than one of these is it.
pub(crate) fn one_standard_input<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    let count = files.into_iter().filter(|file| file.as_os_str() == "-").count();
    ensure!(count <= 1, "- (standard input) can be given once: put the other one into a file");
    Ok(())
}

//! `--ledger-head`: heads of the ledger that somebody kept (W3). One that is signed by a key of the roots stands among the
//! ledger's own heads: so its size is the least that the ledger must have, and what it covers must be there unchanged.

use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use testimony_core::evidence::note::SignedNote;
use testimony_core::evidence::roots::NamedKey;

/// Largest file, in bytes: a note with some cosignatures.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// A kept head.
///
/// # Errors
/// The file cannot be read, holds no note, or none that a ledger of the roots signed.
pub(super) fn load(file: &Path, keys: &[NamedKey]) -> Result<SignedNote> {
    let named = || format!("--ledger-head {}", super::input::name(file));
    let text = super::given::text(file).with_context(named)?;
    head(&text, keys).with_context(named)
}

fn head(text: &str, keys: &[NamedKey]) -> Result<SignedNote> {
    ensure!(text.len() <= FILE_BYTES_MAX, "it has more than {FILE_BYTES_MAX} bytes");
    // Whoever copies it by hand may lose the last line's end, or add one.
    let text = format!("{}\n", text.trim_end());
    let note =
        SignedNote::parse(&text).context("it is no signed note, as the ConfigMap testimony-ledger-head holds one")?;
    let origin = note.checkpoint.origin.as_str();
    let Some(key) = keys.iter().find(|named| named.name == origin) else {
        bail!("it is of ledger {origin}, whose key is not in the roots (`ledger KEY`)")
    };
    ensure!(note.is_signed_by(origin, &key.key), "it is not signed by ledger {origin}");
    Ok(note)
}

//! The bytes of a spool's files: pure, explicit, little-endian. `docs/spool.md` shows the layout.
//!
//! A parser takes any bytes: it answers what they are, that they end too early, or what is wrong with them. It neither
//! panics nor allocates more than the limits of [`super`] say.

pub mod acks;
pub mod bytes;
pub mod frame;
pub mod header;
pub mod rewrapped;
pub mod shed;

use bytes::Cursor;
use std::fmt;

/// Version of the layout; another one is refused.
pub const FORMAT_VERSION: u16 = 2;

/// What a file begins with, which says what kind it is.
type Magic = [u8; 8];

/// Appends the beginning of a file.
fn begin(out: &mut Vec<u8>, magic: Magic) {
    out.extend(magic);
    out.extend(FORMAT_VERSION.to_le_bytes());
}

/// Reads what [`begin`] wrote.
fn begins(cursor: &mut Cursor<'_>, magic: Magic) -> Result<(), FormatError> {
    if cursor.array()? != magic {
        return Err(Problem::Magic.into());
    }
    let version = cursor.u16()?;
    if version != FORMAT_VERSION {
        return Err(Problem::Version(version).into());
    }
    Ok(())
}

/// Ends a line that began at `start` with the CRC32C of it.
fn seal_line(out: &mut Vec<u8>, start: usize) {
    let checksum = crc32c::crc32c(out.get(start..).unwrap_or_default());
    out.extend(checksum.to_le_bytes());
}

/// Reads what [`seal_line`] wrote behind a line; `whole` are the bytes from its first one on.
fn check_line(whole: &[u8], cursor: &mut Cursor<'_>) -> Result<(), FormatError> {
    let length = whole.len().saturating_sub(cursor.0.len());
    let content = whole.get(..length).ok_or(FormatError::Short)?;
    if crc32c::crc32c(content) != cursor.u32()? {
        return Err(Problem::Checksum.into());
    }
    Ok(())
}

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// They end before it does: a write that was cut.
    #[error("it ends too early")]
    Short,
    /// They are not what was written.
    #[error("{0}")]
    Corrupt(Problem),
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Not a file of a spool.
    Magic,
    /// Of another version.
    Version(u16),
    /// The checksum does not fit.
    Checksum,
    /// A length beyond its limit.
    Length,
    /// A value that is not allowed where it stands.
    Value(&'static str),
    /// The disk does not give it.
    Unreadable,
    /// The key does not open it: altered, or another key.
    Sealed,
    /// It opens, but does not decompress to what it says.
    Compression,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("not a file of a spool"),
            Self::Version(version) => write!(f, "version {version}, this program reads {FORMAT_VERSION}"),
            Self::Checksum => f.write_str("its checksum does not fit"),
            Self::Length => f.write_str("a length is beyond its limit"),
            Self::Value(name) => write!(f, "{name} has a value that it cannot have"),
            Self::Unreadable => f.write_str("the disk cannot read it"),
            Self::Sealed => f.write_str("its key does not open it"),
            Self::Compression => f.write_str("it does not decompress to the length it tells"),
        }
    }
}

impl From<Problem> for FormatError {
    fn from(problem: Problem) -> Self {
        Self::Corrupt(problem)
    }
}

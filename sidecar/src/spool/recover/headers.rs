//! Headers of a folder's segments.

use super::scan::Unreadable;
use crate::spool::disk::{Files, Listed};
use crate::spool::format::header::Header;
use crate::spool::format::{FormatError, Problem};
use crate::spool::shelf;
use crate::spool::{Boot, HEADER_BYTES_MAX};
use std::io;
use testimony_core::evidence::hash::Hash;

/// A header of few streams has at most so many.
const HEADER_BYTES_USUAL: usize = 8 * 1024;

/// The headers of a folder's segments.
pub(super) struct Headers {
    /// Those that are whole, by number: how long each is, its hash, and how long its file is.
    pub(super) read: Vec<(Header, u64, Hash, u64)>,
    /// Segments without one, and why.
    pub(super) broken: Vec<(u64, Listed, FormatError)>,
}

/// Reads them.
pub(super) fn headers<F: Files>(disk: &F, files: &[Listed], boot: Boot, unreadable: Unreadable) -> io::Result<Headers> {
    let (mut read, mut broken) = (Vec::new(), Vec::new());
    for file in files {
        let Some(number) = shelf::segment_number(&file.name) else { continue };
        match header(disk, &file.name, boot, number) {
            Ok((header, length, hash)) => read.push((header, length, hash, file.bytes)),
            Err(FormatError::Corrupt(Problem::Unreadable)) if unreadable == Unreadable::Retry => {
                return Err(not_readable(&file.name));
            }
            Err(error) => broken.push((number, file.clone(), error)),
        }
    }
    // One process writes one version: of what was altered the others still show which.
    let is_other = |error: &FormatError| matches!(error, FormatError::Corrupt(Problem::Version(_)));
    if let Some((_, file, error)) = broken.iter().find(|(.., error)| read.is_empty() && is_other(error)) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, format!("{}: {error}", file.name)));
    }
    read.sort_by_key(|(header, ..)| header.number);
    Ok(Headers { read, broken })
}

/// What the disk could not read may be there the next time.
pub(super) fn not_readable(name: &str) -> io::Error {
    io::Error::other(format!("{name}: {}", Problem::Unreadable))
}

/// One header, how long it is, and its hash.
pub(super) fn header<F: Files>(
    files: &F,
    name: &str,
    boot: Boot,
    number: u64,
) -> Result<(Header, u64, Hash), FormatError> {
    let read = |count| files.read_at(name, 0, count).map_err(|_| FormatError::from(Problem::Unreadable));
    // What is needed may be there where what follows it is not.
    let needed = || read(Header::bytes_needed(&read(Header::START_BYTES)?)?);
    let mut bytes = read(HEADER_BYTES_USUAL).or_else(|_| needed())?;
    let parsed = match Header::parse(&bytes) {
        Err(FormatError::Short) => {
            bytes = read(HEADER_BYTES_MAX)?;
            Header::parse(&bytes)
        }
        parsed => parsed,
    };
    let (header, length) = parsed?;
    if header.boot != boot || header.number != number {
        return Err(Problem::Value("the process or number").into());
    }
    let hash = Hash::of(&[bytes.get(..length).unwrap_or_default()]);
    Ok((header, length as u64, hash))
}

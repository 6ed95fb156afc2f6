//! SHA-256 hashes, as a type of their own.

use crate::record::hex;
use aws_lc_rs::digest::{Context, SHA256, digest};
use std::fmt;
use std::str::FromStr;

/// Length of a hash, in bytes.
pub const HASH_BYTES: usize = 32;

/// What is hashed in one go, in bytes: the body of nearly every record fits.
const ONE_SHOT_BYTES_MAX: usize = 2048;

/// A SHA-256 hash. Written in lower-case hex (R2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; HASH_BYTES]);

/// A text that is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 64 lower-case hex digits")]
pub struct NotAHash;

impl Hash {
    /// SHA-256 of bytes in one piece: nothing is copied.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self::from_digest(digest(&SHA256, bytes).as_ref())
    }

    /// SHA-256 of the parts, one after the other.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut room = [0; ONE_SHOT_BYTES_MAX];
        let digest = match joined(parts, &mut room) {
            // Without a context on the heap: a third of the time of a short one.
            Some(bytes) => digest(&SHA256, bytes),
            None => {
                let mut context = Context::new(&SHA256);
                parts.iter().for_each(|part| context.update(part));
                context.finish()
            }
        };
        Self::from_digest(digest.as_ref())
    }

    /// A digest has this length.
    fn from_digest(digest: &[u8]) -> Self {
        Self(digest.first_chunk().copied().unwrap_or([0; HASH_BYTES]))
    }

    /// The hash in lower-case hex, as bytes.
    pub fn hex(self) -> [u8; 2 * HASH_BYTES] {
        hex(self.0)
    }

    /// The hash in lower-case hex.
    pub fn to_hex(self) -> String {
        self.to_string()
    }

    /// A hash from exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        unhex(text.as_bytes()).map(Self).ok_or(NotAHash)
    }
}

/// The parts in one piece, where there is room for them.
fn joined<'a>(parts: &[&[u8]], room: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut at = 0;
    for part in parts {
        room.get_mut(at..)?.get_mut(..part.len())?.copy_from_slice(part);
        at += part.len();
    }
    room.get(..at)
}

/// Exactly `N` bytes from lower-case hex.
pub(crate) fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (slot, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *slot = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_long_and_short_are_hashed_alike() {
        for length in [0, 1, 64, ONE_SHOT_BYTES_MAX - 1, ONE_SHOT_BYTES_MAX, ONE_SHOT_BYTES_MAX + 1, 65_536] {
            let bytes = vec![7; length];
            let whole = digest(&SHA256, &bytes);
            let (a, b) = bytes.split_at(length / 3);
            assert_eq!(Hash::of(&[a, b]).0, whole.as_ref(), "{length}");
        }
    }

    #[test]
    fn hex_both_ways() {
        let empty = Hash::of(&[]);
        assert_eq!(empty.to_hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(empty.to_hex().parse(), Ok(empty));
        assert_eq!(empty.hex(), *empty.to_hex().as_bytes());
        for text in ["", "e3", &empty.to_hex().to_uppercase(), &format!("{}0", &empty.to_hex()[1..].replace('e', "g"))]
        {
            assert_eq!(text.parse::<Hash>(), Err(NotAHash), "{text}");
        }
    }
}

//! Little-endian numbers from and to bytes.

use super::FormatError;
use testimony_core::evidence::hash::Hash;

/// Reads from the front of bytes. Every read says when they end too early.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    /// The next bytes.
    ///
    /// # Errors
    /// [`FormatError::Short`], as of all methods here.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(FormatError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`FormatError::Short`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(FormatError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A byte.
    ///
    /// # Errors
    /// [`FormatError::Short`].
    pub fn u8(&mut self) -> Result<u8, FormatError> {
        self.array().map(u8::from_le_bytes)
    }

    /// 16 bits.
    ///
    /// # Errors
    /// [`FormatError::Short`].
    pub fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }

    /// 32 bits.
    ///
    /// # Errors
    /// [`FormatError::Short`].
    pub fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    /// 64 bits.
    ///
    /// # Errors
    /// [`FormatError::Short`].
    pub fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    /// 32 bits that count bytes in memory.
    ///
    /// # Errors
    /// [`FormatError::Short`].
    pub fn length(&mut self) -> Result<usize, FormatError> {
        Ok(usize::try_from(self.u32()?).unwrap_or(usize::MAX))
    }

    /// A hash.
    ///
    /// # Errors
    /// [`FormatError::Short`].
    pub fn hash(&mut self) -> Result<Hash, FormatError> {
        self.array().map(Hash)
    }
}

/// A count as 16 bits; saturates, so limits are checked before.
pub fn count16(count: usize) -> [u8; 2] {
    u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes()
}

/// A count as 32 bits; saturates, so limits are checked before.
pub fn count32(count: usize) -> [u8; 4] {
    u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes()
}

/// Puts a number in place of the four bytes at `at`.
pub fn set32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(slot) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *slot = value.to_le_bytes();
    }
}

//! A frame: one block of entries, what they are in clear, their payloads compressed and encrypted (D4).

use super::bytes::{Cursor, count16, count32, set32};
use super::{FormatError, Problem};
use crate::spool::entry::{Block, Entry, Kind};
use crate::spool::keys::DataKey;
use crate::spool::{BLOCK_ENTRIES_MAX, BLOCK_PAYLOAD_BYTES_MAX, FRAME_BYTES_MAX, TAG_BYTES};
use testimony_core::evidence::hash::{HASH_BYTES, Hash};

/// zstd's fastest ordinary level: a higher one costs more than it saves on blocks of this size.
const COMPRESSION_LEVEL: i32 = 1;

/// Length, flags, count of entries, number, length of the payload.
const FIXED_BYTES: usize = 16;

/// Stream, kind, seq, leaf, exchanges, length of the payload.
pub const ENTRY_BYTES: usize = 2 + 1 + 8 + HASH_BYTES + 4 + 4;

const CHECKSUM_BYTES: usize = 4;

/// No frame follows in this segment.
const FLAG_LAST: u16 = 1;

/// A frame's part in clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clear {
    /// Number of the frame in its segment: the nonce.
    pub number: u32,
    /// Whether it is the segment's last.
    pub last: bool,
    /// What stands in it; streams by their place in the header.
    pub entries: Vec<Entry<u16>>,
    /// Bytes of all payloads, uncompressed.
    pub payload_bytes: usize,
    /// Bytes of the whole frame.
    pub frame_bytes: usize,
    /// Bytes of this part, without its checksum.
    clear_bytes: usize,
}

/// Makes frames. Keeps its buffers.
pub struct Encoder {
    compressor: zstd::bulk::Compressor<'static>,
    compressed: Vec<u8>,
    frame: Vec<u8>,
}

impl Encoder {
    /// An encoder.
    ///
    /// # Errors
    /// No memory for the compressor.
    pub fn new() -> std::io::Result<Self> {
        let compressor = zstd::bulk::Compressor::new(COMPRESSION_LEVEL)?;
        Ok(Self { compressor, compressed: Vec::new(), frame: Vec::new() })
    }

    /// The bytes of one frame, good until the next call. `header` is the hash of the segment's header: with it, a frame
    /// opens only below the header that it was written under.
    ///
    /// # Errors
    /// The block is larger than blocks may be.
    pub fn encode(
        &mut self,
        key: &DataKey,
        header: Hash,
        number: u32,
        last: bool,
        entries: &[Entry<u16>],
        payload: &[u8],
    ) -> Result<&[u8], FormatError> {
        if entries.len() > BLOCK_ENTRIES_MAX || payload.len() > BLOCK_PAYLOAD_BYTES_MAX {
            return Err(Problem::Length.into());
        }
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(payload.len()));
        self.compressor
            .compress_to_buffer(payload, &mut self.compressed)
            .map_err(|_| FormatError::from(Problem::Compression))?;
        let out = &mut self.frame;
        out.clear();
        out.reserve(HASH_BYTES + frame_bytes_max(entries.len(), 0) + self.compressed.len());
        out.extend(header.0);
        out.extend([0; 4]);
        out.extend((if last { FLAG_LAST } else { 0 }).to_le_bytes());
        out.extend(count16(entries.len()));
        out.extend(number.to_le_bytes());
        out.extend(count32(payload.len()));
        for entry in entries {
            out.extend_from_slice(&entry.stream.to_le_bytes());
            out.push(entry.kind.code());
            out.extend_from_slice(&entry.seq.to_le_bytes());
            out.extend_from_slice(&entry.leaf.0);
            out.extend_from_slice(&entry.exchanges.to_le_bytes());
            out.extend_from_slice(&entry.payload_bytes.to_le_bytes());
        }
        let clear_end = out.len();
        let sealed = self.compressed.len() + TAG_BYTES;
        let total = clear_end - HASH_BYTES + CHECKSUM_BYTES + sealed + CHECKSUM_BYTES;
        set32(out, HASH_BYTES, u32::from_le_bytes(count32(total)));
        let checksum = crc32c::crc32c(out.get(HASH_BYTES..).unwrap_or_default());
        out.extend(checksum.to_le_bytes());
        out.extend_from_slice(&self.compressed);
        let (authenticated, text) = out.split_at_mut(clear_end);
        let text = text.get_mut(CHECKSUM_BYTES..).unwrap_or_default();
        let tag = key.seal(number, authenticated, text).ok_or(Problem::Sealed)?;
        out.extend(tag);
        let checksum = crc32c::crc32c(out.get(clear_end + CHECKSUM_BYTES..).unwrap_or_default());
        out.extend(checksum.to_le_bytes());
        Ok(out.get(HASH_BYTES..).unwrap_or_default())
    }
}

impl Clear {
    /// How many bytes are needed to read a frame's part in clear, from its first 16.
    ///
    /// # Errors
    /// [`FormatError::Short`] with fewer; a length beyond its limit.
    pub fn bytes_needed(bytes: &[u8]) -> Result<usize, FormatError> {
        let mut cursor = Cursor(bytes);
        let total = cursor.length()?;
        let (_flags, entries) = (cursor.u16()?, usize::from(cursor.u16()?));
        let needed = FIXED_BYTES + entries * ENTRY_BYTES + CHECKSUM_BYTES;
        if total > FRAME_BYTES_MAX || entries > BLOCK_ENTRIES_MAX || total < needed + TAG_BYTES + CHECKSUM_BYTES {
            return Err(Problem::Length.into());
        }
        Ok(needed)
    }

    /// Reads the part in clear. `number` is that of the frame that is due, `streams` how many the header names.
    ///
    /// # Errors
    /// [`FormatError::Short`] if more bytes are needed, else what is wrong.
    pub fn parse(bytes: &[u8], number: u32, streams: usize) -> Result<Self, FormatError> {
        let needed = Self::bytes_needed(bytes)?;
        let part = bytes.get(..needed).ok_or(FormatError::Short)?;
        let (content, checksum) = part.split_last_chunk::<CHECKSUM_BYTES>().ok_or(FormatError::Short)?;
        if crc32c::crc32c(content) != u32::from_le_bytes(*checksum) {
            return Err(Problem::Checksum.into());
        }
        let mut cursor = Cursor(content);
        let frame_bytes = cursor.length()?;
        let flags = cursor.u16()?;
        let count = cursor.u16()?;
        let found = cursor.u32()?;
        let payload_bytes = cursor.length()?;
        if flags & !FLAG_LAST != 0 {
            return Err(Problem::Value("the flags").into());
        }
        if found != number {
            return Err(Problem::Value("the frame's number").into());
        }
        if payload_bytes > BLOCK_PAYLOAD_BYTES_MAX {
            return Err(Problem::Length.into());
        }
        let entries = (0..count).map(|_| entry(&mut cursor, streams)).collect::<Result<Vec<_>, _>>()?;
        let sum: u64 = entries.iter().map(|entry| u64::from(entry.payload_bytes)).sum();
        if usize::try_from(sum) != Ok(payload_bytes) {
            return Err(Problem::Value("the length of a payload").into());
        }
        let last = flags & FLAG_LAST != 0;
        Ok(Self { number, last, entries, payload_bytes, frame_bytes, clear_bytes: content.len() })
    }

    /// Whether the rest of the frame is what was written. `frame` begins where the frame does.
    ///
    /// # Errors
    /// [`FormatError::Short`] if the frame is not whole.
    pub fn check(&self, frame: &[u8]) -> Result<(), FormatError> {
        let (sealed, checksum) = self.sealed(frame)?;
        if crc32c::crc32c(sealed) == checksum { Ok(()) } else { Err(Problem::Checksum.into()) }
    }

    /// Ciphertext with its tag, and the checksum after it.
    fn sealed<'a>(&self, frame: &'a [u8]) -> Result<(&'a [u8], u32), FormatError> {
        let whole = frame.get(..self.frame_bytes).ok_or(FormatError::Short)?;
        let rest = whole.get(self.clear_bytes + CHECKSUM_BYTES..).ok_or(FormatError::Short)?;
        let (sealed, checksum) = rest.split_last_chunk::<CHECKSUM_BYTES>().ok_or(FormatError::Short)?;
        Ok((sealed, u32::from_le_bytes(*checksum)))
    }
}

fn entry(cursor: &mut Cursor<'_>, streams: usize) -> Result<Entry<u16>, FormatError> {
    let stream = cursor.u16()?;
    let kind = Kind::from_code(cursor.u8()?).ok_or(Problem::Value("the kind"))?;
    let (seq, leaf, exchanges, payload_bytes) = (cursor.u64()?, cursor.hash()?, cursor.u32()?, cursor.u32()?);
    if usize::from(stream) >= streams {
        return Err(Problem::Value("the stream").into());
    }
    Ok(Entry { stream, kind, seq, leaf, exchanges, payload_bytes })
}

/// Opens frames. Keeps its buffers.
pub struct Decoder {
    decompressor: zstd::bulk::Decompressor<'static>,
    authenticated: Vec<u8>,
    text: Vec<u8>,
}

impl Decoder {
    /// A decoder.
    ///
    /// # Errors
    /// No memory for the decompressor.
    pub fn new() -> std::io::Result<Self> {
        let decompressor = zstd::bulk::Decompressor::new()?;
        Ok(Self { decompressor, authenticated: Vec::new(), text: Vec::new() })
    }

    /// Opens a frame whose part in clear was read: its entries with their payloads.
    ///
    /// # Errors
    /// The frame is not whole, or not what was written under this key and header.
    pub fn open(
        &mut self,
        clear: &Clear,
        key: &DataKey,
        header: Hash,
        frame: &[u8],
    ) -> Result<Block<u16>, FormatError> {
        let (sealed, _) = clear.sealed(frame)?;
        self.authenticated.clear();
        self.authenticated.extend(header.0);
        self.authenticated.extend(frame.get(..clear.clear_bytes).ok_or(FormatError::Short)?);
        self.text.clear();
        self.text.extend_from_slice(sealed);
        let opened = key.open(clear.number, &self.authenticated, &mut self.text).ok_or(Problem::Sealed)?;
        // An empty payload still is a frame of zstd.
        let mut payload = Vec::with_capacity(clear.payload_bytes);
        self.decompressor.decompress_to_buffer(opened, &mut payload).map_err(|_| Problem::Compression)?;
        if payload.len() != clear.payload_bytes {
            return Err(Problem::Compression.into());
        }
        Ok(Block { entries: clear.entries.clone(), payload })
    }
}

/// Most bytes that a frame of this block can have.
pub fn frame_bytes_max(entries: usize, payload_bytes: usize) -> usize {
    let clear = FIXED_BYTES + entries * ENTRY_BYTES + CHECKSUM_BYTES;
    clear + zstd::zstd_safe::compress_bound(payload_bytes) + TAG_BYTES + CHECKSUM_BYTES
}

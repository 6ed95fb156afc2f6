//! The header of a segment: whose it is, where it begins, and its wrapped keys.

use super::bytes::{Cursor, count16, count32, set32};
use super::{FormatError, Magic, Problem};
use crate::spool::position::Place;
use crate::spool::{Boot, HEADER_BYTES_MAX, STREAMS_MAX, WRAPPED_KEY_BYTES_MAX};
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::{Range, range_nodes};
use testimony_core::evidence::stream::StreamId;

/// First bytes of a segment.
const MAGIC: Magic = *b"TSMYSEG\0";

/// Where the header's length stands.
const LENGTH_AT: usize = MAGIC.len() + 2;

/// What stands at a segment's beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The process that wrote it.
    pub boot: Boot,
    /// Number of the segment, from 0.
    pub number: u64,
    /// Place of its first entry. If it lies before the end of an earlier segment, that one's entries from here on were not
    /// durable and stand here again.
    pub first: Place,
    /// When it was made, in ns since the epoch.
    pub created_unix_nanos: u64,
    /// Its key, wrapped under the pod's key.
    pub pod_key: Vec<u8>,
    /// Its key, wrapped to the operator's recovery key; empty where there is none.
    pub recovery_key: Vec<u8>,
    /// The streams whose entries it may hold.
    pub streams: Vec<StreamStart>,
}

/// A stream, as it stood before the segment's first entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStart {
    /// Its name.
    pub sid: StreamId,
    /// Its leaves so far: `end` is the next `seq`, the hashes are the frontier.
    pub leaves: Range,
    /// Exchanges of its data thread that entries tell of so far, those of the thread's earlier streams too.
    pub exchanges: u64,
}

impl Header {
    /// From so many bytes on it is known how long a header is.
    pub const START_BYTES: usize = LENGTH_AT + 4;

    /// Appends the header's bytes.
    ///
    /// # Errors
    /// More streams or longer keys than there may be.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let start = out.len();
        let keys_fit = self.pod_key.len() <= WRAPPED_KEY_BYTES_MAX && self.recovery_key.len() <= WRAPPED_KEY_BYTES_MAX;
        if self.streams.len() > STREAMS_MAX || !keys_fit {
            return Err(Problem::Length.into());
        }
        super::begin(out, MAGIC);
        out.extend([0; 4]);
        out.extend(self.boot.0);
        out.extend(self.number.to_le_bytes());
        out.extend(self.first.number().to_le_bytes());
        out.extend(self.created_unix_nanos.to_le_bytes());
        for key in [&self.pod_key, &self.recovery_key] {
            out.extend(count16(key.len()));
            out.extend(key);
        }
        out.extend(count16(self.streams.len()));
        for stream in &self.streams {
            let name = stream.sid.as_str().as_bytes();
            out.extend(count16(name.len()));
            out.extend(name);
            out.extend(stream.leaves.end().to_le_bytes());
            stream.leaves.nodes().for_each(|node| out.extend(node.0));
            out.extend(stream.exchanges.to_le_bytes());
        }
        let written = out.get_mut(start..).unwrap_or_default();
        set32(written, LENGTH_AT, u32::from_le_bytes(count32(written.len() + 4)));
        let checksum = crc32c::crc32c(written);
        out.extend(checksum.to_le_bytes());
        Ok(())
    }

    /// Reads a header from the front of bytes, and how long it is.
    ///
    /// # Errors
    /// [`FormatError::Short`] if more bytes are needed; at most [`HEADER_BYTES_MAX`] ever are.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), FormatError> {
        let mut cursor = Cursor(bytes);
        super::begins(&mut cursor, MAGIC)?;
        let length = Self::bytes_needed(bytes)?;
        let whole = bytes.get(..length).ok_or(FormatError::Short)?;
        let (content, checksum) = whole.split_last_chunk::<4>().ok_or(FormatError::Short)?;
        if crc32c::crc32c(content) != u32::from_le_bytes(*checksum) {
            return Err(Problem::Checksum.into());
        }
        let mut cursor = Cursor(content.get(LENGTH_AT + 4..).ok_or(FormatError::Short)?);
        // What ends too early inside of a length that is checked is no cut write.
        let header = Self::fields(&mut cursor).map_err(|error| match error {
            FormatError::Short => Problem::Length.into(),
            other => other,
        })?;
        if cursor.0.is_empty() { Ok((header, length)) } else { Err(Problem::Length.into()) }
    }

    /// How many bytes a header has, from its first [`Header::START_BYTES`].
    ///
    /// # Errors
    /// [`FormatError::Short`] with fewer; a length beyond its limit.
    pub fn bytes_needed(bytes: &[u8]) -> Result<usize, FormatError> {
        let length = Cursor(bytes.get(LENGTH_AT..).ok_or(FormatError::Short)?).length()?;
        let is_allowed = (LENGTH_AT + 8..=HEADER_BYTES_MAX).contains(&length);
        is_allowed.then_some(length).ok_or(Problem::Length.into())
    }

    fn fields(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let boot = Boot(cursor.array()?);
        let (number, first, created_unix_nanos) = (cursor.u64()?, Place(cursor.u64()?), cursor.u64()?);
        let pod_key = key(cursor)?;
        let recovery_key = key(cursor)?;
        let count = usize::from(cursor.u16()?);
        if count > STREAMS_MAX {
            return Err(Problem::Length.into());
        }
        let streams = (0..count).map(|_| stream(cursor)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { boot, number, first, created_unix_nanos, pod_key, recovery_key, streams })
    }
}

fn key(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, FormatError> {
    let length = usize::from(cursor.u16()?);
    if length > WRAPPED_KEY_BYTES_MAX {
        return Err(Problem::Length.into());
    }
    Ok(cursor.take(length)?.to_vec())
}

fn stream(cursor: &mut Cursor<'_>) -> Result<StreamStart, FormatError> {
    let length = usize::from(cursor.u16()?);
    let name = cursor.take(length)?;
    let sid = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    let sid = sid.ok_or(Problem::Value("the stream's name"))?;
    let next_seq = cursor.u64()?;
    let nodes: Vec<Hash> = (0..range_nodes(0, next_seq)).map(|_| cursor.hash()).collect::<Result<_, _>>()?;
    let leaves = Range::from_nodes(0, next_seq, &nodes).map_err(|_| Problem::Value("the frontier"))?;
    Ok(StreamStart { sid, leaves, exchanges: cursor.u64()? })
}

//! Keys of segments, wrapped to the operator's recovery key after their headers were written: a file of its own, made once.

use super::bytes::{Cursor, count16};
use super::{FormatError, Magic, Problem};
use crate::spool::WRAPPED_KEY_BYTES_MAX;
use std::collections::BTreeMap;

/// First bytes of such a file.
const MAGIC: Magic = *b"TSMYKEY\0";

/// Appends the beginning of a file.
pub fn begin(out: &mut Vec<u8>) {
    super::begin(out, MAGIC);
}

/// Appends a line: number of the segment, length of its wrapped key, that, CRC32C.
pub fn append(out: &mut Vec<u8>, segment: u64, wrapped: &[u8]) {
    let start = out.len();
    out.extend(segment.to_le_bytes());
    let wrapped = wrapped.get(..wrapped.len().min(WRAPPED_KEY_BYTES_MAX)).unwrap_or_default();
    out.extend(count16(wrapped.len()));
    out.extend(wrapped);
    super::seal_line(out, start);
}

/// Adds what a file says to `keys`, by segment: its longest valid prefix.
///
/// # Errors
/// It does not begin as such a file does.
pub fn read(bytes: &[u8], keys: &mut BTreeMap<u64, Vec<u8>>) -> Result<(), FormatError> {
    let mut cursor = Cursor(bytes);
    super::begins(&mut cursor, MAGIC)?;
    while let Ok((segment, wrapped)) = line(&mut cursor) {
        keys.insert(segment, wrapped.to_vec());
    }
    Ok(())
}

fn line<'a>(cursor: &mut Cursor<'a>) -> Result<(u64, &'a [u8]), FormatError> {
    let whole = cursor.0;
    let segment = cursor.u64()?;
    let length = usize::from(cursor.u16()?);
    if length > WRAPPED_KEY_BYTES_MAX {
        return Err(Problem::Length.into());
    }
    let wrapped = cursor.take(length)?;
    super::check_line(whole, cursor)?;
    Ok((segment, wrapped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_is_read_up_to_what_is_cut_or_altered() {
        let mut bytes = Vec::new();
        begin(&mut bytes);
        append(&mut bytes, 3, &[1; 80]);
        let first = bytes.len();
        append(&mut bytes, 4, &[]);
        let of = |bytes: &[u8]| {
            let mut keys = BTreeMap::new();
            read(bytes, &mut keys)
                .map(|()| keys.into_iter().map(|(number, key)| (number, key.len())).collect::<Vec<_>>())
        };
        assert_eq!(of(&bytes), Ok(vec![(3, 80), (4, 0)]));
        for cut in first..bytes.len() {
            assert_eq!(of(&bytes[..cut]), Ok(vec![(3, 80)]), "{cut}");
        }
        for at in 0..first {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(of(&altered).is_err() || of(&altered) == Ok(Vec::new()), "{at}");
        }
    }
}

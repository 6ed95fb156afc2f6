//! The record layer (RFC 8446 section 5.1): headers of one direction, however the bytes are split.

const HEADER_BYTES: usize = 5;

/// Most payload bytes of a record: TLS 1.2 allows 2,048 more than the plaintext.
const PAYLOAD_BYTES_MAX: u16 = (1 << 14) + 2048;

/// Content types.
pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;
const HEARTBEAT: u8 = 24;

/// What comes next in a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A record begins, with so many payload bytes.
    Record { kind: u8, length: u16 },
    /// Payload of the record that began last.
    Payload { kind: u8, bytes: &'a [u8] },
    /// This is no record.
    Malformed,
}

/// Reads the records of one direction. It keeps at most one header.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Records {
    header: [u8; HEADER_BYTES],
    have: usize,
    left: u16,
}

impl Records {
    /// The next piece of `input`, which loses the bytes that were used; `None` when they are all used.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        let kind = self.header[0];
        if self.left > 0 && !input.is_empty() {
            let count = input.len().min(usize::from(self.left));
            let (bytes, rest) = input.split_at_checked(count)?;
            *input = rest;
            self.left = self.left.saturating_sub(count as u16);
            return Some(Piece::Payload { kind, bytes });
        }
        loop {
            let (first, rest) = input.split_first()?;
            *input = rest;
            *self.header.get_mut(self.have)? = *first;
            self.have += 1;
            if self.have == HEADER_BYTES {
                break;
            }
        }
        self.have = 0;
        let [kind, major, _, high, low] = self.header;
        let length = u16::from_be_bytes([high, low]);
        if !(CHANGE_CIPHER_SPEC..=HEARTBEAT).contains(&kind) || major != 3 || length > PAYLOAD_BYTES_MAX {
            return Some(Piece::Malformed);
        }
        self.left = length;
        Some(Piece::Record { kind, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All pieces, payload of one record joined.
    fn read(chunks: &[&[u8]]) -> Vec<(u8, u16, Vec<u8>)> {
        let mut records = Records::default();
        let mut found: Vec<(u8, u16, Vec<u8>)> = Vec::new();
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(piece) = records.next(&mut input) {
                match piece {
                    Piece::Record { kind, length } => found.push((kind, length, Vec::new())),
                    Piece::Payload { bytes, .. } => found.last_mut().expect("a record").2.extend_from_slice(bytes),
                    Piece::Malformed => {
                        found.push((0, 0, Vec::new()));
                        return found;
                    }
                }
            }
        }
        found
    }

    #[test]
    fn every_split_reads_the_same() {
        let bytes =
            [b"\x16\x03\x01\x00\x03abc".as_slice(), b"\x17\x03\x03\x00\x00", b"\x15\x03\x03\x00\x02\x02\x28"].concat();
        let wanted = [(22, 3, b"abc".to_vec()), (23, 0, Vec::new()), (21, 2, vec![2, 40])];
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                assert_eq!(
                    read(&[&bytes[..first], &bytes[first..second], &bytes[second..]]),
                    wanted,
                    "{first} {second}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_record_is_malformed() {
        for bytes in
            [b"HTTP/1.1 400".as_slice(), b"\x16\x02\x00\x00\x01", b"\x19\x03\x03\x00\x01", b"\x17\x03\x03\x48\x01"]
        {
            assert_eq!(read(&[bytes]), [(0, 0, Vec::new())], "{bytes:?}");
        }
        assert_eq!(read(&[b"\x17\x03\x03\x48\x00"]), [(23, 0x4800, Vec::new())]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_used_up(bytes in proptest::collection::vec(any::<u8>(), 0..100), at in 0_usize..100) {
            let at = at.min(bytes.len());
            prop_assert_eq!(read(&[&bytes]), read(&[&bytes[..at], &bytes[at..]]));
        }
    }
}

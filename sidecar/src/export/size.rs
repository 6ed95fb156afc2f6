//! How large a request may be: what a sink answers in time.

use super::REQUEST_BYTES_MAX;
use super::wire::Piece;

/// A request that took a sink too long so many times, in one go, is made smaller.
const LATE_MAX: u32 = 2;

/// What a sink answers in time makes the next request larger by one part in so many.
const GROWTH_PART: usize = 16;

/// What one sink answers in time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Size {
    bytes_max: usize,
    /// How often in one go a request took too long.
    late: u32,
}

// === impl Size ===

impl Size {
    pub(super) fn new() -> Self {
        Self { bytes_max: REQUEST_BYTES_MAX, late: 0 }
    }

    /// Whether a piece is to be sent in parts.
    pub(super) fn exceeds(&self, piece: &Piece) -> bool {
        piece.bytes() > self.bytes_max
    }

    /// The sink took something in time.
    pub(super) fn taken(&mut self) {
        let more = (self.bytes_max / GROWTH_PART).saturating_add(1);
        (self.bytes_max, self.late) = (self.bytes_max.saturating_add(more).min(REQUEST_BYTES_MAX), 0);
    }

    /// A piece took it too long. Whether it is to be sent in parts from now on: once may be chance.
    pub(super) fn late(&mut self, piece: &Piece) -> bool {
        self.late = self.late.saturating_add(1);
        let is_smaller = self.late >= LATE_MAX && !piece.is_single();
        if is_smaller {
            self.bytes_max = piece.bytes() / 2;
        }
        is_smaller
    }
}

#[cfg(test)]
mod tests {
    use super::super::Batch;
    use super::*;

    fn piece(bytes: usize, records: u32) -> Piece {
        let log_records = vec![0; bytes].into();
        Piece(vec![Batch { log_records, records, first_unix_nanos: 0, last_unix_nanos: 0, seals: None }])
    }

    #[test]
    fn what_takes_too_long_twice_is_halved_and_grows_again_by_little() {
        let mut size = Size::new();
        let whole = piece(REQUEST_BYTES_MAX, 100);
        assert!(!size.exceeds(&whole) && !size.late(&whole) && size.late(&whole));
        assert!(size.exceeds(&whole) && !size.exceeds(&piece(REQUEST_BYTES_MAX / 2, 50)));
        assert!(size.late(&piece(REQUEST_BYTES_MAX / 2, 50)), "nothing was answered since");
        assert!(!size.late(&piece(REQUEST_BYTES_MAX / 4, 1)), "a single record has no parts");
        size.taken();
        assert!(!size.late(&piece(1000, 10)), "it answers again: once may be chance");
        assert!(size.exceeds(&piece(REQUEST_BYTES_MAX / 3, 30)));
        (0..100).for_each(|_| size.taken());
        assert_eq!(size, Size::new());
    }
}

//! What is left of what a sink is to get, and which of the records that it refuses are at fault: many a sink says the same where
//! it takes nothing at all.

use super::size::Size;
use super::wire::Piece;
use super::{Batch, REQUEST_BYTES_MAX};

/// Single records that are refused one after the other before it is asked whether the sink takes anything; and so many in a row
/// are at fault themselves after it took something.
const DOUBTED_MAX: usize = 8;

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This is to be sent.
    Send(Piece),
    /// It is to be asked whether the sink takes a request that has no records.
    Ask,
    /// All is delivered, or at fault.
    Done,
}

/// One delivery.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// Halves go back on top, the first last: the order of the records stays.
    pieces: Vec<Piece>,
    /// Single records, in order, that were refused by a sink that may refuse everything. They are tried once more.
    doubted: Vec<Piece>,
    /// The last record of all is tried before the sink is asked. Some: it was refused, too.
    last: Option<Piece>,
    tries_last: bool,
    /// So many more refused records are at fault themselves: the sink took something a moment before.
    trusted: usize,
    /// It took some of this.
    takes_others: bool,
    /// It took nothing when it was asked last.
    is_parked: bool,
}

// === impl Delivery ===

impl Delivery {
    pub(super) fn new(batches: Vec<Batch>) -> Self {
        Self { pieces: vec![Piece(batches)], ..Self::default() }
    }

    /// What comes after all that is here.
    pub(super) fn add(&mut self, batches: Vec<Batch>) {
        self.pieces.insert(0, Piece(batches));
    }

    /// Whether there is too little to tell a sink that takes nothing from records that are at fault.
    pub(super) fn wants_more(&self) -> bool {
        self.is_parked && self.all().map(Piece::bytes).sum::<usize>() < REQUEST_BYTES_MAX
    }

    /// Records that are not delivered.
    pub(super) fn records(&self) -> u64 {
        self.all().map(Piece::records).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Piece> {
        self.pieces.iter().chain(&self.doubted).chain(&self.last)
    }

    /// Whether the sink took some of it.
    pub(super) fn takes_others(&self) -> bool {
        self.takes_others
    }

    /// The sink is another.
    pub(super) fn distrust(&mut self) {
        self.trusted = 0;
    }

    pub(super) fn next(&mut self, size: &Size) -> Next {
        // One that took nothing a moment ago is not asked about each of them anew.
        let doubted_max = if self.is_parked { 1 } else { DOUBTED_MAX };
        if self.doubted.len() >= doubted_max || self.pieces.is_empty() && !self.doubted.is_empty() {
            let last = if self.last.is_none() { self.take_last() } else { None };
            self.tries_last = last.is_some();
            return last.map_or(Next::Ask, Next::Send);
        }
        while let Some(piece) = self.pieces.pop() {
            if !size.exceeds(&piece) {
                return Next::Send(piece);
            }
            if let Some(single) = self.split(piece) {
                return Next::Send(single);
            }
        }
        Next::Done
    }

    /// The last record of all that was not tried.
    fn take_last(&mut self) -> Option<Piece> {
        let mut last = (!self.pieces.is_empty()).then(|| self.pieces.remove(0))?;
        loop {
            match last.halves() {
                Ok((first, second)) => {
                    self.pieces.insert(0, first);
                    last = second;
                }
                Err(single) => return Some(single),
            }
        }
    }

    /// The sink has this piece.
    pub(super) fn taken(&mut self) {
        (self.is_parked, self.takes_others) = (false, true);
        self.trust();
    }

    /// The sink has some of a piece, and does not say what: it is to be sent again, fewer records at a time, unless it is a
    /// single one, which is at fault.
    pub(super) fn partly_taken(&mut self, piece: Piece) -> Option<Piece> {
        self.is_parked = false;
        let single = self.split(piece);
        self.trust();
        single
    }

    /// The sink refused a piece; `of_records`: it cannot mean how it is sent. Returns a single record that is at fault.
    pub(super) fn refused(&mut self, piece: Piece, of_records: bool) -> Option<Piece> {
        let single = self.split(piece)?;
        let is_last = std::mem::take(&mut self.tries_last);
        if of_records || self.trusted > 0 {
            self.trusted = self.trusted.saturating_sub(1);
            return Some(single);
        }
        if is_last {
            self.last = Some(single);
        } else {
            self.doubted.push(single);
        }
        None
    }

    /// The sink took a request without records, or refused it, too. If so, all is tried again after a while.
    pub(super) fn answered(&mut self, takes: bool) {
        self.is_parked = !takes;
        if takes { self.trust() } else { self.again() }
    }

    /// A piece goes back; `in_parts`: as two, unless it is a single record.
    pub(super) fn put_back(&mut self, piece: Piece, in_parts: bool) {
        let whole = if in_parts { self.split(piece) } else { Some(piece) };
        self.pieces.extend(whole);
    }

    fn trust(&mut self) {
        self.trusted = DOUBTED_MAX;
        self.again();
    }

    fn again(&mut self) {
        self.tries_last = false;
        self.pieces.splice(0..0, self.last.take());
        self.pieces.extend(self.doubted.drain(..).rev());
    }

    /// Puts the halves of a piece on top, the first last; gives a single record back.
    fn split(&mut self, piece: Piece) -> Option<Piece> {
        match piece.halves() {
            Ok((first, second)) => {
                self.pieces.extend([second, first]);
                None
            }
            Err(single) => Some(single),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::Range;

    fn batches(records: Range<u8>) -> Vec<Batch> {
        // Each a field 2 of one byte.
        let log_records: Vec<u8> = records.clone().flat_map(|record| [0x12, 1, record]).collect();
        let records = records.len() as u32;
        vec![Batch { log_records: log_records.into(), records, first_unix_nanos: 0, last_unix_nanos: 0, seals: None }]
    }

    fn of(piece: &Piece) -> Vec<u8> {
        piece.0.iter().flat_map(|batch| batch.log_records.chunks(3).map(|record| record[2])).collect()
    }

    /// A sink, and what became of records.
    #[derive(Default)]
    struct Sink {
        refused: Vec<u8>,
        takes_empty: bool,
        /// From this ask on it takes all.
        mended_at: Option<usize>,
        /// Records that come while it is parked.
        more: Option<Range<u8>>,
        asks: usize,
        taken: Vec<u8>,
        at_fault: Vec<u8>,
        left: u64,
    }

    impl Sink {
        fn runs(mut self, records: Range<u8>) -> Self {
            let mut delivery = Delivery::new(batches(records));
            while self.asks < 5 {
                let is_mended = self.mended_at.is_some_and(|ask| self.asks >= ask);
                match delivery.next(&Size::new()) {
                    Next::Send(piece) if is_mended || !of(&piece).iter().any(|one| self.refused.contains(one)) => {
                        self.taken.extend(of(&piece));
                        delivery.taken();
                    }
                    Next::Send(piece) => {
                        self.at_fault.extend(delivery.refused(piece, false).as_ref().map(of).unwrap_or_default());
                    }
                    Next::Ask => {
                        self.asks += 1;
                        delivery.answered(self.takes_empty);
                        if delivery.wants_more()
                            && let Some(more) = self.more.take()
                        {
                            delivery.add(batches(more));
                        }
                    }
                    Next::Done => break,
                }
            }
            self.left = delivery.records();
            self.at_fault.sort_unstable();
            self
        }
    }

    #[test]
    fn ex_1_g2_what_is_at_fault_is_told_from_a_sink_that_takes_nothing() {
        let all = || (0..20).collect::<Vec<u8>>();
        let cases = [
            // What is refused; whether a request without records is taken; how often that is asked; what is at fault.
            (vec![], false, 0, vec![]),
            (vec![0], false, 0, vec![0]),
            (vec![19], false, 0, vec![19]),
            (vec![3, 7, 8], false, 0, vec![3, 7, 8]),
            // Records behind so many are tried before it counts as one that takes nothing.
            ((0..12).collect(), false, 0, (0..12).collect()),
            // The only one that is taken tells of so many; the rest waits for another one.
            ((0..19).collect(), false, 5, (0..8).collect()),
            (all(), true, 3, all()),
            (all(), false, 5, vec![]),
        ];
        for (refused, takes_empty, asks, at_fault) in cases {
            let what = format!("{refused:?}, {takes_empty}");
            let sink = Sink { refused, takes_empty, ..Sink::default() }.runs(0..20);
            assert_eq!((sink.asks, &sink.at_fault), (asks, &at_fault), "{what}");
            let settled = sink.taken.len() + sink.at_fault.len();
            assert_eq!(settled + usize::try_from(sink.left).expect("few"), 20, "{what}");
        }
    }

    #[test]
    fn ex_1_a_sink_that_took_nothing_goes_on_once_it_takes_anything() {
        let mended = Sink { refused: (0..20).collect(), mended_at: Some(3), ..Sink::default() }.runs(0..20);
        assert_eq!((mended.taken, mended.at_fault, mended.asks), ((0..20).collect(), vec![], 3), "in order");
        // One record that it never takes stops nothing that comes after it.
        let more = Some(1..3);
        let poisoned = Sink { refused: vec![0], more, ..Sink::default() }.runs(0..1);
        assert_eq!((poisoned.taken, poisoned.at_fault, poisoned.asks), (vec![2, 1], vec![0], 1));
    }
}

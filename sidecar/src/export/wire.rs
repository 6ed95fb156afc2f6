//! The bytes of OTLP that export needs: parts of requests that can be split between records, and the answer's partial
//! success.

use super::{Batch, Gap};
use bytes::Bytes;
use testimony_core::otlp::split_records;

const LENGTH_DELIMITED: u64 = 2;

/// A part of a request: records that belong together when it is split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Records.
    Records(Batch),
    /// A gap, as a record.
    Gap(Gap, Bytes),
}

/// Parts that are sent together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Piece(pub(super) Vec<Part>);

/// What a sink says of a request that it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PartialSuccess {
    /// Records that it refused.
    pub(super) rejected: u64,
    /// Why, or a warning.
    pub(super) message: String,
}

/// The answer is not an ExportLogsServiceResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an ExportLogsServiceResponse")]
pub(super) struct NotAResponse;

// === impl Part ===

impl Part {
    pub(super) fn bytes(&self) -> &Bytes {
        match self {
            Self::Records(batch) => &batch.log_records,
            Self::Gap(_, bytes) => bytes,
        }
    }

    /// Audit records in it; a gap record is none.
    pub(super) fn records(&self) -> u64 {
        match self {
            Self::Records(batch) => u64::from(batch.records),
            Self::Gap(..) => 0,
        }
    }
}

// === impl Piece ===

impl Piece {
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|part| part.bytes().len()).sum()
    }

    /// Bytes that count against the queue's limit: gap records do not.
    pub(super) fn queue_bytes(&self) -> usize {
        self.0.iter().filter(|part| matches!(part, Part::Records(_))).map(|part| part.bytes().len()).sum()
    }

    pub(super) fn records(&self) -> u64 {
        self.0.iter().map(Part::records).sum()
    }

    /// Whether it is a single record, which cannot be split.
    pub(super) fn is_single(&self) -> bool {
        self.0.len() <= 1 && self.records() <= 1
    }

    /// Two pieces with the same records in the same order; none when it is a single record, or bytes that are none.
    pub(super) fn halves(mut self) -> Result<(Self, Self), Self> {
        if self.0.len() > 1 {
            let rest = self.0.split_off(self.0.len() / 2);
            return Ok((self, Self(rest)));
        }
        let Some(Part::Records(batch)) = self.0.first() else { return Err(self) };
        let half = batch.records / 2;
        let records = split_records(&batch.log_records);
        let first = records.get(..usize::try_from(half).unwrap_or(usize::MAX));
        let cut = first.map(|records| records.iter().map(|record| record.len()).sum::<usize>());
        let Some(cut) = cut.filter(|cut| half > 0 && *cut < batch.log_records.len()) else { return Err(self) };
        let part = |bytes: Bytes, records: u32| {
            Self(vec![Part::Records(Batch { log_records: bytes, records, ..batch.clone() })])
        };
        let first = part(batch.log_records.slice(..cut), half);
        let second = part(batch.log_records.slice(cut..), batch.records - half);
        Ok((first, second))
    }
}

/// Reads an ExportLogsServiceResponse; unknown fields are skipped.
pub(super) fn partial_success(body: &[u8]) -> Result<PartialSuccess, NotAResponse> {
    let mut found = PartialSuccess::default();
    fields(body, |number, value| {
        if let (1, Value::Bytes(inner)) = (number, value) {
            fields(inner, |number, value| {
                match (number, value) {
                    // An int64: what is negative makes no sense and counts as none.
                    (1, Value::Number(count)) => found.rejected = u64::try_from(count.cast_signed()).unwrap_or(0),
                    (2, Value::Bytes(text)) => found.message = String::from_utf8_lossy(text).into_owned(),
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(())
    })?;
    Ok(found)
}

/// The value of a field.
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// Reads a message, field by field.
pub(super) fn fields<'a>(
    mut rest: &'a [u8],
    mut each: impl FnMut(u64, Value<'a>) -> Result<(), NotAResponse>,
) -> Result<(), NotAResponse> {
    while !rest.is_empty() {
        let (tag, after) = varint(rest).ok_or(NotAResponse)?;
        let (value, after) = match tag & 7 {
            0 => varint(after).map(|(number, after)| (Value::Number(number), after)),
            1 => after.get(8..).map(|after| (Value::Other, after)),
            LENGTH_DELIMITED => varint(after).and_then(|(length, after)| {
                let (bytes, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
                Some((Value::Bytes(bytes), after))
            }),
            5 => after.get(4..).map(|after| (Value::Other, after)),
            _ => None,
        }
        .ok_or(NotAResponse)?;
        if tag >> 3 == 0 {
            return Err(NotAResponse);
        }
        each(tag >> 3, value)?;
        rest = after;
    }
    Ok(())
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(index).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::GapReason;
    use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
    use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ScopeLogs};
    use proptest::prelude::*;
    use prost::Message;

    fn string(text: &str) -> Option<AnyValue> {
        Some(AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) })
    }

    fn log_record(text: &str) -> LogRecord {
        LogRecord { body: string(text), ..LogRecord::default() }
    }

    fn encode(texts: &[String]) -> Bytes {
        let records = texts.iter().map(|text| log_record(text)).collect();
        ScopeLogs { log_records: records, ..ScopeLogs::default() }.encode_to_vec().into()
    }

    fn piece(texts: &[String]) -> Piece {
        let records = u32::try_from(texts.len()).expect("few");
        Piece(vec![Part::Records(Batch {
            log_records: encode(texts),
            records,
            first_unix_nanos: 1,
            last_unix_nanos: 2,
        })])
    }

    /// All records, by splitting until nothing can be split.
    fn singles(piece: Piece) -> Vec<Piece> {
        let (mut open, mut done) = (vec![piece], Vec::new());
        while let Some(piece) = open.pop() {
            match piece.halves() {
                Ok((first, second)) => open.extend([second, first]),
                Err(single) => done.push(single),
            }
        }
        done
    }

    proptest! {
        #[test]
        fn splitting_keeps_every_record_in_order(texts in prop::collection::vec(".{0,200}", 1..40)) {
            let whole = piece(&texts);
            let singles = singles(whole.clone());
            prop_assert_eq!(singles.len(), texts.len());
            prop_assert!(singles.iter().all(|single| single.records() == 1));
            let joined: Vec<u8> = singles.iter().flat_map(|single| single.0.iter()).flat_map(|part| part.bytes().to_vec()).collect();
            prop_assert_eq!(&joined[..], &encode(&texts)[..]);
            prop_assert_eq!(whole.queue_bytes(), joined.len());
        }

        #[test]
        fn any_bytes_are_split_or_not_but_never_lost(bytes in prop::collection::vec(any::<u8>(), 0..100), records in 0_u32..9) {
            let batch = Batch { log_records: bytes.clone().into(), records, first_unix_nanos: 0, last_unix_nanos: 0 };
            let singles = singles(Piece(vec![Part::Records(batch)]));
            let joined: Vec<u8> = singles.iter().flat_map(|single| single.0.iter()).flat_map(|part| part.bytes().to_vec()).collect();
            prop_assert_eq!(joined, bytes);
            prop_assert_eq!(singles.iter().map(Piece::records).sum::<u64>(), u64::from(records));
        }

        #[test]
        fn any_answer_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let ours = partial_success(&bytes);
            if let Ok(theirs) = ExportLogsServiceResponse::decode(&bytes[..]) {
                let theirs = theirs.partial_success.unwrap_or_default();
                if let Ok(ours) = ours {
                    prop_assert_eq!(ours.rejected, u64::try_from(theirs.rejected_log_records).unwrap_or(0));
                }
            }
        }
    }

    #[test]
    fn a_partial_success_is_read_and_every_cut_of_it_refused() {
        let partial = ExportLogsPartialSuccess { rejected_log_records: 300, error_message: "too old".to_owned() };
        let bytes = ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        let expected = PartialSuccess { rejected: 300, message: "too old".to_owned() };
        assert_eq!(partial_success(&bytes), Ok(expected));
        for cut in 1..bytes.len() {
            assert_eq!(partial_success(&bytes[..cut]), Err(NotAResponse), "{cut}");
        }
        let negative = ExportLogsPartialSuccess { rejected_log_records: -1, error_message: String::new() };
        let bytes = ExportLogsServiceResponse { partial_success: Some(negative) }.encode_to_vec();
        assert_eq!(partial_success(&bytes), Ok(PartialSuccess::default()));
    }

    #[test]
    fn a_gap_is_never_split_and_counts_neither_as_record_nor_against_the_queue() {
        let gap = Gap { count: 9, exact: true, from_ns: 0, to_ns: 0, reason: GapReason::QueueFull };
        let gap = Part::Gap(gap, encode(&["gap".to_owned()]));
        let single = Piece(vec![gap.clone()]);
        assert_eq!((single.records(), single.queue_bytes()), (0, 0));
        assert_eq!(single.clone().halves(), Err(single));
        let mut both = piece(&["a".to_owned(), "b".to_owned()]);
        both.0.insert(0, gap);
        assert_eq!(singles(both).len(), 3);
    }
}

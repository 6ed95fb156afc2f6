//! The bytes of OTLP that export needs: parts of requests that can be split between records, and the answer's partial
//! success.

use super::Batch;
use bytes::Bytes;
use testimony_core::otlp::split_records;

const LENGTH_DELIMITED: u64 = 2;

/// Batches that are sent together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Piece(pub(super) Vec<Batch>);

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

// === impl Piece ===

impl Piece {
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|batch| batch.log_records.len()).sum()
    }

    pub(super) fn records(&self) -> u64 {
        self.0.iter().map(|batch| u64::from(batch.records)).sum()
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
        let Some(batch) = self.0.first() else { return Err(self) };
        let half = batch.records / 2;
        let count = usize::try_from(half).unwrap_or(usize::MAX);
        let records = split_records(&batch.log_records);
        let cut = records.get(..count).map(|records| records.iter().map(|record| record.len()).sum::<usize>());
        let Some(cut) = cut.filter(|cut| half > 0 && *cut < batch.log_records.len()) else { return Err(self) };
        let (first, second) = match &batch.seals {
            Some(seals) => {
                let (first, second) = seals.split(count);
                (Some(first), Some(second))
            }
            None => (None, None),
        };
        let part = |bytes: Bytes, records: u32, seals| {
            Self(vec![Batch { log_records: bytes, records, seals, ..batch.clone() }])
        };
        Ok((
            part(batch.log_records.slice(..cut), half, first),
            part(batch.log_records.slice(cut..), batch.records - half, second),
        ))
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
        let (log_records, first_unix_nanos, last_unix_nanos) = (encode(texts), 1, 2);
        Piece(vec![Batch { log_records, records, first_unix_nanos, last_unix_nanos, seals: None }])
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
            let joined: Vec<u8> = singles.iter().flat_map(|single| single.0.iter()).flat_map(|batch| batch.log_records.to_vec()).collect();
            prop_assert_eq!(&joined[..], &encode(&texts)[..]);
            prop_assert_eq!(whole.bytes(), joined.len());
        }

        #[test]
        fn any_bytes_are_split_or_not_but_never_lost(bytes in prop::collection::vec(any::<u8>(), 0..100), records in 0_u32..9) {
            let batch = Batch { log_records: bytes.clone().into(), records, first_unix_nanos: 0, last_unix_nanos: 0, seals: None };
            let singles = singles(Piece(vec![batch]));
            let joined: Vec<u8> = singles.iter().flat_map(|single| single.0.iter()).flat_map(|batch| batch.log_records.to_vec()).collect();
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
}

//! Requests in parts: OTLP that can be split between records.

use super::Batch;
use bytes::Bytes;
use testimony_core::otlp::split_records;

/// Batches that are sent together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Piece(pub(super) Vec<Batch>);

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

#[cfg(test)]
mod tests {
    use super::*;
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
    }
}

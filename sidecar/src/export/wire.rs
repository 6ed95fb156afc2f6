//! The bytes of OTLP that export needs: the request around encoded records, where one record ends and the next begins,
//! and the answer's partial success.

use super::{Batch, Gap};
use bytes::{BufMut, Bytes, BytesMut};

/// Field 2 of ScopeLogs, length-delimited.
const LOG_RECORDS_TAG: u64 = 2 << 3 | 2;
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

    /// Two pieces with the same records in the same order; none when it is a single record, or bytes that are none.
    pub(super) fn halves(mut self) -> Result<(Self, Self), Self> {
        if self.0.len() > 1 {
            let rest = self.0.split_off(self.0.len() / 2);
            return Ok((self, Self(rest)));
        }
        let Some(Part::Records(batch)) = self.0.first() else { return Err(self) };
        let half = batch.records / 2;
        let cut = record_ends(&batch.log_records).nth(usize::try_from(half.saturating_sub(1)).unwrap_or(usize::MAX));
        let Some(cut) = cut.filter(|cut| half > 0 && *cut < batch.log_records.len()) else { return Err(self) };
        let part = |bytes: Bytes, records: u32| {
            Self(vec![Part::Records(Batch { log_records: bytes, records, ..batch.clone() })])
        };
        let first = part(batch.log_records.slice(..cut), half);
        let second = part(batch.log_records.slice(cut..), batch.records - half);
        Ok((first, second))
    }
}

/// Where each record of `log_records` ends. Stops at the first byte that is not part of one.
pub(super) fn record_ends(log_records: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let mut rest = log_records;
    std::iter::from_fn(move || {
        let (tag, after) = varint(rest)?;
        let (length, after) = varint(after)?;
        rest = after.get(usize::try_from(length).ok()?..)?;
        (tag == LOG_RECORDS_TAG).then(|| log_records.len() - rest.len())
    })
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

/// An ExportLogsServiceRequest of one resource and one empty scope. `resource`: the encoded Resource.
pub(super) fn export_request<'a>(resource: &[u8], parts: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let records: usize = parts.clone().map(Bytes::len).sum();
    // ScopeLogs{scope: InstrumentationScope{}, log_records}
    let scope_logs = records + 2;
    let resource_logs = field_length(resource.len()) + field_length(scope_logs);
    let mut out = BytesMut::with_capacity(field_length(resource_logs));
    open_field(&mut out, 1, resource_logs);
    open_field(&mut out, 1, resource.len());
    out.extend_from_slice(resource);
    open_field(&mut out, 2, scope_logs);
    open_field(&mut out, 1, 0);
    for part in parts {
        out.extend_from_slice(part);
    }
    out.freeze()
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

fn fields<'a>(
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

fn varint_length(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Bytes of a length-delimited field with a number under 16.
fn field_length(length: usize) -> usize {
    1 + varint_length(length) + length
}

fn open_field(out: &mut BytesMut, number: u8, length: usize) {
    out.put_u8(number << 3 | 2);
    let mut length = length as u64;
    while length >= 0x80 {
        out.put_u8((length as u8) | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
}

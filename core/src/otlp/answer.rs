//! What a sink says of a request that it took: ExportLogsServiceResponse, read by hand with prost as the oracle.

const LENGTH_DELIMITED: u64 = 2;

/// What a sink says of a request that it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartialSuccess {
    /// Records that it refused.
    pub rejected: u64,
    /// Why, or a warning.
    pub message: String,
}

/// The answer is not an ExportLogsServiceResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an ExportLogsServiceResponse")]
pub struct NotAResponse;

/// Reads the answer of a sink over HTTP. Some backends answer in JSON whatever they are asked in.
///
/// # Errors
/// It is neither: a login page or a proxy says 200 too, and that is no receipt.
pub fn http_success(body: &[u8]) -> Result<PartialSuccess, NotAResponse> {
    partial_success(body).or_else(|error| json_success(body).ok_or(error))
}

/// Reads an ExportLogsServiceResponse; unknown fields are skipped.
///
/// # Errors
/// It is none.
pub fn partial_success(body: &[u8]) -> Result<PartialSuccess, NotAResponse> {
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

fn json_success(body: &[u8]) -> Option<PartialSuccess> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let object = value.as_object()?;
    let partial = object.get("partialSuccess");
    let rejected = partial.and_then(|partial| partial.get("rejectedLogRecords"));
    let rejected = rejected.and_then(|count| count.as_u64().or_else(|| count.as_str()?.parse().ok())).unwrap_or(0);
    let message = partial.and_then(|partial| partial.get("errorMessage")?.as_str()).unwrap_or_default();
    Some(PartialSuccess { rejected, message: message.to_owned() })
}

/// The value of a field.
pub enum Value<'a> {
    /// A varint.
    Number(u64),
    /// Text, bytes or a message.
    Bytes(&'a [u8]),
    /// Of a fixed length.
    Other,
}

/// Reads a message of protobuf, field by field.
///
/// # Errors
/// It is none, or `each` says so.
pub fn fields<'a>(
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
    use proptest::prelude::*;
    use prost::Message;

    proptest! {
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
    fn over_http_an_answer_in_json_counts_and_a_page_does_not() {
        assert_eq!(http_success(b""), Ok(PartialSuccess::default()));
        assert_eq!(http_success(b"{}"), Ok(PartialSuccess::default()));
        let told = br#"{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"old"}}"#;
        assert_eq!(http_success(told), Ok(PartialSuccess { rejected: 2, message: "old".to_owned() }));
        assert_eq!(http_success(b"<html>log in</html>"), Err(NotAResponse));
    }
}

//! A record back from its body: what was put aside before an exchange went on (T2) becomes a record of its own if the
//! process died.

use super::{EventName, Field, Record, Redacted, Side, Typ};
use crate::canon::{BodyError, parse_body};

/// The record of an exchange whose body, made by [`super::body_of`], was kept. It was redacted before that.
///
/// # Errors
/// The bytes are no canonical body.
pub fn restore_exchange(body: &[u8]) -> Result<Redacted<Record>, BodyError> {
    let map = parse_body(body)?;
    let is_rpc = map.contains_key(Field::RpcSystem.key());
    let mut record = Record::new(if is_rpc { EventName::RpcCall } else { EventName::HttpRequest });
    // Header fields have keys of their own, in their order.
    for (key, value) in &map {
        if let Some(field) = Field::ALL.iter().find(|field| field.key() == key) {
            match field {
                Field::Trunc => record.truncated = value.clone(),
                field => record.set(*field, value),
            }
        }
        let side = match key.get(..2) {
            Some("hq") => Side::Request,
            Some("hs") => Side::Response,
            _ => continue,
        };
        let Some(colon) = value.iter().position(|byte| *byte == b':') else { continue };
        let (name, rest) = value.split_at_checked(colon).unwrap_or_default();
        let name = String::from_utf8_lossy(name);
        record.push_header(side, &name, rest.get(1..).unwrap_or_default());
    }
    record.set(Field::Typ, Typ::Exchange.as_str().as_bytes());
    Ok(Redacted::new(record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::body_of;
    use crate::redact::{Redactor, redact};

    #[test]
    fn t2_what_was_kept_comes_back_byte_for_byte() {
        let mut record = Record::new(EventName::HttpRequest);
        for (field, value) in [(Field::V, "1"), (Field::Typ, "exchange"), (Field::T0, "7"), (Field::Path, "/a b%")] {
            record.set(field, value.as_bytes());
        }
        record.set(Field::Method, &[b'M'; 70]);
        record.push_header(Side::Request, "Accept", b"a: b, \xff");
        record.push_header(Side::Response, "server", b"");
        let body = body_of(&redact(record, &Redactor::default())).expect("a body");
        let again = restore_exchange(&body).expect("canonical");
        assert_eq!(body_of(&again), Some(body.clone()));
        assert_eq!(again.get().typ(), Some(Typ::Exchange));
        for end in 0..body.len() {
            assert!(restore_exchange(&body[..end]).is_err(), "a prefix of {end} bytes is no body");
        }
    }
}

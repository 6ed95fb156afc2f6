//! The OTLP envelope around records: ExportLogsServiceRequest and Resource, encoded by hand with prost as the oracle.

pub mod answer;
pub mod grpc;
pub mod proto;

/// Encodes a Resource message from attribute names and values; empty values are left out.
pub fn resource<'a>(attributes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, text) in attributes {
        if text.is_empty() {
            continue;
        }
        let mut value = Vec::new();
        proto::bytes(&mut value, 1, text.as_bytes());
        let mut pair = Vec::new();
        proto::bytes(&mut pair, 1, name.as_bytes());
        proto::bytes(&mut pair, 2, &value);
        proto::bytes(&mut out, 1, &pair);
    }
    out
}

/// An ExportLogsServiceRequest with one Resource and one empty scope (the audit draft wants it empty). `resource` is an
/// encoded Resource message; each of `log_records` is a run of encoded `log_records` fields, as
/// [`crate::record::LogWriter`] makes them.
pub fn export_request(resource: &[u8], log_records: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    append_export_request(resource, log_records, &mut out);
    out
}

/// Appends what [`export_request`] returns.
pub fn append_export_request(resource: &[u8], log_records: &[&[u8]], out: &mut Vec<u8>) {
    let scope_len: usize = log_records.iter().map(|run| run.len()).sum();
    let mut resource_logs_len = proto::bytes_len(1, resource.len());
    resource_logs_len += proto::bytes_len(2, scope_len);
    out.reserve(resource_logs_len + 16);
    proto::key_and_len(out, 1, resource_logs_len);
    proto::bytes(out, 1, resource);
    proto::key_and_len(out, 2, scope_len);
    for run in log_records {
        out.extend_from_slice(run);
    }
}

/// Body of the first record of such a run, if it is text: what was sealed. `None`: it has none, or it is no run.
pub fn body_of_log_record(run: &[u8]) -> Option<&[u8]> {
    let bytes_of = |message, wanted| {
        let mut found = None;
        let read = answer::fields(message, |field, value| {
            if let (true, answer::Value::Bytes(bytes)) = (field == wanted, value) {
                found = Some(bytes);
            }
            Ok(())
        });
        read.ok().and(found)
    };
    bytes_of(bytes_of(proto::content(run)?, 5)?, 1)
}

/// Splits a run of `log_records` fields into single ones, so that a refused batch can be sent in parts. Ends early at
/// bytes that are no such field.
pub fn split_records(mut run: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while let Some(length) = proto::field_len(run) {
        let Some((record, rest)) = run.split_at_checked(length) else { break };
        records.push(record);
        run = rest;
    }
    records
}

//! Records as the Collector's file exporter writes them.

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// One record: the exporter's order of members, no white space.
pub fn otlp(record: LogRecord, out: &mut String) {
    let hex = |bytes: &[u8], out: &mut String| bytes.iter().for_each(|byte| write!(out, "{byte:02x}").expect("room"));
    let (time, observed) = (record.time_unix_nano, record.observed_time_unix_nano);
    write!(out, r#"{{"timeUnixNano":"{time}","observedTimeUnixNano":"{observed}","body":"#).expect("room");
    any(record.body.and_then(|body| body.value), out);
    out.push_str(r#","attributes":["#);
    for (n, pair) in record.attributes.into_iter().enumerate() {
        out.push_str(if n > 0 { r#",{"key":"# } else { r#"{"key":"# });
        text(&pair.key, out);
        out.push_str(r#","value":"#);
        any(pair.value.and_then(|value| value.value), out);
        out.push('}');
    }
    out.push_str(r#"],"traceId":""#);
    hex(&record.trace_id, out);
    out.push_str(r#"","spanId":""#);
    hex(&record.span_id, out);
    out.push_str(r#"","eventName":"#);
    text(&record.event_name, out);
    out.push('}');
}

fn any(value: Option<Any>, out: &mut String) {
    match value {
        Some(Any::StringValue(value)) => {
            out.push_str(r#"{"stringValue":"#);
            text(&value, out);
            out.push('}');
        }
        Some(Any::IntValue(number)) => write!(out, r#"{{"intValue":"{number}"}}"#).expect("room"),
        other => panic!("{other:?}"),
    }
}

fn text(text: &str, out: &mut String) {
    out.push_str(&serde_json::to_string(text).expect("a text"));
}

/// One line of these records, separated by commas; the pod is that of the tests' streams.
pub fn line(records: &str) -> String {
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let of = [
        text("service.name", "orders"),
        text("k8s.cluster.uid", "2b1c6d1e-6a0f-4f6e-9b59-0d0a4f0a7a01"),
        text("k8s.namespace.name", "shop"),
        text("k8s.pod.name", "orders-5d9c7b-x2x4z"),
        text("k8s.pod.uid", "7d6f2c1a-0001-4000-8000-00000000000a"),
        text("k8s.node.name", "node-1"),
    ];
    let of = Value::from_iter(of);
    let line = format!(
        r#"{{"resourceLogs":[{{"resource":{{"attributes":{of}}},"scopeLogs":[{{"scope":{{}},"logRecords":[{records}]}}]}}]}}"#
    );
    line + "\n"
}

//! What the Collector's file exporter wrote, read back as records.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// Event name of an HTTP exchange.
pub const HTTP_REQUEST: &str = "audit.http.request";
/// Event name of a gRPC call.
pub const RPC_CALL: &str = "audit.rpc.call";
/// Event name of a stream (WebSocket, CONNECT, server-sent events) when it has opened.
pub const STREAM_OPEN: &str = "audit.stream.open";
/// Event name of a stream at its end.
pub const STREAM_CLOSE: &str = "audit.stream.close";
/// Event name of an opaque connection that is open.
pub const TCP_OPEN: &str = "audit.tcp.open";
/// Event name of an opaque connection at its end.
pub const TCP_CLOSE: &str = "audit.tcp.close";
/// Event name of a TLS connection whose handshake failed.
pub const TLS_FAILED: &str = "audit.tls.failed";
/// Event name of a declared loss.
pub const GAP: &str = "audit.gap";

/// One log record of the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditRecord {
    /// `event_name`.
    pub event: String,
    /// `time_unix_nano`.
    pub start_ns: u64,
    /// Lower-case hex, empty if absent.
    pub trace_id: String,
    /// Lower-case hex, empty if absent.
    pub span_id: String,
    /// The body as it was sent: the canonical JSON string.
    pub body: String,
    /// Attributes as text; numbers in decimal.
    pub attributes: BTreeMap<String, String>,
    /// Attributes of the resource: the audited pod.
    pub resource: BTreeMap<String, String>,
}

impl AuditRecord {
    /// An attribute, or the empty string.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
    /// A resource attribute, or the empty string.
    pub fn resource(&self, name: &str) -> &str {
        self.resource.get(name).map_or("", String::as_str)
    }
    /// The canonical fields of the body; empty if the body is no flat JSON map of strings.
    pub fn fields(&self) -> BTreeMap<String, String> {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
    /// One canonical field, or the empty string.
    pub fn field(&self, name: &str) -> String {
        self.fields().remove(name).unwrap_or_default()
    }
    /// `k8s.namespace.name`.
    pub fn namespace(&self) -> &str {
        self.resource("k8s.namespace.name")
    }
    /// `k8s.pod.name`.
    pub fn pod(&self) -> &str {
        self.resource("k8s.pod.name")
    }
    /// `service.name`.
    pub fn service(&self) -> &str {
        self.resource("service.name")
    }
    /// `inbound` or `outbound`.
    pub fn direction(&self) -> &str {
        self.attribute("testimony.direction")
    }
    /// `audit.actor.id`.
    pub fn actor(&self) -> &str {
        self.attribute("audit.actor.id")
    }
    /// Whether it came to the pod.
    pub fn is_inbound(&self) -> bool {
        self.direction() == "inbound"
    }
    /// Whether it shows an exchange that was still open; another record tells its end.
    pub fn is_stage(&self) -> bool {
        self.attribute("testimony.record.type") == "stage"
    }
    /// Whether it is about a stream of records, and not about traffic: `open`, `checkpoint`, a signed head, ...
    pub fn is_about_stream(&self) -> bool {
        let typ = self.attribute("testimony.record.type");
        !matches!(typ, "" | "exchange" | "stage" | "burst" | "gap" | "hole")
    }
    /// `http.response.status_code`; none before an answer.
    pub fn status(&self) -> Option<u16> {
        self.attribute("http.response.status_code").parse().ok()
    }
    /// Duration by the monotonic clock, in nanoseconds.
    pub fn duration_ns(&self) -> u64 {
        self.attribute("testimony.duration_ns").parse().unwrap_or_default()
    }
    /// Whether `self`, seen by the client's sidecar, is the same exchange as `other`, seen by the server's.
    pub fn pairs_with(&self, other: &Self) -> bool {
        let upstream = self.attribute("testimony.upstream_local");
        self.direction() == "outbound"
            && other.is_inbound()
            && !upstream.is_empty()
            && upstream == other.field("peer")
            && self.attribute("testimony.conn.seq") == other.attribute("testimony.conn.seq")
    }
}

/// Reads the file's lines: what tells of traffic. A last line without its end is still being written and is left out.
pub fn parse(text: &str) -> Result<Vec<AuditRecord>> {
    let mut records = parse_all(text)?;
    records.retain(|record| !record.is_about_stream());
    Ok(records)
}

/// As [`parse`], with the records about the streams themselves.
pub fn parse_all(text: &str) -> Result<Vec<AuditRecord>> {
    let mut records = Vec::new();
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if !line.ends_with('\n') || line.trim().is_empty() {
            continue;
        }
        let line: Value =
            serde_json::from_str(line).with_context(|| format!("line {} of the backend's file", number + 1))?;
        for resource_logs in list(&line, "resourceLogs") {
            let resource = attributes(resource_logs.get("resource").unwrap_or(&Value::Null));
            for scope_logs in list(resource_logs, "scopeLogs") {
                records.extend(list(scope_logs, "logRecords").iter().map(|log| record(log, &resource)));
            }
        }
    }
    Ok(records)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_string()
}

fn record(log: &Value, resource: &BTreeMap<String, String>) -> AuditRecord {
    AuditRecord {
        event: text(log, "eventName"),
        start_ns: text(log, "timeUnixNano").parse().unwrap_or_default(),
        trace_id: text(log, "traceId"),
        span_id: text(log, "spanId"),
        body: log.get("body").map(any_value).unwrap_or_default(),
        attributes: attributes(log),
        resource: resource.clone(),
    }
}

fn attributes(value: &Value) -> BTreeMap<String, String> {
    let pairs = list(value, "attributes").iter();
    pairs.map(|pair| (text(pair, "key"), pair.get("value").map(any_value).unwrap_or_default())).collect()
}

/// An AnyValue as text; the JSON mapping of protobuf writes 64-bit numbers as strings.
fn any_value(value: &Value) -> String {
    let inner = value.as_object().and_then(|object| object.values().next());
    match inner {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Values of one record for tests: `(name, value)` pairs of attributes and of the body's fields.
    pub fn line(
        service: &str,
        trace: &str,
        start_ns: u64,
        event: &str,
        attrs: &[(&str, &str)],
        fields: &[(&str, &str)],
    ) -> String {
        let attrs: Vec<Value> =
            attrs.iter().map(|(key, value)| serde_json::json!({"key": key, "value": {"stringValue": value}})).collect();
        let body: BTreeMap<&str, &str> = fields.iter().copied().collect();
        let line = serde_json::json!({"resourceLogs": [{
            "resource": {"attributes": [
                {"key": "service.name", "value": {"stringValue": service}},
                {"key": "k8s.pod.name", "value": {"stringValue": format!("{service}-1")}},
                {"key": "k8s.namespace.name", "value": {"stringValue": "shop"}}]},
            "scopeLogs": [{"scope": {}, "logRecords": [{
                "timeUnixNano": start_ns.to_string(), "eventName": event, "traceId": trace, "spanId": "b7ad6b7169203331",
                "body": {"stringValue": serde_json::json!(body).to_string()}, "attributes": attrs}]}],
        }]});
        format!("{line}\n")
    }

    #[test]
    fn a_line_becomes_a_record_and_a_torn_line_waits() -> Result<()> {
        let whole =
            line("orders", "0af7", 5, HTTP_REQUEST, &[("testimony.direction", "inbound")], &[("peer", "10.0.0.1:5")]);
        let torn = whole.get(..whole.len() - 9).unwrap_or_default();
        let records = parse(&format!("{whole}\n{torn}"))?;
        assert_eq!(records.len(), 1);
        let Some(record) = records.first() else { return Ok(()) };
        assert_eq!((record.service(), record.namespace(), record.start_ns), ("orders", "shop", 5));
        assert!(record.is_inbound());
        assert_eq!(record.field("peer"), "10.0.0.1:5");
        Ok(())
    }

    #[test]
    fn numbers_are_text_in_either_form() {
        assert_eq!(any_value(&serde_json::json!({"intValue": "201"})), "201");
        assert_eq!(any_value(&serde_json::json!({"intValue": 201})), "201");
        assert_eq!(any_value(&serde_json::json!({})), "");
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = parse("{}\n{oops\n").err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains("line 2"), "{error}");
    }
}

//! A record as `tail` shows it: from a sidecar's stream, or from the JSON of the Collector's file exporter.

use crate::output::printable;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use testimony_core::record::Typ;

/// Kinds of records that are shown, live as of a file: the others say how a stream goes on, which is for `verify`.
const SHOWN: [&str; 4] = [Typ::Exchange.as_str(), Typ::Stage.as_str(), Typ::Burst.as_str(), Typ::Gap.as_str()];

/// Columns of the wide form.
pub const WIDE_HEAD: &str = "TIME NAMESPACE/POD DIRECTION EVENT ACTOR(METHOD,ASSURANCE) REQUEST -> STATUS OUTCOME DURATION BYTES PEER LOCAL POLICY RULE TRACE CORRELATION";

/// Where a record was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Source {
    /// Namespace of the pod.
    pub namespace: String,
    /// The pod.
    pub pod: String,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Where it was made.
    #[serde(flatten)]
    pub source: Source,
    /// Name of the event.
    pub event: String,
    /// The canonical body.
    #[serde(rename = "record")]
    pub fields: BTreeMap<String, String>,
}

/// What one line of a sidecar's stream says.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A record.
    Record(Entry),
    /// So many records were not shown.
    Dropped(u64),
}

/// A line of a sidecar's `/tail`.
///
/// # Errors
/// It is none.
pub fn from_stream(line: &str, source: &Source) -> Result<Line, serde_json::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Wire {
        Dropped { dropped: u64 },
        Record { event: String, record: BTreeMap<String, String> },
    }
    Ok(match serde_json::from_str(line)? {
        Wire::Dropped { dropped } => Line::Dropped(dropped),
        Wire::Record { event, record } => Line::Record(Entry { source: source.clone(), event, fields: record }),
    })
}

/// The records of one line of the file exporter (an ExportLogsServiceRequest in JSON). What is no record of an exchange, a stage of one, a burst or a gap is left out.
///
/// # Errors
/// It is no JSON, or no such request.
pub fn from_otlp(line: &str) -> Result<Vec<Entry>, serde_json::Error> {
    let export: Value = serde_json::from_str(line)?;
    // Metrics and traces may stand beside the logs.
    let signals =
        export.as_object().is_some_and(|map| map.is_empty() || map.keys().any(|key| key.starts_with("resource")));
    if !signals {
        return Err(serde::de::Error::custom("`resourceLogs` is not there"));
    }
    let mut entries = Vec::new();
    for resource_logs in list(&export, "resourceLogs") {
        let resource = list(resource_logs.get("resource").unwrap_or(&Value::Null), "attributes");
        let attribute = |name: &str| {
            let found = resource.iter().find(|attribute| attribute["key"] == name);
            found.and_then(|attribute| attribute["value"]["stringValue"].as_str()).unwrap_or_default().to_owned()
        };
        let source = Source { namespace: attribute("k8s.namespace.name"), pod: attribute("k8s.pod.name") };
        for log in list(resource_logs, "scopeLogs").iter().flat_map(|scope| list(scope, "logRecords")) {
            let Some(fields) = log["body"]["stringValue"].as_str().and_then(|body| serde_json::from_str(body).ok())
            else {
                continue;
            };
            let fields: BTreeMap<String, String> = fields;
            if !fields.get("typ").is_some_and(|typ| SHOWN.contains(&typ.as_str())) {
                continue;
            }
            let event = log["eventName"].as_str().unwrap_or_default().to_owned();
            entries.push(Entry { source: source.clone(), event, fields });
        }
    }
    Ok(entries)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

impl Entry {
    /// A field as it stands in the body, or the empty string.
    pub fn field(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }

    /// When it began, in nanoseconds since the epoch.
    pub fn start_ns(&self) -> Option<u64> {
        self.field("t0").parse().ok()
    }

    fn time(&self) -> String {
        let start = self.start_ns().and_then(|ns| Timestamp::from_nanosecond(i128::from(ns)).ok());
        start.map_or_else(|| "-".to_owned(), |time| format!("{time:.3}"))
    }

    fn arrow(&self) -> &'static str {
        match self.field("dir") {
            "inbound" => "in ",
            "outbound" => "out",
            _ => "-  ",
        }
    }

    /// What was done: `GET /path`, or the target of a connection.
    fn action(&self) -> String {
        let path = self.field("path");
        match (self.field("typ"), path.is_empty()) {
            ("gap", _) => format!("{} records lost ({})", self.count(), self.field("gap_reason")),
            (_, false) => {
                let query = self.field("query");
                let mark = if query.is_empty() { "" } else { "?" };
                format!("{} {path}{mark}{query}", self.field("method"))
            }
            (_, true) => format!("{} {}", self.or_dash("proto"), self.or_dash("target")),
        }
    }

    fn count(&self) -> String {
        let least = if self.field("exact") == "0" { "at least " } else { "" };
        format!("{least}{}", self.field("count"))
    }

    fn or_dash(&self, key: &str) -> &str {
        let value = self.field(key);
        if value.is_empty() { "-" } else { value }
    }

    /// The status, else why there is none.
    fn result(&self) -> String {
        let first =
            |keys: &[&str]| keys.iter().map(|key| self.field(key)).find(|value| !value.is_empty()).map(str::to_owned);
        let result = first(&["status", "refusal", "cause", "outcome"]).unwrap_or_else(|| "-".to_owned());
        match self.field("grpc_status") {
            "" => result,
            grpc => format!("{result} grpc={grpc}"),
        }
    }

    /// The other side: its pod or Service where that is known, and its address.
    fn peer(&self) -> String {
        let address = self.or_dash("peer");
        let name = [self.field("peer_pod"), self.field("peer_service")].into_iter().find(|name| !name.is_empty());
        name.map_or(address.to_owned(), |name| format!("{}/{name}({address})", self.or_dash("peer_namespace")))
    }

    fn duration(&self) -> String {
        match self.field("dur").parse::<u64>() {
            Ok(ns) if ns >= 1_000_000_000 => format!("{:.2}s", ns as f64 / 1e9),
            Ok(ns) if ns >= 1_000_000 => format!("{:.1}ms", ns as f64 / 1e6),
            Ok(ns) => format!("{}us", ns / 1000),
            Err(_) => "-".to_owned(),
        }
    }

    /// One line: time, pod, direction, actor, request, status, duration, peer, correlation.
    pub fn line(&self) -> String {
        let mut line = format!(
            "{} {}/{} {} {} {} -> {} {} peer={}",
            self.time(),
            self.source.namespace,
            self.source.pod,
            self.arrow(),
            self.or_dash("actor"),
            self.action(),
            self.result(),
            self.duration(),
            self.peer(),
        );
        if !self.field("correlation_id").is_empty() {
            line.push_str(&format!(" correlation={}", self.field("correlation_id")));
        }
        printable(&line)
    }

    /// One line with more columns: see [`WIDE_HEAD`].
    pub fn wide(&self) -> String {
        printable(&format!(
            "{} {}/{} {} {} {}({},{}) {} -> {} {} {} {}/{} {} {} {} {} {} {}",
            self.time(),
            self.source.namespace,
            self.source.pod,
            self.arrow().trim(),
            self.event,
            self.or_dash("actor"),
            self.or_dash("auth_method"),
            self.or_dash("assurance"),
            self.action(),
            self.result(),
            self.or_dash("outcome"),
            self.duration(),
            self.or_dash("req_bytes"),
            self.or_dash("res_bytes"),
            self.peer(),
            self.or_dash("local"),
            self.or_dash("policy"),
            self.or_dash("rule"),
            self.or_dash("trace_id"),
            self.or_dash("correlation_id"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source { namespace: "shop".to_owned(), pod: "api-1".to_owned() }
    }

    #[test]
    fn lines_of_a_stream() {
        let record = r#"{"event":"audit.http.request","record":{"method":"GET","path":"/a"}}"#;
        let Ok(Line::Record(entry)) = from_stream(record, &source()) else { panic!("a record") };
        assert_eq!((entry.field("method"), entry.source.pod.as_str()), ("GET", "api-1"));
        assert_eq!(from_stream(r#"{"dropped":3}"#, &source()).ok(), Some(Line::Dropped(3)));
        for end in 0..record.len() {
            assert!(from_stream(&record[..end], &source()).is_err());
        }
    }

    #[test]
    fn a_line_says_who_did_what() {
        let body = r#"{"actor":"alice","correlation_id":"o-7","dir":"inbound","dur":"1500000","method":"GET","path":"/a","peer":"10.0.0.1:5","query":"q=*","status":"200","t0":"1700000000000000000","typ":"exchange"}"#;
        let fields = serde_json::from_str(body).expect("a body");
        let entry = Entry { source: source(), event: "audit.http.request".to_owned(), fields };
        let expected =
            "2023-11-14T22:13:20.000Z shop/api-1 in  alice GET /a?q=* -> 200 1.5ms peer=10.0.0.1:5 correlation=o-7";
        assert_eq!(entry.line(), expected);
    }

    #[test]
    fn a_gap_and_a_connection_have_lines_too() {
        let entry = |body: &str| Entry {
            source: source(),
            event: String::new(),
            fields: serde_json::from_str(body).expect("a body"),
        };
        let gap = entry(r#"{"typ":"gap","count":"0","exact":"0","gap_reason":"worker_died"}"#).line();
        assert!(gap.contains("at least 0 records lost (worker_died)"), "{gap}");
        let tcp = entry(r#"{"typ":"exchange","proto":"tls","target":"db.example","outcome":"unknown"}"#).line();
        assert!(tcp.contains("tls db.example -> unknown"), "{tcp}");
    }
}

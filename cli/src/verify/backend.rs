//! What each backend makes of a record, and how it is read back.
//!
//! | | body | attributes | numbers | time | event, trace and span id | Resource |
//! |---|---|---|---|---|---|---|
//! | OTLP JSON lines | `body.stringValue` | as exported | numbers | `timeUnixNano` | kept | kept |
//! | VictoriaLogs | `_msg` | names as exported, top level | text | `_time`, ns | ids kept, `event_name` where it is a stream field | top level |
//! | Loki | the line | structured metadata, `.` becomes `_` | text | entry's time, ns | ids as metadata | labels or metadata, `.` becomes `_` |
//! | ClickHouse (Collector's exporter) | `Body` | `LogAttributes` | text | `Timestamp`, ns | `TraceId`, `SpanId`, `EventName` | `ResourceAttributes` |
//! | Elasticsearch (OTel mapping) | `body.text` | `attributes`, as exported | numbers | `@timestamp`, ms and ns | `trace_id`, `span_id`, `event_name` | `resource.attributes` |

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value as Json};
use std::borrow::Cow;
use testimony_core::evidence::verify::{Projector, Shape, Stored, Value, resource_digest};

/// What wrote the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// JSON lines of the OpenTelemetry Collector's file exporter
    Otlp,
    /// Answer of VictoriaLogs to a query
    Victorialogs,
    /// Entries of Loki, as `logcli query -o jsonl` or its API prints them
    Loki,
    /// Rows of the Collector's ClickHouse exporter, as FORMAT JSONEachRow with times in UTC
    Clickhouse,
    /// Documents of Elasticsearch in its OpenTelemetry mapping, each with or without its hit
    Elasticsearch,
}

impl Format {
    /// The format of a line, if it is one of these.
    pub fn of(line: &str) -> Option<Self> {
        // Cheap first: the Collector's lines are long.
        if line.get(..64).unwrap_or(line).contains("\"resourceLogs\"") {
            return Some(Self::Otlp);
        }
        let Ok(Json::Object(map)) = serde_json::from_str(line) else { return None };
        let has = |key: &str| map.contains_key(key);
        if has("resourceLogs") {
            Some(Self::Otlp)
        } else if has("_msg") {
            Some(Self::Victorialogs)
        } else if (has("line") && has("timestamp")) || has("data") {
            Some(Self::Loki)
        } else if has("LogAttributes") || has("Body") {
            Some(Self::Clickhouse)
        } else if has("_source") || has("@timestamp") {
            Some(Self::Elasticsearch)
        } else {
            None
        }
    }

    /// How it keeps what stands beside a body.
    pub fn projector(self) -> Projector {
        Projector::new(Shape {
            underscores: self == Self::Loki,
            numbers_as_text: !matches!(self, Self::Otlp | Self::Elasticsearch),
        })
    }
}

/// Gives each record of one line: its body, and what stands beside it.
///
/// # Errors
/// The line is not of this format; in words.
pub fn records(format: Format, line: &str, give: &mut dyn FnMut(Option<&str>, &Stored<'_>)) -> Result<(), Problem> {
    if format == Format::Otlp {
        return super::otlp::records(line, give).map_err(Problem::from);
    }
    let Json::Object(map) = serde_json::from_str(line)? else { return Err(Problem::Shape("is no object")) };
    match format {
        Format::Otlp => Ok(()),
        Format::Victorialogs => victorialogs(&map, give),
        Format::Loki => loki(&map, give),
        Format::Clickhouse => clickhouse(&map, give),
        Format::Elasticsearch => elasticsearch(&map, give),
    }
}

const NO_LABELS: &str = "labels are not there (logcli: --include-common-labels, and not --no-labels)";

/// Why a line cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No JSON.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Not of the format.
    #[error("{0}")]
    Shape(&'static str),
}

fn text<'a>(map: &'a Map<String, Json>, key: &str) -> Option<Cow<'a, str>> {
    map.get(key).and_then(Json::as_str).map(Cow::Borrowed)
}

/// Members as attributes.
fn attributes<'a>(map: &'a Map<String, Json>) -> Vec<(Cow<'a, str>, Value<'a>)> {
    let value = |value: &'a Json| match value {
        Json::String(text) => Value::Text(Cow::Borrowed(text.as_str())),
        Json::Number(number) => number.as_i64().map_or(Value::Other, Value::Int),
        _ => Value::Other,
    };
    map.iter().map(|(key, member)| (Cow::Borrowed(key.as_str()), value(member))).collect()
}

/// What a Resource says, its names written with this separator.
fn resource<'a>(map: &'a Map<String, Json>, separator: &str) -> ([Option<Cow<'a, str>>; 3], u64) {
    let of = |name: &str| text(map, &name.replace('.', separator));
    let word = |name: &str| of(name).unwrap_or_default();
    let digest = resource_digest(&word("k8s.pod.name"), &word("k8s.node.name"));
    ([of("k8s.cluster.uid"), of("k8s.namespace.name"), of("k8s.pod.uid")], digest)
}

/// Nanoseconds since the epoch of `2026-01-31T12:00:00.123456789Z`: with any offset, or none; or with a space between date and
/// time.
fn nanos(time: &str) -> Option<u64> {
    let time = time.trim().replacen(' ', "T", 1);
    let read = time.parse::<Timestamp>().or_else(|_| format!("{time}Z").parse());
    u64::try_from(read.ok()?.as_nanosecond()).ok()
}

/// A time that is there and cannot be read, such as a number where a backend writes text, is no time that was exported.
fn time(map: &Map<String, Json>, key: &str, read: fn(&str) -> Option<u64>) -> Option<u64> {
    map.get(key).map(|time| time.as_str().and_then(read).unwrap_or(Stored::NO_TIME))
}

fn victorialogs(map: &Map<String, Json>, give: &mut dyn FnMut(Option<&str>, &Stored<'_>)) -> Result<(), Problem> {
    let body = map.get("_msg").and_then(Json::as_str);
    let (resource, resource_digest) = resource(map, ".");
    // What is empty is not kept.
    let id = |key| Some(text(map, key).unwrap_or_default());
    let stored = Stored {
        time_ns: time(map, "_time", nanos),
        time_by_fraction: false,
        event: text(map, "event_name"),
        trace_id: id("trace_id"),
        span_id: id("span_id"),
        attributes: Some(attributes(map)),
        resource,
        resource_digest,
    };
    give(body, &stored);
    Ok(())
}

fn loki(map: &Map<String, Json>, give: &mut dyn FnMut(Option<&str>, &Stored<'_>)) -> Result<(), Problem> {
    if let Some(line) = map.get("line").and_then(Json::as_str) {
        let labels = map.get("labels").and_then(Json::as_object).ok_or(Problem::Shape(NO_LABELS))?;
        let at = text(map, "timestamp").ok_or(Problem::Shape("the timestamp is not there"))?;
        // Both as a time and as a number of nanoseconds.
        let at = at.parse().ok().or_else(|| nanos(&at)).unwrap_or(Stored::NO_TIME);
        loki_entry(labels, at, line, give);
        return Ok(());
    }
    let streams = map.get("data").and_then(|data| data.get("result")).and_then(Json::as_array);
    for stream in streams.ok_or(Problem::Shape("data.result is not there"))? {
        let labels = stream.get("stream").and_then(Json::as_object);
        let values = stream.get("values").and_then(Json::as_array);
        for value in values.ok_or(Problem::Shape("values are not there"))? {
            let at = value.get(0).and_then(Json::as_str).and_then(|at| at.parse().ok());
            let line = value.get(1).and_then(Json::as_str);
            let (Some(at), Some(line)) = (at, line) else { return Err(Problem::Shape("a value is no time and line")) };
            let mut all = labels.cloned().unwrap_or_default();
            if let Some(Json::Object(metadata)) = value.get(2) {
                // Apart from the labels, if the client asked for it (`categorize-labels`).
                let apart = metadata.get("structuredMetadata").and_then(Json::as_object);
                all.extend(apart.unwrap_or(metadata).clone());
            }
            loki_entry(&all, at, line, give);
        }
    }
    Ok(())
}

fn loki_entry(labels: &Map<String, Json>, at: u64, line: &str, give: &mut dyn FnMut(Option<&str>, &Stored<'_>)) {
    let (resource, resource_digest) = resource(labels, "_");
    let id = |key| Some(text(labels, key).unwrap_or_default());
    let stored = Stored {
        time_ns: Some(at),
        time_by_fraction: false,
        event: text(labels, "event_name"),
        trace_id: id("trace_id"),
        span_id: id("span_id"),
        attributes: Some(attributes(labels)),
        resource,
        resource_digest,
    };
    give(Some(line), &stored);
}

fn clickhouse(map: &Map<String, Json>, give: &mut dyn FnMut(Option<&str>, &Stored<'_>)) -> Result<(), Problem> {
    let body = map.get("Body").and_then(Json::as_str).ok_or(Problem::Shape("column Body is not there"))?;
    let none = Map::new();
    let column = |key: &str| map.get(key).and_then(Json::as_object);
    let (resource, resource_digest) = resource(column("ResourceAttributes").unwrap_or(&none), ".");
    let stored = Stored {
        time_ns: time(map, "Timestamp", nanos),
        time_by_fraction: false,
        event: text(map, "EventName"),
        trace_id: text(map, "TraceId"),
        span_id: text(map, "SpanId"),
        attributes: column("LogAttributes").map(attributes),
        resource,
        resource_digest,
    };
    give(Some(body), &stored);
    Ok(())
}

fn elasticsearch(map: &Map<String, Json>, give: &mut dyn FnMut(Option<&str>, &Stored<'_>)) -> Result<(), Problem> {
    let map = map.get("_source").and_then(Json::as_object).unwrap_or(map);
    let body = map.get("body").and_then(|body| body.get("text")).or(map.get("body.text")).and_then(Json::as_str);
    let none = Map::new();
    let of = map.get("resource").and_then(|resource| resource.get("attributes")).and_then(Json::as_object);
    let (resource, resource_digest) = resource(of.unwrap_or(&none), ".");
    let id = |key| Some(text(map, key).unwrap_or_default());
    // A document that is kept as it came has the Collector's `milliseconds.nanoseconds`; of one that is put together again (logsdb)
    // Elasticsearch prints the time that it read in that.
    let kept = map.get("@timestamp").and_then(Json::as_str).and_then(millis);
    let stored = Stored {
        time_ns: kept.or_else(|| time(map, "@timestamp", nanos)),
        time_by_fraction: kept.is_none(),
        event: text(map, "event_name"),
        trace_id: id("trace_id"),
        span_id: id("span_id"),
        attributes: map.get("attributes").and_then(Json::as_object).map(attributes),
        resource,
        resource_digest,
    };
    give(body, &stored);
    Ok(())
}

/// Nanoseconds since the epoch of `1700000000000.1`, as the Collector's exporter writes it: the second number has no leading zeros.
fn millis(text: &str) -> Option<u64> {
    let (millis, rest) = text.split_once('.').unwrap_or((text, "0"));
    let rest: u64 = rest.parse().ok().filter(|rest| *rest < 1_000_000)?;
    millis.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_of_a_millisecond_are_a_number() {
        for (text, at) in [
            ("1700000000000.1", Some(1_700_000_000_000_000_001)),
            ("1700000000000.99999", Some(1_700_000_000_000_099_999)),
            ("1700000000000.100000", Some(1_700_000_000_000_100_000)),
            ("1700000000000.0", Some(1_700_000_000_000_000_000)),
            ("1700000000000", Some(1_700_000_000_000_000_000)),
            ("1700000000000.1000000", None),
            ("1700000000000.", None),
            ("18446744073709551615.1", None),
        ] {
            assert_eq!(millis(text), at, "{text}");
        }
    }

    #[test]
    fn v4_a_time_of_elasticsearch_is_that_of_the_record_in_each_form() {
        let at = |t0: u64, time: String| {
            let body = format!(r#"{{"t0":"{t0}","v":"1"}}"#);
            let line = serde_json::json!({"_source": {"@timestamp": time, "body": {"text": body}}}).to_string();
            let mut found = None;
            let read = records(Format::Elasticsearch, &line, &mut |text, stored| {
                let body = testimony_core::record::Body::parse(text.expect("a body")).expect("canonical");
                found = Some(Format::Elasticsearch.projector().compare(&body, stored, None));
            });
            read.map_err(|problem| problem.to_string()).expect("a document");
            found.expect("a record")
        };
        for rest in [0, 1, 10, 4_321, 99_999, 100_000, 999_999] {
            let t0 = 1_700_000_000_000_000_000 + rest;
            let by_fraction = format!("{rest:0<6}");
            for time in [
                format!("1700000000000.{rest}"),
                format!("2023-11-14T22:13:20.000{rest:06}Z"),
                format!("2023-11-14T22:13:20.000{by_fraction}Z"),
            ] {
                assert_eq!(at(t0, time.clone()), Ok(()), "{rest} {time}");
            }
            for time in [format!("1700000000000.{}", rest + 1), format!("2023-11-14T22:13:20.001{by_fraction}Z")] {
                assert!(at(t0, time.clone()).is_err(), "{rest} {time}");
            }
        }
        assert!(at(1_700_000_000_000_000_001, "1700000000000.100000".to_owned()).is_err());
    }

    #[test]
    fn times_are_read_with_any_offset() {
        let at = 1_796_007_108_911_986_922;
        for text in [
            "2026-11-30T02:51:48.911986922Z",
            "2026-11-30T02:51:48.911986922z",
            "2026-11-30T02:51:48.911986922+00:00",
            "2026-11-29T21:51:48.911986922-05:00",
            "2026-11-30T08:36:48.911986922+05:45",
            "2026-11-30 02:51:48.911986922",
            "2026-11-29 21:51:48.911986922-05:00",
        ] {
            assert_eq!(nanos(text), Some(at), "{text}");
        }
        for text in ["", "x", "2026-11-30", "2026-11-30T02:51:48.9+99:00", "1969-12-31T23:59:59Z"] {
            assert_eq!(nanos(text), None, "{text}");
        }
    }
}

//! What the sink took, read back: as rows of the oracle, as a verdict of `testimony verify`, as a file in OTLP JSON lines.

use super::client::NAME_BYTES;
use super::oracle::{Row, Typ};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::json;
use std::borrow::Cow;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use testimony_core::canon::parse_body;
use testimony_core::evidence::verify::{
    Intake, Projector, Report, Settings, Shape, Stored, Trust, Value as StoredValue, Verification, resource_digest,
};

/// How long a record may be without a head, in nanoseconds: as `testimony verify` has it by default.
const LAG_NS_MAX: u64 = 10_000_000_000;

/// An export.
pub struct Export(pub Vec<ExportLogsServiceRequest>);

impl Export {
    fn logs(&self) -> impl Iterator<Item = (&[KeyValue], &LogRecord)> {
        let resources = self.0.iter().flat_map(|request| &request.resource_logs);
        resources.flat_map(|logs| {
            let resource = logs.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
            logs.scope_logs.iter().flat_map(|scope| &scope.log_records).map(move |record| (resource, record))
        })
    }

    /// Every sealed record, copies too; heads are none.
    pub fn rows(&self) -> Vec<Row> {
        self.logs().filter_map(|(_, record)| row(body(record)?)).collect()
    }

    /// What `testimony verify` says, without trust roots.
    pub fn verify(&self) -> Report {
        self.verify_changed(|body| Some(Cow::Borrowed(body)))
    }

    /// The same of an export that somebody changed: each body becomes what `change` makes of it, or is gone. What stands beside
    /// it stays as it is.
    pub fn verify_changed<'a>(&'a self, change: impl Fn(&'a str) -> Option<Cow<'a, str>>) -> Report {
        let (mut intake, mut rows) = (Intake::default(), Vec::new());
        let projector = Projector::new(Shape { underscores: false, numbers_as_text: false });
        for (place, (resource, record)) in self.logs().enumerate() {
            let Some(body) = body(record).and_then(&change) else { continue };
            intake.record(&body, &stored(resource, record), &projector, place as u64, |row| rows.push(row.to_vec()));
        }
        rows.sort_unstable();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let now_ns = u64::try_from(now.as_nanos()).expect("before 2554");
        let settings = Settings { now_ns, max_lag_ns: LAG_NS_MAX, ..Settings::default() };
        let mut verification = Verification::new(intake, settings, Trust::default());
        for row in rows {
            assert!(verification.feed(&row), "a row");
        }
        verification.finish()
    }

    /// Writes it as the Collector's file exporter would.
    pub fn write(&self, path: &Path) {
        let mut file = BufWriter::new(std::fs::File::create(path).expect("a file"));
        for request in &self.0 {
            let resources: Vec<_> =
                request
                    .resource_logs
                    .iter()
                    .map(|logs| {
                        let resource = logs.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
                        let scopes: Vec<_> = logs.scope_logs.iter().map(|scope| {
                    json!({"logRecords": scope.log_records.iter().map(log_json).collect::<Vec<_>>()})
                }).collect();
                        json!({"resource": {"attributes": attributes_json(resource)}, "scopeLogs": scopes})
                    })
                    .collect();
            writeln!(file, "{}", json!({"resourceLogs": resources})).expect("write");
        }
        file.flush().expect("write");
    }
}

fn body(record: &LogRecord) -> Option<&str> {
    text(record.body.as_ref()?)
}

fn text(value: &AnyValue) -> Option<&str> {
    match value.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn row(body: &str) -> Option<Row> {
    let map = parse_body(body.as_bytes()).expect("canonical");
    let field = |key: &str| map.get(key).map(|value| String::from_utf8_lossy(value).into_owned());
    let path = || {
        field("path").map(|mut path| {
            path.truncate(NAME_BYTES);
            path
        })
    };
    let number = |key: &str| field(key).and_then(|text| text.parse().ok());
    let typ = match field("typ")?.as_str() {
        "exchange" => Typ::Exchange {
            path: path(),
            told: (field("cause").as_deref() == Some("crash_unknown")).then(|| {
                let place = |key: &&String| !["sid", "seq", "prev"].contains(&key.as_str());
                map.keys().filter(place).map(|key| format!("{key}={}\n", field(key).unwrap_or_default())).collect()
            }),
        },
        "stage" => Typ::Stage { path: path() },
        "gap" => Typ::Gap {
            count: number("count").expect("a gap has a count"),
            exact: field("exact").as_deref() == Some("1"),
            reason: field("gap_reason").expect("a gap has a reason"),
            lost_sid: field("lost_sid"),
        },
        "burst" => Typ::Burst { count: number("count").expect("a burst has a count") },
        "hole" => Typ::Hole {
            sid: field("hole_sid").expect("a hole names a stream"),
            from: number("hole_from").expect("a hole begins"),
            to: number("hole_to").expect("a hole ends"),
        },
        "clock" => {
            let step_ns = i64::try_from(number("step_ns").expect("a step has a length")).expect("less than a century");
            Typ::Clock { step_ns: if field("step_dir").as_deref() == Some("back") { -step_ns } else { step_ns } }
        }
        "head" => return None,
        _ => Typ::Other,
    };
    Some(Row { sid: field("sid")?, seq: number("seq")?, typ, body: body.to_owned() })
}

fn stored<'a>(resource: &'a [KeyValue], record: &'a LogRecord) -> Stored<'a> {
    let of = |key: &str| {
        let found = resource.iter().find(|attribute| attribute.key == key);
        found.and_then(|attribute| text(attribute.value.as_ref()?)).map(Cow::Borrowed)
    };
    let value = |attribute: &'a KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => StoredValue::Text(Cow::Borrowed(text)),
        Some(Value::IntValue(number)) => StoredValue::Int(*number),
        _ => StoredValue::Other,
    };
    let attributes = record.attributes.iter().map(|one| (Cow::Borrowed(one.key.as_str()), value(one))).collect();
    let name = |key| of(key).unwrap_or_default();
    Stored {
        time_ns: Some(record.time_unix_nano),
        time_by_fraction: false,
        event: Some(Cow::Borrowed(&record.event_name)),
        trace_id: Some(Cow::Owned(hex(&record.trace_id))),
        span_id: Some(Cow::Owned(hex(&record.span_id))),
        attributes: Some(attributes),
        resource: [of("k8s.cluster.uid"), of("k8s.namespace.name"), of("k8s.pod.uid")],
        resource_digest: resource_digest(&name("k8s.pod.name"), &name("k8s.node.name")),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn any_json(value: Option<&AnyValue>) -> serde_json::Value {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => json!({"stringValue": text}),
        Some(Value::IntValue(number)) => json!({"intValue": number.to_string()}),
        other => panic!("the sidecar sends text and numbers, no {other:?}"),
    }
}

fn attributes_json(attributes: &[KeyValue]) -> Vec<serde_json::Value> {
    attributes.iter().map(|one| json!({"key": one.key, "value": any_json(one.value.as_ref())})).collect()
}

fn log_json(record: &LogRecord) -> serde_json::Value {
    json!({
        "timeUnixNano": record.time_unix_nano.to_string(),
        "observedTimeUnixNano": record.observed_time_unix_nano.to_string(),
        "severityNumber": record.severity_number,
        "body": any_json(record.body.as_ref()),
        "attributes": attributes_json(&record.attributes),
        "traceId": hex(&record.trace_id),
        "spanId": hex(&record.span_id),
        "eventName": record.event_name,
    })
}

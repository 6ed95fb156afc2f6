//! The golden streams as each backend gives them back, and with what stands beside the bodies changed.

use super::*;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message;
use serde_json::Map;
use std::io::Write as _;
use std::path::Path;
use testimony_core::evidence::verify::{Finding, Scope, Verdict};

const VECTORS: [&str; 4] = ["every-typ", "rollover", "rotation", "crash"];

/// The golden records of one file, as they are exported.
pub(super) fn vectors(name: &str) -> Vec<LogRecord> {
    use base64::Engine as _;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../core/tests/vectors/evidence/{name}.jsonl"));
    let text = std::fs::read_to_string(&path).expect("golden streams");
    let record = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let log = base64::engine::general_purpose::STANDARD.decode(line["log"].as_str().expect("a log record"));
        LogRecord::decode(&log.expect("base64")[..]).expect("a LogRecord")
    };
    text.lines().map(record).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn body(record: &LogRecord) -> String {
    match record.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(Any::StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}

fn attribute_pairs(record: &LogRecord) -> Vec<(String, Any)> {
    let pair = |kv: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        (kv.key.clone(), kv.value.clone().and_then(|value| value.value).expect("a value"))
    };
    record.attributes.iter().map(pair).collect()
}

fn as_text(value: &Any) -> String {
    match value {
        Any::StringValue(text) => text.clone(),
        Any::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

fn resource(record: &LogRecord) -> Vec<(&'static str, String)> {
    let fields: Value = serde_json::from_str(&body(record)).expect("a body");
    let sid = fields["sid"].as_str().unwrap_or("2b1c6d1e-6a0f-4f6e-9b59-0d0a4f0a7a01/shop/x/y");
    let parts: Vec<&str> = sid.split('/').collect();
    vec![
        ("k8s.cluster.uid", parts[0].to_owned()),
        ("k8s.namespace.name", parts[1].to_owned()),
        ("k8s.pod.uid", parts[2].to_owned()),
        ("k8s.pod.name", "orders-5d9c7b-x2x4z".to_owned()),
        ("k8s.node.name", "node-1".to_owned()),
        ("service.name", "orders".to_owned()),
    ]
}

/// `2023-11-14T22:13:20.000000001Z`.
fn time(nanos: u64) -> String {
    k8s_openapi::jiff::Timestamp::from_nanosecond(nanos.into()).expect("a time").to_string()
}

/// One record as this backend's line.
pub(super) fn line(format: Format, record: &LogRecord) -> Value {
    let attributes = attribute_pairs(record);
    let resource = resource(record);
    let texts = |separator: &str| -> Map<String, Value> {
        let own = attributes.iter().map(|(key, value)| (key.replace('.', separator), json!(as_text(value))));
        own.collect()
    };
    let resource_map = |separator: &str| -> Map<String, Value> {
        resource.iter().map(|(key, value)| (key.replace('.', separator), json!(value))).collect()
    };
    let (trace, span) = (hex(&record.trace_id), hex(&record.span_id));
    match format {
        Format::Otlp => {
            let any = |value: &Any| match value {
                Any::IntValue(number) => json!({ "intValue": number.to_string() }),
                value => json!({ "stringValue": as_text(value) }),
            };
            let pairs: Vec<Value> =
                attributes.iter().map(|(key, value)| json!({"key": key, "value": any(value)})).collect();
            let of: Vec<Value> =
                resource.iter().map(|(key, value)| json!({"key": key, "value": {"stringValue": value}})).collect();
            json!({"resourceLogs": [{"resource": {"attributes": of}, "scopeLogs": [{"scope": {}, "logRecords": [{
                "timeUnixNano": record.time_unix_nano.to_string(),
                "observedTimeUnixNano": record.observed_time_unix_nano.to_string(),
                "body": {"stringValue": body(record)}, "attributes": pairs,
                "traceId": trace, "spanId": span, "eventName": record.event_name,
            }]}]}]})
        }
        Format::Victorialogs => {
            let mut map = texts(".");
            map.extend(resource_map("."));
            map.insert("_msg".into(), json!(body(record)));
            map.insert("_time".into(), json!(time(record.time_unix_nano)));
            map.insert("_stream".into(), json!("{service.name=\"orders\"}"));
            map.insert("event_name".into(), json!(record.event_name));
            if !trace.is_empty() {
                map.insert("trace_id".into(), json!(trace));
                map.insert("span_id".into(), json!(span));
            }
            Value::Object(map)
        }
        Format::Loki => {
            let mut map = texts("_");
            map.extend(resource_map("_"));
            if !trace.is_empty() {
                map.insert("trace_id".into(), json!(trace));
                map.insert("span_id".into(), json!(span));
            }
            json!({"labels": map, "line": body(record), "timestamp": time(record.time_unix_nano)})
        }
        Format::Clickhouse => json!({
            "Timestamp": time(record.time_unix_nano).replace('T', " ").replace('Z', ""),
            "TraceId": trace, "SpanId": span, "ServiceName": "orders", "Body": body(record),
            "ResourceAttributes": resource_map("."), "LogAttributes": texts("."), "EventName": record.event_name,
        }),
        Format::Elasticsearch => {
            let number = |value: &Any| match value {
                Any::IntValue(number) => json!(number),
                value => json!(as_text(value)),
            };
            let own: Map<String, Value> = attributes.iter().map(|(key, value)| (key.clone(), number(value))).collect();
            let mut source = json!({
                // As the Collector's exporter writes it.
                "@timestamp": format!("{}.{}", record.time_unix_nano / 1_000_000, record.time_unix_nano % 1_000_000),
                "body": {"text": body(record)}, "attributes": own, "event_name": record.event_name,
                "resource": {"attributes": resource_map(".")},
            });
            if !trace.is_empty() {
                source["trace_id"] = json!(trace);
                source["span_id"] = json!(span);
            }
            json!({"_index": "logs-generic.otel-default", "_source": source})
        }
    }
}

const FORMATS: [Format; 5] =
    [Format::Otlp, Format::Victorialogs, Format::Loki, Format::Clickhouse, Format::Elasticsearch];

/// A file that is gone with the test.
pub(super) struct Temporary(pub(super) PathBuf);

impl Temporary {
    pub(super) fn new(name: &str, content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("testimony-verify-test-{}-{name}", std::process::id()));
        std::fs::File::create(&path).and_then(|mut file| file.write_all(content)).expect("a temporary file");
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is in the way of nobody.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn settings() -> Settings {
    Settings { now_ns: 1_800_000_000_000_000_000, max_lag_ns: 10_000_000_000, ..Settings::default() }
}

fn files(file: &PathBuf) -> Input<'_> {
    Input { files: std::slice::from_ref(file), ..Input::default() }
}

pub(super) fn judged(name: &str, lines: &[Value]) -> Report {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let file = Temporary::new(name, text.as_bytes());
    verification(files(&file.0), settings(), Trust::default(), 10_000).expect("an export")
}

pub(super) fn verdicts(report: &Report) -> Vec<(Verdict, String)> {
    report.findings.iter().map(|finding| (finding.verdict, finding.to_string())).collect()
}

#[test]
fn v4_every_backend_gives_the_golden_streams_back() {
    for name in VECTORS {
        let records = vectors(name);
        let of = |format: Format| {
            let lines: Vec<Value> = records.iter().map(|record| line(format, record)).collect();
            judged(&format!("{name}-{format:?}"), &lines)
        };
        let first = of(Format::Otlp);
        let allowed = [Verdict::Unanchored, Verdict::Gap, Verdict::Missing];
        assert!(
            verdicts(&first).iter().all(|(verdict, _)| allowed.contains(verdict)),
            "{name}: {:#?}",
            verdicts(&first)
        );
        // What other streams of the golden files name is not in them.
        let absent = first.findings.iter().filter(|finding| finding.verdict == Verdict::Missing);
        assert!(absent.into_iter().all(|finding| finding.records.is_none()), "{name}: {:#?}", verdicts(&first));
        assert_eq!(first.proved, first.records, "{name}");
        for format in FORMATS {
            let report = of(format);
            assert_eq!(verdicts(&report), verdicts(&first), "{name} from {format:?}");
            assert_eq!(report.proved, report.records, "{name} from {format:?}");
        }
    }
}

/// Each value of a JSON document that can be changed, and the document with it changed.
fn changes(line: &Value, at: &str) -> Vec<(String, Value)> {
    let mut changed = Vec::new();
    let pointers = pointers(line, String::new());
    for pointer in pointers.into_iter().filter(|pointer| pointer.contains(at)) {
        let mut copy = line.clone();
        let value = copy.pointer_mut(&pointer).expect("a place");
        match value {
            Value::String(text) => *text = format!("{text}1"),
            Value::Number(number) => *value = json!(number.as_i64().unwrap_or_default() + 1),
            _ => continue,
        }
        changed.push((pointer, copy));
    }
    changed
}

fn pointers(value: &Value, at: String) -> Vec<String> {
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(map) => {
            map.iter().flat_map(|(key, value)| pointers(value, format!("{at}/{}", escaped(key)))).collect()
        }
        Value::Array(list) => {
            list.iter().enumerate().flat_map(|(n, value)| pointers(value, format!("{at}/{n}"))).collect()
        }
        _ => vec![at],
    }
}

#[test]
fn v4_every_change_beside_the_body_is_a_projection() {
    let records = vectors("every-typ");
    let victim = records.iter().position(|record| body(record).contains("\"typ\":\"exchange\"")).expect("an exchange");
    for format in FORMATS {
        let lines: Vec<Value> = records.iter().map(|record| line(format, record)).collect();
        let mut count = 0;
        for (pointer, changed) in changes(&lines[victim], "") {
            let ignored =
                ["service", "observedTime", "_stream", "ServiceName", "_index", "/_msg", "/line", "/Body", "/body"];
            // Names of attributes in OTLP: changing one is tried by its absence.
            if ignored.iter().any(|part| pointer.contains(part)) || pointer.contains("/resource/attributes/5") {
                continue;
            }
            // No field of the format: a key of OTLP that is not known is an attribute of somebody else.
            let mut lines = lines.clone();
            lines[victim] = changed;
            let report = judged(&format!("edit-{format:?}"), &lines);
            let found =
                report.findings.iter().any(|finding| finding.verdict == Verdict::Projection && finding.place.is_some());
            if !pointer.contains("/resource/") || !pointer.ends_with("/key") {
                assert!(found, "{format:?} {pointer}: {:#?}", verdicts(&report));
                assert_eq!(report.exit_code, 1);
                count += 1;
            }
        }
        assert!(count > 20, "{format:?}: {count}");
    }
}

#[test]
fn v4_an_attribute_that_was_added_is_a_projection() {
    let records = vectors("every-typ");
    let mut lines: Vec<Value> = records.iter().map(|record| line(Format::Victorialogs, record)).collect();
    lines[3]["rpc.service"] = json!("Other");
    let report = judged("added", &lines);
    assert!(report.findings.iter().any(|finding| finding.verdict == Verdict::Projection), "{:#?}", verdicts(&report));
    lines[3].as_object_mut().expect("a map").remove("rpc.service");
    // What others add is theirs.
    lines[3]["host.name"] = json!("collector-1");
    let report = judged("added", &lines);
    assert!(report.findings.iter().all(|finding| finding.verdict != Verdict::Projection), "{:#?}", verdicts(&report));
}

#[test]
fn v4_a_time_is_read_in_every_zone_and_told_where_it_cannot_be() {
    let records = vectors("every-typ");
    let with = |time: &dyn Fn(&str) -> String| {
        let mut lines: Vec<Value> = records.iter().map(|record| line(Format::Loki, record)).collect();
        for line in &mut lines {
            line["timestamp"] = json!(time(line["timestamp"].as_str().expect("a time")));
        }
        judged("zones", &lines)
    };
    let as_it_is = verdicts(&with(&str::to_owned));
    for (offset, hours) in [("-05:00", -5), ("+02:00", 2)] {
        let west = |time: &str| {
            let time: Timestamp = time.parse().expect("a time");
            let local = time + k8s_openapi::jiff::SignedDuration::from_hours(hours);
            local.to_string().replace('Z', offset)
        };
        assert_eq!(verdicts(&with(&west)), as_it_is, "{offset}");
    }
    let report = with(&|_| "yesterday".to_owned());
    let told: Vec<&Finding> = report.findings.iter().filter(|found| found.verdict == Verdict::Projection).collect();
    assert!(told.len() as u64 >= report.records, "each record: {}", told.len());
    assert!(told.iter().all(|found| found.message.starts_with("the time that is stored cannot be read")), "{told:#?}");
    // What logcli leaves out of the labels of each entry.
    assert!(report.hints.iter().any(|hint| hint.contains("--include-common-labels")), "{:?}", report.hints);
    assert_eq!(with(&str::to_owned).hints, [""; 0]);
}

#[test]
fn a_scope_leaves_other_streams_out() {
    let lines: Vec<Value> =
        VECTORS.iter().flat_map(|name| vectors(name)).map(|record| line(Format::Otlp, &record)).collect();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let file = Temporary::new("scope", text.as_bytes());
    let of = |scope: Scope| {
        let settings = Settings { scope, ..settings() };
        verification(files(&file.0), settings, Trust::default(), 10_000).expect("an export")
    };
    let all = of(Scope::default()).streams;
    assert!(all.len() >= 6, "{all:#?}");
    let one = of(Scope { stream: Some(all[2].sid.to_string()), ..Scope::default() });
    assert_eq!(one.streams.len(), 1);
    assert_eq!(of(Scope { namespace: Some("elsewhere".into()), ..Scope::default() }).streams.len(), 0);
}

#[test]
fn input_that_cannot_be_judged_is_told_with_its_place() {
    let good = line(Format::Otlp, &vectors("rotation")[0]).to_string();
    let table: [(&str, Vec<u8>, &[&str]); 12] = [
        (
            "cut",
            format!("{good}\n{}", &good[..good.len() / 2]).into_bytes(),
            &["line 2 (byte ", "cut off", "export it again"],
        ),
        ("damaged", format!("{good}\n{{\"resourceLogs\":[}}\n").into_bytes(), &["line 2", "damaged"]),
        ("foreign", b"{\"hello\":1}\n".to_vec(), &["line 1 (byte 0)", "no export that is known", "--format"]),
        ("text", b"GET / 200\n".to_vec(), &["line 1", "damaged"]),
        ("gzip", vec![0x1f, 0x8b, 8, 0], &["gzip", "gzip -dc"]),
        ("zstd", vec![0x28, 0xb5, 0x2f, 0xfd], &["zstd -dc"]),
        ("binary", [good.as_bytes(), b"\n{\"a\":\"", &[0xff, 0xfe], b"\"}\n"].concat(), &["line 2", "not UTF-8"]),
        ("other", format!("{good}\n{{\"resourceLogs\":7}}\n").into_bytes(), &["line 2", "not of the format Otlp"]),
        ("shape", b"{\"data\":{}}\n".to_vec(), &["line 1", "data.result"]),
        ("html", b"\r\n<html>\n".to_vec(), &["line 2 (byte 2) is an HTML page"]),
        ("pretty", b"{\n  \"_msg\": \"x\"\n}\n".to_vec(), &["line 1 (byte 0)", "`jq -c .`"]),
        ("later", format!("{good}\n{{\n").into_bytes(), &["line 2", "damaged: EOF while parsing an object: export"]),
    ];
    for (name, content, problems) in table {
        let file = Temporary::new(name, &content);
        let error = verification(files(&file.0), settings(), Trust::default(), 10_000).err();
        let error = format!("{:#}", error.unwrap_or_else(|| panic!("{name} was taken")));
        assert!(error.contains(&*file.0.to_string_lossy()), "{name}: {error}");
        problems.iter().for_each(|problem| assert!(error.contains(problem), "{name}: {error}"));
    }
    let error = verification(files(&"/nowhere/x.jsonl".into()), settings(), Trust::default(), 10_000).err();
    assert!(format!("{:#}", error.expect("no file")).contains("/nowhere/x.jsonl"));
    let folder = verification(files(&std::env::temp_dir()), settings(), Trust::default(), 10_000).err();
    assert!(format!("{:#}", folder.expect("a folder")).contains("folder"));
}

#[test]
fn a_byte_order_mark_is_left_out() {
    let lines: String = vectors("rotation").iter().map(|record| format!("{}\n", line(Format::Otlp, record))).collect();
    let marked = [guess::BYTE_ORDER_MARK, lines.as_bytes()].concat();
    let [plain, marked] = [lines.as_bytes(), &marked].map(|content| {
        let file = Temporary::new(&format!("mark-{}", content.len()), content);
        verification(files(&file.0), settings(), Trust::default(), 10_000).expect("an export")
    });
    assert_eq!((verdicts(&marked), marked.records), (verdicts(&plain), plain.records));
}

#[test]
fn v1_an_input_without_anything_of_testimony_is_no_verdict() {
    let head = vectors("rotation").iter().find(|record| body(record).contains("\"typ\":\"head\"")).cloned();
    for (name, content, problem) in [
        ("nothing", String::new(), Some("no log entry at all")),
        ("blank", "\n \n".to_owned(), Some("no log entry at all")),
        (
            "others",
            "{\"_msg\":\"GET /\",\"_time\":\"x\"}\n{\"_msg\":\"\"}\n".to_owned(),
            Some("only 2 log entries of others"),
        ),
        ("head", line(Format::Otlp, &head.expect("a head")).to_string(), None),
        ("claimed", "{\"_msg\":\"x\",\"event_name\":\"audit.http.request\"}".to_owned(), None),
    ] {
        let file = Temporary::new(name, content.as_bytes());
        let result = verification(files(&file.0), settings(), Trust::default(), 10_000);
        assert_eq!(result.is_err(), problem.is_some(), "{name}");
        if let (Err(error), Some(problem)) = (result, problem) {
            let error = format!("{error:#}");
            assert!(error.starts_with(&format!("{}: no record", file.0.display())), "{error}");
            assert!(error.contains(problem) && error.contains("--format"), "{error}");
        }
    }
}

#[test]
fn every_prefix_of_an_export_is_taken_or_refused() {
    let record = line(Format::Victorialogs, &vectors("rotation")[1]).to_string();
    for cut in 0..record.len() {
        let file = Temporary::new("prefix", &record.as_bytes()[..cut]);
        let result = verification(files(&file.0), settings(), Trust::default(), 10_000);
        assert!(result.is_err(), "{cut}");
    }
}

#[test]
fn the_report_for_people() {
    let lines: Vec<Value> = vectors("rotation").iter().map(|record| line(Format::Otlp, record)).collect();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let file = Temporary::new("people", text.as_bytes());
    let files = [file.0.clone()];
    let settings = Settings { scope_text: "the whole export".into(), ..settings() };
    let report = verification(Input { files: &files, ..Input::default() }, settings, Trust::default(), 10_000)
        .expect("an export");
    expect_test::expect_file!["../../tests/golden/verify.txt"].assert_eq(&super::text(&report, &files));
    let json = as_json(&report, &files).expect("JSON");
    assert_eq!(json["verdict"], "UNANCHORED");
    assert_eq!(json["exit_code"], 3);
    assert_eq!(json["streams"][0]["sid"], report.streams[0].sid.as_str());
}

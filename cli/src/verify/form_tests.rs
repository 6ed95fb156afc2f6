//! The forms in which one backend can give the same records: all of them are read alike.

use super::backend::Format;
use super::tests::{judged, line, vectors, verdicts};
use serde_json::{Value, json};
use testimony_core::evidence::verify::Verdict;

const NAME: &str = "every-typ";

/// The lines of a format, each changed.
fn lines(format: Format, change: impl Fn(&mut Value)) -> Vec<Value> {
    let mut lines: Vec<Value> = vectors(NAME).iter().map(|record| line(format, record)).collect();
    lines.iter_mut().for_each(change);
    lines
}

fn iso(time: &mut Value) {
    let text = time.as_str().expect("a time");
    *time = json!(format!("{}Z", text.replace(' ', "T")));
}

/// `2023-11-14T22:13:20.000000001Z` of `1700000000000.1`; by fraction, as Elasticsearch itself reads that, `2023-11-14T22:13:20.0001Z`.
fn iso_of_millis(time: &mut Value, by_fraction: bool) {
    let (millis, rest) = time.as_str().expect("a time").split_once('.').expect("milliseconds and nanoseconds");
    let rest = if by_fraction { format!("{rest:0<6}") } else { format!("{rest:0>6}") };
    let nanos = format!("{millis}{rest}").parse().expect("nanoseconds");
    let nanos = k8s_openapi::jiff::Timestamp::from_nanosecond(nanos);
    *time = json!(nanos.expect("a time").to_string());
}

/// Loki's answer to `query_range`, with what is no label of the stream where `metadata` puts it.
fn loki_answer(metadata: impl Fn(&mut Value, Value) -> Option<Value>) -> Vec<Value> {
    let records = vectors(NAME);
    let stream = |(line, record): (Value, &opentelemetry_proto::tonic::logs::v1::LogRecord)| {
        let mut labels = json!({});
        let mut own = line["labels"].clone();
        labels["service_name"] = own.as_object_mut().and_then(|own| own.remove("service_name")).expect("a label");
        let mut value = vec![json!(record.time_unix_nano.to_string()), line["line"].clone()];
        value.extend(metadata(&mut labels, own));
        json!({"stream": labels, "values": [value]})
    };
    let streams: Vec<Value> = lines(Format::Loki, |_| {}).into_iter().zip(&records).map(stream).collect();
    vec![json!({"status": "success", "data": {"resultType": "streams", "result": streams, "stats": {}}})]
}

fn merged(labels: &mut Value, own: Value) -> Option<Value> {
    labels.as_object_mut().expect("labels").extend(own.as_object().expect("labels").clone());
    None
}

#[test]
fn v4_every_form_of_a_backend_is_read_alike() {
    let wanted = judged("form-otlp", &lines(Format::Otlp, |_| {}));
    let table = [
        ("loki's API", loki_answer(merged)),
        (
            "loki's API, metadata apart",
            loki_answer(|_, own| Some(json!({"structuredMetadata": own, "parsed": {"a": "b"}}))),
        ),
        ("loki's API, metadata behind", loki_answer(|_, own| Some(own))),
        (
            "loki, nanoseconds",
            lines(Format::Loki, |line| {
                let time: k8s_openapi::jiff::Timestamp =
                    line["timestamp"].as_str().expect("a time").parse().expect("a time");
                line["timestamp"] = json!(time.as_nanosecond().to_string());
            }),
        ),
        ("clickhouse, date_time_output_format='iso'", lines(Format::Clickhouse, |line| iso(&mut line["Timestamp"]))),
        ("elasticsearch, documents", lines(Format::Elasticsearch, |line| *line = line["_source"].take())),
        (
            "elasticsearch, ISO",
            lines(Format::Elasticsearch, |line| iso_of_millis(&mut line["_source"]["@timestamp"], false)),
        ),
        (
            "elasticsearch, logsdb",
            lines(Format::Elasticsearch, |line| iso_of_millis(&mut line["_source"]["@timestamp"], true)),
        ),
        (
            "elasticsearch, flat body",
            lines(Format::Elasticsearch, |line| {
                let source = line["_source"].as_object_mut().expect("a document");
                let text = source.remove("body").expect("a body")["text"].clone();
                source.insert("body.text".to_owned(), text);
            }),
        ),
    ];
    for (what, lines) in table {
        let report = judged("form", &lines);
        assert_eq!(verdicts(&report), verdicts(&wanted), "{what}");
        assert_eq!((report.records, report.proved), (wanted.records, wanted.proved), "{what}");
    }
}

#[test]
fn v4_a_time_of_another_type_is_a_projection() {
    for (format, pointer) in [
        (Format::Victorialogs, "/_time"),
        (Format::Clickhouse, "/Timestamp"),
        (Format::Elasticsearch, "/_source/@timestamp"),
    ] {
        for other in [json!(5), json!(null), json!(["x"]), json!("")] {
            let mut lines = lines(format, |_| {});
            *lines[2].pointer_mut(pointer).expect("a time") = other.clone();
            let report = judged("time-type", &lines);
            let found = report.findings.iter().filter(|finding| finding.verdict == Verdict::Projection).count();
            assert_eq!((found, report.exit_code), (1, 1), "{format:?} {other}");
        }
    }
}

#[test]
fn v4_times_of_another_zone_are_told_as_that() {
    let of = |shift: &dyn Fn(usize) -> i64| {
        let mut lines = lines(Format::Clickhouse, |_| {});
        for (number, line) in lines.iter_mut().enumerate() {
            let text = line["Timestamp"].as_str().expect("a time").replace(' ', "T") + "Z";
            let time: k8s_openapi::jiff::Timestamp = text.parse().expect("a time");
            let time = time + k8s_openapi::jiff::SignedDuration::from_mins(shift(number));
            line["Timestamp"] = json!(time.to_string().replace('T', " ").replace('Z', ""));
        }
        let report = judged("zone", &lines);
        let found = report.findings.iter().any(|finding| finding.verdict == Verdict::Projection);
        assert_eq!(found, shift(0) != 0, "a hint changes no verdict");
        report.hints.join("; ")
    };
    assert!(of(&|_| 120).contains("by +2:00 h") && of(&|_| 120).contains("date_time_output_format='iso'"));
    assert!(of(&|_| -570).contains("by -9:30 h"));
    let others: [&dyn Fn(usize) -> i64; 4] =
        [&|_| 0, &|_| 7, &|_| 15 * 60, &|number| if number == 0 { 60 } else { 120 }];
    for other in others {
        assert_eq!(of(other), "");
    }
}

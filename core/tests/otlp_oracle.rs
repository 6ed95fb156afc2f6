//! The hand-written encoders against prost and serde_jcs.

mod evidence_support;

use evidence_support::{TestHost, TestKey, at, open, origin};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use proptest::prelude::*;
use prost::Message as _;
use testimony_core::canon::parse_body;
use testimony_core::evidence::merkle::{Range, leaf};
use testimony_core::evidence::seal::{Fate, HoleFacts, SinkHole, Stream};
use testimony_core::evidence::stream::StreamId;
use testimony_core::otlp::{body_of_log_record, export_request, resource, split_records};
use testimony_core::policy::Redact;
use testimony_core::record::{EventName, Field, Record, Redacted, Side, Stamp, body_of};
use testimony_core::redact::{Redactor, redact};

fn text(value: Option<&opentelemetry_proto::tonic::common::v1::AnyValue>) -> String {
    match value.and_then(|v| v.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("unexpected value {other:?}"),
    }
}

fn decode(batch: &[u8]) -> ExportLogsServiceRequest {
    let envelope = export_request(&resource([("service.name", "shop"), ("k8s.pod.name", "")]), &[batch]);
    let request = ExportLogsServiceRequest::decode(envelope.as_slice()).expect("valid protobuf");
    assert_eq!(request.encode_to_vec(), envelope, "the same bytes as prost writes");
    request
}

fn stream_name(boot: u128) -> String {
    let origin = origin(boot);
    format!("{}/{}/{}/{boot:032x}-0-0", origin.cluster_uid, origin.namespace, origin.pod_uid)
}

/// A stream whose `open` is out of the way.
fn opened() -> (Stream<TestKey>, TestHost) {
    let mut host = TestHost::default();
    let stream = open(origin(1), &mut host, at(0));
    (host.batch, host.lines) = (Vec::new(), Vec::new());
    (stream, host)
}

fn sealed(record: &Redacted<Record>, now: Stamp) -> TestHost {
    let (mut stream, mut host) = opened();
    assert_eq!(stream.seal(record, now, &mut host), Fate::Sealed);
    host
}

#[test]
fn a_record_stands_in_otlp_as_the_table_says() {
    let mut record = Record::new(EventName::HttpRequest);
    record.set(Field::V, b"1");
    record.set_int(Field::T0, 1_700_000_000_000_000_001);
    record.set(Field::Dir, b"inbound");
    record.set(Field::Peer, b"10.0.0.9:4711");
    record.set(Field::Local, b"[fd00::1]:8080");
    record.set_int(Field::Status, 200);
    record.set(Field::TraceId, b"4bf92f3577b34da6a3ce929d0e0e4736");
    record.set(Field::SpanId, b"00f067aa0ba902b7");
    record.set(Field::Path, "/caf\u{e9}".as_bytes());
    record.push_header(Side::Request, "Accept", b"*/*");
    for at in 0..11 {
        record.push_header(Side::Response, "Vary", at.to_string().as_bytes());
    }
    let host = sealed(&redact(record, &Redactor::new(&Redact::default(), None)), at(42));
    let request = decode(&host.batch);
    let [resource_logs] = request.resource_logs.as_slice() else { panic!("one resource") };
    let attributes = &resource_logs.resource.as_ref().expect("resource").attributes;
    assert_eq!(attributes.len(), 1, "empty attributes are left out");
    let [scope] = resource_logs.scope_logs.as_slice() else { panic!("one scope") };
    let [log] = scope.log_records.as_slice() else { panic!("one record") };
    assert_eq!((log.time_unix_nano, log.observed_time_unix_nano), (1_700_000_000_000_000_001, at(42).wall_ns));
    assert_eq!(log.event_name, "audit.http.request");
    assert_eq!(log.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes());
    assert_eq!(log.span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    let attribute = |key: &str| text(log.attributes.iter().find(|pair| pair.key == key).and_then(|p| p.value.as_ref()));
    assert_eq!(attribute("client.address"), "10.0.0.9");
    assert_eq!(attribute("server.address"), "fd00::1");
    assert_eq!(attribute("server.port"), "8080");
    assert_eq!(attribute("http.response.status_code"), "200");
    assert_eq!(attribute("url.path"), "/caf%C3%A9");
    // The audit draft counts from 1.
    assert_eq!(attribute("audit.sequence.number"), "2");
    assert_eq!(attribute("audit.sequence.stream_id"), stream_name(1));
    let body = text(log.body.as_ref());
    let map = parse_body(body.as_bytes()).expect("canonical");
    let line = &host.lines[0];
    assert_eq!(log.encode_to_vec(), line.log);
    assert_eq!(line.leaf.as_ref(), Some(&leaf(body.as_bytes()).to_hex()), "L1");
    assert_eq!(map["seq"], b"1");
    assert_eq!(map["sid"], stream_name(1).as_bytes());
    assert_eq!(attribute("testimony.prev").as_bytes(), map["prev"]);
    assert_eq!(map["hq00"], b"accept:*/*");
    assert_eq!(map["hs10"], b"vary:10");
    let plain: std::collections::BTreeMap<String, String> = serde_json::from_str(&body).expect("JSON");
    assert_eq!(serde_jcs::to_string(&plain).expect("a map of strings"), body);
}

#[test]
fn r3_a_body_over_the_limit_loses_headers_first_and_says_so() {
    let mut record = Record::new(EventName::HttpRequest);
    record.set(Field::Path, &[0xff; 4096]);
    record.set(Field::Query, &[b'&'; 4096]);
    for side in [Side::Request, Side::Response] {
        for _ in 0..32 {
            record.push_header(side, "accept", &[0xff; 1024]);
        }
    }
    let redacted = redact(record, &Redactor::default());
    let host = sealed(&redacted, at(0));
    let map = parse_body(host.lines[0].body.as_bytes()).expect("canonical and within the limit");
    assert_eq!(map["trunc"], b"headers,");
    assert!(!map.contains_key("hq00"));
    let log = &decode(&host.batch).resource_logs[0].scope_logs[0].log_records[0];
    let told = log.attributes.iter().find(|pair| pair.key == "testimony.truncated").expect("told outside the body too");
    assert_eq!(text(told.value.as_ref()), "headers,");
    assert!(body_of(&redacted).is_some_and(|body| parse_body(&body).is_ok_and(|map| !map.contains_key("sid"))));
}

#[test]
fn g2_what_a_hole_says_is_read_back_from_its_log_record() {
    let (mut stream, mut host) = opened();
    let lost: StreamId = format!("c/shop/u/{:032x}-0-0", 6).parse().expect("a name");
    let mut range = Range::empty(4);
    (0..3_u8).for_each(|byte| range.push(leaf(&[byte])));
    let nodes: Vec<_> = range.nodes().collect();
    for sink in [Some("main"), None] {
        let facts = HoleFacts { stream: &lost, from: 4, to: 7, sink, reason: "rejected", nodes: &nodes };
        assert!(stream.hole(&facts, at(7), &mut host));
        let records = split_records(&host.batch);
        let body = records.last().and_then(|record| body_of_log_record(record)).expect("a body");
        let read = SinkHole::from_body(body);
        let told = sink.map(|sink| SinkHole { stream: lost.clone(), range: range.clone(), sink: sink.to_owned() });
        assert_eq!(read, told);
    }
    assert_eq!(SinkHole::from_body(br#"{"typ":"exchange"}"#), None);
}

proptest! {
    #[test]
    fn any_bytes_make_valid_otlp_and_a_canonical_body(
        values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), Field::COUNT),
        present in proptest::collection::vec(any::<bool>(), Field::COUNT),
        records in 1..4_usize,
    ) {
        let (mut stream, mut host) = opened();
        for _ in 0..records {
            let mut record = Record::new(EventName::TcpClose);
            for ((field, value), _) in Field::ALL.iter().zip(&values).zip(&present).filter(|(_, present)| **present) {
                record.set(*field, value);
            }
            record.set(Field::Typ, b"exchange");
            prop_assert_eq!(stream.seal(&redact(record, &Redactor::default()), at(7), &mut host), Fate::Sealed);
            let body = &host.lines.last().expect("a record").body;
            prop_assert!(parse_body(body.as_bytes()).is_ok());
            let plain: std::collections::BTreeMap<String, String> = serde_json::from_str(body).expect("JSON");
            prop_assert_eq!(&serde_jcs::to_string(&plain).expect("a map of strings"), body);
        }
        let batch = host.batch;
        let request = decode(&batch);
        let logs = &request.resource_logs[0].scope_logs[0].log_records;
        prop_assert_eq!(logs.len(), records);
        prop_assert!(logs[0].observed_time_unix_nano > 0);
        let parts = split_records(&batch);
        prop_assert_eq!(parts.len(), records);
        prop_assert_eq!(&parts.concat(), &batch);
        for (part, line) in parts.iter().rev().zip(host.lines.iter().rev()) {
            prop_assert_eq!(body_of_log_record(part), Some(line.body.as_bytes()));
        }
    }

    #[test]
    fn reading_any_bytes_never_panics(run in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = split_records(&run);
        let _ = body_of_log_record(&run).map(SinkHole::from_body);
    }
}

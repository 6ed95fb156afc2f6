//! Export against a scripted server: every answer, and what becomes of the records.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use testimony_core::evidence::seal::Class;
use testimony_core::policy::SinkCondition;
use testimony_core::record::GapReason;
use testimony_sidecar::export::{self, Batch, Undelivered};
use tokio::time::Instant;

mod control_support;
#[path = "support/ports.rs"]
mod ports;
use control_support::rig::{Options, Rig, taken};
use control_support::{Received, Reply, Server, batch, eventually, names, record, sink};
use ports::free_port;

fn response(rejected: i64) -> Vec<u8> {
    let partial = ExportLogsPartialSuccess { rejected_log_records: rejected, error_message: "too old".to_owned() };
    ExportLogsServiceResponse { partial_success: (rejected > 0).then_some(partial) }.encode_to_vec()
}

#[tokio::test]
async fn a_batch_arrives_once_in_otlp_over_http_with_gzip() {
    let server = Server::start(None, |_, _| Reply::status(200)).await;
    let rig = Rig::start(vec![sink(&server.url("http"))]);
    rig.push(batch(0, 3));
    let received = server.until(|all| !all.is_empty()).await;
    let first = &received[0];
    assert_eq!(first.path, "/v1/logs");
    assert_eq!(first.header("content-type"), "application/x-protobuf");
    assert_eq!(first.header("content-encoding"), "gzip");
    assert_eq!(first.header("user-agent"), concat!("testimony-sidecar/", env!("CARGO_PKG_VERSION")));
    assert_eq!(first.header("host"), server.addr.to_string());
    assert_eq!(first.request().resource_logs.len(), 1);
    assert_eq!(first.records(), names(0..3));
    eventually("delivered", || rig.state().delivered == 3).await;
    rig.push(batch(3, 1));
    let received = server.until(|all| all.len() == 2).await;
    assert_eq!(received[1].connection, 1, "the connection is kept");
    eventually("delivering", || rig.state().delivered == 4 && rig.state().state == SinkCondition::Delivering).await;
    let text = rig.metrics.text();
    assert!(text.contains("testimony_export_records_total{sink=\"main\"} 4\n"), "{text}");
    assert!(text.contains("testimony_export_queue_bytes{sink=\"main\"} 0\n"), "{text}");
    assert_eq!(rig.stop(Duration::ZERO).await, Undelivered::default());
    assert_eq!(server.received().len(), 2);
}

#[tokio::test]
async fn the_path_of_the_url_is_kept_and_batches_are_joined_in_order() {
    let server = Server::start(None, |_, _| Reply::body(200, response(0))).await;
    let endpoint = format!("{}/insert/v1/logs?team=a", server.url("http"));
    let rig = Rig::with(Options::new(vec![sink(&endpoint)]), &[batch(0, 2), batch(2, 2), batch(4, 1)]);
    let received = server.until(|all| !all.is_empty()).await;
    assert_eq!(received[0].path, "/insert/v1/logs?team=a");
    assert_eq!(received[0].records(), names(0..5));
    rig.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn ex_1_nothing_is_released_or_doubled_by_a_sink_that_fails_first() {
    let failures = |number: usize| match number {
        0 => Reply::status(429),
        1 => Reply::Answer { status: 503, headers: vec![("retry-after", "0".to_owned())], body: b"busy".to_vec() },
        2 => Reply::Close,
        3 => Reply::body(200, b"<html>log in</html>".to_vec()),
        _ => Reply::status(200),
    };
    let server = Server::start(None, move |number, _| failures(number)).await;
    let rig = Rig::with(Options::new(vec![sink(&server.url("http"))]), &[batch(0, 2)]);
    for number in 1..10 {
        rig.push(batch(number * 2, 2));
    }
    eventually("delivered", || rig.state().delivered == 20).await;
    assert_eq!(taken(&server.received(), |number| number > 3), names(0..20));
    assert_eq!((rig.state().lost, rig.state().error), (0, None));
    // The connection that closed had been used before: that request goes out again at once, and counts once.
    let text = rig.metrics.text();
    assert!(text.contains("testimony_export_requests_total{sink=\"main\",result=\"retry\"} 3\n"), "{text}");
}

#[tokio::test]
async fn a_sink_is_given_the_time_that_it_asks_for() {
    let later = || Reply::Answer { status: 503, headers: vec![("retry-after", "1".to_owned())], body: Vec::new() };
    let server = Server::start(None, move |number, _| if number == 0 { later() } else { Reply::status(200) }).await;
    let rig = Rig::start(vec![sink(&server.url("http"))]);
    rig.push(batch(0, 1));
    server.until(|all| all.len() == 1).await;
    let asked = Instant::now();
    server.until(|all| all.len() == 2).await;
    assert!(asked.elapsed() > Duration::from_millis(900), "{:?}", asked.elapsed());
    assert_eq!(server.received()[1].records(), names(0..1));
}

#[tokio::test]
async fn a_reset_connection_is_replaced() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let rig = Rig::start(vec![sink(&format!("http://{}", listener.local_addr().expect("an address")))]);
    rig.push(batch(0, 1));
    let (stream, _) = listener.accept().await.expect("a connection");
    // Closed with bytes unread: the kernel sends a reset.
    stream.readable().await.expect("a request");
    drop(stream);
    let server = Server::on(listener, None, |_, _| Reply::status(200));
    let received = server.until(|all| all.len() == 1).await;
    assert_eq!(received[0].records(), names(0..1));
    eventually("delivered", || rig.state().delivered == 1).await;
}

#[tokio::test]
async fn a_sink_that_is_down_is_told_and_gets_everything_once_it_is_up() {
    let addr = free_port();
    let rig = Rig::start(vec![sink(&format!("http://{addr}"))]);
    rig.push(batch(0, 4));
    eventually("failing", || rig.state().state == SinkCondition::Failing).await;
    let error = rig.state().error.expect("an error");
    assert!(error.contains("cannot connect to") && error.contains("refused"), "{error}");
    assert!(rig.state().oldest_undelivered_seconds > 1000, "the records are of 1970");
    let listener = tokio::net::TcpListener::bind(addr).await.expect("the port");
    let server = Server::on(listener, None, |_, _| Reply::status(200));
    server.until(|all| !all.is_empty()).await;
    eventually("delivered", || rig.state().delivered == 4).await;
    assert_eq!(taken(&server.received(), |_| true), names(0..4));
}

#[tokio::test]
async fn a_hanging_request_ends_at_the_deadline_and_is_sent_again() {
    let server = Server::start(None, |number, _| if number == 0 { Reply::Hang } else { Reply::status(200) }).await;
    let mut hurried = sink(&server.url("http"));
    hurried.timeout_ms = 300;
    let rig = Rig::start(vec![hurried]);
    rig.push(batch(0, 1));
    let received = server.until(|all| all.len() == 2).await;
    assert_eq!(received[1].records(), names(0..1));
    assert_eq!(received[1].connection, 2, "a hanging connection is not used again");
}

#[tokio::test]
async fn s3_t5_a_full_queue_gives_a_place_to_evidence_alone_until_something_was_taken() {
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let server = Server::start(
        None,
        move |_, _| {
            if gate.load(Ordering::SeqCst) { Reply::status(200) } else { Reply::status(503) }
        },
    )
    .await;
    let mut small = sink(&server.url("http"));
    small.queue_bytes_max = u32::try_from(batch(10, 10).log_records.len() * 3).expect("small");
    let rig = Rig::start(vec![small]);
    let placed: Vec<bool> = (1..=9).map(|number| rig.push(batch(number * 10, 10))).collect();
    assert_eq!(placed, [true, true, true, false, false, false, false, false, false]);
    assert!(rig.queue.ticket(1, Class::Traffic).is_none() && rig.queue.ticket(1, Class::Evidence).is_some());
    rig.queue.count_unsealed(GapReason::QueueFull);
    rig.queue.count_unsealed(GapReason::DiskFailed);
    rig.queue.count_unsealed(GapReason::WorkerDied);
    assert_eq!((rig.state().lost, rig.losses()), (2, Vec::new()), "what was not sealed is a gap and no hole");
    open.store(true, Ordering::SeqCst);
    eventually("delivered", || rig.state().delivered == 30).await;
    assert!(rig.push(batch(100, 1)));
    eventually("all", || rig.state().delivered == 31).await;
    let metrics = rig.metrics.text();
    for reason in ["queue_full", "disk_failed"] {
        let lost = format!("testimony_export_lost_records_total{{sink=\"main\",reason=\"{reason}\"}} 1\n");
        assert!(metrics.contains(&lost), "{lost} is not in {metrics}");
    }
}

#[tokio::test]
async fn g2_what_a_sink_refuses_for_good_is_lost_alone_and_told_as_a_hole() {
    let server = Server::start(None, |_, one| {
        if one.records().iter().any(|text| text == "r5" || text == "r6") {
            Reply::status(400)
        } else {
            Reply::status(200)
        }
    })
    .await;
    let rig = Rig::with(Options::new(vec![sink(&server.url("http"))]), &[batch(0, 8), batch(8, 8)]);
    eventually("delivered", || rig.state().delivered == 14 && rig.state().lost == 2).await;
    let accepted: Vec<String> = server
        .received()
        .iter()
        .map(Received::records)
        .filter(|texts| !texts.iter().any(|text| text == "r5" || text == "r6"))
        .flatten()
        .collect();
    let expected: Vec<String> = names(0..16).into_iter().filter(|text| text != "r5" && text != "r6").collect();
    assert_eq!(accepted, expected);
    assert_eq!(rig.losses(), [("main".to_owned(), 5, 7, "rejected")]);
}

#[tokio::test]
async fn too_large_is_split_until_it_fits() {
    let server = Server::start(None, |_, one| Reply::status(if one.records().len() > 3 { 413 } else { 200 })).await;
    let rig = Rig::with(Options::new(vec![sink(&server.url("http"))]), &[batch(0, 20)]);
    eventually("delivered", || rig.state().delivered == 20).await;
    let accepted: Vec<String> =
        server.received().iter().map(Received::records).filter(|texts| texts.len() <= 3).flatten().collect();
    assert_eq!(accepted, names(0..20));
    assert_eq!(rig.state().lost, 0);
}

#[tokio::test]
async fn a_batch_over_a_mebibyte_leaves_in_requests_that_are_smaller() {
    let server = Server::start(None, |_, _| Reply::status(200)).await;
    let mut large = sink(&server.url("http"));
    large.queue_bytes_max = 16 << 20;
    let long = record(&"x".repeat(300_000));
    let log_records = Bytes::from(long.repeat(9));
    let whole = Batch { log_records, records: 9, first_unix_nanos: 0, last_unix_nanos: 0, seals: None };
    let rig = Rig::with(Options::new(vec![large]), &[whole]);
    eventually("delivered", || rig.state().delivered == 9).await;
    let received = server.received();
    assert!(received.iter().all(|one| one.body.len() <= export::REQUEST_BYTES_MAX + 64));
    assert_eq!(received.iter().map(|one| one.records().len()).sum::<usize>(), 9);
    assert!(received.len() >= 3 && received.iter().all(|one| one.connection == 1), "one connection for all");
}

#[tokio::test]
async fn what_a_sink_takes_in_part_is_sent_again_until_it_says_which() {
    // It never takes r3, and says so as a partial success.
    let server = Server::start(None, |_, one| {
        let refused = one.records().iter().filter(|text| *text == "r3").count();
        Reply::body(200, response(i64::try_from(refused).expect("few")))
    })
    .await;
    let rig = Rig::with(Options::new(vec![sink(&server.url("http"))]), &[batch(0, 10)]);
    eventually("all is settled", || rig.state().delivered == 9 && rig.state().lost == 1).await;
    assert_eq!(rig.losses(), [("main".to_owned(), 3, 4, "rejected")]);
    let text = rig.metrics.text();
    assert!(text.contains("testimony_export_requests_total{sink=\"main\",result=\"partial\"} "), "{text}");
}

#[tokio::test]
async fn a_receipt_that_is_too_long_for_many_records_is_asked_for_fewer() {
    // It never takes r3, and has 100 bytes to say of each record.
    let server = Server::start(None, |_, one| {
        let records = one.records();
        let error_message = "x".repeat(100 * records.len());
        let rejected_log_records = i64::from(records.iter().any(|text| text == "r3"));
        let partial_success = Some(ExportLogsPartialSuccess { rejected_log_records, error_message });
        Reply::body(200, ExportLogsServiceResponse { partial_success }.encode_to_vec())
    })
    .await;
    let rig = Rig::with(Options::new(vec![sink(&server.url("http"))]), &[batch(0, 1000)]);
    eventually("all is settled", || rig.state().delivered + rig.state().lost == 1000).await;
    assert_eq!(rig.losses(), [("main".to_owned(), 3, 4, "rejected")]);
}

/// As a sink does it that does not know the compression, or wants TLS or another client certificate.
#[tokio::test]
async fn ex_1_a_sink_that_refuses_whatever_it_is_sent_is_waited_for_and_loses_nothing() {
    let mended = Arc::new(AtomicBool::new(false));
    let gate = mended.clone();
    let server = Server::start(None, move |_, _| match gate.load(Ordering::SeqCst) {
        true => Reply::status(200),
        false => Reply::body(400, b"no zstd here".to_vec()),
    })
    .await;
    let mut edited = sink(&server.url("http"));
    let rig = Rig::with(Options::new(vec![edited.clone()]), &[batch(0, 30), batch(30, 3)]);
    let is_parked = || rig.state().state == SinkCondition::Parked || rig.state().lost > 0;
    eventually("parked", is_parked).await;
    let error = rig.state().error.expect("its words");
    assert!(error.contains("answered 400: no zstd here"), "{error}");
    // What the alert looks at.
    let metrics = rig.metrics.text();
    assert!(metrics.contains("testimony_export_requests_total{sink=\"main\",result=\"parked\"} 1\n"), "{metrics}");
    // An edit that mends nothing ends the wait, too.
    let asked = server.received().len();
    edited.timeout_ms += 1;
    rig.policy.send_replace(vec![edited.clone()].into());
    server.until(|all| all.len() > asked).await;
    eventually("parked again", is_parked).await;
    mended.store(true, Ordering::SeqCst);
    edited.timeout_ms += 1;
    rig.policy.send_replace(vec![edited].into());
    eventually("delivered", || rig.state().delivered + rig.state().lost == 33).await;
    assert_eq!((rig.state().lost, rig.state().state, rig.losses()), (0, SinkCondition::Delivering, Vec::new()));
    rig.push(batch(33, 1));
    eventually("delivered", || rig.state().delivered == 34).await;
}

/// It does not take requests without records either, so nothing but other records can tell.
#[tokio::test]
async fn ex_1_g2_a_parked_sink_goes_on_by_itself_when_it_takes_what_came_since() {
    let server = Server::start(None, |_, one| {
        let records = one.records();
        Reply::status(if records.is_empty() || records.iter().any(|text| text == "r0") { 400 } else { 200 })
    })
    .await;
    let rig = Rig::with(Options::new(vec![sink(&server.url("http"))]), &[batch(0, 1)]);
    eventually("parked", || rig.state().state == SinkCondition::Parked).await;
    rig.push(batch(1, 3));
    // It is tried again after half a minute, whether somebody edits it or not.
    let settled = async {
        while rig.state().delivered + rig.state().lost < 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(80), settled).await.is_ok(), "{:?}", rig.state());
    assert_eq!((rig.state().delivered, rig.losses()), (3, vec![("main".to_owned(), 0, 1, "rejected")]));
    assert_eq!(rig.state().state, SinkCondition::Delivering);
}

#[tokio::test]
async fn ex_1_what_waits_for_a_sink_that_refuses_all_is_left_at_the_end_and_not_lost() {
    let server = Server::start(None, |_, _| Reply::status(400)).await;
    let rig = Rig::with(Options::new(vec![sink(&server.url("http"))]), &[batch(0, 3)]);
    eventually("parked", || rig.state().state == SinkCondition::Parked).await;
    assert_eq!(rig.stop(Duration::from_secs(20)).await, Undelivered { records: 3, undeclared: 0 });
}

/// Nothing was taken before, and the sink does not want requests without records.
#[tokio::test]
async fn g2_a_refused_record_that_comes_first_is_a_hole_once_another_one_is_taken() {
    let server = Server::start(None, |_, one| {
        let (records, bad) = (one.records(), ["r0", "r1"]);
        Reply::status(if records.is_empty() || records.iter().any(|text| bad.contains(&&**text)) { 400 } else { 200 })
    })
    .await;
    let rig = Rig::with(Options::new(vec![sink(&server.url("http"))]), &[batch(0, 4)]);
    eventually("settled", || rig.state().delivered == 2 && rig.state().lost == 2).await;
    rig.push(batch(4, 1));
    eventually("delivered", || rig.state().delivered == 3).await;
    assert_eq!(rig.losses(), [("main".to_owned(), 0, 2, "rejected")]);
}

/// The records are at fault, and not how they are sent: it takes a request that has none.
#[tokio::test]
async fn g2_a_sink_that_refuses_every_record_for_the_record_s_sake_goes_on() {
    let server = Server::start(None, |_, one| Reply::status(if one.records().is_empty() { 200 } else { 400 })).await;
    let rig = Rig::with(Options::new(vec![sink(&server.url("http"))]), &[batch(0, 20)]);
    eventually("lost", || rig.state().lost == 20).await;
    rig.push(batch(20, 1));
    eventually("lost", || rig.state().lost == 21).await;
}

#[tokio::test]
async fn of_a_sink_s_words_no_more_is_kept_than_people_read() {
    let server = Server::start(None, |number, _| {
        let error_message = "x".repeat(40_000);
        let rejected_log_records = i64::from(number == 0);
        let partial_success = Some(ExportLogsPartialSuccess { rejected_log_records, error_message });
        Reply::body(200, ExportLogsServiceResponse { partial_success }.encode_to_vec())
    })
    .await;
    let rig = Rig::with(Options::new(vec![sink(&server.url("http"))]), &[batch(0, 1)]);
    eventually("lost", || rig.state().lost == 1).await;
    let told = || rig.state().error.map_or(0, |error| error.len());
    assert!((100..1000).contains(&told()), "{}", told());
    rig.push(batch(1, 1));
    eventually("delivered", || rig.state().delivered == 1).await;
    assert!((100..1000).contains(&told()), "{}", told());
}

/// It needs so long for each record that it never answers for all of them in time.
#[tokio::test]
async fn a_sink_that_is_slow_gets_fewer_records_at_a_time() {
    let server =
        Server::start(None, |_, one| if one.records().len() > 3 { Reply::Hang } else { Reply::status(200) }).await;
    let mut hurried = sink(&server.url("http"));
    hurried.timeout_ms = 100;
    let rig = Rig::with(Options::new(vec![hurried]), &[batch(0, 20)]);
    eventually("delivered", || rig.state().delivered == 20).await;
    let sizes: Vec<usize> = server.received().iter().map(|one| one.records().len()).collect();
    assert_eq!(sizes[..2], [20, 20], "once may be chance");
    assert_eq!(taken(&server.received(), |number| sizes[number] <= 3), names(0..20));
    // What it answers in time is remembered.
    rig.push(batch(20, 10));
    eventually("delivered", || rig.state().delivered == 30).await;
    assert!(server.received().iter().skip(sizes.len()).all(|one| one.records().len() < 10));
}

#[tokio::test]
async fn a_sink_that_refuses_everything_is_not_told_of_it_without_end() {
    let server = Server::start(None, |_, _| Reply::status(422)).await;
    let rig = Rig::with(Options::new(vec![sink(&server.url("http"))]), &[batch(0, 2)]);
    eventually("lost", || rig.state().lost == 2).await;
    // The record that tells of it would be refused, too.
    assert_eq!(rig.losses(), []);
    rig.push(batch(2, 1));
    eventually("lost", || rig.state().lost == 3).await;
    assert_eq!(rig.losses(), []);
    assert_eq!(rig.stop(Duration::from_secs(1)).await, Undelivered { records: 0, undeclared: 3 });
}

//! Export over gRPC, compression, and what the sink is shown, against a scripted server.

use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use prost::Message;
use std::path::Path;
use std::time::Duration;
use testimony_core::policy::{Compression, DocumentSink, SinkCondition, SinkProtocol};
use testimony_sidecar::export::{SinkFolders, Undelivered};
use tokio::time::Instant;

mod control_support;
use control_support::rig::{Options, Rig, taken};
use control_support::{Ca, Pair, Reply, Server, batch, eventually, folder, names, sink};

const PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

fn grpc(url: &str) -> DocumentSink {
    DocumentSink { protocol: SinkProtocol::Grpc, ..sink(url) }
}

#[tokio::test]
async fn a_batch_arrives_over_grpc_and_the_connection_is_kept() {
    let server = Server::start(None, |_, _| Reply::grpc(0)).await;
    let rig = Rig::start(vec![grpc(&server.url("http"))]);
    rig.push(batch(0, 3));
    let received = server.until(|all| !all.is_empty()).await;
    let first = &received[0];
    assert_eq!(first.path, format!("{}{PATH}", server.url("http")));
    for (name, value) in [
        ("content-type", "application/grpc+proto"),
        ("te", "trailers"),
        ("grpc-encoding", "gzip"),
        ("grpc-accept-encoding", "identity,gzip,zstd"),
        ("grpc-timeout", "10000m"),
        ("user-agent", concat!("testimony-sidecar/", env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(first.header(name), value, "{name}");
    }
    assert_eq!(first.records(), names(0..3));
    eventually("delivered", || rig.state().delivered == 3).await;
    rig.push(batch(3, 1));
    let received = server.until(|all| all.len() == 2).await;
    assert_eq!(received[1].connection, 1, "the connection is kept");
    eventually("delivering", || rig.state().delivered == 4 && rig.state().state == SinkCondition::Delivering).await;
    assert_eq!(rig.stop(Duration::ZERO).await, Undelivered::default());
}

#[tokio::test]
async fn every_compression_arrives_over_both_protocols_and_follows_an_edit() {
    let server = Server::start(None, |_, one| {
        if one.header("content-type").starts_with("application/grpc") { Reply::grpc(0) } else { Reply::status(200) }
    })
    .await;
    let rig = Rig::start(vec![sink(&server.url("http"))]);
    let mut sent = 0;
    for protocol in [SinkProtocol::HttpProtobuf, SinkProtocol::Grpc] {
        for (compression, name) in [(Compression::Gzip, "gzip"), (Compression::Zstd, "zstd"), (Compression::None, "")] {
            let altered = DocumentSink { protocol, compression, ..sink(&server.url("http")) };
            rig.policy.send_replace(vec![altered].into());
            let from = u32::try_from(sent).expect("few");
            // The edit and the batch race: what comes first decides how this one travels, and the next shows the edit.
            let header = if protocol == SinkProtocol::Grpc { "grpc-encoding" } else { "content-encoding" };
            rig.push(batch(from, 1));
            sent += 1;
            eventually("delivered", || rig.state().delivered == sent).await;
            rig.push(batch(from + 1, 1));
            sent += 1;
            eventually("delivered", || rig.state().delivered == sent).await;
            assert_eq!(server.received().last().expect("a request").header(header), name, "{protocol:?}");
        }
    }
    let count = u32::try_from(sent).expect("few");
    assert_eq!(taken(&server.received(), |_| true), names(0..count));
}

#[tokio::test]
async fn a_request_that_waits_for_its_retry_is_packed_anew_for_an_altered_sink() {
    let server = Server::start(None, |_, one| {
        if one.header("content-encoding") == "gzip" { Reply::status(503) } else { Reply::status(200) }
    })
    .await;
    let rig = Rig::with(Options::new(vec![sink(&server.url("http"))]), &[batch(0, 5)]);
    server.until(|all| !all.is_empty()).await;
    let altered = DocumentSink { compression: Compression::Zstd, ..sink(&server.url("http")) };
    rig.policy.send_replace(vec![altered].into());
    eventually("delivered", || rig.state().delivered == 5).await;
    let received = server.received();
    assert_eq!(received.last().expect("a request").header("content-encoding"), "zstd");
    assert_eq!(received.last().expect("a request").records(), names(0..5));
}

#[tokio::test]
async fn ex_1_nothing_is_released_or_doubled_by_a_grpc_sink_that_fails_first() {
    let server = Server::start(None, |number, _| match number {
        0 => Reply::grpc(14),
        1 => Reply::grpc(13),
        2 => Reply::status(503),
        3 => Reply::Close,
        _ => Reply::grpc(0),
    })
    .await;
    let rig = Rig::with(Options::new(vec![grpc(&server.url("http"))]), &[batch(0, 2)]);
    for number in 1..10 {
        rig.push(batch(number * 2, 2));
    }
    eventually("delivered", || rig.state().delivered == 20).await;
    assert_eq!(taken(&server.received(), |number| number > 3), names(0..20));
    assert_eq!((rig.state().lost, rig.state().error), (0, None));
}

#[tokio::test]
async fn what_is_taken_in_part_over_grpc_is_sent_again() {
    let partial = ExportLogsPartialSuccess { rejected_log_records: 3, error_message: "too old".to_owned() };
    let message = ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let server = Server::start(None, move |number, _| {
        let message = if number == 0 { message.clone() } else { Vec::new() };
        Reply::Grpc { code: 0, trailers: Vec::new(), message }
    })
    .await;
    let rig = Rig::with(Options::new(vec![grpc(&server.url("http"))]), &[batch(0, 10)]);
    eventually("all is taken", || rig.state().delivered == 10 && rig.state().lost == 0).await;
    assert_eq!(taken(&server.received(), |number| number > 0), names(0..10));
}

#[tokio::test]
async fn what_is_too_large_for_a_grpc_server_is_split_and_nothing_is_lost() {
    let server = Server::start(None, |number, one| {
        // A single record is refused once, too: by a quota and not for its size.
        let too_much = one.records().len() > 3 || one.records() == ["r7"] && number < 20;
        let message = "grpc: received message larger than max".to_owned();
        let refusal = Reply::Grpc { code: 8, trailers: vec![("grpc-message", message)], message: Vec::new() };
        if too_much { refusal } else { Reply::grpc(0) }
    })
    .await;
    let rig = Rig::with(Options::new(vec![grpc(&server.url("http"))]), &[batch(0, 20)]);
    eventually("delivered", || rig.state().delivered == 20).await;
    let received = server.received();
    let accepted: Vec<String> =
        received.iter().map(control_support::Received::records).filter(|texts| texts.len() <= 3).flatten().collect();
    assert_eq!(accepted, names(0..20));
    assert_eq!(rig.state().lost, 0);
}

#[tokio::test]
async fn a_grpc_sink_is_given_the_time_that_it_asks_for() {
    // Status{details: [Any{RetryInfo{retry_delay: 1 s}}]}
    let details = "GjAKKHR5cGUuZ29vZ2xlYXBpcy5jb20vZ29vZ2xlLnJwYy5SZXRyeUluZm8SBAoCCAE=".to_owned();
    let later = move || Reply::Grpc {
        code: 8,
        trailers: vec![("grpc-status-details-bin", details.clone())],
        message: Vec::new(),
    };
    let server = Server::start(None, move |number, _| if number == 0 { later() } else { Reply::grpc(0) }).await;
    let rig = Rig::start(vec![grpc(&server.url("http"))]);
    rig.push(batch(0, 1));
    server.until(|all| all.len() == 1).await;
    let asked = Instant::now();
    server.until(|all| all.len() == 2).await;
    assert!(asked.elapsed() > Duration::from_millis(900), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_hanging_grpc_call_ends_at_the_deadline_and_is_sent_again() {
    let server = Server::start(None, |number, _| if number == 0 { Reply::Hang } else { Reply::grpc(0) }).await;
    let hurried = DocumentSink { timeout_ms: 300, ..grpc(&server.url("http")) };
    let rig = Rig::start(vec![hurried]);
    rig.push(batch(0, 1));
    let received = server.until(|all| all.len() == 2).await;
    assert_eq!(received[1].records(), names(0..1));
    assert_eq!((received[1].connection, received[0].header("grpc-timeout")), (2, "300m"));
}

#[tokio::test]
async fn a_server_of_the_other_protocol_is_told() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let rig = Rig::start(vec![grpc(&url)]);
    rig.push(batch(0, 1));
    let (stream, _) = silent.accept().await.expect("a connection");
    stream.readable().await.expect("a request");
    assert_eq!(stream.try_write(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("written"), 28);
    eventually("told", || rig.state().error.is_some_and(|error| error.contains("speaks gRPC"))).await;
    let error = rig.state().error.expect("an error");
    assert!(error.contains("set protocol: HttpProtobuf"), "{error}");
}

// === what the sink is shown ===

fn write(dir: &Path, pair: &Pair) {
    std::fs::create_dir_all(dir).expect("a folder");
    std::fs::write(dir.join("tls.crt"), &pair.certificate).expect("a file");
    std::fs::write(dir.join("tls.key"), &pair.key).expect("a file");
}

async fn mutual_tls(protocol: SinkProtocol) {
    let mut ca = Ca::new();
    ca.clients_too = true;
    let server = Server::start(Some(&ca), |_, one| {
        if one.header("content-type").starts_with("application/grpc") { Reply::grpc(0) } else { Reply::status(200) }
    })
    .await;
    let dir = folder();
    let mut secured = DocumentSink { protocol, ca_bundle: Some(ca.pem.clone()), ..sink(&server.url("https")) };
    // Every edit ends the wait of a parked sink: the test needs no 30 seconds.
    let folders = SinkFolders { certificates: dir.clone(), ..SinkFolders::default() };
    let rig = Rig::with(Options { folders, ..Options::new(vec![secured.clone()]) }, &[batch(0, 2)]);
    let parked = async |sink: &mut DocumentSink, words: &str| {
        sink.timeout_ms += 1;
        rig.policy.send_replace(vec![sink.clone()].into());
        eventually(words, || rig.state().error.is_some_and(|error| error.contains(words))).await;
    };
    // Without a certificate: depending on what arrives first, the alert or the end of the connection is told.
    eventually("refused", || matches!(rig.state().state, SinkCondition::Parked | SinkCondition::Failing)).await;

    secured.client_certificate_secret = Some("sink-client".to_owned());
    parked(&mut secured, "restart the pod").await;
    std::fs::create_dir_all(dir.join("main")).expect("a folder");
    parked(&mut secured, "create Secret sink-client in namespace shop with keys tls.crt and tls.key").await;
    let (right, other) = (ca.issue(&["client"]), Ca::new().issue(&["client"]));
    write(&dir.join("main"), &Pair { certificate: right.certificate.clone(), key: other.key.clone() });
    parked(&mut secured, "the client certificate cannot be used").await;
    write(&dir.join("main"), &Pair { certificate: right.certificate.clone(), key: "no key".to_owned() });
    parked(&mut secured, "tls.key: holds no private key").await;
    assert_eq!(rig.state().state, SinkCondition::Parked);
    assert!(server.received().is_empty(), "nothing arrives without the right certificate");

    write(&dir.join("main"), &right);
    secured.timeout_ms += 1;
    rig.policy.send_replace(vec![secured].into());
    eventually("delivered", || rig.state().delivered == 2).await;
    // A rotation needs no edit: the next request goes over a connection with the new certificate.
    write(&dir.join("main"), &ca.issue(&["client"]));
    rig.push(batch(2, 1));
    eventually("delivered", || rig.state().delivered == 3).await;
    let received = server.received();
    assert!(received[1].connection > received[0].connection, "the old connection is closed");
    rig.push(batch(3, 1));
    eventually("delivered", || rig.state().delivered == 4).await;
    let received = server.received();
    assert_eq!(received[2].connection, received[1].connection, "the same files are the same certificate");
    assert_eq!(taken(&received, |_| true), names(0..4));
    assert_eq!(rig.state().lost, 0);
}

#[tokio::test]
async fn mutual_tls_works_over_grpc_and_follows_a_rotation() {
    mutual_tls(SinkProtocol::Grpc).await;
}

#[tokio::test]
async fn mutual_tls_works_over_http_and_follows_a_rotation() {
    mutual_tls(SinkProtocol::HttpProtobuf).await;
}

#[tokio::test]
async fn a_service_account_token_is_read_anew_and_wins_over_the_secret() {
    let server = Server::start(None, |_, one| {
        if one.header("authorization") == "Bearer expired" { Reply::grpc(16) } else { Reply::grpc(0) }
    })
    .await;
    let (headers, tokens) = (folder(), folder());
    let mut secured = DocumentSink {
        credentials: true,
        credentials_secret: Some("login".to_owned()),
        token_audience: Some("collector".to_owned()),
        ..grpc(&server.url("http"))
    };
    std::fs::create_dir_all(headers.join("main")).expect("a folder");
    std::fs::write(headers.join("main/authorization"), "Basic from-the-secret").expect("a file");
    std::fs::write(headers.join("main/x-tenant"), "audit").expect("a file");
    let folders = SinkFolders { headers, tokens: tokens.clone(), ..SinkFolders::default() };
    let rig = Rig::with(Options { folders, ..Options::new(vec![secured.clone()]) }, &[batch(0, 1)]);
    eventually("parked", || rig.state().state == SinkCondition::Parked).await;
    let error = rig.state().error.expect("an error");
    assert!(error.contains("before the sink had serviceAccountToken: restart the pod"), "{error}");
    assert!(server.received().is_empty(), "the Secret's header does not stand in for the token");

    std::fs::create_dir_all(tokens.join("main")).expect("a folder");
    std::fs::write(tokens.join("main/token"), "expired\n").expect("a file");
    secured.timeout_ms += 1;
    rig.policy.send_replace(vec![secured.clone()].into());
    eventually("refused", || rig.state().error.is_some_and(|error| error.contains("UNAUTHENTICATED"))).await;
    assert_eq!(rig.state().state, SinkCondition::Parked);
    std::fs::write(tokens.join("main/token"), "t0ken-one\n").expect("a file");
    secured.timeout_ms += 1;
    rig.policy.send_replace(vec![secured].into());
    eventually("delivered", || rig.state().delivered == 1).await;
    std::fs::write(tokens.join("main/token"), "t0ken-two\n").expect("a file");
    rig.push(batch(1, 1));
    eventually("delivered", || rig.state().delivered == 2).await;
    let shown: Vec<String> = server.received().iter().map(|one| one.header("authorization").to_owned()).collect();
    assert_eq!(shown, ["Bearer expired", "Bearer t0ken-one", "Bearer t0ken-two"]);
    assert!(server.received().iter().all(|one| one.header("x-tenant") == "audit"), "other headers stay");
    let told = format!("{:?} {}", rig.state(), rig.metrics.text());
    assert!(!told.contains("t0ken"), "{told}");
}

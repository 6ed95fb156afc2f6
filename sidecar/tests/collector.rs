//! Export to a real OpenTelemetry Collector, over both protocols, with mutual TLS: it writes what it takes to a file, and
//! the records are read back from there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use testimony_core::policy::{Compression, DocumentSink, SinkCondition, SinkProtocol};
use testimony_sidecar::export::SinkFolders;

mod control_support;
#[path = "support/otelcol.rs"]
mod otelcol;
#[path = "support/ports.rs"]
mod ports;
use control_support::rig::{Options, Rig};
use control_support::{Ca, Pair, batch, eventually, folder, names, sink};
use otelcol::Otelcol;
use ports::free_port;

/// A Collector, and the file that it writes.
struct Collector {
    grpc: SocketAddr,
    http: SocketAddr,
    records: PathBuf,
    log: PathBuf,
    _process: Otelcol,
}

impl Collector {
    /// With an authority it speaks TLS, and demands client certificates of that authority.
    fn start(ca: Option<&Ca>, dir: &Path) -> Self {
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let tls = ca.map_or_else(String::new, |ca| {
            let server = ca.issue(&["127.0.0.1"]);
            format!(
                ", tls: {{cert_file: {}, key_file: {}, client_ca_file: {}}}",
                file("server.crt", &server.certificate),
                file("server.key", &server.key),
                file("ca.crt", &ca.pem)
            )
        });
        let (grpc, http) = (free_port(), free_port());
        let (records, log) = (dir.join("logs.jsonl"), dir.join("otelcol.log"));
        let config = format!(
            "receivers:\n  otlp:\n    protocols:\n      grpc: {{endpoint: '{grpc}'{tls}}}\n      \
             http: {{endpoint: '{http}'{tls}}}\nexporters:\n  file: {{path: {}, flush_interval: 50ms}}\n\
             service:\n  pipelines:\n    logs: {{receivers: [otlp], exporters: [file]}}\n  \
             telemetry: {{metrics: {{level: none}}}}\n",
            records.display()
        );
        let config = file("config.yaml", &config);
        let process = Otelcol::start(&[Path::new(&config)], &[grpc, http], &log);
        Self { grpc, http, records, log, _process: process }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn endpoint(&self, protocol: SinkProtocol) -> String {
        let address = if protocol == SinkProtocol::Grpc { self.grpc } else { self.http };
        format!("https://{address}")
    }

    /// The bodies of all records in the file, in order.
    fn bodies(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.records).unwrap_or_default();
        let mut bodies = Vec::new();
        // The last line may be half written.
        for line in text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
            let list = |value: &serde_json::Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
            for scope in list(&line, "resourceLogs").iter().flat_map(|logs| list(logs, "scopeLogs")) {
                let records = list(&scope, "logRecords");
                bodies.extend(
                    records.iter().map(|record| record["body"]["stringValue"].as_str().unwrap_or("?").to_owned()),
                );
            }
        }
        bodies
    }
}

fn write(dir: &Path, pair: &Pair) {
    std::fs::create_dir_all(dir).expect("a folder");
    std::fs::write(dir.join("tls.crt"), &pair.certificate).expect("a file");
    std::fs::write(dir.join("tls.key"), &pair.key).expect("a file");
}

#[tokio::test]
async fn records_arrive_in_a_collector_by_every_protocol_and_compression_with_mutual_tls() {
    let (ca, dir, certificates) = (Ca::new(), folder(), folder());
    let collector = Collector::start(Some(&ca), &dir);
    write(&certificates.join("main"), &ca.issue(&["sidecar"]));
    let mut sent = 0;
    for protocol in [SinkProtocol::HttpProtobuf, SinkProtocol::Grpc] {
        for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
            let secured = DocumentSink {
                protocol,
                compression,
                ca_bundle: Some(ca.pem.clone()),
                client_certificate_secret: Some("client".to_owned()),
                ..sink(&collector.endpoint(protocol))
            };
            let folders = SinkFolders { certificates: certificates.clone(), ..SinkFolders::default() };
            let rig = Rig::with(Options { folders, ..Options::new(vec![secured]) }, &[batch(sent, 3)]);
            rig.push(batch(sent + 3, 3));
            sent += 6;
            eventually("delivered", || {
                let state = rig.state();
                assert_eq!(state.error, None, "{protocol:?} {compression:?}: {}", collector.log());
                state.delivered == 6
            })
            .await;
            eventually("in the file", || collector.bodies() == names(0..sent)).await;
        }
    }
}

#[tokio::test]
async fn a_collector_takes_nothing_from_who_shows_no_certificate_or_one_of_another_authority() {
    let (ca, dir, certificates) = (Ca::new(), folder(), folder());
    let collector = Collector::start(Some(&ca), &dir);
    for protocol in [SinkProtocol::HttpProtobuf, SinkProtocol::Grpc] {
        for secret in [None, Some("client".to_owned())] {
            write(&certificates.join("main"), &Ca::new().issue(&["sidecar"]));
            let stranger = DocumentSink {
                protocol,
                ca_bundle: Some(ca.pem.clone()),
                client_certificate_secret: secret,
                ..sink(&collector.endpoint(protocol))
            };
            let folders = SinkFolders { certificates: certificates.clone(), ..SinkFolders::default() };
            let rig = Rig::with(Options { folders, ..Options::new(vec![stranger]) }, &[batch(0, 1)]);
            eventually("told", || matches!(rig.state().state, SinkCondition::Failing | SinkCondition::Parked)).await;
            assert_eq!(rig.state().delivered, 0);
            let error = rig.state().error.expect("an error");
            assert!(error.contains("client certificate"), "{protocol:?}: {error}");
        }
    }
    assert_eq!(collector.bodies(), Vec::<String>::new());
}

#[tokio::test]
async fn the_wrong_protocol_of_a_collector_is_told_and_loses_nothing() {
    let (ca, dir, certificates) = (Ca::new(), folder(), folder());
    let collector = Collector::start(Some(&ca), &dir);
    write(&certificates.join("main"), &ca.issue(&["sidecar"]));
    for (protocol, wrong) in
        [(SinkProtocol::Grpc, SinkProtocol::HttpProtobuf), (SinkProtocol::HttpProtobuf, SinkProtocol::Grpc)]
    {
        let secured = DocumentSink {
            protocol,
            ca_bundle: Some(ca.pem.clone()),
            client_certificate_secret: Some("client".to_owned()),
            ..sink(&collector.endpoint(wrong))
        };
        let folders = SinkFolders { certificates: certificates.clone(), ..SinkFolders::default() };
        let rig = Rig::with(Options { folders, ..Options::new(vec![secured]) }, &[batch(0, 1)]);
        eventually("told", || matches!(rig.state().state, SinkCondition::Failing | SinkCondition::Parked)).await;
        let error = rig.state().error.expect("an error");
        assert!(error.contains("check that the endpoint"), "{protocol:?} to {wrong:?}: {error}");
        assert_eq!((rig.state().lost, rig.state().delivered), (0, 0));
    }
}

#[tokio::test]
async fn a_collector_without_tls_takes_each_record_from_two_sinks_at_once_while_a_third_is_down() {
    const BATCHES: u32 = 20;
    let dir = folder();
    let collector = Collector::start(None, &dir);
    let named = |name: &str, address: SocketAddr, protocol, compression| DocumentSink {
        name: name.to_owned(),
        protocol,
        compression,
        ..sink(&format!("http://{address}"))
    };
    let rig = Rig::start(vec![
        named("down", free_port(), SinkProtocol::Grpc, Compression::Gzip),
        named("grpc", collector.grpc, SinkProtocol::Grpc, Compression::Gzip),
        named("http", collector.http, SinkProtocol::HttpProtobuf, Compression::Zstd),
    ]);
    for number in 0..BATCHES {
        rig.push(batch(number, 1));
    }
    let state = |name: &str| rig.queue.sink_states().into_iter().find(|state| state.name == name).expect("a sink");
    for name in ["grpc", "http"] {
        eventually("delivered", || state(name).delivered == u64::from(BATCHES)).await;
        assert_eq!((state(name).state, state(name).error), (SinkCondition::Delivering, None), "{name}");
    }
    eventually("the third is told", || state("down").state == SinkCondition::Failing).await;
    assert_eq!((state("down").delivered, state("down").lost), (0, 0));
    let mut twice: Vec<String> = names(0..BATCHES).into_iter().chain(names(0..BATCHES)).collect();
    twice.sort();
    eventually("in the file, twice", || {
        let mut bodies = collector.bodies();
        bodies.sort();
        bodies == twice
    })
    .await;
}

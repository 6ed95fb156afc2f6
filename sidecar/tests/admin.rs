//! The admin port over real sockets.

#[path = "support/ports.rs"]
mod ports;

use ports::free_port;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use testimony_core::policy::{Refused, SinkCondition, SinkState};
use testimony_sidecar::admin::{Admin, CONNECTIONS_MAX, ConfigView, HEAD_BYTES_MAX, Ready, State};
use testimony_sidecar::config::PolicySource;
use testimony_sidecar::metrics::Metrics;
use testimony_sidecar::tail::{SUBSCRIBERS_MAX, Tail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(30);

struct Rig {
    addr: std::net::SocketAddr,
    ready: Ready,
    refreshed: Arc<AtomicU32>,
    tail: Tail,
    stop: oneshot::Sender<()>,
    task: JoinSet<()>,
}

async fn start() -> Rig {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (ready, refreshed) = (Ready::default(), Arc::new(AtomicU32::new(0)));
    let count = refreshed.clone();
    let tail = Tail::default();
    let state = State {
        metrics: Arc::new(Metrics::default()),
        refresh: Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }),
        config: Box::new(|| {
            let refused = Refused { revision: "bad".to_owned(), message: "rules[0].ports: 0 is no port".to_owned() };
            let sink = SinkState {
                name: "main".to_owned(),
                state: SinkCondition::Parked,
                error: Some("answered 401".to_owned()),
                oldest_undelivered_seconds: 7,
                delivered: 1,
                lost: 0,
            };
            ConfigView::new("0011".to_owned(), PolicySource::LastGood, Some(refused), vec![sink])
        }),
        ready: ready.clone(),
        probe_address: None,
        tail: tail.clone(),
    };
    let (stop, stopped) = oneshot::channel();
    let mut task = JoinSet::new();
    task.spawn(Admin::new(listener, state).run(async move {
        let _ = stopped.await;
    }));
    Rig { addr, ready, refreshed, tail, stop, task }
}

impl Rig {
    /// Sends bytes and reads until the server closes.
    async fn exchange(&self, request: &str) -> String {
        let work = async {
            let mut stream = TcpStream::connect(self.addr).await.expect("connect");
            stream.write_all(request.as_bytes()).await.expect("write");
            let mut answer = Vec::new();
            // A reset after the answer is as good as an end.
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8(answer).expect("text")
        };
        tokio::time::timeout(DEADLINE, work).await.expect("an answer in time")
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.exchange(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        let status = answer.get(9..12).expect("a status").parse().expect("a number");
        (status, answer)
    }
}

#[tokio::test]
async fn live_is_at_once_and_ready_once_it_is_set() {
    let rig = start().await;
    assert_eq!(rig.get("/live").await.0, 200);
    assert_eq!(rig.get("/ready").await.0, 503);
    rig.ready.set();
    assert_eq!(rig.get("/ready").await.0, 200);
}

#[tokio::test]
async fn metrics_are_refreshed_and_shown() {
    let rig = start().await;
    let (status, answer) = rig.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(
        answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{answer}"
    );
    assert!(answer.contains("testimony_records_total 0\n") && answer.ends_with("# EOF\n"), "{answer}");
    assert_eq!(rig.refreshed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn config_shows_revision_source_refusal_and_sinks() {
    let rig = start().await;
    let (status, answer) = rig.get("/config").await;
    assert_eq!(status, 200);
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let shown: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let expected = serde_json::json!({
        "version": concat!("testimony-sidecar/", env!("CARGO_PKG_VERSION")),
        "revision": "0011",
        "source": "last-good",
        "refused": {"revision": "bad", "message": "rules[0].ports: 0 is no port"},
        "sinks": [{"name": "main", "state": "Parked", "error": "answered 401", "oldestUndeliveredSeconds": 7, "delivered": 1, "lost": 0}],
    });
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn a_tcp_probe_tells_whether_somebody_listens() {
    let rig = start().await;
    let addr = free_port();
    let (listener, port) = (TcpListener::bind(addr).await.expect("its port"), addr.port());
    assert_eq!(rig.get(&format!("/probe/tcp/{port}")).await.0, 200);
    drop(listener);
    let (status, answer) = rig.get(&format!("/probe/tcp/{port}")).await;
    assert_eq!(status, 503);
    assert!(answer.contains("closed: "), "{answer}");
    for path in ["/probe/tcp/", "/probe/tcp/0", "/probe/tcp/65536", "/probe/tcp/80/x", "/probe/tcp/http"] {
        assert_eq!(rig.get(path).await.0, 400, "{path}");
    }
}

#[tokio::test]
async fn other_paths_methods_and_large_heads_are_refused() {
    let rig = start().await;
    assert_eq!(rig.get("/").await.0, 404);
    let answer =
        rig.exchange("POST /config HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    let answer = rig.exchange("HEAD /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    let large = "a".repeat(HEAD_BYTES_MAX);
    let answer = rig.exchange(&format!("GET /live HTTP/1.1\r\nhost: x\r\nx: {large}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431 ") || answer.is_empty(), "{answer}");
    assert_eq!(rig.get("/live").await.0, 200);
}

#[tokio::test]
async fn more_connections_than_allowed_wait_for_a_place() {
    let rig = start().await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(rig.addr).await.expect("connect");
        stream.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
        // An answer: this connection has its place.
        let mut byte = [0];
        stream.read_exact(&mut byte).await.expect("an answer");
        idle.push(stream);
    }
    let mut late = TcpStream::connect(rig.addr).await.expect("the backlog takes it");
    late.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(100), late.read_exact(&mut byte)).await;
    assert!(early.is_err(), "answered without a place");
    idle.pop();
    tokio::time::timeout(DEADLINE, late.read_exact(&mut byte)).await.expect("in time").expect("an answer");
}

/// Reads until `wanted` has come.
async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let work = async {
        let mut seen = Vec::new();
        let mut buffer = [0; 1024];
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            let count = stream.read(&mut buffer).await.expect("read");
            assert!(count > 0, "closed: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
        String::from_utf8(seen).expect("text")
    };
    tokio::time::timeout(DEADLINE, work).await.expect("in time")
}

#[tokio::test]
async fn tail_streams_records_to_few_clients() {
    let rig = start().await;
    let mut all = Vec::new();
    for _ in 0..SUBSCRIBERS_MAX {
        let mut stream = TcpStream::connect(rig.addr).await.expect("connect");
        stream.write_all(b"GET /tail HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("write");
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("content-type: application/x-ndjson"), "{head}");
        all.push(stream);
    }
    let (status, answer) = rig.get("/tail").await;
    assert!(status == 503 && answer.contains("others look already"), "{answer}");
    rig.tail.publish("audit.http.request", br#"{"method":"GET"}"#);
    for stream in &mut all {
        let seen = read_until(stream, "}}\n").await;
        assert!(seen.contains("{\"event\":\"audit.http.request\",\"record\":{\"method\":\"GET\"}}\n"), "{seen}");
    }
    drop(all);
    // A client that went leaves its place.
    let freed = async {
        while rig.tail.subscribe().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, freed).await.expect("in time");
}

#[tokio::test]
async fn it_ends_when_told() {
    let mut rig = start().await;
    let _open = TcpStream::connect(rig.addr).await.expect("connect");
    rig.stop.send(()).expect("it runs");
    tokio::time::timeout(DEADLINE, rig.task.join_next()).await.expect("in time").expect("a task").expect("no panic");
}

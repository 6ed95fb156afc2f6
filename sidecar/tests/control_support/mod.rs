//! A scripted HTTP server, a private authority, and batches, for the tests of export and poll.
#![allow(dead_code, reason = "each test binary uses its own part")]

use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use testimony_core::policy::{Correlation, DOCUMENT_VERSION, DocumentSink, PolicyDocument};
use testimony_sidecar::export::Batch;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// No condition of these tests takes longer, on any machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A request that the server got.
#[derive(Clone, Debug)]
pub struct Received {
    pub path: String,
    pub headers: HeaderMap,
    /// Decompressed.
    pub body: Vec<u8>,
    /// Which connection it came on, from 1.
    pub connection: u32,
}

/// What the server does.
#[derive(Clone, Debug)]
pub enum Reply {
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// Never answers.
    Hang,
    /// Closes the connection.
    Close,
}

pub struct Server {
    pub addr: SocketAddr,
    received: watch::Receiver<Vec<Received>>,
    _task: JoinSet<()>,
}

pub struct Ca {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

// === impl Reply ===

impl Reply {
    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    pub fn body(status: u16, body: Vec<u8>) -> Self {
        Self::Answer { status, headers: Vec::new(), body }
    }
}

// === impl Received ===

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub fn request(&self) -> ExportLogsServiceRequest {
        ExportLogsServiceRequest::decode(&*self.body).expect("an ExportLogsServiceRequest")
    }

    /// The bodies of all records.
    pub fn records(&self) -> Vec<String> {
        let request = self.request();
        let scopes = request.resource_logs.into_iter().flat_map(|logs| logs.scope_logs);
        scopes.flat_map(|scope| scope.log_records).map(|record| text(&record)).collect()
    }
}

// === impl Server ===

impl Server {
    /// `reply` is asked for each request, with its number from 0.
    pub async fn start(tls: Option<&Ca>, reply: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::on(listener, tls, reply)
    }

    pub fn on(
        listener: TcpListener,
        tls: Option<&Ca>,
        reply: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let addr = listener.local_addr().expect("an address");
        let (sender, received) = watch::channel(Vec::new());
        let acceptor = tls.map(Ca::acceptor);
        let (sender, reply) = (Arc::new(sender), Arc::new(reply));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            for connection in 1.. {
                let (tcp, _) = listener.accept().await.expect("accept");
                let (sender, reply, acceptor) = (sender.clone(), reply.clone(), acceptor.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request| serve(request, connection, sender.clone(), reply.clone()));
                    let builder = http1::Builder::new();
                    // Errors are the client's affair: a test sees them there.
                    let _ = match acceptor {
                        Some(acceptor) => match acceptor.accept(tcp).await {
                            Ok(tls) => builder.serve_connection(TokioIo::new(tls), service).await,
                            Err(_) => Ok(()),
                        },
                        None => builder.serve_connection(TokioIo::new(tcp), service).await,
                    };
                });
            }
        });
        Self { addr, received, _task: task }
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.addr)
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.borrow().clone()
    }

    /// Waits until what was received is as wanted.
    pub async fn until(&self, wanted: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let mut received = self.received.clone();
        let found = tokio::time::timeout(DEADLINE, received.wait_for(|all| wanted(all))).await;
        match found {
            Ok(found) => found.expect("the server lives").clone(),
            Err(_) => panic!("not received in time; have {:#?}", self.received()),
        }
    }
}

async fn serve(
    request: Request<Incoming>,
    connection: u32,
    sender: Arc<watch::Sender<Vec<Received>>>,
    reply: Arc<impl Fn(usize, &Received) -> Reply>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let mut plain = Vec::new();
    if parts.headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
        GzDecoder::new(&*body).read_to_end(&mut plain).expect("gzip");
    } else {
        plain.extend_from_slice(&body);
    }
    let received = Received { path: parts.uri.to_string(), headers: parts.headers, body: plain, connection };
    let number = sender.borrow().len();
    let reply = reply(number, &received);
    sender.send_modify(|all| all.push(received));
    match reply {
        Reply::Answer { status, headers, body } => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Ok(response.body(Full::new(body.into())).expect("a response"))
        }
        Reply::Hang => std::future::pending().await,
        Reply::Close => Err(std::io::Error::other("closed by the script")),
    }
}

// === impl Ca ===

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A server with a certificate for `sink.test` and 127.0.0.1.
    fn acceptor(&self) -> TlsAcceptor {
        let names = vec!["sink.test".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(names).expect("names").signed_by(&key, &self.issuer).expect("signed");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate");
        TlsAcceptor::from(Arc::new(config))
    }
}

// === helpers ===

/// Waits until `condition` holds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A new folder below cargo's own folder for tests.
pub fn folder() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("control-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

pub fn text(record: &LogRecord) -> String {
    match record.body.clone().and_then(|body| body.value) {
        Some(Value::StringValue(text)) => text,
        other => panic!("not a string: {other:?}"),
    }
}

/// One encoded record, as the data thread makes it.
pub fn record(body: &str) -> Bytes {
    let value = AnyValue { value: Some(Value::StringValue(body.to_owned())) };
    let record = LogRecord { body: Some(value), ..LogRecord::default() }.encode_to_vec();
    let mut out = vec![0x12];
    prost::encoding::encode_varint(record.len() as u64, &mut out);
    out.extend_from_slice(&record);
    out.into()
}

/// Records `r<from>` .. `r<from + count - 1>`; a record's time is its number.
pub fn batch(from: u32, count: u32) -> Batch {
    let bytes: Vec<u8> = (from..from + count).flat_map(|number| record(&format!("r{number}"))).collect();
    Batch {
        log_records: bytes.into(),
        records: count,
        first_unix_nanos: u64::from(from),
        last_unix_nanos: u64::from(from + count - 1),
    }
}

pub fn names(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| format!("r{number}")).collect()
}

pub fn sink(endpoint: &str) -> DocumentSink {
    DocumentSink {
        name: "main".to_owned(),
        endpoint: endpoint.to_owned(),
        ca_bundle: None,
        server_name: None,
        credentials: false,
        timeout_ms: 10_000,
        queue_bytes_max: 1 << 20,
    }
}

pub fn document(revision: &str) -> PolicyDocument {
    PolicyDocument {
        version: DOCUMENT_VERSION,
        revision: revision.to_owned(),
        policies: Vec::new(),
        client_address: Default::default(),
        correlation: Correlation::default(),
        redact: Default::default(),
        sinks: vec![sink("http://127.0.0.1:4318")],
    }
}

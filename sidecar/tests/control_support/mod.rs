//! A scripted HTTP server, a private authority, and batches, for the tests of export and poll.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod leaves;
pub mod rig;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use testimony_core::evidence::merkle::leaf;
use testimony_core::evidence::stream::StreamId;
use testimony_core::policy::{Compression, Correlation, DOCUMENT_VERSION, DocumentSink, PolicyDocument, SinkProtocol};
use testimony_sidecar::config::Operator;
use testimony_sidecar::export::{Batch, Mark, Seals};
use testimony_sidecar::poll::Caller;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// No condition of these tests takes longer, on any machine.
pub const DEADLINE: Duration = Duration::from_secs(120);

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
    /// A gRPC status with fields, in the trailers; the message is absent where there is a code.
    Grpc {
        code: u8,
        trailers: Vec<(&'static str, String)>,
        message: Vec<u8>,
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

/// A certificate and its key, as PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

pub struct Ca {
    pub pem: String,
    /// Servers of this authority demand a client certificate of it.
    pub clients_too: bool,
    issuer: Issuer<'static, KeyPair>,
}

// === impl Reply ===

impl Reply {
    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    pub fn grpc(code: u8) -> Self {
        Self::Grpc { code, trailers: Vec::new(), message: Vec::new() }
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
                    // Errors are the client's affair: a test sees them there.
                    let _ = match acceptor {
                        Some(acceptor) => match acceptor.accept(tcp).await {
                            Ok(tls) if tls.get_ref().1.alpn_protocol() == Some(b"h2") => {
                                http2::Builder::new(TokioExecutor::new())
                                    .serve_connection(TokioIo::new(tls), service)
                                    .await
                            }
                            Ok(tls) => http1::Builder::new().serve_connection(TokioIo::new(tls), service).await,
                            Err(_) => Ok(()),
                        },
                        None if speaks_http2(&tcp).await => {
                            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tcp), service).await
                        }
                        None => http1::Builder::new().serve_connection(TokioIo::new(tcp), service).await,
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

/// Whether a client begins with the preface of HTTP/2; clients write their first line at once.
async fn speaks_http2(tcp: &TcpStream) -> bool {
    let mut start = [0; 3];
    tcp.peek(&mut start).await.is_ok_and(|_| start == *b"PRI")
}

async fn serve(
    request: Request<Incoming>,
    connection: u32,
    sender: Arc<watch::Sender<Vec<Received>>>,
    reply: Arc<impl Fn(usize, &Received) -> Reply>,
) -> Result<Response<BoxBody>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let plain = unpack(&parts.headers, &body);
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
            Ok(response.body(Full::new(Bytes::from(body)).boxed()).expect("a response"))
        }
        Reply::Grpc { code, trailers, message } => {
            let mut fields = HeaderMap::new();
            fields.insert("grpc-status", u16::from(code).into());
            for (name, value) in trailers {
                fields.insert(name, value.parse().expect("a value"));
            }
            let mut body = Vec::new();
            if code == 0 {
                body.push(0);
                body.extend_from_slice(&u32::try_from(message.len()).expect("small").to_be_bytes());
                body.extend_from_slice(&message);
            }
            let body = Full::new(Bytes::from(body)).with_trailers(std::future::ready(Some(Ok(fields)))).boxed();
            Ok(Response::builder().header("content-type", "application/grpc").body(body).expect("a response"))
        }
        Reply::Hang => std::future::pending().await,
        Reply::Close => Err(std::io::Error::other("closed by the script")),
    }
}

type BoxBody = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

/// The message of a request: without frame, decompressed.
fn unpack(headers: &HeaderMap, body: &[u8]) -> Vec<u8> {
    let encoding = |name: &str| headers.get(name).map_or("", |value| value.to_str().expect("text")).to_owned();
    let (packed, encoding) = if encoding("content-type").starts_with("application/grpc") {
        let (head, message) = body.split_at(5);
        assert_eq!(u32::from_be_bytes(head[1..].try_into().expect("four bytes")) as usize, message.len());
        let encoding = encoding("grpc-encoding");
        assert_eq!(head[0] == 1, !encoding.is_empty(), "the flag tells of the encoding");
        (message, encoding)
    } else {
        (body, encoding("content-encoding"))
    };
    let mut plain = Vec::new();
    match encoding.as_str() {
        "gzip" => GzDecoder::new(packed).read_to_end(&mut plain).expect("gzip"),
        "zstd" => return zstd::decode_all(packed).expect("zstd"),
        _ => return packed.to_vec(),
    };
    plain
}

// === impl Ca ===

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, clients_too: false, issuer: Issuer::new(params, key) }
    }

    /// A certificate for these names.
    pub fn issue(&self, names: &[&str]) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).expect("names").signed_by(&key, &self.issuer).expect("signed");
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A server with a certificate for `sink.test` and 127.0.0.1.
    fn acceptor(&self) -> TlsAcceptor {
        let pair = self.issue(&["sink.test", "127.0.0.1"]);
        let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = if self.clients_too {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(vec![certificate], key).expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
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

/// Calls this server as the operator, with the token `t1`.
pub fn caller(ca: &Ca, server: &Server) -> Caller {
    let token_file = folder().join("token");
    std::fs::write(&token_file, "t1\n").expect("a token");
    let (url, ca_pem, injection_id) = (server.url("https"), ca.pem.clone(), "i-1".to_owned());
    Caller::new(Operator { url, ca_pem, token_file, injection_id, awaited: false }, None).expect("a URL")
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

/// Records `r<from>` .. `r<from + count - 1>`; a record's time and its place in the stream are its number.
pub fn batch(from: u32, count: u32) -> Batch {
    let bytes: Vec<u8> = (from..from + count).flat_map(|number| record(&format!("r{number}"))).collect();
    Batch {
        log_records: bytes.into(),
        records: count,
        first_unix_nanos: u64::from(from),
        last_unix_nanos: u64::from(from + count - 1),
        seals: Some(Seals::new(stream(), (from..from + count).map(mark).collect())),
    }
}

fn mark(number: u32) -> Mark {
    Some((u64::from(number), leaf(&number.to_be_bytes())))
}

/// The one stream of these tests.
fn stream() -> Arc<StreamId> {
    static STREAM: LazyLock<Arc<StreamId>> =
        LazyLock::new(|| Arc::new(format!("c/shop/p/{:032x}-0-0", 1).parse().expect("a name")));
    STREAM.clone()
}

pub fn names(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| format!("r{number}")).collect()
}

pub fn sink(endpoint: &str) -> DocumentSink {
    DocumentSink {
        name: "main".to_owned(),
        endpoint: endpoint.to_owned(),
        protocol: SinkProtocol::HttpProtobuf,
        compression: Compression::Gzip,
        ca_bundle: None,
        server_name: None,
        credentials: false,
        credentials_secret: None,
        client_certificate_secret: None,
        token_audience: None,
        timeout_ms: 10_000,
        queue_bytes_max: 1 << 20,
        required: true,
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

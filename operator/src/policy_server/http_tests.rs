//! The policy server as a sidecar sees it: TLS with the operator's own authority, HTTP, JSON.

use super::*;
use crate::api::AuditPolicy;
use crate::certs::{CertConfig, Certificates};
use crate::index::Indexed;
use crate::serve::{Shutdown, serve};
use crate::testing::FakeApi;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

const NAME: &str = "testimony-policy.testimony-system.svc";

/// Knows one token.
#[derive(Clone)]
struct OneToken;

impl Identify for OneToken {
    async fn identify(&self, token: &str) -> Result<Identity, Unauthorized> {
        match token {
            "good" => Ok(Identity { namespace: "shop".to_owned(), pod_name: "a".to_owned(), pod_uid: "a".to_owned() }),
            "later" => Err(Unauthorized::Unavailable("no API server".to_owned())),
            _ => Err(Unauthorized::Refused("unknown".to_owned())),
        }
    }
}

struct Bench {
    address: std::net::SocketAddr,
    bundle: Arc<str>,
    stop: watch::Sender<bool>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
    certificates: tokio::task::JoinHandle<()>,
}

async fn bench() -> Bench {
    let (stop, shutdown) = Shutdown::new();
    let config = CertConfig {
        namespace: "testimony-system".to_owned(),
        secret: "testimony-ca".to_owned(),
        names: vec![NAME.to_owned()],
        leaf_validity: Duration::from_secs(600),
        authority_validity: Duration::from_secs(6000),
    };
    let (metrics, _) = Metrics::new();
    let certificates = Certificates::new(FakeApi::default().client(), config, metrics.clone());
    let (mut bundle, tls) = (certificates.bundle(), certificates.acceptor().expect("acceptor"));
    let certificates = tokio::spawn(certificates.run(shutdown.clone()));
    let state = Arc::new(State::new("cluster.local"));
    let policy = json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "spec": {},
                        "metadata": {"name": "all", "namespace": "shop", "uid": "p"}});
    let policy: AuditPolicy = serde_json::from_value(policy).expect("policy");
    state.change(|index| AuditPolicy::apply(index, policy));
    let pod = json!({"metadata": {"name": "a", "namespace": "shop", "uid": "a"}, "spec": {"containers": []},
                     "status": {"podIP": "10.0.0.1"}});
    let pod: Pod = serde_json::from_value(pod).expect("pod");
    state.change(|index| Pod::apply(index, pod));
    let polls = PolicyServer::new(state, OneToken, bundle.clone(), metrics, shutdown.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let handler = move |request| polls.clone().handle(request);
    let server = tokio::spawn(serve(listener, Some(tls), 16, handler, shutdown));
    let bundle = bundle.wait_for(Option::is_some).await.expect("bundle").clone().expect("bundle");
    Bench { address, bundle, stop, server, certificates }
}

impl Bench {
    async fn send(&self, method: &str, path: &str, token: Option<&str>, body: Vec<u8>) -> (StatusCode, Bytes) {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.bundle.as_bytes()) {
            roots.add(certificate.expect("pem")).expect("root");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.expect("connect");
        let name = ServerName::try_from(NAME).expect("name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("handshake");
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, NAME);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("request");
        let exchange = async {
            let answer = sender.send_request(request).await.expect("answer");
            let status = answer.status();
            let body = answer.into_body().collect().await.expect("body").to_bytes();
            drop(sender);
            (status, body)
        };
        let both = async { tokio::join!(exchange, connection).0 };
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("in time")
    }

    async fn end(self) {
        self.stop.send_replace(true);
        let all = async { (self.server.await.expect("server"), self.certificates.await.expect("certificates")) };
        let (served, ()) = tokio::time::timeout(Duration::from_secs(20), all).await.expect("in time");
        served.expect("a clean end");
    }
}

fn poll(wait_seconds: u16, revision: Option<&str>) -> Vec<u8> {
    json!({"revision": revision, "injectionId": "i", "waitSeconds": wait_seconds}).to_string().into_bytes()
}

#[tokio::test]
async fn a_sidecar_gets_its_document_over_tls_and_then_nothing_new() {
    let bench = bench().await;
    let (status, body) = bench.send("POST", POLL_PATH, Some("good"), poll(0, None)).await;
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_slice(&body).expect("json");
    assert_eq!(answer["document"]["policies"][0]["name"], "shop/all");
    assert_eq!(answer["operatorCa"].as_str(), Some(&*bench.bundle));
    let revision = answer["document"]["revision"].as_str();
    let (status, body) = bench.send("POST", POLL_PATH, Some("good"), poll(0, revision)).await;
    assert_eq!((status, body.len()), (StatusCode::NO_CONTENT, 0));
    bench.end().await;
}

#[tokio::test]
async fn a_sidecar_is_told_who_has_the_addresses_that_it_met() {
    let bench = bench().await;
    let asked = json!({"addresses": ["10.0.0.1", "::ffff:10.0.0.1", "192.0.2.7"]}).to_string().into_bytes();
    let (status, body) = bench.send("POST", NAMES_PATH, Some("good"), asked).await;
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_slice(&body).expect("json");
    let wanted = json!([{"address": "10.0.0.1", "kind": "Pod", "namespace": "shop", "name": "a", "uid": "a",
                         "serviceAccount": "default", "workload": "Pod/a"}]);
    assert_eq!(answer["names"], wanted);
    let again = json!({"addresses": ["10.0.0.1"], "known": answer["digest"]}).to_string().into_bytes();
    assert_eq!(bench.send("POST", NAMES_PATH, Some("good"), again).await.0, StatusCode::NO_CONTENT);
    bench.end().await;
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let bench = bench().await;
    let good = Some("good");
    let cases = [
        ("GET", POLL_PATH, good, poll(0, None), StatusCode::METHOD_NOT_ALLOWED, "use POST"),
        ("POST", "/other", good, poll(0, None), StatusCode::NOT_FOUND, "try /v1/poll"),
        ("POST", POLL_PATH, None, poll(0, None), StatusCode::UNAUTHORIZED, "send the projected token"),
        ("POST", POLL_PATH, Some("bad"), poll(0, None), StatusCode::UNAUTHORIZED, "not accepted: unknown"),
        ("POST", POLL_PATH, Some("later"), poll(0, None), StatusCode::SERVICE_UNAVAILABLE, "no API server"),
        ("POST", POLL_PATH, good, b"{".to_vec(), StatusCode::BAD_REQUEST, "poll: EOF"),
        ("POST", NAMES_PATH, Some("bad"), b"{}".to_vec(), StatusCode::UNAUTHORIZED, "not accepted: unknown"),
        ("POST", NAMES_PATH, good, b"{}".to_vec(), StatusCode::BAD_REQUEST, "names: missing field `addresses`"),
        ("POST", POLL_PATH, good, vec![b' '; 65 * 1024], StatusCode::PAYLOAD_TOO_LARGE, "at most 65536 bytes"),
    ];
    for (method, path, token, body, status, text) in cases {
        let (found, answer) = bench.send(method, path, token, body).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!(found, status, "{method} {path}: {answer}");
        assert!(answer.contains(text), "{method} {path}: {answer}");
    }
    bench.end().await;
}

//! The policy server as a sidecar sees it: TLS with the operator's own authority, HTTP, JSON.

use super::*;
use crate::api::AuditPolicy;
use crate::certs::{CertConfig, Certificates};
use crate::index::Indexed;
use crate::serve::{Shutdown, serve};
use crate::testing::FakeApi;
use crate::witness::{Keeper, KeeperConfig, WitnessDoor};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use testimony_core::contract::{ADD_CHECKPOINT_PATH, CERTIFICATE_PATH};
use testimony_core::evidence::merkle::leaf;
use testimony_core::evidence::note::{Checkpoint, PublicKey, Signature, SignedNote};
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::witness::csr::{CertificateResponse, csr, stream_uri};
use testimony_core::evidence::witness::{Client, Outcome};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

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

    async fn may_prune(&self, token: &str) -> Result<String, Unauthorized> {
        match token {
            "alice" => Ok("alice".to_owned()),
            "good" => Err(Unauthorized::Forbidden("the pod may not prune".to_owned())),
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
    keeper: tokio::task::JoinHandle<()>,
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
    let api = FakeApi::default().client();
    let certificates = Certificates::new(api.clone(), config, metrics.clone());
    let (mut bundle, tls) = (certificates.bundle(), certificates.acceptor().expect("acceptor"));
    let authorities = (certificates.current(), certificates.bundle());
    let certificates = tokio::spawn(certificates.run(shutdown.clone()));
    let state = Arc::new(State::new("cluster.local"));
    let policy = json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "spec": {},
                        "metadata": {"name": "all", "namespace": "shop", "uid": "p"}});
    let policy: AuditPolicy = serde_json::from_value(policy).expect("policy");
    state.change(|index| AuditPolicy::apply(index, policy));
    let system = json!({"metadata": {"name": "kube-system", "uid": "c-1"}});
    let system: Namespace = serde_json::from_value(system).expect("namespace");
    state.change(|index| Namespace::apply(index, system));
    let pod = json!({"metadata": {"name": "a", "namespace": "shop", "uid": "a",
                                  "annotations": {"testimony.dev/injection-id": "0".repeat(32)}},
                     "spec": {"containers": [], "initContainers": [{"name": "testimony-sidecar"}]},
                     "status": {"podIP": "10.0.0.1"}});
    let pod: Pod = serde_json::from_value(pod).expect("pod");
    state.change(|index| Pod::apply(index, pod));
    let (door, inbox) = WitnessDoor::new();
    let config = KeeperConfig {
        namespace: "testimony-system".to_owned(),
        secret: "testimony-witness".to_owned(),
        excluded: crate::inject::ExcludedNamespaces { own: "testimony-system".to_owned(), further: Vec::new() },
    };
    let keeper = Keeper::new(config, api, (state.clone(), metrics.clone()), authorities, (door.clone(), inbox));
    let keeper = tokio::spawn(keeper.run(shutdown.clone()));
    let polls = PolicyServer::new(state, OneToken, bundle.clone(), metrics, shutdown.clone()).with_witness(door);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let handler = move |request| polls.clone().handle(request);
    let server = tokio::spawn(serve(listener, Some(tls), 16, handler, shutdown));
    let bundle = bundle.wait_for(Option::is_some).await.expect("bundle").clone().expect("bundle");
    Bench { address, bundle, stop, server, certificates, keeper }
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
        let all = async {
            self.keeper.await.expect("keeper");
            (self.server.await.expect("server"), self.certificates.await.expect("certificates"))
        };
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
async fn k1_a_sidecar_is_certified_and_cosigned_over_tls() {
    let bench = bench().await;
    let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).expect("a seed");
    let key = PublicKey(pair.public_key().as_ref().try_into().expect("32 bytes"));
    let sign = |message: &[u8]| pair.sign(message).as_ref().try_into().expect("64 bytes");
    let sid: StreamId = format!("c-1/shop/a/{:032x}-0-0", 1).parse().expect("a name");
    let asked = json!({"injectionId": "0".repeat(32), "csr": STANDARD.encode(csr(&sid, &key, sign))});
    let asked = asked.to_string().into_bytes();
    let certificate = loop {
        let (status, body) = bench.send("POST", CERTIFICATE_PATH, Some("good"), asked.clone()).await;
        match status {
            StatusCode::OK => break serde_json::from_slice::<CertificateResponse>(&body).expect("json").certificate,
            StatusCode::SERVICE_UNAVAILABLE => {}
            other => panic!("{other}: {}", String::from_utf8_lossy(&body)),
        }
    };
    let der = CertificateDer::from(STANDARD.decode(certificate).expect("base64"));
    let (_, read) = X509Certificate::from_der(&der).expect("a certificate");
    let names = read.subject_alternative_name().expect("names").expect("a name").value.general_names.clone();
    let uri = stream_uri(&sid);
    assert!(matches!(names.as_slice(), [GeneralName::URI(name)] if *name == uri), "{names:?}");
    assert_eq!(read.public_key().subject_public_key.data.as_ref(), key.0.as_slice());
    assert!(accepted(&bench.bundle, &der) && !read.is_ca());
    let mut stream = Client::new(key);
    let body = br#"{"typ":"open"}"#;
    stream.push(leaf(body));
    let checkpoint = Checkpoint { origin: sid.to_string(), size: 1, root: leaf(body) };
    let signature = sign(checkpoint.text().as_bytes());
    let note = SignedNote { signatures: vec![Signature::log(sid.as_str(), &key, &signature)], checkpoint };
    assert!(stream.head(note, None));
    let request = stream.request().expect("a head").into_bytes();
    let (status, body) = bench.send("POST", ADD_CHECKPOINT_PATH, Some("good"), request.clone()).await;
    let line = String::from_utf8(body.to_vec()).expect("text");
    assert!(status == StatusCode::OK && line.starts_with("\u{2014} c-1/testimony-system/witness "), "{status} {line}");
    assert!(matches!(stream.answered(status.as_u16(), &line), Outcome::Cosigned(_)));
    let old = String::from_utf8(request).expect("text").replacen("old 0", "old 2", 1).into_bytes();
    let cases = [
        (ADD_CHECKPOINT_PATH, Some("bad"), b"x".to_vec(), StatusCode::UNAUTHORIZED, "not accepted: unknown"),
        (
            ADD_CHECKPOINT_PATH,
            Some("good"),
            b"x".to_vec(),
            StatusCode::BAD_REQUEST,
            "add-checkpoint: the request is not",
        ),
        (ADD_CHECKPOINT_PATH, Some("good"), old, StatusCode::BAD_REQUEST, "the old size is larger"),
        (CERTIFICATE_PATH, Some("good"), b"{}".to_vec(), StatusCode::BAD_REQUEST, "certificate: missing field"),
        (
            CERTIFICATE_PATH,
            Some("good"),
            br#"{"injectionId":"i","csr":"AAAA"}"#.to_vec(),
            StatusCode::BAD_REQUEST,
            "csr: not",
        ),
    ];
    for (path, token, body, status, text) in cases {
        let (found, answer) = bench.send("POST", path, token, body).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(found == status && answer.contains(text), "{path}: {found} {answer}");
    }
    bench.end().await;
}

#[tokio::test]
async fn g2_an_order_to_prune_needs_the_right_and_a_reason() {
    let bench = bench().await;
    let sid = format!("c-1/shop/a/{:032x}-0-0", 1);
    let order = |sid: &str, reason: &str| {
        let orders = json!([{"stream": sid, "from": 0, "to": 1, "nodes": [leaf(b"x").to_hex()]}]);
        json!({"reason": reason, "orders": orders}).to_string().into_bytes()
    };
    let good = || order(&sid, "ticket 4711");
    let cases = [
        ("GET", Some("alice"), good(), StatusCode::METHOD_NOT_ALLOWED, "use POST"),
        ("POST", None, good(), StatusCode::UNAUTHORIZED, "send a token"),
        ("POST", Some("bad"), good(), StatusCode::UNAUTHORIZED, "not accepted: unknown"),
        ("POST", Some("good"), good(), StatusCode::FORBIDDEN, "the pod may not prune"),
        ("POST", Some("alice"), b"{".to_vec(), StatusCode::BAD_REQUEST, "prune: EOF"),
        ("POST", Some("alice"), order(&sid, ""), StatusCode::BAD_REQUEST, "prune: reason: it is needed"),
        ("POST", Some("alice"), order("x", "why"), StatusCode::BAD_REQUEST, "prune: "),
    ];
    for (method, token, body, status, text) in cases {
        let (found, answer) = bench.send(method, PRUNE_PATH, token, body).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(found == status && answer.contains(text), "{token:?}: {found} {answer}");
    }
    let written = loop {
        match bench.send("POST", PRUNE_PATH, Some("alice"), good()).await {
            (StatusCode::SERVICE_UNAVAILABLE, _) => {}
            (status, body) => break (status, String::from_utf8_lossy(&body).into_owned()),
        }
    };
    assert_eq!(written, (StatusCode::OK, r#"{"by":"alice"}"#.to_owned()));
    let foreign = order(&sid.replacen("c-1", "c-2", 1), "why");
    let (status, answer) = bench.send("POST", PRUNE_PATH, Some("alice"), foreign).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY && answer.contains("no stream of this cluster"), "{answer}");
    bench.end().await;
}

/// Whether the authority signed the certificate.
fn accepted(bundle: &str, certificate: &CertificateDer<'_>) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(authority.expect("pem")).expect("root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let now = rustls::pki_types::UnixTime::now();
    verifier.expect("verifier").verify_client_cert(certificate, &[], now).is_ok()
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

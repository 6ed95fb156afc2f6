//! Simulated sidecars: each polls the policy server with the token of its pod, as the real one does.

use super::simulated::{client, pods_of, runtime};
use crate::harness::Space;
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, Service, ServiceAccount};
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testimony_core::contract::{POLL_PATH, TOKEN_AUDIENCE, annotation, env, pod, port};
use testimony_core::policy::{EvidenceState, POLL_WAIT_S_MAX, PollRequest, PollResponse};
use testimony_e2e::install::OPERATOR_NAMESPACE;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// Life of a token, in seconds.
const TOKEN_SECONDS: i64 = 3600;
/// Time before a poll that failed is repeated, in milliseconds.
const RETRY_MILLIS: u64 = 200;
/// How long an answer may take beyond the wait that was asked for, in seconds.
const ANSWER_SECONDS_MAX: u64 = 15;
/// How long a sidecar waits for news, in seconds.
const WAIT_SECONDS: u16 = POLL_WAIT_S_MAX;
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Name in the policy server's certificate.
const SERVER: &str = "testimony-policy.testimony-system.svc";

/// What happened to one sidecar.
#[derive(Debug)]
pub enum News {
    /// It was given this revision.
    Revision {
        /// Which sidecar.
        sidecar: usize,
        /// The revision.
        revision: String,
        /// The authorities that it trusts from now on.
        authorities: String,
        /// When it had the whole answer.
        at: Instant,
    },
    /// A poll failed.
    Failed(String),
}

/// Sidecars that poll until they are dropped.
pub struct Sidecars {
    /// What happens to them.
    pub news: UnboundedReceiver<News>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Sidecars {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Sidecar {
    number: usize,
    address: SocketAddr,
    token: String,
    injection_id: String,
    authorities: String,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Sidecars {
    /// Begins with one sidecar for each of these pods of a space.
    pub fn start(space: &Space, names: &[String]) -> Result<Self> {
        let (sender, news) = unbounded_channel();
        let mut tasks = Vec::new();
        let address = runtime().block_on(policy_server())?;
        for (number, name) in names.iter().enumerate() {
            let sidecar = runtime().block_on(Sidecar::of(space, name, number, address))?;
            tasks.push(runtime().spawn(sidecar.poll_for_ever(sender.clone())));
        }
        Ok(Self { news, tasks })
    }
}

/// Where this machine reaches the policy server.
async fn policy_server() -> Result<SocketAddr> {
    let services: Api<Service> = Api::namespaced(client()?, OPERATOR_NAMESPACE);
    let service = services.get("testimony-policy").await?;
    let ip = service.spec.and_then(|spec| spec.cluster_ip).context("testimony-policy has no address")?;
    Ok(SocketAddr::new(ip.parse()?, port::POLICY))
}

impl Sidecar {
    /// The sidecar of a pod: what injection gave it, and a token that is bound to it.
    async fn of(space: &Space, name: &str, number: usize, address: SocketAddr) -> Result<Self> {
        let object = pods_of(space)?.get(name).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client()?, &space.name);
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": object.uid()});
        let spec = json!({"audiences": [TOKEN_AUDIENCE], "expirationSeconds": TOKEN_SECONDS, "boundObjectRef": bound});
        let request: TokenRequest = serde_json::from_value(json!({"spec": spec}))?;
        let answer = accounts.create_token_request("default", &PostParams::default(), &request).await?;
        let token = answer.status.and_then(|status| status.token).context("no token")?;
        let injection_id = object.annotations().get(annotation::INJECTION_ID).cloned().context("no injection id")?;
        let authorities = variable(&object, env::OPERATOR_CA).context("the sidecar has no authority")?;
        Ok(Self { number, address, token, injection_id, authorities, connection: None })
    }

    async fn poll_for_ever(mut self, news: UnboundedSender<News>) {
        let mut revision = None;
        loop {
            let deadline = Duration::from_secs(u64::from(WAIT_SECONDS) + ANSWER_SECONDS_MAX);
            let polled = tokio::time::timeout(deadline, self.poll(revision.clone())).await;
            let polled = polled.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in {deadline:?}")));
            let told = match polled {
                Ok(None) => continue,
                Ok(Some(answer)) => {
                    if answer.operator_ca != self.authorities {
                        // As the real one: the next request must hold under the new authorities.
                        self.connection = None;
                        self.authorities.clone_from(&answer.operator_ca);
                    }
                    revision = Some(answer.document.revision.clone());
                    let (revision, authorities) = (answer.document.revision, answer.operator_ca);
                    News::Revision { sidecar: self.number, revision, authorities, at: Instant::now() }
                }
                Err(error) => {
                    self.connection = None;
                    tokio::time::sleep(Duration::from_millis(RETRY_MILLIS)).await;
                    News::Failed(format!("sidecar {}: {error:#}", self.number))
                }
            };
            if news.send(told).is_err() {
                return;
            }
        }
    }

    async fn poll(&mut self, revision: Option<String>) -> Result<Option<PollResponse>> {
        let injection_id = self.injection_id.clone();
        let evidence = Some(EvidenceState { gap_exchanges: 0, streams: 1, unanchored: 0 });
        let (refused, sinks, wait_seconds) = (None, vec![], WAIT_SECONDS);
        let poll = PollRequest { revision, injection_id, refused, sinks, evidence, wait_seconds };
        let request = Request::post(POLL_PATH)
            .header(header::HOST, SERVER)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(serde_json::to_vec(&poll)?)))?;
        if self.connection.as_ref().is_none_or(SendRequest::is_closed) {
            self.connection = Some(connect(self.address, &self.authorities).await?);
        }
        let connection = self.connection.as_mut().context("no connection")?;
        connection.ready().await?;
        let answer = connection.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer's body: {error}"))?.to_bytes();
        match status {
            StatusCode::NO_CONTENT => Ok(None),
            StatusCode::OK => Ok(Some(serde_json::from_slice(&body)?)),
            status => bail!("{status}: {}", String::from_utf8_lossy(&body)),
        }
    }
}

/// A variable of the sidecar's environment.
fn variable(object: &Pod, name: &str) -> Option<String> {
    let init = object.spec.as_ref()?.init_containers.as_ref()?;
    let sidecar = init.iter().find(|container| container.name == pod::SIDECAR_CONTAINER)?;
    sidecar.env.as_ref()?.iter().find(|variable| variable.name == name)?.value.clone()
}

async fn connect(address: SocketAddr, authorities: &str) -> Result<SendRequest<Full<Bytes>>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(certificate.map_err(|error| anyhow::anyhow!("the authorities: {error}"))?)?;
    }
    ensure!(!roots.is_empty(), "there is no authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await.context("this test needs the local cluster")?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(SERVER)?, stream).await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection, whose sender its sidecar holds.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

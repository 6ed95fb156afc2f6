//! The way to the operator: a port-forward to its leading pod, TLS with the authority that it has published, one request.

use crate::cluster::{Cluster, head};
use crate::output::printable;
use crate::status::LEASE;
use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use std::time::Duration;
use testimony_core::contract::{PRUNE_PATH, label, port};
use testimony_core::evidence::ledger::prune::{PruneRequest, PruneResponse};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

/// How long the operator may take: until the ledger's next block is committed, a minute at most.
const ORDER_TIMEOUT: Duration = Duration::from_secs(90);

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// The operator that leads.
pub(super) struct Door<'a> {
    /// Its cluster.
    pub(super) cluster: &'a Cluster,
    /// Its namespace.
    pub(super) namespace: &'a str,
    /// Its authorities, as PEM.
    pub(super) authorities: &'a str,
}

impl Door<'_> {
    /// Gives one order. Where that fails, `open` says whether it may stand in the ledger all the same.
    ///
    /// # Errors
    /// There is no leader, it is not reached, or it does not take the order.
    pub(super) async fn order(&self, token: &str, request: &PruneRequest, open: &mut bool) -> Result<PruneResponse> {
        *open = false;
        let leader = self.leader().await?;
        let work = async {
            let (forwarder, stream) = self.cluster.forward(self.namespace, &leader, port::POLICY).await?;
            let answer = exchange(stream, self.authorities, &policy_host(self.namespace), token, request, open).await;
            forwarder.abort();
            answer
        };
        let done = tokio::time::timeout(ORDER_TIMEOUT, work).await.context("the operator did not answer in time");
        done.and_then(|answer| answer).with_context(|| format!("the leading controller is pod {leader}"))
    }

    /// The leader's pod. A node that is lost leaves its pod there with the label, beside that of the next leader.
    async fn leader(&self) -> Result<String> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), self.namespace);
        let labelled = self.cluster.list("pods", api, ListParams::default().labels(&format!("{}=true", label::LEADER)));
        let labelled = labelled.await?;
        if labelled.is_empty() {
            bail!(
                "no controller leads in namespace {}: name the installation's with --operator-namespace",
                self.namespace
            );
        }
        let leases: Api<Lease> = Api::namespaced(self.cluster.client.clone(), self.namespace);
        // Who may not read it, as under roles of before, goes by what the kubelet says.
        let lease = leases.get_opt(LEASE).await.ok().flatten();
        let holder = lease.and_then(|lease| lease.spec?.holder_identity);
        if let Some(holder) = holder.filter(|holder| labelled.iter().any(|pod| pod.name_any() == *holder)) {
            return Ok(holder);
        }
        let names = || labelled.iter().map(ResourceExt::name_any).collect::<Vec<_>>().join(", ");
        let ready = labelled.iter().find(|pod| is_ready(pod)).map(ResourceExt::name_any);
        ready.with_context(|| format!("no controller that leads is ready in namespace {}: {}", self.namespace, names()))
    }
}

/// Whether the kubelet says that it serves, and nobody wants it to go.
fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// The name in the certificate of the policy server.
fn policy_host(namespace: &str) -> String {
    format!("testimony-policy.{namespace}.svc")
}

/// One request over a connection of its own. Once it is sent, only an answer says what became of it (`open`).
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    authorities: &str,
    host: &str,
    token: &str,
    request: &PruneRequest,
    open: &mut bool,
) -> Result<PruneResponse> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("the token is none: it must be one word");
    }
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(authority.context("the operator's authorities")?).context("the operator's authorities")?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|_| anyhow!("{host} is no name"))?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let mut stream = connected.context("TLS with the operator")?;
    let body = serde_json::to_vec(request)?;
    // In HTTP/1.0 the answer ends with the connection, so it needs no framing.
    let request = format!(
        "POST {PRUNE_PATH} HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    *open = true;
    stream.write_all(&[request.as_bytes(), &body].concat()).await.context("the connection to the operator")?;
    stream.flush().await.context("the connection to the operator")?;
    let (head, mut answer) = head("operator", &mut stream).await.context("the operator's answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    // Of what it refuses nothing stands; what it could not finish in time, it may have begun.
    *open = !status.starts_with('4');
    // Not every server says good-bye.
    if let Err(error) = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await
        && error.kind() != std::io::ErrorKind::UnexpectedEof
    {
        bail!("the operator's answer: {error}");
    }
    let text = String::from_utf8_lossy(&answer);
    match status {
        "200" => serde_json::from_str(&text).context("the operator's answer"),
        "404" => bail!("the operator takes no orders: it is of an earlier version"),
        status => bail!("the operator answered {}: {}", printable(status), printable(text.trim_end())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, list};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use serde_json::{Value, json};
    use testimony_core::evidence::ledger::prune::Removal;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsAcceptor;

    const HOST: &str = "testimony-policy.testimony-system.svc";

    /// An authority, and a server's configuration under it.
    fn server() -> (String, ServerConfig) {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = params.self_signed(&key).expect("an authority").pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(vec![HOST.to_owned()]).expect("parameters").signed_by(&key, &issuer);
        let secret = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![leaf.expect("a certificate").der().clone()], secret);
        (authority, config.expect("a configuration"))
    }

    /// Sends one order to a server that answers so; what it was asked, and what came of it.
    async fn ordered(authority: Option<&str>, token: &str, answer: &'static str) -> (String, Result<PruneResponse>) {
        let (asked, result, _) = ordered_open(authority, token, answer).await;
        (asked, result)
    }

    /// The same, and whether it may stand in the ledger all the same.
    async fn ordered_open(
        authority: Option<&str>,
        token: &str,
        answer: &'static str,
    ) -> (String, Result<PruneResponse>, bool) {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (own, config) = server();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let served = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.expect("a connection");
            let Ok(mut tls) = TlsAcceptor::from(Arc::new(config)).accept(tcp).await else { return String::new() };
            let mut asked = Vec::new();
            while !asked.ends_with(b"}") {
                match tls.read_u8().await {
                    Ok(byte) => asked.push(byte),
                    Err(_) => return String::new(),
                }
            }
            tls.write_all(answer.as_bytes()).await.expect("written");
            // No good-bye: the connection just ends.
            tls.flush().await.expect("written");
            String::from_utf8(asked).expect("text")
        });
        let stream = TcpStream::connect(address).await.expect("a connection");
        let request = PruneRequest { reason: "why".to_owned(), removal: Removal::default(), orders: Vec::new() };
        let mut open = false;
        let result = exchange(stream, authority.unwrap_or(&own), HOST, token, &request, &mut open).await;
        let asked = tokio::time::timeout(Duration::from_secs(30), served).await.expect("in time").expect("a clean end");
        (asked, result, open)
    }

    #[tokio::test]
    async fn an_order_is_given_over_tls_with_the_token_and_who_gave_it_is_told() {
        let (asked, result) = ordered(None, "t1", "HTTP/1.0 200 OK\r\n\r\n{\"by\":\"alice\"}").await;
        assert_eq!(result.expect("taken").by, "alice");
        let wanted = "POST /v1/ledger/prune HTTP/1.0\r\nHost: testimony-policy.testimony-system.svc\r\n\
                      Authorization: Bearer t1\r\nContent-Type: application/json\r\nContent-Length: 46\r\n\r\n\
                      {\"reason\":\"why\",\"removal\":\"prune\",\"orders\":[]}";
        assert_eq!(asked, wanted);
    }

    #[tokio::test]
    async fn a_refusal_is_told_and_a_stranger_gets_no_token() {
        let (_, refused) = ordered(None, "t1", "HTTP/1.0 403 Forbidden\r\n\r\nbob may not prune\n").await;
        assert_eq!(refused.expect_err("refused").to_string(), "the operator answered 403: bob may not prune");
        let (_, older) = ordered(None, "t1", "HTTP/1.0 404 Not Found\r\n\r\ntry /v1/poll\n").await;
        assert!(older.expect_err("refused").to_string().contains("earlier version"));
        let (other, _) = server();
        let (asked, stranger) = ordered(Some(&other), "t1", "HTTP/1.0 200 OK\r\n\r\n{\"by\":\"mallory\"}").await;
        assert!(stranger.expect_err("a stranger").to_string().starts_with("TLS with the operator"));
        assert_eq!(asked, "");
    }

    #[tokio::test]
    async fn an_order_that_was_sent_may_stand_unless_it_is_refused() {
        for (answer, open, said) in [
            ("HTTP/1.0 403 Forbidden\r\n\r\nbob may not prune\n", false, "403"),
            ("HTTP/1.0 503 Service Unavailable\r\n\r\nnot committed in time\n", true, "503"),
            ("HTTP/1.0 200 OK\r\n\r\n{\"b", true, "the operator's answer"),
            ("HTTP/1.0 200", true, "the operator's answer"),
            ("", true, "the operator's answer"),
        ] {
            let (_, result, told) = ordered_open(None, "t1", answer).await;
            let error = format!("{:#}", result.expect_err(said));
            assert!(error.contains(said) && !error.contains("sidecar"), "{error}");
            assert_eq!(told, open, "{answer:?}");
        }
        let (other, _) = server();
        assert!(!ordered_open(Some(&other), "t1", "").await.2, "nothing was sent");
    }

    #[tokio::test]
    async fn a_token_of_two_lines_is_not_sent() {
        let (peer, _other) = tokio::io::duplex(64);
        let request = PruneRequest { reason: "why".to_owned(), removal: Removal::default(), orders: Vec::new() };
        let refused = exchange(peer, "", HOST, "a\r\nHost: b", &request, &mut false).await;
        assert!(refused.expect_err("refused").to_string().contains("one word"));
    }

    /// A pod with the leader's label.
    fn labelled(name: &str, ready: &str, leaves: bool) -> Value {
        let mut metadata = json!({"name": name, "labels": {"testimony.dev/leader": "true"}});
        if leaves {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        json!({"metadata": metadata, "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    #[tokio::test]
    async fn an_order_goes_to_the_pod_that_leads_and_not_to_one_that_a_lost_node_left() {
        let held = |holder: &str| json!({"spec": {"holderIdentity": holder}});
        let lost = || labelled("a", "False", true);
        let table = [
            ("the Lease knows", vec![labelled("a", "True", false), labelled("b", "True", false)], held("b"), Some("b")),
            ("not ready yet", vec![lost(), labelled("b", "False", false)], held("b"), Some("b")),
            ("it may not be read", vec![lost(), labelled("b", "True", false)], Value::Null, Some("b")),
            ("nobody holds it", vec![lost(), labelled("b", "True", false)], held(""), Some("b")),
            ("who holds it is not labelled", vec![lost(), labelled("b", "True", false)], held("c"), Some("b")),
            ("it leaves", vec![labelled("a", "True", true), labelled("b", "True", false)], held(""), Some("b")),
            ("none is ready", vec![lost()], held(""), None),
            ("none leads", vec![], held("b"), None),
        ];
        for (case, pods, lease, expected) in table {
            let pods_path = "/api/v1/namespaces/testimony-system/pods";
            let lease_path = "/apis/coordination.k8s.io/v1/namespaces/testimony-system/leases/testimony-controller";
            let (cluster, asked) = cluster([(pods_path, list(&pods)), (lease_path, lease)].into());
            let door = Door { cluster: &cluster, namespace: "testimony-system", authorities: "" };
            let request = PruneRequest { reason: "why".to_owned(), removal: Removal::default(), orders: Vec::new() };
            let mut open = true;
            let error = format!("{:#}", door.order("t1", &request, &mut open).await.expect_err("nothing is forwarded"));
            assert!(!open, "{case}: nothing was sent");
            let asked = asked.lock().expect("no panic").clone();
            let forwarded = asked.iter().find_map(|path| path.strip_suffix("/portforward")?.strip_prefix(pods_path));
            assert_eq!(forwarded.map(|name| name.trim_start_matches('/')), expected, "{case}: {error}");
            let named = expected.map_or("no controller", |_| "the leading controller is pod b");
            assert!(error.contains(named), "{case}: {error}");
        }
    }
}

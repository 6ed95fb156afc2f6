//! The cluster: connecting as kubectl does, reading what decisions need, and talking to sidecars by port-forward.

use crate::args::ClusterArgs;
use anyhow::{Context, Result, anyhow, bail};
use hyper::header::AUTHORIZATION;
use hyper::{Request, Response};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::api::{Api, ListParams, Portforwarder};
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;
use testimony_core::contract::port;
use testimony_core::error::error_line;
use testimony_operator::api::{AuditPolicy, AuditSink, ClusterAuditPolicy};
use testimony_operator::index::{Guarded, Index, Indexed};
use testimony_operator::pages::page;
use testimony_operator::plain::Plain;
use testimony_operator::settings::Settings;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tower::{Layer, ServiceExt};

/// Name of the webhook's configuration: it never changes.
pub const WEBHOOK_CONFIGURATION: &str = "testimony-default";

/// How long the API server may take to be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a sidecar may take to begin its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest head of a sidecar's answer, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Largest answer that is read whole, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Objects of one page of a list.
const PAGE_OBJECTS: u32 = 500;

/// A cluster that can be asked.
#[derive(Clone)]
pub struct Cluster {
    /// The client.
    pub client: Client,
    /// The namespace of `-n`, else of the context.
    pub namespace: String,
}

impl Cluster {
    /// Reads the kubeconfig. Nothing is asked yet.
    ///
    /// # Errors
    /// There is no usable kubeconfig.
    pub async fn connect(args: &ClusterArgs) -> Result<Self> {
        let mut config = config(args).await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("the kubeconfig")?;
        Ok(Self { client, namespace })
    }

    /// The token of the kubeconfig's user, whatever it comes from; `None`: the user has a certificate, or nothing.
    ///
    /// # Errors
    /// There is no usable kubeconfig, or its program that makes tokens fails.
    pub async fn bearer(args: &ClusterArgs) -> Result<Option<String>> {
        let layer = config(args).await?.auth_layer().context("the kubeconfig's user")?;
        let Some(layer) = layer else { return Ok(None) };
        // What the layer adds to a request is the only way to its token.
        let echo = tower::service_fn(|request: Request<Body>| async move {
            Ok::<_, tower::BoxError>(Response::new(request.headers().get(AUTHORIZATION).cloned()))
        });
        let answer = layer.layer(echo).oneshot(Request::new(Body::empty())).await;
        let header = answer.map_err(|error| anyhow!("the kubeconfig's user: {error}"))?.into_body();
        let text = header.as_ref().and_then(|header| header.to_str().ok());
        Ok(text.and_then(|text| text.strip_prefix("Bearer ")).map(str::to_owned))
    }

    /// Forwards a port of a pod.
    ///
    /// # Errors
    /// The user may not, the pod is not there, or nothing came of it in time.
    pub async fn forward(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> Result<(Portforwarder, impl AsyncRead + AsyncWrite + Unpin + Send + use<>)> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let forwarded = tokio::time::timeout(ANSWER_TIMEOUT, api.portforward(pod, &[port])).await;
        let forwarded = forwarded.context("the port-forward was not answered in time")?;
        let needs = "port-forward (needs the right to create pods/portforward)";
        let mut forwarder = forwarded.map_err(|error| self.explain(needs, &error))?;
        let stream = forwarder.take_stream(port).context("the forwarded port has no stream")?;
        Ok((forwarder, stream))
    }

    /// An error of the API server in words, with what to do.
    pub fn explain(&self, what: &str, error: &kube::Error) -> anyhow::Error {
        match error {
            kube::Error::Api(status) if status.code == 403 => {
                anyhow!("{what}: {}: ask for this right, or use another --context", Plain(error))
            }
            kube::Error::Api(_) => anyhow!("{what}: {}", Plain(error)),
            other => anyhow!("{what}: {}: is the cluster up, and --kubeconfig and --context right?", error_line(other)),
        }
    }

    /// One object by name, `None` if there is none.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn get<K>(&self, api: Api<K>, name: &str) -> Result<Option<K>>
    where
        K: Resource + Clone + Debug + DeserializeOwned,
    {
        api.get_opt(name).await.map_err(|error| self.explain(&format!("get {name}"), &error))
    }

    /// All objects, page by page.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn list<K>(&self, what: &str, api: Api<K>, params: ListParams) -> Result<Vec<K>>
    where
        K: Clone + Debug + DeserializeOwned,
    {
        self.list_by(PAGE_OBJECTS, what, api, params).await
    }

    /// The same, with so many objects on each page.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn list_by<K>(&self, objects: u32, what: &str, api: Api<K>, params: ListParams) -> Result<Vec<K>>
    where
        K: Clone + Debug + DeserializeOwned,
    {
        let mut params = params.limit(objects);
        let mut all = Vec::new();
        loop {
            let page = page(&api, &params).await.map_err(|error| self.explain(&format!("list {what}"), &error))?;
            let more = page.metadata.continue_.clone().filter(|token| !token.is_empty());
            all.extend(page.items);
            match more {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// What decisions on pods of one namespace look at, as the operator's own index.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn index(&self, namespace: &str, cluster_domain: &str) -> Result<Index> {
        let mut index = Index::new(cluster_domain);
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let own = self.get(namespaces.clone(), namespace).await?;
        let Some(own) = own else { bail!("namespace {namespace} does not exist") };
        Namespace::apply(&mut index, own);
        if let Some(system) = self.get(namespaces, "kube-system").await? {
            Namespace::apply(&mut index, system);
        }
        let namespaced = Api::namespaced(self.client.clone(), namespace);
        self.fill::<AuditPolicy>("auditpolicies", namespaced, &mut index).await?;
        let whole = Api::all(self.client.clone());
        self.fill::<ClusterAuditPolicy>("clusterauditpolicies", whole, &mut index).await?;
        self.fill::<AuditSink>("auditsinks", Api::all(self.client.clone()), &mut index).await?;
        self.fill::<Service>("services", Api::namespaced(self.client.clone(), namespace), &mut index).await?;
        Ok(index)
    }

    /// Lists a kind into an index; an object that this version cannot read is told to the index, as in the operator.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn fill<K>(&self, what: &str, api: Api<Guarded<K>>, index: &mut Index) -> Result<()>
    where
        K: Indexed + Resource + Clone + Debug + DeserializeOwned,
    {
        for guarded in self.list(what, api, ListParams::default()).await? {
            match guarded.0 {
                Ok(object) => K::apply(index, object),
                Err(undecodable) => K::undecodable(index, &undecodable),
            };
        }
        Ok(())
    }

    /// The webhook's configuration, if Testimony is installed.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn webhook(&self) -> Result<Option<MutatingWebhookConfiguration>> {
        self.get(Api::all(self.client.clone()), WEBHOOK_CONFIGURATION).await
    }

    /// The settings that the installed operator runs with: webhook and controller take the same.
    ///
    /// # Errors
    /// There is no installation in this namespace, or one of another version.
    pub async fn settings(&self, operator_namespace: &str) -> Result<Settings> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), operator_namespace);
        let labels = "app.kubernetes.io/name=testimony,app.kubernetes.io/component in (webhook,controller)";
        let found = self.list("deployments", api, ListParams::default().labels(labels)).await?;
        let pod = found.into_iter().next().and_then(|deployment| deployment.spec).and_then(|spec| spec.template.spec);
        let Some(container) = pod.and_then(|pod| pod.containers.into_iter().next()) else {
            bail!(
                "no Testimony in namespace {operator_namespace}: name the installation's with --operator-namespace, or install it"
            );
        };
        settings_of(operator_namespace, container.args.unwrap_or_default())
    }
}

/// The settings of a webhook that runs with these arguments.
///
/// # Errors
/// It is of another version.
pub fn settings_of(operator_namespace: &str, arguments: Vec<String>) -> Result<Settings> {
    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        settings: Settings,
    }
    let given = ["webhook", "--namespace", operator_namespace].into_iter().map(str::to_owned);
    // The first argument is the subcommand.
    let all = given.chain(arguments.into_iter().skip(1));
    let flags = <Flags as clap::Parser>::try_parse_from(all);
    flags.map(|flags| flags.settings).map_err(|error| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        anyhow!("the installed operator is of another version than this program ({line}): use one version for both")
    })
}

/// The bundle that signs the operator's certificates.
pub fn ca_bundle(webhook: &MutatingWebhookConfiguration) -> Option<&ByteString> {
    webhook.webhooks.iter().flatten().find_map(|entry| entry.client_config.ca_bundle.as_ref())
}

/// A sidecar's answer, as it comes over a forwarded port.
pub struct SidecarStream {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    /// Read with the head.
    first: Option<Vec<u8>>,
    forwarder: Portforwarder,
}

impl SidecarStream {
    /// Asks a sidecar's admin port for a page.
    ///
    /// # Errors
    /// The port cannot be forwarded, or the answer is not 200.
    pub async fn open(cluster: &Cluster, namespace: &str, pod: &str, path: &str) -> Result<Self> {
        let (forwarder, mut stream) = cluster.forward(namespace, pod, port::ADMIN).await?;
        // In HTTP/1.0 the answer ends with the connection, so it needs no framing.
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.context("the forwarded port")?;
        let head = tokio::time::timeout(ANSWER_TIMEOUT, head("sidecar", &mut stream)).await;
        let (head, rest) = head.with_context(|| format!("the sidecar of {pod} did not answer in time"))??;
        let this = Self { stream: Box::new(stream), first: Some(rest).filter(|rest| !rest.is_empty()), forwarder };
        match head.split(' ').nth(1) {
            Some("200") => Ok(this),
            _ => {
                let why = this.whole().await.unwrap_or_default();
                let line = head.lines().next().unwrap_or_default();
                bail!("the sidecar answered {line}: {}", String::from_utf8_lossy(&why).trim_end())
            }
        }
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// The forwarded connection broke.
    pub async fn read(&mut self) -> Result<Option<Vec<u8>>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let mut buffer = vec![0; 32 * 1024];
        let count = self.stream.read(&mut buffer).await.context("the forwarded port")?;
        buffer.truncate(count);
        Ok((count > 0).then_some(buffer))
    }

    /// All of a short answer.
    ///
    /// # Errors
    /// The connection broke, or the answer is not short.
    pub async fn whole(mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        let work = async {
            while let Some(bytes) = self.read().await? {
                all.extend_from_slice(&bytes);
                if all.len() > ANSWER_BYTES_MAX {
                    bail!("the sidecar's answer is over {ANSWER_BYTES_MAX} bytes");
                }
            }
            Ok(())
        };
        tokio::time::timeout(ANSWER_TIMEOUT, work).await.context("the sidecar's answer took too long")??;
        Ok(all)
    }
}

impl Drop for SidecarStream {
    fn drop(&mut self) {
        self.forwarder.abort();
    }
}

/// The kubeconfig as kubectl finds it.
async fn config(args: &ClusterArgs) -> Result<Config> {
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let told = |error: KubeconfigError| anyhow!(error_line(&error));
    let config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(told)
        }
        None if args.context.is_some() => Config::from_kubeconfig(&options).await.map_err(told),
        // It says where it has looked, each with all causes: those again would say it three times.
        None => Config::infer().await.map_err(|error| anyhow!("{error}")),
    };
    config.context("no cluster: name one with --kubeconfig and --context, as with kubectl")
}

/// Reads up to the empty line: the head of what this program answers, and what came with it.
pub(crate) async fn head(whose: &str, stream: &mut (impl AsyncRead + Unpin)) -> Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await.context("the forwarded port")?;
        if count == 0 {
            bail!("the {whose} closed the connection: does its container run, and is it of this version?");
        }
        bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        if bytes.len() > HEAD_BYTES_MAX {
            bail!("the {whose}'s answer has a head over {HEAD_BYTES_MAX} bytes");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_come_from_the_webhooks_arguments() {
        let arguments = |list: &[&str]| list.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
        let settings = settings_of("ours", arguments(&["webhook", "--sidecar-image=s:1", "--webhook-port=10250"]));
        let sidecar = settings.and_then(|settings| settings.sidecar()).expect("complete");
        assert_eq!(
            (sidecar.image.as_str(), sidecar.operator_url.as_str()),
            ("s:1", "https://testimony-policy.ours.svc:8443")
        );
        let error =
            settings_of("ours", arguments(&["webhook", "--from-the-future=1"])).map(|_| ()).expect_err("unknown");
        assert!(error.to_string().contains("use one version for both"), "{error}");
    }

    #[tokio::test]
    async fn the_kubeconfigs_token_is_found_and_a_certificate_is_none() {
        let file = std::env::temp_dir().join(format!("testimony-kubeconfig-{}", std::process::id()));
        let args = ClusterArgs { kubeconfig: Some(file.clone()), ..ClusterArgs::default() };
        let version = "client.authentication.k8s.io/v1";
        let made = json!({"apiVersion": version, "kind": "ExecCredential", "status": {"token": "t2"}}).to_string();
        let exec = json!({"apiVersion": version, "command": "echo", "args": [made], "interactiveMode": "Never"});
        let mut found = Vec::new();
        for user in [json!({"token": "t1"}), json!({"exec": exec}), json!({})] {
            let kubeconfig = json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:6443"}}],
                "users": [{"name": "u", "user": user}],
            });
            std::fs::write(&file, kubeconfig.to_string()).expect("a file");
            found.push(Cluster::bearer(&args).await.expect("a kubeconfig"));
        }
        let _ = std::fs::remove_file(&file);
        assert_eq!(found, [Some("t1".to_owned()), Some("t2".to_owned()), None]);
    }

    #[tokio::test]
    async fn a_head_ends_at_the_empty_line() {
        let (head, rest) = head("sidecar", &mut &b"HTTP/1.0 200 OK\r\na: b\r\n\r\nbody"[..]).await.expect("a head");
        assert_eq!((head.lines().next(), rest.as_slice()), (Some("HTTP/1.0 200 OK"), &b"body"[..]));
        let error = super::head("operator", &mut &b"HTTP/1.0"[..]).await.expect_err("no end").to_string();
        assert!(error.starts_with("the operator closed the connection"), "{error}");
    }
}

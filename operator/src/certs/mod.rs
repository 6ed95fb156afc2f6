//! Certificates of the operator's servers: an authority of its own in a Secret, a leaf in each replica's memory.
//!
//! Any replica may make or rotate the authority; the API server's resource version decides who was first. It is rotated at
//! two thirds of its life, or when the annotation [`ROTATE`] of the Secret says so. The leaf is renewed at two thirds of its
//! life, or with the authority, and swapped without a restart. Replicas watch the Secret, so that all change at once.

mod ca;
mod ca_bundle;
mod rotation;
#[cfg(test)]
mod tests;

pub use ca::{Authority, CertError, Leaf};
pub use ca_bundle::{CaBundleConfig, keep_ca_bundle};
pub use rotation::ROTATE;

use crate::apiserver;
use crate::metrics::{CertificateLabels, Metrics};
use crate::serve::Shutdown;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use rotation::Rotation;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::pin::pin;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// Time between two looks at the Secret, in seconds, should the watch have missed that another replica rotated the authority.
const SECRET_CHECK_SECONDS_MAX: u64 = 30;

/// Time before a failed step is tried again, in seconds.
const RETRY_SECONDS: u64 = 2;

/// Where certificates come from.
#[derive(Clone, Debug)]
pub struct CertConfig {
    /// The operator's namespace.
    pub namespace: String,
    /// Name of the authority's Secret.
    pub secret: String,
    /// DNS names of the servers.
    pub names: Vec<String>,
    /// Life of a leaf.
    pub leaf_validity: Duration,
    /// Life of an authority.
    pub authority_validity: Duration,
}

/// The certificate that servers show now.
#[derive(Debug, Default)]
pub struct Resolver(RwLock<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().ok().and_then(|key| key.clone())
    }
}

impl Resolver {
    fn set(&self, key: CertifiedKey) {
        if let Ok(mut slot) = self.0.write() {
            *slot = Some(Arc::new(key));
        }
    }
}

/// Keeps certificates; see [`Certificates::run`].
pub struct Certificates {
    config: CertConfig,
    api: Api<Secret>,
    resolver: Arc<Resolver>,
    bundle: watch::Sender<Option<Arc<str>>>,
    ready: watch::Sender<bool>,
    authority: watch::Sender<Option<Arc<Authority>>>,
    metrics: Metrics,
}

/// An error on the way to a certificate.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Cert(#[from] CertError),
    #[error("Secret: {0}")]
    Api(#[from] kube::Error),
    #[error("leaf: {0}")]
    Tls(#[from] rustls::Error),
}

impl Certificates {
    /// A keeper that has no certificate yet.
    pub fn new(client: Client, config: CertConfig, metrics: Metrics) -> Self {
        let api = Api::namespaced(client, &config.namespace);
        let (bundle, ready) = (watch::Sender::new(None), watch::Sender::new(false));
        let authority = watch::Sender::new(None);
        Self { config, api, resolver: Arc::default(), bundle, ready, authority, metrics }
    }

    /// PEM of the authorities that clients must accept; `None` before there is one.
    pub fn bundle(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.bundle.subscribe()
    }

    /// Whether there is a certificate.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// The authority in force, which certifies streams; `None` before there is one.
    pub fn current(&self) -> watch::Receiver<Option<Arc<Authority>>> {
        self.authority.subscribe()
    }

    /// TLS for a server that always shows the newest certificate.
    ///
    /// # Errors
    /// The crypto provider supports no TLS version.
    pub fn acceptor(&self) -> Result<TlsAcceptor, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.resolver.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Keeps the authority and the leaf until the signal to stop. Errors are logged and tried again.
    pub async fn run(self, mut shutdown: Shutdown) {
        let mut held: Option<(Authority, OffsetDateTime)> = None;
        let mut changes = pin!(self.changes());
        loop {
            let wait = match self.step(&mut held).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!(%error, secret = self.config.secret, "certificates not renewed, trying again");
                    Duration::from_secs(RETRY_SECONDS)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                Some(()) = changes.next() => {}
                () = shutdown.wait() => return,
            }
        }
    }

    /// Changes of the Secret. Errors are tried again, and told by the looks between.
    fn changes(&self) -> impl Stream<Item = ()> + use<> {
        let only = apiserver::watch().fields(&format!("metadata.name={}", self.config.secret));
        watcher(self.api.clone(), only).default_backoff().filter_map(|event| async move {
            matches!(event, Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_))).then_some(())
        })
    }

    /// Looks at the Secret, renews what is due, and returns the time until the next look.
    async fn step(&self, held: &mut Option<(Authority, OffsetDateTime)>) -> Result<Duration, Failure> {
        let now = OffsetDateTime::now_utc();
        let (authority, look_again) = self.authority(held.as_ref().map(|(authority, _)| authority), now).await?;
        let renew_at = match held {
            Some((known, renew_at)) if *known == authority && now < *renew_at => *renew_at,
            _ => self.renew(&authority, now)?,
        };
        let next = renew_at.min(authority.due_at());
        let bundle: Arc<str> = authority.bundle(now).into();
        self.bundle.send_if_modified(|held| {
            let changed = held.as_ref() != Some(&bundle);
            *held = Some(bundle.clone());
            changed
        });
        self.authority.send_if_modified(|held| {
            let changed = held.as_deref() != Some(&authority);
            if changed {
                *held = Some(Arc::new(authority.clone()));
            }
            changed
        });
        self.ready.send_replace(true);
        *held = Some((authority, renew_at));
        let wait = Duration::try_from(next - OffsetDateTime::now_utc()).unwrap_or_default();
        let wait = look_again.map_or(wait, |again| wait.min(again));
        Ok(wait.clamp(Duration::from_millis(100), Duration::from_secs(SECRET_CHECK_SECONDS_MAX)))
    }

    fn renew(&self, authority: &Authority, now: OffsetDateTime) -> Result<OffsetDateTime, Failure> {
        let leaf = authority.issue(&self.config.names, now, self.config.leaf_validity)?;
        self.resolver.set(CertifiedKey::from_der(leaf.chain, leaf.key, &aws_lc_rs::default_provider())?);
        let ends = [("authority", authority.not_after), ("leaf", leaf.not_after)];
        for (certificate, end) in ends {
            let gauge = self.metrics.certificate_not_after.get_or_create(&CertificateLabels { certificate });
            gauge.set(end.unix_timestamp());
        }
        tracing::info!(not_after = %leaf.not_after, renew_at = %leaf.renew_at, "certificate renewed");
        Ok(leaf.renew_at)
    }

    /// The authority in force, and when to look again at the latest: made when absent, rotated when due or asked for. Who loses
    /// the race takes the winner's.
    async fn authority(
        &self,
        held: Option<&Authority>,
        now: OffsetDateTime,
    ) -> Result<(Authority, Option<Duration>), Failure> {
        let Some(secret) = self.api.get_opt(&self.config.secret).await? else {
            // Deleted while we hold it: clients know this one, so it goes back.
            let authority = match held {
                Some(held) => held.clone(),
                None => Authority::create(now, self.config.authority_validity)?,
            };
            tracing::info!(secret = self.config.secret, "authority created");
            let created =
                self.api.create(&PostParams::default(), &self.secret(&authority, ObjectMeta::default())).await;
            return Ok((self.won(created, authority).await?, None));
        };
        let authority = Authority::from_secret(&secret.data.clone().unwrap_or_default())?;
        let why = rotation::decide(&authority, secret.metadata.annotations.as_ref(), now);
        match &why {
            Rotation::Keep => return Ok((authority, None)),
            Rotation::Wait(left) => return Ok((authority, Some(*left))),
            Rotation::Due | Rotation::Asked(_) => {}
        }
        let next = authority.rotate(now, self.config.authority_validity)?;
        let mut metadata = secret.metadata;
        metadata.annotations = rotation::done(metadata.annotations.take(), &why, now);
        let replaced =
            self.api.replace(&self.config.secret, &PostParams::default(), &self.secret(&next, metadata)).await;
        if replaced.is_ok() {
            tracing::info!(not_after = %next.not_after, ?why, "authority rotated");
        }
        Ok((self.won(replaced, next).await?, None))
    }

    async fn won(&self, written: kube::Result<Secret>, ours: Authority) -> Result<Authority, Failure> {
        match written {
            Ok(_) => Ok(ours),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let secret = self.api.get(&self.config.secret).await?;
                Ok(Authority::from_secret(&secret.data.unwrap_or_default())?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The Secret as it is written; owners that others set stay.
    fn secret(&self, authority: &Authority, metadata: ObjectMeta) -> Secret {
        let labels =
            [("app.kubernetes.io/managed-by", "testimony-operator"), ("app.kubernetes.io/part-of", "testimony")];
        Secret {
            metadata: ObjectMeta {
                name: Some(self.config.secret.clone()),
                namespace: Some(self.config.namespace.clone()),
                labels: Some(labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()),
                managed_fields: None,
                ..metadata
            },
            data: Some(authority.to_secret()),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        }
    }
}

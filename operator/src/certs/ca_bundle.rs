//! `webhooks[].clientConfig.caBundle` of the MutatingWebhookConfiguration: the only field of it that the operator owns.

use crate::apiserver;
use crate::plain::Plain;
use crate::serve::Shutdown;
use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Field manager of the bundle.
const MANAGER: &str = "testimony-ca-bundle";

/// Time before a failed write is tried again, in seconds.
const RETRY_SECONDS: u64 = 2;

/// Which entry.
#[derive(Clone, Debug)]
pub struct CaBundleConfig {
    /// Name of the MutatingWebhookConfiguration.
    pub object: String,
    /// Name of its entry.
    pub entry: String,
}

/// Writes the bundle whenever it differs from the live one, and says whether it is live, until the signal to stop.
pub async fn keep_ca_bundle(
    client: Client,
    config: CaBundleConfig,
    mut bundle: watch::Receiver<Option<Arc<str>>>,
    live: watch::Sender<bool>,
    mut shutdown: Shutdown,
) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client);
    let only = apiserver::watch().fields(&format!("metadata.name={}", config.object));
    let mut events = pin!(watcher(api.clone(), only).default_backoff());
    let mut found: Option<MutatingWebhookConfiguration> = None;
    let mut listed = false;
    loop {
        let current = bundle.borrow_and_update().clone();
        let written = write(&api, &config, found.as_ref(), current).await;
        let retry = written.is_err();
        match written {
            Ok(is_live) => {
                live.send_replace(is_live);
            }
            Err(error) => {
                tracing::warn!(error = %Plain(&error), object = config.object, "caBundle not written, trying again")
            }
        }
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                    (found, listed) = (Some(object), true);
                }
                Some(Ok(watcher::Event::Delete(_))) => found = None,
                // A watch that starts anew must not look like a deletion: readiness would flap.
                Some(Ok(watcher::Event::Init)) => listed = false,
                Some(Ok(watcher::Event::InitDone)) => found = found.take().filter(|_| listed),
                Some(Err(error)) => tracing::warn!(%error, "watch of the webhook configuration failed, trying again"),
                None => return,
            },
            changed = bundle.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_secs(RETRY_SECONDS)), if retry => {}
            () = shutdown.wait() => return,
        }
    }
}

/// Whether the bundle is live after this.
async fn write(
    api: &Api<MutatingWebhookConfiguration>,
    config: &CaBundleConfig,
    found: Option<&MutatingWebhookConfiguration>,
    bundle: Option<Arc<str>>,
) -> kube::Result<bool> {
    let (Some(found), Some(bundle)) = (found, bundle) else { return Ok(false) };
    let Some(entry) = found.webhooks.iter().flatten().find(|w| w.name == config.entry) else {
        tracing::warn!(object = found.name_any(), entry = config.entry, "the webhook configuration lacks our entry");
        return Ok(false);
    };
    let bundle = ByteString(bundle.as_bytes().to_vec());
    if entry.client_config.ca_bundle.as_ref() == Some(&bundle) {
        return Ok(true);
    }
    let patch = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": config.object},
        "webhooks": [{"name": config.entry, "clientConfig": {"caBundle": bundle}}],
    });
    api.patch(&config.object, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await?;
    tracing::info!(object = config.object, "caBundle written");
    Ok(true)
}

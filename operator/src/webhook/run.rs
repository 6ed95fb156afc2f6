//! The webhook's process: watches, certificates, server. Each replica works alone.

use super::{CONNECTIONS_MAX, Mutator};
use crate::certs::{CaBundleConfig, Certificates, keep_ca_bundle};
use crate::metrics::Metrics;
use crate::serve::serve;
use crate::settings::{STRICT_WEBHOOK_ENTRY, Settings, WEBHOOK_ENTRY};
use crate::state::State;
use crate::supervise::{Supervisor, bind, serve_admin};
use crate::watches::Watches;
use crate::{admin, api};
use anyhow::Context;
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::Client;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Time to go on after the signal, in seconds: nodes and API servers learn late that this replica is no endpoint any more,
/// and a review that is not answered is a pod without a sidecar.
const LINGER_SECONDS: u64 = 5;

/// Runs the webhook until a signal.
///
/// # Errors
/// A setting is missing, a port is taken, or a task died.
pub async fn run(settings: Settings, client: Client) -> anyhow::Result<()> {
    let config = settings.sidecar()?;
    let (metrics, registry) = Metrics::new();
    let state = Arc::new(State::new(&settings.cluster_domain));
    state.remember(|index| index.strict_off = !settings.strict_namespaces);
    let mut supervisor = Supervisor::new(Duration::from_secs(LINGER_SECONDS))?;
    let shutdown = supervisor.shutdown();
    let admin_listener = bind(settings.admin_port, "--admin-port").await?;
    let listener = bind(settings.webhook_port, "--webhook-port").await?;

    // Admission looks at these; pods come in the reviews themselves.
    let watches = Watches::new(&mut supervisor, &client, &state, &metrics).add::<Namespace>().add::<api::AuditPolicy>();
    let watches = watches.add::<api::ClusterAuditPolicy>().add::<api::AuditSink>().add::<Service>().synced();
    let mut readiness = admin::Readiness::default();
    for (kind, synced) in &watches {
        readiness = readiness.with(kind, synced.clone());
    }
    let synced = watches.into_iter().map(|(_, synced)| synced).collect();

    let certificates = Certificates::new(client.clone(), settings.certificates(), metrics.clone());
    let (bundle, tls) = (certificates.bundle(), certificates.acceptor()?);
    readiness = readiness.with("certificate", certificates.ready());
    supervisor.add("certificates", {
        let shutdown = shutdown.clone();
        async move {
            certificates.run(shutdown).await;
            Ok(())
        }
    });

    let strict = ("strict caBundle", settings.strict_webhook_config_name.clone(), STRICT_WEBHOOK_ENTRY);
    let strict = settings.strict_namespaces.then_some(strict);
    let default = ("caBundle", settings.webhook_config_name.clone(), WEBHOOK_ENTRY);
    for (task, object, entry) in std::iter::once(default).chain(strict) {
        let (live, is_live) = watch::channel(false);
        readiness = readiness.with(task, is_live);
        let entry = CaBundleConfig { object, entry: entry.to_owned() };
        let keep = keep_ca_bundle(client.clone(), entry, bundle.clone(), live, shutdown.clone());
        supervisor.add(task, async move {
            keep.await;
            Ok(())
        });
    }

    let mutator = Mutator { state, excluded: settings.excluded(), config, bundle, synced, metrics };
    let handler = move |request| mutator.clone().handle(request);
    supervisor.add("webhook", {
        let serve = serve(listener, Some(tls), CONNECTIONS_MAX, handler, shutdown.clone());
        async move { serve.await.context("webhook server") }
    });
    supervisor.add("admin", serve_admin(admin_listener, readiness, registry, shutdown));
    supervisor.run().await
}

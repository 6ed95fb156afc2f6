//! The controller: reads the cluster, serves documents to sidecars, writes statuses and Events. Several replicas may run;
//! one leads.

pub mod conditions;
mod events;
mod evidence_status;
#[cfg(test)]
mod evidence_tests;
#[cfg(test)]
mod honest_tests;
mod injection;
pub mod lease;
mod owned;
#[cfg(test)]
mod policy_tests;
mod rollout;
mod rollouts;
mod sink_status;
pub mod status;
mod tell;
#[cfg(test)]
mod tests;
mod writer;
#[cfg(test)]
mod writer_tests;

use crate::certs::{Authority, Certificates};
use crate::metrics::Metrics;
use crate::plain::Plain;
use crate::policy_server::{CONNECTIONS_MAX, PolicyServer, Reviewer};
use crate::serve::{Shutdown, serve};
use crate::settings::{InjectionMode, Settings};
use crate::state::State;
use crate::supervise::{Supervisor, bind, serve_admin, wait_for};
use crate::watches::Watches;
use crate::witness::{Asked, Exporter, HeadCopy, Keeper, KeeperConfig, Shower, WitnessDoor};
use crate::{admin, api};
use anyhow::Context;
use injection::Injection;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::Client;
use lease::Election;
use owned::Owned;
use rollouts::Rollouts;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use writer::{Writer, label_leader};

/// Time before the leader's label is tried again, in seconds.
const LABEL_RETRY_SECONDS: u64 = 2;

/// Deadline of one write of the leader's label, in seconds: a candidate waits for it.
const LABEL_SECONDS_MAX: u64 = 5;

/// Runs the controller until a signal.
///
/// # Errors
/// A port is taken, the lease is lost, or a task died.
pub async fn run(settings: Settings, client: Client) -> anyhow::Result<()> {
    if settings.injection_mode == InjectionMode::AdmissionPolicy {
        // Better said before anything starts.
        settings.sidecar()?;
    }
    let (metrics, registry) = Metrics::new();
    let state = Arc::new(State::new(&settings.cluster_domain));
    state.remember(|index| index.strict_off = !settings.strict_namespaces);
    let mut supervisor = Supervisor::new(Duration::ZERO)?;
    let shutdown = supervisor.shutdown();
    let admin_listener = bind(settings.admin_port, "--admin-port").await?;

    let watches = Watches::new(&mut supervisor, &client, &state, &metrics).add::<Namespace>().add::<api::AuditPolicy>();
    let watches = watches.add::<api::ClusterAuditPolicy>().add::<api::AuditSink>().add::<Service>().add::<Pod>();
    let synced = watches.synced().into_iter().map(|(_, synced)| synced).collect();

    let certificates = Certificates::new(client.clone(), settings.certificates(), metrics.clone());
    let (bundle, certificate_ready) = (certificates.bundle(), certificates.ready());
    let authority = certificates.current();
    let tls = certificates.acceptor()?;
    supervisor.add("certificates", {
        let shutdown = shutdown.clone();
        async move {
            certificates.run(shutdown).await;
            Ok(())
        }
    });
    let readiness = admin::Readiness::default().with("certificate", certificate_ready.clone());
    supervisor.add("admin", serve_admin(admin_listener, readiness, registry, shutdown.clone()));

    let leader = Leader { settings, client, state, metrics, bundle, authority, tls };
    supervisor.add("leader", leader.run(synced, certificate_ready, shutdown));
    supervisor.run().await
}

/// What only one replica does.
struct Leader {
    settings: Settings,
    client: Client,
    state: Arc<State>,
    metrics: Metrics,
    bundle: watch::Receiver<Option<Arc<str>>>,
    authority: watch::Receiver<Option<Arc<Authority>>>,
    tls: TlsAcceptor,
}

impl Leader {
    async fn run(
        self,
        mut synced: Vec<watch::Receiver<bool>>,
        certificate: watch::Receiver<bool>,
        mut shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        // A container that was restarted in its pod finds the label of its life before.
        self.label(false, &mut shutdown).await;
        let me = self.settings.replica();
        let election = Election::new(self.client.clone(), &self.settings.namespace, &self.settings.lease_name, &me);
        if !election.win(&mut shutdown).await {
            return Ok(());
        }
        self.metrics.leader.set(1);
        tracing::info!(replica = me, "leading");
        let renewal = election.hold(shutdown.clone());
        synced.push(certificate);
        let work = self.lead(synced, me, shutdown);
        let (lease, work) = tokio::try_join!(async { renewal.await.map_err(anyhow::Error::from) }, work)?;
        let ((), ()) = (lease, work);
        Ok(())
    }

    async fn lead(self, ready: Vec<watch::Receiver<bool>>, me: String, mut shutdown: Shutdown) -> anyhow::Result<()> {
        // Statuses and documents from half a list would be wrong ones.
        if !wait_for(ready, &mut shutdown).await {
            return Ok(());
        }
        let listener = bind(self.settings.policy_port, "--policy-port").await?;
        let reviewer = Reviewer::new(self.client.clone(), &self.settings.namespace);
        let server = PolicyServer::new(
            self.state.clone(),
            reviewer,
            self.bundle.clone(),
            self.metrics.clone(),
            shutdown.clone(),
        );
        let (door, inbox) = WitnessDoor::new();
        let server = server.with_witness(door.clone());
        let handler = move |request| server.clone().handle(request);
        let polls = serve(listener, Some(self.tls.clone()), CONNECTIONS_MAX, handler, shutdown.clone());
        let excluded = self.settings.excluded();
        let (client, state, metrics) = (self.client.clone(), self.state.clone(), self.metrics.clone());
        let rolls = self.settings.rollout_enabled;
        let rollouts =
            Rollouts::new(client.clone(), state.clone(), excluded.clone(), metrics.clone(), me.clone(), rolls);
        let restart = rollouts.run(shutdown.clone());
        let writer = Writer::new(client, state, excluded, metrics, me, rolls);
        let write = writer.run(shutdown.clone());
        let witness = self.witness(door, inbox, shutdown.clone());
        let owned = Owned::new(self.client.clone(), self.settings.clone()).run(shutdown.clone());
        let injection = self.injection(shutdown.clone());
        let label = async {
            self.label(true, &mut shutdown).await;
            shutdown.wait().await;
            self.unlabel().await;
        };
        let (polls, injection, (), (), (), (), ()) =
            tokio::join!(polls, injection, write, restart, owned, witness, label);
        injection?;
        polls.context("policy server")
    }

    /// Keeps the ledger, and sends it to the sinks.
    async fn witness(&self, door: WitnessDoor, inbox: mpsc::Receiver<Asked>, shutdown: Shutdown) {
        let config = KeeperConfig {
            namespace: self.settings.namespace.clone(),
            secret: self.settings.witness_secret.clone(),
            excluded: self.settings.excluded(),
        };
        let shared = (self.state.clone(), self.metrics.clone());
        let certificates = (self.authority.clone(), self.bundle.clone());
        let keeper = Keeper::new(config, self.client.clone(), shared, certificates, (door, inbox));
        let (store, progress) = keeper.blocks();
        let (state, metrics, unread) = (self.state.clone(), self.metrics.clone(), keeper.unread());
        let exporter = Exporter { store, state, metrics, progress, unread };
        let shower = self.settings.outside_witness().map(|config| {
            let (store, progress) = keeper.blocks();
            let (metrics, unread) = (self.metrics.clone(), keeper.unread());
            Shower { config, store, metrics, progress, unread, notes: keeper.notes() }
        });
        let show = async {
            if let Some(shower) = shower {
                shower.run(shutdown.clone()).await;
            }
        };
        let interval = Duration::from_secs(u64::from(self.settings.ledger_head_copy_seconds));
        let head_copy = (!interval.is_zero()).then(|| {
            let (store, progress) = keeper.blocks();
            HeadCopy { folder: self.settings.ledger_head_copy_folder.clone(), store, progress, interval }
        });
        let copy = async {
            if let Some(head_copy) = head_copy {
                head_copy.run(shutdown.clone()).await;
            }
        };
        tokio::join!(keeper.run(shutdown.clone()), exporter.run(shutdown.clone()), show, copy);
    }

    /// Keeps the admission policies, where there is no webhook.
    async fn injection(&self, shutdown: Shutdown) -> anyhow::Result<()> {
        if self.settings.injection_mode == InjectionMode::Webhook {
            return Ok(());
        }
        let (client, settings) = (self.client.clone(), self.settings.clone());
        let (state, bundle) = (self.state.clone(), self.bundle.clone());
        Injection { client, config: settings.sidecar()?, settings, state, bundle }.run(shutdown).await;
        Ok(())
    }

    /// Sets the label, trying until the signal to stop.
    async fn label(&self, leads: bool, shutdown: &mut Shutdown) {
        let Some(pod) = &self.settings.pod_name else { return };
        loop {
            let write = label_leader(self.client.clone(), &self.settings.namespace, pod, leads);
            let error = match tokio::time::timeout(Duration::from_secs(LABEL_SECONDS_MAX), write).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => Plain(&error).to_string(),
                Err(_) => "no answer".to_owned(),
            };
            tracing::warn!(error, pod, leads, "leader label not written, trying again");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(LABEL_RETRY_SECONDS)) => {}
                () = shutdown.wait() => return,
            }
        }
    }

    /// Takes the label away at the end, once: the pod goes anyway.
    async fn unlabel(&self) {
        let Some(pod) = &self.settings.pod_name else { return };
        let write = label_leader(self.client.clone(), &self.settings.namespace, pod, false);
        let _ = tokio::time::timeout(Duration::from_secs(LABEL_RETRY_SECONDS), write).await;
    }
}

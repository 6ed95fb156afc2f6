//! The test's steps: each asks, waits, and says what it saw.

use super::http::get;
use super::judge::{self, DefaultSink, Probe, Record};
use super::objects::{self, NAME};
use super::receiver::{CONNECTIONS_MAX, Receiver};
use super::server::ANSWER;
use super::{OWN_NAMESPACE, RECEIVER_PORT, RunArgs, SERVER_PORT};
use crate::api::{AuditPolicy, AuditSink};
use crate::plain::Plain;
use crate::serve::{Shutdown, serve};
use crate::settings::InjectionMode;
use crate::supervise::bind;
use anyhow::{Context, bail};
use hyper::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use testimony_core::contract::port;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

/// Field manager of what the test applies.
const MANAGER: &str = "testimony-selftest";
/// How often is looked, in milliseconds.
const POLL_MILLIS: u64 = 300;
/// Time for what an earlier run left to go, in seconds.
const GONE_SECONDS_MAX: u64 = 30;
/// Time for the operator to act on an object, in seconds.
const OPERATOR_SECONDS_MAX: u64 = 30;
/// Time for a pod to become ready, in seconds: two images may have to be pulled.
const START_SECONDS_MAX: u64 = 90;
/// Time for a record to arrive, in seconds.
const RECORD_SECONDS_MAX: u64 = 30;
/// Time for deleting what the test made, in seconds.
const CLEAN_SECONDS_MAX: u64 = 10;

/// Why the test failed.
#[derive(Debug, thiserror::Error)]
#[error("FAILED  {step}\n        {why}\n        next: {next}")]
pub(super) struct Failure {
    step: &'static str,
    why: String,
    next: String,
}

/// Runs the test and says on standard output what it saw.
///
/// # Errors
/// A step failed, or the test was stopped.
pub async fn run(args: RunArgs, client: Client) -> anyhow::Result<()> {
    let listener = bind(RECEIVER_PORT, "the receiver").await?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let path = format!("/testimony-selftest/m{micros:x}");
    let receiver = Receiver::new(&path);
    let taking = receiver.clone();
    let (_stop, shutdown) = Shutdown::new();
    let serving = serve(listener, None, CONNECTIONS_MAX, move |request| taking.clone().take(request), shutdown);
    let ports = Ports { server: SERVER_PORT, admin: port::ADMIN };
    let test = Test::new(args, client, receiver, path, ports);
    let outcome = tokio::select! {
        outcome = test.steps() => outcome.map_err(|failure| failure.to_string()),
        ended = serving => Err(format!("the receiver ended: {ended:?}")),
        _ = terminate.recv() => Err("the test was stopped before its end".to_owned()),
    };
    if timeout(Duration::from_secs(CLEAN_SECONDS_MAX), test.clean()).await.is_err() {
        println!("note    what the test made could not be deleted in time; the next run does it");
    }
    if let Err(why) = outcome {
        println!("{why}");
        bail!("the self-test failed");
    }
    println!("Requests to audited pods are recorded, and the records arrive.");
    Ok(())
}

/// Where the audited pod answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) server: u16,
    pub(super) admin: u16,
}

pub(super) struct Test {
    args: RunArgs,
    ports: Ports,
    receiver: Receiver,
    path: String,
    pods: Api<Pod>,
    policies: Api<AuditPolicy>,
    sinks: Api<AuditSink>,
    any_sinks: Api<DynamicObject>,
    roles: Api<ClusterRole>,
}

impl Test {
    pub(super) fn new(args: RunArgs, client: Client, receiver: Receiver, path: String, ports: Ports) -> Self {
        Self {
            ports,
            receiver,
            path,
            pods: Api::namespaced(client.clone(), &args.namespace),
            policies: Api::namespaced(client.clone(), &args.namespace),
            sinks: Api::all(client.clone()),
            // Untyped: one sink of another shape must not hide the others.
            any_sinks: Api::all_with(client.clone(), &ApiResource::erase::<AuditSink>(&())),
            roles: Api::all(client),
            args,
        }
    }

    pub(super) async fn steps(&self) -> Result<(), Failure> {
        let default = self.prepare().await?;
        self.policy_accepted(default.as_ref()).await?;
        self.pod_injected().await?;
        let address = self.pod_started().await?;
        self.policy_in_force().await?;
        self.request(&address).await?;
        let record = self.record_arrived().await?;
        let field = |name: &str| record.get(name).map(String::as_str).unwrap_or_default();
        println!("        {} {} {}, by policy {}", field("method"), field("path"), field("status"), field("policy"));
        match default {
            Some(sink) => self.default_delivers(&sink, &address).await,
            None => {
                println!("note    no AuditSink is marked default: policies must name their sinks");
                Ok(())
            }
        }
    }

    /// Clears what an earlier run left, and looks for the default sink.
    async fn prepare(&self) -> Result<Option<DefaultSink>, Failure> {
        let step = "the API server serves AuditSinks, and nothing of an earlier run is left";
        let next = "kubectl get crd auditsinks.audit.testimony.dev auditpolicies.audit.testimony.dev".to_owned();
        self.clean().await;
        self.wait(step, next, GONE_SECONDS_MAX, async || {
            match self.pods.get_opt(NAME).await {
                Ok(None) => {}
                Ok(Some(_)) => return Probe::Wait(format!("pod {NAME} of an earlier run is still there")),
                Err(error) => return refused(&error),
            }
            match self.any_sinks.list(&ListParams::default()).await {
                Ok(list) => Probe::Done(judge::default_sink(&list.items)),
                Err(error) => refused(&error),
            }
        })
        .await
    }

    async fn policy_accepted(&self, default: Option<&DefaultSink>) -> Result<(), Failure> {
        let step = "the controller accepts an AuditSink and an AuditPolicy";
        let policy = objects::policy(&self.args.namespace, default.map(|sink| sink.name.as_str()));
        self.wait(step, self.look_at("controller"), OPERATOR_SECONDS_MAX, async || {
            let (sink, policy) = match self.apply(&policy).await {
                Ok(applied) => applied,
                Err(error) => return refused(&error),
            };
            let status = sink.status.unwrap_or_default();
            let sink = judge::accepted(sink.metadata.generation, status.observed_generation, &status.conditions);
            let status = policy.status.unwrap_or_default();
            let policy = judge::accepted(policy.metadata.generation, status.observed_generation, &status.conditions);
            match (sink, policy) {
                (Probe::Done(()), policy) => told("AuditPolicy", policy),
                (sink, _) => told("AuditSink", sink),
            }
        })
        .await
    }

    /// Applies both; applying again changes nothing, and answers with their statuses.
    async fn apply(&self, policy: &Value) -> kube::Result<(AuditSink, AuditPolicy)> {
        let owner = match self.args.owner_cluster_role.as_deref() {
            Some(role) => self.roles.get(role).await?.uid().map(|uid| (role, uid)),
            None => None,
        };
        let owner = owner.as_ref().map(|(role, uid)| (*role, uid.as_str()));
        let sink = objects::sink(self.args.pod_ip, RECEIVER_PORT, owner);
        let params = PatchParams::apply(MANAGER).force();
        let sink = self.sinks.patch(NAME, &params, &Patch::Apply(sink)).await?;
        Ok((sink, self.policies.patch(NAME, &params, &Patch::Apply(policy)).await?))
    }

    async fn pod_injected(&self) -> Result<(), Failure> {
        let (step, hint) = self.who_injects();
        let pod = objects::pod(&self.args);
        self.wait(step, hint, OPERATOR_SECONDS_MAX, async || {
            // Who injects may learn of the policy after the controller: then the pod is made again.
            let made = match self.pods.get_opt(NAME).await {
                Ok(Some(made)) => Ok(made),
                Ok(None) => self.pods.patch(NAME, &PatchParams::apply(MANAGER), &Patch::Apply(&pod)).await,
                Err(error) => Err(error),
            };
            match made {
                Ok(made) if made.metadata.deletion_timestamp.is_some() => Probe::Wait("the pod goes".to_owned()),
                Ok(made) if judge::injected(&made) => Probe::Done(()),
                Ok(_) => {
                    let reason = self.why_skipped().await;
                    let now = DeleteParams::default().grace_period(0);
                    let deleted = self.pods.delete(NAME, &now).await;
                    deleted.map_or_else(|error| refused(&error), |_| Probe::Wait(reason))
                }
                Err(error) => refused(&error),
            }
        })
        .await
    }

    /// Who adds the sidecar, and where to look when it does not come.
    fn who_injects(&self) -> (&'static str, String) {
        match self.args.injection_mode {
            InjectionMode::Webhook => (
                "the webhook adds the sidecar to a new pod",
                format!("{}; the API server must reach port {} of these pods", self.look_at("webhook"), port::WEBHOOK),
            ),
            InjectionMode::AdmissionPolicy => (
                "the API server adds the sidecar to a new pod",
                format!(
                    "kubectl get mutatingadmissionpolicies,mutatingadmissionpolicybindings (the controller makes them): {}",
                    self.look_at("controller")
                ),
            ),
        }
    }

    /// Why the policy's status says that the pod has no sidecar.
    async fn why_skipped(&self) -> String {
        let status = self.policies.get(NAME).await.ok().and_then(|policy| policy.status);
        let reason = status.and_then(|status| status.skipped.into_iter().next()).map(|skipped| skipped.reason);
        let reason = reason.map_or_else(String::new, |reason| format!(", reason {reason} (docs/limits.md)"));
        format!("every pod that was made came without the sidecar{reason}")
    }

    async fn pod_started(&self) -> Result<String, Failure> {
        let next = format!(
            "docs/troubleshooting.md, \"A pod does not start\"; if an image cannot be pulled: values imagePullSecrets and \
             test.namespace (the Secrets must stand in namespace {})",
            self.args.namespace
        );
        self.wait("the pod starts with its sidecar", next, START_SECONDS_MAX, async || {
            match self.pods.get(NAME).await {
                Ok(pod) => judge::started(&pod),
                Err(error) => refused(&error),
            }
        })
        .await
    }

    async fn policy_in_force(&self) -> Result<(), Failure> {
        let next = format!(
            "kubectl --namespace {} get endpointslices --selector kubernetes.io/service-name=testimony-policy; audited \
             pods must reach port {} of the controller",
            self.args.operator_namespace,
            port::POLICY
        );
        self.wait("the sidecar says that it runs the policy", next, OPERATOR_SECONDS_MAX, async || {
            match self.policies.get(NAME).await {
                Ok(policy) => {
                    let status = policy.status.unwrap_or_default();
                    judge::programmed(status.pods.programmed, &status.conditions)
                }
                Err(error) => refused(&error),
            }
        })
        .await
    }

    async fn request(&self, address: &str) -> Result<(), Failure> {
        let next = format!(
            "network policies: namespace {} must let namespace {} in on port {SERVER_PORT}",
            self.args.namespace, self.args.operator_namespace
        );
        self.wait("a request to the pod is answered by its application", next, RECORD_SECONDS_MAX, async || match get(
            address,
            self.ports.server,
            &self.path,
        )
        .await
        {
            Ok((StatusCode::OK, answer)) if answer == ANSWER => Probe::Done(()),
            Ok((status, answer)) => Probe::Wait(format!("the answer is {status}: {answer}")),
            Err(error) => Probe::Wait(error),
        })
        .await
    }

    async fn record_arrived(&self) -> Result<Record, Failure> {
        let next = format!("network policies: audited pods must reach {}, port {RECEIVER_PORT}", self.args.pod_ip);
        self.wait("its record arrives at a sink of this test", next, RECORD_SECONDS_MAX, async || {
            self.receiver.found().map_or_else(|| Probe::Wait("no record of the request came".to_owned()), Probe::Done)
        })
        .await
    }

    async fn default_delivers(&self, sink: &DefaultSink, address: &str) -> Result<(), Failure> {
        if let Some(secret) = sink.credentials.as_deref().filter(|_| self.args.namespace == OWN_NAMESPACE) {
            println!(
                "note    sink {} was not tried: its Secret {secret} does not exist in a namespace made for the test; \
                 value test.namespace names one that has it",
                sink.name
            );
            return Ok(());
        }
        let step = "the default sink acknowledges the record";
        let mut next = format!(
            "{} must be reachable from audited pods; kubectl describe auditsink {}; docs/troubleshooting.md, \"No records \
             in the backend\"",
            sink.endpoint, sink.name
        );
        let waited = self
            .wait(step, String::new(), RECORD_SECONDS_MAX, async || {
                match get(address, self.ports.admin, "/metrics").await {
                    Ok((StatusCode::OK, page)) => judge::delivered(&page, &sink.name),
                    Ok((status, _)) => Probe::Wait(format!("the sidecar's /metrics answers {status}")),
                    Err(error) => Probe::Wait(format!("the sidecar's port {}: {error}", port::ADMIN)),
                }
            })
            .await;
        let Err(failure) = waited else { return Ok(()) };
        if let Ok(sink) = self.any_sinks.get(&sink.name).await {
            let message = judge::delivering(&sink);
            if !message.is_empty() {
                next = format!("the sidecars say: {message}. {next}");
            }
        }
        Err(Failure { next, ..failure })
    }

    /// Deletes what the test made; whatever is not there is gone already.
    async fn clean(&self) {
        let _ = self.pods.delete(NAME, &DeleteParams::default().grace_period(1)).await;
        let _ = self.policies.delete(NAME, &DeleteParams::default()).await;
        let _ = self.sinks.delete(NAME, &DeleteParams::default()).await;
    }

    fn look_at(&self, component: &str) -> String {
        format!(
            "kubectl --namespace {} get pods --selector app.kubernetes.io/component={component}; kubectl --namespace {} \
             logs deployment/testimony-{component}",
            self.args.operator_namespace, self.args.operator_namespace
        )
    }

    /// Looks until it is so, and says so; `next` is what to look at if it is not.
    async fn wait<T>(
        &self,
        step: &'static str,
        next: String,
        seconds_max: u64,
        mut look: impl AsyncFnMut() -> Probe<T>,
    ) -> Result<T, Failure> {
        let (start, max) = (Instant::now(), Duration::from_secs(seconds_max));
        let mut last = "nothing answered".to_owned();
        loop {
            match timeout(max.saturating_sub(start.elapsed()), look()).await {
                Ok(Probe::Done(value)) => {
                    println!("ok      {step} ({:.1} s)", start.elapsed().as_secs_f64());
                    return Ok(value);
                }
                Ok(Probe::Fail(why)) => return Err(Failure { step, why, next }),
                Ok(Probe::Wait(why)) => last = why,
                Err(_) => {}
            }
            if start.elapsed() >= max {
                return Err(Failure { step, why: format!("not within {seconds_max} s: {last}"), next });
            }
            sleep(Duration::from_millis(POLL_MILLIS)).await;
        }
    }
}

/// What the API server refused may be granted in a moment, such as a new namespace's ServiceAccount.
fn refused<T>(error: &kube::Error) -> Probe<T> {
    Probe::Wait(format!("the API server says: {}", Plain(error)))
}

fn told<T>(kind: &str, probe: Probe<T>) -> Probe<T> {
    match probe {
        Probe::Wait(why) => Probe::Wait(format!("{kind} {NAME}: {why}")),
        Probe::Fail(why) => Probe::Fail(format!("{kind} {NAME}: {why}")),
        done => done,
    }
}

//! `status`: policies, sinks and the operator at a glance.

mod text;

use crate::args::{ClusterArgs, Format, StatusArgs};
use crate::cluster::Cluster;
use crate::output::{print, print_json};
use anyhow::Result;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde::Serialize;
use testimony_operator::api::{AuditPolicy, AuditPolicyStatus, AuditSink, AuditSinkStatus, ClusterAuditPolicy};

/// Name of the controller's Lease.
pub const LEASE: &str = "testimony-controller";

/// Everything that is shown.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The operator's Deployments.
    pub operator: Vec<Part>,
    /// The leading replica.
    pub leader: Option<String>,
    /// AuditPolicies, then ClusterAuditPolicies.
    pub policies: Vec<Policy>,
    /// AuditSinks.
    pub sinks: Vec<Sink>,
}

/// One Deployment of the operator.
#[derive(Debug, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Ready replicas.
    pub ready: i32,
    /// Wanted replicas.
    pub wanted: i32,
    /// Its image.
    pub image: String,
}

/// One policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// `AuditPolicy` or `ClusterAuditPolicy`.
    pub kind: &'static str,
    /// Namespace; a ClusterAuditPolicy has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// `True`, `False` or `Unknown`.
    pub ready: String,
    /// Why not, or what else is to be known, for people.
    pub message: String,
    /// How many pods.
    pub pods: testimony_operator::api::PodCounts,
    /// How their evidence stands, where a sidecar tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<testimony_operator::api::EvidenceCounts>,
    /// Why pods have no sidecar.
    pub skipped: Vec<testimony_operator::api::Skipped>,
    /// Why pods are outside of a ClusterAuditPolicy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<testimony_operator::api::Skipped>,
    /// AuditSinks that receive the records.
    pub sinks: Vec<String>,
    /// Revision in force.
    pub revision: Option<String>,
}

/// One sink.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sink {
    /// Name.
    pub name: String,
    /// Where to.
    pub endpoint: String,
    /// Marked as default.
    pub default: bool,
    /// `True`, `False` or `Unknown`.
    pub accepted: String,
    /// `True`, `False` or `Unknown`.
    pub reachable: String,
    /// `True`, `False` or `Unknown`.
    pub delivering: String,
    /// Whether no record waits for over 30 s, by the condition `Delivered`: `True`, `False` or `Unknown`.
    pub in_time: String,
    /// Sidecars that deliver, fail, wait for credentials, and those that have sent nothing yet.
    pub sidecars: testimony_operator::api::SinkCounts,
    /// Records that today's sidecars have delivered.
    pub delivered: i64,
    /// Records that today's sidecars have lost, declared in gap records.
    pub lost: i64,
    /// Since when the oldest record waits, where a sidecar cannot deliver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_undelivered: Option<Timestamp>,
    /// What the sidecars say, with an example pod where one cannot deliver.
    pub message: String,
}

/// Runs the command.
///
/// # Errors
/// The cluster is not reached, or refuses.
pub async fn run(args: &StatusArgs, cluster: &ClusterArgs) -> Result<u8> {
    let chosen = cluster.namespace.clone();
    let cluster = Cluster::connect(cluster).await?;
    let report = read(&cluster, chosen.as_deref(), &args.operator_namespace).await?;
    match args.output {
        Format::Json => print_json(&report)?,
        Format::Text => print(&text::text(&report, Timestamp::now()))?,
    }
    Ok(0)
}

async fn read(cluster: &Cluster, namespace: Option<&str>, operator: &str) -> Result<Report> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), operator);
    let ours = ListParams::default().labels("app.kubernetes.io/name=testimony");
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), operator);
    let policies: Api<AuditPolicy> = match namespace {
        Some(namespace) => Api::namespaced(cluster.client.clone(), namespace),
        None => Api::all(cluster.client.clone()),
    };
    let sinks: Api<AuditSink> = Api::all(cluster.client.clone());
    let lease = cluster.get(leases, LEASE).await?;
    let policies = cluster.list("auditpolicies", policies, ListParams::default()).await?;
    let wide: Api<ClusterAuditPolicy> = Api::all(cluster.client.clone());
    let wide = cluster.list("clusterauditpolicies", wide, ListParams::default()).await?;
    let policies = policies.into_iter().map(|p| policy(p.namespace(), p.name_any(), p.status));
    let wide = wide.into_iter().map(|p| policy(None, p.name_any(), p.status));
    Ok(Report {
        operator: cluster.list("deployments", deployments, ours).await?.iter().map(part).collect(),
        leader: lease
            .and_then(|lease| lease.spec)
            .and_then(|spec| spec.holder_identity)
            .filter(|name| !name.is_empty()),
        policies: policies.chain(wide).collect(),
        sinks: cluster.list("auditsinks", sinks, ListParams::default()).await?.into_iter().map(sink).collect(),
    })
}

fn part(deployment: &Deployment) -> Part {
    let status = deployment.status.as_ref();
    let spec = deployment.spec.as_ref();
    let container = spec.and_then(|spec| spec.template.spec.as_ref()).and_then(|pod| pod.containers.first());
    Part {
        name: deployment.name_any(),
        ready: status.and_then(|status| status.ready_replicas).unwrap_or_default(),
        wanted: spec.and_then(|spec| spec.replicas).unwrap_or(1),
        image: container.and_then(|container| container.image.clone()).unwrap_or_default(),
    }
}

/// Status and message of a condition; `Unknown` while nobody wrote it.
fn condition(conditions: &[Condition], kind: &str) -> (String, String) {
    let found = conditions.iter().find(|condition| condition.type_ == kind);
    found.map_or_else(
        || ("Unknown".to_owned(), "the controller has not looked at it yet".to_owned()),
        |condition| (condition.status.clone(), condition.message.clone()),
    )
}

fn policy(namespace: Option<String>, name: String, status: Option<AuditPolicyStatus>) -> Policy {
    let status = status.unwrap_or_default();
    let (ready, mut message) = condition(&status.conditions, "Ready");
    if ready == "True" {
        // It holds, but something is to be known: nothing asks for what is off.
        let remark = status.conditions.iter().find(|c| c.type_ == "Accepted" && c.reason != "Accepted");
        message = remark.map(|c| c.message.clone()).unwrap_or_default();
    }
    Policy {
        kind: if namespace.is_some() { "AuditPolicy" } else { "ClusterAuditPolicy" },
        namespace,
        name,
        ready,
        message,
        pods: status.pods,
        evidence: status.evidence,
        skipped: status.skipped,
        excluded: status.excluded,
        sinks: status.sinks,
        revision: status.effective_revision,
    }
}

fn sink(sink: AuditSink) -> Sink {
    let name = sink.name_any();
    let status: AuditSinkStatus = sink.status.unwrap_or_default();
    let (accepted, refusal) = condition(&status.conditions, "Accepted");
    let (delivering, message) = condition(&status.conditions, "Delivering");
    let (in_time, late) = condition(&status.conditions, "Delivered");
    Sink {
        name,
        endpoint: sink.spec.endpoint,
        default: sink.spec.default,
        reachable: condition(&status.conditions, "Reachable").0,
        message: match (accepted.as_str(), delivering.as_str(), in_time.as_str()) {
            ("False", ..) => refusal,
            // It takes records, and is far behind.
            (_, "True", "False") => late,
            _ => message,
        },
        accepted,
        delivering,
        in_time,
        sidecars: status.sidecars,
        delivered: status.delivered,
        lost: status.lost,
        oldest_undelivered: status.oldest_undelivered.map(|time| time.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, list};
    use serde_json::json;

    #[tokio::test]
    async fn only_the_named_namespace_is_asked() {
        let sink = json!({"metadata": {"name": "s"}, "spec": {"endpoint": "http://c"}});
        let (cluster, asked) = cluster(std::collections::BTreeMap::from([
            ("/apis/apps/v1/namespaces/ours/deployments", list(&[])),
            ("/apis/audit.testimony.dev/v1alpha1/namespaces/shop/auditpolicies", list(&[])),
            (
                "/apis/audit.testimony.dev/v1alpha1/clusterauditpolicies",
                list(&[json!({"metadata": {"name": "all"}, "spec": {}})]),
            ),
            ("/apis/audit.testimony.dev/v1alpha1/auditsinks", list(&[sink])),
        ]));
        let report = read(&cluster, Some("shop"), "ours").await.expect("an answer");
        assert_eq!((report.sinks.len(), report.leader.as_deref()), (1, None));
        assert_eq!((report.policies.len(), report.policies[0].kind), (1, "ClusterAuditPolicy"));
        assert!(read(&cluster, None, "ours").await.is_err());
        let asked = asked.lock().expect("no panic").clone();
        assert!(asked.iter().any(|path| path == "/apis/audit.testimony.dev/v1alpha1/auditpolicies"), "{asked:?}");
    }
}

//! `status`: policies, sinks and the operator at a glance.

use crate::args::{ClusterArgs, Format, StatusArgs};
use crate::cluster::Cluster;
use crate::output::{Table, print, print_json};
use anyhow::Result;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde::Serialize;
use testimony_operator::api::{AuditPolicy, AuditSink};

/// Name of the controller's Lease.
pub const LEASE: &str = "testimony-controller";

/// Everything that is shown.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The operator's Deployments.
    pub operator: Vec<Part>,
    /// The leading replica.
    pub leader: Option<String>,
    /// AuditPolicies.
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
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `True`, `False` or `Unknown`.
    pub ready: String,
    /// Why not, for people.
    pub message: String,
    /// How many pods.
    pub pods: testimony_operator::api::PodCounts,
    /// Why pods have no sidecar.
    pub skipped: Vec<testimony_operator::api::Skipped>,
    /// Revision in force.
    pub revision: Option<String>,
}

/// One sink.
#[derive(Debug, Serialize)]
pub struct Sink {
    /// Name.
    pub name: String,
    /// Where to.
    pub endpoint: String,
    /// Marked as default.
    pub default: bool,
    /// `True`, `False` or `Unknown`.
    pub delivering: String,
    /// What the sidecars say.
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
        Format::Text => print(&text(&report))?,
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
    Ok(Report {
        operator: cluster.list("deployments", deployments, ours).await?.iter().map(part).collect(),
        leader: lease
            .and_then(|lease| lease.spec)
            .and_then(|spec| spec.holder_identity)
            .filter(|name| !name.is_empty()),
        policies: cluster
            .list("auditpolicies", policies, ListParams::default())
            .await?
            .into_iter()
            .map(policy)
            .collect(),
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

fn policy(policy: AuditPolicy) -> Policy {
    let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
    let status = policy.status.unwrap_or_default();
    let (ready, message) = condition(&status.conditions, "Ready");
    Policy {
        namespace,
        name,
        ready,
        message,
        pods: status.pods,
        skipped: status.skipped,
        revision: status.effective_revision,
    }
}

fn sink(sink: AuditSink) -> Sink {
    let name = sink.name_any();
    let status = sink.status.unwrap_or_default();
    let (delivering, message) = condition(&status.conditions, "Delivering");
    Sink { name, endpoint: sink.spec.endpoint, default: sink.spec.default, delivering, message }
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    let mut operator = Table::new(&["OPERATOR", "READY", "IMAGE"]);
    for part in &report.operator {
        operator.row([part.name.clone(), format!("{}/{}", part.ready, part.wanted), part.image.clone()]);
    }
    if operator.is_empty() {
        operator.row(["not found: name its namespace with --operator-namespace", "", ""]);
    }
    out.push_str(&operator.to_string());
    out.push_str(&format!("leader: {}\n", report.leader.as_deref().unwrap_or("none")));
    out.push('\n');
    let mut policies =
        Table::new(&["POLICY", "READY", "MATCHED", "INJECTED", "PROGRAMMED", "RESTART", "SKIPPED", "MESSAGE"]);
    for policy in &report.policies {
        let counts = [
            policy.pods.matched,
            policy.pods.injected,
            policy.pods.programmed,
            policy.pods.need_restart,
            policy.pods.skipped,
        ];
        let mut row = vec![format!("{}/{}", policy.namespace, policy.name), policy.ready.clone()];
        row.extend(counts.iter().map(i64::to_string));
        row.push(if policy.ready == "True" { String::new() } else { policy.message.clone() });
        policies.row(row);
        for skipped in &policy.skipped {
            let why = format!("{}: {}, such as {}", skipped.reason, skipped.count, skipped.example);
            policies.row(["", "", "", "", "", "", "", &why]);
        }
    }
    if policies.is_empty() {
        policies.row(["none"]);
    }
    out.push_str(&policies.to_string());
    out.push('\n');
    let mut sinks = Table::new(&["SINK", "DEFAULT", "DELIVERING", "ENDPOINT", "MESSAGE"]);
    for sink in &report.sinks {
        let default = if sink.default { "yes" } else { "" };
        sinks.row([&sink.name, default, &sink.delivering, &sink.endpoint, &sink.message]);
    }
    if sinks.is_empty() {
        sinks.row(["none"]);
    }
    out.push_str(&sinks.to_string());
    out
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
            ("/apis/audit.testimony.dev/v1alpha1/auditsinks", list(&[sink])),
        ]));
        let report = read(&cluster, Some("shop"), "ours").await.expect("an answer");
        assert_eq!((report.sinks.len(), report.leader.as_deref()), (1, None));
        assert!(read(&cluster, None, "ours").await.is_err());
        let asked = asked.lock().expect("no panic").clone();
        assert!(asked.iter().any(|path| path == "/apis/audit.testimony.dev/v1alpha1/auditpolicies"), "{asked:?}");
    }

    #[test]
    fn a_report_for_people() {
        let object: AuditPolicy = serde_json::from_value(json!({
            "apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "metadata": {"name": "p", "namespace": "shop"}, "spec": {},
            "status": {
                "conditions": [{"type": "Ready", "status": "False", "reason": "NeedsRestart", "message": "1 pod needs a restart", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                "pods": {"matched": 3, "injected": 1, "programmed": 1, "needRestart": 1, "skipped": 1},
                "skipped": [{"reason": "HostNetwork", "count": 1, "example": "shop/node-agent"}]
            }
        }))
        .expect("a policy");
        let object2: AuditSink = serde_json::from_value(json!({
            "apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditSink", "metadata": {"name": "default"},
            "spec": {"endpoint": "http://c:4318", "default": true}
        }))
        .expect("a sink");
        let part = Part { name: "testimony-webhook".into(), ready: 1, wanted: 2, image: "i:1".into() };
        let report =
            Report { operator: vec![part], leader: None, policies: vec![policy(object)], sinks: vec![sink(object2)] };
        expect_test::expect![[r#"
            OPERATOR            READY   IMAGE
            testimony-webhook   1/2     i:1
            leader: none

            POLICY   READY   MATCHED   INJECTED   PROGRAMMED   RESTART   SKIPPED   MESSAGE
            shop/p   False   3         1          1            1         1         1 pod needs a restart
                                                                                   HostNetwork: 1, such as shop/node-agent

            SINK      DEFAULT   DELIVERING   ENDPOINT        MESSAGE
            default   yes       Unknown      http://c:4318   the controller has not looked at it yet
        "#]].assert_eq(&text(&report));
    }
}

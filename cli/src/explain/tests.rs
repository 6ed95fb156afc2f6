//! The answer for pods and workloads, without a cluster.

use super::*;
use crate::manifest;
use crate::testing::{cluster, list};
use testimony_core::contract::annotation;

const OBJECTS: &str = "
{apiVersion: audit.testimony.dev/v1alpha1, kind: AuditPolicy, metadata: {name: p, namespace: shop}, spec: {podSelector: {matchLabels: {app: api}}, rules: [{name: probes, match: {pathPrefixes: [/healthz]}, level: None}]}}
---
{apiVersion: audit.testimony.dev/v1alpha1, kind: AuditSink, metadata: {name: default}, spec: {endpoint: 'http://c:4318', default: true}}
";

fn explained(pod: Value, subject: Subject) -> Report {
    let index = manifest::index(&manifest::parse("p", OBJECTS).expect("yaml"), "default").expect("valid");
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    report(
        &index,
        &ExcludedNamespaces { own: "ours".to_owned(), ..ExcludedNamespaces::default() },
        "shop",
        &pod,
        subject,
    )
}

fn pod(labels: Value) -> Value {
    json!({"metadata": {"name": "x", "labels": labels}, "spec": {"containers": [{"name": "c"}]}})
}

#[test]
fn a_pod_that_came_too_early_is_told_what_to_do() {
    let mut report = explained(pod(json!({"app": "api"})), Subject::Pod(None));
    assert_eq!(report.state, "NeedsRestart");
    // The name of a document changes with its form.
    assert_eq!(report.revision.replace("R".to_owned()).map(|revision| revision.len()), Some(16));
    expect_test::expect![[r#"
        pod/x in namespace shop
        state      NeedsRestart: it was created before a policy selected it, or while the webhook was down
        to do      delete the pod and create it again
        revision   R by the policies as they are now
        policy     shop/p (Inbound, Outbound)
          RULE      LEVEL      MATCHES
          probes    None       pathPrefixes: ["/healthz"]
          default   Metadata   everything else
        sink       default http://c:4318
    "#]]
    .assert_eq(&text(&report).expect("text"));
}

#[test]
fn each_state_is_told() {
    assert_eq!(explained(pod(json!({"app": "web"})), Subject::Pod(None)).state, "NotSelected");
    let mut host = pod(json!({"app": "api"}));
    host["spec"]["hostNetwork"] = json!(true);
    assert_eq!(explained(host, Subject::Pod(None)).state, "HostNetwork");
    let workload =
        |injected| Subject::Workload { kind: "Deployment", name: "api".into(), pods: Pods { all: 2, injected } };
    let some = explained(pod(json!({"app": "api"})), workload(1));
    assert_eq!((some.state.as_str(), some.object.as_str()), ("NeedsRestart", "deployment/api"));
    assert!(some.why.starts_with("1 of 2 pods have no sidecar"), "{}", some.why);
    assert_eq!(explained(pod(json!({"app": "api"})), workload(2)).state, "Recorded");
}

#[test]
fn an_old_revision_in_the_sidecar_is_a_warning() {
    let mut injected = pod(json!({"app": "api"}));
    injected["metadata"]["annotations"] = json!({annotation::INJECTION_ID: "i", annotation::REVISION: "old"});
    injected["spec"]["initContainers"] = json!([{"name": "testimony-sidecar"}]);
    let sidecar = Sidecar { revision: Some("older".to_owned()), ..Sidecar::default() };
    let report = explained(injected, Subject::Pod(Some(sidecar)));
    assert_eq!((report.state.as_str(), report.revision_at_creation.as_deref()), ("Recorded", Some("old")));
    assert!(report.warnings.iter().any(|w| w.contains("runs revision older")), "{:?}", report.warnings);
}

const CLUSTER_POLICIES: &str = "
{apiVersion: audit.testimony.dev/v1alpha1, kind: ClusterAuditPolicy, metadata: {name: floor}, spec: {enforcement: Baseline, namespaceSelector: {matchLabels: {tier: prod}}}}
---
{apiVersion: audit.testimony.dev/v1alpha1, kind: ClusterAuditPolicy, metadata: {name: usual}, spec: {exclusions: [{podSelector: {matchLabels: {app: batch}}, reason: 'too loud'}]}}
";

/// A cluster with a pod of these labels and no policy but those of the cluster; `namespace` are the namespace's labels.
fn with_cluster_policies(labels: Value, namespace: Value) -> crate::cluster::Cluster {
    let all = manifest::parse("p", CLUSTER_POLICIES).expect("yaml");
    let policies: Vec<Value> = all.into_iter().map(|manifest| manifest.object).collect();
    let (cluster, _) = cluster(std::collections::BTreeMap::from([
        ("/api/v1/namespaces/shop", json!({"metadata": {"name": "shop", "uid": "u", "labels": namespace}})),
        ("/apis/audit.testimony.dev/v1alpha1/namespaces/shop/auditpolicies", list(&[])),
        ("/apis/audit.testimony.dev/v1alpha1/clusterauditpolicies", list(&policies)),
        ("/apis/audit.testimony.dev/v1alpha1/auditsinks", list(&[])),
        ("/api/v1/namespaces/shop/services", list(&[])),
        ("/api/v1/namespaces/shop/pods/x", pod(labels)),
        ("/apis/apps/v1/namespaces/testimony-system/deployments", list(&[operator()])),
    ]));
    cluster
}

/// The controller of an installation without a webhook.
fn operator() -> Value {
    let arguments = ["controller", "--sidecar-image=s:1", "--injection-mode=AdmissionPolicy"];
    let container = json!({"name": "operator", "args": arguments});
    json!({"metadata": {"name": "testimony-controller"}, "spec": {"selector": {}, "template": {"spec": {"containers": [container]}}}})
}

#[tokio::test]
async fn policies_of_the_cluster_select_and_leave_alone() {
    let told = async |labels: Value, namespace: Value| {
        let cluster = with_cluster_policies(labels, namespace);
        explain(&cluster, ("Pod", "x".to_owned())).await.expect("an answer")
    };
    let names = |report: &Report| report.policies.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    let usual = told(json!({"app": "api"}), json!({})).await;
    assert_eq!((usual.state.as_str(), names(&usual)), ("NeedsRestart", vec!["usual".to_owned()]));
    // The API server injects, so no webhook is missed.
    assert!(usual.warnings.iter().all(|warning| !warning.contains("webhook")), "{:?}", usual.warnings);

    let excluded = told(json!({"app": "batch"}), json!({})).await;
    assert_eq!((excluded.state.as_str(), names(&excluded)), ("NotSelected", Vec::new()));
    let wanted = LeftAlone { policy: "usual".to_owned(), reason: "too loud".to_owned() };
    assert_eq!(excluded.left_alone, [wanted]);
    assert!(text(&excluded).expect("text").contains("left alone by usual: too loud\n"));

    // A floor also where everything opts out.
    let both = json!({"tier": "prod", "testimony.dev/cluster-defaults": "disabled"});
    let floor = told(json!({"testimony.dev/inject": "disabled"}), both).await;
    assert_eq!((floor.state.as_str(), names(&floor)), ("NeedsRestart", vec!["floor".to_owned()]));
    assert_eq!(floor.left_alone[0].reason, "NamespaceOptedOut");
    let out = told(json!({"testimony.dev/inject": "disabled"}), json!({})).await;
    assert_eq!((out.state.as_str(), names(&out)), ("OptedOut", vec!["usual".to_owned()]));
}

#[test]
fn objects_are_read() {
    assert_eq!(object("deploy/x").ok(), Some(("Deployment", "x".to_owned())));
    for wrong in ["x", "pod/", "job/x"] {
        assert!(object(wrong).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn a_deployment_is_read_from_the_cluster() {
    let pod = |name: &str, injected: bool| {
        let mut pod = pod(json!({"app": "api"}));
        pod["metadata"]["name"] = json!(name);
        if injected {
            pod["metadata"]["annotations"] = json!({annotation::INJECTION_ID: "i"});
            pod["spec"]["initContainers"] = json!([{"name": "testimony-sidecar"}]);
        }
        pod
    };
    let objects = manifest::parse("p", OBJECTS).expect("yaml");
    let list = |at: usize| list(&[objects[at].object.clone()]);
    let template = json!({"metadata": {"labels": {"app": "api"}}, "spec": {"containers": [{"name": "c"}]}});
    let deployment = json!({"metadata": {"name": "api", "namespace": "shop"},
                            "spec": {"selector": {"matchLabels": {"app": "api"}}, "template": template}});
    let (cluster, _) = cluster(std::collections::BTreeMap::from([
        ("/api/v1/namespaces/shop", json!({"metadata": {"name": "shop", "uid": "u"}})),
        ("/apis/audit.testimony.dev/v1alpha1/namespaces/shop/auditpolicies", list(0)),
        ("/apis/audit.testimony.dev/v1alpha1/clusterauditpolicies", crate::testing::list(&[])),
        ("/apis/audit.testimony.dev/v1alpha1/auditsinks", list(1)),
        ("/api/v1/namespaces/shop/services", crate::testing::list(&[])),
        ("/apis/apps/v1/namespaces/shop/deployments/api", deployment),
        ("/api/v1/namespaces/shop/pods", crate::testing::list(&[pod("api-1", true), pod("api-2", false)])),
        ("/api/v1/namespaces/shop/pods/api-2", pod("api-2", false)),
    ]));
    let report = explain(&cluster, ("Deployment", "api".to_owned())).await.expect("an answer");
    assert_eq!((report.state.as_str(), report.sinks.len()), ("NeedsRestart", 1));
    assert_eq!(report.fix.as_deref(), Some("kubectl rollout restart deployment/api -n shop"));
    assert!(report.warnings.iter().any(|warning| warning.contains("webhook is not installed")), "{report:?}");
    let report = explain(&cluster, ("Pod", "api-2".to_owned())).await.expect("an answer");
    assert_eq!((report.state.as_str(), report.policies.len()), ("NeedsRestart", 1));
    let error = explain(&cluster, ("Pod", "absent".to_owned())).await.map(|_| ()).expect_err("there is none");
    assert!(error.to_string().contains("pod absent is not in namespace shop: -n chooses another"), "{error:#}");
}

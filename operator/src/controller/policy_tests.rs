//! Statuses of both kinds of policies, by one path: what is excluded, suspended, or an expression that does not compile.

use super::status::{Report, View, report};
use crate::api::{AuditPolicy, AuditPolicyStatus, AuditSink, ClusterAuditPolicy};
use crate::index::{Index, Indexed};
use crate::inject::ExcludedNamespaces;
use crate::state::Ack;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Instant;

fn put<K: Indexed + serde::de::DeserializeOwned>(index: &mut Index, object: Value) {
    K::apply(index, serde_json::from_value(object).expect("object"));
}

fn cluster() -> Index {
    let mut index = Index::new("cluster.local");
    put::<AuditSink>(
        &mut index,
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditSink",
               "spec": {"endpoint": "http://collector.example:4318", "default": true}, "metadata": {"name": "main", "uid": "s"}}),
    );
    index
}

fn policy(kind: &str, spec: Value) -> Value {
    let mut object = json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": kind, "spec": spec,
                            "metadata": {"name": "all", "uid": kind, "generation": 3}});
    if kind == "AuditPolicy" {
        object["metadata"]["namespace"] = json!("shop");
    }
    object
}

fn pod(index: &mut Index, namespace: &str, name: &str, injected: bool, labels: Value) {
    let mut pod = json!({"metadata": {"name": name, "namespace": namespace, "uid": name, "labels": labels},
                         "spec": {"containers": [{"name": "app"}]}, "status": {"phase": "Running"}});
    if injected {
        pod["metadata"]["annotations"] = json!({"testimony.dev/injection-id": name});
        pod["spec"]["initContainers"] = json!([{"name": "testimony-init"}, {"name": "testimony-sidecar"}]);
    }
    put::<Pod>(index, pod);
}

/// Every sidecar runs what it must.
fn look(index: &Index) -> Report {
    let now = Instant::now();
    let acks: HashMap<String, Ack> = index
        .pods
        .values()
        .map(|pod| {
            let revision = Some(index.document(&pod.namespace, &pod.traits.labels).document.revision.clone());
            (pod.uid.clone(), Ack { revision, refused: None, sinks: Vec::new(), evidence: None, at: now, bundle: None })
        })
        .collect();
    let excluded = ExcludedNamespaces { own: "testimony-system".to_owned(), further: Vec::new() };
    report(View {
        index,
        acks: &acks,
        excluded: &excluded,
        instant: now,
        now: Timestamp::UNIX_EPOCH,
        settling: None,
        rollouts: true,
    })
}

fn status<'a>(report: &'a Report, namespace: &str) -> &'a AuditPolicyStatus {
    &report.policies[&(namespace.to_owned(), "all".to_owned())]
}

fn condition(status: &AuditPolicyStatus, kind: &str) -> String {
    let found = status.conditions.iter().find(|c| c.type_ == kind).expect("condition");
    format!("{} {}: {}", found.status, found.reason, found.message)
}

#[test]
fn a_cluster_policy_counts_pods_of_all_its_namespaces_and_tells_whom_it_leaves_alone() {
    let mut index = cluster();
    put::<Namespace>(
        &mut index,
        json!({"metadata": {"name": "quiet", "uid": "q",
        "labels": {"testimony.dev/cluster-defaults": "disabled"}}}),
    );
    let without = json!([{"podSelector": {"matchLabels": {"app": "load"}}, "reason": "load test"}]);
    put::<ClusterAuditPolicy>(&mut index, policy("ClusterAuditPolicy", json!({"exclusions": without})));
    pod(&mut index, "shop", "a", true, json!({}));
    pod(&mut index, "bank", "b", true, json!({}));
    pod(&mut index, "bank", "old", false, json!({}));
    pod(&mut index, "bank", "off", false, json!({"testimony.dev/inject": "disabled"}));
    pod(&mut index, "bank", "load-2", false, json!({"app": "load"}));
    pod(&mut index, "bank", "load-1", false, json!({"app": "load"}));
    pod(&mut index, "quiet", "q", false, json!({}));
    pod(&mut index, "kube-system", "dns", false, json!({}));
    let told = look(&index);
    let status = status(&told, "");
    let p = &status.pods;
    assert_eq!((p.matched, p.injected, p.programmed, p.need_restart, p.skipped), (4, 2, 2, 1, 1));
    let list = |list: &[crate::api::Skipped]| -> Vec<String> {
        list.iter().map(|s| format!("{} {} {}", s.reason, s.count, s.example)).collect()
    };
    assert_eq!(list(&status.skipped), ["NeedsRestart 1 bank/old", "OptedOut 1 bank/off"]);
    assert_eq!(
        list(&status.excluded),
        ["load test 2 bank/load-1", "ExcludedNamespace 1 kube-system/dns", "NamespaceOptedOut 1 quiet/q"]
    );
    let told: Vec<&str> = told.uncovered.iter().map(|u| u.name.as_str()).collect();
    assert_eq!(told, ["off", "old"], "a pod that is left alone is nothing to be told");
}

#[test]
fn a_baseline_makes_a_pod_that_opted_out_need_a_restart() {
    let mut index = cluster();
    put::<ClusterAuditPolicy>(&mut index, policy("ClusterAuditPolicy", json!({"enforcement": "Baseline"})));
    pod(&mut index, "bank", "off", false, json!({"testimony.dev/inject": "disabled"}));
    let told = look(&index);
    assert_eq!((status(&told, "").pods.need_restart, status(&told, "").pods.skipped), (1, 0));
}

#[test]
fn a_namespace_whose_label_changes_needs_restarts_at_once() {
    let mut index = cluster();
    let selector = json!({"namespaceSelector": {"matchLabels": {"team": "a"}}});
    put::<ClusterAuditPolicy>(&mut index, policy("ClusterAuditPolicy", selector));
    pod(&mut index, "bank", "b", false, json!({}));
    assert_eq!(status(&look(&index), "").pods.matched, 0);
    put::<Namespace>(&mut index, json!({"metadata": {"name": "bank", "uid": "n", "labels": {"team": "a"}}}));
    let told = look(&index);
    assert_eq!((status(&told, "").pods.matched, status(&told, "").pods.need_restart), (1, 1));
}

#[test]
fn a_suspended_policy_of_either_kind_injects_and_records_nothing() {
    for (kind, namespace) in [("AuditPolicy", "shop"), ("ClusterAuditPolicy", "")] {
        let mut index = cluster();
        let put = |index: &mut Index, spec: Value| match kind {
            "AuditPolicy" => put::<AuditPolicy>(index, policy(kind, spec)),
            _ => put::<ClusterAuditPolicy>(index, policy(kind, spec)),
        };
        put(&mut index, json!({"suspend": true}));
        pod(&mut index, "shop", "a", true, json!({}));
        let told = look(&index);
        let status = status(&told, namespace);
        assert_eq!((status.pods.matched, status.pods.injected, status.pods.programmed), (1, 1, 1), "{kind}");
        let wanted = "True Suspended: the policy is suspended and records nothing";
        assert_eq!(condition(status, "Programmed"), wanted, "{kind}");
        assert!(condition(status, "Ready").starts_with("True Suspended: 1 of 1 pods"), "{kind}");
        assert_eq!(index.document("shop", &Default::default()).document.policies, [], "{kind}");
        pod(&mut index, "shop", "b", false, json!({}));
        assert_eq!(look(&index).totals.need_restart, 1, "{kind}: a new pod would get a sidecar");
    }
}

#[test]
fn an_expression_that_does_not_compile_is_told_with_its_column_and_the_last_good_stays() {
    for (kind, namespace) in [("AuditPolicy", "shop"), ("ClusterAuditPolicy", "")] {
        let mut index = cluster();
        let put = |index: &mut Index, when: &str| {
            let spec = json!({"rules": [{"name": "r", "level": "None", "match": {"when": when}}]});
            match kind {
                "AuditPolicy" => put::<AuditPolicy>(index, policy(kind, spec)),
                _ => put::<ClusterAuditPolicy>(index, policy(kind, spec)),
            }
        };
        put(&mut index, "request.path == '/'");
        let before = index.document("shop", &Default::default());
        put(&mut index, "request.path == '/' || request.verb == 'GET'");
        assert_eq!(index.document("shop", &Default::default()), before, "{kind}");
        let told = look(&index);
        assert_eq!(
            condition(status(&told, namespace), "Accepted"),
            "False InvalidExpression: spec.rules[0].match.when: column 32: `request` has no field `verb`; it has method, \
             path, query, host and headers; the last good revision stays in force",
            "{kind}"
        );
    }
}

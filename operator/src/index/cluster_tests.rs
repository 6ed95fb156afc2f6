//! Cluster policies in the index: whom they select, what a namespace's labels change, and what is compiled anew.

use super::*;
use crate::api::{AuditPolicy, AuditSink, ClusterAuditPolicy};
use crate::inject::{Decision, ExcludedNamespaces, PodTraits, Reason, decide};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde_json::{Value, json};

fn put<K: Indexed + serde::de::DeserializeOwned>(index: &mut Index, object: Value) -> Touched {
    K::apply(index, serde_json::from_value(object).expect("object"))
}

fn namespace(index: &mut Index, name: &str, labels: Value) -> Touched {
    put::<Namespace>(index, json!({"metadata": {"name": name, "uid": name, "labels": labels}}))
}

fn cluster_policy(index: &mut Index, name: &str, spec: Value) -> Touched {
    put::<ClusterAuditPolicy>(
        index,
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "ClusterAuditPolicy", "spec": spec,
               "metadata": {"name": name, "uid": name, "generation": 1}}),
    )
}

fn policy(index: &mut Index, name: &str, spec: Value) -> Touched {
    put::<AuditPolicy>(
        index,
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "spec": spec,
               "metadata": {"name": name, "namespace": "shop", "uid": name, "generation": 1}}),
    )
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// Names in the document of a pod without labels.
fn names(index: &Index, namespace: &str) -> Vec<String> {
    index.document(namespace, &labels(&[])).document.policies.iter().map(|p| p.name.clone()).collect()
}

fn decision(index: &Index, namespace: &str, labels: Value) -> Decision {
    let pod = json!({"metadata": {"name": "p", "labels": labels}, "spec": {"containers": []}});
    let pod = PodTraits::of(&serde_json::from_value::<Pod>(pod).expect("pod"));
    decide(index, &ExcludedNamespaces { own: "testimony-system".to_owned(), further: Vec::new() }, namespace, &pod)
}

#[test]
fn a_cluster_policy_selects_namespaces_by_their_labels_and_a_changed_label_selects_anew() {
    let mut index = Index::new("cluster.local");
    assert!(!namespace(&mut index, "shop", json!({"team": "a"})).documents, "no cluster policy selects by it");
    let selector = json!({"namespaceSelector": {"matchLabels": {"team": "a"}}});
    assert!(cluster_policy(&mut index, "wide", selector).documents);
    policy(&mut index, "own", json!({}));
    assert_eq!(names(&index, "shop"), ["shop/own", "wide"]);
    assert_eq!(names(&index, "other"), Vec::<String>::new());
    assert!(!namespace(&mut index, "shop", json!({"team": "a"})).documents, "nothing changed");
    assert!(namespace(&mut index, "shop", json!({"team": "b"})).documents);
    assert_eq!(names(&index, "shop"), ["shop/own"]);
    namespace(&mut index, "other", json!({"team": "a"}));
    assert_eq!(names(&index, "other"), ["wide"]);
    assert_eq!(ClusterAuditPolicy::keys(&index), [(String::new(), "wide".to_owned())]);
    assert_eq!(AuditPolicy::keys(&index), [("shop".to_owned(), "own".to_owned())]);
    assert!(ClusterAuditPolicy::delete(&mut index, &(String::new(), "wide".to_owned())).documents);
    assert_eq!(names(&index, "other"), Vec::<String>::new());
}

#[test]
fn a_namespace_is_selected_by_its_name_even_before_it_is_seen() {
    let mut index = Index::new("cluster.local");
    let selector = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}});
    cluster_policy(&mut index, "wide", selector);
    assert_eq!(names(&index, "shop"), ["wide"]);
    assert_eq!(names(&index, "other"), Vec::<String>::new());
}

#[test]
fn a_baseline_goes_first_and_a_default_last() {
    let mut index = Index::new("cluster.local");
    cluster_policy(&mut index, "a-default", json!({"correlation": {"header": "x-default"}}));
    policy(&mut index, "own", json!({"correlation": {"header": "x-own"}}));
    assert_eq!(names(&index, "shop"), ["shop/own", "a-default"]);
    let header = |index: &Index| index.document("shop", &labels(&[])).document.correlation.header.clone();
    assert_eq!(header(&index).as_deref(), Some("x-own"));
    cluster_policy(&mut index, "z-floor", json!({"enforcement": "Baseline", "correlation": {"header": "x-floor"}}));
    assert_eq!(names(&index, "shop"), ["z-floor", "shop/own", "a-default"]);
    assert_eq!(header(&index).as_deref(), Some("x-floor"));
}

#[test]
fn labels_opt_out_of_a_default_but_not_of_a_baseline() {
    let mut index = Index::new("cluster.local");
    let off = json!({"testimony.dev/inject": "disabled"});
    cluster_policy(&mut index, "default", json!({}));
    assert!(matches!(decision(&index, "shop", json!({})), Decision::Inject(_)));
    assert_eq!(decision(&index, "shop", off.clone()), Decision::Skip(Reason::OptedOut));
    namespace(&mut index, "shop", json!({"testimony.dev/cluster-defaults": "disabled"}));
    assert_eq!(decision(&index, "shop", json!({})), Decision::NotSelected);
    cluster_policy(&mut index, "floor", json!({"enforcement": "Baseline"}));
    assert!(matches!(decision(&index, "shop", json!({})), Decision::Inject(_)));
    assert!(matches!(decision(&index, "shop", off), Decision::Inject(_)));
    assert_eq!(names(&index, "shop"), ["floor"], "the namespace is left alone by the default only");
    assert_eq!(decision(&index, "kube-system", json!({})), Decision::NotSelected, "not even a baseline");
}

#[test]
fn an_exclusion_takes_a_pod_out_of_its_own_policy_only() {
    let mut index = Index::new("cluster.local");
    namespace(&mut index, "shop", json!({"team": "a"}));
    let without = json!([
        {"namespaces": ["shop"], "podSelector": {"matchLabels": {"app": "load"}}, "reason": "load test"},
        {"namespaceSelector": {"matchLabels": {"team": "b"}}, "reason": "audits itself"},
    ]);
    cluster_policy(&mut index, "floor", json!({"enforcement": "Baseline", "exclusions": without}));
    cluster_policy(&mut index, "other", json!({}));
    let reach = |index: &Index, namespace: &str, pod: &[(&str, &str)]| -> Vec<(String, String)> {
        let pod = labels(pod);
        let reach = index.reaching(namespace, &pod).map(|(p, reach)| (p.name.clone(), format!("{reach:?}")));
        reach.collect()
    };
    let told = |floor: &str| vec![("floor".to_owned(), floor.to_owned()), ("other".to_owned(), "Selected".to_owned())];
    assert_eq!(reach(&index, "shop", &[("app", "load")]), told("Excluded(\"load test\")"));
    assert_eq!(reach(&index, "shop", &[("app", "web")]), told("Selected"));
    assert_eq!(reach(&index, "bank", &[("app", "load")]), told("Selected"));
    namespace(&mut index, "bank", json!({"team": "b"}));
    assert_eq!(reach(&index, "bank", &[]), told("Excluded(\"audits itself\")"));
}

#[test]
fn an_exclusion_that_names_nothing_is_refused() {
    let mut index = Index::new("cluster.local");
    cluster_policy(&mut index, "floor", json!({"exclusions": [{"reason": "all of them"}]}));
    let invalid = index.policies[&(String::new(), "floor".to_owned())].invalid.clone().expect("refused");
    assert_eq!(
        invalid.to_string(),
        "spec.exclusions[0]: matches every pod, so the policy would select none; give it namespaces, namespaceSelector or \
         podSelector"
    );
    cluster_policy(
        &mut index,
        "wrong",
        json!({"exclusions": [{"reason": "x", "podSelector":
        {"matchExpressions": [{"key": "a", "operator": "In"}]}}]}),
    );
    let invalid = index.policies[&(String::new(), "wrong".to_owned())].invalid.clone().expect("refused");
    assert_eq!((invalid.reason, invalid.field.as_str()), ("InvalidSelector", "spec.exclusions[0].podSelector"));
}

#[test]
fn a_document_is_compiled_once_for_each_change() {
    let mut index = Index::new("cluster.local");
    policy(&mut index, "own", json!({}));
    cluster_policy(&mut index, "wide", json!({}));
    let first = index.document("shop", &labels(&[]));
    assert!(Arc::ptr_eq(&first, &index.document("shop", &labels(&[("app", "b")]))), "pods share it");
    policy(&mut index, "narrow", json!({"podSelector": {"matchLabels": {"app": "b"}}}));
    assert!(Arc::ptr_eq(&first, &index.document("shop", &labels(&[]))), "another policy does not concern it");
    policy(&mut index, "own", json!({}));
    assert!(Arc::ptr_eq(&first, &index.document("shop", &labels(&[]))), "the same again");
    policy(&mut index, "own", json!({"suspend": true}));
    let second = index.document("shop", &labels(&[]));
    assert_ne!(first.document.revision, second.document.revision);
    put::<AuditSink>(
        &mut index,
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditSink", "metadata": {"name": "s", "uid": "s"},
               "spec": {"endpoint": "http://here:4318", "default": true}}),
    );
    let third = index.document("shop", &labels(&[]));
    assert_eq!(third.document.sinks.len(), 1);
    AuditSink::delete(&mut index, &(String::new(), "s".to_owned()));
    assert_eq!(*index.document("shop", &labels(&[])), *second);
    // Deleted and made again with a spec that was never valid: nothing of the old one stays.
    put::<AuditPolicy>(
        &mut index,
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy",
               "metadata": {"name": "own", "namespace": "shop", "uid": "another"},
               "spec": {"correlation": {"header": "cookie"}}}),
    );
    assert_eq!(names(&index, "shop"), ["wide"]);
}

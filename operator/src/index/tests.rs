use super::*;
use crate::api::{AuditPolicy, AuditSink};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use serde_json::{Value, json};

fn put<K: Indexed + serde::de::DeserializeOwned>(index: &mut Index, object: Value) -> Touched {
    K::apply(index, serde_json::from_value(object).expect("object"))
}

fn policy(name: &str, uid: &str, generation: i64, spec: Value) -> Value {
    json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "spec": spec,
           "metadata": {"name": name, "namespace": "shop", "uid": uid, "generation": generation}})
}

fn sink(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditSink", "spec": spec,
           "metadata": {"name": name, "uid": name, "generation": 1}})
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

#[test]
fn a_policy_selects_pods_of_its_namespace_by_label() {
    let mut index = Index::new("cluster.local");
    let touched =
        put::<AuditPolicy>(&mut index, policy("p", "1", 1, json!({"podSelector": {"matchLabels": {"app": "a"}}})));
    assert!(touched.documents);
    assert_eq!(index.selecting("shop", &labels(&[("app", "a")])).count(), 1);
    assert_eq!(index.selecting("shop", &labels(&[("app", "b")])).count(), 0);
    assert_eq!(index.selecting("shops", &labels(&[("app", "a")])).count(), 0);
    assert!(AuditPolicy::delete(&mut index, &key("shop", "p")).documents);
    assert_eq!(index.selecting("shop", &labels(&[("app", "a")])).count(), 0);
}

#[test]
fn an_invalid_edit_keeps_the_last_good_spec_and_harms_no_other_policy() {
    let mut index = Index::new("cluster.local");
    put::<AuditPolicy>(&mut index, policy("good", "1", 1, json!({"correlation": {"header": "x-id"}})));
    put::<AuditPolicy>(&mut index, policy("other", "2", 1, json!({})));
    let before = index.document("shop", &labels(&[]));
    let touched = put::<AuditPolicy>(&mut index, policy("good", "1", 2, json!({"correlation": {"header": "cookie"}})));
    assert!(!touched.documents, "no sidecar needs to hear of it");
    assert_eq!(index.document("shop", &labels(&[])), before);
    let entry = &index.policies[&key("shop", "good")];
    assert_eq!(entry.invalid.as_ref().map(|i| i.reason), Some("InvalidCorrelation"));
    assert!(index.policies[&key("shop", "other")].invalid.is_none());
}

fn undecodable(index: &mut Index, object: Value) -> Touched {
    let Guarded(object) = serde_json::from_value::<Guarded<AuditPolicy>>(object).expect("metadata");
    AuditPolicy::undecodable(index, &object.expect_err("undecodable"))
}

#[test]
fn an_undecodable_policy_that_is_found_at_the_start_has_its_last_good_spec_again() {
    let mut index = Index::new("cluster.local");
    put::<AuditPolicy>(&mut index, policy("p", "1", 1, json!({"correlation": {"header": "x-id"}})));
    let before = index.document("shop", &labels(&[]));
    let edited = |uid: &str, status: Value| {
        let mut edited = policy("p", uid, 2, json!({"rules": [{"name": "r", "level": "Loud"}]}));
        edited["status"] = status;
        edited
    };
    let last = json!({"generation": 1, "spec": "{\"correlation\": {\"header\": \"x-id\"}}"});
    // Of a status of another version what matters is read all the same.
    for status in [json!({"lastGood": last}), json!({"lastGood": last, "pods": "many"})] {
        let mut index = Index::new("cluster.local");
        assert!(undecodable(&mut index, edited("1", status.clone())).documents);
        assert_eq!(index.document("shop", &labels(&[])).document, before.document);
        assert!(!undecodable(&mut index, edited("1", status)).documents, "nothing changed");
        // Made again under its name it is another one.
        assert!(undecodable(&mut index, edited("2", Value::Null)).documents);
        assert!(index.policies[&key("shop", "p")].good.is_none());
    }
}

#[test]
fn an_undecodable_policy_keeps_its_last_good_spec_and_says_why() {
    let mut index = Index::new("cluster.local");
    put::<AuditPolicy>(&mut index, policy("p", "1", 1, json!({})));
    let before = index.document("shop", &labels(&[]));
    undecodable(&mut index, policy("p", "1", 2, json!({"rules": [{"name": "r", "level": "Loud"}]})));
    assert_eq!(index.document("shop", &labels(&[])), before);
    let invalid = index.policies[&key("shop", "p")].invalid.clone().expect("told");
    assert_eq!(invalid.reason, "Undecodable");
    assert!(invalid.to_string().contains("unknown variant `Loud`"));
}

#[test]
fn a_policy_that_is_made_again_inherits_nothing() {
    let mut index = Index::new("cluster.local");
    put::<AuditPolicy>(&mut index, policy("p", "1", 1, json!({})));
    put::<AuditPolicy>(&mut index, policy("p", "2", 1, json!({"correlation": {"header": "cookie"}})));
    assert!(index.policies[&key("shop", "p")].good.is_none());
}

#[test]
fn missing_sinks_are_named_and_the_others_go_on() {
    let mut index = Index::new("cluster.local");
    put::<AuditSink>(&mut index, sink("here", json!({"endpoint": "http://here:4318"})));
    put::<AuditPolicy>(&mut index, policy("p", "1", 1, json!({"sinks": ["here", "gone"]})));
    let (found, missing) = index.sinks_of(&index.policies[&key("shop", "p")]);
    assert_eq!((found, missing), (["here".to_owned()].into(), ["gone".to_owned()].into()));
    let document = index.document("shop", &labels(&[])).document.clone();
    assert_eq!(document.sinks.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["here"]);
}

#[test]
fn pods_behind_a_sinks_service_are_known() {
    for endpoint in [
        "http://collector.obs:4318",
        "http://collector.obs.svc:4318",
        "https://collector.obs.svc.cluster.local/v1/logs",
        "http://collector.obs.svc.cluster.local.:4318",
    ] {
        let mut index = Index::new("cluster.local");
        put::<AuditSink>(&mut index, sink("s", json!({"endpoint": endpoint})));
        put::<Service>(
            &mut index,
            json!({"metadata": {"name": "collector", "namespace": "obs"}, "spec": {"selector": {"app": "otelcol"}}}),
        );
        assert!(index.is_sink_pod("obs", &labels(&[("app", "otelcol"), ("x", "y")])), "{endpoint}");
        assert!(!index.is_sink_pod("obs", &labels(&[("app", "shop")])), "{endpoint}");
        assert!(!index.is_sink_pod("shop", &labels(&[("app", "otelcol")])), "{endpoint}");
    }
    let mut index = Index::new("cluster.local");
    put::<AuditSink>(&mut index, sink("s", json!({"endpoint": "https://collector.obs.example.com"})));
    put::<Service>(
        &mut index,
        json!({"metadata": {"name": "collector", "namespace": "obs"}, "spec": {"selector": {"app": "otelcol"}}}),
    );
    assert!(!index.is_sink_pod("obs", &labels(&[("app", "otelcol")])), "a name outside the cluster");
}

#[test]
fn a_pod_that_is_replaced_under_its_name_leaves_no_trace() {
    let mut index = Index::new("cluster.local");
    let pod =
        |uid: &str| json!({"metadata": {"name": "p", "namespace": "shop", "uid": uid}, "spec": {"containers": []}});
    assert_eq!(put::<Pod>(&mut index, pod("1")).pod.as_deref(), Some("1"));
    assert_eq!(put::<Pod>(&mut index, pod("1")), Touched::default(), "nothing changed");
    assert_eq!(put::<Pod>(&mut index, pod("2")).pod.as_deref(), Some("2"));
    assert_eq!((index.pods.len(), Pod::count(&index)), (1, 1));
    Pod::delete(&mut index, &key("shop", "p"));
    assert_eq!((index.pods.len(), Pod::count(&index)), (0, 0));
}

#[test]
fn the_cluster_is_named_by_kube_system() {
    let mut index = Index::new("cluster.local");
    assert_eq!(index.cluster_uid(), None);
    put::<Namespace>(&mut index, json!({"metadata": {"name": "kube-system", "uid": "abc"}}));
    assert_eq!(index.cluster_uid(), Some("abc"));
}

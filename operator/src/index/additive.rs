//! OP-3 over generated sets of both kinds of policies: from watch events over selection and compilation to the judge.

use super::*;
use crate::api::{AuditPolicy, ClusterAuditPolicy};
use crate::inject::{Decision, ExcludedNamespaces, PodTraits, decide};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};
use testimony_core::policy::{Compiled as Judge, Direction, Facts, Level};

/// Policies of a test have been created at different seconds, so that precedence is exercised.
const CREATED: [&str; 3] = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"];

fn put<K: Indexed + serde::de::DeserializeOwned>(index: &mut Index, object: Value) {
    K::apply(index, serde_json::from_value(object).expect("object"));
}

/// A policy of either kind, as the API server would show it.
#[derive(Clone, Debug)]
struct Generated {
    cluster: bool,
    created: &'static str,
    spec: Value,
}

impl Generated {
    fn put(&self, index: &mut Index, name: &str) {
        let kind = if self.cluster { "ClusterAuditPolicy" } else { "AuditPolicy" };
        let mut object = json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": kind, "spec": self.spec,
            "metadata": {"name": name, "uid": name, "generation": 1, "creationTimestamp": self.created}});
        if self.cluster {
            put::<ClusterAuditPolicy>(index, object);
        } else {
            object["metadata"]["namespace"] = json!("shop");
            put::<AuditPolicy>(index, object);
        }
    }

    fn is_baseline(&self) -> bool {
        self.spec["enforcement"] == "Baseline"
    }
}

fn any_selector(key: &'static str) -> impl Strategy<Value = Value> {
    prop_oneof![Just(json!({})), Just(json!({"matchLabels": {key: "a"}})), Just(json!({"matchLabels": {key: "b"}}))]
}

fn any_rules() -> impl Strategy<Value = Value> {
    let matches = prop_oneof![
        Just(json!({"methods": ["GET"]})),
        Just(json!({"ports": [80]})),
        Just(json!({"pathPrefixes": ["/api"]})),
        Just(json!({"when": "request.path.startsWith('/api') && connection.port == 80"})),
        Just(json!({"when": "request.headers['x-debug'] != 'yes'"})),
    ];
    let rule = (matches, proptest::sample::select(vec!["None", "Metadata"]));
    (proptest::collection::vec(rule, 0..3), proptest::option::of(proptest::sample::select(vec!["None", "Metadata"])))
        .prop_map(|(rules, rest)| {
            let mut list: Vec<Value> = rules
                .iter()
                .enumerate()
                .map(|(i, (matches, level))| json!({"name": format!("r{i}"), "level": level, "match": matches}))
                .collect();
            list.extend(rest.map(|level| json!({"name": "rest", "level": level})));
            json!(list)
        })
}

fn any_exclusions() -> impl Strategy<Value = Value> {
    let one = (proptest::option::of(Just(json!(["shop"]))), any_selector("app")).prop_map(|(namespaces, pods)| {
        match namespaces {
            Some(namespaces) => json!({"namespaces": namespaces, "podSelector": pods, "reason": "because"}),
            None => json!({"podSelector": pods, "reason": "because"}),
        }
    });
    proptest::collection::vec(one, 0..2).prop_map(|list| json!(list))
}

fn any_policy() -> impl Strategy<Value = Generated> {
    let capture = prop_oneof![
        Just(json!({})),
        Just(json!({"directions": ["Inbound"]})),
        Just(json!({"excludePorts": [{"port": 80, "direction": "Inbound"}]})),
    ];
    let common = (any_selector("app"), any_rules(), capture, any::<bool>(), proptest::sample::select(&CREATED[..]));
    let cluster =
        (any::<bool>(), any_selector("team"), proptest::sample::select(vec!["Default", "Baseline"]), any_exclusions());
    (common, cluster).prop_map(
        |((pods, rules, capture, suspend, created), (cluster, namespaces, enforcement, without))| {
            let mut spec = json!({"podSelector": pods, "rules": rules, "capture": capture, "suspend": suspend});
            if cluster {
                spec["namespaceSelector"] = namespaces;
                spec["enforcement"] = json!(enforcement);
                spec["exclusions"] = without;
            }
            Generated { cluster, created, spec }
        },
    )
}

/// A cluster with one namespace and these policies.
fn cluster(policies: &[Generated], namespace_labels: &Value) -> Index {
    let mut index = Index::new("cluster.local");
    put::<Namespace>(&mut index, json!({"metadata": {"name": "shop", "uid": "n", "labels": namespace_labels}}));
    for (i, policy) in policies.iter().enumerate() {
        policy.put(&mut index, &format!("p{i}"));
    }
    index
}

/// The level at which an exchange of this pod is recorded; `None`: nothing looks at it.
fn level(index: &Index, pod: &PodTraits, facts: &Facts<'_>) -> Option<Level> {
    let excluded = ExcludedNamespaces { own: "testimony-system".to_owned(), further: Vec::new() };
    match decide(index, &excluded, "shop", pod) {
        Decision::Inject(selection) => {
            let judge = Judge::new(selection.document).expect("the sidecar runs every document");
            judge.judge(facts).map(|verdict| verdict.level)
        }
        _ => None,
    }
}

proptest! {
    #[test]
    fn op_3_adding_a_policy_of_either_kind_never_audits_less(
        policies in proptest::collection::vec(any_policy(), 0..4),
        added in any_policy(),
        app in proptest::sample::select(vec!["a", "b", "c"]),
        namespace_labels in prop_oneof![
            Just(json!({})),
            Just(json!({"team": "a"})),
            Just(json!({"team": "b", "testimony.dev/cluster-defaults": "disabled"})),
        ],
        opted_out: bool,
        inbound: bool,
        port in 80..82_u16,
        path in proptest::sample::select(vec!["/", "/api", "/api/../x", "/other"]),
    ) {
        let mut labels = json!({"app": app});
        if opted_out {
            labels["testimony.dev/inject"] = json!("disabled");
        }
        let pod = json!({"metadata": {"name": "p", "namespace": "shop", "labels": labels}, "spec": {"containers": []}});
        let pod = PodTraits::of(&serde_json::from_value::<Pod>(pod).expect("pod"));
        let direction = if inbound { Direction::Inbound } else { Direction::Outbound };
        let facts = Facts { method: Some("GET"), path: Some(path), ..Facts::connection(direction, port) };

        let before = level(&cluster(&policies, &namespace_labels), &pod, &facts);
        let all = [policies, vec![added.clone()]].concat();
        let after = level(&cluster(&all, &namespace_labels), &pod, &facts);
        prop_assert!(after >= before, "{before:?} became {after:?}");

        // A baseline is a floor: with whatever else there is, at least what it asks for alone.
        if added.is_baseline() {
            let alone = level(&cluster(&[added], &namespace_labels), &pod, &facts);
            prop_assert!(after >= alone, "the baseline's {alone:?} became {after:?}");
        }
    }
}

//! What the chart's NetworkPolicies let through, by the rules of the API, and what its metadata says to Artifact Hub.
//!
//! The policies are judged here; `alone::network` of the cluster tests tries them.

#[allow(dead_code)]
#[path = "support/golden.rs"]
mod golden;
#[path = "support/helm.rs"]
mod support;

use golden::repository;
use serde_json::Value;
use std::collections::BTreeSet;
use support::{chart, objects, of_kind, rendered};
use testimony_core::contract::label::INJECTED;

/// A pod that connects: the labels of its namespace and its own. The namespace is `testimony-system` or another one.
struct Peer {
    own_namespace: bool,
    namespace_labels: Value,
    labels: Value,
}

fn matches(selector: &Value, labels: &Value) -> bool {
    assert!(selector.get("matchExpressions").is_none(), "this test knows matchLabels alone");
    let wanted = selector["matchLabels"].as_object();
    wanted.is_none_or(|wanted| wanted.iter().all(|(name, value)| labels.get(name) == Some(value)))
}

/// Whether one entry of `from` names the peer.
fn names(from: &Value, peer: &Peer) -> bool {
    assert!(from.get("ipBlock").is_none(), "this test knows pods alone");
    let namespace = match from.get("namespaceSelector") {
        Some(selector) => matches(selector, &peer.namespace_labels),
        None => peer.own_namespace,
    };
    namespace && from.get("podSelector").is_none_or(|selector| matches(selector, &peer.labels))
}

/// Whether a peer may open `port` (name and number) of a pod with `labels`.
fn lets_in(policies: &[Value], labels: &Value, port: (&str, u64), peer: &Peer) -> bool {
    let mut selected = false;
    for policy in policies.iter().filter(|policy| matches(&policy["spec"]["podSelector"], labels)) {
        assert_eq!(policy["spec"]["policyTypes"], serde_json::json!(["Ingress"]));
        selected = true;
        for rule in policy["spec"]["ingress"].as_array().into_iter().flatten() {
            let ports = rule["ports"].as_array();
            let opens = |open: &Value| open["port"] == port.0 || open["port"] == port.1;
            let from = rule["from"].as_array();
            if ports.is_none_or(|ports| ports.iter().any(opens))
                && from.is_none_or(|from| from.iter().any(|from| names(from, peer)))
            {
                return true;
            }
        }
    }
    !selected
}

#[test]
fn from_outside_only_the_webhook_can_be_reached_and_by_sidecars_the_policy_server() {
    let manifest = rendered(&["values-ha.yaml", "ci/minimal-values.yaml"], &[]);
    let policies = of_kind(&manifest, "NetworkPolicy");
    let outside = Peer {
        own_namespace: false,
        namespace_labels: serde_json::json!({"kubernetes.io/metadata.name": "shop"}),
        labels: serde_json::json!({"app": "shop"}),
    };
    let sidecar = Peer {
        own_namespace: false,
        namespace_labels: serde_json::json!({"kubernetes.io/metadata.name": "shop"}),
        labels: serde_json::json!({"app": "shop", INJECTED: "true"}),
    };
    let inside = Peer {
        own_namespace: true,
        namespace_labels: serde_json::json!({"kubernetes.io/metadata.name": "testimony-system"}),
        labels: serde_json::json!({"app": "prometheus"}),
    };
    let (mut reached, mut by_sidecars, mut all) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for deployment in of_kind(&manifest, "Deployment") {
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"].as_array().expect("ports") {
            let number = port["containerPort"].as_u64().expect("a number");
            let named = (port["name"].as_str().expect("a name"), number);
            all.insert(number);
            if lets_in(&policies, labels, named, &outside) {
                reached.insert(number);
            }
            if lets_in(&policies, labels, named, &sidecar) {
                by_sidecars.insert(number);
            }
            assert!(lets_in(&policies, labels, named, &inside), "{number} is closed to the release's namespace");
        }
        // A port that nobody declares is closed.
        assert!(!lets_in(&policies, labels, ("", 9999), &outside));
    }
    assert_eq!(reached, [10250].into());
    assert_eq!(by_sidecars, [8443, 10250].into());
    assert_eq!(all, [8080, 8443, 10250].into());
}

#[test]
fn metrics_are_open_to_the_peers_that_the_values_name() {
    let manifest = rendered(&["ci/everything-values.yaml"], &[]);
    let policies = of_kind(&manifest, "NetworkPolicy");
    for deployment in of_kind(&manifest, "Deployment") {
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        for (namespace, wanted) in [("monitoring", true), ("shop", false)] {
            let peer = Peer {
                own_namespace: false,
                namespace_labels: serde_json::json!({"kubernetes.io/metadata.name": namespace}),
                labels: serde_json::json!({}),
            };
            assert_eq!(lets_in(&policies, labels, ("admin", 8080), &peer), wanted, "{namespace}");
        }
    }
}

#[test]
fn the_tests_rights_name_its_objects() {
    let manifest = rendered(&["ci/minimal-values.yaml"], &[]);
    let hooks: Vec<Value> = objects(&manifest)
        .into_iter()
        .filter(|object| object["metadata"]["annotations"]["helm.sh/hook"] == "test")
        .collect();
    assert_eq!(hooks.len(), 7);
    for hook in &hooks {
        let deleted = &hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"];
        assert_eq!(deleted, "before-hook-creation,hook-succeeded,hook-failed", "{}", hook["kind"]);
        for rule in hook["rules"].as_array().into_iter().flatten() {
            let reads = rule["verbs"] == serde_json::json!(["get", "list"]);
            assert!(reads || rule["resourceNames"] == serde_json::json!(["testimony-selftest"]), "{rule}");
        }
    }
}

/// Name and reference of each image that the values name.
fn images_of_the_values(version: &str) -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(chart().join("values.yaml")).expect("values.yaml");
    let values: Value = serde_saphyr::from_str(&text).expect("YAML");
    let image = &values["image"];
    let registry = image["registry"].as_str().expect("a registry");
    let parts = image.as_object().expect("images").values();
    let repositories = parts.filter_map(|part| part["repository"].as_str());
    let images: BTreeSet<_> =
        repositories.map(|name| (name.to_owned(), format!("{registry}/{name}:{version}"))).collect();
    assert!(images.len() >= 3, "image.*.repository is no longer read: {images:?}");
    images
}

#[test]
fn artifact_hub_is_told_what_is_there() {
    let text = std::fs::read_to_string(chart().join("Chart.yaml")).expect("Chart.yaml");
    let about: Value = serde_saphyr::from_str(&text).expect("YAML");
    let list = |name: &str| -> Vec<Value> {
        let text = about["annotations"][format!("artifacthub.io/{name}")].as_str().expect(name);
        serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let version = about["appVersion"].as_str().expect("a version");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let told: BTreeSet<(String, String)> =
        list("images").iter().map(|image| (text(&image["name"]), text(&image["image"]))).collect();
    assert_eq!(told, images_of_the_values(version));
    for change in list("changes") {
        let kinds = ["added", "changed", "deprecated", "removed", "fixed", "security"];
        assert!(kinds.map(Value::from).contains(&change["kind"]), "{change}");
    }
    // Links into the repository lead to files of it.
    for link in list("links") {
        let url = link["url"].as_str().expect("a URL");
        let (_, file) = url.split_once("/blob/main/").expect("a file of the repository");
        assert!(repository().join(file).is_file(), "{url}");
    }
    let manifest = rendered(&["ci/minimal-values.yaml"], &[]);
    let installed: BTreeSet<String> = of_kind(&manifest, "CustomResourceDefinition")
        .iter()
        .map(|definition| definition["metadata"]["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    let told = list("crds").iter().map(|crd| crd["name"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(installed, told);
    let examples: BTreeSet<String> = list("crdsExamples").iter().map(|example| example["kind"].to_string()).collect();
    assert_eq!(examples.len(), installed.len(), "each definition has an example");
}

#[test]
fn replicas_are_spread_over_zones_and_nodes() {
    for values in ["values-ha.yaml", "ci/minimal-values.yaml"] {
        let manifest = rendered(&[values, "ci/minimal-values.yaml"], &[]);
        let deployments = of_kind(&manifest, "Deployment");
        assert_eq!(deployments.len(), 2);
        for deployment in deployments {
            let template = &deployment["spec"]["template"];
            let spread = template["spec"]["topologySpreadConstraints"].as_array().expect("constraints");
            let keys: Vec<_> = spread.iter().map(|constraint| constraint["topologyKey"].as_str()).collect();
            assert_eq!(keys, [Some("topology.kubernetes.io/zone"), Some("kubernetes.io/hostname")]);
            for constraint in spread {
                // It must not keep a replica from starting where there is one node only, and it must count its own pods.
                assert_eq!(constraint["whenUnsatisfiable"], "ScheduleAnyway");
                assert!(matches(&constraint["labelSelector"], &template["metadata"]["labels"]));
                assert_eq!(constraint["labelSelector"], deployment["spec"]["selector"]);
            }
        }
    }
}

/// Every part of the schema that is a value or a folder of values.
fn described(node: &Value, path: &str) {
    let leaf = node.get("properties").is_none();
    if node.get("type").is_some() {
        assert!(node["title"].is_string(), "{path} has no title");
        assert!(!leaf || node["description"].is_string(), "{path} has no description");
    }
    for (name, child) in node["properties"].as_object().into_iter().flatten() {
        described(child, &format!("{path}/{name}"));
    }
    for (name, child) in node["definitions"].as_object().into_iter().flatten() {
        described(child, &format!("{path}/definitions/{name}"));
    }
}

#[test]
fn every_value_says_what_it_takes() {
    let text = std::fs::read_to_string(chart().join("values.schema.json")).expect("the schema");
    described(&serde_json::from_str(&text).expect("JSON"), "");
}

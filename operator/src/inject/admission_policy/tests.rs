use super::*;
use crate::api::ClusterAuditPolicy;
use crate::index::Index;
use crate::inject::tests::{cluster, config, excluded, put, yaml};
use crate::inject::{Decision, PodTraits, decide};
use expect_test::expect_file;
use k8s_openapi::api::core::v1::Namespace;
use std::collections::BTreeMap;

fn rendered(strict: bool) -> Vec<Value> {
    let index = cluster();
    let bootstrap = bootstrap(&index, "testimony-system");
    let config = config();
    let plan = Plan {
        config: &config,
        selection: &bootstrap.start,
        namespace: "",
        cluster_uid: "cluster-1",
        operator_ca: "-----BEGIN CERTIFICATE-----\n...\n",
        injection_id: INJECTION_ID,
    };
    let selector = BTreeMap::from([("app".to_owned(), "otelcol".to_owned())]);
    let sink_services = vec![("obs".to_owned(), selector)];
    objects(&plan, &Surroundings { excluded: &excluded(), strict, mounts: &bootstrap.mounts, sink_services })
}

#[test]
fn the_policies() {
    let yaml = |object: &Value| serde_saphyr::to_string(object).expect("yaml");
    let text = rendered(true).iter().map(yaml).collect::<Vec<_>>().join("---\n");
    expect_file!["../../../tests/fixtures/admission-policies.yaml"].assert_eq(&text);
}

#[test]
fn without_strict_namespaces_there_is_no_policy_of_them_and_every_namespace_is_the_others() {
    let objects = rendered(false);
    let names: Vec<_> =
        objects.iter().map(|o| (&o["kind"], &o["metadata"]["name"])).map(|(k, n)| format!("{k} {n}")).collect();
    let wanted = [
        r#""MutatingAdmissionPolicy" "testimony-inject""#,
        r#""MutatingAdmissionPolicyBinding" "testimony-inject""#,
        r#""MutatingAdmissionPolicy" "testimony-inject-cluster""#,
        r#""MutatingAdmissionPolicyBinding" "testimony-inject-cluster""#,
    ];
    assert_eq!(names, wanted);
    for binding in [1, 3] {
        assert!(!objects[binding].to_string().contains("testimony.dev/enforcement"));
    }
}

#[test]
fn strict_fails_closed_and_the_others_never_do() {
    let objects = rendered(true);
    let spec = |i: usize| &objects[i]["spec"];
    let of = |field: &str| [0, 2, 4].map(|i| spec(i).pointer(field).cloned().unwrap_or_default());
    assert_eq!(of("/failurePolicy"), ["Ignore", "Ignore", "Fail"]);
    // A policy of the pod's own namespace or of the cluster selects; strict needs none.
    assert_eq!(of("/paramKind/kind"), [json!("AuditPolicy"), json!("ClusterAuditPolicy"), Value::Null]);
    for i in [1, 3, 5] {
        let never = &spec(i)["matchResources"]["namespaceSelector"]["matchExpressions"][0];
        assert_eq!(never["values"], json!(["kube-system", "kube-node-lease", "testimony-system", "cni"]));
        assert_eq!(spec(i).get("paramRef").is_some(), i != 5);
    }
}

#[test]
fn all_policies_make_the_same_pod() {
    let objects = rendered(true);
    let patches = [0, 2].map(|i| objects[i]["spec"]["mutations"][0]["jsonPatch"]["expression"].as_str().expect("CEL"));
    assert_eq!(patches[1].strip_prefix("!variables.reached ? [] :\n"), Some(patches[0]));
    let sidecar = |i: usize| {
        let variables = objects[i]["spec"]["variables"].as_array().expect("variables");
        variables.iter().filter(|variable| variable["name"] != "reached").cloned().collect::<Vec<_>>()
    };
    assert_eq!(sidecar(0), sidecar(2));
    assert_eq!(sidecar(0), sidecar(4));
}

/// The webhook's list, in the words of the API server: behind what the pod has, or alone.
#[test]
fn d5_the_autoscalers_list_is_the_webhooks() {
    let objects = rendered(true);
    let patch = objects[0]["spec"]["mutations"][0]["jsonPatch"]["expression"].as_str().expect("CEL");
    let key = annotation::EVICTABLE_VOLUMES;
    let ours = "testimony-state,testimony-key";
    let merged =
        format!(r#"("{key}" in variables.annotations ? variables.annotations["{key}"] + ",{ours}" : "{ours}")"#);
    assert_eq!(patch.matches(&merged).count(), 2, "with annotations and without any");
}

#[test]
fn the_chart_lets_the_controller_keep_each_of_them() {
    let rights = include_str!("../../../../charts/testimony/templates/injection.yaml");
    assert!(rights.contains(&format!("resourceNames: [{}]", NAMES.join(", "))));
}

/// The table that the expressions of `testimony-inject-cluster` were tried on, by the webhook's decision.
#[test]
fn the_webhook_decides_as_the_table_of_cluster_policies_says() {
    let lines = include_str!("../../../tests/fixtures/cluster-policies.cases").lines();
    let mut tried = 0;
    for line in lines.filter(|line| !line.starts_with('#')) {
        let parts: Vec<&str> = line.split('|').map(str::trim).collect();
        let [wanted, spec, namespace, labels] = parts[..] else { panic!("{line}") };
        let mut index = Index::new("cluster.local");
        put::<Namespace>(&mut index, json!({"metadata": {"name": "shop", "labels": yaml(namespace)}}));
        put::<ClusterAuditPolicy>(
            &mut index,
            json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "ClusterAuditPolicy",
                   "metadata": {"name": "p", "uid": "p"}, "spec": yaml(spec)}),
        );
        let pod = json!({"metadata": {"name": "p", "labels": yaml(labels)}, "spec": {"containers": [{"name": "app"}]}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let decision = decide(&index, &excluded(), "shop", &PodTraits::of(&pod));
        assert_eq!(matches!(decision, Decision::Inject(_)), wanted == "yes", "{line}: {decision:?}");
        tried += 1;
    }
    assert!(tried > 20, "the table is no longer read");
}

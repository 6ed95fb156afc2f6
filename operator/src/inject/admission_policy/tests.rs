use super::*;
use crate::inject::tests::{cluster, config, excluded};
use expect_test::expect_file;
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
fn without_strict_namespaces_there_is_one_policy_and_every_other_namespace_is_its() {
    let objects = rendered(false);
    let names: Vec<_> =
        objects.iter().map(|o| (&o["kind"], &o["metadata"]["name"])).map(|(k, n)| format!("{k} {n}")).collect();
    let wanted =
        [r#""MutatingAdmissionPolicy" "testimony-inject""#, r#""MutatingAdmissionPolicyBinding" "testimony-inject""#];
    assert_eq!(names, wanted);
    assert!(!objects[1].to_string().contains("testimony.dev/enforcement"));
}

#[test]
fn strict_fails_closed_and_the_other_never_does() {
    let objects = rendered(true);
    let spec = |i: usize| &objects[i]["spec"];
    assert_eq!((&spec(0)["failurePolicy"], &spec(2)["failurePolicy"]), (&json!("Ignore"), &json!("Fail")));
    // A policy of the pod's own namespace selects; strict needs none.
    assert_eq!((&spec(0)["paramKind"]["kind"], &spec(2)["paramKind"]), (&json!("AuditPolicy"), &Value::Null));
    for i in [1, 3] {
        let never = &spec(i)["matchResources"]["namespaceSelector"]["matchExpressions"][0];
        assert_eq!(never["values"], json!(["kube-system", "kube-node-lease", "testimony-system", "cni"]));
    }
}

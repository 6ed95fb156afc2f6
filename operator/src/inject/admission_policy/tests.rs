use super::*;
use crate::inject::Selection;
use crate::inject::tests::{cluster, config, excluded};
use expect_test::expect_file;
use std::collections::BTreeMap;

fn rendered(strict: bool) -> Vec<Value> {
    let index = cluster();
    let (document, secrets) = bootstrap(&index, "testimony-system");
    let selection = Selection { document, secrets, warnings: Vec::new() };
    let config = config();
    let plan = Plan {
        config: &config,
        selection: &selection,
        namespace: "",
        cluster_uid: "cluster-1",
        operator_ca: "-----BEGIN CERTIFICATE-----\n...\n",
        injection_id: INJECTION_ID,
    };
    let selector = BTreeMap::from([("app".to_owned(), "otelcol".to_owned())]);
    let sink_services = vec![("obs".to_owned(), selector)];
    objects(&plan, &Surroundings { excluded: &excluded(), strict, sink_services })
}

#[test]
fn the_policies() {
    let yaml = |object: &Value| serde_saphyr::to_string(object).expect("yaml");
    let text = rendered(true).iter().map(yaml).collect::<Vec<_>>().join("---\n");
    expect_file!["../../../tests/fixtures/admission-policies.yaml"].assert_eq(&text);
}

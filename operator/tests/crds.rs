//! The committed CRDs are those of the types.

use std::path::Path;
use testimony_operator::api;

#[test]
fn crds_folder_holds_what_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
    for (name, crd) in api::crds() {
        let file = folder.join(name);
        let committed = std::fs::read_to_string(&file).unwrap_or_default();
        let printed = api::yaml(&crd).expect("yaml");
        assert!(
            committed == printed,
            "{} is stale: run `cargo run -p testimony-operator -- crds --directory crds`",
            file.display()
        );
    }
}

#[test]
fn every_list_and_string_of_a_spec_is_bounded() {
    for (name, crd) in api::crds() {
        let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").expect("spec");
        bounded(name, "spec", spec);
    }
}

fn bounded(file: &str, path: &str, schema: &serde_json::Value) {
    let has = |key: &str| schema.get(key).is_some();
    match schema.get("type").and_then(|t| t.as_str()) {
        Some("string") => assert!(has("maxLength") || has("enum"), "{file}: {path} has no maxLength"),
        Some("array") => {
            assert!(has("maxItems"), "{file}: {path} has no maxItems");
            assert!(has("x-kubernetes-list-type"), "{file}: {path} has no list type");
            bounded(file, &format!("{path}[]"), &schema["items"]);
        }
        Some("integer") => assert!(has("maximum"), "{file}: {path} has no maximum"),
        Some("object") => {
            assert!(has("properties") || has("maxProperties"), "{file}: {path} is not bounded");
            for (name, property) in schema.get("properties").and_then(|p| p.as_object()).into_iter().flatten() {
                assert!(property.get("description").is_some(), "{file}: {path}.{name} has no description");
                bounded(file, &format!("{path}.{name}"), property);
            }
        }
        other => assert!(other == Some("boolean"), "{file}: {path} has type {other:?}"),
    }
}

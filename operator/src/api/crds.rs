//! The CRDs as YAML for the chart, and as a reference page.

use super::{AuditPolicy, AuditSink, ClusterAuditPolicy, SINK_NAME_CHARS_MAX};
use kube::CustomResourceExt;
use serde_json::{Value, json};
use std::fmt::Write;

const SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema";

/// All CRDs, with the file name of each.
pub fn crds() -> Vec<(&'static str, Value)> {
    let mut policy = value(AuditPolicy::crd());
    let mut cluster = value(ClusterAuditPolicy::crd());
    let mut sink = value(AuditSink::crd());
    // Only a cluster policy has exclusions.
    if let Some(Value::Object(status)) = policy.pointer_mut(&format!("{SCHEMA}/properties/status/properties")) {
        status.remove("excluded");
    }
    name_rule(
        &mut policy,
        "size(self.metadata.name) <= 63",
        "metadata.name: an AuditPolicy's name has at most 63 characters",
    );
    name_rule(
        &mut cluster,
        "size(self.metadata.name) <= 63",
        "metadata.name: a ClusterAuditPolicy's name has at most 63 characters",
    );
    name_rule(
        &mut sink,
        &format!("size(self.metadata.name) <= {SINK_NAME_CHARS_MAX} && !self.metadata.name.contains('.')"),
        "metadata.name: an AuditSink's name is part of a volume's name: at most 48 characters, without dots",
    );
    vec![("auditpolicies.yaml", policy), ("auditsinks.yaml", sink), ("clusterauditpolicies.yaml", cluster)]
}

/// One CRD as YAML.
pub fn yaml(crd: &Value) -> Result<String, serde_saphyr::ser_error::Error> {
    serde_saphyr::to_string(crd)
}

/// The reference page.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Custom resources\n\nGenerated from the types by `testimony-operator crds --markdown`. Group \
         `audit.testimony.dev`, version `v1alpha1`.\n",
    );
    for (_, crd) in crds() {
        let name = |pointer: &str| crd.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let scope = name("/spec/scope").to_lowercase();
        let _ = write!(out, "\n## {} ({scope}, `{}`)\n", name("/spec/names/kind"), name("/spec/names/shortNames/0"));
        for part in ["spec", "status"] {
            let Some(schema) = crd.pointer(&format!("{SCHEMA}/properties/{part}")) else { continue };
            let _ = write!(out, "\n| field | type | default | description |\n|---|---|---|---|\n");
            rows(&mut out, part, schema);
        }
    }
    out
}

fn value(crd: impl serde::Serialize) -> Value {
    let mut value = serde_json::to_value(crd).unwrap_or_default();
    drop_rust_formats(&mut value);
    value
}

/// Formats that Kubernetes does not know; the bounds beside them say more.
fn drop_rust_formats(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                fields.remove("format");
            }
            fields.values_mut().for_each(drop_rust_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_rust_formats),
        _ => {}
    }
}

fn name_rule(crd: &mut Value, rule: &str, message: &str) {
    if let Some(Value::Object(schema)) = crd.pointer_mut(SCHEMA) {
        schema.insert("x-kubernetes-validations".to_owned(), json!([{"rule": rule, "message": message}]));
    }
}

fn rows(out: &mut String, prefix: &str, schema: &Value) {
    let Some(Value::Object(properties)) = schema.get("properties") else { return };
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, property) in properties {
        let path = format!("{prefix}.{name}");
        let (kind, nested) = kind_of(property);
        let default = match property.get("default") {
            Some(default) if property.get("properties").is_none() => format!("`{default}`"),
            _ if required.contains(&name.as_str()) && prefix.starts_with("spec") => "required".to_owned(),
            _ => String::new(),
        };
        let text = property.get("description").and_then(Value::as_str).unwrap_or_default();
        let text = text.replace('\n', " ").replace('|', "\\|");
        let _ = writeln!(out, "| `{path}` | {kind} | {default} | {text} |");
        // Conditions are Kubernetes' own type: described there.
        if name != "conditions"
            && let Some((nested, suffix)) = nested
        {
            rows(out, &format!("{path}{suffix}"), nested);
        }
    }
}

fn kind_of(property: &Value) -> (String, Option<(&Value, &'static str)>) {
    let kind = property.get("type").and_then(Value::as_str).unwrap_or("any");
    if let Some(values) = property.get("enum").and_then(Value::as_array) {
        let values: Vec<String> = values.iter().filter_map(Value::as_str).map(|v| format!("`{v}`")).collect();
        return (values.join(", "), None);
    }
    match (kind, property.get("items")) {
        ("array", Some(items)) => (format!("list of {}", kind_of(items).0), Some((items, "[]"))),
        ("object", _) if property.get("additionalProperties").is_some() => ("map of strings".to_owned(), None),
        _ => (kind.to_owned(), Some((property, ""))),
    }
}

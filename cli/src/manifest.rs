//! Manifests: files of YAML or JSON, and the objects in them that the operator's code looks at.

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::{Namespace, Service};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use testimony_operator::api::{self, AuditPolicy, AuditSink, ClusterAuditPolicy};
use testimony_operator::index::{Index, Indexed};

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// One object of a file.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Where it stands, for errors.
    pub origin: String,
    /// The object.
    pub object: Value,
}

impl Manifest {
    /// `kind`, or the empty string.
    pub fn kind(&self) -> &str {
        self.object.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    /// `metadata.name`, else `metadata.generateName`, else the empty string.
    pub fn name(&self) -> &str {
        let of = |field: &str| self.object.pointer(field).and_then(Value::as_str);
        of("/metadata/name").or_else(|| of("/metadata/generateName")).unwrap_or_default()
    }

    /// `metadata.namespace`, or `default`.
    pub fn namespace<'a>(&'a self, default: &'a str) -> &'a str {
        self.object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or(default)
    }

    fn is_ours(&self) -> bool {
        let version = self.object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        version.starts_with("audit.testimony.dev/")
    }
}

/// Reads all of a file; `-` is standard input.
///
/// # Errors
/// It cannot be read, or is over the limit.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    read.with_context(|| path.display().to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        bail!("{}: over {FILE_BYTES_MAX} bytes", path.display());
    }
    Ok(bytes)
}

/// The objects of these files; a `List` is taken apart.
///
/// # Errors
/// Names the file, and the place in it.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Manifest>> {
    let mut all = Vec::new();
    for path in paths {
        let name = path.display().to_string();
        let text = String::from_utf8(read(path)?).with_context(|| format!("{name}: not UTF-8"))?;
        all.extend(parse(&name, &text)?);
    }
    Ok(all)
}

/// The objects of one text.
///
/// # Errors
/// Names the file, and the place in it.
pub fn parse(name: &str, text: &str) -> Result<Vec<Manifest>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| anyhow!("{name}: {error}"))?;
    let mut all = Vec::new();
    for (at, document) in documents.into_iter().enumerate() {
        if document.is_null() {
            continue;
        }
        let origin = format!("{name}: document {}", at + 1);
        if document.get("kind").and_then(Value::as_str).is_none() {
            bail!("{origin}: no Kubernetes object: it has no `kind`");
        }
        let items = document.get("items").and_then(Value::as_array).filter(|_| document["kind"] == "List");
        match items {
            Some(items) => {
                all.extend(items.iter().map(|object| Manifest { origin: origin.clone(), object: object.clone() }))
            }
            None => all.push(Manifest { origin, object: document }),
        }
    }
    Ok(all)
}

/// Puts what the operator looks at into an index: policies, sinks, namespaces, services. Others are left out.
///
/// # Errors
/// An object of ours that the API server or the operator would not accept: the message names the field and the fix.
pub fn index(manifests: &[Manifest], namespace: &str) -> Result<Index> {
    let mut index = Index::new("cluster.local");
    for manifest in manifests {
        match (manifest.is_ours(), manifest.kind()) {
            (true, "AuditPolicy") => {
                check_schema(manifest)?;
                let mut policy: AuditPolicy = typed(manifest)?;
                policy.metadata.namespace.get_or_insert_with(|| namespace.to_owned());
                AuditPolicy::apply(&mut index, policy);
            }
            (true, "ClusterAuditPolicy") => {
                check_schema(manifest)?;
                ClusterAuditPolicy::apply(&mut index, typed(manifest)?);
            }
            (true, "AuditSink") => {
                check_schema(manifest)?;
                AuditSink::apply(&mut index, typed(manifest)?);
            }
            (true, kind) => bail!("{}: this version knows no kind {kind:?} of audit.testimony.dev", manifest.origin),
            (false, "Namespace") => {
                Namespace::apply(&mut index, typed(manifest)?);
            }
            (false, "Service") => {
                let mut service: Service = typed(manifest)?;
                service.metadata.namespace.get_or_insert_with(|| namespace.to_owned());
                Service::apply(&mut index, service);
            }
            (false, _) => {}
        }
    }
    for policy in index.policies.values() {
        if let Some(invalid) = &policy.invalid {
            let kind = if policy.is_cluster() { "ClusterAuditPolicy" } else { "AuditPolicy" };
            bail!("{kind} {}: {invalid}", policy.key());
        }
    }
    for sink in index.sinks.values() {
        if let Some(invalid) = &sink.invalid {
            bail!("AuditSink {}: {invalid}", sink.name);
        }
    }
    Ok(index)
}

/// An object as its type.
///
/// # Errors
/// Names the object.
pub fn typed<T: DeserializeOwned>(manifest: &Manifest) -> Result<T> {
    serde_json::from_value(manifest.object.clone())
        .with_context(|| format!("{}: {} {:?}", manifest.origin, manifest.kind(), manifest.name()))
}

/// Checks an object of ours by the schema of its definition. The CEL rules of the schema are left to the API server; most of
/// what they say the operator's code says again.
fn check_schema(manifest: &Manifest) -> Result<()> {
    let crds = api::crds();
    let kind = |crd: &Value| crd.pointer("/spec/names/kind").and_then(Value::as_str) == Some(manifest.kind());
    let Some((_, crd)) = crds.iter().find(|(_, crd)| kind(crd)) else { return Ok(()) };
    let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec");
    let (Some(schema), Some(spec)) = (schema, manifest.object.get("spec")) else {
        bail!("{}: {} {:?}: no spec", manifest.origin, manifest.kind(), manifest.name());
    };
    if manifest.name().is_empty() {
        bail!("{}: {}: metadata.name is missing", manifest.origin, manifest.kind());
    }
    let wrong = |problem: String| anyhow!("{}: {} {:?}: {problem}", manifest.origin, manifest.kind(), manifest.name());
    conforms("spec", spec, schema).map_err(wrong)
}

/// What of OpenAPI's schema the definitions use, but for patterns and CEL.
fn conforms(path: &str, value: &Value, schema: &Value) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let words: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        return Err(format!("{path}: {value} is none of {}", words.join(", ")));
    }
    let fits = match schema["type"].as_str() {
        _ if schema["x-kubernetes-int-or-string"] == true => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => true,
    };
    if !fits {
        return Err(format!("{path}: {value} is no {}", schema["type"].as_str().unwrap_or("value")));
    }
    let size = match value {
        Value::String(text) => (text.chars().count(), "minLength", "maxLength", "characters"),
        Value::Array(list) => (list.len(), "minItems", "maxItems", "entries"),
        Value::Object(map) => (map.len(), "minProperties", "maxProperties", "entries"),
        _ => (0, "", "", ""),
    };
    let (count, least, most, what) = size;
    if schema[least].as_u64().is_some_and(|min| (count as u64) < min) {
        return Err(format!("{path}: {count} {what}, at least {}", schema[least]));
    }
    if schema[most].as_u64().is_some_and(|max| count as u64 > max) {
        return Err(format!("{path}: {count} {what}, at most {}", schema[most]));
    }
    if let Some(number) = value.as_f64() {
        if schema["minimum"].as_f64().is_some_and(|min| number < min) {
            return Err(format!("{path}: {value}, at least {}", schema["minimum"]));
        }
        if schema["maximum"].as_f64().is_some_and(|max| number > max) {
            return Err(format!("{path}: {value}, at most {}", schema["maximum"]));
        }
    }
    inside(path, value, schema)
}

fn inside(path: &str, value: &Value, schema: &Value) -> Result<(), String> {
    if let (Some(items), Value::Array(list)) = (schema.get("items"), value) {
        for (at, item) in list.iter().enumerate() {
            conforms(&format!("{path}[{at}]"), item, items)?;
        }
    }
    let Value::Object(fields) = value else { return Ok(()) };
    if let Some(required) = schema["required"].as_array() {
        let missing = required.iter().filter_map(Value::as_str).find(|name| !fields.contains_key(*name));
        if let Some(name) = missing {
            return Err(format!("{path}.{name}: is missing"));
        }
    }
    let known = schema["properties"].as_object();
    for (name, field) in fields {
        let below = format!("{path}.{name}");
        match (known.and_then(|known| known.get(name)), schema.get("additionalProperties")) {
            (Some(schema), _) | (None, Some(schema)) => conforms(&below, field, schema)?,
            (None, None) => {
                let names: Vec<&str> = known.into_iter().flat_map(|known| known.keys()).map(String::as_str).collect();
                return Err(format!("{below}: no such field; there are {}", names.join(", ")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Index> {
        index(&parse("p.yaml", text)?, "default")
    }

    fn policy(spec: &str) -> String {
        format!("{{apiVersion: audit.testimony.dev/v1alpha1, kind: AuditPolicy, metadata: {{name: p}}, spec: {spec}}}")
    }

    #[test]
    fn policies_without_a_namespace_stand_in_the_given_one() {
        let index = load(&policy("{}")).expect("valid");
        assert!(index.policies.contains_key(&("default".to_owned(), "p".to_owned())));
    }

    #[test]
    fn a_wrong_field_is_named_with_its_fix() {
        let table = [
            ("{rule: []}", "spec.rule: no such field; there are capture, "),
            ("{rules: [{name: a, level: All}]}", "spec.rules[0].level: \"All\" is none of None, Metadata"),
            ("{rules: [{level: None}]}", "spec.rules[0].name: is missing"),
            ("{sinks: []}", "spec.sinks: 0 entries, at least 1"),
            ("{suspend: 'yes'}", "spec.suspend: \"yes\" is no boolean"),
            ("{correlation: {sampledPercent: 101}}", "spec.correlation.sampledPercent: 101, at most 100"),
            ("{rules: [{name: a, level: None}, {name: b, level: None}]}", "spec.rules[0].match: is empty"),
        ];
        for (spec, expected) in table {
            let error = load(&policy(spec)).expect_err(expected);
            assert!(format!("{error:#}").contains(expected), "{spec}: {error:#}");
        }
    }

    #[test]
    fn lists_are_taken_apart_and_other_kinds_left_out() {
        let list = format!("kind: List\nitems:\n- {}\n- {{kind: ConfigMap}}\n", policy("{}"));
        assert_eq!(load(&list).expect("valid").policies.len(), 1);
        assert!(load("a: 1").expect_err("no kind").to_string().contains("no `kind`"));
        assert_eq!(parse("x", "---\n---\nkind: A\n").expect("valid").len(), 1);
    }
}

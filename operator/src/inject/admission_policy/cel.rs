//! CEL as text: JSON values as literals, and what a pod must be asked.

use serde_json::{Value, json};

/// Key of an object that stands for an expression, not for itself.
const RAW: &str = "\u{0}cel";

/// A JSON value that becomes this expression.
pub(super) fn raw(expression: impl Into<String>) -> Value {
    json!({RAW: expression.into()})
}

/// A literal. The API server demands that all values of a map have one type: `dyn` makes them so.
pub(super) fn literal(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => match fields.get(RAW).and_then(Value::as_str) {
            Some(expression) => format!("({expression})"),
            None => {
                let fields = fields.iter().map(|(k, v)| format!("{}: dyn({})", quoted(k), literal(v)));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
            }
        },
        Value::String(text) => quoted(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A string literal: JSON's escapes are CEL's too.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A list of string literals.
pub(super) fn list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    format!("[{}]", items.into_iter().map(quoted).collect::<Vec<_>>().join(", "))
}

/// One operation of a JSON patch; `path` and `value` are expressions.
pub(super) fn operation(op: &str, path: &str, value: Option<&str>) -> String {
    let value = value.map(|value| format!(", value: {value}")).unwrap_or_default();
    format!("JSONPatch{{op: {}, path: {path}{value}}}", quoted(op))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_have_one_type_for_all_values_of_a_map() {
        let value = json!({"a": 1, "b": ["x\n\"$"], "c": {"d": true}, "e": raw("object.metadata.name")});
        let wanted =
            r#"{"a": dyn(1), "b": dyn(["x\n\"$"]), "c": dyn({"d": dyn(true)}), "e": dyn((object.metadata.name))}"#;
        assert_eq!(literal(&value), wanted);
    }

    #[test]
    fn operations_are_typed() {
        assert_eq!(operation("remove", "\"/a\"", None), r#"JSONPatch{op: "remove", path: "/a"}"#);
        assert_eq!(operation("add", "variables.p", Some("1")), r#"JSONPatch{op: "add", path: variables.p, value: 1}"#);
    }
}

//! Whether the policy that is the parameter selects a pod, in CEL: the counterpart of `AcceptedPolicy::reach`.

use super::LABELS;
use super::cel::quoted;
use testimony_core::contract::label;

/// Labels of the pod's namespace.
const NAMESPACE_LABELS: &str = "namespaceObject.metadata.?labels.orValue({})";

/// Whether the parameter's `podSelector` matches.
pub(super) fn pod() -> String {
    selector("params.spec", "podSelector", LABELS)
}

/// Whether a ClusterAuditPolicy with this enforcement cannot be opted out of.
pub(super) fn is_baseline() -> &'static str {
    "params.spec.?enforcement.orValue('Default') == 'Baseline'"
}

/// Whether a ClusterAuditPolicy speaks of the pod's namespace, and leaves the pod not alone.
pub(super) fn namespace() -> String {
    let opted_out = format!("{NAMESPACE_LABELS}[?{}].orValue('') == 'disabled'", quoted(label::CLUSTER_DEFAULTS));
    let names = "(!has(x.namespaces) || request.namespace in x.namespaces)";
    let namespaces = selector("x", "namespaceSelector", NAMESPACE_LABELS);
    let pods = selector("x", "podSelector", LABELS);
    // A selector that is not given matches everything, as an empty one does.
    format!(
        "{} &&\n({} || !({opted_out})) &&\n!params.spec.?exclusions.orValue([]).exists(x, {names} &&\n({namespaces}) &&\n({pods}))",
        selector("params.spec", "namespaceSelector", NAMESPACE_LABELS),
        is_baseline(),
    )
}

/// Whether the label selector `field` of `owner` matches `labels`; one that is not there does.
fn selector(owner: &str, field: &str, labels: &str) -> String {
    let pairs = format!(
        "{owner}.?{field}.?matchLabels.orValue({{}}).all(k, {labels}[?k] == optional.of({owner}.{field}.matchLabels[k]))"
    );
    let expressions = format!(
        "{owner}.?{field}.?matchExpressions.orValue([]).all(e,\n\
         e.operator == 'In' ? e.key in {labels} && {labels}[e.key] in e.?values.orValue([]) :\n\
         e.operator == 'NotIn' ? !(e.key in {labels} && {labels}[e.key] in e.?values.orValue([])) :\n\
         e.operator == 'Exists' ? e.key in {labels} : !(e.key in {labels}))"
    );
    format!("{pairs} &&\n{expressions}")
}

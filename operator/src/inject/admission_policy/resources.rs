//! Requests and limits in CEL, as [`super::super::resources`] fits them to the pod.

use super::cel::{list, literal, operation, quoted, raw};
use super::{OURS, SidecarConfig};
use crate::inject::Resources;
use crate::inject::resources::{COUNTED, Share, shares, unit};
use serde_json::Value;

const LISTS: [&str; 2] = ["limits", "requests"];

/// Whether the pod is Guaranteed before we come.
pub(super) fn guaranteed() -> String {
    let whole = |of: &str| {
        let limits = format!("{of}.?resources.?limits.orValue({{}})");
        let request = format!("{of}.?resources.?requests.orValue({{}})[?r].orValue({of}.resources.limits[r])");
        format!(
            "{}.all(r, r in {limits} && quantity({of}.resources.limits[r]).isGreaterThan(quantity(\"0\")) && \
             quantity({request}).compareTo(quantity({of}.resources.limits[r])) == 0)",
            list(COUNTED)
        )
    };
    let others = format!("(variables.initContainers + variables.containers).filter(c, !(c.name in {}))", list(OURS));
    format!("has(object.spec.resources) ? {} :\n{others}.all(c, {})", whole("object.spec"), whole("c"))
}

/// One of our containers, which requests its limits in a Guaranteed pod.
pub(super) fn fitted(mut container: Value, resources: &Resources) -> Value {
    let [usual, most] = [false, true].map(|guaranteed| literal(&resources.json(guaranteed)));
    if let Some(own) = container.get_mut("resources") {
        *own = raw(format!("variables.guaranteed ? {most} : {usual}"));
    }
    container
}

fn own(list: &str, name: &str) -> (String, String) {
    let name = quoted(name);
    (format!("{name} in object.spec.?resources.?{list}.orValue({{}})"), format!("object.spec.resources.{list}[{name}]"))
}

/// What the pod's own requests and limits were, as the inside of a JSON object.
pub(super) fn grown() -> String {
    let each = LISTS.iter().flat_map(|list| COUNTED.map(|name| (list, name))).map(|(list, name)| {
        let (held, value) = own(list, name);
        format!("({held} ? '\"/spec/resources/{list}/{name}\":\"' + string({value}) + '\"' : '')")
    });
    format!("[{}].filter(t, t != '').join(',')", each.collect::<Vec<_>>().join(",\n"))
}

/// The operations that make them grow by ours.
pub(super) fn raised(config: &SidecarConfig) -> String {
    let pairs = shares(config, false).into_iter().zip(shares(config, true));
    let each = pairs.map(|(Share { list, name, amount }, most)| {
        let (held, value) = own(list, name);
        let (factor, suffix) = unit(name);
        // CEL has no round: half is added, and the rest cut off.
        let sum = format!(
            "string(int(quantity({value}).asApproximateFloat() * {factor:.1} + 0.5 + (variables.guaranteed ? {:.1} : {amount:.1}))) + {}",
            most.amount,
            quoted(suffix)
        );
        let replace = operation("replace", &quoted(&format!("/spec/resources/{list}/{name}")), Some(&sum));
        format!("({held} ? [{replace}] : [])")
    });
    each.collect::<Vec<_>>().join(" +\n")
}

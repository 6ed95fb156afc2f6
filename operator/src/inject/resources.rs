//! What our containers ask of a node, fitted to the pod: a Guaranteed pod stays one, and requests and limits of the pod as a
//! whole (`spec.resources`) grow by ours. The API server refuses a pod that requests less than its containers do, and its own
//! containers must not share their limits with ours.

use super::SidecarConfig;
use super::traits::{is_our_container, others};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation};
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use testimony_core::quantity::Quantity;

/// Requests and limits of a container; always all four, so that an HPA can compute with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Requested CPU.
    pub cpu_request: String,
    /// CPU limit.
    pub cpu_limit: String,
    /// Requested memory.
    pub memory_request: String,
    /// Memory limit.
    pub memory_limit: String,
}

impl Resources {
    pub(super) fn json(&self, guaranteed: bool) -> Value {
        let cpu = if guaranteed { &self.cpu_limit } else { &self.cpu_request };
        let memory = if guaranteed { &self.memory_limit } else { &self.memory_request };
        json!({
            "requests": {"cpu": cpu, "memory": memory},
            "limits": {"cpu": self.cpu_limit, "memory": self.memory_limit},
        })
    }
}

/// What decides on the QoS class.
pub(super) const COUNTED: [&str; 2] = ["cpu", "memory"];

/// Whether the pod's QoS class is Guaranteed before we come: every container, or the pod as a whole, has limits, and requests no
/// less. Then ours request their limits: less would make it Burstable, and lower limits would starve the sidecar.
pub(super) fn is_guaranteed(spec: &PodSpec) -> bool {
    let fits = |limit: Option<Quantity>, request: Option<Quantity>| limit > Some(Quantity::ZERO) && request == limit;
    match &spec.resources {
        // One that names nothing, too, makes the pod BestEffort, whatever its containers have.
        Some(whole) => COUNTED.iter().all(|name| {
            let limit = quantity(Some(whole), "limits", name);
            fits(limit, quantity(Some(whole), "requests", name).or_else(|| requested(spec, name)).or(limit))
        }),
        None => {
            let of = |c: &Container| {
                COUNTED.iter().all(|name| {
                    let limit = quantity(c.resources.as_ref(), "limits", name);
                    fits(limit, requests(c, name))
                })
            };
            !spec.containers.is_empty() && others(spec).all(of)
        }
    }
}

/// What a container requests; its limit where it names that alone, as the API server takes it.
fn requests(container: &Container, name: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref();
    quantity(resources, "requests", name).or_else(|| quantity(resources, "limits", name))
}

/// What the containers request of it together, which the API server takes for the request of a pod that has none; `None`: nothing.
fn requested(spec: &PodSpec, name: &str) -> Option<Quantity> {
    others(spec).find_map(|c| requests(c, name))?;
    let of = |c: &Container| requests(c, name).unwrap_or(Quantity::ZERO);
    let (mut most, mut beside) = (Quantity::ZERO, Quantity::ZERO);
    let is_other = |c: &&Container| !is_our_container(&c.name);
    for init in spec.init_containers.iter().flatten().filter(is_other) {
        most = most.max(beside.plus(of(init)));
        if init.restart_policy.as_deref() == Some("Always") {
            beside = beside.plus(of(init));
        }
    }
    let running = spec.containers.iter().filter(is_other).map(of).fold(beside, Quantity::plus);
    Some(most.max(running))
}

/// The request of a pod that names a limit alone, as the API server takes it before the webhook sees the pod: that limit, unless a
/// container of its own requests some; then all of theirs, and with ours there is always one.
fn implied_request<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a str> {
    let names =
        |c: &Container| ["requests", "limits"].iter().any(|list| text(c.resources.as_ref(), list, name).is_some());
    text(spec.resources.as_ref(), "limits", name).filter(|_| !others(spec).any(names))
}

fn text<'a>(resources: Option<&'a ResourceRequirements>, list: &str, name: &str) -> Option<&'a str> {
    let resources = resources?;
    let map = if list == "limits" { &resources.limits } else { &resources.requests };
    map.as_ref()?.get(name).map(|quantity| quantity.0.as_str())
}

fn quantity(resources: Option<&ResourceRequirements>, list: &str, name: &str) -> Option<Quantity> {
    amount(text(resources, list, name)?)
}

fn amount(text: &str) -> Option<Quantity> {
    Quantity::parse(text).ok()
}

/// A value of the pod as a whole, and by how much ours make it grow.
pub(super) struct Share {
    /// `requests` or `limits`.
    pub list: &'static str,
    /// `cpu` or `memory`.
    pub name: &'static str,
    /// In [`unit`]s of `name`.
    pub amount: f64,
}

/// How many of the unit that we write make one, and its suffix: CPU in thousandths, memory in bytes.
pub(super) fn unit(name: &str) -> (f64, &'static str) {
    if name == "cpu" { (1000.0, "m") } else { (1.0, "") }
}

/// All shares. `testimony-init` runs before the others, so the larger of the two counts, not their sum.
pub(super) fn shares(config: &SidecarConfig, guaranteed: bool) -> Vec<Share> {
    let ours = [&config.init_resources, &config.resources].map(|resources| resources.json(guaranteed));
    let of = |list, name| {
        let amounts = ours.iter().filter_map(|o| Some(amount(o.get(list)?.get(name)?.as_str()?)?.as_f64()));
        Share { list, name, amount: (amounts.fold(0.0, f64::max) * unit(name).0).round() }
    };
    ["limits", "requests"].iter().flat_map(|list| COUNTED.map(|name| of(list, name))).collect()
}

/// The operations that make the pod's own requests and limits grow, and what they were, by JSON pointer; empty: there was none.
/// What it does not have stays so: the API server sets it by what all containers request.
pub(super) fn raise(spec: &PodSpec, config: &SidecarConfig) -> (Vec<PatchOperation>, BTreeMap<String, String>) {
    let (mut operations, mut before) = (Vec::new(), BTreeMap::new());
    let mut add = |tokens: &[&str], was: &str, value: Value| {
        let path = PointerBuf::from_tokens(tokens.iter().copied());
        if before.insert(path.to_string(), was.to_owned()).is_none() {
            operations.push(PatchOperation::Add(AddOperation { path, value }));
        }
    };
    let requests = spec.resources.as_ref().and_then(|whole| whole.requests.as_ref());
    for Share { list, name, amount: share } in shares(config, is_guaranteed(spec)) {
        let was = text(spec.resources.as_ref(), list, name);
        let implied = was.is_none() && list == "requests";
        let Some(own) = was.or_else(|| implied_request(spec, name).filter(|_| implied)).and_then(amount) else {
            continue;
        };
        if implied && requests.is_none() {
            add(&["spec", "resources", list], "", json!({}));
        }
        let (factor, suffix) = unit(name);
        let value = json!(format!("{:.0}{suffix}", (own.as_f64() * factor).round() + share));
        add(&["spec", "resources", list, name], was.unwrap_or_default(), value);
    }
    (operations, before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::tests::{config, injected};
    use crate::inject::undo;
    use serde_json::json;

    fn pod(resources: &Value, of_app: &Value) -> Value {
        let mut pod =
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "app", "resources": of_app}]}});
        if !resources.is_null() {
            pod["spec"]["resources"] = resources.clone();
        }
        pod
    }

    /// Requests of `testimony-init` and of the sidecar, cpu and memory.
    fn requested(pod: &Value) -> [[String; 2]; 2] {
        [0, 1].map(|i| {
            let requests = &pod["spec"]["initContainers"][i]["resources"]["requests"];
            COUNTED.map(|name| requests[name].as_str().expect("all four").to_owned())
        })
    }

    #[test]
    fn px_1_a_guaranteed_pod_stays_one_and_no_other_pays_for_it() {
        let (init, sidecar) = (config().init_resources, config().resources);
        let raised = [[init.cpu_limit, init.memory_limit], [sidecar.cpu_limit, sidecar.memory_limit]];
        let usual = [[init.cpu_request, init.memory_request], [sidecar.cpu_request, sidecar.memory_request]];
        let limits = json!({"cpu": "1", "memory": "1Gi"});
        let table = [
            (Value::Null, json!({"limits": limits}), true),
            (Value::Null, json!({"limits": limits, "requests": {"cpu": "1000m", "memory": "1024Mi"}}), true),
            (Value::Null, json!({"limits": limits, "requests": {"cpu": "1", "memory": "1Mi"}}), false),
            (Value::Null, json!({"limits": {"memory": "1Gi"}}), false),
            (Value::Null, json!({"limits": {"cpu": "0", "memory": "0"}}), false),
            (Value::Null, json!({}), false),
            (json!({"limits": limits, "requests": limits}), json!({}), true),
            (json!({}), json!({"limits": limits}), false),
            (json!({"requests": {}}), json!({"limits": limits}), false),
            // In a manifest: the API server will take what the containers request.
            (json!({"limits": limits}), json!({"limits": limits}), true),
            (json!({"limits": limits}), json!({"requests": {"cpu": "1", "memory": "1Mi"}}), false),
            (json!({"limits": limits}), json!({}), true),
            (json!({"limits": {}}), json!({}), false),
            (json!({"limits": limits, "requests": {"cpu": "1", "memory": "1Mi"}}), json!({"limits": limits}), false),
        ];
        for (whole, of_app, guaranteed) in table {
            let patched = injected(&pod(&whole, &of_app));
            let wanted = if guaranteed { &raised } else { &usual };
            assert_eq!(&requested(&patched), wanted, "{whole} {of_app}");
        }
        let mut two = pod(&Value::Null, &json!({"limits": limits}));
        two["spec"]["initContainers"] = json!([{"name": "migrate"}]);
        assert_eq!(requested(&injected(&two)), usual, "init containers count too");
    }

    #[test]
    fn the_pods_own_requests_and_limits_grow_by_ours_and_come_back() {
        // init 10m to 200m, 16Mi to 32Mi; sidecar 20m to 1, 32Mi to 128Mi.
        let mebi = |n: u64| (n * 1024 * 1024).to_string();
        let table = [
            (
                json!({"requests": {"cpu": "100m", "memory": "64Mi"}}),
                json!({"requests": {"cpu": "120m", "memory": mebi(96)}}),
            ),
            (
                json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "1Gi"}}),
                json!({"requests": {"cpu": "120m", "memory": mebi(1056)}, "limits": {"cpu": "2000m", "memory": mebi(1152)}}),
            ),
            (
                json!({"requests": {"cpu": "0.29", "memory": "64Mi", "hugepages-2Mi": "2Mi"}, "limits": {"cpu": "290m", "memory": "64Mi"}}),
                json!({"requests": {"cpu": "1290m", "memory": mebi(192), "hugepages-2Mi": "2Mi"}, "limits": {"cpu": "1290m", "memory": mebi(192)}}),
            ),
            (json!({"requests": {"hugepages-2Mi": "2Mi"}}), json!({"requests": {"hugepages-2Mi": "2Mi"}})),
            // In a manifest: the API server has not yet set the requests.
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
                json!({"limits": {"cpu": "2000m", "memory": mebi(1152)}, "requests": {"cpu": "2000m", "memory": mebi(1152)}}),
            ),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"memory": "1Gi"}}),
                json!({"limits": {"cpu": "2000m", "memory": mebi(1152)}, "requests": {"cpu": "2000m", "memory": mebi(1152)}}),
            ),
        ];
        for (own, wanted) in table {
            let before = pod(&own, &json!({}));
            let patched = injected(&before);
            assert_eq!(patched["spec"]["resources"], wanted, "{own}");
            assert_eq!(undo(&patched).expect("undone"), before, "{own}");
        }
        let before = pod(&json!({"limits": {"cpu": "1", "memory": "1Gi"}}), &json!({"limits": {"cpu": "100m"}}));
        let patched = injected(&before);
        let wanted = json!({"limits": {"cpu": "2000m", "memory": mebi(1152)}, "requests": {"memory": mebi(1056)}});
        assert_eq!(undo(&patched).expect("undone"), before);
        assert_eq!(patched["spec"]["resources"], wanted, "what a container requests counts instead");
    }
}

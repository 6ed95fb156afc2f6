//! `rollout: Restart`: which workload is restarted next. Pure: the cluster comes in, a step goes out.
//!
//! A workload is restarted at most once for each edit of the policies that ask for it: what was asked stands in an
//! annotation of its pod template. A pod that has no sidecar even then is counted, and restarted no more.

use super::status::needs_restart;
use crate::api::Rollout;
use crate::index::{Index, PolicyEntry};
use crate::inject::ExcludedNamespaces;
use kube::api::{ApiResource, Object};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Annotation of a pod template: the policies, with their generations, for which it was restarted.
pub(super) const RESTARTED_FOR: &str = "testimony.dev/restarted-for";

/// Characters of a policy's uid that tell it from one that was made again under its name.
const UID_CHARS: usize = 8;

/// What is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// By its strategy.
    Deployment,
    /// From the last pod to the first.
    StatefulSet,
    /// Node by node.
    DaemonSet,
}

/// A workload by its kind and name.
pub(super) type Id = (Kind, String);

/// A workload as the API server shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) id: Id,
    /// Uid, for Events.
    pub(super) uid: String,
    /// What [`RESTARTED_FOR`] says.
    pub(super) restarted_for: Option<String>,
    /// Each pod that it wants is of its latest template and available, and no other pod is left.
    pub(super) complete: bool,
    /// It does not roll by itself: paused, or its strategy is OnDelete.
    pub(super) held: bool,
}

/// What to do in one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Restart this one.
    Restart(Id),
    /// This one is not fully available: wait for it.
    Wait(Id),
    /// Nothing is left to do.
    Done,
}

/// Decides for one namespace. `wanted`: workloads with pods that need a restart, with what [`RESTARTED_FOR`] must say then.
pub(super) fn next(workloads: &[Workload], wanted: &BTreeMap<Id, String>) -> Step {
    let concerned = |w: &&Workload| wanted.contains_key(&w.id) || w.restarted_for.is_some();
    let asked = |w: &&Workload| wanted.get(&w.id).is_some_and(|key| w.restarted_for.as_ref() != Some(key)) && !w.held;
    // A workload that is held is not on its way.
    if let Some(open) = workloads.iter().filter(concerned).find(|w| !w.complete && !w.held)
        && workloads.iter().any(|w| asked(&w))
    {
        return Step::Wait(open.id.clone());
    }
    workloads.iter().filter(asked).map(|w| &w.id).min().map_or(Step::Done, |id| Step::Restart(id.clone()))
}

/// Kind and name of a pod's controller.
pub(super) type OwnerId = (String, String);

/// By namespace: controllers of pods, each with what [`RESTARTED_FOR`] must say.
pub(super) type Asked = BTreeMap<String, BTreeMap<OwnerId, String>>;

/// Controllers of pods that need a restart and are selected by a policy that asks for it, by namespace, each with what
/// [`RESTARTED_FOR`] must say.
pub(super) fn wanted(index: &Index, excluded: &ExcludedNamespaces) -> Asked {
    let restarts = |p: &PolicyEntry| {
        // Nobody is disturbed for a policy that records nothing; resuming it is an edit.
        p.good.as_ref().is_some_and(|good| good.rollout == Rollout::Restart && !good.suspend)
    };
    if !index.policies.values().any(restarts) {
        return BTreeMap::new();
    }
    let mut asked: BTreeMap<(&str, OwnerId), BTreeSet<String>> = BTreeMap::new();
    for pod in index.pods.values().filter(|pod| !pod.finished) {
        let Some(owner) = &pod.owner else { continue };
        let selecting: Vec<&PolicyEntry> = index.selecting(&pod.namespace, &pod.traits.labels).collect();
        if !selecting.iter().any(|p| restarts(p)) || !needs_restart(index, excluded, pod, &selecting) {
            continue;
        }
        let policies = selecting.into_iter().filter(|p| restarts(p));
        let entry = asked.entry((&pod.namespace, (owner.kind.clone(), owner.name.clone()))).or_default();
        entry.extend(policies.map(edition));
    }
    let mut wanted = Asked::new();
    for ((namespace, owner), editions) in asked {
        let key = editions.into_iter().collect::<Vec<_>>().join(",");
        wanted.entry(namespace.to_owned()).or_default().insert(owner, key);
    }
    wanted
}

/// What was asked in the look before too. The webhook learns of an edit at the same time as the controller: pods that were
/// restarted at once could be made before it knows.
pub(super) fn still<'a>(now: &'a Asked, before: &Asked) -> BTreeMap<&'a str, BTreeMap<OwnerId, String>> {
    let in_both = |namespace: &str, owner: &OwnerId, key: &String| {
        before.get(namespace).and_then(|owners| owners.get(owner)) == Some(key)
    };
    let still = now.iter().map(|(namespace, owners)| {
        let owners = owners.iter().filter(|(owner, key)| in_both(namespace, owner, key));
        (namespace.as_str(), owners.map(|(owner, key)| (owner.clone(), key.clone())).collect())
    });
    still.filter(|(_, owners): &(&str, BTreeMap<_, _>)| !owners.is_empty()).collect()
}

/// A policy as it is now: `name@generation.uid`.
fn edition(policy: &PolicyEntry) -> String {
    let uid: String = policy.uid.chars().take(UID_CHARS).collect();
    format!("{}@{}.{uid}", policy.name, policy.generation.unwrap_or_default())
}

/// The workload behind a controller; a ReplicaSet stands for its Deployment. Others are not restarted.
pub(super) fn workload_of(owner: &OwnerId, deployments: &BTreeMap<String, String>) -> Option<Id> {
    match owner.0.as_str() {
        "ReplicaSet" => deployments.get(&owner.1).map(|name| (Kind::Deployment, name.clone())),
        "StatefulSet" => Some((Kind::StatefulSet, owner.1.clone())),
        "DaemonSet" => Some((Kind::DaemonSet, owner.1.clone())),
        _ => None,
    }
}

impl Kind {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Deployment, Self::StatefulSet, Self::DaemonSet];

    /// Where the API server has them.
    pub(super) fn resource(self) -> ApiResource {
        resource(&format!("{self:?}"))
    }
}

/// A kind of `apps/v1`.
pub(super) fn resource(kind: &str) -> ApiResource {
    let plural = format!("{}s", kind.to_ascii_lowercase());
    ApiResource { group: "apps".into(), version: "v1".into(), api_version: "apps/v1".into(), kind: kind.into(), plural }
}

/// A workload of any [`Kind`]: the fields that are looked at. The whole types would be a megabyte of the operator's image.
pub(super) type Rolling = Object<Spec, Status>;

/// What is wanted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    replicas: Option<i32>,
    paused: bool,
    template: Template,
    update_strategy: Strategy,
}

/// The pods' template.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Template {
    metadata: TemplateMeta,
}

/// Metadata of the pods' template.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct TemplateMeta {
    annotations: BTreeMap<String, String>,
}

/// How a StatefulSet or a DaemonSet rolls.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Strategy {
    #[serde(rename = "type")]
    kind: String,
    rolling_update: RollingUpdate,
}

/// Of a StatefulSet: pods below stay as they are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct RollingUpdate {
    partition: Option<i32>,
}

/// What is there; a DaemonSet has words of its own for the same.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Status {
    observed_generation: Option<i64>,
    #[serde(alias = "currentNumberScheduled")]
    replicas: i32,
    #[serde(alias = "updatedNumberScheduled")]
    updated_replicas: i32,
    #[serde(alias = "numberAvailable")]
    available_replicas: i32,
    desired_number_scheduled: i32,
}

impl Workload {
    /// What one of this kind shows.
    pub(super) fn of(kind: Kind, object: &Rolling) -> Self {
        let (spec, meta) = (&object.spec, &object.metadata);
        let status = object.status.clone().unwrap_or_default();
        let wanted = match kind {
            Kind::DaemonSet => status.desired_number_scheduled,
            Kind::Deployment | Kind::StatefulSet => spec.replicas.unwrap_or(1),
        };
        // Pods below the partition stay as they are.
        let kept = spec.update_strategy.rolling_update.partition.unwrap_or_default().min(wanted);
        Self {
            id: (kind, meta.name.clone().unwrap_or_default()),
            uid: meta.uid.clone().unwrap_or_default(),
            restarted_for: spec.template.metadata.annotations.get(RESTARTED_FOR).cloned(),
            complete: status.observed_generation >= meta.generation
                && status.updated_replicas.saturating_add(kept) >= wanted
                && status.available_replicas >= wanted
                && status.replicas <= wanted,
            held: spec.paused || spec.update_strategy.kind == "OnDelete",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{AuditPolicy, ClusterAuditPolicy};
    use crate::index::Indexed;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn put<K: Indexed + serde::de::DeserializeOwned>(index: &mut Index, object: Value) {
        K::apply(index, serde_json::from_value(object).expect("object"));
    }

    fn policy(generation: i64, rollout: &str) -> Value {
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "spec": {"rollout": rollout},
               "metadata": {"name": "audit", "namespace": "shop", "uid": "0123456789", "generation": generation}})
    }

    fn pod(name: &str, owner: Option<(&str, &str)>, injected: bool) -> Value {
        let mut pod = json!({"metadata": {"name": name, "namespace": "shop", "uid": name}, "spec": {"containers": []}});
        if let Some((kind, name)) = owner {
            pod["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": true}]);
        }
        if injected {
            pod["metadata"]["annotations"] = json!({"testimony.dev/injection-id": name});
            pod["spec"]["initContainers"] = json!([{"name": "testimony-init"}, {"name": "testimony-sidecar"}]);
        }
        pod
    }

    fn asked(index: &Index) -> Vec<(String, String)> {
        let excluded = ExcludedNamespaces { own: "testimony-system".to_owned(), ..Default::default() };
        let all = wanted(index, &excluded).into_values().flatten();
        all.map(|((kind, name), key)| (format!("{kind}/{name}"), key)).collect()
    }

    #[test]
    fn only_pods_that_need_it_and_have_a_controller_are_restarted_where_a_policy_asks() {
        let mut index = Index::new("cluster.local");
        put::<Pod>(&mut index, pod("a", Some(("ReplicaSet", "web-1")), false));
        put::<Pod>(&mut index, pod("b", Some(("ReplicaSet", "web-1")), false));
        put::<Pod>(&mut index, pod("c", Some(("StatefulSet", "db")), true));
        put::<Pod>(&mut index, pod("d", None, false));
        let mut host = pod("e", Some(("DaemonSet", "agent")), false);
        host["spec"]["hostNetwork"] = json!(true);
        put::<Pod>(&mut index, host);
        put::<AuditPolicy>(&mut index, policy(1, "Manual"));
        assert_eq!(asked(&index), []);
        put::<AuditPolicy>(&mut index, policy(2, "Restart"));
        assert_eq!(asked(&index), [("ReplicaSet/web-1".to_owned(), "audit@2.01234567".to_owned())]);
        // A second one that asks for it, of the whole cluster.
        let mut wide = policy(7, "Restart");
        wide["kind"] = json!("ClusterAuditPolicy");
        wide["metadata"] = json!({"name": "floor", "uid": "abcdefghij", "generation": 7});
        put::<ClusterAuditPolicy>(&mut index, wide);
        let both = [("ReplicaSet/web-1".to_owned(), "audit@2.01234567,floor@7.abcdefgh".to_owned())];
        assert_eq!(asked(&index), both);
        // Nobody is disturbed for what records nothing.
        let mut suspended = policy(3, "Restart");
        suspended["spec"]["suspend"] = json!(true);
        put::<AuditPolicy>(&mut index, suspended);
        assert_eq!(asked(&index), [("ReplicaSet/web-1".to_owned(), "floor@7.abcdefgh".to_owned())]);
    }

    #[test]
    fn only_what_was_asked_in_the_look_before_too_is_restarted() {
        let owner = |name: &str| ("ReplicaSet".to_owned(), name.to_owned());
        let asked = |owners: &[(&str, &str)]| {
            let owners = owners.iter().map(|(name, key)| (owner(name), (*key).to_owned()));
            Asked::from([("shop".to_owned(), owners.collect())])
        };
        let now = asked(&[("web-1", "audit@2.0"), ("api-1", "audit@2.0"), ("db-1", "audit@2.0")]);
        let before = asked(&[("web-1", "audit@2.0"), ("api-1", "audit@1.0"), ("gone", "audit@1.0")]);
        let both = still(&now, &before);
        assert_eq!(both["shop"].keys().collect::<Vec<_>>(), [&owner("web-1")]);
        assert!(still(&now, &Asked::new()).is_empty() && still(&Asked::new(), &now).is_empty());
    }

    fn workload(name: &str, restarted_for: Option<&str>, complete: bool) -> Workload {
        let id = (Kind::Deployment, name.to_owned());
        Workload { id, uid: String::new(), restarted_for: restarted_for.map(str::to_owned), complete, held: false }
    }

    fn id(name: &str) -> Id {
        (Kind::Deployment, name.to_owned())
    }

    #[test]
    fn one_at_a_time_none_while_another_is_not_available_and_each_once() {
        let wanted: BTreeMap<Id, String> = ["a", "b"].map(|name| (id(name), "audit@2.0".to_owned())).into();
        let both = |a: Workload, b: Workload| next(&[b, a, workload("other", None, false)], &wanted);
        let (old, new) = (Some("audit@1.0"), Some("audit@2.0"));
        assert_eq!(both(workload("a", None, true), workload("b", None, true)), Step::Restart(id("a")));
        assert_eq!(both(workload("a", new, false), workload("b", None, true)), Step::Wait(id("a")), "it rolls");
        assert_eq!(both(workload("a", None, true), workload("b", None, false)), Step::Wait(id("b")), "it is ill");
        assert_eq!(both(workload("a", new, true), workload("b", old, true)), Step::Restart(id("b")));
        // Still without a sidecar: they need a restart for ever, and get none.
        assert_eq!(both(workload("a", new, true), workload("b", new, true)), Step::Done);
        let held = Workload { held: true, ..workload("a", None, false) };
        assert_eq!(both(held, workload("b", None, true)), Step::Restart(id("b")), "what is paused waits for its owner");
        // Its old pods are gone, so that nothing wants it any more, but its new ones are not there yet.
        let only_b: BTreeMap<Id, String> = [(id("b"), "audit@2.0".to_owned())].into();
        let rolling = [workload("a", new, false), workload("b", None, true)];
        assert_eq!(next(&rolling, &only_b), Step::Wait(id("a")));
    }

    #[test]
    fn a_rollout_is_complete_when_all_pods_are_new_and_available_and_no_old_one_is_left() {
        let deployment = |status: Value| {
            let object = json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "generation": 5},
                "spec": {"replicas": 2, "selector": {}, "template":
                         {"metadata": {"annotations": {"testimony.dev/restarted-for": "audit@1.0"}}}},
                "status": status,
            });
            Workload::of(Kind::Deployment, &serde_json::from_value(object).expect("deployment"))
        };
        let counts = |observed: i64, updated: i32, available: i32, total: i32| {
            deployment(json!({"observedGeneration": observed, "updatedReplicas": updated,
                              "availableReplicas": available, "replicas": total}))
        };
        assert!(counts(5, 2, 2, 2).complete);
        assert_eq!(counts(5, 2, 2, 2).restarted_for.as_deref(), Some("audit@1.0"));
        for wrong in [counts(4, 2, 2, 2), counts(5, 1, 2, 2), counts(5, 2, 1, 2), counts(5, 2, 2, 3)] {
            assert!(!wrong.complete, "{wrong:?}");
        }
        let set = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "generation": 1},
            "spec": {"replicas": 3, "selector": {}, "serviceName": "db", "template": {},
                     "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}},
            "status": {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 3, "replicas": 3},
        });
        let set = Workload::of(Kind::StatefulSet, &serde_json::from_value(set).expect("set"));
        assert!(set.complete, "a partition holds the others back");
        let daemons = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent", "generation": 1},
            "spec": {"selector": {}, "template": {}, "updateStrategy": {"type": "OnDelete"}},
            "status": {"observedGeneration": 1, "desiredNumberScheduled": 1, "currentNumberScheduled": 1,
                       "numberMisscheduled": 0, "numberReady": 0},
        });
        let daemons = Workload::of(Kind::DaemonSet, &serde_json::from_value(daemons).expect("daemons"));
        assert_eq!((daemons.complete, daemons.held), (false, true));
    }
}

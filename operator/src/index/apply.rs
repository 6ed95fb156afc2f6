//! Watch events into the index.

use super::bearers::{self, Owner};
use super::{Index, Key, NamespaceFacts, PodFacts, PodOwner, PolicyEntry, ServiceFacts, SinkEntry, Undecodable};
use crate::api::{
    AuditPolicy, AuditPolicySpec, AuditPolicyStatus, AuditSink, AuditSinkStatus, ClusterAuditPolicy,
    ClusterAuditPolicySpec, LastGood,
};
use crate::compile::{AcceptedPolicy, Invalid, accept_cluster_policy, accept_policy};
use crate::inject::PodTraits;
use k8s_openapi::api::core::v1::{ContainerState, Namespace, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use serde_json::Value;
use testimony_core::contract::{label, pod::INIT_CONTAINER};
use testimony_core::names::Bearer;

/// What an event can have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Documents of any pod.
    pub documents: bool,
    /// The document of one pod, by uid.
    pub pod: Option<String>,
}

impl Touched {
    const DOCUMENTS: Self = Self { documents: true, pod: None };
    const NOTHING: Self = Self { documents: false, pod: None };

    fn pod(uid: String) -> Self {
        Self { documents: false, pod: Some(uid) }
    }
}

/// A kind that the index keeps.
pub trait Indexed: Sized {
    /// For logs and metrics.
    const KIND: &'static str;

    /// The object is there, or has changed.
    fn apply(index: &mut Index, object: Self) -> Touched;

    /// The object is gone.
    fn delete(index: &mut Index, key: &Key) -> Touched;

    /// The object is there, but is not of the shape that this version knows.
    fn undecodable(index: &mut Index, object: &Undecodable) -> Touched {
        let _ = (index, object);
        Touched::NOTHING
    }

    /// Keys of all objects of this kind in the index.
    fn keys(index: &Index) -> Vec<Key>;

    /// How many objects of this kind are in the index.
    fn count(index: &Index) -> usize;
}

/// Namespace (empty for cluster-scoped objects) and name.
pub fn key_of(meta: &ObjectMeta) -> Key {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

impl Indexed for Namespace {
    const KIND: &'static str = "Namespace";

    fn apply(index: &mut Index, object: Self) -> Touched {
        let mut labels = object.labels().clone();
        labels.remove(super::NAMESPACE_NAME_LABEL);
        let facts = NamespaceFacts {
            uid: object.uid().unwrap_or_default(),
            pod_security: labels.get("pod-security.kubernetes.io/enforce").cloned(),
            strict: labels.get(label::ENFORCEMENT).is_some_and(|value| value == label::STRICT),
            labels,
        };
        let labels = facts.labels.clone();
        let before = index.namespaces.insert(object.name_any(), facts);
        // Other policies select in it now.
        let selects = before.is_none_or(|before| before.labels != labels) && index.cluster_policies().next().is_some();
        Touched { documents: selects, pod: None }
    }

    fn delete(index: &mut Index, key: &Key) -> Touched {
        index.namespaces.remove(&key.1);
        Touched::NOTHING
    }

    fn keys(index: &Index) -> Vec<Key> {
        index.namespaces.keys().map(|name| (String::new(), name.clone())).collect()
    }

    fn count(index: &Index) -> usize {
        index.namespaces.len()
    }
}

impl Indexed for AuditPolicy {
    const KIND: &'static str = "AuditPolicy";

    fn apply(index: &mut Index, object: Self) -> Touched {
        put_policy::<AuditPolicySpec>(index, &object.metadata, &object.spec, object.status)
    }

    fn delete(index: &mut Index, key: &Key) -> Touched {
        remove_policy(index, key)
    }

    fn undecodable(index: &mut Index, object: &Undecodable) -> Touched {
        undecodable_policy::<AuditPolicySpec>(index, object)
    }

    fn keys(index: &Index) -> Vec<Key> {
        index.policies.keys().filter(|key| !key.0.is_empty()).cloned().collect()
    }

    fn count(index: &Index) -> usize {
        index.policies.len() - index.cluster_policies().count()
    }
}

impl Indexed for ClusterAuditPolicy {
    const KIND: &'static str = "ClusterAuditPolicy";

    fn apply(index: &mut Index, object: Self) -> Touched {
        put_policy::<ClusterAuditPolicySpec>(index, &object.metadata, &object.spec, object.status)
    }

    fn delete(index: &mut Index, key: &Key) -> Touched {
        remove_policy(index, key)
    }

    fn undecodable(index: &mut Index, object: &Undecodable) -> Touched {
        undecodable_policy::<ClusterAuditPolicySpec>(index, object)
    }

    fn keys(index: &Index) -> Vec<Key> {
        index.cluster_policies().map(|policy| (String::new(), policy.name.clone())).collect()
    }

    fn count(index: &Index) -> usize {
        index.cluster_policies().count()
    }
}

/// The spec of a kind of policy.
trait PolicySpec: Serialize + DeserializeOwned {
    /// Parses it.
    fn accept(&self) -> Result<AcceptedPolicy, Invalid>;
}

impl PolicySpec for AuditPolicySpec {
    fn accept(&self) -> Result<AcceptedPolicy, Invalid> {
        accept_policy(self)
    }
}

impl PolicySpec for ClusterAuditPolicySpec {
    fn accept(&self) -> Result<AcceptedPolicy, Invalid> {
        accept_cluster_policy(self)
    }
}

fn put_policy<S: PolicySpec>(
    index: &mut Index,
    meta: &ObjectMeta,
    spec: &S,
    status: Option<AuditPolicyStatus>,
) -> Touched {
    let serial = index.next_serial();
    let entry = index.policies.entry(key_of(meta)).or_default();
    let old = entry.serial;
    let renewed = describe_policy(entry, meta);
    let changed = entry.update(spec.accept(), serial);
    entry.status = status.unwrap_or_default();
    let recalled = if entry.invalid.is_none() {
        let spec = serde_json::to_string(spec).unwrap_or_default();
        entry.good_spec = Some(LastGood { generation: meta.generation, spec });
        false
    } else {
        recall::<S>(entry, serial)
    };
    let documents = renewed || changed || recalled;
    if documents {
        index.documents.forget(old);
    }
    Touched { documents, pod: None }
}

fn remove_policy(index: &mut Index, key: &Key) -> Touched {
    if let Some(entry) = index.policies.remove(key) {
        index.documents.forget(entry.serial);
    }
    Touched::DOCUMENTS
}

fn undecodable_policy<S: PolicySpec>(index: &mut Index, object: &Undecodable) -> Touched {
    let serial = index.next_serial();
    let entry = index.policies.entry(key_of(&object.metadata)).or_default();
    let old = entry.serial;
    let renewed = describe_policy(entry, &object.metadata);
    entry.update(Err(undecodable(&object.error)), serial);
    entry.status = policy_status(&object.status);
    let documents = renewed || recall::<S>(entry, serial);
    if documents {
        index.documents.forget(old);
    }
    Touched { documents, pod: None }
}

/// The status of a policy; of one that is not of the shape that this version knows, the last good spec alone.
fn policy_status(status: &Value) -> AuditPolicyStatus {
    AuditPolicyStatus::deserialize(status)
        .unwrap_or_else(|_| AuditPolicyStatus { last_good: last_good(status), ..AuditPolicyStatus::default() })
}

fn last_good(status: &Value) -> Option<LastGood> {
    LastGood::deserialize(status.get("lastGood")?).ok()
}

fn recall<S: PolicySpec>(entry: &mut PolicyEntry, serial: u64) -> bool {
    entry.recall(|spec| serde_json::from_str::<S>(spec).ok()?.accept().ok(), serial)
}

/// Whether the entry lost what was in force: it spoke of an object that was deleted and made again under the same name.
fn describe_policy(entry: &mut PolicyEntry, meta: &ObjectMeta) -> bool {
    let uid = meta.uid.clone().unwrap_or_default();
    let renewed = entry.uid != uid && entry.good.is_some();
    if entry.uid != uid {
        // The old one's specs are nobody's last good.
        *entry = PolicyEntry::default();
    }
    (entry.namespace, entry.name) = key_of(meta);
    entry.uid = uid;
    entry.generation = meta.generation;
    entry.created = meta.creation_timestamp.as_ref().map(|t| t.0);
    renewed
}

fn undecodable(error: &str) -> Invalid {
    Invalid {
        reason: "Undecodable",
        field: "spec".to_owned(),
        problem: error.chars().take(512).collect(),
        fix: "correct the field, and install the CRDs of this version".to_owned(),
    }
}

impl Indexed for AuditSink {
    const KIND: &'static str = "AuditSink";

    fn apply(index: &mut Index, object: Self) -> Touched {
        let status = object.status.unwrap_or_default();
        change_sink(index, &object.metadata, status, |entry| entry.update(&object.spec, object.metadata.generation))
    }

    fn delete(index: &mut Index, key: &Key) -> Touched {
        index.sinks.remove(&key.1);
        index.documents.clear();
        Touched::DOCUMENTS
    }

    fn undecodable(index: &mut Index, object: &Undecodable) -> Touched {
        let status = AuditSinkStatus::deserialize(&object.status)
            .unwrap_or_else(|_| AuditSinkStatus { last_good: last_good(&object.status), ..AuditSinkStatus::default() });
        change_sink(index, &object.metadata, status, |_| Err(undecodable(&object.error)))
    }

    fn keys(index: &Index) -> Vec<Key> {
        index.sinks.keys().map(|name| (String::new(), name.clone())).collect()
    }

    fn count(index: &Index) -> usize {
        index.sinks.len()
    }
}

fn change_sink(
    index: &mut Index,
    meta: &ObjectMeta,
    status: AuditSinkStatus,
    update: impl FnOnce(&mut SinkEntry) -> Result<(), Invalid>,
) -> Touched {
    let entry = index.sinks.entry(meta.name.clone().unwrap_or_default()).or_default();
    let before = entry.in_force();
    describe_sink(entry, meta);
    entry.status = status;
    entry.invalid = update(entry).err();
    entry.recall();
    let documents = before != entry.in_force();
    if documents {
        index.documents.clear();
    }
    Touched { documents, pod: None }
}

fn describe_sink(entry: &mut SinkEntry, meta: &ObjectMeta) {
    let uid = meta.uid.clone().unwrap_or_default();
    if entry.uid != uid {
        *entry = SinkEntry::default();
    }
    entry.name = meta.name.clone().unwrap_or_default();
    entry.uid = uid;
    entry.generation = meta.generation;
    entry.created = meta.creation_timestamp.as_ref().map(|t| t.0);
}

impl Indexed for Service {
    const KIND: &'static str = "Service";

    fn apply(index: &mut Index, object: Self) -> Touched {
        let key = key_of(&object.metadata);
        let bearer = Bearer::Service { namespace: key.0.clone(), name: key.1.clone() };
        index.bearers.claim(Owner::Service(key.clone()), &bearer, bearers::of_service(&object));
        match object.spec.and_then(|s| s.selector).filter(|s| !s.is_empty()) {
            Some(selector) => {
                index.services.insert(key, ServiceFacts { selector });
            }
            None => {
                index.services.remove(&key);
            }
        }
        Touched::NOTHING
    }

    fn delete(index: &mut Index, key: &Key) -> Touched {
        index.services.remove(key);
        index.bearers.release(&Owner::Service(key.clone()));
        Touched::NOTHING
    }

    fn keys(index: &Index) -> Vec<Key> {
        index.services.keys().cloned().collect()
    }

    fn count(index: &Index) -> usize {
        index.services.len()
    }
}

/// Whether any container but our init container has started, as far as the kubelet says: one that is waiting for its first
/// start (no node, no image, another init container before it) has not.
fn has_started(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    // In these phases the containers of the application have started, whatever else is there.
    if matches!(status.phase.as_deref(), Some("Running" | "Succeeded")) {
        return true;
    }
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let ran = |state: &Option<ContainerState>| {
        state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    };
    let mut others = lists.into_iter().flatten().flatten().filter(|one| one.name != INIT_CONTAINER);
    others.any(|one| one.started == Some(true) || one.restart_count > 0 || ran(&one.state) || ran(&one.last_state))
}

/// When it was created, or when the last of its containers ended that did.
fn last(pod: &Pod) -> Option<Timestamp> {
    let lists = pod.status.as_ref().map(|status| {
        [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses]
    });
    let all = lists.into_iter().flatten().flatten().flatten();
    let states = all.flat_map(|one| [&one.state, &one.last_state]).flatten();
    let ended = states.filter_map(|state| state.terminated.as_ref()?.finished_at.as_ref());
    ended.chain(&pod.metadata.creation_timestamp).map(|time| time.0).max()
}

impl Indexed for Pod {
    const KIND: &'static str = "Pod";

    fn apply(index: &mut Index, object: Self) -> Touched {
        let key = key_of(&object.metadata);
        let uid = object.uid().unwrap_or_default();
        index.bearers.claim(Owner::Pod(uid.clone()), &bearers::pod(&object), bearers::of_pod(&object));
        let phase = object.status.as_ref().and_then(|s| s.phase.as_deref());
        let ended = matches!(phase, Some("Succeeded" | "Failed"));
        let facts = PodFacts {
            uid: uid.clone(),
            namespace: key.0.clone(),
            name: key.1.clone(),
            node: object.spec.as_ref().and_then(|s| s.node_name.clone()),
            created: object.metadata.creation_timestamp.as_ref().map(|t| t.0),
            owner: object
                .owner_references()
                .iter()
                .find(|o| o.controller == Some(true))
                .map(|o| PodOwner { kind: o.kind.clone(), name: o.name.clone() }),
            started: has_started(&object),
            finished: ended || object.metadata.deletion_timestamp.is_some(),
            ended,
            last: last(&object),
            traits: PodTraits::of(&object),
        };
        if let Some(old) = index.pod_uids.insert(key, uid.clone())
            && old != uid
        {
            index.pods.remove(&old);
            index.bearers.release(&Owner::Pod(old));
        }
        let known = index.pods.insert(uid.clone(), facts);
        let same = known.is_some_and(|old| index.pods.get(&uid).is_some_and(|new| new.traits == old.traits));
        if same { Touched::NOTHING } else { Touched::pod(uid) }
    }

    fn delete(index: &mut Index, key: &Key) -> Touched {
        let Some(uid) = index.pod_uids.remove(key) else { return Touched::NOTHING };
        index.pods.remove(&uid);
        index.bearers.release(&Owner::Pod(uid.clone()));
        Touched::pod(uid)
    }

    fn keys(index: &Index) -> Vec<Key> {
        index.pod_uids.keys().cloned().collect()
    }

    fn count(index: &Index) -> usize {
        index.pod_uids.len()
    }
}

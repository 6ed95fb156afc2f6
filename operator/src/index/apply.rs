//! Watch events into the index.

use super::{Index, Key, NamespaceFacts, Owner, PodFacts, PolicyEntry, ServiceFacts, SinkEntry};
use crate::api::{AuditPolicy, AuditSink, LastGood};
use crate::compile::{Invalid, accept_policy, accept_sink};
use crate::inject::PodTraits;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

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
    fn undecodable(index: &mut Index, meta: &ObjectMeta, error: &str) -> Touched {
        let _ = (index, meta, error);
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
        let facts = NamespaceFacts {
            uid: object.uid().unwrap_or_default(),
            pod_security: object.labels().get("pod-security.kubernetes.io/enforce").cloned(),
        };
        index.namespaces.insert(object.name_any(), facts);
        Touched::NOTHING
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
        let entry = index.policies.entry(key_of(&object.metadata)).or_default();
        let before = (entry.good.clone(), entry.previous.clone());
        describe_policy(entry, &object.metadata);
        entry.update(accept_policy(&object.spec));
        entry.status = object.status.unwrap_or_default();
        if entry.invalid.is_none() {
            let spec = serde_json::to_string(&object.spec).unwrap_or_default();
            entry.good_spec = Some(LastGood { generation: object.metadata.generation, spec });
        } else {
            entry.recall(entry.status.last_good.clone().as_ref());
        }
        Touched { documents: before != (entry.good.clone(), entry.previous.clone()), pod: None }
    }

    fn delete(index: &mut Index, key: &Key) -> Touched {
        index.policies.remove(key);
        Touched::DOCUMENTS
    }

    fn undecodable(index: &mut Index, meta: &ObjectMeta, error: &str) -> Touched {
        let entry = index.policies.entry(key_of(meta)).or_default();
        describe_policy(entry, meta);
        entry.update(Err(undecodable(error)));
        Touched::NOTHING
    }

    fn keys(index: &Index) -> Vec<Key> {
        index.policies.keys().cloned().collect()
    }

    fn count(index: &Index) -> usize {
        index.policies.len()
    }
}

fn describe_policy(entry: &mut PolicyEntry, meta: &ObjectMeta) {
    let uid = meta.uid.clone().unwrap_or_default();
    if entry.uid != uid {
        // Deleted and made again under the same name: the old one's specs are nobody's last good.
        *entry = PolicyEntry::default();
    }
    (entry.namespace, entry.name) = key_of(meta);
    entry.uid = uid;
    entry.generation = meta.generation;
    entry.created = meta.creation_timestamp.as_ref().map(|t| t.0);
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
        let name = object.name_any();
        let entry = index.sinks.entry(name.clone()).or_default();
        let before = (entry.good.clone(), entry.default, entry.created, entry.credentials_secret.clone());
        describe_sink(entry, &object.metadata);
        match accept_sink(&name, &object.spec) {
            Ok(sink) => {
                entry.good = Some(sink);
                entry.default = object.spec.default;
                entry.credentials_secret = object.spec.credentials_secret_name;
                entry.invalid = None;
            }
            Err(invalid) => entry.invalid = Some(invalid),
        }
        entry.status = object.status.unwrap_or_default();
        let after = (entry.good.clone(), entry.default, entry.created, entry.credentials_secret.clone());
        Touched { documents: before != after, pod: None }
    }

    fn delete(index: &mut Index, key: &Key) -> Touched {
        index.sinks.remove(&key.1);
        Touched::DOCUMENTS
    }

    fn undecodable(index: &mut Index, meta: &ObjectMeta, error: &str) -> Touched {
        let entry = index.sinks.entry(meta.name.clone().unwrap_or_default()).or_default();
        describe_sink(entry, meta);
        entry.invalid = Some(undecodable(error));
        Touched::NOTHING
    }

    fn keys(index: &Index) -> Vec<Key> {
        index.sinks.keys().map(|name| (String::new(), name.clone())).collect()
    }

    fn count(index: &Index) -> usize {
        index.sinks.len()
    }
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
        Touched::NOTHING
    }

    fn keys(index: &Index) -> Vec<Key> {
        index.services.keys().cloned().collect()
    }

    fn count(index: &Index) -> usize {
        index.services.len()
    }
}

impl Indexed for Pod {
    const KIND: &'static str = "Pod";

    fn apply(index: &mut Index, object: Self) -> Touched {
        let key = key_of(&object.metadata);
        let uid = object.uid().unwrap_or_default();
        let phase = object.status.as_ref().and_then(|s| s.phase.as_deref());
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
                .map(|o| Owner { kind: o.kind.clone(), name: o.name.clone() }),
            finished: matches!(phase, Some("Succeeded" | "Failed")) || object.metadata.deletion_timestamp.is_some(),
            traits: PodTraits::of(&object),
        };
        if let Some(old) = index.pod_uids.insert(key, uid.clone())
            && old != uid
        {
            index.pods.remove(&old);
        }
        let known = index.pods.insert(uid.clone(), facts);
        let same = known.is_some_and(|old| index.pods.get(&uid).is_some_and(|new| new.traits == old.traits));
        if same { Touched::NOTHING } else { Touched::pod(uid) }
    }

    fn delete(index: &mut Index, key: &Key) -> Touched {
        let Some(uid) = index.pod_uids.remove(key) else { return Touched::NOTHING };
        index.pods.remove(&uid);
        Touched::pod(uid)
    }

    fn keys(index: &Index) -> Vec<Key> {
        index.pod_uids.keys().cloned().collect()
    }

    fn count(index: &Index) -> usize {
        index.pod_uids.len()
    }
}

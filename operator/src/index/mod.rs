//! What the operator knows of the cluster. Pure: watch events go in by [`Indexed`], answers come out.
//!
//! It keeps only the facts that decisions need; the rest of each object is dropped when it arrives.

mod apply;
mod facts;
#[cfg(test)]
mod tests;

pub use apply::{Indexed, Touched, key_of};
pub use facts::{NamespaceFacts, Owner, PodFacts, PolicyEntry, ServiceFacts, SinkEntry};

use crate::compile::{Compiled, PolicyInput, SinkInput, compile, default_sink};
use kube::core::SelectorExt;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// `namespace/name`, or the name alone for what has no namespace.
pub type Key = (String, String);

/// The cluster, as far as the operator needs it.
#[derive(Debug, Default)]
pub struct Index {
    /// By name.
    pub namespaces: BTreeMap<String, NamespaceFacts>,
    /// By namespace and name.
    pub policies: BTreeMap<Key, PolicyEntry>,
    /// By name.
    pub sinks: BTreeMap<String, SinkEntry>,
    /// Those with a selector, by namespace and name.
    pub services: BTreeMap<Key, ServiceFacts>,
    /// By uid.
    pub pods: HashMap<String, PodFacts>,
    /// Uid by namespace and name.
    pub pod_uids: HashMap<Key, String>,
    /// `cluster.local`, or what the cluster uses in its stead.
    pub cluster_domain: String,
}

impl Index {
    /// An empty index of a cluster whose services end in `svc.<cluster_domain>`.
    pub fn new(cluster_domain: impl Into<String>) -> Self {
        Self { cluster_domain: cluster_domain.into(), ..Self::default() }
    }

    /// The cluster's id: by convention the uid of namespace `kube-system`.
    pub fn cluster_uid(&self) -> Option<&str> {
        self.namespaces.get("kube-system").map(|n| n.uid.as_str())
    }

    /// Policies of a namespace, by name.
    pub fn policies_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a PolicyEntry> {
        self.policies
            .range((namespace.to_owned(), String::new())..)
            .take_while(move |((ns, _), _)| ns == namespace)
            .map(|(_, policy)| policy)
    }

    /// Policies in force that select a pod with these labels; suspended ones too, because they inject.
    pub fn selecting<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a PolicyEntry> {
        self.policies_of(namespace).filter(|p| p.good.as_ref().is_some_and(|good| good.selector.matches(labels)))
    }

    /// The document of a pod with these labels. No policy: a document without policies, which records nothing.
    pub fn document(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Compiled {
        let selecting: Vec<&PolicyEntry> = self.selecting(namespace, labels).collect();
        self.join(&selecting)
    }

    /// The document of a workload that these policies select.
    pub fn join(&self, policies: &[&PolicyEntry]) -> Compiled {
        let inputs: Vec<PolicyInput<'_>> = policies.iter().filter_map(|p| p.input()).collect();
        compile(&inputs, &self.sink_inputs())
    }

    /// Names of the sinks that a policy uses, and of those of them that do not exist or are not accepted.
    pub fn sinks_of(&self, policy: &PolicyEntry) -> (BTreeSet<String>, BTreeSet<String>) {
        let Some(good) = &policy.good else { return Default::default() };
        let wanted: BTreeSet<String> = match &good.sinks {
            Some(names) => names.iter().cloned().collect(),
            None => self.default_sink().map(str::to_owned).into_iter().collect(),
        };
        wanted.into_iter().partition(|name| self.sinks.get(name).is_some_and(|s| s.good.is_some()))
    }

    /// Name of the default sink.
    pub fn default_sink(&self) -> Option<&str> {
        default_sink(&self.sink_inputs()).map(|s| s.sink.name.as_str())
    }

    /// Whether a Service that is an AuditSink's endpoint selects such a pod: its records would make records.
    pub fn is_sink_pod(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.sinks.values().filter_map(|s| s.service(&self.cluster_domain)).any(|(ns, name)| {
            ns == namespace
                && self
                    .services
                    .get(&(ns, name))
                    .is_some_and(|service| service.selector.iter().all(|(k, v)| labels.get(k) == Some(v)))
        })
    }

    /// A pod by its uid.
    pub fn pod(&self, uid: &str) -> Option<&PodFacts> {
        self.pods.get(uid)
    }

    fn sink_inputs(&self) -> Vec<SinkInput<'_>> {
        self.sinks.values().filter_map(SinkEntry::input).collect()
    }
}

//! What the operator knows of the cluster. Pure: watch events go in by [`Indexed`], answers come out.
//!
//! It keeps only the facts that decisions need; the rest of each object is dropped when it arrives.

#[cfg(test)]
mod additive;
mod apply;
mod bearers;
#[cfg(test)]
mod cluster_tests;
mod documents;
mod facts;
mod guard;
#[cfg(test)]
mod tests;

pub use apply::{Indexed, Touched, key_of};
pub use bearers::Bearers;
pub use facts::{NamespaceFacts, PodFacts, PodOwner, PolicyEntry, ServiceFacts, SinkEntry};
pub use guard::{Guarded, Undecodable};

use crate::compile::{Compiled, PolicyInput, Reach, SinkInput, compile, default_sink};
use crate::inject::Enforcement;
use documents::Documents;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Label that Kubernetes gives every namespace.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// `namespace/name`, or the name alone for what has no namespace.
pub type Key = (String, String);

/// The cluster, as far as the operator needs it.
#[derive(Debug, Default)]
pub struct Index {
    /// By name.
    pub namespaces: BTreeMap<String, NamespaceFacts>,
    /// By namespace and name; cluster policies are those without a namespace.
    pub policies: BTreeMap<Key, PolicyEntry>,
    /// By name.
    pub sinks: BTreeMap<String, SinkEntry>,
    /// Those with a selector, by namespace and name.
    pub services: BTreeMap<Key, ServiceFacts>,
    /// By uid.
    pub pods: HashMap<String, PodFacts>,
    /// Uid by namespace and name.
    pub pod_uids: HashMap<Key, String>,
    /// Strict namespaces are switched off: the label means nothing.
    pub strict_off: bool,
    /// Who has which address.
    pub bearers: Bearers,
    /// `cluster.local`, or what the cluster uses in its stead.
    pub cluster_domain: String,
    documents: Documents,
    serial: u64,
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

    /// What a namespace demands of its pods.
    pub fn enforcement(&self, namespace: &str) -> Enforcement {
        match self.namespaces.get(namespace) {
            Some(facts) if facts.strict && !self.strict_off => Enforcement::Strict,
            _ => Enforcement::Default,
        }
    }

    /// Policies of a namespace, by name.
    pub fn policies_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a PolicyEntry> {
        self.policies
            .range((namespace.to_owned(), String::new())..)
            .take_while(move |((ns, _), _)| ns == namespace)
            .map(|(_, policy)| policy)
    }

    /// Cluster policies, by name.
    pub fn cluster_policies(&self) -> impl Iterator<Item = &PolicyEntry> {
        self.policies_of("")
    }

    /// Every policy in force that speaks of a pod with these labels: selects it, or leaves it alone and says why.
    pub fn reaching<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = (&'a PolicyEntry, Reach<'a>)> {
        let namespace_labels = self.namespace_labels(namespace);
        // A pod without a namespace does not exist; it must not see cluster policies twice.
        let own = self.policies_of(namespace).filter(move |_| !namespace.is_empty());
        own.chain(self.cluster_policies()).filter_map(move |policy| {
            let reach = policy.good.as_ref()?.reach(namespace, &namespace_labels, labels);
            (reach != Reach::Outside).then_some((policy, reach))
        })
    }

    /// Policies in force that select a pod with these labels; suspended ones too, because they inject.
    pub fn selecting<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a PolicyEntry> {
        self.reaching(namespace, labels).filter(|(_, reach)| *reach == Reach::Selected).map(|(policy, _)| policy)
    }

    /// A namespace's labels, with its name as Kubernetes itself would add it: a pod may be seen before its namespace.
    fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        let mut labels = self.namespaces.get(namespace).map(|n| n.labels.clone()).unwrap_or_default();
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), namespace.to_owned());
        labels
    }

    /// The document of a pod with these labels. No policy: a document without policies, which records nothing.
    pub fn document(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Arc<Compiled> {
        let selecting: Vec<&PolicyEntry> = self.selecting(namespace, labels).collect();
        self.join(&selecting)
    }

    /// The document of a workload that these policies select; compiled once for each change.
    pub fn join(&self, policies: &[&PolicyEntry]) -> Arc<Compiled> {
        let serials = policies.iter().filter(|p| p.good.is_some()).map(|p| p.serial).collect();
        self.documents.get(serials, || {
            let inputs: Vec<PolicyInput<'_>> = policies.iter().filter_map(|p| p.input()).collect();
            compile(&inputs, &self.sink_inputs())
        })
    }

    /// A serial that no spec has had.
    fn next_serial(&mut self) -> u64 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
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

    /// Namespace and selector of each Service that is an AuditSink's endpoint.
    pub fn sink_services(&self) -> Vec<(String, BTreeMap<String, String>)> {
        let services = self.sinks.values().filter_map(|s| s.service(&self.cluster_domain));
        let services: BTreeSet<Key> = services.collect();
        let known = services.into_iter().filter_map(|key| {
            let selector = self.services.get(&key)?.selector.clone();
            Some((key.0, selector))
        });
        known.collect()
    }

    /// A pod by its uid.
    pub fn pod(&self, uid: &str) -> Option<&PodFacts> {
        self.pods.get(uid)
    }

    fn sink_inputs(&self) -> Vec<SinkInput<'_>> {
        self.sinks.values().filter_map(SinkEntry::input).collect()
    }
}

//! The facts of each object that decisions need.

use crate::api::{AuditPolicyStatus, AuditSinkSpec, AuditSinkStatus, LastGood};
use crate::compile::{AcceptedPolicy, Invalid, PolicyInput, SinkInput, accept_sink, policy_name};
use crate::inject::PodTraits;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use testimony_core::policy::DocumentSink;

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamespaceFacts {
    /// Its uid.
    pub uid: String,
    /// Value of `pod-security.kubernetes.io/enforce`.
    pub pod_security: Option<String>,
    /// Its labels, which cluster policies select by.
    pub labels: BTreeMap<String, String>,
    /// Labelled strict: no pod starts there without a sidecar.
    pub strict: bool,
}

/// An AuditPolicy or a ClusterAuditPolicy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyEntry {
    /// Namespace; empty for a cluster policy.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Generation that was read last.
    pub generation: Option<i64>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// What is in force; `None`: it never was valid since this process started.
    pub good: Option<Arc<AcceptedPolicy>>,
    /// Names what is in force: unlike any before, of this or another policy.
    pub serial: u64,
    /// What was in force before.
    pub previous: Option<Arc<AcceptedPolicy>>,
    /// The spec of what is in force, for the status while the latest one is not accepted.
    pub good_spec: Option<LastGood>,
    /// Why the latest spec is not in force.
    pub invalid: Option<Invalid>,
    /// The status that the API server holds.
    pub status: AuditPolicyStatus,
}

impl PolicyEntry {
    /// As documents and records name it.
    pub fn key(&self) -> String {
        policy_name(&self.namespace, &self.name)
    }

    /// Whether it is a ClusterAuditPolicy.
    pub fn is_cluster(&self) -> bool {
        self.namespace.is_empty()
    }

    /// For the compiler; `None`: nothing is in force.
    pub fn input(&self) -> Option<PolicyInput<'_>> {
        Some(PolicyInput {
            namespace: &self.namespace,
            name: &self.name,
            created: self.created,
            accepted: self.good.as_deref()?,
            previous: self.previous.as_deref(),
        })
    }

    /// Takes over what was in force before this process started, where the status tells it and the latest spec is not
    /// accepted; `parse` knows the spec of this kind. Whether anything was taken over.
    pub fn recall(&mut self, parse: impl FnOnce(&str) -> Option<AcceptedPolicy>, serial: u64) -> bool {
        if self.good.is_some() || self.invalid.is_none() {
            return false;
        }
        let Some(last) = self.status.last_good.clone() else { return false };
        let Some(accepted) = parse(&last.spec) else { return false };
        self.good = Some(Arc::new(accepted));
        self.serial = serial;
        self.good_spec = Some(last);
        true
    }

    /// Puts a spec in force under a new `serial`, or says why not; then the last good one stays. Whether what is in force
    /// has changed.
    pub fn update(&mut self, spec: Result<AcceptedPolicy, Invalid>, serial: u64) -> bool {
        match spec {
            Ok(accepted) => {
                let changed = self.good.as_deref() != Some(&accepted);
                if changed {
                    self.previous = self.good.replace(Arc::new(accepted));
                    self.serial = serial;
                }
                self.invalid = None;
                changed
            }
            Err(invalid) => {
                self.invalid = Some(invalid);
                false
            }
        }
    }
}

/// An AuditSink.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SinkEntry {
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Generation that was read last.
    pub generation: Option<i64>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Marked as default.
    pub default: bool,
    /// What is in force.
    pub good: Option<DocumentSink>,
    /// Secret in the pods' namespaces with the sink's headers.
    pub credentials_secret: Option<String>,
    /// The spec of what is in force, for the status while the latest one is not accepted.
    pub good_spec: Option<LastGood>,
    /// Why the latest spec is not in force.
    pub invalid: Option<Invalid>,
    /// The status that the API server holds.
    pub status: AuditSinkStatus,
}

impl SinkEntry {
    /// Puts a spec in force; where it is not accepted, what was stays.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn update(&mut self, spec: &AuditSinkSpec, generation: Option<i64>) -> Result<(), Invalid> {
        self.good = Some(accept_sink(&self.name, spec)?);
        self.default = spec.default;
        self.credentials_secret.clone_from(&spec.credentials_secret_name);
        self.good_spec = Some(LastGood { generation, spec: serde_json::to_string(spec).unwrap_or_default() });
        Ok(())
    }

    /// Takes over what was in force before this process started, where the status tells it and the latest spec is not
    /// accepted.
    pub fn recall(&mut self) {
        let unknown = self.good.is_none() && self.invalid.is_some();
        let Some(last) = self.status.last_good.clone().filter(|_| unknown) else { return };
        // What this version cannot run, or knows in part, stays in the status for one that can.
        if serde_json::from_str(&last.spec).is_ok_and(|spec| self.update(&spec, last.generation).is_ok()) {
            self.good_spec = Some(last);
        }
    }

    /// What documents are made of.
    pub fn in_force(&self) -> (Option<DocumentSink>, bool, Option<Timestamp>, Option<String>) {
        (self.good.clone(), self.default, self.created, self.credentials_secret.clone())
    }

    /// For the compiler; `None`: nothing is in force.
    pub fn input(&self) -> Option<SinkInput<'_>> {
        Some(SinkInput { created: self.created, default: self.default, sink: self.good.as_ref()? })
    }

    /// Namespace and name of the Service that the endpoint names, if it is one of this cluster.
    pub fn service(&self, cluster_domain: &str) -> Option<(String, String)> {
        let url: hyper::Uri = self.good.as_ref()?.endpoint.parse().ok()?;
        let host = url.host()?.trim_end_matches('.');
        let host = host.strip_suffix(cluster_domain).map_or(host, |h| h.trim_end_matches('.'));
        let mut labels = host.split('.');
        match (labels.next(), labels.next(), labels.next(), labels.next()) {
            (Some(name), Some(namespace), None | Some("svc"), None) => Some((namespace.to_owned(), name.to_owned())),
            _ => None,
        }
    }
}

/// A Service with a selector.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceFacts {
    /// Never empty.
    pub selector: BTreeMap<String, String>,
}

/// The controller of a pod, such as a ReplicaSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodOwner {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    /// Uid.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Node, once it is scheduled.
    pub node: Option<String>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// The object that made it and keeps it.
    pub owner: Option<PodOwner>,
    /// A container of it has started, other than the one that sets up the redirect: there may be traffic, and with our sidecar
    /// streams.
    pub started: bool,
    /// Succeeded, failed or being deleted: it counts no more.
    pub finished: bool,
    /// Succeeded or failed: nothing of it runs any more, or will, however long the object stays.
    pub ended: bool,
    /// The last time at which it was: when it was created, or when a container of it ended, as far as the kubelet says.
    pub last: Option<Timestamp>,
    /// What decisions look at.
    pub traits: PodTraits,
}

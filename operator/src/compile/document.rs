//! Joining policies and sinks into a document.

use super::AcceptedPolicy;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeSet;
use std::fmt::Write;
use testimony_core::policy::{
    ClientAddress, Correlation, DOCUMENT_BYTES_MAX, DOCUMENT_VERSION, DocumentPolicy, DocumentSink,
    PATTERN_MEMORY_BYTES_MAX, PolicyDocument, Redact,
};

/// One policy that selects the workload.
#[derive(Clone, Copy, Debug)]
pub struct PolicyInput<'a> {
    /// Namespace of the policy; empty for a cluster policy.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// What is in force.
    pub accepted: &'a AcceptedPolicy,
    /// What was in force before: taken if the new one makes the document too large.
    pub previous: Option<&'a AcceptedPolicy>,
}

/// One sink.
#[derive(Clone, Copy, Debug)]
pub struct SinkInput<'a> {
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Marked as default.
    pub default: bool,
    /// What stands in documents.
    pub sink: &'a DocumentSink,
}

/// A document, and what could not be in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// What the workload runs.
    pub document: PolicyDocument,
    /// Policies whose current spec makes the document too large: the last good one, or nothing, is in it instead.
    pub too_large: Vec<String>,
}

/// How documents, records and messages name a policy: `namespace/name`, or the name alone for a cluster policy.
pub fn policy_name(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// The default sink: the oldest of those that are marked, then by name.
pub fn default_sink<'a>(sinks: &[SinkInput<'a>]) -> Option<SinkInput<'a>> {
    sinks.iter().filter(|s| s.default).min_by_key(|s| (s.created, &s.sink.name)).copied()
}

/// The document of a workload that these policies select.
///
/// Precedence for what cannot merge: a cluster's baseline, then the namespace's policies, then the cluster's defaults; among
/// these a selector that is not empty, then the older, then the name. A document larger than [`DOCUMENT_BYTES_MAX`],
/// or with patterns of more than [`PATTERN_MEMORY_BYTES_MAX`], loses policies, the youngest first and a baseline last. Names of sinks that do not exist are left out.
pub fn compile(policies: &[PolicyInput<'_>], sinks: &[SinkInput<'_>]) -> Compiled {
    let mut inputs: Vec<PolicyInput<'_>> = policies.to_vec();
    inputs.sort_by_key(|p| (p.accepted.rank(), p.accepted.selector.selects_all(), p.created, p.namespace, p.name));
    let mut too_large = Vec::new();
    loop {
        let (document, bytes) = join(&inputs, sinks);
        let patterns = inputs.iter().filter(|p| !p.accepted.suspend).map(|p| p.accepted.pattern_bytes).sum::<usize>();
        if bytes <= DOCUMENT_BYTES_MAX && patterns <= PATTERN_MEMORY_BYTES_MAX {
            return Compiled { document, too_large };
        }
        let youngest = inputs
            .iter()
            .enumerate()
            .filter(|(_, p)| !p.accepted.suspend)
            .max_by_key(|(_, p)| (!p.accepted.is_baseline(), p.created, p.namespace, p.name))
            .map(|(i, _)| i);
        let Some(at) = youngest else { return Compiled { document, too_large } };
        let policy = inputs.remove(at);
        let name = policy_name(policy.namespace, policy.name);
        if let Some(previous) = policy.previous {
            inputs.insert(at, PolicyInput { accepted: previous, previous: None, ..policy });
        }
        if !too_large.contains(&name) {
            too_large.push(name);
        }
    }
}

/// The document and its size in bytes.
fn join(inputs: &[PolicyInput<'_>], sinks: &[SinkInput<'_>]) -> (PolicyDocument, usize) {
    let running: Vec<&PolicyInput<'_>> = inputs.iter().filter(|p| !p.accepted.suspend).collect();
    let first = running.first();
    let mut headers = BTreeSet::new();
    let mut query = BTreeSet::new();
    let mut names = BTreeSet::new();
    let default = default_sink(sinks).map(|s| s.sink.name.as_str());
    for policy in &running {
        headers.extend(policy.accepted.redact.headers.iter().cloned());
        query.extend(policy.accepted.redact.query.iter().cloned());
        match &policy.accepted.sinks {
            Some(listed) => names.extend(listed.iter().map(String::as_str)),
            None => names.extend(default),
        }
    }
    let mut chosen: Vec<DocumentSink> =
        sinks.iter().filter(|s| names.contains(s.sink.name.as_str())).map(|s| s.sink.clone()).collect();
    chosen.sort_by(|a, b| a.name.cmp(&b.name));
    let policies = running.iter().map(|p| DocumentPolicy {
        name: policy_name(p.namespace, p.name),
        directions: p.accepted.directions.clone(),
        exclude_ports: p.accepted.exclude_ports.clone(),
        rules: p.accepted.rules.clone(),
        delivery: p.accepted.delivery,
        failure_mode: p.accepted.failure_mode,
    });
    let mut document = PolicyDocument {
        version: DOCUMENT_VERSION,
        revision: String::new(),
        policies: policies.collect(),
        client_address: first.map_or(ClientAddress::None, |p| p.accepted.client_address),
        correlation: first.map_or_else(Correlation::default, |p| p.accepted.correlation.clone()),
        redact: Redact { headers: headers.into_iter().collect(), query: query.into_iter().collect() },
        sinks: chosen,
    };
    let bytes = serde_json::to_vec(&document).unwrap_or_default();
    document.revision = revision(&bytes);
    let size = bytes.len() + document.revision.len();
    (document, size)
}

/// Names a content: the first 16 hex digits of its SHA-256.
pub fn revision(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut text = String::with_capacity(16);
    for byte in digest.as_ref().iter().take(8) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

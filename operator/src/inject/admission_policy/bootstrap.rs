//! The document of a pod that the API server injected, until the operator's first answer.

use crate::api::AuditPolicySpec;
use crate::compile::{PolicyInput, accept_policy, compile};
use crate::index::Index;
use std::collections::{BTreeMap, BTreeSet};
use testimony_core::policy::{Correlation, PolicyDocument, WhenAbsent};

/// The bootstrap document, and the Secrets of all sinks, by sink.
///
/// A pod waits for its own document before its containers start, so this one counts only while the operator is away: it
/// records metadata to the default sink, adds nothing to a request, and hides what any policy of the cluster hides. Where
/// those are too many for a document, it records nothing.
pub fn bootstrap(index: &Index, namespace: &str) -> (PolicyDocument, BTreeMap<String, String>) {
    let secrets = index.sinks.values().filter(|s| s.good.is_some());
    let secrets = secrets.filter_map(|s| Some((s.name.clone(), s.credentials_secret.clone()?))).collect();
    let sinks: Vec<_> = index.sinks.values().filter_map(|s| s.input()).collect();
    // The schema's defaults for everything.
    let spec = serde_json::from_value::<AuditPolicySpec>(serde_json::json!({}));
    let Some(mut accepted) = spec.ok().and_then(|spec| accept_policy(&spec).ok()) else {
        return (compile(&[], &sinks).document, secrets);
    };
    let (mut headers, mut query) = (BTreeSet::new(), BTreeSet::new());
    for policy in index.policies.values().filter_map(|p| p.good.as_ref()) {
        headers.extend(policy.redact.headers.iter().cloned());
        query.extend(policy.redact.query.iter().cloned());
    }
    accepted.redact.headers = headers.into_iter().collect();
    accepted.redact.query = query.into_iter().collect();
    accepted.correlation = Correlation { when_absent: WhenAbsent::Leave, header: None, ..Correlation::default() };
    let input = PolicyInput { namespace, name: "bootstrap", created: None, accepted: &accepted, previous: None };
    (compile(&[input], &sinks).document, secrets)
}

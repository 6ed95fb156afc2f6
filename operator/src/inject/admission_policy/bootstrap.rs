//! The document of a pod that the API server injected, until the operator's first answer.

use crate::api::AuditPolicySpec;
use crate::compile::{PolicyInput, accept_policy, compile};
use crate::index::Index;
use crate::inject::Selection;
use std::collections::{BTreeMap, BTreeSet};
use testimony_core::policy::{Correlation, PolicyDocument, WhenAbsent};

/// What pods start with, and what they must be able to mount.
pub struct Bootstrap {
    /// The stand-in.
    pub start: Selection,
    /// All sinks of the cluster.
    pub mounts: Selection,
}

/// The stand-in, and all sinks.
///
/// A pod waits for its own document before its containers start, so this one counts only while the operator is away: it
/// records metadata to the default sink, adds nothing to a request, and hides what any policy of the cluster hides. Where
/// those are too many for a document, it records nothing.
pub fn bootstrap(index: &Index, namespace: &str) -> Bootstrap {
    let sinks: Vec<_> = index.sinks.values().filter_map(|s| s.input()).collect();
    let secrets = index.sinks.values().filter(|s| s.good.is_some());
    let secrets: BTreeMap<String, String> =
        secrets.filter_map(|s| Some((s.name.clone(), s.credentials_secret.clone()?))).collect();
    let selection = |document: PolicyDocument| Selection { document, secrets: secrets.clone(), warnings: Vec::new() };
    // It is never sent to a pod, so its size does not matter.
    let mut all = compile(&[], &sinks).document;
    all.sinks = sinks.iter().map(|s| s.sink.clone()).collect();
    // The schema's defaults for everything.
    let spec = serde_json::from_value::<AuditPolicySpec>(serde_json::json!({}));
    let Some(mut accepted) = spec.ok().and_then(|spec| accept_policy(&spec).ok()) else {
        return Bootstrap { start: selection(compile(&[], &sinks).document), mounts: selection(all) };
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
    Bootstrap { start: selection(compile(&[input], &sinks).document), mounts: selection(all) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{AuditPolicy, AuditSink};
    use crate::inject::tests::{cluster, put};
    use serde_json::{Value, json};
    use testimony_core::policy::DOCUMENT_BYTES_MAX;

    fn policy(name: &str, redact: Value) -> Value {
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy",
               "metadata": {"name": name, "namespace": "shop", "uid": name}, "spec": {"redact": redact}})
    }

    #[test]
    fn the_stand_in_touches_no_request_and_hides_what_any_policy_hides() {
        let mut index = cluster();
        put::<AuditPolicy>(&mut index, policy("b", json!({"headers": ["x-session"], "query": ["token"]})));
        put::<AuditSink>(
            &mut index,
            json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditSink",
                   "metadata": {"name": "other", "uid": "o"},
                   "spec": {"endpoint": "http://other:4318", "credentialsSecretName": "more"}}),
        );
        let Bootstrap { start, mounts } = bootstrap(&index, "testimony-system");
        let document = start.document;
        assert_eq!(document.policies.len(), 1);
        assert_eq!((document.correlation.when_absent, &document.correlation.header), (WhenAbsent::Leave, &None));
        assert_eq!(document.redact.headers, ["x-session"]);
        assert_eq!(document.redact.query, ["$(HOME)", "token"]);
        let names = |document: &PolicyDocument| document.sinks.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        assert_eq!(
            (names(&document), names(&mounts.document)),
            (vec!["main".to_owned()], vec!["main".to_owned(), "other".to_owned()])
        );
        assert_eq!(mounts.secrets.into_values().collect::<Vec<_>>(), ["otlp", "more"]);
    }

    #[test]
    fn where_too_much_is_to_be_hidden_nothing_is_recorded() {
        let mut index = cluster();
        let long = |i: usize| format!("{i}{}", "x".repeat(200));
        for i in 0..(DOCUMENT_BYTES_MAX / 2000) + 1 {
            let query: Vec<String> = (0..10).map(|j| long(i * 10 + j)).collect();
            put::<AuditPolicy>(&mut index, policy(&format!("p{i}"), json!({"query": query})));
        }
        assert_eq!(bootstrap(&index, "testimony-system").start.document.policies, []);
    }
}

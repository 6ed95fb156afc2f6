//! Which streams must exist, and which pods are not covered: from the pods that the operator watches and the policies in
//! force, not from admission alone (W4). Pure.

use crate::compile::Reach;
use crate::controller::status::NEEDS_RESTART;
use crate::index::{Index, PodFacts};
use crate::inject::{Decision, ExcludedNamespaces, decide};
use std::collections::{BTreeMap, HashMap};
use testimony_core::evidence::ledger::tables::Tables;
use testimony_core::evidence::ledger::{Fact, Life, PodRow, UncoveredRow};

/// A stream whose pod has been gone for this long is lost, in nanoseconds: its last head may still be on its way.
pub const LOST_AFTER_NS: u64 = 60_000_000_000;

/// Why a pod is not covered whose injection id admission never wrote: it names no streams.
pub const UNKNOWN_INJECTION_ID: &str = "UnknownInjectionId";

/// Longest uid, in bytes: the API server makes them, of 36.
const UID_BYTES_MAX: usize = 128;

/// Remembers since when pods are gone.
#[derive(Debug, Default)]
pub struct Cover {
    /// Pods of live streams that are not there, by uid: since when, in nanoseconds since the epoch.
    gone: HashMap<String, u64>,
}

impl Cover {
    /// What the ledger does not say yet.
    pub fn news(&mut self, index: &Index, excluded: &ExcludedNamespaces, tables: &Tables, now_ns: u64) -> Vec<Fact> {
        let mut facts = Vec::new();
        let mut bare: BTreeMap<&str, &'static str> = BTreeMap::new();
        for pod in index.pods.values().filter(|pod| is_uid(&pod.uid)) {
            match standing(index, excluded, pod) {
                Standing::Expected(injection_id) if !tables.pods().contains_key(&pod.uid) && runs(pod, tables) => {
                    facts.push(Fact::Expected(PodRow {
                        uid: pod.uid.clone(),
                        namespace: pod.namespace.clone(),
                        name: pod.name.clone(),
                        injection_id: injection_id.to_owned(),
                        from_ns: now_ns,
                    }));
                }
                Standing::Uncovered(reason) => {
                    bare.insert(&pod.uid, reason);
                }
                Standing::Expected(_) | Standing::Other => {}
            }
        }
        for row in tables.uncovered().values() {
            // Another reason is another time.
            if bare.get(row.uid.as_str()) != Some(&row.reason.as_str()) {
                facts.push(Fact::Uncovered(row.clone(), Some(now_ns)));
            }
        }
        for (uid, reason) in bare {
            let known = tables.uncovered().get(uid).is_some_and(|row| row.reason == reason);
            let pod = if known { None } else { index.pod(uid) };
            facts.extend(pod.map(|pod| Fact::Uncovered(row(pod, reason, now_ns), None)));
        }
        let gone = tables.pods().keys().filter(|uid| index.pod(uid).is_none());
        facts.extend(gone.map(|uid| Fact::Gone(uid.clone())));
        self.lost(index, tables, now_ns, &mut facts);
        facts
    }

    fn lost(&mut self, index: &Index, tables: &Tables, now_ns: u64, facts: &mut Vec<Fact>) {
        let mut gone = HashMap::new();
        for row in tables.streams().values().filter(|row| row.life == Life::Open) {
            let Some(uid) = row.sid.parts().map(|parts| parts.pod_uid).filter(|uid| index.pod(uid).is_none()) else {
                continue;
            };
            let since = self.gone.get(uid).copied().unwrap_or(now_ns);
            if now_ns.saturating_sub(since) >= LOST_AFTER_NS {
                facts.push(Fact::Lost(row.sid.clone(), row.state.size, row.state.root));
            }
            gone.insert(uid.to_owned(), since);
        }
        self.gone = gone;
    }
}

/// Whether there can be records of a pod: before its first container starts there is no traffic. A stream that is certified shows
/// it too, where the kubelet is late.
fn runs(pod: &PodFacts, tables: &Tables) -> bool {
    pod.started || tables.open_of(&pod.uid).next().is_some()
}

enum Standing<'a> {
    /// It has a sidecar, with this injection id: once it runs, there are streams.
    Expected(&'a str),
    /// A policy selects it, and it has none.
    Uncovered(&'static str),
    /// Nothing is expected of it.
    Other,
}

fn standing<'a>(index: &Index, excluded: &ExcludedNamespaces, pod: &'a PodFacts) -> Standing<'a> {
    let own = excluded.contains(&pod.namespace);
    let mut reaching = index.reaching(&pod.namespace, &pod.traits.labels);
    // What a policy for the whole cluster leaves alone is not its own.
    let selected = reaching.any(|(policy, reach)| reach == Reach::Selected && !(policy.is_cluster() && own));
    if !selected {
        return Standing::Other;
    }
    if let Some(injection_id) = pod.traits.injection_id.as_deref().filter(|_| pod.traits.injected) {
        return Standing::Expected(injection_id);
    }
    // What has ended, or is about to, is not uncovered any more.
    if pod.finished {
        return Standing::Other;
    }
    if pod.traits.injected {
        return Standing::Uncovered(UNKNOWN_INJECTION_ID);
    }
    match decide(index, excluded, &pod.namespace, &pod.traits) {
        Decision::Already => Standing::Other,
        Decision::Skip(reason) | Decision::Deny(reason) => Standing::Uncovered(reason.as_str()),
        Decision::Inject(_) => Standing::Uncovered(NEEDS_RESTART),
        Decision::NotSelected => Standing::Uncovered("ExcludedNamespace"),
    }
}

/// A uid under which the ledger can know a pod: it stands in rows as it is.
fn is_uid(uid: &str) -> bool {
    (1..=UID_BYTES_MAX).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn row(pod: &PodFacts, reason: &str, from_ns: u64) -> UncoveredRow {
    UncoveredRow {
        uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        reason: reason.to_owned(),
        from_ns,
    }
}

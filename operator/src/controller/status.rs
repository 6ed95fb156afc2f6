//! What policies, sinks and pods are told. Pure: from the index and the acknowledgements to statuses.

use super::conditions::{Finding, conditions};
use super::sink_status::Reports;
use crate::api::{AuditPolicyStatus, AuditSinkStatus, PodCounts, Rollout, SKIPPED_MAX, Skipped};
use crate::index::{Index, PodFacts, PolicyEntry};
use crate::inject::{ExcludedNamespaces, Outlook, outlook};
use crate::state::Ack;
use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

/// A sidecar that has said nothing for this long is not counted as programmed: three of its longest waits.
const ACK_SECONDS_MAX: u64 = 150;

/// Reason of pods that a restart would bring into line.
pub const NEEDS_RESTART: &str = "NeedsRestart";

/// Ends the message where a policy asks for what the chart does not allow.
const ROLLOUT_OFF: &str =
    "; spec.rollout: Restart needs the chart's value rollout.enabled: set it, or restart them yourself";

/// What is looked at.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The cluster.
    pub index: &'a Index,
    /// What sidecars said, by pod uid.
    pub acks: &'a HashMap<String, Ack>,
    /// Namespaces that are never touched.
    pub excluded: &'a ExcludedNamespaces,
    /// Now, for the age of acknowledgements.
    pub instant: Instant,
    /// Now, for transitions.
    pub now: Timestamp,
    /// Since when this replica leads, while sidecars that are older may still be on their way to it.
    pub settling: Option<Timestamp>,
    /// Whether `rollout: Restart` is switched on.
    pub rollouts: bool,
}

/// A selected pod without a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncovered {
    /// Uid.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Why.
    pub reason: &'static str,
    /// For people.
    pub message: &'static str,
}

/// Everything that is told.
#[derive(Debug, Default, PartialEq)]
pub struct Report {
    /// Statuses by namespace and name.
    pub policies: BTreeMap<(String, String), AuditPolicyStatus>,
    /// Statuses by name.
    pub sinks: BTreeMap<String, AuditSinkStatus>,
    /// Each selected pod without a sidecar, once.
    pub uncovered: Vec<Uncovered>,
    /// Distinct selected pods.
    pub totals: PodCounts,
    /// Sidecars that are older than this leader and have not reported to it yet, while it settles.
    pub unheard: i64,
}

/// How one selected pod stands.
struct Standing<'a> {
    pod: &'a PodFacts,
    /// Revision of its document.
    revision: String,
    programmed: bool,
    /// It is older than this leader and has not reported to it yet.
    unheard: bool,
    refused: Option<String>,
    /// Why it has no sidecar.
    uncovered: Option<(&'static str, &'static str)>,
    /// A Secret that its document needs is not mounted.
    mount_missing: bool,
    policies: Vec<&'a PolicyEntry>,
}

/// Computes all statuses.
pub fn report(view: View<'_>) -> Report {
    let mut report = Report::default();
    let mut documents = Documents::default();
    let mut by_policy: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    let mut standings = Vec::new();
    for pod in view.index.pods.values().filter(|p| !p.finished) {
        let Some(standing) = standing(view, &mut documents, pod) else { continue };
        count(&mut report.totals, &standing);
        report.unheard += i64::from(standing.unheard);
        if let Some((reason, message)) = standing.uncovered {
            report.uncovered.push(Uncovered {
                uid: pod.uid.clone(),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                reason,
                message,
            });
        }
        for policy in &standing.policies {
            by_policy.entry((&policy.namespace, &policy.name)).or_default().push(standings.len());
        }
        standings.push(standing);
    }
    report.uncovered.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    for (key, policy) in &view.index.policies {
        let own = by_policy.get(&(key.0.as_str(), key.1.as_str())).map(Vec::as_slice).unwrap_or_default();
        let own: Vec<&Standing<'_>> = own.iter().filter_map(|i| standings.get(*i)).collect();
        report.policies.insert(key.clone(), policy_status(view, &documents, policy, &own));
    }
    let reports = Reports::of(view);
    for (name, sink) in &view.index.sinks {
        report.sinks.insert(name.clone(), reports.status(view, sink));
    }
    report
}

/// Documents by the policies that make them: pods of one workload share one.
#[derive(Default)]
struct Documents<'a> {
    by_policies: HashMap<Vec<&'a str>, HashMap<&'a str, Document>>,
    /// Policies, `namespace/name`, that make some document too large.
    too_large: HashSet<String>,
}

#[derive(Clone)]
struct Document {
    revision: String,
    sinks_with_credentials: Vec<String>,
}

impl<'a> Documents<'a> {
    fn get(&mut self, index: &'a Index, namespace: &'a str, policies: &[&'a PolicyEntry]) -> &Document {
        let names: Vec<&str> = policies.iter().map(|p| p.name.as_str()).collect();
        let too_large = &mut self.too_large;
        self.by_policies.entry(names).or_default().entry(namespace).or_insert_with(|| {
            let compiled = index.join(policies);
            let sinks = compiled.document.sinks.iter().filter(|s| s.credentials).map(|s| s.name.clone());
            too_large.extend(compiled.too_large);
            Document { sinks_with_credentials: sinks.collect(), revision: compiled.document.revision }
        })
    }

    fn too_large(&self, policy: &PolicyEntry) -> bool {
        !self.too_large.is_empty() && self.too_large.contains(&policy.key())
    }
}

fn standing<'a>(view: View<'a>, documents: &mut Documents<'a>, pod: &'a PodFacts) -> Option<Standing<'a>> {
    let policies: Vec<&PolicyEntry> = view.index.selecting(&pod.namespace, &pod.traits.labels).collect();
    if policies.is_empty() {
        return None;
    }
    let uncovered = match outlook(view.index, view.excluded, &pod.namespace, &pod.traits) {
        Outlook::Already => None,
        Outlook::Skip(reason) => Some((reason.as_str(), reason.explain())),
        Outlook::Inject => Some((NEEDS_RESTART, "the pod was created without a sidecar; recreate it to audit it")),
        Outlook::NotSelected => Some((
            "ExcludedNamespace",
            "pods of kube-system, kube-node-lease and the operator's namespace are left alone",
        )),
    };
    let document = documents.get(view.index, &pod.namespace, &policies).clone();
    let ack = view.acks.get(&pod.uid).filter(|ack| is_fresh(ack, view.instant));
    let refused = ack.and_then(|a| a.refused.as_ref()).filter(|r| r.revision == document.revision);
    let before_us = |since: Timestamp| pod.created.is_none_or(|created| created < since);
    Some(Standing {
        unheard: uncovered.is_none() && view.settling.is_some_and(before_us) && !view.acks.contains_key(&pod.uid),
        programmed: ack.is_some_and(|a| a.revision.as_ref() == Some(&document.revision)),
        refused: refused.map(|r| r.message.clone()),
        mount_missing: pod.traits.injected
            && document.sinks_with_credentials.iter().any(|s| !pod.traits.mounted_sinks.contains(s)),
        revision: document.revision,
        uncovered,
        policies,
        pod,
    })
}

/// Whether a restart would bring a selected pod into line: it has no sidecar and could have one, or its sidecar lacks the
/// mount of a sink's Secret.
pub(super) fn needs_restart(index: &Index, excluded: &ExcludedNamespaces, pod: &PodFacts) -> bool {
    match outlook(index, excluded, &pod.namespace, &pod.traits) {
        Outlook::Inject => true,
        Outlook::Already => index
            .selecting(&pod.namespace, &pod.traits.labels)
            .flat_map(|policy| index.sinks_of(policy).0)
            .any(|sink| needs_mount(index, &sink) && !pod.traits.mounted_sinks.contains(&sink)),
        Outlook::NotSelected | Outlook::Skip(_) => false,
    }
}

fn needs_mount(index: &Index, sink: &str) -> bool {
    index.sinks.get(sink).and_then(|s| s.good.as_ref()).is_some_and(|good| good.credentials)
}

pub(super) fn is_fresh(ack: &Ack, now: Instant) -> bool {
    now.saturating_duration_since(ack.at) <= Duration::from_secs(ACK_SECONDS_MAX)
}

fn count(counts: &mut PodCounts, standing: &Standing<'_>) {
    counts.matched += 1;
    match standing.uncovered {
        None => {
            counts.injected += 1;
            counts.programmed += i64::from(standing.programmed);
            counts.need_restart += i64::from(standing.mount_missing);
        }
        Some((NEEDS_RESTART, _)) => counts.need_restart += 1,
        Some(_) => counts.skipped += 1,
    }
}

fn policy_status(
    view: View<'_>,
    documents: &Documents<'_>,
    policy: &PolicyEntry,
    own: &[&Standing<'_>],
) -> AuditPolicyStatus {
    let mut pods = PodCounts::default();
    let mut revisions: BTreeMap<&str, usize> = BTreeMap::new();
    let mut reasons: BTreeMap<&str, (i64, String)> = BTreeMap::new();
    for standing in own {
        count(&mut pods, standing);
        *revisions.entry(&standing.revision).or_default() += 1;
        if let Some((reason, _)) = standing.uncovered {
            let example = format!("{}/{}", standing.pod.namespace, standing.pod.name);
            let entry = reasons.entry(reason).or_insert_with(|| (0, example.clone()));
            entry.0 += 1;
            // The smallest name, so that the example does not change with the order of a map.
            if example < entry.1 {
                entry.1 = example;
            }
        }
    }
    let mut skipped: Vec<Skipped> = reasons
        .into_iter()
        .map(|(reason, (count, example))| Skipped { reason: reason.to_owned(), count, example })
        .collect();
    skipped.sort_by_key(|s| -s.count);
    skipped.truncate(SKIPPED_MAX);
    let most = revisions.iter().max_by_key(|(revision, n)| (**n, std::cmp::Reverse(**revision)));
    let effective = most.map(|(revision, _)| (*revision).to_owned());
    let effective = effective.or_else(|| policy.good.as_ref().map(|_| view.index.join(&[policy]).document.revision));
    let unheard = i64::try_from(own.iter().filter(|s| s.unheard).count()).unwrap_or(i64::MAX);
    if unheard > 0 && policy.status.effective_revision == effective {
        // What was counted last stays until those who were counted can have reported again; `Programmed` is unknown so long.
        pods.programmed = pods.programmed.max(policy.status.pods.programmed.min(pods.injected));
    }
    let findings = findings(view, documents, policy, own, Counts { pods: &pods, unheard }, effective.as_deref());
    AuditPolicyStatus {
        observed_generation: policy.generation,
        conditions: conditions(&policy.status.conditions, findings, policy.generation, view.now),
        effective_revision: effective,
        pods,
        skipped,
        sinks: view.index.sinks_of(policy).0.into_iter().collect(),
        last_good: policy.good_spec.clone().filter(|_| policy.invalid.is_some()),
    }
}

/// Pods of one policy.
#[derive(Clone, Copy)]
struct Counts<'a> {
    pods: &'a PodCounts,
    unheard: i64,
}

fn findings(
    view: View<'_>,
    documents: &Documents<'_>,
    policy: &PolicyEntry,
    own: &[&Standing<'_>],
    counts: Counts<'_>,
    revision: Option<&str>,
) -> Vec<Finding> {
    let pods = counts.pods;
    let accepted = accepted(documents, policy);
    let resolved = resolved(view.index, policy);
    let programmed = programmed(policy, own, counts);
    let summary = format!(
        "{} of {} pods run revision {}; {} need a restart, {} are skipped",
        pods.programmed,
        pods.matched,
        revision.unwrap_or("-"),
        pods.need_restart,
        pods.skipped
    );
    let broken = [&accepted, &resolved, &programmed].into_iter().find(|f| f.holds != Some(true));
    let ready = match broken {
        Some(first) => Finding { kind: "Ready", ..first.clone() },
        None if pods.need_restart > 0 => {
            let asks = policy.good.as_ref().is_some_and(|good| good.rollout == Rollout::Restart);
            let off = if asks && !view.rollouts { ROLLOUT_OFF } else { "" };
            Finding::no("Ready", NEEDS_RESTART, format!("{summary}{off}"))
        }
        None => Finding::yes("Ready", &programmed.reason, summary),
    };
    vec![accepted, resolved, programmed, ready]
}

fn accepted(documents: &Documents<'_>, policy: &PolicyEntry) -> Finding {
    let stays = if policy.good.is_some() { "; the last good revision stays in force" } else { "" };
    match &policy.invalid {
        Some(invalid) => Finding::no("Accepted", invalid.reason, format!("{invalid}{stays}")),
        None if documents.too_large(policy) => Finding::no(
            "Accepted",
            "DocumentTooLarge",
            "spec: with the other policies of its pods it makes a document of more than 64 KiB; use fewer or shorter rules; \
             the last good revision stays in force",
        ),
        None => Finding::yes("Accepted", "Accepted", "the policy is valid"),
    }
}

fn resolved(index: &Index, policy: &PolicyEntry) -> Finding {
    let (found, missing) = index.sinks_of(policy);
    if !missing.is_empty() {
        let names: Vec<String> = missing.into_iter().collect();
        let text = format!(
            "spec.sinks: no valid AuditSink is named {}; create it or remove the name; records go to the other sinks",
            names.join(", ")
        );
        return Finding::no("ResolvedRefs", "SinkNotFound", text);
    }
    if found.is_empty() && policy.good.is_some() {
        let text = "spec.sinks: no AuditSink is marked default; mark one with default: true or name one here";
        return Finding::no("ResolvedRefs", "NoDefaultSink", text);
    }
    Finding::yes("ResolvedRefs", "ResolvedRefs", "all sinks exist")
}

fn programmed(policy: &PolicyEntry, own: &[&Standing<'_>], counts: Counts<'_>) -> Finding {
    const KIND: &str = "Programmed";
    let Counts { pods, unheard } = counts;
    let Some(good) = &policy.good else {
        return Finding::no(KIND, "NotAccepted", "the policy was never valid, so no pod runs it");
    };
    if let Some(refused) = own.iter().find_map(|s| s.refused.as_ref()) {
        return Finding::no(KIND, "Refused", format!("a sidecar refuses the document: {refused}"));
    }
    if unheard > 0 {
        let text = format!(
            "{unheard} of {} sidecars have not reported since the controller started; counts are those of before",
            pods.injected
        );
        return Finding::unknown(KIND, "Reconciling", text);
    }
    let counts = format!("{} of {} sidecars acknowledged their revision", pods.programmed, pods.injected);
    match (pods.matched, pods.injected) {
        (0, _) => Finding::yes(KIND, "NoPods", "no pod is selected"),
        (_, 0) => Finding::no(KIND, "NoSidecars", "no selected pod has a sidecar"),
        (_, injected) if pods.programmed < injected => Finding::no(KIND, "Pending", counts),
        _ if good.suspend => Finding::yes(KIND, "Suspended", "the policy is suspended and records nothing"),
        _ => Finding::yes(KIND, "Programmed", counts),
    }
}

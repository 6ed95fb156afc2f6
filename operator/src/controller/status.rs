//! What policies, sinks and pods are told. Pure: from the index and the acknowledgements to statuses.

use super::conditions::{Finding, conditions};
use super::evidence_status::{at_least, sum};
use super::sink_status::Reports;
use crate::api::{AuditPolicyStatus, AuditSinkStatus, PodCounts, Rollout, SKIPPED_MAX, Skipped};
use crate::compile::{Compiled, Reach};
use crate::index::{Index, PodFacts, PolicyEntry};
use crate::inject::{ExcludedNamespaces, Outlook, outlook, sink_volumes};
use crate::state::Ack;
use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use testimony_core::policy::EvidenceState;

/// A sidecar that has said nothing for this long is not counted as programmed: three of its longest waits.
const ACK_SECONDS_MAX: u64 = 150;

/// Reason of pods that a restart would bring into line.
pub const NEEDS_RESTART: &str = "NeedsRestart";

/// Reason of pods in namespaces that are never touched.
const EXCLUDED_NAMESPACE: &str = "ExcludedNamespace";

/// Says what a policy asks for and the chart does not allow.
const ROLLOUT_OFF: &str = "spec.rollout: Restart has no effect, because the chart's value rollout.enabled is false: set it, or \
     restart the workloads yourself";

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
    /// Statuses by namespace and name; cluster policies are those without a namespace.
    pub policies: BTreeMap<(String, String), AuditPolicyStatus>,
    /// Statuses by name.
    pub sinks: BTreeMap<String, AuditSinkStatus>,
    /// Each selected pod without a sidecar, once.
    pub uncovered: Vec<Uncovered>,
    /// Distinct selected pods.
    pub totals: PodCounts,
    /// Of these, with a sidecar and not started: see [`is_waiting`].
    pub waiting: i64,
    /// Sidecars that are older than this leader and have not reported to it yet, while it settles.
    pub unheard: i64,
}

/// How one selected pod stands.
struct Standing<'a> {
    pod: &'a PodFacts,
    /// What it must run.
    compiled: Arc<Compiled>,
    programmed: bool,
    /// It is older than this leader and has not reported to it yet.
    unheard: bool,
    refused: Option<String>,
    evidence: Option<EvidenceState>,
    /// Why it has no sidecar.
    uncovered: Option<(&'static str, &'static str)>,
    /// A volume that its document's sinks need is not there.
    mount_missing: bool,
}

/// Pods by reason: how many, and the smallest name, so that the example does not change with the order of a map.
#[derive(Default)]
struct Reasons<'a>(BTreeMap<&'a str, (i64, String)>);

impl<'a> Reasons<'a> {
    fn add(&mut self, reason: &'a str, pod: &PodFacts) {
        let example = format!("{}/{}", pod.namespace, pod.name);
        let entry = self.0.entry(reason).or_insert_with(|| (0, example.clone()));
        entry.0 += 1;
        if example < entry.1 {
            entry.1 = example;
        }
    }

    /// Most frequent first.
    fn list(self) -> Vec<Skipped> {
        let skipped = |(reason, (count, example)): (&str, _)| Skipped { reason: reason.to_owned(), count, example };
        let mut list: Vec<Skipped> = self.0.into_iter().map(skipped).collect();
        list.sort_by_key(|s| -s.count);
        list.truncate(SKIPPED_MAX);
        list
    }
}

/// What one policy's status is made of.
#[derive(Default)]
struct Own<'a> {
    /// Positions of its pods' standings.
    standings: Vec<usize>,
    excluded: Reasons<'a>,
}

/// Computes all statuses.
pub fn report(view: View<'_>) -> Report {
    let mut report = Report::default();
    let mut by_policy: BTreeMap<(&str, &str), Own<'_>> = BTreeMap::new();
    let mut standings = Vec::new();
    for pod in view.index.pods.values().filter(|p| !p.finished) {
        let mut selecting = Vec::new();
        for (policy, reach) in view.index.reaching(&pod.namespace, &pod.traits.labels) {
            let own = by_policy.entry((&policy.namespace, &policy.name)).or_default();
            match reach {
                Reach::Excluded(reason) => own.excluded.add(reason, pod),
                Reach::Selected if policy.is_cluster() && view.excluded.contains(&pod.namespace) => {
                    own.excluded.add(EXCLUDED_NAMESPACE, pod);
                }
                _ => {
                    own.standings.push(standings.len());
                    selecting.push(policy);
                }
            }
        }
        if selecting.is_empty() {
            continue;
        }
        let standing = standing(view, pod, &selecting);
        count(&mut report.totals, &standing);
        report.waiting += i64::from(is_waiting(&standing));
        report.unheard += i64::from(standing.unheard);
        report.uncovered.extend(uncovered(&standing));
        standings.push(standing);
    }
    report.uncovered.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let too_large: BTreeSet<&str> = standings.iter().flat_map(|s| &s.compiled.too_large).map(String::as_str).collect();
    for (key, policy) in &view.index.policies {
        let own = by_policy.remove(&(key.0.as_str(), key.1.as_str())).unwrap_or_default();
        let pods: Vec<&Standing<'_>> = own.standings.iter().filter_map(|i| standings.get(*i)).collect();
        let too_large = too_large.contains(policy.key().as_str());
        let status = policy_status(view, policy, &pods, own.excluded, too_large);
        report.policies.insert(key.clone(), status);
    }
    let mut unheard = HashMap::<String, i64>::new();
    for sink in standings.iter().filter(|s| s.unheard).flat_map(|s| &s.compiled.document.sinks) {
        *unheard.entry(sink.name.clone()).or_default() += 1;
    }
    let reports = Reports::of(view, unheard);
    for (name, sink) in &view.index.sinks {
        report.sinks.insert(name.clone(), reports.status(view, sink));
    }
    report
}

fn uncovered(standing: &Standing<'_>) -> Option<Uncovered> {
    let (reason, message) = standing.uncovered?;
    let pod = standing.pod;
    Some(Uncovered { uid: pod.uid.clone(), namespace: pod.namespace.clone(), name: pod.name.clone(), reason, message })
}

fn standing<'a>(view: View<'a>, pod: &'a PodFacts, policies: &[&PolicyEntry]) -> Standing<'a> {
    let uncovered = match outlook(view.index, view.excluded, &pod.namespace, &pod.traits, policies) {
        Outlook::Already => None,
        Outlook::Skip(reason) | Outlook::Deny(reason) => Some((reason.as_str(), reason.explain())),
        Outlook::Inject => Some((NEEDS_RESTART, "the pod was created without a sidecar; recreate it to audit it")),
        Outlook::NotSelected => Some((
            EXCLUDED_NAMESPACE,
            "pods of kube-system, kube-node-lease, the operator's namespace and those of excludedNamespaces are left alone",
        )),
    };
    let compiled = view.index.join(policies);
    let document = &compiled.document;
    let ack = view.acks.get(&pod.uid).filter(|ack| is_fresh(ack, view.instant));
    let refused = ack.and_then(|a| a.refused.as_ref()).filter(|r| r.revision == document.revision);
    let before_us = |since: Timestamp| pod.created.is_none_or(|created| created < since);
    Standing {
        unheard: uncovered.is_none()
            && pod.started
            && view.settling.is_some_and(before_us)
            && !view.acks.contains_key(&pod.uid),
        programmed: ack.is_some_and(|a| a.revision.as_ref() == Some(&document.revision)),
        refused: refused.map(|r| r.message.clone()),
        evidence: ack.and_then(|a| a.evidence),
        mount_missing: lacks_volume(&compiled, pod),
        compiled,
        uncovered,
        pod,
    }
}

fn lacks_volume(compiled: &Compiled, pod: &PodFacts) -> bool {
    let has = |volume| pod.traits.sink_volumes.contains(volume);
    pod.traits.injected && !sink_volumes(&compiled.document).iter().all(has)
}

/// Whether a restart would bring a pod that `selecting` select into line: it has no sidecar and could have one, or its
/// sidecar lacks a volume of a sink.
pub(super) fn needs_restart(
    index: &Index,
    excluded: &ExcludedNamespaces,
    pod: &PodFacts,
    selecting: &[&PolicyEntry],
) -> bool {
    match outlook(index, excluded, &pod.namespace, &pod.traits, selecting) {
        Outlook::Inject => true,
        Outlook::Already => lacks_volume(&index.join(selecting), pod),
        Outlook::NotSelected | Outlook::Skip(_) | Outlook::Deny(_) => false,
    }
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

/// Whether its sidecar cannot have acknowledged anything, because nothing of the pod has started: it waits for a node or an
/// image, say.
fn is_waiting(standing: &Standing<'_>) -> bool {
    standing.uncovered.is_none() && !standing.programmed && !standing.pod.started
}

fn policy_status(
    view: View<'_>,
    policy: &PolicyEntry,
    own: &[&Standing<'_>],
    excluded: Reasons<'_>,
    too_large: bool,
) -> AuditPolicyStatus {
    let mut pods = PodCounts::default();
    let mut revisions: BTreeMap<&str, usize> = BTreeMap::new();
    let mut reasons = Reasons::default();
    for standing in own {
        count(&mut pods, standing);
        *revisions.entry(&standing.compiled.document.revision).or_default() += 1;
        if let Some((reason, _)) = standing.uncovered {
            reasons.add(reason, standing.pod);
        }
    }
    let most = revisions.iter().max_by_key(|(revision, n)| (**n, std::cmp::Reverse(**revision)));
    let effective = most.map(|(revision, _)| (*revision).to_owned());
    let alone = || policy.good.as_ref().map(|_| view.index.join(&[policy]).document.revision.clone());
    let effective = effective.or_else(alone);
    let unheard = i64::try_from(own.iter().filter(|s| s.unheard).count()).unwrap_or(i64::MAX);
    let mut evidence = sum(own.iter().filter_map(|s| s.evidence));
    if unheard > 0 {
        evidence = at_least(evidence, policy.status.evidence.as_ref());
    }
    if unheard > 0 && policy.status.effective_revision == effective {
        // What was counted last stays until those who were counted can have reported again; `Programmed` is unknown so long.
        pods.programmed = pods.programmed.max(policy.status.pods.programmed.min(pods.injected));
    }
    let waiting = i64::try_from(own.iter().filter(|s| is_waiting(s)).count()).unwrap_or(i64::MAX);
    let counts = Counts { pods: &pods, unheard, waiting };
    let findings = findings(view, policy, own, counts, effective.as_deref(), too_large);
    AuditPolicyStatus {
        observed_generation: policy.generation,
        conditions: conditions(&policy.status.conditions, findings, policy.generation, view.now),
        effective_revision: effective,
        pods,
        evidence,
        sinks: view.index.sinks_of(policy).0.into_iter().collect(),
        // What stands there stays, too, where this version cannot use it: another one may.
        last_good: policy.good_spec.clone().or(policy.status.last_good.clone()).filter(|_| policy.invalid.is_some()),
        skipped: reasons.list(),
        excluded: excluded.list(),
    }
}

/// Pods of one policy.
#[derive(Clone, Copy)]
struct Counts<'a> {
    pods: &'a PodCounts,
    unheard: i64,
    waiting: i64,
}

fn findings(
    view: View<'_>,
    policy: &PolicyEntry,
    own: &[&Standing<'_>],
    counts: Counts<'_>,
    revision: Option<&str>,
    too_large: bool,
) -> Vec<Finding> {
    let pods = counts.pods;
    let off = !view.rollouts && policy.good.as_ref().is_some_and(|good| good.rollout == Rollout::Restart);
    let accepted = accepted(policy, too_large, off);
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
        None if pods.need_restart > 0 && off => {
            Finding::no("Ready", NEEDS_RESTART, format!("{summary}; {ROLLOUT_OFF}"))
        }
        None if pods.need_restart > 0 => Finding::no("Ready", NEEDS_RESTART, summary),
        None => Finding::yes("Ready", &programmed.reason, summary),
    };
    vec![accepted, resolved, programmed, ready]
}

fn accepted(policy: &PolicyEntry, too_large: bool, rollout_off: bool) -> Finding {
    let stays = if policy.good.is_some() { "; the last good revision stays in force" } else { "" };
    match &policy.invalid {
        Some(invalid) => Finding::no("Accepted", invalid.reason, format!("{invalid}{stays}")),
        None if too_large => Finding::no(
            "Accepted",
            "DocumentTooLarge",
            "spec: with the other policies of its pods it makes a document of more than 64 KiB, or patterns of more than 4 MiB; use fewer or shorter rules; \
             the last good revision stays in force",
        ),
        None if rollout_off => {
            Finding::yes("Accepted", "RolloutDisabled", format!("the policy is valid, but {ROLLOUT_OFF}"))
        }
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
    let Counts { pods, unheard, waiting } = counts;
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
    let started = pods.injected.saturating_sub(waiting);
    let mut counts = format!("{} of {started} sidecars acknowledged their revision", pods.programmed);
    if waiting > 0 {
        counts.push_str(&format!("; {waiting} more have not started"));
    }
    match (pods.matched, pods.injected, started) {
        (0, ..) => Finding::yes(KIND, "NoPods", "no pod is selected"),
        (_, 0, _) => Finding::no(KIND, "NoSidecars", "no selected pod has a sidecar"),
        _ if pods.programmed < started => Finding::no(KIND, "Pending", counts),
        _ if good.suspend => Finding::yes(KIND, "Suspended", "the policy is suspended and records nothing"),
        (_, _, 0) => Finding::yes(KIND, "NotStarted", counts),
        _ => Finding::yes(KIND, "Programmed", counts),
    }
}

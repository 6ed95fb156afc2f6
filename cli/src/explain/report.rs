//! The answer, from an index: by the webhook's own decision. Pure.

use crate::output::{Table, plural};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Serialize;
use std::fmt::Write;
use testimony_core::contract::annotation;
use testimony_core::policy::{DeliveryMode, FailureMode};
use testimony_operator::compile::Reach;
use testimony_operator::index::{Index, PolicyEntry};
use testimony_operator::inject::{Decision, ExcludedNamespaces, PodTraits, decide, workload};

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `pod/x` or `deployment/x`.
    pub object: String,
    /// Its namespace.
    pub namespace: String,
    /// `Recorded`, `NotSelected`, `NeedsRestart`, `WouldBeInjected`, or the reason of a skip.
    pub state: String,
    /// In words.
    pub why: String,
    /// What to do, if anything.
    pub fix: Option<String>,
    /// Policies that select it.
    pub policies: Vec<PolicyView>,
    /// Policies of the cluster that would select it, and leave it alone.
    pub left_alone: Vec<LeftAlone>,
    /// Sinks of these policies.
    pub sinks: Vec<SinkView>,
    /// Revision of the document that these policies make.
    pub revision: Option<String>,
    /// Revision that the pod was created with.
    pub revision_at_creation: Option<String>,
    /// What the sidecar itself says.
    pub sidecar: Option<Sidecar>,
    /// Pods of a workload: how many of them have a sidecar.
    pub pods: Option<Pods>,
    /// What can make the audit incomplete.
    pub warnings: Vec<String>,
}

/// A ClusterAuditPolicy whose exclusions, or the namespace's own label, keep it from the pod.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct LeftAlone {
    /// The policy.
    pub policy: String,
    /// The reason that it gives, or `NamespaceOptedOut`.
    pub reason: String,
}

/// One policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// `namespace/name`, or the name of a ClusterAuditPolicy.
    pub name: String,
    /// It records nothing now.
    pub suspended: bool,
    /// `Inbound`, `Outbound`.
    pub directions: Vec<String>,
    /// `Strict`, `Closed`, where it asks for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modes: Vec<String>,
    /// Its rules in order, the last one for what no rule matches.
    pub rules: Vec<RuleView>,
    /// Why its latest spec is not in force.
    pub invalid: Option<String>,
}

/// One rule.
#[derive(Debug, Serialize)]
pub struct RuleView {
    /// Its name.
    pub name: String,
    /// What it matches.
    pub matches: String,
    /// The level that it gives.
    pub level: String,
}

/// One sink.
#[derive(Debug, Serialize)]
pub struct SinkView {
    /// Its name.
    pub name: String,
    /// Where to; absent: there is no such sink.
    pub endpoint: Option<String>,
}

/// What a sidecar says of itself.
#[derive(Debug, Default, Serialize)]
pub struct Sidecar {
    /// Revision in force.
    pub revision: Option<String>,
    /// Each sink's state.
    pub sinks: Vec<String>,
    /// Why it could not be asked.
    pub error: Option<String>,
}

/// Pods of a workload.
#[derive(Debug, Serialize)]
pub struct Pods {
    /// All that run.
    pub all: usize,
    /// Of these, with a sidecar.
    pub injected: usize,
}

/// What is explained, and what only it has.
pub enum Subject {
    /// A pod, and what its sidecar says.
    Pod(Option<Sidecar>),
    /// A workload with its pods.
    Workload {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Its pods.
        pods: Pods,
    },
}

/// The answer for a pod, or for the pods that a template makes. Pure.
pub fn report(index: &Index, excluded: &ExcludedNamespaces, namespace: &str, pod: &Pod, subject: Subject) -> Report {
    let traits = PodTraits::of(pod);
    let selecting: Vec<&PolicyEntry> = index.selecting(namespace, &traits.labels).collect();
    let (kind, owner) = workload(pod);
    let restart = match kind.as_str() {
        "Deployment" | "StatefulSet" | "DaemonSet" => {
            format!("kubectl rollout restart {}/{} -n {namespace}", kind.to_lowercase(), owner.unwrap_or_default())
        }
        _ => "delete the pod and create it again".to_owned(),
    };
    let (object, sidecar, pods) = match subject {
        Subject::Pod(sidecar) => (format!("pod/{}", pod.name_any()), sidecar, None),
        Subject::Workload { kind, name, pods } => (format!("{}/{name}", kind.to_lowercase()), None, Some(pods)),
    };
    let (state, why, fix) =
        verdict(&decide(index, excluded, namespace, &traits), &selecting, excluded, namespace, restart, &pods);
    let invalid =
        index.policies_of(namespace).chain(index.cluster_policies()).filter(|policy| policy.invalid.is_some());
    let mut views: Vec<PolicyView> = selecting.iter().map(|policy| view(policy)).collect();
    views.extend(invalid.filter(|policy| policy.good.is_none()).map(view));
    let document = (!selecting.is_empty()).then(|| index.join(&selecting));
    let left_alone = index.reaching(namespace, &traits.labels).filter_map(|(policy, reach)| match reach {
        Reach::Excluded(reason) => Some(LeftAlone { policy: policy.key(), reason: reason.to_owned() }),
        Reach::Outside | Reach::Selected => None,
    });
    let left_alone = left_alone.collect();
    let mut sinks = Vec::new();
    for policy in &selecting {
        let (found, missing) = index.sinks_of(policy);
        let endpoint = |name: &String| index.sinks.get(name)?.good.as_ref().map(|sink| sink.endpoint.clone());
        sinks
            .extend(found.iter().chain(&missing).map(|name| SinkView { name: name.clone(), endpoint: endpoint(name) }));
    }
    sinks.sort_by(|a, b| a.name.cmp(&b.name));
    sinks.dedup_by(|a, b| a.name == b.name);
    Report {
        object,
        namespace: namespace.to_owned(),
        warnings: warnings(
            &traits,
            &views,
            &sinks,
            document.as_ref().map(|d| d.document.revision.as_str()),
            sidecar.as_ref(),
        ),
        state,
        why,
        fix,
        policies: views,
        left_alone,
        sinks,
        revision: document.map(|document| document.document.revision.clone()),
        revision_at_creation: pod.annotations().get(annotation::REVISION).cloned(),
        sidecar,
        pods,
    }
}

fn verdict(
    decision: &Decision,
    selecting: &[&PolicyEntry],
    excluded: &ExcludedNamespaces,
    namespace: &str,
    restart: String,
    pods: &Option<Pods>,
) -> (String, String, Option<String>) {
    let say = |state: &str, why: &str, fix: Option<String>| (state.to_owned(), why.to_owned(), fix);
    let uncovered = pods.as_ref().map_or(0, |pods| pods.all.saturating_sub(pods.injected));
    match decision {
        Decision::Already if selecting.is_empty() => say(
            "NotSelected",
            "the pod has a sidecar, but no policy selects it any more: nothing is recorded",
            Some("apply a policy that selects it, or restart it to remove the sidecar".to_owned()),
        ),
        Decision::Already => say("Recorded", "the pod has its sidecar", None),
        Decision::NotSelected if excluded.contains(namespace) => say(
            "ExcludedNamespace",
            "pods of kube-system, kube-node-lease and Testimony's own namespace are never touched",
            None,
        ),
        Decision::NotSelected => say(
            "NotSelected",
            &format!("no policy in force, of namespace {namespace} or of the cluster, selects these labels"),
            Some("apply an AuditPolicy whose podSelector matches it, or a ClusterAuditPolicy".to_owned()),
        ),
        Decision::Skip(reason) => say(reason.as_str(), reason.explain(), None),
        Decision::Deny(reason) => say(
            reason.as_str(),
            &format!("the namespace is strict, and such a pod is refused: {}", reason.explain()),
            None,
        ),
        Decision::Inject(_) if pods.is_some() && uncovered == 0 => {
            say("Recorded", "new pods get a sidecar, and all of its pods have one", None)
        }
        Decision::Inject(_) => {
            let why = match pods {
                Some(pods) => format!(
                    "{} of {} no sidecar: created before a policy selected them, or while the webhook was down",
                    uncovered,
                    plural(pods.all, "pod") + if pods.all == 1 { " has" } else { " have" }
                ),
                None => "it was created before a policy selected it, or while the webhook was down".to_owned(),
            };
            say("NeedsRestart", &why, Some(restart))
        }
    }
}

fn view(policy: &PolicyEntry) -> PolicyView {
    let good = policy.good.as_ref();
    let mut rules: Vec<RuleView> = good
        .into_iter()
        .flat_map(|good| &good.rules)
        .map(|rule| {
            // The document's own words: whatever a rule can match is shown.
            let matches = serde_json::to_value(&rule.matches).unwrap_or_default();
            let parts: Vec<String> =
                matches.as_object().into_iter().flatten().map(|(field, value)| format!("{field}: {value}")).collect();
            let matches = if parts.is_empty() { "everything".to_owned() } else { parts.join(", ") };
            RuleView { name: rule.name.clone(), matches, level: format!("{:?}", rule.level) }
        })
        .collect();
    if rules.last().is_none_or(|rule| rule.matches != "everything") {
        rules.push(RuleView {
            name: testimony_core::policy::DEFAULT_RULE.to_owned(),
            matches: "everything else".to_owned(),
            level: "Metadata".to_owned(),
        });
    }
    let strict = good.filter(|good| good.delivery == DeliveryMode::Strict).map(|_| "Strict".to_owned());
    let closed = good.filter(|good| good.failure_mode == FailureMode::Closed).map(|_| "Closed".to_owned());
    PolicyView {
        name: policy.key(),
        modes: strict.into_iter().chain(closed).collect(),
        suspended: good.is_some_and(|good| good.suspend),
        directions: good
            .into_iter()
            .flat_map(|good| &good.directions)
            .map(|direction| format!("{direction:?}"))
            .collect(),
        rules,
        invalid: policy.invalid.as_ref().map(ToString::to_string),
    }
}

fn warnings(
    traits: &PodTraits,
    policies: &[PolicyView],
    sinks: &[SinkView],
    revision: Option<&str>,
    sidecar: Option<&Sidecar>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for policy in policies {
        if let Some(invalid) = &policy.invalid {
            warnings.push(format!("the latest spec of policy {} is not in force: {invalid}", policy.name));
        }
    }
    if !policies.is_empty() && sinks.is_empty() {
        warnings.push(
            "its policies name no sink and no AuditSink is marked default: records wait in the pod's spool, and go with the pod".to_owned(),
        );
    }
    warnings.extend(
        sinks
            .iter()
            .filter(|sink| sink.endpoint.is_none())
            .map(|sink| format!("AuditSink {} does not exist or is not accepted", sink.name)),
    );
    for name in &traits.loop_guard_collision {
        warnings
            .push(format!("container {name} runs as the sidecar's user and group: its connections are not recorded"));
    }
    for name in &traits.network_admins {
        warnings.push(format!(
            "container {name} may change the network or reach into the sidecar (NET_ADMIN, NET_RAW, SYS_MODULE or privileged; SYS_PTRACE or SYS_ADMIN with shareProcessNamespace or hostPID): it can avoid the audit"
        ));
    }
    if let Some(sidecar) = sidecar {
        if let (Some(in_force), Some(wanted)) = (sidecar.revision.as_deref(), revision)
            && in_force != wanted
        {
            warnings.push(format!("the sidecar runs revision {in_force}, the policies make {wanted}: it polls the operator, so look again; if it stays, see the sidecar's log"));
        }
        if let Some(error) = &sidecar.error {
            warnings.push(format!("the sidecar could not be asked: {error}"));
        }
    }
    warnings
}

pub(super) fn text(report: &Report) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    writeln!(out, "{} in namespace {}", report.object, report.namespace)?;
    writeln!(out, "state      {}: {}", report.state, report.why)?;
    if let Some(fix) = &report.fix {
        writeln!(out, "to do      {fix}")?;
    }
    if let Some(pods) = &report.pods {
        writeln!(out, "pods       {} of {} with a sidecar", pods.injected, pods.all)?;
    }
    if let Some(created) = &report.revision_at_creation {
        writeln!(out, "revision   {created} when the pod was created")?;
    }
    if let Some(in_force) = report.sidecar.as_ref().and_then(|sidecar| sidecar.revision.as_ref()) {
        writeln!(out, "revision   {in_force} in force in the sidecar")?;
    }
    if let Some(revision) = &report.revision {
        writeln!(out, "revision   {revision} by the policies as they are now")?;
    }
    for policy in &report.policies {
        let mut words = policy.directions.join(", ");
        for word in policy.modes.iter() {
            write!(words, ", {word}")?;
        }
        if policy.suspended {
            words.push_str(", suspended: records nothing");
        }
        writeln!(out, "policy     {} ({words})", policy.name)?;
        let mut rules = Table::new(&["  RULE", "LEVEL", "MATCHES"]);
        for rule in &policy.rules {
            rules.row([format!("  {}", rule.name), rule.level.clone(), rule.matches.clone()]);
        }
        write!(out, "{rules}")?;
    }
    for LeftAlone { policy, reason } in &report.left_alone {
        writeln!(out, "left alone by {policy}: {reason}")?;
    }
    for sink in &report.sinks {
        writeln!(out, "sink       {} {}", sink.name, sink.endpoint.as_deref().unwrap_or("(missing)"))?;
    }
    for state in report.sidecar.iter().flat_map(|sidecar| &sidecar.sinks) {
        writeln!(out, "delivery   {state}")?;
    }
    for warning in &report.warnings {
        writeln!(out, "warning    {warning}")?;
    }
    Ok(out)
}

//! What matters after an installation: the operator works, policies are in force, records arrive.

use super::{Finding, Seen, Severity, few};
use crate::cluster::ca_bundle;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use std::collections::BTreeMap;
use testimony_operator::api::{self, AuditPolicy, AuditPolicyStatus, AuditSink, ClusterAuditPolicy};
use x509_parser::pem::Pem;

/// A certificate that ends sooner is told, in days.
const CERTIFICATE_DAYS_MIN: i64 = 7;

/// A leader that renewed its Lease this long ago is gone, in seconds.
const LEASE_SECONDS_MAX: i64 = 60;

/// Services whose endpoints must be ready.
const SERVICES: [(&str, &str); 2] =
    [("webhook-endpoints", "testimony-webhook"), ("policy-endpoints", "testimony-policy")];

/// What was read.
#[derive(Debug)]
pub struct After {
    /// The webhook's configuration.
    pub webhook: Seen<Option<MutatingWebhookConfiguration>>,
    /// The operator's Deployments.
    pub deployments: Seen<Vec<Deployment>>,
    /// EndpointSlices of the operator's namespace.
    pub slices: Seen<Vec<EndpointSlice>>,
    /// The controller's Lease.
    pub lease: Seen<Option<Lease>>,
    /// Definitions of our group.
    pub crds: Seen<Vec<CustomResourceDefinition>>,
    /// AuditPolicies of all namespaces.
    pub policies: Seen<Vec<AuditPolicy>>,
    /// ClusterAuditPolicies.
    pub cluster_policies: Seen<Vec<ClusterAuditPolicy>>,
    /// AuditSinks.
    pub sinks: Seen<Vec<AuditSink>>,
    /// Now.
    pub now: Timestamp,
}

impl After {
    /// Whether anything of an installation is there, or may be.
    pub fn is_present(&self) -> bool {
        !matches!(self.webhook, Ok(None)) || matches!(&self.deployments, Ok(list) if !list.is_empty())
    }

    /// Without a webhook the API server injects by itself.
    fn has_webhook(&self) -> bool {
        !matches!(self.webhook, Ok(None))
    }
}

/// All findings.
pub fn after(seen: &After) -> Vec<Finding> {
    let mut findings = vec![deployments(&seen.deployments), certificate(seen)];
    findings.extend(endpoints(&seen.slices, seen.has_webhook()));
    findings.push(leader(&seen.lease, seen.now));
    findings.push(definitions(&seen.crds));
    findings.extend(sinks(seen));
    findings.extend(policies(seen));
    findings
}

fn deployments(deployments: &Seen<Vec<Deployment>>) -> Finding {
    let id = "operator-ready";
    let deployments = match deployments {
        Ok(deployments) => deployments,
        Err(error) => return Finding::unseen(id, error),
    };
    let ready =
        |deployment: &Deployment| deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let wanted = |deployment: &Deployment| deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let short: Vec<String> = deployments
        .iter()
        .filter(|deployment| ready(deployment) < wanted(deployment) || wanted(deployment) == 0)
        .map(|deployment| format!("{} ({} of {} ready)", deployment.name_any(), ready(deployment), wanted(deployment)))
        .collect();
    let fix = "kubectl describe and kubectl logs of its pods say why";
    match (deployments.is_empty(), short.is_empty()) {
        (true, _) => Finding::new(
            id,
            Severity::Error,
            "the operator's Deployments are not there",
            "name their namespace with --operator-namespace, or install again",
        ),
        (false, false) => {
            let dead = deployments.iter().any(|deployment| ready(deployment) == 0);
            let severity = if dead { Severity::Error } else { Severity::Warning };
            Finding::new(id, severity, few(&short), fix)
        }
        (false, true) => Finding::ok(id, "all replicas are ready"),
    }
}

fn certificate(seen: &After) -> Finding {
    let id = "webhook-certificate";
    let webhook = match &seen.webhook {
        Ok(Some(webhook)) => webhook,
        Ok(None) => {
            let what = "there is no webhook testimony-default: right with injection.mode AdmissionPolicy";
            return Finding::new(id, Severity::Info, what, "with any other mode, upgrade the chart to get it back");
        }
        Err(error) => return Finding::unseen(id, error),
    };
    let Some(bundle) = ca_bundle(webhook) else {
        let what = "the webhook has no caBundle: the API server cannot call it, and no pod gets a sidecar";
        return Finding::new(
            id,
            Severity::Error,
            what,
            "see the operator's log; it writes the bundle as soon as it runs",
        );
    };
    let mut last = None;
    for pem in Pem::iter_from_buffer(&bundle.0) {
        let end = pem.ok().and_then(|pem| pem.parse_x509().ok().map(|x509| x509.validity().not_after.timestamp()));
        let Some(end) = end else {
            return Finding::new(
                id,
                Severity::Error,
                "the webhook's caBundle is no PEM text of certificates",
                "restart the operator: it writes it anew",
            );
        };
        last = last.max(Some(end));
    }
    let days = last.map(|end| (end - seen.now.as_second()).div_euclid(86_400));
    match days {
        None => Finding::new(
            id,
            Severity::Error,
            "the webhook's caBundle holds no certificate",
            "restart the operator: it writes it anew",
        ),
        Some(days) if days < 0 => Finding::new(
            id,
            Severity::Error,
            format!("the authority of the webhook's certificate ended {} days ago", -days),
            "see the operator's log: it renews it",
        ),
        Some(days) if days < CERTIFICATE_DAYS_MIN => Finding::new(
            id,
            Severity::Warning,
            format!("the authority of the webhook's certificate ends in {days} days"),
            "see the operator's log: it should have renewed it",
        ),
        Some(days) => Finding::ok(id, format!("valid for {days} days")),
    }
}

fn endpoints(slices: &Seen<Vec<EndpointSlice>>, with_webhook: bool) -> Vec<Finding> {
    let slices = match slices {
        Ok(slices) => slices,
        Err(error) => return vec![Finding::unseen("webhook-endpoints", error)],
    };
    let ready = |service: &str| {
        let of = slices
            .iter()
            .filter(|slice| slice.labels().get("kubernetes.io/service-name").is_some_and(|name| name == service));
        let endpoints = of.flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints.filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)).count()
    };
    let check = |(id, service): &(&'static str, &str)| match ready(service) {
        0 => Finding::new(
            id,
            Severity::Error,
            format!("Service {service} has no ready endpoint"),
            "kubectl get pods in the operator's namespace says which do not run",
        ),
        count => Finding::ok(id, format!("Service {service} has {count} ready")),
    };
    SERVICES.iter().filter(|(id, _)| with_webhook || *id != "webhook-endpoints").map(check).collect()
}

fn leader(lease: &Seen<Option<Lease>>, now: Timestamp) -> Finding {
    let id = "leader";
    let fix =
        "see the controller's log; without a leader no status is written and sidecars keep the policy that they have";
    let spec = match lease {
        Ok(lease) => lease.as_ref().and_then(|lease| lease.spec.as_ref()),
        Err(error) => return Finding::unseen(id, error),
    };
    let holder = spec.and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty());
    let age = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| now.as_second() - time.0.as_second());
    match (holder, age) {
        (Some(holder), Some(age)) if age <= LEASE_SECONDS_MAX => Finding::ok(id, format!("{holder} leads")),
        (Some(holder), Some(age)) => {
            Finding::new(id, Severity::Error, format!("{holder} led, and said so {age} s ago for the last time"), fix)
        }
        _ => Finding::new(id, Severity::Error, "no controller leads", fix),
    }
}

/// The definitions of the cluster must be those of this program: an older one does not know fields, a newer one knows more.
fn definitions(crds: &Seen<Vec<CustomResourceDefinition>>) -> Finding {
    let id = "crd-version";
    let crds = match crds {
        Ok(crds) => crds,
        Err(error) => return Finding::unseen(id, error),
    };
    let schema = |crd: &CustomResourceDefinition| crd.spec.versions.first().and_then(|version| version.schema.clone());
    let mut odd = Vec::new();
    for (_, ours) in api::crds() {
        // By its type, so that both have the same form.
        let Ok(ours) = serde_json::from_value::<CustomResourceDefinition>(ours) else { continue };
        match crds.iter().find(|crd| crd.name_any() == ours.name_any()) {
            None => odd.push(format!("{} is missing", ours.name_any())),
            Some(crd) if schema(crd) != schema(&ours) => odd.push(format!("{} is of another version", ours.name_any())),
            Some(_) => {}
        }
    }
    if odd.is_empty() {
        return Finding::ok(id, "the definitions are of this version");
    }
    let fix = format!("use testimony of the installed version, or upgrade the chart to {}", env!("CARGO_PKG_VERSION"));
    Finding::new(id, Severity::Warning, few(&odd), fix)
}

fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

fn sinks(seen: &After) -> Vec<Finding> {
    let sinks = match &seen.sinks {
        Ok(sinks) => sinks,
        Err(error) => return vec![Finding::unseen("sink-delivering", error)],
    };
    let mut findings = Vec::new();
    if sinks.is_empty() {
        findings.push(Finding::new(
            "sink-exists",
            Severity::Warning,
            "there is no AuditSink: records wait in the pods' spools, and go with the pods",
            "apply an AuditSink, or set sink.endpoint of the chart",
        ));
    } else if !sinks.iter().any(|sink| sink.spec.default) {
        findings.push(Finding::new(
            "sink-exists",
            Severity::Info,
            "no AuditSink is marked default: policies must name theirs",
            "",
        ));
    }
    for sink in sinks {
        let conditions = sink.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        for (id, kind, severity) in [
            ("sink-accepted", "Accepted", Severity::Error),
            ("sink-delivering", "Delivering", Severity::Warning),
            ("sink-reachable", "Reachable", Severity::Warning),
        ] {
            if let Some(no) = condition(conditions, kind).filter(|condition| condition.status == "False") {
                let fix = match kind {
                    "Accepted" => "correct the field",
                    _ => {
                        "check the endpoint, its certificate and its credentials; records wait in the sidecars' queues"
                    }
                };
                findings.push(Finding::new(
                    id,
                    severity,
                    format!("AuditSink {}: {}", sink.name_any(), no.message),
                    fix,
                ));
            }
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("sink-delivering", "no sink is in trouble"));
    }
    findings
}

/// How findings name the policies of both kinds, and their statuses.
type Named<'a> = (String, Option<&'a AuditPolicyStatus>);

fn named(seen: &After) -> Result<Vec<Named<'_>>, &String> {
    let (own, cluster) = (seen.policies.as_ref()?, seen.cluster_policies.as_ref()?);
    let own = own.iter().map(|policy| {
        let name = format!("AuditPolicy {}/{}", policy.namespace().unwrap_or_default(), policy.name_any());
        (name, policy.status.as_ref())
    });
    let cluster =
        cluster.iter().map(|policy| (format!("ClusterAuditPolicy {}", policy.name_any()), policy.status.as_ref()));
    Ok(own.chain(cluster).collect())
}

fn policies(seen: &After) -> Vec<Finding> {
    let policies = match named(seen) {
        Ok(policies) => policies,
        Err(error) => return vec![Finding::unseen("policy-accepted", error)],
    };
    let mut findings = Vec::new();
    if policies.is_empty() {
        findings.push(Finding::new(
            "policy-exists",
            Severity::Info,
            "there is no AuditPolicy and no ClusterAuditPolicy: nothing is recorded",
            "apply one: docs/first-policy.md",
        ));
    }
    let mut skipped: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, status) in policies {
        let Some(status) = status else {
            let what = format!("{name}: no controller has looked at it");
            findings.push(Finding::new("policy-seen", Severity::Warning, what, "see the controller's log"));
            continue;
        };
        findings.extend(troubles(&name, status));
        for reason in status.skipped.iter().filter(|skipped| skipped.reason != "NeedsRestart") {
            skipped.entry(&reason.reason).or_default().push(format!("{} such as {}", reason.count, reason.example));
        }
    }
    for (reason, pods) in skipped {
        let what = format!("pods without a sidecar, reason {reason}: {}", few(&pods));
        findings.push(Finding::new("pods-skipped", Severity::Info, what, "testimony explain pod/NAME says more"));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("policy-accepted", "all policies are in force"));
    }
    findings
}

/// What a policy's status says is wrong.
fn troubles(name: &str, status: &AuditPolicyStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (id, kind, severity) in
        [("policy-accepted", "Accepted", Severity::Error), ("policy-sinks", "ResolvedRefs", Severity::Warning)]
    {
        if let Some(no) = condition(&status.conditions, kind).filter(|condition| condition.status == "False") {
            let what = format!("{name}: {}", no.message);
            findings.push(Finding::new(id, severity, what, "correct it and apply it again"));
        }
    }
    if status.pods.need_restart > 0 {
        let what = format!(
            "{name}: {} pods were created too early, and are not recorded as it says",
            status.pods.need_restart
        );
        let fix = "restart their workloads: kubectl rollout restart; testimony explain pod/NAME says which";
        findings.push(Finding::new("pods-need-restart", Severity::Warning, what, fix));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("an object")
    }

    fn seen() -> After {
        let replicas = |name: &str| json!({"metadata": {"name": name}, "spec": {"replicas": 1, "selector": {}, "template": {}}, "status": {"readyReplicas": 1}});
        let slice = |service: &str| json!({"metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}]});
        let crds: Vec<Value> = api::crds().into_iter().map(|(_, crd)| crd).collect();
        After {
            webhook: Ok(Some(object(json!({"metadata": {"name": "testimony-default"}, "webhooks": []})))),
            deployments: Ok(object(json!([replicas("testimony-controller"), replicas("testimony-webhook")]))),
            slices: Ok(object(json!([slice("testimony-webhook"), slice("testimony-policy")]))),
            lease: Ok(Some(object(
                json!({"spec": {"holderIdentity": "c-1", "renewTime": "2026-01-01T00:00:00.000000Z"}}),
            ))),
            crds: Ok(object(json!(crds))),
            policies: Ok(object(json!([policy(json!({"conditions": []}))]))),
            cluster_policies: Ok(Vec::new()),
            sinks: Ok(object(json!([sink(json!({"conditions": []}))]))),
            now: "2026-01-01T00:00:05Z".parse().expect("a time"),
        }
    }

    fn policy(status: Value) -> Value {
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "metadata": {"name": "p", "namespace": "shop"}, "spec": {}, "status": status})
    }

    fn sink(status: Value) -> Value {
        json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditSink", "metadata": {"name": "default"}, "spec": {"endpoint": "http://c", "default": true}, "status": status})
    }

    fn no(kind: &str) -> Value {
        json!({"conditions": [{"type": kind, "status": "False", "reason": "R", "message": "why", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
    }

    /// What is found beside the missing certificate.
    fn worst(seen: &After) -> Vec<(&'static str, Severity)> {
        let bad = after(seen).into_iter().filter(|f| f.severity > Severity::Ok && f.id != "webhook-certificate");
        bad.map(|finding| (finding.id, finding.severity)).collect()
    }

    #[test]
    fn an_installation_in_order_has_no_findings() {
        assert_eq!(worst(&seen()), []);
    }

    #[test]
    fn each_trouble_is_found() {
        let one = |status: Value| Ok(object(json!([policy(status)])));
        let table = [
            (After { deployments: Ok(Vec::new()), ..seen() }, ("operator-ready", Severity::Error)),
            (After { lease: Ok(None), ..seen() }, ("leader", Severity::Error)),
            (After { now: "2026-01-01T01:00:00Z".parse().expect("a time"), ..seen() }, ("leader", Severity::Error)),
            (After { crds: Ok(Vec::new()), ..seen() }, ("crd-version", Severity::Warning)),
            (After { policies: Ok(Vec::new()), ..seen() }, ("policy-exists", Severity::Info)),
            (After { policies: one(no("Accepted")), ..seen() }, ("policy-accepted", Severity::Error)),
            (After { policies: one(no("ResolvedRefs")), ..seen() }, ("policy-sinks", Severity::Warning)),
            (
                After {
                    policies: one(
                        json!({"pods": {"matched": 1, "injected": 0, "programmed": 0, "needRestart": 1, "skipped": 0}}),
                    ),
                    ..seen()
                },
                ("pods-need-restart", Severity::Warning),
            ),
            (
                After {
                    policies: one(json!({"skipped": [{"reason": "HostNetwork", "count": 1, "example": "a/b"}]})),
                    ..seen()
                },
                ("pods-skipped", Severity::Info),
            ),
            (After { sinks: Ok(Vec::new()), ..seen() }, ("sink-exists", Severity::Warning)),
            (
                After { sinks: Ok(object(json!([sink(no("Delivering"))]))), ..seen() },
                ("sink-delivering", Severity::Warning),
            ),
        ];
        for (seen, expected) in table {
            assert_eq!(worst(&seen), [expected]);
        }
        let none = After { slices: Ok(Vec::new()), ..seen() };
        assert_eq!(worst(&none), [("webhook-endpoints", Severity::Error), ("policy-endpoints", Severity::Error)]);
    }

    #[test]
    fn policies_of_the_cluster_are_policies_too() {
        let floor = |status: Value| {
            let policy = json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "ClusterAuditPolicy",
                                "metadata": {"name": "floor"}, "spec": {}, "status": status});
            let cluster_policies = Ok(object(json!([policy])));
            After { policies: Ok(Vec::new()), cluster_policies, ..seen() }
        };
        assert_eq!(worst(&floor(json!({"conditions": []}))), []);
        assert_eq!(worst(&floor(no("Accepted"))), [("policy-accepted", Severity::Error)]);
        let found = after(&floor(no("Accepted")));
        assert!(found.iter().any(|f| f.what == "ClusterAuditPolicy floor: why"), "{found:#?}");
        assert_eq!(worst(&floor(Value::Null)), [("policy-seen", Severity::Warning)]);
        let hidden = After { cluster_policies: Err("forbidden".to_owned()), ..seen() };
        assert_eq!(worst(&hidden), [("policy-accepted", Severity::Warning)]);
    }

    #[test]
    fn a_webhook_without_a_usable_bundle_is_an_error() {
        assert_eq!(certificate(&seen()).severity, Severity::Error);
        let entry = json!({"name": "a.b.c", "admissionReviewVersions": ["v1"], "clientConfig": {"caBundle": "bm8="}, "sideEffects": "None"});
        let seen = After { webhook: Ok(Some(object(json!({"metadata": {}, "webhooks": [entry]})))), ..seen() };
        assert_eq!(certificate(&seen).what, "the webhook's caBundle holds no certificate");
        let none = After { webhook: Ok(None), slices: Ok(Vec::new()), ..seen };
        assert_eq!(certificate(&none).severity, Severity::Info);
        assert_eq!(worst(&none), [("policy-endpoints", Severity::Error)]);
        assert!(none.is_present() && !After { deployments: Ok(Vec::new()), ..none }.is_present());
    }
}

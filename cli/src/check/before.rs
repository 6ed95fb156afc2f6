//! What matters before an installation: versions, rights, nodes, namespaces, other webhooks.

use super::{Finding, Seen, Severity, few};
use crate::cluster::ca_bundle;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::ResourceExt;
use testimony_core::contract::label;
use testimony_operator::inject::ExcludedNamespaces;

/// Oldest minor version of Kubernetes 1 that runs native sidecars as the chart needs them.
const KUBERNETES_MINOR_MIN: u32 = 30;

/// Oldest kernel that has nat chains of family `inet`.
const KERNEL_MIN: (u32, u32) = (5, 2);

/// Parts of names of other meshes' webhooks.
const MESHES: [(&str, &str); 4] = [
    ("istio-sidecar-injector", "Istio"),
    ("linkerd-proxy-injector", "Linkerd"),
    ("consul-connect-injector", "Consul"),
    ("kuma-admission", "Kuma"),
];

/// What was read.
#[derive(Debug)]
pub struct Before {
    /// `v1.36.0`, and its minor version.
    pub version: (String, u32),
    /// What an installation needs, and whether the user may do it.
    pub rights: Seen<Vec<Right>>,
    /// All nodes.
    pub nodes: Seen<Vec<Node>>,
    /// All namespaces.
    pub namespaces: Seen<Vec<Namespace>>,
    /// All mutating webhooks.
    pub webhooks: Seen<Vec<MutatingWebhookConfiguration>>,
    /// Whether the API server has MutatingAdmissionPolicy v1.
    pub mutating_policies: Seen<bool>,
    /// Namespace of the installation.
    pub operator_namespace: String,
}

/// One right.
#[derive(Clone, Debug)]
pub struct Right {
    /// `create clusterroles.rbac.authorization.k8s.io`.
    pub name: String,
    /// Whether the user has it.
    pub allowed: bool,
}

/// All findings. `installed`: rights to install are asked no more.
pub fn before(seen: &Before, installed: bool) -> Vec<Finding> {
    let mut findings = vec![version(seen)];
    if !installed {
        findings.push(rights(&seen.rights));
    } else {
        findings.extend(strict(seen));
    }
    findings.extend(nodes(&seen.nodes));
    findings.push(pod_security(seen));
    findings.extend(webhooks(&seen.webhooks));
    findings.push(match &seen.mutating_policies {
        Ok(true) => Finding::ok("mutating-admission-policy", "the API server has MutatingAdmissionPolicy v1"),
        Ok(false) => Finding::new(
            "mutating-admission-policy",
            Severity::Info,
            "the API server has no MutatingAdmissionPolicy v1: pods are injected by the webhook",
            "",
        ),
        Err(error) => Finding::unseen("mutating-admission-policy", error),
    });
    findings
}

fn version(seen: &Before) -> Finding {
    let (name, minor) = &seen.version;
    if *minor < KUBERNETES_MINOR_MIN {
        let what = format!("Kubernetes {name} is older than 1.{KUBERNETES_MINOR_MIN}");
        return Finding::new("kubernetes-version", Severity::Error, what, "upgrade the cluster");
    }
    Finding::ok("kubernetes-version", format!("Kubernetes {name}"))
}

fn rights(rights: &Seen<Vec<Right>>) -> Finding {
    match rights {
        Err(error) => Finding::unseen("install-rights", error),
        Ok(rights) => {
            let missing: Vec<String> =
                rights.iter().filter(|right| !right.allowed).map(|right| right.name.clone()).collect();
            if missing.is_empty() {
                return Finding::ok("install-rights", "you may install");
            }
            let what = format!("you may not: {}", few(&missing));
            Finding::new("install-rights", Severity::Error, what, "install as a cluster administrator")
        }
    }
}

fn nodes(nodes: &Seen<Vec<Node>>) -> Vec<Finding> {
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(error) => return vec![Finding::unseen("node-kernel", error)],
    };
    let (mut kernels, mut kubelets, mut windows) = (Vec::new(), Vec::new(), Vec::new());
    for node in nodes {
        let Some(info) = node.status.as_ref().and_then(|status| status.node_info.as_ref()) else { continue };
        if info.operating_system == "windows" {
            windows.push(node.name_any());
            continue;
        }
        if numbers(&info.kernel_version).is_some_and(|kernel| kernel < KERNEL_MIN) {
            kernels.push(format!("{} ({})", node.name_any(), info.kernel_version));
        }
        if numbers(info.kubelet_version.trim_start_matches('v')).is_some_and(|(_, minor)| minor < KUBERNETES_MINOR_MIN)
        {
            kubelets.push(format!("{} ({})", node.name_any(), info.kubelet_version));
        }
    }
    let (major, minor) = KERNEL_MIN;
    let table = [
        (
            "node-kernel",
            Severity::Error,
            kernels,
            format!("kernel older than {major}.{minor}, whose nftables cannot redirect both IP families"),
            "upgrade these nodes, or keep audited pods off them",
        ),
        (
            "node-kubelet",
            Severity::Error,
            kubelets,
            format!("kubelet older than 1.{KUBERNETES_MINOR_MIN}, which may not run native sidecars"),
            "upgrade these nodes",
        ),
        ("node-windows", Severity::Info, windows, "Windows: pods there are skipped (reason Windows)".to_owned(), ""),
    ];
    table
        .into_iter()
        .map(|(id, severity, found, what, fix)| match found.is_empty() {
            true => Finding::ok(id, "no node is concerned"),
            false => Finding::new(id, severity, format!("{}: {what}", few(&found)), fix),
        })
        .collect()
}

/// The first two numbers of a version.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn pod_security(seen: &Before) -> Finding {
    let id = "pod-security";
    let namespaces = match &seen.namespaces {
        Ok(namespaces) => namespaces,
        Err(error) => return Finding::unseen(id, error),
    };
    let excluded = ExcludedNamespaces { own: seen.operator_namespace.clone(), ..ExcludedNamespaces::default() };
    let enforced = |namespace: &&Namespace| {
        let level = namespace.labels().get("pod-security.kubernetes.io/enforce").map(String::as_str);
        matches!(level, Some("baseline" | "restricted")) && !excluded.contains(&namespace.name_any())
    };
    let names: Vec<String> = namespaces.iter().filter(enforced).map(ResourceExt::name_any).collect();
    if names.is_empty() {
        return Finding::ok(id, "no namespace enforces a level that refuses the sidecar");
    }
    Finding::new(
        id,
        Severity::Info,
        format!(
            "{}: Pod Security baseline or restricted is enforced, which refuses NET_ADMIN: pods there are skipped",
            few(&names)
        ),
        "label a namespace pod-security.kubernetes.io/enforce=privileged where its pods shall be audited",
    )
}

/// Strict namespaces need the webhook that refuses pods.
fn strict(seen: &Before) -> Option<Finding> {
    let id = "strict-namespaces";
    let (namespaces, webhooks) = (seen.namespaces.as_ref().ok()?, seen.webhooks.as_ref().ok()?);
    let is_strict =
        |namespace: &&Namespace| namespace.labels().get(label::ENFORCEMENT).is_some_and(|value| value == label::STRICT);
    let names: Vec<String> = namespaces.iter().filter(is_strict).map(ResourceExt::name_any).collect();
    if names.is_empty() {
        return None;
    }
    let Some(webhook) = webhooks.iter().find(|webhook| webhook.name_any() == "testimony-strict") else {
        let what = format!(
            "{}: strict, but the webhook testimony-strict is not there: pods start without a sidecar",
            few(&names)
        );
        return Some(Finding::new(id, Severity::Error, what, "upgrade the chart, with its strict webhook on"));
    };
    if ca_bundle(webhook).is_none() {
        let what = format!(
            "{}: the webhook testimony-strict has no caBundle: no pod of these namespaces is admitted",
            few(&names)
        );
        return Some(Finding::new(
            id,
            Severity::Error,
            what,
            "see the operator's log; it writes the bundle as soon as it runs",
        ));
    }
    Some(Finding::ok(id, format!("{}: strict", few(&names))))
}

fn webhooks(webhooks: &Seen<Vec<MutatingWebhookConfiguration>>) -> Vec<Finding> {
    let webhooks = match webhooks {
        Ok(webhooks) => webhooks,
        Err(error) => return vec![Finding::unseen("other-mesh", error)],
    };
    let mesh = |name: &str| MESHES.iter().find(|(part, _)| name.contains(part)).map(|(_, mesh)| (*mesh).to_owned());
    let (mut meshes, mut others) = (Vec::new(), Vec::new());
    for configuration in webhooks.iter().filter(|w| !w.name_any().starts_with("testimony-")) {
        match mesh(&configuration.name_any()) {
            Some(mesh) => meshes.push(mesh),
            None if configuration.webhooks.iter().flatten().any(changes_pods) => others.push(configuration.name_any()),
            None => {}
        }
    }
    meshes.sort();
    meshes.dedup();
    vec![
        match meshes.is_empty() {
            true => Finding::ok("other-mesh", "no other mesh"),
            false => Finding::new(
                "other-mesh",
                Severity::Warning,
                format!(
                    "{}: pods with its proxy are skipped (reason OtherProxy), since both would redirect the same connections",
                    few(&meshes)
                ),
                "audit pods outside of the mesh, or take them out of it",
            ),
        },
        match others.is_empty() {
            true => Finding::ok("other-webhooks", "no other webhook changes pods"),
            false => Finding::new(
                "other-webhooks",
                Severity::Info,
                format!(
                    "{} change pods too: containers that they add after ours are redirected as all others are",
                    few(&others)
                ),
                "",
            ),
        },
    ]
}

fn changes_pods(webhook: &MutatingWebhook) -> bool {
    let has = |list: &Option<Vec<String>>, word: &str| list.iter().flatten().any(|item| item == word || item == "*");
    webhook
        .rules
        .iter()
        .flatten()
        .any(|rule| has(&rule.resources, "pods") && has(&rule.operations, "CREATE") && has(&rule.api_groups, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn seen() -> Before {
        Before {
            version: ("v1.36.0".to_owned(), 36),
            rights: Ok(vec![Right { name: "create pods".to_owned(), allowed: true }]),
            nodes: Ok(list(json!([node("n1", "6.1.0-1", "v1.36.0")]))),
            namespaces: Ok(Vec::new()),
            webhooks: Ok(Vec::new()),
            mutating_policies: Ok(true),
            operator_namespace: "ours".to_owned(),
        }
    }

    fn node(name: &str, kernel: &str, kubelet: &str) -> Value {
        json!({"metadata": {"name": name}, "status": {"nodeInfo": {
            "operatingSystem": "linux", "kernelVersion": kernel, "kubeletVersion": kubelet, "architecture": "", "bootID": "",
            "containerRuntimeVersion": "", "kubeProxyVersion": "", "machineID": "", "osImage": "", "systemUUID": ""}}})
    }

    fn list<T: serde::de::DeserializeOwned>(value: Value) -> Vec<T> {
        serde_json::from_value(value).expect("objects")
    }

    fn worst(seen: &Before) -> Vec<(&'static str, Severity)> {
        let bad = before(seen, false).into_iter().filter(|finding| finding.severity > Severity::Ok);
        bad.map(|finding| (finding.id, finding.severity)).collect()
    }

    #[test]
    fn a_cluster_in_order_has_no_findings() {
        assert_eq!(worst(&seen()), []);
    }

    #[test]
    fn each_obstacle_is_found() {
        let namespaces = json!([
            {"metadata": {"name": "shop", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
            {"metadata": {"name": "ours", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
        ]);
        let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        let entry = json!({"name": "a.b.c", "admissionReviewVersions": ["v1"], "clientConfig": {}, "sideEffects": "None", "rules": [rule]});
        let webhooks = json!([
            {"metadata": {"name": "istio-sidecar-injector-1"}, "webhooks": [entry]},
            {"metadata": {"name": "vault"}, "webhooks": [entry]},
            {"metadata": {"name": "testimony-default"}, "webhooks": [entry]}
        ]);
        let table = [
            (Before { version: ("v1.29.1".to_owned(), 29), ..seen() }, ("kubernetes-version", Severity::Error)),
            (
                Before { rights: Ok(vec![Right { name: "create x".to_owned(), allowed: false }]), ..seen() },
                ("install-rights", Severity::Error),
            ),
            (
                Before { nodes: Ok(list(json!([node("old", "4.18.0-553.el8", "v1.36.0")]))), ..seen() },
                ("node-kernel", Severity::Error),
            ),
            (
                Before { nodes: Ok(list(json!([node("old", "5.2.0", "v1.28.0")]))), ..seen() },
                ("node-kubelet", Severity::Error),
            ),
            (Before { namespaces: Ok(list(namespaces)), ..seen() }, ("pod-security", Severity::Info)),
            (Before { mutating_policies: Ok(false), ..seen() }, ("mutating-admission-policy", Severity::Info)),
            (Before { nodes: Err("no".to_owned()), ..seen() }, ("node-kernel", Severity::Warning)),
        ];
        for (seen, expected) in table {
            assert_eq!(worst(&seen), [expected]);
        }
        let webhooks = Before { webhooks: Ok(list(webhooks)), ..seen() };
        assert_eq!(worst(&webhooks), [("other-mesh", Severity::Warning), ("other-webhooks", Severity::Info)]);
    }

    #[test]
    fn a_strict_namespace_needs_its_webhook() {
        let namespaces =
            || Ok(list(json!([{"metadata": {"name": "bank", "labels": {"testimony.dev/enforcement": "strict"}}}])));
        let entry = |bundle: &str| json!({"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {"caBundle": bundle}});
        let webhook =
            |entries: Value| Ok(list(json!([{"metadata": {"name": "testimony-strict"}, "webhooks": entries}])));
        let table = [
            (Ok(Vec::new()), Severity::Error),
            (webhook(json!([])), Severity::Error),
            (webhook(json!([entry("bm8=")])), Severity::Ok),
        ];
        for (webhooks, expected) in table {
            let seen = Before { namespaces: namespaces(), webhooks, ..seen() };
            let findings = before(&seen, true);
            let of: Vec<Severity> =
                findings.iter().filter(|f| f.id == "strict-namespaces").map(|f| f.severity).collect();
            assert_eq!(of, [expected], "{findings:#?}");
        }
        assert!(before(&seen(), true).iter().all(|finding| finding.id != "strict-namespaces"));
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert_eq!(numbers("5.15.0-100-generic"), Some((5, 15)));
        assert_eq!(numbers("6.1"), Some((6, 1)));
        assert_eq!(numbers("next"), None);
        assert!(numbers("4.18.0") < Some(KERNEL_MIN) && numbers("5.2.0") >= Some(KERNEL_MIN));
    }
}

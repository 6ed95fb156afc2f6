//! `check`: what is in the way, before an installation and after it. The pure parts take what was read and give findings.

mod after;
mod before;
mod read;

pub use after::{After, after};
pub use before::{Before, Right, before};

use crate::args::{CheckArgs, ClusterArgs, Format};
use crate::cluster::Cluster;
use crate::output::{plural, print, print_json, printable, though_nobody_reads};
use anyhow::Result;
use serde::Serialize;
use std::fmt::Write;

/// How bad a finding is; the order is that of badness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// In order.
    Ok,
    /// Worth knowing.
    Info,
    /// Something is not recorded, or will not be.
    Warning,
    /// Testimony cannot be installed, or does not work.
    Error,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// What to do; empty: nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

impl Finding {
    fn ok(id: &'static str, what: impl Into<String>) -> Self {
        Self { id, severity: Severity::Ok, what: what.into(), fix: String::new() }
    }

    fn new(id: &'static str, severity: Severity, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { id, severity, what: what.into(), fix: fix.into() }
    }

    /// Something could not be looked at.
    fn unseen(id: &'static str, error: &str) -> Self {
        Self::new(id, Severity::Warning, format!("could not be checked: {error}"), "run the check with more rights")
    }
}

/// What could be read, or why not.
pub type Seen<T> = Result<T, String>;

/// Runs the command.
///
/// # Errors
/// There is no kubeconfig, or nobody reads the output.
pub async fn run(args: &CheckArgs, cluster: &ClusterArgs) -> Result<u8> {
    let cluster = Cluster::connect(cluster).await?;
    let findings = look(args, &cluster).await;
    let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok);
    though_nobody_reads(match args.output {
        Format::Json => print_json(&findings),
        Format::Text => print(&text(&findings, args.verbose)?),
    })?;
    Ok(match worst {
        Severity::Ok | Severity::Info => 0,
        Severity::Warning => 1,
        Severity::Error => 2,
    })
}

async fn look(args: &CheckArgs, cluster: &Cluster) -> Vec<Finding> {
    let read = match read::before(cluster, &args.operator_namespace).await {
        Ok(read) => read,
        Err(error) => {
            let fix = "start the cluster, or name it with --kubeconfig and --context";
            return vec![Finding::new("api-reachable", Severity::Error, error, fix)];
        }
    };
    if args.pre {
        return before(&read, false);
    }
    let installed = read::after(cluster, &args.operator_namespace).await;
    let present = installed.is_present();
    let mut findings = before(&read, present);
    if present {
        findings.extend(after(&installed));
    } else {
        let fix = format!(
            "helm install testimony charts/testimony -n {} --create-namespace --set sink.endpoint=URL",
            args.operator_namespace
        );
        findings.push(Finding::new("installed", Severity::Info, "Testimony is not installed", fix));
    }
    findings
}

fn text(findings: &[Finding], verbose: bool) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    for finding in findings.iter().filter(|finding| verbose || finding.severity > Severity::Ok) {
        writeln!(out, "{:<7} {}: {}", finding.severity.word(), finding.id, printable(&finding.what))?;
        if !finding.fix.is_empty() {
            writeln!(out, "        to do: {}", printable(&finding.fix))?;
        }
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    writeln!(
        out,
        "{}, {}; {} in order",
        plural(count(Severity::Error), "error"),
        plural(count(Severity::Warning), "warning"),
        count(Severity::Ok)
    )?;
    Ok(out)
}

/// At most a few names, and how many there are.
fn few(names: &[String]) -> String {
    const SHOWN_MAX: usize = 5;
    let shown: Vec<&str> = names.iter().take(SHOWN_MAX).map(String::as_str).collect();
    match names.len().saturating_sub(SHOWN_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, list};
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    #[test]
    fn only_what_matters_is_shown() {
        let findings = [
            Finding::ok("a", "fine"),
            Finding::new("b", Severity::Warning, "odd", "do this"),
            Finding::new("c", Severity::Error, "bad", ""),
        ];
        let expected = "warning b: odd\n        to do: do this\nerror   c: bad\n1 error, 1 warning; 1 in order\n";
        assert_eq!(text(&findings, false).as_deref(), Ok(expected));
        assert!(text(&findings, true).expect("text").starts_with("ok      a: fine\n"));
    }

    fn args() -> CheckArgs {
        CheckArgs { pre: false, operator_namespace: "ours".to_owned(), verbose: false, output: Format::Text }
    }

    fn found(findings: &[Finding], id: &str) -> (Severity, String) {
        let finding = findings.iter().find(|finding| finding.id == id);
        finding.map(|finding| (finding.severity, finding.what.clone())).unwrap_or_else(|| panic!("{id}: {findings:#?}"))
    }

    #[tokio::test]
    async fn a_cluster_is_read_before_and_after_an_installation() {
        let empty = || list(&[]);
        let version = json!({"major": "1", "minor": "36+", "gitVersion": "v1.36.0", "buildDate": "", "compiler": "",
                             "gitCommit": "", "gitTreeState": "", "goVersion": "", "platform": ""});
        let resources = json!({"groupVersion": "admissionregistration.k8s.io/v1", "resources": [
            {"name": "mutatingadmissionpolicies", "kind": "MutatingAdmissionPolicy", "namespaced": false, "singularName": "", "verbs": []}]});
        let mut objects = BTreeMap::from([
            ("/version", version),
            ("/api/v1/nodes", Value::Null),
            ("/api/v1/namespaces", empty()),
            ("/apis/admissionregistration.k8s.io/v1", resources),
            ("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", empty()),
        ]);
        let (bare, _) = cluster(objects.clone());
        let findings = look(&args(), &bare).await;
        assert_eq!(found(&findings, "kubernetes-version").0, Severity::Ok);
        assert_eq!(found(&findings, "install-rights").0, Severity::Ok);
        assert_eq!(found(&findings, "mutating-admission-policy").0, Severity::Ok);
        let (severity, what) = found(&findings, "node-kernel");
        assert!(severity == Severity::Warning && what.contains("ask for this right"), "{what}");
        assert_eq!(found(&findings, "installed").0, Severity::Info);

        let webhook = json!({"metadata": {"name": "testimony-default"}, "webhooks": []});
        objects
            .insert("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/testimony-default", webhook);
        objects.insert("/apis/apps/v1/namespaces/ours/deployments", empty());
        objects.insert("/apis/discovery.k8s.io/v1/namespaces/ours/endpointslices", empty());
        objects.insert("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", empty());
        objects.insert("/apis/audit.testimony.dev/v1alpha1/auditpolicies", empty());
        let floor = json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "ClusterAuditPolicy",
                           "metadata": {"name": "floor"}, "spec": {}});
        objects.insert("/apis/audit.testimony.dev/v1alpha1/clusterauditpolicies", list(&[floor]));
        objects.insert("/apis/audit.testimony.dev/v1alpha1/auditsinks", empty());
        let (installed, _) = cluster(objects);
        let findings = look(&args(), &installed).await;
        let (severity, what) = found(&findings, "policy-seen");
        assert_eq!(
            (severity, what.as_str()),
            (Severity::Warning, "ClusterAuditPolicy floor: no controller has looked at it")
        );
        let errors = ["operator-ready", "webhook-certificate", "webhook-endpoints", "policy-endpoints", "leader"];
        assert!(errors.iter().all(|id| found(&findings, id).0 == Severity::Error), "{findings:#?}");
        assert_eq!(found(&findings, "crd-version").0, Severity::Warning);
        assert!(findings.iter().all(|finding| finding.id != "install-rights"), "{findings:#?}");
        let (down, _) = cluster(BTreeMap::new());
        assert_eq!(found(&look(&args(), &down).await, "api-reachable").0, Severity::Error);
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..7).map(|n| n.to_string()).collect();
        assert_eq!(few(&names), "0, 1, 2, 3, 4 and 2 more");
    }
}

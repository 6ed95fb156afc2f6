//! `testimony verify` as the chart runs it: a Job that is done where the records are in order, and fails where they are not.

use super::alone;
use super::strict::Restored;
use crate::cli::run;
use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually};
use crate::objects::audited;
use crate::witness::{is_anchored, uid, verified};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testimony_e2e::install::{BACKEND_ENDPOINT, OPERATOR_NAMESPACE, export_of, install_chart};

/// How long a Job may take, in seconds.
const JOB_SECONDS_MAX: u64 = 120;

/// Runs the CronJob's Job now; whether it is done, and its log.
fn checked(name: &str) -> Result<(bool, String)> {
    let kubectl = &cluster().kubectl;
    let job = format!("job/{name}");
    kubectl.run(&["create", "job", name, "--from=cronjob/testimony-verify", "-n", OPERATOR_NAMESPACE])?;
    let mut done = None;
    let ended = eventually("the Job to end", JOB_SECONDS_MAX, || {
        let status = kubectl.get(OPERATOR_NAMESPACE, &[&job])?;
        let conditions = status.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let is = |kind: &str| conditions.iter().any(|one| one["type"] == kind && one["status"] == "True");
        done = is("Complete").then_some(true).or(is("Failed").then_some(false));
        Ok(done.is_some())
    });
    let log = kubectl.run(&["logs", "-n", OPERATOR_NAMESPACE, &job]).unwrap_or_default();
    ended.with_context(|| log.clone())?;
    kubectl.run(&["delete", "-n", OPERATOR_NAMESPACE, &job])?;
    Ok((done.context("a Job that ended")?, log))
}

/// Bytes of one part of an export: a ConfigMap holds a MiB.
const PART_BYTES: usize = 900_000;

/// A backend that returns what it was given.
struct Backend(Space);

impl Backend {
    /// Through ConfigMaps: what goes through the standard input of `kubectl exec` may arrive cut off.
    fn give(&self, name: &str, export: &str) -> Result<()> {
        let (space, kubectl) = (&self.0, &cluster().kubectl);
        let folder = std::env::temp_dir().join(format!("testimony-{}", space.name));
        std::fs::create_dir_all(&folder)?;
        let mut sources = Vec::new();
        for (at, part) in export.as_bytes().chunks(PART_BYTES).enumerate() {
            let (map, file) = (format!("{name}-{at}"), folder.join("part"));
            std::fs::write(&file, part)?;
            let from = format!("--from-file={at:04}={}", file.to_str().context("a path in UTF-8")?);
            kubectl.run(&["create", "configmap", &map, &from, "-n", &space.name])?;
            sources.push(format!("{{configMap: {{name: {map}}}}}"));
        }
        std::fs::remove_dir_all(&folder)?;
        let volume = match sources.is_empty() {
            true => "emptyDir: {}".to_owned(),
            false => format!("projected: {{sources: [{}]}}", sources.join(", ")),
        };
        space.apply(&format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: www}}\nspec:\n  selector: {{matchLabels: {{app: www}}}}\n  \
             strategy: {{type: Recreate}}\n  \
             template:\n    metadata: {{labels: {{app: www}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
             volumes: [{{name: parts, {volume}}}]\n      containers:\n      - name: www\n        image: \"{{{{image:toolbox}}}}\"\n        \
             command: [/bin/sh, -c, 'mkdir /tmp/www; cat /parts/* > /tmp/www/export.jsonl; exec httpd -f -p 8000 -h /tmp/www']\n        \
             volumeMounts: [{{name: parts, mountPath: /parts}}]\n        \
             readinessProbe: {{tcpSocket: {{port: 8000}}, periodSeconds: 1}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: www}}\nspec: {{selector: {{app: www}}, ports: [{{port: 8000}}]}}\n"
        ))?;
        kubectl.rollout(&space.name, "deployment/www")
    }
}

#[test]
fn the_daily_check_is_done_where_the_records_are_in_order_and_fails_where_they_are_not() -> Result<()> {
    let _alone = alone();
    let space = audited("daily", "rules: []")?;
    space.recorded_request()?;
    let server = uid(&space, "server")?;
    let mut said = Value::Null;
    let anchored = eventually("the records to be in order", 3 * OPERATOR_SECONDS_MAX, || {
        said = verified(&space)?;
        Ok(is_anchored(&said, &server))
    });
    anchored.with_context(|| format!("{said:#}"))?;

    let backend = Backend(Space::new("dailybackend")?);
    // First the ledger: what it knows must be among the records.
    let (code, ledger) = run(&["ledger", "export"])?;
    ensure!(code == 0, "testimony ledger export ends with {code}");
    let records = export_of(cluster(), &space.name)?;
    ensure!(records.contains("/anything/"), "no record of the request");
    backend.give("in-order", &format!("{ledger}{records}"))?;

    let _restored = Restored;
    let source = format!("verify.source=http://www.{}.svc:8000/export.jsonl", backend.0.name);
    let namespace = format!("verify.namespace={}", space.name);
    install_chart(cluster(), BACKEND_ENDPOINT, &["verify.enabled=true", &source, &namespace])?;
    let (done, log) = checked("in-order")?;
    ensure!(done && log.contains("Trust: operator"), "the records are in order:\n{log}");

    backend.give("altered", &format!("{ledger}{}", records.replace("/anything/", "/everything/")))?;
    let (done, log) = checked("altered")?;
    ensure!(!done && log.contains("TAMPERED"), "each record was altered:\n{log}");

    backend.give("empty", "")?;
    let (done, log) = checked("empty")?;
    ensure!(!done, "there is nothing to check:\n{log}");
    Ok(())
}

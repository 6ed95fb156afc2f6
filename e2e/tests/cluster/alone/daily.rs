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
use testimony_e2e::steps::output_with_input;

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

    // A backend that returns what it was given.
    let backend = Space::new("dailybackend")?;
    backend.server(
        "www",
        8000,
        "image: \"{{image:toolbox}}\", command: [/bin/sh, -c], args: ['mkdir -p /tmp/www; exec httpd -f -p 8000 -h /tmp/www'], \
         ports: [{containerPort: 8000}], readinessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1}",
    )?;
    let give = |export: &str| -> Result<()> {
        // The command after `cat` keeps the standard output open: without it the rest of the input may be lost.
        let script = "cat > /tmp/www/export.jsonl; wc -c < /tmp/www/export.jsonl";
        let arguments = ["exec", "-i", "-n", &backend.name, "deploy/www", "--", "sh", "-c", script];
        let arrived = output_with_input(cluster().kubectl.command().args(arguments), export.as_bytes())?;
        ensure!(arrived.trim() == export.len().to_string(), "{} of {} bytes arrived", arrived.trim(), export.len());
        Ok(())
    };
    // First the ledger: what it knows must be among the records.
    let (code, ledger) = run(&["ledger", "export"])?;
    ensure!(code == 0, "testimony ledger export ends with {code}");
    let records = export_of(cluster(), &space.name)?;
    ensure!(records.contains("/anything/"), "no record of the request");
    give(&format!("{ledger}{records}"))?;

    let _restored = Restored;
    let source = format!("verify.source=http://www.{}.svc:8000/export.jsonl", backend.name);
    let namespace = format!("verify.namespace={}", space.name);
    // The cluster holds the last blocks of the ledger only: they may begin within the hours that are looked at.
    let accept = "verify.accept={PENDING,PARTIAL,UNANCHORED}";
    install_chart(cluster(), BACKEND_ENDPOINT, &["verify.enabled=true", &source, &namespace, accept])?;
    let (done, log) = checked("in-order")?;
    ensure!(done && log.contains("Trust: operator"), "the records are in order:\n{log}");

    give(&format!("{ledger}{}", records.replace("/anything/", "/everything/")))?;
    let (done, log) = checked("altered")?;
    ensure!(!done && log.contains("TAMPERED"), "each record was altered:\n{log}");

    give("")?;
    let (done, log) = checked("empty")?;
    ensure!(!done, "there is nothing to check:\n{log}");
    Ok(())
}

//! `cargo xtask demo`: from nothing to one user's purchase, read back from the backend.

pub mod evidence;
pub mod report;
pub mod traffic;

use crate::cluster::{Cluster, Kind};
use crate::install::{
    BACKEND_ENDPOINT, BACKEND_NAMESPACE, OPERATOR_NAMESPACE, PLATFORM_STEPS, missing_programs, platform, prepare,
    records_of,
};
use crate::paths::Paths;
use crate::records::{AuditRecord, GAP};
use crate::steps::Steps;
use anyhow::{Context, Result};
use std::time::{SystemTime, UNIX_EPOCH};

const SHOP: &str = "shop";
const POSTGRES_PORT: &str = "5432";
const DEMO_STEPS: usize = 6;
/// Exchanges of one purchase: frontend in and out, orders in, out to stock (gRPC) and to payments, and in at both.
const PURCHASE_EXCHANGES: usize = 7;
const RECORDS_SECONDS_MAX: u64 = 60;
const PROGRAMMED_SECONDS_MAX: u64 = 60;
const NAMESPACE_GONE_SECONDS_MAX: u64 = 120;

/// What the user chose.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to install.
    pub kind: Kind,
    /// The user's own OTLP endpoint, as a second sink.
    pub otlp_endpoint: Option<String>,
}

/// Runs the demo and prints its evidence.
pub fn run(paths: &Paths, options: Options) -> Result<()> {
    let mut cluster = Cluster::new(paths, options.kind);
    let missing = missing_programs(&cluster, false);
    let mut steps = Steps::new(1 + missing.len() + PLATFORM_STEPS + DEMO_STEPS, paths.logs())?;
    prepare(&mut steps, &cluster, &missing)?;
    let sink = options.otlp_endpoint.as_deref().unwrap_or(BACKEND_ENDPOINT);
    platform(&mut steps, &mut cluster, false, sink)?;
    steps.run("applying the AuditPolicy", "policy", |log| {
        log.line(&clear_shop(&cluster)?);
        cluster.kubectl.namespace(SHOP)?;
        let sinks = if options.otlp_endpoint.is_some() {
            log.line(&cluster.kubectl.apply(&format!(
                "{{apiVersion: audit.testimony.dev/v1alpha1, kind: AuditSink, metadata: {{name: collector}}, \
                 spec: {{endpoint: \"{BACKEND_ENDPOINT}\"}}}}"
            ))?);
            "[default, collector]"
        } else {
            "[default]"
        };
        log.line(&cluster.kubectl.apply(&include_str!("../../assets/policy.yaml").replace("{{sinks}}", sinks))?);
        cluster.kubectl.run(&["wait", "-n", SHOP, "auditpolicy/shop", "--for=condition=Accepted", "--timeout=60s"])?;
        Ok(())
    })?;
    steps.run("deploying the shop", "shop", |log| {
        log.line(&cluster.kubectl.apply(&cluster.fill(include_str!("../../assets/shop.yaml"))?)?);
        for name in ["postgres", "payments", "stock", "orders", "frontend"] {
            cluster.kubectl.rollout(SHOP, &format!("deployment/{name}"))?;
        }
        cluster.kubectl.rollout("customers", "deployment/customer")?;
        cluster.kubectl.wait("a programmed sidecar in each of the shop's five pods", PROGRAMMED_SECONDS_MAX, || {
            let policy = cluster.kubectl.get(SHOP, &["auditpolicy", "shop"])?;
            Ok(policy.pointer("/status/pods/programmed").and_then(serde_json::Value::as_u64) == Some(5))
        })?;
        // A node's rules for a Service follow its pods' readiness with some delay.
        cluster.kubectl.wait("the shop's Services to lead to its pods", PROGRAMMED_SECONDS_MAX, || {
            Ok(traffic::is_open(&cluster.kubectl))
        })
    })?;
    let seen = steps.run("two users shop", "traffic", |log| {
        let now_seconds = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
        let seen = traffic::drive(&cluster.kubectl, now_seconds)?;
        seen.iter().for_each(|line| log.line(line));
        Ok(seen)
    })?;
    let (records, trace) = steps.run("reading the records back from the backend", "read-back", |log| {
        read_back(&cluster).inspect(|(records, _)| log.set_note(format!("{} records", records.len())))
    })?;
    let testimony = steps.run("building the command line", "cli", crate::stages::command_line)?;
    let verdicts = steps.run("verifying the export under signed heads", "verify", |_| {
        evidence::verified(&cluster, testimony.as_ref(), &report::exchanges(&records, &trace))
    })?;
    print_evidence(&cluster, &seen, &records, &trace)?;
    println!("\nWhat `testimony verify` says\n{}", indent(&verdicts));
    println!("\nTo look further\n{}", indent(&further(&cluster)));
    println!("\nThe demo took {:.0} s.", steps.elapsed().as_secs_f64());
    Ok(())
}

/// The shop of an earlier run goes first: its pods carry the sidecar of that run.
fn clear_shop(cluster: &Cluster) -> Result<String> {
    let timeout = format!("--timeout={NAMESPACE_GONE_SECONDS_MAX}s");
    cluster.kubectl.run(&["delete", "namespace", SHOP, "customers", "--ignore-not-found", "--wait", &timeout])
}

/// Waits until alice's purchase is whole and the database connections have ended.
fn read_back(cluster: &Cluster) -> Result<(Vec<AuditRecord>, String)> {
    let mut found = None;
    let mut last = String::new();
    let waited = cluster.kubectl.wait("all records of alice's purchase", RECORDS_SECONDS_MAX, || {
        let records = records_of(cluster, SHOP)?;
        let trace = report::trace_of(&records, "alice", "frontend", "/buy").unwrap_or_default();
        let exchanges = report::exchanges(&records, &trace);
        last = format!("{} records, of which in alice's trace:\n{}", records.len(), report::table(&exchanges));
        let whole = exchanges.len() >= PURCHASE_EXCHANGES && !report::opaque(&records, POSTGRES_PORT).is_empty();
        if whole {
            found = Some((records, trace));
        }
        Ok(whole)
    });
    waited.with_context(|| format!("the backend has {last}"))?;
    found.context("no records")
}

fn print_evidence(cluster: &Cluster, seen: &[String], records: &[AuditRecord], trace: &str) -> Result<()> {
    let exchanges = report::exchanges(records, trace);
    println!("\nWhat the two users saw\n{}", indent(&seen.join("\n")));
    println!("\nAlice's purchase: trace {trace}, as the backend has it\n{}", indent(&report::table(&exchanges)));
    println!("\nThe same as a tree (<- into a pod, -> out of it)\n{}", indent(&report::tree(&exchanges)));
    let opaque = report::opaque(records, POSTGRES_PORT);
    println!(
        "\nPostgreSQL, which is no HTTP: connections, with the bytes both ways\n{}",
        indent(&report::opaque_table(&opaque))
    );
    let gaps = records.iter().filter(|record| record.event == GAP).count();
    println!("\n{} records of the shop in the backend, {gaps} declared gaps", records.len());
    println!("\nThe policy's status\n{}", indent(&cluster.kubectl.run(&["get", "audpol", "-n", SHOP, "-o", "wide"])?));
    Ok(())
}

fn further(cluster: &Cluster) -> String {
    let lines = [
        format!(
            "export KUBECONFIG={} PATH={}:$PATH",
            cluster.kubectl.kubeconfig().display(),
            cluster.paths.bin().display()
        ),
        "kubectl get audpol,audsink -A".to_string(),
        "kubectl describe audpol -n shop shop".to_string(),
        format!("kubectl exec -n {BACKEND_NAMESPACE} deploy/collector -- tail -n 1 /data/logs.jsonl"),
        format!("cargo run -q -p testimony-cli -- verify {}", cluster.paths.logs().join("export.jsonl").display()),
        "kubectl exec -n customers deploy/customer -- curl -s -X POST http://frontend.shop:8080/buy?item=ink"
            .to_string(),
        "kubectl port-forward -n shop deploy/orders 24803 & curl -s localhost:24803/metrics localhost:24803/config"
            .to_string(),
        format!("kubectl logs -n {OPERATOR_NAMESPACE} -l app.kubernetes.io/name=testimony --tail=20 --prefix"),
        "cargo xtask down    # stops the local cluster and removes all that it made".to_string(),
    ];
    lines.join("\n")
}

fn indent(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

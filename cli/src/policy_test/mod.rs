//! `policy test`: what policies make of one request, by the operator's compiler and the sidecar's machines.

mod message;
mod run;

pub use message::{Message, MessageError};
pub use run::{Exchange, Judged, Outcome, ShownRecord, exchange};

use crate::args::{Format, PolicyTestArgs};
use crate::manifest;
use crate::output::{Table, print, print_json, printable, tell, though_nobody_reads};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fmt::Write;
use testimony_core::policy::{self, DeliveryMode, FailureMode, Level};
use testimony_operator::index::{Index, PolicyEntry};

/// The result, as `-o json` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Revision of the compiled document.
    pub revision: String,
    /// `namespace/name` of the policies that select the pod.
    pub selecting: Vec<String>,
    /// Of these, the suspended ones.
    pub suspended: Vec<String>,
    /// Sinks that get the records, as far as the files have them.
    pub sinks: Vec<String>,
    /// What became of the request.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// A file that cannot be read, a policy that is not accepted, or a request that is none.
pub fn run(args: &PolicyTestArgs, namespace: Option<&str>) -> Result<u8> {
    let expected = args.expect.as_deref().map(level).transpose()?;
    let manifests = manifest::read_all(&args.files)?;
    let index = manifest::index(&manifests, namespace.unwrap_or("default"))?;
    let report = report(args, namespace, &index)?;
    though_nobody_reads(match args.output {
        Format::Json => print_json(&report),
        Format::Text => print(&text(&report)?),
    })?;
    match expected {
        Some(expected) if report.outcome.level != Some(expected) => {
            let got = report.outcome.level.map_or("not looked at".to_owned(), |level| format!("{level:?}"));
            tell(format_args!("the level is {got}, not {expected:?}"));
            Ok(1)
        }
        _ => Ok(0),
    }
}

fn level(word: &str) -> Result<Level> {
    serde_json::from_value(serde_json::Value::String(word.to_owned())).with_context(|| format!("--expect {word:?}"))
}

fn report(args: &PolicyTestArgs, namespace: Option<&str>, index: &Index) -> Result<Report> {
    let mut notes = Vec::new();
    if index.policies.is_empty() {
        bail!("the files hold no AuditPolicy and no ClusterAuditPolicy");
    }
    let first = index.policies.values().find(|policy| !policy.is_cluster()).map(|policy| policy.namespace.clone());
    let first = first.unwrap_or_else(|| "default".to_owned());
    let namespace = namespace.map_or(first, str::to_owned);
    let selecting: Vec<&PolicyEntry> = match &args.pod_labels {
        Some(labels) => index.selecting(&namespace, labels).collect(),
        None => index.policies_of(&namespace).chain(index.cluster_policies()).collect(),
    };
    if selecting.is_empty() {
        notes.push(format!("no policy selects a pod of namespace {namespace} with these labels: nothing is recorded"));
    }
    let other = index.policies.values().filter(|policy| !policy.is_cluster() && policy.namespace != namespace).count();
    if other > 0 {
        notes.push(format!("policies of other namespaces are left out ({other}); -n chooses the namespace"));
    }
    if args.pod_labels.is_none() {
        notes.push("every policy is taken to select the pod; --pod-labels tries the selectors".to_owned());
    }
    let compiled = index.join(&selecting);
    for name in &compiled.too_large {
        notes.push(format!("{name} makes the document larger than a sidecar takes, and is left out"));
    }
    for policy in &selecting {
        let (_, missing) = index.sinks_of(policy);
        notes.extend(missing.iter().map(|sink| format!("AuditSink {sink} of {} is not in the files", policy.key())));
    }
    let suspended = |policy: &&&PolicyEntry| policy.good.as_ref().is_some_and(|good| good.suspend);
    let request = Message::request(&manifest::read(&args.request)?);
    let request = request.with_context(|| args.request.display().to_string())?;
    notes.extend(request.notes.clone());
    let response = match &args.response {
        Some(path) => Message::response(&manifest::read(path)?).with_context(|| path.display().to_string())?,
        None => Message::empty_response(args.status),
    };
    notes.extend(response.notes.clone());
    let exchange_facts = Exchange { direction: policy::Direction::from(args.direction), port: args.port };
    Ok(Report {
        revision: compiled.document.revision.clone(),
        selecting: selecting.iter().map(|policy| policy.key()).collect(),
        suspended: selecting.iter().filter(suspended).map(|policy| policy.key()).collect(),
        sinks: compiled.document.sinks.iter().map(|sink| sink.name.clone()).collect(),
        outcome: exchange(compiled.document.clone(), exchange_facts, &request, &response)?,
        notes,
    })
}

fn text(report: &Report) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let outcome = &report.outcome;
    writeln!(out, "request    {}", printable(&outcome.request))?;
    match (outcome.level, outcome.judged.iter().find(|judged| Some(&judged.policy) == outcome.policy.as_ref())) {
        (Some(level), Some(judged)) => {
            writeln!(out, "level      {level:?}, by policy {}, rule {}", judged.policy, judged.rule)?;
            if outcome.delivery == Some(DeliveryMode::Strict) {
                writeln!(out, "delivery   Strict: the answer waits until its record is durable")?;
            }
            if outcome.failure_mode == Some(FailureMode::Closed) {
                writeln!(out, "failure    Closed: refused while it cannot be recorded")?;
            }
        }
        _ => writeln!(out, "level      none: no policy looks at this request")?,
    }
    let mut table = Table::new(&["  POLICY", "LEVEL", "RULE"]);
    for judged in &outcome.judged {
        table.row([
            format!("  {}", judged.policy),
            judged.level.map_or("-".to_owned(), |l| format!("{l:?}")),
            judged.rule.clone(),
        ]);
    }
    for name in &report.suspended {
        table.row([format!("  {name}"), "-".to_owned(), "suspended".to_owned()]);
    }
    if !table.is_empty() {
        write!(out, "{table}")?;
    }
    if let Some(reason) = &outcome.refused {
        writeln!(out, "refused    {reason}: the client gets 400 and the connection closes")?;
    }
    for line in &outcome.added {
        writeln!(out, "added      {}", printable(line))?;
    }
    writeln!(
        out,
        "sinks      {}",
        if report.sinks.is_empty() { "none in the files".to_owned() } else { report.sinks.join(", ") }
    )?;
    match outcome.records.as_slice() {
        [] => writeln!(out, "record     none")?,
        records => {
            for record in records {
                writeln!(out, "record     {}", record.event)?;
                for (key, value) in &record.fields {
                    writeln!(out, "  {key:<16} {value}")?;
                }
            }
        }
    }
    for note in &report.notes {
        writeln!(out, "note       {note}")?;
    }
    Ok(out)
}

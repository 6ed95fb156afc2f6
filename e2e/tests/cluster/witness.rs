//! The operator's ledger: which pods must have a stream, which are not covered, and how far each stream had come.

use crate::cli::{run, run_json};
use crate::evidence::Evidence;
use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually, single};
use crate::objects::{audited, text};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testimony_e2e::install::OPERATOR_NAMESPACE;

/// How long a pod may take to go in order, in seconds: its stream's end is shown within three.
const GRACE: &str = "--grace-period=30";

/// Bodies of the ledger's entries of one type that speak of a pod, or of a stream of it, by its uid.
pub fn entries(typ: &str, uid: &str) -> Result<Vec<Value>> {
    let (code, lines) = run(&["ledger", "export"])?;
    ensure!(code == 0, "testimony ledger export ends with {code}");
    let mut found = Vec::new();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line)?;
        let records = line.pointer("/resourceLogs/0/scopeLogs/0/logRecords").and_then(Value::as_array);
        for record in records.context("records")? {
            let body: Value = serde_json::from_str(&text(record, "/body/stringValue"))?;
            if text(&body, "/typ") == typ && (text(&body, "/pod") == uid || text(&body, "/stream").contains(uid)) {
                found.push(body);
            }
        }
    }
    Ok(found)
}

/// What `testimony verify` says of a namespace's records by roots and ledger as they are now.
pub fn verified(space: &Space) -> Result<Value> {
    Evidence::of(space)?.verified()
}

/// The streams of a pod in what `verified` said.
pub fn streams_of<'a>(said: &'a Value, uid: &str) -> Vec<&'a Value> {
    let streams = said.get("streams").and_then(Value::as_array).into_iter().flatten();
    streams.filter(|stream| text(stream, "/sid").contains(uid)).collect()
}

/// Whether each stream of a pod is certified, and nothing is found but that its newest records wait for a head.
pub fn is_anchored(said: &Value, uid: &str) -> bool {
    let streams = streams_of(said, uid);
    let in_order = |stream: &&Value| {
        ["OK", "PENDING"].contains(&text(stream, "/verdict").as_str())
            && stream.get("certified").is_some_and(|certified| certified == true)
    };
    !streams.is_empty() && streams.iter().all(in_order)
}

/// Deletes a Deployment's pod and gives it time to end in order; returns once the next one is ready.
pub fn replace(space: &Space, app: &str) -> Result<()> {
    let kubectl = &cluster().kubectl;
    kubectl.run(&["delete", "pods", "-l", &format!("app={app}"), GRACE, "-n", &space.name])?;
    kubectl.rollout(&space.name, &format!("deployment/{app}"))
}

pub fn uid(space: &Space, app: &str) -> Result<String> {
    let pods = cluster().kubectl.get(&space.name, &["pods", "-l", &format!("app={app}")])?;
    let pods = pods.get("items").and_then(Value::as_array).context("a list")?;
    Ok(text(&single(pods.clone())?, "/metadata/uid"))
}

#[test]
fn w4_the_ledger_says_what_must_exist_and_what_is_not_covered() -> Result<()> {
    let space = Space::new("ledger")?;
    space.httpbin("early")?;
    space.policy("audit", "{podSelector: {}}")?;
    space.httpbin("server")?;
    let (early, server) = (uid(&space, "early")?, uid(&space, "server")?);
    eventually("the ledger to expect the server's streams", OPERATOR_SECONDS_MAX, || {
        Ok(entries("ledger-expected", &server)?.len() == 1)
    })?;
    eventually("the ledger to say that the early pod is not covered", OPERATOR_SECONDS_MAX, || {
        let told = entries("ledger-uncovered", &early)?;
        Ok(told.len() == 1 && text(&told[0], "/reason") == "NeedsRestart" && told[0].get("to").is_none())
    })?;
    cluster().kubectl.run(&["delete", "deployment", "early", "server", "-n", &space.name])?;
    eventually("the ledger to say that both are gone", 2 * OPERATOR_SECONDS_MAX, || {
        let ended = entries("ledger-uncovered", &early)?.iter().any(|entry| entry.get("to").is_some());
        Ok(ended && entries("ledger-gone", &server)?.len() == 1)
    })
}

#[test]
fn w1_the_ledger_is_whole_under_its_roots_and_no_block_can_be_changed() -> Result<()> {
    let (code, roots) = run(&["roots"])?;
    ensure!(code == 0 && roots.contains("\nledger ") && roots.contains("\nwitness "), "{roots}");
    ensure!(roots.contains("-----BEGIN CERTIFICATE-----") && roots.contains("# authority CN=testimony-ca-"), "{roots}");
    let (code, said) = run_json(&["ledger", "show"])?;
    ensure!(code == 0 && said.get("entries").and_then(Value::as_u64).is_some_and(|entries| entries > 0), "{said}");
    ensure!(said.get("alarms").and_then(Value::as_array).is_some_and(Vec::is_empty), "{said}");
    let kubectl = &cluster().kubectl;
    let blocks = kubectl.run(&[
        "get",
        "configmaps",
        "-l",
        "testimony.dev/ledger=true",
        "-n",
        OPERATOR_NAMESPACE,
        "-o",
        "name",
    ])?;
    let block = blocks.lines().next().context("a block")?;
    let patch = r#"{"data":{"note":"x"}}"#;
    let refused = kubectl.run(&["patch", block, "-n", OPERATOR_NAMESPACE, "--type", "merge", "-p", patch]);
    ensure!(refused.is_err_and(|error| format!("{error:#}").contains("immutable")), "a block was changed");
    Ok(())
}

#[test]
fn w2_what_was_recorded_is_anchored_and_a_pods_end_is_in_the_ledger() -> Result<()> {
    let space = audited("anchored", "rules: []")?;
    let server = uid(&space, "server")?;
    space.recorded_request()?;
    let mut said = Value::Null;
    let waited = eventually("the server's streams to be anchored", 2 * OPERATOR_SECONDS_MAX, || {
        said = verified(&space)?;
        Ok(is_anchored(&said, &server))
    });
    waited.with_context(|| format!("{said:#}"))?;
    let certified = entries("ledger-certified", &server)?;
    ensure!(certified.len() >= streams_of(&said, &server).len(), "{certified:#?}");

    replace(&space, "server")?;
    eventually("the ledger to say that each stream of the pod ended in order", 2 * OPERATOR_SECONDS_MAX, || {
        ensure!(entries("ledger-lost", &server)?.is_empty(), "a stream's end was not shown");
        Ok(entries("ledger-closed", &server)?.len() == certified.len())
    })?;
    let waited = eventually("the whole of each stream to be proved", 2 * OPERATOR_SECONDS_MAX, || {
        said = verified(&space)?;
        let streams = streams_of(&said, &server);
        let closed = |stream: &&Value| text(stream, "/verdict") == "OK" && stream["closed"] == true;
        Ok(streams.len() == certified.len() && streams.iter().all(closed))
    });
    waited.with_context(|| format!("{said:#}"))
}

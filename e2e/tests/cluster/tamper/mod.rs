//! A real export, with its ledger and roots, tampered with in every way that there is.

mod export;
mod forger;
mod prune;
mod ways;

use crate::evidence::{Evidence, findings};
use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually, marker};
use crate::objects::{in_force, text};
use crate::pods::AUDITED_PODS;
use anyhow::{Context, Result, ensure};
use export::{Export, Place};
use serde_json::Value;
use std::collections::BTreeMap;
use testimony_e2e::records::GAP;
use ways::{Victim, Way};

/// Requests to a pod before its streams have a checkpoint, and after it.
const REQUESTS: usize = 40;

/// How long a stream may be without a checkpoint, in seconds: it gets one every 30 s.
const CHECKPOINT_SECONDS_MAX: u64 = 90;

/// Pods that are audited. The last one's worker dies once, so that a gap is declared.
const PODS: [&str; 3] = ["one", "two", "dies"];

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{audited: \"yes\"}}}}\nspec:\n  containers:\n  \
         - {{name: server, image: \"{{{{image:go-httpbin}}}}\", args: [-host, \"0.0.0.0\", -port, \"8080\"], \
            readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}}}\n---\n"
    )
}

/// Requests to each pod, each on a connection of its own, so that every data thread gets some.
fn requests(space: &Space, addresses: &[String]) -> Result<()> {
    for address in addresses {
        let url = format!("http://{address}:8080/anything/{}", marker());
        let each = format!("for i in $(seq {REQUESTS}); do curl -sS --fail -o /dev/null {url}/$i || exit 1; done");
        space.sh("client", &each)?;
    }
    Ok(())
}

/// Kills the worker of a pod's sidecar under requests, and waits until what was lost is declared.
fn dies(space: &Space, name: &str, address: &str) -> Result<()> {
    space.debug_sidecar(name)?;
    // Begun one after the other, so that some are in flight whenever it dies.
    let get = format!("curl -s -o /dev/null --max-time 30 http://{address}:8080/delay/1");
    let load = format!("for client in 1 2 3 4 5 6; do while :; do {get}; echo; done & sleep 0.2; done; wait");
    let mut load = space.start("client", "toolbox", &load)?;
    load.take_lines()?.next().context("the requests have ended")??;
    // The bracket keeps the pattern from matching the shell that looks for it.
    space.debugger(name, "kill -9 $(ps | awk '/[t]estimony-sidecar worker/ {print $1}')")?;
    space
        .records_when("the gap", |records| records.iter().any(|record| record.event == GAP && record.pod() == name))
        .map(drop)
}

/// The stream of a pod with most exchanges.
fn busiest(export: &Export, uid: &str) -> Result<String> {
    let mut exchanges: BTreeMap<String, usize> = BTreeMap::new();
    for entry in &export.0 {
        let sid = entry.field("sid");
        if entry.field("typ") == "exchange" && sid.contains(uid) {
            *exchanges.entry(sid.to_owned()).or_default() += 1;
        }
    }
    exchanges.into_iter().max_by_key(|(_, count)| *count).map(|(sid, _)| sid).context("a stream with exchanges")
}

fn has(export: &Export, sid: &str, typ: &str) -> bool {
    export.0.iter().any(|entry| entry.field("sid") == sid && entry.field("typ") == typ)
}

/// Three pods that were recorded and are gone; returns their uids.
fn recorded(space: &Space) -> Result<Vec<String>> {
    space.policy("audit", AUDITED_PODS)?;
    space.toolbox("client", "{app: client}")?;
    space.apply(&PODS.map(pod).concat())?;
    space.ready(&PODS)?;
    in_force(space, "audit", 3)?;
    let objects = PODS.iter().map(|name| space.pod(name)).collect::<Result<Vec<_>>>()?;
    let of_each = |pointer: &str| objects.iter().map(|pod| text(pod, pointer)).collect::<Vec<_>>();
    let (uids, addresses) = (of_each("/metadata/uid"), of_each("/status/podIP"));
    requests(space, &addresses)?;
    dies(space, PODS[2], &addresses[2])?;
    eventually("a checkpoint in the midst of the streams", CHECKPOINT_SECONDS_MAX, || {
        let export = Export::parse(&Evidence::of(space)?.export)?;
        let checkpoint = |uid: &String| Ok(has(&export, &busiest(&export, uid)?, "checkpoint"));
        uids[..2].iter().map(checkpoint).try_fold(true, |all, one: Result<bool>| Ok(all && one?))
    })?;
    requests(space, &addresses)?;
    cluster().kubectl.run(&[&["delete", "pod", "-n", &space.name, "--grace-period=30"], &PODS[..]].concat())?;
    Ok(uids)
}

/// The evidence, once all of it is there: nothing that the ledger knows is on its way any more.
fn settled(space: &Space, uids: &[String]) -> Result<Evidence> {
    let mut evidence = Evidence::of(space)?;
    let mut said = Value::Null;
    let waited = eventually("all streams to be proved up to their ends", 2 * OPERATOR_SECONDS_MAX, || {
        evidence = Evidence::of(space)?;
        said = evidence.verified()?;
        let streams = said.get("streams").and_then(Value::as_array).cloned().unwrap_or_default();
        let of = |uid: &String| streams.iter().filter(|stream| text(stream, "/sid").contains(uid.as_str())).collect();
        let of_each: Vec<Vec<&Value>> = uids[..2].iter().map(of).collect();
        Ok(of_each.iter().all(|of| !of.is_empty() && of.iter().all(|stream| stream["closed"] == true)))
    });
    waited.with_context(|| format!("{said:#}"))?;
    evidence.max_lag = "0s";
    Ok(evidence)
}

/// An honest export has no finding but the gap of the worker that died; that of a pod alone has none.
fn honest(evidence: &Evidence, uids: &[String]) -> Result<()> {
    let said = evidence.verified()?;
    let declared = |finding: &Value| {
        ["GAP", "UNCLOSED"].contains(&text(finding, "/verdict").as_str())
            && text(finding, "/stream").contains(uids[2].as_str())
    };
    let found = findings(&said);
    ensure!(found.iter().all(declared) && text(&said, "/trust") == "operator", "{said:#}");
    ensure!(found.iter().any(|finding| text(finding, "/verdict") == "GAP"), "the gap is declared: {said:#}");
    let export = Export::parse(&evidence.export)?;
    let mut twice = export.clone();
    twice.0.reverse();
    let twice = Evidence { export: twice.with(export.0.clone()).text(), ..evidence.clone() }.verified()?;
    ensure!(findings(&twice) == found, "in another order, and twice: {twice:#}");
    for uid in &uids[..2] {
        let sid = busiest(&export, uid)?;
        let pod = sid.rsplit_once('/').map_or("", |(pod, _)| pod);
        let said = Evidence { scope: format!("{},stream={pod}", evidence.scope), ..evidence.clone() }.verified()?;
        ensure!(text(&said, "/verdict") == "OK" && findings(&said).is_empty() && said["exit_code"] == 0, "{said:#}");
    }
    Ok(())
}

/// Whether a finding is about this place.
fn is_at(finding: &Value, at: &Place) -> bool {
    let number = |name: &str| finding.pointer(&format!("/records/{name}")).and_then(Value::as_u64);
    let there = number("start").zip(number("end")).is_none_or(|(start, end)| (start..end).contains(&at.seq));
    text(finding, "/stream") == at.sid && there
}

/// Tampers in one way; an error unless it is found as it must be, and nobody else is blamed.
fn found(way: &Way, bystander: &str) -> Result<()> {
    let said = way.evidence.verified()?;
    let found = findings(&said);
    let code = if way.verdict == "UNANCHORED" { 3 } else { 1 };
    ensure!(text(&said, "/verdict") == way.verdict && said["exit_code"] == code, "{} is wanted: {said:#}", way.verdict);
    let is = |verdict: &str, at: Option<&Place>| {
        found.iter().any(|one| text(one, "/verdict") == verdict && at.is_none_or(|at| is_at(one, at)))
    };
    ensure!(is(way.verdict, way.at.as_ref()), "{} at {:?} is wanted: {said:#}", way.verdict, way.at);
    ensure!(way.also.is_none_or(|also| is(also, None)), "{:?} is wanted: {said:#}", way.also);
    ensure!(found.iter().all(|one| text(one, "/stream") != bystander), "{bystander} is as it was: {said:#}");
    Ok(())
}

#[test]
fn ch_2_v4_a_real_export_is_in_order_and_every_way_to_tamper_with_it_is_found() -> Result<()> {
    let space = Space::new("tamper")?;
    let uids = recorded(&space)?;
    let evidence = settled(&space, &uids)?;
    honest(&evidence, &uids)?;

    let (export, ledger) = (Export::parse(&evidence.export)?, Export::parse(&evidence.ledger)?);
    let gap = export.0.iter().find(|entry| entry.field("typ") == "gap" && entry.field("sid").contains(&uids[2]));
    let gap = gap.and_then(export::Entry::place).context("the gap")?;
    let (sid, other) = (busiest(&export, &uids[0])?, busiest(&export, &uids[1])?);
    let victim = Victim { evidence, export, ledger, sid, other, gap };
    let ways = victim.ways()?;
    let failed = |ways: &[Way]| -> Vec<String> {
        ways.iter().filter_map(|way| Some(format!("{}: {:#}", way.name, found(way, &victim.other).err()?))).collect()
    };
    // Two at a time: the whole cluster's ledger is read each time.
    let (first, second) = ways.split_at(ways.len() / 2);
    let failed = std::thread::scope(|scope| {
        let first = scope.spawn(|| failed(first));
        let second = failed(second);
        first.join().map(|first| [first, second].concat())
    });
    let failed = failed.map_err(|_| anyhow::anyhow!("a verification panicked"))?;
    ensure!(failed.is_empty(), "{} of {} ways:\n{}", failed.len(), ways.len(), failed.join("\n"));
    println!(
        "figure: {} ways to tamper with {} records of a real export, all found",
        ways.len(),
        victim.export.0.len()
    );
    Ok(())
}

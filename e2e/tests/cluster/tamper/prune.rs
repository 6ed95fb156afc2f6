//! Records that go by order: told before, by somebody who may; the rest stays proved, and what goes besides is missed.

use super::export::Export;
use super::{pod, requests, settled};
use crate::cli::run;
use crate::evidence::{Evidence, Folder, findings};
use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually};
use crate::objects::{in_force, text};
use crate::pods::AUDITED_PODS;
use anyhow::{Context, Result, ensure};
use testimony_core::contract::TOKEN_AUDIENCE;
use testimony_e2e::install::OPERATOR_NAMESPACE;

/// Who orders it, a ServiceAccount of the test's namespace.
const WHO: &str = "eraser";

/// A second of the cluster's clock: since the epoch, and as a time.
fn now(space: &Space) -> Result<(u64, String)> {
    let said = space.sh("client", "date -u '+%s %Y-%m-%dT%H:%M:%SZ'")?;
    let (seconds, time) = said.trim().split_once(' ').context("a time")?;
    Ok((seconds.parse()?, time.to_owned()))
}

/// One pod with records of before and of after a time, all of them proved and the pod gone; the evidence and the time.
fn recorded(space: &Space) -> Result<(Evidence, (u64, String))> {
    space.policy("audit", AUDITED_PODS)?;
    space.toolbox("client", "{app: client}")?;
    space.apply(&pod("one"))?;
    space.ready(&["one"])?;
    in_force(space, "audit", 1)?;
    let object = space.pod("one")?;
    let (uid, address) = (text(&object, "/metadata/uid"), text(&object, "/status/podIP"));
    requests(space, std::slice::from_ref(&address))?;
    let (begun, mut before) = (now(space)?, now(space)?);
    eventually("the next second", OPERATOR_SECONDS_MAX, || {
        before = now(space)?;
        Ok(before.0 > begun.0)
    })?;
    requests(space, std::slice::from_ref(&address))?;
    cluster().kubectl.run(&["delete", "pod", "one", "-n", &space.name, "--grace-period=30"])?;
    Ok((settled(space, &[uid.clone(), uid])?, before))
}

#[test]
fn g2_what_goes_by_order_is_told_by_whom_and_why_and_the_rest_stays_proved() -> Result<()> {
    let space = Space::new("prune")?;
    let (evidence, (seconds, before)) = recorded(&space)?;
    ensure!(text(&evidence.verified()?, "/verdict") == "OK", "{:#}", evidence.verified()?);

    let kubectl = &cluster().kubectl;
    kubectl.run(&["create", "serviceaccount", WHO, "-n", &space.name])?;
    let token = kubectl.run(&["create", "token", WHO, "-n", &space.name, "--audience", TOKEN_AUDIENCE])?;
    let folder = Folder::new()?;
    let (file, token) = (folder.file("export.jsonl", &evidence.export)?, folder.file("token", &token)?);
    let reason = "asked for, ticket 4711";
    let prune = ["ledger", "prune", &file, "--records-of", &space.name, "--before", &before, "--reason", reason];
    let order = [&prune[..], &["--erase", "--token-file", &token]].concat();
    let (code, _) = run(&order)?;
    ensure!(code != 0, "who may not order it is refused");
    let role = ["--clusterrole", "testimony-ledger-prune", "--serviceaccount", &format!("{}:{WHO}", space.name)];
    kubectl.run(&[&["create", "rolebinding", &space.name, "-n", OPERATOR_NAMESPACE], &role[..]].concat())?;
    // The API server's authorizer learns of it a moment later.
    let ordered = eventually("the order to be taken", OPERATOR_SECONDS_MAX, || Ok(run(&order)?.0 == 0));
    kubectl.run(&["delete", "rolebinding", &space.name, "-n", OPERATOR_NAMESPACE])?;
    ordered?;

    let export = Export::parse(&evidence.export)?;
    let begun_ns = |entry: &super::export::Entry| text(&entry.log, "/timeUnixNano").parse::<u64>().unwrap_or_default();
    let rest = export.without(|entry| entry.place().is_some() && begun_ns(entry) < seconds * 1_000_000_000);
    ensure!(rest.0.len() < export.0.len() && rest.0.iter().any(|entry| entry.field("typ") == "exchange"));
    let told = Evidence { export: rest.text(), ..Evidence::of(&space)? };
    let said = told.verified()?;
    ensure!(text(&said, "/verdict") == "ERASED" && said["exit_code"] == 0, "{said:#}");
    let by = format!("system:serviceaccount:{}:{WHO}", space.name);
    let names = |finding: &serde_json::Value| {
        let message = text(finding, "/message");
        message.contains(&by) && message.contains(reason)
    };
    ensure!(findings(&said).iter().all(names), "{said:#}");

    // Without the order it is what an attacker did, and one record more is missed.
    let before_it = Evidence { ledger: evidence.ledger.clone(), ..told.clone() }.verified()?;
    ensure!(text(&before_it, "/verdict") == "MISSING", "{before_it:#}");
    let one = rest.0.iter().find(|entry| entry.field("typ") == "exchange").and_then(|entry| entry.place());
    let more = rest.without(|entry| entry.place() == one);
    let more = Evidence { export: more.text(), ..told }.verified()?;
    ensure!(text(&more, "/verdict") == "MISSING" && more["exit_code"] == 1, "{more:#}");
    let (_, shown) = run(&["ledger", "show"])?;
    ensure!(shown.contains(&by) && shown.contains(reason), "{shown}");
    Ok(())
}

//! `ledger prune`: writes into the ledger which records are removed from the backends by order, before they are.
//!
//! Only hashes leave this machine. They come from an export that still holds the records: core finds what is meant, and says
//! what is wrong with it.

mod door;

use crate::args::{ClusterArgs, LedgerPruneArgs};
use crate::cluster::Cluster;
use crate::output::{Table, plural, print, printable};
use crate::verify::{Seen, bodies, one_standard_input};
use anyhow::{Context, Result, bail};
use door::Door;
use k8s_openapi::jiff::Timestamp;
use std::fmt::Write as _;
use testimony_core::evidence::ledger::plan::{Found, Part, Plan, Selection};
use testimony_core::evidence::ledger::prune::{ORDERS_MAX, PruneRequest, Removal};
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::verify::Verdict;

/// Ranges that are printed.
const PARTS_SHOWN: usize = 50;

/// Exit code where of some streams nothing could be ordered.
const SOME_REFUSED: u8 = 1;

/// Runs the command.
///
/// # Errors
/// The export cannot be read, nothing of it can be ordered, or the operator does not take the order.
pub async fn run(args: &LedgerPruneArgs, cluster: &ClusterArgs) -> Result<u8> {
    one_standard_input(args.files.iter().chain(&args.token_file))?;
    let found = plan(args, Timestamp::now())?.finish();
    let parts = &found.parts;
    if let Err(error) = print(&text(&found, args)) {
        bail!("{error:#}: what would be ordered cannot be shown, so nothing is ordered");
    }
    if parts.is_empty() {
        bail!(match (found.refused.is_empty(), found.unproved.is_empty()) {
            (false, _) => "no record that is meant can be ordered: nothing is ordered",
            (true, true) => {
                "no record of the export is meant: nothing is ordered; look at --stream, --records-of and --before, and whether the export \
                 holds these records"
            }
            (true, false) => "no record that is meant is proved by a head: nothing is ordered",
        });
    }
    let code = if found.refused.is_empty() { 0 } else { SOME_REFUSED };
    if args.dry_run {
        print("\nDry run: nothing was written.\n")?;
        return Ok(code);
    }
    let by = give(args, cluster, &requests(parts, args)).await?;
    print(&format!(
        "\nThe ledger says that {} ordered it. Now remove these records, and no others, from the backend; `testimony verify` \
         tells them as {}.\n",
        printable(&by),
        verdict(args)
    ))?;
    Ok(code)
}

/// Gives the orders, one after the other; who the ledger says that gave them.
async fn give(args: &LedgerPruneArgs, cluster: &ClusterArgs, requests: &[PruneRequest]) -> Result<String> {
    let token = token(args, cluster).await?;
    let cluster = Cluster::connect(cluster).await?;
    let namespace = args.operator_namespace.as_str();
    let authorities = crate::roots::in_force(&cluster, namespace).await?;
    let door = Door { cluster: &cluster, namespace, authorities: &authorities };
    let mut by = String::new();
    for (number, request) in requests.iter().enumerate() {
        let mut open = false;
        let told = door.order(&token, request, &mut open).await;
        by = told.with_context(|| what_stands(number * ORDERS_MAX, open))?.by;
    }
    Ok(by)
}

/// What stands in the ledger after so many ranges, where the next ones failed and, if they are open, may stand there or not.
fn what_stands(ranges: usize, open: bool) -> String {
    let known = match (ranges, open) {
        (0, false) => return "nothing stands in the ledger".to_owned(),
        (_, false) => return format!("{ranges} ranges stand in the ledger; to order all again does no harm"),
        (0, true) => "it is not known whether anything stands in the ledger".to_owned(),
        (_, true) => format!("{ranges} ranges stand in the ledger; it is not known whether more do"),
    };
    format!("{known}: look with `testimony ledger show`, or order all again, which does no harm")
}

fn plan(args: &LedgerPruneArgs, now: Timestamp) -> Result<Plan> {
    let selection = Selection {
        stream: args.stream.clone(),
        namespace: args.records_of.clone(),
        before_ns: args.before.map(|before| before.nanos(now)),
        unproved: args.unproved,
    };
    let mut plan = Plan::new(selection);
    let (mut seen, mut failed) = (Seen::default(), Ok(()));
    bodies(&args.files, args.format, &mut |body| {
        seen.body(body);
        if failed.is_ok() {
            failed = plan.body(body);
        }
    })?;
    failed?;
    seen.or_nothing(&args.files)?;
    Ok(plan)
}

/// As many requests as it takes.
fn requests(parts: &[Part], args: &LedgerPruneArgs) -> Vec<PruneRequest> {
    let request = |parts: &[Part]| PruneRequest {
        reason: args.reason.clone(),
        removal: removal(args),
        orders: parts.iter().map(Part::order).collect(),
    };
    parts.chunks(ORDERS_MAX).map(request).collect()
}

/// What `verify` calls them then.
fn verdict(args: &LedgerPruneArgs) -> Verdict {
    match removal(args) {
        Removal::Prune => Verdict::Pruned,
        Removal::Erase => Verdict::Erased,
    }
}

fn removal(args: &LedgerPruneArgs) -> Removal {
    if args.erase { Removal::Erase } else { Removal::Prune }
}

/// The token that is shown: a file's, or the kubeconfig's.
async fn token(args: &LedgerPruneArgs, cluster: &ClusterArgs) -> Result<String> {
    if let Some(file) = &args.token_file {
        let text = match file.as_os_str() == "-" {
            true => std::io::read_to_string(std::io::stdin()),
            false => std::fs::read_to_string(file),
        };
        let text = text.map_err(|error| anyhow::anyhow!("--token-file {}: {error}", file.display()))?;
        return Ok(text.trim().to_owned());
    }
    match Cluster::bearer(cluster).await? {
        Some(token) => Ok(token),
        None => bail!(
            "the kubeconfig holds no token, so the operator cannot know who orders this: give one with --token-file, such as \
             that of `kubectl create token NAME --audience testimony.dev/operator`"
        ),
    }
}

/// What will be told.
fn text(found: &Found, args: &LedgerPruneArgs) -> String {
    let Found { parts, refused, unproved, absent } = found;
    let mut table = Table::new(&["STREAM", "FROM", "TO", "RECORDS"]);
    for Part { sid, range } in parts.iter().take(PARTS_SHOWN) {
        let (from, to) = (range.begin(), range.end());
        let last = to.saturating_sub(1);
        table.row([sid.to_string(), from.to_string(), last.to_string(), (to - from).to_string()]);
    }
    let mut out = String::new();
    if !parts.is_empty() {
        out = table.to_string();
        if parts.len() > PARTS_SHOWN {
            let _ = writeln!(out, "... and {} more", parts.len() - PARTS_SHOWN);
        }
        let records: u64 = parts.iter().map(|part| part.range.end() - part.range.begin()).sum();
        let records = plural(usize::try_from(records).unwrap_or(usize::MAX), "record");
        let (verdict, reason) = (verdict(args), printable(&args.reason));
        let _ = writeln!(out, "\nThe ledger is told that {records} are removed by order ({verdict}): {reason}");
    }
    places(&mut out, "Not in the export, and so not told", absent);
    places(&mut out, "Under no signed head of the export, and so not told", unproved);
    if !unproved.is_empty() {
        out.push_str(UNPROVED);
    }
    for error in refused.iter().take(PARTS_SHOWN) {
        let _ = writeln!(out, "Not told: {error}");
    }
    if refused.len() > PARTS_SHOWN {
        let _ = writeln!(out, "... and {} more streams", refused.len() - PARTS_SHOWN);
    }
    out
}

/// What to do about records that nothing in the export proves.
const UNPROVED: &str = "Nothing says that these were not changed, and an order over a wrong hash leaves the genuine ones MISSING. Export \
                        them with what came after and with the heads (audit.checkpoint), or look with `testimony verify` and the ledger \
                        whether they are whole, and order them with --unproved.\n";

fn places(out: &mut String, what: &str, all: &[(StreamId, std::ops::Range<u64>)]) {
    for (sid, range) in all.iter().take(PARTS_SHOWN) {
        let (from, last) = (range.start, range.end.saturating_sub(1));
        let _ = writeln!(out, "{what}: records {from} to {last} of {sid}");
    }
    if all.len() > PARTS_SHOWN {
        let _ = writeln!(out, "... and {} more places", all.len() - PARTS_SHOWN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command, LedgerCommand};
    use clap::Parser as _;
    use serde_json::json;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering};

    fn parsed(arguments: &[&str]) -> Result<LedgerPruneArgs, String> {
        let all = [&["testimony", "ledger", "prune"], arguments].concat();
        match Cli::try_parse_from(all).map_err(|error| error.to_string())?.command {
            Command::Ledger(LedgerCommand::Prune(args)) => Ok(args),
            _ => Err("another command".to_owned()),
        }
    }

    /// The golden streams of core, as one export.
    struct Export(PathBuf);

    impl Export {
        fn of(name: &str, change: impl Fn(String) -> String) -> Self {
            let vectors =
                Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../core/tests/vectors/evidence/{name}.jsonl"));
            let text = std::fs::read_to_string(vectors).expect("golden streams");
            let line = |line: &str| {
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                let body = change(line["body"].as_str().expect("a body").to_owned());
                json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": body}}]}]}]})
                    .to_string()
            };
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("testimony-prune-{}-{number}.jsonl", std::process::id()));
            std::fs::write(&path, text.lines().map(line).collect::<Vec<_>>().join("\n")).expect("a file");
            Self(path)
        }
    }

    impl Drop for Export {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn told(export: &Export, arguments: &[&str]) -> Result<(String, Vec<Part>)> {
        let file = export.0.to_str().expect("text");
        let args = parsed(&[&["--reason", "GDPR 17", file], arguments].concat()).expect("arguments");
        let found = plan(&args, Timestamp::UNIX_EPOCH)?.finish();
        Ok((text(&found, &args), found.parts))
    }

    #[test]
    fn g2_what_will_be_told_is_shown_and_follows_from_the_export_alone() {
        let export = Export::of("rollover", |body| body);
        let (text, parts) =
            told(&export, &["--records-of", "shop", "--before", "2023-11-14T22:13:30Z"]).expect("a plan");
        expect_test::expect![[r#"
            STREAM                                                                                                                FROM   TO   RECORDS
            2b1c6d1e-6a0f-4f6e-9b59-0d0a4f0a7a01/shop/7d6f2c1a-0001-4000-8000-00000000000a/00000000000000000000000000000003-0-0   0      3    4

            The ledger is told that 4 records are removed by order (PRUNED): GDPR 17
        "#]].assert_eq(&text);
        let whole: u64 = parts.iter().map(|part| part.range.end() - part.range.begin()).sum();
        assert!(whole > 0);
        let (_, none) = told(&export, &["--records-of", "bank"]).expect("a plan");
        assert_eq!(none, []);
        let args = parsed(&["--reason", "GDPR 17", "--erase", "--stream", "x", "file"]).expect("arguments");
        let requests = requests(&parts, &args);
        assert_eq!(requests[0].removal, Removal::Erase);
        assert_eq!((requests.len(), requests[0].orders.len()), (1, parts.len()));
        assert!(requests[0].clone().entries("alice").is_ok(), "the operator takes it");
    }

    #[test]
    fn g2_of_a_stream_that_was_changed_nothing_is_ordered() {
        let changed = Export::of("rollover", |body| body.replace("\"seq\":\"1\"", "\"seq\":\"1\",\"sia\":\"1\""));
        let (text, parts) = told(&changed, &["--stream", "2b1c6d1e-6a0f-4f6e-9b59-0d0a4f0a7a01/"]).expect("a plan");
        assert!(text.contains("Not told: record ") && text.contains("nothing of that stream is ordered"), "{text}");
        assert_eq!(parts, []);
    }

    #[test]
    fn g2_golden_streams_are_proved_to_their_last_record_and_a_changed_one_is_noticed() {
        for name in ["every-typ", "rollover", "rotation", "crash"] {
            let (text, parts) = told(&Export::of(name, |body| body), &["--stream", "2b1c6d1e-"]).expect("a plan");
            assert!(!parts.is_empty() && !text.contains("Under no signed head"), "{name}: {text}");
            let changed =
                Export::of(name, |body| body.replace("\"close_reason\":\"terminated", "\"close_reason\":\"other"));
            let (text, _) = told(&changed, &["--stream", "2b1c6d1e-"]).expect("a plan");
            assert!(text.contains("is not the one that the stream's key signed"), "{name}: {text}");
        }
        // The next start is what tells of a killed one.
        let alone = Export::of("crash", |body| if body.contains("00006-0-0") { String::new() } else { body });
        let (text, parts) = told(&alone, &["--stream", "2b1c6d1e-"]).expect("a plan");
        assert_eq!(parts.len(), 1);
        assert!(text.contains("so not told: records 6 to 7 of ") && text.contains("--unproved"), "{text}");
        let (text, parts) = told(&alone, &["--stream", "2b1c6d1e-", "--unproved"]).expect("a plan");
        assert_eq!((parts[0].range.end(), text.contains("--unproved")), (8, false), "{text}");
    }

    #[test]
    fn what_stands_in_the_ledger_is_said_only_where_it_is_known() {
        assert_eq!(what_stands(0, false), "nothing stands in the ledger");
        assert_eq!(what_stands(200, false), "200 ranges stand in the ledger; to order all again does no harm");
        for (ranges, begin) in [
            (
                0,
                "it is not known whether anything stands in the ledger: look with `testimony ledger show`, or order all again",
            ),
            (200, "200 ranges stand in the ledger; it is not known whether more do: look"),
        ] {
            assert!(what_stands(ranges, true).starts_with(begin), "{}", what_stands(ranges, true));
        }
    }

    #[test]
    fn a_reason_and_a_choice_are_needed() {
        for (arguments, problem) in [
            (&["--stream", "x", "file"][..], "--reason"),
            (&["--reason", "", "--stream", "x", "file"], "--reason"),
            (&["--reason", "why", "file"], "--stream"),
            (&["--reason", "why", "--stream", "x"], "FILE"),
        ] {
            let error = parsed(arguments).expect_err(problem);
            assert!(error.contains(problem), "{error}");
        }
    }
}

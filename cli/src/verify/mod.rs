//! `testimony verify`: whether an export is what was sealed, and all of it; `testimony prove`: one record with its proof.
//!
//! The judgement is core's. Here are the files, the formats of the backends, the sorting outside of memory, and X.509.

mod backend;
#[cfg(test)]
mod form_tests;
mod given;
#[cfg(test)]
mod given_tests;
pub(crate) mod guess;
mod heads;
mod hint;
mod history;
mod input;
mod ledger;
#[cfg(test)]
mod ledger_tests;
mod otlp;
mod proof;
#[cfg(test)]
mod proof_tests;
mod quick;
#[cfg(test)]
mod quick_tests;
mod roots;
mod scope;
mod sort;
#[cfg(test)]
mod tests;
mod url;

pub use backend::Format;
pub(crate) use given::{one_standard_input, text as given_text};
pub(crate) use hint::Seen;
pub(crate) use input::bodies;
pub use proof::{RecordName, record_name};
pub use scope::{ScopeArg, lag, scope, size};

use crate::args::{self, ProveArgs, VerifyArgs};
use crate::output::{Table, plural, print, print_json, printable, tell, though_nobody_reads};
use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use ledger::Entries;
use serde_json::{Value, json};
use sort::{HELD_BYTES_MAX, Room, Sorter};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use testimony_core::evidence::note::SignedNote;
use testimony_core::evidence::verify::{
    Asked, Basis, External, Intake, Report, Settings, Trust, Verdict, Verification,
};

/// Exit code where the input cannot be judged at all (V1: 64 and above).
pub const EXIT_INPUT: u8 = 65;

/// Exit code where the command line is wrong.
pub const EXIT_USAGE: u8 = 64;

/// Findings that are printed; all of them with `-o json`.
const FINDINGS_SHOWN: usize = 50;

/// Streams that are printed; all of them with `-o json`.
const STREAMS_SHOWN: usize = 20;

/// Runs `verify`. The code is the verdict's, also where a reader such as `head` has seen enough.
///
/// # Errors
/// None: what cannot be judged has a code of its own.
pub fn run(args: &VerifyArgs) -> Result<u8> {
    let given = args.roots.iter().chain(&args.ledger).chain(&args.ledger_head);
    if let Err(error) = one_standard_input(args.files.iter().chain(given)) {
        tell(error);
        return Ok(EXIT_USAGE);
    }
    if let Some(proof) = &args.proof {
        return or_input_error(proof::verify(proof, args));
    }
    or_input_error(judge(args).and_then(|mut report| {
        report.exit_code = report.exit_code_but_for(&args.accept);
        though_nobody_reads(match args.output {
            args::Format::Text => print(&text(&report, &args.files)),
            args::Format::Json => print_json(&as_json(&report, &args.files)?),
        })?;
        Ok(report.exit_code)
    }))
}

/// Reads a verdict that may be accepted.
///
/// # Errors
/// It is another one.
pub fn acceptable(text: &str) -> Result<Verdict, String> {
    let found = Verdict::ACCEPTABLE.into_iter().find(|verdict| verdict.as_str().eq_ignore_ascii_case(text));
    let names = Verdict::ACCEPTABLE.map(Verdict::as_str).join(", ");
    found.ok_or_else(|| format!("{text:?} cannot be accepted; these can: {names}"))
}

/// Runs `prove`.
///
/// # Errors
/// Nobody reads the output any more.
pub fn prove(args: &ProveArgs) -> Result<u8> {
    if let Err(error) = one_standard_input(&args.files) {
        tell(error);
        return Ok(EXIT_USAGE);
    }
    or_input_error(proof::prove(args))
}

/// What cannot be judged ends with a code that is no verdict's.
fn or_input_error(result: Result<u8>) -> Result<u8> {
    match result {
        Err(error) if !crate::output::is_broken_pipe(&error) => {
            tell(format_args!("{error:#}"));
            Ok(EXIT_INPUT)
        }
        other => other,
    }
}

fn judge(args: &VerifyArgs) -> Result<Report> {
    let trust = args.roots.as_deref().map(roots::load).transpose()?.unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
    let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let scope = args.scope.clone().unwrap_or_default();
    let settings = Settings {
        scope_text: scope.describe(args.partial, args.sink.as_deref()),
        sink: args.sink.clone(),
        scope: scope.resolve(now_ns),
        partial: args.partial,
        now_ns,
        max_lag_ns: args.max_lag,
    };
    let heads = args.ledger_head.iter().map(|file| heads::load(file, &trust.ledger_keys));
    let heads = heads.collect::<Result<Vec<_>>>()?;
    let input = Input {
        files: &args.files,
        format: args.format,
        ledger: args.ledger.as_deref(),
        heads: &heads,
        temporary_max: args.temporary_size,
    };
    verification(input, settings, trust, HELD_BYTES_MAX)
}

/// What is read.
#[derive(Clone, Copy, Default)]
pub(crate) struct Input<'a> {
    files: &'a [PathBuf],
    format: Option<Format>,
    /// The ledger, where it stands in a file of its own.
    ledger: Option<&'a Path>,
    /// Heads that the ledger must continue.
    heads: &'a [SignedNote],
    /// Most bytes of temporary files.
    temporary_max: Option<u64>,
}

/// Reads, sorts and judges.
fn verification(input: Input<'_>, settings: Settings, mut trust: Trust, held_max: usize) -> Result<Report> {
    let mut intake = Intake::of(&settings.scope);
    let room = Room::new(std::env::temp_dir(), input.temporary_max);
    let mut sorter = Sorter::new(&room, held_max);
    let mut ledger = Entries::new(&room, held_max.min(ledger::HELD_BYTES_MAX));
    let alone = input.ledger.is_some();
    let formats = input::read(input.files, input.format, &mut intake, &mut |row| Ok(sorter.push(row)?), &mut |body| {
        // Where the ledger is given alone, only that counts.
        if alone { Ok(()) } else { Ok(ledger.push(body)?) }
    })?;
    if let Some(file) = input.ledger {
        ledger.file(file, input.heads)?;
    }
    // What a ledger or a kept head says can be missed; of nothing nothing can be said.
    if !alone && input.heads.is_empty() && intake.is_empty() {
        return Err(hint::nothing(input.files, intake.others()));
    }
    let ledger_alone = !alone && ledger.bytes > 0 && !intake.has_records();
    // A kept head tells that there must be one.
    if alone || ledger.bytes > 0 || !input.heads.is_empty() {
        let asked = Asked { kept: input.heads, ..Asked::of(&trust.ledger_keys, &settings) };
        let (read, findings) = ledger.read(&asked)?;
        intake.ledger_findings(findings);
        trust.ledger = read;
    } else {
        drop(ledger);
    }
    if let Some(ledger) = &trust.ledger {
        let mut pushed = Ok(());
        intake.ledger_says(ledger, |row| {
            if pushed.is_ok() {
                pushed = sorter.push(row);
            }
        });
        pushed?;
    }
    let mut verification = Verification::new(intake, settings, trust);
    sorter.drain(|row| -> Result<()> {
        anyhow::ensure!(verification.feed(row), "a temporary file was damaged: try again");
        Ok(())
    })?;
    let mut report = verification.finish();
    report.hints = hint::hints(&report, &formats, ledger_alone);
    Ok(report)
}

fn as_json(report: &Report, files: &[PathBuf]) -> Result<Value> {
    let mut value = serde_json::to_value(report)?;
    let findings = value.get_mut("findings").and_then(Value::as_array_mut);
    for finding in findings.into_iter().flatten() {
        if let Some(place) = finding.get("place").and_then(Value::as_u64) {
            finding["place"] = json!(input::place(files, place));
        }
    }
    Ok(value)
}

/// The report for people.
fn text(report: &Report, files: &[PathBuf]) -> String {
    let mut out = String::new();
    let streams = report.streams.len().saturating_add(usize::try_from(report.more_streams).unwrap_or(usize::MAX));
    let _ = writeln!(
        out,
        "{} of {} in {}, {} under a signed head{}",
        plural(streams, "stream"),
        report.scope,
        plural(usize::try_from(report.records).unwrap_or(usize::MAX), "record"),
        report.proved,
        if report.copies > 0 { format!("; {} more copies", report.copies) } else { String::new() },
    );
    if report.others > 0 {
        let _ = match report.others {
            1 => writeln!(out, "1 other log entry is no record of Testimony"),
            others => writeln!(out, "{others} other log entries are no records of Testimony"),
        };
    }
    let mut table = Table::new(&["STREAM", "VERDICT", "RECORDS", "PROVED", "END"]);
    let mut worst: Vec<_> = report.streams.iter().collect();
    worst.sort_by_key(|stream| std::cmp::Reverse(stream.verdict));
    for stream in worst.iter().take(STREAMS_SHOWN) {
        let end = if stream.closed { "closed" } else { "-" };
        table.row([
            stream.sid.to_string(),
            stream.verdict.to_string(),
            stream.records.to_string(),
            stream.proved.to_string(),
            end.to_owned(),
        ]);
    }
    if !table.is_empty() {
        let _ = write!(out, "\n{table}");
        if streams > STREAMS_SHOWN {
            let _ = writeln!(out, "... and {} more", streams - STREAMS_SHOWN);
        }
    }
    if !report.findings.is_empty() {
        out.push_str("\nFindings, the worst first:\n");
        for finding in report.findings.iter().take(FINDINGS_SHOWN) {
            let place = finding.place.map(|place| format!(" [{}]", input::place(files, place))).unwrap_or_default();
            let _ = writeln!(out, "  {}{place}", printable(&finding.to_string()));
        }
        let more = report.findings.len().saturating_sub(FINDINGS_SHOWN) as u64 + report.more_findings;
        if more > 0 {
            let _ = writeln!(out, "  ... and {more} more: -o json");
        }
    }
    for hint in &report.hints {
        let _ = writeln!(out, "\nHint: {}", printable(hint));
    }
    let basis = match report.trust {
        Basis::None => "none",
        Basis::Operator => "operator",
        Basis::External => "external",
    };
    let _ = write!(out, "\nTrust: {basis}");
    if let Some(External { until_ns, by }) = &report.external {
        let until = Timestamp::from_nanosecond((*until_ns).into()).unwrap_or(Timestamp::UNIX_EPOCH);
        let _ = write!(out, ", for what the ledger said up to {until}: {} cosigned that", printable(by));
    }
    out.push('\n');
    let exposure = &report.exposure;
    match exposure.longest_ns {
        Some(longest) => {
            let seconds = longest / 1_000_000_000;
            let _ = writeln!(
                out,
                "Exposure: at most {seconds} s from a record to a witness; {} certainly longer than allowed; {} records without one",
                plural(exposure.windows.len(), "time"),
                exposure.uncovered
            );
        }
        None if report.records == 0 => out.push_str("Exposure: there is no record\n"),
        None if exposure.uncovered == 0 => {
            out.push_str(
                "Exposure: every record is under a head of the ledger; no head of the export says since when\n",
            );
        }
        None => out.push_str("Exposure: no head was cosigned by a known witness\n"),
    }
    if !report.ledger.is_empty() {
        out.push_str("The ledger says besides:\n");
        for what in &report.ledger {
            let _ = writeln!(out, "  - {}", printable(what));
        }
    }
    out.push_str("Not concluded from this:\n");
    for limit in &report.not_concluded {
        let _ = writeln!(out, "  - {limit}");
    }
    let _ = writeln!(out, "\n{}", report.verdict);
    out
}

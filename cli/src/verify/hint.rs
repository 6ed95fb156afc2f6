//! What may be the reason for a report, and what to do: from how the input looks. A hint changes no verdict.

use super::backend::Format;
use super::input;
use anyhow::{Error, Result, anyhow};
use std::path::PathBuf;
use testimony_core::evidence::verify::{Report, Verdict, is_shaped};

/// Hints about a report on an input of these formats, in which a ledger may stand where records should.
pub(super) fn hints(report: &Report, formats: &[Format], ledger_alone: bool) -> Vec<String> {
    let mut hints = Vec::new();
    let projected = report.findings.iter().any(|finding| finding.verdict == Verdict::Projection);
    if projected && formats.contains(&Format::Loki) {
        let hint = "logcli leaves the labels that all entries have in common out of each, unless it is given --include-common-labels";
        hints.push(hint.to_owned());
    }
    if let Some(minutes) = offset_minutes(report) {
        let (sign, hours, rest) = (if minutes < 0 { '-' } else { '+' }, minutes.abs() / 60, minutes.abs() % 60);
        hints.push(format!(
            "each time that differs does so by {sign}{hours}:{rest:02} h, as if the backend had printed them in a time zone without saying so: \
             export them in UTC or with their offset (ClickHouse: SETTINGS date_time_output_format='iso')"
        ));
    }
    if ledger_alone {
        let hint = "the input holds a ledger and no record: `testimony ledger export` is for --ledger, beside the export of the records";
        hints.push(hint.to_owned());
    }
    hints
}

/// Offsets of time zones are multiples of this many minutes, and at most so many.
const ZONE_STEP_MINUTES: i128 = 15;
const ZONE_MINUTES_MAX: i128 = 14 * 60;

/// By how many minutes stored times are off, if all that differ are off by the same, and if it may be a time zone.
fn offset_minutes(report: &Report) -> Option<i128> {
    let projections = report.findings.iter().filter(|finding| finding.verdict == Verdict::Projection);
    let mut offsets = projections.filter_map(|finding| {
        let rest = finding.message.strip_prefix("the time is stored as ")?;
        let (stored, body) = rest.split_once(", the body says ")?;
        stored.parse::<i128>().ok()?.checked_sub(body.parse().ok()?)
    });
    let first = offsets.next()?;
    let (step, most) = (ZONE_STEP_MINUTES * MINUTE_NS, ZONE_MINUTES_MAX * MINUTE_NS);
    let zone = first != 0 && first % step == 0 && first.abs() <= most;
    (zone && offsets.all(|offset| offset == first)).then_some(first / MINUTE_NS)
}

const MINUTE_NS: i128 = 60_000_000_000;

/// Most files that are named.
const FILES_SHOWN: usize = 5;

/// Files of the command line, for people.
pub(super) fn names(files: &[PathBuf]) -> String {
    let mut names: Vec<String> = files.iter().take(FILES_SHOWN).map(|file| input::name(file)).collect();
    if files.len() > FILES_SHOWN {
        names.push(format!("{} more", files.len() - FILES_SHOWN));
    }
    names.join(", ")
}

/// Nothing of Testimony is in the input: there is nothing to be judged, not even what is missing.
pub(super) fn nothing(files: &[PathBuf], others: u64) -> Error {
    let what = match others {
        0 => "no log entry at all".to_owned(),
        1 => "only 1 log entry of others".to_owned(),
        _ => format!("only {others} log entries of others"),
    };
    anyhow!(
        "{}: no record, no head and no ledger entry of Testimony is in it, {what}: look at the query with its time range and limit, at \
         --format, and whether it is the right file",
        names(files)
    )
}

/// Whether anything of Testimony is in an input of which only the bodies are read.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    ours: bool,
    others: u64,
}

impl Seen {
    /// Looks at a body.
    pub(crate) fn body(&mut self, text: &str) {
        let ours = is_shaped(text);
        self.ours |= ours;
        self.others += u64::from(!ours);
    }

    /// # Errors
    /// Nothing is; what to do.
    pub(crate) fn or_nothing(&self, files: &[PathBuf]) -> Result<()> {
        if self.ours { Ok(()) } else { Err(nothing(files, self.others)) }
    }
}

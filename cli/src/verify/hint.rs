//! What may be the reason for a report, and what to do: from how the input looks. A hint changes no verdict.

use super::backend::Format;
use testimony_core::evidence::verify::{Report, Verdict};

/// Hints about a report on an input of these formats.
pub(super) fn hints(report: &Report, formats: &[Format]) -> Vec<String> {
    let mut hints = Vec::new();
    let projected = report.findings.iter().any(|finding| finding.verdict == Verdict::Projection);
    if projected && formats.contains(&Format::Loki) {
        let hint = "logcli leaves the labels that all entries have in common out of each, unless it is given --include-common-labels";
        hints.push(hint.to_owned());
    }
    hints
}

//! All of a verification at once, for an export that fits into memory.

use super::intake::Intake;
use super::judge::{Settings, Verification};
use super::projection::{Projector, Shape, Stored};
use super::report::Report;
use super::sorted::Asked;
use super::trust::{Ledger, Trust};

/// Judges bodies in any order, with nothing beside them; a ledger among them is read where none was given.
pub fn judge_bodies<'a>(bodies: impl IntoIterator<Item = &'a str>, settings: Settings, mut trust: Trust) -> Report {
    let projector = Projector::new(Shape { underscores: false, numbers_as_text: false });
    let mut intake = Intake::of(&settings.scope);
    let mut rows: Vec<Vec<u8>> = Vec::new();
    for (place, body) in (0..).zip(bodies) {
        intake.record(body, &Stored::default(), &projector, place, |row| rows.push(row.to_vec()));
    }
    if trust.ledger.is_none() && !intake.ledger().is_empty() {
        let asked = Asked::of(&trust.ledger_keys, &settings);
        let (ledger, findings) = Ledger::read_asked(&asked, intake.ledger());
        intake.ledger_findings(findings);
        trust.ledger = ledger;
    }
    if let Some(ledger) = &trust.ledger {
        intake.ledger_says(ledger, |row| rows.push(row.to_vec()));
    }
    rows.sort_unstable();
    let mut verification = Verification::new(intake, settings, trust);
    for row in &rows {
        let read = verification.feed(row);
        debug_assert!(read, "a row reads back");
    }
    verification.finish()
}

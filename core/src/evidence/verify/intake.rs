//! Bodies in, rows out.

use super::fact::Place;
use super::names::Names;
use super::projection::{Projector, Stored};
use super::read::{ReadError, read};
use super::report::FINDINGS_MAX;
use super::trust::Ledger;
use super::verdict::{Finding, Verdict};
use crate::record::Body;

/// Most bytes of a ledger's bodies; they are kept.
pub const LEDGER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Reads bodies, in any order.
#[derive(Debug, Default)]
pub struct Intake {
    pub(super) names: Names,
    pub(super) findings: Vec<Finding>,
    pub(super) more_findings: u64,
    /// Entries that are no records of Testimony.
    pub(super) others: u64,
    /// Something claims to be a record, a head or an entry of a ledger.
    ours: bool,
    /// A record of a stream was read, or a head of one.
    records: bool,
    /// A ledger was read, or was to be.
    pub(super) ledger_given: bool,
    row: Vec<u8>,
    ledger: Vec<String>,
    ledger_bytes: usize,
}

impl Intake {
    /// Reads one body and what stands beside it; gives rows, to be sorted as bytes.
    pub fn record(
        &mut self,
        text: &str,
        stored: &Stored<'_>,
        projector: &Projector,
        place: Place,
        mut row: impl FnMut(&[u8]),
    ) {
        if !is_ours(text, stored) {
            self.others += 1;
            return;
        }
        self.ours = true;
        let body = Body::parse(text);
        let mut bytes = std::mem::take(&mut self.row);
        let read = read(text, &body, stored.resource_digest, place, &mut self.names, |stream, fact| {
            bytes.clear();
            fact.write(stream, &mut bytes);
            row(&bytes);
        });
        self.row = bytes;
        self.records |= read.is_ok();
        match (read, &body) {
            (Ok(read), Ok(body)) => {
                let name = self.names.name(read.stream).filter(|_| read.seq.is_some());
                let difference = projector.compare(body, stored, name.and_then(|name| name.parts()).as_ref());
                if let Err(difference) = difference {
                    let name = self.names.name(read.stream);
                    let records = read.seq.map(|seq| seq..seq.saturating_add(1));
                    let stream = name.cloned();
                    self.find(Finding {
                        verdict: Verdict::Projection,
                        stream,
                        records,
                        place: Some(place),
                        message: difference,
                    });
                }
            }
            (Ok(_), Err(_)) => {}
            (Err(ReadError::Ledger), _) => {
                if self.ledger_bytes.saturating_add(text.len()) <= LEDGER_BYTES_MAX {
                    self.ledger_bytes += text.len();
                    self.ledger.push(text.to_owned());
                } else {
                    self.more_findings += 1;
                }
            }
            (Err(error), _) => {
                let what = match error {
                    ReadError::Unsealed => "a record that has no place in a stream: nothing can prove it".to_owned(),
                    error => format!("a record that nothing can prove: {error}"),
                };
                self.find(Finding::export(Verdict::Foreign, what).at(place));
            }
        }
    }

    /// Entries and heads of ledgers that were among the records, in order of appearance.
    pub fn ledger(&self) -> &[String] {
        &self.ledger
    }

    /// What the ledger says of streams; gives rows.
    pub fn ledger_says(&mut self, ledger: &Ledger, mut row: impl FnMut(&[u8])) {
        for (name, fact) in ledger.facts() {
            if let Some(stream) = self.names.number(name.as_str()) {
                let mut bytes = Vec::new();
                fact.write(stream, &mut bytes);
                row(&bytes);
            }
        }
    }

    /// Whether nothing was read that even claims to be of Testimony: no record, no head, no entry of a ledger.
    pub fn is_empty(&self) -> bool {
        !self.ours
    }

    /// Whether a record of a stream was read, or a head of one.
    pub fn has_records(&self) -> bool {
        self.records
    }

    /// Entries of the input that are no records of Testimony.
    pub fn others(&self) -> u64 {
        self.others
    }

    /// What was found wrong with the ledger that was read.
    pub fn ledger_findings(&mut self, findings: Vec<Finding>) {
        self.ledger_given = true;
        findings.into_iter().for_each(|finding| self.find(finding));
    }

    /// An entry of the input that holds no record at all.
    pub fn other(&mut self) {
        self.others += 1;
    }

    fn find(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }
}

/// Whether an entry claims to be a record of Testimony; a backend may hold logs of others too.
fn is_ours(text: &str, stored: &Stored<'_>) -> bool {
    let named = stored.event.as_ref().is_some_and(|event| event.starts_with("audit."));
    let shaped = || text.starts_with('{') && text.contains("\"typ\":\"") && text.contains("\"v\":\"");
    named || shaped()
}

//! Bodies in, rows out.

use super::body::Body;
use super::fact::{Fact, Place};
use super::names::Names;
use super::projection::{Projector, Stored};
use super::read::{ReadError, read};
use super::report::FINDINGS_MAX;
use super::verdict::{Finding, Verdict};

/// Reads bodies, in any order.
#[derive(Debug, Default)]
pub struct Intake {
    pub(super) names: Names,
    pub(super) findings: Vec<Finding>,
    pub(super) more_findings: u64,
    /// Entries that are no records of Testimony.
    pub(super) others: u64,
    row: Vec<u8>,
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
        let body = Body::parse(text);
        let mut bytes = std::mem::take(&mut self.row);
        let read = read(text, &body, stored.resource_digest, place, &mut self.names, |stream, fact| {
            bytes.clear();
            fact.write(stream, &mut bytes);
            row(&bytes);
        });
        self.row = bytes;
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
            (Err(error), _) => {
                let what = match error {
                    ReadError::Unsealed => "a record that has no place in a stream: nothing can prove it".to_owned(),
                    error => format!("a record that nothing can prove: {error}"),
                };
                self.find(Finding::export(Verdict::Foreign, what).at(place));
            }
        }
    }

    /// A statement from outside of the records, such as the ledger's on a stream's end; gives its row.
    pub fn statement(&mut self, sid: &str, fact: &Fact, row: impl FnOnce(&[u8])) -> bool {
        let Some(stream) = self.names.number(sid) else { return false };
        let mut bytes = Vec::new();
        fact.write(stream, &mut bytes);
        row(&bytes);
        true
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
    let shaped = text.starts_with('{') && text.contains("\"typ\":\"") && text.contains("\"v\":\"");
    named || shaped
}

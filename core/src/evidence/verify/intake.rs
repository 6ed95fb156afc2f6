//! Bodies in, rows out.

use super::fact::{Fact, Place, StreamNo};
use super::findings::Findings;
use super::judge::Scope;
use super::names::Names;
use super::projection::{Projector, Stored};
use super::read::{Read, ReadError, Void, read};
use super::trust::Ledger;
use super::verdict::{Finding, Verdict};
use crate::record::Body;

/// Most bytes of the bodies of ledgers that are kept in memory, where nobody takes them. Of an export that holds more, none is used,
/// for a part of them would look like a ledger that somebody cut.
pub const LEDGER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Reads bodies, in any order.
#[derive(Debug, Default)]
pub struct Intake {
    pub(super) names: Names,
    /// Streams whose findings matter.
    scope: Scope,
    pub(super) findings: Findings,
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
    /// There were more than [`LEDGER_BYTES_MAX`].
    pub(super) ledger_is_over: bool,
}

impl Intake {
    /// Reads bodies of which this is looked at: what else there is may not take the room of what matters.
    pub fn of(scope: &Scope) -> Self {
        Self { scope: scope.clone(), ..Self::default() }
    }

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
        let mut give = as_rows(&mut bytes, &mut row);
        let read = read(text, &body, stored.resource_digest, place, &mut self.names, &mut give);
        self.records |= read.is_ok();
        match (read, &body) {
            (Ok(read), Ok(body)) => {
                self.void(read, place, &mut give);
                let name = self.names.name(read.stream).filter(|_| read.seq.is_some());
                let difference = projector.compare(body, stored, name.and_then(|name| name.parts()).as_ref());
                if let Err(difference) = difference {
                    self.found(read, place, Verdict::Projection, difference, &mut give);
                }
            }
            (Ok(_), Err(_)) => {}
            (Err(ReadError::Ledger), _) => self.ledger_entry(text, LEDGER_BYTES_MAX),
            (Err(error), _) => {
                let what = match error {
                    ReadError::Unsealed => "a record that has no place in a stream: nothing can prove it".to_owned(),
                    error => format!("a record that nothing can prove: {error}"),
                };
                self.find(Finding::export(Verdict::Foreign, what).at(place));
            }
        }
        self.names.say(give);
        self.row = bytes;
    }

    /// Says what of a record does not count.
    fn void(&mut self, read: Read, place: Place, give: impl FnMut(StreamNo, Fact)) {
        let message = match read.void {
            None => return,
            Some(Void::OtherPod(about)) => {
                let about = self.names.name(about).map(ToString::to_string).unwrap_or_default();
                format!(
                    "it speaks of {about}, a stream of another pod: no pod vouches for another one's, so that does not count"
                )
            }
            Some(Void::OtherHead) => "its cosigned note is not that of this head, so it does not count".to_owned(),
        };
        self.found(read, place, Verdict::Foreign, message, give);
    }

    /// Says what was found of a record. A row tells its stream, of which the list of findings may not.
    fn found(
        &mut self,
        read: Read,
        place: Place,
        verdict: Verdict,
        message: String,
        mut give: impl FnMut(StreamNo, Fact),
    ) {
        let records = read.seq.map(|seq| seq..seq.saturating_add(1));
        let stream = self.names.name(read.stream).cloned();
        self.find(Finding { verdict, stream, records, place: Some(place), message });
        give(read.stream, Fact::Found(verdict));
    }

    /// Keeps an entry or a head of a ledger, of all of them at most so many bytes.
    pub(super) fn ledger_entry(&mut self, text: &str, bytes_max: usize) {
        self.ledger_bytes = self.ledger_bytes.saturating_add(text.len());
        self.ledger_is_over |= self.ledger_bytes > bytes_max;
        if self.ledger_is_over {
            self.ledger = Vec::new();
        } else {
            self.ledger.push(text.to_owned());
        }
    }

    /// Entries and heads of ledgers that were among the records, in order of appearance; none if there were more than
    /// [`LEDGER_BYTES_MAX`].
    pub fn ledger(&self) -> &[String] {
        &self.ledger
    }

    /// The same, as far as nobody took them: whoever does so as they come may sort them outside of memory.
    pub fn take_ledger(&mut self) -> Vec<String> {
        self.ledger_bytes = 0;
        std::mem::take(&mut self.ledger)
    }

    /// What the ledger says of streams; gives rows.
    pub fn ledger_says(&mut self, ledger: &Ledger, mut row: impl FnMut(&[u8])) {
        let mut bytes = Vec::new();
        let mut give = as_rows(&mut bytes, &mut row);
        for (name, fact) in ledger.facts() {
            if let Some(stream) = self.names.number(name.as_str()) {
                give(stream, fact);
            }
            self.names.say(&mut give);
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

    /// A part of the input that is not read, though it may hold records. It says why.
    pub fn not_read(&mut self, why: &str, place: Place) {
        self.ours = true;
        self.find(Finding::export(Verdict::Foreign, why).at(place));
    }

    fn find(&mut self, finding: Finding) {
        if self.scope.holds(&finding) {
            self.findings.add(finding);
        }
    }
}

/// Gives facts as rows, each made in these bytes.
fn as_rows(bytes: &mut Vec<u8>, mut row: impl FnMut(&[u8])) -> impl FnMut(StreamNo, Fact) {
    move |stream, fact| {
        bytes.clear();
        fact.write(stream, bytes);
        row(bytes);
    }
}

/// Whether an entry claims to be a record of Testimony; a backend may hold logs of others too.
fn is_ours(text: &str, stored: &Stored<'_>) -> bool {
    let named = stored.event.as_ref().is_some_and(|event| event.starts_with("audit."));
    named || is_shaped(text)
}

/// Whether a body has the shape of what Testimony writes: a record, a head or an entry of a ledger.
pub fn is_shaped(text: &str) -> bool {
    text.starts_with('{') && text.contains("\"typ\":\"") && text.contains("\"v\":\"")
}

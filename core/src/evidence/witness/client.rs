//! What the owner of a stream keeps to show its heads: compact ranges, and the heads that must not be skipped (W2).

use super::proof::{consistency, inclusion_of_next};
use super::request::{Request, Tail, number};
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{Range, leaf};
use crate::evidence::note::{PublicKey, Signature, SignedNote};
use std::collections::VecDeque;

/// Heads that wait for the witness at a time. A day's rollovers are 144; one newest head waits behind them.
pub const STEPS_MAX: usize = 256;

/// A head that waits.
#[derive(Debug)]
struct Step {
    /// Leaves since the head before.
    since: Range,
    note: SignedNote,
    tail: Tail,
    /// The key of the next epoch, where this head ends one.
    next_key: Option<PublicKey>,
    /// It was sent: the witness may know it, whatever came back.
    shown: bool,
}

/// What the witness acknowledged last.
#[derive(Debug)]
struct Known {
    range: Range,
    /// The cosigned head: proves that the witness went back, if it does.
    cosigned: Option<SignedNote>,
    /// Signs what follows.
    key: PublicKey,
}

/// A stream's side of the witness protocol. One request is under way at a time.
#[derive(Debug)]
pub struct Client {
    known: Known,
    steps: VecDeque<Step>,
    /// Leaves since the newest step.
    since: Range,
    /// The record that the next head must show, with its proof.
    record: Option<(Vec<u8>, Vec<Hash>, Option<PublicKey>)>,
    /// The witness went back: the next request starts from the head that it cosigned last.
    went_back: bool,
    under_way: bool,
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The head is cosigned: the note with the cosignatures.
    Cosigned(SignedNote),
    /// The answer before was lost: the next request shows the same head again.
    Again,
    /// The witness forgot a head that it cosigned: the next request takes it up from there. An alarm.
    WentBack,
    /// The witness knows a head that this stream never had: another process shows heads in its name. An alarm.
    Ahead(u64),
    /// There is no certificate yet: ask for one, then again.
    Uncertified,
    /// The witness cannot answer now: ask again later.
    Later,
    /// The witness refuses for good; the stream stays unanchored. An alarm.
    Refused(u16, String),
}

impl Client {
    /// Of a stream without leaves, whose first key is this.
    pub fn new(key: PublicKey) -> Self {
        Self {
            known: Known { range: Range::empty(0), cosigned: None, key },
            steps: VecDeque::new(),
            since: Range::empty(0),
            record: None,
            went_back: false,
            under_way: false,
        }
    }

    /// A leaf was sealed.
    pub fn push(&mut self, leaf: Hash) {
        self.since.push(leaf);
    }

    /// A record was sealed that the witness must see: the checkpoint of a rollover, with its key, or `close`. The next
    /// head must be the one whose last leaf it is.
    pub fn push_record(&mut self, body: &[u8], next_key: Option<PublicKey>) {
        let proof = inclusion_of_next(&self.all()).unwrap_or_default();
        self.since.push(leaf(body));
        self.record = Some((body.to_vec(), proof, next_key));
    }

    /// The tree's size was signed and is durable: shows it when the witness is asked next, in place of an older head that
    /// waits and ends no epoch. `false`: it is not the note of this size, or too many wait; then it is not shown.
    pub fn head(&mut self, note: SignedNote) -> bool {
        if note.checkpoint.size != self.since.end() || self.all().root() != Some(note.checkpoint.root) {
            return false;
        }
        let (tail, next_key) = match self.record.take() {
            Some((body, proof, next_key)) => (Tail::Record { body, proof }, next_key),
            None => (Tail::None, None),
        };
        let replaces = self.steps.back().is_some_and(|step| step.tail == Tail::None && !step.shown);
        let mut since = std::mem::replace(&mut self.since, Range::empty(note.checkpoint.size));
        if replaces && let Some(mut step) = self.steps.pop_back() {
            step.since.append(&since);
            since = step.since;
        } else if self.steps.len() >= STEPS_MAX {
            self.since = since;
            return false;
        }
        self.steps.push_back(Step { since, note, tail, next_key, shown: false });
        true
    }

    /// Whether a head waits, and none is under way.
    pub fn is_due(&self) -> bool {
        !self.under_way && !self.steps.is_empty()
    }

    /// The next request's body. [`Client::answered`] or [`Client::failed`] ends it.
    pub fn request(&mut self) -> Option<String> {
        let step = self.steps.front_mut().filter(|_| !self.under_way)?;
        let known = &self.known;
        let tail = match (&known.cosigned, self.went_back) {
            (Some(cosigned), true) => Tail::Rebase { key: known.key, cosigned: Box::new(cosigned.clone()) },
            _ => step.tail.clone(),
        };
        let proof = consistency(&known.range, &step.since)?;
        step.shown = true;
        let request = Request { old: known.range.end(), proof, note: step.note.clone(), tail };
        self.under_way = true;
        Some(request.encode())
    }

    /// No answer came.
    pub fn failed(&mut self) {
        self.under_way = false;
    }

    /// The answer came.
    pub fn answered(&mut self, status: u16, body: &str) -> Outcome {
        self.under_way = false;
        match status {
            200 => self.cosigned(body),
            404 => Outcome::Uncertified,
            409 => match body.strip_suffix('\n').and_then(number) {
                Some(size) => self.conflict(size),
                None => Outcome::Refused(status, shortened(body)),
            },
            429 | 500.. => Outcome::Later,
            // A witness that went back behind a rollover knows an older key.
            403 if self.known.cosigned.is_some() && !self.went_back => {
                self.went_back = true;
                Outcome::WentBack
            }
            _ => {
                self.went_back = false;
                Outcome::Refused(status, shortened(body))
            }
        }
    }

    fn cosigned(&mut self, body: &str) -> Outcome {
        let refused = || Outcome::Refused(200, "the answer holds no signature line".to_owned());
        let Some(signatures) = body.strip_suffix('\n').and_then(Signature::parse_lines) else { return refused() };
        let Some(step) = self.steps.front_mut() else { return refused() };
        let mut note = step.note.clone();
        note.signatures.extend(signatures);
        self.known.range.append(&step.since);
        self.known.cosigned = Some(note.clone());
        if std::mem::take(&mut self.went_back) && step.tail != Tail::None {
            // The request said where the witness stood; now the same head once more, to show its record.
            step.since = Range::empty(note.checkpoint.size);
            return Outcome::Cosigned(note);
        }
        if let Some(next) = step.next_key {
            self.known.key = next;
        }
        self.steps.pop_front();
        Outcome::Cosigned(note)
    }

    fn conflict(&mut self, size: u64) -> Outcome {
        let Some(step) = self.steps.front_mut() else { return Outcome::Refused(409, String::new()) };
        let known = self.known.range.end();
        if size == step.note.checkpoint.size && size > known {
            // The answer before was lost. The head is shown once more, now as one that the witness knows.
            self.known.range.append(&step.since);
            step.since = Range::empty(size);
            return Outcome::Again;
        }
        if size >= known || self.known.cosigned.is_none() {
            return Outcome::Ahead(size);
        }
        self.went_back = true;
        Outcome::WentBack
    }

    /// Size of the head that the witness acknowledged last.
    pub fn anchored(&self) -> u64 {
        self.known.range.end()
    }

    /// All leaves.
    fn all(&self) -> Range {
        let mut all = self.known.range.clone();
        self.steps.iter().for_each(|step| {
            all.append(&step.since);
        });
        all.append(&self.since);
        all
    }
}

fn shortened(body: &str) -> String {
    body.trim_end().chars().take(200).collect()
}

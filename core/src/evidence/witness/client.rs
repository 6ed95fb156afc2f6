//! What the owner of a stream keeps to show its heads: compact ranges, and the heads that must not be skipped (W2).

use super::judge::Refusal;
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

/// A checkpoint, or the end of the stream.
#[derive(Debug)]
struct Shown {
    index: u64,
    body: Vec<u8>,
    closes: bool,
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
    /// Leaves since the newest step that no head of a smaller size can need any more.
    since: Range,
    /// Leaves after those.
    leaves: VecDeque<Hash>,
    /// Records that a head may have to show, by their place.
    records: VecDeque<Shown>,
    /// The witness went back: the next request starts from the head that it cosigned last.
    went_back: bool,
    /// The witness does not take that for its own: it began anew, under another key.
    not_its_own: bool,
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
    /// Whoever answers does not let this pod ask (401, or 403 in words that are not the witness's): that says nothing of the
    /// stream. Ask again later.
    Denied(u16, String),
    /// The certificate has run out before this head was shown: the stream stays unanchored from here on.
    Expired,
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
            leaves: VecDeque::new(),
            records: VecDeque::new(),
            went_back: false,
            not_its_own: false,
            under_way: false,
        }
    }

    /// A leaf was sealed. Leaves are kept one by one until a head covers them: heads are signed only once all under them
    /// is durable, while sealing goes on (H1). What is sealed and not durable has its limit in the writer's queue (S3).
    pub fn push(&mut self, leaf: Hash) {
        self.leaves.push_back(leaf);
    }

    /// A `checkpoint` or, with `closes`, the `close` was sealed: the witness must see it if its head ends an epoch or the
    /// stream.
    pub fn push_record(&mut self, body: &[u8], closes: bool) {
        self.records.push_back(Shown { index: self.sealed(), body: body.to_vec(), closes });
        self.leaves.push_back(leaf(body));
    }

    /// A head was signed and is durable; with `next_key`, it ends an epoch. Heads come in order of their sizes. This one is
    /// shown when the witness is asked next, in place of an older one that waits and ends no epoch.
    ///
    /// `false`: it is not the head of these leaves, or too many wait; then it is not shown.
    pub fn head(&mut self, note: SignedNote, next_key: Option<PublicKey>) -> bool {
        let size = note.checkpoint.size;
        if size < self.since.end() || size > self.sealed() || self.steps.len() >= STEPS_MAX {
            return false;
        }
        let Some(tail) = self.cover(size, next_key) else { return false };
        if self.all().root() != Some(note.checkpoint.root) {
            return false;
        }
        let mut since = std::mem::replace(&mut self.since, Range::empty(size));
        if self.steps.back().is_some_and(|step| step.tail == Tail::None && !step.shown)
            && let Some(mut step) = self.steps.pop_back()
        {
            step.since.append(&since);
            since = step.since;
        }
        self.steps.push_back(Step { since, note, tail, next_key, shown: false });
        true
    }

    /// Shows the head that was cosigned last once more, as a sign of life of an idle stream (H2): it is not signed again,
    /// because its key may be gone (K2). `false`: another one waits, or there is none.
    pub fn again(&mut self) -> bool {
        let Some(cosigned) = self.known.cosigned.as_ref().filter(|_| self.steps.is_empty()) else { return false };
        let signatures = cosigned.signatures.first().cloned().into_iter().collect();
        let note = SignedNote { checkpoint: cosigned.checkpoint.clone(), signatures };
        let since = Range::empty(self.known.range.end());
        self.steps.push_back(Step { since, note, tail: Tail::None, next_key: None, shown: true });
        true
    }

    /// Takes the leaves under a head of this size together; what the head shows of its last record. `None`: it ends an
    /// epoch, and its last record is not there.
    fn cover(&mut self, size: u64, next_key: Option<PublicKey>) -> Option<Tail> {
        let last = size.checked_sub(1);
        self.records.retain(|record| Some(record.index) >= last);
        let of_head = self.records.front().filter(|record| Some(record.index) == last);
        let shows = of_head.is_some_and(|record| record.closes || next_key.is_some());
        if next_key.is_some() && !shows {
            return None;
        }
        let mut tail = Tail::None;
        while self.since.end() < size {
            if shows && Some(self.since.end()) == last {
                let proof = inclusion_of_next(&self.all())?;
                tail = Tail::Record { body: self.records.pop_front()?.body, proof };
            }
            self.since.push(self.leaves.pop_front()?);
        }
        Some(tail)
    }

    /// Number of all leaves.
    fn sealed(&self) -> u64 {
        self.since.end().saturating_add(self.leaves.len() as u64)
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
            _ => self.refused(status, body),
        }
    }

    fn refused(&mut self, status: u16, body: &str) -> Outcome {
        match Refusal::said(status, body) {
            Some(Refusal::Expired) => Outcome::Expired,
            // A witness that went back behind a rollover knows an older key.
            Some(Refusal::Signature) if self.known.cosigned.is_some() && !self.went_back && !self.not_its_own => {
                self.went_back = true;
                Outcome::WentBack
            }
            None if matches!(status, 401 | 403) => Outcome::Denied(status, shortened(body)),
            said => {
                self.went_back = false;
                self.not_its_own |= said == Some(Refusal::Rebase);
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
        self.not_its_own = false;
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
        if self.not_its_own {
            return Outcome::Refused(409, size.to_string());
        }
        self.went_back = true;
        Outcome::WentBack
    }

    /// Size of the head that the witness acknowledged last.
    pub fn anchored(&self) -> u64 {
        self.known.range.end()
    }

    /// The leaves under the newest head, and those taken together since.
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

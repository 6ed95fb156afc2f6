//! One pass over the sorted rows of a ledger: which bodies are its entries, and what they say.

use super::pick::{Picker, Take, WAITING_BYTES_MAX};
use super::read::{Reader, Summary};
use super::rows::{Role, Row};
use super::shown::Times;
use crate::evidence::hash::Hash;
use crate::evidence::note::{PublicKey, SignedNote};
use crate::evidence::stream::StreamId;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// Most heads of which bodies say that a witness outside cosigned them, and most entries to which reading did not come, of which
/// the hashes are kept: of a ledger with more of the first nothing is used; further ones of the second say nothing of streams.
const KEPT_MAX: usize = 1_000_000;

/// What a ledger says.
#[derive(Debug)]
pub(in crate::evidence) struct Said {
    pub(in crate::evidence) summary: Summary,
    /// Streams of which it abandoned records, by their numbers.
    pub(in crate::evidence) numbers: BTreeMap<u64, StreamId>,
    /// Hashes of entries ahead of those with which reading began.
    pub(in crate::evidence) ahead: HashSet<Hash>,
}

/// Why a ledger says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::evidence) enum Unread {
    /// This is wrong with it.
    Wrong(String),
    /// Two of its signed heads contradict each other.
    Contradiction(u64),
    /// Its entries do not give the root of the last signed head, which is of so many: [`Why`] tells more.
    Unproved(u64),
    /// Too much waited for a head.
    Over,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(problem) => f.write_str(problem),
            Self::Contradiction(size) => {
                write!(f, "two heads of {size} entries are signed, and contradict each other")
            }
            Self::Unproved(end) => write!(f, "its entries do not give the signed root of {end}"),
            Self::Over => write!(
                f,
                "over {WAITING_BYTES_MAX} bytes claim places between two of its signed heads, or over {KEPT_MAX} of its heads are said \
                 to be cosigned outside: more than are kept"
            ),
        }
    }
}

/// Reads a ledger.
pub(in crate::evidence) struct Reading {
    picker: Picker,
    says: Says,
}

/// Takes up what was proved.
struct Says {
    sid: String,
    key: PublicKey,
    reader: Reader,
    /// Heads that were perhaps cosigned outside: root, and time of the last entry; by their size.
    cosigned: BTreeMap<u64, (Hash, u64)>,
    /// Cosigned heads of more entries than were read.
    later: BTreeMap<u64, Vec<SignedNote>>,
    size: u64,
    ahead: HashSet<Hash>,
    problem: Option<String>,
    is_over: bool,
}

impl Says {
    fn fail(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    /// A head of which an entry says that a witness outside cosigned it, if the entries under it were read.
    fn witnessed(&mut self, note: SignedNote) {
        let size = note.checkpoint.size;
        if size > self.size {
            return self.later.entry(size).or_default().push(note);
        }
        let Some((root, until_ns)) = self.cosigned.get(&size).copied() else { return };
        let head = &note.checkpoint;
        if head.origin != self.sid || head.root != root {
            return self.fail(format!("a cosigned head of {size} entries: its note is that of other entries"));
        }
        if !note.is_signed_by(&self.sid, &self.key) {
            return self.fail(format!("a cosigned head of {size} entries: its note is not signed by the ledger's key"));
        }
        self.reader.witnessed(note, until_ns);
    }

    fn read(&mut self, seq: u64, body: &[u8], cosigned: bool) -> Result<(), String> {
        let note = self.reader.next(body).map_err(|problem| format!("entry {seq}: {problem}"))?;
        self.size = seq.saturating_add(1);
        if cosigned && let Some(root) = self.reader.root() {
            self.cosigned.insert(self.size, (root, self.reader.last_ns()));
            self.is_over |= self.cosigned.len() > KEPT_MAX;
        }
        if let Some(note) = note {
            let note = SignedNote::parse(&note).map_err(|problem| format!("entry {seq}: its note: {problem}"))?;
            self.witnessed(note);
        }
        let now = self.later.remove(&self.size);
        now.into_iter().flatten().for_each(|note| self.witnessed(note));
        Ok(())
    }
}

impl Take for Says {
    fn entry(&mut self, seq: u64, body: &[u8], cosigned: bool) {
        if self.problem.is_none()
            && !self.is_over
            && let Err(problem) = self.read(seq, body, cosigned)
        {
            self.fail(problem);
        }
    }

    fn signed(&mut self) {
        self.reader.signed();
    }

    fn leads_back(&mut self, leaf: Hash) {
        if self.ahead.len() < KEPT_MAX {
            self.ahead.insert(leaf);
        }
    }
}

impl Reading {
    /// Of a ledger whose heads this key signs. What streams had come to at these times is kept
    /// exactly; at most so many bytes wait for a head.
    pub(in crate::evidence) fn new(sid: &str, key: PublicKey, times: Times, bytes_max: usize) -> Self {
        let says = Says {
            sid: sid.to_owned(),
            key,
            reader: Reader::new(key).at(times),
            cosigned: BTreeMap::new(),
            later: BTreeMap::new(),
            size: 0,
            ahead: HashSet::new(),
            problem: None,
            is_over: false,
        };
        Self { picker: Picker::new(sid, key, bytes_max), says }
    }

    /// The next row.
    pub(in crate::evidence) fn row(&mut self, row: &Row<'_>) {
        self.picker.row(row, &mut self.says);
    }

    /// All of it.
    ///
    /// # Errors
    /// It is no whole ledger under its key.
    pub(in crate::evidence) fn finish(mut self) -> Result<Said, Unread> {
        let Self { picker, says } = &mut self;
        picker.end(says);
        if picker.is_over || says.is_over {
            return Err(Unread::Over);
        }
        if let Some(size) = picker.contradiction {
            return Err(Unread::Contradiction(size));
        }
        let wrong = |problem: String| Err(Unread::Wrong(problem));
        let none = || "no signed head of its entries is there".to_owned();
        let Some(end) = picker.signed else { return wrong(none()) };
        let there = picker.there;
        if there < end {
            return wrong(format!("the ledger has {end} entries, as its own head says, and {there} are there"));
        }
        if picker.proved != Some(end) {
            return Err(Unread::Unproved(end));
        }
        if let Some(problem) = says.problem.take() {
            return wrong(problem);
        }
        if says.reader.is_partial() {
            return wrong(PARTIAL.to_owned());
        }
        let Self { picker, mut says } = self;
        let mut numbers = says.reader.numbers();
        let mut summary = says.reader.finish();
        if summary.size == 0 {
            return wrong(none());
        }
        summary.unproved = picker.unproved().saturating_add(picker.refused.count());
        summary.refused = picker.refused;
        let abandoned: HashSet<&StreamId> = summary.abandoned().collect();
        numbers.retain(|_, sid| abandoned.contains(sid));
        Ok(Said { summary, numbers, ahead: says.ahead })
    }
}

const PARTIAL: &str = "reading begins where what is known is restated, and the end of that is not there";

/// What is wrong with entries that give no signed root, as far as reading comes: a second pass over the same rows. Of the bodies that
/// claim a place the first is read.
pub(in crate::evidence) struct Why {
    reader: Reader,
    end: u64,
    last: Option<u64>,
    begun: bool,
    problem: Option<String>,
}

impl Why {
    /// Of a ledger whose last head is of so many entries.
    pub(in crate::evidence) fn new(key: PublicKey, end: u64) -> Self {
        Self { reader: Reader::new(key), end, last: None, begun: false, problem: None }
    }

    /// The next row.
    pub(in crate::evidence) fn row(&mut self, row: &Row<'_>) {
        if (self.begun && self.problem.is_some()) || row.seq >= self.end {
            return;
        }
        let read = match row.role {
            Role::Entry if self.last == Some(row.seq) => return,
            Role::Entry => {
                self.last = Some(row.seq);
                let read = self.reader.entry(row.body).map_err(|problem| format!("entry {}: {problem}", row.seq));
                if read.is_ok() && !self.begun {
                    (self.begun, self.problem) = (true, None);
                }
                read.map(drop)
            }
            Role::Head if self.last == Some(row.seq) && self.begun => {
                let size = row.seq.saturating_add(1);
                self.reader.head_body(row.body).map_err(|problem| format!("head of {size} entries: {problem}"))
            }
            Role::Head | Role::Cosigned => return,
        };
        if let Err(problem) = read {
            self.problem.get_or_insert(problem);
        }
    }

    /// In words.
    pub(in crate::evidence) fn finish(self) -> String {
        let Self { reader, end, problem, .. } = self;
        let partial = reader.is_partial().then(|| PARTIAL.to_owned());
        problem.or(partial).unwrap_or_else(|| format!("its entries do not give the signed root of {end}"))
    }
}

//! A block: the entries of one commit with the signed head after them, and the chain that blocks make.

use super::entry::Entry;
use super::fact::Fact;
use super::{BLOCK_BYTES_MAX, ENTRIES_PER_BLOCK_MAX};
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{Range, leaf};
use crate::evidence::note::{PublicKey, SignedNote};
use crate::evidence::stream::StreamId;

/// A block as its object holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its number, from 0.
    pub number: u64,
    /// Bodies of its entries, one a line.
    pub entries: String,
    /// The head of the ledger after them, signed.
    pub note: String,
}

/// Why blocks are no ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block {block}, entry {entry}: {problem}")]
pub struct LedgerError {
    /// Number of the block.
    pub block: u64,
    /// Which entry of the block, from 1; 0: the block itself.
    pub entry: usize,
    /// What is wrong.
    pub problem: String,
}

/// Entries in order, each tied to the one before.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The ledger's name.
    pub sid: StreamId,
    /// All entries so far.
    pub range: Range,
    /// Leaf of the last one.
    pub last: Option<Hash>,
    /// When it was written, in nanoseconds since the epoch.
    pub last_ns: u64,
}

impl Chain {
    /// A ledger without entries.
    pub fn new(sid: StreamId) -> Self {
        Self { sid, range: Range::empty(0), last: None, last_ns: 0 }
    }

    /// The chain ahead of this entry, where reading may begin: it is the first of all, or the first part of a restatement.
    pub fn before(entry: &Entry) -> Option<Self> {
        let range = match &entry.fact {
            _ if entry.seq == 0 => Range::empty(0),
            Fact::State(state) => {
                let (_, _, frontier) = state.first.as_ref()?;
                Range::from_nodes(0, entry.seq, frontier).ok()?
            }
            _ => return None,
        };
        Some(Self { sid: entry.sid.clone(), range, last: entry.prev, last_ns: 0 })
    }

    /// Appends a body.
    ///
    /// # Errors
    /// It does not follow, or is none.
    pub fn append(&mut self, body: &[u8]) -> Result<Entry, String> {
        let entry = Entry::parse(body)?;
        if entry.sid != self.sid {
            return Err(format!("it belongs to ledger {}", entry.sid));
        }
        if entry.seq != self.range.end() {
            return Err(format!("its number is {}, and {} was due", entry.seq, self.range.end()));
        }
        if entry.prev != self.last {
            return Err("it does not follow the entry before it: prev is another hash".to_owned());
        }
        self.push(body, entry.at_ns);
        Ok(entry)
    }

    /// Appends a body that was made to follow.
    pub(super) fn push(&mut self, body: &[u8], at_ns: u64) {
        let leaf = leaf(body);
        self.range.push(leaf);
        self.last = Some(leaf);
        self.last_ns = at_ns;
    }

    /// Whether the note is the signed head of these entries.
    ///
    /// # Errors
    /// It is another one.
    pub fn check(&self, note: &str, key: &PublicKey) -> Result<(), String> {
        let note = SignedNote::parse(note).map_err(|error| error.to_string())?;
        let head = &note.checkpoint;
        if head.origin != self.sid.as_str() || head.size != self.range.end() || Some(head.root) != self.range.root() {
            return Err("its note is that of other entries".to_owned());
        }
        match note.is_signed_by(self.sid.as_str(), key) {
            true => Ok(()),
            false => Err("its note is not signed by the ledger's key".to_owned()),
        }
    }
}

impl Block {
    /// Its bytes.
    pub fn bytes(&self) -> usize {
        self.entries.len() + self.note.len()
    }

    /// The bodies.
    ///
    /// # Errors
    /// There are too many, or too many bytes.
    pub fn bodies(&self) -> Result<Vec<&[u8]>, LedgerError> {
        let bodies: Vec<&[u8]> = self.entries.lines().take(ENTRIES_PER_BLOCK_MAX + 1).map(str::as_bytes).collect();
        if bodies.is_empty() || bodies.len() > ENTRIES_PER_BLOCK_MAX || self.entries.len() > BLOCK_BYTES_MAX {
            let problem =
                format!("a block has 1 to {ENTRIES_PER_BLOCK_MAX} entries and {BLOCK_BYTES_MAX} bytes at most");
            return Err(self.error(0, problem));
        }
        Ok(bodies)
    }

    /// Whether this block's first entry continues the last one of that block, which is the one before it.
    pub fn follows(&self, before: &Self) -> bool {
        let first = self.entries.lines().next().and_then(|body| Entry::parse(body.as_bytes()).ok());
        let last = before.entries.lines().next_back().map(|body| leaf(body.as_bytes()));
        before.number.checked_add(1) == Some(self.number)
            && last.is_some()
            && first.is_some_and(|first| first.prev == last)
    }

    /// What its entries say; what is no entry is left out.
    pub fn facts(&self) -> Vec<Fact> {
        let entries = self.entries.lines().filter_map(|body| Entry::parse(body.as_bytes()).ok());
        entries.map(|entry| entry.fact).collect()
    }

    /// The chain ahead of this block, where reading may begin with it.
    pub fn begins(&self) -> Option<Chain> {
        let first = self.entries.lines().next()?;
        Chain::before(&Entry::parse(first.as_bytes()).ok()?)
    }

    pub(super) fn error(&self, entry: usize, problem: String) -> LedgerError {
        LedgerError { block: self.number, entry, problem }
    }
}

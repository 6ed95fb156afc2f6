//! The ledger as its keeper has it: blocks are proposed, committed, and then count.

use super::block::{Block, Chain, LedgerError};
use super::entry::Entry;
use super::fact::{Fact, HeadRow, Row, StateFact};
use super::tables::{Part, Tables};
use super::{
    BLOCK_BYTES_MAX, ENTRIES_PER_BLOCK_MAX, HEADS_PER_ENTRY_MAX, ROWS_BYTES_MAX, STATE_BYTES_PER_BLOCK_MAX,
    STATE_EVERY_BLOCKS,
};
use crate::evidence::note::{Checkpoint, PublicKey, SIGNATURE_BYTES, Signature, SignedNote};
use crate::evidence::stream::StreamId;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Public keys of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Signs the ledger's heads.
    pub ledger: PublicKey,
    /// Signs cosignatures.
    pub witness: PublicKey,
}

/// How far a restatement has come: the last row that was written of each table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Cursor {
    begun: bool,
    stream: Option<u64>,
    pod: Option<String>,
    uncovered: Option<String>,
    abandoned: Option<Part>,
    pruned: Option<Part>,
    erased: Option<Part>,
}

/// The ledger.
#[derive(Clone, Debug)]
pub struct Book {
    chain: Chain,
    keys: Keys,
    tables: Tables,
    next_block: u64,
    /// The block in which the last whole restatement begins: reading may begin there.
    readable_from: u64,
    /// The block in which the restatement under way began, and how far it is.
    restating: Option<(u64, Cursor)>,
}

/// A block that was not committed. Its note is nobody's business yet.
#[derive(Debug)]
pub struct Proposed {
    block: Block,
    chain: Chain,
    entries: Vec<Entry>,
    restating: Option<(u64, Cursor)>,
    restated: bool,
    /// How many of the facts that were given are in it.
    pub facts_taken: usize,
    /// How many of the heads that were given are in it.
    pub heads_taken: usize,
}

/// A block whose object was created by us.
#[derive(Debug)]
pub struct Committed(Proposed);

/// A head that stands in a committed block: only such a one is cosigned (W1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosignable(Checkpoint);

impl Proposed {
    /// What must be created, under its number, and must not exist.
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// The object was created, by this proposal and no other.
    pub fn committed(self) -> Committed {
        Committed(self)
    }
}

impl Committed {
    /// How many of the facts and of the heads that were given are in it.
    pub fn taken(&self) -> (usize, usize) {
        (self.0.facts_taken, self.0.heads_taken)
    }
}

impl Cosignable {
    /// The head.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.0
    }

    /// The cosignature at this time, in seconds since the epoch.
    pub fn cosign(
        &self,
        name: &str,
        key: &PublicKey,
        unix_seconds: u64,
        sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_BYTES],
    ) -> Signature {
        let signature = sign(self.0.cosigned_text(unix_seconds).as_bytes());
        Signature::witness(name, key, unix_seconds, &signature)
    }
}

impl Book {
    /// A ledger without entries.
    pub fn new(sid: StreamId, keys: Keys) -> Self {
        let (chain, tables) = (Chain::new(sid), Tables::default());
        Self { chain, keys, tables, next_block: 0, readable_from: 0, restating: None }
    }

    /// Reads a ledger back from its blocks, in order of their numbers. Blocks ahead of the first from which reading can
    /// begin are left out: their removal was interrupted. `None`: there is no such block.
    ///
    /// # Errors
    /// See [`LedgerError`]. A ledger that is not whole is never written on.
    pub fn load(blocks: &[Block], keys: Keys) -> Result<Option<Self>, LedgerError> {
        let Some(at) = start(blocks) else {
            return match blocks.first() {
                Some(block) => Err(block.error(0, "no block begins the ledger, and none restates it whole".to_owned())),
                None => Ok(None),
            };
        };
        let mut book: Option<Self> = None;
        for block in blocks.iter().skip(at) {
            let book = match &mut book {
                Some(book) => book,
                None => {
                    let chain = block.begins().ok_or_else(|| block.error(1, "nothing begins here".to_owned()))?;
                    let tables = Tables::before(chain.range.end());
                    let begun = Self { chain, tables, next_block: block.number, ..Self::new(block_sid(block)?, keys) };
                    book.insert(begun)
                }
            };
            book.replay(block)?;
        }
        Ok(book)
    }

    fn replay(&mut self, block: &Block) -> Result<(), LedgerError> {
        if block.number != self.next_block {
            return Err(block.error(0, format!("block {} was due", self.next_block)));
        }
        for (at, body) in block.bodies()?.into_iter().enumerate() {
            let entry = self.chain.append(body).map_err(|problem| block.error(at + 1, problem))?;
            let taken = self.take(block.number, &entry);
            taken.map_err(|problem| block.error(at + 1, problem.to_owned()))?;
        }
        self.chain.check(&block.note, &self.keys.ledger).map_err(|problem| block.error(0, problem))?;
        self.next_block = block.number.saturating_add(1);
        Ok(())
    }

    /// Takes up an entry of this block.
    fn take(&mut self, block: u64, entry: &Entry) -> Result<(), &'static str> {
        if let Fact::State(state) = &entry.fact {
            if state.first.is_some() {
                self.restating = Some((block, Cursor::default()));
            }
            if state.last
                && let Some((from, _)) = self.restating.take()
            {
                self.readable_from = from;
            }
        }
        self.tables.apply(entry.seq, entry.at_ns, &entry.fact)
    }

    /// The ledger's name.
    pub fn sid(&self) -> &StreamId {
        &self.chain.sid
    }

    /// Its keys.
    pub fn keys(&self) -> Keys {
        self.keys
    }

    /// What its entries add up to.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Number of the next block.
    pub fn next_block(&self) -> u64 {
        self.next_block
    }

    /// Number of its entries.
    pub fn size(&self) -> u64 {
        self.chain.range.end()
    }

    /// When its last entry was written, in nanoseconds since the epoch.
    pub fn last_ns(&self) -> u64 {
        self.chain.last_ns
    }

    /// Blocks below this one can be removed: all that is known was restated since.
    pub fn readable_from(&self) -> u64 {
        self.readable_from
    }

    /// Whether the next block restates, and so is due also without news.
    pub fn is_restating(&self) -> bool {
        self.restating.is_some()
    }

    /// A head that stands in a committed block, if it is the last one of its stream.
    pub fn known(&self, head: &Checkpoint) -> Option<Cosignable> {
        let row = self.tables.stream(&head.origin.parse().ok()?)?;
        (row.state.size == head.size && row.state.root == head.root).then(|| Cosignable(head.clone()))
    }

    /// Proposes a block of as many of these facts and heads as fit; `None`: there is nothing to say.
    ///
    /// Heads follow facts, so that a stream can be certified and shown in one block. `sign` is that of the ledger's key.
    pub fn propose(
        &self,
        facts: &[Fact],
        heads: &[HeadRow],
        now_ns: u64,
        sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_BYTES],
    ) -> Option<Proposed> {
        let mut draft = Draft { chain: self.chain.clone(), entries: Vec::new(), text: String::new(), now_ns };
        if draft.chain.range.end() == 0 {
            draft.push(Fact::Open(self.keys.ledger, self.keys.witness));
        }
        let (restating, restated) = self.restate(&mut draft);
        let facts_taken = facts.iter().take_while(|fact| draft.push((*fact).clone())).count();
        let mut heads_taken = 0;
        if facts_taken == facts.len() {
            for part in heads.chunks(HEADS_PER_ENTRY_MAX) {
                if !draft.push(Fact::Heads(part.to_vec())) {
                    break;
                }
                heads_taken += part.len();
            }
        }
        if draft.entries.is_empty() {
            return None;
        }
        let checkpoint = Checkpoint {
            origin: self.chain.sid.to_string(),
            size: draft.chain.range.end(),
            root: draft.chain.range.root()?,
        };
        let signature = sign(checkpoint.text().as_bytes());
        let signatures = vec![Signature::log(&checkpoint.origin, &self.keys.ledger, &signature)];
        let note = SignedNote { checkpoint, signatures }.encode();
        let block = Block { number: self.next_block, entries: draft.text, note };
        let (chain, entries) = (draft.chain, draft.entries);
        Some(Proposed { block, chain, entries, restating, restated, facts_taken, heads_taken })
    }

    /// Makes a committed block count. Heads in it may be cosigned.
    ///
    /// # Errors
    /// The block is not the next one, or speaks of an unknown stream: the caller proposed it to another book.
    pub fn apply(&mut self, committed: Committed) -> Result<Vec<Cosignable>, LedgerError> {
        let Proposed { block, chain, entries, restating, restated, .. } = committed.0;
        if block.number != self.next_block {
            return Err(block.error(0, format!("block {} was due", self.next_block)));
        }
        for (at, entry) in entries.iter().enumerate() {
            let applied = self.tables.apply(entry.seq, entry.at_ns, &entry.fact);
            applied.map_err(|problem| block.error(at + 1, problem.to_owned()))?;
        }
        if restated && let Some((from, _)) = restating.as_ref().or(self.restating.as_ref()) {
            self.readable_from = *from;
        }
        self.restating = restating.filter(|_| !restated);
        self.chain = chain;
        self.next_block = block.number.saturating_add(1);
        Ok(entries.iter().flat_map(|entry| self.cosignable(&entry.fact)).collect())
    }

    fn cosignable(&self, fact: &Fact) -> Vec<Cosignable> {
        let one =
            |sid: &StreamId, size: u64, root| vec![Cosignable(Checkpoint { origin: sid.to_string(), size, root })];
        match fact {
            Fact::Heads(heads) => {
                let streams = self.tables.streams();
                let of = |head: &HeadRow| streams.get(&head.stream).map(|row| one(&row.sid, head.size, head.root));
                heads.iter().filter_map(of).flatten().collect()
            }
            Fact::Epoch(sid, size, root, _) | Fact::Closed(sid, size, root) => one(sid, *size, *root),
            _ => Vec::new(),
        }
    }

    /// Writes the next part of a restatement that is due or under way; whether it is complete.
    fn restate(&self, draft: &mut Draft) -> (Option<(u64, Cursor)>, bool) {
        let due = self.next_block.saturating_sub(self.readable_from) >= STATE_EVERY_BLOCKS;
        let (from, mut cursor) = match &self.restating {
            // Read back, not written by this keeper: begun anew.
            Some((_, cursor)) if !cursor.begun => (self.next_block, Cursor::default()),
            Some((from, cursor)) => (*from, cursor.clone()),
            None if due => (self.next_block, Cursor::default()),
            None => return (None, false),
        };
        let mut tables = Cow::Borrowed(&self.tables);
        if !cursor.begun {
            // As its first part will have it: what it forgets is not said again.
            tables.to_mut().forget(draft.at_ns());
        }
        while draft.text.len() < STATE_BYTES_PER_BLOCK_MAX {
            let mut state = StateFact::default();
            if !cursor.begun {
                let frontier = draft.chain.range.nodes().collect();
                state.first = Some((self.keys.ledger, self.keys.witness, frontier));
                cursor.begun = true;
            }
            state.last = rows(&tables, &mut cursor, &mut state);
            let last = state.last;
            if !draft.push(Fact::State(state)) || last {
                return (Some((from, cursor)), last);
            }
        }
        (Some((from, cursor)), false)
    }
}

/// The next rows, up to [`ROWS_BYTES_MAX`]; whether they are the last ones.
fn rows(tables: &Tables, cursor: &mut Cursor, state: &mut StateFact) -> bool {
    let mut left = ROWS_BYTES_MAX;
    let mut fits = |bytes: usize| {
        let fits = bytes < left;
        left = left.saturating_sub(bytes + 1);
        fits
    };
    table(tables.streams(), &mut cursor.stream, &mut state.streams, &mut fits)
        && table(tables.pods(), &mut cursor.pod, &mut state.pods, &mut fits)
        && table(tables.uncovered(), &mut cursor.uncovered, &mut state.uncovered, &mut fits)
        && table(tables.abandoned(), &mut cursor.abandoned, &mut state.abandoned, &mut fits)
        && table(tables.pruned(), &mut cursor.pruned, &mut state.pruned, &mut fits)
        && table(tables.erased(), &mut cursor.erased, &mut state.erased, &mut fits)
}

/// The next rows of one table, while they fit; whether they are its last ones.
fn table<K: Ord + Clone, R: Row + Clone>(
    known: &BTreeMap<K, R>,
    cursor: &mut Option<K>,
    rows: &mut Vec<R>,
    fits: &mut impl FnMut(usize) -> bool,
) -> bool {
    let after = cursor.clone().map_or(Bound::Unbounded, Bound::Excluded);
    for (key, row) in known.range((after, Bound::Unbounded)) {
        if !fits(row.write().len()) {
            return false;
        }
        rows.push(row.clone());
        *cursor = Some(key.clone());
    }
    true
}

/// Where reading can begin: at the ledger's first block, or at the first that begins a whole restatement.
fn start(blocks: &[Block]) -> Option<usize> {
    if blocks.first()?.number == 0 {
        return Some(0);
    }
    let mut begun = None;
    for (at, block) in blocks.iter().enumerate() {
        begun = if block.begins().is_some() { Some(at) } else { begun };
        // Most entries restate nothing, and need not be parsed for that.
        let mut restated = block.entries.lines().filter(|line| line.contains("\"typ\":\"ledger-state\""));
        let ends = restated.any(|line| {
            Entry::parse(line.as_bytes()).is_ok_and(|entry| matches!(&entry.fact, Fact::State(state) if state.last))
        });
        if ends && begun.is_some() {
            return begun;
        }
    }
    None
}

fn block_sid(block: &Block) -> Result<StreamId, LedgerError> {
    let first = block.entries.lines().next().unwrap_or_default();
    Entry::parse(first.as_bytes()).map(|entry| entry.sid).map_err(|problem| block.error(1, problem))
}

/// Entries that are being put together.
struct Draft {
    chain: Chain,
    entries: Vec<Entry>,
    text: String,
    now_ns: u64,
}

impl Draft {
    /// Time in a ledger never runs backwards.
    fn at_ns(&self) -> u64 {
        self.now_ns.max(self.chain.last_ns)
    }

    /// Appends an entry; `false`: it does not fit any more.
    fn push(&mut self, fact: Fact) -> bool {
        let Chain { sid, range, last, .. } = &self.chain;
        let at_ns = self.at_ns();
        let entry = Entry { sid: sid.clone(), seq: range.end(), prev: *last, at_ns, fact };
        let body = entry.body();
        if self.entries.len() == ENTRIES_PER_BLOCK_MAX || self.text.len() + body.len() + 1 > BLOCK_BYTES_MAX {
            return false;
        }
        let Ok(line) = std::str::from_utf8(&body) else { return false };
        self.text.push_str(line);
        self.text.push('\n');
        self.chain.push(&body, at_ns);
        self.entries.push(entry);
        true
    }
}

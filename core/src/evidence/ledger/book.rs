//! The ledger as its keeper has it: blocks are proposed, committed, and then count.

use super::block::{Block, Chain, LedgerError};
use super::draft::{Cursor, Draft, Pushed, Reserved, Standing, rows};
use super::entry::Entry;
use super::fact::{Fact, HeadRow, StateFact};
use super::outline::{Outline, start};
use super::tables::Tables;
use super::{
    HEAD_ROW_BYTES_MAX, HEADS_PER_ENTRY_MAX, HEADS_RESERVED_BYTES, KNOWN_STREAMS_MAX, STATE_BYTES_PER_BLOCK_MAX,
    STATE_EVERY_BLOCKS, STATE_EVERY_BYTES, STATE_EVERY_SECONDS,
};
use crate::evidence::note::{Checkpoint, PublicKey, SIGNATURE_BYTES, Signature, SignedNote};
use crate::evidence::stream::StreamId;
use std::borrow::Cow;

/// Public keys of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Signs the ledger's heads.
    pub ledger: PublicKey,
    /// Signs cosignatures.
    pub witness: PublicKey,
}

/// A restatement under way.
#[derive(Clone, Debug)]
struct Restating {
    /// The block in which it began.
    from: u64,
    /// When, in nanoseconds since the epoch.
    begun_ns: u64,
    /// How far it is.
    cursor: Cursor,
}

/// What was written since all that is known was last restated.
#[derive(Clone, Copy, Debug, Default)]
struct Since {
    /// When that restatement began, or else the ledger, in nanoseconds since the epoch.
    begun_ns: u64,
    /// Bytes of the blocks after it: its own do not count, or a large one would call for the next.
    bytes: usize,
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
    restating: Option<Restating>,
    since: Since,
}

/// A block that was not committed. Its note is nobody's business yet.
#[derive(Debug)]
pub struct Proposed {
    block: Block,
    chain: Chain,
    entries: Vec<Entry>,
    restating: Option<Restating>,
    restated: bool,
    /// Which of the facts that were given can stand in no block, or speak of a stream that is known no more: they are passed
    /// over.
    pub dropped: Vec<usize>,
    /// How many of the facts that were given are in it, or are passed over.
    pub facts_taken: usize,
    /// How many of the heads that were given are in it, or are of streams that are known no more.
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
    /// Which of the facts that were given can stand in no block.
    pub fn dropped(&self) -> &[usize] {
        &self.0.dropped
    }

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
        Self { chain, keys, tables, next_block: 0, readable_from: 0, restating: None, since: Since::default() }
    }

    /// Reads a ledger back from its blocks, in order of their numbers. Blocks ahead of the one that reading begins with are
    /// left out: all that they say is restated. `None`: there is no block.
    ///
    /// # Errors
    /// See [`LedgerError`]. A ledger that is not whole is never written on.
    pub fn load(blocks: &[Block], keys: Keys) -> Result<Option<Self>, LedgerError> {
        let outlines: Vec<Outline> = blocks.iter().map(Outline::of).collect();
        let mut book: Option<Self> = None;
        for block in start(&outlines)?.and_then(|at| blocks.get(at..)).into_iter().flatten() {
            match &mut book {
                Some(book) => book.replay(block)?,
                None => book = Some(Self::begin(block, keys)?),
            }
        }
        Ok(book)
    }

    /// Begins to read a ledger with this block.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn begin(block: &Block, keys: Keys) -> Result<Self, LedgerError> {
        let chain = block.begins().ok_or_else(|| block.error(1, "nothing begins here".to_owned()))?;
        let tables = Tables::before(chain.range.end());
        let mut book = Self { chain, tables, next_block: block.number, ..Self::new(block_sid(block)?, keys) };
        book.replay(block)?;
        Ok(book)
    }

    /// Reads the next block.
    ///
    /// # Errors
    /// See [`LedgerError`]; nothing may be written on what was read then.
    pub fn replay(&mut self, block: &Block) -> Result<(), LedgerError> {
        if block.number != self.next_block {
            return Err(block.error(0, format!("block {} was due", self.next_block)));
        }
        self.since.bytes = self.since.bytes.saturating_add(block.bytes());
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
        match &entry.fact {
            Fact::Open(..) => self.since.begun_ns = entry.at_ns,
            Fact::State(state) => {
                if state.first.is_some() {
                    self.restating = Some(Restating { from: block, begun_ns: entry.at_ns, cursor: Cursor::default() });
                }
                if state.last
                    && let Some(restating) = self.restating.take()
                {
                    self.restated(&restating);
                }
            }
            _ => {}
        }
        self.enter(entry)
    }

    /// What its entries add up to, with this one.
    fn enter(&mut self, entry: &Entry) -> Result<(), &'static str> {
        if matches!(&entry.fact, Fact::State(state) if state.first.is_some()) {
            self.tables.make_room();
        }
        self.tables.apply(entry.seq, entry.at_ns, &entry.fact)
    }

    /// A restatement is whole.
    fn restated(&mut self, restating: &Restating) {
        self.readable_from = restating.from;
        self.since = Since { begun_ns: restating.begun_ns, bytes: 0 };
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

    #[cfg(test)]
    pub(super) fn tables_mut(&mut self) -> &mut Tables {
        &mut self.tables
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
        let mut draft = Draft::new(self.chain.clone(), now_ns);
        if draft.chain.range.end() == 0 {
            draft.push(Fact::Open(self.keys.ledger, self.keys.witness), Reserved::default());
        }
        let (restating, restated, tables) = self.restate(&mut draft);
        let (facts_taken, dropped, heads_taken) = fill(&mut draft, Standing::new(tables), facts, heads);
        if draft.entries.is_empty() && facts_taken + heads_taken > 0 {
            // A block is made all the same: with it those are told who wait for what was passed over.
            draft.push(Fact::Heads(Vec::new()), Reserved::default());
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
        Some(Proposed { block, chain, entries, restating, restated, dropped, facts_taken, heads_taken })
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
            let applied = self.enter(entry);
            applied.map_err(|problem| block.error(at + 1, problem.to_owned()))?;
        }
        if let Some(Entry { at_ns, fact: Fact::Open(..), .. }) = entries.first() {
            self.since.begun_ns = *at_ns;
        }
        self.since.bytes = self.since.bytes.saturating_add(block.bytes());
        if restated && let Some(restating) = &restating {
            self.restated(restating);
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

    /// Whether all that is known should be restated: so that older blocks may go, and so that whoever reads the last day finds
    /// where to begin.
    fn is_due(&self, now_ns: u64) -> bool {
        let every_ns = STATE_EVERY_SECONDS.saturating_mul(1_000_000_000);
        self.next_block.saturating_sub(self.readable_from) >= STATE_EVERY_BLOCKS
            || (self.size() > 0 && now_ns.saturating_sub(self.since.begun_ns) >= every_ns)
            || self.since.bytes >= STATE_EVERY_BYTES
            // Finished streams make room.
            || self.tables.streams().len() >= KNOWN_STREAMS_MAX
    }

    /// Writes the next part of a restatement that is due or under way; whether it is complete, and what is known behind it.
    fn restate(&self, draft: &mut Draft) -> (Option<Restating>, bool, Cow<'_, Tables>) {
        let mut tables = Cow::Borrowed(&self.tables);
        let at_ns = draft.at_ns();
        let anew = || Restating { from: self.next_block, begun_ns: at_ns, cursor: Cursor::default() };
        let mut restating = match &self.restating {
            // Read back, not written by this keeper: begun anew.
            Some(restating) if !restating.cursor.begun => anew(),
            Some(restating) => restating.clone(),
            None if self.is_due(at_ns) => anew(),
            None => return (None, false, tables),
        };
        if !restating.cursor.begun {
            // As its first part will have it: what it forgets is not said again.
            tables.to_mut().make_room();
            tables.to_mut().forget(at_ns);
        }
        while draft.text.len() < STATE_BYTES_PER_BLOCK_MAX {
            let mut state = StateFact::default();
            let mut cursor = restating.cursor.clone();
            if !cursor.begun {
                let frontier = draft.chain.range.nodes().collect();
                state.first = Some((self.keys.ledger, self.keys.witness, frontier));
                cursor.begun = true;
            }
            state.last = rows(&tables, &mut cursor, &mut state);
            let last = state.last;
            if draft.push(Fact::State(state), Reserved::default()) != Pushed::Taken {
                // These rows are for the next block.
                break;
            }
            restating.cursor = cursor;
            if last {
                return (Some(restating), true, tables);
            }
        }
        (Some(restating), false, tables)
    }
}

/// As many facts and heads as fit: how many facts are in the block or passed over, which of them are passed over, and how many
/// heads are done with.
fn fill(
    draft: &mut Draft,
    mut standing: Standing<'_>,
    facts: &[Fact],
    heads: &[HeadRow],
) -> (usize, Vec<usize>, usize) {
    let reserved = reserved(heads.len());
    let (mut facts_taken, mut dropped, mut heads_taken) = (0, Vec::new(), 0);
    for (at, fact) in facts.iter().enumerate() {
        let pushed = standing.takes(fact).then(|| draft.push(fact.bounded(), reserved));
        match pushed {
            Some(Pushed::Taken) => standing.said(fact),
            Some(Pushed::Full) => break,
            Some(Pushed::TooLong) | None => dropped.push(at),
        }
        facts_taken += 1;
    }
    for part in heads.chunks(HEADS_PER_ENTRY_MAX) {
        let known = standing.heads(part);
        if !known.is_empty() && draft.push(Fact::Heads(known), Reserved::default()) != Pushed::Taken {
            break;
        }
        heads_taken += part.len();
    }
    (facts_taken, dropped, heads_taken)
}

/// What is kept for heads: however many facts there are, some heads get into each block.
fn reserved(heads: usize) -> Reserved {
    let most = HEADS_RESERVED_BYTES.div_ceil(HEADS_PER_ENTRY_MAX * HEAD_ROW_BYTES_MAX);
    let entries = heads.div_ceil(HEADS_PER_ENTRY_MAX).min(most);
    let bytes = heads.saturating_mul(HEAD_ROW_BYTES_MAX).saturating_add(entries * ENTRY_FRAME_BYTES);
    Reserved { bytes: bytes.min(HEADS_RESERVED_BYTES), entries }
}

/// Bytes of an entry besides what it says, at most about: its keys, the ledger's name, a hash, numbers.
const ENTRY_FRAME_BYTES: usize = 1_024;

fn block_sid(block: &Block) -> Result<StreamId, LedgerError> {
    let first = block.entries.lines().next().unwrap_or_default();
    Entry::parse(first.as_bytes()).map(|entry| entry.sid).map_err(|problem| block.error(1, problem))
}

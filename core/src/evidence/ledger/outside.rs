//! The ledger before a C2SP witness outside of the cluster (W3): what to send it, and what its answer means.

use super::block::{Block, Chain, LedgerError};
use super::fact::Fact;
use crate::evidence::merkle::{Range, leaf};
use crate::evidence::note::{Signature, SignedNote};
use crate::evidence::roots::NamedKey;
use crate::evidence::witness::proof::consistency;
use crate::evidence::witness::request::{Request, Tail, number};

/// Characters of an answer that are told.
const ANSWER_CHARS_MAX: usize = 200;

/// A walk over the ledger's blocks, from what the witness knows to the newest.
#[derive(Clone, Debug)]
pub struct Outside {
    witness: NamedKey,
    chain: Chain,
    next_block: u64,
    /// The entries that the witness knows; `None`: it knows of no ledger.
    known: Option<Range>,
    /// Where the witness is thought to be, while the walk has not come there.
    wanted: u64,
    /// Entries behind those.
    since: Range,
    /// The newest block's head.
    note: Option<SignedNote>,
    /// There is something to show besides what the witness itself said.
    news: bool,
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The newest head is cosigned: its note with both signatures, for [`Fact::Witnessed`].
    Cosigned(String),
    /// The witness stands elsewhere: walk again, to this size.
    Elsewhere(u64),
    /// It did not cosign; in words.
    Refused(String),
}

impl Outside {
    /// Begins with the oldest block that is there, where the witness is thought to know `wanted` entries; 0: none.
    ///
    /// # Errors
    /// Reading cannot begin with this block, or the witness is behind it.
    pub fn begin(first: &Block, wanted: u64, witness: NamedKey) -> Result<Self, LedgerError> {
        let chain = first.begins().ok_or_else(|| first.error(1, "reading cannot begin with it".to_owned()))?;
        let at = chain.range.end();
        if wanted > 0 && wanted < at {
            let problem =
                format!("the witness knows {wanted} entries, and those before {at} are not in the cluster any more");
            return Err(first.error(1, problem));
        }
        let known = (wanted > 0 && wanted == at).then(|| chain.range.clone());
        let (since, next_block) = (Range::empty(at), first.number);
        Ok(Self { witness, chain, next_block, known, wanted, since, note: None, news: false })
    }

    /// The block that comes next.
    pub fn next_block(&self) -> u64 {
        self.next_block
    }

    /// Takes up the next block.
    ///
    /// # Errors
    /// It does not follow; the walk begins anew.
    pub fn push(&mut self, block: &Block) -> Result<(), LedgerError> {
        for (at, body) in block.bodies()?.into_iter().enumerate() {
            let entry = self.chain.append(body).map_err(|problem| block.error(at + 1, problem))?;
            self.since.push(leaf(body));
            self.news |= !matches!(entry.fact, Fact::Witnessed(_));
        }
        let note = SignedNote::parse(&block.note).map_err(|error| block.error(0, error.to_string()))?;
        let (end, root) = (self.chain.range.end(), self.chain.range.root());
        if note.checkpoint.size != end || Some(note.checkpoint.root) != root {
            return Err(block.error(0, "its note is that of other entries".to_owned()));
        }
        if self.wanted == end {
            self.knows();
        }
        self.note = Some(note);
        self.next_block = block.number.saturating_add(1);
        Ok(())
    }

    fn knows(&mut self) {
        self.known = Some(self.chain.range.clone());
        self.since = Range::empty(self.chain.range.end());
        self.news = false;
    }

    /// The body of the next request; `None`: there is nothing new to show, or the walk never came to where the witness is.
    pub fn request(&self) -> Option<String> {
        let note = self.note.clone().filter(|_| self.news)?;
        let (old, proof) = match &self.known {
            None if self.astray().is_some() => return None,
            None => (0, Vec::new()),
            Some(known) => (known.end(), consistency(known, &self.since)?),
        };
        Some(Request { old, proof, note, tail: Tail::None }.encode())
    }

    /// The walk went over every block and no head has the size that the witness knows, which is this.
    pub fn astray(&self) -> Option<u64> {
        (self.wanted > 0 && self.known.is_none()).then_some(self.wanted)
    }

    /// The answer to the request that was made after the last block.
    pub fn answered(&mut self, status: u16, body: &str) -> Answer {
        let words = || body.chars().filter(|c| !c.is_control()).take(ANSWER_CHARS_MAX).collect::<String>();
        match status {
            200 => self.cosigned(body).unwrap_or_else(|| {
                Answer::Refused("the answer holds no valid cosignature of the configured key".to_owned())
            }),
            409 => match body.strip_suffix('\n').and_then(number) {
                Some(size) => Answer::Elsewhere(size),
                None => Answer::Refused(format!("409: {}", words())),
            },
            404 => Answer::Refused(format!("404: the witness does not know this ledger's key yet: {}", words())),
            _ => Answer::Refused(format!("{status}: {}", words())),
        }
    }

    fn cosigned(&mut self, body: &str) -> Option<Answer> {
        let mut note = self.note.clone()?;
        let NamedKey { name, key } = &self.witness;
        // What others sign is none of ours: the entry stays small.
        let lines = body.strip_suffix('\n').and_then(Signature::parse_lines)?;
        note.signatures.extend(lines.into_iter().filter(|line| line.name == *name));
        note.cosigned_at(name, key)?;
        self.knows();
        self.wanted = self.chain.range.end();
        Some(Answer::Cosigned(note.encode()))
    }
}

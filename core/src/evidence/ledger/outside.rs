//! The ledger before a C2SP witness outside of the cluster (W3): what to send it, and what its answer means.

use super::block::{Block, Chain, LedgerError};
use super::fact::Fact;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{Range, leaf};
use crate::evidence::note::{Signature, SignedNote};
use crate::evidence::roots::NamedKey;
use crate::evidence::stream::StreamId;
use crate::evidence::witness::proof::consistency;
use crate::evidence::witness::request::{Request, Tail, number};
use serde::{Deserialize, Serialize};

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
    /// The head that it was shown last, until it has answered: it may have taken it, whatever came back.
    shown: Option<Shown>,
    /// Entries behind those.
    since: Range,
    /// The newest block's head.
    note: Option<SignedNote>,
    /// There is something to show besides what the witness itself said, and behind the head that was shown.
    news: bool,
}

/// A head that the witness was shown and has not answered. It is shown again until it is answered: then the witness stands at
/// one of two places, and the blocks that lead from there to the newest need not be there any more.
#[derive(Clone, Debug)]
struct Shown {
    note: SignedNote,
    /// The entries under it.
    all: Range,
    /// Those of them that the witness did not know.
    since: Range,
}

/// A walk as it is kept for the next leader: by then the blocks that lead from the witness's head to the newest may be gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    /// The witness, by name and key.
    witness: String,
    ledger: StreamId,
    next_block: u64,
    /// All entries so far, and the leaf of the last one.
    entries: KeptRange,
    last: Option<String>,
    /// The entries that the witness knows.
    known: Option<KeptRange>,
    wanted: u64,
    shown: Option<KeptShown>,
    since: KeptRange,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptShown {
    note: String,
    all: KeptRange,
    since: KeptRange,
}

impl KeptShown {
    fn of(shown: &Shown) -> Self {
        Self { note: shown.note.encode(), all: KeptRange::of(&shown.all), since: KeptRange::of(&shown.since) }
    }

    fn shown(&self) -> Option<Shown> {
        let (note, all, since) = (SignedNote::parse(&self.note).ok()?, self.all.range()?, self.since.range()?);
        let (size, root) = (note.checkpoint.size, note.checkpoint.root);
        let whole = all.begin() == 0 && all.end() == size && since.end() == size && all.root() == Some(root);
        whole.then_some(Shown { note, all, since })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptRange {
    from: u64,
    to: u64,
    nodes: Vec<String>,
}

impl KeptRange {
    fn of(range: &Range) -> Self {
        Self { from: range.begin(), to: range.end(), nodes: range.nodes().map(Hash::to_hex).collect() }
    }

    fn range(&self) -> Option<Range> {
        let nodes: Vec<Hash> = self.nodes.iter().map(|node| node.parse().ok()).collect::<Option<_>>()?;
        Range::from_nodes(self.from, self.to, &nodes).ok()
    }
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The head that was shown is cosigned: its note with both signatures, for [`Fact::Witnessed`].
    Cosigned(String),
    /// The witness knows the head that it was shown: an answer was lost. It is shown once more, for its cosignature.
    Known,
    /// The witness stands elsewhere: walk again, to this size.
    Elsewhere(u64),
    /// It did not cosign; in words.
    Refused(String),
}

fn label(witness: &NamedKey) -> String {
    format!("{} {}", witness.name, witness.key)
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
        Ok(Self { witness, chain, next_block, known, wanted, shown: None, since, note: None, news: false })
    }

    /// The walk as text, for [`Self::restored`].
    pub fn kept(&self) -> String {
        let kept = Kept {
            witness: label(&self.witness),
            ledger: self.chain.sid.clone(),
            next_block: self.next_block,
            entries: KeptRange::of(&self.chain.range),
            last: self.chain.last.map(Hash::to_hex),
            known: self.known.as_ref().map(KeptRange::of),
            wanted: self.wanted,
            shown: self.shown.as_ref().map(KeptShown::of),
            since: KeptRange::of(&self.since),
        };
        // A map of strings and numbers is always JSON.
        serde_json::to_string(&kept).unwrap_or_default()
    }

    /// The walk that goes on from such a text. `None`: it is none, or of another ledger or witness. A text that is wrong in
    /// another way shows with the next block, which does not follow, or with a proof that the witness refuses.
    pub fn restored(text: &str, ledger: &StreamId, witness: &NamedKey) -> Option<Self> {
        let kept: Kept = serde_json::from_str(text).ok()?;
        if kept.ledger != *ledger || kept.witness != label(witness) {
            return None;
        }
        let (range, since) = (kept.entries.range()?, kept.since.range()?);
        let known = match &kept.known {
            Some(known) => Some(known.range()?),
            None => None,
        };
        let last = match &kept.last {
            Some(last) => Some(last.parse().ok()?),
            None => None,
        };
        let shown = match &kept.shown {
            Some(shown) => Some(shown.shown()?),
            None => None,
        };
        // What the witness knows, what it was shown, and what came since, make all entries.
        let first = shown.as_ref().map_or(&since, |shown| &shown.since);
        let follows = known.as_ref().is_none_or(|known| known.begin() == 0 && known.end() == first.begin())
            && shown.as_ref().is_none_or(|shown| shown.since.end() == since.begin());
        if range.begin() != 0 || since.end() != range.end() || !follows {
            return None;
        }
        let chain = Chain { sid: kept.ledger, range, last, last_ns: 0 };
        let (witness, next_block, wanted) = (witness.clone(), kept.next_block, kept.wanted);
        Some(Self { witness, chain, next_block, known, wanted, shown, since, note: None, news: true })
    }

    /// The ledger.
    pub fn ledger(&self) -> &StreamId {
        &self.chain.sid
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
        if self.known.is_none() && self.wanted == end {
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

    /// The body of the next request: the head that waits for its answer, or else the newest. `None`: there is nothing new to
    /// show, or the walk never came to where the witness is.
    pub fn request(&mut self) -> Option<String> {
        if self.astray().is_some() {
            return None;
        }
        if self.shown.is_none() {
            let note = self.note.clone().filter(|_| self.news)?;
            let all = self.chain.range.clone();
            let since = std::mem::replace(&mut self.since, Range::empty(all.end()));
            self.shown = Some(Shown { note, all, since });
            self.news = false;
        }
        let shown = self.shown.as_ref()?;
        let (old, proof) = match &self.known {
            None => (0, Vec::new()),
            Some(known) => (known.end(), consistency(known, &shown.since)?),
        };
        Some(Request { old, proof, note: shown.note.clone(), tail: Tail::None }.encode())
    }

    /// The walk went over every block and no head has the size that the witness knows, which is this.
    pub fn astray(&self) -> Option<u64> {
        (self.wanted > 0 && self.known.is_none()).then_some(self.wanted)
    }

    /// The answer to the last request.
    pub fn answered(&mut self, status: u16, body: &str) -> Answer {
        let words = || body.chars().filter(|c| !c.is_control()).take(ANSWER_CHARS_MAX).collect::<String>();
        match status {
            200 => self.cosigned(body).unwrap_or_else(|| {
                Answer::Refused("the answer holds no valid cosignature of the configured key".to_owned())
            }),
            409 => match body.strip_suffix('\n').and_then(number) {
                Some(size) if self.took(size) => Answer::Known,
                Some(size) => Answer::Elsewhere(size),
                None => Answer::Refused(format!("409: {}", words())),
            },
            404 => Answer::Refused(format!("404: the witness does not know this ledger's key yet: {}", words())),
            _ => Answer::Refused(format!("{status}: {}", words())),
        }
    }

    /// Whether the witness took the head that it was shown, if it says that it stands at this size.
    fn took(&mut self, size: u64) -> bool {
        let known = self.known.as_ref().map_or(0, Range::end);
        let Some(shown) = self.shown.as_mut().filter(|shown| shown.all.end() == size && size > known) else {
            return false;
        };
        shown.since = Range::empty(size);
        (self.known, self.wanted) = (Some(shown.all.clone()), size);
        true
    }

    fn cosigned(&mut self, body: &str) -> Option<Answer> {
        let shown = self.shown.as_ref()?;
        let mut note = shown.note.clone();
        let NamedKey { name, key } = &self.witness;
        // What others sign is none of ours: the entry stays small.
        let lines = body.strip_suffix('\n').and_then(Signature::parse_lines)?;
        note.signatures.extend(lines.into_iter().filter(|line| line.name == *name));
        note.cosigned_at(name, key)?;
        (self.wanted, self.known) = (shown.all.end(), Some(shown.all.clone()));
        self.shown = None;
        Some(Answer::Cosigned(note.encode()))
    }
}

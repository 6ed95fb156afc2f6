//! A part of a ledger in which reading cannot begin: an export over a time holds neither its first entry nor, perhaps, all of those
//! that restate what is known.
//!
//! Nothing of such a part can be used, as the root of a signed head cannot be computed without what came before. What can be
//! told all the same is told: that entries do not follow each other, that a head says that there is more, that no head of them
//! was signed. So an altered entry is still found, unless all behind it were made up too; and those say nothing.

use super::trust::Ledger;
use super::verdict::{Finding, Verdict};
use crate::evidence::ledger::Fact;
use crate::evidence::ledger::block::Chain;
use crate::evidence::ledger::entry::Entry;
use crate::evidence::ledger::pick::note;
use crate::evidence::ledger::rows::{Role, Row};
use crate::evidence::merkle::Range;
use crate::evidence::note::SignedNote;
use crate::evidence::roots::NamedKey;
use crate::evidence::stream::StreamId;

/// Entries that follow each other, with nothing to begin with among them: it takes the sorted rows of a ledger.
pub(super) struct Part {
    named: NamedKey,
    sid: StreamId,
    chain: Option<Chain>,
    /// The first entry.
    from: u64,
    /// Size of the last of their heads.
    signed: Option<u64>,
    /// A restatement has begun: of one that has not come to its end nothing can be used either.
    begun: bool,
    /// Something else is wrong, or reading can begin.
    is_other: bool,
}

impl Part {
    /// Of this ledger.
    pub(super) fn new(sid: &StreamId, named: &NamedKey) -> Self {
        let (named, sid) = (named.clone(), sid.clone());
        Self { named, sid, chain: None, from: 0, signed: None, begun: false, is_other: false }
    }

    /// The next row.
    pub(super) fn row(&mut self, row: &Row<'_>) {
        match row.role {
            Role::Entry if !self.is_other => self.is_other = self.follow(row.seq, row.body).is_none(),
            Role::Head => {
                let own = note(row.body).filter(|note| is_own(note, &self.named));
                self.signed = own.map(|note| note.checkpoint.size).or(self.signed);
            }
            Role::Entry | Role::Cosigned => {}
        }
    }

    /// `None`: it does not follow, or reading can begin with it.
    fn follow(&mut self, seq: u64, body: &[u8]) -> Option<()> {
        let chain = match &mut self.chain {
            Some(chain) => chain,
            None => {
                // What came before is not there, so its root is not known; that entries follow is.
                let last = Entry::parse(body).ok()?.prev;
                self.from = seq;
                self.chain.insert(Chain { sid: self.sid.clone(), range: Range::empty(seq), last, last_ns: 0 })
            }
        };
        let entry = chain.append(body).ok()?;
        self.begun |= Chain::before(&entry).is_some();
        if entry.seq == 0 || (self.begun && matches!(&entry.fact, Fact::State(state) if state.last)) {
            return None;
        }
        if let Fact::Witnessed(note) = &entry.fact {
            SignedNote::parse(note).ok().filter(|note| is_own(note, &self.named))?;
        }
        Some(())
    }

    /// It, if it is one.
    pub(super) fn whole(self) -> Option<Self> {
        let signed = self.signed.filter(|signed| self.from < *signed && *signed <= self.to())?;
        (!self.is_other && signed > 0).then_some(self)
    }

    fn to(&self) -> u64 {
        self.chain.as_ref().map_or(0, |chain| chain.range.end())
    }

    /// What it amounts to.
    pub(super) fn findings(self, sid: &StreamId) -> Vec<Finding> {
        let (from, to, signed) = (self.from, self.to(), self.signed.unwrap_or_default());
        let message = format!(
            "of ledger {sid} only entries {from} to {} are in the input, and reading can begin with none of them: nothing of it was \
             used; give the whole ledger with --ledger FILE (`testimony ledger export`), or export a longer time",
            to.saturating_sub(1)
        );
        let mut findings = vec![Finding::export(Verdict::Unanchored, message)];
        findings.extend((signed < to).then(|| Ledger::behind_its_head(sid, to.saturating_sub(signed))));
        findings
    }
}

fn is_own(note: &SignedNote, named: &NamedKey) -> bool {
    note.checkpoint.origin == named.name && note.is_signed_by(&named.name, &named.key)
}

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
use crate::evidence::ledger::export::{Bodies, sort};
use crate::evidence::merkle::Range;
use crate::evidence::note::SignedNote;
use crate::evidence::roots::NamedKey;
use crate::evidence::stream::StreamId;
use std::collections::BTreeMap;

/// Entries `[from, to)` that follow each other, with nothing to begin with among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    from: u64,
    to: u64,
    /// Size of the last of their heads.
    signed: u64,
}

impl Part {
    /// `None`: something else is wrong, or reading can begin.
    pub(super) fn read(sid: &StreamId, named: &NamedKey, bodies: &[String]) -> Option<Self> {
        let Bodies { claims, heads } = sort(sid, named.key, bodies.iter().map(|body| body.as_bytes())).ok()?;
        let mut entries = BTreeMap::new();
        for (seq, bodies) in claims {
            let [body] = bodies[..] else { return None };
            entries.insert(seq, body);
        }
        let (from, to) = follow(sid, named, &entries)?;
        let signed = *heads.keys().next_back()?;
        (from < signed && signed <= to).then_some(Self { from, to, signed })
    }

    /// What it amounts to.
    pub(super) fn findings(self, sid: &StreamId) -> Vec<Finding> {
        let Self { from, to, signed } = self;
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

/// First and last, plus 1, of entries that follow each other, if reading can begin with none.
fn follow(sid: &StreamId, named: &NamedKey, entries: &BTreeMap<u64, &[u8]>) -> Option<(u64, u64)> {
    let (from, first) = entries.first_key_value()?;
    let last = Entry::parse(first).ok()?.prev;
    // What came before is not there, so its root is not known; that entries follow is.
    let mut chain = Chain { sid: sid.clone(), range: Range::empty(*from), last, last_ns: 0 };
    let mut begun = false;
    for body in entries.values() {
        let entry = chain.append(body).ok()?;
        // Of a restatement that has not come to its end nothing can be used either.
        begun |= Chain::before(&entry).is_some();
        if entry.seq == 0 || (begun && matches!(&entry.fact, Fact::State(state) if state.last)) {
            return None;
        }
        if let Fact::Witnessed(note) = &entry.fact {
            SignedNote::parse(note).ok().filter(|note| is_own(note, named))?;
        }
    }
    Some((*from, chain.range.end()))
}

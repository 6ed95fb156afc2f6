//! Heads of a ledger that are older than its last ones, and matter: a second pass over what was proved.

use crate::evidence::hash::Hash;
use crate::evidence::ledger::Fact;
use crate::evidence::ledger::entry::Entry;
use crate::evidence::ledger::pass::Said;
use crate::evidence::ledger::pick::Take;
use crate::evidence::ledger::rows::{Role, Row};
use crate::evidence::merkle::leaf;
use crate::evidence::stream::StreamId;
use std::collections::{BTreeMap, HashSet};

/// Heads of streams by where what was abandoned of them begins: the largest up to there.
pub(super) type Best = BTreeMap<(StreamId, u64), (u64, Hash)>;

/// Looks for heads of streams of which records were abandoned. What was may begin elsewhere for each sink.
pub(super) struct Older<'a> {
    numbers: &'a BTreeMap<u64, StreamId>,
    ahead: &'a HashSet<Hash>,
    abandoned: BTreeMap<&'a StreamId, Vec<u64>>,
    pub(super) best: Best,
}

impl<'a> Older<'a> {
    pub(super) fn of(said: &'a Said) -> Option<Self> {
        let mut abandoned: BTreeMap<&StreamId, Vec<u64>> = BTreeMap::new();
        for (_, fact) in &said.summary.others {
            if let Fact::Abandoned(row) = fact {
                abandoned.entry(&row.sid).or_default().push(row.from);
            }
        }
        (!abandoned.is_empty()).then(|| Self {
            numbers: &said.numbers,
            ahead: &said.ahead,
            abandoned,
            best: Best::new(),
        })
    }

    fn look(&mut self, sid: &StreamId, size: u64, root: Hash) {
        for from in self.abandoned.get(sid).into_iter().flatten().filter(|from| size <= **from) {
            let known = self.best.entry((sid.clone(), *from)).or_insert((size, root));
            if known.0 < size {
                *known = (size, root);
            }
        }
    }
}

impl Older<'_> {
    /// Every row: to entries ahead of those with which reading began the picker does not come.
    pub(super) fn row(&mut self, row: &Row<'_>) {
        if row.role == Role::Entry && !self.ahead.is_empty() && self.ahead.contains(&leaf(row.body)) {
            self.entry(row.seq, row.body, false);
        }
    }
}

impl Take for Older<'_> {
    fn entry(&mut self, _seq: u64, body: &[u8], _cosigned: bool) {
        let is = |typ: &str| std::str::from_utf8(body).is_ok_and(|body| body.contains(typ));
        if !is("\"typ\":\"ledger-head\"") && !is("\"typ\":\"ledger-epoch\"") {
            return;
        }
        match Entry::parse(body).map(|entry| entry.fact) {
            Ok(Fact::Heads(rows)) => {
                let numbers = self.numbers;
                let known = rows.iter().filter_map(|row| Some((numbers.get(&row.stream)?, row)));
                known.for_each(|(sid, row)| self.look(sid, row.size, row.root));
            }
            Ok(Fact::Epoch(sid, size, root, _)) => self.look(&sid, size, root),
            _ => {}
        }
    }

    fn signed(&mut self) {}

    fn leads_back(&mut self, _leaf: Hash) {}
}

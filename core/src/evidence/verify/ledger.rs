//! From what an operator's ledger says to what a verification makes of it.

use super::fact::Life;
use super::trust::{Abandoned, Begin, ExpectedPod, Ledger, LedgerStream, MissingEntries, Uncovered, Witness};
use super::verdict::{Finding, Verdict};
use crate::evidence::ledger::pick::Refused;
use crate::evidence::ledger::read::Summary;
use crate::evidence::ledger::{self, Fact};
use crate::evidence::note::SignedNote;
use crate::evidence::roots::NamedKey;
use crate::evidence::stream::StreamId;
use std::collections::btree_map::Entry;

impl LedgerStream {
    /// Takes up what another ledger says of it: what was heard later counts, whichever comes first. Returns whether the other one
    /// heard of it later.
    fn join(&mut self, other: Self) -> bool {
        let is_newer = (other.to_ns, other.size) > (self.to_ns, self.size);
        let older = if is_newer { std::mem::replace(self, other) } else { other };
        self.key = self.key.or(older.key);
        self.certified_ns = [self.certified_ns, older.certified_ns].into_iter().flatten().min();
        for (size, key) in older.later_keys {
            self.later_keys.entry(size).or_insert(key);
        }
        self.heads.extend(older.heads);
        self.heads.push((older.size, older.root));
        is_newer
    }
}

impl Ledger {
    /// Entries that no head covers.
    pub(super) fn behind_its_head(sid: &StreamId, count: u64) -> Finding {
        let message = format!("{count} entries of ledger {sid} stand behind its last signed head");
        Finding::export(Verdict::Foreign, message)
    }

    pub(super) fn empty(cluster_uid: &str) -> Self {
        Self { cluster_uid: cluster_uid.to_owned(), ..Self::default() }
    }

    /// Takes up what another ledger of the cluster says: an operator that starts over begins a new one. `false`: it is
    /// another cluster's.
    pub(super) fn join(&mut self, other: Self) -> bool {
        if self.cluster_uid != other.cluster_uid {
            return false;
        }
        let mut shown = other.shown;
        for (sid, said) in other.streams {
            let theirs = shown.remove(&sid);
            let is_newer = match self.streams.entry(sid.clone()) {
                Entry::Vacant(free) => {
                    free.insert(said);
                    true
                }
                Entry::Occupied(mut known) => known.get_mut().join(said),
            };
            if let Some(theirs) = theirs.filter(|_| is_newer) {
                self.shown.insert(sid, theirs);
            }
        }
        self.pods.extend(other.pods);
        self.uncovered.extend(other.uncovered);
        for (sid, parts) in other.abandoned {
            self.abandoned.entry(sid).or_default().extend(parts);
        }
        self.abandoned.values_mut().for_each(|parts| parts.sort_by_key(|part| part.records.start));
        self.pruned.extend(other.pruned);
        self.erased.extend(other.erased);
        self.told.extend(other.told);
        self.outages.extend(other.outages);
        self.missing.extend(other.missing);
        self.begins.extend(other.begins);
        self.witnessed.extend(other.witnessed);
        self.own_witnesses.extend(other.own_witnesses);
        self.last_ns = self.last_ns.max(other.last_ns);
        true
    }

    pub(super) fn of(sid: &StreamId, summary: Summary) -> Self {
        let cluster_uid = sid.parts().map(|parts| parts.cluster_uid.to_owned()).unwrap_or_default();
        let stream = |said: crate::evidence::ledger::read::StreamSaid| LedgerStream {
            key: said.first_key,
            certified_ns: said.certified_ns,
            later_keys: said.later_keys,
            heads: Vec::new(),
            size: said.size,
            root: said.root,
            life: match said.life {
                ledger::Life::Open => Life::Open,
                ledger::Life::Closed => Life::Closed,
                ledger::Life::Lost => Life::Lost,
            },
            to_ns: said.at_ns,
        };
        let uncovered = |(pod, to): (ledger::UncoveredRow, Option<u64>)| {
            let until = if to.is_some() { ", meanwhile over" } else { "" };
            let what = format!("{}: {}{until}", pod.name, pod.reason);
            Uncovered { namespace: pod.namespace, what, from_ns: pod.from_ns, to_ns: to }
        };
        let pod = |said: ledger::read::PodSaid| ExpectedPod {
            uid: said.pod.uid,
            namespace: said.pod.namespace,
            name: said.pod.name,
            from_ns: said.pod.from_ns,
            to_ns: said.to_ns,
        };
        let missing =
            |ledger::read::Missing { entries, between_ns }| MissingEntries { sid: sid.clone(), entries, between_ns };
        let begin = || Begin { sid: sid.clone(), entry: summary.from, at_ns: summary.from_ns };
        let begins = (summary.from > 0).then(begin);
        let namespace = sid.parts().map(|parts| parts.namespace).unwrap_or_default();
        let own = |key| Witness { name: ledger::witness_name(&cluster_uid, namespace), key };
        let shown = |(sid, said): (&StreamId, &ledger::read::StreamSaid)| (sid.clone(), said.shown.clone());
        let mut this = Self {
            shown: summary.streams.iter().map(shown).collect(),
            streams: summary.streams.into_iter().map(|(sid, said)| (sid, stream(said))).collect(),
            pods: summary.pods.into_values().map(pod).collect(),
            uncovered: summary.uncovered.into_iter().map(uncovered).collect(),
            outages: summary.outages,
            missing: summary.missing.into_iter().map(missing).collect(),
            begins: begins.into_iter().collect(),
            last_ns: summary.last_ns,
            witnessed: summary.witnessed,
            own_witnesses: summary.witness.into_iter().map(own).collect(),
            ..Self::empty(&cluster_uid)
        };
        summary.others.into_iter().for_each(|(seq, fact)| this.besides(seq, fact));
        this
    }

    /// What it says besides of streams.
    fn besides(&mut self, seq: u64, fact: Fact) {
        match fact {
            Fact::Abandoned(ledger::AbandonedRow { sid, from, to, reason, sink }) => {
                self.abandoned.entry(sid).or_default().push(Abandoned { records: from..to, reason, sink });
            }
            Fact::Pruned(order) => self.pruned.push(order),
            Fact::Erased(order) => self.erased.push(order),
            Fact::Rebased(sid, old, new, _) => {
                if let Some(stream) = self.streams.get_mut(&sid) {
                    // The records prove both, or deny one.
                    stream.heads.extend([old, new]);
                }
                let (known, cosigned) = (old.0, new.0);
                let what = format!(
                    "rebased (entry {seq}): the ledger had gone back to {known} records, though the witness had cosigned {cosigned}"
                );
                self.told.push((sid, what));
            }
            Fact::Unwrapped(sid, pod) => {
                self.told.push((sid, format!("unwrapped (entry {seq}): a key of its spool was given to pod {pod}")));
            }
            _ => {}
        }
    }
}

/// Bodies that claim to be entries: anyone may push some, and they harm no others.
pub(super) fn refused(sid: &StreamId, refused: Refused) -> impl Iterator<Item = Finding> {
    let altered = refused.altered.map(|(first, count)| {
        let message = format!("{count} entries of ledger {sid}, entry {first} first, are not what was signed");
        Finding::export(Verdict::Tampered, message)
    });
    let foreign = refused.foreign.map(|(first, count)| {
        let message = format!(
            "{count} bodies, the first as entry {first}, claim to be of ledger {sid}: nothing signed proves them"
        );
        Finding::export(Verdict::Foreign, message)
    });
    altered.into_iter().chain(foreign)
}

/// A ledger of which the roots say nothing.
pub(super) fn stranger(sid: &str, keys: &[NamedKey]) -> Finding {
    if keys.is_empty() {
        let message = format!("the roots hold no key of ledger {sid} (`ledger KEY`): it was not used");
        return Finding::export(Verdict::Unanchored, message);
    }
    let message = format!(
        "entries of ledger {sid}, whose key is not in the roots: nothing proves them. The roots may be another cluster's, or older \
         than this ledger: `testimony roots` prints those of now, to be compared by another way"
    );
    Finding::export(Verdict::Foreign, message)
}

/// A ledger of the roots of which no entry is in the input.
pub(super) fn absent(named: &NamedKey, kept: &[SignedNote]) -> Finding {
    let name = &named.name;
    let own = kept.iter().filter(|note| note.is_signed_by(name, &named.key)).map(|note| note.checkpoint.size);
    let (verdict, message) = match own.max() {
        Some(size) => {
            let message = format!("ledger {name}: one of {size} entries was seen before; none is in the input");
            (Verdict::Tampered, message)
        }
        None => (Verdict::Unanchored, format!("ledger {name} of the roots is not in the input")),
    };
    Finding::export(verdict, message)
}

/// What the witness itself found.
pub(super) fn alarm(seq: u64, fact: &Fact) -> Option<Finding> {
    let (sid, message) = match fact {
        Fact::Fork(sid, _) => (sid, format!("the ledger (entry {seq}) holds a second signed head of one size")),
        _ => return None,
    };
    Some(Finding::whole(Verdict::Fork, sid, message))
}

//! From the bodies of an operator's ledger to what a verification makes of them.

use super::fact::Life;
use super::part::Part;
use super::trust::{Abandoned, ExpectedPod, Ledger, LedgerStream, MissingEntries, Uncovered, Witness};
use super::verdict::{Finding, Verdict};
use crate::canon::parse_body;
use crate::evidence::hash::Hash;
use crate::evidence::ledger::entry::Entry;
use crate::evidence::ledger::export::{head_body, read_bodies};
use crate::evidence::ledger::pick::Refused;
use crate::evidence::ledger::read::Summary;
use crate::evidence::ledger::{self, Fact};
use crate::evidence::merkle::leaf;
use crate::evidence::note::SignedNote;
use crate::evidence::roots::NamedKey;
use crate::evidence::stream::StreamId;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

impl Ledger {
    /// Reads ledgers from bodies in any order; `keys` are those of the trust roots. Nothing but what one of them signed
    /// counts, and a ledger that is not whole does not count at all: what is wrong is told in findings.
    pub fn read(keys: &[NamedKey], bodies: &[String]) -> (Option<Self>, Vec<Finding>) {
        Self::read_against(keys, bodies, &[])
    }

    /// The same, held against heads that somebody kept (W3): each stands among the ledger's own, so that its size is the least
    /// that the ledger must have, and what it covers must be there unchanged.
    pub fn read_against(keys: &[NamedKey], bodies: &[String], kept: &[SignedNote]) -> (Option<Self>, Vec<Finding>) {
        let mut bodies = Cow::Borrowed(bodies);
        if !kept.is_empty() {
            // Behind those of the export: of two heads of one size the one that was kept counts.
            let heads = kept.iter().filter_map(|note| String::from_utf8(head_body(&note.encode())).ok());
            bodies.to_mut().extend(heads);
        }
        let bodies: &[String] = &bodies;
        let mut findings = Vec::new();
        let mut ledger: Option<Self> = None;
        let there: BTreeSet<StreamId> = bodies.iter().filter_map(|body| place(body)).map(|(sid, _)| sid).collect();
        for sid in &there {
            let key = keys.iter().find(|named| named.name == sid.as_str());
            let read = match key {
                None => Err(vec![stranger(sid, keys)]),
                Some(named) => proved(sid, named, bodies).map_err(|problem| unread(sid, named, bodies, &problem)),
            };
            match read {
                Err(problems) => findings.extend(problems),
                Ok((summary, unproved)) => {
                    findings.extend((unproved > 0).then(|| Self::behind_its_head(sid, unproved)));
                    findings.extend(refused(sid, &summary.refused));
                    findings.extend(summary.others.iter().filter_map(|(seq, fact)| alarm(*seq, fact)));
                    let size = summary.size;
                    let strangers = summary.refused.iter().map(|body| body.leaf).collect();
                    let mut said = Self::of(sid, summary);
                    said.older_heads(sid, size, bodies, &strangers);
                    if !ledger.get_or_insert_with(|| Self::empty(&said.cluster_uid)).join(said) {
                        let message =
                            format!("ledger {sid} is another cluster's, and was not used: give its roots alone");
                        findings.push(Finding::export(Verdict::Unanchored, message));
                    }
                }
            }
        }
        for named in keys.iter().filter(|named| !there.iter().any(|sid| sid.as_str() == named.name)) {
            findings.push(absent(named, kept));
        }
        (ledger, findings)
    }

    /// Whether a body claims to be an entry of a ledger.
    pub fn is_entry(body: &str) -> bool {
        place(body).is_some()
    }

    /// Entries that no head covers.
    pub(super) fn behind_its_head(sid: &StreamId, count: u64) -> Finding {
        let message = format!("{count} entries of ledger {sid} stand behind its last signed head");
        Finding::export(Verdict::Foreign, message)
    }

    fn empty(cluster_uid: &str) -> Self {
        Self { cluster_uid: cluster_uid.to_owned(), ..Self::default() }
    }

    /// Takes up what another ledger of the cluster says: an operator that starts over begins a new one. `false`: it is
    /// another cluster's.
    fn join(&mut self, other: Self) -> bool {
        if self.cluster_uid != other.cluster_uid {
            return false;
        }
        self.streams.extend(other.streams);
        self.shown.extend(other.shown);
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

    fn of(sid: &StreamId, summary: Summary) -> Self {
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
        let begins = (summary.from > 0).then(|| (sid.clone(), summary.from));
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

    /// Up to where what was abandoned begins, records may be there that no head in the export covers: the ledger's own do.
    /// It may begin elsewhere for each sink.
    fn older_heads(&mut self, ledger: &StreamId, size: u64, bodies: &[String], strangers: &BTreeSet<Hash>) {
        if self.abandoned.is_empty() {
            return;
        }
        let entries = |typ: &'static str| {
            let typ = format!("\"typ\":\"{typ}\"");
            let genuine = |body: &&String| strangers.is_empty() || !strangers.contains(&leaf(body.as_bytes()));
            let bodies = bodies.iter().filter(move |body| body.contains(&typ)).filter(genuine);
            bodies.filter_map(|body| Entry::parse(body.as_bytes()).ok()).filter(|e| e.sid == *ledger && e.seq < size)
        };
        let mut numbers: BTreeMap<u64, StreamId> = BTreeMap::new();
        for entry in entries("ledger-certified").chain(entries("ledger-state")) {
            match entry.fact {
                Fact::Certified(sid, ..) => {
                    numbers.insert(entry.seq, sid);
                }
                Fact::State(state) => numbers.extend(state.streams.into_iter().map(|row| (row.number, row.sid))),
                _ => {}
            }
        }
        numbers.retain(|_, sid| self.abandoned.contains_key(sid));
        let mut best: BTreeMap<(StreamId, u64), (u64, Hash)> = BTreeMap::new();
        let mut look = |sid: &StreamId, size: u64, root: Hash| {
            for part in self.abandoned.get(sid).into_iter().flatten().filter(|part| size <= part.records.start) {
                let known = best.entry((sid.clone(), part.records.start)).or_insert((size, root));
                if known.0 < size {
                    *known = (size, root);
                }
            }
        };
        for entry in entries("ledger-head").chain(entries("ledger-epoch")) {
            match entry.fact {
                Fact::Heads(rows) => {
                    let known = rows.iter().filter_map(|row| Some((numbers.get(&row.stream)?, row)));
                    known.for_each(|(sid, row)| look(sid, row.size, row.root));
                }
                Fact::Epoch(sid, size, root, _) => look(&sid, size, root),
                _ => {}
            }
        }
        for ((sid, _), head) in best {
            let stream = self.streams.get_mut(&sid).filter(|stream| !stream.heads.contains(&head));
            stream.into_iter().for_each(|stream| stream.heads.push(head));
        }
    }
}

/// Of an entry: its ledger and its place.
fn place(body: &str) -> Option<(StreamId, u64)> {
    let fields = parse_body(body.as_bytes()).ok()?;
    let text = |key: &str| fields.get(key).and_then(|value| std::str::from_utf8(value).ok());
    text("typ").filter(|typ| typ.starts_with(ledger::entry::TYPE_PREFIX))?;
    Some((text("sid")?.parse().ok()?, text("seq")?.parse().ok()?))
}

/// What the entries under the last signed head say, and how many stand behind it: they say nothing.
fn proved(sid: &StreamId, key: &NamedKey, bodies: &[String]) -> Result<(Summary, u64), String> {
    let summary = read_bodies(sid, key.key, bodies.iter().map(|body| body.as_bytes()))?;
    if summary.size == 0 {
        return Err("no signed head of its entries is there".to_owned());
    }
    let refused = u64::try_from(summary.refused.len()).unwrap_or(u64::MAX);
    let behind = summary.unproved.saturating_sub(refused);
    Ok((summary, behind))
}

/// Bodies that claim to be entries: anyone may push some, and they harm no others.
fn refused(sid: &StreamId, refused: &[Refused]) -> impl Iterator<Item = Finding> {
    let about = |altered: bool| {
        let mut which = refused.iter().filter(|body| body.altered == altered).map(|body| body.seq);
        which.next().map(|first| (first, which.count().saturating_add(1)))
    };
    let altered = about(true).map(|(first, count)| {
        let message = format!("{count} entries of ledger {sid}, entry {first} first, are not what was signed");
        Finding::export(Verdict::Tampered, message)
    });
    let foreign = about(false).map(|(first, count)| {
        let message = format!(
            "{count} bodies, the first as entry {first}, claim to be of ledger {sid}: nothing signed proves them"
        );
        Finding::export(Verdict::Foreign, message)
    });
    altered.into_iter().chain(foreign)
}

/// A ledger of which the roots say nothing.
fn stranger(sid: &StreamId, keys: &[NamedKey]) -> Finding {
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
fn absent(named: &NamedKey, kept: &[SignedNote]) -> Finding {
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

/// What it means that a ledger cannot be read.
fn unread(sid: &StreamId, named: &NamedKey, bodies: &[String], problem: &str) -> Vec<Finding> {
    if let Some(part) = Part::read(sid, named, bodies) {
        return part.findings(sid);
    }
    let message = format!("ledger {sid} is not what was signed, or not whole, and was not used: {problem}");
    vec![Finding::export(Verdict::Tampered, message)]
}

/// What the witness itself found.
fn alarm(seq: u64, fact: &Fact) -> Option<Finding> {
    let (sid, message) = match fact {
        Fact::Fork(sid, _) => (sid, format!("the ledger (entry {seq}) holds a second signed head of one size")),
        _ => return None,
    };
    Some(Finding::whole(Verdict::Fork, sid, message))
}

//! From the bodies of an operator's ledger to what a verification makes of them.

use super::fact::Life;
use super::trust::{ExpectedPod, Ledger, LedgerStream};
use super::verdict::{Finding, Verdict};
use crate::canon::parse_body;
use crate::evidence::ledger::export::read_bodies;
use crate::evidence::ledger::read::Summary;
use crate::evidence::ledger::{self, Fact};
use crate::evidence::roots::NamedKey;
use crate::evidence::stream::StreamId;
use std::collections::BTreeSet;

impl Ledger {
    /// Reads ledgers from bodies in any order; `keys` are those of the trust roots. Nothing but what one of them signed
    /// counts, and a ledger that is not whole does not count at all: what is wrong is told in findings.
    pub fn read(keys: &[NamedKey], bodies: &[String]) -> (Option<Self>, Vec<Finding>) {
        let mut findings = Vec::new();
        let mut ledger: Option<Self> = None;
        let there: BTreeSet<StreamId> = bodies.iter().filter_map(|body| place(body)).map(|(sid, _)| sid).collect();
        for sid in &there {
            let key = keys.iter().find(|named| named.name == sid.as_str());
            let read = match key {
                None if keys.is_empty() => {
                    let message = format!("the roots hold no key of ledger {sid} (`ledger KEY`): it was not used");
                    Err(Finding::export(Verdict::Unanchored, message))
                }
                None => {
                    let message =
                        format!("entries of ledger {sid}, whose key is not in the roots: nothing proves them");
                    Err(Finding::export(Verdict::Foreign, message))
                }
                Some(named) => proved(sid, named, bodies).map_err(|problem| {
                    let message =
                        format!("ledger {sid} is not what was signed, or not whole, and was not used: {problem}");
                    Finding::export(Verdict::Tampered, message)
                }),
            };
            match read {
                Err(finding) => findings.push(finding),
                Ok((summary, unproved)) => {
                    if unproved > 0 {
                        let message = format!("{unproved} entries of ledger {sid} stand behind its last signed head");
                        findings.push(Finding::export(Verdict::Foreign, message));
                    }
                    findings.extend(summary.others.iter().filter_map(|(seq, fact)| alarm(*seq, fact)));
                    let said = Self::of(sid, summary);
                    if !ledger.get_or_insert_with(|| Self::empty(&said.cluster_uid)).join(said) {
                        let message =
                            format!("ledger {sid} is another cluster's, and was not used: give its roots alone");
                        findings.push(Finding::export(Verdict::Unanchored, message));
                    }
                }
            }
        }
        for named in keys.iter().filter(|named| !there.iter().any(|sid| sid.as_str() == named.name)) {
            let message = format!("ledger {} of the roots is not in the input", named.name);
            findings.push(Finding::export(Verdict::Unanchored, message));
        }
        (ledger, findings)
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
        self.pods.extend(other.pods);
        self.uncovered.extend(other.uncovered);
        self.outages.extend(other.outages);
        self.last_ns = self.last_ns.max(other.last_ns);
        true
    }

    fn of(sid: &StreamId, summary: Summary) -> Self {
        let cluster_uid = sid.parts().map(|parts| parts.cluster_uid.to_owned()).unwrap_or_default();
        let stream = |said: crate::evidence::ledger::read::StreamSaid| LedgerStream {
            key: said.first_key,
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
            (pod.namespace, format!("{}: {}{until}", pod.name, pod.reason))
        };
        let pod = |said: ledger::read::PodSaid| ExpectedPod {
            uid: said.pod.uid,
            namespace: said.pod.namespace,
            name: said.pod.name,
            from_ns: said.pod.from_ns,
            to_ns: said.to_ns,
        };
        Self {
            cluster_uid,
            streams: summary.streams.into_iter().map(|(sid, said)| (sid, stream(said))).collect(),
            pods: summary.pods.into_values().map(pod).collect(),
            uncovered: summary.uncovered.into_iter().map(uncovered).collect(),
            outages: summary.outages,
            last_ns: summary.last_ns,
            external: false,
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
    let read =
        |bodies: &mut dyn Iterator<Item = &String>| read_bodies(sid, key.key, bodies.map(|body| body.as_bytes()));
    let all = read(&mut bodies.iter())?;
    if all.size == 0 {
        return Err("no signed head of its entries is there".to_owned());
    }
    if all.unproved == 0 {
        return Ok((all, 0));
    }
    let behind = |body: &&String| place(body).is_none_or(|(of, seq)| of != *sid || seq < all.size);
    Ok((read(&mut bodies.iter().filter(behind))?, all.unproved))
}

/// What the witness itself found.
fn alarm(seq: u64, fact: &Fact) -> Option<Finding> {
    let (sid, message) = match fact {
        Fact::Fork(sid, _) => (sid, format!("the ledger (entry {seq}) holds a second signed head of one size")),
        _ => return None,
    };
    Some(Finding::whole(Verdict::Fork, sid, message))
}

//! Reading an export of a ledger: what it says in the end, and whether it is whole.

use super::block::Chain;
use super::entry::{Entry, typ};
use super::fact::{AbandonedRow, Fact, Life, PodRow, UncoveredRow};
use super::pick::{Refused, note};
use super::shown::{Shown, Times};
use super::tables::Tables;
use crate::evidence::hash::Hash;
use crate::evidence::note::{PublicKey, SignedNote};
use crate::evidence::stream::StreamId;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What a ledger says of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSaid {
    /// Its first key, where the entry that certified it is in the export, or one that restates it before its first epoch ended.
    pub first_key: Option<PublicKey>,
    /// Keys of its later epochs, where the entries that name them are in the export: each signs heads larger than this size.
    pub later_keys: BTreeMap<u64, PublicKey>,
    /// Its certificate in DER, where that entry is in the export.
    pub certificate: Option<Vec<u8>>,
    /// When that entry was written, in nanoseconds since the epoch.
    pub certified_ns: Option<u64>,
    /// Leaves under its last head.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
    /// Whether it goes on.
    pub life: Life,
    /// When it was heard of last, in nanoseconds since the epoch.
    pub at_ns: u64,
    /// How far it had come before.
    pub shown: Shown,
}

/// An expected pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSaid {
    /// The pod.
    pub pod: PodRow,
    /// When it was gone, in nanoseconds since the epoch.
    pub to_ns: Option<u64>,
}

/// A head of the ledger that others cosigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witnessed {
    /// The head, with its signatures.
    pub note: SignedNote,
    /// When the last entry under it was written, in nanoseconds since the epoch.
    pub until_ns: u64,
}

/// Entries that are not there, between others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Their numbers.
    pub entries: Range<u64>,
    /// Times of the entry before them and of the one behind, in nanoseconds since the epoch.
    pub between_ns: (u64, u64),
}

/// What a ledger says.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Key of the ledger's own witness.
    pub witness: Option<PublicKey>,
    /// Heads that witnesses outside cosigned, as far as the entries under them are there.
    pub witnessed: Vec<Witnessed>,
    /// Every stream that was certified.
    pub streams: BTreeMap<StreamId, StreamSaid>,
    /// Every expected pod, by uid.
    pub pods: BTreeMap<String, PodSaid>,
    /// Every time for which a pod was not covered; with its end (nanoseconds since the epoch), if it has ended.
    pub uncovered: Vec<(UncoveredRow, Option<u64>)>,
    /// Times at which nobody kept the ledger, in nanoseconds since the epoch: pods that lived wholly within are not in it.
    pub outages: Vec<(u64, u64)>,
    /// What else it says, by stream: rebased, forks, abandoned, unwrapped, pruned and erased records.
    pub others: Vec<(u64, Fact)>,
    /// Entries that were signed and are not there; what is known is restated after them.
    pub missing: Vec<Missing>,
    /// Number of the first entry: above 0, what was before is known only by what was restated.
    pub from: u64,
    /// Time of that entry, in nanoseconds since the epoch.
    pub from_ns: u64,
    /// Number of entries under the last head that was proved.
    pub size: u64,
    /// Entries behind that head, which nothing proves; with those that were refused.
    pub unproved: u64,
    /// Other bodies that claim to be entries under that head.
    pub refused: Refused,
    /// Time of the last entry, in nanoseconds since the epoch.
    pub last_ns: u64,
}

impl Summary {
    /// Streams of which it abandoned records.
    pub(super) fn abandoned(&self) -> impl Iterator<Item = &StreamId> {
        self.others.iter().filter_map(|(_, fact)| match fact {
            Fact::Abandoned(row) => Some(&row.sid),
            _ => None,
        })
    }
}

/// Reads entries in order.
#[derive(Debug)]
pub struct Reader {
    key: PublicKey,
    chain: Option<Chain>,
    tables: Tables,
    summary: Summary,
    /// Removals that are in the summary: what is restated is in it once.
    removals: BTreeSet<Removal>,
    /// When reading went on behind missing entries, until all is restated.
    resumed_ns: Option<u64>,
    /// How far streams had come, by number.
    shown: BTreeMap<u64, Shown>,
    /// Names that were certified once more, after the stream of that name had ended and the keeper had forgotten it: what is
    /// said from then on is of another stream, and changes nothing of what was said of the first (K1).
    again: BTreeSet<StreamId>,
    /// Of each stream it is kept what it had come to at these times.
    times: Times,
    /// Every stream that was named by its number.
    numbers: BTreeMap<u64, StreamId>,
}

/// Type of an entry that says that records are not there; stream, first record, the one behind the last, and the sink.
type Removal = (&'static str, StreamId, u64, u64, Option<String>);

impl Reader {
    /// Of a ledger whose heads this key signs.
    pub fn new(key: PublicKey) -> Self {
        let (tables, summary, removals, shown, numbers, again) = Default::default();
        Self {
            key,
            chain: None,
            tables,
            summary,
            removals,
            resumed_ns: None,
            shown,
            times: Times::default(),
            numbers,
            again,
        }
    }

    /// Keeps exactly what streams had come to at these times.
    #[must_use]
    pub fn at(self, times: Times) -> Self {
        Self { times, ..self }
    }

    /// The next entry.
    ///
    /// # Errors
    /// It does not follow the one before, or reading cannot begin with it.
    pub fn entry(&mut self, body: &[u8]) -> Result<(), String> {
        self.next(body).map(drop)
    }

    /// The next entry; gives the note of a head that a witness outside cosigned, if it says that.
    ///
    /// # Errors
    /// It does not follow the one before, or reading cannot begin with it.
    pub(super) fn next(&mut self, body: &[u8]) -> Result<Option<String>, String> {
        let chain = match &mut self.chain {
            Some(chain) => chain,
            None => {
                let entry = Entry::parse(body)?;
                let begins = Chain::before(&entry)
                    .ok_or("reading begins at the ledger's first entry, or where it restates what is known")?;
                (self.summary.from, self.summary.from_ns) = (entry.seq, entry.at_ns);
                self.tables = Tables::before(entry.seq);
                self.chain.insert(begins)
            }
        };
        // A stretch that was removed, or never exported: reading goes on where all that is known is restated.
        let due = chain.range.end();
        if let Ok(entry) = Entry::parse(body)
            && entry.seq > due
            && entry.sid == chain.sid
            && let Some(begins) = Chain::before(&entry)
        {
            *chain = begins;
            self.tables = Tables::before(entry.seq);
            let between_ns = (self.summary.last_ns, entry.at_ns);
            self.summary.missing.push(Missing { entries: due..entry.seq, between_ns });
            self.resumed_ns = Some(entry.at_ns);
        }
        let entry = chain.append(body)?;
        self.tables.apply(entry.seq, entry.at_ns, &entry.fact)?;
        self.summary.last_ns = entry.at_ns;
        self.note_down(&entry);
        if !self.tables.is_partial()
            && let Some(ns) = self.resumed_ns.take()
        {
            self.ended_meanwhile(ns);
        }
        Ok(match entry.fact {
            Fact::Witnessed(note) => Some(note),
            _ => None,
        })
    }

    /// What is not restated behind missing entries had ended by then.
    fn ended_meanwhile(&mut self, ns: u64) {
        let Self { tables, summary, .. } = self;
        let pods = summary.pods.iter_mut().filter(|(uid, _)| !tables.pods().contains_key(*uid));
        pods.for_each(|(_, said)| said.to_ns = said.to_ns.or(Some(ns)));
        let bare = summary.uncovered.iter_mut().filter(|(row, _)| tables.uncovered().get(&row.uid) != Some(row));
        bare.for_each(|(_, to_ns)| *to_ns = to_ns.or(Some(ns)));
    }

    /// A signed head. Older ones are checked by those that follow; only that of the entries so far counts, and only once the
    /// restatement at which reading began is whole: before it, not all that is known was read.
    ///
    /// # Errors
    /// It is the head of other entries, or another key's.
    pub fn head(&mut self, note: &str) -> Result<(), String> {
        let chain = self.chain.as_ref().ok_or("there is no entry ahead of the head")?;
        let head = SignedNote::parse(note).map_err(|error| error.to_string())?.checkpoint;
        if head.size < chain.range.end() {
            return Ok(());
        }
        chain.check(note, &self.key)?;
        self.signed();
        Ok(())
    }

    /// The same of the body of a head; what is no head of this ledger is passed over.
    pub(super) fn head_body(&mut self, body: &[u8]) -> Result<(), String> {
        let own = |note: &SignedNote| {
            let chain = self.chain.as_ref();
            chain.is_some_and(|chain| note.is_signed_by(chain.sid.as_str(), &self.key))
        };
        note(body).filter(own).map_or(Ok(()), |note| self.head(&note.encode()))
    }

    /// The entries so far are those of a signed head.
    pub(super) fn signed(&mut self) {
        if let Some(chain) = self.chain.as_ref().filter(|_| !self.tables.is_partial()) {
            self.summary.size = chain.range.end();
        }
    }

    /// A head that a witness outside cosigned; the last entry under it was written at this time.
    pub(super) fn witnessed(&mut self, note: SignedNote, until_ns: u64) {
        self.summary.witnessed.push(Witnessed { note, until_ns });
    }

    /// Root of the entries so far.
    pub(super) fn root(&self) -> Option<Hash> {
        self.chain.as_ref().and_then(|chain| chain.range.root())
    }

    /// Time of the last entry, in nanoseconds since the epoch.
    pub(super) fn last_ns(&self) -> u64 {
        self.summary.last_ns
    }

    /// Whether the restatement at which reading began has not come to its end.
    pub fn is_partial(&self) -> bool {
        self.tables.is_partial()
    }

    /// Every stream that was named by its number.
    pub(super) fn numbers(&mut self) -> BTreeMap<u64, StreamId> {
        std::mem::take(&mut self.numbers)
    }

    /// All of it.
    pub fn finish(mut self) -> Summary {
        for row in self.tables.streams().values().filter(|row| !self.again.contains(&row.sid)) {
            let said = self.summary.streams.entry(row.sid.clone()).or_insert_with(|| unknown(row.life));
            (said.size, said.root, said.life, said.at_ns) = (row.state.size, row.state.root, row.life, row.at_ns);
            said.shown = self.shown.remove(&row.number).unwrap_or_default();
        }
        let end = self.chain.map_or(0, |chain| chain.range.end());
        self.summary.unproved = end.saturating_sub(self.summary.size.max(self.summary.from));
        self.summary
    }

    /// How far streams have come with this entry.
    fn shown(&mut self, entry: &Entry) {
        let times = self.times;
        let mut push =
            |number: u64, at_ns, size| self.shown.entry(number).or_insert_with(|| Shown::new(times)).push(at_ns, size);
        match &entry.fact {
            Fact::Heads(heads) => heads.iter().for_each(|head| push(head.stream, entry.at_ns, head.size)),
            Fact::State(state) => {
                let rows = state.streams.iter().filter(|row| row.state.size > 0);
                rows.for_each(|row| push(row.number, row.at_ns, row.state.size));
            }
            Fact::Epoch(sid, size, ..) | Fact::Closed(sid, size, _) | Fact::Rebased(sid, _, (size, _), _) => {
                let row = self.tables.stream(sid);
                row.into_iter().for_each(|row| push(row.number, entry.at_ns, *size));
            }
            _ => {}
        }
    }

    fn note_down(&mut self, entry: &Entry) {
        self.shown(entry);
        let summary = &mut self.summary;
        match &entry.fact {
            Fact::Certified(sid, ..) if summary.streams.contains_key(sid) => {
                self.again.insert(sid.clone());
            }
            Fact::Epoch(sid, ..) | Fact::Rebased(sid, ..) | Fact::Closed(sid, ..) | Fact::Lost(sid, ..)
                if self.again.contains(sid) => {}
            Fact::Resumed(from) => summary.outages.push((*from, entry.at_ns)),
            Fact::Expected(pod) => {
                summary.pods.insert(pod.uid.clone(), PodSaid { pod: pod.clone(), to_ns: None });
            }
            Fact::Gone(uid) => {
                if let Some(said) = summary.pods.get_mut(uid) {
                    said.to_ns = Some(entry.at_ns);
                }
            }
            Fact::Uncovered(pod, to) => {
                summary.uncovered.retain(|(known, _)| (&known.uid, known.from_ns) != (&pod.uid, pod.from_ns));
                summary.uncovered.push((pod.clone(), *to));
            }
            Fact::Certified(sid, key, _, certificate) => {
                let said = summary.streams.entry(sid.clone()).or_insert_with(|| unknown(Life::Open));
                (said.first_key, said.certificate) = (Some(*key), Some(certificate.clone()));
                said.certified_ns = Some(entry.at_ns);
                self.numbers.insert(entry.seq, sid.clone());
            }
            Fact::State(state) => {
                summary.witness = state.first.as_ref().map(|(_, witness, _)| *witness).or(summary.witness);
                for row in &state.streams {
                    self.numbers.entry(row.number).or_insert_with(|| row.sid.clone());
                }
                for row in state.streams.iter().filter(|row| !self.again.contains(&row.sid)) {
                    let said = summary.streams.entry(row.sid.clone()).or_insert_with(|| unknown(row.life));
                    if row.state.key_from == 0 {
                        said.first_key.get_or_insert(row.state.key);
                    } else {
                        said.later_keys.insert(row.state.key_from, row.state.key);
                    }
                }
                for pod in &state.pods {
                    let said = PodSaid { pod: pod.clone(), to_ns: None };
                    summary.pods.entry(pod.uid.clone()).or_insert(said);
                }
                for pod in &state.uncovered {
                    if !summary.uncovered.iter().any(|(known, _)| known == pod) {
                        summary.uncovered.push((pod.clone(), None));
                    }
                }
                let abandoned = state.abandoned.iter().cloned().map(Fact::Abandoned);
                let pruned = state.pruned.iter().cloned().map(Fact::Pruned);
                let erased = state.erased.iter().cloned().map(Fact::Erased);
                for fact in abandoned.chain(pruned).chain(erased) {
                    if removal(&fact).is_none_or(|removal| self.removals.insert(removal)) {
                        summary.others.push((entry.seq, fact));
                    }
                }
            }
            Fact::Epoch(sid, size, _, next) => {
                let said = summary.streams.entry(sid.clone()).or_insert_with(|| unknown(Life::Open));
                said.later_keys.insert(*size, *next);
            }
            Fact::Abandoned(..) | Fact::Pruned(..) | Fact::Erased(..) => {
                self.removals.extend(removal(&entry.fact));
                summary.others.push((entry.seq, entry.fact.clone()));
            }
            Fact::Rebased(sid, _, (size, _), key) => {
                let said = summary.streams.entry(sid.clone()).or_insert_with(|| unknown(Life::Open));
                said.later_keys.insert(*size, *key);
                summary.others.push((entry.seq, entry.fact.clone()));
            }
            Fact::Fork(..) | Fact::Unwrapped(..) => {
                summary.others.push((entry.seq, entry.fact.clone()));
            }
            Fact::Open(_, witness) => summary.witness = Some(*witness),
            Fact::Witnessed(_) | Fact::Heads(_) | Fact::Closed(..) | Fact::Lost(..) => {}
        }
        // What a restatement forgets stays known to who read it before.
        if let Fact::Closed(sid, ..) | Fact::Lost(sid, ..) = &entry.fact
            && !self.again.contains(sid)
            && let Some(row) = self.tables.stream(sid)
        {
            let said = summary.streams.entry(sid.clone()).or_insert_with(|| unknown(row.life));
            (said.size, said.root, said.life, said.at_ns) = (row.state.size, row.state.root, row.life, row.at_ns);
        }
    }
}

/// Without the reason: of that a restatement may leave out characters.
fn removal(fact: &Fact) -> Option<Removal> {
    match fact {
        Fact::Abandoned(row) => {
            let AbandonedRow { sid, from, to, sink, .. } = row.plain();
            Some((typ(fact), sid, from, to, sink))
        }
        Fact::Pruned(order) | Fact::Erased(order) => {
            Some((typ(fact), order.sid.clone(), order.range.begin(), order.range.end(), None))
        }
        _ => None,
    }
}

fn unknown(life: Life) -> StreamSaid {
    let root = crate::evidence::merkle::empty_root();
    let (first_key, later_keys, certificate, certified_ns, shown) = Default::default();
    StreamSaid { first_key, later_keys, certificate, certified_ns, size: 0, root, life, at_ns: 0, shown }
}

//! What the witness says to each request, between two blocks. No I/O: the keeper commits what is proposed here.

use super::contradictions::Contradictions;
use super::cover::Cover;
use super::fair::{Certificates, Known, Waiting};
use super::keys::WitnessKeys;
use crate::index::Index;
use crate::inject::ExcludedNamespaces;
use crate::policy_server::Identity;
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::ledger::entry::typ;
use testimony_core::evidence::ledger::prune::Removal;
use testimony_core::evidence::ledger::{
    ABANDONED_PER_STREAM_MAX, AbandonedRow, Book, Committed, Cosignable, Fact, HeadRow, LEDGER, LedgerError, Life,
    Proposed, Pruned, interval_ms, witness_name,
};
use testimony_core::evidence::note::{Checkpoint, SignedNote};
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::witness::unwrap::RECOVERY_KEY_BYTES;
use testimony_core::evidence::witness::{Accepted, Refusal, Request, judge};
use tokio::sync::oneshot;

mod certify;

pub use certify::CERTIFICATE_SECONDS;

/// Heads, facts or answers that wait for the next block at a time.
const WAITING_MAX: usize = 20_000;

const NOT_ITS_OWN: &str = "the stream is not named after this pod and cluster";

const ENDED: &str = "the ledger says that this stream has ended: nothing can follow";

/// What is answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// A certificate in DER.
    Certificate(Vec<u8>),
    /// It stands in the ledger.
    Written,
    /// The recovery key, and keys of a spool that it opened; to whom stands in the ledger.
    Unwrapped([u8; RECOVERY_KEY_BYTES], Vec<Option<SpoolKey>>),
    /// A cosignature line.
    Cosigned(String),
    /// The witness's refusal.
    Refused(Refusal),
    /// The request is not this pod's to make, or makes no sense: status and why.
    Denied(u16, String),
    /// The witness cannot answer now.
    Later(&'static str),
}

/// A key of a segment. Never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct SpoolKey(pub Vec<u8>);

impl std::fmt::Debug for SpoolKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SpoolKey")
    }
}

/// Who gets the answer.
pub type ReplyTo = oneshot::Sender<Reply>;

/// Numbers that the witness shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Streams that go on.
    pub live: usize,
    /// Of those, how many have shown no head.
    pub silent: usize,
    /// Entries of the ledger.
    pub entries: u64,
}

/// The witness between two blocks.
pub struct Desk {
    book: Book,
    keys: WitnessKeys,
    name: String,
    cluster_uid: String,
    cover: Cover,
    facts: Vec<Fact>,
    heads: Vec<HeadRow>,
    /// Streams of which something waits: the next head is judged when it is committed.
    busy: HashSet<StreamId>,
    waiting: Vec<(Checkpoint, ReplyTo)>,
    certified: Vec<(StreamId, Vec<u8>, ReplyTo)>,
    /// Who gets which answer once so many facts are committed.
    told: Vec<(u64, Reply, ReplyTo)>,
    /// Facts that were committed.
    committed: u64,
    /// What waits of single pods.
    pods: Waiting,
    contradictions: Contradictions,
    /// How many certificates pods may have.
    certificates: Certificates,
}

impl Desk {
    /// On this ledger; `cluster_uid` and `namespace` (the operator's) name the witness.
    pub fn new(book: Book, keys: WitnessKeys, cluster_uid: &str, namespace: &str) -> Self {
        let last_ns = (book.size() > 0).then(|| book.last_ns());
        let resumed = last_ns.map(Fact::Resumed);
        Self {
            book,
            keys,
            name: witness_name(cluster_uid, namespace),
            cluster_uid: cluster_uid.to_owned(),
            cover: Cover::new(last_ns),
            facts: resumed.into_iter().collect(),
            heads: Vec::new(),
            busy: HashSet::new(),
            waiting: Vec::new(),
            certified: Vec::new(),
            told: Vec::new(),
            committed: 0,
            pods: Waiting::default(),
            contradictions: Contradictions::default(),
            certificates: Certificates::default(),
        }
    }

    /// The ledger.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Name of the witness's key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Time between two blocks now.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(interval_ms(self.book.tables().live()))
    }

    /// Numbers for metrics.
    pub fn figures(&self) -> Figures {
        let tables = self.book.tables();
        let silent = tables.streams().values().filter(|row| row.life == Life::Open && row.state.size == 0).count();
        Figures { live: tables.live(), silent, entries: self.book.size() }
    }

    fn push(&mut self, fact: Fact) {
        self.pods.add(&fact);
        self.facts.push(fact);
    }

    fn is_of(&self, sid: &StreamId, identity: &Identity) -> bool {
        sid.parts().is_some_and(|parts| {
            parts.cluster_uid == self.cluster_uid
                && parts.namespace == identity.namespace
                && parts.pod_uid == identity.pod_uid
        })
    }

    /// Judges a head; it is answered at once, or once its block is committed.
    pub fn add_checkpoint(&mut self, identity: &Identity, request: &Request, now_s: u64, reply: ReplyTo) {
        let answer = match self.judge(identity, request, now_s) {
            Ok(Some(cosignable)) => Reply::Cosigned(self.cosign(&cosignable, now_s)),
            Ok(None) => return self.waiting.push((request.note.checkpoint.clone(), reply)),
            Err(answer) => answer,
        };
        let _ = reply.send(answer);
    }

    /// Writes down which records go with the pod.
    pub fn abandon(&mut self, identity: &Identity, row: AbandonedRow, reply: ReplyTo) {
        let answer = if !self.is_of(&row.sid, identity) {
            Reply::Denied(403, NOT_ITS_OWN.to_owned())
        } else if self.book.tables().stream(&row.sid).is_none() {
            Reply::Refused(Refusal::Unknown)
        } else if self.is_full() {
            Reply::Later("too many wait")
        } else {
            match self.pods.abandoned(self.book.tables(), &row) {
                Known::New => {
                    self.push(Fact::Abandoned(row));
                    return self.tell(Reply::Written, reply);
                }
                Known::Waits => return self.tell(Reply::Written, reply),
                Known::Told => Reply::Written,
                Known::Full => Reply::Denied(
                    429,
                    format!("{ABANDONED_PER_STREAM_MAX} parts of this stream are told as abandoned, as many as may be"),
                ),
            }
        };
        let _ = reply.send(answer);
    }

    fn is_full(&self) -> bool {
        self.told.len() >= WAITING_MAX || self.facts.len() >= WAITING_MAX
    }

    /// Writes down records that are removed by order (G2). What a stream has not shown yet cannot be ordered away, nor what is
    /// another cluster's.
    pub fn prune(&mut self, removal: Removal, orders: Vec<Pruned>, reply: ReplyTo) {
        let wrong = orders.iter().find_map(|order| {
            let Pruned { sid, range, .. } = order;
            let size = self.book.tables().stream(sid).map(|row| row.state.size);
            match size {
                _ if sid
                    .parts()
                    .is_none_or(|parts| parts.cluster_uid != self.cluster_uid || parts.pod_uid == LEDGER) =>
                {
                    Some(format!("{sid} is no stream of this cluster"))
                }
                // Streams that ended a week ago are known to the ledger's export alone.
                Some(size) if range.end() > size => {
                    Some(format!("{sid}: the witness has seen {size} records, and not {}", range.end()))
                }
                _ => None,
            }
        });
        let answer = match wrong {
            Some(why) => Reply::Denied(422, why),
            None if self.is_full() => Reply::Later("too many wait"),
            None => {
                self.facts.extend(orders.into_iter().map(|order| removal.fact(order)));
                return self.tell(Reply::Written, reply);
            }
        };
        let _ = reply.send(answer);
    }

    /// Opens keys of this pod's spool, after its node restarted (D5); each stream that can be read by it is an entry. Without
    /// keys it only says the recovery key.
    pub fn unwrap(&mut self, identity: &Identity, streams: &[StreamId], keys: &[Vec<u8>], reply: ReplyTo) {
        let answer = if !streams.iter().all(|sid| self.is_of(sid, identity)) {
            Reply::Denied(403, NOT_ITS_OWN.to_owned())
        } else if self.is_full() {
            Reply::Later("too many wait")
        } else if self.pods.unwraps(&identity.pod_uid) {
            Reply::Later("keys of this pod's spool are being opened")
        } else {
            let pod = &identity.pod_uid;
            let opened: Vec<_> = keys.iter().map(|wrapped| self.keys.unwrap(pod, wrapped).map(SpoolKey)).collect();
            let any = opened.iter().any(Option::is_some);
            let answer = Reply::Unwrapped(self.keys.recovery_key(), opened);
            if any {
                tracing::info!(pod, keys = keys.len(), "keys of a spool are opened: its node restarted");
                streams.iter().for_each(|sid| self.push(Fact::Unwrapped(sid.clone(), pod.clone())));
                return self.tell(answer, reply);
            }
            answer
        };
        let _ = reply.send(answer);
    }

    /// Answers once all facts up to here are committed.
    fn tell(&mut self, answer: Reply, reply: ReplyTo) {
        self.told.push((self.committed.saturating_add(self.facts.len() as u64), answer, reply));
    }

    /// Writes down that a witness outside cosigned a head of the ledger.
    pub fn witnessed(&mut self, note: String) {
        self.facts.push(Fact::Witnessed(note));
    }

    fn judge(&mut self, identity: &Identity, request: &Request, now_s: u64) -> Result<Option<Cosignable>, Reply> {
        let head = &request.note.checkpoint;
        let Ok(sid) = head.origin.parse::<StreamId>() else { return Err(Reply::Refused(Refusal::Unknown)) };
        if !self.is_of(&sid, identity) {
            return Err(Reply::Denied(403, NOT_ITS_OWN.to_owned()));
        }
        if self.busy.contains(&sid) {
            return Err(Reply::Later("a head of this stream waits already"));
        }
        let row = self.book.tables().stream(&sid).ok_or(Reply::Refused(Refusal::Unknown))?;
        let (number, state, ended) = (row.number, row.state.clone(), row.life != Life::Open);
        let own = self.keys.public().witness;
        let is_own = |note: &SignedNote| note.cosigned_at(&self.name, &own).is_some();
        match judge(&state, request, now_s, is_own) {
            Ok(accepted) if accepted.known => match self.book.known(head) {
                Some(cosignable) => Ok(Some(cosignable)),
                None => Err(Reply::Later("the ledger is behind")),
            },
            Ok(_) if ended => Err(Reply::Denied(422, ENDED.to_owned())),
            Ok(_) if self.waiting.len() >= WAITING_MAX => Err(Reply::Later("too many heads wait")),
            Ok(accepted) => {
                self.accept(sid, number, (state.size, state.root), accepted);
                Ok(None)
            }
            Err(refusal) => {
                self.contradicts(sid, &refusal, &request.note);
                Err(Reply::Refused(refusal))
            }
        }
    }

    /// Tells whoever looks after the cluster of a head that does not fit those before.
    fn contradicts(&mut self, sid: StreamId, refusal: &Refusal, note: &SignedNote) {
        if self.contradictions.tell(&sid, refusal, note.checkpoint.size)
            && let Refusal::Fork(_) = refusal
        {
            self.facts.push(Fact::Fork(sid, note.encode()));
        }
    }

    fn accept(&mut self, sid: StreamId, number: u64, old: (u64, Hash), accepted: Accepted) {
        let Accepted { size, root, next_key, closed, rebased, .. } = accepted;
        if let Some(rebased) = rebased {
            tracing::warn!(stream = %sid, known = old.0, cosigned = rebased.size, "the ledger has gone back behind a head that it cosigned");
            self.facts.push(Fact::Rebased(sid.clone(), old, (rebased.size, rebased.root), rebased.key));
        }
        match next_key {
            _ if closed => self.facts.push(Fact::Closed(sid.clone(), size, root)),
            Some(next) => self.facts.push(Fact::Epoch(sid.clone(), size, root, next)),
            None => self.heads.push(HeadRow { stream: number, size, root }),
        }
        self.busy.insert(sid);
    }

    fn knows(&self, head: &Checkpoint) -> bool {
        head.origin.parse().is_ok_and(|sid| self.book.tables().stream(&sid).is_some())
    }

    fn cosign(&self, cosignable: &Cosignable, now_s: u64) -> String {
        let key = self.keys.public().witness;
        cosignable.cosign(&self.name, &key, now_s, |message| self.keys.sign_witness(message)).line()
    }

    /// The next block: what waits, what the cluster shows, and a sign of life if it is time for one.
    pub fn propose(
        &mut self,
        index: &Index,
        excluded: &ExcludedNamespaces,
        now_ns: u64,
        heartbeat_ns: u64,
    ) -> Option<Proposed> {
        let asked = self.facts.len();
        let mut facts = self.facts.clone();
        facts.extend(self.cover.news(index, excluded, self.book.tables(), now_ns));
        if facts.is_empty() && self.heads.is_empty() && now_ns.saturating_sub(self.book.last_ns()) >= heartbeat_ns {
            facts.push(Fact::Heads(Vec::new()));
        }
        let mut proposed = self.book.propose(&facts, &self.heads, now_ns, |message| self.keys.sign_ledger(message))?;
        // What the cluster shows is looked at anew for the next block.
        proposed.facts_taken = proposed.facts_taken.min(asked);
        Some(proposed)
    }

    /// The block was created by us: answers those who waited for it.
    ///
    /// # Errors
    /// The block was proposed to another ledger.
    pub fn committed(&mut self, committed: Committed, now_s: u64) -> Result<(), LedgerError> {
        let (facts, heads) = committed.taken();
        let passed_over: Vec<usize> = committed.dropped().to_vec();
        let cosignable = self.book.apply(committed)?;
        self.contradictions.committed(self.book.tables());
        for fact in passed_over.into_iter().filter_map(|at| self.facts.get(at)) {
            tracing::error!(typ = typ(fact), "fits no entry of the ledger, or is of a stream that it knows no more");
            if let Fact::Certified(sid, ..) = fact {
                // Its certificate is never shown: nothing is told of what is not in the ledger.
                self.certified.retain(|(certified, ..)| certified != sid);
            }
        }
        self.facts.drain(..facts.min(self.facts.len()));
        self.heads.drain(..heads.min(self.heads.len()));
        let mut heads: HashMap<Checkpoint, Cosignable> = HashMap::new();
        for head in cosignable {
            heads.insert(head.checkpoint().clone(), head);
        }
        for (checkpoint, reply) in std::mem::take(&mut self.waiting) {
            match heads.get(&checkpoint) {
                Some(head) => {
                    let _ = reply.send(Reply::Cosigned(self.cosign(head, now_s)));
                }
                // Passed over: the stream was forgotten while its head waited.
                None if !self.knows(&checkpoint) => drop(reply.send(Reply::Refused(Refusal::Unknown))),
                None => self.waiting.push((checkpoint, reply)),
            }
        }
        for (sid, certificate, reply) in std::mem::take(&mut self.certified) {
            match self.book.tables().stream(&sid) {
                Some(_) => {
                    let _ = reply.send(Reply::Certificate(certificate));
                }
                None => self.certified.push((sid, certificate, reply)),
            }
        }
        self.committed = self.committed.saturating_add(facts as u64);
        for (at, answer, reply) in std::mem::take(&mut self.told) {
            if at <= self.committed {
                let _ = reply.send(answer);
            } else {
                self.told.push((at, answer, reply));
            }
        }
        self.pods = Waiting::of(&self.facts);
        let waiting = self.waiting.iter().filter_map(|(head, _)| head.origin.parse().ok());
        self.busy = waiting.chain(self.certified.iter().map(|(sid, ..)| sid.clone())).collect();
        Ok(())
    }
}

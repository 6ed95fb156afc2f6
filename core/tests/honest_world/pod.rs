//! A pod with its one data thread: it records, crashes, loses, ends; what it made goes to a backend.

use crate::evidence_support::{TestKey, origin, usual_exchange};
use crate::world::{Dice, HOUR_NS, SECOND_NS, stamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::ledger::{AbandonedRow, Fact, PodRow};
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::note::PublicKey;
use testimony_core::evidence::seal::{
    Head, HeadUse, HoleFacts, Host, Origin, RecoveredFacts, Sealed, Signer as _, Stream, Wanted,
};
use testimony_core::evidence::stream::StreamId;
use testimony_core::record::{Body, EventName, Field, Gap, GapReason, Typ, filed_ns};
use testimony_core::redact::{Redactor, redact};

/// So long a pod's connection is open.
const CONNECTION_NS: u64 = 12 * HOUR_NS;

/// So often it is shown meanwhile.
const PROGRESS_NS: u64 = 600 * SECOND_NS;

/// What a backend may have: a record with its place, or a head without.
#[derive(Clone)]
pub struct Line {
    pub sid: Arc<StreamId>,
    pub seq: Option<u64>,
    /// What the backend files it under.
    pub time_ns: u64,
    pub sealed_ns: u64,
    pub body: String,
}

/// What a stream showed the witness last.
pub struct Shown {
    pub size: u64,
    pub root: Hash,
    pub closes: bool,
}

/// One data thread's shell.
#[derive(Default)]
pub struct Thread {
    pub keys: u64,
    pub random: u128,
    pub now_ns: u64,
    pub is_full: bool,
    pub lines: Vec<Line>,
    pub leaves: BTreeMap<StreamId, Vec<Hash>>,
    pub first_keys: Vec<(Arc<StreamId>, PublicKey)>,
    pub closed_at: BTreeMap<StreamId, u64>,
    pub holes: BTreeSet<(Arc<StreamId>, u64)>,
    pub epochs: Vec<Fact>,
    pub shown: BTreeMap<StreamId, Shown>,
}

impl Host for Thread {
    type Key = TestKey;

    fn random(&mut self) -> u128 {
        self.random += 1;
        self.random
    }

    fn key(&mut self) -> Option<TestKey> {
        self.keys += 1;
        Some(TestKey::numbered(self.keys))
    }

    fn opens(&mut self, stream: &Arc<StreamId>, key: &TestKey) {
        self.first_keys.push((stream.clone(), key.public()));
    }

    fn reserve(&mut self, _: Wanted) -> Result<(), GapReason> {
        if self.is_full { Err(GapReason::SpoolFull) } else { Ok(()) }
    }

    fn write(&mut self, sealed: Sealed<'_>) {
        self.leaves.entry((**sealed.stream()).clone()).or_default().push(sealed.leaf());
        if sealed.typ() == Typ::Close {
            self.closed_at.insert((**sealed.stream()).clone(), sealed.seq() + 1);
        }
        if sealed.typ() == Typ::Hole {
            self.holes.insert((sealed.stream().clone(), sealed.seq()));
        }
        let body = std::str::from_utf8(sealed.body()).expect("ASCII");
        let body = Body::parse(body).expect("canonical");
        let number = |key| body.simple(key)?.parse().ok();
        let time_ns = filed_ns(number("t0").expect("each has one"), number("t1"));
        self.add(sealed.stream(), Some(sealed.seq()), time_ns, sealed.body());
    }

    fn head(&mut self, head: Head<'_>) {
        let (sid, checkpoint) = (head.stream(), &head.note().checkpoint);
        if let Some(next) = head.next_key() {
            self.epochs.push(Fact::Epoch((**sid).clone(), checkpoint.size, checkpoint.root, next));
        }
        let closes = self.closed_at.get(&**sid) == Some(&checkpoint.size);
        self.shown.insert((**sid).clone(), Shown { size: checkpoint.size, root: checkpoint.root, closes });
        if head.purpose() == HeadUse::Export {
            self.add(sid, None, self.now_ns, head.body());
        }
    }
}

impl Thread {
    fn add(&mut self, sid: &Arc<StreamId>, seq: Option<u64>, time_ns: u64, body: &[u8]) {
        let body = String::from_utf8(body.to_vec()).expect("ASCII");
        self.lines.push(Line { sid: sid.clone(), seq, time_ns, sealed_ns: self.now_ns, body });
    }

    /// A process that is no more shows nothing.
    pub fn forget_unshown(&mut self) {
        self.shown.clear();
        self.epochs.clear();
    }

    fn range(&self, sid: &StreamId) -> Range {
        let mut range = Range::empty(0);
        self.leaves.get(sid).into_iter().flatten().for_each(|leaf| range.push(*leaf));
        range
    }
}

pub struct Pod {
    pub number: u64,
    pub from_ns: u64,
    /// When it ends; beyond the end of all: it goes on.
    pub to_ns: u64,
    pub boot: u128,
    pub stream: Option<Stream<TestKey>>,
    pub thread: Thread,
    /// Since when the present process lives.
    pub started_ns: u64,
    pub uncertified: Vec<(Arc<StreamId>, PublicKey)>,
    pub certified: Vec<(StreamId, PublicKey)>,
    pub is_gone: bool,
    /// When a hole was told last. What no head covers when a node is lost proves nothing, a hole neither.
    pub hole_ns: u64,
    /// Since when its long connection is open, and when that is shown next.
    pub connection_ns: Option<(u64, u64)>,
    /// The sink is away until the pod's end.
    pub is_cut_off: bool,
}

impl Pod {
    pub fn row(&self) -> PodRow {
        let number = self.number;
        let (uid, name) = (format!("pod-{number}"), format!("web-{number}"));
        let (namespace, injection_id) = ("shop".to_owned(), format!("{number:032x}"));
        PodRow { uid, namespace, name, injection_id, from_ns: self.from_ns }
    }

    pub fn open(&mut self, now_ns: u64, found: Option<&StreamId>) {
        self.boot += 1;
        self.thread.now_ns = now_ns;
        self.started_ns = now_ns;
        let PodRow { uid, namespace, name, .. } = self.row();
        let found = found.into_iter().cloned().collect();
        let origin = Origin { pod_uid: uid, namespace, pod: name, boot: self.boot, found, witness: true, ..origin(0) };
        let key = self.thread.key().expect("a key");
        let stream = Stream::open(origin, key, "0011223344556677", stamp(now_ns), &mut self.thread);
        self.stream = Some(stream.expect("a name"));
    }

    /// One that ends now; a few took long.
    pub fn exchange(&mut self, now_ns: u64, dice: &mut Dice) {
        let Some(stream) = &mut self.stream else { return };
        let took_ns = if dice.one_in(20) { dice.below(1_200) * SECOND_NS } else { dice.below(2 * SECOND_NS) };
        let start_ns = now_ns.saturating_sub(took_ns).max(self.started_ns);
        let mut record = usual_exchange();
        record.set_int(Field::T0, start_ns);
        record.set_int(Field::T1, now_ns);
        stream.begin();
        stream.seal(&redact(record, &Redactor::default()), stamp(now_ns), &mut self.thread);
    }

    /// A connection of many hours: it is shown again and again, then it ends, and the next one begins.
    pub fn connection(&mut self, now_ns: u64) {
        let Some(stream) = &mut self.stream else { return };
        let (start_ns, next_ns) = self.connection_ns.unwrap_or((now_ns, now_ns + PROGRESS_NS));
        self.connection_ns = Some((start_ns, next_ns));
        if now_ns < next_ns {
            return;
        }
        let ends = now_ns >= start_ns + CONNECTION_NS;
        self.connection_ns = (!ends).then_some((start_ns, now_ns + PROGRESS_NS));
        let mut record = usual_exchange();
        if ends {
            stream.begin();
        } else {
            record.set_event(EventName::StreamProgress);
            record.set(Field::Typ, b"stage");
            record.set(Field::Stage, b"progress");
        }
        record.set_int(Field::T0, start_ns);
        record.set_int(Field::T1, now_ns);
        stream.seal(&redact(record, &Redactor::default()), stamp(now_ns), &mut self.thread);
    }

    pub fn ticks(&mut self, now_ns: u64) {
        let Some(stream) = &mut self.stream else { return };
        let now = stamp(now_ns);
        for _ in 0..8 {
            if stream.due_ns() > now.mono_ns {
                break;
            }
            stream.tick(now, &mut self.thread);
            stream.durable(stream.position(), now, &mut self.thread);
        }
        self.uncertified.append(&mut self.thread.first_keys);
        if let Some(at) = self.certified.iter().position(|(sid, _)| *sid == **stream.id()) {
            let told = self.thread.leaves.get(&self.certified[at].0).map_or(0, Vec::len);
            if told == 1 {
                assert!(stream.certified("MIIBCertificate", now, &mut self.thread));
            }
        }
    }

    /// The process dies; the next one tells how far it went, and what it had begun.
    pub fn crashes(&mut self, now_ns: u64, dice: &mut Dice) {
        let Some(stream) = self.stream.take() else { return };
        let sid = (**stream.id()).clone();
        drop(stream);
        self.connection_ns = None;
        self.thread.forget_unshown();
        let range = self.thread.range(&sid);
        self.open(now_ns, Some(&sid));
        let now = stamp(now_ns);
        let Some(stream) = &mut self.stream else { return };
        let (size, root) = (range.end(), range.root().expect("from 0"));
        let facts = RecoveredFacts { stream: &sid, size, root, head_size: 0, closed: false };
        assert!(stream.recovered(&facts, now, &mut self.thread));
        let count = dice.below(3);
        let gap = Gap { count, exact: true, from_ns: now_ns - SECOND_NS, to_ns: now_ns, reason: GapReason::WorkerDied };
        stream.lose(gap, Some(sid));
        stream.declare(now, &mut self.thread);
    }

    /// A few records that the sink never gets, and the hole that tells it.
    pub fn loses(&mut self, now_ns: u64, dice: &mut Dice) -> Option<(Arc<StreamId>, std::ops::Range<u64>)> {
        let stream = self.stream.as_mut()?;
        let sid = stream.id().clone();
        let leaves = self.thread.leaves.get(&*sid)?.clone();
        let end = leaves.len() as u64;
        let from = end.checked_sub(1 + dice.below(5))?.max(1);
        let to = from + 1 + dice.below(end - from);
        // A hole that the sink refuses, too, is told again: here it never does.
        if self.thread.holes.range((sid.clone(), from)..(sid.clone(), to)).next().is_some() {
            return None;
        }
        let mut range = Range::empty(from);
        leaves.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)?.iter().for_each(|leaf| range.push(*leaf));
        self.hole_ns = now_ns;
        let nodes: Vec<Hash> = range.nodes().collect();
        let facts = HoleFacts { stream: &sid, from, to, sink: Some("main"), reason: "rejected", nodes: &nodes };
        stream.hole(&facts, stamp(now_ns), &mut self.thread).then_some((sid, from..to))
    }

    /// In order, or with its node.
    pub fn ends(&mut self, now_ns: u64, dice: &mut Dice) {
        self.is_gone = true;
        let Some(mut stream) = self.stream.take() else { return };
        if !dice.one_in(4) || now_ns < self.hole_ns + 600 * SECOND_NS {
            let now = stamp(now_ns);
            assert!(stream.close(now, &mut self.thread));
            stream.durable(stream.position(), now, &mut self.thread);
        }
    }

    /// What the ledger is told of its end.
    pub fn last_words(&mut self) -> Vec<Fact> {
        let mut facts = Vec::new();
        if self.is_cut_off {
            let mut left: BTreeMap<&StreamId, (u64, u64)> = BTreeMap::new();
            for line in &self.thread.lines {
                if let Some(seq) = line.seq {
                    let range = left.entry(&*line.sid).or_insert((seq, seq + 1));
                    *range = (range.0.min(seq), range.1.max(seq + 1));
                }
            }
            facts.extend(left.into_iter().map(|(sid, (from, to))| {
                let (sid, reason) = (sid.clone(), "undelivered".to_owned());
                Fact::Abandoned(AbandonedRow { sid, from, to, reason, sink: None })
            }));
        }
        let hash = Hash::of(&[]);
        facts.extend(self.thread.leaves.keys().map(|sid| Fact::Lost(sid.clone(), 0, hash)));
        facts.push(Fact::Gone(format!("pod-{}", self.number)));
        facts
    }
}

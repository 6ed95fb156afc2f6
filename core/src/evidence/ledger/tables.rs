//! What the entries of a ledger add up to.

use super::fact::{AbandonedRow, Fact, HeadRow, Life, PodRow, Pruned, StreamRow, UncoveredRow, row_text};
use super::{ABANDONED_PER_STREAM_MAX, FINISHED_KEEP_S, KNOWN_STREAMS_KEEP, KNOWN_STREAMS_MAX, ORDERS_PER_STREAM_MAX};
use crate::evidence::hash::Hash;
use crate::evidence::note::PublicKey;
use crate::evidence::stream::StreamId;
use crate::evidence::witness::{Accepted, StreamState, judge::Rebased};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Streams and pods, as the entries so far say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    streams: BTreeMap<u64, StreamRow>,
    numbers: HashMap<StreamId, u64>,
    /// By uid.
    pods: BTreeMap<String, PodRow>,
    /// By uid.
    uncovered: BTreeMap<String, UncoveredRow>,
    abandoned: BTreeMap<Part, AbandonedRow>,
    pruned: BTreeMap<Part, Pruned>,
    erased: BTreeMap<Part, Pruned>,
    live: usize,
    /// Reading began at a restatement whose last part was not read yet.
    partial: Option<Ahead>,
    /// Numbers of the streams that go on, by the pod that they are named after.
    open: HashMap<String, BTreeSet<u64>>,
}

/// What entries said of streams that a restatement had not come to yet: their rows must hold it, so that nothing is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ahead {
    /// By number: the size of the last head.
    heads: BTreeMap<u64, u64>,
    /// By name: the size of the last head, and whether the stream ended.
    named: BTreeMap<StreamId, (u64, bool)>,
}

/// A stream, the first of some of its records, and the only sink for which that is said.
pub type Part = (StreamId, u64, Option<String>);

impl Tables {
    /// As they are where reading begins at this entry: behind the ledger's first one what was before is still to be restated.
    pub fn before(seq: u64) -> Self {
        Self { partial: (seq > 0).then(Ahead::default), ..Self::default() }
    }

    /// Whether the restatement at which reading began has not come to its end: not all that is known is here.
    pub fn is_partial(&self) -> bool {
        self.partial.is_some()
    }

    /// Streams by number.
    pub fn streams(&self) -> &BTreeMap<u64, StreamRow> {
        &self.streams
    }

    /// A stream by its name.
    pub fn stream(&self, sid: &StreamId) -> Option<&StreamRow> {
        self.streams.get(self.numbers.get(sid)?)
    }

    /// Expected pods by uid.
    pub fn pods(&self) -> &BTreeMap<String, PodRow> {
        &self.pods
    }

    /// Uncovered pods by uid.
    pub fn uncovered(&self) -> &BTreeMap<String, UncoveredRow> {
        &self.uncovered
    }

    /// Records of these streams that went with their pod.
    pub fn abandoned(&self) -> &BTreeMap<Part, AbandonedRow> {
        &self.abandoned
    }

    /// Those of one stream.
    pub fn abandoned_of(&self, sid: &StreamId) -> impl Iterator<Item = &AbandonedRow> {
        of_stream(&self.abandoned, sid)
    }

    /// Records of these streams that were removed by order.
    pub fn pruned(&self) -> &BTreeMap<Part, Pruned> {
        &self.pruned
    }

    /// Records of these streams that were erased.
    pub fn erased(&self) -> &BTreeMap<Part, Pruned> {
        &self.erased
    }

    /// Streams that go on.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Streams of this pod that go on.
    pub fn open_of(&self, pod_uid: &str) -> impl Iterator<Item = &StreamRow> {
        let numbers = self.open.get(pod_uid).into_iter().flatten();
        numbers.filter_map(|number| self.streams.get(number))
    }

    /// Takes up what the entry at this place says.
    ///
    /// # Errors
    /// It speaks of a stream that is not there.
    pub fn apply(&mut self, seq: u64, at_ns: u64, fact: &Fact) -> Result<(), &'static str> {
        match fact {
            Fact::Expected(pod) => self.expect(pod),
            Fact::Gone(uid) => {
                self.pods.remove(&row_text(uid));
            }
            Fact::Uncovered(pod, None) => self.uncover(pod),
            Fact::Uncovered(pod, Some(_)) => {
                self.uncovered.remove(&row_text(&pod.uid));
            }
            Fact::Certified(sid, key, until_s, certificate) => {
                // A name of which the keeper forgot that it had ended may come again: a reader may still know it.
                if self.stream(sid).is_some_and(|row| row.life == Life::Open) {
                    return Err("the stream has a certificate already");
                }
                let state = StreamState::certified(*key, *until_s);
                let certificate = Some(certificate.clone());
                self.put(StreamRow { number: seq, sid: sid.clone(), state, life: Life::Open, at_ns, certificate });
            }
            Fact::Heads(heads) => return heads.iter().try_for_each(|head| self.head(head, at_ns)),
            Fact::Epoch(sid, size, root, next) => {
                let to = accepted(*size, *root);
                self.advance(sid, at_ns, &Accepted { next_key: Some(*next), ..to })?;
            }
            Fact::Closed(sid, size, root) => {
                let to = accepted(*size, *root);
                self.advance(sid, at_ns, &Accepted { closed: true, ..to })?;
                self.end(sid, Life::Closed)?;
            }
            Fact::Rebased(sid, _, (size, root), key) => {
                let rebased = Some(Rebased { size: *size, root: *root, key: *key });
                self.advance(sid, at_ns, &Accepted { rebased, ..accepted(*size, *root) })?;
            }
            Fact::Lost(sid, ..) => self.end(sid, Life::Lost)?,
            Fact::State(state) => {
                if state.first.is_some() {
                    self.forget(at_ns);
                    // Begun anew: it comes to all of them again.
                    self.partial.iter_mut().for_each(|ahead| *ahead = Ahead::default());
                }
                state.streams.iter().try_for_each(|row| self.restated(row))?;
                state.pods.iter().for_each(|row| self.expect(row));
                state.uncovered.iter().for_each(|row| self.uncover(row));
                state.abandoned.iter().for_each(|row| self.abandon(row.clone()));
                state.pruned.iter().for_each(|order| remove(&self.numbers, &mut self.pruned, order.clone()));
                state.erased.iter().for_each(|order| remove(&self.numbers, &mut self.erased, order.clone()));
                if state.last && !self.partial.take().is_none_or(|ahead| ahead.is_told()) {
                    return Err("a restatement leaves out a stream of which there are heads");
                }
            }
            Fact::Open(..) | Fact::Resumed(_) | Fact::Fork(..) | Fact::Unwrapped(..) | Fact::Witnessed(_) => {}
            Fact::Abandoned(row) => self.abandon(row.plain()),
            Fact::Pruned(order) => remove(&self.numbers, &mut self.pruned, order.plain()),
            Fact::Erased(order) => remove(&self.numbers, &mut self.erased, order.plain()),
        }
        Ok(())
    }

    /// As a restatement will say it: also what an entry of before, whose texts had no limit, says.
    fn expect(&mut self, pod: &PodRow) {
        let row = pod.plain();
        self.pods.insert(row.uid.clone(), row);
    }

    /// The same holds.
    fn uncover(&mut self, pod: &UncoveredRow) {
        let row = pod.plain();
        self.uncovered.insert(row.uid.clone(), row);
    }

    /// Only of streams that are known: with them it is forgotten.
    fn abandon(&mut self, row: AbandonedRow) {
        let longer = |known: &AbandonedRow| known.to >= row.to;
        let place = (row.sid.clone(), row.from, row.sink.clone());
        if row.from < row.to
            && self.numbers.contains_key(&row.sid)
            && has_room(&self.abandoned, &place, longer, ABANDONED_PER_STREAM_MAX)
        {
            self.abandoned.insert(place, row);
        }
    }

    /// A name has one row.
    fn put(&mut self, row: StreamRow) {
        let named = self.numbers.insert(row.sid.clone(), row.number).filter(|named| *named != row.number);
        if let Some(old) = named.and_then(|named| self.streams.remove(&named)) {
            ended(&mut self.open, &old.sid, old.number);
            self.live = self.live.saturating_sub(usize::from(old.life == Life::Open));
        }
        let open = usize::from(row.life == Life::Open);
        match row.life {
            Life::Open => drop(self.open.entry(pod(&row.sid).to_owned()).or_default().insert(row.number)),
            Life::Closed | Life::Lost => ended(&mut self.open, &row.sid, row.number),
        }
        let before = self.streams.insert(row.number, row);
        self.live = (self.live + open).saturating_sub(usize::from(before.is_some_and(|row| row.life == Life::Open)));
    }

    /// A row of a restatement: all that was said of the stream is in it.
    fn restated(&mut self, row: &StreamRow) -> Result<(), &'static str> {
        let StreamRow { number, sid, state, life, .. } = row;
        let mut said =
            self.streams.get(number).map_or((0, false), |known| (known.state.size, known.life != Life::Open));
        if let Some(ahead) = &mut self.partial {
            let (size, ended) = ahead.named.remove(sid).unwrap_or_default();
            let head = ahead.heads.remove(number).unwrap_or_default();
            said = (said.0.max(size).max(head), said.1 || ended);
        }
        if state.size < said.0 || (said.1 && *life == Life::Open) {
            return Err("a restatement goes back behind what was said of a stream");
        }
        self.put(row.clone());
        Ok(())
    }

    fn row(&mut self, sid: &StreamId) -> Option<&mut StreamRow> {
        self.numbers.get(sid).and_then(|number| self.streams.get_mut(number))
    }

    fn head(&mut self, head: &HeadRow, at_ns: u64) -> Result<(), &'static str> {
        let Some(row) = self.streams.get_mut(&head.stream) else {
            let ahead = self.partial.as_mut().ok_or("a head of a stream without a certificate")?;
            ahead.heads.insert(head.stream, head.size);
            return Ok(());
        };
        row.state.advance(&accepted(head.size, head.root));
        row.at_ns = at_ns;
        row.certificate = None;
        Ok(())
    }

    fn advance(&mut self, sid: &StreamId, at_ns: u64, to: &Accepted) -> Result<(), &'static str> {
        let Some(row) = self.row(sid) else { return self.ahead(sid, to.size, false) };
        row.state.advance(to);
        row.at_ns = at_ns;
        row.certificate = None;
        Ok(())
    }

    fn end(&mut self, sid: &StreamId, life: Life) -> Result<(), &'static str> {
        let Some(row) = self.row(sid) else { return self.ahead(sid, 0, true) };
        let (ends, number) = (row.life == Life::Open, row.number);
        // A stream whose end came with its pod's has shown it.
        row.life = if row.life == Life::Closed { Life::Closed } else { life };
        ended(&mut self.open, sid, number);
        self.live = self.live.saturating_sub(usize::from(ends));
        Ok(())
    }

    /// Something is said of a stream that is not known: its row comes later, if a restatement is under way.
    fn ahead(&mut self, sid: &StreamId, size: u64, ended: bool) -> Result<(), &'static str> {
        let ahead = self.partial.as_mut().ok_or("the stream has no certificate")?;
        let said = ahead.named.entry(sid.clone()).or_default();
        *said = (said.0.max(size), said.1 || ended);
        Ok(())
    }

    /// What ended long ago is restated no more.
    pub(super) fn forget(&mut self, now_ns: u64) {
        let keep_ns = FINISHED_KEEP_S.saturating_mul(1_000_000_000);
        let numbers = &mut self.numbers;
        self.streams.retain(|_, row| {
            let keep = row.life == Life::Open || now_ns.saturating_sub(row.at_ns) <= keep_ns;
            if !keep {
                numbers.remove(&row.sid);
            }
            keep
        });
        self.forget_of_unknown();
    }

    /// Where [`KNOWN_STREAMS_MAX`] is reached, streams that have ended make room, those that were heard of longest ago first.
    /// Only whoever keeps the ledger needs it: a reader may know more.
    pub(super) fn make_room(&mut self) {
        if self.streams.len() < KNOWN_STREAMS_MAX {
            return;
        }
        let rows = self.streams.values().filter(|row| row.life != Life::Open);
        let mut finished: Vec<(u64, u64)> = rows.map(|row| (row.at_ns, row.number)).collect();
        finished.sort_unstable();
        let more = self.streams.len().saturating_sub(KNOWN_STREAMS_KEEP);
        for (_, number) in finished.into_iter().take(more) {
            if let Some(row) = self.streams.remove(&number) {
                self.numbers.remove(&row.sid);
            }
        }
        self.forget_of_unknown();
    }

    /// With its stream all is forgotten that is said of it.
    fn forget_of_unknown(&mut self) {
        let numbers = &self.numbers;
        self.abandoned.retain(|(sid, ..), _| numbers.contains_key(sid));
        self.pruned.retain(|(sid, ..), _| numbers.contains_key(sid));
        self.erased.retain(|(sid, ..), _| numbers.contains_key(sid));
    }
}

impl Ahead {
    /// Whether all that is left has ended: the keeper may have forgotten it. Heads name no stream, so they are only counted.
    fn is_told(&self) -> bool {
        self.named.values().all(|(_, ended)| *ended) && self.heads.len() <= self.named.len()
    }
}

/// The pod that a stream is named after.
fn pod(sid: &StreamId) -> &str {
    sid.parts().map(|parts| parts.pod_uid).unwrap_or_default()
}

fn ended(open: &mut HashMap<String, BTreeSet<u64>>, sid: &StreamId, number: u64) {
    if let Some(numbers) = open.get_mut(pod(sid)) {
        numbers.remove(&number);
        if numbers.is_empty() {
            open.remove(pod(sid));
        }
    }
}

/// Takes up an order about a stream that is known.
fn remove(streams: &HashMap<StreamId, u64>, orders: &mut BTreeMap<Part, Pruned>, order: Pruned) {
    let longer = |known: &Pruned| known.range.end() >= order.range.end();
    let place = (order.sid.clone(), order.range.begin(), None);
    let some = order.range.begin() < order.range.end();
    if some && streams.contains_key(&order.sid) && has_room(orders, &place, longer, ORDERS_PER_STREAM_MAX) {
        orders.insert(place, order);
    }
}

/// Whether what is said of this place is new: nothing longer is known there, and the stream has not too many.
fn has_room<T>(known: &BTreeMap<Part, T>, place: &Part, longer: impl Fn(&T) -> bool, most: usize) -> bool {
    match known.get(place) {
        Some(there) => !longer(there),
        None => of_stream(known, &place.0).count() < most,
    }
}

/// What is said of one stream.
fn of_stream<'a, T>(known: &'a BTreeMap<Part, T>, sid: &StreamId) -> impl Iterator<Item = &'a T> {
    known.range((sid.clone(), 0, None)..).take_while(move |((of, ..), _)| of == sid).map(|(_, said)| said)
}

fn accepted(size: u64, root: Hash) -> Accepted {
    Accepted { size, root, next_key: None::<PublicKey>, closed: false, rebased: None, known: false }
}

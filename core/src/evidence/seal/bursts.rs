//! Identical refused exchanges of one peer: above 50 a second they fold into one record with the exact count (G3).

use super::list::host_of;
use crate::record::{Field, Record};
use std::collections::HashMap;

/// So many identical refused exchanges of one peer have a record of their own each second.
pub const REFUSED_PER_SECOND_MAX: u64 = 50;

/// Most kinds of refused exchanges that are followed at a time; others are never folded.
pub const KINDS_MAX: usize = 64;

const WINDOW_NS: u64 = 1_000_000_000;

/// What identical exchanges share. The peer counts by its address alone.
const SHARED: [Field; 16] = [
    Field::Action,
    Field::Actor,
    Field::ActorType,
    Field::Assurance,
    Field::AuthMethod,
    Field::Cause,
    Field::Dir,
    Field::Local,
    Field::Outcome,
    Field::Policy,
    Field::PolicyRevision,
    Field::Proto,
    Field::Refusal,
    Field::Rule,
    Field::Status,
    Field::Target,
];

#[derive(Debug, Default)]
pub(super) struct Bursts {
    kinds: HashMap<Vec<u8>, Kind>,
    /// Kinds with folded exchanges.
    folding: usize,
}

#[derive(Debug)]
struct Kind {
    since_ns: u64,
    seen: u64,
    burst: Option<Burst>,
}

/// Exchanges that were folded.
#[derive(Clone, Debug)]
pub(super) struct Burst {
    pub count: u64,
    from_ns: u64,
    to_ns: u64,
    shared: Vec<(Field, Vec<u8>)>,
}

impl Bursts {
    /// Whether this exchange is counted in a burst instead of being sealed.
    pub fn folds(&mut self, record: &Record, start_ns: u64, now_ns: u64, mono_ns: u64) -> bool {
        if record.get(Field::Refusal).is_none() {
            return false;
        }
        let mut key = host_of(record.get(Field::Peer).unwrap_or_default()).to_vec();
        for field in SHARED {
            key.push(b'\n');
            key.extend_from_slice(record.get(field).unwrap_or_default());
        }
        if !self.kinds.contains_key(&key) {
            if self.kinds.len() >= KINDS_MAX {
                self.kinds.retain(|_, kind| kind.burst.is_some() || mono_ns < kind.since_ns.saturating_add(WINDOW_NS));
            }
            if self.kinds.len() >= KINDS_MAX {
                return false;
            }
        }
        let kind = self.kinds.entry(key).or_insert(Kind { since_ns: mono_ns, seen: 0, burst: None });
        if mono_ns >= kind.since_ns.saturating_add(WINDOW_NS) {
            (kind.since_ns, kind.seen) = (mono_ns, 0);
        }
        kind.seen = kind.seen.saturating_add(1);
        if kind.seen <= REFUSED_PER_SECOND_MAX {
            return false;
        }
        let folding = &mut self.folding;
        let burst = kind.burst.get_or_insert_with(|| {
            *folding += 1;
            Burst { count: 0, from_ns: start_ns, to_ns: now_ns, shared: shared(record) }
        });
        burst.count = burst.count.saturating_add(1);
        burst.from_ns = burst.from_ns.min(start_ns);
        burst.to_ns = burst.to_ns.max(now_ns);
        true
    }

    /// When a burst is to be told, on the monotonic clock.
    pub fn due_ns(&self) -> Option<u64> {
        if self.folding == 0 {
            return None;
        }
        let folding = self.kinds.values().filter(|kind| kind.burst.is_some());
        folding.map(|kind| kind.since_ns.saturating_add(WINDOW_NS)).min()
    }

    /// A burst to tell now: one whose second is over, or any.
    pub fn first(&self, mono_ns: u64, any: bool) -> Option<(Vec<u8>, Burst)> {
        if self.folding == 0 {
            return None;
        }
        let over = |kind: &Kind| any || mono_ns >= kind.since_ns.saturating_add(WINDOW_NS);
        let due = self.kinds.iter().filter(|(_, kind)| over(kind));
        // In an order that does not depend on the map.
        due.filter_map(|(key, kind)| Some((key.clone(), kind.burst.clone()?))).min_by(|a, b| a.0.cmp(&b.0))
    }

    /// It is told.
    pub fn told(&mut self, key: &[u8]) {
        if let Some(kind) = self.kinds.get_mut(key)
            && kind.burst.take().is_some()
        {
            self.folding = self.folding.saturating_sub(1);
        }
    }
}

fn shared(record: &Record) -> Vec<(Field, Vec<u8>)> {
    let mut shared: Vec<(Field, Vec<u8>)> =
        SHARED.iter().filter_map(|field| Some((*field, record.get(*field)?.to_vec()))).collect();
    // Their ports differ: 0 says so.
    let peer = host_of(record.get(Field::Peer).unwrap_or(b"-"));
    let peer = if peer.contains(&b':') { [b"[", peer, b"]:0"].concat() } else { [peer, b":0"].concat() };
    shared.push((Field::Peer, peer));
    shared
}

impl Burst {
    /// Writes the burst into its record.
    pub fn describe(&self, record: &mut Record) {
        for (field, value) in &self.shared {
            record.set(*field, value);
        }
        record.set_int(Field::T0, self.from_ns);
        record.set_int(Field::T1, self.to_ns);
        record.set_int(Field::Count, self.count);
    }
}

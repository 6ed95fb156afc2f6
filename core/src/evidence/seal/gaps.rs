//! Exchanges that are lost and not yet declared: one gap for each reason (G1).

use super::list::{host_of, push_entry, push_name};
use crate::evidence::stream::StreamId;
use crate::record::{Field, Gap, GapReason, Record};
use std::collections::BTreeMap;

/// Most combinations of rule, direction and status class that a gap tells apart; more are counted as `other`.
pub const BY_MAX: usize = 64;

/// Most peers that are counted apart; the rest is not named.
pub const PEERS_COUNTED_MAX: usize = 256;

/// Most peers that a gap names.
pub const PEERS_TOLD_MAX: usize = 8;

/// What is lost, and not yet told.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    lost: Vec<Lost>,
}

/// One gap that is to be declared.
#[derive(Debug)]
pub(super) struct Lost {
    pub gap: Gap,
    /// Exchanges among them that this stream did not see begin.
    pub foreign: u64,
    stream: Option<StreamId>,
    by: BTreeMap<Vec<u8>, u64>,
    peers: BTreeMap<Vec<u8>, u64>,
}

impl Gaps {
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty()
    }

    /// An exchange of this stream has no record.
    pub fn lose(&mut self, record: &Record, reason: GapReason, start_ns: u64, now_ns: u64) {
        let gap = Gap { count: 1, exact: true, from_ns: start_ns, to_ns: now_ns, reason };
        let class = match record.get(Field::Status).and_then(<[u8]>::first) {
            Some(digit @ b'1'..=b'5') => [*digit, b'x', b'x'],
            _ => *b"---",
        };
        let value = |field| record.get(field).unwrap_or(b"-");
        let mut by = Vec::new();
        push_name(&mut by, &[value(Field::Rule), value(Field::Dir), &class]);
        self.merge(gap, None, |lost| {
            count(&mut lost.by, by, BY_MAX);
            count(&mut lost.peers, host_of(value(Field::Peer)).to_vec(), PEERS_COUNTED_MAX);
        });
    }

    /// Exchanges of this stream have no record, and more is not known of them.
    pub fn lose_unknown(&mut self, gap: Gap) {
        self.merge(gap, None, |_| {});
    }

    /// Exchanges that another stream or process saw have no record.
    pub fn lose_foreign(&mut self, gap: Gap, stream: Option<StreamId>) {
        self.merge(gap, stream, |lost| lost.foreign = lost.foreign.saturating_add(gap.count));
    }

    fn merge(&mut self, gap: Gap, stream: Option<StreamId>, then: impl FnOnce(&mut Lost)) {
        let known = self.lost.iter().position(|lost| lost.gap.reason == gap.reason && lost.stream == stream);
        let at = known.unwrap_or(self.lost.len());
        if known.is_none() {
            let (by, peers) = (BTreeMap::new(), BTreeMap::new());
            self.lost.push(Lost { gap: Gap { count: 0, ..gap }, foreign: 0, stream, by, peers });
        }
        let Some(lost) = self.lost.get_mut(at) else { return };
        lost.gap.count = lost.gap.count.saturating_add(gap.count);
        lost.gap.exact &= gap.exact;
        lost.gap.from_ns = lost.gap.from_ns.min(gap.from_ns);
        lost.gap.to_ns = lost.gap.to_ns.max(gap.to_ns);
        then(lost);
    }

    /// The next one to declare.
    pub fn first(&self) -> Option<&Lost> {
        self.lost.first()
    }

    /// It is declared.
    pub fn declared(&mut self) {
        if !self.lost.is_empty() {
            self.lost.remove(0);
        }
    }
}

fn count(counts: &mut BTreeMap<Vec<u8>, u64>, key: Vec<u8>, entries_max: usize) {
    if let Some(known) = counts.get_mut(&key) {
        *known = known.saturating_add(1);
    } else if counts.len() < entries_max {
        counts.insert(key, 1);
    }
}

impl Lost {
    /// Writes the gap into its record.
    pub fn describe(&self, record: &mut Record) {
        let gap = &self.gap;
        record.set_int(Field::Count, gap.count);
        record.set(Field::Exact, if gap.exact { b"1" } else { b"0" });
        record.set_int(Field::From, gap.from_ns);
        record.set_int(Field::T1, gap.to_ns);
        record.set(Field::GapReason, gap.reason.as_str().as_bytes());
        if let Some(stream) = &self.stream {
            record.set(Field::LostSid, stream.as_str().as_bytes());
        }
        let named: u64 = self.by.values().sum();
        let mut list = Vec::new();
        for (by, count) in &self.by {
            if !list.is_empty() {
                list.push(b',');
            }
            // Escaped when it was counted.
            list.extend_from_slice(by);
            list.extend_from_slice(format!("={count}").as_bytes());
        }
        if !list.is_empty() {
            if gap.count > named {
                push_entry(&mut list, &[b"other"], gap.count - named);
            }
            record.set(Field::By, &list);
        }
        let mut peers: Vec<(&Vec<u8>, &u64)> = self.peers.iter().collect();
        peers.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let mut list = Vec::new();
        peers.iter().take(PEERS_TOLD_MAX).for_each(|(peer, count)| push_entry(&mut list, &[peer], **count));
        if !list.is_empty() {
            record.set(Field::Peers, &list);
        }
    }
}

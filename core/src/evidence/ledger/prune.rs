//! Records that are removed from the backends by order (G2): which ones of an export, with their hashes in compact form, and
//! how the operator is told. What is left can still be proved, because the ledger holds the hashes of the rest.

use super::fact::{Fact, Pruned};
use super::{LEDGER, StreamId};
use crate::canon::parse_body;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{Range, leaf};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most orders of one request: each is an entry of the ledger.
pub const ORDERS_MAX: usize = 200;

/// Largest request, in bytes: an order has at most 126 hashes.
pub const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 512;

/// Longest name of who ordered it, in bytes.
pub const BY_BYTES_MAX: usize = 512;

/// Most records of the chosen streams that are held at a time, some 100 bytes each.
pub const RECORDS_MAX: usize = 5_000_000;

/// What an order is for: the verification tells them apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Removal {
    /// Records are no longer needed: [`Fact::Pruned`].
    #[default]
    Prune,
    /// Somebody who may asked that they go: [`Fact::Erased`].
    Erase,
}

impl Removal {
    /// The entry of the ledger.
    pub fn fact(self, order: Pruned) -> Fact {
        match self {
            Self::Prune => Fact::Pruned(order),
            Self::Erase => Fact::Erased(order),
        }
    }
}

/// What the operator is told, as JSON to [`crate::contract::PRUNE_PATH`]. Who tells it comes from the token, never from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneRequest {
    /// Why, for whoever verifies later.
    pub reason: String,
    /// What for.
    #[serde(default)]
    pub removal: Removal,
    /// What.
    pub orders: Vec<PruneOrder>,
}

/// Records of one stream without a gap between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneOrder {
    /// The stream.
    pub stream: StreamId,
    /// The first record.
    pub from: u64,
    /// The record after the last one.
    pub to: u64,
    /// Their hashes in compact form, in hex.
    pub nodes: Vec<String>,
}

/// The answer, once it stands in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneResponse {
    /// By whom the ledger says that it was ordered.
    pub by: String,
}

/// A request that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongOrder {
    /// Not one order, or too many.
    #[error("orders: between 1 and {ORDERS_MAX} are taken at a time")]
    Count,
    /// No reason, or a long one.
    #[error("reason: it is needed, with at most {REASON_BYTES_MAX} bytes")]
    Reason,
    /// The name of who asks is too long to stand in an entry.
    #[error("the user's name has more than {BY_BYTES_MAX} bytes")]
    By,
    /// The hashes are not those of the records.
    #[error("orders[{0}]: {1}")]
    Nodes(usize, String),
}

impl PruneRequest {
    /// The entries of the ledger.
    ///
    /// # Errors
    /// See [`WrongOrder`].
    pub fn entries(self, by: &str) -> Result<Vec<Pruned>, WrongOrder> {
        if self.orders.is_empty() || self.orders.len() > ORDERS_MAX {
            return Err(WrongOrder::Count);
        }
        if self.reason.trim().is_empty() || self.reason.len() > REASON_BYTES_MAX {
            return Err(WrongOrder::Reason);
        }
        if by.is_empty() || by.len() > BY_BYTES_MAX {
            return Err(WrongOrder::By);
        }
        let orders = self.orders.into_iter().enumerate();
        let entry = |(number, order): (usize, PruneOrder)| {
            let wrong = |text: String| WrongOrder::Nodes(number, text);
            if order.from >= order.to {
                return Err(wrong("`from` must be below `to`".to_owned()));
            }
            let nodes: Result<Vec<Hash>, _> = order.nodes.iter().map(|node| node.parse()).collect();
            let nodes = nodes.map_err(|_| wrong("nodes: 64 lower-case hex digits each".to_owned()))?;
            let range = Range::from_nodes(order.from, order.to, &nodes).map_err(|error| wrong(error.to_string()))?;
            Ok(Pruned { sid: order.stream, range, reason: self.reason.clone(), by: by.to_owned() })
        };
        orders.map(entry).collect()
    }
}

/// Which records are meant. Nothing chosen is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of streams whose name begins so.
    pub stream: Option<String>,
    /// Of pods of this namespace.
    pub namespace: Option<String>,
    /// Begun before this time, in nanoseconds since the epoch.
    pub before_ns: Option<u64>,
}

impl Selection {
    fn has_stream(&self, sid: &StreamId) -> bool {
        let Some(parts) = sid.parts() else { return false };
        parts.pod_uid != LEDGER
            && self.namespace.as_deref().is_none_or(|namespace| namespace == parts.namespace)
            && self.stream.as_deref().is_none_or(|prefix| sid.as_str().starts_with(prefix))
    }
}

/// Why an export cannot be ordered from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// It was changed, or belongs to another stream.
    #[error(
        "record {1} of {0} is not the one that the record after it follows: `testimony verify` says more; nothing is ordered"
    )]
    Broken(StreamId, u64),
    /// Two records claim one place.
    #[error("two different records claim place {1} of {0}: `testimony verify` says more; nothing is ordered")]
    Twice(StreamId, u64),
    /// More than is held.
    #[error("more than {RECORDS_MAX} records: choose fewer streams, or give the export in parts")]
    TooMany,
}

/// One record of a chosen stream.
#[derive(Clone, Copy, Debug)]
struct Known {
    leaf: Hash,
    prev: Option<Hash>,
    /// It is meant.
    goes: bool,
}

/// Records of one stream that go, without a gap between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The stream.
    pub sid: StreamId,
    /// The records.
    pub range: Range,
}

impl Part {
    /// As it is told.
    pub fn order(&self) -> PruneOrder {
        let (from, to) = (self.range.begin(), self.range.end());
        PruneOrder { stream: self.sid.clone(), from, to, nodes: self.range.nodes().map(Hash::to_hex).collect() }
    }
}

/// Finds the records of an export that are meant, in any order and with repeats.
#[derive(Debug, Default)]
pub struct Plan {
    selection: Selection,
    streams: BTreeMap<StreamId, BTreeMap<u64, Known>>,
    records: usize,
}

impl Plan {
    /// A plan without records.
    pub fn new(selection: Selection) -> Self {
        Self { selection, ..Self::default() }
    }

    /// Takes a body of the export; what is no record of a chosen stream is passed over.
    ///
    /// # Errors
    /// Another record claims its place, or there are too many.
    pub fn body(&mut self, body: &str) -> Result<(), PlanError> {
        let Ok(fields) = parse_body(body.as_bytes()) else { return Ok(()) };
        let text = |key: &str| fields.get(key).and_then(|value| std::str::from_utf8(value).ok());
        let number = |key: &str| text(key)?.parse::<u64>().ok();
        // A head has no place in a stream: it is no record.
        let (Some(sid), Some(seq)) = (text("sid").and_then(|sid| sid.parse().ok()), number("seq")) else {
            return Ok(());
        };
        if !self.selection.has_stream(&sid) {
            return Ok(());
        }
        let goes = self.selection.before_ns.is_none_or(|before| number("t0").is_some_and(|t0| t0 < before));
        let known = Known { leaf: leaf(body.as_bytes()), prev: text("prev").and_then(|prev| prev.parse().ok()), goes };
        let stream = self.streams.entry(sid.clone()).or_default();
        match stream.get(&seq) {
            Some(there) if there.leaf == known.leaf => return Ok(()),
            Some(_) => return Err(PlanError::Twice(sid, seq)),
            None => {}
        }
        if self.records >= RECORDS_MAX {
            return Err(PlanError::TooMany);
        }
        self.records += 1;
        stream.insert(seq, known);
        Ok(())
    }

    /// What goes, by stream and in order.
    ///
    /// # Errors
    /// A record is not the one that the next one follows: an order over it would prove nothing.
    pub fn parts(&self) -> Result<Vec<Part>, PlanError> {
        let mut parts: Vec<Part> = Vec::new();
        for (sid, records) in &self.streams {
            let mut range: Option<Range> = None;
            for (seq, known) in records.iter().filter(|(_, known)| known.goes) {
                let next = seq.checked_add(1).and_then(|next| records.get(&next));
                if next.is_some_and(|next| next.prev != Some(known.leaf)) {
                    return Err(PlanError::Broken(sid.clone(), *seq));
                }
                if range.as_ref().is_some_and(|range| range.end() != *seq) {
                    parts.extend(range.take().map(|range| Part { sid: sid.clone(), range }));
                }
                range.get_or_insert_with(|| Range::empty(*seq)).push(known.leaf);
            }
            parts.extend(range.map(|range| Part { sid: sid.clone(), range }));
        }
        Ok(parts)
    }

    /// Records between those that go which the export does not hold: their hashes are not known, so nobody can order them.
    pub fn absent(&self) -> Vec<(StreamId, std::ops::Range<u64>)> {
        let mut absent = Vec::new();
        for (sid, records) in &self.streams {
            let last = records.iter().rev().find(|(_, known)| known.goes).map(|(seq, _)| *seq);
            let mut next = None;
            for seq in records.keys().take_while(|seq| last.is_some_and(|last| **seq <= last)) {
                if let Some(next) = next.filter(|next| next < seq) {
                    absent.push((sid.clone(), next..*seq));
                }
                next = seq.checked_add(1);
            }
        }
        absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::ledger::entry::Entry;
    use crate::evidence::ledger::{Fact, ledger_id};

    fn sid(namespace: &str) -> StreamId {
        format!("c-1/{namespace}/pod/{:032x}-0-0", 1).parse().expect("a name")
    }

    /// `count` records of a stream, one each second from `1 s` on.
    fn stream(sid: &StreamId, count: u64) -> Vec<String> {
        let mut prev: Option<Hash> = None;
        let record = |seq: u64| {
            let link = prev.map(|prev| format!("\"prev\":\"{prev}\",")).unwrap_or_default();
            let body = format!("{{{link}\"seq\":\"{seq}\",\"sid\":\"{sid}\",\"t0\":\"{}000000000\"}}", seq + 1);
            prev = Some(leaf(body.as_bytes()));
            body
        };
        (0..count).map(record).collect()
    }

    fn plan(selection: Selection, bodies: &[String]) -> Result<Plan, PlanError> {
        let mut plan = Plan::new(selection);
        bodies.iter().try_for_each(|body| plan.body(body))?;
        Ok(plan)
    }

    fn ranges(plan: &Plan) -> Vec<(u64, u64)> {
        plan.parts().expect("whole").iter().map(|part| (part.range.begin(), part.range.end())).collect()
    }

    #[test]
    fn g2_what_is_chosen_is_found_with_its_hashes_in_any_order_and_with_repeats() {
        let (shop, bank) = (stream(&sid("shop"), 9), stream(&sid("bank"), 4));
        let mut all = [shop.clone(), bank, shop.clone()].concat();
        all.reverse();
        all.push("{\"typ\":\"head\"}".to_owned());
        all.push("a log line of somebody else".to_owned());
        let shop_only = Selection { namespace: Some("shop".to_owned()), ..Selection::default() };
        let before = Selection { before_ns: Some(6_000_000_000), ..shop_only.clone() };
        assert_eq!(ranges(&plan(shop_only, &all).expect("a plan")), [(0, 9)]);
        assert_eq!(ranges(&plan(Selection::default(), &all).expect("a plan")), [(0, 4), (0, 9)]);
        let plan = plan(before, &all).expect("a plan");
        assert_eq!(ranges(&plan), [(0, 5)]);
        let mut wanted = Range::empty(0);
        shop[..5].iter().for_each(|body| wanted.push(leaf(body.as_bytes())));
        assert_eq!(plan.parts().expect("whole")[0].range, wanted);
        let prefix = Selection { stream: Some("c-1/bank/".to_owned()), ..Selection::default() };
        assert_eq!(ranges(&super::tests::plan(prefix, &all).expect("a plan")), [(0, 4)]);
    }

    #[test]
    fn g2_records_that_are_not_there_are_told_and_never_ordered() {
        let bodies = stream(&sid("shop"), 9);
        let plan = plan(Selection::default(), &[&bodies[..2], &bodies[4..]].concat()).expect("a plan");
        assert_eq!(ranges(&plan), [(0, 2), (4, 9)]);
        assert_eq!(plan.absent(), [(sid("shop"), 2..4)]);
    }

    #[test]
    fn g2_a_changed_record_stops_everything() {
        let mut bodies = stream(&sid("shop"), 5);
        bodies[2] = bodies[2].replace("\"t0\":\"3", "\"t0\":\"4");
        let changed = plan(Selection::default(), &bodies).expect("a plan");
        assert_eq!(changed.parts(), Err(PlanError::Broken(sid("shop"), 2)));
        bodies.extend(stream(&sid("shop"), 5));
        assert_eq!(plan(Selection::default(), &bodies).map(|_| ()), Err(PlanError::Twice(sid("shop"), 2)));
    }

    #[test]
    fn g2_an_order_becomes_an_entry_with_who_and_why() {
        let plan = plan(Selection::default(), &stream(&sid("shop"), 7)).expect("a plan");
        let orders: Vec<_> = plan.parts().expect("whole").iter().map(Part::order).collect();
        let request = PruneRequest { reason: "GDPR 17, ticket 4711".to_owned(), removal: Removal::Erase, orders };
        let text = serde_json::to_string(&request).expect("JSON");
        assert_eq!(serde_json::from_str::<PruneRequest>(&text).expect("JSON"), request);
        let entries = request.clone().entries("alice").expect("an order");
        assert_eq!((entries.len(), entries[0].by.as_str()), (1, "alice"));
        let ledger = ledger_id("c-1", "testimony-system", 7).expect("a name");
        let fact = Fact::Pruned(entries[0].clone());
        let body = Entry { sid: ledger, seq: 3, prev: Some(leaf(b"x")), at_ns: 5, fact: fact.clone() }.body();
        assert_eq!(Entry::parse(&body).expect("an entry").fact, fact);

        let wrong = |change: fn(&mut PruneRequest), by: &str| {
            let mut request = request.clone();
            change(&mut request);
            request.entries(by).map(|_| ()).map_err(|error| error.to_string())
        };
        type Change = fn(&mut PruneRequest);
        let table: [(Change, &str); 5] = [
            (|r| r.reason = " ".to_owned(), "reason: it is needed"),
            (|r| r.orders.clear(), "orders: between 1 and 200"),
            (|r| r.orders[0].to = 0, "orders[0]: `from` must be below `to`"),
            (|r| r.orders[0].to = 8, "orders[0]: [0, 8) has 1 hashes"),
            (|r| r.orders[0].nodes[0] = "x".to_owned(), "orders[0]: nodes: 64"),
        ];
        for (change, problem) in table {
            let error = wrong(change, "alice").expect_err(problem);
            assert!(error.starts_with(problem), "{error}");
        }
        assert_eq!(wrong(|_| {}, ""), Err(WrongOrder::By.to_string()));
    }
}

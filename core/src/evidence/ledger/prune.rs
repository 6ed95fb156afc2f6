//! Records that are removed from the backends by order (G2), as the operator is told: with their hashes in compact form. What is left
//! can still be proved, because the ledger holds the hashes of the rest. Which ones of an export go is [`super::plan`]'s.

use super::StreamId;
use super::fact::{Fact, Pruned};
use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;
use serde::{Deserialize, Serialize};

/// Most orders of one request: each is an entry of the ledger.
pub const ORDERS_MAX: usize = 200;

/// Largest request, in bytes: an order has at most 126 hashes.
pub const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 512;

/// Longest name of who ordered it, in bytes.
pub const BY_BYTES_MAX: usize = 512;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::ledger::entry::Entry;
    use crate::evidence::ledger::ledger_id;
    use crate::evidence::ledger::plan::Part;
    use crate::evidence::merkle::leaf;

    #[test]
    fn g2_an_order_becomes_an_entry_with_who_and_why() {
        let mut range = Range::empty(0);
        (0..7_u8).for_each(|body| range.push(leaf(&[body])));
        let sid = format!("c-1/shop/pod/{:032x}-0-0", 1).parse().expect("a name");
        let orders = vec![Part { sid, range }.order()];
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

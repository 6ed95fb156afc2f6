//! What Strict waits for: when a record becomes durable, and which bytes are held until then (rules T1 to T4).

/// When a record that was emitted is durable. The later one is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Receipt {
    /// There is nothing to wait for: the record is counted in a burst that follows.
    Counted,
    /// Once everything up to this place is; only whoever gave it can tell more.
    At(u64),
    /// Never: it was not taken, and a gap counts it.
    Never,
}

/// The marker of an exchange that began (T2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Number of the marker; `None` where none was taken.
    pub number: Option<u64>,
    /// When it is durable.
    pub receipt: Receipt,
}

/// Bytes that are to be held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// How many bytes of the last call's output go before.
    pub from: usize,
    /// Number of the first exchange whose bytes are held.
    pub seq: u64,
    /// What must be durable before they go.
    pub until: Receipt,
    /// What happens if it does not become durable in time: refused (`Closed`), or let through (`Open`).
    pub closed: bool,
}

impl Hold {
    /// Adds what must be durable, too.
    pub(super) fn join(slot: &mut Option<Self>, other: Self) {
        match slot {
            None => *slot = Some(other),
            Some(hold) => {
                hold.until = hold.until.max(other.until);
                hold.closed |= other.closed;
            }
        }
    }
}

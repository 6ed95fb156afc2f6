//! The inbound exchanges in flight in this pod: an outbound request without a trace context, made while exactly one of
//! them is open, belongs to it.

use crate::trace::TraceParent;

/// Most exchanges that are remembered; more only count, and make every inference ambiguous.
pub const IN_FLIGHT_MAX: usize = 4096;

/// An inbound exchange in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its `xid`.
    pub xid: String,
    /// Its trace context.
    pub trace: Option<TraceParent>,
    /// Its correlation id.
    pub correlation_id: Option<Vec<u8>>,
}

/// Proof that an exchange is in the table; give it back at its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// The table.
#[derive(Debug, Default)]
pub struct InFlight {
    next: u64,
    open: Vec<(u64, Candidate)>,
    overflowed: usize,
}

impl InFlight {
    /// Adds an exchange.
    pub fn begin(&mut self, candidate: Candidate) -> Ticket {
        let ticket = self.next;
        self.next = self.next.wrapping_add(1);
        if self.open.len() < IN_FLIGHT_MAX {
            self.open.push((ticket, candidate));
        } else {
            self.overflowed = self.overflowed.saturating_add(1);
        }
        Ticket(ticket)
    }

    /// Takes it out again.
    pub fn end(&mut self, ticket: Ticket) {
        match self.open.iter().position(|(open, _)| *open == ticket.0) {
            Some(at) => {
                self.open.swap_remove(at);
            }
            None => self.overflowed = self.overflowed.saturating_sub(1),
        }
    }

    /// The only exchange in flight, if there is exactly one.
    pub fn single(&self) -> Option<&Candidate> {
        match self.open.as_slice() {
            [(_, only)] if self.overflowed == 0 => Some(only),
            _ => None,
        }
    }

    /// How many are in flight.
    pub fn len(&self) -> usize {
        self.open.len() + self.overflowed
    }

    /// Whether none is in flight.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `xid`s of up to `most` of them, comma-separated.
    pub fn xids(&self, most: usize) -> String {
        self.open.iter().take(most).map(|(_, candidate)| candidate.xid.as_str()).collect::<Vec<_>>().join(",")
    }
}

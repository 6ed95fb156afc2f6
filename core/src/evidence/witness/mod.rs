//! The witness: remembers the last head of each stream, and says so by a cosignature (W1, W2).
//!
//! The protocol is C2SP tlog-witness for many logs. [`request`] is what goes over the wire, [`judge`] what the witness makes
//! of it, [`client`] what the owner of a stream keeps, [`proof`] how proofs come out of compact ranges, [`csr`] how a stream
//! asks for its certificate, [`unwrap`] how keys of a spool are opened after a node's restart. Nothing here commits anything: a head is cosigned only after its block of the ledger is (see
//! [`super::ledger`]).

pub mod client;
pub mod csr;
pub mod judge;
pub mod proof;
pub mod request;
#[cfg(test)]
mod tests;
pub mod unwrap;

pub use client::{Client, Outcome};
pub use judge::{Accepted, Refusal, StreamState, judge};
pub use request::{Request, Tail};

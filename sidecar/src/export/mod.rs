//! Export: a bounded queue in memory for each sink, sent as OTLP over HTTP/protobuf or gRPC.
//!
//! ```text
//! data thread --push--> Queue (all sinks) --> SinkQueue --> sink task: join, compress, POST, judge the answer
//! ```
//! A data thread reserves a place ([`Queue::ticket`]) before it seals: while no sink has room, records become a gap.
//! [`Queue::push`] never blocks and never fails. Nothing is released before a sink said that it has it. A sink's answers
//! decide: success releases; 429, 5xx and broken connections are retried for ever; wrong credentials or a wrong path park
//! the queue; a request that is refused, or accepted in part, is split until single records remain. What one sink never
//! gets is a [`Loss`], and the data thread tells it as a hole.

mod answer;
mod delivery;
mod exporter;
mod grpc;
mod headers;
mod pack;
mod queue;
mod seals;
mod secrets;
mod sink;
mod sink_queue;
mod size;
mod source;
mod standing;
#[cfg(test)]
mod testing;
mod ticket;
mod transport;
mod wire;

pub use exporter::{Exporter, Settings, SinkFolders, Undelivered, new, rules};
pub use queue::Queue;
pub use seals::{LOSSES_MAX, Loss, LossReason, Mark, Seals};
pub use ticket::Ticket;

use bytes::Bytes;

/// Largest OTLP request, in bytes of encoded records before compression. A single larger record goes alone.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Encoded records of one data thread, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// LogRecords, each already tagged and length-prefixed as field 2 (`log_records`) of ScopeLogs.
    pub log_records: Bytes,
    /// How many.
    pub records: u32,
    /// When the first of them was sealed, in nanoseconds since the epoch.
    pub first_unix_nanos: u64,
    /// When the last of them was sealed, in nanoseconds since the epoch.
    pub last_unix_nanos: u64,
    /// Their places in their stream; `None`: they have none, and their loss can only be counted.
    pub seals: Option<Seals>,
}

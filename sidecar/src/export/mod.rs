//! Export: a bounded queue in memory for each sink, sent as OTLP over HTTP/protobuf or gRPC.
//!
//! ```text
//! data thread --push--> Queue (all sinks) --> SinkQueue --> sink task: join, compress, POST, judge the answer
//! ```
//! [`Queue::push`] never blocks and never fails: what a full queue cannot take is counted, and declared by a gap record
//! that leaves in front of the sink's next records. Nothing is released before a sink said that it has it. A sink's
//! answers decide: success releases; 429, 5xx and broken connections are retried for ever; wrong credentials or a wrong
//! path park the queue; a refused request is split until single records remain, and those are counted as lost.

mod answer;
mod exporter;
mod grpc;
mod headers;
mod queue;
mod secrets;
mod sink;
#[cfg(test)]
mod testing;
mod transport;
mod wire;

pub use exporter::{Exporter, Settings, SinkFolders, Undelivered, new};
pub use queue::Queue;
pub use testimony_core::record::{Gap, GapReason};

use bytes::Bytes;
use std::sync::Arc;

/// Largest OTLP request, in bytes of encoded records before compression. A single larger record goes alone.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Encoded records of one data thread, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// LogRecords, each already tagged and length-prefixed as field 2 (`log_records`) of ScopeLogs.
    pub log_records: Bytes,
    /// How many.
    pub records: u32,
    /// When the first of their exchanges began, in nanoseconds since the epoch.
    pub first_unix_nanos: u64,
    /// When the last of them was sealed, in nanoseconds since the epoch.
    pub last_unix_nanos: u64,
}

/// Encodes a gap as a record: the bytes of one LogRecord with tag and length, as in [`Batch::log_records`].
pub type GapEncoder = Arc<dyn Fn(&Gap) -> Bytes + Send + Sync>;

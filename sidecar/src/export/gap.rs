//! The record of a gap, made where gaps are found.

use crate::data::{Random, now};
use bytes::Bytes;
use std::sync::Arc;
use testimony_core::record::{Encoder, Gap, gap_record};

/// Encodes a gap as a record: the bytes of one LogRecord with tag and length, as in [`super::Batch::log_records`].
pub type GapEncoder = Arc<dyn Fn(&Gap) -> Bytes + Send + Sync>;

/// The encoder of the core; `revision` tells the policy in force.
pub fn gap_encoder(revision: impl Fn() -> String + Send + Sync + 'static) -> GapEncoder {
    Arc::new(move |gap| {
        let now = now();
        let record = gap_record(gap, &revision(), now, Random::default().next_u128());
        let mut bytes = Vec::new();
        // A gap holds numbers and names of ours: far below the limit of a body.
        let _ = Encoder::default().append(&record, now.wall_ns, &mut bytes);
        bytes.into()
    })
}

//! The record of a gap, made where gaps are found.

use bytes::Bytes;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use testimony_core::record::{Encoder, Gap, Stamp, gap_record};

/// Encodes a gap as a record: the bytes of one LogRecord with tag and length, as in [`super::Batch::log_records`].
pub type GapEncoder = Arc<dyn Fn(&Gap) -> Bytes + Send + Sync>;

/// The encoder of the core; `revision` tells the policy in force.
pub fn gap_encoder(revision: impl Fn() -> String + Send + Sync + 'static) -> GapEncoder {
    Arc::new(move |gap| {
        let wall_ns = unix_nanos();
        // Nothing of a gap is measured: its own monotonic time is of no use to anybody.
        let record = gap_record(gap, &revision(), Stamp { wall_ns, mono_ns: 0 }, random());
        let mut bytes = Vec::new();
        // A gap holds numbers and names of ours: far below the limit of a body.
        let _ = Encoder::default().append(&record, wall_ns, &mut bytes);
        bytes.into()
    })
}

/// Now, in nanoseconds since the epoch.
pub(super) fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The random part of a record's id. Without the system's randomness it is zero, and the id still holds the time.
fn random() -> u128 {
    let mut bytes = [0; 16];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u128::from_le_bytes(bytes)
}

//! What a data thread keeps: the policy in force, time, randomness, keys, its stream, and the batch that it is filling.

mod desk;
mod key;
mod random;
mod recorder;
mod recovery;
mod waiting;

pub use key::EpochKey;
pub use random::Random;
pub use recorder::{FLUSH_AFTER, LATE_RECORDS_MAX, NoStream, Recorder, Shared};
pub use recovery::{declared, recover};
pub use waiting::{WAIT_MS_MAX, Wait, Waited};

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use testimony_core::record::Stamp;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Wall and monotonic time now.
pub fn now() -> Stamp {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Stamp {
        wall_ns: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX),
        mono_ns: u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX),
    }
}

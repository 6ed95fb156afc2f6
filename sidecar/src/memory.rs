//! What the allocator keeps, and what no dump of the memory may hold.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Freed memory at the end of a heap stays with the process up to this many bytes. Requests to sinks are made and freed many
/// times a second; to give their pages back each time, and to get them cleared again, costs a third of the exporter's time.
const FREED_BYTES_MAX: i32 = 1024 * 1024;

/// What is longer goes back to the system when it is freed.
const LARGE_BYTES_MIN: i32 = 512 * 1024;

/// Says so to the allocator, where it can be told: glibc's. To be called once, early.
pub fn keep_freed() {
    #[cfg(target_env = "gnu")]
    for (parameter, bytes) in [(libc::M_TRIM_THRESHOLD, FREED_BYTES_MAX), (libc::M_MMAP_THRESHOLD, LARGE_BYTES_MIN)] {
        // SAFETY: changes two numbers of the allocator, which takes any.
        if unsafe { libc::mallopt(parameter, bytes) } == 0 {
            tracing::warn!(parameter, bytes, "the allocator does not take this parameter");
        }
    }
}

/// However the process ends, the system writes no core dump: it would hold keys, and heads of requests before they are redacted.
/// To be called once, early.
pub fn leave_no_dump() {
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "the system may write core dumps of this process");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_writes_no_core_dump_of_the_process() {
        leave_no_dump();
        assert_eq!(rustix::process::getrlimit(Resource::Core), Rlimit { current: Some(0), maximum: Some(0) });
    }
}

//! What the allocator keeps.

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

//! Threads beside those that serve requests: the scheduler lets requests go first.

/// What such a thread may run before another one of its kind gets its turn. It is longer than what a thread has that says
/// nothing (about 3 ms), and so that one, when it wakes, need not wait for the end of this (Linux 6.12 and later).
#[cfg(target_os = "linux")]
const SLICE_NANOS: u64 = 20_000_000;

/// How much such a thread stands back where it and a thread that serves requests want the same processor (`nice`): it gets a
/// quarter of it. That is more than the spool needs beside requests that keep a processor busy.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// Declares the calling thread, and those that it starts from now on, to be one of these: when it wakes it interrupts nobody,
/// and where processors are short it gets less than those that serve requests, but never nothing. What it does comes in
/// pieces, many times a second, and each would else stand in the way of requests that happen to be at the same processor.
pub fn lets_requests_go_first() {
    #[cfg(target_os = "linux")]
    if let Err(error) = as_batch() {
        tracing::debug!(%error, "the system does not take the scheduling of a thread");
    }
}

#[cfg(target_os = "linux")]
fn as_batch() -> std::io::Result<()> {
    // A process that was started with more keeps it: to lower it is a privilege.
    // SAFETY: asks for a number.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }.max(NICE);
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).unwrap_or_default(),
        sched_policy: libc::SCHED_BATCH.unsigned_abs(),
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: SLICE_NANOS,
        sched_deadline: 0,
        sched_period: 0,
    };
    let (caller, flags): (libc::pid_t, libc::c_uint) = (0, 0);
    // SAFETY: reads the structure, which lives longer than the call and says its own size, and changes the calling thread.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, caller, &raw const attributes, flags) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_thread_of_the_background_and_those_it_starts_let_requests_go_first() {
        let policy = || {
            // SAFETY: asks for two numbers.
            unsafe { (libc::sched_getscheduler(0), libc::getpriority(libc::PRIO_PROCESS, 0)) }
        };
        let before = policy();
        let threads = std::thread::spawn(move || {
            super::as_batch().expect("any thread may");
            (policy(), std::thread::spawn(policy).join().expect("a thread"))
        });
        let background = (libc::SCHED_BATCH, before.1.max(super::NICE));
        assert_eq!(threads.join().expect("a thread"), (background, background));
        assert_eq!(before.0, libc::SCHED_OTHER);
        assert_eq!(policy(), before, "of other threads nothing changes");
    }
}

//! Threads beside those that serve requests: the scheduler lets requests go first.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What such a thread may run before another one of its kind gets its turn. It is longer than what a thread has that says
/// nothing (about 3 ms), and so that one, when it wakes, need not wait for the end of this (Linux 6.12 and later).
#[cfg(target_os = "linux")]
const SLICE_NANOS: u64 = 20_000_000;

/// How much such a thread stands back where it and a thread that serves requests want the same processor (`nice`): it gets a
/// quarter of it. That is more than the spool needs beside requests that keep a processor busy.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// After the last answer that waited for it, such a thread is ready for more of them for so long.
const WAITED_FOR: Duration = Duration::from_secs(10);

/// `EX_SOFTWARE` of sysexits.h: a thread of this kind panicked.
pub const EXIT_PANIC: i32 = 70;

/// How a thread beside those that serve requests is scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// When it wakes it interrupts nobody.
    Back,
    /// As threads that serve requests, but for its `nice`: to lower that is a privilege.
    WaitedFor,
}

/// Declares the calling thread, and those that it starts from now on, to be one of these: when it wakes it interrupts nobody,
/// and where processors are short it gets less than those that serve requests, but never nothing. What it does comes in
/// pieces, many times a second, and each would else stand in the way of requests that happen to be at the same processor.
pub fn lets_requests_go_first() {
    set(Stand::Back);
}

/// Starts a thread of this kind. If it panics, the process ends, with [`EXIT_PANIC`]: without it nothing would be recorded while
/// requests go on, and whoever is started instead tells what was lost.
///
/// # Errors
/// The system starts none.
pub fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(|| {
        let _end = EndOfProcess;
        lets_requests_go_first();
        body();
    })
}

/// Ends the process where a thread panics.
struct EndOfProcess;

impl Drop for EndOfProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // At once: other threads go on until then. No signal, whose core dump would hold keys.
            // SAFETY: ends the process.
            unsafe { libc::_exit(EXIT_PANIC) }
        }
    }
}

/// A thread that lets requests go first, but not while answers wait for what it does (Strict): on a node whose processors are
/// all busy they would wait twice as long.
#[derive(Debug, Default)]
pub struct Waited {
    last: Option<Instant>,
}

impl Waited {
    /// Sets how the calling thread is scheduled from now on: `is_waited_for` says whether an answer waits now.
    pub fn tell(&mut self, is_waited_for: bool, now: Instant) {
        if let Some(stand) = self.change(is_waited_for, now) {
            set(stand);
        }
    }

    fn change(&mut self, is_waited_for: bool, now: Instant) -> Option<Stand> {
        if is_waited_for {
            return self.last.replace(now).is_none().then_some(Stand::WaitedFor);
        }
        self.last.take_if(|last| now.saturating_duration_since(*last) >= WAITED_FOR).map(|_| Stand::Back)
    }
}

fn set(stand: Stand) {
    #[cfg(target_os = "linux")]
    if let Err(error) = schedule(stand) {
        tracing::debug!(%error, ?stand, "the system does not take the scheduling of a thread");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = stand;
}

#[cfg(target_os = "linux")]
fn schedule(stand: Stand) -> io::Result<()> {
    // A process that was started with more keeps it.
    // SAFETY: asks for a number.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }.max(NICE);
    let (policy, slice_nanos) = match stand {
        Stand::Back => (libc::SCHED_BATCH, SLICE_NANOS),
        // The system's own slice.
        Stand::WaitedFor => (libc::SCHED_OTHER, 0),
    };
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).unwrap_or_default(),
        sched_policy: policy.unsigned_abs(),
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: slice_nanos,
        sched_deadline: 0,
        sched_period: 0,
    };
    let (caller, flags): (libc::pid_t, libc::c_uint) = (0, 0);
    // SAFETY: reads the structure, which lives longer than the call and says its own size, and changes the calling thread.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, caller, &raw const attributes, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_ready_for_answers_from_the_first_that_waits_until_none_did_for_long() {
        let (mut waited, start) = (Waited::default(), Instant::now());
        let second = Duration::from_secs(1);
        let mut at = |seconds: u32, is_waited_for| waited.change(is_waited_for, start + second * seconds);
        assert_eq!(at(0, false), None, "it stands back from its start");
        assert_eq!(at(1, true), Some(Stand::WaitedFor));
        assert_eq!([at(2, true), at(3, false), at(11, false)], [None; 3]);
        assert_eq!(at(12, false), Some(Stand::Back));
        assert_eq!(at(30, false), None);
        assert_eq!(at(31, true), Some(Stand::WaitedFor));
    }

    /// Says to the test below that it is the process that ends.
    const PANICS: &str = "TESTIMONY_TEST_PANICS";

    #[cfg(target_os = "linux")]
    #[test]
    fn a_panic_in_a_thread_of_the_background_ends_the_process() {
        if std::env::var_os(PANICS).is_some() {
            let _ = thread("panics", || panic!("as the test wants it")).expect("a thread").join();
            return;
        }
        let program = std::env::current_exe().expect("this program");
        let mut command = std::process::Command::new(program);
        let name = "background::tests::a_panic_in_a_thread_of_the_background_ends_the_process";
        let output = command.args([name, "--exact"]).env(PANICS, "1").output().expect("it starts");
        assert_eq!(output.status.code(), Some(EXIT_PANIC), "{output:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_of_the_background_and_those_it_starts_let_requests_go_first() {
        let policy = || {
            // SAFETY: asks for two numbers.
            unsafe { (libc::sched_getscheduler(0), libc::getpriority(libc::PRIO_PROCESS, 0)) }
        };
        let before = policy();
        let threads = std::thread::spawn(move || {
            schedule(Stand::Back).expect("any thread may");
            let (back, started) = (policy(), std::thread::spawn(policy).join().expect("a thread"));
            schedule(Stand::WaitedFor).expect("any thread may");
            let waited_for = policy();
            schedule(Stand::Back).expect("any thread may");
            (back, started, waited_for, policy())
        });
        let nice = before.1.max(NICE);
        let (back, waited_for) = ((libc::SCHED_BATCH, nice), (libc::SCHED_OTHER, nice));
        assert_eq!(threads.join().expect("a thread"), (back, back, waited_for, back));
        assert_eq!(before.0, libc::SCHED_OTHER);
        assert_eq!(policy(), before, "of other threads nothing changes");
    }
}

//! Signals as a queue that is waited for, and the reaping of children. The thin shell of the supervisor.

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr;
use std::time::{Duration, Instant};

/// The signals that ask to stop.
const STOP: [libc::c_int; 2] = [libc::SIGTERM, libc::SIGINT];

/// What a wait brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A child ended, perhaps more than one.
    Child,
    /// This signal asks to stop.
    Stop(libc::c_int),
    /// The time is over.
    Timeout,
}

/// The blocked signals. Blocked ones are kept for the next wait, even for process 1, which otherwise gets no signal that
/// it has no handler for.
pub(super) struct Signals(libc::sigset_t);

impl Signals {
    /// Blocks them in the calling thread, which has to be the only one.
    pub(super) fn block() -> io::Result<Self> {
        // A parent may have had it ignored, which is inherited: children would then vanish without a status.
        // SAFETY: sets a disposition, no handler.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        let set = set_of(&[&STOP[..], &[libc::SIGCHLD]].concat());
        // SAFETY: the set is initialised and outlives the call; no old set is asked for.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) } {
            0 => Ok(Self(set)),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    /// Waits for the next signal until `deadline`; without one, for ever.
    pub(super) fn next(&self, deadline: Option<Instant>) -> io::Result<Event> {
        loop {
            let signal = match deadline {
                // SAFETY: the set is initialised; no information is asked for.
                None => unsafe { libc::sigwaitinfo(&self.0, ptr::null_mut()) },
                Some(deadline) => {
                    let left = timespec(deadline.saturating_duration_since(Instant::now()));
                    // SAFETY: as above; the time outlives the call.
                    unsafe { libc::sigtimedwait(&self.0, ptr::null_mut(), &left) }
                }
            };
            match signal {
                libc::SIGCHLD => return Ok(Event::Child),
                -1 => {
                    let error = io::Error::last_os_error();
                    match error.raw_os_error() {
                        Some(libc::EAGAIN) => return Ok(Event::Timeout),
                        Some(libc::EINTR) => {}
                        _ => return Err(error),
                    }
                }
                stop => return Ok(Event::Stop(stop)),
            }
        }
    }
}

/// The signal that no worker waits for, to be unblocked in it.
pub(super) fn of_children() -> libc::sigset_t {
    set_of(&[libc::SIGCHLD])
}

/// Unblocks signals in the calling thread. Async-signal-safe, for a child between fork and exec.
pub(super) fn unblock(set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: the set is initialised and outlives the call; no old set is asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, set, ptr::null_mut()) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// For a worker that has its handlers: from now on it gets what asks it to stop. The supervisor starts it with these signals
/// blocked, so that one that comes before is kept until here, and does not end a worker that has something to drain.
///
/// # Errors
/// What the system says.
pub fn take_stop_signals() -> io::Result<()> {
    unblock(&set_of(&STOP))
}

fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set; the others only add valid signal numbers to it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    // SAFETY: all-zero bytes are a valid `timespec` (which has padding on some systems).
    let mut spec: libc::timespec = unsafe { std::mem::zeroed() };
    spec.tv_sec = libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX);
    spec.tv_nsec = duration.subsec_nanos().into();
    spec
}

/// Takes the status of every child that ended, also of those that were left to process 1; the worker's, if it is one.
pub(super) fn reap(worker: libc::pid_t) -> Option<ExitStatus> {
    let mut found = None;
    loop {
        let mut status = 0;
        // SAFETY: the pointer is to a writable `c_int`.
        match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) } {
            pid if pid <= 0 => return found,
            pid if pid == worker => found = Some(ExitStatus::from_raw(status)),
            _ => {}
        }
    }
}

/// Sends a signal to the worker. It is not reaped yet, so the id is still its own.
pub(super) fn send(worker: libc::pid_t, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: plain system call without pointers.
    match unsafe { libc::kill(worker, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

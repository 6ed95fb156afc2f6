//! The supervisor: the small process that owns the listening sockets and restarts the worker at once.
//!
//! A container that dies repeatedly is held in back-off by the kubelet for up to a minute, and with it all traffic of its
//! pod. So process 1 of the sidecar's container does next to nothing, and what can fail runs in the worker. While a new
//! worker starts, connections wait in the backlog of sockets that stay open here (PX-2).

mod inherit;
pub mod listen;
mod restart;
mod signals;

use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use inherit::{
    ENV_LISTEN_FDS, ENV_WORKER_ENDED_AT, ENV_WORKER_LAST_END, ENV_WORKER_RESTARTS, InheritError, PreviousWorker,
    WorkerEnd, inherited_listeners, previous_worker,
};
pub use listen::{ListenConfig, ListenError, Listeners, Role};
pub use signals::take_stop_signals;

use restart::Restarts;
use signals::{Event, Signals};

/// Exit codes (sysexits.h) by which a worker says that starting it again cannot help.
const HOPELESS_CODES: [i32; 2] = [64, 78];
/// `EX_UNAVAILABLE`: a listening socket could not be opened.
const EXIT_LISTEN: u8 = 69;
/// `EX_OSERR`: the system refused what a supervisor cannot do without.
const EXIT_SYSTEM: u8 = 71;
/// How long a killed worker may take to vanish.
const KILLED_WAIT_MS: u64 = 2000;
/// Grace of [`SupervisorConfig::new`], below the 30 s that a pod has by default.
const DEFAULT_GRACE_SECONDS: u64 = 28;

/// What to supervise.
#[derive(Clone, Debug)]
pub struct SupervisorConfig {
    /// The sockets to open.
    pub listen: ListenConfig,
    /// The worker's program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// How long the worker may take to stop after SIGTERM or SIGINT before it is killed.
    pub grace: Duration,
}

impl SupervisorConfig {
    /// This very program as the worker, with these arguments.
    pub fn new(listen: ListenConfig, args: Vec<OsString>) -> Self {
        Self {
            listen,
            program: PathBuf::from("/proc/self/exe"),
            args,
            grace: Duration::from_secs(DEFAULT_GRACE_SECONDS),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum SupervisorError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("start the worker {program:?}: {cause}")]
    Start { program: PathBuf, cause: io::Error },
    #[error("signals: {0}")]
    Signals(#[from] io::Error),
}

/// Opens the sockets, runs the worker, starts it again whenever it ends, and returns when there is nothing left to do.
///
/// The worker gets the sockets by [`inherited_listeners`], the fate of its predecessor by [`previous_worker`], and signals from
/// [`take_stop_signals`] on. It is started again at once; if workers end within a second one after another, after a pause of
/// 50 ms at most. SIGTERM and SIGINT are passed on; a worker that is still there after [`SupervisorConfig::grace`] is killed.
/// Children that were left to this process are reaped.
///
/// Returns 0 after SIGTERM or SIGINT; the worker's own code if that is 64 (usage) or 78 (configuration); 69 if a socket
/// cannot be opened; 71 if there is no such program or signals cannot be had. To be called on the main thread of a
/// process without other threads or children.
pub fn run(config: &SupervisorConfig) -> ExitCode {
    match supervise(config) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tracing::error!(%error, "the supervisor gives up");
            ExitCode::from(match error {
                SupervisorError::Listen(_) => EXIT_LISTEN,
                SupervisorError::Start { .. } | SupervisorError::Signals(_) => EXIT_SYSTEM,
            })
        }
    }
}

/// What became of a worker.
enum Outcome {
    Ended(ExitStatus),
    Stopped,
}

fn supervise(config: &SupervisorConfig) -> Result<u8, SupervisorError> {
    let signals = Signals::block()?;
    let listeners = config.listen.bind()?;
    let mut restarts = Restarts::default();
    let mut previous = None;
    loop {
        let started = Instant::now();
        let pause = match start(config, &listeners, previous) {
            Ok(worker) => match watch(&signals, worker, config.grace)? {
                Outcome::Stopped => return Ok(0),
                Outcome::Ended(status) => {
                    if let Some(code) = hopeless(status) {
                        tracing::error!(code, "the worker cannot run with this configuration");
                        return Ok(code);
                    }
                    let pause = restarts.ended(started.elapsed(), !status.success());
                    let now = worker_ended(status, restarts.total);
                    if now.end.is_in_order() {
                        tracing::info!("the worker ended in order: starting the next one");
                    } else {
                        tracing::error!(end = %now.end, restarts = now.restarts, "the worker died: starting it again");
                    }
                    previous = Some(now);
                    pause
                }
            },
            // No such program: that does not pass. No memory or no process id: that may.
            Err(cause) if is_lasting(&cause) => {
                return Err(SupervisorError::Start { program: config.program.clone(), cause });
            }
            Err(error) => {
                tracing::error!(%error, "the worker could not be started: trying again");
                // Never at once: the first quick end of a row has no pause.
                restarts.ended(Duration::ZERO, true).max(Duration::from_millis(restart::PAUSE_MAX_MS))
            }
        };
        if let Some(signal) = stopped_during(&signals, pause)? {
            // What the workers before left is sent, or told, by one more.
            match start(config, &listeners, previous) {
                Ok(worker) => stop(&signals, worker, signal, config.grace)?,
                Err(error) => tracing::error!(%error, "no worker could be started to send what is left"),
            }
            return Ok(0);
        }
    }
}

fn is_lasting(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput)
}

fn hopeless(status: ExitStatus) -> Option<u8> {
    let code = status.code().filter(|code| HOPELESS_CODES.contains(code))?;
    u8::try_from(code).ok()
}

fn worker_ended(status: ExitStatus, restarts: u64) -> PreviousWorker {
    let end = match status.signal() {
        Some(number) => WorkerEnd::Signal(number),
        None => WorkerEnd::Exit(status.code().unwrap_or_default()),
    };
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ended_at_unix_nanos = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
    PreviousWorker { restarts, end, ended_at_unix_nanos }
}

fn start(
    config: &SupervisorConfig,
    listeners: &Listeners,
    previous: Option<PreviousWorker>,
) -> io::Result<libc::pid_t> {
    let mut command = Command::new(&config.program);
    // What `ps` shows: the program's name, not the link through which it is started.
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    command.args(&config.args).stdin(Stdio::null()).env(ENV_LISTEN_FDS, inherit::announce(listeners));
    for name in [ENV_WORKER_RESTARTS, ENV_WORKER_LAST_END, ENV_WORKER_ENDED_AT] {
        command.env_remove(name);
    }
    match previous {
        Some(previous) => command.envs(previous.variables()),
        None => command.env(ENV_WORKER_RESTARTS, "0"),
    };
    let sockets: Vec<_> = listeners.iter().map(|(_, socket)| socket.as_raw_fd()).collect();
    let of_children = signals::of_children();
    // SAFETY: this one takes nothing and cannot fail.
    let supervisor = unsafe { libc::getpid() };
    // SAFETY: between fork and exec the closure makes only async-signal-safe system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            signals::unblock(&of_children)?;
            inherit::die_with_parent()?;
            // If the supervisor died before that, nobody would kill this process any more.
            if libc::getppid() != supervisor {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            for &socket in &sockets {
                // Only in this process: the supervisor's own descriptors stay closed on exec.
                if libc::fcntl(socket, libc::F_SETFD, 0) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    // The status is taken by `signals::reap`, so the handle is of no use beyond the id.
    let child = command.spawn()?;
    libc::pid_t::try_from(child.id()).map_err(io::Error::other)
}

/// Waits until the worker has ended, by itself or because this process was asked to stop.
fn watch(signals: &Signals, worker: libc::pid_t, grace: Duration) -> io::Result<Outcome> {
    loop {
        match signals.next(None)? {
            Event::Child => {
                if let Some(status) = signals::reap(worker) {
                    return Ok(Outcome::Ended(status));
                }
            }
            Event::Stop(signal) => {
                stop(signals, worker, signal, grace)?;
                return Ok(Outcome::Stopped);
            }
            Event::Timeout => {}
        }
    }
}

/// Passes the signal on and waits for the worker; kills it when its time is over.
fn stop(signals: &Signals, worker: libc::pid_t, signal: libc::c_int, grace: Duration) -> io::Result<()> {
    signals::send(worker, signal)?;
    let mut deadline = Instant::now() + grace;
    let mut killed = false;
    loop {
        match signals.next(Some(deadline))? {
            Event::Child => {
                if let Some(status) = signals::reap(worker) {
                    tracing::info!(%status, "the worker has stopped");
                    return Ok(());
                }
            }
            Event::Stop(signal) => signals::send(worker, signal)?,
            Event::Timeout if killed => {
                tracing::error!("the killed worker does not vanish: leaving it to the kernel");
                return Ok(());
            }
            Event::Timeout => {
                tracing::warn!(grace_ms = grace.as_millis(), "the worker did not stop in time: killing it");
                signals::send(worker, libc::SIGKILL)?;
                killed = true;
                deadline = Instant::now() + Duration::from_millis(KILLED_WAIT_MS);
            }
        }
    }
}

/// Lets the pause pass; the signal by which this process was asked to stop meanwhile.
fn stopped_during(signals: &Signals, pause: Duration) -> io::Result<Option<libc::c_int>> {
    /// No process has this id, so no status is taken for the worker's.
    const NO_WORKER: libc::pid_t = 0;
    let deadline = Instant::now() + pause;
    loop {
        match signals.next(Some(deadline))? {
            Event::Child => {
                signals::reap(NO_WORKER);
            }
            Event::Stop(signal) => return Ok(Some(signal)),
            Event::Timeout => return Ok(None),
        }
    }
}

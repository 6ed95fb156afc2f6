//! What the supervisor hands to the worker: listening sockets, and how the worker before it ended.

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::listen::{Listeners, Role};

/// Announces the inherited sockets: `inbound:3,outbound:4,admin:5`; a role may occur more than once.
pub const ENV_LISTEN_FDS: &str = "TESTIMONY_LISTEN_FDS";
/// How many workers died before this one: 0 for the first.
pub const ENV_WORKER_RESTARTS: &str = "TESTIMONY_WORKER_RESTARTS";
/// How the worker before this one ended: `exit:CODE` or `signal:NUMBER`. Absent for the first.
pub const ENV_WORKER_LAST_END: &str = "TESTIMONY_WORKER_LAST_END";
/// When it ended, in nanoseconds since the epoch. Absent for the first.
pub const ENV_WORKER_ENDED_AT: &str = "TESTIMONY_WORKER_ENDED_AT_UNIX_NANOS";

/// Descriptors that one announcement may name: far more than any machine has data threads.
const MAX_LISTEN_FDS: usize = 1024;
/// The first descriptor after standard input, output and error.
const FIRST_FD: RawFd = 3;

/// The supervisor's hand-over is not usable. Only the supervisor writes it, so this is a defect or a wrong environment.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// A variable does not parse.
    #[error("{variable}: {value:?}: {problem}; the supervisor sets it: do not set it by hand")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A descriptor is no listening socket.
    #[error("{ENV_LISTEN_FDS}: descriptor {fd} is no inherited listening socket: {cause}")]
    Descriptor {
        /// The descriptor.
        fd: RawFd,
        /// The system's error.
        cause: io::Error,
    },
    /// The sockets were taken before.
    #[error("the inherited sockets were taken before")]
    Taken,
    /// The worker could not be tied to the supervisor.
    #[error("tie the worker to its supervisor: {0}")]
    ParentDeath(io::Error),
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerEnd {
    /// It left with this code.
    Exit(i32),
    /// This signal ended it.
    Signal(i32),
}

impl WorkerEnd {
    /// Whether it drained and left of its own accord: no death.
    pub fn is_in_order(self) -> bool {
        self == Self::Exit(0)
    }
}

impl fmt::Display for WorkerEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit:{code}"),
            Self::Signal(number) => write!(f, "signal:{number}"),
        }
    }
}

impl FromStr for WorkerEnd {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, number) = text.split_once(':').ok_or("not KIND:NUMBER")?;
        let number = number.parse().map_err(|_| "not a number after the colon")?;
        match kind {
            "exit" => Ok(Self::Exit(number)),
            "signal" => Ok(Self::Signal(number)),
            _ => Err("neither exit nor signal"),
        }
    }
}

/// The worker before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousWorker {
    /// How many workers died before this one; those that ended in order do not count.
    pub restarts: u64,
    /// How the last one ended.
    pub end: WorkerEnd,
    /// When, in nanoseconds since the epoch, by the supervisor's clock.
    pub ended_at_unix_nanos: u64,
}

impl PreviousWorker {
    /// The variables that tell a worker of this predecessor.
    pub(super) fn variables(&self) -> [(&'static str, String); 3] {
        [
            (ENV_WORKER_RESTARTS, self.restarts.to_string()),
            (ENV_WORKER_LAST_END, self.end.to_string()),
            (ENV_WORKER_ENDED_AT, self.ended_at_unix_nanos.to_string()),
        ]
    }
}

/// Who went before this worker; `None` for the first one, and for a process without a supervisor.
///
/// # Errors
/// [`InheritError::Variable`].
pub fn previous_worker() -> Result<Option<PreviousWorker>, InheritError> {
    previous_worker_from(|name| std::env::var(name).ok())
}

fn previous_worker_from(get: impl Fn(&str) -> Option<String>) -> Result<Option<PreviousWorker>, InheritError> {
    let restarts = parse_variable(&get, ENV_WORKER_RESTARTS, |text| text.parse::<u64>().map_err(|_| "not a count"))?;
    let end = parse_variable(&get, ENV_WORKER_LAST_END, str::parse::<WorkerEnd>)?;
    let ended_at =
        parse_variable(&get, ENV_WORKER_ENDED_AT, |text| text.parse::<u64>().map_err(|_| "not nanoseconds"))?;
    Ok(match (restarts, end, ended_at) {
        (Some(restarts), Some(end), Some(ended_at_unix_nanos)) => {
            Some(PreviousWorker { restarts, end, ended_at_unix_nanos })
        }
        _ => None,
    })
}

fn parse_variable<T>(
    get: &impl Fn(&str) -> Option<String>,
    variable: &'static str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Option<T>, InheritError> {
    let Some(value) = get(variable) else { return Ok(None) };
    match parse(&value) {
        Ok(parsed) => Ok(Some(parsed)),
        Err(problem) => Err(InheritError::Variable { variable, value, problem }),
    }
}

/// The announcement of these sockets.
pub(super) fn announce(listeners: &Listeners) -> String {
    let each: Vec<_> =
        listeners.iter().map(|(role, socket)| format!("{}:{}", role.name(), socket.as_raw_fd())).collect();
    each.join(",")
}

fn parse_announcement(text: &str) -> Result<Vec<(Role, RawFd)>, &'static str> {
    let mut found: Vec<(Role, RawFd)> = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (role, fd) = part.split_once(':').ok_or("not ROLE:DESCRIPTOR")?;
        let role = Role::ALL.into_iter().find(|each| each.name() == role).ok_or("unknown role")?;
        let fd: RawFd = fd.parse().map_err(|_| "not a descriptor after the colon")?;
        if fd < FIRST_FD {
            return Err("a descriptor below 3");
        }
        if found.iter().any(|&(_, other)| other == fd) {
            return Err("a descriptor twice");
        }
        if role == Role::Admin && found.iter().any(|&(other, _)| other == Role::Admin) {
            return Err("more than one admin socket");
        }
        if found.len() >= MAX_LISTEN_FDS {
            return Err("too many descriptors");
        }
        found.push((role, fd));
    }
    Ok(found)
}

/// Takes over the sockets that the supervisor announced, non-blocking and closed on exec; `None` when there is no
/// supervisor. Ties this process to the supervisor: if that dies, the kernel kills this one. To be called once, early in
/// `main`, on the main thread.
///
/// # Errors
/// See [`InheritError`].
pub fn inherited_listeners() -> Result<Option<Listeners>, InheritError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let Ok(value) = std::env::var(ENV_LISTEN_FDS) else { return Ok(None) };
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(InheritError::Taken);
    }
    let announced = match parse_announcement(&value) {
        Ok(announced) => announced,
        Err(problem) => return Err(InheritError::Variable { variable: ENV_LISTEN_FDS, value, problem }),
    };
    // The supervisor asked for this before exec; starting a binary with a file capability may have undone it.
    die_with_parent().map_err(InheritError::ParentDeath)?;
    let mut listeners = Listeners::default();
    for (role, fd) in announced {
        let socket = adopt(fd).map_err(|cause| InheritError::Descriptor { fd, cause })?;
        listeners.push(role, socket);
    }
    Ok(Some(listeners))
}

/// Has the kernel kill this process when its parent dies. Async-signal-safe.
pub(super) fn die_with_parent() -> io::Result<()> {
    // SAFETY: plain system call without pointers.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn adopt(fd: RawFd) -> io::Result<TcpListener> {
    let mut listening: libc::c_int = 0;
    let mut len = std::mem::size_of_val(&listening) as libc::socklen_t;
    let into = (&raw mut listening).cast();
    // SAFETY: the pointer and the length describe `listening`; any descriptor number may be asked.
    if unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN, into, &mut len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if listening == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
    }
    // SAFETY: plain system call without pointers.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is a listening socket that this process inherited; each descriptor is announced once, and
    // `inherited_listeners` takes the announcement once, so nothing else owns it.
    let socket = unsafe { TcpListener::from_raw_fd(fd) };
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_read_as_it_was_written() {
        assert_eq!(
            parse_announcement("inbound:3,inbound:4,outbound:5,admin:6"),
            Ok(vec![(Role::Inbound, 3), (Role::Inbound, 4), (Role::Outbound, 5), (Role::Admin, 6)])
        );
        assert_eq!(parse_announcement(""), Ok(Vec::new()));
    }

    #[test]
    fn a_wrong_announcement_says_why() {
        for (text, wanted) in [
            ("inbound", "not ROLE:DESCRIPTOR"),
            ("inbound:x", "not a descriptor after the colon"),
            ("sideways:3", "unknown role"),
            ("inbound:2", "a descriptor below 3"),
            ("inbound:-1", "a descriptor below 3"),
            ("inbound:3,outbound:3", "a descriptor twice"),
            ("admin:3,admin:4", "more than one admin socket"),
        ] {
            assert_eq!(parse_announcement(text), Err(wanted), "{text}");
        }
    }

    #[test]
    fn a_descriptor_that_is_no_listening_socket_is_refused() {
        let file = std::fs::File::open("/proc/self/stat").expect("open");
        assert!(adopt(file.as_raw_fd()).is_err());
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        assert!(adopt(udp.as_raw_fd()).is_err());
    }

    #[test]
    fn the_predecessor_is_told_and_read_back() {
        for (restarts, end) in [(3, WorkerEnd::Exit(101)), (1, WorkerEnd::Signal(9)), (0, WorkerEnd::Exit(0))] {
            let previous = PreviousWorker { restarts, end, ended_at_unix_nanos: 1_700_000_000_000_000_001 };
            let variables = previous.variables();
            let get = |name: &str| variables.iter().find(|(each, _)| *each == name).map(|(_, value)| value.clone());
            assert_eq!(previous_worker_from(get).expect("valid"), Some(previous));
        }
        let first = |name: &str| (name == ENV_WORKER_RESTARTS).then(|| "0".to_owned());
        assert_eq!(previous_worker_from(first).expect("valid"), None);
        let wrong = |name: &str| (name == ENV_WORKER_LAST_END).then(|| "stroke:1".to_owned());
        let error = previous_worker_from(wrong).expect_err("wrong").to_string();
        assert!(error.starts_with("TESTIMONY_WORKER_LAST_END: \"stroke:1\": neither exit nor signal"), "{error}");
    }
}

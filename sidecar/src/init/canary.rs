//! The proof that the rules work: a connection to an address that exists nowhere has to arrive at ourselves.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::InitConfig;
use crate::redirect_dst::{original_destination, unmapped};
use crate::supervisor::listen;

/// How long the check of both families may take together.
const CANARY_TIMEOUT_MS: u64 = 2000;
/// Connections that are meant to wait in the canary's listener: ours, and those that others make meanwhile.
const CANARY_BACKLOG: libc::c_int = 16;
/// The service `discard`: if the rules failed and there were such a host, nothing would happen there.
const CANARY_PORT: u16 = 9;
/// TEST-NET-1 (RFC 5737): never assigned.
const TARGET_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), CANARY_PORT);
/// Documentation prefix (RFC 3849): never assigned.
const TARGET_V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), CANARY_PORT);

/// What the canary of one address family showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// A connection to this address arrived at our own listener, with the address as its original destination.
    Redirected(SocketAddr),
    /// This network namespace has no route, or no address, of this family: no connection can leave, so none was tried.
    NoRoute,
    /// The kernel has this family switched off.
    NoFamily,
    /// Another program, probably a sidecar that runs already, listens on the outbound port: no connection was tried.
    ListenerBusy,
}

impl fmt::Display for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redirected(target) => write!(f, "redirected (a connection to {target} came to us)"),
            Self::NoRoute => f.write_str("not tried: no route"),
            Self::NoFamily => f.write_str("not tried: the kernel has this family switched off"),
            Self::ListenerBusy => f.write_str("not tried: the outbound port is in use, perhaps by a running sidecar"),
        }
    }
}

/// How the rules failed the check.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// The listener could not be opened.
    #[error("listen on the outbound port {port}: {source}")]
    Listen {
        /// The port.
        port: u16,
        /// The system's error.
        source: io::Error,
    },
    /// The connection went elsewhere.
    #[error("a connection to {target} did not come to our own port {port}: {source}")]
    NotRedirected {
        /// Where the connection was made to.
        target: SocketAddr,
        /// Where it had to arrive.
        port: u16,
        /// What happened instead.
        source: io::Error,
    },
    /// The connection arrived, but with another original destination.
    #[error("a connection to {target} came to us with the original destination {found}")]
    WrongDestination {
        /// Where the connection was made to.
        target: SocketAddr,
        /// What the kernel says of it.
        found: SocketAddr,
    },
}

/// Checks IPv4, then IPv6.
pub(super) fn check(config: &InitConfig) -> Result<[Canary; 2], CanaryError> {
    let port = config.outbound_port;
    let address = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
    let listener = match listen::bind(address, listen::Sharing::Sole, CANARY_BACKLOG) {
        Ok(listener) => listener,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok([Canary::ListenerBusy; 2]),
        Err(source) => return Err(CanaryError::Listen { port, source }),
    };
    let deadline = Instant::now() + Duration::from_millis(CANARY_TIMEOUT_MS);
    Ok([check_target(&listener, TARGET_V4, port, deadline)?, check_target(&listener, TARGET_V6, port, deadline)?])
}

fn check_target(
    listener: &TcpListener,
    target: SocketAddr,
    port: u16,
    deadline: Instant,
) -> Result<Canary, CanaryError> {
    if let Some(reason) = unreachable(target) {
        return Ok(reason);
    }
    let failed = |source| CanaryError::NotRedirected { target, port, source };
    // With the rules in force the handshake is with our own backlog and done at once. Without them, a SYN leaves.
    let client = TcpStream::connect_timeout(&target, remaining(deadline).map_err(failed)?).map_err(failed)?;
    let from = client.local_addr().map_err(failed)?;
    let server = accept_from(listener, from, deadline).map_err(failed)?;
    let found = original_destination(&server).map_err(failed)?;
    // A reset instead of a farewell: no port stays in TIME_WAIT.
    for socket in [&server, &client] {
        listen::reset_on_close(socket).map_err(failed)?;
    }
    if found != target {
        return Err(CanaryError::WrongDestination { target, found });
    }
    Ok(Canary::Redirected(target))
}

/// Why nothing can be sent to `target`, if so. Connecting a UDP socket looks up the route and sends nothing.
fn unreachable(target: SocketAddr) -> Option<Canary> {
    let any = match target {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let error = match UdpSocket::bind(SocketAddr::new(any, 0)).and_then(|socket| socket.connect(target)) {
        Ok(()) => return None,
        Err(error) => error,
    };
    Some(match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => Canary::NoFamily,
        _ => Canary::NoRoute,
    })
}

/// Accepts until the connection from `from` is there. Others, made by chance meanwhile, are closed.
fn accept_from(listener: &TcpListener, from: SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
    loop {
        match listener.accept() {
            Ok((stream, peer)) if unmapped(peer) == from => return Ok(stream),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_readable(listener, deadline)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn wait_readable(listener: &TcpListener, deadline: Instant) -> io::Result<()> {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout = i32::try_from(remaining(deadline)?.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one `pollfd`, which outlives the call.
    match unsafe { libc::poll(&mut poll, 1, timeout.max(1)) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    match deadline.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(io::ErrorKind::TimedOut.into()),
    }
}

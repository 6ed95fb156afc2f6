//! Listening sockets: dual-stack where the kernel can, shared among data threads where asked.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use testimony_core::contract::port;

/// Connections that may wait in one socket's backlog (the kernel caps it at `net.core.somaxconn`): what arrives while
/// the worker is being restarted waits here.
pub const LISTEN_BACKLOG_CONNECTIONS: libc::c_int = 4096;

/// What a listening socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Redirected connections into the pod.
    Inbound,
    /// Redirected connections out of the pod.
    Outbound,
    /// Health, metrics, configuration.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Inbound, Self::Outbound, Self::Admin];

    /// The word for it in the announcement to the worker, and in errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Admin => "admin",
        }
    }
}

/// A listening socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("listen for {} on {address}: {source}", role.name())]
pub struct ListenError {
    /// What the socket was for.
    pub role: Role,
    /// Where it had to listen.
    pub address: SocketAddr,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenConfig {
    /// Inbound; `None` opens no socket.
    pub inbound: Option<SocketAddr>,
    /// Outbound; `None` opens no socket.
    pub outbound: Option<SocketAddr>,
    /// Admin; `None` opens no socket.
    pub admin: Option<SocketAddr>,
    /// Data threads: as many sockets are opened for each direction, and share its port (`SO_REUSEPORT`).
    pub data_threads: NonZeroUsize,
}

impl Default for ListenConfig {
    /// What the redirect rules of a pod expect: the contract's ports on `[::]`, one data thread.
    fn default() -> Self {
        let any = |port| Some(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
        Self {
            inbound: any(port::INBOUND),
            outbound: any(port::OUTBOUND),
            admin: any(port::ADMIN),
            data_threads: NonZeroUsize::MIN,
        }
    }
}

impl ListenConfig {
    /// Opens all sockets.
    ///
    /// # Errors
    /// [`ListenError`] for the first that cannot be opened; the others are closed again.
    pub fn bind(&self) -> Result<Listeners, ListenError> {
        let mut listeners = Listeners::default();
        for (role, address) in
            [(Role::Inbound, self.inbound), (Role::Outbound, self.outbound), (Role::Admin, self.admin)]
        {
            let Some(address) = address else { continue };
            let count = if role == Role::Admin { NonZeroUsize::MIN } else { self.data_threads };
            let sockets = bind_all(address, count).map_err(|source| ListenError { role, address, source })?;
            sockets.into_iter().for_each(|socket| listeners.push(role, socket));
        }
        Ok(listeners)
    }
}

fn bind_all(address: SocketAddr, count: NonZeroUsize) -> io::Result<Vec<TcpListener>> {
    let sharing = if count == NonZeroUsize::MIN { Sharing::Sole } else { Sharing::Shared };
    let first = bind(address, sharing, LISTEN_BACKLOG_CONNECTIONS)?;
    // With port 0 the kernel chose one: the others share it. The address may be the fallback's.
    let address = first.local_addr()?;
    let mut all = vec![first];
    for _ in 1..count.get() {
        all.push(bind(address, sharing, LISTEN_BACKLOG_CONNECTIONS)?);
    }
    Ok(all)
}

/// Listening sockets by role, all non-blocking and closed on exec.
#[derive(Debug, Default)]
pub struct Listeners {
    /// One for each data thread; empty if there is no inbound side.
    pub inbound: Vec<TcpListener>,
    /// One for each data thread; empty if there is no outbound side.
    pub outbound: Vec<TcpListener>,
    /// Absent if there is no admin port.
    pub admin: Option<TcpListener>,
}

impl Listeners {
    pub(super) fn push(&mut self, role: Role, socket: TcpListener) {
        match role {
            Role::Inbound => self.inbound.push(socket),
            Role::Outbound => self.outbound.push(socket),
            Role::Admin => self.admin = Some(socket),
        }
    }

    /// All sockets with their roles.
    pub fn iter(&self) -> impl Iterator<Item = (Role, &TcpListener)> {
        let inbound = self.inbound.iter().map(|socket| (Role::Inbound, socket));
        let outbound = self.outbound.iter().map(|socket| (Role::Outbound, socket));
        let admin = self.admin.iter().map(|socket| (Role::Admin, socket));
        inbound.chain(outbound).chain(admin)
    }
}

/// Whether other sockets of this user may listen on the same port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// No.
    Sole,
    /// Yes: the kernel spreads connections over them (`SO_REUSEPORT`).
    Shared,
}

/// Opens a non-blocking listening socket. `[::]` takes IPv4 as well, and becomes `0.0.0.0` where there is no IPv6.
pub(crate) fn bind(address: SocketAddr, sharing: Sharing, backlog: libc::c_int) -> io::Result<TcpListener> {
    let error = match bind_one(address, sharing, backlog) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED => error,
        result => return result,
    };
    match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => {
            bind_one(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())), sharing, backlog)
        }
        _ => Err(error),
    }
}

fn bind_one(address: SocketAddr, sharing: Sharing, backlog: libc::c_int) -> io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain system call without pointers.
    let fd = unsafe { libc::socket(family, kind, libc::IPPROTO_TCP) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let on: libc::c_int = 1;
    // Connections of a former process that are still closing do not hold the port.
    set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, on)?;
    if sharing == Sharing::Shared {
        set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, on)?;
    }
    if address.is_ipv6() {
        let off: libc::c_int = 0;
        set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, off)?;
    }
    bind_address(&fd, address)?;
    // SAFETY: plain system call without pointers.
    if unsafe { libc::listen(fd.as_raw_fd(), backlog) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(TcpListener::from(fd))
}

fn bind_address(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let rc = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            let len = mem::size_of_val(&raw) as libc::socklen_t;
            // SAFETY: the pointer and the length describe `raw`.
            unsafe { libc::bind(fd.as_raw_fd(), (&raw const raw).cast(), len) }
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            let len = mem::size_of_val(&raw) as libc::socklen_t;
            // SAFETY: the pointer and the length describe `raw`.
            unsafe { libc::bind(fd.as_raw_fd(), (&raw const raw).cast(), len) }
        }
    };
    if rc != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes closing this connection send a reset.
pub(crate) fn reset_on_close(socket: &TcpStream) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: 0 })
}

fn set_option<T: Copy>(fd: &impl AsFd, level: libc::c_int, option: libc::c_int, value: T) -> io::Result<()> {
    let len = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`.
    let rc = unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if rc != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    #[test]
    fn each_data_thread_gets_a_socket_on_the_same_port() {
        let config = ListenConfig {
            inbound: Some(local(0)),
            outbound: None,
            admin: Some(local(0)),
            data_threads: NonZeroUsize::new(3).expect("not zero"),
        };
        let listeners = config.bind().expect("bind");
        let roles: Vec<_> = listeners.iter().map(|(role, _)| role.name()).collect();
        assert_eq!(roles, ["inbound", "inbound", "inbound", "admin"]);
        let mut ports: Vec<_> =
            listeners.inbound.iter().map(|each| each.local_addr().expect("address").port()).collect();
        ports.dedup();
        assert_eq!(ports.len(), 1);
    }

    #[test]
    fn any_address_takes_both_families() {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let listener = bind(any, Sharing::Sole, 4).expect("bind");
        let port = listener.local_addr().expect("address").port();
        TcpStream::connect(local(port)).expect("IPv4");
        if listener.local_addr().expect("address").is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).expect("IPv6");
        }
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = bind(local(0), Sharing::Sole, 1).expect("bind");
        let address = taken.local_addr().expect("address");
        let config =
            ListenConfig { inbound: None, outbound: Some(address), admin: None, data_threads: NonZeroUsize::MIN };
        let error = config.bind().expect_err("in use");
        assert_eq!(error.role, Role::Outbound);
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with(&format!("listen for outbound on {address}: ")), "{error}");
    }
}

//! The address that a redirected connection was meant for, as the kernel's connection tracking remembers it.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// The destination that the client of this accepted TCP connection dialled, before the redirect rules changed it.
///
/// Works for IPv4 (`SO_ORIGINAL_DST`), IPv6 (`IP6T_SO_ORIGINAL_DST`), and IPv4 clients of a dual-stack listener, whose
/// sockets show IPv4-mapped addresses: the answer is then a plain IPv4 address. A connection that no rule changed, while
/// connection tracking is on, yields the address it was made to: one of our own listeners.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] when connection tracking does not know the connection: no redirect rule is installed in
/// this network namespace, or the client is gone already. Any other error is the kernel's.
pub fn original_destination<S: AsFd>(socket: &S) -> io::Result<SocketAddr> {
    let fd = socket.as_fd();
    match local_address(fd)? {
        SocketAddr::V6(local) if local.ip().to_ipv4_mapped().is_none() => {
            // SAFETY: `sockaddr_in6` is plain data and the structure that this option fills.
            let raw: libc::sockaddr_in6 = unsafe { get_option(fd, libc::SOL_IPV6, libc::IP6T_SO_ORIGINAL_DST) }?;
            Ok(from_in6(&raw))
        }
        _ => {
            // SAFETY: `sockaddr_in` is plain data and the structure that this option fills.
            let raw: libc::sockaddr_in = unsafe { get_option(fd, libc::SOL_IP, libc::SO_ORIGINAL_DST) }?;
            Ok(from_in(&raw))
        }
    }
}

/// `address` with an IPv4-mapped IPv6 address turned into the IPv4 address that it stands for.
pub fn unmapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut len = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `storage`, which is writable for that many bytes.
    let rc = unsafe { libc::getsockname(fd.as_raw_fd(), storage.as_mut_ptr().cast(), &mut len) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all-zero bytes are a valid `sockaddr_storage`, and the kernel wrote only valid bytes over them.
    let storage = unsafe { storage.assume_init() };
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: family AF_INET says that the storage, which is larger and aligned for it, holds a `sockaddr_in`.
            Ok(from_in(unsafe { &*(&raw const storage).cast() }))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for AF_INET6 and `sockaddr_in6`.
            Ok(from_in6(unsafe { &*(&raw const storage).cast() }))
        }
        family => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("not an IP socket: address family {family}")))
        }
    }
}

/// Reads a socket option of type `T`.
///
/// # Safety
/// `T` must be plain data for which every bit pattern is valid, and the type that `level`/`option` fills.
unsafe fn get_option<T>(fd: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which is writable for that many bytes.
    let rc = unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &mut len) };
    if rc != 0 {
        let error = io::Error::last_os_error();
        // Without the connection-tracking module the option itself is unknown: the same as an unknown connection.
        return Err(match error.raw_os_error() {
            Some(libc::ENOPROTOOPT) => io::Error::from_raw_os_error(libc::ENOENT),
            _ => error,
        });
    }
    if len as usize != mem::size_of::<T>() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel answered with an address of another size"));
    }
    // SAFETY: every byte was zeroed or written by the kernel, and the caller vouches for `T`.
    Ok(unsafe { value.assume_init() })
}

fn from_in(raw: &libc::sockaddr_in) -> SocketAddr {
    let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
    SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)))
}

fn from_in6(raw: &libc::sockaddr_in6) -> SocketAddr {
    let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
    SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), 0, raw.sin6_scope_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mapped_addresses_change() {
        for (given, wanted) in [
            ("[::ffff:10.1.2.3]:80", "10.1.2.3:80"),
            ("10.1.2.3:80", "10.1.2.3:80"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("[::1]:80", "[::1]:80"),
        ] {
            let given: SocketAddr = given.parse().expect("given");
            assert_eq!(unmapped(given).to_string(), wanted);
        }
    }

    #[test]
    fn a_socket_that_is_not_ip_is_refused() {
        let (left, _right) = std::os::unix::net::UnixStream::pair().expect("socket pair");
        let error = original_destination(&left).expect_err("no IP address");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}

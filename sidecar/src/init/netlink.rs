//! The thin shell around nf_tables: sends the batches and requests of [`super::batch`], hands back the answers.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::attr::{Malformed, Message, Messages};
use super::batch::{Batch, Dump, Kernel};

/// How long the kernel may take for one answer. It answers at once; a module that has to be loaded takes longer.
const ANSWER_TIMEOUT_SECONDS: libc::time_t = 5;
/// The kernel fills at most this much for one datagram of a dump.
const DATAGRAM_BYTES: usize = 64 * 1024;
/// Another change to nf_tables in the middle of a dump makes it void; it is asked for anew this many times.
const DUMP_TRIES: u32 = 8;
/// Datagrams that may come for one request, of all tables in this network namespace, before we give up.
const MAX_DATAGRAMS: u32 = 10_000;

/// Why the kernel did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket for netfilter.
    #[error("open a netlink socket for nf_tables: {0} (needs a kernel with CONFIG_NF_TABLES)")]
    Socket(#[source] io::Error),
    /// Sending or receiving failed, or the kernel did not answer in time.
    #[error("{step}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel refused one step; nothing of the transaction took effect.
    #[error("the kernel refused to {step}: {source}{}", hint(source))]
    Refused {
        /// The step.
        step: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The answer makes no sense.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The answer does not end.
    #[error("the kernel's answer does not end, or changed each time it was asked for")]
    Endless,
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => " (needs CAP_NET_ADMIN in the user namespace that owns this network namespace)",
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => {
            " (needs kernel 5.2 or newer with the modules nf_tables, nft_chain_nat, nft_redir and nft_fib_inet)"
        }
        _ => "",
    }
}

/// A netlink socket to nf_tables of the calling thread's network namespace.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: plain system call without pointers.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER) };
        if fd < 0 {
            return Err(NetlinkError::Socket(io::Error::last_os_error()));
        }
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let timeout = libc::timeval { tv_sec: ANSWER_TIMEOUT_SECONDS, tv_usec: 0 };
        let len = mem::size_of_val(&timeout) as libc::socklen_t;
        let option = (&raw const timeout).cast();
        // SAFETY: the pointer and the length describe `timeout`.
        if unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, option, len) } != 0 {
            return Err(NetlinkError::Socket(io::Error::last_os_error()));
        }
        Ok(Self(fd))
    }

    /// Sends a transaction and waits until the kernel took it.
    pub(super) fn commit(&self, batch: &Batch) -> Result<(), NetlinkError> {
        self.send(&batch.bytes)?;
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let mut missing = batch.acknowledgements();
        for _ in 0..MAX_DATAGRAMS {
            for message in Messages(self.receive(&mut buffer)?) {
                let message = message?;
                let Some(step) = batch.step(message.header.sequence) else { continue };
                if message.header.kind != libc::NLMSG_ERROR as u16 {
                    continue;
                }
                match message.errno()? {
                    0 => missing = missing.saturating_sub(1),
                    errno => return Err(refused(step.to_owned(), errno)),
                }
            }
            if missing == 0 {
                return Ok(());
            }
        }
        Err(NetlinkError::Endless)
    }

    /// Reads our table back.
    pub(super) fn read_back(&self) -> Result<Kernel, NetlinkError> {
        // Chains and rules are two dumps: each may be interrupted by another program's change, and is then repeated.
        let mut kernel = Kernel::default();
        let mut sequence: u32 = 1000;
        for dump in [Dump::Chains, Dump::Rules] {
            let mut tries = 0..DUMP_TRIES;
            loop {
                if tries.next().is_none() {
                    return Err(NetlinkError::Endless);
                }
                sequence = sequence.wrapping_add(1);
                let mut attempt = kernel.clone();
                if self.dump(dump, sequence, &mut attempt)? {
                    kernel = attempt;
                    break;
                }
            }
        }
        Ok(kernel)
    }

    /// One dump; `false` if another change made it void.
    fn dump(&self, dump: Dump, sequence: u32, into: &mut Kernel) -> Result<bool, NetlinkError> {
        self.send(&dump.request(sequence))?;
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let mut whole = true;
        for _ in 0..MAX_DATAGRAMS {
            for message in Messages(self.receive(&mut buffer)?) {
                let message: Message<'_> = message?;
                if message.header.sequence != sequence {
                    continue;
                }
                whole &= message.header.flags & libc::NLM_F_DUMP_INTR as u16 == 0;
                match libc::c_int::from(message.header.kind) {
                    libc::NLMSG_DONE => return Ok(whole),
                    libc::NLMSG_ERROR => {
                        let errno = message.errno()?;
                        return match errno {
                            libc::EINTR => Ok(false),
                            _ => Err(refused("read the rules back".to_owned(), errno)),
                        };
                    }
                    _ => into.add(dump, &message)?,
                }
            }
        }
        Err(NetlinkError::Endless)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        // SAFETY: the pointer and the length describe `bytes`. A socket without a peer address sends to the kernel.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(sent) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(_) => Err(NetlinkError::Io { step: "send to nf_tables", source: io::ErrorKind::WriteZero.into() }),
            Err(_) => Err(NetlinkError::Io { step: "send to nf_tables", source: io::Error::last_os_error() }),
        }
    }

    /// The next datagram from the kernel.
    fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8], NetlinkError> {
        let failed = |source| NetlinkError::Io { step: "receive from nf_tables", source };
        loop {
            // SAFETY: all-zero bytes are a valid `sockaddr_nl`.
            let mut from: libc::sockaddr_nl = unsafe { mem::zeroed() };
            let mut from_len = mem::size_of_val(&from) as libc::socklen_t;
            // SAFETY: the pointers and lengths describe `buffer` and `from`.
            let received = unsafe {
                libc::recvfrom(
                    self.0.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    // The true length, even if it is more than the buffer holds.
                    libc::MSG_TRUNC,
                    (&raw mut from).cast(),
                    &mut from_len,
                )
            };
            let Ok(received) = usize::try_from(received) else {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::WouldBlock => return Err(failed(io::ErrorKind::TimedOut.into())),
                    _ => return Err(failed(error)),
                }
            };
            // Port id 0 is the kernel; another process could send to us as well.
            if from.nl_pid == 0 {
                return Ok(buffer.get(..received).ok_or(Malformed("longer than any datagram of a dump"))?);
            }
        }
    }
}

fn refused(step: String, errno: i32) -> NetlinkError {
    NetlinkError::Refused { step, source: io::Error::from_raw_os_error(errno) }
}

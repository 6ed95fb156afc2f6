//! Network namespaces for tests: a pod and a peer, joined by a veth pair. Needs root and iproute2.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long anything in these tests may take.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A network namespace; it goes when this and all threads in it are gone.
pub struct Netns(File);

impl Netns {
    pub fn new() -> Self {
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: plain system call; it concerns only this new thread.
            let rc = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(rc, 0, "unshare: {} (network-namespace tests need root)", io::Error::last_os_error());
            sender.send(File::open("/proc/thread-self/ns/net").expect("open the namespace")).expect("send");
        });
        let file = receiver.recv();
        thread.join().expect("thread that makes the namespace");
        let netns = Self(file.expect("namespace"));
        netns.sh("ip link set lo up");
        netns
    }

    /// Runs `body` on a thread in this namespace, as root.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let joined = scope
                .spawn(|| {
                    // SAFETY: plain system call; it concerns only this new thread.
                    let rc = unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) };
                    assert_eq!(rc, 0, "setns: {}", io::Error::last_os_error());
                    body()
                })
                .join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `body` on a thread in this namespace with this user and group, and no other group.
    pub fn run_as<T: Send>(&self, uid: u32, gid: u32, body: impl FnOnce() -> T + Send) -> T {
        self.run(|| {
            // The system calls themselves: the functions of libc would change all threads.
            // SAFETY: plain system calls; they concern only this thread.
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()), 0);
                assert_eq!(libc::syscall(libc::SYS_setresgid, gid, gid, gid), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, uid, uid, uid), 0);
            }
            body()
        })
    }

    /// Runs a command line in this namespace and returns what it prints.
    pub fn sh(&self, line: &str) -> String {
        let mut words = line.split(' ');
        let program = words.next().expect("a program");
        let output = self.run(|| {
            Command::new(program).args(words).output().unwrap_or_else(|error| {
                panic!("{program}: {error}: these tests need the Debian packages iproute2 and nftables")
            })
        });
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Loads rules in nft's language.
    pub fn nft(&self, rules: &str) {
        for line in rules.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.sh(&format!("nft {line}"));
        }
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// A pod with default routes through its peer.
pub struct Pair {
    pub pod: Netns,
    pub peer: Netns,
}

pub const POD_V4: &str = "10.99.0.1";
pub const POD_V6: &str = "fd00:99::1";
pub const PEER_V4: &str = "10.99.0.2";
pub const PEER_V6: &str = "fd00:99::2";

impl Pair {
    pub fn new() -> Self {
        let (pod, peer) = (Netns::new(), Netns::new());
        pod.sh("ip link add eth0 type veth peer name eth1");
        pod.sh(&format!("ip link set eth1 netns {}", peer.path()));
        for (netns, link, v4, v6) in [(&pod, "eth0", POD_V4, POD_V6), (&peer, "eth1", PEER_V4, PEER_V6)] {
            netns.sh(&format!("ip addr add {v4}/24 dev {link}"));
            netns.sh(&format!("ip -6 addr add {v6}/64 dev {link} nodad"));
            netns.sh(&format!("ip link set {link} up"));
        }
        pod.sh(&format!("ip route add default via {PEER_V4}"));
        pod.sh(&format!("ip -6 route add default via {PEER_V6}"));
        Self { pod, peer }
    }
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A non-blocking listener in a namespace. A program that another test starts holds a copy of every socket of this process
/// until it runs: also of a listener that has just been closed, whose port is taken for that moment.
pub fn listen(netns: &Netns, at: &str) -> TcpListener {
    netns.run(|| {
        let deadline = Instant::now() + DEADLINE;
        let listener = loop {
            match TcpListener::bind(address(at)) {
                Ok(listener) => break listener,
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                Err(error) => panic!("bind {at}: {error}"),
            }
        };
        listener.set_nonblocking(true).expect("non-blocking");
        listener
    })
}

/// The next connection of a listener.
pub fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match listener.accept() {
            Ok(accepted) => return accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                assert!(!left.is_zero(), "no connection came to {:?}", listener.local_addr());
                let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: one `pollfd`, which outlives the call.
                unsafe { libc::poll(&mut poll, 1, i32::try_from(left.as_millis()).expect("seconds")) };
            }
            Err(error) => panic!("accept: {error}"),
        }
    }
}

/// That no connection waits. A connection that was established waits at once, so nothing has to be waited for.
pub fn assert_none_waits(listener: &TcpListener) {
    match listener.accept() {
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        Ok((_, peer)) => panic!("{:?} got a connection from {peer}", listener.local_addr()),
    }
}

pub fn connect(to: &str) -> TcpStream {
    TcpStream::connect_timeout(&address(to), DEADLINE).unwrap_or_else(|error| panic!("connect to {to}: {error}"))
}

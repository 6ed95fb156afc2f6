//! An open loop of requests over connections that are kept: one thread, which waits for whatever comes first, the next request's
//! time or an answer.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

/// A request as clients send them: some 330 bytes.
const REQUEST: &str = "GET /v1/orders/4711/items?page=2&size=50 HTTP/1.1\r\nHost: shop.example\r\n\
    User-Agent: testimony-latency/1.0 (load)\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n\
    X-Request-Id: 5d1f0a7e-8f6b-4d31-9b5a-1d2f3c4b5a69\r\n\
    Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nConnection: keep-alive\r\n\r\n";

/// After the last request's time so long is waited for answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// Percentiles of one measurement, in microseconds; of several: the median of each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latencies {
    pub count: usize,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    /// Of several: the 99th percentile that a quarter of them does not reach, which is what a machine says that others do not
    /// disturb just then.
    pub quiet_p99_us: f64,
    /// How late requests left: the load's own share, and what waited for a free connection.
    pub late_p99_us: f64,
}

impl Latencies {
    /// Of these; `late`: how late each was sent.
    pub fn of(mut took: Vec<Duration>, mut late: Vec<Duration>) -> Self {
        took.sort_unstable();
        late.sort_unstable();
        let p99_us = percentile(&took, 99);
        Self {
            count: took.len(),
            p50_us: percentile(&took, 50),
            p99_us,
            max_us: percentile(&took, 100),
            quiet_p99_us: p99_us,
            late_p99_us: percentile(&late, 99),
        }
    }

    /// Of several measurements.
    pub fn median_of(all: &[Self]) -> Self {
        let quantile = |figure: fn(&Self) -> f64, part: usize| {
            let mut figures: Vec<f64> = all.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures.get(figures.len() / part).copied().unwrap_or_default()
        };
        Self {
            count: all.iter().map(|one| one.count).sum(),
            p50_us: quantile(|one| one.p50_us, 2),
            p99_us: quantile(|one| one.p99_us, 2),
            max_us: quantile(|one| one.max_us, 2),
            quiet_p99_us: quantile(|one| one.quiet_p99_us, 4),
            late_p99_us: quantile(|one| one.late_p99_us, 2),
        }
    }
}

/// The nearest rank.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).map_or(0.0, |one| one.as_secs_f64() * 1e6)
}

struct Connection {
    stream: TcpStream,
    /// The time of the request that is under way.
    due: Option<Instant>,
    answer: Vec<u8>,
}

impl Connection {
    fn open(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).expect("connect");
        stream.set_nodelay(true).expect("a mode");
        stream.set_nonblocking(true).expect("a mode");
        Self { stream, due: None, answer: Vec::new() }
    }

    fn send(&mut self, due: Instant) {
        // A request fits a socket that has nothing under way.
        self.stream.write_all(REQUEST.as_bytes()).expect("sent");
        self.due = Some(due);
    }

    /// The time of the request whose answer is whole now.
    fn receive(&mut self) -> Option<Instant> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => panic!("the sidecar closed a connection"),
            Ok(count) => self.answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("{error}"),
        }
        let end = self.answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        if self.answer.len() < end + super::world::BODY_BYTES {
            return None;
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 200 "), "another answer");
        self.answer.clear();
        self.due.take()
    }
}

/// Sends requests at this rate for so long. Those whose time comes while all connections are busy wait, and that counts.
pub fn measure(to: SocketAddr, rate: u32, connections: usize, length: Duration) -> Latencies {
    prompt_timers();
    let mut all: Vec<Connection> = (0..connections).map(|_| Connection::open(to)).collect();
    let mut polled: Vec<libc::pollfd> =
        all.iter().map(|one| libc::pollfd { fd: one.stream.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    let mut free: VecDeque<usize> = (0..connections).collect();
    let gap = Duration::from_secs(1) / rate;
    let count = u32::try_from(length.as_millis() * u128::from(rate) / 1000).expect("few");
    let (mut sent, begun) = (0, Instant::now());
    let end = begun + length + PATIENCE;
    let (mut took, mut late) = (Vec::new(), Vec::new());
    while took.len() < count as usize {
        let now = Instant::now();
        assert!(now < end, "{} of {count} answers in time", took.len());
        let mut due = begun + gap * sent;
        while sent < count && due <= now {
            let Some(at) = free.pop_front() else { break };
            late.push(Instant::now().saturating_duration_since(due));
            all[at].send(due);
            sent += 1;
            due = begun + gap * sent;
        }
        let wait =
            if sent < count && !free.is_empty() { due.saturating_duration_since(Instant::now()) } else { PATIENCE };
        if !poll(&mut polled, wait) {
            continue;
        }
        for at in 0..connections {
            if polled[at].revents != 0
                && let Some(due) = all[at].receive()
            {
                took.push(due.elapsed());
                free.push_back(at);
            }
        }
    }
    Latencies::of(took, late)
}

/// Whether something can be read before the time is over.
fn poll(polled: &mut [libc::pollfd], wait: Duration) -> bool {
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(wait.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(wait.subsec_nanos().cast_signed()),
    };
    let count = libc::nfds_t::try_from(polled.len()).expect("few");
    // SAFETY: a valid slice with its length, a valid timeout, and no signal mask.
    unsafe { libc::ppoll(polled.as_mut_ptr(), count, &raw const timeout, std::ptr::null()) > 0 }
}

/// This thread's timers ring when they are due, and not up to 50 us later.
fn prompt_timers() {
    // SAFETY: sets a number of this thread.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_usize, 0_usize, 0_usize, 0_usize) };
}

//! Clients that send one request after the other, and log for each whether it was answered.

use super::wire::Message;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// An answer that takes longer will not come: no fault of these tests is that long.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// Between two tries to connect, while nobody listens.
const CONNECT_PAUSE: Duration = Duration::from_millis(5);
/// Requests on one connection, before the next one.
const REQUESTS_PER_CONNECTION: u32 = 50;

/// A request as the client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its path, which no other request has.
    pub path: String,
    /// When it left.
    pub sent: Instant,
    /// When its answer was there; `None`: it never was.
    pub answered: Option<Instant>,
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<Asked>>>,
}

impl Load {
    /// So many clients, each with a pause after each request.
    pub fn start(to: SocketAddr, clients: usize, pause: Duration) -> Self {
        let (stop, sent): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let client = |_| {
            let (stop, sent) = (stop.clone(), sent.clone());
            thread::spawn(move || run(to, &stop, &sent, pause))
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, sent, clients }
    }

    /// Requests that were sent by now.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Ends it; what was asked.
    pub fn stop(self) -> Vec<Asked> {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    }
}

fn run(to: SocketAddr, stop: &AtomicBool, sent: &AtomicU64, pause: Duration) -> Vec<Asked> {
    let mut log = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        // Nobody listens: nothing was asked.
        if connection(to, stop, sent, pause, &mut log).is_none() {
            thread::sleep(CONNECT_PAUSE);
        }
    }
    log
}

fn connection(
    to: SocketAddr,
    stop: &AtomicBool,
    sent: &AtomicU64,
    pause: Duration,
    log: &mut Vec<Asked>,
) -> Option<()> {
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(ANSWER_WAIT)).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    for _ in 0..REQUESTS_PER_CONNECTION {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let path = format!("/r/{:08}", sent.fetch_add(1, Ordering::SeqCst));
        let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n");
        log.push(Asked { path, sent: Instant::now(), answered: None });
        stream.write_all(request.as_bytes()).ok()?;
        Message::read(&mut reader)?;
        log.last_mut()?.answered = Some(Instant::now());
        thread::sleep(pause);
    }
    Some(())
}

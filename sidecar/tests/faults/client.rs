//! Clients that send one request after the other, and log for each whether it was answered.

use super::wire::{Chance, Message};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// An answer that takes longer will not come: no fault of these tests is that long.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// Between two tries to connect, while nobody listens.
const CONNECT_PAUSE: Duration = Duration::from_millis(5);
/// Length of what names a request in its path: `/r/` and eight digits.
pub const NAME_BYTES: usize = 11;
/// Requests on one connection, before the next one.
const REQUESTS_PER_CONNECTION: u32 = 20;

/// A request as the client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The beginning of its path, which no other request has.
    pub path: String,
    /// When it left.
    pub sent: Instant,
    /// When the first byte of its answer was there; `None`: it never was.
    pub answered: Option<Instant>,
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<Asked>>>,
}

impl Load {
    /// So many clients, each with a pause after each request, with paths that are longer by so many bytes.
    pub fn start(to: SocketAddr, clients: usize, pause: Duration, padding_bytes: usize) -> Self {
        let (stop, sent): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let client = |number| {
            let (stop, sent) = (stop.clone(), sent.clone());
            let client = Client { to, stop, sent, pause, padding_bytes, chance: Chance::from_seed(number) };
            thread::spawn(move || client.run())
        };
        let clients = (0..clients as u64).map(client).collect();
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

struct Client {
    to: SocketAddr,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    pause: Duration,
    padding_bytes: usize,
    chance: Chance,
}

impl Client {
    fn run(mut self) -> Vec<Asked> {
        let mut log = Vec::new();
        while !self.stop.load(Ordering::SeqCst) {
            if self.connection(&mut log).is_none() {
                thread::sleep(CONNECT_PAUSE);
            }
        }
        log
    }

    /// `None`: nobody listens, or the connection broke.
    fn connection(&mut self, log: &mut Vec<Asked>) -> Option<()> {
        let mut stream = TcpStream::connect(self.to).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(ANSWER_WAIT)).ok()?;
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        for _ in 0..REQUESTS_PER_CONNECTION {
            let path = format!("/r/{:08}", self.sent.fetch_add(1, Ordering::SeqCst));
            let request = format!("GET {path}{} HTTP/1.1\r\nhost: shop\r\n\r\n", self.padding());
            log.push(Asked { path, sent: Instant::now(), answered: None });
            stream.write_all(request.as_bytes()).ok()?;
            reader.fill_buf().ok().filter(|bytes| !bytes.is_empty())?;
            log.last_mut()?.answered = Some(Instant::now());
            Message::read(&mut reader)?;
            thread::sleep(self.pause);
            // Not before the first request: a connection without one has a record, too, and that is of no request.
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
        }
        Some(())
    }

    /// Letters that cannot be compressed well.
    fn padding(&mut self) -> String {
        let chance = &mut self.chance;
        let letter = |at| if at % 60 == 0 { '/' } else { char::from(b'a' + (chance.next() % 26) as u8) };
        (0..self.padding_bytes).map(letter).collect()
    }
}

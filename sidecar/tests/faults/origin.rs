//! The application behind the sidecar. It remembers which requests reached it.

use super::client::NAME_BYTES;
use super::wire::Message;
use std::collections::HashSet;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// One request in so many is answered late, so that a kill finds some in flight.
const SLOW_EVERY: usize = 8;
/// How late.
const SLOW_FOR: Duration = Duration::from_millis(15);

/// An application that answers everything.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    reached: Arc<Mutex<HashSet<String>>>,
}

impl Origin {
    /// Listens on a free port, for as long as the test runs.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let reached: Arc<Mutex<HashSet<String>>> = Arc::default();
        let seen = reached.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                thread::spawn(move || serve(&stream, &seen));
            }
        });
        Self { address, reached }
    }

    /// Paths of the requests that came.
    pub fn reached(&self) -> HashSet<String> {
        self.reached.lock().expect("lock").clone()
    }
}

fn serve(mut stream: &TcpStream, seen: &Mutex<HashSet<String>>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let request = Message::read(&mut reader)?;
        let slow = {
            let mut seen = seen.lock().expect("lock");
            seen.insert(request.word().chars().take(NAME_BYTES).collect());
            seen.len().is_multiple_of(SLOW_EVERY)
        };
        if slow {
            thread::sleep(SLOW_FOR);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").ok()?;
    }
}

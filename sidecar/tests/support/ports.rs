//! Ports that stay free while nobody listens there, however many test processes run on this machine.

use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Below the ports that the kernel gives to clients, and to whoever asks for any.
const PORTS: Range<u16> = 18_000..30_000;
/// A process claims so many at once.
const CLAIM_PORTS: u16 = 100;

/// What this process has claimed, and what of it was not given away yet.
static CLAIMED: Mutex<(Vec<TcpListener>, Range<u16>)> = Mutex::new((Vec::new(), 0..0));

/// An address of this process alone; each is given away once.
pub fn free_port() -> SocketAddr {
    let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        // Somebody else may listen there who knows nothing of claims.
        if let Some(port) = claimed.1.find(|port| listen(*port).is_some()) {
            return local(port);
        }
        let (claim, ports) = claim();
        claimed.0.push(claim);
        claimed.1 = ports;
    }
}

/// Whoever listens on the first of some ports has all of them, until its process ends.
fn claim() -> (TcpListener, Range<u16>) {
    let firsts = PORTS.step_by(usize::from(CLAIM_PORTS));
    let mut claims = firsts.filter_map(|first| Some((listen(first)?, first + 1..first + CLAIM_PORTS)));
    claims.next().expect("other test processes have all ports")
}

fn listen(port: u16) -> Option<TcpListener> {
    TcpListener::bind(local(port)).ok()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

//! Connections to the operator. Each stands for hours, and behind its address another pod may answer from one second to the
//! next: a peer that vanished is noticed, and a try while nobody answers costs one packet, so that tries may be many.

use super::ClientError;
use socket2::{SockRef, TcpKeepalive};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

/// Deadline of a connect, without TLS: the address of a pod that is gone may swallow what is sent there.
const DIAL_DEADLINE: Duration = Duration::from_secs(2);

/// How long the name's addresses are used before it is looked up again: a Service keeps its address, and sidecars that try
/// each second must not keep the cluster's DNS busy.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(10);

/// Deadline of a lookup where earlier addresses are known.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(1);

/// Most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// A peer is asked for a sign of life after this silence, so often, so many times: 14 s in all, less than it takes until
/// another replica of the operator leads.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_PROBES: u32 = 3;

/// What was sent and not acknowledged for this long ends the connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(14);

/// The addresses of a name, as they were last found.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    found: Vec<SocketAddr>,
    at: Option<Instant>,
}

impl Addresses {
    /// A connection to the first address that takes one.
    pub(super) async fn dial(&mut self, to: &str, host: &str, port: u16) -> Result<TcpStream, ClientError> {
        self.refresh(host, port).await.map_err(|source| ClientError::Resolve { to: to.to_owned(), source })?;
        let dialled = timeout(DIAL_DEADLINE, TcpStream::connect(self.found.as_slice())).await;
        let tcp =
            dialled.map_err(|_| ClientError::Timeout { to: to.to_owned(), after_ms: DIAL_DEADLINE.as_millis() })?;
        let tcp = tcp.map_err(|source| ClientError::Connect { to: to.to_owned(), source })?;
        keep_alive(&tcp);
        Ok(tcp)
    }

    /// Looks the name up where that is due. What was found before stays where the lookup fails.
    async fn refresh(&mut self, host: &str, port: u16) -> std::io::Result<()> {
        let now = Instant::now();
        if !self.found.is_empty() && self.at.is_some_and(|at| now.duration_since(at) < LOOKUP_INTERVAL) {
            return Ok(());
        }
        let lookup =
            async { lookup_host((host, port)).await.map(|found| found.take(ADDRESSES_MAX).collect::<Vec<_>>()) };
        let found = if self.found.is_empty() {
            lookup.await?
        } else {
            timeout(LOOKUP_DEADLINE, lookup).await.ok().and_then(Result::ok).unwrap_or_default()
        };
        self.at = Some(now);
        if !found.is_empty() {
            self.found = found;
        }
        Ok(())
    }
}

/// Best effort: without it a peer that vanished is noticed at the request's deadline.
fn keep_alive(tcp: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    let socket = SockRef::from(tcp);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_no_longer_resolves_is_dialled_at_its_last_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let mut addresses = Addresses { found: vec![at], at: None };
        let tcp = addresses.dial("x", "name.invalid", at.port()).await.expect("a connection");
        let socket = SockRef::from(&tcp);
        assert!(socket.keepalive().expect("an option"), "a peer that vanishes is noticed");
        let patience = socket.tcp_keepalive_time().expect("an option")
            + socket.tcp_keepalive_interval().expect("an option") * socket.tcp_keepalive_retries().expect("an option");
        assert!(patience < Duration::from_secs(15), "{patience:?}: before another replica may lead");
        assert!(addresses.at.is_some(), "it was looked up");

        let nowhere = Addresses::default().dial("x", "name.invalid", at.port()).await;
        assert!(matches!(nowhere, Err(ClientError::Resolve { .. })), "{nowhere:?}");
    }

    #[tokio::test]
    async fn a_name_is_not_looked_up_for_each_try() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let mut addresses = Addresses::default();
        assert!(matches!(addresses.dial("x", "localhost", port).await, Err(ClientError::Connect { .. })));
        let first = addresses.at;
        assert!(first.is_some());
        assert!(matches!(addresses.dial("x", "name.invalid", port).await, Err(ClientError::Connect { .. })));
        assert_eq!(addresses.at, first);
    }
}

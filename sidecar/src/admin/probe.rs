//! `/probe/tcp/<port>`: what the kubelet's `tcpSocket` probe would have found without the redirect.
//!
//! The dial is made under the sidecar's own user, whose connections the redirect rules leave alone.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::net::TcpStream;

/// Deadline of a dial.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// What a probe found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// The rest of the path is not a port.
    NoPort,
    /// Somebody accepts connections.
    Open,
    /// Nobody does, and why.
    Closed(String),
}

/// Dials `port`, the rest of the path.
pub(super) async fn dial(address: Option<IpAddr>, port: &str) -> Probe {
    let Some(port) = port.parse::<u16>().ok().filter(|port| *port != 0) else { return Probe::NoPort };
    let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect((address, port))).await {
        Ok(Ok(_)) => Probe::Open,
        Ok(Err(error)) => Probe::Closed(error.to_string()),
        Err(_) => Probe::Closed(format!("no answer within {} s", DIAL_TIMEOUT.as_secs())),
    }
}

//! From an endpoint to a stream of bytes: resolve, connect, TLS.

use super::dial::Dialler;
use super::standing::Addresses;
use super::{ClientError, Endpoint, Identity, TlsError, server_name, tls};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

/// Deadline for a connection to the operator: resolve, connect, TLS; for one to a sink, of TLS alone ([`Dialler`] has its own). A
/// long poll may wait for a minute, but not for the address of a pod that is gone, where nothing answers at all: the next try
/// reaches the pod that took its place.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Whom a client trusts with TLS, and as whom it shows itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trust<'a> {
    /// PEM bundle of the authorities; absent: those of the public web.
    pub ca_pem: Option<&'a str>,
    /// Verified instead of the URL's host.
    pub server_name: Option<&'a str>,
    /// Certificate and key to show when the server asks for them.
    pub identity: Option<&'a Identity>,
}

/// A connection, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(super) struct Connector {
    endpoint: Endpoint,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    dialler: Dialler,
    /// In its place: of the operator.
    standing: Option<Addresses>,
}

// === impl Connector ===

impl Connector {
    pub(super) fn new(endpoint: Endpoint, trust: &Trust<'_>, alpn: &[u8]) -> Result<Self, TlsError> {
        let tls = if endpoint.is_https() {
            let name = trust.server_name.unwrap_or(endpoint.host());
            let verified = server_name(name).ok_or_else(|| TlsError::Name(name.to_owned()))?;
            Some((tls::client_config(trust, alpn)?, verified))
        } else {
            None
        };
        Ok(Self { endpoint, tls, dialler: Dialler::default(), standing: None })
    }

    /// Connects as to the operator.
    pub(super) fn stand(&mut self) {
        self.standing = Some(Addresses::default());
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// `host:port`.
    pub(super) fn to(&self) -> String {
        self.endpoint.to_string()
    }

    pub(super) async fn open(&mut self) -> Result<Box<dyn Stream>, ClientError> {
        self.open_within(CONNECT_DEADLINE).await
    }

    async fn open_within(&mut self, deadline: Duration) -> Result<Box<dyn Stream>, ClientError> {
        let (to, host, port) = (self.to(), self.endpoint.host(), self.endpoint.port());
        let until = Instant::now() + deadline;
        let late = || ClientError::Timeout { to: to.clone(), after_ms: deadline.as_millis() };
        let (tcp, until) = match &mut self.standing {
            Some(addresses) => (timeout_at(until, addresses.dial(&to, host, port)).await.map_err(|_| late())??, until),
            None => (self.dialler.dial(&to, host, port).await?, Instant::now() + deadline),
        };
        // Best effort: a request is written in one piece anyway.
        let _ = tcp.set_nodelay(true);
        let Some((config, name)) = &self.tls else {
            self.dialler.is_well();
            return Ok(Box::new(tcp));
        };
        let tls = timeout_at(until, TlsConnector::from(config.clone()).connect(name.clone(), tcp)).await;
        let tls = tls.map_err(|_| late())?.map_err(|source| ClientError::Tls { to: to.clone(), source })?;
        self.dialler.is_well();
        Ok(Box::new(tls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_never_greets_is_not_waited_for() {
        // The kernel accepts; nobody ever speaks TLS.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("https://{}", silent.local_addr().expect("an address"));
        let endpoint = Endpoint::parse(&url).expect("a URL");
        let mut connector = Connector::new(endpoint, &Trust::default(), b"http/1.1").expect("a connector");
        let result = connector.open_within(Duration::from_millis(20)).await;
        let Err(error) = result else { panic!("a connection without a peer") };
        assert!(matches!(error, ClientError::Timeout { after_ms: 20, .. }), "{error}");
    }
}

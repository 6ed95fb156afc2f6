//! From an endpoint to a stream of bytes: resolve, connect, TLS.

use super::standing::Addresses;
use super::{ClientError, Endpoint, Identity, TlsError, server_name, tls};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Deadline for a connection: resolve, connect, TLS. A long poll may wait for a minute, but not for the address of a pod
/// that is gone, where nothing answers at all: the next try reaches the pod that took its place.
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
    /// Of the operator.
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
        Ok(Self { endpoint, tls, standing: None })
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
        let opened = tokio::time::timeout(deadline, self.open_unbounded()).await;
        opened.unwrap_or_else(|_| Err(ClientError::Timeout { to: self.to(), after_ms: deadline.as_millis() }))
    }

    async fn open_unbounded(&mut self) -> Result<Box<dyn Stream>, ClientError> {
        let (to, host, port) = (self.to(), self.endpoint.host(), self.endpoint.port());
        let tcp = match &mut self.standing {
            Some(addresses) => addresses.dial(&to, host, port).await?,
            None => {
                let tcp = TcpStream::connect((host, port)).await;
                tcp.map_err(|source| ClientError::Connect { to, source })?
            }
        };
        // Best effort: a request is written in one piece anyway.
        let _ = tcp.set_nodelay(true);
        let Some((config, name)) = &self.tls else { return Ok(Box::new(tcp)) };
        let tls = TlsConnector::from(config.clone()).connect(name.clone(), tcp).await;
        Ok(Box::new(tls.map_err(|source| ClientError::Tls { to: self.to(), source })?))
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

//! The HTTP/1.1 client for everything that the sidecar sends on its own account: exports and the operator's long poll.
//!
//! One connection at a time, kept alive; every request has one deadline for all of it (resolve, connect, TLS, send,
//! answer), and a shorter one to connect; the answer's body is bounded. Redirects are never followed and proxies never used: the policy names the
//! place, and credentials go nowhere else.

mod backoff;
mod endpoint;
mod secret;
mod tls;

pub use backoff::{Backoff, Jitter};
pub use endpoint::{Endpoint, EndpointError};
pub use secret::{Secret, is_sink_header};
pub use tls::{TlsError, server_name, tls_config};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// Deadline for a connection: resolve, connect, TLS. A long poll may wait for a minute, but not for the address of a pod
/// that is gone, where nothing answers at all: the next try reaches the pod that took its place.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// What the sidecar calls itself to others.
pub const AGENT: &str = concat!("testimony-sidecar/", env!("CARGO_PKG_VERSION"));

/// A client of one endpoint.
pub struct Client {
    endpoint: Endpoint,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    sender: Option<SendRequest<Full<Bytes>>>,
    /// Drives the connection; ends with this client.
    driver: JoinSet<()>,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// The body; cut off (see [`Answer::cut`]) where it was longer than the caller allowed.
    pub body: Bytes,
    /// The body was longer than allowed, or broke off; `body` is empty.
    pub cut: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The name does not resolve, or nobody listens.
    #[error("cannot connect to {to}: {source}")]
    Connect {
        /// `host:port`.
        to: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The peer's certificate is not accepted, or it does not speak TLS.
    #[error("TLS with {to} failed: {source}")]
    Tls {
        /// `host:port`.
        to: String,
        /// What the TLS library said.
        source: std::io::Error,
    },
    /// The connection broke, or the peer does not speak HTTP/1.1.
    #[error("no answer from {to}: {source}")]
    Http {
        /// `host:port`.
        to: String,
        /// What the HTTP library said.
        source: hyper::Error,
    },
    /// The deadline is over.
    #[error("no answer from {to} within {after_ms} ms")]
    Timeout {
        /// `host:port`.
        to: String,
        /// The deadline, in milliseconds.
        after_ms: u128,
    },
    /// The request could not be built.
    #[error("the request cannot be built: {0}")]
    Request(String),
}

impl Client {
    /// A client that is not connected yet. `server_name`: verified instead of the URL's host.
    ///
    /// # Errors
    /// A name that no certificate can hold, or an unusable CA bundle.
    pub fn new(endpoint: Endpoint, ca_pem: Option<&str>, name: Option<&str>) -> Result<Self, TlsError> {
        let tls = if endpoint.is_https() {
            let name = name.unwrap_or(endpoint.host());
            let verified = server_name(name).ok_or_else(|| TlsError::Name(name.to_owned()))?;
            Some((tls_config(ca_pem)?, verified))
        } else {
            None
        };
        Ok(Self { endpoint, tls, sender: None, driver: JoinSet::new() })
    }

    /// Sends a `POST` and takes the whole answer. A connection that the peer closed while it was idle is replaced once.
    ///
    /// # Errors
    /// See [`ClientError`]; the connection is gone then, the next request makes another.
    pub async fn post(
        &mut self,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
        deadline: Duration,
        answer_bytes_max: usize,
    ) -> Result<Answer, ClientError> {
        let work = self.post_unbounded(path, headers, body, answer_bytes_max);
        let result = match tokio::time::timeout(deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::Timeout { to: self.endpoint.to_string(), after_ms: deadline.as_millis() }),
        };
        if result.is_err() {
            self.disconnect();
        }
        result
    }

    /// Closes the connection, if there is one.
    pub fn disconnect(&mut self) {
        self.sender = None;
        self.driver.abort_all();
    }

    async fn post_unbounded(
        &mut self,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
        answer_bytes_max: usize,
    ) -> Result<Answer, ClientError> {
        // Between two requests the connection may need a moment; what it cannot do is come back once it closed.
        let reused = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        match self.post_once(path, headers, body.clone(), answer_bytes_max).await {
            Err(ClientError::Http { source, .. }) if reused && !source.is_parse() => {
                self.disconnect();
                self.post_once(path, headers, body, answer_bytes_max).await
            }
            result => result,
        }
    }

    async fn post_once(
        &mut self,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
        answer_bytes_max: usize,
    ) -> Result<Answer, ClientError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().map_err(|_| ClientError::Request(format!("{path} is not a path")))?;
        *request.headers_mut() = headers.clone();
        let host = HeaderValue::from_str(self.endpoint.authority());
        request.headers_mut().insert(HOST, host.map_err(|error| ClientError::Request(error.to_string()))?);
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let to = self.endpoint.to_string();
        let sender = match self.sender.as_mut().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => {
                let fresh = self.connect_within(CONNECT_DEADLINE).await?;
                self.sender.insert(fresh)
            }
        };
        let answer = sender.send_request(request).await.map_err(|source| ClientError::Http { to, source })?;
        let (parts, body) = answer.into_parts();
        // The status is the answer; a body that is too long or breaks off only takes the connection with it.
        let (body, cut) = match Limited::new(body, answer_bytes_max).collect().await {
            Ok(body) => (body.to_bytes(), false),
            Err(_) => (Bytes::new(), true),
        };
        if cut {
            self.disconnect();
        }
        Ok(Answer { status: parts.status, headers: parts.headers, body, cut })
    }

    async fn connect_within(&mut self, deadline: Duration) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let to = self.endpoint.to_string();
        let connected = tokio::time::timeout(deadline, self.connect()).await;
        connected.unwrap_or(Err(ClientError::Timeout { to, after_ms: deadline.as_millis() }))
    }

    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        self.disconnect();
        while self.driver.try_join_next().is_some() {}
        let to = self.endpoint.to_string();
        let tcp = TcpStream::connect((self.endpoint.host(), self.endpoint.port())).await;
        let tcp = tcp.map_err(|source| ClientError::Connect { to: to.clone(), source })?;
        // Best effort: a request is written in one piece anyway.
        let _ = tcp.set_nodelay(true);
        match &self.tls {
            Some((config, name)) => {
                let connector = TlsConnector::from(config.clone());
                let tls = connector.connect(name.clone(), tcp).await;
                let tls = tls.map_err(|source| ClientError::Tls { to, source })?;
                self.handshake(tls).await
            }
            None => self.handshake(tcp).await,
        }
    }

    async fn handshake<I>(&mut self, io: I) -> Result<SendRequest<Full<Bytes>>, ClientError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http1::handshake(TokioIo::new(io)).await;
        let (sender, connection) =
            handshake.map_err(|source| ClientError::Http { to: self.endpoint.to_string(), source })?;
        self.driver.spawn(async move {
            // Its error reaches whoever waits for an answer.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// An error with its causes, on one line: what people need to see is mostly the innermost one.
pub fn error_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line
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
        let mut client = Client::new(endpoint, None, None).expect("a client");
        let result = client.connect_within(Duration::from_millis(20)).await;
        let Err(error) = result else { panic!("a connection without a peer") };
        assert!(matches!(error, ClientError::Timeout { after_ms: 20, .. }), "{error}");
    }
}

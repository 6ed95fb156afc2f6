//! The client for everything that the sidecar sends on its own account: exports and the operator's long poll. It speaks
//! HTTP/1.1 or, for gRPC, HTTP/2 without negotiation.
//!
//! One connection at a time, kept alive; every request has one deadline for all of it (resolve, connect, TLS, send,
//! answer), and a shorter one to connect; the answer's body is bounded. Redirects are never followed and proxies never used: the policy names the
//! place, and credentials go nowhere else.

mod backoff;
mod connect;
mod dial;
mod endpoint;
mod secret;
mod standing;
mod tasks;
mod tls;

pub use backoff::{Backoff, Jitter};
pub use connect::Trust;
pub use endpoint::{Endpoint, EndpointError};
pub use secret::{Secret, is_sink_header};
pub use testimony_core::error::error_line;
pub use tls::{Identity, IdentityError, TlsError, server_name, tls_config};

use bytes::Bytes;
use connect::{Connector, Stream};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tasks::Tasks;

/// Largest header of an answer over HTTP/2, in bytes: the details of a gRPC error stand there.
const ANSWER_HEADER_BYTES_MAX: u32 = 64 * 1024;

/// What the sidecar calls itself to others.
pub const AGENT: &str = concat!("testimony-sidecar/", env!("CARGO_PKG_VERSION"));

/// Which HTTP a client speaks. Nothing is negotiated: the policy says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge or, with TLS, by ALPN.
    Http2,
}

/// A client of one endpoint.
pub struct Client {
    connector: Connector,
    version: Version,
    sender: Option<Sender>,
    /// Drive the connection; end with this client.
    tasks: Tasks,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// Trailer fields; of interest for gRPC.
    pub trailers: HeaderMap,
    /// The body; cut off (see [`Answer::cut`]) where it was longer than the caller allowed.
    pub body: Bytes,
    /// The body was longer than allowed, or broke off; `body` is empty.
    pub cut: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The name does not resolve.
    #[error("cannot resolve {to}: {source}")]
    Resolve {
        /// `host:port`.
        to: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nobody listens.
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
    /// The connection broke, or the peer does not speak the HTTP version that it is spoken to in.
    #[error("no answer from {to}: {source}")]
    Http {
        /// `host:port`.
        to: String,
        /// What the HTTP library said.
        source: hyper::Error,
    },
    /// The deadline is over before there was a connection.
    #[error("no connection to {to} within {after_ms} ms")]
    Timeout {
        /// `host:port`.
        to: String,
        /// The deadline, in milliseconds.
        after_ms: u128,
    },
    /// The deadline is over, and the peer has not answered a request on its connection.
    #[error("no answer from {to} within {after_ms} ms")]
    Late {
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
    /// A client that is not connected yet.
    ///
    /// # Errors
    /// A name that no certificate can hold, an unusable CA bundle, or a key that does not fit its certificate.
    pub fn new(endpoint: Endpoint, version: Version, trust: &Trust<'_>) -> Result<Self, TlsError> {
        let alpn: &[u8] = match version {
            Version::Http1 => b"http/1.1",
            Version::Http2 => b"h2",
        };
        let connector = Connector::new(endpoint, trust, alpn)?;
        Ok(Self { connector, version, sender: None, tasks: Tasks::default() })
    }

    /// Connects as to the operator: see [`standing`].
    #[must_use]
    pub fn standing(mut self) -> Self {
        self.connector.stand();
        self
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
            Err(_) => {
                let (to, after_ms) = (self.connector.to(), deadline.as_millis());
                // While it connects it has none to send on.
                Err(match self.sender {
                    Some(_) => ClientError::Late { to, after_ms },
                    None => ClientError::Timeout { to, after_ms },
                })
            }
        };
        if result.is_err() {
            self.disconnect();
        }
        result
    }

    /// What it is a client of.
    pub fn endpoint(&self) -> &Endpoint {
        self.connector.endpoint()
    }

    /// Closes the connection, if there is one.
    pub fn disconnect(&mut self) {
        self.sender = None;
        self.tasks.abort();
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
            Some(sender) => sender.ready().await,
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
        let request = self.request(path, headers, body)?;
        let to = self.connector.to();
        let sender = match self.sender.as_mut().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => {
                let fresh = self.connect().await?;
                self.sender.insert(fresh)
            }
        };
        let answer = sender.send(request).await.map_err(|source| ClientError::Http { to, source })?;
        let (parts, body) = answer.into_parts();
        // The status is the answer; a body that is too long or breaks off only takes the connection with it.
        let collected = Limited::new(body, answer_bytes_max).collect().await.ok();
        let trailers = collected.as_ref().and_then(|body| body.trailers().cloned()).unwrap_or_default();
        let cut = collected.is_none();
        if cut {
            self.disconnect();
        }
        let body = collected.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Ok(Answer { status: parts.status, headers: parts.headers, trailers, body, cut })
    }

    fn request(&self, path: &str, headers: &HeaderMap, body: Bytes) -> Result<Request<Full<Bytes>>, ClientError> {
        let endpoint = self.connector.endpoint();
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let target = match self.version {
            Version::Http1 => {
                let host = HeaderValue::from_str(endpoint.authority());
                request.headers_mut().insert(HOST, host.map_err(|error| ClientError::Request(error.to_string()))?);
                path.to_owned()
            }
            // Becomes :scheme, :authority and :path.
            Version::Http2 => {
                let scheme = if endpoint.is_https() { "https" } else { "http" };
                format!("{scheme}://{}{path}", endpoint.authority())
            }
        };
        *request.uri_mut() = target.parse().map_err(|_| ClientError::Request(format!("{path} is not a path")))?;
        Ok(request)
    }

    async fn connect(&mut self) -> Result<Sender, ClientError> {
        self.disconnect();
        let stream = self.connector.open().await?;
        let handshake = match self.version {
            Version::Http1 => self.handshake_http1(stream).await,
            Version::Http2 => self.handshake_http2(stream).await,
        };
        handshake.map_err(|source| ClientError::Http { to: self.connector.to(), source })
    }

    async fn handshake_http1(&self, stream: Box<dyn Stream>) -> hyper::Result<Sender> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Its error reaches whoever waits for an answer.
        self.tasks.spawn(async move {
            let _ = connection.await;
        });
        Ok(Sender::Http1(sender))
    }

    async fn handshake_http2(&self, stream: Box<dyn Stream>) -> hyper::Result<Sender> {
        let mut builder = http2::Builder::new(self.tasks.clone());
        builder.max_header_list_size(ANSWER_HEADER_BYTES_MAX);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn(async move {
            let _ = connection.await;
        });
        Ok(Sender::Http2(sender))
    }
}

impl Drop for Client {
    /// The tasks of an HTTP/2 connection hold the set that they stand in.
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

// === impl Sender ===

impl Sender {
    async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

// === impl ClientError ===

impl ClientError {
    /// Nobody answers there now: there is no connection, or it broke. Whoever comes next may answer.
    pub fn is_absence(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::Late { .. } => true,
            // A peer that speaks TLS, but not as it should, is there.
            Self::Tls { source, .. } => !source.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
            Self::Http { source, .. } => !source.is_parse(),
            Self::Resolve { .. } | Self::Request(_) => false,
        }
    }

    /// The peer does not accept the client's certificate, or misses one.
    pub fn refuses_identity(&self) -> bool {
        use rustls::AlertDescription as Alert;
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let of_http2 = error.downcast_ref::<h2::Error>().and_then(h2::Error::get_io);
            let io = error.downcast_ref::<std::io::Error>().or(of_http2).and_then(std::io::Error::get_ref);
            let tls = io.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref());
            if let Some(rustls::Error::AlertReceived(alert)) = tls {
                return matches!(
                    alert,
                    Alert::NoCertificate
                        | Alert::BadCertificate
                        | Alert::UnsupportedCertificate
                        | Alert::CertificateRevoked
                        | Alert::CertificateExpired
                        | Alert::CertificateUnknown
                        | Alert::UnknownCA
                        | Alert::AccessDenied
                        | Alert::CertificateRequired
                );
            }
            cause = error.source();
        }
        false
    }
}

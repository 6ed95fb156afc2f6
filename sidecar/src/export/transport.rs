//! How one sink is spoken to, as its document says: protocol, compression, TLS, and what it is shown.

use super::answer::{self, Verdict};
use super::pack::Body;
use super::secrets::{self, Origin};
use super::{Settings, grpc, headers};
use crate::client::{Client, ClientError, Endpoint, Identity, Trust, Version, error_line};
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use testimony_core::policy::{Compression, DocumentSink, SinkProtocol};

/// Largest answer, in bytes, compressed or not.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Where OTLP logs go over HTTP unless the URL has a path.
const LOGS_PATH: &str = "/v1/logs";

/// The connection to one sink, made when it is first needed.
pub(super) struct Transport {
    settings: Arc<Settings>,
    connected: Option<Connected>,
}

struct Connected {
    client: Client,
    /// What the client shows: when the files hold another, it is a client of the past.
    identity: Option<Identity>,
    /// The server answered once: it speaks the protocol.
    answered: bool,
}

// === impl Transport ===

impl Transport {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self { settings, connected: None }
    }

    /// The sink is another: so is the connection.
    pub(super) fn disconnect(&mut self) {
        self.connected = None;
    }

    /// One try.
    pub(super) async fn post(&mut self, sink: &DocumentSink, body: &Body) -> Verdict {
        let prepared = self.headers(sink).and_then(|headers| Ok((headers, self.connected(sink)?)));
        let (headers, connected) = match prepared {
            Ok(prepared) => prepared,
            Err(why) => return Verdict::Park { why },
        };
        let path = match sink.protocol {
            SinkProtocol::Grpc => grpc::LOGS_PATH.to_owned(),
            SinkProtocol::HttpProtobuf => connected.client.endpoint().path_or(LOGS_PATH).to_owned(),
        };
        let deadline = Duration::from_millis(u64::from(sink.timeout_ms));
        match connected.client.post(&path, &headers, body.bytes(), deadline, ANSWER_BYTES_MAX).await {
            Ok(answer) => {
                connected.answered = true;
                match sink.protocol {
                    SinkProtocol::HttpProtobuf => answer::judge(&answer, SystemTime::now(), sink),
                    SinkProtocol::Grpc => grpc::judge(&answer, SystemTime::now(), sink),
                }
            }
            Err(error) if error.refuses_identity() => {
                Verdict::Park { why: format!("{}; check the client certificate", error_line(&error)) }
            }
            Err(error @ ClientError::Late { .. }) => Verdict::Late { after: None, why: error_line(&error) },
            Err(error) => Verdict::Again { after: None, why: explain(&error, sink, connected.answered) },
        }
    }

    /// The client, made anew when the certificate was rotated.
    fn connected(&mut self, sink: &DocumentSink) -> Result<&mut Connected, String> {
        let identity = match sink.client_certificate_secret {
            Some(_) => Some(secrets::identity(&self.settings, sink).map_err(|error| error_line(&error))?),
            None => None,
        };
        if self.connected.as_ref().is_some_and(|connected| connected.identity != identity) {
            tracing::info!(sink = %sink.name, "the client certificate was replaced");
            self.connected = None;
        }
        match &mut self.connected {
            Some(connected) => Ok(connected),
            none => {
                let endpoint = Endpoint::parse(&sink.endpoint).map_err(|error| format!("endpoint {error}"))?;
                let version = match sink.protocol {
                    SinkProtocol::HttpProtobuf => Version::Http1,
                    SinkProtocol::Grpc => Version::Http2,
                };
                let trust = Trust {
                    ca_pem: sink.ca_bundle.as_deref(),
                    server_name: sink.server_name.as_deref(),
                    identity: identity.as_ref(),
                };
                let client = Client::new(endpoint, version, &trust).map_err(|error| error_line(&error))?;
                Ok(none.insert(Connected { client, identity, answered: false }))
            }
        }
    }

    /// All header fields. Of two `authorization`, the ServiceAccount token wins: it is what the sink itself asks for.
    fn headers(&self, sink: &DocumentSink) -> Result<HeaderMap, String> {
        let mut all = HeaderMap::new();
        let configured = self.settings.sink_headers.get(&sink.name);
        headers::add(configured.map_or(&[], Vec::as_slice), &mut all);
        if sink.credentials {
            let folder = self.settings.folders.headers.join(&sink.name);
            let secret = sink.credentials_secret.as_deref();
            let origin = Origin { secret, namespace: self.settings.namespace.as_deref() };
            headers::read(&folder, origin, &mut all).map_err(|error| error_line(&error))?;
        }
        if sink.token_audience.is_some() {
            let bearer = secrets::bearer(&self.settings, sink).map_err(|error| error_line(&error))?;
            all.insert(AUTHORIZATION, bearer.expose());
        }
        let encoding = match sink.compression {
            Compression::Gzip => Some(HeaderValue::from_static("gzip")),
            Compression::Zstd => Some(HeaderValue::from_static("zstd")),
            Compression::None => None,
        };
        match sink.protocol {
            SinkProtocol::HttpProtobuf => {
                all.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
                encoding.map(|encoding| all.insert(CONTENT_ENCODING, encoding));
            }
            SinkProtocol::Grpc => {
                all.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
                all.insert(TE, HeaderValue::from_static("trailers"));
                all.insert("grpc-accept-encoding", HeaderValue::from_static(grpc::ACCEPTED));
                all.insert("grpc-timeout", grpc::timeout(sink.timeout_ms));
                encoding.map(|encoding| all.insert("grpc-encoding", encoding));
            }
        }
        Ok(all)
    }
}

/// The error and, where the server never answered, what it may mean: the two protocols are easily mixed up, and a server
/// that misses a client certificate may end the connection before its alert is read.
fn explain(error: &ClientError, sink: &DocumentSink, answered: bool) -> String {
    let line = error_line(error);
    let ClientError::Http { source, .. } = error else { return line };
    let https = sink.endpoint.starts_with("https:");
    let other = source.is_parse() || source.is_incomplete_message();
    if answered || !https && !other && sink.protocol == SinkProtocol::HttpProtobuf {
        return line;
    }
    let hint = match sink.protocol {
        SinkProtocol::Grpc => "check that the endpoint speaks gRPC (often port 4317), or set protocol: HttpProtobuf",
        SinkProtocol::HttpProtobuf => {
            "check that the endpoint speaks HTTP/1.1 (often port 4318), or set protocol: Grpc"
        }
    };
    let certificate = if https { "; check whether it wants another client certificate" } else { "" };
    format!("{line}; {hint}{certificate}")
}

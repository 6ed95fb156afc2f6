//! Header values that must not be shown.

use hyper::header::{HeaderName, HeaderValue};
use std::fmt;

/// A header value that is neither printed nor logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(HeaderValue);

impl Secret {
    /// A value of one line of visible text, at most 16 KiB.
    pub fn header(value: &str) -> Option<Self> {
        if value.is_empty() || value.len() > 16 * 1024 {
            return None;
        }
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }

    /// The value, for the request and nothing else.
    pub fn expose(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Whether credentials may set this header: a field name that neither frames the message nor says what its body is, and
/// that is none of gRPC's own.
pub fn is_sink_header(name: &str) -> bool {
    const OURS: [&str; 11] = [
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    HeaderName::from_bytes(name.as_bytes())
        .is_ok_and(|name| !OURS.contains(&name.as_str()) && !name.as_str().starts_with("grpc-"))
}

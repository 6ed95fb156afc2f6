//! The place that a client speaks to.

use hyper::Uri;
use std::fmt;

/// A parsed base URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    https: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

/// Why a URL cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not a URL at all.
    #[error("is not a URL")]
    Syntax,
    /// Neither `http` nor `https`.
    #[error("has neither scheme http nor https")]
    Scheme,
    /// No host.
    #[error("has no host")]
    Host,
    /// User name or password in the URL.
    #[error("holds a user name or password; credentials belong into headers")]
    UserInfo,
    /// Port 0 or larger than 65535.
    #[error("has a port that does not exist")]
    Port,
}

impl Endpoint {
    /// Parses `http://HOST[:PORT][/PATH]` or `https://...`; a `#fragment` is refused, a query is kept.
    ///
    /// # Errors
    /// See [`EndpointError`].
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        if url.contains('#') {
            return Err(EndpointError::Syntax);
        }
        let uri: Uri = url.parse().map_err(|_| EndpointError::Syntax)?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(EndpointError::Scheme),
        };
        let authority = uri.authority().ok_or(EndpointError::Host)?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::UserInfo);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(EndpointError::Host);
        }
        let named = authority.as_str().get(authority.host().len()..).unwrap_or_default();
        let port = match named.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(EndpointError::Port)?,
            None if https => 443,
            None => 80,
        };
        Ok(Self {
            https,
            host: host.to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }

    /// Scheme `https`.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Host name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as in the URL: the `host` field.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Path and query of the URL; `/` when it has none.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The URL's path, or `default` when it has none.
    pub fn path_or<'a>(&'a self, default: &'a str) -> &'a str {
        if self.path == "/" { default } else { &self.path }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_endpoints_or_say_why_not() {
        let good = [
            ("http://collector:4318", (false, "collector", 4318, "/")),
            ("https://otlp.example", (true, "otlp.example", 443, "/")),
            ("http://otlp.example/", (false, "otlp.example", 80, "/")),
            ("https://[fd00::1]:4318/insert/v1/logs?x=1", (true, "fd00::1", 4318, "/insert/v1/logs?x=1")),
        ];
        for (url, (https, host, port, path)) in good {
            let endpoint = Endpoint::parse(url).expect(url);
            assert_eq!((endpoint.https, endpoint.host(), endpoint.port(), endpoint.path()), (https, host, port, path));
        }
        let bad = [
            ("", EndpointError::Syntax),
            ("http://a b", EndpointError::Syntax),
            ("http://a/#x", EndpointError::Syntax),
            ("ftp://a", EndpointError::Scheme),
            ("/v1/logs", EndpointError::Scheme),
            ("http://user:secret@a", EndpointError::UserInfo),
            ("http://a:0", EndpointError::Port),
            ("http://a:", EndpointError::Port),
        ];
        for (url, error) in bad {
            assert_eq!(Endpoint::parse(url), Err(error), "{url}");
        }
        for url in ["http://a:99999", "http://a:x", "http://:80"] {
            assert!(Endpoint::parse(url).is_err(), "{url}");
        }
    }
}

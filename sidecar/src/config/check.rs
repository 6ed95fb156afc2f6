//! Checks that the environment and the file share. Each adds to a list of problems and goes on.

use super::{HostPort, Problem};
use crate::client::{Endpoint, server_name, tls_config};
use crate::spool::LIMIT_BYTES_MIN;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use testimony_core::policy::{
    Compiled, DOCUMENT_BYTES_MAX, DOCUMENT_VERSION, DocumentError, DocumentSink, PolicyDocument, SinkProtocol,
};

/// What this sidecar cannot run in a document; `field` is where the document stands. Version, size and sinks are checked
/// here and all told at once; rules and redaction by the compiler, which tells the first problem.
pub fn document_problems(field: &str, document: &PolicyDocument) -> Vec<Problem> {
    let mut problems = Vec::new();
    if document.version != DOCUMENT_VERSION {
        problems.push(Problem::of(
            format!("{field}.version"),
            &document.version.to_string(),
            format!("this sidecar runs version {DOCUMENT_VERSION} only"),
            "use an operator and a sidecar of the same release",
        ));
    }
    if document.revision.is_empty() {
        problems.push(Problem::about(format!("{field}.revision"), "is empty", "give the document a revision"));
    }
    match serde_json::to_vec(document) {
        Ok(bytes) if bytes.len() > DOCUMENT_BYTES_MAX => problems.push(Problem::about(
            field,
            format!("the document has {} bytes, more than {DOCUMENT_BYTES_MAX}", bytes.len()),
            "use fewer rules or smaller CA bundles",
        )),
        Ok(_) => {}
        Err(error) => problems.push(Problem::about(field, error.to_string(), "correct the document")),
    }
    let mut names = BTreeSet::new();
    for (index, sink) in document.sinks.iter().enumerate() {
        let path = format!("{field}.sinks[{index}]");
        if !names.insert(sink.name.as_str()) {
            problems.push(Problem::of(
                format!("{path}.name"),
                &sink.name,
                "is used twice",
                "give each sink its own name",
            ));
        }
        sink_problems(&path, sink, &mut problems);
    }
    if let Err(DocumentError::Field { field: inner, problem }) = Compiled::new(document.clone()) {
        let path = format!("{field}.{inner}");
        if problems.iter().all(|known| known.field != path) {
            problems.push(Problem::about(path, problem, "correct the policy"));
        }
    }
    problems
}

fn sink_problems(path: &str, sink: &DocumentSink, problems: &mut Vec<Problem>) {
    // The name is a folder of the credentials' directory: it must not lead out of it.
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if sink.name.is_empty() || sink.name.starts_with('.') || sink.name.len() > 253 || !sink.name.bytes().all(plain) {
        problems.push(Problem::of(
            format!("{path}.name"),
            &sink.name,
            "is not a name",
            "use lower-case letters, digits, '-' and '.'",
        ));
    }
    let endpoint = Endpoint::parse(&sink.endpoint);
    if let Err(error) = &endpoint {
        problems.push(Problem::of(
            format!("{path}.endpoint"),
            // A URL may hold a password before the host.
            if sink.endpoint.contains('@') { "(not shown)" } else { &sink.endpoint },
            error.to_string(),
            "use http://HOST[:PORT][/PATH] or https://HOST[:PORT][/PATH]",
        ));
    }
    if let Ok(endpoint) = &endpoint {
        if sink.protocol == SinkProtocol::Grpc && endpoint.path() != "/" {
            problems.push(Problem::of(
                format!("{path}.endpoint"),
                &sink.endpoint,
                "has a path, which gRPC has no use for",
                "remove the path, or use protocol HttpProtobuf",
            ));
        }
        if sink.client_certificate_secret.is_some() && !endpoint.is_https() {
            problems.push(Problem::of(
                format!("{path}.endpoint"),
                &sink.endpoint,
                "has no TLS, so no client certificate can be shown",
                "use https, or remove the client certificate",
            ));
        }
    }
    if let Some(pem) = &sink.ca_bundle
        && let Err(error) = tls_config(Some(pem))
    {
        problems.push(Problem::about(
            format!("{path}.caBundle"),
            error.to_string(),
            "give one or more PEM certificates",
        ));
    }
    if let Some(name) = &sink.server_name
        && server_name(name).is_none()
    {
        problems.push(Problem::of(
            format!("{path}.serverName"),
            name,
            "is neither a DNS name nor an IP address",
            "use the name in the endpoint's certificate",
        ));
    }
    if sink.timeout_ms == 0 {
        problems.push(Problem::of(
            format!("{path}.timeoutMs"),
            "0",
            "no export can finish",
            "use 10000 or leave it out",
        ));
    }
    if sink.queue_bytes_max == 0 {
        problems.push(Problem::of(
            format!("{path}.queueBytesMax"),
            "0",
            "every record would be lost",
            "use 16777216 or leave it out",
        ));
    }
}

/// An address to bind: `IP:PORT`.
pub(super) fn socket_addr(field: &str, value: &str, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
    let parsed = value.parse().ok();
    if parsed.is_none() {
        problems.push(Problem::of(field, value, "is not IP:PORT", "use for example 127.0.0.1:8080 or [::]:8080"));
    }
    parsed
}

/// A place to connect to: `HOST:PORT`.
pub(super) fn host_port(field: &str, value: &str, problems: &mut Vec<Problem>) -> Option<HostPort> {
    let parsed = value.rsplit_once(':').and_then(|(host, port)| {
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().ok().map(|_| inner)?,
            None if host.is_empty() || host.contains([':', '/', '[', ']', ' ', '@']) => return None,
            None => host,
        };
        let port = port.parse().ok().filter(|port| *port != 0)?;
        Some(HostPort { host: host.to_owned(), port })
    });
    if parsed.is_none() {
        problems.push(Problem::of(field, value, "is not HOST:PORT", "use for example 127.0.0.1:3000 or [::1]:3000"));
    }
    parsed
}

/// Most bytes of the spool.
pub(super) fn spool_bytes(field: &str, value: &str, problems: &mut Vec<Problem>) -> Option<u64> {
    let bytes = value.parse().ok().filter(|bytes| *bytes >= LIMIT_BYTES_MIN);
    if bytes.is_none() {
        let fix = format!("use a number of bytes, at least {LIMIT_BYTES_MIN}");
        problems.push(Problem::of(field, value, "is no size that a spool works with", fix));
    }
    bytes
}

/// A log filter.
pub(super) fn log_filter(field: &str, value: &str, problems: &mut Vec<Problem>) {
    if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(value) {
        problems.push(Problem::of(
            field,
            value,
            error.to_string(),
            "use for example info or testimony_sidecar=debug,info",
        ));
    }
}

//! Parsing one sink into what documents are made of.

use super::accept::{Invalid, invalid};
use crate::api::{AuditSinkSpec, Protocol, SINK_NAME_CHARS_MAX, ServiceAccountToken};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use testimony_core::contract::TOKEN_AUDIENCE;
use testimony_core::policy::DocumentSink;

/// Stands in every usual audience of a cluster's API server.
const API_AUDIENCE: &str = "kubernetes.default";

/// Parses a sink's spec.
///
/// # Errors
/// The first field that is wrong, with the fix.
pub fn accept_sink(name: &str, spec: &AuditSinkSpec) -> Result<DocumentSink, Invalid> {
    if name.len() > SINK_NAME_CHARS_MAX || name.contains('.') {
        return Err(invalid(
            "InvalidName",
            "metadata.name",
            format!("{name:?} is longer than {SINK_NAME_CHARS_MAX} characters or has a dot"),
            "recreate the sink under a shorter name",
        ));
    }
    let url = endpoint(&spec.endpoint)?;
    let tls = spec.tls.clone().unwrap_or_default();
    if spec.tls.is_some() && url.scheme_str() != Some("https") {
        let fix = "change the endpoint's scheme to https or remove tls";
        return Err(invalid("InvalidTls", "spec.tls", "only an https endpoint has TLS", fix));
    }
    if spec.protocol == Protocol::Grpc && !matches!(url.path(), "" | "/") {
        let problem = format!("{:?} is a path, which gRPC has no use for", url.path());
        return Err(invalid("InvalidEndpoint", "spec.endpoint", problem, "remove it, or use protocol: HttpProtobuf"));
    }
    if let Some(token) = &spec.service_account_token {
        service_account_token(token, url.scheme_str() == Some("https"))?;
    }
    if let Some(bundle) = &tls.ca_bundle {
        ca_bundle(bundle)?;
    }
    Ok(DocumentSink {
        name: name.to_owned(),
        endpoint: spec.endpoint.clone(),
        protocol: spec.protocol.into(),
        compression: spec.compression.into(),
        ca_bundle: tls.ca_bundle,
        server_name: tls.server_name,
        credentials: spec.credentials_secret_name.is_some(),
        credentials_secret: spec.credentials_secret_name.clone(),
        client_certificate_secret: tls.client_certificate_secret_name,
        token_audience: spec.service_account_token.as_ref().map(|token| token.audience.clone()),
        timeout_ms: spec.timeout_seconds.clamp(1, 60) * 1000,
        queue_bytes_max: spec.queue.bytes_max,
        required: spec.required.unwrap_or(true),
    })
}

fn endpoint(endpoint: &str) -> Result<hyper::Uri, Invalid> {
    let wrong = |problem: String| {
        let fix = "give a URL such as https://collector.example:4318";
        invalid("InvalidEndpoint", "spec.endpoint", problem, fix)
    };
    let url: hyper::Uri = endpoint.parse().map_err(|e| wrong(format!("{endpoint:?} is no URL ({e})")))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err(wrong(format!("{endpoint:?} starts with neither http:// nor https://")));
    }
    let authority = url.authority().map(|a| a.as_str()).unwrap_or_default();
    if authority.is_empty() || authority.contains('@') || url.query().is_some() {
        return Err(wrong("a host is needed; user and query are not allowed".to_owned()));
    }
    Ok(url)
}

fn service_account_token(token: &ServiceAccountToken, https: bool) -> Result<(), Invalid> {
    let field = "spec.serviceAccountToken";
    if !https && !token.allow_http {
        let problem = "over http anybody on the way can read and use the token";
        let fix = "change the endpoint's scheme to https, or set serviceAccountToken.allowHttp: true";
        return Err(invalid("InvalidToken", field, problem, fix));
    }
    if token.audience.is_empty() || token.audience == TOKEN_AUDIENCE || token.audience.contains(API_AUDIENCE) {
        let problem = format!("with audience {:?} the receiver could act in the pod's name", token.audience);
        let fix = "give it an audience of its own, such as the endpoint's host name";
        return Err(invalid("InvalidToken", format!("{field}.audience"), problem, fix));
    }
    Ok(())
}

fn ca_bundle(pem: &str) -> Result<(), Invalid> {
    let wrong = |problem: String| {
        invalid("InvalidCaBundle", "spec.tls.caBundle", problem, "paste the authorities' certificates in PEM form")
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|e| wrong(format!("is no PEM text ({e})")))?;
        roots.add(certificate).map_err(|e| wrong(format!("certificate {} is not usable ({e})", roots.len() + 1)))?;
    }
    if roots.is_empty() {
        return Err(wrong("has no certificate".to_owned()));
    }
    Ok(())
}

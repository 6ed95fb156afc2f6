//! TLS for clients: whom to trust, and under which name.

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::sync::Arc;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The bundle is not PEM.
    #[error("the CA bundle is not PEM: {0}")]
    Pem(String),
    /// The bundle holds no certificate.
    #[error("the CA bundle holds no certificate")]
    Empty,
    /// A certificate of the bundle cannot be used.
    #[error("certificate {index} of the CA bundle cannot be used: {source}")]
    Certificate {
        /// Place in the bundle, from 1.
        index: usize,
        /// What the TLS library said.
        source: rustls::Error,
    },
    /// A name that stands in no certificate.
    #[error("{0} is neither a DNS name nor an IP address")]
    Name(String),
    /// The TLS library refuses its own settings.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// The settings of a client that trusts the authorities of a PEM bundle or, without one, those of the public web.
///
/// # Errors
/// An unusable bundle.
pub fn tls_config(ca_pem: Option<&str>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca_pem {
        Some(pem) => {
            for (index, certificate) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
                let certificate = certificate.map_err(|error| TlsError::Pem(error.to_string()))?;
                roots.add(certificate).map_err(|source| TlsError::Certificate { index: index + 1, source })?;
            }
            if roots.is_empty() {
                return Err(TlsError::Empty);
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A name or address that a certificate can hold.
pub fn server_name(name: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(name.to_owned()).ok()
}

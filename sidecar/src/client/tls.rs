//! TLS for clients: whom to trust, under which name, and as whom.

use super::Trust;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::fmt;
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
    /// The client's certificate and key do not belong together, or are of a kind that TLS does not know.
    #[error("the client certificate cannot be used: {0}")]
    Identity(rustls::Error),
    /// The TLS library refuses its own settings.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// A client's certificate with its chain, and the private key. Is never shown.
#[derive(PartialEq, Eq)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Why PEM texts are no identity. Holds nothing of the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The certificate is not PEM, or there is none.
    #[error("holds no certificate in PEM form")]
    Certificate,
    /// The key is not PEM, or there is none.
    #[error("holds no private key in PEM form")]
    Key,
}

impl Identity {
    /// From PEM texts: certificates with the client's own first, and its key.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or(IdentityError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| IdentityError::Key)?;
        Ok(Self { chain, key })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(identity)")
    }
}

/// The settings of a client of HTTP/1.1 that trusts the authorities of a PEM bundle or, without one, those of the public
/// web.
///
/// # Errors
/// An unusable bundle.
pub fn tls_config(ca_pem: Option<&str>) -> Result<Arc<ClientConfig>, TlsError> {
    client_config(&Trust { ca_pem, ..Trust::default() }, b"http/1.1")
}

/// The settings of a client that offers one protocol.
pub(super) fn client_config(trust: &Trust<'_>, alpn: &[u8]) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(trust.ca_pem)?);
    let mut config = match trust.identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(TlsError::Identity)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

fn roots(ca_pem: Option<&str>) -> Result<RootCertStore, TlsError> {
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
    Ok(roots)
}

/// A name or address that a certificate can hold.
pub fn server_name(name: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(name.to_owned()).ok()
}

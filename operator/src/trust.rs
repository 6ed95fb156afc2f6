//! Whom the operator's own HTTPS clients trust: those of the ledger's sinks, of the witness outside and of traces.

use anyhow::{Context as _, bail};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// TLS of a client that trusts the authorities of a PEM bundle or, without one, those of the public web, as sidecars do: the
/// image has none.
///
/// # Errors
/// An unusable bundle.
pub(crate) fn tls(ca_bundle: Option<&str>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca_bundle {
        Some(bundle) => {
            for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
                roots.add(certificate.context("caBundle")?).context("caBundle")?;
            }
            if roots.is_empty() {
                bail!("caBundle: it holds no certificate");
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

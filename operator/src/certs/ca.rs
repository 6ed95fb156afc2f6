//! The certificate authority: pure, time comes in as an argument.

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;
use testimony_core::evidence::note::PublicKey;
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::witness::csr::stream_uri;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Key of the Secret: the authority's certificate.
const CERTIFICATE: &str = "ca.crt";
/// Key of the Secret: its private key.
const KEY: &str = "ca.key";
/// Key of the Secret: the authorities before, newest first: clients may not know a newer one yet.
const PREVIOUS: &str = "previous.crt";
/// Key of the Secret: this authority's certificate, signed by the one before; then that one's, and so on.
const CROSS: &str = "cross.crt";

/// Authorities before the one in force that clients accept, and by which they are led to it. A client that missed more
/// rotations than this has to learn the authority anew. At most 6: verifiers look at no longer chains.
pub const FORMER_MAX: usize = 4;

/// Clocks may differ by this much, in seconds.
const SKEW_SECONDS_MAX: u64 = 300;

/// Why certificates cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The Secret lacks a key.
    #[error("the Secret has no {0}: delete it, and a new authority is made")]
    Missing(&'static str),
    /// The Secret's content is no certificate or key.
    #[error("the Secret's {0} cannot be read ({1}): delete the Secret, and a new authority is made")]
    Unreadable(&'static str, String),
    /// Key or signature failed.
    #[error("certificate not made: {0}")]
    Rcgen(#[from] rcgen::Error),
}

/// An authority, as it stands in the Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    certificate: String,
    key: String,
    /// Newest first.
    previous: Vec<String>,
    /// Newest first.
    cross: Vec<String>,
    /// Start of validity.
    pub not_before: OffsetDateTime,
    /// End of validity.
    pub not_after: OffsetDateTime,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("not_before", &self.not_before).field("not_after", &self.not_after).finish()
    }
}

/// A server's certificate with its key.
#[derive(Debug)]
pub struct Leaf {
    /// Its certificate, and the cross-signed authorities for clients that know only one before.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// When it must be renewed: at two thirds of its life.
    pub renew_at: OffsetDateTime,
    /// End of validity.
    pub not_after: OffsetDateTime,
}

impl Authority {
    /// A new authority, unrelated to any other.
    ///
    /// # Errors
    /// Key generation failed.
    pub fn create(now: OffsetDateTime, validity: Duration) -> Result<Self, CertError> {
        let key = KeyPair::generate()?;
        let params = authority_params(&key, now, validity);
        let certificate = params.self_signed(&key)?.pem();
        let (not_before, not_after) = (params.not_before, params.not_after);
        Ok(Self { certificate, key: key.serialize_pem(), previous: vec![], cross: vec![], not_before, not_after })
    }

    /// The next authority. Clients that know only this one, or one of [`FORMER_MAX`] in all, accept it by cross signatures, for
    /// as long as the one that they know is valid.
    ///
    /// # Errors
    /// Key generation failed, or this authority is unreadable.
    pub fn rotate(&self, now: OffsetDateTime, validity: Duration) -> Result<Self, CertError> {
        let key = KeyPair::generate()?;
        let mut params = authority_params(&key, now, validity);
        let certificate = params.self_signed(&key)?.pem();
        let (not_before, not_after) = (params.not_before, params.not_after);
        params.not_after = params.not_after.min(self.not_after);
        params.use_authority_key_identifier_extension = true;
        let cross = params.signed_by(&key, &self.issuer()?)?.pem();
        let (previous, cross) = (newest(&self.certificate, &self.previous), newest(&cross, &self.cross));
        Ok(Self { certificate, key: key.serialize_pem(), previous, cross, not_before, not_after })
    }

    /// Whether two thirds of its life are over.
    pub fn is_due(&self, now: OffsetDateTime) -> bool {
        now >= self.due_at()
    }

    /// When two thirds of its life are over.
    pub fn due_at(&self) -> OffsetDateTime {
        self.not_before + (self.not_after - self.not_before) * 2 / 3
    }

    /// PEM of all authorities whose certificates clients must accept now.
    pub fn bundle(&self, now: OffsetDateTime) -> String {
        let previous = self.previous.iter().filter(|pem| is_valid(PREVIOUS, pem, now));
        std::iter::once(&self.certificate).chain(previous).map(String::as_str).collect()
    }

    /// A server's certificate for these names.
    ///
    /// # Errors
    /// A name is no DNS name, or key generation failed.
    pub fn issue(&self, names: &[String], now: OffsetDateTime, validity_max: Duration) -> Result<Leaf, CertError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.not_before = now - skew(validity_max);
        params.not_after = (now + validity_max).min(self.not_after);
        params.distinguished_name.push(DnType::CommonName, "testimony-operator");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer()?)?;
        let mut chain = vec![certificate.der().clone()];
        for cross in self.cross.iter().filter(|pem| is_valid(CROSS, pem, now)) {
            chain.push(der(CROSS, cross)?);
        }
        Ok(Leaf {
            chain,
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            renew_at: now + (params.not_after - now) * 2 / 3,
            not_after: params.not_after,
        })
    }

    /// The certificate of a stream's first key (K1), in DER: the stream's name is its one alternative name. It serves no
    /// TLS.
    ///
    /// # Errors
    /// The authority is unreadable, or the signature failed.
    pub fn certify(
        &self,
        stream: &StreamId,
        key: &PublicKey,
        now: OffsetDateTime,
        validity: Duration,
    ) -> Result<(Vec<u8>, OffsetDateTime), CertError> {
        let mut params = CertificateParams::default();
        params.not_before = whole_seconds(now - skew(validity));
        params.not_after = whole_seconds((now + validity).min(self.not_after));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "testimony-stream");
        params.subject_alt_names = vec![SanType::URI(stream_uri(stream).try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let end = params.not_after;
        Ok((params.signed_by(&StreamKey(key), &self.issuer()?)?.der().to_vec(), end))
    }

    /// From a Secret's data.
    ///
    /// # Errors
    /// A key is missing or unreadable.
    pub fn from_secret(data: &BTreeMap<String, ByteString>) -> Result<Self, CertError> {
        let text = |key: &'static str| match data.get(key) {
            Some(bytes) => String::from_utf8(bytes.0.clone()).map_err(|e| CertError::Unreadable(key, e.to_string())),
            None => Err(CertError::Missing(key)),
        };
        let several = |key: &'static str| match data.contains_key(key) {
            true => text(key).map(|text| blocks(&text)),
            false => Ok(vec![]),
        };
        let certificate = text(CERTIFICATE)?;
        let (not_before, not_after) = validity(CERTIFICATE, &certificate)?;
        let key = text(KEY)?;
        KeyPair::from_pem(&key).map_err(|e| CertError::Unreadable(KEY, e.to_string()))?;
        let (previous, cross) = (several(PREVIOUS)?, several(CROSS)?);
        Ok(Self { certificate, key, previous, cross, not_before, not_after })
    }

    /// For a Secret's data.
    pub fn to_secret(&self) -> BTreeMap<String, ByteString> {
        let former = [(PREVIOUS, self.previous.concat()), (CROSS, self.cross.concat())];
        [(CERTIFICATE, self.certificate.clone()), (KEY, self.key.clone())]
            .into_iter()
            .chain(former.into_iter().filter(|(_, text)| !text.is_empty()))
            .map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())))
            .collect()
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, CertError> {
        let key = KeyPair::from_pem(&self.key).map_err(|e| CertError::Unreadable(KEY, e.to_string()))?;
        Ok(Issuer::from_ca_cert_der(&der(CERTIFICATE, &self.certificate)?, key)?)
    }
}

/// A stream's key as rcgen wants it.
struct StreamKey<'a>(&'a PublicKey);

impl rcgen::PublicKeyData for StreamKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.0.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

fn authority_params(key: &KeyPair, now: OffsetDateTime, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Certificates hold whole seconds; what is held in memory must equal what is read back.
    params.not_before = whole_seconds(now - skew(validity));
    params.not_after = whole_seconds(now + validity);
    params.distinguished_name = rcgen::DistinguishedName::new();
    // Two authorities in one bundle must differ by name.
    let mut name = String::from("testimony-ca-");
    for byte in params.key_identifier(key).iter().take(4) {
        let _ = write!(name, "{byte:02x}");
    }
    params.distinguished_name.push(DnType::CommonName, name);
    // Cross-signed authorities stand below the one before them.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(FORMER_MAX as u8));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn whole_seconds(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).unwrap_or(at)
}

fn skew(validity: Duration) -> Duration {
    Duration::from_secs(SKEW_SECONDS_MAX).min(validity / 10)
}

/// The newest, then as many of the others as are kept.
fn newest(first: &str, others: &[String]) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(others.iter().cloned()).take(FORMER_MAX).collect()
}

/// The PEM blocks of a text, with their line ends.
fn blocks(text: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let blocks = text.split_inclusive(END).filter(|block| block.ends_with(END));
    blocks.map(|block| format!("{}\n", block.trim())).take(FORMER_MAX).collect()
}

fn is_valid(name: &'static str, pem: &str, now: OffsetDateTime) -> bool {
    validity(name, pem).is_ok_and(|(_, not_after)| now < not_after)
}

fn der(name: &'static str, pem: &str) -> Result<CertificateDer<'static>, CertError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| CertError::Unreadable(name, e.to_string()))
}

fn validity(name: &'static str, pem: &str) -> Result<(OffsetDateTime, OffsetDateTime), CertError> {
    let der = der(name, pem)?;
    let unreadable = |e: String| CertError::Unreadable(name, e);
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|e| unreadable(e.to_string()))?;
    let validity = certificate.validity();
    Ok((validity.not_before.to_datetime(), validity.not_after.to_datetime()))
}

//! Trust roots: a file with certificates of authorities (PEM), keys of witnesses and ledgers (C2SP vkeys).

use crate::output::printable;
use anyhow::{Context, Result, anyhow, bail, ensure};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;
use testimony_core::evidence::note::{PublicKey, Role};
use testimony_core::evidence::roots::NamedKey;
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::verify::{Certificates, Trust, Witness};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate names its stream by a URI that begins so.
pub const URI_PREFIX: &str = "testimony://";

/// Type byte of a witness's key (C2SP tlog-cosignature).
const TYPE_COSIGNATURE: u8 = 0x04;

/// Reads trust roots.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn load(path: &Path) -> Result<Trust> {
    let named = |error| anyhow!("--roots {}: {error:#}: `testimony roots` makes this file", super::input::name(path));
    read(path).map_err(named)
}

fn read(path: &Path) -> Result<Trust> {
    let trust = parse(&super::given::text(path)?)?;
    // Keys alone vouch for no stream: a report would say that no roots were given.
    ensure!(trust.roots.is_some(), "it holds no certificate (PEM) of the authority that certifies streams");
    Ok(trust)
}

pub(super) fn parse(text: &str) -> Result<Trust> {
    let mut authorities = Vec::new();
    let begins = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("-----BEGIN "));
    let mut begins = begins.map(|(at, _)| at + 1);
    for pem in Pem::iter_from_buffer(text.as_bytes()) {
        let line = begins.next().unwrap_or_default();
        let pem = pem.map_err(|error| anyhow!("line {line}: the PEM block that begins here is damaged: {error}"))?;
        if pem.label != "CERTIFICATE" {
            bail!("line {line}: the PEM block is a {:?}: trust roots are certificates", printable(&pem.label));
        }
        X509Certificate::from_der(&pem.contents)
            .map_err(|error| anyhow!("line {line}: the certificate that begins here is damaged: {error}"))?;
        authorities.push(pem.contents);
    }
    let mut witnesses = Vec::new();
    let mut ledger_keys = Vec::new();
    let mut in_pem = false;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        in_pem |= line.starts_with("-----BEGIN ");
        if !in_pem && !line.is_empty() && !line.starts_with('#') {
            if let Some(key) = line.strip_prefix("ledger ") {
                let key = NamedKey::parse(key, Role::Log);
                let key = key.with_context(|| format!("line {}: not the key of a ledger (name+id+key)", at + 1))?;
                ledger_keys.push(key);
                continue;
            }
            let line = line.strip_prefix("witness ").unwrap_or(line);
            witnesses.push(witness(line).with_context(|| format!("line {}", at + 1))?);
        }
        in_pem &= !line.starts_with("-----END ");
    }
    if authorities.is_empty() && witnesses.is_empty() && ledger_keys.is_empty() {
        bail!("it holds no certificate (PEM) and no line `ledger KEY` or `witness KEY` (a key is name+id+key)");
    }
    let roots = (!authorities.is_empty()).then(|| Box::new(Authorities(authorities)) as Box<dyn Certificates>);
    Ok(Trust { roots, witnesses, ledger_keys, ledger: None })
}

/// `name+id+key`, as C2SP signed-note writes the keys of verifiers.
fn witness(line: &str) -> Result<Witness> {
    let mut parts = line.splitn(3, '+');
    let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        bail!("neither a certificate (PEM) nor a line `ledger KEY` or `witness KEY` (a key is name+id+key)");
    };
    let bytes = STANDARD.decode(key).context("the key is not base64")?;
    let key = match bytes.split_first() {
        Some((&TYPE_COSIGNATURE, key)) => PublicKey(key.try_into().context("the key does not have 32 bytes")?),
        _ => bail!("the key is of another type than that of a witness (04)"),
    };
    let expected: String = key.id(name, Role::Witness).iter().map(|byte| format!("{byte:02x}")).collect();
    if id != expected {
        bail!("the id {id} is not that of the key, which is {expected}");
    }
    Ok(Witness { name: name.to_owned(), key })
}

/// Authorities, in DER.
struct Authorities(Vec<Vec<u8>>);

impl Certificates for Authorities {
    fn certify(&self, stream: &StreamId, key: &PublicKey, der: &[u8]) -> Result<(), String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| "it is no X.509 certificate".to_owned())?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.0 {
            return Err("it is for another key".to_owned());
        }
        let uri = format!("{URI_PREFIX}{stream}");
        let names = certificate.subject_alternative_name().ok().flatten();
        let named = names.is_some_and(|names| {
            names.value.general_names.iter().any(|name| matches!(name, GeneralName::URI(found) if *found == uri))
        });
        if !named {
            return Err("it is for another stream".to_owned());
        }
        let signed = self.0.iter().any(|root| {
            X509Certificate::from_der(root).is_ok_and(|(_, root)| root.is_ca() && is_signed_by(&certificate, &root))
        });
        if signed { Ok(()) } else { Err("none of the given roots signed it".to_owned()) }
    }

    fn validity(&self, der: &[u8]) -> Option<(i64, i64)> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
    }
}

fn is_signed_by(certificate: &X509Certificate<'_>, root: &X509Certificate<'_>) -> bool {
    let algorithm: &dyn VerificationAlgorithm = match certificate.signature_algorithm.algorithm.to_id_string().as_str()
    {
        "1.3.101.112" => &ED25519,
        "1.2.840.10045.4.3.2" => &ECDSA_P256_SHA256_ASN1,
        "1.2.840.10045.4.3.3" => &ECDSA_P384_SHA384_ASN1,
        _ => return false,
    };
    let key = root.public_key().subject_public_key.data.as_ref();
    certificate.issuer() == root.subject()
        && UnparsedPublicKey::new(algorithm, key)
            .verify(certificate.tbs_certificate.as_ref(), certificate.signature_value.data.as_ref())
            .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "c/n/p/0123456789abcdef0123456789abcdef-0-0";

    #[test]
    fn a_witness_key_is_checked_against_its_id() {
        let key = PublicKey([7; 32]);
        let id: String = key.id("w.example", Role::Witness).iter().map(|byte| format!("{byte:02x}")).collect();
        let encoded = STANDARD.encode([&[TYPE_COSIGNATURE][..], &key.0].concat());
        let ledger = NamedKey { name: "c/o/ledger/x".into(), key };
        let trust = parse(&format!("# ours\nledger {}\nwitness w.example+{id}+{encoded}\n", ledger.vkey(Role::Log)))
            .expect("a witness");
        assert_eq!(trust.witnesses, [Witness { name: "w.example".into(), key }]);
        assert_eq!(trust.ledger_keys, [ledger]);
        assert!(trust.roots.is_none());
        let log = STANDARD.encode([&[1][..], &key.0].concat());
        for (text, problem) in [
            (format!("w.example+00000000+{encoded}"), "is not that of the key"),
            (format!("w.example+{id}+{log}"), "another type"),
            ("w.example".to_owned(), "name+id+key"),
            (format!("ledger w.example+{id}+{encoded}"), "line 1: not the key of a ledger"),
            (String::new(), "no line `ledger KEY` or `witness KEY`"),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned(),
                "trust roots are certificates",
            ),
        ] {
            let error = format!("{:#}", parse(&text).err().expect("refused"));
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn v2_a_file_of_roots_without_a_certificate_is_refused() {
        let key = PublicKey([7; 32]);
        let ledger = NamedKey { name: "c/o/ledger/x".into(), key };
        let keys = format!("ledger {}\n", ledger.vkey(Role::Log));
        let id: String = key.id("w.example", Role::Witness).iter().map(|byte| format!("{byte:02x}")).collect();
        let encoded = STANDARD.encode([&[TYPE_COSIGNATURE][..], &key.0].concat());
        let witness = format!("{keys}witness w.example+{id}+{encoded}\n");
        for (name, content, problem) in [
            ("keys", witness.as_bytes(), "it holds no certificate (PEM)"),
            ("ledger", keys.as_bytes(), "it holds no certificate (PEM)"),
            ("der", &[0x30, 0x82, 0xff], "it is no text"),
            ("other", b"apiVersion: v1\n", "line 1: neither a certificate"),
        ] {
            let file = super::super::tests::Temporary::new(&format!("roots-{name}"), content);
            let error = load(&file.0).err().map(|error| error.to_string()).expect(name);
            assert!(error.starts_with(&format!("--roots {}: ", file.0.display())), "{error}");
            assert!(error.contains(problem) && error.ends_with("`testimony roots` makes this file"), "{error}");
        }
    }

    #[test]
    fn k1_a_certificate_is_for_one_key_and_one_stream_under_one_root() {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519, SanType};
        let authority = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&authority).expect("a root");
        let issuer = Issuer::from_params(&params, &authority);
        let leaf_key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::URI(format!("{URI_PREFIX}{STREAM}").try_into().expect("ASCII"))];
        (leaf.not_before, leaf.not_after) = (rcgen::date_time_ymd(2024, 1, 1), rcgen::date_time_ymd(2024, 1, 2));
        let certificate = leaf.signed_by(&leaf_key, &issuer).expect("a certificate");
        let key = PublicKey(leaf_key.public_key_raw().try_into().expect("32 bytes"));
        let stream: StreamId = STREAM.parse().expect("a stream");
        let trust = parse(&root.pem()).expect("a root");
        let roots = trust.roots.expect("roots");
        assert_eq!(roots.certify(&stream, &key, certificate.der()), Ok(()));
        assert_eq!(roots.validity(certificate.der()), Some((1_704_067_200, 1_704_153_600)));
        assert_eq!(roots.validity(&[1, 2, 3]), None);
        let other: StreamId = STREAM.replace("-0-0", "-0-1").parse().expect("a stream");
        assert!(roots.certify(&other, &key, certificate.der()).is_err());
        assert!(roots.certify(&stream, &PublicKey([1; 32]), certificate.der()).is_err());
        assert!(roots.certify(&stream, &key, &[1, 2, 3]).is_err());
        let stranger = KeyPair::generate().expect("a key");
        let stranger = params.self_signed(&stranger).expect("a root of the same name");
        let roots = parse(&stranger.pem()).expect("a root").roots.expect("roots");
        assert!(roots.certify(&stream, &key, certificate.der()).is_err());
    }
}

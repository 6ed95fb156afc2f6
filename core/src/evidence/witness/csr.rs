//! How a stream asks for its certificate (K1): a PKCS #10 request (RFC 2986) for an Ed25519 key, with the stream's name as
//! the one alternative name. Written by hand, because the sidecar needs no other DER.

use crate::evidence::note::{PUBLIC_KEY_BYTES, PublicKey, SIGNATURE_BYTES};
use crate::evidence::stream::StreamId;

/// Scheme of the URI that names a stream in requests and certificates.
pub const URI_SCHEME: &str = "testimony://";

/// Largest request, in bytes: a stream's name and a fixed frame.
pub const CSR_BYTES_MAX: usize = 1024;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const ATTRIBUTES: u8 = 0xa0;
/// A GeneralName's URI.
const URI: u8 = 0x86;

/// 1.3.101.112
const OID_ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// 1.2.840.113549.1.9.14
const OID_EXTENSION_REQUEST: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
/// 2.5.29.17
const OID_ALTERNATIVE_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];

/// A stream's name as a URI.
pub fn stream_uri(sid: &StreamId) -> String {
    format!("{URI_SCHEME}{sid}")
}

/// The stream that a URI names.
pub fn stream_of_uri(uri: &str) -> Option<StreamId> {
    uri.strip_prefix(URI_SCHEME)?.parse().ok()
}

/// The request in DER: `sign` is that of the stream's first key.
pub fn csr(sid: &StreamId, key: &PublicKey, sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_BYTES]) -> Vec<u8> {
    let info = info(sid, key);
    let signature = sign(&info);
    whole(&info, &signature)
}

/// The signed part.
fn info(sid: &StreamId, key: &PublicKey) -> Vec<u8> {
    let algorithm = tlv(SEQUENCE, &[OID_ED25519]);
    let subject_key = tlv(SEQUENCE, &[&algorithm, &tlv(BIT_STRING, &[&[0], &key.0])]);
    let names = tlv(SEQUENCE, &[&tlv(URI, &[stream_uri(sid).as_bytes()])]);
    let extension = tlv(SEQUENCE, &[OID_ALTERNATIVE_NAME, &tlv(OCTET_STRING, &[&names])]);
    let extensions = tlv(SEQUENCE, &[&extension]);
    let attribute = tlv(SEQUENCE, &[OID_EXTENSION_REQUEST, &tlv(SET, &[&extensions])]);
    tlv(SEQUENCE, &[&tlv(INTEGER, &[&[0]]), &tlv(SEQUENCE, &[]), &subject_key, &tlv(ATTRIBUTES, &[&attribute])])
}

fn whole(info: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> Vec<u8> {
    tlv(SEQUENCE, &[info, &tlv(SEQUENCE, &[OID_ED25519]), &tlv(BIT_STRING, &[&[0], signature])])
}

/// The stream and the key of a request whose signature is that key's. Only what [`csr`] writes is one.
pub fn parse_csr(der: &[u8]) -> Option<(StreamId, PublicKey)> {
    if der.len() > CSR_BYTES_MAX {
        return None;
    }
    let uri_at = der.windows(URI_SCHEME.len()).position(|window| window == URI_SCHEME.as_bytes())?;
    let frame = [BIT_STRING, 1 + PUBLIC_KEY_BYTES as u8, 0];
    let key_at = der.windows(frame.len()).position(|window| window == frame)? + frame.len();
    let key = PublicKey(der.get(key_at..key_at + PUBLIC_KEY_BYTES)?.try_into().ok()?);
    let signature: &[u8; SIGNATURE_BYTES] = der.get(der.len().checked_sub(SIGNATURE_BYTES)?..)?.try_into().ok()?;
    // Length of the URI stands in the byte or bytes before it.
    let length = usize::from(*der.get(uri_at.checked_sub(1)?)?);
    let sid = stream_of_uri(std::str::from_utf8(der.get(uri_at..uri_at + length)?).ok()?)?;
    let info = info(&sid, &key);
    (whole(&info, signature) == der && key.verifies(&info, signature)).then_some((sid, key))
}

/// Tag, length, and the parts one after the other. Lengths fit two bytes: a request is at most [`CSR_BYTES_MAX`] long.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let [.., high, low] = length.to_be_bytes();
    let mut out = vec![tag];
    match length {
        0..0x80 => out.push(low),
        0x80..0x100 => out.extend([0x81, low]),
        _ => out.extend([0x82, high, low]),
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// What a sidecar sends to be certified, as JSON to [`crate::contract::CERTIFICATE_PATH`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateRequest {
    /// The injection id from the environment.
    pub injection_id: String,
    /// The request of [`csr`], in base64.
    pub csr: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateResponse {
    /// The certificate in DER, in base64: what the `certified` record holds.
    pub certificate: String,
    /// Time between two blocks of the ledger now, in milliseconds: heads shown more often are cosigned no sooner.
    pub interval_ms: u64,
}

/// What a sidecar tells when its pod goes: these records were sealed, and no sink has them, or one has not. JSON to
/// [`crate::contract::ABANDONED_PATH`]; 204 once it stands in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Abandoned {
    /// The stream.
    pub stream: String,
    /// The first record.
    pub from: u64,
    /// The record after the last one.
    pub to: u64,
    /// Why, in a word or two; at most [`REASON_BYTES_MAX`].
    pub reason: String,
    /// The only sink that never gets them, of at most [`crate::contract::SINK_NAME_BYTES_MAX`]; absent: no sink has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<String>,
}

/// Longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 128;

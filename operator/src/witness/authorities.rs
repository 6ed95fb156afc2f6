//! Which authorities stand in the published roots: those in force, and all that were. Pure.
//!
//! Servers are trusted by the bundle of the authorities that are valid now. Certificates of streams are checked years later, so
//! what was published once stays published: also after a new installation, many rotations, and its own end.

use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::collections::HashSet;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Most authorities in the roots; the newest stay. At one in eight months it is enough for forty years.
pub const AUTHORITIES_MAX: usize = 64;

/// Largest authority that is kept, in bytes of its PEM; ours have some 700. What is larger was put there by somebody else.
/// With [`AUTHORITIES_MAX`] it keeps the roots below what readers take.
const AUTHORITY_BYTES_MAX: usize = 2 * 1024;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The bundle (newest first), and the authorities behind it that stand in a text of roots already: each once, in PEM. What is
/// damaged or no authority is left out, as readers would refuse the whole text.
pub fn joined(bundle: &str, standing: &str) -> String {
    let mut known = HashSet::new();
    let all = blocks(bundle).chain(blocks(standing));
    let kept = all.filter(|block| der(block).is_some_and(|der| known.insert(der)));
    kept.take(AUTHORITIES_MAX).collect()
}

/// The PEM blocks of a text, whatever stands between them. One without an end is none.
fn blocks(text: &str) -> impl Iterator<Item = String> {
    let mut lines = text.lines().map(str::trim_end);
    std::iter::from_fn(move || {
        let mut block: Option<String> = None;
        for line in lines.by_ref() {
            if line == BEGIN {
                block = Some(String::new());
            }
            let Some(held) = block.as_mut().filter(|held| held.len() <= AUTHORITY_BYTES_MAX) else { continue };
            held.push_str(line);
            held.push('\n');
            if line == END {
                return block;
            }
        }
        None
    })
}

/// What the block holds, if it is an authority.
fn der(block: &str) -> Option<Vec<u8>> {
    let der = CertificateDer::from_pem_slice(block.as_bytes()).ok().filter(|_| block.len() <= AUTHORITY_BYTES_MAX)?;
    let is_authority = X509Certificate::from_der(&der).is_ok_and(|(rest, found)| rest.is_empty() && found.is_ca());
    is_authority.then(|| der.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::Authority;
    use std::time::Duration;
    use testimony_core::evidence::roots::{ROOTS_BYTES_MAX, Roots};
    use time::OffsetDateTime;

    /// An authority of so many years ago, as Unix and as readers of roots write lines.
    fn authority(years: u64) -> String {
        let year = Duration::from_secs(365 * 86_400);
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("time");
        let then = now - year * u32::try_from(years).expect("few");
        Authority::create(then, year).expect("authority").bundle(then).replace("\r\n", "\n")
    }

    #[test]
    fn k1_what_was_published_stays_each_once_and_the_newest_first() {
        let [a, b, old] = [0, 0, 3].map(authority);
        let lines = |text: &str| text.replace('\n', "\r\n");
        let damaged = a.replacen("MII", "!!!", 1);
        let large = format!("{BEGIN}\n{}{END}\n", "AAAA\n".repeat(1_000));
        let table = [
            (b.clone(), String::new(), b.clone()),
            (b.clone(), a.clone(), format!("{b}{a}")),
            (b.clone(), format!("{b}{a}"), format!("{b}{a}")),
            (format!("{b}{a}"), format!("{a}{old}"), format!("{b}{a}{old}")),
            (lines(&b), format!("ledger x\n# by hand\n{}\n{b}", lines(&a)), format!("{b}{a}")),
            (b.clone(), format!("not roots\n{damaged}{large}{BEGIN}\nAAAA\n{a}{BEGIN}\nAAAA"), format!("{b}{a}")),
        ];
        for (bundle, standing, expected) in table {
            assert_eq!(joined(&bundle, &standing), expected, "{bundle} and {standing}");
        }
    }

    #[test]
    fn k1_the_roots_have_a_limit_and_the_newest_stay() {
        let all: Vec<String> = (0..AUTHORITIES_MAX + 3).map(|_| authority(0)).collect();
        let mut standing = String::new();
        for newest in &all {
            standing = joined(newest, &standing);
        }
        let kept: String = all.iter().rev().take(AUTHORITIES_MAX).map(String::as_str).collect();
        assert_eq!(standing, kept);
        let largest = AUTHORITIES_MAX * AUTHORITY_BYTES_MAX;
        assert!(largest < ROOTS_BYTES_MAX * 3 / 4 && Roots::parse(&standing).is_ok());
    }
}

use super::ca::Authority;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use rustls::{RootCertStore, crypto::aws_lc_rs};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

fn start() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("time")
}

fn names() -> Vec<String> {
    vec!["testimony-policy.testimony-system.svc".to_owned()]
}

/// Whether a client with this bundle accepts the leaf.
fn accepts(bundle: &str, authority: &Authority, now: OffsetDateTime, name: &str) -> bool {
    let leaf = authority.issue(&names(), now, DAY * 7).expect("leaf");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.expect("pem")).expect("root");
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("verifier");
    let (end, intermediates) = leaf.chain.split_first().expect("chain");
    let name = ServerName::try_from(name.to_owned()).expect("name");
    let seconds = u64::try_from(now.unix_timestamp()).expect("positive");
    let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    verifier.verify_server_cert(end, intermediates, &name, &[], at).is_ok()
}

#[test]
fn a_leaf_is_accepted_for_its_name_only() {
    let authority = Authority::create(start(), YEAR).expect("authority");
    let bundle = authority.bundle(start());
    assert!(accepts(&bundle, &authority, start(), "testimony-policy.testimony-system.svc"));
    assert!(!accepts(&bundle, &authority, start(), "testimony-policy.other.svc"));
    let stranger = Authority::create(start(), YEAR).expect("authority");
    assert!(!accepts(&stranger.bundle(start()), &authority, start(), "testimony-policy.testimony-system.svc"));
}

#[test]
fn after_a_rotation_clients_that_know_either_authority_accept_the_leaf() {
    let name = "testimony-policy.testimony-system.svc";
    let old = Authority::create(start(), YEAR).expect("authority");
    assert!(!old.is_due(start() + DAY * 240));
    let rotation = start() + DAY * 250;
    assert!(old.is_due(rotation), "two thirds are over");
    let new = old.rotate(rotation, YEAR).expect("rotated");
    assert!(accepts(&old.bundle(start()), &new, rotation, name), "a sidecar that was not told yet");
    assert!(accepts(&new.bundle(rotation), &new, rotation, name), "one that was");
    assert!(accepts(&new.bundle(rotation), &old, rotation, name), "a replica that still signs with the old one");
    let end = start() + YEAR + DAY;
    assert_eq!(new.bundle(rotation).matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(new.bundle(end).matches("BEGIN CERTIFICATE").count(), 1, "the old one has run out");
    assert!(accepts(&new.bundle(end), &new, end, name));
}

#[test]
fn a_secret_holds_an_authority() {
    let old = Authority::create(start(), YEAR).expect("authority");
    let new = old.rotate(start(), YEAR).expect("rotated");
    for authority in [old, new] {
        assert!(Authority::from_secret(&authority.to_secret()).expect("read") == authority);
    }
    let mut data = Authority::create(start(), YEAR).expect("authority").to_secret();
    data.remove("ca.key");
    let error = Authority::from_secret(&data).expect_err("refused").to_string();
    assert_eq!(error, "the Secret has no ca.key: delete it, and a new authority is made");
}

#[test]
fn a_leaf_is_renewed_at_two_thirds_and_never_outlives_its_authority() {
    let authority = Authority::create(start(), DAY * 3).expect("authority");
    let leaf = authority.issue(&names(), start(), DAY * 7).expect("leaf");
    assert_eq!(leaf.not_after, authority.not_after);
    assert_eq!(leaf.renew_at, start() + DAY * 2);
}

#[test]
fn seconds_are_enough_for_a_life() {
    let second = Duration::from_secs(1);
    let authority = Authority::create(start(), second * 30).expect("authority");
    assert!(!authority.is_due(start()));
    assert!(authority.is_due(start() + second * 20));
    let leaf = authority.issue(&names(), start(), second * 6).expect("leaf");
    assert_eq!(leaf.renew_at, start() + second * 4);
}

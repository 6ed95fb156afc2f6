use super::ca::FORMER_MAX;
use super::*;
use crate::testing::FakeApi;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use serde_json::json;

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
fn a_client_may_miss_some_rotations_in_a_row_and_so_may_a_replica() {
    let name = "testimony-policy.testimony-system.svc";
    let now = start();
    let mut authorities = vec![Authority::create(now, YEAR).expect("authority")];
    for _ in 0..=FORMER_MAX {
        let next = authorities.last().expect("one").rotate(now, YEAR).expect("rotated");
        // As it is read back from the Secret.
        authorities.push(Authority::from_secret(&next.to_secret()).expect("read"));
    }
    let first = authorities.first().expect("one");
    for (missed, later) in authorities.iter().enumerate() {
        let within = missed <= FORMER_MAX;
        assert_eq!(accepts(&first.bundle(now), later, now, name), within, "a client that missed {missed}");
        assert_eq!(accepts(&later.bundle(now), first, now, name), within, "a replica that missed {missed}");
    }
    let last = authorities.last().expect("one");
    assert_eq!(last.bundle(now).matches("BEGIN CERTIFICATE").count(), FORMER_MAX + 1);
    assert_eq!(last.issue(&names(), now, DAY).expect("leaf").chain.len(), FORMER_MAX + 1);
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

// === the Secret ===

const SECRET: &str = "/api/v1/namespaces/testimony-system/secrets/testimony-ca";

fn keeper(api: &FakeApi, authority_validity: Duration) -> Certificates {
    let config = CertConfig {
        namespace: "testimony-system".to_owned(),
        secret: "testimony-ca".to_owned(),
        names: names(),
        leaf_validity: Duration::from_secs(60),
        authority_validity,
    };
    Certificates::new(api.client(), config, Metrics::new().0)
}

fn in_secret(api: &FakeApi) -> Authority {
    let secret: Secret = serde_json::from_value(api.get(SECRET).expect("a Secret")).expect("Secret");
    Authority::from_secret(&secret.data.expect("data")).expect("authority")
}

#[tokio::test]
async fn the_first_replica_makes_the_authority_and_the_others_take_it() {
    let api = FakeApi::default();
    let (mut first, mut second) = (None, None);
    let (one, two) = (keeper(&api, YEAR), keeper(&api, YEAR));
    assert!(!*one.ready().borrow());
    one.step(&mut first).await.expect("step");
    two.step(&mut second).await.expect("step");
    assert!(*one.ready().borrow() && *two.ready().borrow());
    assert_eq!(*one.bundle().borrow(), *two.bundle().borrow());
    assert!(first.expect("held").0 == in_secret(&api));
}

#[tokio::test]
async fn who_loses_the_race_takes_the_winners_authority() {
    let api = FakeApi::default();
    let winner = Authority::create(OffsetDateTime::now_utc(), YEAR).expect("authority");
    let secret = json!({"metadata": {"name": "testimony-ca"}, "data": winner.to_secret()});
    api.put(SECRET, secret);
    let keeper = keeper(&api, YEAR);
    let ours = Authority::create(OffsetDateTime::now_utc(), YEAR).expect("authority");
    let created = keeper.api.create(&PostParams::default(), &keeper.secret(&ours, ObjectMeta::default())).await;
    assert!(keeper.won(created, ours).await.expect("taken") == winner);
}

#[tokio::test]
async fn an_authority_that_is_due_is_rotated_once_and_clients_keep_both() {
    let api = FakeApi::default();
    let old = Authority::create(OffsetDateTime::now_utc() - DAY * 250, YEAR).expect("authority");
    api.put(SECRET, json!({"metadata": {"name": "testimony-ca"}, "data": old.to_secret()}));
    let (one, two) = (keeper(&api, YEAR), keeper(&api, YEAR));
    one.step(&mut None).await.expect("step");
    let rotated = in_secret(&api);
    assert!(rotated != old && !rotated.is_due(OffsetDateTime::now_utc()));
    two.step(&mut None).await.expect("step");
    assert!(in_secret(&api) == rotated, "the second replica takes the new one");
    let bundle = one.bundle().borrow().clone().expect("bundle");
    assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 2);
    let name = "testimony-policy.testimony-system.svc";
    assert!(accepts(&old.bundle(OffsetDateTime::now_utc()), &rotated, OffsetDateTime::now_utc(), name));
}

#[tokio::test]
async fn an_authority_is_rotated_once_for_each_value_of_the_annotation() {
    let api = FakeApi::default();
    let (one, two) = (keeper(&api, YEAR), keeper(&api, YEAR));
    let (mut first, mut second) = (None, None);
    one.step(&mut first).await.expect("step");
    let mut known = vec![in_secret(&api)];
    let annotate = |value: &str| {
        let mut secret = api.get(SECRET).expect("a Secret");
        secret["metadata"]["annotations"][ROTATE] = json!(value);
        api.put(SECRET, secret);
    };
    annotate("once");
    for _ in 0..2 {
        one.step(&mut first).await.expect("step");
        two.step(&mut second).await.expect("step");
    }
    known.push(in_secret(&api));
    assert!(known.first() != known.last(), "it was rotated");
    assert_eq!(one.bundle().borrow().as_ref().map(|bundle| bundle.matches("BEGIN CERTIFICATE").count()), Some(2));

    annotate("twice");
    let wait = two.step(&mut second).await.expect("step");
    assert!(known.last() == Some(&in_secret(&api)), "not so soon after the last one");
    assert!(wait <= Duration::from_secs(rotation::INTERVAL_SECONDS_MIN), "{wait:?}");
    let mut secret = api.get(SECRET).expect("a Secret");
    secret["metadata"]["annotations"][rotation::ROTATED_AT] = json!("0");
    api.put(SECRET, secret);
    two.step(&mut second).await.expect("step");
    one.step(&mut first).await.expect("step");
    assert!(known.last() != Some(&in_secret(&api)), "later it is done");
    assert_eq!(*one.bundle().borrow(), *two.bundle().borrow());
}

#[tokio::test]
async fn a_secret_that_is_deleted_comes_back_with_the_same_authority() {
    let api = FakeApi::default();
    let keeper = keeper(&api, YEAR);
    let mut held = None;
    keeper.step(&mut held).await.expect("step");
    let before = in_secret(&api);
    api.delete(SECRET);
    keeper.step(&mut held).await.expect("step");
    assert!(in_secret(&api) == before);
}

#[tokio::test]
async fn a_leaf_is_swapped_when_it_is_due_and_only_then() {
    let api = FakeApi::default();
    let keeper = keeper(&api, YEAR);
    let mut held = None;
    let shown = |keeper: &Certificates| keeper.resolver.0.read().expect("lock").clone().expect("key");
    keeper.step(&mut held).await.expect("step");
    let first = shown(&keeper);
    keeper.step(&mut held).await.expect("step");
    assert!(Arc::ptr_eq(&first, &shown(&keeper)));
    held.as_mut().expect("held").1 = OffsetDateTime::now_utc();
    keeper.step(&mut held).await.expect("step");
    assert!(!Arc::ptr_eq(&first, &shown(&keeper)));
}

#[tokio::test]
async fn an_unreadable_secret_is_an_error_that_names_the_fix_and_is_not_overwritten() {
    let api = FakeApi::default();
    api.put(
        SECRET,
        json!({"metadata": {"name": "testimony-ca"}, "data": {"ca.crt": "bm9uc2Vuc2U=", "ca.key": "eA=="}}),
    );
    let before = api.get(SECRET);
    let error = keeper(&api, YEAR).step(&mut None).await.expect_err("refused").to_string();
    assert!(error.starts_with("the Secret's ca.crt cannot be read"), "{error}");
    assert!(error.ends_with("delete the Secret, and a new authority is made"), "{error}");
    assert_eq!(api.get(SECRET), before);
}

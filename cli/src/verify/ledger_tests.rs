//! With roots and ledger: the streams as sidecars seal them, the ledger as the operator exports it.

use super::tests::{Temporary, line};
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evidence_support::{TestHost, TestKey, at, open, origin};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519, PublicKeyData, SanType};
use std::sync::atomic::{AtomicU32, Ordering};
use testimony_core::evidence::ledger::export::otlp_line;
use testimony_core::evidence::ledger::{Book, Fact, Keys, PodRow, ledger_id};
use testimony_core::evidence::note::{PublicKey, Role};
use testimony_core::evidence::roots::NamedKey;
use testimony_core::evidence::seal::{Origin, Signer as _};
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::verify::Verdict;

#[path = "../../../core/tests/evidence_support/mod.rs"]
mod evidence_support;

/// A stream that was sealed, delivered and closed.
struct Sealed {
    sid: StreamId,
    key: PublicKey,
    lines: Vec<String>,
    end: (u64, testimony_core::evidence::hash::Hash),
}

struct Subject(PublicKey);

impl PublicKeyData for Subject {
    fn der_bytes(&self) -> &[u8] {
        &self.0.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ED25519
    }
}

struct Authority {
    key: KeyPair,
    params: CertificateParams,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { key: KeyPair::generate().expect("a key"), params }
    }

    fn certificate(&self, sid: &StreamId, key: PublicKey) -> Vec<u8> {
        let mut leaf = CertificateParams::default();
        let uri = format!("{}{sid}", roots::URI_PREFIX);
        leaf.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
        let issuer = Issuer::from_params(&self.params, &self.key);
        leaf.signed_by(&Subject(key), &issuer).expect("a certificate").der().to_vec()
    }

    fn pem(&self) -> String {
        self.params.self_signed(&self.key).expect("a root").pem()
    }
}

/// Seals a stream whose certificate this authority gives; `seed` is that of the first key.
fn seal(origin: Origin, seed: u8, authority: &Authority) -> Sealed {
    let mut host = TestHost { keys: seed - 1, random: u128::from(seed) << 64, ..TestHost::default() };
    let mut stream = open(origin, &mut host, at(0));
    let (sid, key) = (StreamId::clone(stream.id()), TestKey::new(seed).public());
    assert!(stream.certified(&STANDARD.encode(authority.certificate(&sid, key)), at(1), &mut host));
    assert!(stream.policy("8899aabbccddeeff", at(2), &mut host));
    stream.tick(at(31_000), &mut host);
    stream.durable(stream.position(), at(31_001), &mut host);
    assert!(stream.close(at(31_002), &mut host));
    stream.durable(stream.position(), at(31_003), &mut host);
    let head = host.lines.last().expect("a head");
    let body = testimony_core::canon::parse_body(head.body.as_bytes()).expect("a body");
    let note = STANDARD.decode(&body["note"]).expect("base64");
    let note = testimony_core::evidence::note::SignedNote::parse(std::str::from_utf8(&note).expect("text"));
    let end = note.map(|note| (note.checkpoint.size, note.checkpoint.root)).expect("a note");
    let lines = host
        .lines
        .iter()
        .map(|sealed| line(Format::Otlp, &LogRecord::decode(&sealed.log[..]).expect("a LogRecord")).to_string() + "\n");
    Sealed { sid, key, lines: lines.collect(), end }
}

fn keys() -> Keys {
    Keys { ledger: TestKey::new(200).public(), witness: TestKey::new(201).public() }
}

fn ledger_name(cluster: &str) -> StreamId {
    ledger_id(cluster, "testimony-system", 7).expect("a name")
}

/// The operator's ledger over these streams, as `testimony ledger export` prints it.
fn ledger(streams: &[&Sealed], authority: &Authority) -> String {
    let cluster = origin(1).cluster_uid;
    let sid = ledger_name(&cluster);
    let mut book = Book::new(sid.clone(), keys());
    let pod = PodRow {
        uid: origin(1).pod_uid,
        namespace: "shop".to_owned(),
        name: "orders-5d9c7b-x2x4z".to_owned(),
        injection_id: "i".to_owned(),
        from_ns: at(0).wall_ns,
    };
    let certified = |stream: &&Sealed| {
        let der = authority.certificate(&stream.sid, stream.key);
        Fact::Certified(stream.sid.clone(), stream.key, 1_700_093_600, der)
    };
    let first: Vec<Fact> = [Fact::Expected(pod)].into_iter().chain(streams.iter().map(certified)).collect();
    let closed = |stream: &&Sealed| Fact::Closed(stream.sid.clone(), stream.end.0, stream.end.1);
    let second: Vec<Fact> = streams.iter().map(closed).collect();
    let mut out = String::new();
    for (millis, facts) in [(1, first), (31_005, second)] {
        let sign = |text: &[u8]| TestKey::new(200).sign(text);
        let proposed = book.propose(&facts, &[], at(millis).wall_ns, sign).expect("a block");
        out += &(otlp_line(proposed.block(), &sid).expect("entries") + "\n");
        book.apply(proposed.committed()).expect("the next block");
    }
    out
}

fn roots_of(authority: &Authority) -> String {
    let key = NamedKey { name: ledger_name(&origin(1).cluster_uid).to_string(), key: keys().ledger };
    format!("# comment\nledger {}\n{}", key.vkey(Role::Log), authority.pem())
}

/// Verdict, exit code and findings.
fn judged(export: &str, ledger: Option<&str>, roots: &str) -> (Verdict, u8, Vec<String>) {
    // Tests run beside each other.
    static RUN: AtomicU32 = AtomicU32::new(0);
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    let file = Temporary::new(&format!("export-{run}"), export.as_bytes());
    let ledger = ledger.map(|text| Temporary::new(&format!("ledger-{run}"), text.as_bytes()));
    let settings = Settings { now_ns: 1_800_000_000_000_000_000, max_lag_ns: 10_000_000_000, ..Settings::default() };
    let trust = roots::parse(roots).expect("roots");
    let files = [file.0.clone()];
    let input = Input { files: &files, format: None, ledger: ledger.as_ref().map(|file| file.0.as_path()) };
    let report = verification(input, settings, trust, 10_000).expect("an export");
    (report.verdict, report.exit_code, report.findings.iter().map(ToString::to_string).collect())
}

#[test]
fn v2_with_roots_and_ledger_the_verdict_is_ok() {
    let authority = Authority::new();
    let (a, b) = (seal(origin(1), 1, &authority), seal(origin(2), 2, &authority));
    let (ledger, roots) = (ledger(&[&a, &b], &authority), roots_of(&authority));
    let both = [a.lines.concat(), b.lines.concat()].concat();
    assert_eq!(judged(&both, Some(&ledger), &roots), (Verdict::Ok, 0, vec![]));
    // The operator sends its ledger to the same backend.
    assert_eq!(judged(&format!("{ledger}{both}{ledger}"), None, &roots), (Verdict::Ok, 0, vec![]));
    let (verdict, code, findings) = judged(&both, None, &roots);
    assert_eq!((verdict, code), (Verdict::Unanchored, 3), "{findings:#?}");
    let (verdict, code, findings) = judged(&both, Some(&ledger), &authority.pem());
    assert_eq!((verdict, code), (Verdict::Unanchored, 3), "{findings:#?}");
    assert!(findings.iter().any(|finding| finding.contains("`ledger KEY`")), "{findings:#?}");
}

#[test]
fn v2_what_the_ledger_knows_and_the_export_lacks_is_missing() {
    let authority = Authority::new();
    let (a, b) = (seal(origin(1), 1, &authority), seal(origin(2), 2, &authority));
    let (ledger, roots) = (ledger(&[&a, &b], &authority), roots_of(&authority));
    let (verdict, code, findings) = judged(&a.lines.concat(), Some(&ledger), &roots);
    assert_eq!((verdict, code, findings.len()), (Verdict::Missing, 1, 1), "{findings:#?}");
    assert!(findings[0].contains(b.sid.as_str()), "{findings:#?}");
    // `open`, `certified`, `policy`, `checkpoint` and its head; without the end and its head.
    let cut = [a.lines.concat(), b.lines[..5].concat()].concat();
    let (verdict, code, findings) = judged(&cut, Some(&ledger), &roots);
    assert_eq!((verdict, code), (Verdict::Missing, 1), "{findings:#?}");
    assert!(findings[0].contains(&format!("{} record 4: the ledger says", b.sid)), "{findings:#?}");
    // No head is left that proves the rest.
    let (verdict, code, findings) = judged(&[a.lines.concat(), b.lines[..3].concat()].concat(), Some(&ledger), &roots);
    assert_eq!((verdict, code), (Verdict::Foreign, 1), "{findings:#?}");
    assert!(findings.iter().any(|finding| finding.starts_with("MISSING")), "{findings:#?}");
}

#[test]
fn w4_k1_strangers_and_wrong_certificates_are_found() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (a, b) = (seal(origin(1), 1, &authority), seal(origin(2), 2, &authority));
    let roots = roots_of(&authority);
    let known = ledger(&[&a], &authority);
    let with = |stream: &Sealed| judged(&[a.lines.concat(), stream.lines.concat()].concat(), Some(&known), &roots);
    // Its pod is expected and its certificate good: it is genuine, and the ledger ended before it.
    let (verdict, _, findings) = with(&b);
    assert!(verdict <= Verdict::Unanchored, "{findings:#?}");
    let foreign = seal(Origin { pod_uid: "another-pod".to_owned(), ..origin(3) }, 3, &authority);
    let (verdict, code, findings) = with(&foreign);
    assert_eq!((verdict, code), (Verdict::Foreign, 1), "{findings:#?}");
    let elsewhere = seal(Origin { cluster_uid: "another-cluster".to_owned(), ..origin(4) }, 4, &authority);
    let (verdict, code, findings) = with(&elsewhere);
    assert_eq!((verdict, code), (Verdict::Foreign, 1), "{findings:#?}");
    assert!(findings.iter().all(|finding| finding.contains("another-cluster")), "{findings:#?}");
    // Another authority's certificate, though the ledger certified the key.
    let wrong = seal(origin(1), 1, &other);
    let said = ledger(&[&wrong], &authority);
    let (verdict, code, findings) = judged(&wrong.lines.concat(), Some(&said), &roots);
    assert_eq!((verdict, code), (Verdict::Unanchored, 3), "{findings:#?}");
    assert!(findings.iter().any(|finding| finding.contains("its certificate is not good")), "{findings:#?}");
}

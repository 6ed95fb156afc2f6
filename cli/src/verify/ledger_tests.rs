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
use testimony_core::evidence::ledger::{AbandonedRow, Book, Fact, Keys, PodRow, Pruned, UncoveredRow, ledger_id};
use testimony_core::evidence::merkle::{Range, leaf};
use testimony_core::evidence::note::{PublicKey, Role, Signature, SignedNote};
use testimony_core::evidence::roots::NamedKey;
use testimony_core::evidence::seal::{Origin, Signer as _};
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::verify::Verdict;

#[path = "../../../core/tests/evidence_support/mod.rs"]
pub(super) mod evidence_support;

/// A stream that was sealed, delivered and closed.
pub(super) struct Sealed {
    sid: StreamId,
    key: PublicKey,
    pub(super) lines: Vec<String>,
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

pub(super) struct Authority {
    key: KeyPair,
    params: CertificateParams,
}

impl Authority {
    pub(super) fn new() -> Self {
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

    pub(super) fn pem(&self) -> String {
        self.params.self_signed(&self.key).expect("a root").pem()
    }
}

/// Seals a stream whose certificate this authority gives; `seed` is that of the first key.
pub(super) fn seal(origin: Origin, seed: u8, authority: &Authority) -> Sealed {
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
    let note = SignedNote::parse(std::str::from_utf8(&note).expect("text"));
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

pub(super) fn ledger_name(cluster: &str) -> StreamId {
    ledger_id(cluster, "testimony-system", 7).expect("a name")
}

/// The operator's ledger over these streams, as `testimony ledger export` prints it.
pub(super) fn ledger(streams: &[&Sealed], authority: &Authority) -> String {
    ledger_with(streams, authority, &[])
}

/// And what it says after that.
fn ledger_with(streams: &[&Sealed], authority: &Authority, more: &[Fact]) -> String {
    ledger_then(streams, authority, |_| more.to_vec())
}

/// And what it says after its first head.
fn ledger_then(streams: &[&Sealed], authority: &Authority, more: impl Fn(SignedNote) -> Vec<Fact>) -> String {
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
    let mut out = String::new();
    let mut commit = |millis, facts: &[Fact]| {
        let sign = |text: &[u8]| TestKey::new(200).sign(text);
        let proposed = book.propose(facts, &[], at(millis).wall_ns, sign).expect("a block");
        out += &(otlp_line(proposed.block(), &sid).expect("entries") + "\n");
        let note = SignedNote::parse(&proposed.block().note).expect("a note");
        book.apply(proposed.committed()).expect("the next block");
        note
    };
    let note = commit(1, &first);
    let second: Vec<Fact> = streams.iter().map(closed).chain(more(note)).collect();
    commit(31_005, &second);
    // A minute in which nothing happens.
    commit(91_005, &[Fact::Heads(Vec::new())]);
    out
}

pub(super) fn roots_of(authority: &Authority) -> String {
    let key = NamedKey { name: ledger_name(&origin(1).cluster_uid).to_string(), key: keys().ledger };
    format!("# comment\nledger {}\n{}", key.vkey(Role::Log), authority.pem())
}

/// Verdict, exit code and findings.
pub(super) fn judged(export: &str, ledger: Option<&str>, roots: &str) -> (Verdict, u8, Vec<String>) {
    held_against(export, ledger, roots, &[])
}

/// The same with heads that somebody kept.
pub(super) fn held_against(
    export: &str,
    ledger: Option<&str>,
    roots: &str,
    heads: &[String],
) -> (Verdict, u8, Vec<String>) {
    let report = report_with(export, ledger, roots, heads);
    (report.verdict, report.exit_code, report.findings.iter().map(ToString::to_string).collect())
}

pub(super) fn report(export: &str, ledger: Option<&str>, roots: &str) -> Report {
    report_with(export, ledger, roots, &[])
}

fn report_with(export: &str, ledger: Option<&str>, roots: &str, heads: &[String]) -> Report {
    // Tests run beside each other.
    static RUN: AtomicU32 = AtomicU32::new(0);
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    let file = Temporary::new(&format!("export-{run}"), export.as_bytes());
    let ledger = ledger.map(|text| Temporary::new(&format!("ledger-{run}"), text.as_bytes()));
    let settings = Settings { now_ns: 1_800_000_000_000_000_000, max_lag_ns: 10_000_000_000, ..Settings::default() };
    let trust = roots::parse(roots).expect("roots");
    let files = [file.0.clone()];
    let heads = heads.iter().enumerate().map(|(number, text)| {
        let file = Temporary::new(&format!("head-{run}-{number}"), text.as_bytes());
        heads::load(&file.0, &trust.ledger_keys).expect("a head")
    });
    let heads: Vec<_> = heads.collect();
    let ledger = ledger.as_ref().map(|file| file.0.as_path());
    let input = Input { files: &files, ledger, heads: &heads, ..Input::default() };
    verification(input, settings, trust, 10_000).expect("an export")
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
fn v2_copies_of_a_ledger_cost_nothing() {
    let authority = Authority::new();
    let (a, b) = (seal(origin(1), 1, &authority), seal(origin(2), 2, &authority));
    let (ledger, roots) = (ledger(&[&a, &b], &authority), roots_of(&authority));
    let both = [a.lines.concat(), b.lines.concat()].concat();
    assert_eq!(judged(&both, Some(&ledger.repeat(3)), &roots), (Verdict::Ok, 0, vec![]));
    let file = Temporary::new("copies", ledger.repeat(3).as_bytes());
    let mut bodies = Vec::new();
    input::bodies(std::slice::from_ref(&file.0), None, &mut |body| bodies.push(body.to_owned())).expect("an export");
    let once: std::collections::BTreeSet<&String> = bodies.iter().collect();
    assert!(bodies.len() == 3 * once.len() && once.len() > 6, "{}", bodies.len());
    let keys = roots::parse(&roots).expect("roots").ledger_keys;
    let read = |seen_max: usize, held_max: usize| {
        let mut entries = Entries::new(&super::sort::Room::new(std::env::temp_dir(), None), held_max);
        entries.seen_max = seen_max;
        bodies.iter().for_each(|body| entries.push(body).expect("a temporary folder"));
        let bytes = entries.bytes;
        let (ledger, findings) = entries.read(&Asked { keys: &keys, ..Asked::default() }).expect("a temporary folder");
        assert!(findings.is_empty() && ledger.is_some_and(|ledger| ledger.streams.len() == 2), "{findings:?}");
        bytes
    };
    // Whatever is forgotten of what was there, and however little is held, it is sorted out in the end.
    let (bytes, all) = (read(usize::MAX, usize::MAX), read(1, 100));
    assert_eq!(3 * bytes, all);
    assert_eq!(read(1_000, 2_000), bytes);
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

/// Of the lines of an export, the bodies of records.
fn leaves(lines: &[String]) -> Vec<testimony_core::evidence::hash::Hash> {
    let body = |line: &String| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let body = &line["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["body"]["stringValue"];
        body.as_str().expect("a body").to_owned()
    };
    let bodies = lines.iter().map(body).filter(|body| !body.contains("\"typ\":\"head\""));
    bodies.map(|body| leaf(body.as_bytes())).collect()
}

#[test]
fn g2_v1_pruned_by_order_exits_0_and_without_an_order_1() {
    let authority = Authority::new();
    let (a, b) = (seal(origin(1), 1, &authority), seal(origin(2), 2, &authority));
    let roots = roots_of(&authority);
    let mut range = Range::empty(1);
    leaves(&b.lines)[1..3].iter().for_each(|leaf| range.push(*leaf));
    let (reason, by) = ("erased at the user's wish".to_owned(), "alice".to_owned());
    let order = Pruned { sid: b.sid.clone(), range, reason, by };
    let (order, erasure) = (Fact::Pruned(order.clone()), Fact::Erased(order));
    let export = [a.lines.concat(), b.lines[..1].concat(), b.lines[3..].concat()].concat();
    let known = ledger_with(&[&a, &b], &authority, &[order]);
    let (verdict, code, findings) = judged(&export, Some(&known), &roots);
    assert_eq!((verdict, code, findings.len()), (Verdict::Pruned, 0, 1), "{findings:#?}");
    assert!(
        findings[0].ends_with("records 1 to 2: removed by order: erased at the user's wish, by alice"),
        "{findings:#?}"
    );
    let erased = report(&export, Some(&ledger_with(&[&a, &b], &authority, &[erasure])), &roots);
    assert_eq!((erased.verdict, erased.exit_code), (Verdict::Erased, 0));
    let printed = text(&erased, &[]);
    let line = format!("ERASED     {} records 1 to 2: erased: erased at the user's wish, by alice", b.sid);
    assert!(printed.contains(&line) && printed.ends_with("\nERASED\n"), "{printed}");
    let (verdict, code, findings) = judged(&export, Some(&ledger(&[&a, &b], &authority)), &roots);
    assert_eq!((verdict, code), (Verdict::Missing, 1), "{findings:#?}");
    assert!(findings[0].contains(&format!("{} record", b.sid)), "{findings:#?}");
}

#[test]
fn v2_w4_abandoned_records_and_uncovered_pods_are_told_and_exit_2() {
    let authority = Authority::new();
    let (a, b) = (seal(origin(1), 1, &authority), seal(origin(2), 2, &authority));
    let roots = roots_of(&authority);
    // Of b the sink got what the first head covers; the rest went with the pod.
    let export = [a.lines.concat(), b.lines[..5].concat()].concat();
    let (sid, reason) = (b.sid.clone(), "sink down".to_owned());
    let abandoned = Fact::Abandoned(AbandonedRow { sid, from: 4, to: 5, reason, sink: None });
    let (verdict, code, findings) = judged(&export, Some(&ledger_with(&[&a, &b], &authority, &[abandoned])), &roots);
    assert_eq!((verdict, code, findings.len()), (Verdict::Gap, 2, 1), "{findings:#?}");
    assert!(findings[0].contains(&format!("{} record 4: abandoned: ", b.sid)), "{findings:#?}");
    let bare = UncoveredRow {
        uid: "u".to_owned(),
        namespace: "shop".to_owned(),
        name: "job-1".to_owned(),
        reason: "HostNetwork".to_owned(),
        from_ns: at(0).wall_ns,
    };
    let known = ledger_with(&[&a], &authority, &[Fact::Uncovered(bare, None)]);
    let (verdict, code, findings) = judged(&a.lines.concat(), Some(&known), &roots);
    assert_eq!((verdict, code), (Verdict::Gap, 2));
    assert_eq!(findings, ["GAP        not recorded: shop/job-1: HostNetwork"]);
}

#[test]
fn w1_a_ledger_that_was_tampered_with_is_told_and_not_used() {
    let authority = Authority::new();
    let (a, b) = (seal(origin(1), 1, &authority), seal(origin(2), 2, &authority));
    let (known, roots) = (ledger(&[&a, &b], &authority), roots_of(&authority));
    let export = [a.lines.concat(), b.lines.concat()].concat();
    // An edit of an entry: the pod that must have a stream.
    let (verdict, code, findings) = judged(&export, Some(&known.replace("orders-5d9c7b", "orders-000000")), &roots);
    assert_eq!((verdict, code), (Verdict::Tampered, 1), "{findings:#?}");
    assert!(findings[0].contains("is not what was signed, or not whole, and was not used: entry 2"), "{findings:#?}");
    // Rolled back to its first block: a good ledger that is too short to be OK with, since it saw no end of the streams.
    let first = known.lines().next().expect("a block").to_owned() + "\n";
    let cut = [a.lines.concat(), b.lines[..5].concat()].concat();
    let (verdict, code, findings) = judged(&cut, Some(&first), &roots);
    assert_eq!((verdict, code), (Verdict::Unclosed, 2), "{findings:#?}");
    assert!(findings[0].contains(b.sid.as_str()), "{findings:#?}");
    // Another history under the same name and key: whoever has both copies sees it.
    let (verdict, code, findings) = judged(&export, Some(&(known + &ledger(&[&b, &a], &authority))), &roots);
    assert_eq!((verdict, code), (Verdict::Tampered, 1), "{findings:#?}");
    assert!(findings[0].contains("contradict each other"), "{findings:#?}");
}

#[test]
fn k1_a_stream_made_up_under_a_known_name_is_tampered() {
    let authority = Authority::new();
    // Its certificate is good, as whoever has the authority's key could make one: the ledger has certified another key.
    let (a, twin) = (seal(origin(1), 1, &authority), seal(origin(1), 9, &authority));
    assert_eq!(twin.sid, a.sid);
    assert_ne!(twin.key, a.key);
    let known = ledger(&[&a], &authority);
    let (verdict, code, findings) = judged(&twin.lines.concat(), Some(&known), &roots_of(&authority));
    assert_eq!(code, 1, "{findings:#?}");
    assert!(verdict >= Verdict::Tampered, "{findings:#?}");
    let first = "its first key is not the one that the operator certified";
    assert!(findings.iter().any(|finding| finding.starts_with("TAMPERED") && finding.contains(first)), "{findings:#?}");
}

#[test]
fn w3_trust_is_external_as_far_as_a_witness_outside_cosigned_the_ledger() {
    let authority = Authority::new();
    let sealed = seal(origin(1), 1, &authority);
    let export: String = sealed.lines.concat();
    let outside = NamedKey { name: "outside.example/w".to_owned(), key: TestKey::new(77).public() };
    let cosigned = |seed: u8, mut note: SignedNote| {
        let key = TestKey::new(seed);
        let signature = key.sign(note.checkpoint.cosigned_text(5).as_bytes());
        note.signatures.push(Signature::witness(&outside.name, &key.public(), 5, &signature));
        vec![Fact::Witnessed(note.encode())]
    };
    let with = |key: &NamedKey| format!("witness {}\n{}", key.vkey(Role::Witness), roots_of(&authority));
    let trust = |ledger: &str, roots: &str| {
        let report = report(&export, Some(ledger), roots);
        (report.verdict, report.trust, report.external.map(|external| (external.until_ns, external.by)))
    };
    let good = ledger_then(&[&sealed], &authority, |note| cosigned(77, note));
    let until = Some((at(1).wall_ns, outside.name.clone()));
    assert_eq!(trust(&good, &with(&outside)), (Verdict::Ok, Basis::External, until));
    assert_eq!(
        trust(&good, &roots_of(&authority)),
        (Verdict::Ok, Basis::Operator, None),
        "nobody vouches for that key"
    );
    // The operator's own witness says nothing new of the operator's ledger.
    let own = ledger_then(&[&sealed], &authority, |note| cosigned(201, note));
    let named = NamedKey { name: outside.name.clone(), key: keys().witness };
    assert_eq!(trust(&own, &with(&named)), (Verdict::Ok, Basis::Operator, None));
    // A head that is not this ledger's.
    let other = ledger_then(&[&sealed], &authority, |mut note| {
        note.checkpoint.root = leaf(b"another past");
        let signature = TestKey::new(200).sign(note.checkpoint.text().as_bytes());
        note.signatures = vec![Signature::log(&note.checkpoint.origin, &keys().ledger, &signature)];
        cosigned(77, note)
    });
    let (verdict, trusted, _) = trust(&other, &with(&outside));
    assert_eq!((verdict, trusted), (Verdict::Tampered, Basis::Operator));
}

#[test]
fn v1_what_is_accepted_is_no_failure_and_hides_nothing_else() {
    let authority = Authority::new();
    let (a, b) = (seal(origin(1), 1, &authority), seal(origin(2), 2, &authority));
    let (ledger, roots) = (ledger(&[&a, &b], &authority), roots_of(&authority));
    let both = [a.lines.concat(), b.lines.concat()].concat();
    let unanchored = report(&both, None, &roots);
    assert_eq!(unanchored.exit_code_but_for(&[]), 3);
    assert_eq!(unanchored.exit_code_but_for(&[Verdict::Partial, Verdict::Pending]), 3);
    assert_eq!(unanchored.exit_code_but_for(&[Verdict::Unanchored]), 0);
    let missing = report(&a.lines.concat(), Some(&ledger), &roots);
    assert_eq!(missing.exit_code_but_for(&Verdict::ACCEPTABLE), 1);
    assert_eq!(report(&both, Some(&ledger), &roots).exit_code_but_for(&[]), 0);
    for (text, accepted) in [("gap", true), ("PENDING", true), ("MISSING", false), ("OK", false), ("", false)] {
        assert_eq!(acceptable(text).is_ok(), accepted, "{text}");
    }
}

/// The head at the end of a line of the ledger's export, as the operator copies it.
pub(super) fn head_of(line: &str) -> String {
    let line: Value = serde_json::from_str(line).expect("JSON");
    let records = line["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().expect("records").clone();
    let body: Value =
        serde_json::from_str(records.last().expect("a head")["body"]["stringValue"].as_str().expect("a body"))
            .expect("JSON");
    String::from_utf8(STANDARD.decode(body["note"].as_str().expect("a note")).expect("base64")).expect("text")
}

#[test]
fn w3_a_ledger_is_held_against_the_heads_that_somebody_kept() {
    let authority = Authority::new();
    let (a, b) = (seal(origin(1), 1, &authority), seal(origin(2), 2, &authority));
    let (whole, roots) = (ledger(&[&a, &b], &authority), roots_of(&authority));
    let both = [a.lines.concat(), b.lines.concat()].concat();
    let blocks: Vec<&str> = whole.lines().collect();
    let heads: Vec<String> = blocks[..2].iter().map(|block| head_of(block)).collect();
    assert_eq!(blocks.len(), 3);
    // Whoever copies by hand may lose the end of the last line.
    let kept = [heads[0].trim_end().to_owned(), heads[1].clone()];
    assert_eq!(held_against(&both, Some(&whole), &roots, &kept), (Verdict::Ok, 0, vec![]));
    assert_eq!(held_against(&format!("{whole}{both}"), None, &roots, &kept), (Verdict::Ok, 0, vec![]));

    // Put back from an old copy: whole by itself, and smaller than what was there.
    let old = format!("{}\n", blocks[0]);
    let alone = judged(&both, Some(&old), &roots);
    assert!(!alone.2.iter().any(|finding| finding.starts_with("TAMPERED")), "{alone:#?}");
    let (verdict, code, findings) = held_against(&both, Some(&old), &roots, &kept);
    assert!(code == 1 && verdict >= Verdict::Missing, "{findings:#?}");
    assert!(
        findings.iter().any(|finding| finding.starts_with("TAMPERED") && finding.contains("entries")),
        "{findings:#?}"
    );

    // Nothing of it is left, and nobody gave one.
    let (verdict, code, findings) = held_against(&both, None, &roots, &kept);
    assert_eq!((verdict, code), (Verdict::Tampered, 1), "{findings:#?}");
    let size = heads[1].lines().nth(1).expect("a size");
    let told = format!("one of {size} entries was seen before; none is in the input");
    assert!(findings[0].starts_with("TAMPERED") && findings[0].ends_with(&told), "{findings:#?}");

    // Written anew under the same key.
    let other = ledger_with(&[&a, &b], &authority, &[Fact::Gone("x".to_owned())]);
    assert!(other.lines().count() == 3 && judged(&both, Some(&other), &roots).1 == 0);
    let rewritten = ledger(&[&b, &a], &authority);
    let (_, code, findings) = held_against(&both, Some(&rewritten), &roots, &kept[..1]);
    assert!(code == 1 && findings.iter().any(|finding| finding.starts_with("TAMPERED")), "{findings:#?}");

    // What no ledger of the roots signed is no head.
    let keys = roots::parse(&roots).expect("roots").ledger_keys;
    for (text, problem) in [
        ("", "no signed note".to_owned()),
        (&heads[0].replacen("testimony-system", "another", 1), "not in the roots".to_owned()),
        (&heads[0].replacen('\n', "\n1", 1), "not signed by ledger".to_owned()),
    ] {
        let file = Temporary::new(&format!("no-head-{}", problem.len()), text.as_bytes());
        let error = format!("{:#}", heads::load(&file.0, &keys).expect_err(&problem));
        assert!(error.contains(&problem), "{error}");
    }
}

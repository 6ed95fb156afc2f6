//! Two verifiers that share no code agree on the golden streams and on each way to tamper with them; the libraries of
//! transparency-dev accept their trees, heads and proofs.
//!
//! Needs what `cargo xtask test` prepares: Python with the packages of e2e/verify-oracle/requirements.txt (`$ORACLE_PYTHON`, else
//! `oracle-python/bin/python` in `$TESTIMONY_CACHE_DIR` or `~/.cache/testimony`), and `tlog-oracle` (`$TLOG_ORACLE`).

mod alive;
#[path = "../support/golden.rs"]
#[allow(dead_code, reason = "goldens are not written here")]
mod golden;
mod libraries;
mod parts;
mod restated;
mod strangers;
#[path = "../support/helm.rs"]
mod support;
mod wrong;

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use golden::repository;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use testimony_core::canon::{BodyWriter, parse_body};
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::{leaf, prove_consistency, prove_inclusion};
use testimony_core::evidence::note::{PublicKey, Signature, SignedNote};
use testimony_core::evidence::roots::Roots;
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::verify::{
    Certificates, Finding, Intake, Ledger, Projector, Report, Scope, Settings, Shape, Stored, Trust, Verification,
};

/// How long a record may be without a head, in nanoseconds.
const MAX_LAG_NS: u64 = 1;

/// Of the key of the golden ledger's witness.
const WITNESS_SEED: u8 = 201;

const VECTORS: [&str; 4] = ["every-typ", "rollover", "rotation", "crash"];

fn vectors(name: &str) -> Vec<String> {
    let path = repository().join(format!("core/tests/vectors/evidence/{name}.jsonl"));
    let text = std::fs::read_to_string(path).expect("golden streams");
    let body = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        line["body"].as_str().expect("a body").to_owned()
    };
    text.lines().map(body).collect()
}

/// The ledger names the keys of these streams; their certificates are no X.509.
struct NoCertificate;

impl Certificates for NoCertificate {
    fn certify(&self, _: &StreamId, _: &PublicKey, _: &[u8]) -> Result<(), String> {
        Err("no certificate".to_owned())
    }
}

/// The first verifier, with roots and a ledger.
fn judge_with(bodies: &[String], roots: &str, ledger: &[String], to_ns: Option<u64>) -> Report {
    let keys = if roots.is_empty() { Vec::new() } else { Roots::parse(roots).expect("roots").ledgers };
    let (ledger, findings) = Ledger::read(&keys, ledger);
    let scope = Scope { to_ns, ..Scope::default() };
    report(bodies, Trust { roots: Some(Box::new(NoCertificate)), ledger, ..Trust::default() }, findings, scope)
}

/// The first verifier.
fn judge(bodies: &[String]) -> Report {
    report(bodies, Trust::default(), Vec::new(), Scope::default())
}

fn report(bodies: &[String], trust: Trust, findings: Vec<Finding>, scope: Scope) -> Report {
    let projector = Projector::new(Shape { underscores: false, numbers_as_text: false });
    let mut intake = Intake::default();
    let mut rows: Vec<Vec<u8>> = Vec::new();
    for (place, body) in bodies.iter().enumerate() {
        intake.record(body, &Stored::default(), &projector, place as u64, |row| rows.push(row.to_vec()));
    }
    intake.ledger_findings(findings);
    if let Some(ledger) = &trust.ledger {
        intake.ledger_says(ledger, |row| rows.push(row.to_vec()));
    }
    rows.sort();
    let settings = Settings { now_ns: 1_900_000_000_000_000_000, max_lag_ns: MAX_LAG_NS, scope, ..Settings::default() };
    let mut verification = Verification::new(intake, settings, trust);
    rows.iter().for_each(|row| assert!(verification.feed(row), "a row"));
    verification.finish()
}

fn run(program: &Path, arguments: &[&Path], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}: `cargo xtask test` prepares it", program.display()));
    let mut stdin = child.stdin.take().expect("standard input");
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input.as_bytes()));
        child.wait_with_output()
    });
    let output = output.expect("the program ends");
    assert!(output.status.success(), "{} ended with {}", program.display(), output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn edit(text: &str, key: &str, value: Option<&str>) -> String {
    let mut fields = parse_body(text.as_bytes()).expect("a body");
    match value {
        Some(value) => fields.insert(key.to_owned(), value.as_bytes().to_vec()),
        None => fields.remove(key),
    };
    let mut out = Vec::new();
    let mut writer = BodyWriter::new(&mut out);
    fields.iter().for_each(|(key, value)| writer.member(key, value));
    writer.finish();
    String::from_utf8(out).expect("ASCII")
}

/// Each golden export as it is, in other orders, and tampered with in every single record.
fn cases() -> Vec<(String, Vec<String>)> {
    let mut cases = Vec::new();
    for name in VECTORS {
        let honest = vectors(name);
        let mut reversed = honest.clone();
        reversed.reverse();
        cases.push((format!("{name} reversed and twice"), [reversed, honest.clone()].concat()));
        cases.push((
            format!("{name} without heads"),
            honest.iter().filter(|body| !body.contains("\"typ\":\"head\"")).cloned().collect(),
        ));
        for at in 0..honest.len() {
            let mut dropped = honest.clone();
            dropped.remove(at);
            cases.push((format!("{name} without line {at}"), dropped));
            let cut = honest[..at].to_vec();
            if at > 0 {
                cases.push((format!("{name} cut at line {at}"), cut));
            }
            for (key, value) in
                [("t0", Some("1")), ("id", Some("x")), ("prev", Some("00")), ("seq", Some("7")), ("note", Some("AAAA"))]
            {
                let has = honest[at].contains(&format!("\"{key}\":"));
                if !has {
                    continue;
                }
                let other = edit(&honest[at], key, value);
                let mut edited = honest.clone();
                edited[at] = other.clone();
                cases.push((format!("{name} line {at} with another {key}"), edited));
                cases.push((
                    format!("{name} line {at} with an altered copy: {key}"),
                    [honest.clone(), vec![other]].concat(),
                ));
            }
        }
    }
    cases.push(("all at once".to_owned(), VECTORS.iter().flat_map(|name| vectors(name)).collect()));
    cases
}

/// Where the second verifier tells another kind of what is worst, by what was done: the first one's kind, and its own.
const UNTOLD: [(&str, &str, &str); 5] = [
    // Of two records at one place it cannot tell which is genuine where none after them says so: it reads from the end.
    ("altered copy", "FOREIGN", "TAMPERED"),
    ("another prev", "FOREIGN", "TAMPERED"),
    ("another seq", "FOREIGN", "TAMPERED"),
    // An edited record that was to be pruned is to it no record of another's.
    ("edited", "FOREIGN", "TAMPERED"),
    // Without the record that names a key it takes the heads under that key for somebody else's.
    ("without line", "MISSING", "FOREIGN"),
];

/// At most one case in so many may be judged as [`UNTOLD`] has it.
const UNTOLD_PART: usize = 30;

/// Counts the cases in which both verifiers see something wrong, and the second one cannot tell its kind.
#[derive(Default)]
struct Kinds {
    untold: Vec<String>,
}

impl Kinds {
    /// Whether both verdicts are of one kind, as far as the second verifier can tell it.
    fn alike(&mut self, case: &str, own: &str, other: &str) -> bool {
        let untold =
            UNTOLD.iter().any(|(done, first, second)| case.contains(done) && (*first, *second) == (own, other));
        if untold && own != other {
            self.untold.push(format!("{case}: {own}, {other}"));
        }
        own == other || untold
    }
}

#[test]
fn v1_a_second_verifier_agrees() {
    let cases = cases();
    let input: String =
        cases.iter().map(|(name, bodies)| format!("{}\n", json!({"name": name, "bodies": bodies}))).collect();
    let python = support::cached("oracle-python/bin/python", "ORACLE_PYTHON");
    let output = run(&python, &[&repository().join("e2e/verify-oracle/verify_oracle.py")], &input);
    let answers: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(answers.len(), cases.len());
    let (mut differences, mut kinds) = (Vec::new(), Kinds::default());
    for ((name, bodies), answer) in cases.iter().zip(&answers) {
        let report = judge(bodies);
        let (own, other) = (report.verdict.as_str(), answer["verdict"].as_str().unwrap_or_default());
        // An honest export is judged alike, record for record; one that was tampered with, by the kind of what is worst.
        let honest = name.ends_with("twice") || name == "all at once";
        let alike = match honest {
            true => own == other && answer["proved"] == report.proved,
            false => kinds.alike(name, own, other),
        };
        if !alike || answer["records"] != report.records {
            differences.push(format!("{name}: {own} {} of {}, the other {answer}", report.proved, report.records));
        }
    }
    assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), cases.len(), differences.join("\n"));
    assert!(cases.len() > 500, "{}", cases.len());
    assert!(kinds.untold.len() * UNTOLD_PART <= cases.len(), "of {} by another kind: {:#?}", cases.len(), kinds.untold);
}

/// One case with a ledger: what it is, the export, the roots, the ledger.
struct WithLedger {
    name: String,
    bodies: Vec<String>,
    roots: String,
    ledger: Vec<String>,
    /// The end of the time that is looked at, in nanoseconds since the epoch.
    to_ns: Option<u64>,
    /// Nothing was tampered with: every kind of finding must be the same.
    exact: bool,
}

fn sid_and_seq(body: &str) -> (String, u64) {
    let fields: Value = serde_json::from_str(body).expect("a body");
    let seq = fields["seq"].as_str().and_then(|seq| seq.parse().ok());
    (fields["sid"].as_str().unwrap_or_default().to_owned(), seq.unwrap_or(u64::MAX))
}

/// A head that the ledger's own witness cosigned when the ledger had just ended, and long after: then this is not all of it.
fn behind(honest: &[String], roots: &str, ledger: &[String]) -> Vec<WithLedger> {
    let field = |body: &String, key: &str| -> Option<u64> {
        serde_json::from_str::<Value>(body).ok()?[key].as_str()?.parse().ok()
    };
    let end_ns = ledger.iter().filter_map(|body| field(body, "t0")).max().expect("entries");
    let at = honest.iter().rposition(|body| body.contains("\"typ\":\"head\"")).expect("a head");
    let roots_read = Roots::parse(roots).expect("roots");
    let witness = &roots_read.witnesses[0];
    let pair = Ed25519KeyPair::from_seed_unchecked(&[WITNESS_SEED; 32]).expect("a seed");
    let case = |name: &str, seconds: u64, to_ns: Option<u64>| {
        let fields = parse_body(honest[at].as_bytes()).expect("a body");
        let note = String::from_utf8(STANDARD.decode(&fields["note"]).expect("base64")).expect("text");
        let mut note = SignedNote::parse(&note).expect("a note");
        let at_s = end_ns / 1_000_000_000 + seconds;
        let signature = pair.sign(note.checkpoint.cosigned_text(at_s).as_bytes());
        let signature = signature.as_ref().try_into().expect("64 bytes");
        note.signatures.push(Signature::witness(&witness.name, &witness.key, at_s, signature));
        let mut bodies = honest.to_vec();
        bodies[at] = edit(&bodies[at], "cosig", Some(&STANDARD.encode(note.encode())));
        let (roots, ledger) = (roots.to_owned(), ledger.to_vec());
        WithLedger { name: name.to_owned(), bodies, roots, ledger, to_ns, exact: true }
    };
    vec![
        case("cosigned in time", 640, None),
        case("cosigned late", 641, None),
        case("cosigned late, not looked at", 10_000, Some(end_ns + 600_000_000_000)),
    ]
}

/// Some records of a stream.
type Part = (String, u64, u64);

/// The golden ledger of which only the last blocks are left: they restate what is excused.
fn last_blocks(honest: &[String], roots: &str, pruned: &Part, abandoned: &Part) -> Vec<WithLedger> {
    let ledger = vectors("ledger-last-blocks");
    let erased = (pruned.0.clone(), 4, 6);
    let case = |name: &str, parts: &[&Part]| {
        let gone = |body: &&String| {
            let (of, seq) = sid_and_seq(body);
            parts.iter().any(|(sid, from, to)| of == *sid && (*from..*to).contains(&seq))
        };
        let bodies = honest.iter().filter(|body| !gone(body)).cloned().collect();
        let (name, roots, ledger) = (format!("last blocks, {name}"), roots.to_owned(), ledger.clone());
        WithLedger { name, bodies, roots, ledger, to_ns: None, exact: true }
    };
    vec![
        case("whole", &[]),
        case("abandoned", &[abandoned]),
        case("pruned", &[pruned]),
        case("erased", &[&erased]),
        case("all", &[abandoned, pruned, &erased]),
        case("one more", &[abandoned, pruned, &(erased.0.clone(), 4, 7)]),
    ]
}

/// The golden ledger over the golden streams: as they are, without what it excuses, without what it does not, and the ledger
/// tampered with in every single entry.
fn cases_with_ledger() -> Vec<WithLedger> {
    let honest: Vec<String> = VECTORS[1..].iter().flat_map(|name| vectors(name)).collect();
    let ledger = vectors("ledger");
    let path = repository().join("core/tests/vectors/evidence/roots.txt");
    let roots = std::fs::read_to_string(path).expect("golden roots");
    let said = |typ: &str| -> Part {
        let entry = ledger.iter().find(|body| body.contains(&format!("\"typ\":\"ledger-{typ}\""))).expect("an entry");
        let fields: Value = serde_json::from_str(entry).expect("a body");
        let number = |key: &str| fields[key].as_str().and_then(|n| n.parse().ok()).expect("a number");
        (fields["stream"].as_str().expect("a stream").to_owned(), number("from"), number("to"))
    };
    let without = |(sid, from, to): &Part| -> Vec<String> {
        let is_in = |body: &&String| {
            let (of, seq) = sid_and_seq(body);
            of == *sid && (*from..*to).contains(&seq)
        };
        honest.iter().filter(|body| !is_in(body)).cloned().collect()
    };
    let (pruned, abandoned) = (said("pruned"), said("abandoned"));
    let mut cases = Vec::new();
    let mut add = |name: String, bodies: Vec<String>, ledger: Vec<String>, exact: bool| {
        cases.push(WithLedger { name, bodies, roots: roots.clone(), ledger, to_ns: None, exact });
    };
    let reversed: Vec<String> = ledger.iter().rev().chain(&ledger).cloned().collect();
    add("as it is".to_owned(), honest.clone(), ledger.clone(), true);
    add("the ledger reversed and twice".to_owned(), honest.clone(), reversed, true);
    add("pruned".to_owned(), without(&pruned), ledger.clone(), true);
    add("abandoned".to_owned(), without(&abandoned), ledger.clone(), true);
    for at in pruned.1..pruned.2 {
        let put = honest.iter().find(|body| sid_and_seq(body) == (pruned.0.clone(), at)).expect("a record");
        let put = vec![edit(put, "id", Some("AAAA"))];
        add(format!("one put at {at} of what was pruned"), [without(&pruned), put].concat(), ledger.clone(), false);
    }
    let more = |(sid, from, to): &Part| (sid.clone(), *from, to + 1);
    let before = |(sid, from, to): &Part| (sid.clone(), from - 1, *to);
    add("more than was pruned".to_owned(), without(&more(&pruned)), ledger.clone(), false);
    add("more than was abandoned".to_owned(), without(&before(&abandoned)), ledger.clone(), false);
    let sids: BTreeSet<String> = honest.iter().map(|body| sid_and_seq(body).0).filter(|sid| !sid.is_empty()).collect();
    let is_of = |body: &String, sid: &String| {
        let fields: Value = serde_json::from_str(body).expect("a body");
        let note = fields["note"].as_str().map(|note| STANDARD.decode(note).expect("base64"));
        fields["sid"] == sid.as_str() || note.is_some_and(|note| note.starts_with(sid.as_bytes()))
    };
    for sid in &sids {
        let rest = honest.iter().filter(|body| !is_of(body, sid)).cloned().collect();
        add(format!("without stream {sid}"), rest, ledger.clone(), true);
    }
    for at in 0..ledger.len() {
        let mut dropped = ledger.clone();
        dropped.remove(at);
        add(format!("ledger without line {at}"), honest.clone(), dropped, false);
        if at > 0 {
            add(format!("ledger cut at line {at}"), honest.clone(), ledger[..at].to_vec(), false);
        }
        if ledger[at].contains("\"t0\"") {
            let mut edited = ledger.clone();
            edited[at] = edit(&ledger[at], "t0", Some("1"));
            add(format!("ledger line {at} with another time"), honest.clone(), edited.clone(), false);
            edited.push(ledger[at].clone());
            add(format!("ledger line {at} with an altered copy"), honest.clone(), edited, false);
        }
    }
    for at in 0..honest.len() {
        let mut dropped = honest.clone();
        dropped.remove(at);
        add(format!("without line {at}"), dropped, ledger.clone(), false);
        let mut edited = honest.clone();
        edited[at] = edit(&honest[at], if honest[at].contains("\"note\"") { "note" } else { "id" }, Some("AAAA"));
        add(format!("line {at} edited"), edited, ledger.clone(), false);
    }
    let elsewhere = honest.iter().map(|body| body.replace("2b1c6d1e-", "3b1c6d1e-")).collect();
    add("another cluster's records".to_owned(), elsewhere, ledger.clone(), false);
    cases.extend(behind(&honest, &roots, &ledger));
    cases.extend(last_blocks(&honest, &roots, &pruned, &abandoned));
    cases.extend(parts::cases(&honest, &roots, &ledger));
    cases.extend(restated::cases(&honest, &roots, &ledger));
    cases.extend(alive::cases());
    cases.extend(strangers::cases());
    let name = "no roots".to_owned();
    cases.push(WithLedger { name, bodies: honest, roots: String::new(), ledger, to_ns: None, exact: true });
    cases
}

#[test]
fn v2_w4_a_second_verifier_agrees_on_roots_and_ledger() {
    let cases = cases_with_ledger();
    let line = |case: &WithLedger| {
        let (name, bodies, roots, ledger) = (&case.name, &case.bodies, &case.roots, &case.ledger);
        let scope = json!({"name": name, "bodies": bodies, "roots": roots, "ledger": ledger, "to_ns": case.to_ns, "max_lag_ns": MAX_LAG_NS});
        format!("{scope}\n")
    };
    let input: String = cases.iter().map(line).collect();
    let python = support::cached("oracle-python/bin/python", "ORACLE_PYTHON");
    let output = run(&python, &[&repository().join("e2e/verify-oracle/verify_oracle.py")], &input);
    let answers: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(answers.len(), cases.len());
    let (mut differences, mut seen) = (Vec::new(), Kinds::default());
    for (case, answer) in cases.iter().zip(&answers) {
        let report = judge_with(&case.bodies, &case.roots, &case.ledger, case.to_ns);
        let kinds: BTreeSet<&str> = report.findings.iter().map(|finding| finding.verdict.as_str()).collect();
        let other: BTreeSet<&str> =
            answer["findings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let other: BTreeSet<&str> = other.into_iter().filter(|kind| *kind != "OK").collect();
        let alike = match case.exact {
            true => kinds == other && answer["proved"] == report.proved,
            false => seen.alike(&case.name, report.verdict.as_str(), answer["verdict"].as_str().unwrap_or_default()),
        };
        if !alike || answer["records"] != report.records {
            let texts: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
            differences.push(format!(
                "{}: {kinds:?} {} of {}, the other {answer}: {texts:#?}",
                case.name, report.proved, report.records
            ));
        }
    }
    assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), cases.len(), differences.join("\n"));
    assert!(cases.len() > 100, "{}", cases.len());
    assert!(seen.untold.len() * UNTOLD_PART <= cases.len(), "of {} by another kind: {:#?}", cases.len(), seen.untold);
    let kinds = |name: &str| {
        let at = cases.iter().position(|case| case.name == name).expect("a case");
        answers[at]["findings"].to_string()
    };
    for (name, told) in [("cosigned in time", false), ("cosigned late", true), ("cosigned late, not looked at", false)]
    {
        assert_eq!(kinds(name).contains("UNANCHORED"), told, "{name}: {}", kinds(name));
    }
    for (name, told, missing) in [
        ("abandoned", "GAP", false),
        ("pruned", "PRUNED", false),
        ("erased", "ERASED", false),
        ("all", "ERASED", false),
        ("one more", "ERASED", true),
    ] {
        let kinds = kinds(&format!("last blocks, {name}"));
        assert!(kinds.contains(told) && kinds.contains("MISSING") == missing, "{name}: {kinds}");
    }
    parts::check(&cases, kinds);
    alive::check(kinds);
    strangers::check(kinds);
    for (name, tampered, missing) in [("read from there", false, true), ("cut in it", false, false)] {
        let kinds = kinds(&format!("restated, {name}"));
        assert_eq!((kinds.contains("TAMPERED"), kinds.contains("MISSING")), (tampered, missing), "{name}: {kinds}");
    }
    assert_eq!(kinds("its name, once"), kinds("its name, again"));
    // The golden cases are what they are meant to be.
    let verdict = |at: usize| answers[at]["findings"].to_string();
    assert!(verdict(2).contains("PRUNED") && !verdict(2).contains("MISSING"), "{}", verdict(2));
    assert!(verdict(3).contains("GAP") && !verdict(3).contains("MISSING"), "{}", verdict(3));
}

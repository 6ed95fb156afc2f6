//! Two verifiers that share no code agree on the golden streams and on each way to tamper with them; the libraries of
//! transparency-dev accept their trees, heads and proofs.
//!
//! Needs what `cargo xtask test` prepares: Python with the packages of e2e/verify-oracle/requirements.txt (`$ORACLE_PYTHON`, else
//! `oracle-python/bin/python` in `$TESTIMONY_CACHE_DIR` or `~/.cache/testimony`), and `tlog-oracle` (`$TLOG_ORACLE`).

#[path = "support/golden.rs"]
#[allow(dead_code, reason = "goldens are not written here")]
mod golden;
#[path = "support/helm.rs"]
mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use golden::repository;
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use testimony_core::canon::{BodyWriter, parse_body};
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::{leaf, prove_consistency, prove_inclusion};
use testimony_core::evidence::note::SignedNote;
use testimony_core::evidence::verify::{Intake, Projector, Report, Settings, Shape, Stored, Trust, Verification};

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

/// The first verifier.
fn judge(bodies: &[String]) -> Report {
    let projector = Projector::new(Shape { underscores: false, numbers_as_text: false });
    let mut intake = Intake::default();
    let mut rows: Vec<Vec<u8>> = Vec::new();
    for (place, body) in bodies.iter().enumerate() {
        intake.record(body, &Stored::default(), &projector, place as u64, |row| rows.push(row.to_vec()));
    }
    rows.sort();
    let settings = Settings { now_ns: 1_900_000_000_000_000_000, max_lag_ns: 1, ..Settings::default() };
    let mut verification = Verification::new(intake, settings, Trust::default());
    rows.iter().for_each(|row| assert!(verification.feed(row), "a row"));
    verification.finish()
}

fn run(program: &Path, arguments: &[&Path], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
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

#[test]
fn v1_a_second_verifier_agrees() {
    let cases = cases();
    let input: String =
        cases.iter().map(|(name, bodies)| format!("{}\n", json!({"name": name, "bodies": bodies}))).collect();
    let python = support::cached("oracle-python/bin/python", "ORACLE_PYTHON");
    let output = run(&python, &[&repository().join("e2e/verify-oracle/verify_oracle.py")], &input);
    let answers: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(answers.len(), cases.len());
    let mut differences = Vec::new();
    for ((name, bodies), answer) in cases.iter().zip(&answers) {
        let report = judge(bodies);
        let bad = |verdict: &str| matches!(verdict, "FORK" | "TAMPERED" | "FOREIGN" | "MISSING");
        let (own, other) = (report.verdict.as_str(), answer["verdict"].as_str().unwrap_or_default());
        // Where a change leaves more than one reading, both find it; an honest export is judged alike, record for record.
        let honest = name.ends_with("twice") || name == "all at once";
        let alike = if honest { own == other && answer["proved"] == report.proved } else { bad(own) == bad(other) };
        if !alike || answer["records"] != report.records {
            differences.push(format!("{name}: {own} {} of {}, the other {answer}", report.proved, report.records));
        }
    }
    assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), cases.len(), differences.join("\n"));
    assert!(cases.len() > 500, "{}", cases.len());
}

/// One golden stream for the Go program: bodies in order, heads with the key that must have signed each, every proof.
fn for_go(bodies: &[String]) -> Vec<Value> {
    let fields = |body: &String| -> Value { serde_json::from_str(body).expect("a body") };
    let mut sids: Vec<String> =
        bodies.iter().filter_map(|body| fields(body)["sid"].as_str().map(str::to_owned)).collect();
    sids.sort();
    sids.dedup();
    let of = |sid: &String| -> Value {
        let own: Vec<&String> = bodies.iter().filter(|body| fields(body)["sid"] == sid.as_str()).collect();
        let leaves: Vec<Hash> = own.iter().map(|body| leaf(body.as_bytes())).collect();
        let mut keys: Vec<(u64, String)> = Vec::new();
        for (at, body) in own.iter().enumerate() {
            let key = fields(body)[if at == 0 { "key" } else { "next_key" }].as_str().map(str::to_owned);
            keys.extend(key.map(|key| (if at == 0 { 0 } else { at as u64 + 2 }, key)));
        }
        let note = |body: &String| -> Option<Value> {
            let text = String::from_utf8(STANDARD.decode(fields(body)["note"].as_str()?).ok()?).ok()?;
            let checkpoint = SignedNote::parse(&text).expect("a note").checkpoint;
            let key = keys.iter().rfind(|(from, _)| *from <= checkpoint.size).map(|(_, key)| key.clone());
            (checkpoint.origin == *sid).then(|| json!({"note": text, "key": key}))
        };
        let hashes = |proof: Vec<Hash>| -> Vec<String> { proof.iter().map(|hash| STANDARD.encode(hash.0)).collect() };
        let (mut inclusion, mut consistency) = (Vec::new(), Vec::new());
        for size in 1..=leaves.len() {
            for at in 0..size as u64 {
                let proof = prove_inclusion(&leaves[..size], at).expect("a leaf");
                inclusion.push(json!({"index": at, "size": size, "proof": hashes(proof)}));
                let proof = prove_consistency(&leaves[..size], at + 1).expect("an older size");
                consistency.push(json!({"old": at + 1, "new": size, "proof": hashes(proof)}));
            }
        }
        let heads: Vec<Value> = bodies.iter().filter_map(note).collect();
        json!({"bodies": own, "heads": heads, "inclusion": inclusion, "consistency": consistency})
    };
    sids.iter().map(of).collect()
}

#[test]
fn l1_h1_the_libraries_of_transparency_dev_agree() {
    let streams: Vec<Value> = VECTORS.iter().flat_map(|name| for_go(&vectors(name))).collect();
    let heads: usize = streams.iter().map(|stream| stream["heads"].as_array().map_or(0, Vec::len)).sum();
    assert!(heads >= 10, "{heads}");
    let input: String = streams.iter().map(|stream| format!("{stream}\n")).collect();
    let program: PathBuf = support::program("tlog-oracle", "TLOG_ORACLE");
    let checked: usize = run(&program, &[], &input).trim().parse().expect("a number");
    let proofs = |kind: &str| streams.iter().map(|stream| stream[kind].as_array().map_or(0, Vec::len)).sum::<usize>();
    assert_eq!(checked, heads + proofs("inclusion") + proofs("consistency"));
}

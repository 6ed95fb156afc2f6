//! The exit code of the program for each verdict, as the rules list them (V1): what scripts and the daily job go by.

#[path = "../../core/tests/evidence_support/mod.rs"]
mod evidence_support;
#[path = "support/otlp.rs"]
mod otlp;
#[path = "support/program.rs"]
mod program;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evidence_support::{TestHost, TestKey, at, open, origin};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use program::run;
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::ledger::export::otlp_line;
use testimony_core::evidence::ledger::{Book, Fact, HeadRow, Keys, PodRow, Pruned, UncoveredRow, ledger_id};
use testimony_core::evidence::merkle::{Range, leaf};
use testimony_core::evidence::note::{Checkpoint, Role, Signature, SignedNote};
use testimony_core::evidence::roots::NamedKey;
use testimony_core::evidence::seal::Signer as _;
use testimony_core::evidence::stream::StreamId;

/// A folder of a test's own, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static RUN: AtomicU32 = AtomicU32::new(0);
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("testimony-verify-exit-{}-{run}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// 0 `open`, 1 `policy`, 2 `checkpoint` with its head, 3 `policy`, 4 `close` with its head: records and heads in the order of export.
struct Sealed {
    sid: StreamId,
    records: Vec<LogRecord>,
    leaves: Vec<Hash>,
}

impl Sealed {
    fn new() -> Self {
        let mut host = TestHost::default();
        let mut stream = open(origin(1), &mut host, at(0));
        assert!(stream.policy("8899aabbccddeeff", at(2), &mut host));
        stream.tick(at(31_000), &mut host);
        stream.durable(stream.position(), at(31_001), &mut host);
        assert!(stream.policy("0123456789abcdef", at(31_002), &mut host));
        assert!(stream.close(at(31_003), &mut host));
        stream.durable(stream.position(), at(31_004), &mut host);
        let records = host.lines.iter().map(|line| LogRecord::decode(&line.log[..]).expect("a LogRecord"));
        let bodies = host.lines.iter().filter(|line| line.leaf.is_some());
        Self {
            sid: StreamId::clone(stream.id()),
            records: records.collect(),
            leaves: bodies.map(|line| leaf(line.body.as_bytes())).collect(),
        }
    }

    /// What the ledger says of it at its head over so many records.
    fn root(&self, size: usize) -> Hash {
        self.range(0, size).root().expect("from 0")
    }

    fn range(&self, from: usize, to: usize) -> Range {
        let mut range = Range::empty(from as u64);
        self.leaves[from..to].iter().for_each(|leaf| range.push(*leaf));
        range
    }

    fn closed(&self) -> Fact {
        Fact::Closed(self.sid.clone(), 5, self.root(5))
    }

    fn removed(&self) -> Pruned {
        let (reason, by) = ("age".to_owned(), "alice".to_owned());
        Pruned { sid: self.sid.clone(), range: self.range(1, 3), reason, by }
    }

    /// A second head over 3 records, which the stream's key signed as well.
    fn second_head(&self) -> LogRecord {
        let (key, sid) = (TestKey::new(1), self.sid.as_str());
        let checkpoint = Checkpoint { origin: sid.to_owned(), size: 3, root: self.root(2) };
        let signature = Signature::log(sid, &key.public(), &key.sign(checkpoint.text().as_bytes()));
        let note = SignedNote { checkpoint, signatures: vec![signature] };
        let body = serde_json::json!({"note": STANDARD.encode(note.encode()), "typ": "head", "v": "1"});
        with_body(&self.records[3], &body.to_string())
    }
}

fn body(record: &LogRecord) -> &str {
    match record.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(Any::StringValue(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn with_body(record: &LogRecord, text: &str) -> LogRecord {
    let mut record = record.clone();
    record.body.as_mut().expect("a body").value = Some(Any::StringValue(text.to_owned()));
    record
}

/// The ledger in which this stream shows its first head, and what comes with that; it ends a second later.
fn ledger(stream: &Sealed, more: &[Fact]) -> String {
    let sid = ledger_name();
    let keys = Keys { ledger: TestKey::new(200).public(), witness: TestKey::new(201).public() };
    let mut book = Book::new(sid.clone(), keys);
    let mut out = String::new();
    let mut commit = |book: &mut Book, millis, facts: &[Fact], heads: &[HeadRow]| {
        let proposed = book.propose(facts, heads, at(millis).wall_ns, |text| TestKey::new(200).sign(text));
        let proposed = proposed.expect("a block");
        out += &(otlp_line(proposed.block(), &sid).expect("entries") + "\n");
        book.apply(proposed.committed()).expect("the next block");
    };
    let pod = PodRow {
        uid: origin(1).pod_uid,
        namespace: "shop".to_owned(),
        name: origin(1).pod,
        injection_id: "i".to_owned(),
        from_ns: at(0).wall_ns,
    };
    let certified = Fact::Certified(stream.sid.clone(), TestKey::new(1).public(), 1_700_093_600, vec![0x30; 4]);
    commit(&mut book, 1, &[Fact::Expected(pod), certified], &[]);
    let number = book.tables().stream(&stream.sid).expect("certified").number;
    commit(&mut book, 31_002, &[], &[HeadRow { stream: number, size: 3, root: stream.root(3) }]);
    if !more.is_empty() {
        commit(&mut book, 32_002, more, &[]);
    }
    out
}

fn ledger_name() -> StreamId {
    ledger_id(&origin(1).cluster_uid, "testimony-system", 7).expect("a name")
}

fn roots() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&KeyPair::generate().expect("a key")).expect("a root").pem();
    let key = NamedKey { name: ledger_name().to_string(), key: TestKey::new(200).public() };
    format!("ledger {}\n{root}", key.vkey(Role::Log))
}

/// The verdict, its exit code, more arguments, the export, what the ledger says at its end; an empty ledger is not given.
type Case<'a> = (&'a str, i32, &'a str, Vec<LogRecord>, String);

fn cases(stream: &Sealed) -> Vec<Case<'static>> {
    let all = stream.records.clone();
    let said = |more: &[Fact]| ledger(stream, &[&[stream.closed()], more].concat());
    let without = |from: usize, to: usize| [&all[..from], &all[to..]].concat();
    let with = |record: LogRecord| [&all[..], &[record]].concat();
    let mut edited = all.clone();
    edited[1] = with_body(&all[1], &body(&all[1]).replace("8899aabbccddeeff", "8899aabbccddee00"));
    let mut projected = all.clone();
    let attribute = projected[1].attributes.iter_mut().find(|pair| pair.key == "audit.sequence.number");
    attribute.expect("its number").value.as_mut().expect("a value").value = Some(Any::IntValue(7));
    let bare = UncoveredRow {
        uid: "u".to_owned(),
        namespace: "shop".to_owned(),
        name: "job-1".to_owned(),
        reason: "HostNetwork".to_owned(),
        from_ns: at(0).wall_ns,
    };
    let lost = Fact::Lost(stream.sid.clone(), 3, stream.root(3));
    vec![
        ("FORK", 1, "", with(stream.second_head()), said(&[])),
        ("TAMPERED", 1, "", edited.clone(), said(&[])),
        ("FOREIGN", 1, "", with(edited[1].clone()), said(&[])),
        ("MISSING", 1, "", without(1, 2), said(&[])),
        ("UNKNOWN", 3, "--scope ns=bank", all.clone(), said(&[])),
        ("PROJECTION", 1, "", projected, said(&[])),
        ("UNANCHORED", 3, "", all.clone(), String::new()),
        ("UNCLOSED", 2, "", all[..4].to_vec(), ledger(stream, &[lost])),
        ("GAP", 2, "", all.clone(), said(&[Fact::Uncovered(bare, None)])),
        ("PARTIAL", 3, "--partial", all.clone(), said(&[])),
        // Sealed after the last head, in a stream that the ledger knew as alive at its end.
        ("PENDING", 3, "", all[..5].to_vec(), ledger(stream, &[])),
        // The `checkpoint` stands before its head.
        ("ERASED", 0, "", without(1, 3), said(&[Fact::Erased(stream.removed())])),
        ("PRUNED", 0, "", without(1, 3), said(&[Fact::Pruned(stream.removed())])),
        ("OK", 0, "", all.clone(), said(&[])),
        // What is accepted is no failure, and stays the verdict; what is graver than it is not accepted with it.
        ("PENDING", 0, "--accept PENDING,PARTIAL", all[..5].to_vec(), ledger(stream, &[])),
        ("PARTIAL", 0, "--partial --accept PARTIAL", without(1, 2), said(&[])),
        ("UNANCHORED", 3, "--partial --accept PARTIAL", without(1, 2), String::new()),
        ("MISSING", 1, "--accept PARTIAL,GAP,UNCLOSED,UNANCHORED", without(1, 2), said(&[])),
    ]
}

#[test]
fn v1_each_verdict_ends_the_program_with_its_exit_code() {
    let stream = Sealed::new();
    let folder = Folder::new();
    let roots = folder.write("roots.txt", &roots());
    for (verdict, expected, more, records, ledger) in cases(&stream) {
        let mut export = String::new();
        for record in records {
            let mut one = String::new();
            otlp::otlp(record, &mut one);
            export += &otlp::line(&one);
        }
        let ledger = if ledger.is_empty() { ledger } else { folder.write("ledger.jsonl", &ledger) };
        let mut arguments = vec!["verify", "-", "--roots", &roots];
        arguments.extend(if ledger.is_empty() { vec![] } else { vec!["--ledger", &ledger] });
        arguments.extend(more.split_whitespace());
        let (code, text, err) = run(&arguments, &export);
        assert_eq!((text.lines().last(), code), (Some(verdict), expected), "{verdict} {more}: {text}{err}");
        arguments.extend(["-o", "json"]);
        let (code, json, err) = run(&arguments, &export);
        let report: Value =
            serde_json::from_str(&json).unwrap_or_else(|error| panic!("{verdict}: {error}: {json}{err}"));
        assert_eq!(report["verdict"], verdict, "{more}: {json}");
        assert_eq!((report["exit_code"].as_i64(), code), (Some(expected.into()), expected), "{verdict} {more}: {json}");
    }
}

#[test]
fn v1_what_is_no_verdict_ends_with_64_and_above() {
    for (arguments, input, expected, problem) in [
        ("verify -", "", 65, "testimony: "),
        ("verify -", "{}", 65, "testimony: "),
        ("verify /nowhere/export.jsonl", "", 65, "/nowhere/export.jsonl"),
        ("verify", "", 64, "FILE"),
        ("verify - --bogus", "", 64, "--bogus"),
        ("verify - --accept MISSING", "", 64, "MISSING"),
        ("verify - --scope ns=shop,ns=bank", "", 64, "run verify once for each"),
        ("verify - --scope from=1h,to=2h", "", 64, "from is not before to"),
    ] {
        let split: Vec<&str> = arguments.split(' ').collect();
        let (code, out, err) = run(&split, input);
        assert_eq!((code, out.as_str()), (expected, ""), "{arguments}: {err}");
        assert!(err.contains(problem), "{arguments}: {err}");
    }
}

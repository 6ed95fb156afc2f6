//! Streams whose sidecar signed what is wrong: no golden stream has that, as the code that seals cannot write it.

use super::{judge, run, support};
use crate::golden::repository;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use testimony_core::canon::BodyWriter;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::{Range, leaf};
use testimony_core::evidence::note::{Checkpoint, PublicKey, Signature, SignedNote};

/// Bodies, and the kinds of findings that they must have but for `UNANCHORED`.
type Case = (String, Vec<String>, &'static [&'static str]);

/// What it is, the fields of `close`, and the kinds of findings.
type Totals = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

/// Seals whatever it is told.
pub struct Sealer {
    pub sid: String,
    key: Ed25519KeyPair,
    range: Range,
    last: Option<Hash>,
    bodies: Vec<String>,
    heads: Vec<String>,
}

impl Sealer {
    pub fn new(boot: char, more: &[(&str, &str)]) -> Self {
        Self::of("pod", boot, more)
    }

    fn of(pod: &str, boot: char, more: &[(&str, &str)]) -> Self {
        let sid = format!("c/shop/{pod}/{}-0-0", boot.to_string().repeat(32));
        let key = Ed25519KeyPair::from_seed_unchecked(&[boot as u8; 32]).expect("a seed");
        let range = Range::empty(0);
        let mut this = Self { sid, key, range, last: None, bodies: Vec::new(), heads: Vec::new() };
        let public = this.public().to_string();
        let open = [("key", public.as_str()), ("pod", "web-0"), ("node", "n1")];
        this.record("open", &[&open[..], more].concat());
        this
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.key.public_key().as_ref().try_into().expect("32 bytes"))
    }

    pub fn record(&mut self, typ: &str, more: &[(&str, &str)]) -> &mut Self {
        let seq = self.range.end().to_string();
        let (id, time) = (format!("id-{seq}"), format!("17000000{:011}", self.range.end()));
        let mut fields: BTreeMap<&str, String> = BTreeMap::new();
        let own = [("v", "1"), ("typ", typ), ("id", &id), ("sid", &self.sid), ("seq", &seq), ("t0", &time)];
        fields.extend(own.iter().chain(more).map(|(key, value)| (*key, (*value).to_owned())));
        fields.extend(self.last.map(|last| ("prev", last.to_hex())));
        let body = body(&fields);
        let hash = leaf(body.as_bytes());
        self.range.push(hash);
        self.last = Some(hash);
        self.bodies.push(body);
        self
    }

    pub fn exchanges(&mut self, count: usize) {
        for _ in 0..count {
            self.record("exchange", &[("path", "/a")]);
        }
    }

    pub fn size(&self) -> u64 {
        self.range.end()
    }

    pub fn root(&self) -> Hash {
        self.range.root().expect("from 0")
    }

    pub fn head(&mut self) -> &mut Self {
        let checkpoint = Checkpoint { origin: self.sid.clone(), size: self.size(), root: self.root() };
        let signature = self.key.sign(checkpoint.text().as_bytes());
        let signature = signature.as_ref().try_into().expect("64 bytes");
        let signatures = vec![Signature::log(&self.sid, &self.public(), signature)];
        let note = STANDARD.encode(SignedNote { checkpoint, signatures }.encode());
        self.heads.push(body(&BTreeMap::from([("v", "1".to_owned()), ("typ", "head".to_owned()), ("note", note)])));
        self
    }

    pub fn all(&self) -> Vec<String> {
        [&self.bodies[..], &self.heads].concat()
    }
}

fn body(fields: &BTreeMap<&str, String>) -> String {
    let mut out = Vec::new();
    let mut writer = BodyWriter::new(&mut out);
    fields.iter().for_each(|(key, value)| writer.member(key, value.as_bytes()));
    writer.finish();
    String::from_utf8(out).expect("ASCII")
}

/// G3: totals that do not hold.
fn totals() -> Vec<Case> {
    let table: [Totals; 13] = [
        ("all add up", &[("begun", "8"), ("none", "5"), ("none_by", "0011/probes=3,other=2")], &[]),
        ("fewer by rule", &[("begun", "8"), ("none", "5"), ("none_by", "0011/probes=3")], &["MISSING"]),
        ("none by rule", &[("begun", "8"), ("none", "5")], &["MISSING"]),
        ("more by rule", &[("begun", "5"), ("none", "2"), ("none_by", "0011/probes=3")], &["TAMPERED"]),
        ("by rule of nothing", &[("begun", "3"), ("none_by", "0011/probes=3")], &["TAMPERED"]),
        ("cut", &[("begun", "8"), ("none", "5"), ("none_by", "0011/a=3"), ("trunc", "none_by=9000")], &[]),
        ("another cut", &[("begun", "8"), ("none", "5"), ("none_by", "a=3"), ("trunc", "x_none_by=9")], &["MISSING"]),
        ("no count", &[("begun", "4"), ("none", "1"), ("none_by", "0011/probes")], &["UNKNOWN", "UNCLOSED"]),
        ("odd count", &[("begun", "4"), ("none", "1"), ("none_by", "a=1,,b=x")], &["UNKNOWN", "UNCLOSED"]),
        ("more begun", &[("begun", "4")], &["MISSING"]),
        ("fewer begun", &[("begun", "2")], &["TAMPERED"]),
        ("open ones", &[("begun", "9"), ("open", "6")], &[]),
        ("both wrong", &[("begun", "9"), ("none", "1")], &["MISSING"]),
    ];
    let case = |(name, more, kinds): Totals| {
        let mut sealer = Sealer::new('a', &[]);
        sealer.exchanges(3);
        sealer.record("close", &[&[("exchanges", "3")], more].concat()).head();
        (format!("totals: {name}"), sealer.all(), kinds)
    };
    let mut cases: Vec<Case> = table.into_iter().map(case).collect();
    for (exchanges, begun, kinds) in [("4", "4", &["TAMPERED"][..]), ("2", "2", &["TAMPERED"])] {
        let mut sealer = Sealer::new('a', &[]);
        sealer.exchanges(3);
        sealer.record("close", &[("exchanges", exchanges), ("begun", begun)]).head();
        cases.push((format!("{exchanges} exchanges of 3"), sealer.all(), kinds));
    }
    cases
}

/// D3: what recovery says that it found, where a head says more; and copies that nobody sealed.
fn recovered() -> Vec<Case> {
    let mut crashed = Sealer::new('a', &[]);
    crashed.exchanges(3);
    crashed.record("checkpoint", &[("exchanges", "3"), ("begun", "3")]).head();
    let found = crashed.range.clone();
    crashed.record("exchange", &[("path", "/b")]);
    let root_of = |range: &Range| range.root().expect("from 0").to_hex();
    let next = |size: &str, root: &str, head_size: &str| {
        let mut next = Sealer::new('b', &[("found", &crashed.sid)]);
        let told = [("rec_sid", crashed.sid.as_str()), ("size", size), ("root", root), ("state", "lost")];
        next.record("recovered", &[&told[..], &[("head_size", head_size)]].concat());
        next.record("close", &[]).head();
        next
    };
    let five = |head: &str| [&crashed.bodies[..5], &crashed.heads, &next("5", &root_of(&found), head).all()].concat();
    let six = next("6", &root_of(&crashed.range), "5");
    let whole = || [crashed.all(), six.all()].concat();
    let copy = |key: &str, value: &str| {
        let copy = super::edit(&six.bodies[1], key, Some(value));
        (format!("a copy with {key} {value}"), [whole(), vec![copy]].concat(), &["FOREIGN"][..])
    };
    let nothing = Hash::of(&[]).to_hex();
    vec![
        ("as far as its head".to_owned(), five("5"), &[]),
        ("behind its head".to_owned(), five("8"), &["TAMPERED"]),
        ("no head told".to_owned(), five("0"), &[]),
        ("beyond its head".to_owned(), whole(), &[]),
        ("nothing was kept".to_owned(), next("0", &nothing, "0").all(), &[]),
        ("nothing was kept of a head".to_owned(), next("0", &nothing, "4").all(), &["TAMPERED", "MISSING"]),
        ("the stream is gone".to_owned(), six.all(), &["MISSING"]),
        copy("head_size", "9"),
        copy("state", "closed"),
        copy("id", "another"),
    ]
}

/// What a stream says of another pod's, and a cosigned note of another head.
fn void() -> Vec<Case> {
    let mut crashed = Sealer::new('a', &[]);
    crashed.exchanges(3);
    crashed.record("checkpoint", &[("exchanges", "3"), ("begun", "3")]).head();
    crashed.record("exchange", &[("path", "/b")]);
    let root = crashed.range.root().expect("from 0").to_hex();
    let recovered = |pod: &str| {
        let mut next = Sealer::of(pod, 'b', &[]);
        next.record("recovered", &[("rec_sid", &crashed.sid), ("size", "6"), ("root", &root), ("state", "lost")]);
        next.record("close", &[]).head();
        [crashed.all(), next.all()].concat()
    };
    let mut whole = Sealer::new('a', &[]);
    whole.exchanges(3);
    whole.record("close", &[("exchanges", "3"), ("begun", "3")]).head();
    let holed = |pod: &str| {
        let node = leaf(whole.bodies[2].as_bytes()).to_hex();
        let mut next = Sealer::of(pod, 'b', &[]);
        let hole = [("hole_sid", whole.sid.as_str()), ("hole_from", "2"), ("hole_to", "3"), ("nodes", &node)];
        next.record("hole", &[&hole[..], &[("scope", "all"), ("hole_reason", "rejected")]].concat());
        next.record("close", &[]).head();
        [&whole.bodies[..2], &whole.bodies[3..], &whole.heads, &next.all()].concat()
    };
    let named = |pod: &str| {
        let mut next = Sealer::of(pod, 'b', &[("found", &whole.sid)]);
        next.record("close", &[]).head();
        next.all()
    };
    let note = |sealer: &Sealer| {
        let head: Value = serde_json::from_str(&sealer.heads[0]).expect("JSON");
        head["note"].as_str().expect("a note").to_owned()
    };
    let cosigned = |cosig: &str| {
        let head = super::edit(&whole.heads[0], "cosig", Some(cosig));
        [&whole.bodies[..], &[head]].concat()
    };
    vec![
        ("its pod's recovery".to_owned(), recovered("pod"), &[]),
        ("another pod's recovery".to_owned(), recovered("other"), &["FOREIGN", "UNCLOSED"]),
        ("its pod's hole".to_owned(), holed("pod"), &["GAP"]),
        ("another pod's hole".to_owned(), holed("other"), &["FOREIGN", "MISSING"]),
        ("its pod names it".to_owned(), named("pod"), &["MISSING"]),
        ("another pod names it".to_owned(), named("other"), &["FOREIGN"]),
        ("its own cosigned note".to_owned(), cosigned(&note(&whole)), &[]),
        ("another cosigned note".to_owned(), cosigned(&note(&crashed)), &["FOREIGN"]),
        ("no cosigned note".to_owned(), cosigned("AAAA"), &["FOREIGN"]),
    ]
}

#[test]
fn g2_g3_d3_v4_a_second_verifier_agrees_on_what_was_signed_wrong() {
    let cases = [totals(), recovered(), void()].concat();
    let input: String =
        cases.iter().map(|(name, bodies, _)| format!("{}\n", json!({"name": name, "bodies": bodies}))).collect();
    let python = support::cached("oracle-python/bin/python", "ORACLE_PYTHON");
    let output = run(&python, &[&repository().join("e2e/verify-oracle/verify_oracle.py")], &input);
    let answers: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(answers.len(), cases.len());
    let mut differences = Vec::new();
    for ((name, bodies, kinds), answer) in cases.iter().zip(&answers) {
        let report = judge(bodies);
        let wanted: BTreeSet<&str> = kinds.iter().copied().chain(["UNANCHORED"]).collect();
        let own: BTreeSet<&str> = report.findings.iter().map(|finding| finding.verdict.as_str()).collect();
        let other = answer["findings"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let other: BTreeSet<&str> = other.filter(|kind| *kind != "OK").collect();
        if own != wanted || other != wanted {
            differences
                .push(format!("{name}: {wanted:?}, the first {own:?}, the second {other:?}: {:#?}", report.findings));
        }
    }
    assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), cases.len(), differences.join("\n"));
}

//! Honest streams to verify, and to tamper with.

use super::*;
use crate::canon::BodyWriter;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{Range, leaf};
use crate::evidence::note::{Checkpoint, PublicKey, Signature, SignedNote};
use crate::evidence::stream::StreamId;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;

pub(super) const NOW: u64 = 1_800_000_000_000_000_000;

pub(super) struct Key(Ed25519KeyPair);

impl Key {
    pub(super) fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed"))
    }

    pub(super) fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().try_into().expect("32 bytes"))
    }

    pub(super) fn sign(&self, text: &str) -> [u8; 64] {
        self.0.sign(text.as_bytes()).as_ref().try_into().expect("64 bytes")
    }
}

pub(super) fn sid(pod: &str, rotation: u64) -> StreamId {
    format!("c/shop/{pod}/{}-0-{rotation}", "0123456789abcdef".repeat(2)).parse().expect("a name")
}

/// A map as a canonical body.
pub(super) fn body(fields: &BTreeMap<String, String>) -> String {
    let mut out = Vec::new();
    let mut writer = BodyWriter::new(&mut out);
    fields.iter().for_each(|(key, value)| writer.member(key, value.as_bytes()));
    writer.finish();
    String::from_utf8(out).expect("ASCII")
}

pub(super) fn head_body(note: &SignedNote, frontier: Option<&Range>) -> String {
    let mut fields = BTreeMap::from([
        ("v".to_owned(), "1".to_owned()),
        ("typ".to_owned(), "head".to_owned()),
        ("note".to_owned(), STANDARD.encode(note.encode())),
    ]);
    if let Some(range) = frontier {
        let hashes: Vec<String> = range.nodes().map(Hash::to_hex).collect();
        fields.insert("frontier".to_owned(), hashes.join(","));
    }
    body(&fields)
}

/// Seals records as a sidecar does.
pub(super) struct Writer {
    pub(super) sid: StreamId,
    pub(super) bodies: Vec<String>,
    pub(super) heads: Vec<String>,
    pub(super) leaves: Vec<Hash>,
    pub(super) key: Key,
    seed: u8,
    pub(super) first_seed: u8,
    pub(super) time: u64,
    pub(super) totals: BTreeMap<&'static str, u64>,
}

impl Writer {
    pub(super) fn new(sid: StreamId, seed: u8, more: &[(&str, &str)]) -> Self {
        let mut this = Self {
            sid,
            bodies: Vec::new(),
            heads: Vec::new(),
            leaves: Vec::new(),
            key: Key::new(seed),
            seed,
            first_seed: seed,
            time: NOW - 86_400_000_000_000,
            totals: BTreeMap::new(),
        };
        let key = this.key.public().to_string();
        let open = [("key", key.as_str()), ("pod", "web-0"), ("node", "n1")];
        this.record("open", &[&open[..], more].concat());
        this
    }

    pub(super) fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    pub(super) fn record(&mut self, typ: &str, more: &[(&str, &str)]) {
        self.time += 1_000_000;
        let mut fields: BTreeMap<String, String> = BTreeMap::from([
            ("v".to_owned(), "1".to_owned()),
            ("typ".to_owned(), typ.to_owned()),
            ("id".to_owned(), format!("id-{}-{}", self.seed, self.leaves.len())),
            ("sid".to_owned(), self.sid.to_string()),
            ("seq".to_owned(), self.leaves.len().to_string()),
            ("t0".to_owned(), self.time.to_string()),
        ]);
        if let Some(prev) = self.leaves.last() {
            fields.insert("prev".to_owned(), prev.to_hex());
        }
        fields.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        self.push(body(&fields));
    }

    pub(super) fn push(&mut self, body: String) {
        self.leaves.push(leaf(body.as_bytes()));
        self.bodies.push(body);
    }

    pub(super) fn exchange(&mut self, path: &str) {
        *self.totals.entry("exchanges").or_default() += 1;
        self.record("exchange", &[("path", path), ("dir", "inbound"), ("peer", "10.0.0.1:5")]);
    }

    pub(super) fn gap(&mut self, count: u64) {
        *self.totals.entry("gaps").or_default() += count;
        self.record("gap", &[("count", &count.to_string()), ("exact", "1"), ("gap_reason", "queue_full")]);
    }

    fn with_totals(&mut self, typ: &str, more: &[(&str, &str)]) {
        let mut totals: Vec<(&str, String)> =
            self.totals.iter().map(|(key, value)| (*key, value.to_string())).collect();
        totals.push(("begun", self.totals.values().sum::<u64>().to_string()));
        let totals: Vec<(&str, &str)> = totals.iter().map(|(key, value)| (*key, value.as_str())).collect();
        self.record(typ, &[&totals[..], more].concat());
    }

    pub(super) fn checkpoint(&mut self) {
        self.with_totals("checkpoint", &[]);
        self.head(false);
    }

    pub(super) fn rollover(&mut self) {
        self.seed = self.seed.wrapping_add(100);
        let next = Key::new(self.seed);
        self.with_totals("checkpoint", &[("next_key", &next.public().to_string())]);
        self.head(true);
        self.key = next;
    }

    pub(super) fn close(&mut self) {
        self.with_totals("close", &[("close_reason", "sigterm")]);
        self.head(true);
    }

    pub(super) fn note(&self, key: &Key) -> SignedNote {
        let range = self.range(self.leaves.len());
        let checkpoint =
            Checkpoint { origin: self.sid.to_string(), size: self.size(), root: range.root().expect("from 0") };
        let signature = Signature::log(self.sid.as_str(), &key.public(), &key.sign(&checkpoint.text()));
        SignedNote { checkpoint, signatures: vec![signature] }
    }

    pub(super) fn range(&self, size: usize) -> Range {
        let mut range = Range::empty(0);
        self.leaves[..size].iter().for_each(|leaf| range.push(*leaf));
        range
    }

    pub(super) fn head(&mut self, frontier: bool) {
        let frontier = frontier.then(|| self.range(self.leaves.len() - 1));
        self.heads.push(head_body(&self.note(&self.key), frontier.as_ref()));
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.bodies.iter().chain(&self.heads).cloned().collect()
    }
}

/// An exported head with the cosignature of this witness.
pub(super) fn cosigned(head: &str, name: &str, witness: &Key, at_s: u64) -> String {
    let fields = crate::canon::parse_body(head.as_bytes()).expect("a body");
    let note = String::from_utf8(STANDARD.decode(&fields["note"]).expect("base64")).expect("text");
    let mut note = SignedNote::parse(&note).expect("a note");
    let signature = witness.sign(&note.checkpoint.cosigned_text(at_s));
    note.signatures.push(Signature::witness(name, &witness.public(), at_s, &signature));
    edit(head, "cosig", Some(&STANDARD.encode(note.encode())))
}

/// Changes one field of a body, or takes it away.
pub(super) fn edit(text: &str, key: &str, value: Option<&str>) -> String {
    let fields = crate::canon::parse_body(text.as_bytes()).expect("a body");
    let mut fields: BTreeMap<String, String> =
        fields.into_iter().map(|(key, value)| (key, String::from_utf8(value).expect("text"))).collect();
    match value {
        Some(value) => fields.insert(key.to_owned(), value.to_owned()),
        None => fields.remove(key),
    };
    body(&fields)
}

pub(super) fn settings() -> Settings {
    Settings { now_ns: NOW, max_lag_ns: 10_000_000_000, ..Settings::default() }
}

/// Verifies bodies with nothing beside them.
pub(super) fn verify(bodies: &[String], settings: Settings, trust: Trust) -> Report {
    judge_bodies(bodies.iter().map(String::as_str), settings, trust)
}

/// What was found, without what every verification without roots and ledger finds.
pub(super) fn found(report: &Report) -> Vec<String> {
    let findings =
        report.findings.iter().filter(|finding| finding.stream.is_some() || finding.verdict != Verdict::Unanchored);
    findings
        .map(|finding| {
            let records = finding.records.as_ref().map(|records| format!(" {}..{}", records.start, records.end));
            format!("{}{}", finding.verdict, records.unwrap_or_default())
        })
        .collect()
}

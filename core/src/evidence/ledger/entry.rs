//! An entry as canonical bytes: the same form as a record (R1 to R3), with types of its own.

use super::fact::{AbandonedRow, Fact, PodRow, Pruned, StateFact, UncoveredRow, read_rows, write_rows};
use crate::canon::{BodyWriter, parse_body};
use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;
use crate::evidence::stream::StreamId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;

/// Version of the entries' format.
pub const ENTRY_VERSION: &str = "1";

/// What the types of entries begin with.
pub const TYPE_PREFIX: &str = "ledger-";

/// One entry of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The ledger.
    pub sid: StreamId,
    /// Its place, from 0.
    pub seq: u64,
    /// Leaf of the entry before; absent at 0.
    pub prev: Option<Hash>,
    /// When it was written, in nanoseconds since the epoch.
    pub at_ns: u64,
    /// What it says.
    pub fact: Fact,
}

/// The type of an entry that says this.
pub fn typ(fact: &Fact) -> &'static str {
    match fact {
        Fact::Open(..) => "ledger-open",
        Fact::Resumed(_) => "ledger-resumed",
        Fact::Expected(_) => "ledger-expected",
        Fact::Gone(_) => "ledger-gone",
        Fact::Uncovered(..) => "ledger-uncovered",
        Fact::Certified(..) => "ledger-certified",
        Fact::Heads(_) => "ledger-head",
        Fact::Epoch(..) => "ledger-epoch",
        Fact::Closed(..) => "ledger-closed",
        Fact::Lost(..) => "ledger-lost",
        Fact::Rebased(..) => "ledger-rebased",
        Fact::Fork(..) => "ledger-fork",
        Fact::Abandoned(..) => "ledger-abandoned",
        Fact::Unwrapped(..) => "ledger-unwrap",
        Fact::Witnessed(_) => "ledger-witnessed",
        Fact::Pruned(..) => "ledger-pruned",
        Fact::Erased(..) => "ledger-erased",
        Fact::State(_) => "ledger-state",
    }
}

impl Entry {
    /// The canonical bytes.
    pub fn body(&self) -> Vec<u8> {
        let mut fields = Fields(members(&self.fact));
        fields.add("t0", self.at_ns);
        fields.add("seq", self.seq);
        fields.add("sid", &self.sid);
        fields.add("typ", typ(&self.fact));
        fields.add("v", ENTRY_VERSION);
        if let Some(prev) = self.prev {
            fields.add("prev", prev);
        }
        let mut out = Vec::new();
        let mut writer = BodyWriter::new(&mut out);
        for (key, value) in &fields.0 {
            writer.member(key, value.as_bytes());
        }
        writer.finish();
        out
    }

    /// Parses a body.
    ///
    /// # Errors
    /// What is wrong with it. Unknown types, keys and forms are refused: what cannot be written again as it was is none.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let map = parse_body(body).map_err(|error| error.to_string())?;
        let mut values = BTreeMap::new();
        for (key, value) in map {
            let value = String::from_utf8(value).map_err(|_| format!("{key} is no text"))?;
            values.insert(key, value);
        }
        let entry = Self::read(&Values(values)).ok_or_else(|| "not an entry that this version knows".to_owned())?;
        if entry.body() == body { Ok(entry) } else { Err("not in the one form of its entry".to_owned()) }
    }

    fn read(values: &Values) -> Option<Self> {
        let prev = match values.0.get("prev") {
            Some(prev) => Some(prev.parse().ok()?),
            None => None,
        };
        let (sid, seq, at_ns) = (values.parse("sid")?, values.parse("seq")?, values.parse("t0")?);
        Some(Self { sid, seq, prev, at_ns, fact: fact(values)? })
    }
}

/// Members by key; a map holds them in the order that JCS wants.
struct Fields(BTreeMap<&'static str, String>);

impl Fields {
    fn add(&mut self, key: &'static str, value: impl ToString) {
        self.0.insert(key, value.to_string());
    }
}

fn members(fact: &Fact) -> BTreeMap<&'static str, String> {
    let mut out = Fields(BTreeMap::new());
    match fact {
        Fact::Open(ledger, witness) => {
            out.add("key", ledger);
            out.add("witness", witness);
        }
        Fact::Resumed(from) => out.add("from", from),
        Fact::Expected(pod) => {
            let PodRow { uid, namespace, name, injection_id, from_ns } = pod;
            let texts = [("pod", uid), ("ns", namespace), ("name", name), ("injection", injection_id)];
            texts.into_iter().for_each(|(key, text)| out.add(key, text));
            out.add("from", from_ns);
        }
        Fact::Gone(uid) => out.add("pod", uid),
        Fact::Uncovered(pod, to) => {
            let UncoveredRow { uid, namespace, name, reason, from_ns } = pod;
            let texts = [("pod", uid), ("ns", namespace), ("name", name), ("reason", reason)];
            texts.into_iter().for_each(|(key, text)| out.add(key, text));
            out.add("from", from_ns);
            to.iter().for_each(|to| out.add("to", to));
        }
        Fact::Certified(sid, key, until, certificate) => {
            out.add("stream", sid);
            out.add("key", key);
            out.add("until", until);
            out.add("cert", STANDARD.encode(certificate));
        }
        Fact::Heads(heads) => out.add("heads", write_rows(heads)),
        Fact::Epoch(sid, size, root, next) => {
            head(&mut out, sid, *size, *root);
            out.add("next_key", next);
        }
        Fact::Closed(sid, size, root) | Fact::Lost(sid, size, root) => head(&mut out, sid, *size, *root),
        Fact::Rebased(sid, old, new, key) => {
            head(&mut out, sid, new.0, new.1);
            out.add("old_size", old.0);
            out.add("old_root", old.1);
            out.add("key", key);
        }
        Fact::Fork(sid, note) => {
            out.add("stream", sid);
            out.add("note", STANDARD.encode(note));
        }
        Fact::Witnessed(note) => out.add("note", STANDARD.encode(note)),
        Fact::Abandoned(AbandonedRow { sid, from, to, reason, sink }) => {
            part(&mut out, sid, *from, *to, reason);
            sink.iter().for_each(|sink| out.add("sink", sink));
        }
        Fact::Unwrapped(sid, pod) => {
            out.add("stream", sid);
            out.add("pod", pod);
        }
        Fact::Pruned(Pruned { sid, range, reason, by }) | Fact::Erased(Pruned { sid, range, reason, by }) => {
            part(&mut out, sid, range.begin(), range.end(), reason);
            out.add("by", by);
            out.add("nodes", list(range.nodes()));
        }
        Fact::State(state) => restated(&mut out, state),
    }
    out.0
}

fn head(out: &mut Fields, sid: &StreamId, size: u64, root: Hash) {
    out.add("stream", sid);
    out.add("size", size);
    out.add("root", root);
}

fn part(out: &mut Fields, sid: &StreamId, from: u64, to: u64, reason: &str) {
    out.add("stream", sid);
    out.add("from", from);
    out.add("to", to);
    out.add("reason", reason);
}

fn list(hashes: impl Iterator<Item = Hash>) -> String {
    hashes.map(Hash::to_hex).collect::<Vec<_>>().join(",")
}

fn restated(out: &mut Fields, state: &StateFact) {
    if let Some((ledger, witness, frontier)) = &state.first {
        out.add("key", ledger);
        out.add("witness", witness);
        out.add("frontier", list(frontier.iter().copied()));
    }
    if state.last {
        out.add("last", 1);
    }
    let rows = [
        ("streams", write_rows(&state.streams)),
        ("pods", write_rows(&state.pods)),
        ("uncovered", write_rows(&state.uncovered)),
        ("abandoned", write_rows(&state.abandoned)),
        ("pruned", write_rows(&state.pruned)),
        ("erased", write_rows(&state.erased)),
    ];
    for (key, rows) in rows.into_iter().filter(|(_, rows)| !rows.is_empty()) {
        out.add(key, rows);
    }
}

/// Members of a body that was read.
struct Values(BTreeMap<String, String>);

impl Values {
    fn text(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }

    fn parse<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.0.get(key)?.parse().ok()
    }

    fn base64(&self, key: &str) -> Option<Vec<u8>> {
        STANDARD.decode(self.0.get(key)?).ok()
    }

    /// Hashes between commas; no text is no hash.
    fn hashes(&self, key: &str) -> Option<Vec<Hash>> {
        let text = self.0.get(key)?;
        if text.is_empty() { Some(Vec::new()) } else { text.split(',').map(|hash| hash.parse().ok()).collect() }
    }

    fn rows<R: super::fact::Row>(&self, key: &str) -> Option<Vec<R>> {
        read_rows(self.0.get(key).map_or("", String::as_str))
    }
}

fn fact(values: &Values) -> Option<Fact> {
    let stream = || values.parse::<StreamId>("stream");
    let root = |key: &str| values.parse::<Hash>(key);
    let number = |key: &str| values.parse::<u64>(key);
    let text = |key: &str| values.text(key);
    Some(match values.0.get("typ")?.as_str() {
        "ledger-open" => Fact::Open(values.parse("key")?, values.parse("witness")?),
        "ledger-resumed" => Fact::Resumed(number("from")?),
        "ledger-expected" => Fact::Expected(PodRow {
            uid: text("pod")?,
            namespace: text("ns")?,
            name: text("name")?,
            injection_id: text("injection")?,
            from_ns: number("from")?,
        }),
        "ledger-gone" => Fact::Gone(text("pod")?),
        "ledger-uncovered" => {
            let row = UncoveredRow {
                uid: text("pod")?,
                namespace: text("ns")?,
                name: text("name")?,
                reason: text("reason")?,
                from_ns: number("from")?,
            };
            Fact::Uncovered(row, number("to"))
        }
        "ledger-certified" => {
            Fact::Certified(stream()?, values.parse("key")?, number("until")?, values.base64("cert")?)
        }
        "ledger-head" => Fact::Heads(values.rows("heads")?),
        "ledger-epoch" => Fact::Epoch(stream()?, number("size")?, root("root")?, values.parse("next_key")?),
        "ledger-closed" => Fact::Closed(stream()?, number("size")?, root("root")?),
        "ledger-lost" => Fact::Lost(stream()?, number("size")?, root("root")?),
        "ledger-rebased" => {
            let (old, new) = ((number("old_size")?, root("old_root")?), (number("size")?, root("root")?));
            Fact::Rebased(stream()?, old, new, values.parse("key")?)
        }
        "ledger-fork" => Fact::Fork(stream()?, String::from_utf8(values.base64("note")?).ok()?),
        "ledger-abandoned" => Fact::Abandoned(AbandonedRow {
            sid: stream()?,
            from: number("from")?,
            to: number("to")?,
            reason: text("reason")?,
            sink: text("sink"),
        }),
        "ledger-unwrap" => Fact::Unwrapped(stream()?, text("pod")?),
        "ledger-witnessed" => Fact::Witnessed(String::from_utf8(values.base64("note")?).ok()?),
        "ledger-pruned" => Fact::Pruned(order(values)?),
        "ledger-erased" => Fact::Erased(order(values)?),
        "ledger-state" => Fact::State(state(values)?),
        _ => return None,
    })
}

fn order(values: &Values) -> Option<Pruned> {
    let range = Range::from_nodes(values.parse("from")?, values.parse("to")?, &values.hashes("nodes")?).ok()?;
    Some(Pruned { sid: values.parse("stream")?, range, reason: values.text("reason")?, by: values.text("by")? })
}

fn state(values: &Values) -> Option<StateFact> {
    let first = match values.0.get("frontier") {
        Some(_) => Some((values.parse("key")?, values.parse("witness")?, values.hashes("frontier")?)),
        None => None,
    };
    Some(StateFact {
        first,
        last: values.0.contains_key("last"),
        streams: values.rows("streams")?,
        pods: values.rows("pods")?,
        uncovered: values.rows("uncovered")?,
        abandoned: values.rows("abandoned")?,
        pruned: values.rows("pruned")?,
        erased: values.rows("erased")?,
    })
}

//! Reading bodies: what a verification needs of each.

use super::fact::{Ended, Fact, Gap, Head, Hole, Kind, Leaf, Life, Place, Source, StreamNo, Totals};
use super::names::Names;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{Range, empty_root, leaf};
use crate::evidence::note::{PublicKey, SignedNote};
use crate::record::{Body, Flaw, Member, RECORD_VERSION};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr;

/// Most streams that one record names.
const NAMED_MAX: usize = 256;

/// A body that says nothing that could be judged: no leaf of any stream, and no head.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Not canonical (R3), and not even a map with a stream and a place in it.
    #[error("the body is not canonical: {0}")]
    Body(#[from] Flaw),
    /// A field is absent or of another form.
    #[error("field {field}: {problem}")]
    Field {
        /// Its key.
        field: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// A key that the format does not have.
    #[error("key {0:?} is not known here")]
    Key(String),
    /// It belongs to a ledger, which is read as a whole.
    #[error("it is an entry of a ledger")]
    Ledger,
    /// It is a record without a place in a stream.
    #[error("it has no place in a stream, so nothing can prove it")]
    Unsealed,
}

/// R2: `hq00`, `hs00`, ...
fn is_header(key: &str) -> bool {
    let digits = key.strip_prefix("hq").or_else(|| key.strip_prefix("hs"));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit()))
}

fn bad(field: &'static str, problem: &'static str) -> ReadError {
    ReadError::Field { field, problem }
}

/// A ledger's name has this where that of a stream has the pod's uid.
fn is_ledger(origin: &str) -> bool {
    origin.split('/').nth(2) == Some("ledger")
}

/// Whose record a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Its stream.
    pub stream: StreamNo,
    /// Its place in it; `None`: it is a head.
    pub seq: Option<u64>,
    /// Latest time in it, in nanoseconds since the epoch; 0: none.
    pub time_ns: u64,
    /// What it says and does not count.
    pub void: Option<Void>,
}

/// What a body says without a right to, whether or not it is genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Void {
    /// It speaks of this stream, which is another pod's. The streams of a pod vouch for each other, as they share its spool; of
    /// others only the ledger can tell: else whoever takes one sidecar over could excuse what is removed of all.
    OtherPod(StreamNo),
    /// Its cosigned note is not that of its own head.
    OtherHead,
}

/// Reads one body and gives what it says, each with the stream that it speaks of.
///
/// # Errors
/// It speaks of no stream. A record whose place is known but whose rest is not understood is no error: it is a leaf, and the
/// tree says whether it is genuine.
pub fn read(
    text: &str,
    body: &Result<Body<'_>, Flaw>,
    resource: u64,
    place: Place,
    names: &mut Names,
    mut give: impl FnMut(StreamNo, Fact),
) -> Result<Read, ReadError> {
    let body = match body {
        Ok(body) => body,
        Err(flaw) => return broken(text, *flaw, place, names, give),
    };
    let fields = Fields(body);
    let typ = fields.text("typ")?;
    if typ.starts_with("ledger-") {
        return Err(ReadError::Ledger);
    }
    if typ == "head" {
        let (stream, head, void) = head(&fields, place, names)?;
        give(stream, Fact::Head(head));
        return Ok(Read { stream, seq: None, time_ns: 0, void });
    }
    let sid = fields.0.simple("sid").ok_or(ReadError::Unsealed)?;
    let stream = names.number(sid).ok_or(bad("sid", "names no stream"))?;
    let seq = fields.number("seq")?;
    let hash = leaf(text.as_bytes());
    let source = Source { stream, seq, leaf: hash };
    let mut said = Vec::new();
    let mut prev = None;
    let kind = match fields.prev(seq) {
        Ok(found) => {
            prev = found;
            kind(&fields, &typ, seq, source, names, &mut said).unwrap_or_else(|error| Kind::Unknown(error.to_string()))
        }
        Err(error) => Kind::Unknown(error.to_string()),
    };
    let time = |key| fields.number(key).unwrap_or(0);
    let time_ns = time("t0").max(time("t1"));
    let mut void = None;
    if !matches!(kind, Kind::Unknown(_)) {
        let is_own = |about| {
            about == stream || names.name(about).zip(names.name(stream)).is_some_and(|(a, b)| a.is_of_same_pod(b))
        };
        let (own, others): (Vec<_>, Vec<_>) = said.into_iter().partition(|(about, _)| is_own(*about));
        void = others.first().map(|(about, _)| Void::OtherPod(*about));
        own.into_iter().for_each(|(about, fact)| give(about, fact));
    }
    give(stream, Fact::Leaf(Leaf { seq, leaf: hash, prev, time_ns, resource, kind, place }));
    Ok(Read { stream, seq: Some(seq), time_ns, void })
}

/// A body that is not canonical, but says where it claims to stand.
fn broken(
    text: &str,
    flaw: Flaw,
    place: Place,
    names: &mut Names,
    mut give: impl FnMut(StreamNo, Fact),
) -> Result<Read, ReadError> {
    let map: BTreeMap<String, serde_json::Value> = serde_json::from_str(text).map_err(|_| flaw)?;
    let field = |key: &str| map.get(key).and_then(serde_json::Value::as_str);
    let stream = field("sid").and_then(|sid| names.number(sid)).ok_or(flaw)?;
    let seq: u64 = field("seq").and_then(|seq| seq.parse().ok()).ok_or(flaw)?;
    let prev = field("prev").and_then(|prev| prev.parse().ok());
    let kind = Kind::Unknown(format!("it is not canonical: {flaw}"));
    let fact = Leaf { seq, leaf: leaf(text.as_bytes()), prev, time_ns: 0, resource: 0, kind, place };
    give(stream, Fact::Leaf(fact));
    Ok(Read { stream, seq: Some(seq), time_ns: 0, void: None })
}

/// The fields of a body.
struct Fields<'a, 'b>(&'b Body<'a>);

impl<'a> Fields<'a, '_> {
    fn text(&self, field: &'static str) -> Result<Cow<'a, str>, ReadError> {
        let member = self.0.get(field).ok_or(bad(field, "is absent"))?;
        member.plain().ok_or(bad(field, "is not UTF-8"))
    }

    fn parsed<T: FromStr>(&self, field: &'static str, problem: &'static str) -> Result<T, ReadError> {
        self.text(field)?.parse().map_err(|_| bad(field, problem))
    }

    fn key(&self, field: &'static str) -> Result<PublicKey, ReadError> {
        self.parsed(field, "is not an Ed25519 key")
    }

    /// R2: decimal, no sign, no leading zero.
    fn number(&self, field: &'static str) -> Result<u64, ReadError> {
        let text = self.0.simple(field).ok_or(bad(field, "is absent"))?;
        let one_form = text == "0" || matches!(text.bytes().next(), Some(b'1'..=b'9'));
        text.parse().ok().filter(|_| one_form).ok_or(bad(field, "is not a decimal number"))
    }

    /// Numbers that are 0 may be left out.
    fn number_or_zero(&self, field: &'static str) -> Result<u64, ReadError> {
        if self.0.get(field).is_some() { self.number(field) } else { Ok(0) }
    }

    fn hashes(&self, field: &'static str) -> Result<Vec<Hash>, ReadError> {
        let text = self.text(field)?;
        let hashes: Result<Vec<Hash>, _> = text.split(',').filter(|hash| !hash.is_empty()).map(str::parse).collect();
        hashes.map_err(|_| bad(field, "is not a list of hashes"))
    }

    /// R3: keys come from a closed table.
    fn all_known(&self) -> Result<(), ReadError> {
        let unknown = self.0.members().iter().find(|member| member.field.is_none() && !is_header(member.key));
        if let Some(member) = unknown {
            return Err(ReadError::Key(member.key.chars().take(32).collect()));
        }
        Ok(())
    }

    fn prev(&self, seq: u64) -> Result<Option<Hash>, ReadError> {
        match self.0.get("prev") {
            Some(_) if seq == 0 => Err(bad("prev", "stands in the first record")),
            None if seq > 0 => Err(bad("prev", "is absent")),
            Some(_) => self.parsed("prev", "is not a hash").map(Some),
            None => Ok(None),
        }
    }
}

fn kind(
    fields: &Fields<'_, '_>,
    typ: &str,
    seq: u64,
    source: Source,
    names: &mut Names,
    said: &mut Vec<(StreamNo, Fact)>,
) -> Result<Kind, ReadError> {
    if fields.0.simple("v") != Some(RECORD_VERSION) {
        return Err(bad("v", "is a version of the format that is not known here"));
    }
    if (typ == "open") != (seq == 0) {
        return Err(bad("typ", "open stands at seq 0, and only there"));
    }
    fields.all_known()?;
    let mut name = |field: &'static str, names: &mut Names| -> Result<(), ReadError> {
        if fields.0.get(field).is_some() {
            for sid in fields.text(field)?.split(',').filter(|sid| !sid.is_empty()).take(NAMED_MAX) {
                let about = names.number(sid).ok_or(bad(field, "names no stream"))?;
                said.push((about, Fact::Named(source)));
            }
        }
        Ok(())
    };
    Ok(match typ {
        "open" => {
            name("after", names)?;
            name("found", names)?;
            let text = |key| fields.0.get(key).and_then(Member::plain).unwrap_or_default();
            Kind::Open(fields.key("key")?, resource_digest(&text("pod"), &text("node")))
        }
        "exchange" => Kind::Exchange,
        "stage" | "policy" | "clock" => Kind::Note,
        "certified" => {
            let der = STANDARD.decode(fields.text("cert")?.as_bytes());
            Kind::Certified(der.map_err(|_| bad("cert", "is not base64"))?)
        }
        "recovered" => {
            let (about, ended) = recovered(fields, source, names)?;
            said.push((about, Fact::Named(source)));
            said.push((about, Fact::Ended(ended)));
            Kind::Statement
        }
        "burst" => Kind::Burst(fields.number("count")?),
        "gap" => Kind::Gap(Gap {
            count: fields.number("count")?,
            exact: fields.0.simple("exact") == Some("1"),
            reason: fields.text("gap_reason")?.into_owned(),
        }),
        "hole" => {
            let (about, hole) = hole(fields, source, names)?;
            said.push((about, Fact::Hole(hole)));
            Kind::Statement
        }
        "checkpoint" => {
            let next = fields.0.get("next_key").map(|_| fields.key("next_key")).transpose()?;
            Kind::Checkpoint(totals(fields)?, next)
        }
        "close" => Kind::Close(totals(fields)?),
        _ => return Err(bad("typ", "is not known")),
    })
}

/// The digest of Resources that differ between copies of one record: no Resource has it.
pub(super) const RESOURCE_MIXED: u64 = 1;

/// What the Resource must say, in short; 0 is nothing.
pub fn resource_digest(pod: &str, node: &str) -> u64 {
    if pod.is_empty() || node.is_empty() {
        return 0;
    }
    let [a, b, c, d, e, f, g, h, ..] = Hash::of(&[pod.as_bytes(), b"\n", node.as_bytes()]).0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(RESOURCE_MIXED + 1)
}

fn totals(fields: &Fields<'_, '_>) -> Result<Totals, ReadError> {
    let none = fields.number_or_zero("none")?;
    Ok(Totals {
        begun: fields.number_or_zero("begun")?,
        exchanges: fields.number_or_zero("exchanges")?,
        bursts: fields.number_or_zero("bursts")?,
        gaps: fields.number_or_zero("gaps")?,
        none,
        none_named: none_named(fields, none)?,
        open: fields.number_or_zero("open")?,
    })
}

/// The sum of `none_by`: `revision/rule=count`, separated by commas.
fn none_named(fields: &Fields<'_, '_>, none: u64) -> Result<u64, ReadError> {
    let cut = fields.0.get("trunc").and_then(Member::plain);
    if cut.is_some_and(|cut| cut.split(',').any(|field| field.starts_with("none_by="))) {
        // What was cut off cannot be counted.
        return Ok(none);
    }
    let list = fields.0.get("none_by").map(|_| fields.text("none_by")).transpose()?.unwrap_or_default();
    let counts = list.split(',').filter(|entry| !entry.is_empty());
    let counts = counts.map(|entry| entry.rsplit_once('=').and_then(|(_, count)| count.parse::<u64>().ok()));
    let mut counts = counts.map(|count| count.ok_or(bad("none_by", "is not a list of counts")));
    counts.try_fold(0_u64, |sum, count| count.map(|count| sum.saturating_add(count)))
}

fn recovered(fields: &Fields<'_, '_>, source: Source, names: &mut Names) -> Result<(StreamNo, Ended), ReadError> {
    let about = names.number(&fields.text("rec_sid")?).ok_or(bad("rec_sid", "names no stream"))?;
    let size = fields.number_or_zero("size")?;
    let life = match &*fields.text("state")? {
        "closed" => Life::Closed,
        "lost" => Life::Lost,
        _ => return Err(bad("state", "is neither closed nor lost")),
    };
    let root = if size == 0 { empty_root() } else { fields.parsed("root", "is not a hash")? };
    Ok((about, Ended { size, root, head_size: fields.number_or_zero("head_size")?, life, source }))
}

fn hole(fields: &Fields<'_, '_>, source: Source, names: &mut Names) -> Result<(StreamNo, Hole), ReadError> {
    let (from, to) = (fields.number("hole_from")?, fields.number("hole_to")?);
    if from >= to {
        return Err(bad("hole_to", "is not beyond hole_from"));
    }
    let range = Range::from_nodes(from, to, &fields.hashes("nodes")?)
        .map_err(|_| bad("nodes", "are not the compact form of the hole"))?;
    let about = names.number(&fields.text("hole_sid")?).ok_or(bad("hole_sid", "names no stream"))?;
    let scope = fields.text("scope")?;
    let sink = match scope.strip_prefix("sink=") {
        Some(sink) if !sink.is_empty() => Some(sink.to_owned()),
        None if scope == "all" => None,
        _ => return Err(bad("scope", "is neither all nor sink=NAME")),
    };
    let reason = format!("{} ({scope})", fields.text("hole_reason")?);
    Ok((about, Hole { range, source, reason, sink }))
}

fn head(fields: &Fields<'_, '_>, place: Place, names: &mut Names) -> Result<(StreamNo, Head, Option<Void>), ReadError> {
    let decode = |field: &'static str| -> Result<String, ReadError> {
        let bytes = STANDARD.decode(fields.text(field)?.as_bytes()).map_err(|_| bad(field, "is not base64"))?;
        String::from_utf8(bytes).map_err(|_| bad(field, "is not UTF-8"))
    };
    let text = decode("note")?;
    let note = SignedNote::parse(&text).map_err(|_| bad("note", "is not a signed note of a checkpoint"))?;
    if is_ledger(&note.checkpoint.origin) {
        return Err(ReadError::Ledger);
    }
    let stream = names.number(&note.checkpoint.origin).ok_or(bad("note", "is of no stream"))?;
    let size = note.checkpoint.size;
    let before = size.checked_sub(1).ok_or(bad("note", "is of an empty stream"))?;
    let mut frontiers = Vec::new();
    if fields.0.get("frontier").is_some() {
        let hashes = fields.hashes("frontier")?;
        Range::from_nodes(0, before, &hashes).map_err(|_| bad("frontier", "does not fit the head's size"))?;
        frontiers.push(hashes);
    }
    // The head stands without it.
    let given = fields.0.get("cosig").is_some();
    let cosigned = decode("cosig").ok().filter(|text| {
        let cosigned = SignedNote::parse(text);
        cosigned.is_ok_and(|cosigned| cosigned.checkpoint == note.checkpoint)
    });
    let void = (given && cosigned.is_none()).then_some(Void::OtherHead);
    let cosigned = cosigned.into_iter().collect();
    Ok((stream, Head { size, note: text, frontiers, cosigned, place }, void))
}

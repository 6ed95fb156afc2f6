//! What a ledger says, and the rows in which it restates it.

use super::TEXT_BYTES_MAX;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;
use crate::evidence::note::PublicKey;
use crate::evidence::stream::StreamId;
use crate::evidence::witness::StreamState;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A pod whose streams must exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRow {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What admission wrote into it.
    pub injection_id: String,
    /// When it was seen first, in nanoseconds since the epoch.
    pub from_ns: u64,
}

/// A pod that a policy selects, and that has no sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UncoveredRow {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Why, in one word.
    pub reason: String,
    /// When that was seen first, in nanoseconds since the epoch.
    pub from_ns: u64,
}

/// A head, by the number of its stream: the seq of the entry that certified it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadRow {
    /// The stream.
    pub stream: u64,
    /// Leaves under the head.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
}

/// Whether a stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It may show further heads.
    Open,
    /// It showed its end.
    Closed,
    /// Its pod is gone, and it did not show its end.
    Lost,
}

/// What is known of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRow {
    /// Its number: the seq of the entry that certified it.
    pub number: u64,
    /// Its name.
    pub sid: StreamId,
    /// Its last head and its key.
    pub state: StreamState,
    /// Whether it goes on.
    pub life: Life,
    /// When it was heard of last, in nanoseconds since the epoch.
    pub at_ns: u64,
    /// Its certificate in DER, until it shows its first head: the answer that brought it may have been lost.
    pub certificate: Option<Vec<u8>>,
}

/// One thing that a ledger says. Streams are named in full, but for heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The ledger begins: the key of its own heads, and that of the witness.
    Open(PublicKey, PublicKey),
    /// Nobody kept the ledger from this time (nanoseconds since the epoch) until now.
    Resumed(u64),
    /// The streams of this pod must exist.
    Expected(PodRow),
    /// An expected pod is gone, by its uid.
    Gone(String),
    /// A pod is not covered; with an end (nanoseconds since the epoch), it is covered or gone by then.
    Uncovered(UncoveredRow, Option<u64>),
    /// A certificate (DER, end in seconds since the epoch) was given for the stream's first key.
    Certified(StreamId, PublicKey, u64, Vec<u8>),
    /// Heads of streams.
    Heads(Vec<HeadRow>),
    /// A head that ends an epoch, and the next key.
    Epoch(StreamId, u64, Hash, PublicKey),
    /// A head whose last record is `close`.
    Closed(StreamId, u64, Hash),
    /// The last head of a stream that did not close, and whose pod is gone.
    Lost(StreamId, u64, Hash),
    /// The ledger knew this head (size, root), and takes up a later one that the witness cosigned (size, root); the key of
    /// what follows, as the stream says.
    Rebased(StreamId, (u64, Hash), (u64, Hash), PublicKey),
    /// A validly signed note that contradicts the head of the same size.
    Fork(StreamId, String),
    /// Records of a stream were not delivered when its pod went.
    Abandoned(AbandonedRow),
    /// The key of a spool was given out: for which stream, and to which pod.
    Unwrapped(StreamId, String),
    /// A witness outside of the cluster cosigned a head of this ledger: the note with the ledger's signature and the
    /// cosignature.
    Witnessed(String),
    /// Records of a stream were removed from the backends by order.
    Pruned(Pruned),
    /// Records of a stream were erased from the backends, because somebody asked for it who may: about a person, not an age.
    Erased(Pruned),
    /// What is known, restated.
    State(StateFact),
}

impl Fact {
    /// As an entry can hold it: text of others is cut to [`TEXT_BYTES_MAX`].
    pub fn bounded(&self) -> Self {
        let order = |Pruned { sid, range, reason, by }: &Pruned| Pruned {
            sid: sid.clone(),
            range: range.clone(),
            reason: cut(reason),
            by: cut(by),
        };
        match self {
            Self::Expected(pod) => Self::Expected(pod.bounded()),
            Self::Gone(uid) => Self::Gone(cut(uid)),
            Self::Uncovered(pod, to) => Self::Uncovered(pod.bounded(), *to),
            Self::Abandoned(row) => Self::Abandoned(row.bounded()),
            Self::Unwrapped(sid, pod) => Self::Unwrapped(sid.clone(), cut(pod)),
            Self::Pruned(pruned) => Self::Pruned(order(pruned)),
            Self::Erased(erased) => Self::Erased(order(erased)),
            other => other.clone(),
        }
    }
}

impl PodRow {
    /// With texts of at most [`TEXT_BYTES_MAX`].
    pub fn bounded(&self) -> Self {
        self.with(cut)
    }

    /// As a row can hold it.
    pub fn plain(&self) -> Self {
        self.with(row_text)
    }

    fn with(&self, text: fn(&str) -> String) -> Self {
        let Self { uid, namespace, name, injection_id, from_ns } = self;
        let (uid, namespace, name, injection_id) = (text(uid), text(namespace), text(name), text(injection_id));
        Self { uid, namespace, name, injection_id, from_ns: *from_ns }
    }
}

impl UncoveredRow {
    /// With texts of at most [`TEXT_BYTES_MAX`].
    pub fn bounded(&self) -> Self {
        self.with(cut)
    }

    /// As a row can hold it.
    pub fn plain(&self) -> Self {
        self.with(row_text)
    }

    fn with(&self, text: fn(&str) -> String) -> Self {
        let Self { uid, namespace, name, reason, from_ns } = self;
        let (uid, namespace, name, reason) = (text(uid), text(namespace), text(name), text(reason));
        Self { uid, namespace, name, reason, from_ns: *from_ns }
    }
}

/// Records that were removed by order, or erased (G2): what is left can still be proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// The stream.
    pub sid: StreamId,
    /// The records, in compact form.
    pub range: Range,
    /// Why.
    pub reason: String,
    /// By whom.
    pub by: String,
}

/// A part of what is known. Parts may stand in several blocks; entries between them say what changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateFact {
    /// The first part: the keys of ledger and witness, and the compact range of the entries before it.
    pub first: Option<(PublicKey, PublicKey, Vec<Hash>)>,
    /// The last part.
    pub last: bool,
    /// Streams.
    pub streams: Vec<StreamRow>,
    /// Expected pods.
    pub pods: Vec<PodRow>,
    /// Uncovered pods.
    pub uncovered: Vec<UncoveredRow>,
    /// Records that went with their pod.
    pub abandoned: Vec<AbandonedRow>,
    /// Records that were removed by order.
    pub pruned: Vec<Pruned>,
    /// Records that were erased.
    pub erased: Vec<Pruned>,
}

/// Records `[from, to)` of a stream that went with their pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbandonedRow {
    /// The stream.
    pub sid: StreamId,
    /// The first record.
    pub from: u64,
    /// Behind the last record.
    pub to: u64,
    /// Why.
    pub reason: String,
    /// The only sink that never gets them; `None`: no sink has them.
    pub sink: Option<String>,
}

impl AbandonedRow {
    /// With texts of at most [`TEXT_BYTES_MAX`].
    pub fn bounded(&self) -> Self {
        Self { reason: cut(&self.reason), sink: self.sink.as_deref().map(cut), ..self.clone() }
    }

    /// As a row can hold it: text of others is cut, and keeps neither colons nor commas.
    pub fn plain(&self) -> Self {
        Self { reason: short(&self.reason), sink: self.sink.as_deref().map(row_text), ..self.clone() }
    }
}

impl Pruned {
    /// As a row can hold it.
    pub fn plain(&self) -> Self {
        Self { reason: short(&self.reason), by: short(&self.by), ..self.clone() }
    }
}

/// A row as text: fields between colons, none of which holds a colon or a comma.
pub trait Row: Sized {
    /// Writes it.
    fn write(&self) -> String;

    /// Reads it back.
    fn read(text: &str) -> Option<Self>;
}

/// Rows between commas.
pub(super) fn write_rows<R: Row>(rows: &[R]) -> String {
    rows.iter().map(Row::write).collect::<Vec<_>>().join(",")
}

/// The inverse of [`write_rows`]; no text is no row.
pub(super) fn read_rows<R: Row>(text: &str) -> Option<Vec<R>> {
    if text.is_empty() { Some(Vec::new()) } else { text.split(',').map(R::read).collect() }
}

/// Exactly `N` fields.
fn fields<const N: usize>(text: &str) -> Option<[&str; N]> {
    text.split(':').collect::<Vec<_>>().try_into().ok()
}

/// Longest text of others in such a row, in characters: a row must fit its entry.
const ROW_TEXT_CHARS_MAX: usize = 200;

/// Stands between the hashes in a row.
const HASH_SEPARATOR: &str = "+";

/// The text up to [`TEXT_BYTES_MAX`], whole characters only.
fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or(text).to_owned()
}

/// The same, as a row can hold it.
pub(super) fn row_text(text: &str) -> String {
    plain(&cut(text))
}

/// Text of others must not take a row apart.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, ':' | ',')).collect()
}

fn short(text: &str) -> String {
    plain(text).chars().take(ROW_TEXT_CHARS_MAX).collect()
}

impl Row for HeadRow {
    fn write(&self) -> String {
        format!("{}:{}:{}", self.stream, self.size, self.root)
    }

    fn read(text: &str) -> Option<Self> {
        let [stream, size, root] = fields(text)?;
        Some(Self { stream: stream.parse().ok()?, size: size.parse().ok()?, root: root.parse().ok()? })
    }
}

impl Row for PodRow {
    fn write(&self) -> String {
        let Self { uid, namespace, name, injection_id, from_ns } = self;
        format!("{}:{}:{}:{}:{from_ns}", plain(uid), plain(namespace), plain(name), plain(injection_id))
    }

    fn read(text: &str) -> Option<Self> {
        let [uid, namespace, name, injection_id, from] = fields(text)?.map(str::to_owned);
        Some(Self { uid, namespace, name, injection_id, from_ns: from.parse().ok()? })
    }
}

impl Row for UncoveredRow {
    fn write(&self) -> String {
        let Self { uid, namespace, name, reason, from_ns } = self;
        format!("{}:{}:{}:{}:{from_ns}", plain(uid), plain(namespace), plain(name), plain(reason))
    }

    fn read(text: &str) -> Option<Self> {
        let [uid, namespace, name, reason, from] = fields(text)?.map(str::to_owned);
        Some(Self { uid, namespace, name, reason, from_ns: from.parse().ok()? })
    }
}

impl Row for AbandonedRow {
    fn write(&self) -> String {
        let Self { sid, from, to, reason, sink } = self;
        let sink = sink.as_ref().map(|sink| format!(":{}", plain(sink))).unwrap_or_default();
        format!("{sid}:{from}:{to}:{}{sink}", plain(reason))
    }

    fn read(text: &str) -> Option<Self> {
        let of_one = fields(text).map(|[sid, from, to, reason, sink]| ([sid, from, to, reason], Some(sink.to_owned())));
        let ([sid, from, to, reason], sink) = of_one.or_else(|| Some((fields(text)?, None)))?;
        let (sid, from, to, reason) = (sid.parse().ok()?, from.parse().ok()?, to.parse().ok()?, reason.to_owned());
        Some(Self { sid, from, to, reason, sink })
    }
}

impl Row for Pruned {
    fn write(&self) -> String {
        let Self { sid, range, reason, by } = self;
        let nodes: Vec<String> = range.nodes().map(Hash::to_hex).collect();
        let (from, to, nodes) = (range.begin(), range.end(), nodes.join(HASH_SEPARATOR));
        format!("{sid}:{from}:{to}:{}:{}:{nodes}", plain(reason), plain(by))
    }

    fn read(text: &str) -> Option<Self> {
        let [sid, from, to, reason, by, nodes] = fields(text)?;
        let nodes = nodes.split(HASH_SEPARATOR).map(|hash| hash.parse().ok()).collect::<Option<Vec<Hash>>>()?;
        let range = Range::from_nodes(from.parse().ok()?, to.parse().ok()?, &nodes).ok()?;
        Some(Self { sid: sid.parse().ok()?, range, reason: reason.to_owned(), by: by.to_owned() })
    }
}

impl Row for StreamRow {
    fn write(&self) -> String {
        let StreamState { size, root, key, key_from, previous_key, until_s, closed: _ } = &self.state;
        let life = match self.life {
            Life::Open => "open",
            Life::Closed => "closed",
            Life::Lost => "lost",
        };
        let previous = previous_key.map(|key| key.to_string()).unwrap_or_default();
        let certificate = self.certificate.as_ref().map(|der| STANDARD.encode(der)).unwrap_or_default();
        let (number, sid, at_ns) = (self.number, &self.sid, self.at_ns);
        format!("{number}:{sid}:{life}:{size}:{root}:{key}:{key_from}:{previous}:{until_s}:{at_ns}:{certificate}")
    }

    fn read(text: &str) -> Option<Self> {
        let [number, sid, life, size, root, key, key_from, previous, until, at, certificate] = fields(text)?;
        let life = match life {
            "open" => Life::Open,
            "closed" => Life::Closed,
            "lost" => Life::Lost,
            _ => return None,
        };
        let state = StreamState {
            size: size.parse().ok()?,
            root: root.parse().ok()?,
            key: key.parse().ok()?,
            key_from: key_from.parse().ok()?,
            previous_key: if previous.is_empty() { None } else { Some(previous.parse().ok()?) },
            until_s: until.parse().ok()?,
            closed: life == Life::Closed,
        };
        let certificate = if certificate.is_empty() { None } else { Some(STANDARD.decode(certificate).ok()?) };
        let (number, sid, at_ns) = (number.parse().ok()?, sid.parse().ok()?, at.parse().ok()?);
        Some(Self { number, sid, state, life, at_ns, certificate })
    }
}

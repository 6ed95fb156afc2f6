//! What a verification rests on, from outside the export.

use super::behind::tolerated_ns;
use super::fact::{Ended, Fact, Hole, Life, Source, StreamNo};
use super::judge::Settings;
use crate::evidence::hash::Hash;
use crate::evidence::ledger::Pruned;
use crate::evidence::ledger::read::Witnessed;
use crate::evidence::ledger::shown::Shown;
use crate::evidence::note::PublicKey;
use crate::evidence::roots::NamedKey;
use crate::evidence::stream::StreamId;
use std::collections::BTreeMap;
use std::ops::Range;

/// Judges certificates; X.509 is the shell's business.
pub trait Certificates {
    /// Whether this certificate (DER) says that this is the first key of this stream, under a root that is trusted.
    ///
    /// # Errors
    /// Why it does not.
    fn certify(&self, stream: &StreamId, key: &PublicKey, der: &[u8]) -> Result<(), String>;

    /// From when to when this certificate (DER) is valid, in seconds since the epoch, both included; `None`: it does not say.
    fn validity(&self, _der: &[u8]) -> Option<(i64, i64)> {
        None
    }
}

/// A witness whose cosignatures count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Name of its key.
    pub name: String,
    /// Its key.
    pub key: PublicKey,
}

/// Where trust comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// From nowhere: the streams vouch for themselves alone.
    None,
    /// From the operator's keys.
    Operator,
    /// From a witness outside of the cluster.
    External,
}

/// What the operator's ledger says of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerStream {
    /// Its first key, if the entry that certified it is known, or it was restated before its first epoch ended.
    pub key: Option<PublicKey>,
    /// When it was certified, where the ledger still holds that, in nanoseconds since the epoch.
    pub certified_ns: Option<u64>,
    /// Keys of its later epochs: each signs heads larger than this size.
    pub later_keys: BTreeMap<u64, PublicKey>,
    /// Number of leaves under the last head that the ledger has; 0: none.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
    /// Whether it goes on.
    pub life: Life,
    /// When the ledger heard of it last, in nanoseconds since the epoch.
    pub to_ns: u64,
    /// Older heads of it that matter: size and root.
    pub heads: Vec<(u64, Hash)>,
}

/// A pod that must have a stream (W4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedPod {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Since when it is expected, in nanoseconds since the epoch.
    pub from_ns: u64,
    /// When it was gone.
    pub to_ns: Option<u64>,
}

/// A pod that was not covered for some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncovered {
    /// Its namespace.
    pub namespace: String,
    /// Its name and why, in words.
    pub what: String,
    /// Since when, in nanoseconds since the epoch.
    pub from_ns: u64,
    /// Until when; `None`: it is not over.
    pub to_ns: Option<u64>,
}

/// Records that went with their pod before a sink had them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abandoned {
    /// Which ones.
    pub records: Range<u64>,
    /// Why.
    pub reason: String,
    /// The only sink that never gets them; `None`: no sink has them.
    pub sink: Option<String>,
}

impl Abandoned {
    /// Whether they need not be in the export of this sink; `None`: it is not known of which it is.
    fn excuses(&self, export_of: Option<&str>) -> bool {
        self.sink.as_deref().zip(export_of).is_none_or(|(sink, export)| sink == export)
    }
}

/// Entries of a ledger that were signed, and are not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingEntries {
    /// The ledger.
    pub sid: StreamId,
    /// By their numbers.
    pub entries: Range<u64>,
    /// Times of the entry before them and of the one behind, in nanoseconds since the epoch.
    pub between_ns: (u64, u64),
}

/// Where reading of a ledger began whose first entries are not there: what came before is known as it is restated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The ledger.
    pub sid: StreamId,
    /// The first entry that was read.
    pub entry: u64,
    /// Its time, in nanoseconds since the epoch.
    pub at_ns: u64,
}

/// What the operator's ledger says, where it was given and proved.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Uid of the cluster.
    pub cluster_uid: String,
    /// Streams that must be there.
    pub streams: BTreeMap<StreamId, LedgerStream>,
    /// How far they had come at which time.
    pub shown: BTreeMap<StreamId, Shown>,
    /// Pods that must have one.
    pub pods: Vec<ExpectedPod>,
    /// Pods that were not covered.
    pub uncovered: Vec<Uncovered>,
    /// Records that went with their pod before sinks had them.
    pub abandoned: BTreeMap<StreamId, Vec<Abandoned>>,
    /// Records that were removed by order.
    pub pruned: Vec<Pruned>,
    /// Records that were erased.
    pub erased: Vec<Pruned>,
    /// What else it says that a reader should know, in words; with the stream that it is about.
    pub told: Vec<(StreamId, String)>,
    /// Times at which nobody kept it, in nanoseconds since the epoch.
    pub outages: Vec<(u64, u64)>,
    /// Stretches of entries that are not there; what is known is restated behind each.
    pub missing: Vec<MissingEntries>,
    /// Ledgers of which the first entries are not there.
    pub begins: Vec<Begin>,
    /// Time of its last entry, in nanoseconds since the epoch.
    pub last_ns: u64,
    /// Its heads that others cosigned.
    pub witnessed: Vec<Witnessed>,
    /// The witnesses inside: they say nothing new of their own ledger, but cosign heads of streams.
    pub own_witnesses: Vec<Witness>,
}

impl Ledger {
    /// As the source of what it says of a stream's end.
    pub const SOURCE: Source = Source { stream: StreamNo::MAX, seq: 0, leaf: Hash([0; 32]) };

    /// As the source of its orders to erase.
    pub const ERASER: Source = Source { seq: 1, ..Self::SOURCE };

    /// What it says of streams, to be sorted in among the records: how far they came, and what was removed by order.
    pub fn facts<'a>(&'a self) -> impl Iterator<Item = (&'a StreamId, Fact)> {
        let ended = |size, root, life| Fact::Ended(Ended { size, root, head_size: 0, life, source: Self::SOURCE });
        let ends = self.streams.iter().filter(|(_, stream)| stream.size > 0).flat_map(move |(name, stream)| {
            let older = stream.heads.iter().filter(|(size, _)| (1..stream.size).contains(size));
            let older = older.map(move |(size, root)| (name, ended(*size, *root, Life::Open)));
            older.chain([(name, ended(stream.size, stream.root, stream.life))])
        });
        let hole = |source| {
            move |Pruned { sid, range, reason, by }: &'a Pruned| {
                let reason = format!("{reason}, by {by}");
                (sid, Fact::Hole(Hole { range: range.clone(), source, reason, sink: None }))
            }
        };
        let pruned = self.pruned.iter().map(hole(Self::SOURCE));
        ends.chain(pruned).chain(self.erased.iter().map(hole(Self::ERASER)))
    }

    /// Until when, in nanoseconds since the epoch, what it says is cosigned by one of these witnesses outside of the cluster;
    /// and by which.
    pub(super) fn external<'a>(&self, witnesses: &'a [Witness]) -> Option<(u64, &'a str)> {
        let outside =
            || witnesses.iter().filter(|witness| !self.own_witnesses.iter().any(|own| own.key == witness.key));
        let cosigned = self.witnessed.iter().filter_map(|head| {
            let by = outside().find(|witness| head.note.cosigned_at(&witness.name, &witness.key).is_some())?;
            Some((head.until_ns, by.name.as_str()))
        });
        cosigned.max()
    }

    /// Which records of `[from, to)` it says were abandoned, as far as the export of this sink goes; in order, each once.
    pub(super) fn abandoned(
        &self,
        stream: &StreamId,
        [from, to]: [u64; 2],
        export_of: Option<&str>,
    ) -> Vec<(Range<u64>, &Abandoned)> {
        let mut parts = Vec::new();
        let mut at = from;
        let all = self.abandoned.get(stream).into_iter().flatten();
        for abandoned in all.filter(|abandoned| abandoned.excuses(export_of)) {
            let part = abandoned.records.start.max(at)..abandoned.records.end.min(to);
            if !part.is_empty() {
                at = part.end;
                parts.push((part, abandoned));
            }
        }
        parts
    }

    /// Its first key of a stream.
    pub(super) fn key(&self, stream: &StreamId) -> Option<PublicKey> {
        self.streams.get(stream)?.key
    }

    /// Records of a stream that it had a head over by this time, in nanoseconds since the epoch.
    pub(super) fn had_by(&self, stream: &StreamId, ns: u64) -> u64 {
        let last = self.streams.get(stream).filter(|known| known.to_ns <= ns).map_or(0, |known| known.size);
        self.shown.get(stream).map_or(last, |shown| shown.by(ns).max(last))
    }

    /// What cannot be told, because its beginning is not there.
    pub(super) fn not_concluded(&self) -> impl Iterator<Item = String> {
        self.begins.iter().map(|Begin { sid, entry, .. }| {
            format!(
                "ledger {sid} was read from entry {entry} on, where it restates what is known: forks that it held before, and times \
                 without recording that had ended by then, are not told"
            )
        })
    }

    /// Whether it names each key of the stream's heads, up to the last one that it knows: none of its entries is missing, and its
    /// keeper never lost one.
    pub(super) fn names_all_keys(&self, stream: &StreamId) -> bool {
        self.missing.is_empty() && self.streams.get(stream).is_some_and(|known| known.heads.is_empty())
    }

    /// Whether it ends clearly before this time.
    pub(super) fn ends_before(&self, time_ns: u64, settings: &Settings) -> bool {
        time_ns.saturating_sub(self.last_ns) > tolerated_ns(settings)
    }

    /// Whether a stream from whose records these are the first and the last time could not have been made known to it: nobody kept
    /// it then, or it ends clearly before what is looked at, and before the stream does.
    pub(super) fn was_unkept(&self, (first_ns, last_ns): (u64, u64), settings: &Settings) -> bool {
        let is_old = self.ends_before(settings.scope.until_ns(settings.now_ns), settings);
        (is_old && last_ns > self.last_ns) || self.outages.iter().any(|(from, to)| first_ns <= *to && last_ns >= *from)
    }

    /// Whether a stream that it does not know can be genuine all the same: its pod is expected, or it began when nobody kept
    /// the ledger, or after its end.
    pub(super) fn excuses(&self, stream: &StreamId, first_ns: u64) -> bool {
        let Some(parts) = stream.parts() else { return false };
        let outage = || self.outages.iter().any(|(from, to)| (*from..=*to).contains(&first_ns));
        let pod = || self.pods.iter().any(|pod| pod.uid == parts.pod_uid && pod.namespace == parts.namespace);
        parts.cluster_uid == self.cluster_uid && (pod() || outage() || first_ns >= self.last_ns)
    }
}

/// What a verification rests on.
#[derive(Default)]
pub struct Trust {
    /// Roots of certificates.
    pub roots: Option<Box<dyn Certificates>>,
    /// Witnesses of heads.
    pub witnesses: Vec<Witness>,
    /// Keys of ledgers.
    pub ledger_keys: Vec<NamedKey>,
    /// The ledger.
    pub ledger: Option<Ledger>,
}

impl Trust {
    /// Whether anything is given that can vouch for streams.
    pub(super) fn is_given(&self) -> bool {
        self.roots.is_some() || self.ledger.is_some()
    }
}

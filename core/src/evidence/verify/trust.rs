//! What a verification rests on, from outside the export.

use super::fact::{Ended, Fact, Life, Source};
use crate::evidence::hash::Hash;
use crate::evidence::note::PublicKey;
use crate::evidence::roots::NamedKey;
use crate::evidence::stream::StreamId;
use std::collections::BTreeMap;

/// Judges certificates; X.509 is the shell's business.
pub trait Certificates {
    /// Whether this certificate (DER) says that this is the first key of this stream, under a root that is trusted.
    ///
    /// # Errors
    /// Why it does not.
    fn certify(&self, stream: &StreamId, key: &PublicKey, der: &[u8]) -> Result<(), String>;
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
    /// Its first key, if it was certified.
    pub key: Option<PublicKey>,
    /// Number of leaves under the last head that the ledger has; 0: none.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
    /// Whether it goes on.
    pub life: Life,
    /// When the ledger heard of it last, in nanoseconds since the epoch.
    pub to_ns: u64,
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

/// What the operator's ledger says, where it was given and proved.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Uid of the cluster.
    pub cluster_uid: String,
    /// Streams that must be there.
    pub streams: BTreeMap<StreamId, LedgerStream>,
    /// Pods that must have one.
    pub pods: Vec<ExpectedPod>,
    /// Pods that were not covered: namespace, and the rest in words.
    pub uncovered: Vec<(String, String)>,
    /// Times at which nobody kept it, in nanoseconds since the epoch.
    pub outages: Vec<(u64, u64)>,
    /// Time of its last entry, in nanoseconds since the epoch.
    pub last_ns: u64,
    /// Whether a witness outside of the cluster cosigned it.
    pub external: bool,
}

impl Ledger {
    /// As the source of what it says of a stream's end.
    pub const SOURCE: Source = Source { stream: u32::MAX, seq: 0, leaf: Hash([0; 32]) };

    /// What it says of the ends of streams, to be sorted in among the records.
    pub fn ends(&self) -> impl Iterator<Item = (&StreamId, Fact)> {
        self.streams.iter().filter(|(_, stream)| stream.size > 0).map(|(name, stream)| {
            let LedgerStream { size, root, life, .. } = *stream;
            (name, Fact::Ended(Ended { size, root, life, source: Self::SOURCE }))
        })
    }

    /// Its first key of a stream.
    pub(super) fn key(&self, stream: &StreamId) -> Option<PublicKey> {
        self.streams.get(stream)?.key
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

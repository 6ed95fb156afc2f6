//! What a verification rests on, from outside the export.

use super::fact::Source;
use crate::evidence::hash::Hash;
use crate::evidence::note::PublicKey;
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

/// What the operator's ledger says, where it was given and proved.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Streams that must be there, each with its first key if it was certified.
    pub streams: BTreeMap<StreamId, Option<PublicKey>>,
    /// Whether a witness outside of the cluster cosigned it.
    pub external: bool,
}

impl Ledger {
    /// As the source of what it says of a stream's end.
    pub const SOURCE: Source = Source { stream: u32::MAX, seq: 0, leaf: Hash([0; 32]) };
}

/// What a verification rests on.
#[derive(Default)]
pub struct Trust {
    /// Roots of certificates.
    pub roots: Option<Box<dyn Certificates>>,
    /// Witnesses of heads.
    pub witnesses: Vec<Witness>,
    /// The ledger.
    pub ledger: Option<Ledger>,
}

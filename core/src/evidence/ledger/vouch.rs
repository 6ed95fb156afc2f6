//! Which records of an export a signed head vouches for, for whom only the export is at hand (G2).
//!
//! Each record holds the hash of the one before, so that a head over the last of a row vouches for the whole row. It counts only if
//! the stream's key signed it: anybody can add a head to an export. The first key stands in the first record; a next one counts
//! once the key before has signed the head over the record that names it, its last (K2). Where the export does not hold the
//! stream's begin, the first key that it names is taken as it is, and heads are held against their own frontier (H4).

use crate::evidence::hash::Hash;
use crate::evidence::merkle::Range;
use crate::evidence::note::{Checkpoint, PublicKey, SIGNATURE_BYTES, SignedNote};
use crate::evidence::stream::StreamId;
use std::collections::BTreeMap;

/// What a head says, of which only the size is in order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    root: Hash,
    /// Made with this stream's name; whether by its key is not known yet.
    signatures: Vec<Vec<u8>>,
    /// The tree without its last leaf; nothing signs it.
    frontier: Vec<Hash>,
}

/// Heads of one stream, and the keys that its records name.
#[derive(Debug, Default)]
pub(super) struct Voucher {
    heads: BTreeMap<u64, Vec<Head>>,
    keys: BTreeMap<u64, PublicKey>,
}

/// How far records in a row are vouched for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vouched {
    /// The last record that is: those before it are, too.
    pub(super) last: Option<u64>,
    /// A record that is not the one that a head by the stream's key covers.
    pub(super) contradicted: Option<u64>,
}

/// Who signs at a place.
enum Signing {
    /// Nobody has named a key yet.
    Unnamed,
    By(PublicKey),
    /// The head that hands over to the next key is not there.
    Unknown,
}

impl Voucher {
    /// Takes an exported head; whether it is a new one.
    pub(super) fn head(&mut self, sid: &StreamId, note: &SignedNote, frontier: Vec<Hash>) -> bool {
        let own = note.signatures.iter().filter(|one| one.name == sid.as_str() && one.bytes.len() == SIGNATURE_BYTES);
        let signatures: Vec<Vec<u8>> = own.map(|one| one.bytes.clone()).collect();
        let head = Head { root: note.checkpoint.root, signatures, frontier };
        let heads = self.heads.entry(note.checkpoint.size).or_default();
        // A cosigned copy says nothing else here.
        let new = !head.signatures.is_empty() && !heads.contains(&head);
        if new {
            heads.push(head);
        }
        new
    }

    /// Takes the key that a record names: the stream's first one, or the next one.
    pub(super) fn key(&mut self, seq: u64, key: PublicKey) {
        self.keys.insert(seq, key);
    }

    /// Holds records in a row, each of which the next one names, against the heads.
    pub(super) fn vouched(&self, sid: &StreamId, row: impl Iterator<Item = (u64, Hash)>) -> Vouched {
        let mut found = Vouched::default();
        let mut range: Option<Range> = None;
        let mut signing = Signing::Unnamed;
        for (seq, leaf) in row {
            if seq == 0 {
                range = Some(Range::empty(0));
                signing = self.keys.get(&0).map_or(Signing::Unknown, |key| Signing::By(*key));
            }
            if let Some(range) = &mut range {
                range.push(leaf);
            }
            let heads = self.heads.get(&seq.saturating_add(1)).map_or(&[][..], Vec::as_slice);
            let mut fits = false;
            for head in heads {
                let Signing::By(key) = &signing else { break };
                if !head.is_signed_by(sid, seq.saturating_add(1), key) {
                    continue;
                }
                let root = range.as_ref().map_or_else(|| head.root_with(seq, leaf), Range::root);
                fits |= root == Some(head.root);
                // A frontier that does not fit says nothing of the record.
                if range.is_some() && root != Some(head.root) && found.contradicted.is_none() {
                    found.contradicted = Some(seq);
                }
            }
            if fits {
                found.last = Some(seq);
            }
            if let Some(next) = self.keys.get(&seq).filter(|_| seq > 0) {
                signing = match signing {
                    Signing::Unnamed => Signing::By(*next),
                    Signing::By(_) if fits => Signing::By(*next),
                    Signing::By(_) | Signing::Unknown => Signing::Unknown,
                };
            }
        }
        found
    }
}

impl Head {
    fn is_signed_by(&self, sid: &StreamId, size: u64, key: &PublicKey) -> bool {
        let text = Checkpoint { origin: sid.to_string(), size, root: self.root }.text();
        self.signatures.iter().any(|signature| key.verifies(text.as_bytes(), signature))
    }

    /// The root that its own frontier gives with this leaf.
    fn root_with(&self, seq: u64, leaf: Hash) -> Option<Hash> {
        let mut range = Range::from_nodes(0, seq, &self.frontier).ok()?;
        range.push(leaf);
        range.root()
    }
}

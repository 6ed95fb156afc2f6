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
use std::collections::{BTreeMap, HashMap, HashSet};

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
    /// Hashes of these heads: anybody can push many of one size.
    seen: HashSet<Hash>,
    /// By the record that names it: others may claim its place.
    keys: HashMap<Hash, PublicKey>,
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
#[derive(Clone, Copy, Debug)]
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
        let size = note.checkpoint.size;
        // A cosigned copy says nothing else here.
        let new = !head.signatures.is_empty() && self.seen.insert(head.hash(size));
        if new {
            self.heads.entry(size).or_default().push(head);
        }
        new
    }

    /// Takes the key that a record names: the stream's first one, or the next one.
    pub(super) fn key(&mut self, leaf: Hash, key: PublicKey) {
        self.keys.insert(leaf, key);
    }

    /// Holds records in a row, each of which the next one names, against the heads.
    pub(super) fn vouched(&self, sid: &StreamId, row: impl Iterator<Item = (u64, Hash)>) -> Vouched {
        let mut walk = Walk::default();
        row.for_each(|(seq, leaf)| walk.step(self, sid, seq, leaf));
        walk.found
    }
}

/// Records in a row, as far as they were held against the heads.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    pub(super) found: Vouched,
    /// All leaves, where the row begins with the stream.
    range: Option<Range>,
    signing: Signing,
}

impl Default for Walk {
    fn default() -> Self {
        Self { found: Vouched::default(), range: None, signing: Signing::Unnamed }
    }
}

impl Walk {
    /// Takes the next record.
    pub(super) fn step(&mut self, voucher: &Voucher, sid: &StreamId, seq: u64, leaf: Hash) {
        let Self { found, range, signing } = self;
        if seq == 0 {
            *range = Some(Range::empty(0));
            *signing = voucher.keys.get(&leaf).map_or(Signing::Unknown, |key| Signing::By(*key));
        }
        if let Some(range) = range.as_mut() {
            range.push(leaf);
        }
        let heads = voucher.heads.get(&seq.saturating_add(1)).map_or(&[][..], Vec::as_slice);
        let root = range.as_ref().filter(|_| !heads.is_empty()).map(Range::root);
        let mut fits = false;
        for head in heads {
            let Signing::By(key) = &*signing else { break };
            let is_root = root.unwrap_or_else(|| head.root_with(seq, leaf)) == Some(head.root);
            // A frontier that does not fit says nothing of the record. Signatures come last: they take the longest.
            let says_more = if is_root { !fits } else { range.is_some() && found.contradicted.is_none() };
            if !says_more || !head.is_signed_by(sid, seq.saturating_add(1), key) {
                continue;
            }
            if is_root {
                fits = true;
            } else {
                found.contradicted = Some(seq);
            }
        }
        if fits {
            found.last = Some(seq);
        }
        if let Some(next) = voucher.keys.get(&leaf).filter(|_| seq > 0) {
            *signing = match *signing {
                Signing::Unnamed => Signing::By(*next),
                Signing::By(_) if fits => Signing::By(*next),
                Signing::By(_) | Signing::Unknown => Signing::Unknown,
            };
        }
    }
}

impl Head {
    /// Of all that it says, under this size.
    fn hash(&self, size: u64) -> Hash {
        let count = (self.signatures.len() as u64).to_le_bytes();
        let mut bytes = [&size.to_le_bytes()[..], &self.root.0, &count].concat();
        // Each has the same length.
        self.signatures.iter().for_each(|signature| bytes.extend_from_slice(signature));
        self.frontier.iter().for_each(|node| bytes.extend_from_slice(&node.0));
        Hash::of_bytes(&bytes)
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::note::Signature;

    /// With a list that is searched for each, this would not end.
    #[test]
    fn g2_many_heads_of_one_size_are_told_apart_by_their_hashes() {
        const HEADS: u64 = 200_000;
        let sid: StreamId = "c-1/shop/pod-1/00000000000000000000000000000001-0-0".parse().expect("a name");
        let numbered = |n: u64| {
            let root = Hash::of_bytes(&n.to_le_bytes());
            let checkpoint = Checkpoint { origin: sid.to_string(), size: 9, root };
            let signature = Signature::log(sid.as_str(), &PublicKey([1; 32]), &[0; SIGNATURE_BYTES]);
            SignedNote { checkpoint, signatures: vec![signature] }
        };
        let mut voucher = Voucher::default();
        let new = (0..HEADS).filter(|n| voucher.head(&sid, &numbered(*n), Vec::new())).count();
        let again = (0..HEADS).filter(|n| voucher.head(&sid, &numbered(*n), Vec::new())).count();
        assert_eq!((new as u64, again), (HEADS, 0));
        assert_eq!(voucher.heads.values().map(Vec::len).collect::<Vec<_>>(), [new]);
        // What else it says tells it apart, too.
        assert!(voucher.head(&sid, &numbered(0), vec![Hash([1; 32])]));
        let mut other = numbered(0);
        other.signatures[0].bytes[0] = 1;
        assert!(voucher.head(&sid, &other, Vec::new()) && !voucher.head(&sid, &other, Vec::new()));
        other.checkpoint.size = 8;
        assert!(voucher.head(&sid, &other, Vec::new()));
    }
}

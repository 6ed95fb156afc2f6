//! One stream's history for a proof, out of an export to which anybody may have added copies that somebody altered.
//!
//! A record names the one before it, so that each that claims a place belongs to one history alone. All of them are grown from the
//! first record on, place by place; a signed head says which one its stream has.

use anyhow::{Result, bail, ensure};
use std::collections::{BTreeMap, HashMap, HashSet};
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::{Range, leaf};
use testimony_core::evidence::note::{PublicKey, SignedNote};
use testimony_core::record::Body;

/// Places of one stream that are looked at, in records. What claims a later one is passed over.
pub(super) const PLACES_MAX: u64 = 1 << 24;

/// Different records that are held, of all places: some 100 bytes each.
const RECORDS_MAX: usize = (1 << 24) + (1 << 20);

/// Text that is held, in bytes: of heads, and of what claims the place of the one record.
const TEXT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Histories that are grown at a time, about 1 KiB each.
const HISTORIES_MAX: usize = 1 << 16;

/// What an export says of one stream and one of its places.
pub(super) struct History<'a> {
    sid: &'a str,
    seq: u64,
    /// The only key that counts, if it is given.
    only: Option<PublicKey>,
    /// What claims a place, with the record before it.
    claims: BTreeMap<(u64, Hash), Option<Hash>>,
    /// Keys that records name: the stream's first one, and next ones.
    keys: HashMap<Hash, PublicKey>,
    /// What claims the place of the record.
    bodies: BTreeMap<Hash, String>,
    /// Heads over the record, signed or not, by their size and root: anybody can push many of one size.
    heads: BTreeMap<u64, HashMap<Hash, Vec<SignedNote>>>,
    /// Hashes of these heads.
    seen: HashSet<Hash>,
    text_bytes: usize,
    too_many: bool,
}

/// A record under a signed head.
pub(super) struct Found {
    pub(super) body: String,
    /// All leaves under the head.
    pub(super) leaves: Vec<Hash>,
    pub(super) note: SignedNote,
    pub(super) key: PublicKey,
}

/// A history up to some place.
#[derive(Clone)]
struct Grown {
    range: Range,
    /// What signs heads from here on.
    key: Option<PublicKey>,
    /// What it has at the place of the record.
    wanted: Option<Hash>,
}

impl<'a> History<'a> {
    /// Nothing is known yet.
    pub(super) fn new(sid: &'a str, seq: u64, only: Option<PublicKey>) -> Self {
        Self {
            sid,
            seq,
            only,
            claims: BTreeMap::new(),
            keys: HashMap::new(),
            bodies: BTreeMap::new(),
            heads: BTreeMap::new(),
            seen: HashSet::new(),
            text_bytes: 0,
            too_many: false,
        }
    }

    /// Takes a body of the export; others than those of the stream are passed over.
    pub(super) fn body(&mut self, text: &str) {
        let Ok(body) = Body::parse(text) else { return };
        if body.simple("typ") == Some("head") {
            return self.head(&body);
        }
        let at = body.simple("seq").and_then(|at| at.parse::<u64>().ok()).filter(|at| *at < PLACES_MAX);
        let Some(at) = at.filter(|_| body.simple("sid") == Some(self.sid)) else { return };
        let leaf = leaf(text.as_bytes());
        if self.claims.contains_key(&(at, leaf)) {
            return;
        }
        if self.claims.len() >= RECORDS_MAX {
            self.too_many = true;
            return;
        }
        self.claims.insert((at, leaf), body.simple("prev").and_then(|prev| prev.parse().ok()));
        let key = body.simple(if at == 0 { "key" } else { "next_key" }).and_then(|key| key.parse().ok());
        self.keys.extend(key.map(|key| (leaf, key)));
        if at == self.seq && self.has_room(text.len()) {
            self.bodies.insert(leaf, text.to_owned());
        }
    }

    fn head(&mut self, body: &Body<'_>) {
        let Some(encoded) = body.simple("note") else { return };
        if let Some(note) = SignedNote::from_base64(encoded) {
            self.note(note, encoded.len());
        }
    }

    fn note(&mut self, note: SignedNote, bytes: usize) {
        let (size, root) = (note.checkpoint.size, note.checkpoint.root);
        if note.checkpoint.origin != self.sid || size <= self.seq || size > PLACES_MAX {
            return;
        }
        let hash = Hash::of_bytes(note.encode().as_bytes());
        if !self.seen.contains(&hash) && self.has_room(bytes) {
            self.seen.insert(hash);
            self.heads.entry(size).or_default().entry(root).or_default().push(note);
        }
    }

    fn has_room(&mut self, bytes: usize) -> bool {
        self.text_bytes = self.text_bytes.saturating_add(bytes);
        self.too_many |= self.text_bytes > TEXT_BYTES_MAX;
        !self.too_many
    }

    /// Whether anything claims the place of the record.
    pub(super) fn has_record(&self) -> bool {
        !self.bodies.is_empty()
    }

    /// The record under the first head that its history's key signed.
    ///
    /// # Errors
    /// More than can be held says that it is of this stream; or two records have this place in histories that are both signed, as
    /// somebody can make one with a key of their own.
    pub(super) fn find(&self) -> Result<Option<Found>> {
        let many =
            "too much in the export claims to be of this stream: give a smaller part of it, from the stream's begin";
        ensure!(!self.too_many, "{many}");
        let last = self.heads.keys().next_back().copied().unwrap_or_default();
        let mut found: Option<(Option<Hash>, Found)> = None;
        let mut before: HashMap<Hash, Grown> = HashMap::new();
        for at in 0..last {
            let mut grown: HashMap<Hash, Grown> = HashMap::new();
            for (leaf, prev) in self.at(at) {
                let history = match prev {
                    _ if at == 0 => {
                        Some(Grown { range: Range::empty(0), key: self.keys.get(&leaf).copied(), wanted: None })
                    }
                    Some(prev) => before.get(&prev).cloned(),
                    None => None,
                };
                let Some(mut history) = history else { continue };
                history.range.push(leaf);
                if at == self.seq {
                    history.wanted = Some(leaf);
                }
                let known = found.as_ref().is_some_and(|(wanted, _)| *wanted == history.wanted);
                if let Some((note, key)) = self.signed(&history).filter(|_| !known) {
                    if let Some((_, first)) = &found {
                        let one = first.key;
                        bail!(
                            "two records claim this place, and both are signed, by {one} and {key}: --key says whose is meant"
                        );
                    }
                    found = self.found(leaf, &history, note, key).map(|found| (history.wanted, found));
                }
                // The key that a record names signs what comes after it.
                history.key = self.keys.get(&leaf).copied().or(history.key);
                grown.insert(leaf, history);
            }
            ensure!(grown.len() <= HISTORIES_MAX, "{many}");
            if grown.is_empty() {
                break;
            }
            before = grown;
        }
        Ok(found.map(|(_, found)| found))
    }

    /// What claims a place.
    fn at(&self, at: u64) -> impl Iterator<Item = (Hash, Option<Hash>)> {
        let all = (at, Hash([0; 32]))..=(at, Hash([u8::MAX; 32]));
        self.claims.range(all).map(|((_, leaf), prev)| (*leaf, *prev))
    }

    /// A head of just this history, by the key that it names.
    fn signed(&self, history: &Grown) -> Option<(SignedNote, PublicKey)> {
        let key = history.key.filter(|key| self.only.is_none_or(|only| only == *key))?;
        let heads = self.heads.get(&history.range.end())?.get(&history.range.root()?)?;
        heads.iter().find(|note| note.is_signed_by(self.sid, &key)).map(|note| (note.clone(), key))
    }

    /// The history that ends with this leaf, back to its begin.
    fn found(&self, last: Hash, history: &Grown, note: SignedNote, key: PublicKey) -> Option<Found> {
        let body = self.bodies.get(&history.wanted?)?.clone();
        let mut leaves = vec![last];
        let mut leaf = last;
        for at in (1..history.range.end()).rev() {
            leaf = (*self.claims.get(&(at, leaf))?)?;
            leaves.push(leaf);
        }
        leaves.reverse();
        Some(Found { body, leaves, note, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testimony_core::evidence::note::{Checkpoint, Signature};

    /// With a list that is searched for each, this would not end.
    #[test]
    fn v2_many_heads_of_one_size_are_told_apart_by_their_hashes() {
        const HEADS: u64 = 200_000;
        let sid = "c-1/shop/pod-1/00000000000000000000000000000001-0-0";
        let numbered = |n: u64| {
            let root = Hash::of_bytes(&n.to_le_bytes());
            let checkpoint = Checkpoint { origin: sid.to_owned(), size: 9, root };
            let signature = Signature::log(sid, &PublicKey([1; 32]), &[0; 64]);
            SignedNote { checkpoint, signatures: vec![signature] }
        };
        let mut history = History::new(sid, 3, None);
        // A copy takes no room.
        (0..HEADS).chain([0; 9]).for_each(|n| history.note(numbered(n), 1));
        let roots = |history: &History<'_>| history.heads.values().map(HashMap::len).sum::<usize>();
        assert_eq!((roots(&history), history.text_bytes), (200_000, 200_000));
        let mut other = numbered(0);
        other.signatures[0].bytes[0] = 1;
        history.note(other, 1);
        assert_eq!((roots(&history), history.text_bytes), (200_000, 200_001), "of the same root");
    }
}

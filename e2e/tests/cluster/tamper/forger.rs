//! Somebody who has a key of his own, and seals real records anew with it.

use super::export::Entry;
use anyhow::{Context, Result};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeSet;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::{Range, leaf};
use testimony_core::evidence::note::{Checkpoint, PublicKey, Signature, SignedNote};

/// A key that no sidecar made.
pub struct Key(Ed25519KeyPair);

impl Key {
    pub fn new(seed: u8) -> Result<Self> {
        Ok(Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).ok().context("a key")?))
    }

    pub fn public(&self) -> Result<PublicKey> {
        Ok(PublicKey(self.0.public_key().as_ref().try_into()?))
    }

    fn sign(&self, text: &str) -> Result<[u8; 64]> {
        Ok(self.0.sign(text.as_bytes()).as_ref().try_into()?)
    }
}

/// A stream that was sealed anew: its records, and its heads.
#[derive(Clone)]
pub struct Forged {
    pub records: Vec<Entry>,
    pub heads: Vec<Entry>,
}

impl Forged {
    /// All of it.
    pub fn all(self) -> Vec<Entry> {
        self.records.into_iter().chain(self.heads).collect()
    }
}

/// Seals a stream anew, from its first record on, with heads of these sizes that look like `head`. A record with a field
/// `next_key` ends the epoch of the first key: it names the second one, and the third one signs what comes after it.
pub fn forged(sealed: &[Entry], sizes: &BTreeSet<u64>, head: &Entry, keys: [&Key; 3]) -> Result<Forged> {
    let (mut range, mut last) = (Range::empty(0), None::<Hash>);
    let [mut key, next, signs_next] = keys;
    let mut out = Forged { records: Vec::new(), heads: Vec::new() };
    for entry in sealed {
        let mut entry = entry.clone();
        if let Some(last) = last {
            entry.set("prev", Some(&last.to_hex()));
        }
        let (opens, rolls) = (entry.field("typ") == "open", !entry.field("next_key").is_empty());
        for (field, named, is) in [("key", key, opens), ("next_key", next, rolls)] {
            if is {
                entry.set(field, Some(&named.public()?.to_string()));
            }
        }
        let hash = leaf(entry.body().as_bytes());
        let frontier: Vec<String> = range.nodes().map(Hash::to_hex).collect();
        range.push(hash);
        last = Some(hash);
        if sizes.contains(&range.end()) || rolls {
            let root = range.root().context("from the first record on")?;
            let checkpoint = Checkpoint { origin: entry.sid(), size: range.end(), root };
            out.heads.push(signed(head, checkpoint, key, &frontier.join(","))?);
        }
        key = if rolls { signs_next } else { key };
        out.records.push(entry);
    }
    Ok(out)
}

/// A head over this, signed.
fn signed(like: &Entry, checkpoint: Checkpoint, key: &Key, frontier: &str) -> Result<Entry> {
    let signature = Signature::log(&checkpoint.origin, &key.public()?, &key.sign(&checkpoint.text())?);
    let note = SignedNote { checkpoint, signatures: vec![signature] };
    let mut head = like.clone();
    head.set("note", Some(&STANDARD.encode(note.encode())));
    // `%` alone is the empty text.
    head.set("frontier", Some(if frontier.is_empty() { "%" } else { frontier }));
    head.set("cosig", None);
    Ok(head)
}

//! Which of the bodies that claim to be entries of a ledger are: anyone may push others (V4).
//!
//! Each entry names the hash of the one before, so that from the last signed head only one way leads back. Bodies are followed
//! in order, from where reading can begin; what does not lead to a signed root ends there. Time and memory are those of the bodies:
//! each has one predecessor at most.

use super::block::Chain;
use super::entry::Entry;
use crate::canon::parse_body;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{Range, leaf};
use std::collections::{BTreeMap, HashMap};

/// Bodies by the place that they claim, each once.
pub(in crate::evidence) type Claims<'a> = BTreeMap<u64, Vec<&'a [u8]>>;

/// A body under the last signed head that is no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The place that it claims.
    pub seq: u64,
    /// Its hash.
    pub leaf: Hash,
    /// The entry behind it names another one, which is not there: it was changed, or removed and this one pushed.
    pub altered: bool,
}

/// The entries, and the other bodies.
#[derive(Debug)]
pub(super) struct Picked<'a> {
    /// Stretches of entries, each of which ends with a signed head; reading can begin with each but is not interrupted in it.
    pub(super) entries: BTreeMap<u64, &'a [u8]>,
    pub(super) refused: Vec<Refused>,
}

/// A body that follows another one, or with which reading can begin.
struct Node<'a> {
    seq: u64,
    body: &'a [u8],
    /// The one before; of one that begins the last that was proved ahead of it.
    before: Option<usize>,
    begins: bool,
}

/// Picks the entries that lead to the last of these roots, which are those of the signed heads by size. `None`: none do.
pub(super) fn pick<'a>(claims: &Claims<'a>, roots: &BTreeMap<u64, Hash>) -> Option<Picked<'a>> {
    let end = *roots.keys().next_back()?;
    let mut nodes: Vec<Node<'a>> = Vec::new();
    let mut proved = None;
    // What the last place can be read as: by its hash, the node and all leaves up to it.
    let mut live: HashMap<Hash, (usize, Range)> = HashMap::new();
    let mut due = 0;
    for (seq, bodies) in claims.range(..end) {
        if *seq != due {
            live.clear();
        }
        due = seq.saturating_add(1);
        let mut next = HashMap::new();
        for body in bodies {
            let hash = leaf(body);
            let follows = prev(body).and_then(|prev| live.get(&prev));
            let (before, range) = match follows {
                Some((node, range)) => (Some(*node), Some(range.clone())),
                None => {
                    (proved, Entry::parse(body).ok().and_then(|entry| Chain::before(&entry)).map(|chain| chain.range))
                }
            };
            let Some(mut range) = range else { continue };
            range.push(hash);
            let root = roots.get(&due);
            if root.is_none_or(|root| range.root() == Some(*root)) {
                nodes.push(Node { seq: *seq, body, before, begins: follows.is_none() });
                let node = nodes.len().saturating_sub(1);
                proved = root.map(|_| node).or(proved);
                next.insert(hash, (node, range));
            }
        }
        live = next;
    }
    let mut at = proved.filter(|node| nodes.get(*node).is_some_and(|node| node.seq.saturating_add(1) == end));
    at?;
    let (mut entries, mut begins) = (BTreeMap::new(), Vec::new());
    while let Some(node) = at.and_then(|at| nodes.get(at)) {
        entries.insert(node.seq, node.body);
        begins.extend(node.begins.then_some(node.seq));
        at = node.before;
    }
    let refused = refused(claims, end, &entries, &begins);
    Some(Picked { entries, refused })
}

/// Of the other bodies those that nothing proves. What an entry leads back to is genuine, though reading cannot begin there.
fn refused(claims: &Claims<'_>, end: u64, entries: &BTreeMap<u64, &[u8]>, begins: &[u64]) -> Vec<Refused> {
    let mut genuine: BTreeMap<u64, Hash> = BTreeMap::new();
    let mut denied: Vec<u64> = Vec::new();
    for begin in begins {
        let mut back = entries.get(begin).and_then(|body| prev(body)).zip(begin.checked_sub(1));
        while let Some((hash, seq)) = back {
            let Some(bodies) = claims.get(&seq).filter(|_| !entries.contains_key(&seq)) else { break };
            match bodies.iter().find(|body| leaf(body) == hash) {
                Some(body) => {
                    genuine.insert(seq, hash);
                    back = prev(body).zip(seq.checked_sub(1));
                }
                None => {
                    denied.push(seq);
                    break;
                }
            }
        }
    }
    let mut refused = Vec::new();
    for (seq, bodies) in claims.range(..end) {
        let entry = entries.get(seq);
        for body in bodies.iter().filter(|body| entry != Some(*body)) {
            let (leaf, altered) = (leaf(body), denied.contains(seq));
            if genuine.get(seq) != Some(&leaf) {
                refused.push(Refused { seq: *seq, leaf, altered });
            }
        }
    }
    refused
}

/// What stands before a body, as it says.
fn prev(body: &[u8]) -> Option<Hash> {
    let fields = parse_body(body).ok()?;
    std::str::from_utf8(fields.get("prev")?).ok()?.parse().ok()
}

//! Which of the bodies that claim to be entries of a ledger are: anyone may push others (V4).
//!
//! Each entry names the hash of the one before, so that from a signed head only one way leads back. Bodies are followed in order
//! of their places, from where reading can begin; what does not lead to a signed root ends there. Once a head is proved, no other
//! past is possible, so that only what stands behind it waits. Time is that of the bodies: each has one predecessor at most.

use super::block::Chain;
use super::entry::Entry;
use super::rows::{Role, Row};
use crate::canon::parse_body;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{Range, leaf};
use crate::evidence::note::{PublicKey, SignedNote};
use std::collections::{BTreeSet, HashMap};

/// Most bytes of bodies that wait for a head to prove them: between two heads stands a block, and what others push beside it. Of a
/// ledger with more, nothing is used.
pub const WAITING_BYTES_MAX: usize = 128 * 1024 * 1024;

/// What a way to read the last place takes beside its body, in bytes, at most about.
const WAY_BYTES: usize = 1_024;

/// Bodies that claim places under the last signed head and are no entries: how many, and which place the first claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Nothing proves them.
    pub foreign: Option<(u64, u64)>,
    /// The entry behind each names another one, which is not there: it was changed, or removed and this one pushed.
    pub altered: Option<(u64, u64)>,
}

impl Refused {
    fn add(&mut self, seq: u64, altered: bool) {
        let about = if altered { &mut self.altered } else { &mut self.foreign };
        *about = Some(about.map_or((seq, 1), |(first, count)| (first, count.saturating_add(1))));
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        let of = |about: Option<(u64, u64)>| about.map_or(0, |(_, count)| count);
        of(self.foreign).saturating_add(of(self.altered))
    }
}

/// Takes what was proved, in order.
pub(in crate::evidence) trait Take {
    /// An entry; and whether a body says that a witness outside cosigned the head of which it is the last.
    fn entry(&mut self, seq: u64, body: &[u8], cosigned: bool);
    /// The entries up to here are those of a signed head.
    fn signed(&mut self);
    /// A body with this hash is an entry, too, though reading could not come to it: what an entry leads back to is genuine.
    fn leads_back(&mut self, leaf: Hash);
}

/// A body that follows another one, or with which reading can begin.
struct Node {
    seq: u64,
    leaf: Hash,
    body: Vec<u8>,
    /// The one before; `None`: the last that was proved, or it begins.
    before: Option<usize>,
    begins: bool,
}

/// What the last place can be read as: the node, which is `None` once it is proved, and all leaves up to it.
struct Way {
    node: Option<usize>,
    range: Range,
}

/// A body that waits.
struct Claim {
    seq: u64,
    leaf: Hash,
    prev: Option<Hash>,
}

/// What waits for a head.
#[derive(Default)]
struct Waiting {
    nodes: Vec<Node>,
    claims: Vec<Claim>,
    cosigned: BTreeSet<u64>,
    bytes: usize,
}

/// Follows the bodies of one ledger.
pub(in crate::evidence) struct Picker {
    sid: String,
    key: PublicKey,
    bytes_max: usize,
    /// The place that is read, and the root of a head that was signed there.
    at: u64,
    root: Option<Hash>,
    /// Ways to read the place before, by the hash of the body there; and this one.
    live: HashMap<Hash, Way>,
    next: HashMap<Hash, Way>,
    waiting: Waiting,
    /// Entries under the last head that was proved, and under the last one that was signed.
    pub(super) proved: Option<u64>,
    pub(super) signed: Option<u64>,
    /// The place behind the last one that is claimed.
    pub(super) there: u64,
    pub(super) refused: Refused,
    /// Two signed heads of this size contradict each other.
    pub(super) contradiction: Option<u64>,
    /// More waited than there is room for: the rest was not looked at.
    pub(super) is_over: bool,
}

impl Picker {
    /// Of a ledger whose heads this key signs; at most so many bytes wait.
    pub(in crate::evidence) fn new(sid: &str, key: PublicKey, bytes_max: usize) -> Self {
        Self {
            sid: sid.to_owned(),
            key,
            bytes_max,
            at: 0,
            root: None,
            live: HashMap::new(),
            next: HashMap::new(),
            waiting: Waiting::default(),
            proved: None,
            signed: None,
            there: 0,
            refused: Refused::default(),
            contradiction: None,
            is_over: false,
        }
    }

    /// The next row.
    pub(in crate::evidence) fn row(&mut self, row: &Row<'_>, take: &mut impl Take) {
        if self.is_over {
            return;
        }
        if row.seq != self.at {
            self.close(take);
            if self.at.checked_add(1) != Some(row.seq) {
                self.live.clear();
            }
            self.at = row.seq;
        }
        match row.role {
            Role::Entry => self.entry(row.seq, row.body),
            Role::Head => self.head(row.body),
            Role::Cosigned => self.cosigned(row.seq),
        }
        let ways = self.live.len().saturating_add(self.next.len()).saturating_mul(WAY_BYTES);
        if self.waiting.bytes.saturating_add(ways) > self.bytes_max {
            self.is_over = true;
            (self.waiting, self.live, self.next) = Default::default();
        }
    }

    /// There is no further row.
    pub(in crate::evidence) fn end(&mut self, take: &mut impl Take) {
        self.close(take);
        self.live.clear();
    }

    /// Bodies behind the last head that was proved.
    pub(super) fn unproved(&self) -> u64 {
        u64::try_from(self.waiting.claims.len()).unwrap_or(u64::MAX)
    }

    fn entry(&mut self, seq: u64, body: &[u8]) {
        self.there = self.there.max(seq.saturating_add(1));
        let (leaf, prev) = (leaf(body), prev(body));
        let waiting = &mut self.waiting;
        waiting.claims.push(Claim { seq, leaf, prev });
        waiting.bytes = waiting.bytes.saturating_add(size_of::<Claim>());
        let follows = prev.and_then(|prev| self.live.get(&prev));
        let (before, range) = match follows {
            Some(way) => (way.node, Some(way.range.clone())),
            None => (None, Entry::parse(body).ok().and_then(|entry| Chain::before(&entry)).map(|chain| chain.range)),
        };
        let Some(mut range) = range else { return };
        range.push(leaf);
        let node = Node { seq, leaf, body: body.to_vec(), before, begins: follows.is_none() };
        waiting.bytes = waiting.bytes.saturating_add(size_of::<Node>()).saturating_add(body.len());
        self.next.insert(leaf, Way { node: Some(waiting.nodes.len()), range });
        waiting.nodes.push(node);
    }

    /// Only a signed head is looked at: another one is another ledger's, or proves nothing.
    fn head(&mut self, body: &[u8]) {
        let Some(note) = note(body) else { return };
        if note.checkpoint.origin != self.sid || !note.is_signed_by(&self.sid, &self.key) {
            return;
        }
        let root = note.checkpoint.root;
        if self.root.is_some_and(|other| other != root) {
            self.contradiction = self.contradiction.or(Some(note.checkpoint.size));
        }
        self.root = Some(root);
        self.signed = Some(note.checkpoint.size);
    }

    fn cosigned(&mut self, seq: u64) {
        // Without an entry there is nothing that could have been cosigned.
        if self.waiting.claims.last().is_some_and(|claim| claim.seq == seq) && self.waiting.cosigned.insert(seq) {
            self.waiting.bytes = self.waiting.bytes.saturating_add(size_of::<Claim>());
        }
    }

    /// All that claims this place was read.
    fn close(&mut self, take: &mut impl Take) {
        self.live = std::mem::take(&mut self.next);
        let Some(root) = self.root.take() else { return };
        self.live.retain(|_, way| way.range.root() == Some(root));
        let last = self.live.values_mut().next().and_then(|way| way.node.take());
        if let Some(last) = last {
            self.prove(last, take);
        }
    }

    /// A signed head proves this node, and with it all that it leads back to.
    fn prove(&mut self, last: usize, take: &mut impl Take) {
        let waiting = std::mem::take(&mut self.waiting);
        let mut way: Vec<&Node> = Vec::new();
        let mut at = Some(last);
        while let Some(node) = at.and_then(|at| waiting.nodes.get(at)) {
            way.push(node);
            at = node.before;
        }
        way.reverse();
        for node in &way {
            take.entry(node.seq, &node.body, waiting.cosigned.contains(&node.seq));
        }
        take.signed();
        self.proved = Some(self.at.saturating_add(1));
        self.refuse(&waiting.claims, &way, take);
    }

    /// Of the other bodies those that nothing proves. What an entry leads back to is genuine, though reading cannot begin there.
    fn refuse(&mut self, claims: &[Claim], way: &[&Node], take: &mut impl Take) {
        let mut genuine: HashMap<u64, Hash> = HashMap::new();
        let mut denied = None;
        let begins = way.first().filter(|node| node.begins);
        let mut back = begins.and_then(|node| prev(&node.body).zip(node.seq.checked_sub(1)));
        while let Some((hash, seq)) = back.take() {
            let from = claims.partition_point(|claim| claim.seq < seq);
            let mut of_place =
                claims.get(from..).unwrap_or_default().iter().take_while(|claim| claim.seq == seq).peekable();
            let is_there = of_place.peek().is_some();
            match of_place.find(|claim| claim.leaf == hash) {
                Some(claim) => {
                    genuine.insert(seq, hash);
                    take.leads_back(hash);
                    back = claim.prev.zip(seq.checked_sub(1));
                }
                None => denied = is_there.then_some(seq),
            }
        }
        let first = way.first().map(|node| node.seq);
        for claim in claims {
            let place = first.and_then(|first| usize::try_from(claim.seq.checked_sub(first)?).ok());
            let entry = place.and_then(|place| way.get(place)).map(|node| node.leaf);
            if ![entry, genuine.get(&claim.seq).copied()].contains(&Some(claim.leaf)) {
                self.refused.add(claim.seq, denied == Some(claim.seq));
            }
        }
    }
}

/// What stands before a body, as it says.
fn prev(body: &[u8]) -> Option<Hash> {
    let fields = parse_body(body).ok()?;
    std::str::from_utf8(fields.get("prev")?).ok()?.parse().ok()
}

/// The note of a head's body.
pub(in crate::evidence) fn note(body: &[u8]) -> Option<SignedNote> {
    let fields = parse_body(body).ok()?;
    SignedNote::from_base64(fields.get("note")?)
}

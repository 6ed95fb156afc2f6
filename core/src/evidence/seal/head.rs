//! Heads: made when a size is reached, signed when it is durable (H1), each under the key of its epoch (K2).

use super::Stream;
use super::facts;
use super::host::{Head, HeadUse, Host, Position, Signer};
use crate::evidence::hash::Hash;
use crate::evidence::note::{Checkpoint, PublicKey, Signature, SignedNote};
use crate::evidence::stream::StreamId;
use crate::record::{Encoder, Kept, Stamp, Typ};
use std::sync::Arc;

/// Most heads that wait for their size to become durable; then no more checkpoints are sealed until one is signed.
pub const HEADS_WAITING_MAX: usize = 64;

/// A head that is not signed yet.
pub(super) struct Pending<K> {
    stream: Arc<StreamId>,
    position: Position,
    root: Hash,
    /// Compact form of the tree without the last leaf (H4).
    frontier: Vec<Hash>,
    purpose: HeadUse,
    /// The key, when this is its last use: it goes with the head.
    last_use: Option<K>,
    next_key: Option<PublicKey>,
}

impl<K: Signer> Stream<K> {
    /// A head of the size that was just reached. `frontier`: the tree before its last leaf. `last_use`: the key that signs
    /// nothing after it.
    pub(super) fn push_head(
        &mut self,
        purpose: HeadUse,
        frontier: Vec<Hash>,
        last_use: Option<K>,
        next_key: Option<PublicKey>,
    ) {
        let Some(root) = self.range.root() else { return };
        // A newer one makes an older one for the witness needless.
        if self.pending.back().is_some_and(|last| last.purpose == HeadUse::Witness && last.last_use.is_none()) {
            self.pending.pop_back();
        }
        let (stream, position) = (self.stream.clone(), self.position());
        self.pending.push_back(Pending { stream, position, root, frontier, purpose, last_use, next_key });
    }

    /// Whether another head may wait.
    pub(super) fn takes_heads(&self) -> bool {
        self.pending.len() < HEADS_WAITING_MAX
    }

    /// All up to this position is durable: heads of it are signed and given to the host, in order. A key goes as soon as it
    /// has signed its last head.
    pub fn durable<H: Host<Key = K>>(&mut self, upto: Position, now: Stamp, host: &mut H) {
        while self.pending.front().is_some_and(|pending| pending.position <= upto) {
            let Some(pending) = self.pending.pop_front() else { return };
            let later = || self.pending.iter().find_map(|later| later.last_use.as_ref());
            let Some(key) = pending.last_use.as_ref().or_else(later).or(self.key.as_ref()) else { continue };
            let origin = pending.stream.as_str();
            let checkpoint = Checkpoint { origin: origin.to_owned(), size: pending.position.size, root: pending.root };
            let signature = key.sign(checkpoint.text().as_bytes());
            let signatures = vec![Signature::log(origin, &key.public(), &signature)];
            let note = SignedNote { checkpoint, signatures };
            // Not a record of the stream; it always fits.
            self.encoder.encode(&facts::head(&note.encode(), &pending.frontier, now), None);
            host.head(Head {
                stream: &pending.stream,
                position: pending.position,
                purpose: pending.purpose,
                note: &note,
                next_key: pending.next_key,
                kept: kept(&self.encoder, now),
            });
        }
    }

    /// The witness cosigned this head of one of this thread's streams: it goes out once more, with the cosignature (H3).
    pub fn cosigned<H: Host<Key = K>>(&mut self, of: &Arc<StreamId>, cosigned: &SignedNote, now: Stamp, host: &mut H) {
        let signatures = cosigned.signatures.first().cloned().into_iter().collect();
        let note = SignedNote { checkpoint: cosigned.checkpoint.clone(), signatures };
        let rotation = of.parts().map_or(0, |parts| parts.rotation);
        self.encoder.encode(&facts::cosigned_head(&note.encode(), &cosigned.encode(), now), None);
        host.head(Head {
            stream: of,
            position: Position { rotation, size: note.checkpoint.size },
            purpose: HeadUse::Cosigned,
            note: &note,
            next_key: None,
            kept: kept(&self.encoder, now),
        });
    }

    /// Whether heads wait for more to become durable.
    pub fn awaits_durable(&self) -> bool {
        !self.pending.is_empty()
    }
}

/// The head that was just encoded.
fn kept(encoder: &Encoder, now: Stamp) -> Kept<'_> {
    Kept::new(now.wall_ns, Typ::Head.event(), encoder.body())
}

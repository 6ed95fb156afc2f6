//! Which key signs a stream's heads where (K2).

use crate::evidence::note::PublicKey;

/// The keys of a stream's heads (K2).
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Epoch {
    /// The key in force; `None`: the record that names it is not there.
    pub(super) key: Option<PublicKey>,
    /// The stream's first key, as its first record or the ledger names it.
    pub(super) first: Option<PublicKey>,
    /// The last rollover: the checkpoint's seq, the key for larger heads, and whether the old key's last note was seen.
    rollover: Option<(u64, PublicKey, bool)>,
    /// Whether a record that might name the next key is not there.
    pub(super) unsure: bool,
}

impl Epoch {
    /// Of a stream that begins with this key.
    pub(super) fn beginning(key: PublicKey) -> Self {
        Self { key: Some(key), first: Some(key), rollover: None, unsure: false }
    }

    /// The key of heads of this size.
    pub(super) fn key_for(&self, size: u64) -> Option<PublicKey> {
        match self.rollover {
            Some((at, next, _)) if size > at.saturating_add(1) => Some(next),
            _ => self.key,
        }
    }

    /// A head of this size was proved; tells the size of a last note that should have come before.
    pub(super) fn proved(&mut self, size: u64) -> Option<u64> {
        let (at, next, last_note) = self.rollover?;
        let last = at.saturating_add(1);
        if size == last {
            self.rollover = Some((at, next, true));
            return None;
        }
        if size > last {
            self.key = Some(next);
            self.rollover = None;
            let unsure = std::mem::take(&mut self.unsure);
            return (!last_note && !unsure).then_some(last);
        }
        None
    }

    /// The key of heads from this size on, where it is known otherwise.
    pub(super) fn adopt(&mut self, size: u64, key: PublicKey) {
        self.key = Some(key);
        self.rollover = self.rollover.filter(|(at, ..)| size <= at.saturating_add(1));
    }

    pub(super) fn roll(&mut self, seq: u64, next: PublicKey) {
        if let Some((_, key, _)) = self.rollover {
            self.key = Some(key);
        }
        self.rollover = Some((seq, next, false));
    }
}

//! What a witness makes of a request: a function of what it knows of the stream.

use super::request::{Request, Tail};
use crate::canon::parse_body;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{is_consistent, leaf, root_from_inclusion};
use crate::evidence::note::{PublicKey, SignedNote};

/// What the witness knows of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// Leaves under the last head; 0 before the first.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
    /// Signs heads larger than `key_from`.
    pub key: PublicKey,
    /// Size of the head that ended the epoch before, or of the one that was taken up again; 0 in the first epoch.
    pub key_from: u64,
    /// Signed the head of size `key_from`.
    pub previous_key: Option<PublicKey>,
    /// When its certificate ends, in seconds since the epoch.
    pub until_s: u64,
    /// It was shown its end.
    pub closed: bool,
}

impl StreamState {
    /// A stream that has a certificate and no head yet.
    pub fn certified(key: PublicKey, until_s: u64) -> Self {
        let root = crate::evidence::merkle::empty_root();
        Self { size: 0, root, key, key_from: 0, previous_key: None, until_s, closed: false }
    }

    /// What is known once the accepted head is committed.
    pub fn advance(&mut self, to: &Accepted) {
        if let Some(rebased) = &to.rebased {
            self.key = rebased.key;
            self.previous_key = None;
            // What came between is not known; this key signs what follows.
            self.key_from = rebased.size;
        }
        self.size = to.size;
        self.root = to.root;
        self.closed |= to.closed;
        if let Some(next) = to.next_key {
            self.previous_key = Some(self.key);
            self.key = next;
            self.key_from = to.size;
        }
    }

    /// The key of a head of this size (K2).
    fn key_of(&self, size: u64) -> &PublicKey {
        match &self.previous_key {
            Some(previous) if size == self.key_from => previous,
            _ => &self.key,
        }
    }
}

/// A head that may be committed, and then cosigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its size.
    pub size: u64,
    /// Its root.
    pub root: Hash,
    /// The key of the next epoch, if it ends one.
    pub next_key: Option<PublicKey>,
    /// Its last record is `close`.
    pub closed: bool,
    /// The head that was taken up again.
    pub rebased: Option<Rebased>,
    /// The witness knows this head already: there is nothing to commit.
    pub known: bool,
}

/// A head that the witness had cosigned and forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebased {
    /// Its size.
    pub size: u64,
    /// Its root.
    pub root: Hash,
    /// Signs what follows. The stream says so; its records prove it.
    pub key: PublicKey,
}

/// Why a head is not cosigned. Status and text are those of C2SP tlog-witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 404: no certificate was given to a stream of this name.
    #[error("no certificate was given to this stream: ask for one first")]
    Unknown,
    /// 403: not signed by the key of the stream's epoch.
    #[error("the note is not signed by the key of the stream's epoch")]
    Signature,
    /// 403: the certificate has run out.
    #[error("the stream's certificate has run out: a stream lives a day")]
    Expired,
    /// 400: the old size is larger than the new one.
    #[error("the old size is larger than the new one")]
    Backwards,
    /// 409: the witness knows another head.
    #[error("{0}")]
    Known(u64),
    /// 409: the same size with another root, validly signed.
    #[error("{0}")]
    Fork(u64),
    /// 422: the consistency proof does not hold.
    #[error("the consistency proof does not hold")]
    Consistency,
    /// 422: the record is not the last leaf.
    #[error("the record is not the last one under this head")]
    Inclusion,
    /// 422: the record ends neither an epoch nor the stream.
    #[error("the record is neither a checkpoint with a next key nor a close of this stream")]
    Record,
    /// 422: a head beyond the end.
    #[error("the stream is closed")]
    Closed,
    /// 422: the witness has not gone back, or did not cosign that head.
    #[error("this witness has not gone back behind that head")]
    Rebase,
}

impl Refusal {
    /// Those of a head that does not fit what the stream showed before.
    pub const CONTRADICTIONS: [Self; 3] = [Self::Fork(0), Self::Consistency, Self::Signature];

    /// Whether it is one of them, whatever the size.
    pub fn contradicts(self) -> bool {
        Self::CONTRADICTIONS.iter().any(|one| one.as_str() == self.as_str())
    }

    /// Those that are told in words alone.
    pub(super) const WORDED: [Self; 9] = [
        Self::Unknown,
        Self::Signature,
        Self::Expired,
        Self::Backwards,
        Self::Consistency,
        Self::Inclusion,
        Self::Record,
        Self::Closed,
        Self::Rebase,
    ];

    /// Which one an answer is, by its status and words: what stands between a stream and its witness refuses by the same
    /// statuses, and knows nothing of the stream. `None`: another's answer, or one that tells a size.
    pub fn said(status: u16, body: &str) -> Option<Self> {
        Self::WORDED.into_iter().find(|one| one.status() == status && one.body() == body)
    }

    /// The HTTP status.
    pub const fn status(self) -> u16 {
        match self {
            Self::Unknown => 404,
            Self::Signature | Self::Expired => 403,
            Self::Backwards => 400,
            Self::Known(_) | Self::Fork(_) => 409,
            Self::Consistency | Self::Inclusion | Self::Record | Self::Closed | Self::Rebase => 422,
        }
    }

    /// The body: with 409 the size that the witness knows, in a line.
    pub fn body(self) -> String {
        format!("{self}\n")
    }

    /// The type of the body.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Known(_) | Self::Fork(_) => "text/x.tlog.size",
            _ => "text/plain; charset=utf-8",
        }
    }

    /// For metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::Backwards => "backwards",
            Self::Known(_) => "known",
            Self::Fork(_) => "fork",
            Self::Consistency => "consistency",
            Self::Inclusion => "inclusion",
            Self::Record => "record",
            Self::Closed => "closed",
            Self::Rebase => "rebase",
        }
    }
}

/// Judges a request for a stream of which this is known. `is_own` says whether this witness cosigned a note.
///
/// # Errors
/// See [`Refusal`]; the order of checks is that of C2SP tlog-witness.
pub fn judge(
    state: &StreamState,
    request: &Request,
    now_s: u64,
    is_own: impl Fn(&SignedNote) -> bool,
) -> Result<Accepted, Refusal> {
    let head = &request.note.checkpoint;
    if now_s > state.until_s {
        return Err(Refusal::Expired);
    }
    let rebased = rebase(state, request, is_own)?;
    let (known_size, known_root) = rebased.as_ref().map_or((state.size, state.root), |to| (to.size, to.root));
    let key = rebased.as_ref().map_or_else(|| state.key_of(head.size), |to| &to.key);
    if !request.note.is_signed_by(&head.origin, key) {
        return Err(Refusal::Signature);
    }
    if request.old > head.size {
        return Err(Refusal::Backwards);
    }
    if request.old != known_size {
        return Err(Refusal::Known(state.size));
    }
    if head.size == known_size && head.root != known_root {
        return Err(Refusal::Fork(known_size));
    }
    if !is_consistent(known_size, known_root, head.size, head.root, &request.proof) {
        return Err(Refusal::Consistency);
    }
    if state.closed && head.size != state.size {
        return Err(Refusal::Closed);
    }
    let (next_key, closed) = match &request.tail {
        Tail::Record { body, proof } => last_record(request, body, proof)?,
        _ => (None, false),
    };
    // The same head may be shown again, to say what its last record is.
    let told = next_key.is_none_or(|key| state.key_from == head.size && state.key == key) && (!closed || state.closed);
    let known = rebased.is_none() && head.size == state.size && told;
    Ok(Accepted { size: head.size, root: head.root, next_key, closed, rebased, known })
}

/// The head to go on from, where the witness has gone back.
fn rebase(
    state: &StreamState,
    request: &Request,
    is_own: impl Fn(&SignedNote) -> bool,
) -> Result<Option<Rebased>, Refusal> {
    let Tail::Rebase { key, cosigned } = &request.tail else { return Ok(None) };
    let later = &cosigned.checkpoint;
    if later.origin != request.note.checkpoint.origin || later.size <= state.size || !is_own(cosigned) {
        return Err(Refusal::Rebase);
    }
    Ok(Some(Rebased { size: later.size, root: later.root, key: *key }))
}

/// What the last record under the head ends: an epoch (then the next key), or the stream.
fn last_record(request: &Request, body: &[u8], proof: &[Hash]) -> Result<(Option<PublicKey>, bool), Refusal> {
    let head = &request.note.checkpoint;
    let index = head.size.checked_sub(1).ok_or(Refusal::Inclusion)?;
    if root_from_inclusion(leaf(body), index, head.size, proof) != Some(head.root) {
        return Err(Refusal::Inclusion);
    }
    let fields = parse_body(body).map_err(|_| Refusal::Record)?;
    let text = |key: &str| fields.get(key).and_then(|value| std::str::from_utf8(value).ok());
    if text("sid") != Some(head.origin.as_str()) || text("seq") != Some(index.to_string().as_str()) {
        return Err(Refusal::Record);
    }
    match text("typ") {
        Some("close") => Ok((None, true)),
        Some("checkpoint") => match text("next_key").map(str::parse) {
            Some(Ok(next)) => Ok((Some(next), false)),
            _ => Err(Refusal::Record),
        },
        _ => Err(Refusal::Record),
    }
}

//! The body of add-checkpoint: C2SP tlog-witness, and what a stream may add behind the note.
//!
//! ```text
//! old <size>                      the size that the witness is thought to know
//! <hash in base64>                consistency proof, at most 63 lines
//!
//! <note>                          text, blank line, signature lines
//!
//! record <body in base64>         only where the last leaf must be seen: a rollover (K2) or the end
//! <hash in base64>                its inclusion proof, at most 63 lines
//! ```
//!
//! In place of `record` there may be a `rebase <key in hex>`, followed by a note that this witness cosigned: the witness has
//! gone back behind it, and takes it up from there (W2). Without an addition the body is what any C2SP witness takes.

use crate::canon::BODY_BYTES_MAX;
use crate::evidence::hash::{HASH_BYTES, Hash};
use crate::evidence::note::{NOTE_BYTES_MAX, NoteError, PublicKey, SignedNote};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Most hashes of a proof.
pub const PROOF_HASHES_MAX: usize = 63;

/// A hash in base64, with its line's end, in bytes.
const PROOF_LINE_BYTES: usize = HASH_BYTES.div_ceil(3) * 4 + 1;

/// Largest body, in bytes.
pub const REQUEST_BYTES_MAX: usize =
    2 * NOTE_BYTES_MAX + 2 * PROOF_HASHES_MAX * PROOF_LINE_BYTES + BODY_BYTES_MAX.div_ceil(3) * 4 + 256;

/// What follows the note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing.
    None,
    /// The body of the last leaf, and its inclusion proof.
    Record {
        /// Canonical bytes.
        body: Vec<u8>,
        /// From leaf to root.
        proof: Vec<Hash>,
    },
    /// The witness has gone back: a later head, which it cosigned.
    Rebase {
        /// Signs the heads after that one.
        key: PublicKey,
        /// The head, with the cosignature.
        cosigned: Box<SignedNote>,
    },
}

/// A request to cosign a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Size of the head that the witness is thought to know.
    pub old: u64,
    /// From that head to the new one.
    pub proof: Vec<Hash>,
    /// The new head.
    pub note: SignedNote,
    /// What follows it.
    pub tail: Tail,
}

/// Why a body is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than [`REQUEST_BYTES_MAX`].
    #[error("the request is longer than {REQUEST_BYTES_MAX} bytes")]
    TooLarge,
    /// Not text in the form of tlog-witness.
    #[error("the request is not of the form: old SIZE, proof lines, a blank line, a note")]
    Form,
    /// The first line is not `old SIZE`.
    #[error("the first line is not `old SIZE`")]
    Old,
    /// A proof line that is no hash, or more than [`PROOF_HASHES_MAX`].
    #[error("a proof has at most {PROOF_HASHES_MAX} lines, each a hash in base64")]
    Proof,
    /// The note is none.
    #[error("the note: {0}")]
    Note(#[from] NoteError),
    /// What follows the note is neither a record nor a rebase.
    #[error("after the note, only `record BODY` with a proof or `rebase KEY` with a note may stand")]
    Tail,
}

impl Request {
    /// The body.
    pub fn encode(&self) -> String {
        let mut text = format!("old {}\n", self.old);
        push_proof(&mut text, &self.proof);
        text.push('\n');
        text.push_str(&self.note.encode());
        match &self.tail {
            Tail::None => {}
            Tail::Record { body, proof } => {
                text.push_str(&format!("\nrecord {}\n", STANDARD.encode(body)));
                push_proof(&mut text, proof);
            }
            Tail::Rebase { key, cosigned } => {
                text.push_str(&format!("\nrebase {key}\n"));
                text.push_str(&cosigned.encode());
            }
        }
        text
    }

    /// Parses a body. Nothing is verified yet.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        if body.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLarge);
        }
        let text = std::str::from_utf8(body).map_err(|_| RequestError::Form)?;
        // Neither a checkpoint nor a proof has a blank line of its own.
        let (head, rest) = text.split_once("\n\n").ok_or(RequestError::Form)?;
        let (old, proof) = head.split_once('\n').map_or((head, None), |(old, proof)| (old, Some(proof)));
        let old = number(old.strip_prefix("old ").ok_or(RequestError::Old)?).ok_or(RequestError::Old)?;
        let proof = proof.map_or(Ok(Vec::new()), parse_proof)?;
        let (checkpoint, rest) = rest.split_once("\n\n").ok_or(RequestError::Form)?;
        let (signatures, tail) = match rest.split_once("\n\n") {
            Some((signatures, tail)) => (signatures, parse_tail(tail)?),
            None => (rest.strip_suffix('\n').ok_or(RequestError::Form)?, Tail::None),
        };
        let note = SignedNote::parse(&format!("{checkpoint}\n\n{signatures}\n"))?;
        Ok(Self { old, proof, note, tail })
    }
}

fn parse_tail(text: &str) -> Result<Tail, RequestError> {
    let (first, rest) = text.split_once('\n').ok_or(RequestError::Tail)?;
    if let Some(body) = first.strip_prefix("record ") {
        let body = STANDARD.decode(body).ok().filter(|body| body.len() <= BODY_BYTES_MAX).ok_or(RequestError::Tail)?;
        // A tree of one leaf has no proof.
        let proof = match rest {
            "" => Vec::new(),
            lines => parse_proof(lines.strip_suffix('\n').ok_or(RequestError::Tail)?)?,
        };
        return Ok(Tail::Record { body, proof });
    }
    let key = first.strip_prefix("rebase ").and_then(|key| key.parse().ok()).ok_or(RequestError::Tail)?;
    Ok(Tail::Rebase { key, cosigned: Box::new(SignedNote::parse(rest)?) })
}

fn push_proof(text: &mut String, proof: &[Hash]) {
    for hash in proof {
        text.push_str(&STANDARD.encode(hash.0));
        text.push('\n');
    }
}

fn parse_proof(lines: &str) -> Result<Vec<Hash>, RequestError> {
    let mut proof = Vec::new();
    for line in lines.split('\n') {
        let hash = STANDARD.decode(line).ok().and_then(|bytes| Hash::from_slice(&bytes)).ok_or(RequestError::Proof)?;
        if proof.len() == PROOF_HASHES_MAX {
            return Err(RequestError::Proof);
        }
        proof.push(hash);
    }
    Ok(proof)
}

/// A number in its one form: no sign, no leading zero.
pub(in crate::evidence) fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

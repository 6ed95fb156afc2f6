//! Signed notes and checkpoints, as C2SP defines them (signed-note, tlog-checkpoint, tlog-cosignature).
//!
//! A head of a stream is a note (H1): origin = sid, size, root, signed by the key of the epoch. The witness answers with a
//! cosignature, which adds its time.

use super::hash::Hash;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// Largest note, in bytes.
pub const NOTE_BYTES_MAX: usize = 16 * 1024;

/// Most signatures of one note.
pub const SIGNATURES_MAX: usize = 16;

/// Bytes of an Ed25519 public key.
pub const PUBLIC_KEY_BYTES: usize = 32;

/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// Type bytes of C2SP signed-note and tlog-cosignature.
const TYPE_ED25519: u8 = 0x01;
const TYPE_COSIGNATURE: u8 = 0x04;

/// U+2014 and a space begin a signature line.
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// An Ed25519 public key. Written in lower-case hex (R2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; PUBLIC_KEY_BYTES]);

/// What a key signs: its type in a note's key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Heads of a log (type 0x01).
    Log,
    /// Cosignatures of a witness, with a time (type 0x04).
    Witness,
}

impl Role {
    /// As it stands in key ids and verifier keys.
    pub const fn type_byte(self) -> u8 {
        match self {
            Self::Log => TYPE_ED25519,
            Self::Witness => TYPE_COSIGNATURE,
        }
    }
}

/// The four bytes that name a key in a signature line.
pub type KeyId = [u8; 4];

impl PublicKey {
    /// SHA-256(name || 0x0A || type || key), its first four bytes (C2SP signed-note).
    pub fn id(&self, name: &str, role: Role) -> KeyId {
        let [a, b, c, d, ..] = Hash::of(&[name.as_bytes(), b"\n", &[role.type_byte()], &self.0]).0;
        [a, b, c, d]
    }

    /// Whether the signature over these bytes is this key's.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for PublicKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        super::hash::unhex(text.as_bytes()).map(Self).ok_or(NoteError::Key)
    }
}

/// Why a text is no note, or no checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Longer than [`NOTE_BYTES_MAX`], or more signatures than [`SIGNATURES_MAX`].
    #[error("the note is too large")]
    TooLarge,
    /// A control character, or no blank line before the signatures.
    #[error("not a signed note")]
    Form,
    /// A signature line that is none.
    #[error("a bad signature line")]
    SignatureLine,
    /// The text is not origin, size and root.
    #[error("not a checkpoint")]
    Checkpoint,
    /// Not 64 lower-case hex digits.
    #[error("not an Ed25519 public key in hex")]
    Key,
}

/// Size and root of a log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    /// Name of the log: a sid, or that of a ledger.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.0))
    }

    /// Parses a note's text. Extension lines are refused: nobody would check them.
    ///
    /// # Errors
    /// [`NoteError::Checkpoint`].
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.strip_suffix('\n').ok_or(NoteError::Checkpoint)?.split('\n');
        let (Some(origin), Some(size), Some(root), None) = (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(NoteError::Checkpoint);
        };
        let root = STANDARD.decode(root).ok().and_then(|root| Hash::from_slice(&root));
        let (Ok(size), Some(root)) = (size.parse::<u64>(), root) else { return Err(NoteError::Checkpoint) };
        let checkpoint = Self { origin: origin.to_owned(), size, root };
        // One form only.
        if origin.is_empty() || checkpoint.text() != text {
            return Err(NoteError::Checkpoint);
        }
        Ok(checkpoint)
    }

    /// The text that a witness signs at this time (C2SP tlog-cosignature, cosignature/v1).
    pub fn cosigned_text(&self, unix_seconds: u64) -> String {
        format!("cosignature/v1\ntime {unix_seconds}\n{}", self.text())
    }
}

/// One signature line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Name of the key.
    pub name: String,
    /// Its id.
    pub key: KeyId,
    /// What follows the id: a signature, or a time and a signature.
    pub bytes: Vec<u8>,
}

impl Signature {
    /// A log's signature.
    pub fn log(name: &str, key: &PublicKey, signature: &[u8; SIGNATURE_BYTES]) -> Self {
        Self { name: name.to_owned(), key: key.id(name, Role::Log), bytes: signature.to_vec() }
    }

    /// A witness's cosignature at this time.
    pub fn witness(name: &str, key: &PublicKey, unix_seconds: u64, signature: &[u8; SIGNATURE_BYTES]) -> Self {
        let bytes = [&unix_seconds.to_be_bytes()[..], signature].concat();
        Self { name: name.to_owned(), key: key.id(name, Role::Witness), bytes }
    }

    /// Signature lines, as they end a note.
    ///
    /// At most [`SIGNATURES_MAX`]; `None` if one is none.
    pub fn parse_lines(lines: &str) -> Option<Vec<Self>> {
        let signatures: Vec<Self> =
            lines.split('\n').take(SIGNATURES_MAX + 1).map(Self::parse).collect::<Option<_>>()?;
        (signatures.len() <= SIGNATURES_MAX).then_some(signatures)
    }

    /// The line, with its end.
    pub fn line(&self) -> String {
        format!("{SIGNATURE_PREFIX}{} {}\n", self.name, STANDARD.encode([&self.key[..], &self.bytes].concat()))
    }

    fn parse(line: &str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix(SIGNATURE_PREFIX)?.split_once(' ')?;
        let bytes = STANDARD.decode(encoded).ok()?;
        let (key, bytes) = bytes.split_first_chunk::<4>()?;
        let named = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '+');
        (named && !bytes.is_empty()).then(|| Self { name: name.to_owned(), key: *key, bytes: bytes.to_vec() })
    }
}

/// A checkpoint with its signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedNote {
    /// What is signed.
    pub checkpoint: Checkpoint,
    /// By whom.
    pub signatures: Vec<Signature>,
}

impl SignedNote {
    /// The note as text.
    pub fn encode(&self) -> String {
        let lines: String = self.signatures.iter().map(Signature::line).collect();
        format!("{}\n{lines}", self.checkpoint.text())
    }

    /// Parses a note as the body of a record holds it: in base64. `None`: it is none.
    pub fn from_base64(encoded: impl AsRef<[u8]>) -> Option<Self> {
        Self::parse(&String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?).ok()
    }

    /// Parses a note. Nothing is verified yet.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLarge);
        }
        if note.chars().any(|c| c.is_control() && c != '\n') {
            return Err(NoteError::Form);
        }
        let at = note.rfind("\n\n").ok_or(NoteError::Form)?;
        let (Some(text), Some(lines)) = (note.get(..=at), note.get(at + 2..)) else { return Err(NoteError::Form) };
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Form)?;
        let mut signatures = Vec::new();
        for line in lines.split('\n') {
            if signatures.len() == SIGNATURES_MAX {
                return Err(NoteError::TooLarge);
            }
            signatures.push(Signature::parse(line).ok_or(NoteError::SignatureLine)?);
        }
        Ok(Self { checkpoint: Checkpoint::parse(text)?, signatures })
    }

    /// Whether a log's key of this name signed it.
    pub fn is_signed_by(&self, name: &str, key: &PublicKey) -> bool {
        let text = self.checkpoint.text();
        self.of(name, key.id(name, Role::Log)).any(|signature| key.verifies(text.as_bytes(), &signature.bytes))
    }

    /// When a witness of this name and key cosigned it, in seconds since the epoch: the earliest, where there are several.
    pub fn cosigned_at(&self, name: &str, key: &PublicKey) -> Option<u64> {
        let times = self.of(name, key.id(name, Role::Witness)).filter_map(|signature| {
            let (time, rest) = signature.bytes.split_first_chunk::<8>()?;
            let seconds = u64::from_be_bytes(*time);
            key.verifies(self.checkpoint.cosigned_text(seconds).as_bytes(), rest).then_some(seconds)
        });
        times.min()
    }

    fn of<'a>(&'a self, name: &'a str, key: KeyId) -> impl Iterator<Item = &'a Signature> {
        self.signatures.iter().filter(move |signature| signature.name == name && signature.key == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use proptest::prelude::*;

    const ORIGIN: &str = "c/n/p/0123456789abcdef0123456789abcdef-0-0";

    struct Pair(Ed25519KeyPair);

    impl Pair {
        fn new(seed: u8) -> Self {
            Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed"))
        }

        fn public(&self) -> PublicKey {
            PublicKey(self.0.public_key().as_ref().try_into().expect("32 bytes"))
        }

        fn sign(&self, message: &str) -> [u8; SIGNATURE_BYTES] {
            self.0.sign(message.as_bytes()).as_ref().try_into().expect("64 bytes")
        }
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: ORIGIN.to_owned(), size: 7, root: Hash::of(&[b"root"]) }
    }

    fn note() -> SignedNote {
        let (log, witness, head) = (Pair::new(1), Pair::new(2), checkpoint());
        let own = Signature::log(ORIGIN, &log.public(), &log.sign(&head.text()));
        let cosigned = witness.sign(&head.cosigned_text(1_700_000_000));
        let cosignature = Signature::witness("w.example", &witness.public(), 1_700_000_000, &cosigned);
        SignedNote { checkpoint: head, signatures: vec![own, cosignature] }
    }

    #[test]
    fn h1_a_note_says_who_signed_it() {
        let text = note().encode();
        let parsed = SignedNote::parse(&text).expect("a note");
        assert_eq!(parsed, note());
        assert!(parsed.is_signed_by(ORIGIN, &Pair::new(1).public()));
        assert!(!parsed.is_signed_by(ORIGIN, &Pair::new(3).public()));
        assert!(!parsed.is_signed_by("other", &Pair::new(1).public()));
        assert_eq!(parsed.cosigned_at("w.example", &Pair::new(2).public()), Some(1_700_000_000));
        assert_eq!(parsed.cosigned_at(ORIGIN, &Pair::new(1).public()), None, "a log's signature is no cosignature");
    }

    #[test]
    fn h1_nothing_of_a_note_can_be_changed() {
        let original = note();
        let (log, witness) = (Pair::new(1).public(), Pair::new(2).public());
        let mut changed = original.clone();
        changed.checkpoint.size += 1;
        assert!(!changed.is_signed_by(ORIGIN, &log) && changed.cosigned_at("w.example", &witness).is_none());
        let mut later = original.clone();
        later.signatures[1].bytes[7] ^= 1;
        assert!(later.cosigned_at("w.example", &witness).is_none(), "the time is signed");
    }

    #[test]
    fn bad_notes_are_refused() {
        let text = note().encode();
        let checkpoint = checkpoint().text();
        let table = [
            (String::new(), NoteError::Form),
            (checkpoint.clone(), NoteError::Form),
            (text.trim_end().to_owned(), NoteError::Form),
            (text.replace("c/n", "c\t"), NoteError::Form),
            (format!("{checkpoint}\n\u{2014} name\n"), NoteError::SignatureLine),
            (format!("{checkpoint}\n- name AAAAAAA=\n"), NoteError::SignatureLine),
            (format!("{checkpoint}\n\u{2014} n+1 AAAAAAA=\n"), NoteError::SignatureLine),
            (text.replace("\n7\n", "\n07\n"), NoteError::Checkpoint),
            (text.replace("\n7\n", "\n7\nextension\n"), NoteError::Checkpoint),
            (format!("{checkpoint}\n{}", "\u{2014} name AAAAAAA=\n".repeat(17)), NoteError::TooLarge),
            ("x".repeat(NOTE_BYTES_MAX + 1), NoteError::TooLarge),
        ];
        for (note, error) in table {
            assert_eq!(SignedNote::parse(&note).err(), Some(error), "{note:?}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_written_back_as_it_was(text in "\\PC{0,60}\n[0-9]{1,3}\n[A-Za-z0-9+/]{43}=\n\n(\u{2014} [a-z]{1,5} [A-Za-z0-9+/]{8}\n){1,3}") {
            if let Ok(note) = SignedNote::parse(&text) {
                prop_assert_eq!(note.encode(), text);
            }
        }

        #[test]
        fn every_prefix_is_parsed_without_harm(length in 0_usize..400) {
            let text = note().encode();
            let prefix: String = text.chars().take(length).collect();
            prop_assert_eq!(SignedNote::parse(&prefix).is_ok(), prefix == text || prefix == text[..text.find("\u{2014} w").unwrap_or(0)]);
        }
    }
}

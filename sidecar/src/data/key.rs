//! Keys of epochs (K2): made in memory, never written anywhere.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use testimony_core::evidence::note::{PUBLIC_KEY_BYTES, PublicKey, SIGNATURE_BYTES};
use testimony_core::evidence::seal::Signer;

/// The Ed25519 key of one epoch of a stream. The library clears the secret from memory when the key is dropped.
pub struct EpochKey {
    pair: Ed25519KeyPair,
    public: [u8; PUBLIC_KEY_BYTES],
}

impl EpochKey {
    /// A new key; `None` when the system gives no randomness.
    pub fn generate() -> Option<Self> {
        let pair = Ed25519KeyPair::generate().ok()?;
        let public = pair.public_key().as_ref().try_into().ok()?;
        Some(Self { pair, public })
    }
}

impl Signer for EpochKey {
    fn public(&self) -> PublicKey {
        PublicKey(self.public)
    }

    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        // An Ed25519 signature has this length; a zero one would verify nowhere.
        self.pair.sign(message).as_ref().try_into().unwrap_or([0; SIGNATURE_BYTES])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k2_a_key_signs_what_its_public_half_verifies_and_no_two_are_alike() {
        let (one, other) = (EpochKey::generate().expect("a key"), EpochKey::generate().expect("a key"));
        assert!(one.public().verifies(b"note", &one.sign(b"note")));
        assert!(!other.public().verifies(b"note", &one.sign(b"note")));
        assert_ne!(one.public(), other.public());
    }
}

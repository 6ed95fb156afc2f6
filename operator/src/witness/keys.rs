//! The keys of ledger and witness, in a Secret of the operator's namespace. Made once: whoever verifies knows them. The recovery
//! key of the spools follows from the witness's, so that a Secret of before has it too.

use aws_lc_rs::agreement::{PrivateKey, X25519};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey};
use std::collections::BTreeMap;
use std::sync::Arc;
use testimony_core::evidence::ledger::Keys;
use testimony_core::evidence::note::{PublicKey, SIGNATURE_BYTES};
use testimony_core::evidence::witness::unwrap::{HPKE_INFO, RECOVERY_KEY_BYTES};

/// Key of the Secret: the seed of the key that signs the ledger's heads.
const LEDGER: &str = "ledger.key";
/// Key of the Secret: the seed of the key that cosigns heads of streams.
const WITNESS: &str = "witness.key";

/// What sets the recovery key (D5) apart from all else that is made of the witness's seed (HKDF, RFC 5869).
const RECOVERY_INFO: &[u8] = b"testimony recovery key v1";

/// Bytes of an Ed25519 seed, and of a private X25519 key.
const SEED_BYTES: usize = 32;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The Secret's content is none that we wrote.
    #[error(
        "Secret {0}: {1} is not a key of {SEED_BYTES} bytes; put the Secret back from a copy, or see \"Starting over\" in docs/witness.md"
    )]
    Unreadable(String, &'static str),
    /// The system gives no randomness.
    #[error("no randomness for keys")]
    Random,
    /// The API server's.
    #[error("Secret {0}: {1}")]
    Api(String, kube::Error),
}

/// Their key pairs; cloning shares them.
#[derive(Clone)]
pub struct WitnessKeys {
    ledger: Arc<Ed25519KeyPair>,
    witness: Arc<Ed25519KeyPair>,
    recovery: Arc<Recovery>,
}

struct Recovery {
    private: HpkePrivateKey,
    public: [u8; RECOVERY_KEY_BYTES],
}

impl Recovery {
    fn of(witness_seed: &[u8]) -> Option<Self> {
        let extracted = Salt::none(HKDF_SHA256).extract(witness_seed);
        let mut private = vec![0; SEED_BYTES];
        extracted.expand(&[RECOVERY_INFO], HKDF_SHA256).and_then(|okm| okm.fill(&mut private)).ok()?;
        let pair = PrivateKey::from_private_key(&X25519, &private).ok()?;
        let public = pair.compute_public_key().ok()?.as_ref().try_into().ok()?;
        Some(Self { private: HpkePrivateKey::from(private), public })
    }
}

impl std::fmt::Debug for WitnessKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WitnessKeys").field("public", &self.public()).finish()
    }
}

impl WitnessKeys {
    /// Reads the keys from their Secret; makes them when it is absent. Of two replicas that make them, the first wins.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub async fn load(client: &Client, namespace: &str, secret: &str) -> Result<Self, KeyError> {
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let failed = |error| KeyError::Api(secret.to_owned(), error);
        if let Some(known) = api.get_opt(secret).await.map_err(failed)? {
            return Self::from_secret(secret, &known.data.unwrap_or_default());
        }
        let object = new_secret(namespace, secret)?;
        let known = match api.create(&PostParams::default(), &object).await {
            Ok(created) => {
                tracing::info!(secret, "keys of ledger and witness created");
                created
            }
            Err(kube::Error::Api(status)) if status.code == 409 => api.get(secret).await.map_err(failed)?,
            Err(error) => return Err(failed(error)),
        };
        Self::from_secret(secret, &known.data.unwrap_or_default())
    }

    fn from_secret(name: &str, data: &BTreeMap<String, ByteString>) -> Result<Self, KeyError> {
        let seed = |key: &'static str| data.get(key).map(|seed| &seed.0).filter(|seed| seed.len() == SEED_BYTES);
        let unreadable = |key: &'static str| KeyError::Unreadable(name.to_owned(), key);
        let pair = |key: &'static str| {
            let pair = seed(key).and_then(|seed| Ed25519KeyPair::from_seed_unchecked(seed).ok());
            pair.map(Arc::new).ok_or_else(|| unreadable(key))
        };
        let recovery = seed(WITNESS).and_then(|seed| Recovery::of(seed)).map(Arc::new);
        let recovery = recovery.ok_or_else(|| unreadable(WITNESS))?;
        Ok(Self { ledger: pair(LEDGER)?, witness: pair(WITNESS)?, recovery })
    }

    /// The key to which sidecars wrap.
    pub fn recovery_key(&self) -> [u8; RECOVERY_KEY_BYTES] {
        self.recovery.public
    }

    /// Opens a spool's key that this pod wrapped. `None`: another pod did, or to another key.
    pub fn unwrap(&self, pod_uid: &str, wrapped: &[u8]) -> Option<Vec<u8>> {
        let (secret, sealed) = wrapped.split_at_checked(RECOVERY_KEY_BYTES)?;
        let secret = EncapsulatedSecret(secret.to_vec());
        let private = &self.recovery.private;
        DH_KEM_X25519_HKDF_SHA256_AES_256.open(&secret, HPKE_INFO, pod_uid.as_bytes(), sealed, private).ok()
    }

    /// What others know them by.
    pub fn public(&self) -> Keys {
        Keys { ledger: public(&self.ledger), witness: public(&self.witness) }
    }

    /// Signs a head of the ledger.
    pub fn sign_ledger(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        sign(&self.ledger, message)
    }

    /// Cosigns a head of a stream.
    pub fn sign_witness(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        sign(&self.witness, message)
    }
}

fn new_secret(namespace: &str, name: &str) -> Result<Secret, KeyError> {
    let mut data = BTreeMap::new();
    for key in [LEDGER, WITNESS] {
        let mut seed = vec![0; SEED_BYTES];
        SystemRandom::new().fill(&mut seed).map_err(|_| KeyError::Random)?;
        data.insert(key.to_owned(), ByteString(seed));
    }
    let labels = super::store::labels();
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels),
        ..ObjectMeta::default()
    };
    // Whoever has the old keys must not be able to slip in new ones.
    Ok(Secret {
        metadata,
        data: Some(data),
        immutable: Some(true),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    })
}

fn public(pair: &Ed25519KeyPair) -> PublicKey {
    let mut key = [0; 32];
    key.iter_mut().zip(pair.public_key().as_ref()).for_each(|(slot, byte)| *slot = *byte);
    PublicKey(key)
}

fn sign(pair: &Ed25519KeyPair, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
    let mut signature = [0; SIGNATURE_BYTES];
    signature.iter_mut().zip(pair.sign(message).as_ref()).for_each(|(slot, byte)| *slot = *byte);
    signature
}

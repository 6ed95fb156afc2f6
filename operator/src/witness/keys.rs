//! The keys of ledger and witness, in a Secret of the operator's namespace. Made once: whoever verifies knows them.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use std::collections::BTreeMap;
use std::sync::Arc;
use testimony_core::evidence::ledger::Keys;
use testimony_core::evidence::note::{PublicKey, SIGNATURE_BYTES};

/// Key of the Secret: the seed of the key that signs the ledger's heads.
const LEDGER: &str = "ledger.key";
/// Key of the Secret: the seed of the key that cosigns heads of streams.
const WITNESS: &str = "witness.key";

/// Bytes of an Ed25519 seed.
const SEED_BYTES: usize = 32;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The Secret's content is none that we wrote.
    #[error(
        "Secret {0}: {1} is not an Ed25519 seed of {SEED_BYTES} bytes; put the Secret back from a copy, or see \"Starting over\" in docs/witness.md"
    )]
    Unreadable(String, &'static str),
    /// The system gives no randomness.
    #[error("no randomness for keys")]
    Random,
    /// The API server's.
    #[error("Secret {0}: {1}")]
    Api(String, kube::Error),
}

/// Two key pairs; cloning shares them.
#[derive(Clone)]
pub struct WitnessKeys {
    ledger: Arc<Ed25519KeyPair>,
    witness: Arc<Ed25519KeyPair>,
}

impl std::fmt::Debug for WitnessKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WitnessKeys").field("public", &self.public()).finish()
    }
}

impl WitnessKeys {
    /// Reads the keys from their Secret; makes both when it is absent. Of two replicas that make them, the first wins.
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
        let pair = |key: &'static str| {
            let seed = data.get(key).filter(|seed| seed.0.len() == SEED_BYTES);
            let pair = seed.and_then(|seed| Ed25519KeyPair::from_seed_unchecked(&seed.0).ok());
            pair.map(Arc::new).ok_or_else(|| KeyError::Unreadable(name.to_owned(), key))
        };
        Ok(Self { ledger: pair(LEDGER)?, witness: pair(WITNESS)? })
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

//! Keys (D5): each segment has one of its own, wrapped under the pod's key for a restarted container, and to the operator's
//! recovery key for a restarted node.

use arc_swap::ArcSwapOption;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};
use aws_lc_rs::rand;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{Hpke as _, HpkePublicKey};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use testimony_core::evidence::witness::unwrap::{HPKE_INFO, RECOVERY_KEY_BYTES};

/// Length of every key, in bytes.
pub const KEY_BYTES: usize = 32;

/// A wrapped key is longer by this.
const WRAP_BYTES: usize = 8;

/// Name of the pod key's file in its memory-backed folder.
pub const POD_KEY_FILE: &str = "spool.key";

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file of the pod's key.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{path} holds no key of {KEY_BYTES} bytes; remove it, and what was spooled under it is lost")]
    Content {
        /// Which file.
        path: PathBuf,
    },
    /// The system gives no randomness, or refuses to wrap.
    #[error("no key can be made")]
    Make,
    /// Wrapped under another pod key: that of another node, or of before a restart of the node.
    #[error("the pod's key does not open it; only the operator's recovery key can")]
    Foreign,
}

/// The operator's recovery key, once it is known: segments are wrapped to it from then on, and those of before, too.
pub struct RecoveryKey {
    pod_uid: String,
    key: ArcSwapOption<HpkePublicKey>,
}

impl RecoveryKey {
    /// Of this pod, for which alone the operator opens what is wrapped here.
    pub fn new(pod_uid: &str) -> Self {
        Self { pod_uid: pod_uid.to_owned(), key: ArcSwapOption::empty() }
    }

    /// The key in force. What it is to the one before.
    pub fn set(&self, key: [u8; RECOVERY_KEY_BYTES]) -> Change {
        let change = match self.key.load().as_ref() {
            Some(known) if known.0 == key => return Change::None,
            Some(_) => Change::Replaced,
            None => Change::First,
        };
        self.key.store(Some(Arc::new(HpkePublicKey(key.to_vec()))));
        change
    }

    /// The wrapped key; empty while there is no recovery key, or none that can be used.
    fn wrap(&self, key: &[u8; KEY_BYTES]) -> Vec<u8> {
        let Some(recovery) = self.key.load_full() else { return Vec::new() };
        let sealed = DH_KEM_X25519_HKDF_SHA256_AES_256.seal(HPKE_INFO, self.pod_uid.as_bytes(), key, &recovery);
        sealed.map_or_else(|_| Vec::new(), |(secret, sealed)| [secret.0, sealed].concat())
    }
}

/// Makes and opens the keys of segments.
#[derive(Clone)]
pub struct Keys {
    pod: Arc<[u8; KEY_BYTES]>,
    recovery: Option<Arc<RecoveryKey>>,
}

/// What a recovery key is to the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The same.
    None,
    /// There was none.
    First,
    /// The one before was another: nobody may open what is wrapped to that.
    Replaced,
}

/// The key of one segment.
pub struct DataKey(LessSafeKey);

/// A fresh key with its wrapped forms.
pub struct Fresh {
    /// The key.
    pub key: DataKey,
    /// Under the pod's key.
    pub pod: Vec<u8>,
    /// To the recovery key; may be empty.
    pub recovery: Vec<u8>,
}

impl Keys {
    /// With the pod's key out of a folder in memory; the first process of a pod makes it.
    ///
    /// # Errors
    /// The file can be neither read nor made.
    pub fn load(folder: &Path, recovery: Option<Arc<RecoveryKey>>) -> Result<Self, KeyError> {
        let path = folder.join(POD_KEY_FILE);
        let pod = match File::open(&path) {
            Ok(file) => read_key(file, &path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(&path)?,
            Err(source) => return Err(KeyError::Io { path, source }),
        };
        Ok(Self { pod: Arc::new(pod), recovery })
    }

    /// With a given key: for tests, and where a pod's key lives elsewhere.
    pub fn with_pod_key(pod: [u8; KEY_BYTES], recovery: Option<Arc<RecoveryKey>>) -> Self {
        Self { pod: Arc::new(pod), recovery }
    }

    /// A key for a new segment.
    ///
    /// # Errors
    /// [`KeyError::Make`].
    pub fn fresh(&self) -> Result<Fresh, KeyError> {
        let mut key = [0; KEY_BYTES];
        rand::fill(&mut key).map_err(|_| KeyError::Make)?;
        let mut pod = vec![0; KEY_BYTES + WRAP_BYTES];
        self.kek()?.wrap(&key, &mut pod).map_err(|_| KeyError::Make)?;
        let recovery = self.recovery.as_ref().map(|recovery| recovery.wrap(&key)).unwrap_or_default();
        let fresh = DataKey::new(&key).ok_or(KeyError::Make)?;
        wipe(&mut key);
        Ok(Fresh { key: fresh, pod, recovery })
    }

    /// A segment's key, wrapped to the recovery key. `None`: there is none, or the pod's key does not open it.
    pub fn rewrap(&self, wrapped: &[u8]) -> Option<Vec<u8>> {
        let mut key = self.open(wrapped).ok()?;
        let rewrapped = self.recovery.as_ref().map(|recovery| recovery.wrap(&key));
        wipe(&mut key);
        rewrapped.filter(|rewrapped| !rewrapped.is_empty())
    }

    fn open(&self, wrapped: &[u8]) -> Result<[u8; KEY_BYTES], KeyError> {
        let mut key = [0; KEY_BYTES];
        if wrapped.len() != KEY_BYTES + WRAP_BYTES {
            return Err(KeyError::Foreign);
        }
        self.kek()?.unwrap(wrapped, &mut key).map_err(|_| KeyError::Foreign)?;
        Ok(key)
    }

    /// Opens a segment's key.
    ///
    /// # Errors
    /// [`KeyError::Foreign`].
    pub fn unwrap(&self, wrapped: &[u8]) -> Result<DataKey, KeyError> {
        let mut key = self.open(wrapped)?;
        let opened = DataKey::new(&key).ok_or(KeyError::Make);
        wipe(&mut key);
        opened
    }

    fn kek(&self) -> Result<AesKek, KeyError> {
        AesKek::new(&AES_256, self.pod.as_slice()).map_err(|_| KeyError::Make)
    }
}

impl DataKey {
    /// From its bytes: what an unwrapping by the operator gives.
    pub fn new(key: &[u8; KEY_BYTES]) -> Option<Self> {
        UnboundKey::new(&AES_256_GCM, key).ok().map(|key| Self(LessSafeKey::new(key)))
    }

    /// In place of a key that nobody can open any more: under it every frame is damaged, and so told.
    pub fn lost() -> Option<Self> {
        Self::new(&[0; KEY_BYTES])
    }

    /// Encrypts in place and gives the tag. `number` is used once under a key: a frame's number, and no file is written
    /// twice (D4).
    pub(super) fn seal(&self, number: u32, authenticated: &[u8], text: &mut [u8]) -> Option<[u8; super::TAG_BYTES]> {
        let tag = self.0.seal_in_place_separate_tag(nonce(number), Aad::from(authenticated), text).ok()?;
        tag.as_ref().try_into().ok()
    }

    /// Decrypts in place.
    pub(super) fn open<'a>(&self, number: u32, authenticated: &[u8], text: &'a mut [u8]) -> Option<&'a [u8]> {
        self.0.open_in_place(nonce(number), Aad::from(authenticated), text).ok().map(|text| &*text)
    }
}

fn nonce(number: u32) -> Nonce {
    let mut nonce = [0; 12];
    for (slot, byte) in nonce.iter_mut().zip(number.to_le_bytes()) {
        *slot = byte;
    }
    Nonce::assume_unique_for_key(nonce)
}

/// Best effort: what the compiler may not leave out.
fn wipe(key: &mut [u8; KEY_BYTES]) {
    key.fill(0);
    std::hint::black_box(key);
}

fn read_key(file: File, path: &Path) -> Result<[u8; KEY_BYTES], KeyError> {
    let mut bytes = Vec::with_capacity(KEY_BYTES + 1);
    let read = file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
    bytes.try_into().map_err(|_| KeyError::Content { path: path.to_owned() })
}

/// The file appears whole under its name, so that a process that dies here leaves none that cannot be read.
fn make_key(path: &Path) -> Result<[u8; KEY_BYTES], KeyError> {
    let mut key = [0; KEY_BYTES];
    rand::fill(&mut key).map_err(|_| KeyError::Make)?;
    let partial = path.with_extension("partial");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(&key)?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d5_a_damaged_key_of_the_pod_is_told_with_what_to_do_and_stays() {
        let folder = std::env::temp_dir().join(format!("testimony-spool-key-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(POD_KEY_FILE);
        let load = || Keys::load(&folder, None);
        let first = load().ok().and_then(|keys| keys.fresh().ok()).expect("the first process makes it");
        assert!(load().is_ok_and(|keys| keys.unwrap(&first.pod).is_ok()), "the next one finds it");
        for bytes in [0, 1, KEY_BYTES - 1, KEY_BYTES + 1, 4096] {
            std::fs::write(&path, vec![7; bytes]).expect("a damaged file");
            let told = load().err().expect("no key").to_string();
            let wanted = "holds no key of 32 bytes; remove it, and what was spooled under it is lost";
            assert_eq!(told, format!("{} {wanted}", path.display()), "{bytes}");
            assert_eq!(std::fs::metadata(&path).expect("it is there").len(), bytes as u64, "nobody writes over it");
        }
        std::fs::remove_file(&path).expect("remove");
        std::fs::create_dir(&path).expect("a folder in its place");
        let told = load().err().expect("no key").to_string();
        assert!(told.starts_with(&format!("{}: ", path.display())), "{told}");
        std::fs::remove_dir_all(&folder).expect("remove");
    }
}

//! Keys of spools for a node that restarted (D5): a sidecar wraps each segment's key to the operator's recovery key too, by
//! HPKE (RFC 9180: X25519, HKDF-SHA256, AES-256-GCM). The pod's own key was in memory and is gone with the node; the operator
//! opens the other form for the same pod, and its ledger says so. Nothing is encrypted here: what is sent, and what both bind
//! a wrapped key to.

use crate::evidence::stream::{STREAM_ID_BYTES_MAX, StreamId};
use serde::{Deserialize, Serialize};

/// HPKE's `info`. The additional data is the pod's uid: another pod's request opens nothing.
pub const HPKE_INFO: &[u8] = b"testimony spool key v1";

/// Bytes of the recovery key's public half, and of HPKE's encapsulated secret, with which a wrapped key begins.
pub const RECOVERY_KEY_BYTES: usize = 32;

/// Longest wrapped key, in bytes: the secret, a key of 32 bytes, a tag of 16.
pub const WRAPPED_BYTES_MAX: usize = RECOVERY_KEY_BYTES + 32 + 16;

/// Most keys of one request.
pub const KEYS_MAX: usize = 64;

/// Most streams of one request: each is an entry of the ledger. A segment of a spool holds no more, so that each can be asked
/// for.
pub const STREAMS_MAX: usize = 128;

/// Largest request and largest answer, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A request of the most and the longest fits: a name in quotes with a comma, a key in base64 likewise, and what stands around.
const _: () = assert!(
    STREAMS_MAX * (STREAM_ID_BYTES_MAX + 3) + KEYS_MAX * (WRAPPED_BYTES_MAX.div_ceil(3) * 4 + 3) + 64
        <= MESSAGE_BYTES_MAX
);

/// What a sidecar asks, as JSON to [`crate::contract::UNWRAP_PATH`]. Without keys it only asks for the recovery key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnwrapRequest {
    /// The streams whose records stand under these keys; all of the pod that asks.
    pub streams: Vec<StreamId>,
    /// Wrapped keys, in base64.
    pub keys: Vec<String>,
}

/// The answer, once the ledger says to whom the keys were given.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnwrapResponse {
    /// The public half of the recovery key in force, in base64.
    pub recovery_key: String,
    /// For each key of the request, in order: the key in base64; `None`: the recovery key does not open it.
    pub keys: Vec<Option<String>>,
}

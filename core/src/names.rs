//! Names of addresses: which pod or Service of the cluster stands behind an address that a connection shows.
//!
//! The sidecar asks for the addresses that it meets (`POST` [`crate::contract::NAMES_PATH`], JSON); the operator answers
//! with those that it knows, and with a bounded number of neighbours of the asking pod, so that most are known before
//! they are met. A name is what the operator's watch says at that time: good for finding, no proof of identity.

use crate::record::{Field, Record};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Most addresses of one request, and most that a sidecar keeps.
pub const ADDRESSES_MAX: usize = 1024;

/// Most names that an answer adds to those that were asked for.
pub const NEIGHBOURS_MAX: usize = 256;

/// Largest answer, in bytes: a name has at most a namespace (63), four names (253 each), a uid, an address.
pub const ANSWER_BYTES_MAX: usize = (ADDRESSES_MAX + NEIGHBOURS_MAX) * 1536;

/// What a sidecar asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamesRequest {
    /// Addresses that it met, at most [`ADDRESSES_MAX`].
    pub addresses: Vec<IpAddr>,
    /// Digest of the last answer to these addresses: if it would be the same, the operator answers 204.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<String>,
}

/// What the operator knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamesResponse {
    /// Names this answer.
    pub digest: String,
    /// An address that was asked for and is not here belongs to nobody in the cluster.
    pub names: Vec<Named>,
}

/// An address and who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Named {
    /// Never one that IPv4 shares with IPv6 (`::ffff:...`).
    pub address: IpAddr,
    /// Its bearer.
    #[serde(flatten)]
    pub bearer: Bearer,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase")]
pub enum Bearer {
    /// A pod with an address of its own.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its uid: tells it from another pod that gets the same name or address later.
        uid: String,
        /// Its ServiceAccount.
        service_account: String,
        /// `Kind/name` of the workload that owns it.
        workload: String,
    },
    /// A Service, by one of its cluster addresses.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl Bearer {
    /// Writes the names into a record, and where they come from.
    pub(crate) fn describe(&self, record: &mut Record) {
        record.set(Field::PeerSrc, b"operator");
        match self {
            Self::Pod { namespace, name, uid, service_account, workload } => {
                record.set(Field::PeerNamespace, namespace.as_bytes());
                record.set(Field::PeerPod, name.as_bytes());
                record.set(Field::PeerPodUid, uid.as_bytes());
                record.set(Field::PeerServiceAccount, service_account.as_bytes());
                record.set(Field::PeerWorkload, workload.as_bytes());
            }
            Self::Service { namespace, name } => {
                record.set(Field::PeerNamespace, namespace.as_bytes());
                record.set(Field::PeerService, name.as_bytes());
            }
        }
    }

    /// `system:serviceaccount:NAMESPACE:NAME` of a pod.
    pub(crate) fn actor(&self) -> Option<String> {
        match self {
            Self::Pod { namespace, service_account, .. } => {
                Some(format!("system:serviceaccount:{namespace}:{service_account}"))
            }
            Self::Service { .. } => None,
        }
    }
}

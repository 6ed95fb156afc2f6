//! Naming addresses for a sidecar: those that it met, and its neighbours.

use crate::index::Index;
use std::collections::BTreeMap;
use std::net::IpAddr;
use testimony_core::names::{ADDRESSES_MAX, Bearer, NEIGHBOURS_MAX, Named, NamesRequest, NamesResponse};

/// The answer to a sidecar of this namespace; `None`: it has it already.
///
/// Neighbours are the bearers of the namespace first, then those of other namespaces in order of address, up to
/// [`NEIGHBOURS_MAX`]: in a small cluster that is everybody.
pub fn answer(index: &Index, namespace: &str, request: &NamesRequest) -> Option<NamesResponse> {
    let mut names: BTreeMap<IpAddr, Bearer> = BTreeMap::new();
    for address in request.addresses.iter().take(ADDRESSES_MAX) {
        let address = address.to_canonical();
        if let Some(bearer) = index.bearers.get(address) {
            names.insert(address, bearer.clone());
        }
    }
    for (address, bearer) in index.bearers.neighbours(namespace, NEIGHBOURS_MAX) {
        names.entry(address).or_insert_with(|| bearer.clone());
    }
    let names: Vec<Named> = names.into_iter().map(|(address, bearer)| Named { address, bearer }).collect();
    let digest = crate::compile::revision(&serde_json::to_vec(&names).unwrap_or_default());
    (request.known.as_ref() != Some(&digest)).then_some(NamesResponse { digest, names })
}

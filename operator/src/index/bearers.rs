//! Who has which address of the cluster.

use crate::index::Key;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use testimony_core::names::Bearer;

/// Addresses of one object that are kept: one of each family, and some room.
const ADDRESSES_PER_OBJECT_MAX: usize = 8;

/// Who has which address. An address belongs to the object that claimed it last.
#[derive(Debug, Default)]
pub struct Bearers {
    by_address: BTreeMap<IpAddr, (Owner, Bearer)>,
    by_owner: HashMap<Owner, Vec<IpAddr>>,
    by_namespace: BTreeMap<String, BTreeSet<IpAddr>>,
}

/// A pod's uid, or a Service's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    Pod(String),
    Service(Key),
}

impl Bearers {
    /// Who has this address.
    pub fn get(&self, address: IpAddr) -> Option<&Bearer> {
        self.by_address.get(&address).map(|(_, bearer)| bearer)
    }

    /// At most `count_max` addresses: those of the namespace first.
    pub fn neighbours(&self, namespace: &str, count_max: usize) -> impl Iterator<Item = (IpAddr, &Bearer)> {
        let own = self.by_namespace.get(namespace).into_iter().flatten();
        let own = own.filter_map(|address| Some((*address, self.get(*address)?)));
        let foreign = self.by_address.iter().filter(move |(_, (_, bearer))| self::namespace(bearer) != namespace);
        own.chain(foreign.map(|(address, (_, bearer))| (*address, bearer))).take(count_max)
    }

    /// The object has these addresses now, and no others.
    pub(super) fn claim(&mut self, owner: Owner, bearer: &Bearer, addresses: Vec<IpAddr>) {
        let same = self.by_owner.get(&owner).is_some_and(|known| *known == addresses)
            && addresses
                .iter()
                .all(|address| self.by_address.get(address).is_some_and(|(o, b)| *o == owner && b == bearer));
        if same {
            return;
        }
        self.release(&owner);
        for address in &addresses {
            if let Some((former, _)) = self.by_address.get(address) {
                let former = former.clone();
                self.forget(&former, *address);
            }
            self.by_address.insert(*address, (owner.clone(), bearer.clone()));
            self.by_namespace.entry(namespace(bearer).to_owned()).or_default().insert(*address);
        }
        if !addresses.is_empty() {
            self.by_owner.insert(owner, addresses);
        }
    }

    /// The object is gone.
    pub(super) fn release(&mut self, owner: &Owner) {
        for address in self.by_owner.remove(owner).into_iter().flatten() {
            self.forget(owner, address);
        }
    }

    fn forget(&mut self, owner: &Owner, address: IpAddr) {
        if let Some((holder, bearer)) = self.by_address.get(&address).filter(|(holder, _)| holder == owner) {
            let namespace = namespace(bearer).to_owned();
            if let Some(addresses) = self.by_owner.get_mut(&holder.clone()) {
                addresses.retain(|a| *a != address);
            }
            if let Some(addresses) = self.by_namespace.get_mut(&namespace) {
                addresses.remove(&address);
                if addresses.is_empty() {
                    self.by_namespace.remove(&namespace);
                }
            }
            self.by_address.remove(&address);
        }
    }
}

fn namespace(bearer: &Bearer) -> &str {
    match bearer {
        Bearer::Pod { namespace, .. } | Bearer::Service { namespace, .. } => namespace,
    }
}

fn parsed<'a>(addresses: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    let parsed = addresses.filter_map(|text| text.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical());
    parsed.take(ADDRESSES_PER_OBJECT_MAX).collect()
}

/// Addresses that are the pod's own and in use: none of a pod on the node's network, none of one that has ended.
pub(super) fn of_pod(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let host_network = pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or_default();
    if host_network || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let first = status.pod_ip.as_deref();
    let others = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).filter(|ip| Some(*ip) != first);
    parsed(first.into_iter().chain(others))
}

/// A pod, as records name it.
pub(super) fn pod(object: &Pod) -> Bearer {
    let (kind, name) = crate::inject::workload(object);
    let account = object.spec.as_ref().and_then(|s| s.service_account_name.clone());
    Bearer::Pod {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        service_account: account.unwrap_or_else(|| "default".to_owned()),
        workload: format!("{kind}/{}", name.unwrap_or_else(|| object.name_any())),
    }
}

/// The cluster addresses of a Service; a headless one has none.
pub(super) fn of_service(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let first = spec.cluster_ip.as_deref();
    let others = spec.cluster_ips.iter().flatten().map(String::as_str).filter(|ip| Some(*ip) != first);
    parsed(first.into_iter().chain(others))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn put(bearers: &mut Bearers, object: Value) {
        let object: Pod = serde_json::from_value(object).expect("a pod");
        let owner = Owner::Pod(object.uid().unwrap_or_default());
        bearers.claim(owner, &pod(&object), of_pod(&object));
    }

    fn sample(uid: &str, address: &str) -> Value {
        json!({"metadata": {"name": uid, "namespace": "shop", "uid": uid, "labels": {"pod-template-hash": "5c"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5c", "uid": "r", "controller": true}]},
               "spec": {"containers": [], "serviceAccountName": "web"},
               "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}, {"ip": "fd00::1"}]}})
    }

    fn named(bearers: &Bearers, address: &str) -> Option<String> {
        match bearers.get(ip(address))? {
            Bearer::Pod { name, workload, service_account, .. } => Some(format!("{name} {workload} {service_account}")),
            Bearer::Service { name, .. } => Some(name.clone()),
        }
    }

    #[test]
    fn a_pod_has_its_addresses_until_it_ends() {
        let mut bearers = Bearers::default();
        put(&mut bearers, sample("a", "10.0.0.1"));
        assert_eq!(named(&bearers, "10.0.0.1").as_deref(), Some("a Deployment/web web"));
        assert_eq!(named(&bearers, "fd00::1").as_deref(), Some("a Deployment/web web"));
        let mut ended = sample("a", "10.0.0.1");
        ended["status"]["phase"] = json!("Succeeded");
        put(&mut bearers, ended);
        assert_eq!(named(&bearers, "10.0.0.1"), None);
        assert!(bearers.by_owner.is_empty() && bearers.by_namespace.is_empty(), "{bearers:?}");
    }

    #[test]
    fn an_address_that_is_given_again_belongs_to_the_new_pod() {
        let mut bearers = Bearers::default();
        put(&mut bearers, sample("a", "10.0.0.1"));
        put(&mut bearers, sample("b", "10.0.0.1"));
        assert_eq!(named(&bearers, "10.0.0.1").as_deref(), Some("b Deployment/web web"));
        bearers.release(&Owner::Pod("a".to_owned()));
        assert!(named(&bearers, "10.0.0.1").is_some(), "the old pod's end takes nothing from the new one");
        bearers.release(&Owner::Pod("b".to_owned()));
        assert!(bearers.by_address.is_empty() && bearers.by_namespace.is_empty(), "{bearers:?}");
    }

    #[test]
    fn a_pod_on_the_nodes_network_has_no_address_of_its_own() {
        let mut object = sample("a", "10.0.0.1");
        object["spec"]["hostNetwork"] = json!(true);
        assert!(of_pod(&serde_json::from_value(object).expect("a pod")).is_empty());
    }

    #[test]
    fn a_headless_service_has_none() {
        let service = |spec: Value| -> Service { serde_json::from_value(json!({"spec": spec})).expect("a Service") };
        assert!(of_service(&service(json!({"clusterIP": "None", "clusterIPs": ["None"]}))).is_empty());
        let both = service(json!({"clusterIP": "10.1.0.1", "clusterIPs": ["10.1.0.1", "fd01::1"]}));
        assert_eq!(of_service(&both), [ip("10.1.0.1"), ip("fd01::1")]);
    }

    #[test]
    fn the_namespace_comes_first_among_neighbours() {
        let mut bearers = Bearers::default();
        for (n, namespace) in ["a", "b", "c"].into_iter().enumerate() {
            let mut object = sample(namespace, &format!("10.0.0.{n}"));
            object["metadata"]["namespace"] = json!(namespace);
            object["status"]["podIPs"] = json!([]);
            put(&mut bearers, object);
        }
        let found: Vec<IpAddr> = bearers.neighbours("c", 2).map(|(address, _)| address).collect();
        assert_eq!(found, [ip("10.0.0.2"), ip("10.0.0.0")]);
    }
}

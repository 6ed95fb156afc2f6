//! `roots`: what a verification must be given.

use crate::args::{ClusterArgs, RootsArgs};
use crate::cluster::Cluster;
use crate::output::{print_data, printable};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::note::PublicKey;
use testimony_core::evidence::roots::Roots;
use testimony_operator::witness::store::{IN_FORCE_KEY, ROOTS, ROOTS_KEY};
use x509_parser::pem::Pem;

/// Runs the command.
///
/// # Errors
/// The cluster is not reached, or its operator has published no roots.
pub async fn run(args: &RootsArgs, cluster: &ClusterArgs) -> Result<u8> {
    let cluster = Cluster::connect(cluster).await?;
    print_data(&text(&read(&cluster, &args.operator_namespace).await?)?)?;
    Ok(0)
}

/// The roots that the operator has published.
///
/// # Errors
/// The cluster is not reached, or there are none.
pub async fn read(cluster: &Cluster, operator_namespace: &str) -> Result<Roots> {
    parsed(&published(cluster, operator_namespace).await?)
}

/// The authorities by which the operator's servers are known now, in PEM: fewer than in the roots, where former ones stay.
///
/// # Errors
/// The cluster is not reached, or there are none.
pub async fn in_force(cluster: &Cluster, operator_namespace: &str) -> Result<String> {
    let mut data = published(cluster, operator_namespace).await?;
    match data.remove(IN_FORCE_KEY) {
        Some(authorities) => Ok(authorities),
        // An operator of before, whose roots hold no others.
        None => Ok(parsed(&data)?.authorities),
    }
}

/// The ConfigMap with the roots.
async fn published(cluster: &Cluster, operator_namespace: &str) -> Result<BTreeMap<String, String>> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), operator_namespace);
    let data = cluster.get(api, ROOTS).await?.and_then(|object| object.data);
    match data.filter(|data| data.contains_key(ROOTS_KEY)) {
        Some(data) => Ok(data),
        None => bail!(
            "no roots in namespace {operator_namespace}: name the installation's with --operator-namespace, or look into the controller's log"
        ),
    }
}

fn parsed(data: &BTreeMap<String, String>) -> Result<Roots> {
    let text = data.get(ROOTS_KEY).map(String::as_str).unwrap_or_default();
    Roots::parse(text).with_context(|| format!("ConfigMap {ROOTS}"))
}

/// Roots with fingerprints for people.
///
/// # Errors
/// An authority is no certificate.
pub fn text(roots: &Roots) -> Result<String> {
    let mut out = String::from("# Trust roots of Testimony. Compare the fingerprints by another way than this file.\n");
    for (kind, keys) in [("ledger", &roots.ledgers), ("witness", &roots.witnesses)] {
        for named in keys {
            let PublicKey(bytes) = named.key;
            let _ = writeln!(out, "# {kind} key {}: SHA-256 {}", named.name, Hash::of(&[&bytes]));
        }
    }
    for pem in Pem::iter_from_buffer(roots.authorities.as_bytes()) {
        let pem = pem.context("the operator's authorities")?;
        let certificate = pem.parse_x509().context("the operator's authorities")?;
        let (name, end) = (certificate.subject(), certificate.validity().not_after);
        let _ = writeln!(
            out,
            "# authority {}, until {end}: SHA-256 {}",
            printable(&name.to_string()),
            Hash::of(&[&pem.contents])
        );
    }
    out.push_str(&roots.encode());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cluster;
    use serde_json::json;

    const OLD: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    const NEW: &str = "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n";

    #[tokio::test]
    async fn servers_are_known_by_the_authorities_in_force_and_not_by_former_ones() {
        let both = format!("{NEW}{OLD}");
        let table = [
            (json!({"roots": both, "authorities": NEW}), Some(NEW)),
            (json!({"roots": both}), Some(both.as_str())),
            (json!({"authorities": NEW}), None),
        ];
        for (data, expected) in table {
            let path = "/api/v1/namespaces/testimony-system/configmaps/testimony-roots";
            let (cluster, _) = cluster([(path, json!({"data": data}))].into());
            let found = in_force(&cluster, "testimony-system").await;
            assert_eq!(found.ok().as_deref(), expected, "{data}");
            let roots = read(&cluster, "testimony-system").await.ok().map(|roots| roots.authorities);
            assert_eq!(roots.is_some(), expected.is_some() && roots.as_deref() == Some(&both), "{data}");
        }
    }
}

//! `roots`: what a verification must be given.

use crate::args::{ClusterArgs, RootsArgs};
use crate::cluster::Cluster;
use crate::output::{print_data, printable};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use std::fmt::Write as _;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::note::PublicKey;
use testimony_core::evidence::roots::Roots;
use testimony_operator::witness::store::{ROOTS, ROOTS_KEY};
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
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), operator_namespace);
    let object = cluster.get(api, ROOTS).await?;
    let Some(roots) = object.and_then(|object| object.data?.remove(ROOTS_KEY)) else {
        bail!(
            "no roots in namespace {operator_namespace}: name the installation's with --operator-namespace, or look into the controller's log"
        );
    };
    Roots::parse(&roots).with_context(|| format!("ConfigMap {ROOTS}"))
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

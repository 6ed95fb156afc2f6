//! A firewall that enforces NetworkPolicies on the local node, for as long as a test wants one.

use super::{Node, clean, process};
use crate::steps::{Log, output};
use anyhow::Result;
use std::process::Command;

/// The program.
pub const NAME: &str = "kube-router";
/// What the names of its chains begin with.
const CHAINS: [&str; 3] = ["KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-"];
/// What the names of its address sets begin with.
const SETS: [&str; 2] = ["KUBE-SRC-", "KUBE-DST-"];

/// While it stands, NetworkPolicies are enforced between the pods of the node.
pub struct Firewall<'a> {
    node: &'a Node,
    log: &'a Log,
}

impl<'a> Firewall<'a> {
    /// Starts it. Its rules are there some seconds later.
    pub fn start(node: &'a Node, log: &'a Log) -> Result<Self> {
        let firewall = Self { node, log };
        process::start(&node.paths, NAME, log)?;
        Ok(firewall)
    }

    /// Fails with its log when it has ended.
    pub fn check(&self) -> Result<()> {
        process::all_alive(&self.node.dir(), &[NAME])
    }
}

impl Drop for Firewall<'_> {
    fn drop(&mut self) {
        if let Err(error) = clean::remove_firewall(&self.node.dir(), self.log) {
            eprintln!("the firewall's rules may still stand (`cargo xtask down` removes them): {error:#}");
        }
    }
}

/// Whether an iptables chain is one of the firewall's.
pub fn is_chain(chain: &str) -> bool {
    CHAINS.iter().any(|prefix| chain.starts_with(prefix))
}

/// Removes the address sets that no rule names any more.
pub fn remove_sets() -> Result<()> {
    // Without the program there never was a set.
    let Ok(names) = output(Command::new("ipset").args(["list", "-name"])) else { return Ok(()) };
    for name in names.lines().filter(|name| SETS.iter().any(|prefix| name.starts_with(prefix))) {
        output(Command::new("ipset").args(["destroy", name]))?;
    }
    Ok(())
}

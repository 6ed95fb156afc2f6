//! What this machine must have before anything is built or started.

use crate::steps::{Log, output};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::process::Command;

/// Debian packages of a node, of the images that hold Debian's programs, and of the second verifier.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "conntrack",
    "containernetworking-plugins",
    "curl",
    "ebtables",
    "ethtool",
    "gcc",
    "iproute2",
    "ipset",
    "iptables",
    "libc6-dev",
    "libseccomp-dev",
    "mount",
    "nftables",
    "openssh-client",
    "openssl",
    "pkg-config",
    "postgresql-15",
    "postgresql-client-15",
    "python3",
    "python3-venv",
];
const GO_MINOR_MIN: u32 = 26;

/// Installs what lacks by apt-get.
pub fn packages(log: &Log) -> Result<()> {
    let missing: Vec<&str> = PACKAGES.iter().copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(
        Path::new("/usr/bin/apt-get").exists(),
        "these Debian packages are missing, and there is no apt-get to install them: {}",
        missing.join(" ")
    );
    log.set_note(format!("apt-get install {}", missing.join(" ")));
    keep_postgresql_quiet()?;
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-y", "-o", "Dpkg::Options::=--force-confold"]);
        command
    };
    log.run(apt().arg("update"))?;
    log.run(apt().args(["install", "--no-install-recommends"]).args(&missing))?;
    log.set_note(format!("installed {}", missing.join(" ")));
    Ok(())
}

fn is_installed(name: &str) -> bool {
    output(Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", name]))
        .is_ok_and(|status| status == "installed")
}

/// The package is wanted for its programs; without this its installation would make and start a database here.
fn keep_postgresql_quiet() -> Result<()> {
    let file = Path::new("/etc/postgresql-common/createcluster.conf");
    if !file.exists() {
        std::fs::create_dir_all("/etc/postgresql-common")?;
        std::fs::write(file, "create_main_cluster = false\n")?;
    }
    Ok(())
}

/// A Go that can build Kubernetes.
pub fn go() -> Result<()> {
    let version = output(Command::new("go").arg("version"))
        .context("Go is needed to build Kubernetes: install Go 1.26 or newer and put it in PATH")?;
    let minor = go_minor(&version).with_context(|| format!("cannot read the version in {version:?}"))?;
    ensure!(minor >= GO_MINOR_MIN, "Go 1.{GO_MINOR_MIN} or newer is needed, and this is {}", version.trim());
    Ok(())
}

fn go_minor(version: &str) -> Option<u32> {
    let number = version.split_once("go1.")?.1;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The node needs root: namespaces, mounts, links and packet filter rules.
pub fn root() -> Result<()> {
    // SAFETY: geteuid cannot fail and has no effects.
    if unsafe { libc::geteuid() } != 0 {
        bail!(
            "run this as root: the local node makes namespaces, mounts, links and packet filter rules; or use --kubeconfig with a cluster that exists"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_are_read() {
        assert_eq!(go_minor("go version go1.26.8 linux/amd64\n"), Some(26));
        assert_eq!(go_minor("go version go1.27rc1 linux/arm64"), Some(27));
        assert_eq!(go_minor("devel"), None);
    }
}

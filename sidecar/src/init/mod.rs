//! `init`: installs the redirect rules of a pod and proves that they work.
//!
//! The rules are one nf_tables table, `inet testimony`, for IPv4 and IPv6, put in place in one transaction over netlink
//! (kernel 5.2 or newer; no `nft` binary). Running again replaces the table. What the rules say stands in `rules.rs`.

mod attr;
mod batch;
mod canary;
mod capability;
mod expr;
mod netlink;
mod rules;

use std::collections::BTreeSet;
use std::fmt;

use testimony_core::contract;

pub use attr::Malformed;
pub use canary::{Canary, CanaryError};
pub use capability::CapabilityError;
pub use netlink::NetlinkError;
pub use rules::TABLE;

use batch::Kernel;
use netlink::Netlink;

/// The greatest number of excluded outbound ports.
pub const MAX_EXCLUDED_PORTS: usize = 64;

/// What the rules depend on. The default is the contract between operator and sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitConfig {
    /// User of the sidecar; with [`InitConfig::sidecar_gid`] the loop guard.
    pub sidecar_uid: u32,
    /// Group of the sidecar.
    pub sidecar_gid: u32,
    /// Port to which connections into the pod are redirected.
    pub inbound_port: u16,
    /// Port to which connections out of the pod are redirected.
    pub outbound_port: u16,
    /// The sidecar's admin port: reached from outside without a redirect.
    pub admin_port: u16,
    /// TCP ports to which outbound connections are left alone; at most [`MAX_EXCLUDED_PORTS`].
    pub exclude_outbound_ports: Vec<u16>,
}

impl Default for InitConfig {
    fn default() -> Self {
        Self {
            sidecar_uid: contract::id::SIDECAR_UID,
            sidecar_gid: contract::id::SIDECAR_GID,
            inbound_port: contract::port::INBOUND,
            outbound_port: contract::port::OUTBOUND,
            admin_port: contract::port::ADMIN,
            exclude_outbound_ports: Vec::new(),
        }
    }
}

impl InitConfig {
    fn validate(&self) -> Result<(), InitError> {
        let ports = [
            ("inbound_port", self.inbound_port),
            ("outbound_port", self.outbound_port),
            ("admin_port", self.admin_port),
        ];
        let mut seen = BTreeSet::new();
        for (field, port) in ports {
            if port == 0 {
                return Err(InitError::Config { field, problem: "port 0 cannot be listened on: give 1 to 65535" });
            }
            if !seen.insert(port) {
                return Err(InitError::Config { field, problem: "another listener has this port: give each its own" });
            }
        }
        let field = "exclude_outbound_ports";
        if self.exclude_outbound_ports.len() > MAX_EXCLUDED_PORTS {
            return Err(InitError::Config { field, problem: "more than 64 ports: exclude fewer" });
        }
        if self.exclude_outbound_ports.contains(&0) {
            return Err(InitError::Config { field, problem: "port 0 is no destination: give 1 to 65535" });
        }
        Ok(())
    }
}

/// Why the rules are not in force. [`InitError::exit_code`] tells the classes apart for whoever sees only the container.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The configuration makes no sense; nothing was changed.
    #[error("{field}: {problem}")]
    Config {
        /// The field of [`InitConfig`].
        field: &'static str,
        /// What is wrong, and what to give instead.
        problem: &'static str,
    },
    /// The process lacks the right to change rules; nothing was changed.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// `init` runs with the sidecar's user and group, which the rules let pass: it could not prove anything.
    #[error(
        "init runs with the sidecar's own user {uid} and group {gid}, which the rules leave alone: give it another user (runAsUser)"
    )]
    RunsAsSidecar {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// The kernel did not take the rules, or could not be asked.
    #[error("{source}; kernel {kernel}")]
    Netlink {
        /// What failed.
        source: NetlinkError,
        /// The kernel's release.
        kernel: String,
    },
    /// The kernel tells back other rules than were sent.
    #[error("the kernel holds other rules than were sent; wanted {wanted}; found {found}")]
    Mismatch {
        /// What was sent.
        wanted: String,
        /// What the kernel tells.
        found: String,
    },
    /// The rules are there but do not do their work.
    #[error(transparent)]
    Canary(#[from] CanaryError),
}

impl InitError {
    /// Exit code of `init`: 64 wrong configuration, 77 no right, 69 the kernel cannot or did not take the rules, 95 the
    /// rules were taken and do not hold.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. } | Self::RunsAsSidecar { .. } => 64,
            Self::Capability(_) => 77,
            Self::Netlink { .. } => 69,
            Self::Mismatch { .. } | Self::Canary(_) => 95,
        }
    }
}

impl From<NetlinkError> for InitError {
    fn from(source: NetlinkError) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kernel = match kernel.trim() {
            "" => "unknown".to_owned(),
            release => release.to_owned(),
        };
        Self::Netlink { source, kernel }
    }
}

/// What a successful `init` saw. `Display` is one line for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitReport {
    /// The canary over IPv4.
    pub ipv4: Canary,
    /// The canary over IPv6.
    pub ipv6: Canary,
}

impl fmt::Display for InitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redirect rules in force (table inet {TABLE}); IPv4 {}; IPv6 {}", self.ipv4, self.ipv6)
    }
}

/// Installs the rules in the calling thread's network namespace, reads them back, and sends a canary through them.
///
/// Needs `CAP_NET_ADMIN` in the permitted set and raises it by itself. Replaces the rules of an earlier run in one
/// transaction. Takes at most 5 s for each answer of the kernel and 2 s for the canary; no packet leaves when the rules
/// work. Without a route of a family, or with that family switched off, its canary is left out, and the report says so.
/// The inbound rule cannot be tried from inside: it is only read back.
///
/// # Errors
/// See [`InitError`]. After [`InitError::Mismatch`] and [`InitError::Canary`] the rules stay in place: a pod whose init
/// container failed does not start, and rules that capture too much are safer there than none.
pub fn run(config: &InitConfig) -> Result<InitReport, InitError> {
    config.validate()?;
    refuse_sidecar_identity(config)?;
    capability::raise_net_admin()?;
    let chains = rules::chains(config);
    let netlink = Netlink::open()?;
    netlink.commit(&batch::install(&chains))?;
    let wanted = Kernel::wanted(&chains);
    let found = netlink.read_back()?;
    if found != wanted {
        return Err(InitError::Mismatch { wanted: format!("{wanted:?}"), found: format!("{found:?}") });
    }
    let [ipv4, ipv6] = canary::check(config)?;
    Ok(InitReport { ipv4, ipv6 })
}

/// Removes the rules from the calling thread's network namespace; does nothing if there are none.
///
/// # Errors
/// [`InitError::Capability`] and [`InitError::Netlink`].
pub fn uninstall() -> Result<(), InitError> {
    capability::raise_net_admin()?;
    Netlink::open()?.commit(&batch::remove())?;
    Ok(())
}

fn refuse_sidecar_identity(config: &InitConfig) -> Result<(), InitError> {
    // SAFETY: these system calls take nothing and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    if (uid, gid) == (config.sidecar_uid, config.sidecar_gid) {
        return Err(InitError::RunsAsSidecar { uid, gid });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_configuration_is_valid() {
        assert!(InitConfig::default().validate().is_ok());
    }

    #[test]
    fn a_wrong_configuration_names_the_field() {
        let default = InitConfig::default;
        for (config, wanted) in [
            (InitConfig { inbound_port: 0, ..default() }, "inbound_port: port 0"),
            (InitConfig { admin_port: default().outbound_port, ..default() }, "admin_port: another listener"),
            (InitConfig { exclude_outbound_ports: vec![80, 0], ..default() }, "exclude_outbound_ports: port 0"),
            (InitConfig { exclude_outbound_ports: vec![80; 65], ..default() }, "exclude_outbound_ports: more than 64"),
        ] {
            let error = config.validate().expect_err(wanted);
            assert_eq!(error.exit_code(), 64);
            assert!(error.to_string().starts_with(wanted), "{error}");
        }
    }
}

//! The witness: certifies streams, remembers their heads in a ledger at the API server, and cosigns what is committed
//! (rules K1, W1, W2, W4). Only the leader answers; the ledger itself keeps two of them apart.
//!
//! [`desk`] decides (on certificates in its `certify`), with what is [`fair`] among pods and which [`contradictions`] were told,
//! [`cover`] looks at the cluster, [`authorities`] says which are published (all without I/O); [`keeper`] commits, [`export`] sends blocks to sinks until each has given a
//! [`receipt`], [`outside`] shows heads to a witness outside of the cluster, [`head_copy`] copies the newest one, [`retain`] says
//! which blocks stay, [`store`] and [`keys`] hold objects, [`http`] is what sidecars call.

mod authorities;
#[cfg(test)]
mod bench;
pub mod contradictions;
pub mod cover;
pub mod desk;
pub mod export;
pub mod fair;
mod grpc;
pub mod head_copy;
pub mod http;
pub mod keeper;
pub mod keys;
#[cfg(test)]
mod limits_tests;
pub mod outside;
pub mod receipt;
pub mod retain;
pub mod store;
#[cfg(test)]
mod tests;

pub use export::Exporter;
pub use head_copy::HeadCopy;
pub use http::{Asked, WitnessDoor};
pub use keeper::{Keeper, KeeperConfig};
pub use outside::{OutsideConfig, Shower};

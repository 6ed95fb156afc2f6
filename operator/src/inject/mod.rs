//! Injection: whether a pod gets a sidecar, and the patch that adds it. Pure.
//!
//! [`PodTraits::of`] reads what decisions look at, [`decide`] decides, [`patch()`] writes. [`undo`] takes the patch back
//! (OP-2), and patching a patched pod changes nothing (OP-1): in a strict namespace a pod that claims to be patched is patched
//! again, because anybody can write such a claim.

pub mod admission_policy;
mod build;
mod decide;
mod evictable;
mod patch;
mod probes;
mod reason;
mod resources;
#[cfg(test)]
mod strict_tests;
#[cfg(test)]
mod tests;
mod traits;
mod undo;

pub use build::{PROBE_FAILURES_MAX, Plan, SidecarConfig, sink_volumes, workload};
pub use decide::{
    Decision, Enforcement, ExcludedNamespaces, NAMESPACES_NEVER, Outlook, Selection, admit, decide, outlook,
};
pub use patch::{PatchError, patch};
pub use probes::{ChangedProbe, InjectionStatus};
pub use reason::Reason;
pub use resources::Resources;
pub use traits::{PodTraits, is_injection_id};
pub use undo::{UndoError, undo};

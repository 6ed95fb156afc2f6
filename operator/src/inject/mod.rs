//! Injection: whether a pod gets a sidecar, and the patch that adds it. Pure.
//!
//! [`PodTraits::of`] reads what decisions look at, [`decide`] decides, [`patch()`] writes. [`undo`] takes the patch back
//! (OP-2), and patching a patched pod changes nothing (OP-1).

mod build;
mod decide;
mod patch;
mod probes;
#[cfg(test)]
mod tests;
mod traits;
mod undo;

pub use build::{PROBE_FAILURES_MAX, Plan, Resources, SidecarConfig, workload};
pub use decide::{Decision, ExcludedNamespaces, Outlook, Reason, Selection, decide, outlook};
pub use patch::{PatchError, patch};
pub use probes::{ChangedProbe, InjectionStatus};
pub use traits::PodTraits;
pub use undo::{UndoError, undo};

//! From policies and sinks to the policy document of one workload. Pure.
//!
//! Two steps: [`accept_policy`], [`accept_cluster_policy`] and [`accept_sink`] parse one object each, once, when it arrives; [`compile`] joins those
//! that concern a pod. What is not accepted never reaches a document, and harms no other object.

mod accept;
mod accept_sink;
mod cluster;
mod document;
#[cfg(test)]
mod tests;

pub use accept::{AcceptedPolicy, Invalid, accept_policy};
pub use accept_sink::accept_sink;
pub use cluster::{ClusterScope, NAMESPACE_OPTED_OUT, Reach, Scope, accept_cluster_policy};
pub use document::{Compiled, PolicyInput, SinkInput, compile, default_sink, policy_name, revision};

//! Tests against a real cluster with the chart installed; `cargo xtask test --only cluster` prepares it and runs them.

mod alone;
mod certificates;
mod cli;
mod cluster_policy;
mod context;
mod delivery;
mod evidence;
mod exchanges;
mod grpc;
mod harness;
mod injection;
mod leaving;
mod objects;
mod pods;
mod policy;
mod probes;
mod shape;
mod sinks;
mod status;
mod streams;
mod strict;
mod tamper;
mod witness;
mod workloads;

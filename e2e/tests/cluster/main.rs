//! Tests against a real cluster with the chart installed; `cargo xtask test --only cluster` prepares it and runs them.

mod exchanges;
mod harness;
mod injection;
mod pods;
mod probes;
mod shape;
mod streams;
mod workloads;

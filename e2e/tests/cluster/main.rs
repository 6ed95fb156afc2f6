//! Tests against a real cluster with the chart installed; `cargo xtask test --only cluster` prepares it and runs them.

mod alone;
mod context;
mod exchanges;
mod harness;
mod objects;
mod policy;
mod sinks;

//! What stands behind `cargo xtask`: programs built from Go modules, a one-node Kubernetes, container images, the demo
//! and the stages of the test run. The cluster tests use the same code.

pub mod cluster;
pub mod demo;
pub mod image;
pub mod install;
pub mod kube;
pub mod lock;
pub mod node;
pub mod oracle;
pub mod panics;
pub mod paths;
pub mod prereq;
pub mod programs;
pub mod records;
pub mod stages;
pub mod steps;

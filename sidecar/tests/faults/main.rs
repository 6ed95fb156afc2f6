//! The counting oracle: a real sidecar as processes of its own, an application, a client that logs each request, and a sink
//! that does what sinks do when they fail. Afterwards the client's log must be what was recorded, plus what gaps declare.
//!
//! `TESTIMONY_SEED` repeats a run (each prints its seed), `TESTIMONY_KILLS` says how often the sidecar is killed, and
//! `TESTIMONY_FAULTS_KEEP=1` keeps each export, for `testimony verify`. What failed is always kept.

mod client;
mod clock;
mod collector;
mod disk;
mod export;
mod kills;
mod large;
mod nodes;
mod oracle;
mod oracle_tests;
mod origin;
#[path = "../support/otelcol.rs"]
mod otelcol;
#[path = "../support/panics.rs"]
mod panics;
#[path = "../support/ports.rs"]
mod ports;
mod process;
mod receiver;
mod restarts;
mod scene;
mod shim;
mod sinks;
mod tamper;
mod threads;
mod wire;

//! HTTP/2 with and without the sidecar is the same (PX-1), and each stream is one record (EV-1).

#[path = "../support/mod.rs"]
mod support;

mod drain;
mod ends;
mod limits;
mod passes;
mod raw;
mod rig;
mod rpc;

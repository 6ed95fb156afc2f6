//! HTTP/2 with and without the sidecar is the same (PX-1), and each stream is one record (EV-1).

#[path = "../support/panics.rs"]
mod panics;
#[path = "../support/ports.rs"]
mod ports;
#[path = "../support/mod.rs"]
mod support;

mod deadlines;
mod drain;
mod ends;
mod floods;
mod limits;
mod passes;
mod peer;
mod raw;
mod rig;
mod rpc;

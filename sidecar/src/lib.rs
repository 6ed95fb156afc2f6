//! Testimony's sidecar: see ARCHITECTURE.md for the way of one request.

pub mod admin;
pub mod background;
pub mod client;
pub mod config;
pub mod data;
pub mod defect;
pub mod descriptors;
pub mod drain;
pub mod export;
pub mod init;
pub mod memory;
pub mod metrics;
pub mod names;
pub mod origin;
pub mod poll;
pub mod proxy;
pub mod redirect_dst;
pub mod routes;
pub mod spool;
pub mod supervisor;
pub mod tail;
pub mod unspooled;
pub mod witness;
pub mod worker;

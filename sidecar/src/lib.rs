//! Testimony's sidecar: see ARCHITECTURE.md for the way of one request.

pub mod admin;
pub mod client;
pub mod config;
pub mod export;
pub mod metrics;
pub mod poll;

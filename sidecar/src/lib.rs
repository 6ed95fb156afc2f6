//! Testimony's sidecar: see ARCHITECTURE.md for the way of one request.

pub mod init;
pub mod redirect_dst;
pub mod supervisor;

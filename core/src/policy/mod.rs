//! What to record: the policy document, the only contract between operator and sidecar, and the long poll that carries it.

mod document;
mod poll;

pub use document::*;
pub use poll::*;

//! What to record: the policy document, the only contract between operator and sidecar, the judge that runs it, and the long
//! poll that carries it.

mod cel;
mod document;
mod judge;
mod poll;

pub use cel::*;
pub use document::*;
pub use judge::*;
pub use poll::*;

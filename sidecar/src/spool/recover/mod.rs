//! What an earlier process left (D3): the longest valid prefix of its frames, read a window at a time.

mod found;
mod headers;
mod names;
mod scan;
pub(super) mod walk;

pub use found::{Damage, HeadFound, OpenBegin, Report, StreamFound};
pub use names::names;
pub use scan::{Scanned, Unreadable, scan};

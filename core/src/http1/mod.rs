//! HTTP/1.0 and 1.1 as a pass-through: what came is forwarded byte for byte, a head is touched only to add our fields.
//!
//! [`Session`] is one accepted connection with its one upstream connection, without sockets and without a clock: bytes go
//! in, bytes to write and a verdict ([`Next`]) come out, and an [`Observer`] is told what went by. A head is forwarded
//! only when it is complete and keeps to section 10 of the design; body bytes are forwarded as they come.

mod api;
mod body;
mod edit;
mod gather;
mod head;
mod session;
#[cfg(test)]
mod tests;

pub use api::*;
pub use edit::HeadEdit;
pub(crate) use head::is_token_byte;
pub use session::{Next, Phase, Progress, Session};

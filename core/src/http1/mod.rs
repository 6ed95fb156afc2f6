//! HTTP/1.0 and 1.1 as a pass-through: what came is forwarded byte for byte, a head is touched only to add our fields.

mod api;

pub use api::*;

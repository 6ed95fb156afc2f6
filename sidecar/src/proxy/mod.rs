//! The proxy: one accepted connection is paired with one connection to its original destination, and the bytes between
//! them pass through a machine that captures what it sees.

mod accept;
mod alarm;
mod channel;
mod connection;
mod flow;
mod h2;
mod hold;
mod relay;

pub use accept::{Drain, Listening, Pod, serve};
pub use connection::CONNECTIONS_MAX;

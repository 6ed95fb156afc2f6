//! Names of the addresses that connections show: a bounded table, and the task that has the operator fill it.

mod asker;
mod table;

pub use asker::{ASK_DEADLINE, Asker, REFRESH_INTERVAL};
pub use table::Names;

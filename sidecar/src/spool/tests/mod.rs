//! Tests of the spool as a whole.

mod damage;
mod disk;
mod format;
mod left;
mod model;
mod recent;
mod rig;
mod room;
mod thread;

pub(crate) use rig::{folder, settings};

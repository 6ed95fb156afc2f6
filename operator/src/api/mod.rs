//! The custom resources, `audit.testimony.dev/v1alpha1`, and their schemas.
//!
//! A schema accepts only what the code behind it does. What the schema and its CEL rules cannot check, [`crate::compile`]
//! checks.

mod cluster;
mod crds;
mod policy;
mod sink;
mod status;

pub use cluster::*;
pub use crds::{crds, markdown, yaml};
pub use policy::*;
pub use sink::*;
pub use status::*;

/// Default of an optional boolean that is on.
fn yes() -> bool {
    true
}

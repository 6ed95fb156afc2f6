//! Evidence: what makes a stream of records provable. The rules and their ids (R, L, S, G, H, K, V) are those of the
//! evidence format.
//!
//! [`seal`] makes streams of records. [`merkle`] is the tree over a stream's bodies, [`note`] the signed statement of a
//! tree's size and root, [`stream`] who made the stream.

pub mod hash;
pub mod merkle;
pub mod note;
pub mod seal;
pub mod stream;
pub mod verify;

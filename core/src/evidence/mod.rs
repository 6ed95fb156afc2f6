//! Evidence: what makes a stream of records provable. The rules and their ids (R, L, S, G, H, K, V) are those of the
//! evidence format.
//!
//! [`seal`] makes streams of records. [`merkle`] is the tree over a stream's bodies, [`note`] the signed statement of a
//! tree's size and root, [`stream`] who made the stream. [`witness`] is how a stream's heads are shown to someone who
//! remembers them, [`ledger`] what is remembered, [`roots`] what who checks all that must be given.

pub mod hash;
pub mod ledger;
pub mod merkle;
pub mod note;
pub mod roots;
pub mod seal;
pub mod stream;
pub mod verify;
pub mod witness;

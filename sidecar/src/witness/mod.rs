//! The operator as certifier and witness of streams (K1, W2). Nothing waits for its answers: while it is away, traffic and
//! recording go on, and the streams are anchored later.
//!
//! ```text
//! data thread: Stream -> Desk -> Shown (what the witness must see) <- accompany()
//!                                                                        |  Ask
//! second runtime:                                          Messenger <---+  -> POST, by the pod's token
//! ```

mod abandon;
mod accompany;
mod anchoring;
mod messenger;
mod shown;
mod unlock;

pub use abandon::abandon;
pub use accompany::accompany;
pub use anchoring::Anchoring;
pub use messenger::{ANSWER_DEADLINE, Ask, Certified, Messenger};
pub use shown::{Errand, STREAMS_MAX, Shown};
pub use unlock::Unlocker;

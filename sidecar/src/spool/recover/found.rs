//! What recovery tells.

use crate::spool::Boot;
use crate::spool::position::Place;
use std::collections::BTreeMap;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::{Range, empty_root};
use testimony_core::evidence::stream::StreamId;

/// What a folder held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Of which process.
    pub boot: Boot,
    /// Its streams, by name.
    pub streams: BTreeMap<StreamId, StreamFound>,
    /// Exchanges that began and have no record, oldest first; at most as many as recovery keeps.
    pub open_begins: Vec<OpenBegin>,
    /// As many more were not kept.
    pub open_begins_beyond: u64,
    /// What is broken, besides a torn end.
    pub damage: Vec<Damage>,
    /// Segments that only the operator's key opens.
    pub locked_segments: u64,
    /// Segments at the end without a header that can be read: nobody knows which exchanges they tell of.
    pub headless_segments: u64,
    /// Another process told all this, durably (D3): it is not to be told again.
    pub was_told: bool,
}

impl Report {
    /// Of a folder that another version of the program can read.
    pub fn unread(boot: Boot) -> Self {
        let (streams, open_begins, damage) = Default::default();
        let (open_begins_beyond, locked_segments, headless_segments, was_told) = (0, 0, 1, false);
        Self { boot, streams, open_begins, open_begins_beyond, damage, locked_segments, headless_segments, was_told }
    }
}

/// One stream: what a `recovered` record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamFound {
    /// Its leaves: `end` is the size.
    pub leaves: Range,
    /// Exchanges of its data thread that entries tell of, up to its end.
    pub exchanges: u64,
    /// Its largest signed note.
    pub head: Option<HeadFound>,
    /// Whether its last leaf is a `close`.
    pub closed: bool,
}

impl StreamFound {
    /// Size of its tree.
    pub fn size(&self) -> u64 {
        self.leaves.end()
    }

    /// Root of its tree.
    pub fn root(&self) -> Hash {
        self.leaves.root().unwrap_or_else(empty_root)
    }
}

/// A signed note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadFound {
    /// The size that it signs.
    pub size: u64,
    /// Where it stands.
    pub place: Place,
}

/// A `begin` without its end: becomes a `crash_unknown` exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenBegin {
    /// Its stream.
    pub sid: StreamId,
    /// Its number.
    pub number: u64,
    /// Where it stands.
    pub place: Place,
}

/// What is broken: each sink that comes to it tells a `hole`, where the hashes are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// In which file.
    pub file: String,
    /// From which byte on.
    pub offset: u64,
    /// What is wrong there.
    pub problem: String,
    /// Places that cannot be read.
    pub from: Place,
    /// Up to here.
    pub to: Place,
    /// By stream, what is gone.
    pub lost: Vec<Lost>,
}

/// Leaves of a stream that are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Which stream.
    pub sid: StreamId,
    /// First leaf.
    pub from: u64,
    /// The one after the last.
    pub to: u64,
    /// Their hashes in compact form, where they are known still.
    pub nodes: Option<Range>,
}

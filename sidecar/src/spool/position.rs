//! Places in a spool. SP-1: released <= durable <= written; each is a type of its own, so that none passes for another.

/// Place of one entry among all of its spool, from 0, in the order of writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub(super) u64);

/// Everything before this place was handed to the system. Survives the death of the process, perhaps not that of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Written(pub(super) u64);

/// Everything before this place survives the death of the node: fdatasync returned. Only that may leave (D1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Durable(pub(super) u64);

/// Everything before this place was acknowledged by every required sink, and the acknowledgements are durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Released(pub(super) u64);

impl Place {
    /// The place after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The number, for messages and metrics.
    pub fn number(self) -> u64 {
        self.0
    }

    /// How many entries stand from an earlier place up to this one.
    pub fn entries_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Durable {
    /// Whether this entry, and so all before it, is durable.
    pub fn covers(self, place: Place) -> bool {
        place.0 < self.0
    }

    /// The first place that is not durable.
    pub fn end(self) -> Place {
        Place(self.0)
    }
}

impl Written {
    /// The first place that is not written.
    pub fn end(self) -> Place {
        Place(self.0)
    }
}

impl Released {
    /// The first place that is not released.
    pub fn end(self) -> Place {
        Place(self.0)
    }
}

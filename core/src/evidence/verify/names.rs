//! Streams by number.

use super::fact::{Fact, StreamNo};
use crate::evidence::hash::Hash;
use crate::evidence::stream::StreamId;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Names that are held, some 0.3 KiB each. Anyone can make up more than fit into memory: a row says each.
const HELD_MAX: usize = 1 << 16;

/// Gives each stream a number, which is a digest of its name: no two names are known to share one, and none that was made up has that
/// of a given one.
#[derive(Debug, Default)]
pub struct Names {
    held: HashMap<StreamNo, StreamId>,
    last: Option<StreamNo>,
    /// Those of which no row says the name yet.
    fresh: Vec<StreamNo>,
}

impl Names {
    /// The number of this stream; `None`: the text names none.
    pub fn number(&mut self, sid: &str) -> Option<StreamNo> {
        // One record comes after another of its stream.
        if let Some(last) = self.last
            && self.name(last).is_some_and(|name| name.as_str() == sid)
        {
            return Some(last);
        }
        let digest = Hash::of_bytes(sid.as_bytes()).0;
        let number = StreamNo::from_be_bytes(*digest.first_chunk()?);
        if let Entry::Vacant(free) = self.held.entry(number) {
            free.insert(sid.parse().ok()?);
            self.fresh.push(number);
        }
        self.last = Some(number);
        Some(number)
    }

    /// The stream with this number, if it was given one since [`Self::say`].
    pub fn name(&self, number: StreamNo) -> Option<&StreamId> {
        self.held.get(&number)
    }

    /// Says the names that are new, and forgets all where there are too many: then they are said again.
    pub fn say(&mut self, mut give: impl FnMut(StreamNo, Fact)) {
        for number in std::mem::take(&mut self.fresh) {
            if let Some(name) = self.held.get(&number) {
                give(number, Fact::Name(name.clone()));
            }
        }
        if self.held.len() > HELD_MAX {
            (self.held, self.last) = (HashMap::new(), None);
        }
    }
}

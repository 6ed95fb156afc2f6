//! Streams by number.

use super::fact::StreamNo;
use crate::evidence::stream::StreamId;
use std::collections::HashMap;

/// Gives each stream a number, in order of appearance.
#[derive(Debug, Default)]
pub struct Names {
    numbers: HashMap<Box<str>, StreamNo>,
    names: Vec<StreamId>,
    last: Option<StreamNo>,
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
        let number = match self.numbers.get(sid) {
            Some(number) => *number,
            None => {
                let name: StreamId = sid.parse().ok()?;
                let number = StreamNo::try_from(self.names.len()).ok()?;
                self.names.push(name);
                self.numbers.insert(sid.into(), number);
                number
            }
        };
        self.last = Some(number);
        Some(number)
    }

    /// The stream with this number.
    pub fn name(&self, number: StreamNo) -> Option<&StreamId> {
        self.names.get(number as usize)
    }
}

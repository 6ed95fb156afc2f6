//! Entries that are being put together for a block, and the rows of a restatement.

use super::block::Chain;
use super::entry::Entry;
use super::fact::{Fact, HeadRow, Row, StateFact};
use super::tables::{Part, Tables};
use super::{BLOCK_BYTES_MAX, ENTRIES_PER_BLOCK_MAX, ROWS_BYTES_MAX};
use crate::canon::BODY_BYTES_MAX;
use crate::evidence::stream::StreamId;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

/// How far a restatement has come: the last row that was written of each table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) begun: bool,
    stream: Option<u64>,
    pod: Option<String>,
    uncovered: Option<String>,
    abandoned: Option<Part>,
    pruned: Option<Part>,
    erased: Option<Part>,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It is in the block.
    Taken,
    /// The block has no room for it.
    Full,
    /// No reader would take it, in this block or any other (R3).
    TooLong,
}

/// Part of a block that is kept for what comes later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reserved {
    pub(super) bytes: usize,
    pub(super) entries: usize,
}

/// Entries that are being put together.
pub(super) struct Draft {
    pub(super) chain: Chain,
    pub(super) entries: Vec<Entry>,
    pub(super) text: String,
    now_ns: u64,
}

impl Draft {
    /// Without entries, behind this chain.
    pub(super) fn new(chain: Chain, now_ns: u64) -> Self {
        Self { chain, entries: Vec::new(), text: String::new(), now_ns }
    }

    /// Time in a ledger never runs backwards.
    pub(super) fn at_ns(&self) -> u64 {
        self.now_ns.max(self.chain.last_ns)
    }

    /// Appends an entry, and leaves this much of the block free.
    pub(super) fn push(&mut self, fact: Fact, reserved: Reserved) -> Pushed {
        let Chain { sid, range, last, .. } = &self.chain;
        let at_ns = self.at_ns();
        let entry = Entry { sid: sid.clone(), seq: range.end(), prev: *last, at_ns, fact };
        let body = entry.body();
        let line = match std::str::from_utf8(&body) {
            Ok(line) if body.len() <= BODY_BYTES_MAX => line,
            _ => return Pushed::TooLong,
        };
        if self.entries.len() + reserved.entries >= ENTRIES_PER_BLOCK_MAX
            || self.text.len() + body.len() + 1 + reserved.bytes > BLOCK_BYTES_MAX
        {
            return Pushed::Full;
        }
        self.text.push_str(line);
        self.text.push('\n');
        self.chain.push(&body, at_ns);
        self.entries.push(entry);
        Pushed::Taken
    }
}

/// What is known where the next entry comes to stand. Neither the keeper nor a reader takes an entry about a stream that is
/// known no more, and it would end the ledger; such a one is never written.
pub(super) struct Standing<'a> {
    /// Before the block; where it restates, without what that forgets.
    tables: Cow<'a, Tables>,
    /// Streams that were certified in it.
    certified: HashSet<StreamId>,
}

impl<'a> Standing<'a> {
    pub(super) fn new(tables: Cow<'a, Tables>) -> Self {
        Self { tables, certified: HashSet::new() }
    }

    /// Whether this can be said.
    pub(super) fn takes(&self, fact: &Fact) -> bool {
        let knows = |sid: &StreamId| self.tables.stream(sid).is_some() || self.certified.contains(sid);
        match fact {
            Fact::Certified(sid, ..) => !knows(sid),
            Fact::Epoch(sid, ..) | Fact::Closed(sid, ..) | Fact::Lost(sid, ..) | Fact::Rebased(sid, ..) => knows(sid),
            Fact::Heads(heads) => self.heads(heads).len() == heads.len(),
            _ => true,
        }
    }

    /// It was said.
    pub(super) fn said(&mut self, fact: &Fact) {
        if let Fact::Certified(sid, ..) = fact {
            self.certified.insert(sid.clone());
        }
    }

    /// Those of streams that are known.
    pub(super) fn heads(&self, heads: &[HeadRow]) -> Vec<HeadRow> {
        heads.iter().filter(|head| self.tables.streams().contains_key(&head.stream)).copied().collect()
    }
}

/// The next rows, up to [`ROWS_BYTES_MAX`]; whether they are the last ones. At least one row is taken or passed over, unless
/// there is none left: a restatement always comes to its end.
pub(super) fn rows(tables: &Tables, cursor: &mut Cursor, state: &mut StateFact) -> bool {
    let mut room = Room(ROWS_BYTES_MAX);
    table(tables.streams(), &mut cursor.stream, &mut state.streams, &mut room)
        && table(tables.pods(), &mut cursor.pod, &mut state.pods, &mut room)
        && table(tables.uncovered(), &mut cursor.uncovered, &mut state.uncovered, &mut room)
        && table(tables.abandoned(), &mut cursor.abandoned, &mut state.abandoned, &mut room)
        && table(tables.pruned(), &mut cursor.pruned, &mut state.pruned, &mut room)
        && table(tables.erased(), &mut cursor.erased, &mut state.erased, &mut room)
}

/// Bytes that are left for rows.
struct Room(usize);

/// The next rows of one table, while they fit; whether they are its last ones.
fn table<K: Ord + Clone, R: Row + Clone>(
    known: &BTreeMap<K, R>,
    cursor: &mut Option<K>,
    rows: &mut Vec<R>,
    room: &mut Room,
) -> bool {
    let after = cursor.clone().map_or(Bound::Unbounded, Bound::Excluded);
    for (key, row) in known.range((after, Bound::Unbounded)) {
        let bytes = written_bytes(&row.write()) + 1;
        // Only a ledger of before has a row that fits no entry: it is known by its own entry.
        if bytes <= ROWS_BYTES_MAX {
            let Some(left) = room.0.checked_sub(bytes) else { return false };
            room.0 = left;
            rows.push(row.clone());
        }
        *cursor = Some(key.clone());
    }
    true
}

/// Bytes of this text within a body, at most: as R1 and JSON escape it.
fn written_bytes(text: &str) -> usize {
    let of = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        b'%' => 3,
        b'!'..=b'~' => 1,
        // A space only where the value begins or ends with it.
        _ => 3,
    };
    text.bytes().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canon::BodyWriter;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn r3_a_row_is_never_longer_than_it_is_measured(text in any::<String>()) {
            let mut out = Vec::new();
            let mut writer = BodyWriter::new(&mut out);
            writer.member("k", text.as_bytes());
            writer.finish();
            let frame = r#"{"k":""}"#.len();
            // No text at all is one character.
            prop_assert!(out.len() - frame <= written_bytes(&text).max(1));
        }
    }
}

//! Where reading a ledger begins, from a few words about each block: whoever reads need not hold all of them at a time.

use super::block::{Block, LedgerError};
use super::entry::Entry;
use super::fact::Fact;

/// What a block is to whoever looks for where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Its number.
    pub number: u64,
    /// Its bytes.
    pub bytes: usize,
    /// Reading may begin with it, if the restatement that it begins is whole.
    begins: bool,
    /// A restatement is complete in it.
    ends: bool,
}

impl Outline {
    /// Of this block.
    pub fn of(block: &Block) -> Self {
        // Most entries restate nothing, and need not be parsed for that.
        let mut restated = block.entries.lines().filter(|line| line.contains("\"typ\":\"ledger-state\""));
        let ends = restated.any(|line| {
            Entry::parse(line.as_bytes()).is_ok_and(|entry| matches!(&entry.fact, Fact::State(state) if state.last))
        });
        Self { number: block.number, bytes: block.bytes(), begins: block.begins().is_some(), ends }
    }
}

/// Which of these blocks, in order of their numbers, reading begins with: where the newest whole restatement begins, or
/// with the ledger's first block. `None`: there is no block.
///
/// # Errors
/// There are blocks, and none to begin with.
pub fn start(outlines: &[Outline]) -> Result<Option<usize>, LedgerError> {
    let Some(first) = outlines.first() else { return Ok(None) };
    let (mut begun, mut whole) = (None, (first.number == 0).then_some(0));
    for (at, outline) in outlines.iter().enumerate() {
        begun = if outline.begins { Some(at) } else { begun };
        whole = begun.filter(|_| outline.ends).or(whole);
    }
    let problem = || "no block begins the ledger, and none restates it whole".to_owned();
    whole.map(Some).ok_or_else(|| LedgerError { block: first.number, entry: 0, problem: problem() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of each block: its number, whether a restatement begins in it, and whether one ends; and with which one reading begins.
    type Case<'a> = (&'a [(u64, bool, bool)], Option<Option<usize>>);

    #[test]
    fn w1_reading_begins_with_the_newest_whole_restatement() {
        let table: [Case<'_>; 8] = [
            (&[], Some(None)),
            (&[(0, true, false), (1, false, false)], Some(Some(0))),
            (&[(5, false, false), (6, false, true)], None),
            (&[(5, true, false), (6, false, false)], None),
            (&[(5, false, true), (6, true, false), (7, false, true), (8, true, false)], Some(Some(1))),
            (&[(0, true, false), (1, true, true), (2, true, false), (3, true, false), (4, false, true)], Some(Some(3))),
            (&[(0, true, false), (1, true, true), (2, true, false)], Some(Some(1))),
            // What a keeper that came late left behind does not matter.
            (&[(3, false, false), (9, true, true)], Some(Some(1))),
        ];
        for (blocks, expected) in table {
            let outlines: Vec<_> =
                blocks.iter().map(|&(number, begins, ends)| Outline { number, bytes: 1, begins, ends }).collect();
            assert_eq!(start(&outlines).ok(), expected, "{blocks:?}");
        }
    }
}

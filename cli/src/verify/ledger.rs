//! The operator's ledger, of which there may be more than fits into memory: sorted outside of it, and read in passes.

use super::sort::{Room, Sorter};
use anyhow::{Context, Result, ensure};
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::rc::Rc;
use testimony_core::evidence::merkle::leaf;
use testimony_core::evidence::note::SignedNote;
use testimony_core::evidence::verify::{Asked, Finding, Ledger};

/// Bytes of its rows that are held in memory at once.
pub(super) const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bodies that are known to be there already, at most: `ledger export` that is appended every 15 minutes repeats most of them. What
/// is repeated after more others than that is left to the sorting.
const SEEN_MAX: usize = 1_000_000;

/// Entries and heads of ledgers, in any order.
pub(super) struct Entries {
    rows: Sorter,
    /// First half of each body's hash.
    seen: HashSet<[u8; 16]>,
    pub(super) seen_max: usize,
    /// Some body claims to be an entry.
    has_entries: bool,
    /// Bytes of what was not there already.
    pub(super) bytes: u64,
}

impl Entries {
    /// Of all at most so many bytes are held; the rest goes to temporary files.
    pub(super) fn new(room: &Rc<Room>, held_max: usize) -> Self {
        let rows = Sorter::new(room, held_max).distinct();
        Self { rows, seen: HashSet::new(), seen_max: SEEN_MAX, has_entries: false, bytes: 0 }
    }

    /// Adds a body; what belongs to no ledger is left out.
    ///
    /// # Errors
    /// The temporary folder.
    pub(super) fn push(&mut self, body: &str) -> io::Result<()> {
        let hash = leaf(body.as_bytes()).0;
        if hash.first_chunk().is_some_and(|half| !self.seen.insert(*half)) {
            return Ok(());
        }
        if self.seen.len() >= self.seen_max {
            self.seen.clear();
        }
        let (rows, mut pushed) = (&mut self.rows, Ok(()));
        let bytes = &mut self.bytes;
        self.has_entries |= Ledger::rows(body, |row| {
            *bytes += row.len() as u64;
            if pushed.is_ok() {
                pushed = rows.push(row);
            }
        });
        pushed
    }

    /// Adds all of a file.
    ///
    /// # Errors
    /// It cannot be read, or holds no entry where nobody kept a head, which would tell that there were some.
    pub(super) fn file(&mut self, file: &Path, kept: &[SignedNote]) -> Result<()> {
        let mut pushed = Ok(());
        super::input::bodies(&[file.to_owned()], None, &mut |body| {
            if pushed.is_ok() {
                pushed = self.push(body);
            }
        })
        .context("--ledger")?;
        pushed?;
        let name = super::input::name(file);
        ensure!(
            self.has_entries || !kept.is_empty(),
            "--ledger {name}: holds no ledger entry (make one with: testimony ledger export)"
        );
        Ok(())
    }

    /// What they say.
    ///
    /// # Errors
    /// The temporary folder.
    pub(super) fn read(mut self, asked: &Asked<'_>) -> Result<(Option<Ledger>, Vec<Finding>)> {
        let (rows, mut pushed) = (&mut self.rows, Ok(()));
        for note in asked.kept {
            Ledger::kept_rows(note, |row| {
                if pushed.is_ok() {
                    pushed = rows.push(row);
                }
            });
        }
        pushed?;
        self.seen = HashSet::new();
        let rows = self.rows.sorted()?;
        let each = &mut |take: &mut dyn FnMut(&[u8])| {
            rows.each(|row| {
                take(row);
                Ok::<_, io::Error>(())
            })
        };
        Ok(Ledger::read_sorted(asked, each)?)
    }
}

//! Rows sorted by their bytes, in bounded memory: sorted runs go to temporary files and are merged.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::PathBuf;
use std::rc::Rc;

/// Bytes of rows that are held in memory at once.
pub const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Runs that are merged at once; each has a buffer.
pub const RUNS_MAX: usize = 64;

/// Of so many runs, the smallest are made one of. What is merged is there twice until that is done: of all an eighth at most.
const RUNS_JOINED: usize = RUNS_MAX / 8;

const BUFFER_BYTES: usize = 256 * 1024;

/// Longest row, in bytes: a head with its note and cosignatures.
const ROW_BYTES_MAX: usize = 1024 * 1024;

/// Where temporary files go, and how large they may be together.
pub struct Room {
    folder: PathBuf,
    bytes_max: u64,
    bytes: Cell<u64>,
}

impl Room {
    /// In this folder; files have no name there.
    pub fn new(folder: PathBuf, bytes_max: Option<u64>) -> Rc<Self> {
        Rc::new(Self { folder, bytes_max: bytes_max.unwrap_or(u64::MAX), bytes: Cell::new(0) })
    }
}

/// A temporary file; with it goes its part of the room.
struct Run {
    file: File,
    bytes: u64,
    room: Rc<Room>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.room.bytes.set(self.room.bytes.get().saturating_sub(self.bytes));
    }
}

impl Write for Run {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Room { folder, bytes_max, bytes: all } = &*self.room;
        let more = bytes.len() as u64;
        if more > bytes_max.saturating_sub(all.get()) {
            let folder = folder.display();
            let message = format!(
                "temporary files in {folder} would need more than {bytes_max} bytes: allow more with --temporary-size, or judge less at once"
            );
            return Err(io::Error::other(message));
        }
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        all.set(all.get() + written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Takes rows in any order.
pub struct Sorter {
    room: Rc<Room>,
    held_max: usize,
    /// The same row is given once, however often it was taken.
    distinct: bool,
    rows: Vec<u8>,
    /// First bytes of each row, which tell most apart, where it begins, and its length.
    index: Vec<(u128, u64, u32, u32)>,
    runs: Vec<Run>,
}

impl Sorter {
    /// Holds so many bytes at most; the rest goes to temporary files.
    pub fn new(room: &Rc<Room>, held_max: usize) -> Self {
        let room = Rc::clone(room);
        Self { room, held_max, distinct: false, rows: Vec::new(), index: Vec::new(), runs: Vec::new() }
    }

    /// Gives each row once.
    #[must_use]
    pub fn distinct(self) -> Self {
        Self { distinct: true, ..self }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The temporary folder.
    pub fn push(&mut self, row: &[u8]) -> io::Result<()> {
        if self.rows.len() + row.len() > self.held_max && !self.index.is_empty() {
            self.spill()?;
        }
        let (Ok(start), Ok(length)) = (u32::try_from(self.rows.len()), u32::try_from(row.len())) else {
            return Err(io::Error::other("a row is too long"));
        };
        let (mut first, mut second) = ([0; 16], [0; 8]);
        for (slot, byte) in first.iter_mut().chain(&mut second).zip(row) {
            *slot = *byte;
        }
        self.rows.extend_from_slice(row);
        self.index.push((u128::from_be_bytes(first), u64::from_be_bytes(second), start, length));
        Ok(())
    }

    fn sort(&mut self) {
        let rows = &self.rows;
        let row = |start: u32, length: u32| rows.get(start as usize..start as usize + length as usize);
        self.index.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then_with(|| row(a.2, a.3).cmp(&row(b.2, b.3))));
        if self.distinct {
            self.index.dedup_by(|a, b| row(a.2, a.3) == row(b.2, b.3));
        }
    }

    fn spill(&mut self) -> io::Result<()> {
        self.sort();
        if self.runs.len() >= RUNS_MAX {
            self.runs.sort_unstable_by_key(|run| Reverse(run.bytes));
            let runs = self.runs.split_off(RUNS_MAX - RUNS_JOINED);
            let mut merged = Merge::new(&runs, self.distinct)?;
            let mut out = BufWriter::with_capacity(BUFFER_BYTES, nameless(&self.room)?);
            let mut row = Vec::new();
            while merged.next(&mut row)? {
                write_row(&mut out, &row)?;
            }
            self.runs.push(out.into_inner()?);
        }
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, nameless(&self.room)?);
        for (_, _, start, length) in &self.index {
            write_row(&mut out, self.rows.get(*start as usize..(*start + *length) as usize).unwrap_or_default())?;
        }
        self.runs.push(out.into_inner()?);
        self.rows.clear();
        self.index.clear();
        Ok(())
    }

    /// Gives all rows in order of their bytes.
    ///
    /// # Errors
    /// The temporary folder, or what `take` says.
    pub fn drain<E: From<io::Error>>(self, take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.sorted()?.each(take)
    }

    /// There are no more rows.
    ///
    /// # Errors
    /// The temporary folder.
    pub fn sorted(mut self) -> io::Result<Sorted> {
        if self.runs.is_empty() {
            self.sort();
        } else {
            self.spill()?;
            self.rows = Vec::new();
            self.index = Vec::new();
        }
        Ok(Sorted(self))
    }
}

/// Rows in order.
pub struct Sorted(Sorter);

impl Sorted {
    /// Gives all rows in order of their bytes, as often as it is asked.
    ///
    /// # Errors
    /// The temporary folder, or what `take` says.
    pub fn each<E: From<io::Error>>(&self, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let Sorter { runs, rows, index, distinct, .. } = &self.0;
        for (_, _, start, length) in index {
            take(rows.get(*start as usize..(*start + *length) as usize).unwrap_or_default())?;
        }
        let mut merge = Merge::new(runs, *distinct)?;
        let mut row = Vec::new();
        while merge.next(&mut row)? {
            take(&row)?;
        }
        Ok(())
    }
}

fn write_row(out: &mut impl Write, row: &[u8]) -> io::Result<()> {
    let length = u32::try_from(row.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(row)
}

/// A file that is gone when it is closed, however the process ends.
fn nameless(room: &Rc<Room>) -> io::Result<Run> {
    for attempt in 0..1000_u32 {
        let path = room.folder.join(format!(".testimony-verify-{}-{attempt}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => {
                fs::remove_file(&path)?;
                return Ok(Run { file, bytes: 0, room: Rc::clone(room) });
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                let folder = room.folder.display();
                let message = format!("temporary files in {folder}: {error}; TMPDIR names another folder");
                return Err(io::Error::new(error.kind(), message));
            }
        }
    }
    Err(io::Error::other("no name for a temporary file is free"))
}

struct Merge<'a> {
    runs: Vec<BufReader<&'a File>>,
    heads: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
    distinct: bool,
}

impl<'a> Merge<'a> {
    fn new(runs: &'a [Run], distinct: bool) -> io::Result<Self> {
        let mut merge = Self { runs: Vec::new(), heads: BinaryHeap::new(), distinct };
        for (run, Run { file, .. }) in runs.iter().enumerate() {
            let mut file = file;
            file.rewind()?;
            merge.runs.push(BufReader::with_capacity(BUFFER_BYTES, file));
            merge.refill(run, Vec::new())?;
        }
        Ok(merge)
    }

    /// Puts the next row of a run into the heap.
    fn refill(&mut self, run: usize, mut row: Vec<u8>) -> io::Result<()> {
        let Some(reader) = self.runs.get_mut(run) else { return Ok(()) };
        let mut length = [0; 4];
        match reader.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > ROW_BYTES_MAX {
            return Err(io::Error::other("a temporary file was damaged"));
        }
        row.resize(length, 0);
        reader.read_exact(&mut row)?;
        self.heads.push(Reverse((row, run)));
        Ok(())
    }

    fn next(&mut self, row: &mut Vec<u8>) -> io::Result<bool> {
        let Some(Reverse((mut first, run))) = self.heads.pop() else { return Ok(false) };
        std::mem::swap(row, &mut first);
        self.refill(run, first)?;
        while self.distinct && self.heads.peek().is_some_and(|Reverse((next, _))| next == row) {
            let Some(Reverse((again, run))) = self.heads.pop() else { break };
            self.refill(run, again)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(bytes_max: Option<u64>) -> Rc<Room> {
        Room::new(std::env::temp_dir(), bytes_max)
    }

    fn sorted(rows: &[Vec<u8>], held_max: usize) -> Vec<Vec<u8>> {
        let mut sorter = Sorter::new(&room(None), held_max);
        rows.iter().for_each(|row| sorter.push(row).expect("a temporary folder"));
        let mut out = Vec::new();
        sorter
            .drain(|row| {
                out.push(row.to_vec());
                Ok::<_, io::Error>(())
            })
            .expect("rows come back");
        out
    }

    #[test]
    fn rows_come_in_order_however_little_is_held() {
        let mut state = 7_u64;
        let mut rows = Vec::new();
        for _ in 0..3000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let length = (state >> 60) as usize + 1;
            rows.push(state.to_be_bytes().repeat(3)[..length + 4].to_vec());
        }
        let mut expected = rows.clone();
        expected.sort();
        // From everything in memory to more runs than are merged at once.
        let copies = [&rows[..], &rows[..], &rows[1_000..]].concat();
        for held_max in [usize::MAX, 20_000, 200] {
            assert!(sorted(&rows, held_max) == expected, "{held_max}");
            let mut sorter = Sorter::new(&room(None), held_max).distinct();
            copies.iter().for_each(|row| sorter.push(row).expect("a temporary folder"));
            let once = sorter.sorted().expect("a temporary folder");
            for pass in 0..2 {
                let mut out = Vec::new();
                let each = once.each(|row| {
                    out.push(row.to_vec());
                    Ok::<_, io::Error>(())
                });
                each.expect("rows come back");
                assert!(out == expected, "{held_max}, {pass}");
            }
        }
        assert!(sorted(&[], 10).is_empty());
    }

    #[test]
    fn temporary_files_take_an_eighth_more_than_the_rows_at_most_and_are_bounded() {
        const ROWS: u64 = 40_000;
        let row = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        // Each row has its length beside it.
        let all = ROWS * 12;
        let filled = |bytes_max: u64| {
            let room = room(Some(bytes_max));
            let mut sorter = Sorter::new(&room, 800);
            let most = (0..ROWS).try_fold(0, |most: u64, number| {
                sorter.push(&row(number))?;
                Ok::<_, io::Error>(most.max(room.bytes.get()))
            })?;
            let sorted = sorter.sorted()?;
            assert!(sorted.0.runs.len() <= RUNS_MAX && room.bytes.get() == all, "{}", room.bytes.get());
            drop(sorted);
            assert_eq!(room.bytes.get(), 0, "all is given back");
            Ok::<_, io::Error>(most)
        };
        assert!(filled(all + all / 8).expect("room") <= all);
        for bytes_max in [0, all / 2, all - 1] {
            let error = filled(bytes_max).expect_err("no room").to_string();
            assert!(
                error.contains(&format!("more than {bytes_max} bytes: allow more with --temporary-size")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let mut sorter = Sorter::new(&Room::new("/proc/nowhere".into(), None), 1);
        sorter.push(b"a").expect("held");
        let error = sorter.push(b"b").expect_err("no folder").to_string();
        assert!(error.contains("/proc/nowhere") && error.contains("TMPDIR"), "{error}");
    }
}

//! A disk that loses, tears and reorders what was not synced, and refuses when told to. A seed makes a run.

use super::{Disk, Files, Listed};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that reach a disk together or not at all.
const SECTOR_BYTES: usize = 64;

/// Deterministic numbers.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    /// The next number (SplitMix64).
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 for 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.roll() % limit }
    }

    /// True once in `count`.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A write fails, after a part of it.
    Write,
    /// A sync fails; what it should have written is dropped, and the next one succeeds.
    Sync,
    /// A read fails.
    Read,
    /// A file cannot be made.
    Create,
    /// The folder's sync fails, by itself or after that of a new file.
    SyncFolder,
    /// A file cannot be removed.
    Remove,
}

#[derive(Clone, Debug, Default)]
struct SimFile {
    bytes: Vec<u8>,
    /// Up to here, all but `dropped` survives a crash.
    synced: usize,
    /// A sync is under way, of what stands before.
    syncing: Option<usize>,
    /// Ranges that a failed sync dropped: they may never reach the disk.
    dropped: Vec<(usize, usize)>,
    /// Its name survives a crash.
    linked: bool,
}

#[derive(Clone, Debug)]
struct State {
    files: BTreeMap<String, SimFile>,
    /// Removed or renamed, but the folder was not synced: they may come back.
    unlinked: BTreeMap<String, SimFile>,
    faults: Vec<Fault>,
    /// No read of these bytes succeeds any more.
    broken: Vec<(String, Range<usize>)>,
    /// This says that it was done, and is not.
    lie: Option<Fault>,
    capacity: u64,
    /// How often somebody waited for a sync.
    waits: u64,
    /// How many operations failed.
    failures: u64,
    /// After so many more operations somebody dies,
    stops_in: Option<u64>,
    /// and the disk was so.
    stopped: Option<Box<State>>,
    dice: Dice,
}

/// Handle of a simulated disk; clones share it.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        let dice = Dice::new(seed);
        Self(Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            unlinked: BTreeMap::new(),
            faults: Vec::new(),
            broken: Vec::new(),
            lie: None,
            capacity: u64::MAX,
            waits: 0,
            failures: 0,
            stops_in: None,
            stopped: None,
            dice,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next operation of this kind fails.
    pub fn fail_next(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// A disk that lies: what a test of tests needs.
    pub fn lie_about(&self, what: Fault) {
        self.state().lie = Some(what);
    }

    /// These bytes of a file cannot be read any more.
    pub fn break_bytes(&self, name: &str, bytes: Range<usize>) {
        self.state().broken.push((name.to_owned(), bytes));
    }

    /// No fault is due any more.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// The disk is full beyond this many bytes.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
    }

    /// After so many more operations the disk is noted as it is, perhaps in the midst of the next one; the run itself goes on.
    pub fn stop_after(&self, operations: u64) {
        let mut state = self.state();
        (state.stops_in, state.stopped) = (Some(operations), None);
    }

    /// The disk as it was then, if there were so many; it is not noted any more.
    pub fn stopped(&self) -> Option<Self> {
        let mut state = self.state();
        state.stops_in = None;
        state.stopped.take().map(|stopped| Self(Arc::new(Mutex::new(*stopped))))
    }

    /// How many operations failed.
    pub fn failures(&self) -> u64 {
        self.state().failures
    }

    /// Whether a failed sync dropped something: nobody who comes later can tell.
    pub fn has_dropped(&self) -> bool {
        self.state().files.values().any(|file| !file.dropped.is_empty())
    }

    /// How often somebody waited for a sync.
    pub fn waits(&self) -> u64 {
        self.state().waits
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Changes a file's bytes: what a failing disk does.
    pub fn alter(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let file = state.files.get_mut(name).expect("the file exists");
        change(&mut file.bytes);
        file.synced = file.bytes.len();
    }

    /// A whole file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.state().files.get(name).map(|file| file.bytes.clone()).unwrap_or_default()
    }

    /// The node dies: a disk as the next one finds it. What was synced is there; all else is kept, lost or torn.
    pub fn crashed(&self, seed: u64) -> Self {
        let state = self.state();
        let mut dice = Dice::new(seed);
        let mut files = BTreeMap::new();
        for (name, file) in &state.files {
            if file.linked || dice.one_in(2) {
                files.insert(name.clone(), file.crashed(&mut dice));
            }
        }
        for (name, file) in &state.unlinked {
            if !files.contains_key(name) && dice.one_in(2) {
                files.insert(name.clone(), file.crashed(&mut dice));
            }
        }
        state.found_by_the_next(files, dice)
    }

    /// The process dies, the node does not: everything written is there.
    pub fn killed(&self) -> Self {
        let state = self.state();
        let files = state.files.clone();
        let dice = state.dice.clone();
        state.found_by_the_next(files, dice)
    }
}

impl SimFile {
    fn crashed(&self, dice: &mut Dice) -> Self {
        let mut bytes = self.bytes.clone();
        // Of the un-synced end, some length was told to the file system, and some sectors of it were written.
        let tail = (bytes.len() - self.synced) as u64;
        let kept = self.synced + usize::try_from(dice.below(tail + 1)).expect("small");
        bytes.truncate(kept);
        let mut at = self.synced;
        while at < bytes.len() {
            let end = bytes.len().min((at / SECTOR_BYTES + 1) * SECTOR_BYTES);
            match dice.below(4) {
                0 => bytes[at..end].fill(0),
                1 => bytes[at..end].iter_mut().for_each(|byte| *byte = dice.roll().to_le_bytes()[0]),
                _ => {}
            }
            at = end;
        }
        for (begin, end) in &self.dropped {
            let end = (*end).min(bytes.len());
            if *begin < end && dice.one_in(2) {
                bytes[*begin..end].fill(0);
            }
        }
        let synced = bytes.len();
        Self { bytes, synced, syncing: None, dropped: Vec::new(), linked: true }
    }
}

impl State {
    fn found_by_the_next(&self, files: BTreeMap<String, SimFile>, dice: Dice) -> SimDisk {
        let (unlinked, faults, broken) = (BTreeMap::new(), Vec::new(), self.broken.clone());
        let (lie, capacity, waits, failures, stops_in, stopped) = (None, u64::MAX, 0, 0, None, None);
        let state = Self { files, unlinked, faults, broken, lie, capacity, waits, failures, stops_in, stopped, dice };
        SimDisk(Arc::new(Mutex::new(state)))
    }

    /// An operation begins. Returns the disk as it is noted here, if it is.
    fn begins(&mut self) -> Option<&mut Self> {
        let left = self.stops_in?;
        self.stops_in = left.checked_sub(1);
        if left > 0 {
            return None;
        }
        let noted = Self { stopped: None, ..self.clone() };
        Some(&mut *self.stopped.insert(Box::new(noted)))
    }

    fn file(&mut self, name: &str) -> io::Result<&mut SimFile> {
        self.files.get_mut(name).ok_or_else(missing)
    }

    /// What stands before `end` is synced, unless that fails.
    fn sync(&mut self, name: &str, end: usize) -> io::Result<()> {
        let fault = self.fails(Fault::Sync);
        if self.lie == Some(Fault::Sync) {
            return fault;
        }
        let file = self.file(name)?;
        if fault.is_err() {
            file.dropped.push((file.synced, end));
        }
        file.synced = file.synced.max(end);
        fault?;
        if file.linked {
            return Ok(());
        }
        self.fails(Fault::SyncFolder)?;
        let lies = self.lie == Some(Fault::SyncFolder);
        self.file(name)?.linked = !lies;
        Ok(())
    }

    fn used(&self) -> u64 {
        self.files.values().map(|file| file.bytes.len() as u64).sum()
    }

    fn fails(&mut self, fault: Fault) -> io::Result<()> {
        match self.faults.iter().position(|due| *due == fault) {
            Some(at) => {
                self.faults.remove(at);
                self.failures += 1;
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
            None => Ok(()),
        }
    }
}

fn missing() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

impl Files for SimDisk {
    fn list(&self) -> io::Result<Vec<Listed>> {
        let mut state = self.state();
        state.fails(Fault::Read)?;
        let listed = |(name, file): (&String, &SimFile)| Listed { name: name.clone(), bytes: file.bytes.len() as u64 };
        Ok(state.files.iter().map(listed).collect())
    }

    fn read_at(&self, name: &str, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        state.fails(Fault::Read)?;
        let file = state.files.get(name).ok_or_else(missing)?;
        let start = usize::try_from(offset).expect("small").min(file.bytes.len());
        let end = start.saturating_add(count).min(file.bytes.len());
        if state.broken.iter().any(|(of, bytes)| of == name && bytes.start < end && start < bytes.end) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(file.bytes[start..end].to_vec())
    }
}

impl Disk for SimDisk {
    fn create(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begins();
        state.fails(Fault::Create)?;
        if state.files.contains_key(name) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        state.files.insert(name.to_owned(), SimFile::default());
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let room = usize::try_from(state.capacity.saturating_sub(state.used())).unwrap_or(usize::MAX);
        let fault = state.fails(Fault::Write);
        let part = match &fault {
            Err(_) => usize::try_from(state.dice.below(bytes.len() as u64)).expect("small"),
            Ok(()) => bytes.len(),
        };
        let part = &bytes[..part.min(room)];
        if let Some(noted) = state.begins() {
            let part = &part[..usize::try_from(noted.dice.below(part.len() as u64 + 1)).expect("small")];
            noted.file(name)?.bytes.extend_from_slice(part);
        }
        state.file(name)?.bytes.extend_from_slice(part);
        fault?;
        if room < bytes.len() {
            state.failures += 1;
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.end_sync(name)?;
        let mut state = self.state();
        state.begins();
        state.waits += 1;
        let end = state.file(name)?.bytes.len();
        state.sync(name, end)
    }

    fn begin_sync(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begins();
        let file = state.file(name)?;
        assert_eq!(file.syncing, None, "one sync of a file at a time");
        file.syncing = Some(file.bytes.len());
        Ok(())
    }

    fn synced(&mut self, name: &str) -> Option<io::Result<()>> {
        let is_over = self.state().dice.one_in(2);
        is_over.then(|| self.end_sync(name))
    }

    fn end_sync(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let end = state.file(name)?.syncing.take();
        end.map_or(Ok(()), |end| state.sync(name, end))
    }

    fn sync_found(&mut self, name: &str) -> io::Result<()> {
        if self.sync(name).is_ok() {
            return Ok(());
        }
        let mut state = self.state();
        let mut dice = state.dice.clone();
        let file = state.file(name)?;
        *file = SimFile { linked: file.linked, ..file.crashed(&mut dice) };
        state.dice = dice;
        Ok(())
    }

    fn close(&mut self, _name: &str) {}

    fn sync_folder(&mut self) -> io::Result<()> {
        let mut state = self.state();
        state.begins();
        state.fails(Fault::SyncFolder)?;
        if state.lie == Some(Fault::SyncFolder) {
            return Ok(());
        }
        state.files.values_mut().for_each(|file| file.linked = true);
        state.unlinked.clear();
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begins();
        state.fails(Fault::Remove)?;
        let file = state.files.remove(name).ok_or_else(missing)?;
        if file.linked {
            state.unlinked.insert(name.to_owned(), file);
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begins();
        let file = state.files.remove(from).ok_or_else(missing)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

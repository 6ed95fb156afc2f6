//! A writer on a simulated disk, and the record of what it was given.

use crate::spool::disk::sim::{Dice, SimDisk};
use crate::spool::entry::{Block, Entry, Kind, StreamNumber};
use crate::spool::keys::Keys;
use crate::spool::reader::{Read, Reader};
use crate::spool::recover::{Scanned, Unreadable, scan};
use crate::spool::{
    Boot, Durable, FIXED_RESERVE_BYTES, Fault, LIMIT_BYTES_MIN, Limits, Place, Settings, Shelf, SinkRule, Writer,
    WriterSettings,
};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::{self, Range};
use testimony_core::evidence::stream::StreamId;

pub(super) const BOOT: Boot = Boot([7; 16]);
pub(super) const NEXT_BOOT: Boot = Boot([8; 16]);

/// How blocks are put.
pub(super) type How = fn(&mut Writer<SimDisk>, Vec<Block<StreamNumber>>, u64) -> Result<Durable, Fault>;

/// A folder that goes with this.
pub(crate) struct TestFolder(PathBuf);

impl Deref for TestFolder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A fresh folder of this test.
pub(crate) fn folder(name: &str) -> TestFolder {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("testimony-spool-{}-{name}-{number}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a folder");
    TestFolder(path)
}

/// Those of a process on such a folder, at the smallest limit.
pub(crate) fn settings(folder: &Path, boot: u8) -> Settings {
    let key_folder = folder.join("memory");
    std::fs::create_dir_all(&key_folder).expect("a folder");
    Settings {
        folder: folder.join("disk"),
        key_folder,
        limit_bytes: LIMIT_BYTES_MIN,
        limits: Limits::default(),
        boot: Boot([boot; 16]),
        recovery: None,
        now_unix_nanos: || 1,
    }
}

pub(super) fn keys() -> Keys {
    Keys::with_pod_key([3; 32], None)
}

pub(super) fn sid(number: u32) -> StreamId {
    format!("c/n/p/{BOOT}-{number}-0").parse().expect("a stream's name")
}

/// Sinks: `a` is required, `b` is not.
pub(super) fn sinks() -> Vec<SinkRule> {
    let rule = |name: &str, required| SinkRule { name: name.to_owned(), required };
    vec![rule("a", true), rule("b", false)]
}

/// What was given to a writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) stream: u32,
    pub(super) kind: Kind,
    pub(super) seq: u64,
    pub(super) leaf: Hash,
    pub(super) payload: Vec<u8>,
}

/// A writer, its disk and what it was given.
pub(super) struct Rig {
    pub(super) disk: SimDisk,
    pub(super) writer: Writer<SimDisk>,
    pub(super) settings: WriterSettings,
    pub(super) given: Vec<Given>,
    pub(super) now: u64,
    pub(super) dice: Dice,
    next: BTreeMap<u32, u64>,
    begins: u64,
    open_begins: Vec<u64>,
}

impl Rig {
    pub(super) fn new(seed: u64) -> Self {
        Self::with_sinks(seed, &sinks())
    }

    pub(super) fn with_sinks(seed: u64, sinks: &[SinkRule]) -> Self {
        let mut dice = Dice::new(seed);
        let disk = SimDisk::new(seed);
        let segment_bytes = 1024 + dice.below(8 * 1024);
        let limit_bytes = FIXED_RESERVE_BYTES + 24 * 1024 + dice.below(96 * 1024);
        let settings = WriterSettings { limit_bytes, segment_bytes };
        let mut writer = Writer::new(settings, keys(), Shelf::new(disk.clone(), BOOT)).expect("a writer");
        writer.set_sinks(sinks);
        let mut rig = Self {
            disk,
            writer,
            settings,
            given: Vec::new(),
            now: 1,
            dice,
            next: BTreeMap::new(),
            begins: 0,
            open_begins: Vec::new(),
        };
        rig.add_stream();
        rig
    }

    pub(super) fn add_stream(&mut self) {
        let number = u32::try_from(self.next.len()).expect("few");
        self.next.insert(number, 0);
        self.writer.add_stream(StreamNumber(number), sid(number), 0);
    }

    /// A block of random entries, noted as given.
    pub(super) fn block(&mut self, entries: u64, payload_bytes_max: u64) -> Block<StreamNumber> {
        let mut block = Block::default();
        for _ in 0..entries {
            let stream = u32::try_from(self.dice.below(self.next.len() as u64)).expect("few");
            let payload_bytes = self.dice.below(payload_bytes_max + 1);
            let payload: Vec<u8> = (0..payload_bytes).map(|_| self.dice.below(7) as u8).collect();
            let (kind, seq, payload) = self.pick(stream, payload);
            let leaf = if kind.is_leaf() { merkle::leaf(&payload) } else { Hash([0; 32]) };
            block.push(
                Entry { stream: StreamNumber(stream), kind, seq, leaf, exchanges: 0, payload_bytes: 0 },
                &payload,
            );
            self.given.push(Given { stream, kind, seq, leaf, payload });
        }
        block
    }

    fn pick(&mut self, stream: u32, payload: Vec<u8>) -> (Kind, u64, Vec<u8>) {
        let next = self.next.get_mut(&stream).expect("a stream");
        match self.dice.below(12) {
            0 => (Kind::Head, *next, payload),
            // All markers in the first stream, so that their numbers do not repeat.
            1 if stream == 0 => {
                self.begins += 1;
                self.open_begins.push(self.begins);
                (Kind::Begin, self.begins, payload)
            }
            2 if stream == 0 && !self.open_begins.is_empty() => (Kind::End, self.open_begins.remove(0), Vec::new()),
            3 => {
                *next += 1;
                (Kind::Checkpoint, *next - 1, payload)
            }
            _ => {
                *next += 1;
                (Kind::Exchange, *next - 1, payload)
            }
        }
    }

    /// Puts random entries and waits until they are durable; returns whether they are.
    pub(super) fn commit(&mut self, entries: u64, payload_bytes_max: u64) -> bool {
        self.put(Writer::commit, entries, payload_bytes_max)
    }

    /// Puts random entries; returns whether the writer took them.
    pub(super) fn put(&mut self, how: How, entries: u64, payload_bytes_max: u64) -> bool {
        let block = self.block(entries, payload_bytes_max);
        self.now += 20_000_000;
        how(&mut self.writer, vec![block], self.now).is_ok()
    }

    /// Gives the disk time, with nothing more to write, until all is durable or the limit keeps it from that; at most so
    /// many times.
    pub(super) fn settles(&mut self, times_max: usize) -> bool {
        (0..times_max).any(|_| {
            let is_full = matches!(self.writer.write(Vec::new(), self.now), Err(Fault::Full { .. }));
            is_full || self.writer.durable().end().number() == self.given.len() as u64
        })
    }

    /// Reads files.
    pub(super) fn reader(&self, at: Place) -> Reader<SimDisk> {
        self.writer.shelf().shared().forget(self.writer.durable().end());
        self.reader_at_hand(at)
    }

    /// Reads what is in memory, and else files.
    pub(super) fn reader_at_hand(&self, at: Place) -> Reader<SimDisk> {
        Reader::new(self.disk.clone(), self.writer.shelf().shared().clone(), at).expect("memory")
    }

    /// Size and root of a stream after this many entries.
    pub(super) fn leaves(&self, stream: u32, entries: usize) -> Range {
        let mut range = Range::empty(0);
        let given = self.given.iter().take(entries).filter(|given| given.stream == stream && given.kind.is_leaf());
        given.for_each(|given| range.push(given.leaf));
        range
    }
}

pub(super) fn recover(disk: &SimDisk) -> Scanned<SimDisk> {
    scan(disk.clone(), &keys(), BOOT, NEXT_BOOT, Unreadable::Damaged, &|| true).expect("the folder is listed")
}

/// Everything that a reader gives, by place; and what it says is lost.
pub(super) fn read_all(mut reader: Reader<SimDisk>) -> (BTreeMap<u64, Given>, Vec<(u64, u64)>) {
    let (mut found, mut lost) = (BTreeMap::new(), Vec::new());
    loop {
        match reader.read().expect("readable") {
            Read::End => return (found, lost),
            Read::Lost { from, to, .. } => lost.push((from.number(), to.number())),
            Read::Block(block) => {
                for read in block.iter() {
                    let stream = read.sid.parts().expect("a name").thread;
                    let (kind, seq, leaf) = (read.entry.kind, read.entry.seq, read.entry.leaf);
                    let given = Given { stream, kind, seq, leaf, payload: read.payload.to_vec() };
                    assert!(found.insert(read.place.number(), given).is_none(), "an entry is read once");
                }
            }
        }
    }
}

//! Where one sink's records come from: the spool, from where the sink stands in it (section 8 of the design).

use super::seals::{Mark, Seals};
use super::standing::Ends;
use super::{Batch, REQUEST_BYTES_MAX};
use crate::spool::{Boot, Durable, FolderReader, Read, ReadBlock, ReadError, SpoolHandle, Untold};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::stream::StreamId;
use testimony_core::record::{Kept, LogWriter};
use tokio::sync::watch;
use tokio::time::Instant;

/// A folder that cannot be read now is tried again after this.
const AGAIN: Duration = Duration::from_secs(10);

/// What the disk does not give is tried so often, one after the other; then it counts as lost, so that the rest can go: a
/// minute, which is longer than a disk is busy, and shorter than the spool needs to fill.
const UNREADABLE_TRIES_MAX: u32 = 6;

/// Where a sink keeps up it gets so many blocks in a request, with a pause between two: making LogRecords of many at once,
/// and compressing them, keeps a processor busy that a request wants.
const PACED_BLOCKS: usize = 5;

/// Between two of them.
const PAUSE: Duration = Duration::from_millis(1);

/// A sink keeps up while no more entries wait for it than these; what is more goes at once, as far as a request takes it.
const PACED_ENTRIES_MAX: u64 = 256;

/// Room for the LogRecords of a block that is taken at once, in bytes, at most.
const ROOM_BYTES_MAX: usize = 64 * 1024;

/// Names of streams that are kept; a stream lives a day.
const NAMES_MAX: usize = 64;

/// One sink's way through the spool.
pub(super) struct Source {
    spool: SpoolHandle,
    sink: Arc<str>,
    durable: watch::Receiver<Durable>,
    adopted: watch::Receiver<usize>,
    /// By process; its own folder and those of earlier ones.
    folders: BTreeMap<Boot, Folder>,
    /// One handle for each stream's name, so that batches of a stream are known by it.
    names: Vec<Arc<StreamId>>,
    writer: LogWriter,
    /// Room for the LogRecords of a block, in bytes: the last one took so much.
    room_bytes: usize,
}

#[derive(Default)]
struct Folder {
    reader: Option<FolderReader>,
    again: Option<Instant>,
    /// Tries that the disk answered with nothing, since it last gave something.
    unreadable: u32,
}

/// What was read.
#[derive(Default)]
pub(super) struct Due {
    pub(super) batches: Vec<Batch>,
    /// Records that cannot be read any more, by stream.
    pub(super) lost: Vec<(Arc<StreamId>, Range)>,
    /// And so many entries more, for which no hole can stand.
    pub(super) untold: u64,
    /// Where it ends, by process.
    pub(super) ends: Ends,
}

impl Due {
    /// Bytes of its LogRecords.
    fn bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.log_records.len()).sum()
    }
}

impl Source {
    pub(super) fn new(spool: SpoolHandle, sink: Arc<str>) -> Self {
        let durable = spool.inbox().durable();
        let adopted = spool.adopted();
        let (folders, names, writer, room_bytes) = Default::default();
        Self { spool, sink, durable, adopted, folders, names, writer, room_bytes }
    }

    /// The next records, at most [`REQUEST_BYTES_MAX`] unless one block is larger. `None`: there are none now.
    pub(super) async fn read(&mut self) -> Option<Due> {
        // What becomes durable from here on ends the wait in `changed`.
        let durable = self.durable.borrow_and_update().end();
        let mut due = Due::default();
        let mut blocks = 0;
        let boots = self.spool.boots();
        // Nobody reads a folder that is gone: when it was to be tried again, `changed` would wait for what is past.
        self.folders.retain(|boot, _| boots.contains(boot));
        for boot in boots {
            let is_own = boot == self.spool.boot();
            while due.bytes() < REQUEST_BYTES_MAX {
                // What becomes durable meanwhile is for the next request, or this one would wait for a lot.
                let rest = due.ends.get(&boot).filter(|_| is_own).map(|end| durable.entries_since(*end));
                if rest == Some(0) || (blocks >= PACED_BLOCKS && rest.is_some_and(|rest| rest <= PACED_ENTRIES_MAX)) {
                    break;
                }
                let Some(read) = self.read_folder(boot, (1..PACED_BLOCKS).contains(&blocks)).await else { break };
                match read {
                    Read::Block(block) => {
                        blocks += 1;
                        due.ends.insert(boot, block.end());
                        self.batches(&block, &mut due);
                    }
                    Read::Lost { to, leaves, untold, problem, .. } => {
                        tracing::error!(sink = %self.sink, %boot, problem, "records of the spool cannot be sent");
                        due.ends.insert(boot, to);
                        due.untold = due.untold.saturating_add(untold.entries);
                        self.tell(&untold);
                        for (stream, range) in leaves {
                            due.lost.push((self.name(&stream), range));
                        }
                    }
                    Read::End => break,
                }
            }
        }
        (!due.ends.is_empty()).then_some(due)
    }

    /// Whether more follows on what was read.
    pub(super) fn has_more(&self) -> bool {
        self.folders.values().filter_map(|folder| folder.reader.as_ref()).any(|reader| !reader.is_at_end())
    }

    /// Returns when there may be more to read.
    pub(super) async fn changed(&mut self) {
        let again = self.folders.values().filter_map(|folder| folder.again).min();
        let retry = async {
            match again {
                Some(again) => tokio::time::sleep_until(again).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // An error: the spool has ended; nothing more comes.
            changed = self.durable.changed() => if changed.is_err() { std::future::pending().await },
            () = retry => {}
            changed = self.adopted.changed() => if changed.is_err() { std::future::pending().await },
        }
    }

    /// What could not be read is tried once more now: there is no later.
    pub(super) fn try_at_once(&mut self) {
        self.folders.values_mut().for_each(|folder| folder.again = None);
    }

    /// Tells the spool what is done with.
    pub(super) fn acknowledge(&self, ends: Ends) {
        ends.into_iter().for_each(|(boot, end)| self.spool.ack(boot, &self.sink, end));
    }

    async fn read_folder(&mut self, boot: Boot, pauses: bool) -> Option<Read> {
        let folder = self.folders.entry(boot).or_default();
        if folder.again.is_some_and(|again| Instant::now() < again) {
            return None;
        }
        folder.again = None;
        let reader = folder.reader.take().or_else(|| self.spool.reader(boot, &self.sink));
        let Some(mut reader) = reader else {
            // The spool hears of a new sink within a moment.
            folder.again = Some(Instant::now() + AGAIN / 100);
            return None;
        };
        if let Some(read) = reader.read_at_hand() {
            folder.reader = Some(reader);
            if pauses && matches!(read, Read::Block(_)) {
                tokio::time::sleep(PAUSE).await;
            }
            return Some(read);
        }
        let is_last_try = folder.unreadable.saturating_add(1) >= UNREADABLE_TRIES_MAX;
        let (reader, read) = tokio::task::spawn_blocking(move || {
            let read = match reader.read() {
                Err(ReadError::Unreadable(_)) if is_last_try => reader.give_up().map_or_else(|| reader.read(), Ok),
                read => read,
            };
            (reader, read)
        })
        .await
        .ok()?;
        let folder = self.folders.entry(boot).or_default();
        folder.reader = Some(reader);
        match read {
            Ok(read) => {
                folder.unreadable = 0;
                Some(read)
            }
            Err(error) => {
                // A segment that is locked waits for its key, however long.
                let is_unreadable = matches!(error, ReadError::Unreadable(_));
                folder.unreadable = folder.unreadable.saturating_add(u32::from(is_unreadable));
                tracing::warn!(sink = %self.sink, %boot, %error, "the spool cannot be read now");
                folder.again = Some(Instant::now() + AGAIN);
                None
            }
        }
    }

    fn tell(&self, untold: &Untold) {
        let (sink, entries) = (&self.sink, untold.entries);
        if entries > 0 {
            tracing::error!(%sink, entries, "entries are gone with their hashes: no hole can stand for them");
        }
        for (stream, seqs) in &untold.leaves {
            let (from, to) = (seqs.start, seqs.end);
            tracing::error!(%sink, %stream, from, to, "the records that are gone are among these");
        }
    }

    /// The entries of a block, a batch for each run of one stream.
    fn batches(&mut self, block: &ReadBlock, due: &mut Due) {
        let mut run: Option<Run> = None;
        for one in block.iter().filter(|one| one.entry.kind.is_exported()) {
            let name = self.name(one.sid);
            let mark = one.entry.kind.is_leaf().then_some((one.entry.seq, one.entry.leaf));
            let Some(kept) = Kept::decode(one.payload) else {
                tracing::error!(sink = %self.sink, stream = %name, seq = one.entry.seq, "a defect: the spool holds no record here");
                due.lost.extend(mark.map(|(seq, leaf)| (name, Range::of_leaf(seq, leaf))));
                continue;
            };
            if run.as_ref().is_some_and(|run| !Arc::ptr_eq(&run.stream, &name)) {
                due.batches.extend(run.take().map(Run::finish));
            }
            run.get_or_insert_with(|| Run::new(name, self.room_bytes)).push(mark, &kept, &mut self.writer);
        }
        self.room_bytes = run.as_ref().map_or(0, |run| run.bytes.len().min(ROOM_BYTES_MAX));
        due.batches.extend(run.map(Run::finish));
    }

    fn name(&mut self, stream: &StreamId) -> Arc<StreamId> {
        if let Some(known) = self.names.iter().rev().find(|known| ***known == *stream) {
            return known.clone();
        }
        if self.names.len() >= NAMES_MAX {
            self.names.remove(0);
        }
        let name = Arc::new(stream.clone());
        self.names.push(name.clone());
        name
    }
}

/// Entries of one stream, one after the other.
struct Run {
    stream: Arc<StreamId>,
    bytes: Vec<u8>,
    marks: Vec<Mark>,
    first_ns: u64,
    last_ns: u64,
}

impl Run {
    fn new(stream: Arc<StreamId>, room_bytes: usize) -> Self {
        Self { stream, bytes: Vec::with_capacity(room_bytes), marks: Vec::new(), first_ns: u64::MAX, last_ns: 0 }
    }

    fn push(&mut self, mark: Mark, kept: &Kept<'_>, writer: &mut LogWriter) {
        writer.append(kept, &mut self.bytes);
        self.marks.push(mark);
        self.first_ns = self.first_ns.min(kept.sealed_ns());
        self.last_ns = self.last_ns.max(kept.sealed_ns());
    }

    fn finish(self) -> Batch {
        Batch {
            log_records: Bytes::from(self.bytes),
            records: u32::try_from(self.marks.len()).unwrap_or(u32::MAX),
            first_unix_nanos: self.first_ns.min(self.last_ns),
            last_unix_nanos: self.last_ns,
            seals: Some(Seals::new(self.stream, self.marks.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::keys::RecoveryKey;
    use crate::spool::tests::{folder, settings};
    use crate::spool::{Class, Entry, Kind, Place, Settings, SinkRule, Spool};
    use std::path::Path;
    use testimony_core::evidence::merkle;
    use testimony_core::record::EventName;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn start(folder: &Path, key: &str, boot: u8) -> Spool {
        let key_folder = folder.join(key);
        std::fs::create_dir_all(&key_folder).expect("a folder");
        let recovery = RecoveryKey::new("p");
        recovery.set([9; 32]);
        let settings = Settings { key_folder, recovery: Some(Arc::new(recovery)), ..settings(folder, boot) };
        Spool::start(settings, &[SinkRule { name: "a".to_owned(), required: true }]).expect("a spool").0
    }

    /// Puts so many records of a stream that is new, and so into a segment of its own; returns when they are durable.
    async fn put(spool: &SpoolHandle, thread: u32, records: u64) {
        let sid = format!("c/n/p/{}-{thread}-0", spool.boot()).parse().expect("a name");
        let stream = spool.inbox().add_stream(sid, 0);
        let mut last = Place::default();
        for seq in 0..records {
            let mut permit = spool.inbox().reserve(Class::Ordinary, 100).expect("room");
            let entry = Entry::new(stream, Kind::Exchange, seq, merkle::leaf(b"record"), 1);
            let payload = [&1_u64.to_le_bytes()[..], &[EventName::HttpRequest.code()], b"record"].concat();
            last = permit.push(entry, &payload).expect("in order");
        }
        assert!(spool.inbox().wait_durable(last, PATIENCE).await);
    }

    fn records(due: &Due) -> u32 {
        due.batches.iter().map(|batch| batch.records).sum()
    }

    #[tokio::test]
    async fn what_the_disk_never_gives_counts_as_lost_after_some_tries_and_the_rest_is_sent() {
        let folder = folder("unreadable");
        let spool = start(&folder, "key", 1);
        let handle = spool.handle().clone();
        put(&handle, 0, 10).await;
        put(&handle, 1, 5).await;
        let first = folder.join("disk").join(handle.boot().to_string()).join(format!("{:020}.seg", 0));
        std::fs::rename(&first, first.with_extension("gone")).expect("a segment");
        handle.forget_recent();
        tokio::time::pause();
        let mut source = Source::new(handle.clone(), "a".into());
        let mut tries = Vec::new();
        let due = loop {
            tries.push(Instant::now());
            match source.read().await {
                Some(due) => break due,
                None => source.changed().await,
            }
        };
        assert_eq!(tries.len(), UNREADABLE_TRIES_MAX as usize);
        assert!(tries.windows(2).all(|pair| pair[1] - pair[0] >= AGAIN), "{tries:?}");
        assert_eq!((due.untold, due.lost.len(), records(&due)), (10, 0, 5));
        assert_eq!(due.ends.get(&handle.boot()).map(|end| end.number()), Some(15));
        drop(spool);
    }

    #[tokio::test]
    async fn a_sink_that_keeps_up_gets_a_few_blocks_at_a_time_and_one_that_does_not_gets_more() {
        let folder = folder("paced");
        let spool = start(&folder, "key", 1);
        let mut source = Source::new(spool.handle().clone(), "a".into());
        let put_blocks = async |threads: std::ops::Range<u32>, each: u64| {
            for thread in threads {
                put(spool.handle(), thread, each).await;
            }
        };
        put_blocks(0..8, 10).await;
        let mut sizes = Vec::new();
        while let Some(due) = source.read().await {
            sizes.push(records(&due));
        }
        assert_eq!(sizes, [50, 30]);
        put_blocks(8..18, 100).await;
        let due = source.read().await.expect("there is more");
        assert_eq!(records(&due), 800, "what is beyond the limit, and the block that it ends in");
        drop(spool);
    }

    #[tokio::test]
    async fn an_entry_that_is_no_record_counts_as_lost_and_the_rest_is_sent() {
        let folder = folder("no-record");
        let spool = start(&folder, "key", 1);
        put(spool.handle(), 0, 2).await;
        let sid = format!("c/n/p/{}-1-0", spool.handle().boot()).parse().expect("a name");
        let stream = spool.handle().inbox().add_stream(sid, 0);
        let leaf = merkle::leaf(b"x");
        let mut permit = spool.handle().inbox().reserve(Class::Ordinary, 100).expect("room");
        let place = permit.push(Entry::new(stream, Kind::Exchange, 0, leaf, 1), b"short").expect("in order");
        assert!(spool.handle().inbox().wait_durable(place, PATIENCE).await);
        let mut source = Source::new(spool.handle().clone(), "a".into());
        let due = loop {
            match source.read().await {
                Some(due) => break due,
                None => source.changed().await,
            }
        };
        let lost: Vec<_> = due.lost.iter().map(|(_, range)| (range.begin(), range.end(), range.root())).collect();
        assert_eq!((records(&due), lost), (2, vec![(0, 1, Some(leaf))]));
        drop(spool);
    }

    #[tokio::test]
    async fn a_folder_that_is_gone_wakes_nobody() {
        let folder = folder("gone");
        let spool = start(&folder, "key", 1);
        let mut source = Source::new(spool.handle().clone(), "a".into());
        while source.read().await.is_some() || source.folders.values().any(|folder| folder.again.is_some()) {
            tokio::task::yield_now().await;
        }
        let gone = Folder { again: Some(Instant::now()), ..Folder::default() };
        source.folders.insert(Boot([7; 16]), gone);
        assert!(source.read().await.is_none());
        tokio::time::pause();
        assert!(tokio::time::timeout(Duration::from_secs(1), source.changed()).await.is_err(), "nothing changes");
        drop(spool);
    }

    #[tokio::test]
    async fn d5_a_segment_that_is_locked_waits_for_its_key_however_long() {
        let folder = folder("locked");
        let before = start(&folder, "key", 1);
        let boot = before.handle().boot();
        put(before.handle(), 0, 10).await;
        drop(before);
        let spool = start(&folder, "other-key", 2);
        let mut adopted = spool.handle().adopted();
        adopted.wait_for(|count| *count == 1).await.expect("it runs");
        let mut source = Source::new(spool.handle().clone(), "a".into());
        // The spool hears of the sink within a moment.
        while spool.handle().reader(boot, "a").is_none() {
            tokio::task::yield_now().await;
        }
        tokio::time::pause();
        for _ in 0..3 * UNREADABLE_TRIES_MAX {
            assert!(source.read().await.is_none(), "nothing opens it");
            let folder = source.folders.get(&boot).expect("a folder");
            assert!(folder.reader.is_some() && folder.again.is_some() && folder.unreadable == 0, "it was tried");
            tokio::time::advance(AGAIN).await;
        }
        drop(spool);
    }
}

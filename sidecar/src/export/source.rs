//! Where one sink's records come from: the spool, from where the sink stands in it (section 8 of the design).

use super::seals::{Mark, Seals};
use super::{Batch, REQUEST_BYTES_MAX};
use crate::spool::{Boot, Durable, FolderReader, Place, Read, ReadBlock, SpoolHandle};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use testimony_core::evidence::merkle::Range;
use testimony_core::evidence::stream::StreamId;
use testimony_core::otlp::observed_time_of_log_record;
use tokio::sync::watch;
use tokio::time::Instant;

/// A folder that cannot be read now is tried again after this.
const AGAIN: Duration = Duration::from_secs(10);

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
    /// What is delivered and not acknowledged.
    delivered: BTreeMap<Boot, Place>,
}

#[derive(Default)]
struct Folder {
    reader: Option<FolderReader>,
    again: Option<Instant>,
}

/// What was read.
#[derive(Default)]
pub(super) struct Due {
    pub(super) batches: Vec<Batch>,
    /// Records that cannot be read any more, by stream.
    pub(super) lost: Vec<(Arc<StreamId>, Range)>,
    /// Where it ends, by process.
    pub(super) ends: BTreeMap<Boot, Place>,
}

impl Source {
    pub(super) fn new(spool: SpoolHandle, sink: Arc<str>) -> Self {
        let durable = spool.inbox().durable();
        let adopted = spool.adopted();
        let (folders, names, delivered) = Default::default();
        Self { spool, sink, durable, adopted, folders, names, delivered }
    }

    /// The next records, at most [`REQUEST_BYTES_MAX`] unless one block is larger. `None`: there are none now.
    pub(super) async fn read(&mut self) -> Option<Due> {
        // What becomes durable from here on ends the wait in `changed`.
        self.durable.borrow_and_update();
        let mut due = Due::default();
        let mut bytes = 0;
        for boot in self.spool.boots() {
            while bytes < REQUEST_BYTES_MAX {
                let Some(read) = self.read_folder(boot).await else { break };
                match read {
                    Read::Block(block) => {
                        bytes += block.payload_bytes();
                        due.ends.insert(boot, block.end());
                        self.batches(&block, &mut due.batches);
                    }
                    Read::Lost { to, leaves, problem, .. } => {
                        tracing::error!(sink = %self.sink, %boot, problem, "records of the spool cannot be sent");
                        due.ends.insert(boot, to);
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

    /// The sink has, or never gets, all that was read up to these ends.
    pub(super) fn done(&mut self, ends: BTreeMap<Boot, Place>) {
        self.delivered.extend(ends);
    }

    /// Tells the spool what is done with.
    pub(super) fn acknowledge(&mut self) {
        for (boot, end) in std::mem::take(&mut self.delivered) {
            self.spool.ack(boot, &self.sink, end);
        }
    }

    async fn read_folder(&mut self, boot: Boot) -> Option<Read> {
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
        let (reader, read) = tokio::task::spawn_blocking(move || {
            let read = reader.read();
            (reader, read)
        })
        .await
        .ok()?;
        let folder = self.folders.entry(boot).or_default();
        folder.reader = Some(reader);
        match read {
            Ok(read) => Some(read),
            Err(error) => {
                tracing::warn!(sink = %self.sink, %boot, %error, "the spool cannot be read now");
                folder.again = Some(Instant::now() + AGAIN);
                None
            }
        }
    }

    /// The entries of a block, a batch for each run of one stream.
    fn batches(&mut self, block: &ReadBlock, out: &mut Vec<Batch>) {
        let mut run: Option<Run> = None;
        for one in block.iter().filter(|one| one.entry.kind.is_exported()) {
            let name = self.name(one.sid);
            let mark = one.entry.kind.is_leaf().then_some((one.entry.seq, one.entry.leaf));
            if run.as_ref().is_some_and(|run| !Arc::ptr_eq(&run.stream, &name)) {
                out.extend(run.take().map(Run::finish));
            }
            run.get_or_insert_with(|| Run::new(name)).push(mark, one.payload);
        }
        out.extend(run.map(Run::finish));
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
    fn new(stream: Arc<StreamId>) -> Self {
        Self { stream, bytes: Vec::new(), marks: Vec::new(), first_ns: u64::MAX, last_ns: 0 }
    }

    fn push(&mut self, mark: Mark, payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
        self.marks.push(mark);
        let time_ns = observed_time_of_log_record(payload).unwrap_or(0);
        self.first_ns = self.first_ns.min(time_ns);
        self.last_ns = self.last_ns.max(time_ns);
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

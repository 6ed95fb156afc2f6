//! A thread that syncs files, so that who writes them can go on: a sync takes as long as the disk likes.

use crate::background;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Syncs that may wait for their turn. Who begins another waits for the disk, as who syncs for himself.
const WAITING_MAX: usize = 8;

/// From so many on that are begun and have not ended, others had better wait: the next one may be of records.
const BUSY_FROM: usize = 4;

/// A sync that takes longer is told: records are not durable meanwhile, and when the process ends there is little time.
const SLOW: Duration = Duration::from_secs(1);

/// What is to be done, and where its outcome goes.
type Job = (Unsynced, SyncSender<io::Result<()>>);

/// A file that is to be synced.
#[derive(Debug)]
pub(super) struct Unsynced {
    pub(super) file: Arc<File>,
    /// Where names stand, if these are to be synced, too.
    pub(super) folder: Option<File>,
}

/// Handle of the thread. Dropping the last one ends it, after what was begun.
#[derive(Debug)]
pub struct Syncer {
    jobs: Option<SyncSender<Job>>,
    /// Begun, and not ended.
    under_way: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Starts the thread. `done` is called after each sync.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(done: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (jobs, waiting) = sync_channel::<Job>(WAITING_MAX);
        let under_way = Arc::new(AtomicUsize::new(0));
        let ended = under_way.clone();
        let work = move || {
            while let Ok((unsynced, outcome)) = waiting.recv() {
                // Who left the file meanwhile does not ask.
                let _ = outcome.send(unsynced.sync());
                ended.fetch_sub(1, Ordering::Relaxed);
                done();
            }
        };
        let thread = background::thread("spool-sync", work)?;
        Ok(Self { jobs: Some(jobs), under_way, thread: Some(thread) })
    }

    /// Whether what can wait had better not begin one. After the next end of one it is worth another look.
    pub fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) >= BUSY_FROM
    }

    /// Begins to sync a file.
    pub(super) fn begin(&self, unsynced: Unsynced) -> Receiver<io::Result<()>> {
        // Room for the outcome: the thread waits for nobody.
        let (outcome, receiver) = sync_channel(1);
        if let Some(jobs) = &self.jobs {
            self.under_way.fetch_add(1, Ordering::Relaxed);
            // A thread that is gone has dropped the outcome's sender, and that is an error.
            let _ = jobs.send((unsynced, outcome));
        }
        receiver
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.jobs = None;
        // It ends in order, or the process does.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Unsynced {
    /// Waits until what was written survives the death of the node.
    pub(super) fn sync(&self) -> io::Result<()> {
        let begun = Instant::now();
        let synced = self.file.sync_data().and_then(|()| self.folder.as_ref().map_or(Ok(()), File::sync_all));
        let took = begun.elapsed();
        if took > SLOW {
            tracing::warn!(milliseconds = took.as_millis(), "the spool's disk is slow");
        }
        synced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsynced(file: File) -> Unsynced {
        Unsynced { file: Arc::new(file), folder: None }
    }

    #[test]
    fn each_sync_tells_how_it_ended_and_what_was_begun_is_done_before_the_thread_ends() {
        let done = Arc::new(AtomicUsize::new(0));
        let syncer = Syncer::start({
            let done = done.clone();
            move || {
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        let syncer = syncer.expect("a thread");
        let file = || File::open("/proc/self/exe").expect("a file");
        let good = syncer.begin(unsynced(file()));
        // Nothing stands behind a pipe that could be synced.
        let (pipe, _other_end) = io::pipe().expect("a pipe");
        let bad = syncer.begin(unsynced(File::from(std::os::fd::OwnedFd::from(pipe))));
        drop(syncer.begin(unsynced(file())));
        let last = syncer.begin(unsynced(file()));
        drop(syncer);
        assert_eq!(done.load(Ordering::Relaxed), 4);
        let ended = [good, bad, last].map(|outcome| outcome.try_recv().expect("it has ended").is_ok());
        assert_eq!(ended, [true, false, true]);
    }
}

//! A copy of the ledger's newest head, for whoever keeps it elsewhere (W3): the ledger that they are shown later must be at least
//! as large, and continue it. It anchors nothing while it stands in the same cluster.

use super::export::Progress;
use super::store::{Store, StoreError};
use crate::serve::Shutdown;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;

/// Time for the last copy at the end, in seconds.
const LAST_SECONDS_MAX: u64 = 2;
/// The copy in a folder, with its newest head,
const FILE: &str = "testimony-ledger-head.txt";
/// and what becomes it.
const UNFINISHED: &str = ".testimony-ledger-head.txt.new";

/// Why a copy was not made.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    /// The block, or the ConfigMap.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file.
    #[error("{}: {error}", folder.display())]
    Folder { folder: PathBuf, error: io::Error },
}

/// Keeps the copy.
pub struct HeadCopy {
    /// Where a file with it is kept too, such as a volume from outside of the cluster.
    pub folder: Option<PathBuf>,
    /// Where blocks are, and the copy.
    pub store: Store,
    /// Which blocks there are.
    pub progress: watch::Receiver<Option<Progress>>,
    /// Least time between two copies.
    pub interval: Duration,
}

impl HeadCopy {
    /// Copies until the signal to stop, and once more then. Errors are logged, and tried again with the next interval.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        let mut copied = None;
        loop {
            // A volume of the network may keep its writer waiting.
            let copy_and_wait = async {
                copied = self.copy(copied).await;
                tokio::time::sleep(self.interval).await;
            };
            tokio::select! {
                () = copy_and_wait => {}
                () = shutdown.wait() => break,
            }
            if copied == self.newest() {
                tokio::select! {
                    changed = self.progress.changed() => if changed.is_err() { break },
                    () = shutdown.wait() => break,
                }
            }
        }
        let _ = tokio::time::timeout(Duration::from_secs(LAST_SECONDS_MAX), self.copy(copied)).await;
    }

    /// Number of the newest block.
    fn newest(&self) -> Option<u64> {
        self.progress.borrow().as_ref()?.next.checked_sub(1)
    }

    /// Copies the head of the newest block, unless that is `copied`; returns the block whose head is copied now.
    async fn copy(&mut self, copied: Option<u64>) -> Option<u64> {
        self.progress.mark_unchanged();
        let newest = self.newest().filter(|newest| Some(*newest) != copied);
        let Some(newest) = newest else { return copied };
        match self.write(newest).await {
            Ok(()) => Some(newest),
            Err(error) => {
                tracing::warn!(%error, block = newest, "the copy of the ledger's head is not written, trying again");
                copied
            }
        }
    }

    async fn write(&self, newest: u64) -> Result<(), CopyError> {
        let Some(block) = self.store.get(newest).await? else { return Ok(()) };
        self.store.publish_head(&block.note).await?;
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let into = folder.clone();
        let written = tokio::task::spawn_blocking(move || replace(&into, &block.note));
        let written = written.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|error| CopyError::Folder { folder, error })
    }
}

/// Whoever reads meanwhile sees the copy before, or this one.
fn replace(folder: &Path, note: &str) -> io::Result<()> {
    let unfinished = folder.join(UNFINISHED);
    let mut file = File::create(&unfinished)?;
    file.write_all(note.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, folder.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::super::bench::{Bench, MAPS, SPACE, pod};
    use super::*;
    use crate::testing::FakeApi;
    use testimony_core::evidence::note::SignedNote;

    fn copied(bench: &Bench) -> Option<u64> {
        let object = bench.api.get(&format!("{MAPS}/testimony-ledger-head"))?;
        let note = SignedNote::parse(object["data"]["head"].as_str().expect("text")).expect("a note");
        let ledger = &bench.roots().ledgers[0];
        assert!(note.is_signed_by(&ledger.name, &ledger.key), "whoever has the roots can check it");
        Some(note.checkpoint.size)
    }

    fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("testimony-head-copy-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    fn version(bench: &Bench) -> serde_json::Value {
        bench
            .api
            .get(&format!("{MAPS}/testimony-ledger-head"))
            .map(|o| o["metadata"]["resourceVersion"].clone())
            .unwrap_or_default()
    }

    #[tokio::test(start_paused = true)]
    async fn w3_the_copy_follows_the_ledger_at_a_bounded_rate_and_is_whole_at_the_end() {
        let bench = Bench::new(FakeApi::default());
        bench.until("the ledger begins", |bench| !bench.blocks().is_empty()).await;
        let progress = watch::Sender::new(None);
        let (stop, shutdown) = Shutdown::new();
        let store = Store::new(bench.api.client(), SPACE);
        let interval = Duration::from_secs(60);
        let folder = folder();
        let copy = HeadCopy { folder: Some(folder.clone()), store, progress: progress.subscribe(), interval };
        let copy = tokio::spawn(copy.run(shutdown));
        let sid = bench.roots().ledgers[0].name.parse::<testimony_core::evidence::stream::StreamId>().expect("a name");
        let tell = |bench: &Bench| {
            let next = bench.blocks().len() as u64;
            progress.send_replace(Some(Progress { sid: sid.clone(), oldest: 0, next }));
        };
        tell(&bench);
        bench.until("the first copy", |bench| copied(bench).is_some()).await;
        let mut versions = vec![version(&bench)];
        for name in ["a", "b", "c", "d"] {
            let before = bench.blocks().len();
            pod(&bench.state, name, true);
            bench.until("another block", |bench| bench.blocks().len() > before).await;
            tell(&bench);
            if versions.last() != Some(&version(&bench)) {
                versions.push(version(&bench));
            }
        }
        assert!(versions.len() <= 2, "four blocks in a few seconds are not four copies: {versions:?}");
        bench.until("the newest", |bench| copied(bench) == Some(bench.read().size)).await;
        // What the API server does not take is tried again, and what the volume does not take.
        bench.api.fail(true);
        tokio::time::sleep(Duration::from_secs(130)).await;
        bench.api.fail(false);
        fs::remove_dir_all(&folder).expect("gone");
        pod(&bench.state, "e", true);
        let before = bench.blocks().len();
        bench.until("another block", |bench| bench.blocks().len() > before).await;
        tell(&bench);
        tokio::time::sleep(Duration::from_secs(130)).await;
        assert!(!folder.exists());
        fs::create_dir_all(&folder).expect("a folder");
        stop.send_replace(true);
        copy.await.expect("a clean end");
        assert_eq!(copied(&bench), Some(bench.read().size), "nothing is left out at the end");
        let files = fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("a file").file_name());
        assert_eq!(files.collect::<Vec<_>>(), [FILE], "one file, and nothing unfinished");
        let object = bench.api.get(&format!("{MAPS}/testimony-ledger-head")).expect("a copy");
        assert_eq!(
            fs::read_to_string(folder.join(FILE)).expect("a file"),
            object["data"]["head"].as_str().expect("text")
        );
        fs::remove_dir_all(&folder).expect("gone");
        bench.end().await;
    }
}

//! A copy of the ledger's newest head, for whoever keeps it elsewhere (W3): the ledger that they are shown later must be at least
//! as large, and continue it. It anchors nothing while it stands in the same cluster.

use super::export::Progress;
use super::store::Store;
use crate::serve::Shutdown;
use std::time::Duration;
use tokio::sync::watch;

/// Time for the last copy at the end, in seconds.
const LAST_SECONDS_MAX: u64 = 2;

/// Keeps the copy.
pub struct HeadCopy {
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
            copied = self.copy(copied).await;
            tokio::select! {
                () = tokio::time::sleep(self.interval) => {}
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
        let done = async {
            if let Some(block) = self.store.get(newest).await? {
                self.store.publish_head(&block.note).await?;
            }
            Ok::<_, super::store::StoreError>(())
        };
        match done.await {
            Ok(()) => Some(newest),
            Err(error) => {
                tracing::warn!(%error, block = newest, "the copy of the ledger's head is not written, trying again");
                copied
            }
        }
    }
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
        let copy = tokio::spawn(HeadCopy { store, progress: progress.subscribe(), interval }.run(shutdown));
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
        // What the API server does not take is tried again.
        bench.api.fail(true);
        tokio::time::sleep(Duration::from_secs(130)).await;
        bench.api.fail(false);
        pod(&bench.state, "e", true);
        let before = bench.blocks().len();
        bench.until("another block", |bench| bench.blocks().len() > before).await;
        tell(&bench);
        stop.send_replace(true);
        copy.await.expect("a clean end");
        assert_eq!(copied(&bench), Some(bench.read().size), "nothing is left out at the end");
        bench.end().await;
    }
}

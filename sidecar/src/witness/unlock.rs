//! Opens what an earlier process spooled before the node restarted: the pod's key was in memory and is gone, and the operator
//! has the other one (D5). It also brings the recovery key to which new segments are wrapped. Runs behind everything: while
//! the operator is away, the old segments wait.

use crate::client::{Backoff, Jitter};
use crate::poll::{CallError, Caller};
use crate::spool::keys::{DataKey, KEY_BYTES};
use crate::spool::{Boot, LockedSegment, SpoolHandle};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testimony_core::contract::UNWRAP_PATH;
use testimony_core::evidence::witness::unwrap::{
    KEYS_MAX, MESSAGE_BYTES_MAX, RECOVERY_KEY_BYTES, STREAMS_MAX, UnwrapRequest, UnwrapResponse,
};
use tokio::sync::watch;

/// Deadline of a request: the operator answers when its next block is committed.
const ANSWER_DEADLINE: Duration = Duration::from_secs(65);

/// The recovery key is asked for so often: it may be made anew while this process runs.
const REFRESH: Duration = Duration::from_secs(600);

/// First and longest wait after a request that brought nothing.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Name of the file in the state folder that keeps the recovery key's public half for the next process.
const FILE: &str = "recovery.pub";

/// Asks the operator for the recovery key and for the keys of segments.
pub struct Unlocker {
    caller: Caller,
    spool: SpoolHandle,
    adopted: watch::Receiver<usize>,
    file: Option<PathBuf>,
    /// Segments that were answered for.
    done: BTreeSet<(Boot, u64)>,
    backoff: Backoff,
    refresh: Duration,
    /// The last request brought nothing, and that was said.
    troubled: bool,
}

impl Unlocker {
    /// For this spool. What an earlier process kept in `state_folder` is in force at once.
    pub fn new(caller: Caller, spool: SpoolHandle, state_folder: Option<&Path>) -> Self {
        let file = state_folder.map(|folder| folder.join(FILE));
        let kept = file.as_ref().and_then(|file| std::fs::read(file).ok());
        if let Some(key) = kept.and_then(|kept| kept.try_into().ok()) {
            spool.set_recovery_key(key);
        }
        let adopted = spool.adopted();
        let backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, Jitter::seeded());
        Self { caller, spool, adopted, file, done: BTreeSet::new(), backoff, refresh: REFRESH, troubled: false }
    }

    /// Asks for the recovery key so often.
    #[must_use]
    pub fn asking_each(mut self, refresh: Duration) -> Self {
        self.refresh = refresh;
        self
    }

    /// Asks until `shutdown` ends.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = shutdown => {}
            () = self.ask_for_ever() => {}
        }
    }

    async fn ask_for_ever(&mut self) {
        let mut knows_key = false;
        loop {
            // What is adopted from here on ends the wait below.
            self.adopted.borrow_and_update();
            let locked = self.locked();
            if knows_key && locked.is_empty() {
                match tokio::time::timeout(self.refresh, self.adopted.changed()).await {
                    Ok(Ok(())) => continue,
                    // The spool has ended; the task goes on until it is told to stop.
                    Ok(Err(_)) => std::future::pending::<()>().await,
                    Err(_) => {}
                }
            }
            match self.ask(&locked).await {
                Ok(()) => {
                    knows_key = true;
                    self.backoff.reset();
                    if std::mem::take(&mut self.troubled) {
                        tracing::info!("the operator answers for keys of the spool again");
                    }
                }
                Err(error) => {
                    self.caller.disconnect();
                    self.say(&error, locked.len());
                    tokio::time::sleep(self.backoff.wait()).await;
                }
            }
        }
    }

    /// Once, until it works again: an operator may be away for long.
    fn say(&mut self, error: &CallError, segments: usize) {
        if std::mem::replace(&mut self.troubled, true) {
            tracing::debug!(%error, segments, "no keys of the spool from the operator");
        } else {
            tracing::warn!(%error, segments, "no keys of the spool from the operator; asking again until it answers");
        }
    }

    /// As many segments as fit a request.
    fn locked(&self) -> Vec<LockedSegment> {
        let mut streams = BTreeSet::new();
        let locked = self.spool.locked().into_iter();
        let locked = locked.filter(|segment| !self.done.contains(&(segment.boot, segment.number))).take(KEYS_MAX);
        let fits = |segment: &LockedSegment| {
            streams.extend(segment.streams.iter().cloned());
            streams.len() <= STREAMS_MAX
        };
        locked.take_while(fits).collect()
    }

    async fn ask(&mut self, locked: &[LockedSegment]) -> Result<(), CallError> {
        let streams: BTreeSet<_> = locked.iter().flat_map(|segment| &segment.streams).cloned().collect();
        let streams = streams.into_iter().collect();
        let request = UnwrapRequest { streams, keys: locked.iter().map(|one| STANDARD.encode(&one.wrapped)).collect() };
        let answer = self.caller.call(UNWRAP_PATH, &request, ANSWER_DEADLINE, MESSAGE_BYTES_MAX).await?;
        let wrong = |problem: &str| CallError::Body(problem.to_owned());
        let body = answer.ok_or_else(|| wrong("it is empty"))?;
        let response: UnwrapResponse =
            serde_json::from_slice(&body).map_err(|error| CallError::Body(error.to_string()))?;
        let key = key_of(&response.recovery_key).ok_or_else(|| wrong("it holds no recovery key"))?;
        if response.keys.len() != locked.len() {
            return Err(wrong("it answers for other keys"));
        }
        self.spool.set_recovery_key(key);
        self.keep(&key);
        for (segment, key) in locked.iter().zip(&response.keys) {
            self.unlock(segment, key.as_deref());
        }
        Ok(())
    }

    /// A segment whose key is lost is told as damaged: it must not wait for ever.
    fn unlock(&mut self, segment: &LockedSegment, key: Option<&str>) {
        let (boot, number) = (segment.boot, segment.number);
        let key = match key.map(key_of) {
            Some(Some(key)) => {
                tracing::info!(%boot, number, "the operator opened a segment of before the node's restart");
                DataKey::new(&key)
            }
            _ => {
                tracing::error!(%boot, number, "the operator's recovery key does not open a segment; it is lost");
                DataKey::lost()
            }
        };
        self.done.insert((boot, number));
        if let Some(key) = key {
            self.spool.unlock(boot, number, key);
        }
    }

    /// For the next process, which may come up while the operator is away. Without it that one asks.
    fn keep(&self, key: &[u8; RECOVERY_KEY_BYTES]) {
        let Some(file) = &self.file else { return };
        if std::fs::read(file).is_ok_and(|kept| kept == key) {
            return;
        }
        if let Err(error) = std::fs::write(file, key) {
            tracing::warn!(file = %file.display(), %error, "the recovery key is not kept");
        }
    }
}

fn key_of(text: &str) -> Option<[u8; KEY_BYTES]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

//! When what waits in the inbox is written, and when it is made durable.

use std::time::{Duration, Instant};

/// When what waits is written and made durable, and how much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of payloads that are reserved, wait or are being written.
    pub held_bytes_max: u64,
    /// What waits so long is made durable.
    pub commit_after: Duration,
    /// When somebody waits for it (Strict): made durable at once, unless what was before was so short ago.
    pub commit_after_urgent: Duration,
    /// What is so much is made durable.
    pub commit_bytes: usize,
    /// What waits so long is written, and made durable when its time comes: who kills the process does not take that away,
    /// and a disk that syncs as often keeps a processor busy that a request wants.
    pub write_within: Duration,
    /// What is so much is written already before: so does sealing a lot at once.
    pub write_bytes: usize,
    /// Time from one such write to the next, at least. The writer looks for itself whether there is so much: a request that
    /// had to wake it would wait for that.
    pub write_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            held_bytes_max: 8 * 1024 * 1024,
            commit_after: Duration::from_millis(50),
            commit_after_urgent: Duration::from_millis(2),
            commit_bytes: 512 * 1024,
            write_within: Duration::from_millis(20),
            write_bytes: 6 * 1024,
            write_after: Duration::from_millis(4),
        }
    }
}

/// What waits for the writer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    /// Since when something is to be durable.
    pub(super) since: Instant,
    /// When something was written last.
    pub(super) written_at: Option<Instant>,
    /// Bytes of payloads that are to be written.
    pub(super) bytes: usize,
    /// Somebody waits for it.
    pub(super) urgent: bool,
    /// When all was made durable last.
    pub(super) committed_at: Option<Instant>,
}

impl Waiting {
    /// Since when nothing was written.
    fn paused_at(&self) -> Instant {
        self.written_at.map_or(self.since, |last| last.max(self.since))
    }
}

impl Limits {
    /// When all is to be durable.
    pub(super) fn commit_due(&self, waiting: &Waiting) -> Instant {
        let usual = waiting.since + self.commit_after;
        if !waiting.urgent {
            return usual;
        }
        let paced = waiting.committed_at.map(|last| last + self.commit_after_urgent);
        paced.map_or(waiting.since, |paced| paced.max(waiting.since)).min(usual)
    }

    /// When something is to be done: to write, or to make durable.
    pub(super) fn due(&self, waiting: &Waiting) -> Instant {
        let commit = self.commit_due(waiting);
        let pause = match waiting.bytes {
            0 => return commit,
            few if few < self.write_bytes => self.write_within,
            _ => self.write_after,
        };
        commit.min(waiting.paused_at() + pause)
    }

    /// When to look again: something is due, or there may be more to write. The less comes, the longer.
    pub(super) fn look(&self, waiting: &Waiting, now: Instant) -> Instant {
        let idle = now.saturating_duration_since(waiting.paused_at());
        self.due(waiting).min(now + idle.clamp(self.write_after.min(self.write_within), self.write_within))
    }
}

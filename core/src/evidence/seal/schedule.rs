//! When a stream has something to do (H2, K2, S4), as a function of times and counts alone.

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A head goes to the witness so often, in seconds, while records come.
pub const WITNESS_SECONDS: u64 = 1;
/// When none do, whoever sends heads sends the last one again so often, in seconds: to sign it again under another key
/// would break K2.
pub const WITNESS_IDLE_SECONDS: u64 = 30;

/// Time between two heads of a stream that go out with their cosignatures, in seconds (H3).
pub const COSIGNED_SECONDS: u64 = 30;

/// A checkpoint is sealed so often, in seconds, or after so many records; and so often when nothing is new.
pub const CHECKPOINT_SECONDS: u64 = 30;
/// See [`CHECKPOINT_SECONDS`].
pub const CHECKPOINT_RECORDS: u64 = 8192;
/// See [`CHECKPOINT_SECONDS`].
pub const CHECKPOINT_IDLE_SECONDS: u64 = 300;

/// A key is used for so long, in seconds: K2's ten minutes, less what a busy thread may be late.
pub const EPOCH_SECONDS: u64 = 570;

/// A stream ends after so many seconds,
pub const STREAM_SECONDS: u64 = 24 * 3600;
/// or with so many records.
pub const STREAM_RECORDS: u64 = 1 << 24;

/// What found no place is tried again after so long, in seconds.
pub const RETRY_SECONDS: u64 = 1;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Close the stream and open the next.
    Rotate,
    /// A checkpoint with the next key.
    Rollover,
    /// A checkpoint.
    Checkpoint,
    /// A head for the witness.
    Witness,
}

/// Times are of the monotonic clock, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    opened_ns: u64,
    epoch_ns: u64,
    checkpoint_ns: u64,
    /// Records since the last checkpoint.
    news: u64,
    /// The last head for the witness: when, and of what size. `None`: there is no witness.
    witness: Option<(u64, u64)>,
    held_ns: u64,
}

impl Schedule {
    /// Of a stream that is opened now.
    pub const fn new(now_ns: u64, witness: bool) -> Self {
        let witness = if witness { Some((now_ns, 0)) } else { None };
        Self { opened_ns: now_ns, epoch_ns: now_ns, checkpoint_ns: now_ns, news: 0, witness, held_ns: 0 }
    }

    /// A record that is no checkpoint was sealed.
    pub const fn sealed(&mut self) {
        self.news = self.news.saturating_add(1);
    }

    /// A checkpoint was sealed; with it a new key if `rolled`.
    pub const fn checkpointed(&mut self, now_ns: u64, rolled: bool) {
        self.checkpoint_ns = now_ns;
        self.news = 0;
        if rolled {
            self.epoch_ns = now_ns;
        }
    }

    /// A head of this size goes to the witness.
    pub const fn headed(&mut self, now_ns: u64, size: u64) {
        if self.witness.is_some() {
            self.witness = Some((now_ns, size));
        }
    }

    /// What was due found no place.
    pub const fn hold(&mut self, now_ns: u64) {
        self.held_ns = now_ns.saturating_add(RETRY_SECONDS * NANOS_PER_SECOND);
    }

    /// When each task is due, given the stream's size. What stands first comes first.
    const fn times(&self, size: u64) -> [(Task, u64); 4] {
        let rotate = if size >= STREAM_RECORDS { 0 } else { after(self.opened_ns, STREAM_SECONDS) };
        let checkpoint = match self.news {
            0 => after(self.checkpoint_ns, CHECKPOINT_IDLE_SECONDS),
            CHECKPOINT_RECORDS.. => 0,
            _ => after(self.checkpoint_ns, CHECKPOINT_SECONDS),
        };
        let witness = match self.witness {
            None => u64::MAX,
            Some((at, headed)) if size > headed => after(at, WITNESS_SECONDS),
            Some(_) => u64::MAX,
        };
        [
            (Task::Rotate, rotate),
            (Task::Rollover, after(self.epoch_ns, EPOCH_SECONDS)),
            (Task::Checkpoint, checkpoint),
            (Task::Witness, witness),
        ]
    }

    /// What is to be done now.
    pub fn due(&self, now_ns: u64, size: u64) -> Option<Task> {
        if now_ns < self.held_ns {
            return None;
        }
        self.times(size).into_iter().find(|(_, at)| now_ns >= *at).map(|(task, _)| task)
    }

    /// When the next task is due, if nothing is sealed before.
    pub fn due_ns(&self, size: u64) -> u64 {
        self.times(size).into_iter().map(|(_, at)| at).min().unwrap_or(u64::MAX).max(self.held_ns)
    }
}

const fn after(since_ns: u64, seconds: u64) -> u64 {
    since_ns.saturating_add(seconds * NANOS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = NANOS_PER_SECOND;

    #[test]
    fn h2_heads_and_checkpoints_come_when_they_are_due() {
        let mut schedule = Schedule::new(0, true);
        schedule.sealed();
        assert_eq!(schedule.due(SECOND - 1, 1), None);
        assert_eq!(schedule.due(SECOND, 1), Some(Task::Witness));
        schedule.headed(SECOND, 1);
        assert_eq!(schedule.due_ns(1), 30 * SECOND, "the first checkpoint");
        assert_eq!(schedule.due(30 * SECOND, 1), Some(Task::Checkpoint));
        schedule.checkpointed(30 * SECOND, false);
        schedule.headed(30 * SECOND, 2);
        assert_eq!((schedule.due_ns(2), schedule.due(60 * SECOND, 2)), (330 * SECOND, None));
        let mut silent = Schedule::new(0, false);
        silent.checkpointed(0, false);
        assert_eq!(silent.due_ns(1), 300 * SECOND, "an idle stream without a witness");
        for _ in 0..CHECKPOINT_RECORDS {
            silent.sealed();
        }
        assert_eq!(silent.due(1, 9000), Some(Task::Checkpoint));
    }

    #[test]
    fn k2_s4_epochs_and_streams_end_in_time() {
        let mut schedule = Schedule::new(7, false);
        schedule.checkpointed(7 + 569 * SECOND, false);
        assert_eq!(schedule.due(7 + EPOCH_SECONDS * SECOND, 9), Some(Task::Rollover));
        const { assert!(EPOCH_SECONDS < 600) };
        schedule.checkpointed(7 + 570 * SECOND, true);
        assert_eq!(schedule.due(8 + 570 * SECOND, 9), None);
        assert_eq!(schedule.due(8 + 570 * SECOND, STREAM_RECORDS), Some(Task::Rotate));
        assert_eq!(schedule.due(7 + STREAM_SECONDS * SECOND, 9), Some(Task::Rotate));
        schedule.hold(7 + STREAM_SECONDS * SECOND);
        assert_eq!(schedule.due(8 + STREAM_SECONDS * SECOND, 9), None);
        assert_eq!(schedule.due(7 + (STREAM_SECONDS + RETRY_SECONDS) * SECOND, 9), Some(Task::Rotate));
    }
}

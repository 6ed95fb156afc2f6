//! Long exchanges show early: when an open exchange is to be shown, and the record that shows it (R5, `stage`).
//!
//! Whatever front holds an open exchange keeps a [`Stages`] with it and asks it at its `tick`. Nothing here counts in the
//! metrics of exchanges: an exchange is counted once, at its end.

use super::{ConnFacts, Outcome, Receipt, Shell};
use crate::policy::Compiled;
use crate::record::{EventName, Field, Record, Stamp};
use crate::redact::redact;

/// An opaque connection that is open for so long is shown, in milliseconds: within its first second, and a short one does
/// not have two records.
pub const CONNECTION_OPENED_AFTER_MS: u64 = 500;

/// An HTTP exchange that is open for so long is shown, in milliseconds; a stream is shown as soon as its answer began.
pub const EXCHANGE_OPENED_AFTER_MS: u64 = 1000;

/// What stays open is shown again so often, in seconds.
pub const PROGRESS_EVERY_SECONDS: u64 = 60;

/// A time that never comes.
pub const NEVER_NS: u64 = u64::MAX;

const NANOS_PER_MILLI: u64 = 1_000_000;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// What a stage record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The exchange is open.
    Opened,
    /// The exchange has an answer, which leaves once this record is durable (T1).
    Answered,
    /// It still is.
    Progress,
}

impl Stage {
    /// As it stands in the field `stage`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Answered => "answered",
            Self::Progress => "progress",
        }
    }
}

/// What is open: it gives the stages their event names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An HTTP exchange.
    Stream,
    /// An opaque connection.
    Tcp,
}

impl Kind {
    const fn event(self, stage: Stage) -> EventName {
        match (self, stage) {
            (Self::Stream, Stage::Opened | Stage::Answered) => EventName::StreamOpen,
            (Self::Stream, Stage::Progress) => EventName::StreamProgress,
            (Self::Tcp, Stage::Opened | Stage::Answered) => EventName::TcpOpen,
            (Self::Tcp, Stage::Progress) => EventName::TcpProgress,
        }
    }
}

/// When one open exchange is next to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stages {
    due_ns: u64,
    opened: bool,
}

impl Default for Stages {
    fn default() -> Self {
        Self::never()
    }
}

impl Stages {
    /// It is never shown: no policy wants a record of it, or there is nothing to show yet.
    pub const fn never() -> Self {
        Self { due_ns: NEVER_NS, opened: false }
    }

    /// Of an opaque connection that was accepted at `start` and has its upstream now.
    pub const fn of_connection(start: Stamp) -> Self {
        Self::opened_after(start, CONNECTION_OPENED_AFTER_MS)
    }

    /// Of an HTTP exchange whose request head came at `start`.
    pub const fn of_exchange(start: Stamp) -> Self {
        Self::opened_after(start, EXCHANGE_OPENED_AFTER_MS)
    }

    const fn opened_after(start: Stamp, millis: u64) -> Self {
        Self { due_ns: start.mono_ns.saturating_add(millis.saturating_mul(NANOS_PER_MILLI)), opened: false }
    }

    /// It proved to be a stream: it is shown at the next tick, once more if it was slow and shown before.
    pub const fn hasten(&mut self) {
        if self.due_ns != NEVER_NS {
            self.due_ns = 0;
        }
    }

    /// When it is to be shown next, on the monotonic clock; [`NEVER_NS`] if never.
    pub const fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// It is shown now whether it was due or not.
    pub const fn shown(&mut self, now: Stamp) {
        if self.due_ns != NEVER_NS {
            self.due_ns = now.mono_ns.saturating_add(PROGRESS_EVERY_SECONDS.saturating_mul(NANOS_PER_SECOND));
            self.opened = true;
        }
    }

    /// What is to be shown now, if anything; the next time is counted from now.
    pub fn take(&mut self, now: Stamp) -> Option<Stage> {
        if now.mono_ns < self.due_ns || self.due_ns == NEVER_NS {
            return None;
        }
        self.due_ns = now.mono_ns.saturating_add(PROGRESS_EVERY_SECONDS.saturating_mul(NANOS_PER_SECOND));
        let was_opened = std::mem::replace(&mut self.opened, true);
        Some(if was_opened { Stage::Progress } else { Stage::Opened })
    }
}

/// Makes a stage of what an open exchange has collected so far and emits it. `record` is a copy of its record, with sizes
/// and status so far; its end, its outcome and its id are none of its own.
pub(super) fn show<S: Shell>(
    shell: &mut S,
    conn: &ConnFacts,
    policy: &Compiled,
    start: Stamp,
    kind: Kind,
    stage: Stage,
    mut record: Record,
) -> Receipt {
    record.set_event(kind.event(stage));
    record.set(Field::Typ, b"stage");
    record.set(Field::Stage, stage.as_str().as_bytes());
    record.set(Field::Outcome, Outcome::Unknown.as_str().as_bytes());
    record.set(Field::PolicyRevision, policy.document().revision.as_bytes());
    let now = shell.now();
    let random = shell.random();
    conn.close(&mut record, start, now, random);
    shell.emit(redact(record, policy.redactor()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Stamp {
        Stamp { wall_ns: 0, mono_ns: (seconds * 1e9) as u64 }
    }

    /// Ticks every tenth of a second; the stages with their times in tenths.
    fn shown(mut stages: Stages, until_seconds: u32) -> Vec<(u32, Stage)> {
        (0..=until_seconds * 10)
            .filter_map(|tenth| stages.take(at(f64::from(tenth) / 10.0)).map(|stage| (tenth, stage)))
            .collect()
    }

    #[test]
    fn opened_once_and_then_progress_every_minute() {
        use Stage::{Opened, Progress};
        let connection = shown(Stages::of_connection(at(1.0)), 130);
        assert_eq!(connection, [(15, Opened), (615, Progress), (1215, Progress)]);
        assert_eq!(shown(Stages::of_exchange(at(0.0)), 70), [(10, Opened), (610, Progress)]);
        assert_eq!(shown(Stages::never(), 70), []);
        assert_eq!(Stages::never().take(Stamp { wall_ns: 0, mono_ns: u64::MAX }), None);
    }

    #[test]
    fn a_stream_is_shown_at_the_next_tick() {
        let mut stages = Stages::of_exchange(at(5.0));
        stages.hasten();
        assert_eq!(stages.due_ns(), 0);
        assert_eq!(stages.take(at(5.1)), Some(Stage::Opened));
        assert_eq!(stages.take(at(6.0)), None);
        let mut slow = Stages::of_exchange(at(5.0));
        assert_eq!(slow.take(at(6.0)), Some(Stage::Opened));
        slow.hasten();
        assert_eq!(slow.take(at(7.0)), Some(Stage::Progress));
        let mut never = Stages::never();
        never.hasten();
        assert_eq!(never, Stages::never(), "what policy does not record is not shown");
    }

    #[test]
    fn a_late_tick_shows_one_stage_and_not_all_that_were_missed() {
        let mut stages = Stages::of_connection(at(0.0));
        assert_eq!(stages.take(at(500.0)), Some(Stage::Opened));
        assert_eq!(stages.take(at(500.0)), None);
        assert_eq!(stages.take(at(800.0)), Some(Stage::Progress));
        assert_eq!(stages.due_ns(), at(860.0).mono_ns);
    }
}

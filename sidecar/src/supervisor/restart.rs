//! When a worker that ended is started again. Pure.

use std::time::Duration;

/// A worker that ended sooner than this counts as one that fails at its start.
const QUICK_END_MS: u64 = 1000;
/// What each further quick end adds to the pause.
const PAUSE_STEP_MS: u64 = 10;
/// The longest pause: with the start of the worker itself, connections wait less than 100 ms in the backlog.
pub(super) const PAUSE_MAX_MS: u64 = 50;

/// Counts the deaths of workers, and how quickly they end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Restarts {
    /// Ends but for those in order.
    pub(super) total: u64,
    quick_in_a_row: u64,
}

impl Restarts {
    /// A worker that had lived for `lifetime` ended, and died unless that was in order. Says how long to wait before the next
    /// start: not at all, unless workers end quickly one after another.
    pub(super) fn ended(&mut self, lifetime: Duration, died: bool) -> Duration {
        self.total = self.total.saturating_add(died.into());
        let quick = lifetime < Duration::from_millis(QUICK_END_MS);
        let pause_ms = if quick { self.quick_in_a_row.saturating_mul(PAUSE_STEP_MS).min(PAUSE_MAX_MS) } else { 0 };
        self.quick_in_a_row = if quick { self.quick_in_a_row.saturating_add(1) } else { 0 };
        Duration::from_millis(pause_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_start_anew() {
        let mut restarts = Restarts::default();
        let lifetimes_ms = [5, 5, 5, 999, 5, 5, 5, 1000, 5, 5];
        let pauses: Vec<_> = lifetimes_ms
            .map(|lifetime| restarts.ended(Duration::from_millis(lifetime), lifetime != 999).as_millis())
            .into();
        assert_eq!(pauses, [0, 10, 20, 30, 40, 50, 50, 0, 0, 10]);
        assert_eq!(restarts.total, 9, "one ended in order");
    }
}

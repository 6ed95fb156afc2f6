//! How long to wait before the next poll.

use super::caller::CallError;
use crate::client::{Backoff, Jitter};
use std::time::Duration;
use testimony_core::policy::ABSENT_RETRY_MS_MAX;

/// First wait after a request that failed.
const RETRY_FIRST: Duration = Duration::from_millis(200);

/// Longest wait where the operator answers, but not as it should.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Shortest time between two requests that were answered: an operator that answers at once keeps nobody busy.
const ANSWERED_PAUSE: Duration = Duration::from_millis(100);

/// The waits of one poller. While nobody answers they stay short: a try that meets nobody costs nobody anything, and the
/// leader that comes knows of no sidecar before it has asked.
#[derive(Debug)]
pub(super) struct Pauses {
    /// Somebody answers, but not as it should.
    wrong: Backoff,
    /// Nobody does.
    absent: Backoff,
}

impl Pauses {
    pub(super) fn new(seed: Jitter) -> Self {
        let absent_max = Duration::from_millis(ABSENT_RETRY_MS_MAX);
        Self {
            wrong: Backoff::new(RETRY_FIRST, RETRY_MAX, seed.clone()),
            absent: Backoff::new(RETRY_FIRST, absent_max, seed),
        }
    }

    /// After an answer; `of_use`: it brought something, or said that nothing is new.
    pub(super) fn answered(&mut self, of_use: bool) -> Duration {
        self.absent.reset();
        // An operator that repeats what is in force, or what was refused, is not asked again at once.
        if !of_use {
            return self.wrong.wait();
        }
        self.wrong.reset();
        ANSWERED_PAUSE
    }

    /// After a request that failed.
    pub(super) fn failed(&mut self, error: &CallError) -> Duration {
        if matches!(error, CallError::Absent(_)) {
            // Who answers next is another one.
            self.wrong.reset();
            return self.absent.wait();
        }
        self.absent.reset();
        self.wrong.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absent() -> CallError {
        CallError::Absent("connection refused".to_owned())
    }

    fn wrong() -> CallError {
        CallError::Body("broken off".to_owned())
    }

    #[test]
    fn whoever_comes_after_nobody_is_asked_within_a_second_however_long_that_was() {
        for outage_ms in [0, 150, 900, 4_000, 60_000, 3_600_000] {
            for seed in 0..50 {
                let mut pauses = Pauses::new(Jitter::from_seed(seed));
                let (mut now, mut tries) = (Duration::ZERO, 0_u32);
                while now < Duration::from_millis(outage_ms) {
                    now += pauses.failed(&absent());
                    tries += 1;
                }
                let late = now.saturating_sub(Duration::from_millis(outage_ms));
                assert!(late <= Duration::from_millis(ABSENT_RETRY_MS_MAX), "{late:?} after {outage_ms} ms");
                assert!(u64::from(tries) <= outage_ms / 500 + 5, "{tries} tries in {outage_ms} ms");
            }
        }
    }

    #[test]
    fn sidecars_that_lost_the_same_leader_do_not_come_back_in_step() {
        let come_back = |seed| {
            let mut pauses = Pauses::new(Jitter::from_seed(seed));
            let mut now = Duration::ZERO;
            while now < Duration::from_secs(3) {
                now += pauses.failed(&absent());
            }
            now.as_millis() / 100
        };
        let tenths: std::collections::BTreeSet<_> = (0..200).map(come_back).collect();
        assert!(tenths.len() >= 8, "{tenths:?}");
    }

    #[test]
    fn an_operator_that_answers_wrongly_is_asked_less_and_less_often_and_the_next_one_at_once() {
        let mut pauses = Pauses::new(Jitter::from_seed(1));
        let longest = (0..10).map(|_| pauses.failed(&wrong())).max().expect("a wait");
        assert!(longest > RETRY_MAX / 2, "{longest:?}");
        assert!(pauses.failed(&absent()) <= RETRY_FIRST);
        assert!(pauses.failed(&wrong()) <= RETRY_FIRST, "it is another one");
        for _ in 0..10 {
            pauses.answered(false);
        }
        assert!(pauses.answered(false) > RETRY_MAX / 2);
        assert_eq!(pauses.answered(true), ANSWERED_PAUSE);
        assert!(pauses.answered(false) <= RETRY_FIRST);
    }
}

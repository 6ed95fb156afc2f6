//! The one timer of a connection. It is set for the earliest thing that the connection waits for, and set anew only when
//! something earlier comes up or when it rang: an exchange that is over before its stage is due costs no timer, and an idle
//! connection wakes up once in [`IDLE_CHECK`].

use super::relay::Relay;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use testimony_core::capture::NEVER_NS;
use tokio::time::{Instant, Sleep, sleep};

/// How often a connection looks at its deadlines while one is near: in a head, or after its last answer.
const HURRIED_CHECK: Duration = Duration::from_secs(10);

/// How often it looks otherwise. It is closed for idleness so much later at most.
const IDLE_CHECK: Duration = Duration::from_secs(300);

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waits {
    /// When it has something to show, on the monotonic clock.
    due_ns: u64,
    /// A short deadline is running.
    hurried: bool,
}

impl Waits {
    pub fn of(relay: &Relay) -> Self {
        Self::new(relay.due_ns(), relay.is_in_head() || relay.is_lingering())
    }

    pub const fn new(due_ns: u64, hurried: bool) -> Self {
        Self { due_ns, hurried }
    }
}

/// When the alarm rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    at_ns: u64,
    hurried: bool,
}

impl Plan {
    fn new(now_ns: u64, waits: &Waits) -> Self {
        let check = if waits.hurried { HURRIED_CHECK } else { IDLE_CHECK };
        let check_ns = now_ns.saturating_add(u64::try_from(check.as_nanos()).unwrap_or(NEVER_NS));
        Self { at_ns: waits.due_ns.min(check_ns), hurried: waits.hurried }
    }

    fn is_late_for(&self, waits: &Waits) -> bool {
        waits.due_ns < self.at_ns || (waits.hurried && !self.hurried)
    }
}

pub(super) struct Alarm {
    plan: Plan,
    sleep: Pin<Box<Sleep>>,
}

impl Alarm {
    /// Set for a connection that has said nothing yet.
    pub fn new(now_ns: u64) -> Self {
        let plan = Plan::new(now_ns, &Waits { due_ns: NEVER_NS, hurried: false });
        Self { plan, sleep: Box::pin(sleep(IDLE_CHECK)) }
    }

    /// Whether it would ring too late. Asked after every move of bytes, so it reads no clock.
    pub fn is_late_for(&self, waits: &Waits) -> bool {
        self.plan.is_late_for(waits)
    }

    /// Sets it anew. `now_ns`: the monotonic clock.
    pub fn set(&mut self, now_ns: u64, waits: &Waits) {
        self.plan = Plan::new(now_ns, waits);
        let left = Duration::from_nanos(self.plan.at_ns.saturating_sub(now_ns));
        let now = Instant::now();
        self.sleep.as_mut().reset(now.checked_add(left).unwrap_or(now));
    }

    /// Ready: it rings, set it anew.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn waits(due_ns: u64, hurried: bool) -> Waits {
        Waits { due_ns, hurried }
    }

    #[test]
    fn an_idle_connection_wakes_up_every_five_minutes() {
        let plan = Plan::new(SECOND_NS, &waits(NEVER_NS, false));
        assert_eq!(plan.at_ns, 301 * SECOND_NS);
        assert!(!plan.is_late_for(&waits(NEVER_NS, false)));
    }

    #[test]
    fn a_busy_connection_is_set_once_for_many_exchanges() {
        let idle = Plan::new(0, &waits(NEVER_NS, false));
        // The first exchange sets it; those that begin before it rings are due later and leave it alone.
        assert!(idle.is_late_for(&waits(SECOND_NS, false)));
        let plan = Plan::new(0, &waits(SECOND_NS, false));
        assert_eq!(plan.at_ns, SECOND_NS);
        for due_ns in [SECOND_NS, SECOND_NS + 1, 2 * SECOND_NS, NEVER_NS] {
            assert!(!plan.is_late_for(&waits(due_ns, false)), "{due_ns}");
        }
        assert!(plan.is_late_for(&waits(0, false)), "a stream is shown at once");
    }

    #[test]
    fn a_head_is_looked_at_every_ten_seconds_and_a_stage_comes_first() {
        let idle = Plan::new(0, &waits(NEVER_NS, false));
        assert!(idle.is_late_for(&waits(NEVER_NS, true)));
        let hurried = Plan::new(0, &waits(NEVER_NS, true));
        assert_eq!(hurried.at_ns, 10 * SECOND_NS);
        assert!(!hurried.is_late_for(&waits(NEVER_NS, true)));
        assert_eq!(Plan::new(0, &waits(SECOND_NS / 2, true)).at_ns, SECOND_NS / 2);
    }
}

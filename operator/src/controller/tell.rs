//! Which transitions become Events, and how many. Pure: time comes in as an argument.
//!
//! An Event is for people; what a machine counts stands in the metrics, where nothing is left out.

use crate::api::{AuditPolicyStatus, PodCounts};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Events that may follow each other at once.
const EVENTS_BURST_MAX: f64 = 100.0;

/// Events on average, each second.
const EVENTS_PER_SECOND_MAX: f64 = 2.0;

/// The same is told of the same object again after this time, in seconds.
const REPEAT_SECONDS_MIN: u64 = 600;

/// States of one condition of an object that are told within [`REPEAT_SECONDS_MIN`]: what is wrong and that it is over,
/// twice. What flaps more often shows in the condition.
const TOLD_OF_ONE_MAX: u32 = 4;

/// Most objects and conditions that are remembered.
const TOLD_MAX: usize = 20_000;

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News {
    /// What changed, such as the condition's type.
    pub(super) action: String,
    /// CamelCase.
    pub(super) reason: String,
    /// For people.
    pub(super) note: String,
    /// Something is wrong.
    pub(super) warning: bool,
}

/// What was told of one condition of an object.
#[derive(Debug)]
struct Told {
    /// The last that was told.
    reason: String,
    /// When this began to count.
    since: Instant,
    count: u32,
}

/// Remembers what was told, and keeps to a rate.
#[derive(Debug)]
pub(super) struct Gate {
    /// By object and condition.
    told: HashMap<(String, String), Told>,
    tokens: f64,
    filled: Instant,
}

impl Gate {
    pub(super) fn new(now: Instant) -> Self {
        Self { told: HashMap::new(), tokens: EVENTS_BURST_MAX, filled: now }
    }

    /// Whether there is room for another Event now.
    pub(super) fn has_room(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * EVENTS_PER_SECOND_MAX;
        self.tokens = (self.tokens + gained).min(EVENTS_BURST_MAX);
        self.filled = now;
        self.tokens >= 1.0
    }

    /// Whether this is told of the object with this uid; if so, it counts as told.
    pub(super) fn admits(&mut self, uid: &str, news: &News, now: Instant) -> bool {
        let key = (uid.to_owned(), news.action.clone());
        let repeat = Duration::from_secs(REPEAT_SECONDS_MIN);
        let recent = self.told.get(&key).filter(|told| now.saturating_duration_since(told.since) < repeat);
        let (since, count) = recent.map_or((now, 0), |told| (told.since, told.count));
        if recent.is_some_and(|told| told.reason == news.reason) || count >= TOLD_OF_ONE_MAX {
            return false;
        }
        if !self.has_room(now) {
            return false;
        }
        if self.told.len() >= TOLD_MAX {
            self.told.retain(|_, told| now.saturating_duration_since(told.since) < repeat);
        }
        if self.told.len() < TOLD_MAX {
            self.told.insert(key, Told { reason: news.reason.clone(), since, count: count + 1 });
        }
        self.tokens -= 1.0;
        true
    }

    /// It could not be told: it may be tried again.
    pub(super) fn take_back(&mut self, uid: &str, news: &News) {
        self.told.remove(&(uid.to_owned(), news.action.clone()));
    }
}

/// Conditions whose status changed: type and new status. A first `Unknown` is no change.
pub(super) fn changed<'a>(before: &'a [Condition], after: &'a [Condition]) -> impl Iterator<Item = &'a Condition> {
    after.iter().filter(|new| match before.iter().find(|old| old.type_ == new.type_) {
        Some(old) => old.status != new.status,
        None => new.status != "Unknown",
    })
}

/// Transitions that are worth an Event. `Ready` repeats the others, and `Delivered=False` repeats `Delivering=False`;
/// `Programmed=False` comes with each rollout, and is told only where waiting does not help.
pub(super) fn of_conditions(before: &[Condition], after: &[Condition]) -> Vec<News> {
    let fails = after.iter().any(|c| c.type_ == "Delivering" && c.status == "False");
    let was = |kind: &str| before.iter().find(|c| c.type_ == kind).map(|c| c.status.as_str());
    let event = |condition: &Condition, reason: &str| News {
        action: condition.type_.clone(),
        reason: reason.to_owned(),
        note: format!("{}={}: {}", condition.type_, condition.status, condition.message),
        warning: condition.status == "False",
    };
    let news = changed(before, after).filter_map(|c| match (c.type_.as_str(), c.status.as_str()) {
        ("Ready", _) | (_, "Unknown") => None,
        ("Delivered", "False") if fails => None,
        ("Programmed", "True") if matches!(c.reason.as_str(), "NoPods" | "NotStarted") => None,
        ("Programmed", "False") if !matches!(c.reason.as_str(), "Refused" | "NoSidecars") => None,
        ("Reachable", "False") => Some(event(c, "SinkUnreachable")),
        ("Reachable", "True") => (was("Reachable") == Some("False")).then(|| event(c, "SinkRecovered")),
        // Before there was a status nothing was wrong.
        ("Accepted" | "ResolvedRefs" | "Encrypted" | "Delivering" | "Delivered", "True") => {
            was(&c.type_).filter(|status| *status == "False").map(|_| event(c, &c.reason))
        }
        _ => Some(event(c, &c.reason)),
    });
    news.collect()
}

/// More pods of a policy have a sidecar than before.
pub(super) fn of_injection(before: &AuditPolicyStatus, pods: &PodCounts) -> Option<News> {
    let more = pods.injected - before.pods.injected;
    (more > 0).then(|| News {
        action: "Inject".to_owned(),
        reason: "Injected".to_owned(),
        note: format!("{} of {} selected pods have a sidecar, {more} more than before", pods.injected, pods.matched),
        warning: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn condition(kind: &str, status: &str, reason: &str) -> Condition {
        Condition {
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            message: "m".to_owned(),
            observed_generation: None,
            reason: reason.to_owned(),
            status: status.to_owned(),
            type_: kind.to_owned(),
        }
    }

    fn reasons(before: &[Condition], after: &[Condition]) -> Vec<(String, bool)> {
        of_conditions(before, after).into_iter().map(|news| (news.reason, news.warning)).collect()
    }

    #[test]
    fn each_transition_that_matters_is_told_and_no_other() {
        let one = |kind: &str, from: Option<(&str, &str)>, to: (&str, &str)| {
            let before: Vec<Condition> = from.iter().map(|(s, r)| condition(kind, s, r)).collect();
            reasons(&before, &[condition(kind, to.0, to.1)])
        };
        let yes = |reason: &str| vec![(reason.to_owned(), false)];
        let bad = |reason: &str| vec![(reason.to_owned(), true)];
        assert_eq!(one("Accepted", None, ("True", "Accepted")), []);
        assert_eq!(one("Accepted", None, ("False", "InvalidRules")), bad("InvalidRules"));
        assert_eq!(one("Accepted", Some(("False", "InvalidRules")), ("True", "Accepted")), yes("Accepted"));
        assert_eq!(one("Programmed", Some(("False", "Pending")), ("True", "Programmed")), yes("Programmed"));
        assert_eq!(one("Programmed", Some(("True", "Programmed")), ("False", "Pending")), []);
        assert_eq!(one("Programmed", Some(("True", "Programmed")), ("False", "Refused")), bad("Refused"));
        assert_eq!(one("Programmed", Some(("True", "Programmed")), ("Unknown", "Reconciling")), []);
        assert_eq!(one("Programmed", Some(("False", "Pending")), ("True", "NoPods")), []);
        assert_eq!(one("Programmed", Some(("False", "NoSidecars")), ("True", "NotStarted")), []);
        assert_eq!(one("Reachable", Some(("Unknown", "NotUsed")), ("True", "Reachable")), []);
        assert_eq!(one("Reachable", Some(("True", "Reachable")), ("False", "Unreachable")), bad("SinkUnreachable"));
        assert_eq!(one("Reachable", Some(("False", "Unreachable")), ("True", "Reachable")), yes("SinkRecovered"));
        assert_eq!(one("Reachable", Some(("True", "Reachable")), ("True", "Reachable")), []);
        assert_eq!(one("Ready", Some(("False", "Pending")), ("True", "Programmed")), []);
        assert_eq!(one("Delivered", Some(("True", "Delivered")), ("False", "Late")), bad("Late"));
        assert_eq!(one("Delivered", Some(("False", "Late")), ("True", "Delivered")), yes("Delivered"));
        let down = [condition("Delivering", "False", "Failing"), condition("Delivered", "False", "Late")];
        assert_eq!(reasons(&down[..1], &down), [], "it is told already that nothing is delivered");
    }

    #[test]
    fn what_flaps_is_told_a_few_times_and_many_objects_share_one_rate() {
        let start = Instant::now();
        let mut gate = Gate::new(start);
        let news = |reason: &str, warning| News {
            action: "Reachable".to_owned(),
            reason: reason.to_owned(),
            note: String::new(),
            warning,
        };
        let mut told = 0;
        for second in 0..300 {
            let now = start + Duration::from_secs(second);
            let flap = if second % 2 == 0 { news("SinkUnreachable", true) } else { news("SinkRecovered", false) };
            told += u32::from(gate.admits("sink", &flap, now));
        }
        assert_eq!(told, 4, "Events of 300 transitions");
        let later = start + Duration::from_secs(REPEAT_SECONDS_MIN);
        assert!(gate.admits("sink", &news("SinkUnreachable", true), later));
        assert!(gate.admits("sink", &news("SinkRecovered", false), later), "what is over is told, however soon");

        let mut gate = Gate::new(start);
        let storm = (0..5000).filter(|n| gate.admits(&format!("pod-{n}"), &news("NeedsRestart", true), start)).count();
        assert_eq!(storm, 100);
        let later = start + Duration::from_secs(10);
        let more = (0..5000).filter(|n| gate.admits(&format!("pod-{n}"), &news("NeedsRestart", true), later)).count();
        assert_eq!(more, 20, "those that were not told are told later");
    }
}

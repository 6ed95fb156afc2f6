//! Which streams must exist, and which pods are not covered: from the pods that the operator watches and the policies in
//! force, not from admission alone (W4). Pure.

use crate::compile::Reach;
use crate::controller::status::NEEDS_RESTART;
use crate::index::{Index, PodFacts};
use crate::inject::{Decision, ExcludedNamespaces, decide};
use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, HashMap, HashSet};
use testimony_core::evidence::ledger::tables::Tables;
use testimony_core::evidence::ledger::{FINISHED_KEEP_S, Fact, Life, PodRow, UncoveredRow};

/// A stream whose pod has been gone, or has ended, for this long is lost, in nanoseconds: its last head may still be on its way.
pub const LOST_AFTER_NS: u64 = 60_000_000_000;

/// Why a pod is not covered whose injection id admission never wrote: it names no streams.
pub const UNKNOWN_INJECTION_ID: &str = "UnknownInjectionId";

/// A pod that has ended is expected for this long at least, in nanoseconds, though its object stays listed: where it never had a
/// stream, a check of each day finds it. Its streams are known for longer: it is not expected without them.
pub const ENDED_KEPT_NS: u64 = 86_400_000_000_000;

const _: () =
    assert!(ENDED_KEPT_NS / 1_000_000_000 + 86_400 <= FINISHED_KEEP_S, "streams are forgotten before their pod");

/// What the clock of a node and the operator's may differ by, in nanoseconds.
const CLOCKS_NS: u64 = 60_000_000_000;

/// Longest uid, in bytes: the API server makes them, of 36.
const UID_BYTES_MAX: usize = 128;

/// Remembers since when pods are gone, and which have ended.
#[derive(Debug, Default)]
pub struct Cover {
    /// Pods of live streams that are not there, or have ended, by uid: since when, in nanoseconds since the epoch.
    gone: HashMap<String, u64>,
    /// Pods that had ended by then are nothing new, in nanoseconds since the epoch. `None`: by the first look.
    since_ns: Option<u64>,
    /// Pods that have ended and were expected, while they are listed: they are not expected again.
    ended: HashSet<String>,
}

impl Cover {
    /// Of a ledger whose last entry is of this time, in nanoseconds since the epoch: what ended after it is new. A new ledger
    /// (`None`) expects no streams of what had ended before it: they can never come.
    pub fn new(last_ns: Option<u64>) -> Self {
        Self { since_ns: last_ns.map(|last_ns| last_ns.saturating_sub(CLOCKS_NS)), ..Self::default() }
    }

    /// What the ledger does not say yet.
    pub fn news(&mut self, index: &Index, excluded: &ExcludedNamespaces, tables: &Tables, now_ns: u64) -> Vec<Fact> {
        let mut facts = Vec::new();
        let mut bare: BTreeMap<&str, &'static str> = BTreeMap::new();
        self.remember(index, tables, now_ns);
        for pod in index.pods.values().filter(|pod| is_uid(&pod.uid)) {
            match standing(index, excluded, pod) {
                Standing::Expected(injection_id) if self.is_new(pod, tables) => {
                    facts.push(Fact::Expected(PodRow {
                        uid: pod.uid.clone(),
                        namespace: pod.namespace.clone(),
                        name: pod.name.clone(),
                        injection_id: injection_id.to_owned(),
                        from_ns: now_ns,
                    }));
                }
                Standing::Uncovered(reason) => {
                    bare.insert(&pod.uid, reason);
                }
                Standing::Expected(_) | Standing::Other => {}
            }
        }
        for row in tables.uncovered().values() {
            // Another reason is another time.
            if bare.get(row.uid.as_str()) != Some(&row.reason.as_str()) {
                facts.push(Fact::Uncovered(row.clone(), Some(now_ns)));
            }
        }
        for (uid, reason) in bare {
            let known = tables.uncovered().get(uid).is_some_and(|row| row.reason == reason);
            let pod = if known { None } else { index.pod(uid) };
            facts.extend(pod.map(|pod| Fact::Uncovered(row(pod, reason, now_ns), None)));
        }
        self.lost(index, tables, now_ns, &mut facts);
        let gone = tables.pods().values().filter(|row| self.is_gone(row, index, tables, now_ns));
        facts.extend(gone.map(|row| Fact::Gone(row.uid.clone())));
        facts
    }

    /// Notes which of the pods that the ledger expects have ended.
    fn remember(&mut self, index: &Index, tables: &Tables, now_ns: u64) {
        self.since_ns.get_or_insert(now_ns);
        let has_ended = |uid: &str| index.pod(uid).is_some_and(|pod| pod.ended);
        self.ended.retain(|uid| has_ended(uid));
        let more = tables.pods().keys().filter(|uid| has_ended(uid));
        let more: Vec<&String> = more.filter(|uid| !self.ended.contains(*uid)).collect();
        self.ended.extend(more.into_iter().cloned());
    }

    /// Whether streams of this pod must exist, and the ledger has never said so, as far as can be told: of one that has ended
    /// and stays listed it once said that it is gone, and may know no stream any more.
    fn is_new(&self, pod: &PodFacts, tables: &Tables) -> bool {
        let is_late = || pod.last.is_some_and(|last| Some(nanoseconds(last)) <= self.since_ns);
        let is_old = || pod.ended && (self.ended.contains(&pod.uid) || is_late());
        !tables.pods().contains_key(&pod.uid) && runs(pod, tables) && !is_old()
    }

    fn lost(&mut self, index: &Index, tables: &Tables, now_ns: u64, facts: &mut Vec<Fact>) {
        let mut gone = HashMap::new();
        let lives = |uid: &str| index.pod(uid).is_some_and(|pod| !pod.ended);
        for row in tables.streams().values().filter(|row| row.life == Life::Open) {
            let Some(uid) = row.sid.parts().map(|parts| parts.pod_uid).filter(|uid| !lives(uid)) else {
                continue;
            };
            let since = self.gone.get(uid).copied().unwrap_or(now_ns);
            if now_ns.saturating_sub(since) >= LOST_AFTER_NS {
                facts.push(Fact::Lost(row.sid.clone(), row.state.size, row.state.root));
            }
            gone.insert(uid.to_owned(), since);
        }
        self.gone = gone;
    }

    /// Whether nothing more is expected of a pod: its object is gone; or it has ended, all its streams have, and it was expected
    /// for as long as a check of each day needs to find one without.
    fn is_gone(&self, row: &PodRow, index: &Index, tables: &Tables, now_ns: u64) -> bool {
        let Some(pod) = index.pod(&row.uid) else { return true };
        let past_ns = |time: Timestamp| now_ns.saturating_sub(nanoseconds(time));
        // Not so soon that a keeper that comes later takes its end for a new one.
        let is_past = pod.last.is_none_or(|last| past_ns(last) > CLOCKS_NS);
        let was_kept = now_ns.saturating_sub(row.from_ns) >= ENDED_KEPT_NS;
        // Said now: a restatement between the two would know the pod and no stream of it.
        let is_lost = || self.gone.get(&row.uid).is_some_and(|since| now_ns.saturating_sub(*since) >= LOST_AFTER_NS);
        pod.ended && was_kept && is_past && (tables.open_of(&row.uid).next().is_none() || is_lost())
    }
}

/// Since the epoch; zero before it.
fn nanoseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap_or_default()
}

/// Whether there can be records of a pod: before its first container starts there is no traffic. A stream that is certified shows
/// it too, where the kubelet is late.
fn runs(pod: &PodFacts, tables: &Tables) -> bool {
    pod.started || tables.open_of(&pod.uid).next().is_some()
}

enum Standing<'a> {
    /// It has a sidecar, with this injection id: once it runs, there are streams.
    Expected(&'a str),
    /// A policy selects it, and it has none.
    Uncovered(&'static str),
    /// Nothing is expected of it.
    Other,
}

fn standing<'a>(index: &Index, excluded: &ExcludedNamespaces, pod: &'a PodFacts) -> Standing<'a> {
    let own = excluded.contains(&pod.namespace);
    let mut reaching = index.reaching(&pod.namespace, &pod.traits.labels);
    // What a policy for the whole cluster leaves alone is not its own.
    let selected = reaching.any(|(policy, reach)| reach == Reach::Selected && !(policy.is_cluster() && own));
    if !selected {
        return Standing::Other;
    }
    if let Some(injection_id) = pod.traits.injection_id.as_deref().filter(|_| pod.traits.injected) {
        return Standing::Expected(injection_id);
    }
    // What has ended, or is about to, is not uncovered any more.
    if pod.finished {
        return Standing::Other;
    }
    if pod.traits.injected {
        return Standing::Uncovered(UNKNOWN_INJECTION_ID);
    }
    match decide(index, excluded, &pod.namespace, &pod.traits) {
        Decision::Already => Standing::Other,
        Decision::Skip(reason) | Decision::Deny(reason) => Standing::Uncovered(reason.as_str()),
        Decision::Inject(_) => Standing::Uncovered(NEEDS_RESTART),
        Decision::NotSelected => Standing::Uncovered("ExcludedNamespace"),
    }
}

/// A uid under which the ledger can know a pod: it stands in rows as it is.
fn is_uid(uid: &str) -> bool {
    (1..=UID_BYTES_MAX).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn row(pod: &PodFacts, reason: &str, from_ns: u64) -> UncoveredRow {
    UncoveredRow {
        uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        reason: reason.to_owned(),
        from_ns,
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::*;
    use super::*;
    use crate::api::AuditPolicy;
    use crate::state::State;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};
    use testimony_core::evidence::ledger::entry::typ;
    use testimony_core::evidence::ledger::{Book, HeadRow, Keys, ledger_id};
    use testimony_core::evidence::merkle::empty_root;

    const SECOND: u64 = 1_000_000_000;
    const MINUTE: u64 = 60 * SECOND;
    const DAY: u64 = 86_400 * SECOND;

    /// `2023-11-14T22:13:20Z`.
    const START: u64 = 1_700_000_000 * SECOND;

    fn text(at_ns: u64) -> String {
        let at = Timestamp::from_second(i64::try_from(at_ns / SECOND).expect("a time")).expect("a time");
        at.to_string()
    }

    fn ended(phase: &str, at_ns: u64) -> Value {
        let state = json!({"terminated": {"exitCode": 137, "finishedAt": text(at_ns)}});
        json!({"phase": phase, "reason": "Evicted",
               "containerStatuses": [{"name": "app", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}]})
    }

    /// A cluster whose ledger is kept.
    struct Kept {
        state: State,
        book: Book,
        cover: Cover,
    }

    impl Kept {
        fn new() -> Self {
            let state = State::new("cluster.local");
            put::<AuditPolicy>(&state, policy());
            let keys = Keys { ledger: public(8), witness: public(9) };
            let book = Book::new(ledger_id("c-1", SPACE, 1).expect("a name"), keys);
            Self { state, book, cover: Cover::default() }
        }

        /// A pod with a sidecar that was created then, and of which the kubelet says this.
        fn pod(&self, name: &str, created_ns: u64, status: &Value, more: &Value) {
            let mut pod = json!({"metadata": {"name": name, "namespace": "shop", "uid": name, "creationTimestamp": text(created_ns),
                    "annotations": {"testimony.dev/injection-id": injection(name)}},
                "spec": {"containers": [], "initContainers": [{"name": "testimony-sidecar", "image": "t"}]}, "status": status});
            more.as_object().into_iter().flatten().for_each(|(key, value)| pod["metadata"][key] = value.clone());
            put::<Pod>(&self.state, pod);
        }

        /// Commits this and what is new; what is new in words.
        fn step(&mut self, now_ns: u64, more: &[Fact], heads: &[HeadRow]) -> String {
            let news = self.cover.news(&self.state.index(), &excluded(), self.book.tables(), now_ns);
            let facts = [more, &news[..]].concat();
            if let Some(proposed) = self.book.propose(&facts, heads, now_ns, |message| sign(8, message)) {
                self.book.apply(proposed.committed()).expect("the next block");
            }
            let mut words: Vec<&str> = news.iter().map(typ).collect();
            words.sort_unstable();
            words.join(" ")
        }

        /// Another keeper goes on.
        fn resumed(&mut self) {
            self.cover = Cover::new(Some(self.book.last_ns()));
        }
    }

    #[test]
    fn w4_the_streams_of_a_pod_that_ended_and_stays_listed_are_lost_after_a_minute() {
        let running = json!({"phase": "Running"});
        let leaving = json!({"deletionTimestamp": text(START)});
        let table = [
            (running.clone(), json!({}), false),
            (running.clone(), leaving.clone(), false),
            (json!({"phase": "Unknown"}), json!({}), false),
            (ended("Failed", START), json!({}), true),
            (ended("Succeeded", START), json!({}), true),
            (json!({"phase": "Failed", "reason": "Evicted"}), json!({}), true),
            (ended("Failed", START), leaving, true),
        ];
        for (status, more, is_lost) in table {
            let mut kept = Kept::new();
            kept.pod("a", START, &running, &json!({}));
            let sid = Sidecar::new("a").sid;
            let certified = Fact::Certified(sid.clone(), public(1), u64::MAX, vec![1]);
            assert_eq!(kept.step(START, &[certified], &[]), "ledger-expected");
            let number = kept.book.tables().stream(&sid).expect("it is certified").number;
            let head = HeadRow { stream: number, size: 2, root: empty_root() };
            assert_eq!(kept.step(START + SECOND, &[], &[head]), "");
            kept.pod("a", START, &status, &more);
            assert_eq!(kept.step(START + MINUTE, &[], &[]), "");
            assert_eq!(kept.step(START + 2 * MINUTE - 1, &[], &[]), "", "its last head may be on its way");
            let (said, life) = if is_lost { ("ledger-lost", Life::Lost) } else { ("", Life::Open) };
            assert_eq!(kept.step(START + 2 * MINUTE, &[], &[]), said, "{status} {more}");
            assert_eq!(kept.book.tables().stream(&sid).expect("it is known").life, life, "{status} {more}");
        }
    }

    #[test]
    fn w4_a_pod_that_ended_and_stays_listed_is_not_expected_when_its_streams_are_forgotten() {
        let mut kept = Kept::new();
        kept.pod("a", START, &json!({"phase": "Running"}), &json!({}));
        let sid = Sidecar::new("a").sid;
        let certified = Fact::Certified(sid.clone(), public(1), u64::MAX, vec![1]);
        assert_eq!(kept.step(START, &[certified], &[]), "ledger-expected");
        kept.pod("a", START, &ended("Succeeded", START + MINUTE), &json!({}));
        assert_eq!(kept.step(START + MINUTE, &[Fact::Closed(sid.clone(), 2, empty_root())], &[]), "");
        for (at_ns, said) in [(START + DAY - 1, ""), (START + DAY, "ledger-gone"), (START + DAY + 1, "")] {
            assert_eq!(kept.step(at_ns, &[], &[]), said);
        }
        assert!(kept.book.tables().stream(&sid).is_some(), "its streams are known for longer");
        for day in 2..20 {
            if day % 3 == 0 {
                kept.resumed();
            }
            assert_eq!(kept.step(START + day * DAY, &[Fact::Heads(Vec::new())], &[]), "", "day {day}");
        }
        assert!(kept.book.tables().streams().is_empty() && kept.book.tables().pods().is_empty());
    }

    #[test]
    fn w4_the_last_stream_of_a_pod_that_ended_is_lost_with_it() {
        let mut kept = Kept::new();
        kept.pod("a", START, &json!({"phase": "Running"}), &json!({}));
        let certified = Fact::Certified(Sidecar::new("a").sid, public(1), u64::MAX, vec![1]);
        assert_eq!(kept.step(START, &[certified], &[]), "ledger-expected");
        let end = START + 9 * DAY;
        kept.pod("a", START, &ended("Failed", end), &json!({}));
        let steps = [(end, ""), (end + 61 * SECOND, "ledger-gone ledger-lost"), (end + 62 * SECOND, "")];
        for (at_ns, said) in steps {
            assert_eq!(kept.step(at_ns, &[], &[]), said);
        }
        // Its end is not new to a keeper that comes at once.
        kept.resumed();
        assert_eq!(kept.step(end + 63 * SECOND, &[], &[]), "");
    }

    #[test]
    fn w4_a_pod_that_ended_before_anybody_saw_it_is_expected_where_its_end_is_new() {
        let resumed = START + 2 * DAY;
        // When the ledger's last entry was written, if it has one, when the pod was created, and when it ended.
        let table = [
            (Some(START), START + DAY, START + DAY + SECOND, true),
            (Some(START), START - DAY, START + DAY, true),
            (Some(START), START - DAY, START - 30 * SECOND, true),
            (Some(START), START - DAY, START - 2 * MINUTE, false),
            (None, resumed - DAY, resumed - SECOND, false),
            (None, resumed + SECOND, resumed + 2 * SECOND, true),
        ];
        for (last_ns, created_ns, ended_ns, expected) in table {
            let mut kept = Kept::new();
            kept.cover = Cover::new(last_ns);
            assert_eq!(kept.step(resumed, &[], &[]), "");
            kept.pod("a", created_ns, &ended("Succeeded", ended_ns), &json!({}));
            let case = format!("{last_ns:?} {created_ns} {ended_ns}");
            let said = if expected { "ledger-expected" } else { "" };
            assert_eq!(kept.step(resumed + 3 * SECOND, &[], &[]), said, "{case}");
            // It never had a stream: a check of the next day still finds that.
            assert_eq!(kept.step(resumed + DAY, &[], &[]), "", "{case}");
            let gone = if expected { "ledger-gone" } else { "" };
            assert_eq!(kept.step(resumed + DAY + 3 * SECOND, &[], &[]), gone, "{case}");
            assert_eq!(kept.step(resumed + DAY + 4 * SECOND, &[], &[]), "", "{case}");
        }
    }
}

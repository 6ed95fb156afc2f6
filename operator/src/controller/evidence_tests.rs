//! What policies tell of the evidence, and sinks of records that are late.

use super::sink_status::is_news;
use super::status::{Report, View, report};
use super::tests::{ack, cluster, pod, put};
use crate::api::{AuditSinkStatus, EvidenceCounts};
use crate::index::Index;
use crate::inject::ExcludedNamespaces;
use crate::state::Ack;
use expect_test::expect;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use testimony_core::policy::{EvidenceState, SinkCondition, SinkState};

/// A look `later` seconds after `begin`, which is the 1000th second of the epoch.
fn look(index: &Index, acks: &[(&str, Ack)], begin: Instant, later: u64, settling: Option<i64>) -> Report {
    let acks: HashMap<String, Ack> = acks.iter().map(|(uid, ack)| ((*uid).to_owned(), ack.clone())).collect();
    let excluded = ExcludedNamespaces { own: "testimony-system".to_owned(), ..Default::default() };
    let at = |second: i64| Timestamp::from_second(second).expect("time");
    report(View {
        index,
        acks: &acks,
        excluded: &excluded,
        instant: begin + Duration::from_secs(later),
        now: at(1000 + i64::try_from(later).expect("short")),
        settling: settling.map(at),
        rollouts: false,
    })
}

/// A cluster with three pods with a sidecar that are as old as can be.
fn shop() -> Index {
    let mut index = cluster();
    for name in ["a", "b", "c"] {
        let mut old = pod(name, true);
        old["metadata"]["creationTimestamp"] = json!("1970-01-01T00:00:10Z");
        put::<Pod>(&mut index, old);
    }
    index
}

fn evidence(report: &Report) -> Option<EvidenceCounts> {
    report.policies[&("shop".to_owned(), "all".to_owned())].evidence.clone()
}

#[test]
fn a_policy_adds_up_the_evidence_of_its_sidecars_that_tell_it() {
    let mut index = shop();
    let now = Instant::now();
    let with = |gap_exchanges, unanchored| Ack {
        evidence: Some(EvidenceState { gap_exchanges, streams: 2, unanchored }),
        ..ack(&index, now)
    };
    let acks = [("a", with(3, 0)), ("b", with(4, 1)), ("c", ack(&index, now))];
    assert_eq!(evidence(&look(&index, &[], now, 0, None)), None, "nobody told it");
    let settled = look(&index, &acks, now, 0, None);
    let counted = EvidenceCounts { sidecars: 2, gaps: 7, streams: 4, unanchored: 1 };
    assert_eq!(evidence(&settled), Some(counted.clone()), "the third is of an older version");
    assert_eq!(evidence(&look(&index, &acks, now, 151, None)), None, "all of them fell silent");

    let key = ("shop".to_owned(), "all".to_owned());
    index.policies.get_mut(&key).expect("policy").status = settled.policies[&key].clone();
    let begun = look(&index, &acks[..1], now, 0, Some(900));
    assert_eq!(evidence(&begun), Some(counted), "a new leader has not heard all");
    let over = look(&index, &acks[..1], now, 0, None);
    assert_eq!(evidence(&over), Some(EvidenceCounts { sidecars: 1, gaps: 3, streams: 2, unanchored: 0 }));
}

fn says(state: SinkCondition, oldest_undelivered_seconds: u64, delivered: u64) -> SinkState {
    let (name, error) = ("main".to_owned(), None);
    SinkState { name, state, error, oldest_undelivered_seconds, delivered, lost: 0 }
}

fn delivered(status: &AuditSinkStatus) -> String {
    let found = status.conditions.iter().find(|c| c.type_ == "Delivered").expect("condition");
    let oldest = status.oldest_undelivered.as_ref().map(|time| time.0.as_second());
    format!("{} {}: {}; oldest {oldest:?}", found.status, found.reason, found.message)
}

#[test]
fn records_that_are_late_are_told_with_the_oldest_and_an_example() {
    let index = shop();
    let now = Instant::now();
    let with = |state, age, delivered| Ack { sinks: vec![says(state, age, delivered)], ..ack(&index, now) };
    let told = |acks: &[(&str, Ack)], later: u64, settling: Option<i64>| {
        delivered(&look(&index, acks, now, later, settling).sinks["main"])
    };
    expect!["Unknown NotUsed: no sidecar sends to this sink; oldest None"].assert_eq(&told(&[], 0, None));
    let fresh = [("a", with(SinkCondition::Unknown, 0, 0)), ("b", with(SinkCondition::Failing, 20, 0))];
    expect!["Unknown NoReports: no sidecar has delivered a record to this sink yet; oldest Some(980)"]
        .assert_eq(&told(&fresh, 0, None));
    let well = [("a", with(SinkCondition::Delivering, 30, 9)), ("b", with(SinkCondition::Unknown, 0, 0))];
    expect!["True Delivered: no record of its 2 sidecars waits for over 30 s; oldest None"]
        .assert_eq(&told(&well, 0, None));
    // What was on its way when a sidecar reported is not known to wait still.
    assert_eq!(told(&well, 40, None), told(&well, 0, None));
    expect!["Unknown Reconciling: 1 of its sidecars have not reported since the controller started; oldest None"]
        .assert_eq(&told(&well, 0, Some(900)));

    // Of one that cannot deliver it is known.
    let failing = [("a", with(SinkCondition::Delivering, 0, 9)), ("b", with(SinkCondition::Failing, 10, 3))];
    assert!(told(&failing, 20, None).starts_with("True"), "{}", told(&failing, 20, None));
    let late = "False Late: 1 of 2 sidecars have records that wait for over 30 s, the oldest since 1970-01-01T00:16:30Z, \
                such as pod shop/b; oldest Some(990)";
    assert_eq!(told(&failing, 21, None), late);
    assert!(told(&failing, 21, Some(900)).starts_with("False Late"), "what is ill is told at once");

    // A sink that takes records and is far behind.
    let behind = [
        ("c", with(SinkCondition::Delivering, 600, 9)),
        ("b", with(SinkCondition::Delivering, 31, 3)),
        ("a", with(SinkCondition::Delivering, 2, 3)),
    ];
    expect![[
        "False Late: 2 of 3 sidecars have records that wait for over 30 s, the oldest since 1970-01-01T00:06:40Z, such as pod shop/b; oldest Some(400)"
    ]]
    .assert_eq(&told(&behind, 0, None));
}

#[test]
fn a_sink_that_catches_up_is_not_written_with_each_report() {
    let index = shop();
    let now = Instant::now();
    let status = |age: u64| {
        let behind = Ack { sinks: vec![says(SinkCondition::Delivering, age, age)], ..ack(&index, now) };
        look(&index, &[("a", behind)], now, 0, None).sinks["main"].clone()
    };
    let (first, next, done) = (status(600), status(300), status(1));
    assert_ne!(first, next);
    assert!(!is_news(&first, &next), "only how far it is behind");
    assert!(is_news(&next, &done), "it is not behind any more");
}

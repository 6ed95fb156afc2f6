use super::conditions::{Finding, conditions};
use super::lease::{Election, LeaseLost, Observer, Step};
use super::status::{Report, View, report};
use super::tell::changed;
use crate::api::{AuditPolicy, AuditSink};
use crate::index::{Index, Indexed};
use crate::inject::ExcludedNamespaces;
use crate::serve::Shutdown;
use crate::state::Ack;
use crate::testing::FakeApi;
use expect_test::{Expect, expect};
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use testimony_core::policy::{Refused, SinkCondition, SinkState};

pub(super) fn put<K: Indexed + serde::de::DeserializeOwned>(index: &mut Index, object: Value) {
    K::apply(index, serde_json::from_value(object).expect("object"));
}

pub(super) fn cluster() -> Index {
    let mut index = Index::new("cluster.local");
    put::<AuditSink>(&mut index, sink("main", json!({"endpoint": "http://collector.example:4318", "default": true})));
    put::<AuditPolicy>(&mut index, policy("all", json!({})));
    index
}

pub(super) fn sink(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditSink", "spec": spec,
           "metadata": {"name": name, "uid": name, "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}})
}

pub(super) fn policy(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "spec": spec,
           "metadata": {"name": name, "namespace": "shop", "uid": name, "generation": 3}})
}

pub(super) fn pod(name: &str, injected: bool) -> Value {
    let mut pod = json!({"metadata": {"name": name, "namespace": "shop", "uid": name},
                         "spec": {"containers": [{"name": "app"}]}, "status": {"phase": "Running"}});
    if injected {
        pod["metadata"]["annotations"] = json!({"testimony.dev/injection-id": name});
        pod["spec"]["initContainers"] = json!([{"name": "testimony-init"}, {"name": "testimony-sidecar"}]);
    }
    pod
}

pub(super) fn ack(index: &Index, at: Instant) -> Ack {
    let revision = Some(index.document("shop", &Default::default()).document.revision.clone());
    Ack { revision, refused: None, sinks: Vec::new(), evidence: None, at, bundle: None }
}

fn look(index: &Index, acks: &[(&str, Ack)], now: Instant) -> Report {
    let acks: HashMap<String, Ack> = acks.iter().map(|(uid, ack)| ((*uid).to_owned(), ack.clone())).collect();
    let excluded = ExcludedNamespaces { own: "testimony-system".to_owned(), ..Default::default() };
    let view = View {
        index,
        acks: &acks,
        excluded: &excluded,
        instant: now,
        now: Timestamp::UNIX_EPOCH,
        settling: None,
        rollouts: false,
    };
    report(view)
}

/// One line for each condition, and the counts.
#[track_caller]
fn check(report: &Report, name: &str, expected: Expect) {
    let status = &report.policies[&("shop".to_owned(), name.to_owned())];
    let mut text = String::new();
    for c in &status.conditions {
        text.push_str(&format!("{}={} {}: {}\n", c.type_, c.status, c.reason, c.message));
    }
    let p = &status.pods;
    text.push_str(&format!(
        "matched {} injected {} programmed {} needRestart {} skipped {}\n",
        p.matched, p.injected, p.programmed, p.need_restart, p.skipped
    ));
    for s in &status.skipped {
        text.push_str(&format!("{} {} {}\n", s.reason, s.count, s.example));
    }
    expected.assert_eq(&text);
}

#[test]
fn a_policy_is_ready_when_every_sidecar_acknowledged_its_revision() {
    let mut index = cluster();
    put::<Pod>(&mut index, pod("a", true));
    put::<Pod>(&mut index, pod("b", true));
    let now = Instant::now();
    let pending = look(&index, &[("a", ack(&index, now))], now);
    check(
        &pending,
        "all",
        expect![[r#"
        Accepted=True Accepted: the policy is valid
        ResolvedRefs=True ResolvedRefs: all sinks exist
        Programmed=False Pending: 1 of 2 sidecars acknowledged their revision
        Ready=False Pending: 1 of 2 sidecars acknowledged their revision
        matched 2 injected 2 programmed 1 needRestart 0 skipped 0
    "#]],
    );
    let done = look(&index, &[("a", ack(&index, now)), ("b", ack(&index, now))], now);
    check(
        &done,
        "all",
        expect![[r#"
        Accepted=True Accepted: the policy is valid
        ResolvedRefs=True ResolvedRefs: all sinks exist
        Programmed=True Programmed: 2 of 2 sidecars acknowledged their revision
        Ready=True Programmed: 2 of 2 pods run revision 4898b182101682e2; 0 need a restart, 0 are skipped
        matched 2 injected 2 programmed 2 needRestart 0 skipped 0
    "#]],
    );
}

#[test]
fn pods_without_a_sidecar_are_counted_with_their_reason() {
    let mut index = cluster();
    put::<Pod>(&mut index, pod("a", true));
    put::<Pod>(&mut index, pod("old-2", false));
    put::<Pod>(&mut index, pod("old-1", false));
    let mut host = pod("host", false);
    host["spec"]["hostNetwork"] = json!(true);
    put::<Pod>(&mut index, host);
    let mut done = pod("done", false);
    done["status"]["phase"] = json!("Succeeded");
    put::<Pod>(&mut index, done);
    let now = Instant::now();
    let report = look(&index, &[("a", ack(&index, now))], now);
    check(
        &report,
        "all",
        expect![[r#"
        Accepted=True Accepted: the policy is valid
        ResolvedRefs=True ResolvedRefs: all sinks exist
        Programmed=True Programmed: 1 of 1 sidecars acknowledged their revision
        Ready=False NeedsRestart: 1 of 4 pods run revision 4898b182101682e2; 2 need a restart, 1 are skipped
        matched 4 injected 1 programmed 1 needRestart 2 skipped 1
        NeedsRestart 2 shop/old-1
        HostNetwork 1 shop/host
    "#]],
    );
    let told: Vec<(&str, &str)> = report.uncovered.iter().map(|u| (u.name.as_str(), u.reason)).collect();
    assert_eq!(told, [("host", "HostNetwork"), ("old-1", "NeedsRestart"), ("old-2", "NeedsRestart")]);
}

#[test]
fn a_sidecar_that_fell_silent_is_not_programmed() {
    let mut index = cluster();
    put::<Pod>(&mut index, pod("a", true));
    let now = Instant::now();
    let later = now + Duration::from_secs(151);
    let report = look(&index, &[("a", ack(&index, now))], later);
    assert_eq!(report.totals.programmed, 0);
    assert_eq!(look(&index, &[("a", ack(&index, now))], now).totals.programmed, 1);
}

#[test]
fn a_document_that_a_sidecar_refuses_is_not_programmed_and_says_why() {
    let mut index = cluster();
    put::<Pod>(&mut index, pod("a", true));
    let now = Instant::now();
    let mut refusing = ack(&index, now);
    refusing.refused = refusing.revision.take().map(|revision| Refused { revision, message: "rules[0]: x".to_owned() });
    check(
        &look(&index, &[("a", refusing)], now),
        "all",
        expect![[r#"
        Accepted=True Accepted: the policy is valid
        ResolvedRefs=True ResolvedRefs: all sinks exist
        Programmed=False Refused: a sidecar refuses the document: rules[0]: x
        Ready=False Refused: a sidecar refuses the document: rules[0]: x
        matched 1 injected 1 programmed 0 needRestart 0 skipped 0
    "#]],
    );
}

#[test]
fn wrong_references_and_wrong_specs_are_told_on_their_own_policy_only() {
    let mut index = cluster();
    put::<AuditPolicy>(&mut index, policy("lost", json!({"sinks": ["main", "gone"]})));
    put::<AuditPolicy>(&mut index, policy("wrong", json!({"correlation": {"header": "cookie"}})));
    let report = look(&index, &[], Instant::now());
    check(
        &report,
        "all",
        expect![[r#"
        Accepted=True Accepted: the policy is valid
        ResolvedRefs=True ResolvedRefs: all sinks exist
        Programmed=True NoPods: no pod is selected
        Ready=True NoPods: 0 of 0 pods run revision 4898b182101682e2; 0 need a restart, 0 are skipped
        matched 0 injected 0 programmed 0 needRestart 0 skipped 0
    "#]],
    );
    check(
        &report,
        "lost",
        expect![[r#"
        Accepted=True Accepted: the policy is valid
        ResolvedRefs=False SinkNotFound: spec.sinks: no valid AuditSink is named gone; create it or remove the name; records go to the other sinks
        Programmed=True NoPods: no pod is selected
        Ready=False SinkNotFound: spec.sinks: no valid AuditSink is named gone; create it or remove the name; records go to the other sinks
        matched 0 injected 0 programmed 0 needRestart 0 skipped 0
    "#]],
    );
    check(
        &report,
        "wrong",
        expect![[r#"
        Accepted=False InvalidCorrelation: spec.correlation.header: "cookie" has a meaning of its own; use a header that only carries an id, such as x-request-id
        ResolvedRefs=True ResolvedRefs: all sinks exist
        Programmed=False NotAccepted: the policy was never valid, so no pod runs it
        Ready=False InvalidCorrelation: spec.correlation.header: "cookie" has a meaning of its own; use a header that only carries an id, such as x-request-id
        matched 0 injected 0 programmed 0 needRestart 0 skipped 0
    "#]],
    );
}

#[test]
fn a_pod_that_lacks_the_mount_of_a_new_sinks_secret_needs_a_restart() {
    let mut index = cluster();
    put::<AuditSink>(
        &mut index,
        sink("main", json!({"endpoint": "http://c.example", "default": true, "credentialsSecretName": "otlp"})),
    );
    put::<Pod>(&mut index, pod("a", true));
    let mut mounted = pod("b", true);
    mounted["spec"]["volumes"] = json!([{"name": "testimony-sink-main"}]);
    put::<Pod>(&mut index, mounted);
    let now = Instant::now();
    let report = look(&index, &[("a", ack(&index, now)), ("b", ack(&index, now))], now);
    assert_eq!((report.totals.injected, report.totals.programmed, report.totals.need_restart), (2, 2, 1));
    check(
        &report,
        "all",
        expect![[r#"
            Accepted=True Accepted: the policy is valid
            ResolvedRefs=True ResolvedRefs: all sinks exist
            Programmed=True Programmed: 2 of 2 sidecars acknowledged their revision
            Ready=False NeedsRestart: 2 of 2 pods run revision 4791947c1bcbb31d; 1 need a restart, 0 are skipped
            matched 2 injected 2 programmed 2 needRestart 1 skipped 0
        "#]],
    );
    for spec in [
        json!({"tls": {"clientCertificateSecretName": "client"}}),
        json!({"serviceAccountToken": {"audience": "c.example"}}),
    ] {
        let mut whole = json!({"endpoint": "https://c.example", "default": true, "credentialsSecretName": "otlp"});
        json_patch::merge(&mut whole, &spec);
        put::<AuditSink>(&mut index, sink("main", whole));
        let report = look(&index, &[("a", ack(&index, now)), ("b", ack(&index, now))], now);
        assert_eq!(report.totals.need_restart, 2, "{spec}: neither pod has that volume");
    }
}

#[test]
fn a_sink_says_what_its_sidecars_say() {
    let mut index = cluster();
    put::<AuditSink>(&mut index, sink("tls", json!({"endpoint": "https://c.example", "default": true})));
    put::<Pod>(&mut index, pod("a", true));
    put::<Pod>(&mut index, pod("b", true));
    let now = Instant::now();
    let state = |state, error: Option<&str>| SinkState {
        name: "main".to_owned(),
        state,
        error: error.map(str::to_owned),
        oldest_undelivered_seconds: 0,
        delivered: 1,
        lost: 0,
    };
    let with = |states: Vec<SinkState>| Ack { sinks: states, ..ack(&index, now) };
    let lines = |acks: &[(&str, Ack)], name: &str| {
        let report = look(&index, acks, now);
        let lines = report.sinks[name]
            .conditions
            .iter()
            .map(|c| format!("{}={} {}: {}\n", c.type_, c.status, c.reason, c.message));
        lines.collect::<String>()
    };
    expect![[r#"
        Accepted=True Accepted: the sink is valid
        ResolvedRefs=True ResolvedRefs: the sink needs no Secret
        Encrypted=False PlainHttp: spec.endpoint: records travel in plain text; use https
        Reachable=Unknown NotUsed: no sidecar sends to this sink
        Delivering=Unknown NoReports: no sidecar has sent a record to this sink yet
        Delivered=Unknown NotUsed: no sidecar sends to this sink
    "#]]
    .assert_eq(&lines(&[], "main"));
    expect![[r#"
        Accepted=True Accepted: the sink is valid
        ResolvedRefs=True ResolvedRefs: the sink needs no Secret
        Encrypted=False PlainHttp: spec.endpoint: records travel in plain text; use https
        Reachable=True Reachable: it answers 1 of 1 sidecars
        Delivering=True Delivering: 1 of 1 sidecars deliver, the others have sent nothing yet
        Delivered=True Delivered: no record of its 1 sidecars waits for over 30 s
    "#]]
    .assert_eq(&lines(&[("a", with(vec![state(SinkCondition::Delivering, None)]))], "main"));
    let failing = with(vec![state(SinkCondition::Failing, Some("connection refused"))]);
    expect![[r#"
        Accepted=True Accepted: the sink is valid
        ResolvedRefs=True ResolvedRefs: the sink needs no Secret
        Encrypted=False PlainHttp: spec.endpoint: records travel in plain text; use https
        Reachable=False Unreachable: 1 of 2 sidecars cannot deliver: connection refused (pod shop/b)
        Delivering=False Failing: 1 of 2 sidecars cannot deliver: connection refused (pod shop/b)
        Delivered=True Delivered: no record of its 2 sidecars waits for over 30 s
    "#]]
    .assert_eq(&lines(&[("a", with(vec![state(SinkCondition::Delivering, None)])), ("b", failing)], "main"));
    let parked = with(vec![state(SinkCondition::Parked, Some("401"))]);
    expect![[r#"
        Accepted=True Accepted: the sink is valid
        ResolvedRefs=True ResolvedRefs: the sink needs no Secret
        Encrypted=False PlainHttp: spec.endpoint: records travel in plain text; use https
        Reachable=Unknown Parked: all that send wait for credentials or settings: 401 (pod shop/a)
        Delivering=False Parked: 1 of 1 sidecars wait for credentials or settings: 401 (pod shop/a)
        Delivered=True Delivered: no record of its 1 sidecars waits for over 30 s
    "#]]
    .assert_eq(&lines(&[("a", parked)], "main"));
    expect![[r#"
        Accepted=True Conflicted: spec.default: the older AuditSink main is the default; remove the mark from one of them
        ResolvedRefs=True ResolvedRefs: the sink needs no Secret
        Encrypted=True Tls: records travel over TLS
        Reachable=Unknown NotUsed: no sidecar sends to this sink
        Delivering=Unknown NoReports: no sidecar has sent a record to this sink yet
        Delivered=Unknown NotUsed: no sidecar sends to this sink
    "#]].assert_eq(&lines(&[], "tls"));
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays() {
    let early = Timestamp::from_second(10).expect("time");
    let late = Timestamp::from_second(20).expect("time");
    let first = conditions(&[], vec![Finding::no("Ready", "Pending", "0 of 1")], Some(1), early);
    let same = conditions(&first, vec![Finding::no("Ready", "Pending", "1 of 2")], Some(1), late);
    assert_eq!(same[0].last_transition_time.0, early);
    assert_eq!(changed(&first, &same).count(), 0);
    let other = conditions(&same, vec![Finding::yes("Ready", "Programmed", "2 of 2")], Some(1), late);
    assert_eq!(other[0].last_transition_time.0, late);
    assert_eq!(changed(&same, &other).count(), 1);
}

#[test]
fn computing_a_status_from_its_own_result_changes_nothing() {
    let mut index = cluster();
    put::<Pod>(&mut index, pod("a", true));
    let now = Instant::now();
    let first = look(&index, &[("a", ack(&index, now))], now);
    let key = ("shop".to_owned(), "all".to_owned());
    index.policies.get_mut(&key).expect("policy").status = first.policies[&key].clone();
    let acks: HashMap<String, Ack> = [("a".to_owned(), ack(&index, now))].into();
    let excluded = ExcludedNamespaces { own: "testimony-system".to_owned(), ..Default::default() };
    let later = Timestamp::from_second(1000).expect("time");
    let second = report(View {
        index: &index,
        acks: &acks,
        excluded: &excluded,
        instant: now,
        now: later,
        settling: None,
        rollouts: false,
    });
    assert_eq!(first.policies[&key], second.policies[&key], "the writer must come to rest");
}

#[test]
fn a_lease_is_free_when_it_has_not_changed_for_its_duration() {
    let lease = |holder: &str, second: i64| LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        renew_time: Some(MicroTime(Timestamp::from_second(second).expect("time"))),
        lease_duration_seconds: Some(15),
        ..LeaseSpec::default()
    };
    let start = tokio::time::Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let mut observer = Observer::default();
    assert_eq!(observer.step("me", &LeaseSpec::default(), at(0)), Step::Hold, "nobody holds it");
    assert_eq!(observer.step("me", &lease("me", 0), at(0)), Step::Hold);
    assert_eq!(observer.step("me", &lease("other", 1), at(0)), Step::Wait);
    assert_eq!(observer.step("me", &lease("other", 1), at(14)), Step::Wait);
    assert_eq!(observer.step("me", &lease("other", 2), at(15)), Step::Wait, "it was renewed");
    assert_eq!(observer.step("me", &lease("other", 2), at(29)), Step::Wait);
    assert_eq!(observer.step("me", &lease("other", 2), at(30)), Step::Hold, "its holder is gone");
    assert_eq!(observer.step("me", &lease("", 2), at(30)), Step::Hold, "it was given up");
}

// === the Lease ===

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/testimony-system/leases/testimony-controller";

/// Deadline of what must happen, in seconds of paused time.
const SOON: u64 = 120;

fn election(api: &FakeApi, me: &str) -> Election {
    Election::new(api.client(), "testimony-system", "testimony-controller", me)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(SOON), future).await.expect("in time")
}

#[tokio::test(start_paused = true)]
async fn one_replica_leads_and_gives_the_lease_up_at_its_end() {
    let api = FakeApi::default();
    let (stop, mut shutdown) = Shutdown::new();
    let first = election(&api, "first");
    assert!(soon(first.win(&mut shutdown)).await);
    assert_eq!(api.get(LEASE).expect("lease")["spec"]["holderIdentity"], "first");
    stop.send_replace(true);
    assert!(soon(first.hold(shutdown)).await.is_ok());
    assert_eq!(api.get(LEASE).expect("lease")["spec"]["holderIdentity"], Value::Null);
    let (_stop, mut shutdown) = Shutdown::new();
    assert!(soon(election(&api, "second").win(&mut shutdown)).await, "the next need not wait");
}

#[tokio::test(start_paused = true)]
async fn a_candidate_stops_at_the_signal() {
    let api = FakeApi::default();
    let (_stop, mut shutdown) = Shutdown::new();
    assert!(soon(election(&api, "first").win(&mut shutdown)).await);
    let (stop, mut shutdown) = Shutdown::new();
    let second = election(&api, "second");
    let (won, ()) = soon(async { tokio::join!(second.win(&mut shutdown), async { drop(stop) }) }).await;
    assert!(!won);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_wins_though_calls_before_were_never_answered() {
    let api = FakeApi::default();
    let (_stop, mut shutdown) = Shutdown::new();
    api.hang(2);
    api.busy(2);
    assert!(soon(election(&api, "first").win(&mut shutdown)).await);
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_was_taken_must_end() {
    let api = FakeApi::default();
    let (_stop, mut shutdown) = Shutdown::new();
    let first = election(&api, "first");
    assert!(soon(first.win(&mut shutdown)).await);
    let mut lease = api.get(LEASE).expect("lease");
    lease["spec"]["holderIdentity"] = json!("second");
    api.put(LEASE, lease);
    let lost = soon(first.hold(shutdown)).await.expect_err("lost");
    assert_eq!(lost.to_string(), "the lease is held by second");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_ends_before_another_may_lead() {
    let api = FakeApi::default();
    let (_stop, mut shutdown) = Shutdown::new();
    let first = election(&api, "first");
    assert!(soon(first.win(&mut shutdown)).await);
    api.fail(true);
    let began = tokio::time::Instant::now();
    assert!(matches!(soon(first.hold(shutdown)).await, Err(LeaseLost::NotRenewed(_))));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_of_a_slow_api_server_ends_before_another_may_lead_and_leads_while_it_answers() {
    let api = FakeApi::default();
    let (stop, mut shutdown) = Shutdown::new();
    let first = election(&api, "first");
    // A call takes effect at once and is answered later, and two make an attempt.
    api.slow(Duration::from_millis(2400));
    assert!(soon(first.win(&mut shutdown)).await);
    let written = tokio::time::Instant::now() - Duration::from_millis(2400);
    api.fail(true);
    api.slow(Duration::from_millis(4900));
    assert!(matches!(soon(first.clone().hold(shutdown.clone())).await, Err(LeaseLost::NotRenewed(_))));
    assert!(written.elapsed() < Duration::from_secs(15), "{:?}", written.elapsed());

    api.fail(false);
    api.slow(Duration::from_millis(2400));
    let held = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        stop.send_replace(true);
    };
    let (held, ()) = soon(async { tokio::join!(first.hold(shutdown), held) }).await;
    assert!(held.is_ok(), "{held:?}");
}

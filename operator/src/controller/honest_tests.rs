//! What is told while the operator itself comes and goes, and what sinks are told.

use super::status::{Report, View, report};
use super::tests::{ack, cluster, pod, policy, put, sink};
use crate::api::{AuditPolicy, AuditPolicyStatus, AuditSink, AuditSinkStatus, ClusterAuditPolicy};
use crate::index::{Guarded, Index, Indexed};
use crate::inject::ExcludedNamespaces;
use crate::state::{Ack, State};
use expect_test::expect;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use testimony_core::policy::{PolicyDocument, SinkCondition, SinkState};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("time")
}

struct Look<'a> {
    acks: &'a [(&'a str, Ack)],
    instant: Instant,
    now: i64,
    settling: Option<i64>,
    rollouts: bool,
}

fn look(index: &Index, look: Look<'_>) -> Report {
    let acks: HashMap<String, Ack> = look.acks.iter().map(|(uid, ack)| ((*uid).to_owned(), ack.clone())).collect();
    let excluded = ExcludedNamespaces { own: "testimony-system".to_owned(), ..Default::default() };
    let (instant, now, settling) = (look.instant, at(look.now), look.settling.map(at));
    report(View { index, acks: &acks, excluded: &excluded, instant, now, settling, rollouts: look.rollouts })
}

fn of<'a>(report: &'a Report, name: &str) -> &'a AuditPolicyStatus {
    &report.policies[&("shop".to_owned(), name.to_owned())]
}

fn remember(index: &mut Index, report: &Report) {
    for (key, status) in &report.policies {
        index.policies.get_mut(key).expect("policy").status = status.clone();
    }
    for (name, status) in &report.sinks {
        index.sinks.get_mut(name).expect("sink").status = status.clone();
    }
}

fn told(status: &AuditPolicyStatus, kind: &str) -> String {
    let found = status.conditions.iter().find(|c| c.type_ == kind).expect("condition");
    format!("{} {}: {}", found.status, found.reason, found.message)
}

fn old(name: &str) -> Value {
    let mut pod = pod(name, true);
    pod["metadata"]["creationTimestamp"] = json!("1970-01-01T00:00:10Z");
    pod
}

#[test]
fn a_new_leader_neither_drops_to_zero_nor_claims_what_it_has_not_heard() {
    let mut index = cluster();
    put::<Pod>(&mut index, old("a"));
    put::<Pod>(&mut index, old("b"));
    let now = Instant::now();
    let acks = [("a", ack(&index, now)), ("b", ack(&index, now))];
    let settled = look(&index, Look { acks: &acks, instant: now, now: 20, settling: None, rollouts: false });
    assert_eq!(told(of(&settled, "all"), "Programmed"), "True Programmed: 2 of 2 sidecars acknowledged their revision");
    remember(&mut index, &settled);

    // The operator restarts; one sidecar has polled again.
    let begun = look(&index, Look { acks: &acks[..1], instant: now, now: 30, settling: Some(25), rollouts: false });
    let status = of(&begun, "all");
    assert_eq!((status.pods.programmed, begun.unheard, begun.totals.programmed), (2, 1, 1));
    let unknown = "Unknown Reconciling: 1 of 2 sidecars have not reported since the controller started; counts are those of before";
    assert_eq!(told(status, "Programmed"), unknown);
    assert_eq!(told(status, "Ready"), unknown);
    assert!(told(status, "Accepted").starts_with("True"));

    // Both have: as before, and nothing is to be written.
    let done = look(&index, Look { acks: &acks, instant: now, now: 31, settling: Some(25), rollouts: false });
    assert_eq!(of(&done, "all"), of(&settled, "all"));

    // One never does: once the time is over it counts as silent.
    let over = look(&index, Look { acks: &acks[..1], instant: now, now: 99, settling: None, rollouts: false });
    assert_eq!(told(of(&over, "all"), "Programmed"), "False Pending: 1 of 2 sidecars acknowledged their revision");
    assert_eq!(of(&over, "all").pods.programmed, 1);
}

#[test]
fn a_pod_that_has_not_started_is_not_waited_for() {
    let mut index = cluster();
    let waits = |name: &str, sidecar: Option<Value>| {
        let mut waits = old(name);
        let status = |state: Value| json!({"name": "testimony-sidecar", "image": "t", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let statuses: Vec<Value> = sidecar.into_iter().map(status).collect();
        waits["status"] = json!({"phase": "Pending", "initContainerStatuses": statuses});
        waits
    };
    let now = Instant::now();
    let seen = |index: &Index, acks: &[(&str, Ack)], settling| {
        let report = look(index, Look { acks, instant: now, now: 30, settling, rollouts: false });
        let totals = &report.totals;
        assert_eq!(of(&report, "all").pods, *totals);
        let counts = (totals.injected, totals.programmed, report.waiting, report.unheard);
        (counts, told(of(&report, "all"), "Programmed"), told(of(&report, "all"), "Ready"))
    };
    put::<Pod>(&mut index, waits("b", None));
    for settling in [None, Some(25)] {
        let (counts, programmed, _) = seen(&index, &[], settling);
        assert_eq!(counts, (1, 0, 1, 0), "a new leader does not wait for it either");
        assert_eq!(programmed, "True NotStarted: 0 of 0 sidecars acknowledged their revision; 1 more have not started");
    }
    put::<Pod>(&mut index, old("a"));
    put::<Pod>(&mut index, waits("c", Some(json!({"waiting": {"reason": "ImagePullBackOff"}}))));
    let acks = [("a", ack(&index, now))];
    let (counts, programmed, ready) = seen(&index, &acks, None);
    assert_eq!(counts, (3, 1, 2, 0), "but for those that wait there is no difference");
    assert_eq!(programmed, "True Programmed: 1 of 1 sidecars acknowledged their revision; 2 more have not started");
    assert!(ready.starts_with("True Programmed: 1 of 3 pods"), "{ready}");
    // Its sidecar runs: now it can say so.
    put::<Pod>(&mut index, waits("c", Some(json!({"running": {}}))));
    let (counts, programmed, _) = seen(&index, &acks, None);
    assert_eq!(counts, (3, 1, 1, 0));
    assert_eq!(programmed, "False Pending: 1 of 2 sidecars acknowledged their revision; 1 more have not started");
}

#[test]
fn an_edit_that_met_no_operator_is_not_counted_from_before() {
    let mut index = cluster();
    put::<Pod>(&mut index, old("a"));
    let now = Instant::now();
    let acks = [("a", ack(&index, now))];
    let settled = look(&index, Look { acks: &acks, instant: now, now: 20, settling: None, rollouts: false });
    remember(&mut index, &settled);
    let mut edited = policy("all", json!({"redact": {"query": ["token"]}}));
    edited["metadata"]["generation"] = json!(4);
    edited["status"] = json!(of(&settled, "all"));
    put::<AuditPolicy>(&mut index, edited);
    let begun = look(&index, Look { acks: &[], instant: now, now: 30, settling: Some(25), rollouts: false });
    assert_eq!(of(&begun, "all").pods.programmed, 0, "nobody can run a revision that is new");
    // A pod that is younger than the leader is not one that it has lost.
    put::<Pod>(&mut index, {
        let mut young = pod("a", true);
        young["metadata"]["creationTimestamp"] = json!("1970-01-01T00:00:28Z");
        young
    });
    let begun = look(&index, Look { acks: &[], instant: now, now: 30, settling: Some(25), rollouts: false });
    assert_eq!(told(of(&begun, "all"), "Programmed"), "False Pending: 0 of 1 sidecars acknowledged their revision");
}

/// The object as a watch brings it.
fn found<K: Indexed + serde::de::DeserializeOwned>(index: &mut Index, object: Value) {
    match serde_json::from_value::<Guarded<K>>(object).expect("metadata").0 {
        Ok(object) => K::apply(index, object),
        Err(undecodable) => K::undecodable(index, &undecodable),
    };
}

#[test]
fn the_last_good_spec_outlives_the_operator() {
    let mut index = cluster();
    put::<AuditPolicy>(&mut index, policy("all", json!({"redact": {"query": ["token"]}})));
    let good = index.document("shop", &Default::default()).document.clone();
    for wrong in [json!({"correlation": {"header": "cookie"}}), json!({"rules": [{"name": "r", "level": "Loud"}]})] {
        the_last_good_spec_is_kept(&mut index, wrong, &good);
    }
}

fn the_last_good_spec_is_kept(index: &mut Index, wrong: Value, good: &PolicyDocument) {
    let mut wrong = policy("all", wrong);
    wrong["metadata"]["generation"] = json!(4);
    found::<AuditPolicy>(index, wrong.clone());
    let now = Instant::now();
    let before = look(index, Look { acks: &[], instant: now, now: 1, settling: None, rollouts: false });
    let status = of(&before, "all").clone();
    assert_eq!(status.last_good.as_ref().and_then(|l| l.generation), Some(3));

    let mut again = Index::new("cluster.local");
    put::<AuditSink>(&mut again, sink("main", json!({"endpoint": "http://collector.example:4318", "default": true})));
    wrong["status"] = json!(status);
    found::<AuditPolicy>(&mut again, wrong.clone());
    assert_eq!(again.document("shop", &Default::default()).document, *good);
    let after = look(&again, Look { acks: &[], instant: now, now: 1, settling: None, rollouts: false });
    assert_eq!(of(&after, "all"), &status);
    // A version that cannot use it leaves it to one that can.
    let mut older = Index::new("cluster.local");
    wrong["status"]["lastGood"]["spec"] = json!("{\"rules\": \"of the future\"}");
    found::<AuditPolicy>(&mut older, wrong.clone());
    let after = look(&older, Look { acks: &[], instant: now, now: 1, settling: None, rollouts: false });
    assert_eq!(json!(of(&after, "all").last_good), wrong["status"]["lastGood"]);
    // Mended: nothing is kept.
    let mut mended = policy("all", json!({}));
    mended["metadata"]["generation"] = json!(5);
    mended["status"] = json!(status);
    put::<AuditPolicy>(&mut again, mended);
    let after = look(&again, Look { acks: &[], instant: now, now: 1, settling: None, rollouts: false });
    assert_eq!(of(&after, "all").last_good, None);
}

#[test]
fn the_default_sink_is_named_and_a_rollout_that_is_switched_off_is_told() {
    let mut index = cluster();
    put::<AuditPolicy>(&mut index, policy("all", json!({"rollout": "Restart"})));
    put::<Pod>(&mut index, pod("a", false));
    let now = Instant::now();
    let ready = |rollouts: bool| {
        let report = look(&index, Look { acks: &[], instant: now, now: 1, settling: None, rollouts });
        assert_eq!(of(&report, "all").sinks, ["main"]);
        (told(of(&report, "all"), "Ready"), told(of(&report, "all"), "Programmed"))
    };
    assert!(ready(false).1.starts_with("False NoSidecars"));
    put::<Pod>(&mut index, pod("b", true));
    let acks = [("b", ack(&index, now))];
    let ready = |rollouts: bool| {
        let report = look(&index, Look { acks: &acks, instant: now, now: 1, settling: None, rollouts });
        told(of(&report, "all"), "Ready")
    };
    assert!(ready(false).contains("rollout.enabled"), "{}", ready(false));
    assert!(!ready(true).contains("rollout.enabled"), "{}", ready(true));
}

#[test]
fn the_last_good_spec_of_a_sink_outlives_the_operator() {
    let mut index = cluster();
    put::<AuditPolicy>(&mut index, policy("all", json!({})));
    let good = index.document("shop", &Default::default()).document.clone();
    assert_eq!(good.sinks.len(), 1);
    let look = |index: &Index| {
        let instant = Instant::now();
        look(index, Look { acks: &[], instant, now: 1, settling: None, rollouts: false }).sinks["main"].clone()
    };
    assert_eq!(look(&index).last_good, None);
    // Not accepted, and of another version.
    for wrong in
        [json!({"endpoint": "gopher://c"}), json!({"endpoint": "http://c", "protocol": "Quic", "default": false})]
    {
        let mut wrong = sink("main", wrong);
        found::<AuditSink>(&mut index, wrong.clone());
        let status = look(&index);
        wrong["status"] = json!(status);

        let mut again = Index::new("cluster.local");
        put::<AuditPolicy>(&mut again, policy("all", json!({})));
        found::<AuditSink>(&mut again, wrong.clone());
        assert_eq!(again.document("shop", &Default::default()).document, good, "{wrong}");
        assert_eq!(look(&again), status);
        let accepted = status.conditions.iter().find(|c| c.type_ == "Accepted").expect("told");
        assert!(accepted.message.ends_with("; the last good revision stays in force"), "{}", accepted.message);
        // A status of another version, and a spec that only a later version can use.
        wrong["status"]["sidecars"] = json!("many");
        found::<AuditSink>(&mut again, wrong.clone());
        assert_eq!(json!(look(&again).last_good), wrong["status"]["lastGood"]);
        let mut older = Index::new("cluster.local");
        wrong["status"]["lastGood"]["spec"] = json!("{\"endpoint\": 7}");
        found::<AuditSink>(&mut older, wrong.clone());
        assert_eq!(json!(look(&older).last_good), wrong["status"]["lastGood"]);
        // Made again under its name it is another one.
        wrong["metadata"]["uid"] = json!("other");
        wrong["status"] = Value::Null;
        found::<AuditSink>(&mut again, wrong);
        assert!(again.document("shop", &Default::default()).document.sinks.is_empty());
    }
}

fn says(name: &str, state: SinkCondition, error: Option<&str>, oldest: u64, delivered: u64) -> SinkState {
    let error = error.map(str::to_owned);
    SinkState { name: name.to_owned(), state, error, oldest_undelivered_seconds: oldest, delivered, lost: 1 }
}

fn sink_lines(status: &AuditSinkStatus) -> String {
    let mut text = String::new();
    for c in status.conditions.iter().filter(|c| !["Accepted", "Encrypted"].contains(&c.type_.as_str())) {
        text.push_str(&format!("{}={} {}: {}\n", c.type_, c.status, c.reason, c.message));
    }
    let s = &status.sidecars;
    text.push_str(&format!(
        "delivering {} failing {} parked {} unknown {}; delivered {} lost {}; oldest {:?}; last {:?}\n",
        s.delivering,
        s.failing,
        s.parked,
        s.unknown,
        status.delivered,
        status.lost,
        status.oldest_undelivered.as_ref().map(|t| t.0.as_second()),
        status.last_error.as_ref().map(|e| format!("{}: {}", e.pod, e.message)),
    ));
    text
}

#[test]
fn a_sink_tells_reach_age_error_and_counts() {
    let mut index = cluster();
    put::<AuditSink>(
        &mut index,
        sink("login", json!({"endpoint": "https://c.example", "credentialsSecretName": "otlp"})),
    );
    for name in ["a", "b", "c"] {
        put::<Pod>(&mut index, pod(name, true));
    }
    let now = Instant::now();
    let with = |states: Vec<SinkState>| Ack { sinks: states, ..ack(&index, now) };
    let status = |acks: &[(&str, Ack)], later: u64, name: &str, settling: Option<i64>| {
        let seconds = i64::try_from(later).expect("short");
        let instant = now + Duration::from_secs(later);
        look(&index, Look { acks, instant, now: 1000 + seconds, settling, rollouts: false }).sinks[name].clone()
    };
    expect![[r#"
        ResolvedRefs=True ResolvedRefs: the sink needs no Secret
        Reachable=Unknown NotUsed: no sidecar sends to this sink
        Delivering=Unknown NoReports: no sidecar has sent a record to this sink yet
        Delivered=Unknown NotUsed: no sidecar sends to this sink
        delivering 0 failing 0 parked 0 unknown 0; delivered 0 lost 0; oldest None; last None
    "#]]
    .assert_eq(&sink_lines(&status(&[], 0, "main", None)));
    assert!(sink_lines(&status(&[], 0, "main", Some(990))).contains("Reachable=Unknown Reconciling"));

    let failing = [
        ("a", with(vec![says("main", SinkCondition::Delivering, None, 2, 70)])),
        ("c", with(vec![says("main", SinkCondition::Failing, Some("refused"), 40, 3)])),
        ("b", with(vec![says("main", SinkCondition::Failing, Some("timeout"), 30, 4)])),
    ];
    let first = status(&failing, 0, "main", None);
    expect![[r#"
        ResolvedRefs=True ResolvedRefs: the sink needs no Secret
        Reachable=False Unreachable: 2 of 3 sidecars cannot deliver: timeout (pod shop/b)
        Delivering=False Failing: 2 of 3 sidecars cannot deliver: timeout (pod shop/b)
        Delivered=False Late: 1 of 3 sidecars have records that wait for over 30 s, the oldest since 1970-01-01T00:16:00Z, such as pod shop/c
        delivering 1 failing 2 parked 0 unknown 0; delivered 77 lost 3; oldest Some(960); last Some("shop/b: timeout")
    "#]]
    .assert_eq(&sink_lines(&first));
    assert_eq!(status(&failing, 30, "main", None).oldest_undelivered, first.oldest_undelivered, "a begin stays");

    let missing = "credentials are missing: /x cannot be read; create the Secret in the pod's namespace";
    let parked = [("b", with(vec![says("login", SinkCondition::Parked, Some(missing), 9, 0)]))];
    expect![[r#"
        ResolvedRefs=False SecretNotFound: spec.credentialsSecretName: the Secret otlp is missing in, or not mounted from, the namespaces shop; create it there; records wait
        Reachable=Unknown Parked: all that send wait for credentials or settings: credentials are missing: /x cannot be read; create the Secret in the pod's namespace (pod shop/b)
        Delivering=False Parked: 1 of 1 sidecars wait for credentials or settings: credentials are missing: /x cannot be read; create the Secret in the pod's namespace (pod shop/b)
        Delivered=Unknown NoReports: no sidecar has delivered a record to this sink yet
        delivering 0 failing 0 parked 1 unknown 0; delivered 0 lost 1; oldest Some(991); last Some("shop/b: credentials are missing: /x cannot be read; create the Secret in the pod's namespace")
    "#]].assert_eq(&sink_lines(&status(&parked, 0, "login", None)));

    let well = [("a", with(vec![says("main", SinkCondition::Delivering, None, 0, 70)]))];
    let counted = status(&well, 0, "main", None);
    let more = [("a", with(vec![says("main", SinkCondition::Delivering, None, 3, 90)]))];
    let later = status(&more, 0, "main", None);
    assert_ne!(counted, later);
    assert!(!super::sink_status::is_news(&counted, &later), "counts alone wait");
    assert!(super::sink_status::is_news(&first, &later));
}

#[test]
fn a_sink_names_each_secret_that_sidecars_miss() {
    let mut index = cluster();
    let spec = json!({"endpoint": "https://c.example", "credentialsSecretName": "otlp",
                      "tls": {"clientCertificateSecretName": "client"}});
    put::<AuditSink>(&mut index, sink("login", spec));
    put::<Pod>(&mut index, pod("a", true));
    let now = Instant::now();
    let resolved = |error: Option<&str>| {
        let state = if error.is_some() { SinkCondition::Parked } else { SinkCondition::Delivering };
        let acks = [("a", Ack { sinks: vec![says("login", state, error, 1, 0)], ..ack(&index, now) })];
        let report = look(&index, Look { acks: &acks, instant: now, now: 1, settling: None, rollouts: false });
        let found = report.sinks["login"].conditions.iter().find(|c| c.type_ == "ResolvedRefs").cloned();
        found.map(|c| format!("{} {}: {}", c.status, c.reason, c.message)).expect("condition")
    };
    expect!["True ResolvedRefs: no sidecar misses a Secret"].assert_eq(&resolved(None));
    expect!["False SecretNotFound: spec.tls.clientCertificateSecretName: the Secret client is missing in, or not mounted from, the namespaces shop; create it there; records wait"].assert_eq(&resolved(Some("the client certificate is missing: /x/tls.crt is not there; create it")));
    assert!(resolved(Some("401 Unauthorized")).starts_with("True"));
}

#[test]
fn a_sink_is_not_well_before_all_of_its_sidecars_have_told_a_new_leader() {
    let mut index = cluster();
    put::<AuditSink>(&mut index, sink("other", json!({"endpoint": "https://c.example"})));
    put::<Pod>(&mut index, old("a"));
    put::<Pod>(&mut index, old("b"));
    let now = Instant::now();
    let with = |state, delivered| Ack { sinks: vec![says("main", state, None, 0, delivered)], ..ack(&index, now) };
    let all = [("a", with(SinkCondition::Delivering, 5)), ("b", with(SinkCondition::Delivering, 6))];
    let settled = look(&index, Look { acks: &all, instant: now, now: 20, settling: None, rollouts: false });
    let part = [("a", with(SinkCondition::Delivering, 5))];
    let ill = [("a", with(SinkCondition::Failing, 5))];
    remember(&mut index, &settled);
    let lines = |acks: &[(&str, Ack)], name: &str, settling: Option<i64>| {
        let report = look(&index, Look { acks, instant: now, now: 30, settling, rollouts: false });
        sink_lines(&report.sinks[name])
    };
    expect![[r#"
        ResolvedRefs=True ResolvedRefs: the sink needs no Secret
        Reachable=Unknown Reconciling: 1 of its sidecars have not reported since the controller started
        Delivering=Unknown Reconciling: 1 of its sidecars have not reported since the controller started
        Delivered=Unknown Reconciling: 1 of its sidecars have not reported since the controller started
        delivering 1 failing 0 parked 0 unknown 0; delivered 11 lost 2; oldest None; last None
    "#]]
    .assert_eq(&lines(&part, "main", Some(25)));
    assert!(lines(&ill, "main", Some(25)).contains("Reachable=False Unreachable"), "what is ill is told at once");
    assert!(lines(&part, "main", None).contains("Reachable=True"), "the other one is silent");
    assert!(lines(&part, "other", Some(25)).contains("Reachable=Unknown NotUsed"), "nobody is waited for");
}

fn wide(spec: Value) -> Value {
    json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "ClusterAuditPolicy", "spec": spec,
           "metadata": {"name": "floor", "uid": "floor", "generation": 3}})
}

#[test]
fn a_cluster_policy_is_told_as_honestly() {
    let mut index = Index::new("cluster.local");
    put::<AuditSink>(&mut index, sink("main", json!({"endpoint": "http://collector.example:4318", "default": true})));
    put::<ClusterAuditPolicy>(&mut index, wide(json!({"rollout": "Restart", "redact": {"query": ["token"]}})));
    put::<Pod>(&mut index, old("a"));
    let now = Instant::now();
    let key = (String::new(), "floor".to_owned());
    let acks = [("a", ack(&index, now))];
    let settled = look(&index, Look { acks: &acks, instant: now, now: 20, settling: None, rollouts: false });
    let status = settled.policies[&key].clone();
    assert_eq!((status.pods.programmed, status.sinks.as_slice()), (1, &["main".to_owned()][..]));
    expect!["True RolloutDisabled: the policy is valid, but spec.rollout: Restart has no effect, because the chart's value rollout.enabled is false: set it, or restart the workloads yourself"].assert_eq(&told(&status, "Accepted"));
    let on = look(&index, Look { acks: &acks, instant: now, now: 20, settling: None, rollouts: true });
    assert_eq!(told(&on.policies[&key], "Accepted"), "True Accepted: the policy is valid");

    // The operator restarts, and the spec that it meets is wrong: the one of before stays in force, and is waited for.
    let good = index.document("shop", &Default::default()).document.clone();
    let mut wrong = wide(json!({"correlation": {"header": "cookie"}}));
    wrong["metadata"]["generation"] = json!(4);
    remember(&mut index, &settled);
    put::<ClusterAuditPolicy>(&mut index, wrong.clone());
    let refused = look(&index, Look { acks: &acks, instant: now, now: 21, settling: None, rollouts: false });
    wrong["status"] = json!(refused.policies[&key]);
    let mut again = Index::new("cluster.local");
    put::<AuditSink>(&mut again, sink("main", json!({"endpoint": "http://collector.example:4318", "default": true})));
    put::<ClusterAuditPolicy>(&mut again, wrong);
    put::<Pod>(&mut again, old("a"));
    assert_eq!(again.document("shop", &Default::default()).document, good);
    let begun = look(&again, Look { acks: &[], instant: now, now: 30, settling: Some(25), rollouts: false });
    let status = &begun.policies[&key];
    assert_eq!((status.pods.programmed, begun.unheard), (1, 1));
    assert!(told(status, "Programmed").starts_with("Unknown Reconciling"), "{}", told(status, "Programmed"));
    assert!(told(status, "Accepted").contains("the last good revision stays in force"));
}

#[test]
fn a_suspended_policy_says_so_once_its_sidecars_were_heard() {
    let mut index = cluster();
    put::<AuditPolicy>(&mut index, policy("all", json!({"suspend": true})));
    put::<Pod>(&mut index, old("a"));
    let now = Instant::now();
    let acks = [("a", ack(&index, now))];
    let told_of = |acks: &[(&str, Ack)]| {
        let report = look(&index, Look { acks, instant: now, now: 30, settling: Some(25), rollouts: false });
        told(of(&report, "all"), "Programmed")
    };
    assert!(told_of(&[]).starts_with("Unknown Reconciling"));
    assert_eq!(told_of(&acks), "True Suspended: the policy is suspended and records nothing");
}

#[tokio::test]
async fn counts_of_a_poll_do_not_wake_the_writer_but_a_change_of_state_does() {
    let state = State::new("cluster.local");
    state.change(|index| Pod::apply(index, serde_json::from_value(pod("a", true)).expect("pod")));
    let said = |condition, delivered| Ack {
        revision: None,
        refused: None,
        sinks: vec![says("main", condition, None, delivered, delivered)],
        evidence: None,
        at: Instant::now(),
        bundle: None,
    };
    state.acknowledge("a", said(SinkCondition::Delivering, 1));
    state.changed.notified().await;
    state.acknowledge("a", said(SinkCondition::Delivering, 2));
    let woken = tokio::time::timeout(Duration::from_millis(20), state.changed.notified()).await;
    assert!(woken.is_err(), "only the counts changed");
    state.acknowledge("a", said(SinkCondition::Failing, 2));
    let woken = tokio::time::timeout(Duration::from_secs(5), state.changed.notified()).await;
    assert!(woken.is_ok(), "the state changed");
}

//! What the status leads to and tells: restarts that a policy asks for, sinks that are away.

use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually, init_containers, single};
use crate::objects::{SELECT_SERVER, Sink, condition, counts, policy_when, text};
use crate::sinks::{get, sending_to};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Two looks of the operator at what it may restart, and a rollout of one pod, in seconds.
const RESTART_SECONDS_MAX: u64 = 180;
/// Two looks more, in seconds: a second restart would show by then.
const QUIET_SECONDS: u64 = 15;
/// A sidecar tells its counts every 50 s, a record is late after 30 s, and the operator sees that within 30 s more.
const FIGURES_SECONDS_MAX: u64 = OPERATOR_SECONDS_MAX * 2;
/// Annotation of a pod template that the operator restarted.
const RESTARTED_FOR: &str = "/spec/template/metadata/annotations/testimony.dev~1restarted-for";

fn server(space: &Space) -> Result<Value> {
    cluster().kubectl.get(&space.name, &["deployment", "server"])
}

fn generation(object: &Value) -> Option<i64> {
    object.pointer("/metadata/generation").and_then(Value::as_i64)
}

/// Whether there is an Event with this reason about an object.
fn told(namespace: &str, name: &str, reason: &str) -> Result<bool> {
    let selector = format!("involvedObject.name={name},reason={reason}");
    let events = cluster().kubectl.get(namespace, &["events", "--field-selector", &selector])?;
    Ok(events.get("items").and_then(Value::as_array).is_some_and(|items| !items.is_empty()))
}

#[test]
fn rollout_restart_restarts_a_deployment_once_and_leaves_bare_pods_counted() -> Result<()> {
    let space = Space::new("restart")?;
    space.httpbin("server")?;
    space.toolbox("bare", "{app: server}")?;
    assert!(
        init_containers(&single(
            space.pods("server")?.into_iter().filter(|pod| text(pod, "/metadata/name") != "bare").collect()
        )?)
        .is_empty()
    );
    assert_eq!(generation(&server(&space)?), Some(1));

    // By hand: both are counted, none is touched.
    space.policy("audit", &format!("{{{SELECT_SERVER}}}"))?;
    policy_when(&space, "audit", "both pods to be counted", OPERATOR_SECONDS_MAX, |policy| {
        counts(policy) == [2, 0, 0, 2, 0]
    })?;
    assert_eq!(generation(&server(&space)?), Some(1));

    space.policy("audit", &format!("{{{SELECT_SERVER}, rollout: Restart}}"))?;
    let policy = policy_when(&space, "audit", "the Deployment's pod to be audited", RESTART_SECONDS_MAX, |policy| {
        counts(policy) == [2, 1, 1, 1, 0]
    })?;
    let accepted = condition(&policy, "Accepted");
    assert!(accepted.starts_with("True Accepted"), "is the chart's value rollout.enabled true? {accepted}");
    assert!(condition(&policy, "Ready").starts_with("False NeedsRestart"), "the bare pod needs its owner: {policy:#}");
    assert_eq!(text(&policy, "/status/skipped/0/example"), format!("{}/bare", space.name));
    let restarted = server(&space)?;
    assert!(text(&restarted, RESTARTED_FOR).starts_with("audit@2."), "{restarted:#}");
    eventually("an Event that tells it", OPERATOR_SECONDS_MAX, || told(&space.name, "server", "RestartedForAudit"))?;

    // The bare pod needs a restart for ever; that restarts nothing.
    let begun = Instant::now();
    eventually("two looks more", QUIET_SECONDS * 2, || {
        let now = server(&space)?;
        assert_eq!(generation(&now), Some(2), "restarted more than once: {now:#}");
        Ok(begun.elapsed() > Duration::from_secs(QUIET_SECONDS))
    })?;
    let names = cluster().kubectl.run(&["get", "pods", "-n", &space.name, "-o", "name"])?;
    ensure!(names.contains("pod/bare"), "the bare pod is gone: {names}");
    Ok(())
}

#[test]
fn a_sink_that_is_away_is_told_with_age_error_and_an_example_and_so_is_its_return() -> Result<()> {
    let space = Space::new("reach")?;
    let backend = include_str!("../../assets/collector.yaml").replace("observability", &space.name);
    space.apply(&backend.replace("replicas: 1", "replicas: 0"))?;
    let endpoint = format!("http://collector.{}.svc:4318", space.name);
    let sink = Sink::new(&space.name, &json!({"endpoint": endpoint}))?;
    let when = |what: &str, wanted: &dyn Fn(&Value) -> bool| {
        let mut last = Value::Null;
        eventually(&format!("sink {}: {what}", sink.name), FIGURES_SECONDS_MAX, || {
            last = cluster().kubectl.get("default", &["auditsink", &sink.name])?;
            Ok(wanted(&last))
        })
        .map_err(|error| error.context(format!("its status is {:#}", last.get("status").unwrap_or(&Value::Null))))?;
        anyhow::Ok(last)
    };
    when("used by nobody", &|sink| condition(sink, "Reachable").starts_with("Unknown NotUsed"))?;
    sending_to(&space, &sink)?;
    get(&space, "/anything/first")?;
    let away = when("unreachable, with an age", &|sink| {
        condition(sink, "Reachable").starts_with("False Unreachable")
            && sink.pointer("/status/oldestUndelivered").is_some()
    })?;
    assert!(text(&away, "/status/lastError/pod").starts_with(&format!("{}/server-", space.name)), "{away:#}");
    assert!(!text(&away, "/status/lastError/message").is_empty(), "{away:#}");
    let late =
        when("records that are late, with an example", &|sink| condition(sink, "Delivered").starts_with("False Late"))?;
    let (late, pod) = (condition(&late, "Delivered"), format!("such as pod {}/server-", space.name));
    assert!(late.contains(" the oldest since ") && late.contains(&pod), "{late}");
    eventually("an Event that tells it", OPERATOR_SECONDS_MAX, || told("default", &sink.name, "SinkUnreachable"))?;
    let table = cluster().kubectl.run(&["get", "auditsink", &sink.name])?;
    for column in ["REACHABLE", "DELIVERING", "DELIVERED", "OLDEST"] {
        assert!(table.contains(column), "{table}");
    }

    cluster().kubectl.run(&["scale", "deployment/collector", "--replicas=1", "-n", &space.name])?;
    cluster().kubectl.rollout(&space.name, "deployment/collector")?;
    when("reachable again, with nothing that waits and no error", &|sink| {
        let told = ["/status/oldestUndelivered", "/status/lastError"].map(|field| sink.pointer(field));
        condition(sink, "Reachable").starts_with("True")
            && condition(sink, "Delivering").starts_with("True")
            && told == [None, None]
    })?;
    eventually("an Event that tells it", OPERATOR_SECONDS_MAX, || told("default", &sink.name, "SinkRecovered"))?;
    when("its records to be counted, and none to be late", &|sink| {
        sink.pointer("/status/delivered").and_then(Value::as_i64).is_some_and(|delivered| delivered > 0)
            && condition(sink, "Delivered").starts_with("True Delivered")
    })?;
    // The sink was away for less than the spool holds, and the witness was not.
    policy_when(&space, "audit", "its evidence to be anchored and whole", FIGURES_SECONDS_MAX, |policy| {
        let figure = |name: &str| policy.pointer(&format!("/status/evidence/{name}")).and_then(Value::as_i64);
        let told = ["sidecars", "gaps", "unanchored"].map(figure);
        told == [Some(1), Some(0), Some(0)] && figure("streams").is_some_and(|streams| streams > 0)
    })?;
    let table = cluster().kubectl.run(&["get", "audpol", "audit", "-n", &space.name, "-o", "wide"])?;
    for column in ["GAPS", "UNANCHORED"] {
        assert!(table.contains(column), "{table}");
    }
    Ok(())
}

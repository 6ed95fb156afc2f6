//! The report as tables.

use super::{Policy, Report, Sink};
use crate::output::Table;
use k8s_openapi::jiff::Timestamp;

/// An age as kubectl shows it.
fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// All of it.
pub(super) fn text(report: &Report, now: Timestamp) -> String {
    let mut operator = Table::new(&["OPERATOR", "READY", "IMAGE"]);
    for part in &report.operator {
        operator.row([part.name.clone(), format!("{}/{}", part.ready, part.wanted), part.image.clone()]);
    }
    if operator.is_empty() {
        operator.row(["not found: name its namespace with --operator-namespace", "", ""]);
    }
    let leader = report.leader.as_deref().unwrap_or("none");
    format!("{operator}leader: {leader}\n\n{}\n{}", policies(&report.policies), sinks(&report.sinks, now))
}

fn policies(policies: &[Policy]) -> Table {
    let mut table = Table::new(&[
        "POLICY",
        "READY",
        "SINKS",
        "MATCHED",
        "INJECTED",
        "PROGRAMMED",
        "RESTART",
        "SKIPPED",
        "GAPS",
        "UNANCHORED",
        "MESSAGE",
    ]);
    for policy in policies {
        let pods = &policy.pods;
        let counts = [pods.matched, pods.injected, pods.programmed, pods.need_restart, pods.skipped];
        let name = match &policy.namespace {
            Some(namespace) => format!("{namespace}/{}", policy.name),
            None => format!("{} (cluster)", policy.name),
        };
        let mut row = vec![name, policy.ready.clone(), policy.sinks.join(",")];
        row.extend(counts.iter().map(i64::to_string));
        // Empty: nobody told it.
        let evidence = policy.evidence.as_ref();
        row.extend([evidence.map(|e| e.gaps), evidence.map(|e| e.unanchored)].map(shown));
        row.push(policy.message.clone());
        table.row(row);
        let excluded = policy.excluded.iter().map(|excluded| ("excluded, ", excluded));
        for (how, why) in policy.skipped.iter().map(|skipped| ("", skipped)).chain(excluded) {
            let why = format!("{how}{}: {}, such as {}", why.reason, why.count, why.example);
            table.row(["", "", "", "", "", "", "", "", "", "", &why]);
        }
    }
    if table.is_empty() {
        table.row(["none"]);
    }
    table
}

fn shown(count: Option<i64>) -> String {
    count.map(|count| count.to_string()).unwrap_or_default()
}

fn sinks(sinks: &[Sink], now: Timestamp) -> Table {
    let mut table = Table::new(&[
        "SINK",
        "DEFAULT",
        "REACHABLE",
        "DELIVERING",
        "DELIVERED",
        "OLDEST",
        "RECORDS",
        "LOST",
        "ENDPOINT",
        "MESSAGE",
    ]);
    for sink in sinks {
        let default = if sink.default { "yes" } else { "" };
        let oldest = sink.oldest_undelivered.map(|since| age(since, now)).unwrap_or_default();
        let (records, lost) = (sink.delivered.to_string(), sink.lost.to_string());
        let (reachable, delivering, in_time) = (&*sink.reachable, &*sink.delivering, &*sink.in_time);
        table.row([
            &*sink.name,
            default,
            reachable,
            delivering,
            in_time,
            &oldest,
            &records,
            &lost,
            &sink.endpoint,
            &sink.message,
        ]);
    }
    if table.is_empty() {
        table.row(["none"]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::{Part, policy, sink};
    use super::*;
    use serde_json::json;

    fn ready(status: &str, reason: &str, message: &str) -> serde_json::Value {
        json!({"type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    fn found(kind: &str, status: &str, reason: &str, message: &str) -> serde_json::Value {
        let mut condition = ready(status, reason, message);
        condition["type"] = json!(kind);
        condition
    }

    fn policy_of(namespace: Option<&str>, name: &str, status: serde_json::Value) -> Policy {
        policy(namespace.map(str::to_owned), name.to_owned(), serde_json::from_value(status).expect("a status"))
    }

    fn sink_of(name: &str, default: bool, status: serde_json::Value) -> Sink {
        let object = json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditSink", "metadata": {"name": name},
                            "spec": {"endpoint": "http://c:4318", "default": default}, "status": status});
        sink(serde_json::from_value(object).expect("a sink"))
    }

    #[test]
    fn a_report_for_people() {
        let restart = policy_of(
            Some("shop"),
            "p",
            json!({
                "conditions": [ready("False", "NeedsRestart", "1 pod needs a restart")],
                "pods": {"matched": 3, "injected": 1, "programmed": 1, "needRestart": 1, "skipped": 1},
                "sinks": ["default", "other"],
                "skipped": [{"reason": "HostNetwork", "count": 1, "example": "shop/node-agent"}]
            }),
        );
        let remark = found("Accepted", "True", "RolloutDisabled", "the policy is valid, but rollouts are off");
        let wide = policy_of(
            None,
            "floor",
            json!({
                "conditions": [remark, ready("True", "Programmed", "2 of 2 pods run it")],
                "pods": {"matched": 2, "injected": 2, "programmed": 2, "needRestart": 0, "skipped": 0},
                "sinks": ["default"],
                "evidence": {"sidecars": 2, "gaps": 7, "streams": 4, "unanchored": 1},
                "excluded": [{"reason": "tests", "count": 4, "example": "ci/a"}]
            }),
        );
        let away = sink_of(
            "away",
            false,
            json!({
                "conditions": [
                    found("Reachable", "False", "Unreachable", "no"),
                    found("Delivering", "False", "Failing", "1 of 2 sidecars cannot deliver: refused (pod shop/b)"),
                ],
                "delivered": 7, "lost": 2, "oldestUndelivered": "2026-01-01T00:00:00Z"
            }),
        );
        let behind = sink_of(
            "behind",
            false,
            json!({
                "conditions": [
                    found("Reachable", "True", "Reachable", "it answers 2 of 2 sidecars"),
                    found("Delivering", "True", "Delivering", "2 of 2 sidecars deliver"),
                    found("Delivered", "False", "Late", "1 of 2 sidecars have records that wait for over 30 s"),
                ],
                "delivered": 90, "lost": 0, "oldestUndelivered": "2026-01-01T00:03:10Z"
            }),
        );
        let part = Part { name: "testimony-webhook".into(), ready: 1, wanted: 2, image: "i:1".into() };
        let sinks = vec![sink_of("default", true, serde_json::Value::Null), away, behind];
        let report = Report { operator: vec![part], leader: None, policies: vec![restart, wide], sinks };
        let now = "2026-01-01T00:05:10Z".parse().expect("a time");
        expect_test::expect![[r#"
            OPERATOR            READY   IMAGE
            testimony-webhook   1/2     i:1
            leader: none

            POLICY            READY   SINKS           MATCHED   INJECTED   PROGRAMMED   RESTART   SKIPPED   GAPS   UNANCHORED   MESSAGE
            shop/p            False   default,other   3         1          1            1         1                             1 pod needs a restart
                                                                                                                                HostNetwork: 1, such as shop/node-agent
            floor (cluster)   True    default         2         2          2            0         0         7      1            the policy is valid, but rollouts are off
                                                                                                                                excluded, tests: 4, such as ci/a

            SINK      DEFAULT   REACHABLE   DELIVERING   DELIVERED   OLDEST   RECORDS   LOST   ENDPOINT        MESSAGE
            default   yes       Unknown     Unknown      Unknown              0         0      http://c:4318   the controller has not looked at it yet
            away                False       False        Unknown     5m       7         2      http://c:4318   1 of 2 sidecars cannot deliver: refused (pod shop/b)
            behind              True        True         False       2m       90        0      http://c:4318   1 of 2 sidecars have records that wait for over 30 s
        "#]].assert_eq(&text(&report, now));
    }

    #[test]
    fn text_of_a_sidecar_does_not_reach_a_terminal() {
        let said = "refused\u{1b}[2J\r\u{9b}2J\nbehind   True   True";
        let sink = sink_of("away", false, json!({"conditions": [found("Delivering", "False", "Failing", said)]}));
        let policy = policy_of(Some("shop"), "p", json!({"conditions": [ready("False", "Refused", said)]}));
        let report = Report { operator: Vec::new(), leader: None, policies: vec![policy], sinks: vec![sink] };
        let text = text(&report, Timestamp::UNIX_EPOCH);
        assert!(text.contains("refused") && text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(!text.contains("\nbehind"), "{text}");
    }
}

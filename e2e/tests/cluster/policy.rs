//! An AuditPolicy from `kubectl apply` to what the sidecars do and what the status tells.

use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually, init_containers, marker, single};
use crate::objects::{
    SELECT_SERVER, admin, audited, condition, counts, edited, in_force, metric, policy, policy_when, revision, text,
};
use anyhow::Result;
use std::process::Command;
use testimony_e2e::records::AuditRecord;
use testimony_e2e::steps::output_with_input;

fn edit(space: &Space, spec: &str) -> Result<()> {
    space.policy("audit", &format!("{{{SELECT_SERVER}, {spec}}}"))?;
    edited(space, "audit", 1).map(|_| ())
}

/// curl's output for `http://server:8080PATH`.
fn curl(space: &Space, path: &str, options: &str) -> Result<String> {
    space.sh("client", &format!("curl -sS --fail --max-time 20 {options} 'http://server:8080{path}'"))
}

fn holding(records: Vec<AuditRecord>, marker: &str) -> Vec<AuditRecord> {
    records.into_iter().filter(|record| record.attribute("url.path").contains(marker)).collect()
}

/// The records with `marker` in their paths, once one of a later request is there: a sidecar sends in order.
fn recorded(space: &Space, marker: &str) -> Result<Vec<AuditRecord>> {
    let last = crate::harness::marker();
    curl(space, &format!("/anything/{last}"), "")?;
    let records = space.records_when("the record of the last request", |records| {
        records.iter().any(|record| record.attribute("url.path").contains(&last))
    })?;
    Ok(holding(records, marker))
}

/// Both streams of `kubectl apply --dry-run=server`, and whether it succeeded.
fn dry_run(space: &Space, spec: &str, validate: &str) -> Result<(bool, String)> {
    let script = format!("\"$0\" apply --dry-run=server {validate} -n {} -f - 2>&1 || echo FAILED", space.name);
    let kubectl = cluster().kubectl.command();
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).arg(kubectl.get_program()).env("KUBECONFIG", cluster().kubectl.kubeconfig());
    let yaml = format!(
        "apiVersion: audit.testimony.dev/v1alpha1\nkind: AuditPolicy\nmetadata: {{name: candidate}}\nspec: {spec}\n"
    );
    let said = output_with_input(&mut shell, yaml.as_bytes())?;
    Ok((!said.contains("FAILED"), said))
}

#[test]
fn a_policy_that_cannot_work_is_refused_and_the_field_is_named() -> Result<()> {
    let space = Space::new("refused")?;
    let table = [
        ("{rules: [{name: a, level: Everything}]}", "spec.rules[0].level", "supported values: \"None\", \"Metadata\""),
        (
            "{capture: {excludePorts: [{port: 70000, direction: Inbound}]}}",
            "spec.capture.excludePorts[0].port",
            "65535",
        ),
        (
            "{capture: {excludePorts: [{port: 24801, direction: Inbound}]}}",
            "spec.capture.excludePorts[0]",
            "never captured",
        ),
        (
            "{rules: [{name: a, match: {ports: [0]}, level: None}]}",
            "spec.rules[0].match.ports[0]",
            "greater than or equal to 1",
        ),
        (
            "{rules: [{name: a, match: {methods: [GET]}, level: None}, {name: a, match: {methods: [PUT]}, level: None}]}",
            "spec.rules[1]",
            "Duplicate value",
        ),
        (
            "{rules: [{name: a, level: None}, {name: b, level: Metadata}]}",
            "spec.rules",
            "move it to the end or give it a match",
        ),
        (
            "{rules: [{name: a, match: {methods: [get]}, level: None}]}",
            "spec.rules[0].match.methods[0]",
            "should match",
        ),
        (
            "{rules: [{name: a, match: {pathPrefixes: [x]}, level: None}]}",
            "spec.rules[0].match.pathPrefixes[0]",
            "should match",
        ),
        ("{rules: [{name: a}]}", "spec.rules[0].level", "Required value"),
        ("{capture: {directions: []}}", "spec.capture.directions", "at least 1"),
        ("{sinks: []}", "spec.sinks", "at least 1"),
        ("{correlation: {header: Authorization}}", "spec.correlation.header", "x-request-id"),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
            "spec.podSelector.matchExpressions[0]",
            "need values",
        ),
    ];
    for (spec, field, message) in table {
        let (accepted, said) = dry_run(&space, spec, "")?;
        assert!(!accepted, "{spec} was accepted: {said}");
        assert!(said.contains(field) && said.contains(message), "{spec}: {field} and {message:?} are wanted: {said}");
    }
    let (accepted, said) = dry_run(&space, "{podSelector: {}}", "")?;
    assert!(accepted, "{said}");
    Ok(())
}

#[test]
fn an_unknown_field_is_never_accepted_in_silence() -> Result<()> {
    let space = Space::new("unknown")?;
    for (spec, field) in [
        ("{identity: {header: x-user}}", "spec.identity"),
        ("{rules: [{name: a, match: {path: /x}, level: None}]}", "spec.rules[0].match.path"),
        ("{capture: {excludePorts: [{port: 1, direction: Inbound, protocol: TCP}]}}", "protocol"),
    ] {
        let (accepted, said) = dry_run(&space, spec, "")?;
        assert!(!accepted && said.contains(field) && said.contains("unknown field"), "{spec}: {said}");
        let (_, said) = dry_run(&space, spec, "--validate=warn")?;
        assert!(said.contains("Warning") && said.contains(field), "{spec}: {said}");
    }
    Ok(())
}

#[test]
fn an_unknown_sink_is_named_and_disturbs_no_other_policy() -> Result<()> {
    let space = audited("sinkname", "sinks: [default]")?;
    space.policy("broken", &format!("{{{SELECT_SERVER}, sinks: [nowhere]}}"))?;
    let broken = policy_when(&space, "broken", "the missing sink to be told", OPERATOR_SECONDS_MAX, |policy| {
        condition(policy, "ResolvedRefs").starts_with("False SinkNotFound")
    })?;
    assert!(condition(&broken, "ResolvedRefs").contains("named nowhere"), "{broken:#}");
    assert!(condition(&broken, "Ready").starts_with("False SinkNotFound"), "{broken:#}");
    let good = in_force(&space, "audit", 1)?;
    assert!(condition(&good, "Ready").starts_with("True"), "{good:#}");
    let wanted = marker();
    curl(&space, &format!("/anything/{wanted}"), "")?;
    let record = single(recorded(&space, &wanted)?)?;
    assert_eq!(record.attribute("testimony.policy.name"), format!("{}/audit", space.name));
    Ok(())
}

#[test]
fn the_status_counts_and_the_printed_columns_are_true() -> Result<()> {
    let space = Space::new("counts")?;
    space.toolbox("early", "{audited: 'yes'}")?;
    space.toolbox("client", "{app: client}")?;
    space.policy("audit", "{podSelector: {matchExpressions: [{key: audited, operator: Exists}]}}")?;
    let old = policy_when(&space, "audit", "one pod without a sidecar", OPERATOR_SECONDS_MAX, |policy| {
        counts(policy) == [1, 0, 0, 1, 0]
    })?;
    assert!(condition(&old, "Programmed").starts_with("False NoSidecars"), "{old:#}");
    space.toolbox("late", "{audited: 'yes'}")?;
    let mixed = policy_when(&space, "audit", "one pod of two with a sidecar", OPERATOR_SECONDS_MAX, |policy| {
        counts(policy) == [2, 1, 1, 1, 0]
    })?;
    assert!(condition(&mixed, "Ready").starts_with("False NeedsRestart"), "{mixed:#}");
    assert_eq!(text(&mixed, "/status/skipped/0/reason"), "NeedsRestart");
    assert_eq!(text(&mixed, "/status/skipped/0/example"), format!("{}/early", space.name));
    space.toolbox("out", "{audited: 'yes', testimony.dev/inject: disabled}")?;
    let printed = eventually("a pod that is skipped", OPERATOR_SECONDS_MAX, || {
        Ok(counts(&policy(&space, "audit")?) == [3, 1, 1, 1, 1])
    })
    .and_then(|()| cluster().kubectl.run(&["get", "audpol", "audit", "-n", &space.name]))?;
    let mut lines = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let (head, row) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    assert_eq!(head, ["NAME", "SINKS", "MATCHED", "PROGRAMMED", "RESTART", "READY", "AGE"]);
    // The column of the sinks is empty where the default one is used.
    assert_eq!(row.first(), Some(&"audit"), "{printed}");
    assert!(row.windows(4).any(|cells| cells == ["3", "1", "1", "False"]), "{printed}");
    for pod in ["early", "out"] {
        cluster().kubectl.run(&["delete", "pod", pod, "-n", &space.name])?;
    }
    let ready = policy_when(&space, "audit", "all pods in line", OPERATOR_SECONDS_MAX, |policy| {
        counts(policy) == [1, 1, 1, 0, 0]
    })?;
    assert!(condition(&ready, "Ready").starts_with("True Programmed"), "{ready:#}");
    Ok(())
}

#[test]
fn an_edit_a_suspension_and_a_deletion_are_in_force_without_a_restart() -> Result<()> {
    let space = audited("edit", "rules: []")?;
    let first = policy(&space, "audit")?;
    let pod = single(space.pods("server")?)?;
    let (quiet, loud) = (marker(), marker());

    edit(&space, &format!("rules: [{{name: quiet, match: {{pathPrefixes: [/anything/{quiet}]}}, level: None}}]"))?;
    assert_ne!(revision(&policy(&space, "audit")?), revision(&first));
    curl(&space, &format!("/anything/{quiet}"), "")?;
    curl(&space, &format!("/anything/{quiet}/below"), "")?;
    curl(&space, &format!("/anything/{loud}"), "")?;
    assert_eq!(recorded(&space, &quiet)?, []);
    let record = single(holding(space.records()?, &loud))?;
    assert_eq!(record.attribute("testimony.policy.revision"), revision(&policy(&space, "audit")?));
    assert_eq!(record.attribute("testimony.rule"), "default");
    assert!(metric(&space, "client", "server", "testimony_not_recorded_total{reason=\"level_none\"}")? >= 2);

    let suspended = marker();
    edit(&space, "suspend: true")?;
    let told = policy(&space, "audit")?;
    assert!(condition(&told, "Programmed").starts_with("True Suspended"), "{told:#}");
    curl(&space, &format!("/anything/{suspended}"), "")?;
    edit(&space, "suspend: false")?;
    assert_eq!(recorded(&space, &suspended)?, []);

    let config: serde_json::Value = serde_json::from_str(&admin(&space, "client", "server", "/config")?)?;
    let last = text(&config, "/revision");
    assert_eq!(last, revision(&policy(&space, "audit")?));
    cluster().kubectl.run(&["delete", "auditpolicy", "audit", "-n", &space.name])?;
    eventually("the sidecar to pass everything", OPERATOR_SECONDS_MAX, || {
        Ok(!admin(&space, "client", "server", "/config")?.contains(&last))
    })?;
    let through = marker();
    curl(&space, &format!("/anything/{through}"), "")?;
    space.policy("audit", &format!("{{{SELECT_SERVER}}}"))?;
    in_force(&space, "audit", 1)?;
    assert_eq!(recorded(&space, &through)?, []);

    let same = single(space.pods("server")?)?;
    assert_eq!(text(&same, "/metadata/uid"), text(&pod, "/metadata/uid"), "the pod must not be replaced");
    assert_eq!(init_containers(&same), ["testimony-init", "testimony-sidecar"]);
    assert_eq!(same.pointer("/status/initContainerStatuses/1/restartCount"), Some(&serde_json::json!(0)));
    Ok(())
}

#[test]
fn op_3_adding_a_policy_never_audits_less() -> Result<()> {
    let space = audited("additive", "rules: [{name: nothing, level: None}]")?;
    let (silent, both, one) = (marker(), marker(), marker());
    curl(&space, &format!("/anything/{silent}"), "")?;
    let more = "rules: [{name: some, match: {pathPrefixes: [/anything]}, level: Metadata}, {name: rest, level: None}], \
                capture: {directions: [Inbound], excludePorts: [{port: 9, direction: Inbound}]}";
    space.policy("more", &format!("{{{SELECT_SERVER}, {more}}}"))?;
    in_force(&space, "more", 1)?;
    curl(&space, &format!("/anything/{both}"), "")?;
    curl(&space, &format!("/status/200?{one}"), "")?;
    let record = single(recorded(&space, &both)?)?;
    assert_eq!(record.attribute("testimony.policy.name"), format!("{}/more", space.name));
    assert_eq!(record.attribute("testimony.rule"), "some");
    let records = space.records()?;
    assert_eq!(holding(records.clone(), &silent), []);
    assert!(records.iter().all(|record| !record.attribute("url.path").starts_with("/status")), "{records:#?}");

    // A policy that asks for nothing and leaves the port alone takes nothing away from the other.
    let nothing = "rules: [{name: nothing, level: None}], capture: {excludePorts: [{port: 8080, direction: Inbound}]}";
    edit(&space, nothing)?;
    let still = marker();
    curl(&space, &format!("/anything/{still}"), "")?;
    assert_eq!(recorded(&space, &still)?.len(), 1);
    let (audit, more) = (policy(&space, "audit")?, policy(&space, "more")?);
    assert_eq!(revision(&audit), revision(&more), "both run in one document");
    Ok(())
}

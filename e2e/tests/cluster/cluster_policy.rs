//! A ClusterAuditPolicy over two namespaces, and expressions, from `kubectl apply` to records.

use crate::harness::{Space, cluster, init_containers, marker, single};
use crate::objects::{
    ClusterPolicy, EDIT_SECONDS_MAX, SELECT_SERVER, audited, condition, counts, edited, metric, policy_when, revision,
    text,
};
use anyhow::Result;
use serde_json::{Value, json};

/// A namespace label that no other test has.
const TEAM: &str = "testimony.example/team";

fn label(space: &Space, label: &str) -> Result<()> {
    cluster().kubectl.run(&["label", "namespace", &space.name, label, "--overwrite"]).map(drop)
}

fn curl(space: &Space, path: &str, options: &str) -> Result<String> {
    space.sh("client", &format!("curl -sS --fail --max-time 20 {options} 'http://server:8080{path}'"))
}

/// Selects the servers of namespaces with this label.
fn of_team(team: &str) -> Value {
    json!({"namespaceSelector": {"matchLabels": {TEAM: team}}, "podSelector": {"matchLabels": {"app": "server"}}})
}

fn with(mut spec: Value, field: &str, value: Value) -> Value {
    spec[field] = value;
    spec
}

#[test]
fn a_cluster_policy_audits_pods_of_the_namespaces_that_it_selects() -> Result<()> {
    let team = marker();
    let spaces = [Space::new("wide")?, Space::new("wide")?];
    for space in &spaces {
        label(space, &format!("{TEAM}={team}"))?;
    }
    let policy = ClusterPolicy::new(&format!("wide-{team}"), &of_team(&team))?;
    policy.when("to be accepted", |policy| condition(policy, "Accepted").starts_with("True"))?;
    for space in &spaces {
        space.httpbin("server")?;
        space.toolbox("client", "{app: client}")?;
    }
    policy.in_force(2)?;
    for space in &spaces {
        let wanted = marker();
        curl(space, &format!("/anything/{wanted}"), "")?;
        let path = |record: &testimony_e2e::records::AuditRecord| record.attribute("url.path").contains(&wanted);
        let records = space.records_when("the request's record", |records| records.iter().any(path))?;
        let record = single(records.into_iter().filter(path).collect())?;
        assert_eq!(record.attribute("testimony.policy.name"), policy.name);
    }

    // Taken out by the policy itself, and told; then by the namespace's label, which selects anew without a restart.
    let without = json!([{"namespaces": [spaces[1].name], "reason": "load test"}]);
    policy.apply(&with(of_team(&team), "exclusions", without))?;
    let told = policy.in_force(1)?;
    assert_eq!(text(&told, "/status/excluded/0/reason"), "load test");
    assert!(text(&told, "/status/excluded/0/example").starts_with(&format!("{}/server-", spaces[1].name)), "{told:#}");
    policy.apply(&of_team(&team))?;
    policy.in_force(2)?;
    label(&spaces[0], "testimony.dev/cluster-defaults=disabled")?;
    let told = policy.in_force(1)?;
    assert_eq!(text(&told, "/status/excluded/0/reason"), "NamespaceOptedOut");
    label(&spaces[1], &format!("{TEAM}=another"))?;
    policy.in_force(0)?;

    let printed = cluster().kubectl.run(&["get", "caudpol", &policy.name])?;
    let head: Vec<&str> = printed.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(head, ["NAME", "ENFORCEMENT", "SINKS", "MATCHED", "PROGRAMMED", "RESTART", "READY", "AGE"]);
    Ok(())
}

#[test]
fn no_label_opts_out_of_a_baseline_and_no_policy_lowers_it() -> Result<()> {
    let team = marker();
    let space = Space::new("floor")?;
    label(&space, &format!("{TEAM}={team}"))?;
    label(&space, "testimony.dev/cluster-defaults=disabled")?;
    let pods = json!({"matchLabels": {"audit": "floor"}});
    let spec = with(with(of_team(&team), "podSelector", pods), "enforcement", json!("Baseline"));
    let policy = ClusterPolicy::new(&format!("floor-{team}"), &spec)?;
    space.policy("nothing", "{podSelector: {matchLabels: {audit: floor}}, rules: [{name: nothing, level: None}]}")?;
    policy.when("to be accepted", |policy| condition(policy, "Accepted").starts_with("True"))?;
    space.toolbox("out", "{app: out, audit: floor, testimony.dev/inject: disabled}")?;
    policy.in_force(1)?;
    let pod = single(space.pods("out")?)?;
    assert_eq!(init_containers(&pod), ["testimony-init", "testimony-sidecar"]);
    space.httpbin("server")?;
    let wanted = marker();
    space.sh("out", &format!("curl -sS --fail --max-time 20 http://server:8080/anything/{wanted}"))?;
    let records = space.records_when("the record of the floor", |records| {
        records.iter().any(|record| record.attribute("url.path").contains(&wanted))
    })?;
    assert!(records.iter().all(|record| record.attribute("testimony.policy.name") == policy.name), "{records:#?}");
    Ok(())
}

#[test]
fn a_bad_expression_is_told_with_its_column_and_the_last_good_one_stays_in_force() -> Result<()> {
    let space =
        audited("column", "rules: [{name: quiet, match: {when: \"request.path.endsWith('.css')\"}, level: None}]")?;
    let before = crate::objects::policy(&space, "audit")?;
    let bad = "rules: [{name: quiet, match: {when: \"request.path.endsWith('.css') || request.verb == 'GET'\"}, level: None}]";
    space.apply(&format!(
        "{{apiVersion: audit.testimony.dev/v1alpha1, kind: AuditPolicy, metadata: {{name: audit}}, \
         spec: {{{SELECT_SERVER}, {bad}}}}}"
    ))?;
    let told = policy_when(&space, "audit", "the expression to be refused", EDIT_SECONDS_MAX, |policy| {
        condition(policy, "Accepted").starts_with("False InvalidExpression")
    })?;
    let message = condition(&told, "Accepted");
    assert!(message.contains("spec.rules[0].match.when: column 42: `request` has no field `verb`"), "{message}");
    assert!(message.ends_with("the last good revision stays in force"), "{message}");
    assert_eq!(revision(&told), revision(&before));
    assert_eq!(counts(&told), [1, 1, 1, 0, 0]);
    Ok(())
}

#[test]
fn an_expression_chooses_what_is_recorded() -> Result<()> {
    let space = audited("when", "rules: []")?;
    let (quiet, loud, doubtful) = (marker(), marker(), marker());
    let when = format!(
        "request.path.startsWith('/anything/{quiet}') && connection.port == 8080 || request.headers['x-quiet'] == 'yes'"
    );
    let rules = format!("rules: [{{name: quiet, match: {{when: \"{when}\"}}, level: None}}]");
    space.policy("audit", &format!("{{{SELECT_SERVER}, {rules}}}"))?;
    edited(&space, "audit", 1)?;
    curl(&space, &format!("/anything/{quiet}"), "")?;
    curl(&space, &format!("/anything/{loud}/hidden"), "-H 'x-quiet: yes'")?;
    // Without the header the expression is neither true nor false: the request is recorded, and the doubt is counted.
    curl(&space, &format!("/anything/{doubtful}"), "")?;
    let records = space.records_when("the request without the header", |records| {
        records.iter().any(|record| record.attribute("url.path").contains(&doubtful))
    })?;
    let hidden = |record: &&testimony_e2e::records::AuditRecord| {
        let path = record.attribute("url.path");
        path.contains(&quiet) || path.contains(&loud)
    };
    assert_eq!(records.iter().filter(hidden).count(), 0, "{records:#?}");
    assert!(metric(&space, "client", "server", "testimony_policy_undecided_total{reason=\"no_header\"}")? >= 1);
    Ok(())
}

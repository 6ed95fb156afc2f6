//! `docs/reference/crds.md`, `operator-metrics.md` and `operator-cli.md` are what the code says, and the examples of the
//! documentation are policies that the operator accepts. `UPDATE_GOLDEN=1` rewrites the pages.

#[path = "../../e2e/tests/support/golden.rs"]
mod golden;

use golden::{assert_golden, repository};
use prometheus_client::encoding::text;
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;
use testimony_operator::api;
use testimony_operator::compile::{accept_cluster_policy, accept_policy};
use testimony_operator::metrics::{
    CertificateLabels, InjectionLabels, KindLabels, Metrics, ResultLabels, StateLabels, TransitionLabels,
};

#[test]
fn the_page_of_the_resources_is_the_codes() {
    assert_golden(&repository().join("docs/reference/crds.md"), &api::markdown());
}

#[test]
fn the_page_of_the_command_is_its_help() {
    let mut page = String::from("# testimony-operator\n\nGenerated from `--help`; do not edit.\n");
    let commands: [&[&str]; 8] = [
        &[],
        &["controller"],
        &["webhook"],
        &["crds"],
        &["selftest"],
        &["selftest", "run"],
        &["selftest", "server"],
        &["version"],
    ];
    for command in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_testimony-operator"))
            .args(command)
            .arg("--help")
            .env_clear()
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        let title = ["testimony-operator"].iter().chain(command).copied().collect::<Vec<_>>().join(" ");
        let help = String::from_utf8(output.stdout).expect("the help is UTF-8");
        let help: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
        page.push_str(&format!("\n## {title}\n\n```text\n{}\n```\n", help.join("\n")));
    }
    assert_golden(&repository().join("docs/reference/operator-cli.md"), &page);
}

#[test]
fn the_page_of_the_metrics_is_the_codes() {
    let (metrics, registry) = Metrics::new();
    // A family without a sample is not shown. Every field stands here, so that a new one cannot be forgotten.
    let Metrics {
        injections,
        admission_seconds,
        undecodable,
        watch_errors,
        objects,
        polls,
        polls_open: _,
        writes,
        events,
        transitions,
        rollouts,
        status_seconds,
        pods,
        leader: _,
        certificate_not_after,
        witness_requests,
        streams,
        ledger_blocks,
        ledger_exports,
        ledger_sinks,
        ledger_outside,
        ledger_outside_at: _,
        ledger_entries: _,
        ledger_skipped: _,
        ledger_dropped: _,
        ledger_bytes: _,
        ledger_interval: _,
        ledger_committed_at: _,
    } = metrics;
    injections.get_or_create(&InjectionLabels { result: "injected", reason: "none" }).inc();
    admission_seconds.observe(0.0);
    status_seconds.observe(0.0);
    transitions.get_or_create(&TransitionLabels::of("AuditPolicy", "Programmed", "True")).inc();
    for family in [undecodable, watch_errors] {
        family.get_or_create(&KindLabels { kind: "Pod" }).inc();
    }
    objects.get_or_create(&KindLabels { kind: "Pod" }).inc();
    for family in [polls, writes, witness_requests, ledger_blocks, ledger_exports, ledger_outside, events, rollouts] {
        family.get_or_create(&ResultLabels { result: "ok" }).inc();
    }
    for (family, state) in [(pods, "matched"), (streams, "live"), (ledger_sinks, "sent")] {
        family.get_or_create(&StateLabels { state }).inc();
    }
    certificate_not_after.get_or_create(&CertificateLabels { certificate: "leaf" }).inc();
    let mut scraped = String::new();
    text::encode(&mut scraped, &registry).expect("text");
    let mut page = String::from(
        "# Metrics of the operator\n\nGenerated from the code; do not edit. Controller and webhook serve them on port 8080, \
         path `/metrics`, in the OpenMetrics format.\n\n| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n",
    );
    let found = families(&scraped);
    assert_eq!(found.len(), 28, "{scraped}");
    for (name, family) in found {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        page.push_str(&format!("| `{name}` | {} | {} | {} |\n", family.kind, labels.join(", "), family.help));
    }
    assert_golden(&repository().join("docs/reference/operator-metrics.md"), &page);
}

/// One metric of a scrape.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: Vec<String>,
}

/// The metrics of a scrape by the names of their samples.
fn families(scraped: &str) -> BTreeMap<String, Family> {
    let mut found: BTreeMap<String, Family> = BTreeMap::new();
    let word = |line: &str, prefix: &str| {
        let (name, rest) = line.strip_prefix(prefix)?.split_once(' ')?;
        Some((name.to_owned(), rest.to_owned()))
    };
    for line in scraped.lines() {
        if let Some((name, help)) = word(line, "# HELP ") {
            found.entry(name).or_default().help = help.trim_end_matches('.').to_owned();
        } else if let Some((name, kind)) = word(line, "# TYPE ") {
            found.entry(name).or_default().kind = kind;
        } else if let Some((sample, rest)) = line.split_once('{') {
            let family = found.iter_mut().rfind(|(name, _)| sample.starts_with(name.as_str()));
            let (_, family) = family.unwrap_or_else(|| panic!("{line} has no TYPE"));
            let labels = rest.split_once('}').map_or("", |(labels, _)| labels);
            let names = labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
            family.labels = names.filter(|name| name != "le").collect();
        }
    }
    let named = |(name, family): (String, Family)| match family.kind.as_str() {
        "counter" => (format!("{name}_total"), family),
        _ => (name, family),
    };
    found.into_iter().map(named).collect()
}

#[test]
fn the_policies_of_the_documentation_are_accepted() {
    let schemas: BTreeMap<String, Value> = api::crds()
        .into_iter()
        .map(|(_, crd)| {
            let kind = crd.pointer("/spec/names/kind").and_then(Value::as_str).unwrap_or_default().to_owned();
            let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").cloned();
            (kind, schema.unwrap_or_default())
        })
        .collect();
    let mut policies = 0;
    for file in ["README.md", "docs/first-policy.md", "docs/policies.md"] {
        let text = std::fs::read_to_string(repository().join(file)).expect(file);
        for block in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let object: Value =
                serde_saphyr::from_str(block).unwrap_or_else(|error| panic!("{file}: {error}\n{block}"));
            let kind = object["kind"].as_str().unwrap_or_default();
            let schema = schemas.get(kind).unwrap_or_else(|| panic!("{file}: kind {kind:?}"));
            known(file, "spec", schema, &object["spec"]);
            if kind == "AuditPolicy" {
                let spec = serde_json::from_value(object["spec"].clone()).unwrap_or_else(|e| panic!("{file}: {e}"));
                accept_policy(&spec).unwrap_or_else(|error| panic!("{file}: {error}"));
                policies += 1;
            }
            if kind == "ClusterAuditPolicy" {
                let spec = serde_json::from_value(object["spec"].clone()).unwrap_or_else(|e| panic!("{file}: {e}"));
                accept_cluster_policy(&spec).unwrap_or_else(|error| panic!("{file}: {error}"));
                policies += 1;
            }
        }
    }
    assert!(policies >= 4, "the examples are no longer found");
}

/// Fails on a field that the schema does not have.
fn known(file: &str, path: &str, schema: &Value, value: &Value) {
    match value {
        Value::Object(fields) if schema.get("additionalProperties").is_none() => {
            for (name, value) in fields {
                let property = schema.get("properties").and_then(|properties| properties.get(name));
                let property = property.unwrap_or_else(|| panic!("{file}: {path}.{name} does not exist"));
                known(file, &format!("{path}.{name}"), property, value);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| known(file, &format!("{path}[]"), &schema["items"], item)),
        _ => {}
    }
}

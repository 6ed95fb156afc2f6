//! The alerts and the dashboard of the chart: each metric and label exists, each runbook is written, and each alert fires
//! when it should (`promtool test rules`).
//!
//! Needs Helm 4 and promtool: `cargo xtask test` builds them.

#[allow(dead_code)]
#[path = "support/golden.rs"]
mod golden;
#[path = "support/helm.rs"]
mod support;

use golden::repository;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use support::{chart, of_kind, program, rendered};

const EVERYTHING: &str = "ci/everything-values.yaml";

/// Metrics of kube-state-metrics that alerts use, with their labels.
const KUBE_METRICS: [(&str, &[&str]); 4] = [
    ("kube_job_status_failed", &["namespace", "job_name"]),
    ("kube_job_failed", &["namespace", "job_name", "condition"]),
    ("kube_cronjob_status_last_successful_time", &["namespace", "cronjob"]),
    ("kube_cronjob_created", &["namespace", "cronjob"]),
];

/// Labels that Prometheus adds to what it reads from a pod, and the bound of a histogram's bucket.
const TARGET_LABELS: [&str; 4] = ["namespace", "pod", "instance", "le"];

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn the_only(kind: &str) -> Value {
    let mut found = of_kind(&rendered(&[EVERYTHING], &[]), kind);
    assert_eq!(found.len(), 1, "{kind}");
    found.remove(0)
}

/// The metrics of the reference pages with their labels.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let mut metrics = BTreeMap::new();
    for page in ["metrics.md", "operator-metrics.md"] {
        for line in read(repository().join("docs/reference").join(page)).lines() {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, name, kind, labels, ..] = cells.as_slice() else { continue };
            let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
            let labels: BTreeSet<String> =
                labels.split(", ").map(|label| label.trim_matches('`').to_owned()).filter(|l| !l.is_empty()).collect();
            if *kind == "histogram" {
                for suffix in ["_bucket", "_sum", "_count"] {
                    metrics.insert(format!("{name}{suffix}"), labels.clone());
                }
            }
            metrics.insert(name.to_owned(), labels);
        }
    }
    for (name, labels) in KUBE_METRICS {
        metrics.insert(name.to_owned(), labels.iter().map(|label| (*label).to_owned()).collect());
    }
    assert!(metrics.len() > 20, "the reference pages are no longer read: {metrics:?}");
    metrics
}

/// The rules of all groups.
fn rules() -> Vec<Value> {
    let rule = the_only("PrometheusRule");
    let groups = rule["spec"]["groups"].as_array().expect("groups").clone();
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

/// The queries of the dashboard, without Grafana's variables.
fn queries() -> Vec<String> {
    let maps = of_kind(&rendered(&[EVERYTHING], &[]), "ConfigMap");
    let map = maps.iter().find(|map| map["data"]["testimony.json"].is_string()).expect("the dashboard");
    let dashboard: Value =
        serde_json::from_str(map["data"]["testimony.json"].as_str().expect("the key")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let panels = targets.map(|target| target["expr"].as_str().expect("a query").to_owned());
    let variables = dashboard["templating"]["list"].as_array().expect("variables").iter();
    let variables = variables.filter_map(|variable| {
        // label_values(METRIC, LABEL) is Grafana's own.
        let query = variable["query"]["query"].as_str()?.strip_prefix("label_values(")?.split(',').next()?;
        Some(query.to_owned())
    });
    panels.chain(variables).map(|query| query.replace("$__rate_interval", "5m").replace("$namespace", ".*")).collect()
}

/// Words of a query outside its strings, each with what follows it.
fn words(query: &str) -> Vec<(String, String)> {
    let bare: Vec<&str> = query.split('"').step_by(2).collect();
    let bare = bare.join("\"");
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut words = Vec::new();
    let mut rest = bare.as_str();
    while let Some(start) = rest.find(is_word) {
        let from = rest.get(start..).unwrap_or_default();
        let end = from.find(|c| !is_word(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        words.push((word.to_owned(), after.to_owned()));
        rest = after;
    }
    words
}

/// Fails on a metric or label that does not exist.
fn exists(query: &str, metrics: &BTreeMap<String, BTreeSet<String>>) {
    let mut known: BTreeSet<&str> = TARGET_LABELS.into();
    let words = words(query);
    for (word, _) in words.iter().filter(|(word, _)| ["testimony_", "kube_"].iter().any(|ours| word.starts_with(ours)))
    {
        let labels = metrics.get(word).unwrap_or_else(|| panic!("{word} does not exist: {query}"));
        known.extend(labels.iter().map(String::as_str));
    }
    let mut lists = false;
    for (word, after) in &words {
        if ["by", "without", "ignoring", "on"].contains(&word.as_str()) {
            lists = true;
            continue;
        }
        let matcher = after.starts_with('=') || after.starts_with("!=");
        if lists || (matcher && !after.starts_with("==")) {
            assert!(known.contains(word.as_str()), "no metric has the label {word}: {query}");
        }
        lists = lists && !after.starts_with(')');
    }
}

#[test]
fn every_metric_and_label_of_a_query_exists() {
    let metrics = metrics();
    let alerts: Vec<String> =
        rules().iter().map(|rule| rule["expr"].as_str().expect("an expression").to_owned()).collect();
    assert!(alerts.len() >= 11 && queries().len() >= 25);
    for query in alerts.iter().chain(&queries()) {
        assert!(query.contains("testimony_") || query.contains("kube_"), "{query}");
        exists(query, &metrics);
    }
    // What a description says of a label.
    for rule in rules() {
        let text = rule["annotations"].to_string();
        for label in text.split("$labels.").skip(1) {
            let end = label.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(label.len());
            let expression = rule["expr"].to_string();
            assert!(expression.contains(label.get(..end).unwrap_or_default()), "{text}: {expression}");
        }
    }
}

#[test]
#[should_panic(expected = "testimony_nothing_total does not exist")]
fn a_metric_that_does_not_exist_is_found() {
    exists("sum(rate(testimony_nothing_total[5m]))", &metrics());
}

#[test]
#[should_panic(expected = "no metric has the label nothing")]
fn a_label_that_does_not_exist_is_found() {
    exists("sum by (namespace, nothing) (testimony_connections_open)", &metrics());
}

#[test]
fn every_alert_has_a_severity_a_text_and_a_runbook() {
    let page = read(repository().join("docs/troubleshooting.md"));
    let headings: BTreeSet<String> =
        page.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_lowercase).collect();
    let mut names = BTreeSet::new();
    for rule in rules() {
        let name = rule["alert"].as_str().expect("a name");
        assert!(names.insert(name.to_lowercase()), "{name} stands there twice");
        assert!(["warning", "critical"].map(Value::from).contains(&rule["labels"]["severity"]), "{rule}");
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].as_str().is_some_and(|text| text.len() > 10), "{name}: {text}");
        }
        let url = rule["annotations"]["runbook_url"].as_str().expect("a runbook");
        let anchor = url.strip_prefix("https://wiki.example.com/testimony#").expect("the address of the values");
        assert_eq!(anchor, name.to_lowercase());
        assert!(headings.contains(anchor), "docs/troubleshooting.md has no heading \"### {name}\"");
    }
    // A runbook for an alert that does not exist helps nobody.
    let told: BTreeSet<String> = headings.into_iter().filter(|heading| heading.starts_with("testimony")).collect();
    assert_eq!(told, names);
}

#[test]
fn without_a_webhook_no_alert_waits_for_one() {
    let manifest = rendered(&[EVERYTHING], &["injection.mode=AdmissionPolicy"]);
    let rule = of_kind(&manifest, "PrometheusRule").remove(0).to_string();
    assert!(rule.contains("TestimonyOperatorAbsent") && !rule.contains("webhook"), "{rule}");
    assert!(the_only("PrometheusRule").to_string().contains("TestimonyWebhookAbsent"));
}

#[test]
fn each_alert_fires_when_it_should_and_at_no_other_time() {
    let folder = std::env::temp_dir().join(format!("testimony-alerts-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let rule = the_only("PrometheusRule");
    // JSON is YAML.
    fs::write(folder.join("alerts.yaml"), rule["spec"].to_string()).expect("the rules");
    let tests = read(repository().join("e2e/tests/support/alerts.test.yaml"));
    for rule in rules() {
        let name = rule["alert"].as_str().expect("a name");
        assert!(tests.matches(&format!("alertname: {name}\n")).count() >= 2, "{name} is not tested both ways");
    }
    fs::write(folder.join("alerts.test.yaml"), tests).expect("the tests");
    let output = Command::new(program("promtool", "PROMTOOL"))
        .current_dir(&folder)
        .args(["test", "rules", "alerts.test.yaml"])
        .output()
        .expect("promtool starts");
    let _ = fs::remove_dir_all(&folder);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn the_dashboards_queries_are_promql() {
    let rules = queries().into_iter().map(|query| serde_json::json!({"record": "query:checked", "expr": query}));
    // Equal names with equal labels are refused, so each stands in a group of its own.
    let groups = rules.enumerate().map(|(at, rule)| serde_json::json!({"name": at.to_string(), "rules": [rule]}));
    let groups = serde_json::json!({"groups": groups.collect::<Vec<_>>()});
    let file = std::env::temp_dir().join(format!("testimony-dashboard-{}.yaml", std::process::id()));
    fs::write(&file, groups.to_string()).expect("the rules");
    let checked =
        Command::new(program("promtool", "PROMTOOL")).args(["check", "rules", "--lint=none"]).arg(&file).output();
    let _ = fs::remove_file(&file);
    let output = checked.expect("promtool starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_dashboards_panels_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(&read(chart().join("files/dashboard.json"))).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64().expect("a place"));
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cell.0 < 24 && taken.insert(cell), "{}", panel["title"]);
        }
    }
}

#[test]
fn sidecars_and_operator_are_read_where_they_serve() {
    let sidecars = the_only("PodMonitor");
    let endpoints = &sidecars["spec"]["podMetricsEndpoints"][0];
    assert_eq!(endpoints["path"], "/metrics");
    let page = read(repository().join("docs/reference/metrics.md"));
    assert!(page.contains("port 24803, path `/metrics`"), "the page says where");
    let addresses: Vec<&Value> = endpoints["relabelings"]
        .as_array()
        .expect("relabelings")
        .iter()
        .filter(|rule| rule["targetLabel"] == "__address__")
        .map(|rule| &rule["replacement"])
        .collect();
    assert_eq!(addresses, ["$1:24803", "[$1]:24803"]);
    assert_eq!(sidecars["spec"]["namespaceSelector"]["any"], true);

    let operator = the_only("ServiceMonitor");
    let service = of_kind(&rendered(&[EVERYTHING], &[]), "Service");
    let service = service.iter().find(|service| service["metadata"]["name"] == "testimony-metrics").expect("a Service");
    let wanted = operator["spec"]["selector"]["matchLabels"].as_object().expect("labels");
    let labels = service["metadata"]["labels"].as_object().expect("labels");
    assert!(wanted.iter().all(|(name, value)| labels.get(name) == Some(value)), "{wanted:?} {labels:?}");
    assert_eq!(operator["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
}

#[test]
fn nothing_of_it_is_made_unless_it_is_asked_for() {
    let manifest = rendered(&["ci/minimal-values.yaml"], &[]);
    for kind in ["PodMonitor", "ServiceMonitor", "PrometheusRule", "ConfigMap", "NetworkPolicy"] {
        assert!(of_kind(&manifest, kind).is_empty(), "{kind}");
    }
}

//! An export is judged, whatever it is: lines of OTLP JSON as the Collector writes them, or bodies, one a line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use testimony_core::evidence::verify::{Settings, Trust, Verdict, judge_bodies};

/// Bodies of a line of OTLP JSON; of another line: itself.
fn bodies(line: &str) -> Vec<String> {
    let parsed: Value = serde_json::from_str(line).unwrap_or_default();
    let each = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let resources = each(&parsed, "resourceLogs");
    if resources.is_empty() {
        return vec![line.to_owned()];
    }
    let scopes = resources.iter().flat_map(|resource| each(resource, "scopeLogs"));
    let records = scopes.flat_map(|scope| each(&scope, "logRecords"));
    records.filter_map(|record| record["body"]["stringValue"].as_str().map(str::to_owned)).collect()
}

fuzz_target!(|text: &str| {
    let bodies: Vec<String> = text.lines().flat_map(bodies).collect();
    let settings = Settings { now_ns: 1_800_000_000_000_000_000, max_lag_ns: 10_000_000_000, ..Settings::default() };
    let report = judge_bodies(bodies.iter().map(String::as_str), settings, Trust::default());
    assert!(report.proved <= report.records);
    let worst = report.findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    assert!(report.verdict >= worst);
});

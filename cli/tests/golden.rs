//! The program on fixtures, without a cluster. `UPDATE_GOLDEN=1` rewrites the goldens.

#[path = "../../e2e/tests/support/golden.rs"]
mod golden;
#[path = "support/program.rs"]
mod program;

use golden::{assert_golden, repository};
use program::run;
use std::io::Write;
use std::process::{Command, Stdio};

/// Runs, and compares everything with a golden.
fn assert_run(name: &str, arguments: &[&str]) -> String {
    let (code, out, err) = run(arguments, "");
    let err = if err.is_empty() { String::new() } else { format!("--- standard error\n{err}") };
    let whole = format!("$ testimony {}\n{out}{err}--- exit code {code}\n", arguments.join(" "));
    // It names the document, whose form the operator's tests hold.
    let whole = masked(&whole, "policy_revision  ", "REVISION");
    assert_golden(&repository().join(format!("cli/tests/golden/{name}.txt")), &whole);
    whole
}

/// The text with the rest of each line after `before` replaced.
fn masked(text: &str, before: &str, mask: &str) -> String {
    let line = |line: &str| match line.split_once(before) {
        Some((start, _)) => format!("{start}{before}{mask}\n"),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

const POLICY_TEST: [&str; 4] = ["policy", "test", "-f", "policies.yaml"];

#[test]
fn ev_2_policy_test_shows_the_redacted_record() {
    let arguments = [&POLICY_TEST[..], &["--request", "charge.http", "--pod-labels", "app=payments"]].concat();
    let shown = assert_run("policy-test", &arguments);
    for secret in ["s3cret", "c2lnbmF0dXJl", "DE02120300000000202051", "4111111111111111", "amount=12"] {
        assert!(!shown.contains(secret), "{secret}");
    }
    let json = [&arguments[..], &["-o", "json"]].concat();
    let (code, out, _) = run(&json, "");
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, report["rule"].as_str(), report["level"].as_str()), (0, Some("writes"), Some("Metadata")));
    assert_eq!(report["records"][0]["record"]["actor"], "alice");
    assert_eq!(report["sinks"][0], "siem");
}

#[test]
fn policy_test_tells_what_is_not_recorded_and_what_is_refused() {
    assert_run("policy-test-none", &[&POLICY_TEST[..], &["--request", "probe.http", "--expect", "None"]].concat());
    assert_run("policy-test-refused", &[&POLICY_TEST[..], &["--request", "smuggle.http"]].concat());
    let outbound = ["--request", "charge.http", "--direction", "Outbound", "--port", "443", "--status", "503"];
    assert_run("policy-test-outbound", &[&POLICY_TEST[..], &outbound].concat());
}

#[test]
fn an_expectation_that_does_not_hold_fails() {
    let arguments = [&POLICY_TEST[..], &["--request", "probe.http", "--expect", "Metadata"]].concat();
    let (code, _, err) = run(&arguments, "");
    assert_eq!((code, err.as_str()), (1, "testimony: the level is None, not Metadata\n"));
}

#[test]
fn inject_adds_what_the_webhook_adds() {
    let arguments = [
        "inject",
        "-f",
        "app.yaml",
        "--policies",
        "policies.yaml",
        "--sidecar-image",
        "sidecar:1",
        "--operator-ca",
        "ca.pem",
        "--cluster-uid",
        "uid",
    ];
    let (code, out, err) = run(&arguments, "");
    assert_eq!(code, 0, "{err}");
    // The one random value.
    let id = out.split("testimony.dev/injection-id: ").nth(1).and_then(|rest| rest.lines().next()).expect("an id");
    let id = id.trim_matches('"');
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    let shown = masked(&out.replace(id, "INJECTION-ID"), "testimony.dev/revision: ", "REVISION");
    let shown = masked(&shown, "value: \"{\\\"version", "... DOCUMENT");
    let whole = format!("{shown}--- standard error\n{err}");
    assert_golden(&repository().join("cli/tests/golden/inject.txt"), &whole);
    // What went out comes in again, and stays.
    let again =
        ["inject", "-f", "-", "--policies", "policies.yaml", "--sidecar-image", "sidecar:1", "--operator-ca", "ca.pem"];
    let (code, twice, err) = run(&again, &out);
    assert_eq!((code, twice), (0, out), "{err}");
}

const FLOOR: &str = "
{apiVersion: audit.testimony.dev/v1alpha1, kind: ClusterAuditPolicy, metadata: {name: floor}, spec: {enforcement: Baseline, namespaceSelector: {matchLabels: {tier: prod}}, rules: [{name: charges, match: {pathPrefixes: [/v1/charges]}, level: Metadata}, {name: rest, level: None}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: pay, labels: {tier: prod}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: pay, labels: {testimony.dev/inject: disabled}}, spec: {containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: shop}, spec: {containers: [{name: c, image: i}]}}
";

#[test]
fn inject_and_policy_test_know_policies_of_the_cluster() {
    let inject = ["inject", "-f", "-", "--sidecar-image", "sidecar:1", "--operator-ca", "ca.pem"];
    let (code, out, err) = run(&inject, FLOOR);
    assert_eq!((code, out.matches("name: testimony-sidecar").count()), (0, 1), "{err}");
    let wanted = "testimony: pod/a: sidecar added\n\
                  testimony: pod/b: no sidecar: no policy of namespace shop or of the cluster selects it\n";
    assert_eq!(err, wanted);

    let test = ["policy", "test", "-f", "-", "--request", "charge.http", "--pod-labels", "app=a"];
    let judged = |namespace: &str| {
        let (code, out, err) = run(&[&test[..], &["-o", "json", "-n", namespace]].concat(), FLOOR);
        assert_eq!(code, 0, "{err}");
        let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        (report["policy"].clone(), report["rule"].clone())
    };
    assert_eq!(judged("pay"), ("floor".into(), "charges".into()));
    assert_eq!(judged("shop"), (serde_json::Value::Null, serde_json::Value::Null));
    let wrong = FLOOR.replace("tier: prod}}, rules", "tier: prod}}, exclusions: [{namespaces: [x]}], rules");
    let (code, _, err) = run(&test, &wrong);
    assert!(code != 0 && err.contains("spec.exclusions[0].reason: is missing"), "{err}");
}

#[test]
fn tail_shows_a_file() {
    assert_run("tail", &["tail", "-f", "logs.jsonl"]);
    assert_run("tail-wide", &["tail", "-f", "logs.jsonl", "-o", "wide", "-n", "payments"]);
    let (_, out, _) = run(&["tail", "-f", "logs.jsonl", "-o", "json", "--correlation", "order-7"], "");
    let entry: serde_json::Value = serde_json::from_str(&out).expect("one line of JSON");
    assert_eq!((entry["pod"].as_str(), entry["record"]["actor"].as_str()), (Some("api-1"), Some("alice")));
}

#[test]
fn tail_filters() {
    let table: [(&[&str], &[&str]); 9] = [
        (&["--status", "4xx"], &["bob"]),
        (&["--status", "201,500-599"], &["alice", "carol"]),
        (&["--method", "post"], &["alice"]),
        (&["--path", "/v1/charges/"], &["bob"]),
        (&["--actor", "car*"], &["carol"]),
        (&["--pod", "api-*", "--limit", "1"], &["alice"]),
        (&["--since", "2023-11-14T22:13:22Z", "--method", "GET"], &["carol"]),
        (&["--trace", "00000000000000000000000000000001"], &["bob"]),
        (&["--namespace", "shop", "--path", "/"], &["carol"]),
    ];
    for (filter, actors) in table {
        let (code, out, err) = run(&[&["tail", "-f", "logs.jsonl"][..], filter].concat(), "");
        assert_eq!((code, out.lines().count()), (0, actors.len()), "{filter:?}: {out}{err}");
        assert!(actors.iter().zip(out.lines()).all(|(actor, line)| line.contains(actor)), "{filter:?}: {out}");
    }
}

#[test]
fn tail_follows_what_is_appended() {
    let path = std::env::temp_dir().join(format!("testimony-tail-{}.jsonl", std::process::id()));
    let lines = std::fs::read_to_string(repository().join("cli/tests/fixtures/logs.jsonl")).expect("the fixture");
    let (first, second) = lines.split_once('\n').expect("two lines");
    std::fs::write(&path, format!("{first}\n")).expect("write");
    let mut child = Command::new(env!("CARGO_BIN_EXE_testimony"))
        .args(["tail", "--follow", "--limit", "3", "-f"])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut out = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    let mut next = || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
        line
    };
    assert!(next().contains("alice") && next().contains("bob"));
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("open");
    file.write_all(second.as_bytes()).expect("append");
    assert!(next().contains("carol"));
    assert!(child.wait().expect("it ends by its limit").success());
    std::fs::remove_file(&path).expect("remove");
}

#[test]
fn errors_name_the_fix() {
    let table: [(&[&str], i32, &str); 9] = [
        (
            &["policy", "test", "-f", "absent.yaml", "--request", "probe.http"],
            1,
            "testimony: absent.yaml: No such file",
        ),
        (&["policy", "test", "-f", "app.yaml", "--request", "probe.http"], 1, "the files hold no AuditPolicy"),
        (&["policy", "test", "-f", "policies.yaml", "--request", "app.yaml"], 1, "write it as `GET /path HTTP/1.1`"),
        (
            &["policy", "test", "-f", "policies.yaml", "--request", "probe.http", "--expect", "All"],
            1,
            "--expect \"All\"",
        ),
        (&["tail", "-f", "app.yaml"], 1, "app.yaml: line 1 is no OTLP in JSON: set `format: json`"),
        (&["tail", "--status", "ok"], 2, "write 404, 4xx or 500-599"),
        (&["explain", "x"], 1, "write pod/NAME or deployment/NAME"),
        (&["check", "--kubeconfig", "absent"], 1, "--kubeconfig absent"),
        (&["inject", "-f", "app.yaml", "--sidecar-image", "i"], 2, "--operator-ca"),
    ];
    for (arguments, code, expected) in table {
        let (got, out, err) = run(arguments, "");
        assert_eq!((got, out.as_str()), (code, ""), "{arguments:?}: {err}");
        assert!(err.contains(expected), "{arguments:?}: {err}");
    }
}

/// Exit code and standard error, where the reader of the output has gone.
fn run_unread(arguments: &[&str], input: &str) -> (i32, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_testimony"))
        .args(arguments)
        .current_dir(repository().join("cli/tests/fixtures"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    (output.status.code().expect("no signal"), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_reader_that_goes_is_no_error() {
    let lines = std::fs::read_to_string(repository().join("cli/tests/fixtures/logs.jsonl")).expect("the fixture");
    assert_eq!(run_unread(&["tail", "-f", "-"], &lines), (0, String::new()));
    assert_eq!(run_unread(&["completions", "bash"], ""), (0, String::new()));
}

/// A golden stream of core, its bodies only, and the name of its stream.
fn export() -> (String, String) {
    let path = repository().join("core/tests/vectors/evidence/rotation.jsonl");
    let text = std::fs::read_to_string(path).expect("golden streams");
    let body = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["body"].clone();
    let record = |body| serde_json::json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": body}}]}]}]});
    let first: serde_json::Value =
        serde_json::from_str(text.lines().next().map(body).expect("a record").as_str().expect("text")).expect("JSON");
    let lines = text.lines().map(|line| format!("{}\n", record(body(line)))).collect();
    (lines, first["sid"].as_str().expect("a stream").to_owned())
}

#[test]
fn v1_a_reader_that_goes_changes_no_verdict() {
    let (export, sid) = export();
    let altered = export.replacen("\\\"seq\\\":\\\"1\\\"", "\\\"seq\\\":\\\"1\\\",\\\"sia\\\":\\\"1\\\"", 1);
    assert_ne!(altered, export);
    let (code, proof, err) = run(&["prove", "-", "--record", &format!("{sid}:1")], &export);
    assert_eq!(code, 0, "{err}");
    let edited = proof.replacen("index 1", "index 2", 1);
    for (arguments, input, wanted) in [
        (&["verify", "-"][..], &altered, 1),
        (&["verify", "-", "-o", "json"], &altered, 1),
        (&["verify", "--proof", "-"], &edited, 1),
        (&["verify", "--proof", "-", "-o", "json"], &edited, 1),
        (&["verify", "--proof", "-"], &proof, 3),
        (&["verify", "-"], &String::new(), 65),
    ] {
        let (code, out, err) = run(arguments, input);
        assert_eq!(code, wanted, "{arguments:?}: {out}{err}");
        assert_eq!(run_unread(arguments, input), (wanted, err), "{arguments:?}");
    }
    let test = [&POLICY_TEST[..], &["--request", "probe.http", "--expect", "Metadata"]].concat();
    assert_eq!(run_unread(&test, "").0, 1);
}

#[test]
fn the_version_and_completions_are_printed() {
    let (code, out, _) = run(&["--version"], "");
    assert_eq!((code, out.as_str()), (0, concat!("testimony ", env!("CARGO_PKG_VERSION"), "\n")));
    for (shell, mark) in
        [("bash", "complete -F _testimony"), ("zsh", "#compdef testimony"), ("fish", "complete -c testimony")]
    {
        let (code, out, _) = run(&["completions", shell], "");
        assert!(code == 0 && out.contains(mark), "{shell}");
    }
}

#[test]
fn the_page_of_the_command_is_its_help() {
    assert_golden(&repository().join("docs/reference/cli.md"), &testimony_cli::reference::markdown());
}

//! `testimony` against the cluster: what it says is what the cluster does.

use crate::harness::{
    POD_READY_SECONDS_MAX, RECORD_SECONDS_MAX, Space, cluster, eventually, init_containers, marker, single,
};
use crate::objects::{audited, policy, revision, text};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use testimony_e2e::stages::CLI_ENV;
use testimony_e2e::steps::output_with_input;

/// The program, which `cargo xtask test` has built.
fn testimony() -> Command {
    // Without it, where cargo puts it: beside the folder of this test's own program.
    let built = || {
        let own = std::env::current_exe().expect("this program has a path");
        own.parent().and_then(Path::parent).expect("a folder").join("testimony")
    };
    let program = std::env::var_os(CLI_ENV).map_or_else(built, PathBuf::from);
    assert!(program.is_file(), "{} is missing: cargo build -p testimony-cli", program.display());
    let mut command = Command::new(program);
    command.arg("--kubeconfig").arg(cluster().kubectl.kubeconfig());
    command
}

/// Exit code and standard output.
pub fn run(arguments: &[&str]) -> Result<(i32, String)> {
    let output = testimony().args(arguments).output().context("testimony")?;
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    Ok((output.status.code().context("a signal")?, String::from_utf8(output.stdout)?))
}

pub fn run_json(arguments: &[&str]) -> Result<(i32, Value)> {
    let (code, out) = run(&[arguments, &["-o", "json"]].concat())?;
    let value = serde_json::from_str(&out).with_context(|| format!("{arguments:?}: {code}: {out}"))?;
    Ok((code, value))
}

#[test]
fn check_finds_the_installation_in_order() -> Result<()> {
    let (code, findings) = run_json(&["check"])?;
    let findings = findings.as_array().context("a list")?;
    // Other tests' policies and sinks are in trouble on purpose: what belongs to the installation must be in order.
    let installation = [
        "kubernetes-version",
        "node-kernel",
        "node-kubelet",
        "operator-ready",
        "webhook-certificate",
        "webhook-endpoints",
        "policy-endpoints",
        "leader",
        "crd-version",
    ];
    for id in installation {
        let of: Vec<&Value> = findings.iter().filter(|finding| text(finding, "/id") == id).collect();
        ensure!(of.len() == 1 && text(of[0], "/severity") == "ok", "{id}: {of:#?}");
    }
    let worst = |word: &str| findings.iter().any(|finding| text(finding, "/severity") == word);
    let expected = if worst("error") { 2 } else { i32::from(worst("warning")) };
    assert_eq!(code, expected, "{findings:#?}");
    assert!(
        findings
            .iter()
            .all(|f| text(f, "/severity") == "ok" || text(f, "/severity") == "info" || !text(f, "/fix").is_empty())
    );
    let (_, before) = run(&["check", "--pre", "-v"])?;
    assert!(before.contains("ok      install-rights: you may install"), "{before}");
    Ok(())
}

#[test]
fn explain_agrees_with_the_webhook_and_the_status() -> Result<()> {
    let space = Space::new("explain")?;
    space.toolbox("early", "{app: server}")?;
    space.policy("audit", "{podSelector: {matchLabels: {app: server}}, rules: [{name: probes, match: {pathPrefixes: [/status]}, level: None}]}")?;
    space.httpbin("server")?;
    let server =
        single(space.pods("server")?.into_iter().filter(|pod| text(pod, "/metadata/name") != "early").collect())?;
    let name = format!("pod/{}", text(&server, "/metadata/name"));
    let wanted = revision(&crate::objects::policy_when(&space, "audit", "to tell its revision", 60, |p| {
        !revision(p).is_empty()
    })?);
    let (code, shown) = run_json(&["explain", &name, "-n", &space.name])?;
    assert_eq!((code, text(&shown, "/state").as_str()), (0, "Recorded"), "{shown:#}");
    assert_eq!(text(&shown, "/revision"), wanted, "{shown:#}");
    assert_eq!(text(&shown, "/policies/0/rules/0/name"), "probes", "{shown:#}");
    // It polls within seconds, and is asked over a forwarded port.
    eventually("the sidecar to say its revision", RECORD_SECONDS_MAX, || {
        let (_, shown) = run_json(&["explain", &name, "-n", &space.name])?;
        Ok(text(&shown, "/sidecar/revision") == wanted)
    })?;

    let (_, early) = run_json(&["explain", "pod/early", "-n", &space.name])?;
    assert_eq!(text(&early, "/state"), "NeedsRestart", "{early:#}");
    let (_, deployment) = run_json(&["explain", "deployment/server", "-n", &space.name])?;
    assert!(text(&deployment, "/fix").starts_with("kubectl rollout restart deployment/server"), "{deployment:#}");
    assert_eq!(run(&["explain", "pod/absent", "-n", &space.name])?, (1, String::new()));

    let (code, status) = run(&["status", "-n", &space.name])?;
    let line = status.lines().find(|line| line.contains("/audit")).context("no line of the policy")?;
    assert!(code == 0 && line.starts_with(&space.name), "{status}");
    assert!(status.contains("testimony-webhook") && status.contains("leader: testimony-controller"), "{status}");
    Ok(())
}

/// Lines of a program, read by a thread, so that waiting for one has a deadline.
struct Tail {
    child: Child,
    lines: Receiver<String>,
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Tail {
    fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = testimony().args(arguments).stdout(Stdio::piped()).spawn().context("testimony")?;
        let out = BufReader::new(child.stdout.take().context("a pipe")?);
        let (sender, lines) = channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Ok(Self { child, lines })
    }

    /// The first line that holds `text` while `again` runs every second.
    fn line_with(&self, text: &str, mut again: impl FnMut() -> Result<()>) -> Result<String> {
        let end = Instant::now() + Duration::from_secs(RECORD_SECONDS_MAX);
        while Instant::now() < end {
            again()?;
            let second = Instant::now() + Duration::from_secs(1);
            while let Ok(line) = self.lines.recv_timeout(second.saturating_duration_since(Instant::now())) {
                if line.contains(text) {
                    return Ok(line);
                }
            }
        }
        anyhow::bail!("no line with {text:?} in {RECORD_SECONDS_MAX} s")
    }
}

#[test]
fn ev_2_tail_shows_a_request_live_and_nobody_else_may_look() -> Result<()> {
    let space = audited("tail", "rules: []")?;
    let tail = Tail::start(&["tail", "-n", &space.name, "--method", "PUT", "-o", "json"])?;
    let wanted = marker();
    let url = format!("http://server:8080/anything/{wanted}?token=s3cret");
    // The stream begins when the port is forwarded: a request before that is not shown.
    let line = tail.line_with(&wanted, || {
        space
            .sh("client", &format!("curl -sS -o /dev/null -X GET '{url}'; curl -sS -o /dev/null -X PUT '{url}'"))
            .map(|_| ())
    })?;
    let entry: Value = serde_json::from_str(&line)?;
    assert_eq!(text(&entry, "/namespace"), space.name);
    assert_eq!(text(&entry, "/record/method"), "PUT", "{entry:#}");
    assert_eq!(text(&entry, "/record/dir"), "inbound", "{entry:#}");
    assert!(!line.contains("s3cret"), "{line}");

    let ip = text(&single(space.pods("server")?)?, "/status/podIP");
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip };
    let status = format!("curl -sS -o /dev/null -w '%{{http_code}}' --max-time 10 http://{host}:24803/tail");
    assert_eq!(space.sh("client", &status)?, "403");
    Ok(())
}

#[test]
fn an_injected_manifest_runs_as_an_admitted_pod_does() -> Result<()> {
    let space = Space::new("byhand")?;
    space.policy("audit", "{}")?;
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: one, labels: {app: one}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
               containers:\n  - {name: toolbox, image: \"{{image:toolbox}}\"}\n";
    let pod = cluster().fill(pod)?;
    let injected = output_with_input(testimony().args(["inject", "-f", "-", "-n", &space.name]), pod.as_bytes())?;
    space.apply(&injected)?;
    let ready = format!("--timeout={POD_READY_SECONDS_MAX}s");
    cluster().kubectl.run(&["wait", "-n", &space.name, "pod", "one", "--for=condition=Ready", &ready])?;
    let by_hand = cluster().kubectl.get(&space.name, &["pod", "one"])?;
    assert_eq!(init_containers(&by_hand), ["testimony-init", "testimony-sidecar"]);
    // Its sidecar polls as every other does.
    crate::objects::in_force(&space, "audit", 1)?;
    assert!(!revision(&policy(&space, "audit")?).is_empty());
    space.toolbox("two", "{app: one}")?;
    let admitted = cluster().kubectl.get(&space.name, &["pod", "two"])?;
    let spec = |pod: &Value, field: &str| pod.pointer(&format!("/spec/initContainers/1/{field}")).cloned();
    for field in ["image", "args", "resources", "securityContext", "volumeMounts", "startupProbe"] {
        assert_eq!(spec(&by_hand, field), spec(&admitted, field), "{field}");
    }
    Ok(())
}

/// Sends a request as it stands from the client to the server, which closes the connection after it; the whole response.
fn raw_exchange(space: &Space, request: &str) -> Result<String> {
    // The client keeps its side open, as most do.
    let script = "rm -f /tmp/open; mkfifo /tmp/open; exec 3<>/tmp/open; printf %s \"$0\" >&3; nc server 8080 <&3";
    cluster().kubectl.exec(&space.name, "client", "toolbox", &["sh", "-c", script, request])
}

/// What `testimony policy test` says of an exchange with the server, by the policy and the sink of the cluster.
fn policy_test(space: &Space, request: &str, response: &str) -> Result<Value> {
    let folder = std::env::temp_dir().join(format!("testimony-{}", space.name));
    std::fs::create_dir_all(&folder)?;
    let sink = cluster().kubectl.get("default", &["auditsink", "default"])?.to_string();
    let policy = policy(space, "audit")?.to_string();
    let mut arguments = vec!["policy".to_string(), "test".into(), "--pod-labels".into(), "app=server".into()];
    for (option, name, text) in [
        ("--filename", "policy.json", policy.as_str()),
        ("--filename", "sink.json", sink.as_str()),
        ("--request", "request", request),
        ("--response", "response", response),
    ] {
        std::fs::write(folder.join(name), text)?;
        arguments.extend([option.to_string(), folder.join(name).to_str().context("a path in UTF-8")?.to_string()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["-n", &space.name]).collect();
    let said = run_json(&arguments);
    let _ = std::fs::remove_dir_all(&folder);
    let (code, said) = said?;
    ensure!(code == 0, "{code}: {said:#}");
    Ok(said)
}

/// Whether a field belongs to one connection, its moment or its place in a stream, and not to what was asked and answered.
fn is_of_one_time(field: &str) -> bool {
    const FIELDS: [&str; 11] =
        ["conn_id", "dur", "id", "local", "prev", "seq", "sid", "t0", "t1", "upstream_local", "xid"];
    field.starts_with("peer") || FIELDS.contains(&field)
}

#[test]
fn ev_2_policy_test_says_what_a_sidecar_records() -> Result<()> {
    let space = audited(
        "dry",
        "rules: [{name: quiet, match: {methods: [DELETE]}, level: None}, {name: posts, match: {methods: [POST]}, \
         level: Metadata}], redact: {headers: [accept], query: [page]}",
    )?;
    let wanted = marker();
    let request = |method: &str| {
        format!(
            "{method} /anything/{wanted}?token=s3cret&page=2 HTTP/1.1\r\nHost: server:8080\r\nUser-Agent: e2e\r\n\
             Authorization: Basic YWxpY2U6czNjcmV0\r\nCookie: session=s3cret\r\nAccept: text/s3cret\r\n\
             X-Request-Id: r-1\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
             Content-Length: 6\r\nConnection: close\r\n\r\ns3cret"
        )
    };
    let (delete, post) = (request("DELETE"), request("POST"));
    let (deleted, posted) = (raw_exchange(&space, &delete)?, raw_exchange(&space, &post)?);
    // The sidecar sends in order: had the first request a record, it would be there as well.
    let records = space.records_when("the record", |records| records.iter().any(|r| r.body.contains(&wanted)))?;
    let record = single(records.into_iter().filter(|record| record.body.contains(&wanted)).collect())?;

    let said = policy_test(&space, &delete, &deleted)?;
    assert_eq!((text(&said, "/level").as_str(), text(&said, "/rule").as_str()), ("None", "quiet"), "{said:#}");
    assert_eq!(said["records"], serde_json::json!([]), "{said:#}");
    let said = policy_test(&space, &post, &posted)?;
    assert_eq!((text(&said, "/level").as_str(), text(&said, "/rule").as_str()), ("Metadata", "posts"), "{said:#}");
    assert_eq!(said["records"].as_array().map(Vec::len), Some(1), "{said:#}");
    assert_eq!(text(&said, "/records/0/event"), record.event);
    let mut told: BTreeMap<String, String> = serde_json::from_value(said["records"][0]["record"].clone())?;
    let mut recorded = record.fields();
    told.retain(|field, _| !is_of_one_time(field));
    recorded.retain(|field, _| !is_of_one_time(field));
    assert_eq!(told, recorded);
    // What is equal is not empty, and hides what it must.
    for (field, value) in [("rule", "posts"), ("query", "token=*&*=*"), ("actor", "alice"), ("method", "POST")] {
        assert_eq!(told.get(field).map(String::as_str), Some(value), "{told:#?}");
    }
    ensure!(!record.body.contains("s3cret") && !told.values().any(|value| value.contains("s3cret")), "{record:#?}");
    Ok(())
}

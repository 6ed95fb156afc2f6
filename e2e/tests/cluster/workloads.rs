//! Kinds of workloads, how they start and end, and what a dying worker does to them.

use crate::harness::{POD_READY_SECONDS_MAX, RECORD_SECONDS_MAX, Space, cluster, eventually, marker, single};
use crate::pods::{AUDITED_PODS, EVERY_POD, INJECTED, is_injected, sidecar_end, text};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use testimony_e2e::records::{AuditRecord, GAP, TCP_CLOSE};

/// How long requests may take to succeed again after a death of the worker, in seconds.
const DEATHS_SECONDS_MAX: u64 = 60;
const DEATHS: usize = 5;
/// Clients that send one request after another meanwhile, each on a connection of its own.
const CLIENTS: usize = 3;
/// Status and curl's exit code of a request that was answered.
const SUCCESS: &str = "200 0";

fn with_path<'a>(records: &'a [AuditRecord], text: &'a str) -> impl Iterator<Item = &'a AuditRecord> {
    records.iter().filter(move |record| record.attribute("url.path").contains(text))
}

#[test]
fn a_job_with_a_sidecar_completes_and_what_it_did_is_recorded() -> Result<()> {
    let space = Space::new("job")?;
    space.policy("jobs", "{podSelector: {matchLabels: {app: report}}}")?;
    space.httpbin("origin")?;
    let wanted = marker();
    space.apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: report}}\nspec:\n  backoffLimit: 0\n  template:\n    \
         metadata: {{labels: {{app: report}}}}\n    spec:\n      restartPolicy: Never\n      containers:\n      - name: work\n        \
         image: \"{{{{image:toolbox}}}}\"\n        command: [curl, -sSf, -o, /dev/null, \"http://origin:8080/anything/{wanted}\"]\n"
    ))?;
    let timeout = format!("--timeout={POD_READY_SECONDS_MAX}s");
    cluster().kubectl.run(&["wait", "-n", &space.name, "job/report", "--for=condition=Complete", &timeout])?;
    let pod = single(space.pods("report")?)?;
    assert!(is_injected(&pod), "{pod:#}");
    assert_eq!(text(&pod, "/status/phase"), "Succeeded");
    let end = sidecar_end(&pod).context("the sidecar has not ended")?;
    assert_eq!(end.get("exitCode").and_then(Value::as_i64), Some(0), "{end:#}");
    // The pod is gone, so all of its records were delivered before.
    let records = space.records_when("the Job's record", |records| with_path(records, &wanted).next().is_some())?;
    let record = single(with_path(&records, &wanted).collect())?;
    assert_eq!((record.direction(), record.status()), ("outbound", Some(200)));
    assert_eq!(record.resource("k8s.job.name"), "report");
    assert_eq!(record.actor(), format!("system:serviceaccount:{}:default", space.name));
    Ok(())
}

#[test]
fn the_pods_of_a_stateful_set_talk_by_name_and_one_that_is_replaced_is_audited_again() -> Result<()> {
    let space = Space::new("set")?;
    space.policy("all", EVERY_POD)?;
    space.apply(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: peer}\nspec:\n  serviceName: peer\n  replicas: 2\n  \
         podManagementPolicy: Parallel\n  selector: {matchLabels: {app: peer}}\n  template:\n    \
         metadata: {labels: {app: peer}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      containers:\n      \
         - {name: toolbox, image: \"{{image:toolbox}}\"}\n      \
         - {name: server, image: \"{{image:go-httpbin}}\", args: [-host, \"0.0.0.0\", -port, \"8080\"], \
            readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: peer}\nspec: {clusterIP: None, publishNotReadyAddresses: true, \
         selector: {app: peer}, ports: [{port: 8080}]}\n",
    )?;
    cluster().kubectl.rollout(&space.name, "statefulset/peer")?;
    let ask =
        |wanted: &str| space.sh("peer-1", &format!("curl -sSf -o /dev/null http://peer-0.peer:8080/anything/{wanted}"));
    let first = marker();
    ask(&first)?;
    let before = space.pod("peer-0")?;
    assert!(is_injected(&before), "{before:#}");

    cluster().kubectl.run(&["delete", "pod", "-n", &space.name, "peer-0"])?;
    cluster().kubectl.rollout(&space.name, "statefulset/peer")?;
    space.ready(&["peer-0"])?;
    let after = space.pod("peer-0")?;
    assert!(is_injected(&after), "{after:#}");
    assert_ne!(text(&before, "/metadata/uid"), text(&after, "/metadata/uid"));
    // The name server answers with the former address for as long as its cache lives.
    let second = marker();
    let address = text(&after, "/status/podIP");
    space.sh(
        "peer-1",
        &format!(
            "curl -sSf -o /dev/null --resolve peer-0.peer:8080:{address} http://peer-0.peer:8080/anything/{second}"
        ),
    )?;

    for wanted in [&first, &second] {
        let records = space.records_when("both sides' records", |records| with_path(records, wanted).count() >= 2)?;
        let (inbound, outbound): (Vec<_>, Vec<_>) = with_path(&records, wanted).partition(|record| record.is_inbound());
        let (inbound, outbound) = (single(inbound)?, single(outbound)?);
        assert_eq!((inbound.pod(), outbound.pod()), ("peer-0", "peer-1"));
        assert_eq!(inbound.resource("k8s.statefulset.name"), "peer");
        assert!(outbound.pairs_with(inbound), "{outbound:#?}\n{inbound:#?}");
    }
    Ok(())
}

#[test]
fn an_init_container_that_uses_the_network_works_and_is_recorded() -> Result<()> {
    let space = Space::new("init")?;
    space.policy("all", AUDITED_PODS)?;
    space.httpbin("origin")?;
    let wanted = marker();
    space.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: app, labels: {{audited: \"yes\"}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  initContainers:\n  - name: fetch\n    image: \"{{{{image:toolbox}}}}\"\n    \
         command: [curl, -sSf, -o, /dev/null, \"http://origin:8080/anything/{wanted}\"]\n  \
         containers:\n  - {{name: toolbox, image: \"{{{{image:toolbox}}}}\"}}\n"
    ))?;
    space.ready(&["app"])?;
    let pod = space.pod("app")?;
    assert_eq!(crate::harness::init_containers(&pod), [INJECTED[0], INJECTED[1], "fetch"]);
    let records =
        space.records_when("the init container's record", |records| with_path(records, &wanted).count() > 0)?;
    let record = single(with_path(&records, &wanted).collect())?;
    assert_eq!((record.direction(), record.status(), record.pod()), ("outbound", Some(200), "app"));
    Ok(())
}

/// A pod with one server on its own address and one on localhost.
fn two_listeners(name: &str, audited: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{audited: \"{audited}\"}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: toolbox\n    image: \"{{{{image:toolbox}}}}\"\n    \
         command: [sh, -c, \"echo here > /tmp/index.html; httpd -p $POD_IP:8080 -h /tmp; exec httpd -f -p 127.0.0.1:8081 -h /tmp\"]\n    \
         env: [{{name: POD_IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}]\n    \
         readinessProbe: {{exec: {{command: [curl, -sf, \"http://127.0.0.1:8081/\"]}}, periodSeconds: 1}}\n---\n"
    )
}

#[test]
fn listeners_on_the_pod_ip_and_on_localhost_are_reached_as_without_a_sidecar() -> Result<()> {
    let space = Space::new("listen")?;
    space.policy("audited", AUDITED_PODS)?;
    space.apply(&format!("{}{}", two_listeners("plain", "no"), two_listeners("audited", "yes")))?;
    space.toolbox("client", "{app: client}")?;
    space.ready(&["plain", "audited"])?;
    assert!(is_injected(&space.pod("audited")?) && !is_injected(&space.pod("plain")?));
    for name in ["plain", "audited"] {
        let address = text(&space.pod(name)?, "/status/podIP").to_string();
        let reaches = |from: &str, url: &str| -> Result<bool> {
            let answer = space.sh(from, &format!("curl -s --max-time 10 {url} || true"))?;
            Ok(answer == "here\n")
        };
        let from_outside = (
            reaches("client", &format!("http://{address}:8080/"))?,
            reaches("client", &format!("http://{address}:8081/"))?,
        );
        assert_eq!(from_outside, (true, false), "{name}: pod IP and localhost from outside");
        let own_address =
            (reaches(name, &format!("http://{address}:8080/"))?, reaches(name, &format!("http://{address}:8081/"))?);
        assert_eq!(own_address, (true, false), "{name}: pod IP and localhost by the pod's own address");
        let loopback = (reaches(name, "http://127.0.0.1:8080/")?, reaches(name, "http://127.0.0.1:8081/")?);
        assert_eq!(loopback, (false, true), "{name}: pod IP and localhost by localhost");
    }
    Ok(())
}

/// Keeps a pod's object after its end, until the test has looked at it.
struct Kept<'a> {
    space: &'a Space,
    pod: &'static str,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        let release = "{\"metadata\": {\"finalizers\": null}}";
        let arguments = ["patch", "pod", "-n", &self.space.name, self.pod, "--type=merge", "-p", release];
        if let Err(error) = cluster().kubectl.run(&arguments) {
            eprintln!("the finalizer of {} was not removed: {error:#}", self.pod);
        }
    }
}

/// Deletes the pod and returns when its grace period ends.
fn delete(space: &Space, name: &str) -> Result<String> {
    cluster().kubectl.run(&["delete", "pod", "-n", &space.name, name, "--wait=false"])?;
    // At the very end the kubelet moves this time to its own now, so it is read at once.
    Ok(text(&space.pod(name)?, "/metadata/deletionTimestamp").to_string())
}

/// Waits until the pod's containers have ended, the sidecar with exit code 0. Returns when the sidecar ended and when the
/// application did: times of one form, in UTC, to the second.
fn expect_a_good_end(space: &Space, name: &str) -> Result<(String, String)> {
    let application = |pod: &Value| pod.pointer("/status/containerStatuses/0/state/terminated").cloned();
    eventually("the containers to end", POD_READY_SECONDS_MAX, || {
        let pod = space.pod(name)?;
        Ok(sidecar_end(&pod).is_some() && application(&pod).is_some())
    })?;
    let pod = space.pod(name)?;
    let end = sidecar_end(&pod).context("the sidecar has not ended")?;
    assert_eq!(end.get("exitCode").and_then(Value::as_i64), Some(0), "{end:#}");
    let application = application(&pod).context("the application has not ended")?;
    Ok((text(end, "/finishedAt").to_string(), text(&application, "/finishedAt").to_string()))
}

#[test]
fn a_sidecar_outlives_an_application_that_ignores_its_end_and_still_exits_with_0() -> Result<()> {
    let space = Space::new("stubborn")?;
    space.policy("servers", AUDITED_PODS)?;
    // A shell that is process 1 and sets no trap ignores SIGTERM.
    space.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: server, labels: {app: server, audited: \"yes\"}, \
         finalizers: [e2e.testimony.dev/keep]}\nspec:\n  terminationGracePeriodSeconds: 3\n  containers:\n  \
         - {name: toolbox, image: \"{{image:toolbox}}\", command: [sh, -c, \"nc -ll -p 7000 -e cat; :\"], \
            readinessProbe: {tcpSocket: {port: 7000}, periodSeconds: 1}}\n",
    )?;
    let _kept = Kept { space: &space, pod: "server" };
    space.toolbox("client", "{app: client}")?;
    space.ready(&["server"])?;
    let address = text(&space.pod("server")?, "/status/podIP").to_string();
    // A connection that stays open until the application is killed.
    let mut connection = space.start("client", "toolbox", &format!("nc {address} 7000"))?;
    connection.say("hello")?;
    let mut echo = [0_u8; 6];
    connection.read_exact(&mut echo)?;
    assert_eq!(&echo, b"hello\n");
    delete(&space, "server")?;
    // Which of the two ended first cannot be told by their times: they are whole seconds, and the runtime notes the
    // application's end after its sockets have closed, which is what the sidecar waits for. The record tells.
    expect_a_good_end(&space, "server")?;
    let pod = space.pod("server")?;
    let killed = pod.pointer("/status/containerStatuses/0/state/terminated/exitCode").and_then(Value::as_i64);
    assert_eq!(killed, Some(137), "the application was killed at the end of its time");
    let closed = |record: &AuditRecord| record.event == TCP_CLOSE && record.is_inbound();
    let records = space.records_when("the connection's record", |records| records.iter().any(closed))?;
    let record = single(records.iter().filter(|record| closed(record)).collect())?;
    assert_eq!((record.field("req_bytes"), record.field("res_bytes")), ("6".to_string(), "6".to_string()));
    assert_ne!(record.field("cause"), "drained", "the sidecar outlived the connection: {record:?}");
    Ok(())
}

#[test]
fn a_deleted_pod_answers_what_it_began_and_ends_in_time_with_exit_code_0() -> Result<()> {
    let space = Space::new("end")?;
    space.policy("servers", AUDITED_PODS)?;
    space.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: server, labels: {app: server, audited: \"yes\"}, \
         finalizers: [e2e.testimony.dev/keep]}\nspec:\n  terminationGracePeriodSeconds: 10\n  containers:\n  \
         - {name: server, image: \"{{image:go-httpbin}}\", args: [-host, \"0.0.0.0\", -port, \"8080\"], \
            readinessProbe: {httpGet: {path: /status/200, port: 8080}, periodSeconds: 1}}\n",
    )?;
    let _kept = Kept { space: &space, pod: "server" };
    space.toolbox("client", "{app: client}")?;
    space.ready(&["server"])?;
    let address = text(&space.pod("server")?, "/status/podIP").to_string();
    let url = format!("http://{address}:8080/drip?duration=3&numbytes=10&delay=0");
    let mut answer = space.start("client", "toolbox", &format!("curl -sSfN '{url}'"))?;
    let mut body = vec![0_u8; 1];
    answer.read_exact(&mut body)?;
    // The answer has begun; the pod must finish it.
    let deadline = delete(&space, "server")?;
    body.extend(answer.finish()?);
    assert_eq!(String::from_utf8_lossy(&body), "**********");

    let (sidecar, application) = expect_a_good_end(&space, "server")?;
    ensure!(
        application <= sidecar && sidecar < deadline,
        "{application}, {sidecar}, the grace period ends at {deadline}"
    );
    let records =
        space.records_when("the record of what it began", |records| with_path(records, "/drip").count() > 0)?;
    let record = single(with_path(&records, "/drip").collect())?;
    assert_eq!((record.status(), record.attribute("audit.outcome")), (Some(200), "success"));
    Ok(())
}

#[test]
fn px_2_a_worker_that_is_killed_five_times_in_a_row_refuses_no_new_connection() -> Result<()> {
    let space = Space::new("deaths")?;
    space.policy("servers", "{podSelector: {matchLabels: {app: server}}}")?;
    space.httpbin("server")?;
    space.toolbox("client", "{app: client}")?;
    let pod = single(space.pods("server")?)?;
    let (pod, address) = (text(&pod, "/metadata/name"), text(&pod, "/status/podIP"));
    space.debug_sidecar(pod)?;
    let one = format!(
        "curl -s -o /dev/null --max-time 30 -w '%{{http_code}} %{{exitcode}}\\n' http://{address}:8080/status/200"
    );
    let each = format!("while test ! -e /tmp/end; do {one}; done");
    let script = format!("for client in $(seq {CLIENTS}); do {each} & done; wait");
    let mut requests = space.start("client", "toolbox", &script)?;
    let (sender, receiver) = channel();
    let lines = requests.take_lines()?;
    let reader = std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)).is_ok());
    let mut results = Vec::new();
    // Every client's first result afterwards may be of a request that had begun before.
    let mut succeed_again = |what: &str| -> Result<()> {
        results.extend(receiver.try_iter());
        let (mut successes, deadline) = (0, Instant::now() + Duration::from_secs(DEATHS_SECONDS_MAX));
        while successes <= CLIENTS {
            let left = deadline.saturating_duration_since(Instant::now());
            let line: String = receiver.recv_timeout(left).with_context(|| format!("{what}: {results:?}"))?;
            successes += usize::from(line == SUCCESS);
            results.push(line);
        }
        Ok(())
    };
    // The bracket keeps the pattern from matching the shell that looks for it.
    let find = "ps | awk '/[t]estimony-sidecar worker/ {print $1}'";
    let mut killer =
        space.start(pod, "debugger", &format!("while read go; do pid=$({find}); kill -9 $pid; echo $pid; done"))?;
    let mut workers = killer.take_lines()?;
    let mut dead = BTreeSet::new();
    succeed_again("before the first death")?;
    // Open at the first death for sure; of the other clients, none may be between a request's head and its answer.
    let open = format!("curl -sN 'http://{address}:8080/drip?duration=9&numbytes=9&delay=0'");
    let mut open = space.start("client", "toolbox", &open)?;
    open.read_exact(&mut [0])?;
    let started = Instant::now();
    for death in 1..=DEATHS {
        killer.say("kill")?;
        let killed = workers.next().context("the killer has ended")??;
        ensure!(
            killed.parse::<u32>().is_ok() && dead.insert(killed.clone()),
            "not one new worker: {killed:?}, {dead:?}"
        );
        succeed_again(&format!("after death {death}"))?;
    }
    let elapsed = started.elapsed();
    space.sh("client", "touch /tmp/end")?;
    drop((requests, open));
    ensure!(reader.join().is_ok(), "the reader of results");
    // 7: could not connect; 28: no answer in time. What was open at a death breaks: one connection of each client.
    let refused = results.iter().filter(|result| result.ends_with(" 7") || result.ends_with(" 28")).count();
    let broken = results.iter().filter(|result| *result != SUCCESS).count();
    println!(
        "{} requests, {DEATHS} deaths of the worker in {elapsed:.1?}: {broken} broken, {refused} refused",
        results.len()
    );
    assert_eq!(refused, 0, "{results:?}");
    ensure!(broken <= DEATHS * CLIENTS, "more broke than what was open: {results:?}");

    let sidecar = space.pod(pod)?;
    let restarts = sidecar.pointer("/status/initContainerStatuses/1/restartCount").and_then(Value::as_i64);
    assert_eq!(restarts, Some(0), "the container itself lives on: {sidecar:#}");
    let died = |record: &AuditRecord| record.event == GAP && record.attribute("testimony.gap.reason") == "worker_died";
    let records = space.records_when("the gap record", |records| records.iter().any(died))?;
    let gap = records.iter().find(|record| died(record)).context("no gap record")?;
    assert_eq!(gap.pod(), pod, "within {RECORD_SECONDS_MAX} s");
    assert_eq!(with_path(&records, "/drip").count(), 0, "nobody saw its end");
    Ok(())
}

//! A sink that is down, refuses TLS or credentials, or comes late: traffic flows, and status and metric say what is wrong.

use crate::certificates::Authority;
use crate::evidence::{Evidence, findings};
use crate::harness::{OPERATOR_SECONDS_MAX, Space, cluster, eventually, marker, single};
use crate::objects::{SELECT_SERVER, Sink, admin, in_force, metric, text};
use crate::witness::{entries, replace, uid};
use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use testimony_e2e::records::{GAP, HTTP_REQUEST, parse};
use testimony_e2e::steps::output_with_input;

/// Longest pause of a sidecar between two tries, and the time for a try, in seconds.
const RETRY_SECONDS_MAX: u64 = 60;

/// A server whose records go to `sink`, and a client.
pub fn sending_to(space: &Space, sink: &Sink) -> Result<()> {
    space.policy("audit", &format!("{{{SELECT_SERVER}, sinks: [{}]}}", sink.name))?;
    space.httpbin("server")?;
    space.toolbox("client", "{app: client}")?;
    in_force(space, "audit", 1).map(|_| ())
}

/// A request from the client to the server, which must succeed.
pub fn get(space: &Space, path: &str) -> Result<()> {
    let status = format!("curl -sS -o /dev/null -w '%{{http_code}}' --max-time 20 'http://server:8080{path}'");
    assert_eq!(space.sh("client", &status)?, "200", "{path}");
    Ok(())
}

/// Export requests of one result.
fn requests(space: &Space, sink: &Sink, result: &str) -> Result<u64> {
    let name = format!("testimony_export_requests_total{{sink=\"{}\",result=\"{result}\"}}", sink.name);
    metric(space, "client", "server", &name)
}

/// The authority of the API server: real certificates, but not those of the endpoint at hand.
fn cluster_ca(space: &Space) -> Result<String> {
    let mut ca = String::new();
    eventually("the API server's authority", 30, || {
        let map = cluster().kubectl.get(&space.name, &["configmap", "kube-root-ca.crt"])?;
        ca = crate::objects::text(&map, "/data/ca.crt");
        Ok(ca.contains("BEGIN CERTIFICATE"))
    })?;
    Ok(ca)
}

#[test]
fn traffic_flows_while_nothing_listens_and_status_and_metric_say_so() -> Result<()> {
    let space = Space::new("down")?;
    let sink = Sink::new(&space.name, &json!({"endpoint": "http://127.0.0.1:9"}))?;
    sending_to(&space, &sink)?;
    get(&space, "/anything/first")?;
    let told = sink.delivering("False Failing", "1 of 1 sidecars cannot deliver")?;
    assert!(told.to_lowercase().contains("connect") || told.contains("refused"), "{told}");
    get(&space, "/anything/second")?;
    assert!(requests(&space, &sink, "retry")? > 0, "{}", admin(&space, "client", "server", "/metrics")?);
    let waiting = format!("testimony_export_queue_bytes{{sink=\"{}\"}}", sink.name);
    assert!(metric(&space, "client", "server", &waiting)? > 0);
    Ok(())
}

#[test]
fn an_endpoint_with_another_authority_gets_nothing() -> Result<()> {
    let space = Space::new("wrongca")?;
    // The policy server has a certificate of Testimony's own authority.
    let endpoint = "https://testimony-policy.testimony-system.svc:8443";
    let sink = Sink::new(&space.name, &json!({"endpoint": endpoint, "tls": {"caBundle": cluster_ca(&space)?}}))?;
    sending_to(&space, &sink)?;
    get(&space, "/anything/first")?;
    let told = sink.delivering("False Failing", "certificate")?;
    assert!(told.contains("1 of 1"), "{told}");
    get(&space, "/anything/second")?;
    assert!(requests(&space, &sink, "retry")? > 0);
    assert_eq!(requests(&space, &sink, "success")?, 0);
    Ok(())
}

#[test]
fn missing_and_wrong_credentials_park_the_queue_and_right_ones_deliver() -> Result<()> {
    let space = Space::new("login")?;
    // Its answer, a JSON object, counts as a receipt; without the right password it is 401.
    space.httpbin("backend")?;
    let endpoint = format!("http://backend.{}.svc:8080/basic-auth/alice/right", space.name);
    let sink = Sink::new(&space.name, &json!({"endpoint": endpoint, "credentialsSecretName": "sink-login"}))?;
    sending_to(&space, &sink)?;
    get(&space, "/anything/none")?;
    sink.delivering("False Parked", "credentials are missing")?;

    for (password, status, message) in [("wrong", "False Parked", "check the credentials"), ("right", "True", "1 of 1")]
    {
        let login = space.sh("client", &format!("printf 'alice:{password}' | base64 -w0"))?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sink-login"},
            "stringData": {"authorization": format!("Basic {login}")},
        });
        cluster().kubectl.apply_in(&space.name, &secret.to_string())?;
        // The kubelet may take a minute to bring a changed Secret into a running pod.
        cluster().kubectl.run(&["rollout", "restart", "deployment/server", "-n", &space.name])?;
        cluster().kubectl.rollout(&space.name, "deployment/server")?;
        eventually("the old pod to be gone", 60, || Ok(space.pods("server")?.len() == 1))?;
        get(&space, &format!("/anything/{password}"))?;
        sink.delivering(status, message)?;
    }
    assert!(requests(&space, &sink, "success")? > 0);
    Ok(())
}

#[test]
fn ev_1_a_sink_that_comes_late_gets_every_record_once() -> Result<()> {
    const REQUESTS: usize = 25;
    let space = Space::new("late")?;
    let backend = include_str!("../../assets/collector.yaml").replace("observability", &space.name);
    space.apply(&backend.replace("replicas: 1", "replicas: 0"))?;
    let endpoint = format!("http://collector.{}.svc:4318", space.name);
    let sink = Sink::new(&space.name, &json!({"endpoint": endpoint}))?;
    sending_to(&space, &sink)?;
    let wanted = marker();
    let each = format!(
        "for i in $(seq {REQUESTS}); do curl -sS --fail -o /dev/null --max-time 20 http://server:8080/anything/{wanted}/$i || exit 1; done"
    );
    space.sh("client", &each)?;
    sink.delivering("False Failing", "")?;

    cluster().kubectl.run(&["scale", "deployment/collector", "--replicas=1", "-n", &space.name])?;
    cluster().kubectl.rollout(&space.name, "deployment/collector")?;
    let mut times = BTreeMap::new();
    eventually("every record in the late backend", RETRY_SECONDS_MAX, || {
        let read = ["sh", "-c", "cat /data/logs.jsonl"];
        let text = cluster().kubectl.exec(&space.name, "deploy/collector", "collector", &read)?;
        let records = parse(&text)?;
        assert!(records.iter().all(|record| record.event != GAP), "nothing was lost, so no gap: {records:#?}");
        times.clear();
        // Of a slow exchange there are records of its stages as well, and a batch whose answer came too late is sent
        // again, with the same ids.
        let exchanges = records.iter().filter(|record| record.event == HTTP_REQUEST);
        for record in exchanges.filter(|record| record.attribute("url.path").contains(&wanted)) {
            let ids: &mut BTreeSet<String> = times.entry(record.attribute("url.path").to_string()).or_default();
            ids.insert(record.field("id"));
        }
        Ok(times.len() == REQUESTS)
    })?;
    assert!(times.values().all(|ids| ids.len() == 1), "{times:?}");
    sink.delivering("True", "1 of 1")?;
    let lost = format!("testimony_export_lost_records_total{{sink=\"{}\"", sink.name);
    let page = admin(&space, "client", "server", "/metrics")?;
    assert!(page.lines().filter(|line| line.starts_with(&lost)).all(|line| line.ends_with(" 0")), "{page}");
    Ok(())
}

/// The Collector of the demo, in a namespace of the test's own.
pub fn collector(space: &Space) -> Result<()> {
    space.apply(&include_str!("../../assets/collector.yaml").replace("observability", &space.name))?;
    cluster().kubectl.rollout(&space.name, "deployment/collector")
}

/// How many exchanges with each path that holds `wanted` stand in the test's own backend.
pub fn paths(space: &Space, wanted: &str) -> Result<BTreeMap<String, usize>> {
    let read = ["sh", "-c", "cat /data/logs.jsonl"];
    let text = cluster().kubectl.exec(&space.name, "deploy/collector", "collector", &read)?;
    let mut times = BTreeMap::new();
    // Of a slow exchange there may be records of its stages as well.
    let exchanges = parse(&text)?.into_iter().filter(|record| record.event == HTTP_REQUEST);
    for record in exchanges.filter(|record| record.attribute("url.path").contains(wanted)) {
        *times.entry(record.attribute("url.path").to_string()).or_insert(0) += 1;
    }
    Ok(times)
}

#[test]
fn records_go_to_several_sinks_at_once_by_http_and_grpc_and_none_waits_for_another() -> Result<()> {
    const REQUESTS: usize = 20;
    let space = Space::new("several")?;
    collector(&space)?;
    let host = format!("collector.{}.svc", space.name);
    let named = |kind: &str, spec: serde_json::Value| Sink::new(&format!("{}-{kind}", space.name), &spec);
    let http = named("http", json!({"endpoint": format!("http://{host}:4318"), "compression": "Zstd"}))?;
    let grpc = named("grpc", json!({"endpoint": format!("http://{host}:4317"), "protocol": "Grpc"}))?;
    let down = named("down", json!({"endpoint": "http://127.0.0.1:9", "protocol": "Grpc"}))?;
    let names = format!("{}, {}, {}", http.name, grpc.name, down.name);
    space.policy("audit", &format!("{{{SELECT_SERVER}, sinks: [{names}]}}"))?;
    space.httpbin("server")?;
    space.toolbox("client", "{app: client}")?;
    in_force(&space, "audit", 1)?;
    let wanted = marker();
    for number in 0..REQUESTS {
        get(&space, &format!("/anything/{wanted}/{number}"))?;
    }
    let mut times = BTreeMap::new();
    // At least twice: a request whose answer came too late is sent again.
    let arrived = eventually("every record from both sinks", RETRY_SECONDS_MAX, || {
        times = paths(&space, &wanted)?;
        Ok(times.len() == REQUESTS && times.values().all(|count| *count >= 2))
    });
    arrived.with_context(|| {
        let states = admin(&space, "client", "server", "/config").unwrap_or_else(|error| format!("{error:#}"));
        format!("{times:?} {states}")
    })?;
    for sink in [&http, &grpc] {
        sink.delivering("True", "1 of 1")?;
        let delivered = format!("testimony_export_records_total{{sink=\"{}\"}}", sink.name);
        assert!(metric(&space, "client", "server", &delivered)? >= REQUESTS as u64, "{}", sink.name);
    }
    down.delivering("False Failing", "1 of 1 sidecars cannot deliver")?;
    assert_eq!(requests(&space, &down, "success")?, 0);
    Ok(())
}

/// The Collector of the demo, which takes records over TLS alone, from who shows a certificate of this authority.
fn collector_that_asks_for_a_certificate(space: &Space, authority: &Authority) -> Result<()> {
    authority.secret(space, "collector-tls", &[&format!("collector.{}.svc", space.name)])?;
    let tls = "\n            tls: {cert_file: /tls/tls.crt, key_file: /tls/tls.key, client_ca_file: /tls/ca.crt}";
    let mut manifest = include_str!("../../assets/collector.yaml").replace("observability", &space.name);
    for (line, more) in [
        ("endpoint: 0.0.0.0:4317", tls),
        ("endpoint: 0.0.0.0:4318", tls),
        ("- {name: data, mountPath: /data}", "\n        - {name: tls, mountPath: /tls, readOnly: true}"),
        ("- {name: data, emptyDir: {}}", "\n      - {name: tls, secret: {secretName: collector-tls}}"),
    ] {
        ensure!(manifest.contains(line), "the Collector's manifest has no {line:?}");
        manifest = manifest.replace(line, &format!("{line}{more}"));
    }
    space.apply(&manifest)?;
    cluster().kubectl.rollout(&space.name, "deployment/collector")
}

#[test]
fn a_client_certificate_opens_a_sink_that_asks_for_one_and_a_missing_one_parks() -> Result<()> {
    let space = Space::new("mutual")?;
    let authority = Authority::new("sinks")?;
    collector_that_asks_for_a_certificate(&space, &authority)?;
    authority.secret(&space, "sink-client", &["sidecar.example"])?;
    let sink = |kind: &str, port: u16, protocol: &str, secret: Option<&str>| {
        let endpoint = format!("https://collector.{}.svc:{port}", space.name);
        let tls = json!({"caBundle": authority.pem(), "clientCertificateSecretName": secret});
        let spec = json!({"endpoint": endpoint, "protocol": protocol, "tls": tls});
        Sink::new(&format!("{}-{kind}", space.name), &spec)
    };
    let http = sink("http", 4318, "HttpProtobuf", Some("sink-client"))?;
    let grpc = sink("grpc", 4317, "Grpc", Some("sink-client"))?;
    let anonymous = sink("anonymous", 4318, "HttpProtobuf", None)?;
    let missing = sink("missing", 4318, "HttpProtobuf", Some("no-such"))?;
    let names = [&http, &grpc, &anonymous, &missing].map(|sink| sink.name.as_str()).join(", ");
    space.policy("audit", &format!("{{{SELECT_SERVER}, sinks: [{names}]}}"))?;
    space.httpbin("server")?;
    space.toolbox("client", "{app: client}")?;
    in_force(&space, "audit", 1)?;
    let wanted = marker();
    get(&space, &format!("/anything/{wanted}"))?;
    // At least twice: a request whose answer came too late is sent again.
    eventually("the record from both sinks", RETRY_SECONDS_MAX, || {
        Ok(paths(&space, &wanted)?.values().sum::<usize>() >= 2)
    })?;
    for sink in [&http, &grpc] {
        sink.delivering("True", "1 of 1")?;
    }
    // Parked by the alert; failing where the connection ends before it is read.
    anonymous.delivering("False", "client certificate")?;
    missing.delivering("False Parked", &format!("create Secret no-such in namespace {}", space.name))?;
    for sink in [&anonymous, &missing] {
        assert_eq!(requests(&space, sink, "success")?, 0, "{}", sink.name);
    }
    Ok(())
}

/// A server that takes every request, with an empty response of OTLP, and keeps the last `authorization` that it was shown.
fn receiver(space: &Space) -> Result<()> {
    let script = "end=$(printf '\\r'); while IFS= read -r line; do line=${line%$end}; case $line in '') break;; \
                  [Aa]uthorization:*) shown=${line#*: };; [Cc]ontent-[Ll]ength:*) length=${line#*: };; esac; done; \
                  [ -n \"$length\" ] || exit; head -c $length >/dev/null; printf %s \"$shown\" >/tmp/shown; \
                  printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n'";
    let command = json!(["nc", "-ll", "-p", "8080", "-e", "sh", "-c", script]);
    let container = format!(
        "image: \"{{{{image:toolbox}}}}\", command: {command}, readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}"
    );
    space.server("receiver", 8080, &container)
}

#[test]
fn a_service_account_token_names_the_sinks_audience_and_the_pod() -> Result<()> {
    const AUDIENCE: &str = "backend.example";
    let space = Space::new("token")?;
    receiver(&space)?;
    let spec = json!({
        "endpoint": format!("http://receiver.{}.svc:8080", space.name),
        "serviceAccountToken": {"audience": AUDIENCE, "allowHttp": true},
    });
    let sink = Sink::new(&space.name, &spec)?;
    sending_to(&space, &sink)?;
    get(&space, "/anything/shown")?;
    sink.delivering("True", "1 of 1")?;
    assert_eq!(requests(&space, &sink, "parked")?, 0);

    let shown = cluster().kubectl.exec(&space.name, "deploy/receiver", "receiver", &["cat", "/tmp/shown"])?;
    let token = shown.strip_prefix("Bearer ").with_context(|| format!("no bearer token: {shown:?}"))?;
    let payload = token.split('.').nth(1).context("a token has three parts")?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    let subject = format!("system:serviceaccount:{}:default", space.name);
    assert_eq!((&claims["aud"], &claims["sub"]), (&json!([AUDIENCE]), &json!(subject)), "{claims:#}");
    let pod = single(space.pods("server")?)?;
    assert_eq!(claims["kubernetes.io"]["pod"]["uid"], pod["metadata"]["uid"], "{claims:#}");

    // As a receiver verifies it.
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": [AUDIENCE]},
    });
    let create = ["create", "-o", "json", "-f", "-"];
    let review = output_with_input(cluster().kubectl.command().args(create), review.to_string().as_bytes())?;
    let status = serde_json::from_str::<Value>(&review)?["status"].take();
    assert_eq!((&status["authenticated"], &status["user"]["username"]), (&json!(true), &json!(subject)), "{status:#}");
    Ok(())
}

#[test]
fn a_sink_that_would_give_secrets_away_is_refused_with_the_fix() -> Result<()> {
    for (spec, wanted) in [
        (
            json!({"endpoint": "http://c.example:4318", "serviceAccountToken": {"audience": "c"}}),
            "serviceAccountToken.allowHttp: true",
        ),
        (
            json!({"endpoint": "https://c.example", "serviceAccountToken": {"audience": "https://kubernetes.default.svc"}}),
            "give it an audience of its own",
        ),
        (
            json!({"endpoint": "http://c.example:4318", "tls": {"clientCertificateSecretName": "client"}}),
            "change the endpoint's scheme to https",
        ),
        (json!({"endpoint": "https://c.example/v1/logs", "protocol": "Grpc"}), "gRPC has no use for a path"),
        (json!({"endpoint": "https://c.example", "protocol": "Thrift"}), "HttpProtobuf"),
    ] {
        let refused = Sink::new(&marker(), &spec).map(|sink| sink.name.clone());
        let error = refused.map_or_else(|error| format!("{error:#}"), |name| format!("{name} was accepted"));
        assert!(error.contains(wanted), "{spec}: {wanted:?} is not in: {error}");
    }
    Ok(())
}

/// A way to the test's own backend that can be closed: what the backend has stays.
fn gate(space: &Space) -> Result<()> {
    space.server(
        "gate",
        4318,
        "image: \"{{image:toolbox}}\", command: [nc, -ll, -p, \"4318\", -e, nc, collector, \"4318\"], \
         ports: [{containerPort: 4318}], readinessProbe: {tcpSocket: {port: 4318}, periodSeconds: 1}",
    )
}

/// Closes the gate, or opens it again.
fn set_gate(space: &Space, replicas: usize) -> Result<()> {
    let replicas_are = format!("--replicas={replicas}");
    cluster().kubectl.run(&["scale", "deployment/gate", &replicas_are, "-n", &space.name])?;
    eventually("the gate", 60, || Ok(space.pods("gate")?.len() == replicas))?;
    cluster().kubectl.rollout(&space.name, "deployment/gate")
}

#[test]
fn w3_v2_what_a_pod_leaves_undelivered_is_told_to_the_ledger_and_never_missing() -> Result<()> {
    let space = Space::new("abandoned")?;
    collector(&space)?;
    gate(&space)?;
    let endpoint = format!("http://gate.{}.svc:4318", space.name);
    let sink = Sink::new(&space.name, &json!({"endpoint": endpoint}))?;
    sending_to(&space, &sink)?;
    get(&space, &format!("/anything/{}", marker()))?;
    sink.delivering("True", "1 of 1")?;
    let server = uid(&space, "server")?;

    set_gate(&space, 0)?;
    get(&space, &format!("/anything/{}", marker()))?;
    replace(&space, "server")?;
    eventually("the ledger to know what the pod left", 2 * OPERATOR_SECONDS_MAX, || {
        let told = entries("ledger-abandoned", &server)?;
        let place = |entry: &Value, name: &str| text(entry, name).parse::<u64>().unwrap_or(0);
        Ok(told.iter().any(|entry| place(entry, "/from") < place(entry, "/to")))
    })?;

    // The next pod has what it recorded meanwhile, and delivers it.
    set_gate(&space, 1)?;
    let mut said = Value::Null;
    let waited = eventually("nothing but a declared gap", RETRY_SECONDS_MAX + OPERATOR_SECONDS_MAX, || {
        let read =
            || cluster().kubectl.exec(&space.name, "deploy/collector", "collector", &["cat", "/data/logs.jsonl"]);
        said = Evidence::with(&space, read)?.verified()?;
        let allowed = |one: &Value| ["GAP", "UNCLOSED", "PENDING"].contains(&text(one, "/verdict").as_str());
        Ok(findings(&said).iter().all(allowed))
    });
    waited.with_context(|| format!("{said:#}"))?;
    let declared = |one: &&Value| text(one, "/verdict") == "GAP" && text(one, "/stream").contains(&server);
    let declared: Vec<String> = findings(&said).iter().filter(declared).map(|one| text(one, "/message")).collect();
    assert!(!declared.is_empty(), "{said:#}");
    assert!(declared.iter().all(|message| message.starts_with("abandoned: ")), "{declared:#?}");
    Ok(())
}

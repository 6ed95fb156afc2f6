//! The steps against a scripted API server, and what the pure parts make of each answer.

use super::judge::{self, Probe, accepted, default_sink, delivered, find_record, metric, programmed, started};
use super::objects::NAME;
use super::receiver::{Receiver, decode};
use super::run::{Ports, Test};
use super::server::ANSWER;
use super::*;
use crate::serve::{Shutdown, serve, text_answer};
use expect_test::{Expect, expect};
use flate2::Compression;
use flate2::read::GzEncoder;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::api::DynamicObject;
use kube::client::Body;
use serde_json::{Value, json};
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use testimony_core::evidence::note::{PublicKey, SIGNATURE_BYTES};
use testimony_core::evidence::seal::{Head, Host, Origin, Sealed, Signer, Stream, Wanted};
use testimony_core::otlp::{export_request, resource};
use testimony_core::record::{EventName, Field, LogWriter, Record, Stamp};
use testimony_core::redact::{Redactor, redact};
use tokio::net::TcpListener;

/// What goes wrong in the cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    None,
    NoDefinitions,
    PolicyRefused,
    NoController,
    NoWebhook,
    ImagePull,
    NoPolicyServer,
}

/// An API server that holds one pod, and answers for the operator.
fn cluster(trouble: Trouble, address: &str) -> Client {
    let pod: Arc<Mutex<Option<Value>>> = Arc::default();
    let address = address.to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (pod, address) = (pod.clone(), address.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
            let mut pod = pod.lock().unwrap_or_else(PoisonError::into_inner);
            let (status, answer) = answer(trouble, &head.method, head.uri.path(), sent, &mut pod, &address);
            let mut response = Response::new(Full::new(bytes::Bytes::from(answer.to_string())));
            *response.status_mut() = status;
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    Client::new(service, "default")
}

fn missing() -> (StatusCode, Value) {
    let text = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
                      "message": "the server could not find the requested resource"});
    (StatusCode::NOT_FOUND, text)
}

fn condition(kind: &str, status: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": "R", "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn answer(
    trouble: Trouble,
    method: &Method,
    path: &str,
    mut sent: Value,
    pod: &mut Option<Value>,
    address: &str,
) -> (StatusCode, Value) {
    let ok = |object: Value| (StatusCode::OK, object);
    let name = path.rsplit('/').next().unwrap_or_default();
    if path.contains("/auditsinks") && trouble == Trouble::NoDefinitions {
        return missing();
    }
    if *method == Method::DELETE {
        let was = path.contains("/pods").then(|| pod.take()).flatten();
        return was.map_or_else(missing, ok);
    }
    match (method, path) {
        (_, path) if path.contains("/pods") => {
            if *method == Method::PATCH {
                if trouble != Trouble::NoWebhook {
                    sent["spec"]["initContainers"] = json!([{"name": "testimony-init"}, {"name": "testimony-sidecar"}]);
                }
                sent["status"] = match trouble {
                    Trouble::ImagePull => json!({"initContainerStatuses": [{
                        "name": "testimony-init", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"registry/sidecar:1\""}},
                    }]}),
                    _ => json!({"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]}),
                };
                *pod = Some(sent);
            }
            pod.clone().map_or_else(missing, ok)
        }
        (_, path) if path.contains("/auditpolicies") => {
            let (accepted, programmed) = match trouble {
                Trouble::PolicyRefused => (condition("Accepted", "False", "sinks: no such sink"), "True"),
                Trouble::NoPolicyServer => (condition("Accepted", "True", ""), "False"),
                _ => (condition("Accepted", "True", ""), "True"),
            };
            let programmed = condition("Programmed", programmed, "0 of 1 pods run revision abc");
            let observed = if trouble == Trouble::NoController { Value::Null } else { json!(1) };
            ok(json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "spec": {},
                      "metadata": {"name": NAME, "namespace": OWN_NAMESPACE, "generation": 1},
                      "status": {"observedGeneration": observed, "conditions": [accepted, programmed], "pods": {
                          "matched": 1, "injected": 1, "programmed": 1, "needRestart": 0, "skipped": 0}}}))
        }
        (_, path) if path.contains("/auditsinks") => {
            let sink = json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditSink",
                              "metadata": {"name": name, "generation": 1},
                              "spec": {"endpoint": "http://collector:4318", "default": name != NAME},
                              "status": {"observedGeneration": 1, "conditions": [condition("Accepted", "True", "")]}});
            if name != "auditsinks" {
                return ok(sink);
            }
            let mut default = sink;
            default["metadata"]["name"] = json!("default");
            ok(json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": [default]}))
        }
        _ => missing(),
    }
}

fn args() -> RunArgs {
    RunArgs {
        namespace: OWN_NAMESPACE.to_owned(),
        operator_namespace: "testimony-system".to_owned(),
        pod_ip: [10, 1, 2, 3].into(),
        image: "registry/operator:1".to_owned(),
        image_pull_policy: None,
        image_pull_secret: Vec::new(),
        injection_mode: InjectionMode::Webhook,
        owner_cluster_role: None,
    }
}

const PATH: &str = "/testimony-selftest/m1";

/// A data thread without randomness, keys or limits.
#[derive(Default)]
struct Thread(Vec<u8>);

struct NoKey;

impl Signer for NoKey {
    fn public(&self) -> PublicKey {
        PublicKey([0; 32])
    }

    fn sign(&self, _: &[u8]) -> [u8; SIGNATURE_BYTES] {
        [0; SIGNATURE_BYTES]
    }
}

impl Host for Thread {
    type Key = NoKey;

    fn random(&mut self) -> u128 {
        0
    }

    fn key(&mut self) -> Option<NoKey> {
        Some(NoKey)
    }

    fn reserve(&mut self, _: Wanted) -> Result<(), testimony_core::record::GapReason> {
        Ok(())
    }

    fn write(&mut self, sealed: Sealed<'_>) {
        LogWriter::default().append(&sealed.kept(), &mut self.0);
    }

    fn head(&mut self, head: Head<'_>) {
        LogWriter::default().append(&head.kept(), &mut self.0);
    }
}

/// An export with the record of [`PATH`], as a sidecar sends it.
fn export() -> Vec<u8> {
    let mut thread = Thread::default();
    let part = || "x".to_owned();
    let origin = Origin { cluster_uid: part(), namespace: part(), pod_uid: part(), ..Origin::default() };
    let mut stream = Stream::open(origin, NoKey, "r1", Stamp::default(), &mut thread).expect("a stream's name");
    for path in ["/other", PATH] {
        let mut record = Record::new(EventName::HttpRequest);
        for (field, text) in
            [(Field::Method, "GET"), (Field::Path, path), (Field::Status, "200"), (Field::Policy, "a/b")]
        {
            record.set(field, text.as_bytes());
        }
        let redacted = redact(record, &Redactor::default());
        stream.seal(&redacted, Stamp::default(), &mut thread);
    }
    let batch = thread.0;
    export_request(&resource([("k8s.pod.name", "{\"not\": a record")]), &[&batch])
}

async fn failure(trouble: Trouble, wanted: Expect) {
    failure_with(args(), trouble, wanted).await;
}

async fn failure_with(args: RunArgs, trouble: Trouble, wanted: Expect) {
    let test = Test::new(
        args,
        cluster(trouble, "127.0.0.1"),
        Receiver::new(PATH),
        PATH.to_owned(),
        Ports { server: 1, admin: 1 },
    );
    let failure = test.steps().await.expect_err("a failure");
    wanted.assert_eq(&failure.to_string());
}

#[tokio::test(start_paused = true)]
async fn every_failure_says_what_to_look_at() {
    failure(
        Trouble::NoDefinitions,
        expect![[r#"
        FAILED  the API server serves AuditSinks, and nothing of an earlier run is left
                not within 30 s: the API server says: the server could not find the requested resource (404 NotFound)
                next: kubectl get crd auditsinks.audit.testimony.dev auditpolicies.audit.testimony.dev"#]],
    )
    .await;
    failure(Trouble::NoController, expect![[r#"
        FAILED  the controller accepts an AuditSink and an AuditPolicy
                not within 30 s: AuditPolicy testimony-selftest: the controller has not looked at it
                next: kubectl --namespace testimony-system get pods --selector app.kubernetes.io/component=controller; kubectl --namespace testimony-system logs deployment/testimony-controller"#]]).await;
    failure(Trouble::PolicyRefused, expect![[r#"
        FAILED  the controller accepts an AuditSink and an AuditPolicy
                AuditPolicy testimony-selftest: Accepted is False: sinks: no such sink
                next: kubectl --namespace testimony-system get pods --selector app.kubernetes.io/component=controller; kubectl --namespace testimony-system logs deployment/testimony-controller"#]]).await;
    failure(Trouble::NoWebhook, expect![[r#"
        FAILED  the webhook adds the sidecar to a new pod
                not within 30 s: every pod that was made came without the sidecar
                next: kubectl --namespace testimony-system get pods --selector app.kubernetes.io/component=webhook; kubectl --namespace testimony-system logs deployment/testimony-webhook; the API server must reach port 10250 of these pods"#]]).await;
    let without_webhook = RunArgs { injection_mode: InjectionMode::AdmissionPolicy, ..args() };
    failure_with(without_webhook, Trouble::NoWebhook, expect![[r#"
        FAILED  the API server adds the sidecar to a new pod
                not within 30 s: every pod that was made came without the sidecar
                next: kubectl get mutatingadmissionpolicies,mutatingadmissionpolicybindings (the controller makes them): kubectl --namespace testimony-system get pods --selector app.kubernetes.io/component=controller; kubectl --namespace testimony-system logs deployment/testimony-controller"#]]).await;
    failure(Trouble::ImagePull, expect![[r#"
        FAILED  the pod starts with its sidecar
                not within 90 s: container testimony-init: ImagePullBackOff: Back-off pulling image "registry/sidecar:1"
                next: docs/troubleshooting.md, "A pod does not start"; if an image cannot be pulled: values imagePullSecrets and test.namespace (the Secrets must stand in namespace testimony-selftest)"#]]).await;
    failure(Trouble::NoPolicyServer, expect![[r#"
        FAILED  the sidecar says that it runs the policy
                not within 30 s: 0 of 1 pods run revision abc
                next: kubectl --namespace testimony-system get endpointslices --selector kubernetes.io/service-name=testimony-policy; audited pods must reach port 8443 of the controller"#]]).await;
}

/// A port on which every request is handed to `handler`.
async fn listen<H, F>(handler: H, shutdown: Shutdown) -> (u16, tokio::task::JoinHandle<std::io::Result<()>>)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = crate::serve::Answer> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (port, tokio::spawn(serve(listener, None, 8, handler, shutdown)))
}

#[tokio::test]
async fn a_request_through_a_pod_is_found_at_both_sinks() {
    let (stop, shutdown) = Shutdown::new();
    let receiver = Receiver::new(PATH);
    let taking = receiver.clone();
    let (sink, one) = listen(move |request| taking.clone().take(request), shutdown.clone()).await;
    // The application; its sidecar sends the record, compressed, before it answers.
    let application = move |request: Request<Incoming>| async move {
        assert_eq!(request.uri().path(), PATH);
        let mut body = Vec::new();
        GzEncoder::new(export().as_slice(), Compression::fast()).read_to_end(&mut body).expect("gzip");
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", sink)).await.expect("the receiver");
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP");
        let request = Request::post("/v1/logs").header("host", "sink").header("content-encoding", "gzip");
        let request = request.body(Full::new(bytes::Bytes::from(body))).expect("a request");
        let sending = async move { sender.send_request(request).await.expect("an answer").status() };
        let (status, _) = tokio::join!(sending, connection);
        assert_eq!(status, StatusCode::OK);
        text_answer(StatusCode::OK, ANSWER)
    };
    let (server, two) = listen(application, shutdown.clone()).await;
    let page = "testimony_export_records_total{sink=\"default\"} 1\n";
    let (admin, three) = listen(move |_| async move { text_answer(StatusCode::OK, page) }, shutdown).await;
    let ports = Ports { server, admin };
    let test = Test::new(args(), cluster(Trouble::None, "127.0.0.1"), receiver.clone(), PATH.to_owned(), ports);
    test.steps().await.expect("all is well");
    assert_eq!(receiver.found().expect("the record").get("policy").map(String::as_str), Some("a/b"));
    drop(stop);
    for server in [one, two, three] {
        server.await.expect("it ends").expect("without an error");
    }
}

#[tokio::test]
async fn the_receiver_refuses_what_it_cannot_read() {
    let (stop, shutdown) = Shutdown::new();
    let receiver = Receiver::new(PATH);
    let taking = receiver.clone();
    let (port, server) = listen(move |request| taking.clone().take(request), shutdown).await;
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("the receiver");
    let request = b"POST /v1/logs HTTP/1.1\r\nhost: a\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\nconnection: close\r\n\r\nnone";
    tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.expect("sent");
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(receiver.found(), None);
    drop(stop);
    server.await.expect("it ends").expect("without an error");
}

#[test]
fn a_record_is_found_in_a_whole_export_alone() {
    let export = export();
    let record = find_record(&export, PATH).expect("the record");
    assert_eq!(record.get("status").map(String::as_str), Some("200"));
    assert_eq!(find_record(&export, "/none"), None);
    let whole = (0..export.len()).find(|length| find_record(&export[..*length], PATH).is_some());
    assert!(whole.is_some_and(|length| length > export.len() / 2), "{whole:?}");
    for at in 0..export.len() {
        let mut broken = export.clone();
        broken[at] ^= 0xff;
        let _ = find_record(&broken, PATH);
    }
    assert_eq!(decode(&export, false).expect("plain"), export);
}

fn conditions(list: &[(&str, &str)]) -> Vec<Condition> {
    let list = list.iter().map(|(kind, status)| condition(kind, status, "why"));
    serde_json::from_value(Value::Array(list.collect())).expect("conditions")
}

#[test]
fn conditions_are_judged_once_the_controller_has_looked() {
    let all = conditions(&[("Accepted", "True"), ("ResolvedRefs", "True")]);
    assert_eq!(accepted(Some(2), Some(2), &all), Probe::Done(()));
    assert!(matches!(accepted(Some(2), Some(1), &all), Probe::Wait(_)));
    assert!(matches!(accepted(Some(2), None, &all), Probe::Wait(_)));
    let refused = conditions(&[("Accepted", "False"), ("ResolvedRefs", "True")]);
    assert_eq!(accepted(Some(2), Some(2), &refused), Probe::Fail("Accepted is False: why".to_owned()));
    let unresolved = conditions(&[("Accepted", "True"), ("ResolvedRefs", "False")]);
    assert_eq!(accepted(Some(2), Some(2), &unresolved), Probe::Wait("ResolvedRefs is False: why".to_owned()));
    assert_eq!(programmed(1, &conditions(&[("Programmed", "True")])), Probe::Done(()));
    // A policy without pods is programmed too.
    assert!(matches!(programmed(0, &conditions(&[("Programmed", "True")])), Probe::Wait(_)));
    assert!(matches!(programmed(1, &[]), Probe::Wait(_)));
}

#[test]
fn a_pod_that_does_not_start_says_why() {
    let says = |status: Value| -> Probe<String> {
        let pod: Pod = serde_json::from_value(json!({"status": status})).expect("a pod");
        started(&pod)
    };
    let container = |state: Value| json!({"name": "testimony-init", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
    let ready = json!({"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]});
    assert_eq!(says(ready), Probe::Done("10.0.0.1".to_owned()));
    for (status, wanted) in [
        (
            json!({"initContainerStatuses": [container(json!({"terminated": {"exitCode": 1, "message": "no nftables"}}))]}),
            "container testimony-init ended with exit code 1: no nftables",
        ),
        (
            json!({"containerStatuses": [container(json!({"waiting": {"reason": "ErrImagePull", "message": "no such host"}}))]}),
            "container testimony-init: ErrImagePull: no such host",
        ),
        (
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]}),
            "it is not scheduled: 0/1 nodes are available",
        ),
        (
            json!({"containerStatuses": [container(json!({"waiting": {"reason": "PodInitializing"}}))]}),
            "it is not ready, and no container says why",
        ),
    ] {
        assert_eq!(says(status), Probe::Wait(wanted.to_owned()));
    }
}

#[test]
fn the_default_sink_is_the_oldest_that_is_marked() {
    let sink = |name: &str, default: bool, created: &str| -> DynamicObject {
        serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": created},
                                      "spec": {"default": default, "endpoint": "http://c", "credentialsSecretName": "s"}}))
        .expect("a sink")
    };
    let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
    assert_eq!(default_sink(&[sink("a", false, old)]), None);
    // What the operator does not accept is nobody's default.
    let (mut refused, mut other) = (sink("d", true, old), sink("e", true, old));
    refused.data["spec"]["endpoint"] = json!("http://c?key=1");
    other.data["spec"] = json!("of another shape");
    let sinks = [sink("a", false, old), refused, sink("b", true, new), sink("c", true, old), other];
    let found = default_sink(&sinks).expect("one");
    assert_eq!((found.name.as_str(), found.credentials.as_deref()), ("c", Some("s")));
    assert!(found.endpoint.starts_with("http://c"), "{}", found.endpoint);
    let told: DynamicObject = serde_json::from_value(json!({"metadata": {}, "status": {"conditions": [
        condition("Delivering", "False", "401"), condition("Accepted", "True", "")]}}))
    .expect("a sink");
    assert_eq!(judge::delivering(&told), "401");
}

#[test]
fn metrics_are_read_by_name_and_labels() {
    let page = "# TYPE testimony_export_records counter\n\
                testimony_export_records_total{sink=\"a\"} 3\n\
                testimony_export_records_total{sink=\"ab\"} 5\n\
                testimony_export_records_total_more{sink=\"a\"} 7\n\
                testimony_export_requests_total{sink=\"b\",result=\"retry\"} 2\n\
                testimony_export_requests_total{sink=\"b\",result=\"parked\"} 1\n# EOF\n";
    assert_eq!(metric(page, "testimony_export_records_total", &[("sink", "a")]), 3);
    assert_eq!(metric(page, "testimony_export_records_total", &[]), 8);
    assert_eq!(delivered(page, "a"), Probe::Done(3));
    let wait = "it acknowledged no record; requests of the sidecar: 2 retry, 1 parked";
    assert_eq!(delivered(page, "b"), Probe::Wait(wait.to_owned()));
    let wait = "it acknowledged no record; requests of the sidecar: none was answered";
    assert_eq!(delivered("", "b"), Probe::Wait(wait.to_owned()));
}
